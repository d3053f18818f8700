//! Changes of element type.

use super::{Builder, Built, Refusal, operator};
use crate::load::{Node, element_type, element_type_name};
use crate::tensor::{Fault, Tensor, contiguous, for_storage, items};
use crate::value::DType;

pub(super) fn find(operator: &str) -> Option<Builder> {
    Some(match operator {
        "Cast" => build,
        "CastLike" => |_| {
            super::operator(|inputs| {
                let dtype = inputs.take(1)?.dtype();
                Ok(cast(inputs.take(0)?, dtype)?.into())
            })
        },
        _ => return None,
    })
}

fn build(node: &Node<'_>) -> Built {
    let number = i32::try_from(node.int("to", 0)).unwrap_or(0);
    let Some(dtype) = element_type(number) else {
        let name = element_type_name(number);
        return Err(Refusal::Unsupported(format!("a cast to element type {name} is not supported")));
    };
    operator(move |inputs| Ok(cast(inputs.take(0)?, dtype)?.into()))
}

/// The elements as another type. Floating-point numbers are cut towards zero and kept in range;
/// integers are cut to the width; truth is any number but zero.
pub(super) fn cast(tensor: Tensor, dtype: DType) -> Result<Tensor, Fault> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor);
    }
    let shape = tensor.shape().to_vec();
    if let Tensor::Text(text) = &tensor {
        let numbers: Result<Vec<f64>, Fault> = text.items().iter().map(|item| parse(item)).collect();
        return cast(Tensor::from_items(&shape, numbers?), dtype);
    }
    let dense = contiguous(&tensor.dense()?);
    for_storage!(from, S => {
        let source = items::<S>(&dense);
        Ok(match dtype {
            DType::Bool => {
                Tensor::from_bools(&shape, source.iter().map(|&x| u8::from(!x.is_nothing())).collect())
            }
            DType::U8 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_u8()).collect()),
            DType::I8 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_i8()).collect()),
            DType::I32 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_i32()).collect()),
            DType::I64 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_i64()).collect()),
            DType::F32 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_f32()).collect()),
            DType::F64 => Tensor::from_items(&shape, source.iter().map(|&x| x.narrow_f64()).collect()),
            DType::String => Tensor::from_text(&shape, source.iter().map(ToString::to_string).collect()),
        })
    }, text => Ok(Tensor::from_text(&shape, Vec::new())))
}

fn parse(item: &str) -> Result<f64, Fault> {
    item.trim().parse().map_err(|_| Fault(format!("`{item}` is not a number")))
}

/// Rust's `as` from any storage type: what ONNX asks for.
pub(super) trait Narrow: Copy {
    fn is_nothing(self) -> bool;
    fn narrow_u8(self) -> u8;
    fn narrow_i8(self) -> i8;
    fn narrow_i32(self) -> i32;
    fn narrow_i64(self) -> i64;
    fn narrow_f32(self) -> f32;
    fn narrow_f64(self) -> f64;
}

macro_rules! narrow {
    ($($number:ty),*) => {$(
        #[allow(
            clippy::cast_lossless,
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::float_cmp,
            clippy::unnecessary_cast,
            trivial_numeric_casts,
            reason = "the operator is this conversion; which lint holds depends on the type"
        )]
        impl Narrow for $number {
            fn is_nothing(self) -> bool {
                self == <$number>::default()
            }
            fn narrow_u8(self) -> u8 {
                self as u8
            }
            fn narrow_i8(self) -> i8 {
                self as i8
            }
            fn narrow_i32(self) -> i32 {
                self as i32
            }
            fn narrow_i64(self) -> i64 {
                self as i64
            }
            fn narrow_f32(self) -> f32 {
                self as f32
            }
            fn narrow_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}

narrow!(f32, f64, i64, i32, i8, u8);
