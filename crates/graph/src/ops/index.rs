//! Operators that read or write at positions that the request decides.
//!
//! A position that is out of range is a fault of that request: burn would panic, and a file made to
//! do harm can ask for any position.

use super::arithmetic::Ring;
use super::{ALL, Built, Entry, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, for_storage, items, resolve_axis, to_i64};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Gather", 1, ALL, gather),
    Entry::new("GatherElements", 11, ALL, gather_elements),
    Entry::new("GatherND", 11, ALL, gather_nd),
    Entry::new("Scatter", 1, ALL, scatter_elements),
    Entry::new("ScatterElements", 11, ALL, scatter_elements),
    Entry::new("ScatterND", 11, ALL, scatter_nd),
    Entry::new("OneHot", 9, ALL, one_hot),
];

/// The position that an index means in a dimension; a fault when it is out of range.
fn resolve(index: i64, length: usize) -> Result<usize, Fault> {
    let from_start = if index < 0 { index.saturating_add(to_i64(length)) } else { index };
    usize::try_from(from_start)
        .ok()
        .filter(|&at| at < length)
        .ok_or_else(|| Fault(format!("index {index} is out of range for a dimension of length {length}")))
}

/// Elements of a tensor picked by position, whatever their type.
pub(crate) fn pick(x: &Tensor, shape: &[usize], positions: &[usize]) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    for_storage!(dtype, E => {
        let dense = contiguous(&x.clone().storage()?);
        let all = items::<E>(&dense);
        Ok(Tensor::of_type::<E>(dtype, shape, positions.iter().map(|&at| all[at]).collect()))
    }, text => match x {
        Tensor::Text(text) => {
            Tensor::copied_text(shape, positions.iter().map(|&at| &text.items()[at]))
        }
        Tensor::Dense(_) | Tensor::Small(..) => fault!("strings are needed"),
    })
}

/// Whole slices along an axis: the result has the index's dimensions in the place of the axis.
fn gather(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 0);
    operator(move |inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let axis = resolve_axis(axis, x.rank())?;
        let length = x.shape()[axis];
        let rows: Vec<usize> =
            indices.to_i64s()?.into_iter().map(|index| resolve(index, length)).collect::<Result<_, _>>()?;
        Ok(slices(x, axis, &rows, indices.shape())?.into())
    })
}

/// Whole slices at positions of a dimension, which are in range: the dimensions of the list of positions
/// come in the place of that dimension.
pub(super) fn slices(x: Tensor, axis: usize, rows: &[usize], listed: &[usize]) -> Result<Tensor, Fault> {
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    let shape = [before, listed, after].concat();
    let count = check_size(&shape)?;
    let length = x.shape()[axis];
    let width: usize = after.iter().product();
    let blocks: usize = before.iter().product();
    let dtype = x.dtype();
    for_storage!(dtype, E => {
        let dense = contiguous(&x.storage()?);
        let all = items::<E>(&dense);
        let mut picked = Vec::with_capacity(count);
        for block in 0..blocks {
            for row in rows {
                picked.extend_from_slice(&all[(block * length + row) * width..][..width]);
            }
        }
        Ok(Tensor::of_type::<E>(dtype, &shape, picked))
    }, text => {
        let start = |block, row: &usize| (block * length + row) * width;
        let positions: Vec<usize> = (0..blocks)
            .flat_map(|block| rows.iter().flat_map(move |row| start(block, row)..start(block, row) + width))
            .collect();
        pick(&x, &shape, &positions)
    })
}

/// The position in `x` of each element of an index tensor that replaces one coordinate.
fn element_positions(x: &[usize], indices: &Tensor, axis: usize) -> Result<Vec<usize>, Fault> {
    let shape = indices.shape();
    if shape.len() != x.len() || (0..x.len()).any(|at| at != axis && shape[at] > x[at]) {
        fault!("indices of the shape {shape:?} do not fit {x:?}");
    }
    let mut strides = vec![1usize; x.len()];
    for at in (0..x.len().saturating_sub(1)).rev() {
        strides[at] = strides[at + 1] * x[at + 1];
    }
    let numbers = indices.to_i64s()?;
    let mut positions = Vec::with_capacity(numbers.len());
    for (place, index) in numbers.into_iter().enumerate() {
        let (mut rest, mut position) = (place, 0);
        for at in (0..shape.len()).rev() {
            let coordinate = if at == axis { resolve(index, x[axis])? } else { rest % shape[at] };
            position += coordinate * strides[at];
            rest /= shape[at];
        }
        positions.push(position);
    }
    Ok(positions)
}

fn gather_elements(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 0);
    operator(move |inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let axis = resolve_axis(axis, x.rank())?;
        let positions = element_positions(x.shape(), &indices, axis)?;
        Ok(pick(&x, indices.shape(), &positions)?.into())
    })
}

/// Slices at positions of the dimensions after the first `batch_dims`, which both inputs share.
fn gather_nd(node: &Node<'_>) -> Built {
    let Ok(shared) = usize::try_from(node.int("batch_dims", 0)) else {
        return Err(Refusal::Invalid("`batch_dims` is negative".to_owned()));
    };
    operator(move |inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let Some((&depth, places)) = indices.shape().split_last() else { fault!("the indices are a scalar") };
        let fits = shared < x.rank() && shared <= places.len() && x.shape()[..shared] == places[..shared];
        if !fits {
            fault!("{} and {} do not share {shared} dimensions", x.describe(), indices.describe());
        }
        let inner = &x.shape()[shared..];
        if depth == 0 || depth > inner.len() {
            fault!("{depth} coordinates are given for {} dimensions", inner.len());
        }
        let shape = [places, &inner[depth..]].concat();
        let count = check_size(&shape)?;
        let per_batch: usize = places[shared..].iter().product();
        let rows_of_batch: usize = inner[..depth].iter().product();
        let width: usize = inner[depth..].iter().product();
        let mut positions = Vec::with_capacity(count);
        for (place, coordinates) in indices.to_i64s()?.chunks_exact(depth).enumerate() {
            let row = place / per_batch * rows_of_batch + row_of(coordinates, inner)?;
            positions.extend(row * width..(row + 1) * width);
        }
        Ok(pick(&x, &shape, &positions)?.into())
    })
}

/// The row that coordinates of the first dimensions mean.
fn row_of(coordinates: &[i64], shape: &[usize]) -> Result<usize, Fault> {
    let mut row = 0;
    for (&index, &length) in coordinates.iter().zip(shape) {
        row = row * length + resolve(index, length)?;
    }
    Ok(row)
}

fn scatter_elements(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 0);
    let reduction = Reduction::read(node)?;
    operator(move |inputs| {
        let (x, indices, updates) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let axis = resolve_axis(axis, x.rank())?;
        if updates.shape() != indices.shape() {
            fault!("updates {} do not fit indices {}", updates.describe(), indices.describe());
        }
        let positions = element_positions(x.shape(), &indices, axis)?;
        Ok(write(x, &positions, updates, reduction)?.into())
    })
}

/// Writes slices at positions of the first dimensions.
fn scatter_nd(node: &Node<'_>) -> Built {
    let reduction = Reduction::read(node)?;
    operator(move |inputs| {
        let (x, indices, updates) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let Some((&depth, places)) = indices.shape().split_last() else { fault!("the indices are a scalar") };
        if depth == 0 || depth > x.rank() {
            fault!("{depth} coordinates are given for {} dimensions", x.rank());
        }
        let expected = [places, &x.shape()[depth..]].concat();
        if updates.shape() != expected {
            fault!("updates {} do not fit indices {}", updates.describe(), indices.describe());
        }
        let width: usize = x.shape()[depth..].iter().product();
        let mut positions = Vec::with_capacity(updates.len());
        for coordinates in indices.to_i64s()?.chunks_exact(depth) {
            let row = row_of(coordinates, x.shape())?;
            positions.extend(row * width..(row + 1) * width);
        }
        Ok(write(x, &positions, updates, reduction)?.into())
    })
}

/// What becomes of an element that is written to.
#[derive(Clone, Copy)]
enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        Ok(match node.string("reduction", "none")?.as_str() {
            "none" => Self::Replace,
            "add" => Self::Add,
            "mul" => Self::Mul,
            "max" => Self::Max,
            "min" => Self::Min,
            other => return Err(Refusal::Invalid(format!("`reduction` cannot be `{other}`"))),
        })
    }

    fn apply<E: Ring>(self, old: E, new: E) -> E {
        // What is not a number stays so.
        let not_a_number = new.partial_cmp(&new).is_none();
        let takes_new = match self {
            Self::Replace => true,
            Self::Add => return old.plus(new),
            Self::Mul => return old.times(new),
            Self::Max => new > old || not_a_number,
            Self::Min => new < old || not_a_number,
        };
        if takes_new { new } else { old }
    }
}

/// Writes to positions of a tensor, in their order.
fn write(x: Tensor, positions: &[usize], updates: Tensor, reduction: Reduction) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    if updates.dtype() != dtype {
        fault!("updates {} do not fit {}", updates.describe(), x.describe());
    }
    let reduction = match (dtype, reduction) {
        (_, Reduction::Replace) => reduction,
        // A sum of truth values is true where one of them is, a product where all are.
        (DType::Bool, Reduction::Add) => Reduction::Max,
        (DType::Bool, Reduction::Mul) => Reduction::Min,
        (dtype, _) if dtype.is_small() => fault!("{dtype} can be replaced only"),
        _ => reduction,
    };
    let shape = x.shape().to_vec();
    for_storage!(dtype, E => {
        let (dense, updates) = (contiguous(&x.storage()?), contiguous(&updates.storage()?));
        let mut all = items::<E>(&dense).to_vec();
        for (&at, &update) in positions.iter().zip(items::<E>(&updates)) {
            all[at] = reduction.apply(all[at], update);
        }
        Ok(Tensor::of_type::<E>(dtype, &shape, all))
    }, text => match (&x, &updates, reduction) {
        (Tensor::Text(x), Tensor::Text(updates), Reduction::Replace) => {
            let mut all = x.items().to_vec();
            for (&at, update) in positions.iter().zip(updates.items()) {
                all[at].clone_from(update);
            }
            Ok(Tensor::from_text(&shape, all))
        }
        _ => fault!("strings can be replaced only"),
    })
}

/// An index that is out of range gives no hot element, as ONNX asks.
fn one_hot(node: &Node<'_>) -> Built {
    let axis = node.int("axis", -1);
    operator(move |inputs| {
        let indices = inputs.take(0)?;
        let depth = inputs.take(1)?.to_f64s()?;
        let values = inputs.take(2)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates; the size is checked"
        )]
        let depth = depth.first().map_or(0, |&depth| depth as usize);
        if values.len() != 2 {
            fault!("two values are needed, not {}", values.describe());
        }
        let axis = resolve_axis(axis, indices.rank() + 1)?;
        let mut shape = indices.shape().to_vec();
        shape.insert(axis, depth);
        let count = check_size(&shape)?;
        let after: usize = shape[axis + 1..].iter().product();
        let mut positions = vec![0; count];
        for (place, index) in indices.to_f64s()?.into_iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "indices are whole numbers")]
            if let Ok(hot) = resolve(index as i64, depth) {
                positions[(place / after * depth + hot) * after + place % after] = 1;
            }
        }
        Ok(pick(&values, &shape, &positions)?.into())
    })
}
