//! Softmax and the normalisations of networks at inference.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::arithmetic::{add, multiply};
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, contiguous, fault, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("Softmax", 1, FLOATS, |node| softmax(node, Flex::softmax)),
    Entry::widening("LogSoftmax", 1, FLOATS, |node| softmax(node, Flex::log_softmax)),
    Entry::widening("BatchNormalization", 1, FLOATS, batch),
    Entry::widening("LayerNormalization", 17, FLOATS, layer),
    Entry::widening("LpNormalization", 1, FLOATS, lp),
];

/// Below opset 13 the input is a matrix of the dimensions before and after `axis`.
fn softmax(node: &Node<'_>, kernel: fn(FlexTensor, usize) -> FlexTensor) -> Built {
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

/// Scale and shift per channel: mean and variance are constants at inference.
fn batch(node: &Node<'_>) -> Built {
    if node.flag("training_mode", false) || (1..node.output_count()).any(|output| node.output_used(output)) {
        return Err(Refusal::Unsupported("batch normalisation in training mode is not supported".to_owned()));
    }
    if node.opset() < 9 && !node.flag("spatial", true) {
        return Err(Refusal::Unsupported("batch normalisation per pixel is not supported".to_owned()));
    }
    let epsilon = node.float("epsilon", 1e-5);
    let given: Option<Vec<Tensor>> = (1..5).map(|input| node.constant(input).cloned()).collect();
    let known =
        given.map(|given| factors(&given, epsilon)).transpose().map_err(|fault| Refusal::Invalid(fault.0))?;
    operator(move |inputs| {
        let (scale, shift) = match &known {
            Some((scale, shift)) => (scale.clone(), shift.clone()),
            None => {
                factors(&(1..5).map(|input| inputs.take(input)).collect::<Result<Vec<_>, Fault>>()?, epsilon)?
            }
        };
        let x = inputs.float(0)?;
        let rank = x.layout().num_dims();
        let channels = x.layout().shape().get(1).copied();
        if channels != Some(scale.len()) {
            fault!(
                "{} channels are normalised, but the input has the shape {:?}",
                scale.len(),
                x.layout().shape()
            );
        }
        let mut shape = vec![1; rank];
        shape[1] = scale.len();
        let (scale, shift) = (scale.reshape(&shape)?.dense()?, shift.reshape(&shape)?.dense()?);
        add(multiply(x, scale)?, shift).map(Into::into)
    })
}

/// y = scale * (x - mean) / sqrt(variance + epsilon) + bias, written as x * a + b.
fn factors(given: &[Tensor], epsilon: f32) -> Result<(Tensor, Tensor), Fault> {
    let dtype = given.first().map_or(DType::F32, Tensor::dtype);
    let vectors: Vec<Vec<f64>> = given.iter().map(Tensor::to_f64s).collect::<Result<_, _>>()?;
    let [scale, bias, mean, variance] = vectors.as_slice() else { fault!("four vectors are needed") };
    let count = scale.len();
    if [bias, mean, variance].iter().any(|vector| vector.len() != count) {
        fault!("scale, bias, mean and variance differ in length");
    }
    let a: Vec<f64> = scale.iter().zip(variance).map(|(s, v)| s / (v + f64::from(epsilon)).sqrt()).collect();
    let b: Vec<f64> = bias.iter().zip(mean).zip(&a).map(|((bias, mean), a)| bias - mean * a).collect();
    let vector = |numbers: Vec<f64>| super::cast::cast(Tensor::from_items(&[count], numbers), dtype);
    Ok((vector(a)?, vector(b)?))
}

fn layer(node: &Node<'_>) -> Built {
    if (1..node.output_count()).any(|output| node.output_used(output)) {
        return Err(Refusal::Unsupported("the mean and deviation of a layer are not given out".to_owned()));
    }
    let axis = node.int("axis", -1);
    let epsilon = node.float("epsilon", 1e-5);
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let scale = inputs.float(1)?;
        let bias = inputs.optional(2).map(Tensor::float).transpose()?;
        let axis = resolve_axis(axis, x.layout().num_dims())?;
        let width: usize = x.layout().shape()[axis..].iter().product();
        let normalised = match type_of(&x) {
            DType::F64 => standardised::<f64>(&x, width, epsilon),
            _ => standardised::<f32>(&x, width, epsilon),
        };
        let scaled = multiply(normalised.dense()?, scale)?;
        Ok(match bias {
            Some(bias) => add(scaled, bias)?,
            None => scaled,
        }
        .into())
    })
}

/// Each row of `width` elements with its mean taken away, divided by its deviation.
fn standardised<F: Item + Float>(x: &FlexTensor, width: usize, epsilon: f32) -> Tensor {
    let x = contiguous(x);
    let number = |number: f64| <F as num_traits::NumCast>::from(number).unwrap_or_else(F::nan);
    let mut result = Vec::with_capacity(x.layout().num_elements());
    for row in items::<F>(&x).chunks_exact(width.max(1)) {
        // Twice the width of the elements: a variance is a difference of large sums.
        let wide = |x: &F| num_traits::ToPrimitive::to_f64(x).unwrap_or(f64::NAN);
        let count = row.len() as f64;
        let mean = row.iter().map(wide).sum::<f64>() / count;
        let variance = row.iter().map(|x| (wide(x) - mean).powi(2)).sum::<f64>() / count;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        result.extend(row.iter().map(|x| number((wide(x) - mean) * factor)));
    }
    Tensor::from_items(x.layout().shape(), result)
}

fn lp(node: &Node<'_>) -> Built {
    let axis = node.int("axis", -1);
    let p = node.int("p", 2);
    if !(1..=2).contains(&p) {
        return Err(Refusal::Invalid(format!("`p` must be 1 or 2, not {p}")));
    }
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let rank = x.layout().num_dims();
        let axis = resolve_axis(axis, rank)?;
        let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
        order.push(axis);
        let moved = contiguous(&x.permute(&order));
        let width = x.layout().shape()[axis];
        let norm = if p == 1 { Norm::L1 } else { Norm::L2 };
        let normalised = match type_of(&moved) {
            DType::F64 => rows_over_norm::<f64>(&moved, width, norm),
            _ => rows_over_norm::<f32>(&moved, width, norm),
        };
        let mut back = vec![0; rank];
        for (position, &axis) in order.iter().enumerate() {
            back[axis] = position;
        }
        Ok(normalised.dense()?.permute(&back).into())
    })
}

/// What each row is divided by.
#[derive(Clone, Copy)]
pub(super) enum Norm {
    /// The largest element.
    Max,
    /// The sum of absolute values.
    L1,
    /// The root of the sum of squares.
    L2,
}

/// Each row of `width` elements divided by its norm; a row whose norm is 0 stays as it is.
pub(super) fn rows_over_norm<F: Item + Float>(x: &FlexTensor, width: usize, norm: Norm) -> Tensor {
    let x = contiguous(x);
    let mut result = Vec::with_capacity(x.layout().num_elements());
    for row in items::<F>(&x).chunks_exact(width.max(1)) {
        let size = match norm {
            Norm::Max => row.iter().fold(F::neg_infinity(), |best, &x| best.max(x)),
            Norm::L1 => row.iter().fold(F::zero(), |sum, &x| sum + x.abs()),
            Norm::L2 => row.iter().fold(F::zero(), |sum, &x| sum + x * x).sqrt(),
        };
        result.extend(row.iter().map(|&x| if size == F::zero() { x } else { x / size }));
    }
    Tensor::from_items(x.layout().shape(), result)
}
