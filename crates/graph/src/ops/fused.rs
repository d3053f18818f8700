//! Operators that stand for several nodes of a file: see `crate::fuse`.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::arithmetic::{add, multiply};
use super::epilogue::{Activation, owned};
use super::reduce::sum;
use super::widen::Widened;
use super::{Inputs, Operator, Outputs};
use crate::tensor::{Fault, Item, Tensor, contiguous, fault, items, items_mut, type_of};
use crate::value::DType;

fn widened<F>(run: F) -> Box<dyn Operator>
where
    F: Fn(&mut Inputs<'_>) -> Result<Outputs, Fault> + Send + Sync + 'static,
{
    Box::new(Widened::new(Box::new(run)))
}

/// `Gelu` by the error function.
pub(crate) fn gelu() -> Box<dyn Operator> {
    widened(|inputs| Ok(Flex::gelu(inputs.float(0)?).into()))
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
    let Some(first) = shape.len().checked_sub(last) else {
        fault!("{last} dimensions cannot be normalised in the shape {shape:?}");
    };
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
