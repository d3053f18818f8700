//! Functions of one number, with derivatives that burn knows.
//!
//! Where a function has two branches, both are computed on numbers at which they are finite: a gradient is
//! zero times the derivative of the branch that is not taken, which must not be infinite.

use burn::backend::Backend;

use super::real::Real;
use crate::load::Node;
use crate::ops::Refusal;
use crate::tensor::Fault;

/// A function of one number. Numbers are those of the node's attributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unary {
    Abs,
    Acos,
    Acosh,
    Affine { alpha: f64, beta: f64 },
    Asin,
    Asinh,
    Atan,
    Atanh,
    Celu { alpha: f64 },
    Cos,
    Cosh,
    Elu { alpha: f64, gamma: f64 },
    Erf,
    Exp,
    Gelu,
    GeluTanh,
    HardSigmoid { alpha: f64, beta: f64 },
    HardSwish,
    LeakyRelu { alpha: f64 },
    Log,
    Mish,
    Neg,
    Reciprocal,
    Relu,
    ScaledTanh { alpha: f64, beta: f64 },
    Shrink { bias: f64, threshold: f64 },
    Sigmoid,
    Sin,
    Sinh,
    Softplus,
    Softsign,
    Sqrt,
    Swish { alpha: f64 },
    Tan,
    Tanh,
    ThresholdedRelu { alpha: f64 },
}

impl Unary {
    /// The function of a node, or `None` where its operator is none.
    pub(super) fn read(name: &str, node: &Node<'_>) -> Result<Option<Self>, Refusal> {
        let number = |name: &str, default: f32| f64::from(node.float(name, default));
        Ok(Some(match name {
            "Abs" => Self::Abs,
            "Acos" => Self::Acos,
            "Acosh" => Self::Acosh,
            "Asin" => Self::Asin,
            "Asinh" => Self::Asinh,
            "Atan" => Self::Atan,
            "Atanh" => Self::Atanh,
            "Celu" => Self::Celu { alpha: number("alpha", 1.0) },
            "Cos" => Self::Cos,
            "Cosh" => Self::Cosh,
            "Elu" => Self::Elu { alpha: number("alpha", 1.0), gamma: 1.0 },
            "Erf" => Self::Erf,
            "Exp" => Self::Exp,
            "Gelu" if node.string("approximate", "none")? == "tanh" => Self::GeluTanh,
            "Gelu" => Self::Gelu,
            "HardSigmoid" => Self::HardSigmoid { alpha: number("alpha", 0.2), beta: number("beta", 0.5) },
            "HardSwish" => Self::HardSwish,
            "LeakyRelu" => Self::LeakyRelu { alpha: number("alpha", 0.01) },
            "Log" => Self::Log,
            "Mish" => Self::Mish,
            "Neg" => Self::Neg,
            "Reciprocal" => Self::Reciprocal,
            "Relu" => Self::Relu,
            "Selu" => Self::Elu { alpha: number("alpha", 1.673_263_2), gamma: number("gamma", 1.050_701) },
            "Shrink" => Self::Shrink { bias: number("bias", 0.0), threshold: number("lambd", 0.5) },
            "Sigmoid" => Self::Sigmoid,
            "Sin" => Self::Sin,
            "Sinh" => Self::Sinh,
            "Softplus" => Self::Softplus,
            "Softsign" => Self::Softsign,
            "Sqrt" => Self::Sqrt,
            "Swish" => Self::Swish { alpha: number("alpha", 1.0) },
            "Tan" => Self::Tan,
            "Tanh" => Self::Tanh,
            "ThresholdedRelu" => Self::ThresholdedRelu { alpha: number("alpha", 1.0) },
            _ => return Ok(None),
        }))
    }

    /// The function of each element.
    pub(super) fn apply<B: Backend>(self, x: Real<B>) -> Result<Real<B>, Fault> {
        Ok(match self {
            Self::Abs => x.map(B::float_abs),
            Self::Acos => x.map(B::float_acos),
            Self::Acosh => x.map(B::float_acosh),
            Self::Affine { alpha, beta } => x.times(alpha).plus(beta),
            Self::Asin => x.map(B::float_asin),
            Self::Asinh => x.map(B::float_asinh),
            Self::Atan => x.map(B::float_atan),
            Self::Atanh => x.map(B::float_atanh),
            Self::Celu { alpha } => exponential_below(x, |x| x.times(1.0 / alpha), alpha)?,
            Self::Cos => x.map(B::float_cos),
            Self::Cosh => x.map(B::float_cosh),
            Self::Elu { alpha, gamma } => exponential_below(x, |x| x, alpha)?.times(gamma),
            Self::Erf => x.map(B::float_erf),
            Self::Exp => x.map(B::float_exp),
            Self::Gelu => {
                let share = x.clone().times(std::f64::consts::FRAC_1_SQRT_2).map(B::float_erf);
                x.times(0.5).multiply(share.plus(1.0))?
            }
            Self::GeluTanh => {
                // The numbers of the operator on the host: those of FP32 in all types.
                let cube = x.clone().squared().multiply(x.clone())?;
                let inner = x.clone().add(cube.times(f64::from(0.044_715f32)))?;
                let share = inner.times(f64::from(0.797_884_6f32)).map(B::float_tanh);
                x.times(0.5).multiply(share.plus(1.0))?
            }
            Self::HardSigmoid { alpha, beta } => x.times(alpha).plus(beta).clamp(0.0, 1.0),
            Self::HardSwish => {
                let gate = x.clone().times(1.0 / 6.0).plus(0.5).clamp(0.0, 1.0);
                x.multiply(gate)?
            }
            Self::LeakyRelu { alpha } => {
                let negative = x.less(0.0);
                x.clone().choose(negative, x.times(alpha))?
            }
            Self::Log => x.map(B::float_log),
            Self::Mish => {
                let gate = x.clone().softplus().map(B::float_tanh);
                x.multiply(gate)?
            }
            Self::Neg => x.negated(),
            Self::Reciprocal => x.map(B::float_recip),
            Self::Relu => x.map(B::relu),
            Self::ScaledTanh { alpha, beta } => x.times(beta).map(B::float_tanh).times(alpha),
            Self::Shrink { bias, threshold } => {
                let (below, above) = (x.less(-threshold), x.greater(threshold));
                let zeros = x.full(x.shape(), 0.0)?;
                zeros.choose(below, x.clone().plus(bias))?.choose(above, x.plus(-bias))?
            }
            Self::Sigmoid => x.sigmoid(),
            Self::Sin => x.map(B::float_sin),
            Self::Sinh => x.map(B::float_sinh),
            Self::Softplus => x.softplus(),
            Self::Softsign => {
                let size = x.clone().map(B::float_abs).plus(1.0);
                x.divide(size)?
            }
            Self::Sqrt => x.map(B::float_sqrt),
            Self::Swish { alpha } => {
                let gate = x.clone().times(alpha).sigmoid();
                x.multiply(gate)?
            }
            Self::Tan => x.map(B::float_tan),
            Self::Tanh => x.map(B::float_tanh),
            Self::ThresholdedRelu { alpha } => {
                let above = x.greater(alpha);
                x.full(x.shape(), 0.0)?.choose(above, x)?
            }
        })
    }
}

/// x above zero, else alpha * (e^inner(x) - 1).
fn exponential_below<B: Backend>(
    x: Real<B>,
    inner: impl FnOnce(Real<B>) -> Real<B>,
    alpha: f64,
) -> Result<Real<B>, Fault> {
    let above = x.greater(0.0);
    let below = inner(x.clone().fill(above.clone(), 0.0)).map(B::float_exp).plus(-1.0).times(alpha);
    below.choose(above, x)
}
