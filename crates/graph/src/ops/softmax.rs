//! `Softmax`, `LogSoftmax` and `Hardmax`.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::cast::{cast, numbers};
use super::widen::{Narrow, narrow};
use super::{Built, Entry, FLOATS, operator, single};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, contiguous, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Softmax", 1, FLOATS, |node| build(node, softmax)),
    Entry::widening("LogSoftmax", 1, FLOATS, |node| {
        build(node, |x, axis| Ok(Flex::log_softmax(x.float()?, axis).into()))
    }),
    Entry::widening("Hardmax", 1, FLOATS, |node| {
        build(node, |x, axis| Ok(hardmax(&x.float()?, axis).into()))
    }),
];

/// Below opset 13 the input is a matrix of the dimensions before and after `axis`.
fn build(node: &Node<'_>, kernel: fn(Tensor, usize) -> Result<Tensor, Fault>) -> Built {
    let as_matrix = node.opset() < 13;
    let axis = node.int("axis", if as_matrix { 1 } else { -1 });
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        if x.len() == 0 {
            return Ok(x.into());
        }
        if shape.is_empty() {
            return Ok(kernel(x.reshape(&[1])?, 0)?.reshape(&[])?.into());
        }
        let axis = resolve_axis(axis, shape.len())?;
        if !as_matrix {
            return Ok(kernel(x, axis)?.into());
        }
        let (rows, columns) = (shape[..axis].iter().product(), shape[axis..].iter().product());
        Ok(kernel(x.reshape(&[rows, columns])?, 1)?.reshape(&shape)?.into())
    })
}

/// A kernel, or for `FP16` and `BF16` the chain of operators of [`softmax_of_row`].
fn softmax(x: Tensor, axis: usize) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    let rank = x.rank();
    let Some(narrow) = narrow::<f32>(dtype) else {
        let last = dtype == DType::F32 && axis + 1 == rank;
        let x = x.float()?;
        return Ok(if last { single::softmax(x, 1.0) } else { Flex::softmax(x, axis) }.into());
    };
    let last = |x: Tensor| Ok::<_, Fault>(Tensor::Dense(x.dense()?.transpose(axis, rank - 1)));
    let moved = last(x)?;
    let shape = moved.shape().to_vec();
    let mut all = numbers::<f32>(moved)?;
    for row in all.chunks_exact_mut(shape[rank - 1].max(1)) {
        softmax_of_row(row, Some(narrow));
    }
    last(cast(Tensor::from_items(&shape, all), dtype)?)
}

/// The softmax of a row. ONNX defines it as a chain of operators (difference to the largest, exponential,
/// sum, quotient), each of which rounds to the type of the tensor.
pub(super) fn softmax_of_row<F: Float>(row: &mut [F], narrow: Option<Narrow<F>>) {
    let round = |x: F| narrow.map_or(x, |narrow| narrow(x));
    // A number that is none must not be passed over.
    let largest =
        row.iter().fold(F::neg_infinity(), |best, &x| if x > best || x.is_nan() { x } else { best });
    let mut sum = F::zero();
    for x in row.iter_mut() {
        *x = round(round(*x - largest).exp());
        sum = sum + *x;
    }
    let sum = round(sum);
    for x in row {
        *x = round(*x / sum);
    }
}

/// One where the first of the largest elements along a dimension is, zero elsewhere.
fn hardmax(x: &FlexTensor, axis: usize) -> FlexTensor {
    let x = contiguous(x);
    let marked = match type_of(&x) {
        DType::F64 => marked::<f64>(&x, axis),
        _ => marked::<f32>(&x, axis),
    };
    if let Tensor::Dense(dense) = marked { dense } else { x }
}

fn marked<F: Item + Float>(x: &FlexTensor, axis: usize) -> Tensor {
    let shape = x.layout().shape();
    let all = items::<F>(x);
    let (length, after) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut result = vec![F::zero(); all.len()];
    for line in 0..all.len() / length.max(1) {
        let start = line / after * length * after + line % after;
        let mut best = start;
        for at in (start..start + length * after).step_by(after) {
            // The first number that is none is the largest, as in NumPy.
            if all[at] > all[best] || (all[at].is_nan() && !all[best].is_nan()) {
                best = at;
            }
        }
        result[best] = F::one();
    }
    Tensor::from_items(shape, result)
}
