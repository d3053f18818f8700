//! Activations with a gate, a threshold of their own, or a learned slope.

use num_traits::{AsPrimitive, Float};

use super::activation::{map, of};
use super::arithmetic::zip_with;
use super::cast::{cast, numbers};
use super::widen::{Wide, narrow};
use super::{Built, Entry, FLOATS, Inputs, NUMBERS, Outputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, contiguous, fault, for_integers, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("PRelu", 1, NUMBERS, prelu),
    Entry::widening("Shrink", 9, NUMBERS, shrink),
    Entry::widening("Swish", 24, FLOATS, |node| {
        let alpha = node.float("alpha", 1.0);
        operator(move |inputs| {
            let x = inputs.float(0)?;
            Ok(match type_of(&x) {
                DType::F64 => map(x, |x: f64| swish(x, alpha)),
                _ => map(x, |x: f32| swish(x, alpha)),
            }
            .into())
        })
    }),
    Entry::new("SwiGLU", 28, FLOATS, |node| {
        let alpha = node.float("alpha", 1.0);
        operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
            Some(DType::F64) => gated_unit::<f64>(inputs, alpha),
            _ => gated_unit::<f32>(inputs, alpha),
        })
    }),
];

/// x * sigmoid(alpha * x).
pub(super) fn swish<F: Float>(x: F, alpha: f32) -> F {
    x / (F::one() + (-(of::<F>(alpha) * x)).exp())
}

/// swish(a) * b, without broadcasting. The two are operators of their own in ONNX's definition, so that the
/// first is rounded to the type of the tensors.
fn gated_unit<F: Wide>(inputs: &mut Inputs<'_>, alpha: f32) -> Result<Outputs, Fault> {
    let (a, b) = (inputs.take(0)?, inputs.take(1)?);
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        fault!("{} and {} must be alike", a.describe(), b.describe());
    }
    let (dtype, shape) = (a.dtype(), a.shape().to_vec());
    let round = |x: F| narrow::<F>(dtype).map_or(x, |narrow| narrow(x));
    let pairs = numbers::<F>(a)?.into_iter().zip(numbers::<F>(b)?);
    let result = pairs.map(|(a, b)| round(swish(a, alpha)) * b).collect();
    Ok(cast(Tensor::from_items(&shape, result), dtype)?.into())
}

/// Zero within the threshold on both sides; beyond it a bias towards zero.
fn shrink(node: &Node<'_>) -> Built {
    let (bias, threshold) = (f64::from(node.float("bias", 0.0)), f64::from(node.float("lambd", 0.5)));
    let apply = move |x: f64| {
        if x < -threshold {
            x + bias
        } else if x > threshold {
            x - bias
        } else {
            0.0
        }
    };
    operator(move |inputs| {
        let x = inputs.dense(0)?;
        Ok(match type_of(&x) {
            DType::F64 => map(x, apply),
            #[expect(clippy::cast_possible_truncation, reason = "the result has the width of the input")]
            DType::F32 => map(x, |x: f32| apply(x.into()) as f32),
            // Integers of 64 bits have more digits than FP64.
            dtype => for_integers!(dtype, E => map(x, |x: E| {
                let wide: f64 = x.as_();
                if bias == 0.0 && wide.abs() > threshold { x } else { apply(wide).as_() }
            }), other => fault!("numbers are needed, not {other}")),
        }
        .into())
    })
}

/// x where it is not negative, else x times a slope, which is repeated to the shape of x.
fn prelu(node: &Node<'_>) -> Built {
    // Before opset 7 a slope per channel is a vector, whatever comes after the channels.
    let per_channel = node.opset() < 7;
    operator(move |inputs| {
        let (x, slope) = (inputs.dense(0)?, inputs.take(1)?);
        let shape = x.layout().shape().to_vec();
        let slope = match slope.shape() {
            &[count] if per_channel && count > 1 && shape.len() > 1 => {
                let mut along = vec![1; shape.len()];
                along[1] = count;
                slope.reshape(&along)?
            }
            _ => slope,
        };
        let dtype = type_of(&x);
        if slope.dtype() != dtype {
            fault!("a slope of {} does not fit an input of {dtype}", slope.describe());
        }
        let slope = contiguous(&slope.broadcast_to(&shape)?.dense()?);
        let result = match dtype {
            DType::F64 => sloped::<f64>(&x, &slope, |x, slope| x * slope)?,
            DType::F32 => sloped::<f32>(&x, &slope, |x, slope| x * slope)?,
            dtype => for_integers!(dtype, E => sloped::<E>(&x, &slope, E::wrapping_mul)?,
                other => fault!("numbers are needed, not {other}")),
        };
        Ok(result.into())
    })
}

fn sloped<E: Item + num_traits::Zero>(
    x: &burn::backend::flex::FlexTensor,
    slope: &burn::backend::flex::FlexTensor,
    product: impl Fn(E, E) -> E,
) -> Result<Tensor, Fault> {
    let (shape, result) =
        zip_with(x, slope, |x: E, slope| if x < E::zero() { product(x, slope) } else { x })?;
    Ok(Tensor::from_items(&shape, result))
}
