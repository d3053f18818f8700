//! Operators that stand for several nodes of a file: see `crate::fuse`.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::activation::map;
use super::arithmetic::{add, multiply};
use super::epilogue::{Activation, owned};
use super::laid::spread;
use super::matmul::stacked;
use super::reduce::sum;
use super::widen::Widened;
use super::{Inputs, Operator, Outputs, single};
use crate::tensor::{Fault, Item, Tensor, check_size, contiguous, fault, items, items_mut, type_of};
use crate::value::DType;

/// A number that goes with `FP32` ones.
#[expect(clippy::cast_possible_truncation, reason = "rounded, as the constants of a file are")]
fn narrow(number: f64) -> f32 {
    number as f32
}

fn widened<F>(run: F) -> Box<dyn Operator>
where
    F: Fn(&mut Inputs<'_>) -> Result<Outputs, Fault> + Send + Sync + 'static,
{
    Box::new(Widened::new(Box::new(run)))
}

/// `Gelu` by the error function.
pub(crate) fn gelu() -> Box<dyn Operator> {
    widened(|inputs| Ok(single::gelu(inputs.float(0)?).into()))
}

/// The softmax of the last dimension of all elements times a positive factor.
pub(crate) fn softmax_of(factor: f64) -> Box<dyn Operator> {
    widened(move |inputs| Ok(softmax(inputs.float(0)?, factor).into()))
}

fn softmax(x: FlexTensor, factor: f64) -> FlexTensor {
    let rank = x.layout().num_dims();
    match type_of(&x) {
        DType::F32 => single::softmax(x, narrow(factor)),
        // burn's kernel needs a dimension and an element.
        _ if rank == 0 || x.layout().num_elements() == 0 => map(x, |_: f64| 1.0),
        _ => Flex::softmax(map(x, |x: f64| x * factor), rank - 1),
    }
}

/// `softmax(queries * keys * factor) * values` of stacks of matrices, of which the keys have a column for each.
pub(crate) fn attended(factor: f64) -> Box<dyn Operator> {
    widened(move |inputs| {
        let (queries, keys, values) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        if let Some(shape) = heads(&queries, &keys, &values) {
            let all = [queries, keys, values].map(|side| side.dense().map(|side| spread(&side)));
            let [queries, keys, values] = all;
            let (queries, keys, values) = (queries?, keys?, values?);
            check_size(&shape)?;
            // Those of one head are made by a thread at a time; all of them are what a file could ask for without this.
            let columns = keys.layout().shape()[shape.len() - 1];
            check_size(&[&shape[..shape.len() - 1], &[columns]].concat())?;
            return single::attention([&queries, &keys, &values], &shape, narrow(factor)).map(Into::into);
        }
        let shares = softmax(stacked(queries, keys)?.float()?, factor);
        Ok(stacked(Tensor::Dense(shares), values)?.into())
    })
}

/// The shape of the result where all are `FP32`, and stacks of one shape of matrices that meet and have elements.
fn heads(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Option<Vec<usize>> {
    let stack = |tensor: &Tensor| tensor.rank().checked_sub(2);
    let (rank, shapes) = (stack(queries)?, [queries.shape(), keys.shape(), values.shape()]);
    let alike = |shape: &[usize]| shape.len() == rank + 2 && shape[..rank] == queries.shape()[..rank];
    let single = [queries, keys, values].iter().all(|side| side.dtype() == DType::F32 && side.len() > 0);
    let meet = single && shapes.iter().all(|shape| alike(shape));
    let fits = meet && shapes[0][rank + 1] == shapes[1][rank] && shapes[1][rank + 1] == shapes[2][rank];
    fits.then(|| [&shapes[0][..=rank], &[shapes[2][rank + 1]]].concat())
}

/// An activation as a step of its own.
pub(crate) fn activated(activation: Activation) -> Box<dyn Operator> {
    widened(move |inputs| Ok(activation.apply(inputs.float(0)?)?.into()))
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` over the `last` dimensions, in place where x is not
/// shared. Scale (input 1) and bias (input 2) may be left out.
pub(crate) fn standardised(last: usize, epsilon: f64) -> Box<dyn Operator> {
    widened(move |inputs| {
        let x = inputs.float(0)?;
        let scale = inputs.optional(1).map(Tensor::float).transpose()?;
        let bias = inputs.optional(2).map(Tensor::float).transpose()?;
        let shape = x.layout().shape().to_vec();
        let Some(first) = shape.len().checked_sub(last) else {
            fault!("{last} dimensions cannot be normalised in the shape {shape:?}");
        };
        let how = (true, narrow(epsilon));
        let x = match single::normalise(x, &shape[first..], how, scale.as_ref(), bias.as_ref()) {
            Ok(normalised) => return Ok(normalised.into()),
            Err(x) => x,
        };
        Ok(match type_of(&x) {
            DType::F64 => rows::<f64>(x, last, epsilon, scale, bias)?,
            _ => rows::<f32>(x, last, epsilon, scale, bias)?,
        }
        .into())
    })
}

fn rows<F: Item + Float>(
    x: FlexTensor,
    last: usize,
    epsilon: f64,
    scale: Option<FlexTensor>,
    bias: Option<FlexTensor>,
) -> Result<FlexTensor, Fault> {
    let shape = x.layout().shape().to_vec();
    let first = shape.len().saturating_sub(last);
    // One element for each of a row, and of its type.
    let fits = |parameter: &FlexTensor| {
        let own = parameter.layout().shape();
        let (leading, rest) = own.split_at(own.len().saturating_sub(last));
        type_of(parameter) == type_of(&x) && rest == &shape[first..] && leading.iter().all(|&one| one == 1)
    };
    let width: usize = shape[first..].iter().product();
    let together = scale.iter().chain(&bias).all(fits);
    let (inside, outside) =
        if together { ((scale, bias), (None, None)) } else { ((None, None), (scale, bias)) };
    let inside = (inside.0.map(|scale| contiguous(&scale)), inside.1.map(|bias| contiguous(&bias)));
    let mut x = owned::<F>(x);
    if let Some(all) = items_mut::<F>(&mut x).filter(|all| !all.is_empty()) {
        let epsilon = <F as num_traits::NumCast>::from(epsilon).unwrap_or_else(F::nan);
        let count = <F as num_traits::NumCast>::from(width).unwrap_or_else(F::nan);
        let (scale, bias) = (inside.0.as_ref().map(items::<F>), inside.1.as_ref().map(items::<F>));
        for row in all.chunks_exact_mut(width.max(1)) {
            let mean = sum(row, |x| x) / count;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
            let factor = F::one() / (variance + epsilon).sqrt();
            for x in row.iter_mut() {
                *x = (*x - mean) * factor;
            }
            if let Some(scale) = scale {
                row.iter_mut().zip(scale).for_each(|(x, &scale)| *x = *x * scale);
            }
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(x, &bias)| *x = *x + bias);
            }
        }
    }
    // Parameters of another shape are repeated as in any product and sum.
    let x = match outside.0 {
        Some(scale) => multiply(x, scale)?,
        None => x,
    };
    match outside.1 {
        Some(bias) => add(x, bias),
        None => Ok(x),
    }
}
