//! Lists of tensors: made, changed, read, and joined to one tensor.

use super::control::stack;
use super::slice::part;
use super::{ALL, Built, Entry, Inputs, Outputs, Refusal, join, operator, pick};
use crate::held::{Held, Sequence};
use crate::load::{Node, element_type_name};
use crate::tensor::{Fault, Tensor, fault, resolve_axis, shown, to_i64};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("ConcatFromSequence", 11, ALL, concat),
    Entry::new("ReverseSequence", 10, ALL, reverse),
    Entry::new("SequenceAt", 11, ALL, |_| operator(at)),
    Entry::new("SequenceConstruct", 11, ALL, |_| operator(construct)),
    Entry::new("SequenceEmpty", 11, ALL, empty),
    Entry::new("SequenceErase", 11, ALL, |_| operator(erase)),
    Entry::new("SequenceInsert", 11, ALL, |_| operator(insert)),
    Entry::new("SequenceLength", 11, ALL, |_| {
        operator(|inputs| {
            let count = to_i64(inputs.sequence(0)?.items.len());
            Ok(Tensor::from_items(&[], vec![count]).into())
        })
    }),
    Entry::new("SplitToSequence", 11, ALL, split),
];

fn list(dtype: DType, items: Vec<Tensor>) -> Result<Outputs, Fault> {
    Ok(Held::Sequence(Sequence::new(dtype, items)?).into())
}

fn empty(node: &Node<'_>) -> Built {
    let number = i32::try_from(node.int("dtype", 1)).unwrap_or(0);
    let Some(dtype) = DType::from_onnx(number) else {
        let name = element_type_name(number);
        return Err(Refusal::Unsupported(format!("a list of element type {name} is not supported")));
    };
    operator(move |_| list(dtype, Vec::new()))
}

fn construct(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let items: Vec<Tensor> = (0..inputs.count()).map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
    let Some(first) = items.first() else { fault!("a list is made of one tensor at least") };
    list(first.dtype(), items)
}

/// The position that input `index` gives, which counts from the end when it is negative. `places` is how
/// many positions there are; `otherwise` is meant when the input is left out.
fn position(
    inputs: &mut Inputs<'_>,
    index: usize,
    length: usize,
    places: usize,
    otherwise: Option<usize>,
) -> Result<usize, Fault> {
    let at = match inputs.optional(index) {
        Some(tensor) => match tensor.to_i64s()?[..] {
            [at] => at,
            _ => fault!("one position is needed, not {}", tensor.describe()),
        },
        None => match otherwise {
            Some(at) => to_i64(at),
            None => fault!("the position is missing"),
        },
    };
    let from_start = if at < 0 { at.saturating_add(to_i64(length)) } else { at };
    match usize::try_from(from_start) {
        Ok(place) if place < places => Ok(place),
        _ => fault!("position {at} is out of range for a list of {length} tensors"),
    }
}

fn at(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let sequence = inputs.sequence(0)?;
    let length = sequence.items.len();
    let at = position(inputs, 1, length, length, None)?;
    Ok(sequence.items[at].clone().into())
}

/// Without a position the last tensor goes.
fn erase(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let Sequence { dtype, items } = inputs.sequence(0)?;
    let length = items.len();
    let at = position(inputs, 1, length, length, Some(length.saturating_sub(1)))?;
    let mut items = std::sync::Arc::unwrap_or_clone(items);
    items.remove(at);
    list(dtype, items)
}

/// Without a position the tensor comes last.
fn insert(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let Sequence { dtype, items } = inputs.sequence(0)?;
    let tensor = inputs.take(1)?;
    let length = items.len();
    let at = position(inputs, 2, length, length + 1, Some(length))?;
    let mut items = std::sync::Arc::unwrap_or_clone(items);
    items.insert(at, tensor);
    list(dtype, items)
}

fn concat(node: &Node<'_>) -> Built {
    if !node.has("axis") {
        return Err(Refusal::Invalid("`axis` is missing".to_owned()));
    }
    let (axis, stacked) = (node.int("axis", 0), node.flag("new_axis", false));
    operator(move |inputs| {
        let items = std::sync::Arc::unwrap_or_clone(inputs.sequence(0)?.items);
        Ok(if stacked { stack(items, axis) } else { join(items, axis) }?.into())
    })
}

/// Parts of one length, or of given lengths. Without lengths each part is one slice, and `keepdims` says
/// whether the dimension stays.
fn split(node: &Node<'_>) -> Built {
    let axis = node.int("axis", 0);
    let slices = !node.has_input(1);
    let keep = !slices || node.flag("keepdims", true);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let axis = resolve_axis(axis, x.rank())?;
        let length = x.shape()[axis];
        let lengths = match inputs.optional(1) {
            Some(lengths) if lengths.rank() > 0 => {
                let given = lengths.to_i64s()?;
                let lengths = super::shape::lengths(&given)?;
                let total = lengths.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
                if total != Some(length) {
                    fault!("a length of {length} cannot be split into {}", shown(&given));
                }
                Sequence::check(lengths.len(), x.len())?;
                lengths
            }
            Some(one) => even(length, &one, x.len())?,
            None => even(length, &Tensor::from_items(&[], vec![1i64]), x.len())?,
        };
        let mut start = 0;
        let mut parts = Vec::with_capacity(lengths.len());
        for count in lengths {
            let mut slice = cut(&x, axis, start, count)?;
            if !keep {
                let mut shape = slice.shape().to_vec();
                shape.remove(axis);
                slice = slice.reshape(&shape)?;
            }
            parts.push(slice);
            start += count;
        }
        list(x.dtype(), parts)
    })
}

/// Lengths of parts that are all the same but for the last.
fn even(length: usize, part: &Tensor, elements: usize) -> Result<Vec<usize>, Fault> {
    let part = match part.to_i64s()?[..] {
        [part] => usize::try_from(part).unwrap_or(0),
        _ => 0,
    };
    if part == 0 {
        fault!("the length of a part must be positive");
    }
    let count = length.div_ceil(part);
    Sequence::check(count, elements)?;
    Ok((0..count).map(|index| (length - index * part).min(part)).collect())
}

/// A part of a dimension. A view of text would look at all of it for each part.
fn cut(x: &Tensor, axis: usize, start: usize, count: usize) -> Result<Tensor, Fault> {
    if x.dtype() != DType::String {
        return part(x.clone(), axis, start, count);
    }
    let mut shape = x.shape().to_vec();
    let after: usize = shape[axis + 1..].iter().product();
    let before: usize = shape[..axis].iter().product();
    let width = shape[axis] * after;
    let positions: Vec<usize> = (0..before)
        .flat_map(|row| row * width + start * after..row * width + (start + count) * after)
        .collect();
    shape[axis] = count;
    pick(x, &shape, &positions)
}

/// The first elements along the time axis in the opposite order: as many as are given for each row of the
/// batch axis. These are the first two dimensions, either way round.
fn reverse(node: &Node<'_>) -> Built {
    let (time, batch) = (node.int("time_axis", 0), node.int("batch_axis", 1));
    if !matches!((time, batch), (0, 1) | (1, 0)) {
        return Err(Refusal::Invalid(format!("time and batch cannot be the axes {time} and {batch}")));
    }
    operator(move |inputs| {
        let (x, counts) = (inputs.take(0)?, inputs.take(1)?);
        let shape = x.shape().to_vec();
        let &[first, second, ref rest @ ..] = &shape[..] else {
            fault!("two dimensions are needed, not {}", x.describe());
        };
        let (steps, rows) = if time == 0 { (first, second) } else { (second, first) };
        let given = counts.to_i64s()?;
        let counts = super::shape::lengths(&given)?;
        if counts.len() != rows || counts.iter().any(|&count| count > steps) {
            fault!("lengths {} do not fit {rows} rows of {steps} steps", shown(&given));
        }
        let width: usize = rest.iter().product();
        let mut positions = Vec::with_capacity(x.len());
        for outer in 0..first {
            for inner in 0..second {
                let (step, row) = if time == 0 { (outer, inner) } else { (inner, outer) };
                let source = if step < counts[row] { counts[row] - 1 - step } else { step };
                let place = if time == 0 { source * second + row } else { row * second + source };
                positions.extend(place * width..(place + 1) * width);
            }
        }
        Ok(pick(&x, &shape, &positions)?.into())
    })
}
