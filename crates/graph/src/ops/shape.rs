//! Operators that change the shape of a tensor, or make one of a shape.

use super::{ALL, Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Tensor, broadcast_shape, check_size, fault, resolve_axis, shown, to_i64};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Identity", 1, ALL, |_| operator(|inputs| Ok(inputs.take_any(0)?.into()))),
    Entry::new("Constant", 1, ALL, constant),
    Entry::new("ConstantOfShape", 9, ALL, constant_of_shape),
    Entry::new("Shape", 1, ALL, shape),
    Entry::new("Size", 1, ALL, |_| {
        operator(|inputs| Ok(Tensor::from_items(&[], vec![to_i64(inputs.take(0)?.len())]).into()))
    }),
    Entry::new("Reshape", 1, ALL, reshape),
    Entry::new("Flatten", 1, ALL, flatten),
    Entry::new("Transpose", 1, ALL, transpose),
    Entry::new("Squeeze", 1, ALL, squeeze),
    Entry::new("Unsqueeze", 1, ALL, unsqueeze),
    Entry::new("Expand", 8, ALL, expand),
    Entry::new("Tile", 1, ALL, tile),
    Entry::new("Range", 11, ALL, |_| operator(range)),
];

fn constant(node: &Node<'_>) -> Built {
    let value = if let Some(tensor) = node.tensor("value")? {
        tensor
    } else if node.has("value_float") {
        Tensor::from_items(&[], vec![node.float("value_float", 0.0)])
    } else if node.has("value_int") {
        Tensor::from_items(&[], vec![node.int("value_int", 0)])
    } else if node.has("value_floats") {
        let numbers = node.floats("value_floats");
        Tensor::from_items(&[numbers.len()], numbers)
    } else if let Some(numbers) = node.ints("value_ints") {
        Tensor::from_items(&[numbers.len()], numbers)
    } else if node.has("value_string") {
        Tensor::from_text(&[], vec![node.string("value_string", "")?])
    } else if node.has("value_strings") {
        let strings = node.strings("value_strings")?;
        Tensor::from_text(&[strings.len()], strings)
    } else if let Some(tensor) = node.sparse_tensor("sparse_value")? {
        tensor
    } else {
        return Err(Refusal::Invalid("no value is given".to_owned()));
    };
    operator(move |_| Ok(value.clone().into()))
}

fn constant_of_shape(node: &Node<'_>) -> Built {
    let value = node.tensor("value")?.unwrap_or_else(|| Tensor::from_items(&[1], vec![0f32]));
    if value.len() != 1 {
        return Err(Refusal::Invalid(format!("`value` must be one element, not {}", value.describe())));
    }
    operator(move |inputs| {
        let shape = lengths(&inputs.take(0)?.to_i64s()?)?;
        check_size(&shape)?;
        Ok(value.clone().reshape(&vec![1; shape.len()])?.broadcast_to(&shape)?.into())
    })
}

/// Lengths of dimensions: not negative.
pub(super) fn lengths(numbers: &[i64]) -> Result<Vec<usize>, Fault> {
    let lengths: Option<Vec<usize>> = numbers.iter().map(|&number| usize::try_from(number).ok()).collect();
    lengths.ok_or_else(|| Fault(format!("{} is not a shape", shown(numbers))))
}

/// A part of the shape is given from opset 15 on.
fn shape(node: &Node<'_>) -> Built {
    let start = node.int("start", 0);
    let end = node.int("end", i64::MAX);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let rank = to_i64(x.rank());
        let clamp =
            |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank));
        let (from, to) = (clamp(start).unwrap_or(0), clamp(end).unwrap_or(0));
        let part: Vec<i64> =
            x.shape().get(from..to).unwrap_or_default().iter().map(|&length| to_i64(length)).collect();
        Ok(Tensor::from_items(&[part.len()], part).into())
    })
}

fn reshape(node: &Node<'_>) -> Built {
    let target = Ints::attribute_or_input(node, "shape", 1, 5)?;
    let zero_is_zero = node.flag("allowzero", false);
    operator(move |inputs| {
        let target =
            target.get(inputs)?.ok_or_else(|| Fault("the shape is missing".to_owned()))?.into_owned();
        let x = inputs.take(0)?;
        let shape = reshaped(x.shape(), &target, zero_is_zero)?;
        Ok(x.reshape(&shape)?.into())
    })
}

/// 0 keeps a length, -1 takes what is left.
fn reshaped(current: &[usize], target: &[i64], zero_is_zero: bool) -> Result<Vec<usize>, Fault> {
    let elements: usize = current.iter().product();
    let mut shape = Vec::with_capacity(target.len());
    let mut open = None;
    for (axis, &length) in target.iter().enumerate() {
        shape.push(match length {
            -1 if open.replace(axis).is_none() => 1,
            0 if !zero_is_zero => *current
                .get(axis)
                .ok_or_else(|| Fault(format!("{current:?} has no dimension {axis} to keep")))?,
            _ => usize::try_from(length).map_err(|_| Fault(format!("{} is not a shape", shown(target))))?,
        });
    }
    let product = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    match (open, product) {
        (Some(axis), Some(product)) if product > 0 && elements.is_multiple_of(product) => {
            shape[axis] = elements / product;
        }
        (None, Some(product)) if product == elements => {}
        _ => fault!("{elements} elements of the shape {current:?} cannot take the shape {}", shown(target)),
    }
    Ok(shape)
}

fn flatten(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 1);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        // One more than the last dimension is allowed here.
        let axis = if axis == to_i64(x.rank()) { x.rank() } else { resolve_axis(axis, x.rank())? };
        let (rows, columns) = x.shape().split_at(axis);
        let shape = [rows.iter().product(), columns.iter().product()];
        Ok(x.reshape(&shape)?.into())
    })
}

fn transpose(node: &Node<'_>) -> Built {
    let order = node.ints("perm");
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let rank = x.rank();
        let order: Vec<usize> = match &order {
            Some(order) => order.iter().map(|&axis| resolve_axis(axis, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut seen = order.clone();
        seen.sort_unstable();
        if !seen.into_iter().eq(0..rank) {
            fault!("{order:?} is not an order of {rank} dimensions");
        }
        if let Tensor::Text(text) = &x {
            // The order of numbers says where each string goes.
            let positions: Vec<i64> = (0..).take(text.items().len()).collect();
            let moved = Tensor::Dense(Tensor::from_items(x.shape(), positions).dense()?.permute(&order));
            let pick = |at: i64| usize::try_from(at).ok().and_then(|at| text.items().get(at)).cloned();
            let strings: Option<Vec<String>> = moved.to_i64s()?.into_iter().map(pick).collect();
            return Ok(Tensor::from_text(moved.shape(), strings.unwrap_or_default()).into());
        }
        Ok(Tensor::stored(x.dtype(), x.storage()?.permute(&order)).into())
    })
}

fn squeeze(node: &Node<'_>) -> Built {
    let axes = Ints::attribute_or_input(node, "axes", 1, 13)?;
    operator(move |inputs| {
        let axes = axes.get(inputs)?;
        let x = inputs.take(0)?;
        let mut gone = vec![false; x.rank()];
        match axes {
            Some(axes) => {
                for &axis in axes.iter() {
                    let place = resolve_axis(axis, x.rank())?;
                    if x.shape()[place] != 1 {
                        fault!("dimension {place} of {:?} is not 1", x.shape());
                    }
                    gone[place] = true;
                }
            }
            None => gone = x.shape().iter().map(|&length| length == 1).collect(),
        }
        let left: Vec<usize> =
            x.shape().iter().zip(gone).filter(|(_, gone)| !gone).map(|(&length, _)| length).collect();
        Ok(x.reshape(&left)?.into())
    })
}

fn unsqueeze(node: &Node<'_>) -> Built {
    let axes = Ints::attribute_or_input(node, "axes", 1, 13)?;
    operator(move |inputs| {
        let axes = axes.get(inputs)?.ok_or_else(|| Fault("the axes are missing".to_owned()))?.into_owned();
        let x = inputs.take(0)?;
        let rank = x.rank() + axes.len();
        let mut added = vec![false; rank];
        for &axis in &axes {
            if std::mem::replace(&mut added[resolve_axis(axis, rank)?], true) {
                fault!("{} names a dimension twice", shown(&axes));
            }
        }
        let mut lengths = x.shape().iter();
        let shape: Vec<usize> =
            added.iter().map(|&added| if added { 1 } else { lengths.next().copied().unwrap_or(1) }).collect();
        Ok(x.reshape(&shape)?.into())
    })
}

fn expand(node: &Node<'_>) -> Built {
    let target = Ints::input(node, 1)?;
    operator(move |inputs| {
        let target = lengths(&target.get(inputs)?.ok_or_else(|| Fault("the shape is missing".to_owned()))?)?;
        let x = inputs.take(0)?;
        let shape = broadcast_shape(x.shape(), &target)?;
        check_size(&shape)?;
        Ok(x.broadcast_to(&shape)?.into())
    })
}

/// Below opset 6 one dimension is repeated, which a third input names.
fn tile(node: &Node<'_>) -> Built {
    let repeats = Ints::input(node, 1)?;
    let one_axis = node.opset() < 6;
    operator(move |inputs| {
        let mut repeats =
            lengths(&repeats.get(inputs)?.ok_or_else(|| Fault("the repeats are missing".to_owned()))?)?;
        let axis = if one_axis { inputs.optional(2) } else { None };
        let x = inputs.take(0)?;
        if let Some(axis) = axis {
            let (&[axis], &[times]) = (axis.to_f64s()?.as_slice(), repeats.as_slice()) else {
                fault!("one dimension and its repeats are needed");
            };
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and is checked")]
            let axis = resolve_axis(axis as i64, x.rank())?;
            repeats = vec![1; x.rank()];
            repeats[axis] = times;
        }
        if repeats.len() != x.rank() {
            fault!("{} repeats are given for {} dimensions", repeats.len(), x.rank());
        }
        let product = |(&length, &times): (&usize, &usize)| length.checked_mul(times);
        let shape: Option<Vec<usize>> = x.shape().iter().zip(&repeats).map(product).collect();
        let shape = shape.ok_or_else(|| Fault("the result would be too large".to_owned()))?;
        check_size(&shape)?;
        // [a, b] repeated [m, n] times is [1, a, 1, b] expanded to [m, a, n, b].
        let narrow: Vec<usize> = x.shape().iter().flat_map(|&length| [1, length]).collect();
        let wide: Vec<usize> =
            x.shape().iter().zip(&repeats).flat_map(|(&length, &times)| [times, length]).collect();
        let spread = x.reshape(&narrow)?.broadcast_to(&wide)?;
        Ok(spread.reshape(&shape)?.into())
    })
}

fn range(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (start, limit, delta) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
    let dtype = start.dtype();
    if [&start, &limit, &delta].iter().any(|bound| bound.len() != 1 || bound.dtype() != dtype) {
        fault!("three numbers of one type are needed");
    }
    if dtype.is_integer() {
        let number = |tensor: &Tensor| tensor.to_i64s().map(|numbers| i128::from(numbers[0]));
        let (start, limit, delta) = (number(&start)?, number(&limit)?, number(&delta)?);
        if delta == 0 {
            fault!("the step is zero");
        }
        let count = ((limit - start + delta - delta.signum()) / delta).max(0);
        let count = check_size(&[usize::try_from(count).unwrap_or(usize::MAX)])?;
        // All steps lie between start and limit, which fit.
        let steps =
            (0..).take(count).map(|step: i64| i64::try_from(start + delta * i128::from(step)).unwrap_or(0));
        return Ok(super::cast::cast(Tensor::from_items(&[count], steps.collect()), dtype)?.into());
    }
    if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        fault!("numbers are needed, not {dtype}");
    }
    let number = |tensor: &Tensor| tensor.to_f64s().map(|numbers| numbers[0]);
    let (from, to, by) = (number(&start)?, number(&limit)?, number(&delta)?);
    let count = ((to - from) / by).ceil().max(0.0);
    if !count.is_finite() || count > 1e9 {
        fault!("the range has {count} steps");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let count = check_size(&[count as usize])?;
    // Wider than the type, so that steps do not add up their errors; rounded once.
    let steps = (0..count).map(|step| from + step as f64 * by).collect();
    Ok(super::cast::cast(Tensor::from_items(&[count], steps), dtype)?.into())
}
