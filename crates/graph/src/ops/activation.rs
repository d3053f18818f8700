//! Functions of one number: activations and the mathematics of floating-point tensors.
//!
//! burn's kernel is used where there is one; the rest are loops that work in place when they can.

use burn::backend::Scalar;
use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ActivationOps, FloatTensorOps};
use num_traits::{AsPrimitive, Bounded, Float};

use super::cast::cast;
use super::{Built, Entry, NUMBERS, Outputs, Refusal, operator, single};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, contiguous, fault, for_integers, for_storage, items, items_mut, type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("Relu", 1, NUMBERS, |_| integer_too(Flex::relu, |x| x.max(0))),
    Entry::widening("Abs", 1, NUMBERS, |_| integer_too(Flex::float_abs, i128::abs)),
    Entry::widening("Neg", 1, NUMBERS, |_| integer_too(Flex::float_neg, i128::wrapping_neg)),
    Entry::widening("Sign", 9, NUMBERS, |_| integer_too(sign, i128::signum)),
    Entry::widening("Sqrt", 1, NUMBERS, |_| float(Flex::float_sqrt)),
    Entry::widening("Exp", 1, NUMBERS, |_| float(Flex::float_exp)),
    Entry::widening("Log", 1, NUMBERS, |_| float(Flex::float_log)),
    Entry::widening("Reciprocal", 1, NUMBERS, |_| float(Flex::float_recip)),
    Entry::widening("Sigmoid", 1, NUMBERS, |_| float(Flex::sigmoid)),
    Entry::widening("Tanh", 1, NUMBERS, |_| float(Flex::float_tanh)),
    Entry::widening("Erf", 9, NUMBERS, |_| float(single::erf)),
    Entry::widening("Floor", 1, NUMBERS, |_| float(Flex::float_floor)),
    Entry::widening("Ceil", 1, NUMBERS, |_| float(Flex::float_ceil)),
    Entry::widening("Round", 11, NUMBERS, |_| operator(round)),
    Entry::widening("Sin", 7, NUMBERS, |_| float(Flex::float_sin)),
    Entry::widening("Cos", 7, NUMBERS, |_| float(Flex::float_cos)),
    Entry::widening("Tan", 7, NUMBERS, |_| float(Flex::float_tan)),
    Entry::widening("Asin", 7, NUMBERS, |_| float(Flex::float_asin)),
    Entry::widening("Acos", 7, NUMBERS, |_| float(Flex::float_acos)),
    Entry::widening("Atan", 7, NUMBERS, |_| float(Flex::float_atan)),
    Entry::widening("Sinh", 9, NUMBERS, |_| float(Flex::float_sinh)),
    Entry::widening("Cosh", 9, NUMBERS, |_| float(Flex::float_cosh)),
    Entry::widening("Asinh", 9, NUMBERS, |_| real(Asinh)),
    Entry::widening("Acosh", 9, NUMBERS, |_| real(Acosh)),
    Entry::widening("Atanh", 9, NUMBERS, |_| real(Atanh)),
    Entry::widening("LeakyRelu", 1, NUMBERS, |node| {
        let slope = Scalar::from(node.float("alpha", 0.01));
        float(move |x| Flex::leaky_relu(x, slope))
    }),
    Entry::widening("HardSigmoid", 1, NUMBERS, |node| {
        let (alpha, beta) = (node.float("alpha", 0.2), node.float("beta", 0.5));
        float(move |x| Flex::hard_sigmoid(x, Scalar::from(alpha), Scalar::from(beta)))
    }),
    Entry::widening("HardSwish", 14, NUMBERS, |_| real(HardSwish)),
    Entry::widening("Elu", 1, NUMBERS, |node| real(Elu { alpha: node.float("alpha", 1.0), gamma: 1.0 })),
    Entry::widening("Selu", 1, NUMBERS, |node| {
        real(Elu { alpha: node.float("alpha", 1.673_263_2), gamma: node.float("gamma", 1.050_701) })
    }),
    Entry::widening("Celu", 12, NUMBERS, |node| real(Celu { alpha: node.float("alpha", 1.0) })),
    Entry::widening("ThresholdedRelu", 10, NUMBERS, |node| {
        real(Thresholded { alpha: node.float("alpha", 1.0) })
    }),
    Entry::widening("Softplus", 1, NUMBERS, |_| real(Softplus)),
    Entry::widening("Softsign", 1, NUMBERS, |_| real(Softsign)),
    Entry::widening("Mish", 18, NUMBERS, |_| real(Mish)),
    Entry::widening("Gelu", 20, NUMBERS, gelu),
    Entry::new("Clip", 1, NUMBERS, clip),
    Entry::new("Not", 1, "BOOL", |_| operator(not)),
];

/// To the nearest whole number, and to the even one of two. burn's rounds -0.5 to 0, which has lost its sign.
fn round(inputs: &mut super::Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.float(0)?;
    Ok(match type_of(&x) {
        DType::F64 => map(x, f64::round_ties_even),
        _ => map(x, f32::round_ties_even),
    }
    .into())
}

/// -1, 0 or 1. What is not a number has no sign and stays what it is; burn's makes a 0 of it.
fn sign(x: FlexTensor) -> FlexTensor {
    match type_of(&x) {
        DType::F64 => map(x, sign_of::<f64>),
        _ => map(x, sign_of::<f32>),
    }
}

fn sign_of<F: Float>(x: F) -> F {
    // `signum` alone takes a zero for a positive or a negative number.
    if x == F::zero() { F::zero() } else { x.signum() }
}

/// An operator of floating-point tensors only.
fn float(kernel: impl Fn(FlexTensor) -> FlexTensor + Send + Sync + 'static) -> Built {
    operator(move |inputs| Ok(kernel(inputs.float(0)?).into()))
}

/// An operator that integers have too. They are narrower than `i128`, so that the result of
/// the wide function, cut to the width, is the one of the narrow function.
fn integer_too(kernel: fn(FlexTensor) -> FlexTensor, whole: fn(i128) -> i128) -> Built {
    operator(move |inputs| {
        let x = inputs.dense(0)?;
        Ok(match type_of(&x) {
            DType::F32 | DType::F64 => kernel(x),
            dtype => for_integers!(dtype, E => map(x, |x: E| {
                let wide: i128 = x.as_();
                whole(wide).as_()
            }), other => fault!("numbers are needed, not {other}")),
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
pub(super) fn of<F: Float>(constant: f32) -> F {
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
        hard_swish(x)
    }
}

/// x times a line from 0 to 1 between -3 and 3.
pub(super) fn hard_swish<F: Float>(x: F) -> F {
    x * (x / of(6.0) + of(0.5)).max(F::zero()).min(F::one())
}

struct Asinh;

impl RealFunction for Asinh {
    fn apply<F: Float>(&self, x: F) -> F {
        x.asinh()
    }
}

struct Acosh;

impl RealFunction for Acosh {
    fn apply<F: Float>(&self, x: F) -> F {
        x.acosh()
    }
}

struct Atanh;

impl RealFunction for Atanh {
    fn apply<F: Float>(&self, x: F) -> F {
        x.atanh()
    }
}

/// ln(1 + e^x), in a form that does not overflow.
pub(super) fn softplus<F: Float>(x: F) -> F {
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
        "none" => float(single::gelu),
        "tanh" => real(TanhGelu),
        other => Err(Refusal::Invalid(format!("`approximate` cannot be `{other}`"))),
    }
}

/// Bounds are attributes below opset 11 and inputs from there on; a bound of NaN does nothing.
fn clip(node: &Node<'_>) -> Built {
    let fixed = node.opset() < 11;
    let bound = |name: &str| node.has(name).then(|| node.float(name, 0.0));
    let (low, high) = (bound("min"), bound("max"));
    operator(move |inputs| {
        let x = inputs.dense(0)?;
        let dtype = type_of(&x);
        let bounds = if fixed {
            let bound = |number: f32| cast(Tensor::from_items(&[], vec![number]), dtype).map(Some);
            [low.map_or(Ok(None), bound)?, high.map_or(Ok(None), bound)?]
        } else {
            [inputs.optional(1), inputs.optional(2)]
        };
        if !dtype.is_integer() && !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            fault!("numbers are needed, not {dtype}");
        }
        for_storage!(dtype, E => {
            let [low, high] = bounds;
            // Without a bound infinity becomes the greatest number of the type, as ONNX's text has it.
            let low = scalar::<E>(low)?.unwrap_or(<E as Bounded>::min_value());
            let high = scalar::<E>(high)?.unwrap_or(<E as Bounded>::max_value());
            Ok(map(x, move |x: E| {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
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
        Tensor::Small(..) | Tensor::Text(_) => source,
    }
}
