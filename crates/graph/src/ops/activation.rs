//! Functions of one number: activations and the mathematics of floating-point tensors.
//!
//! burn's kernel is used where there is one; the rest are loops that work in place when they can.

use burn::backend::Scalar;
use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ActivationOps, FloatTensorOps};
use num_traits::Float;

use super::cast::Narrow;
use super::{Builder, Built, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, contiguous, fault, for_storage, items, items_mut, type_of};
use crate::value::DType;

pub(super) fn find(operator: &str) -> Option<Builder> {
    Some(match operator {
        "Relu" => |_| integer_too(Flex::relu, |x| x.max(0)),
        "Abs" => |_| integer_too(Flex::float_abs, i64::wrapping_abs),
        "Neg" => |_| integer_too(Flex::float_neg, i64::wrapping_neg),
        "Sign" => |_| integer_too(Flex::float_sign, i64::signum),
        "Sqrt" => |_| float(Flex::float_sqrt),
        "Exp" => |_| float(Flex::float_exp),
        "Log" => |_| float(Flex::float_log),
        "Reciprocal" => |_| float(Flex::float_recip),
        "Sigmoid" => |_| float(Flex::sigmoid),
        "Tanh" => |_| float(Flex::float_tanh),
        "Erf" => |_| float(Flex::float_erf),
        "Floor" => |_| float(Flex::float_floor),
        "Ceil" => |_| float(Flex::float_ceil),
        "Round" => |_| float(Flex::float_round),
        "Sin" => |_| float(Flex::float_sin),
        "Cos" => |_| float(Flex::float_cos),
        "Tan" => |_| float(Flex::float_tan),
        "Asin" => |_| float(Flex::float_asin),
        "Acos" => |_| float(Flex::float_acos),
        "Atan" => |_| float(Flex::float_atan),
        "Sinh" => |_| float(Flex::float_sinh),
        "Cosh" => |_| float(Flex::float_cosh),
        "LeakyRelu" => |node| {
            let slope = Scalar::from(node.float("alpha", 0.01));
            float(move |x| Flex::leaky_relu(x, slope))
        },
        "HardSigmoid" => |node| {
            let (alpha, beta) = (node.float("alpha", 0.2), node.float("beta", 0.5));
            float(move |x| Flex::hard_sigmoid(x, Scalar::from(alpha), Scalar::from(beta)))
        },
        "HardSwish" => |_| real(HardSwish),
        "Elu" => |node| real(Elu { alpha: node.float("alpha", 1.0), gamma: 1.0 }),
        "Selu" => |node| {
            real(Elu { alpha: node.float("alpha", 1.673_263_2), gamma: node.float("gamma", 1.050_701) })
        },
        "Celu" => |node| real(Celu { alpha: node.float("alpha", 1.0) }),
        "ThresholdedRelu" => |node| real(Thresholded { alpha: node.float("alpha", 1.0) }),
        "Softplus" => |_| real(Softplus),
        "Softsign" => |_| real(Softsign),
        "Mish" => |_| real(Mish),
        "Gelu" => gelu,
        "Clip" => clip,
        "Not" => |_| super::operator(not),
        "IsNaN" => |_| super::operator(is_nan),
        _ => return None,
    })
}

/// An operator of floating-point tensors only.
fn float(kernel: impl Fn(FlexTensor) -> FlexTensor + Send + Sync + 'static) -> Built {
    operator(move |inputs| Ok(kernel(inputs.float(0)?).into()))
}

/// An operator that integers have too. They are narrower than `i64` or as wide, so that the result of
/// the wide function, cut to the width, is the one of the narrow function.
fn integer_too(kernel: fn(FlexTensor) -> FlexTensor, whole: fn(i64) -> i64) -> Built {
    operator(move |inputs| {
        let x = inputs.dense(0)?;
        Ok(match type_of(&x) {
            DType::F32 | DType::F64 => kernel(x),
            DType::I64 => map(x, whole),
            DType::I32 => map(x, |x: i32| whole(x.into()).narrow_i32()),
            DType::I8 => map(x, |x: i8| whole(x.into()).narrow_i8()),
            DType::U8 => map(x, |x: u8| whole(x.into()).narrow_u8()),
            other @ (DType::Bool | DType::String) => fault!("numbers are needed, not {other}"),
        }
        .into())
    })
}

/// A function of one real number, for both widths.
trait RealFunction: Send + Sync + 'static {
    fn apply<F: Float>(&self, x: F) -> F;
}

/// An operator made of a function of one real number.
fn real(function: impl RealFunction) -> Built {
    operator(move |inputs| {
        let x = inputs.float(0)?;
        Ok(match type_of(&x) {
            DType::F64 => map(x, |x: f64| function.apply(x)),
            _ => map(x, |x: f32| function.apply(x)),
        }
        .into())
    })
}

/// A constant in the width at hand; every `f32` is in range of both.
fn of<F: Float>(constant: f32) -> F {
    <F as num_traits::NumCast>::from(constant).unwrap_or_else(F::nan)
}

struct Elu {
    alpha: f32,
    gamma: f32,
}

impl RealFunction for Elu {
    fn apply<F: Float>(&self, x: F) -> F {
        let value = if x > F::zero() { x } else { of::<F>(self.alpha) * x.exp_m1() };
        of::<F>(self.gamma) * value
    }
}

struct Celu {
    alpha: f32,
}

impl RealFunction for Celu {
    fn apply<F: Float>(&self, x: F) -> F {
        let alpha = of::<F>(self.alpha);
        if x > F::zero() { x } else { alpha * (x / alpha).exp_m1() }
    }
}

struct Thresholded {
    alpha: f32,
}

impl RealFunction for Thresholded {
    fn apply<F: Float>(&self, x: F) -> F {
        if x > of(self.alpha) { x } else { F::zero() }
    }
}

struct HardSwish;

impl RealFunction for HardSwish {
    fn apply<F: Float>(&self, x: F) -> F {
        x * (x / of(6.0) + of(0.5)).max(F::zero()).min(F::one())
    }
}

/// ln(1 + e^x), in a form that does not overflow.
fn softplus<F: Float>(x: F) -> F {
    x.max(F::zero()) + (-x.abs()).exp().ln_1p()
}

struct Softplus;

impl RealFunction for Softplus {
    fn apply<F: Float>(&self, x: F) -> F {
        softplus(x)
    }
}

struct Softsign;

impl RealFunction for Softsign {
    fn apply<F: Float>(&self, x: F) -> F {
        x / (F::one() + x.abs())
    }
}

struct Mish;

impl RealFunction for Mish {
    fn apply<F: Float>(&self, x: F) -> F {
        x * softplus(x).tanh()
    }
}

/// The approximation of GELU by the hyperbolic tangent (Hendrycks and Gimpel 2016).
struct TanhGelu;

impl RealFunction for TanhGelu {
    fn apply<F: Float>(&self, x: F) -> F {
        let inner = of::<F>(0.797_884_6) * (x + of::<F>(0.044_715) * x * x * x);
        of::<F>(0.5) * x * (F::one() + inner.tanh())
    }
}

fn gelu(node: &Node<'_>) -> Built {
    match node.string("approximate", "none")?.as_str() {
        "none" => float(Flex::gelu),
        "tanh" => real(TanhGelu),
        other => Err(Refusal::Invalid(format!("`approximate` cannot be `{other}`"))),
    }
}

/// Bounds are attributes below opset 11 and inputs from there on; a bound of NaN does nothing.
fn clip(node: &Node<'_>) -> Built {
    let fixed = node.opset() < 11;
    let (low, high) = (node.float("min", f32::MIN), node.float("max", f32::MAX));
    operator(move |inputs| {
        let bounds = if fixed {
            [Some(Tensor::from_items(&[], vec![low])), Some(Tensor::from_items(&[], vec![high]))]
        } else {
            [inputs.optional(1), inputs.optional(2)]
        };
        let x = inputs.dense(0)?;
        let dtype = type_of(&x);
        for_storage!(dtype, E => {
            let [low, high] = bounds;
            let (low, high) = (scalar::<E>(low)?, scalar::<E>(high)?);
            Ok(map(x, move |x: E| {
                let x = low.filter(|&low| x < low).unwrap_or(x);
                high.filter(|&high| x > high).unwrap_or(x)
            }).into())
        }, text => fault!("strings have no order to clip by"))
    })
}

/// The only element of a bound.
fn scalar<E: Item>(bound: Option<Tensor>) -> Result<Option<E>, Fault> {
    let Some(bound) = bound else { return Ok(None) };
    if bound.len() != 1 || bound.dtype() != crate::tensor::native_type::<E>() {
        fault!("a bound must be one number of the input's type, not {}", bound.describe());
    }
    Ok(items::<E>(&contiguous(&bound.dense()?)).first().copied())
}

fn not(inputs: &mut super::Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.dense(0)?;
    if type_of(&x) != DType::Bool {
        fault!("truth values are needed, not {}", type_of(&x));
    }
    Ok(map(x, |truth: u8| u8::from(truth == 0)).into())
}

fn is_nan(inputs: &mut super::Inputs<'_>) -> Result<Outputs, Fault> {
    let x = contiguous(&inputs.float(0)?);
    let truths: Vec<u8> = match type_of(&x) {
        DType::F64 => items::<f64>(&x).iter().map(|x| u8::from(x.is_nan())).collect(),
        _ => items::<f32>(&x).iter().map(|x| u8::from(x.is_nan())).collect(),
    };
    Ok(Tensor::from_bools(x.layout().shape(), truths).into())
}

/// Applies a function to each element, in place where the tensor is not shared.
pub(super) fn map<E: Item>(mut x: FlexTensor, function: impl Fn(E) -> E) -> FlexTensor {
    if let Some(elements) = items_mut::<E>(&mut x) {
        for element in elements {
            *element = function(*element);
        }
        return x;
    }
    let source = contiguous(&x);
    let mapped = items::<E>(&source).iter().map(|&element| function(element)).collect();
    match Tensor::of_type::<E>(type_of(&source), source.layout().shape(), mapped) {
        Tensor::Dense(dense) => dense,
        Tensor::Text(_) => source,
    }
}
