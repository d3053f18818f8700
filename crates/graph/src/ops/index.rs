//! Operators that read or write at positions that the request decides.
//!
//! A position that is out of range is a fault of that request: burn would panic, and a file made to
//! do harm can ask for any position.

use super::{ALL, Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, check_size, contiguous, fault, for_storage, items, resolve_axis, to_i64,
};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Gather", 1, ALL, gather),
    Entry::new("GatherElements", 11, ALL, gather_elements),
    Entry::new("GatherND", 11, ALL, gather_nd),
    Entry::new("Scatter", 1, ALL, scatter_elements),
    Entry::new("ScatterElements", 11, ALL, scatter_elements),
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
        let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
        let shape = [before, indices.shape(), after].concat();
        let count = check_size(&shape)?;
        let length = x.shape()[axis];
        let rows: Vec<usize> =
            indices.to_i64s()?.into_iter().map(|index| resolve(index, length)).collect::<Result<_, _>>()?;
        let width: usize = after.iter().product();
        let blocks: usize = before.iter().product();
        let dtype = x.dtype();
        Ok(for_storage!(dtype, E => {
            let dense = contiguous(&x.storage()?);
            let all = items::<E>(&dense);
            let mut picked = Vec::with_capacity(count);
            for block in 0..blocks {
                for row in &rows {
                    picked.extend_from_slice(&all[(block * length + row) * width..][..width]);
                }
            }
            Tensor::of_type::<E>(dtype, &shape, picked)
        }, text => {
            let start = |block, row: &usize| (block * length + row) * width;
            let positions: Vec<usize> = (0..blocks)
                .flat_map(|block| rows.iter().flat_map(move |row| start(block, row)..start(block, row) + width))
                .collect();
            pick(&x, &shape, &positions)?
        })
        .into())
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

fn gather_nd(node: &Node<'_>) -> Built {
    if node.int("batch_dims", 0) != 0 {
        return Err(Refusal::Unsupported("`batch_dims` is not supported".to_owned()));
    }
    operator(|inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let Some((&depth, places)) = indices.shape().split_last() else { fault!("the indices are a scalar") };
        if depth == 0 || depth > x.rank() {
            fault!("{depth} coordinates are given for {} dimensions", x.rank());
        }
        let shape = [places, &x.shape()[depth..]].concat();
        check_size(&shape)?;
        let width: usize = x.shape()[depth..].iter().product();
        let mut positions = Vec::new();
        for coordinates in indices.to_i64s()?.chunks_exact(depth) {
            let mut row = 0;
            for (&index, &length) in coordinates.iter().zip(x.shape()) {
                row = row * length + resolve(index, length)?;
            }
            positions.extend(row * width..(row + 1) * width);
        }
        Ok(pick(&x, &shape, &positions)?.into())
    })
}

fn scatter_elements(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 0);
    let reduction = match node.string("reduction", "none")?.as_str() {
        "none" => None,
        "add" => Some(Reduction::Add),
        "mul" => Some(Reduction::Mul),
        "max" => Some(Reduction::Max),
        "min" => Some(Reduction::Min),
        other => return Err(Refusal::Invalid(format!("`reduction` cannot be `{other}`"))),
    };
    operator(move |inputs| scatter(inputs, axis, reduction))
}

#[derive(Clone, Copy)]
enum Reduction {
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn apply<E: Item + num_traits::Num>(self, old: E, new: E) -> E {
        match self {
            Self::Add => old + new,
            Self::Mul => old * new,
            Self::Max => {
                if new > old {
                    new
                } else {
                    old
                }
            }
            Self::Min => {
                if new < old {
                    new
                } else {
                    old
                }
            }
        }
    }
}

fn scatter(inputs: &mut Inputs<'_>, axis: i64, reduction: Option<Reduction>) -> Result<Outputs, Fault> {
    let (x, indices, updates) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
    let axis = resolve_axis(axis, x.rank())?;
    let dtype = x.dtype();
    if updates.shape() != indices.shape() || updates.dtype() != dtype {
        fault!("updates {} do not fit indices {}", updates.describe(), indices.describe());
    }
    let positions = element_positions(x.shape(), &indices, axis)?;
    let shape = x.shape().to_vec();
    Ok(for_storage!(dtype, E => {
        let (dense, updates) = (contiguous(&x.storage()?), contiguous(&updates.storage()?));
        let mut all = items::<E>(&dense).to_vec();
        for (&at, &update) in positions.iter().zip(items::<E>(&updates)) {
            all[at] = reduction.map_or(update, |reduction| reduction.apply(all[at], update));
        }
        Tensor::of_type::<E>(dtype, &shape, all)
    }, text => fault!("strings are not scattered"))
    .into())
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
