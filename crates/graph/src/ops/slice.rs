//! Operators that cut tensors apart and put them together.

use burn::backend::flex::{FlexTensor, Layout};

use super::{ALL, Built, Entry, Outputs, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{
    Fault, Tensor, TextBudget, check_size, contiguous, fault, for_storage, items, resolve_axis, shape_of,
    to_i64,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Slice", 1, ALL, slice),
    Entry::new("Split", 1, ALL, split),
    Entry::new("Concat", 1, ALL, concat),
];

/// Where a slice begins, its step, and how many elements it takes.
struct Cut {
    start: usize,
    step: isize,
    count: usize,
}

/// ONNX's rules: negative positions count from the end, and all are clamped.
fn cut(length: usize, start: i64, end: i64, step: i64) -> Result<Cut, Fault> {
    if step == 0 {
        fault!("the step of a slice is zero");
    }
    let length = to_i64(length);
    let from_start = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = if step > 0 {
        (from_start(start).clamp(0, length), from_start(end).clamp(0, length))
    } else {
        // A start before the first element is the first: NumPy would take none, ONNX's text takes it.
        (from_start(start).max(0).min(length - 1), from_start(end).clamp(-1, length - 1))
    };
    let distance = if step > 0 { end - start } else { start - end }.max(0);
    let stride = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX);
    let count = distance / stride + i64::from(distance % stride != 0);
    Ok(Cut {
        start: usize::try_from(start).unwrap_or(0),
        // A step beyond the tensor takes one element, whatever it is.
        step: isize::try_from(step).unwrap_or(isize::MAX).clamp(-length_bound(length), length_bound(length)),
        count: usize::try_from(count).unwrap_or(0),
    })
}

/// A step of this size leaves the dimension.
fn length_bound(length: i64) -> isize {
    isize::try_from(length.max(1)).unwrap_or(isize::MAX)
}

fn slice(node: &Node<'_>) -> Built {
    let since = 10;
    let starts = Ints::attribute_or_input(node, "starts", 1, since)?;
    let ends = Ints::attribute_or_input(node, "ends", 2, since)?;
    let axes = Ints::attribute_or_input(node, "axes", 3, since)?;
    let steps = Ints::attribute_or_input(node, "steps", 4, since)?;
    operator(move |inputs| {
        let missing = || Fault("`starts` and `ends` are needed".to_owned());
        let starts = starts.get(inputs)?.ok_or_else(missing)?;
        let ends = ends.get(inputs)?.ok_or_else(missing)?;
        let axes = axes.get(inputs)?.unwrap_or_else(|| (0..).take(starts.len()).collect::<Vec<i64>>().into());
        let steps = steps.get(inputs)?.unwrap_or_else(|| vec![1; starts.len()].into());
        if [ends.len(), axes.len(), steps.len()].iter().any(|&count| count != starts.len()) {
            fault!("starts, ends, axes and steps differ in length");
        }
        let x = inputs.take(0)?;
        let mut cuts: Vec<Cut> = x.shape().iter().map(|&count| Cut { start: 0, step: 1, count }).collect();
        for (index, &axis) in axes.iter().enumerate() {
            let place = resolve_axis(axis, x.rank())?;
            cuts[place] = cut(x.shape()[place], starts[index], ends[index], steps[index])?;
        }
        Ok(view(x, &cuts)?.into())
    })
}

/// The part of a tensor that the cuts take. Steps forwards need no copy.
fn view(x: Tensor, cuts: &[Cut]) -> Result<Tensor, Fault> {
    let shape: Vec<usize> = cuts.iter().map(|cut| cut.count).collect();
    if shape.contains(&0) {
        return empty(x.dtype(), &shape);
    }
    if let Tensor::Text(text) = &x {
        let positions: Vec<i64> = (0..).take(text.items().len()).collect();
        let part = view(Tensor::from_items(x.shape(), positions), cuts)?;
        let pick = |at: i64| usize::try_from(at).ok().and_then(|at| text.items().get(at)).cloned();
        let strings: Option<Vec<String>> = part.to_i64s()?.into_iter().map(pick).collect();
        return Ok(Tensor::from_text(&shape, strings.unwrap_or_default()));
    }
    let dtype = x.dtype();
    let dense = x.storage()?;
    let layout = dense.layout();
    let mut offset = layout.start_offset().cast_signed();
    let mut strides = Vec::with_capacity(cuts.len());
    for (cut, &stride) in cuts.iter().zip(layout.strides()) {
        offset += cut.start.cast_signed() * stride;
        strides.push(stride * cut.step);
    }
    let Ok(offset) = usize::try_from(offset) else { fault!("the slice begins before the tensor") };
    let layout = Layout::new(shape_of(&shape), strides, offset);
    let part = FlexTensor::from_arc(dense.data_arc(), layout, dense.dtype());
    // Kernels of burn differ in whether they take negative strides; a copy suits all of them.
    let backwards = cuts.iter().any(|cut| cut.step < 0);
    Ok(Tensor::stored(dtype, if backwards { part.to_contiguous() } else { part }))
}

/// A part of a dimension.
pub(crate) fn part(x: Tensor, axis: usize, start: usize, count: usize) -> Result<Tensor, Fault> {
    let Some(&length) = x.shape().get(axis).filter(|&&length| start + count <= length) else {
        fault!("{} has no {count} elements from {start} on along dimension {axis}", x.describe());
    };
    debug_assert!(start + count <= length, "a part of {length}");
    let mut cuts: Vec<Cut> = x.shape().iter().map(|&count| Cut { start: 0, step: 1, count }).collect();
    cuts[axis] = Cut { start, step: 1, count };
    view(x, &cuts)
}

/// A tensor without elements.
fn empty(dtype: DType, shape: &[usize]) -> Result<Tensor, Fault> {
    super::cast::cast(Tensor::from_items::<f32>(shape, Vec::new()), dtype)
}

fn split(node: &Node<'_>) -> Built {
    // The first form took the sizes as an input too.
    let as_input = node.opset() < 2 && node.has_input(1);
    let sizes = Ints::attribute_or_input(node, "split", 1, if as_input { 1 } else { 13 })?;
    let axis = node.int("axis", 0);
    let outputs = node.output_count();
    if usize::try_from(node.int("num_outputs", to_i64(outputs))) != Ok(outputs) {
        return Err(Refusal::Invalid(format!("`num_outputs` is not {outputs}")));
    }
    operator(move |inputs| {
        let sizes = sizes.get(inputs)?.map(|sizes| super::shape::lengths(&sizes)).transpose()?;
        let x = inputs.take(0)?;
        let axis = resolve_axis(axis, x.rank())?;
        let length = x.shape()[axis];
        let sizes = sizes.unwrap_or_else(|| {
            // Equal parts; the last is smaller where the length cannot be divided.
            let part = length.div_ceil(outputs.max(1));
            (0..outputs).map(|index| length.saturating_sub(index * part).min(part)).collect()
        });
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if sizes.len() != outputs || total != Some(length) {
            fault!("a length of {length} cannot be split into {} parts for {outputs} outputs", sizes.len());
        }
        let mut start = 0;
        let mut parts = Vec::with_capacity(outputs);
        for size in sizes {
            let mut cuts: Vec<Cut> =
                x.shape().iter().map(|&count| Cut { start: 0, step: 1, count }).collect();
            cuts[axis] = Cut { start, step: 1, count: size };
            parts.push(view(x.clone(), &cuts)?);
            start += size;
        }
        Ok(Outputs::Many(parts))
    })
}

fn concat(node: &Node<'_>) -> Built {
    // Below opset 4 the axis had a default.
    let axis = node.int("axis", 1);
    operator(move |inputs| {
        let tensors: Vec<Tensor> =
            (0..inputs.count()).map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
        Ok(join(tensors, axis)?.into())
    })
}

/// Tensors of one type, side by side along an axis.
pub(crate) fn join(tensors: Vec<Tensor>, axis: i64) -> Result<Tensor, Fault> {
    let Some(first) = tensors.first() else { fault!("there is nothing to join") };
    let (dtype, rank) = (first.dtype(), first.rank());
    let axis = resolve_axis(axis, rank)?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for tensor in &tensors {
        let other = tensor.shape();
        let fits = tensor.dtype() == dtype
            && other.len() == rank
            && (0..rank).all(|at| at == axis || other[at] == first.shape()[at]);
        if !fits {
            fault!("{} and {} cannot be joined along axis {axis}", first.describe(), tensor.describe());
        }
        shape[axis] += other[axis];
    }
    let count = check_size(&shape)?;
    let after: usize = shape[axis + 1..].iter().product();
    let rows: usize = shape[..axis].iter().product();
    let widths: Vec<usize> = tensors.iter().map(|tensor| tensor.shape()[axis] * after).collect();
    for_storage!(dtype, E => {
        let parts: Vec<FlexTensor> =
            tensors.into_iter().map(|tensor| Ok(contiguous(&tensor.storage()?))).collect::<Result<_, Fault>>()?;
        let slices: Vec<&[E]> = parts.iter().map(items::<E>).collect();
        Ok(Tensor::of_type::<E>(dtype, &shape, interleave(&slices, &widths, rows, count)))
    }, text => {
        let mut budget = TextBudget::default();
        let slices: Vec<&[String]> = tensors.iter().map(|tensor| match tensor {
            Tensor::Text(text) => text.items(),
            Tensor::Dense(_) | Tensor::Small(..) => &[],
        }).collect();
        for string in slices.iter().copied().flatten() {
            budget.take(string.len())?;
        }
        Ok(Tensor::from_text(&shape, interleave(&slices, &widths, rows, count)))
    })
}

/// One row of each part in turn.
fn interleave<T: Clone>(parts: &[&[T]], widths: &[usize], rows: usize, count: usize) -> Vec<T> {
    let mut joined = Vec::with_capacity(count);
    for row in 0..rows {
        for (part, &width) in parts.iter().zip(widths) {
            joined.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    joined
}
