//! Half precision computed in single precision.
//!
//! burn's kernels have most operators in `FP32` and `FP64` only, and a sum of many halves needs the wider
//! type anyway. The result is rounded once, to the type that was given.

use half::{bf16, f16};
use num_traits::{AsPrimitive, Float};

use super::cast::cast;
use super::{Activation, Convolution, Inputs, Operator, Outputs};
use crate::held::Held;
use crate::tensor::{Fault, Item, Tensor};
use crate::value::DType;

/// An operator that is given `FP32` instead of `FP16` and `BF16`.
pub(super) struct Widened {
    operator: Box<dyn Operator>,
    /// Constants that were widened at load, and the types that they had.
    before: Vec<(usize, DType)>,
}

impl Widened {
    /// Gives the operator wider inputs.
    pub(super) fn new(operator: Box<dyn Operator>) -> Self {
        Self { operator, before: Vec::new() }
    }
}

impl Operator for Widened {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let mut first = None;
        for (index, held) in inputs.all_mut().iter_mut().enumerate() {
            if let Some(Held::Tensor(tensor)) = held {
                let before = self.before.iter().find(|(input, _)| *input == index);
                let dtype = before.map_or_else(|| tensor.dtype(), |(_, dtype)| *dtype);
                // The type of the first floating-point input is that of the result.
                let narrow = matches!(dtype, DType::F16 | DType::BF16);
                if narrow || matches!(dtype, DType::F32 | DType::F64) {
                    first.get_or_insert(dtype);
                }
                if narrow {
                    *tensor = cast(tensor.clone(), DType::F32)?;
                }
            }
        }
        let outputs = self.operator.run(inputs)?;
        let Some(narrow @ (DType::F16 | DType::BF16)) = first else { return Ok(outputs) };
        let back =
            |tensor: Tensor| if tensor.dtype() == DType::F32 { cast(tensor, narrow) } else { Ok(tensor) };
        Ok(match outputs {
            Outputs::One(tensor) => Outputs::One(back(tensor)?),
            Outputs::Many(tensors) => Outputs::Many(tensors.into_iter().map(back).collect::<Result<_, _>>()?),
            Outputs::Held(held) => {
                let back = |held| match held {
                    Held::Tensor(tensor) => back(tensor).map(Held::Tensor),
                    other => Ok(other),
                };
                Outputs::Held(held.into_iter().map(back).collect::<Result<_, _>>()?)
            }
        })
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.operator.follow(activation)
    }

    fn lay_out(&mut self, input: usize, constant: &Tensor, spare: &mut usize) -> bool {
        self.operator.lay_out(input, constant, spare)
    }

    fn widened(&mut self, input: usize, from: DType) {
        self.before.push((input, from));
    }

    fn convolution(&self) -> Option<&Convolution> {
        self.operator.convolution()
    }
}

/// A type that is computed in. Operators that ONNX defines as a chain of others round each result to the type
/// of their tensors, which is narrower than this one for half precision.
pub(super) trait Wide: Item + Float + AsPrimitive<f32> + AsPrimitive<f64> {
    /// The number rounded to `f16`, and back.
    fn through_f16(self) -> Self;
    /// The number rounded to `bf16`, and back.
    fn through_bf16(self) -> Self;
}

impl Wide for f32 {
    fn through_f16(self) -> Self {
        f16::from_f32(self).to_f32()
    }

    fn through_bf16(self) -> Self {
        bf16::from_f32(self).to_f32()
    }
}

impl Wide for f64 {
    fn through_f16(self) -> Self {
        f16::from_f64(self).to_f64()
    }

    fn through_bf16(self) -> Self {
        bf16::from_f64(self).to_f64()
    }
}

/// Rounds a number to a type, and back.
pub(super) type Narrow<F> = fn(F) -> F;

/// What rounds to `dtype` where that is narrower than all types that are computed in.
pub(super) fn narrow<F: Wide>(dtype: DType) -> Option<Narrow<F>> {
    match dtype {
        DType::F16 => Some(F::through_f16),
        DType::BF16 => Some(F::through_bf16),
        _ => None,
    }
}
