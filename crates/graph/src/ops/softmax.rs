//! `Softmax`, `LogSoftmax` and `Hardmax`.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::{Built, Entry, FLOATS, operator};
use crate::load::Node;
use crate::tensor::{Item, Tensor, contiguous, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("Softmax", 1, FLOATS, |node| build(node, Flex::softmax)),
    Entry::widening("LogSoftmax", 1, FLOATS, |node| build(node, Flex::log_softmax)),
    Entry::widening("Hardmax", 1, FLOATS, |node| build(node, hardmax)),
];

/// Below opset 13 the input is a matrix of the dimensions before and after `axis`.
fn build(node: &Node<'_>, kernel: fn(FlexTensor, usize) -> FlexTensor) -> Built {
    let as_matrix = node.opset() < 13;
    let axis = node.int("axis", if as_matrix { 1 } else { -1 });
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        if x.len() == 0 {
            return Ok(x.into());
        }
        if shape.is_empty() {
            return Ok(Tensor::Dense(kernel(x.reshape(&[1])?.float()?, 0)).reshape(&[])?.into());
        }
        let axis = resolve_axis(axis, shape.len())?;
        if !as_matrix {
            return Ok(kernel(x.float()?, axis).into());
        }
        let (rows, columns) = (shape[..axis].iter().product(), shape[axis..].iter().product());
        let matrix = x.reshape(&[rows, columns])?.float()?;
        Ok(Tensor::Dense(kernel(matrix, 1)).reshape(&shape)?.into())
    })
}

/// One where the first of the largest elements along a dimension is, zero elsewhere.
fn hardmax(x: FlexTensor, axis: usize) -> FlexTensor {
    let x = contiguous(&x);
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
