//! Matrix products of quantised numbers.
//!
//! A product of bytes is exact in `FP64` for any inner dimension that fits into memory, and burn's kernel for
//! it is faster than a loop over integers.

use super::activation::map;
use super::arithmetic::{add, divide, multiply, subtract};
use super::cast::cast;
use super::matmul::stacked;
use super::quantise::range;
use super::{Entry, Inputs, Outputs, operator};
use crate::tensor::{Fault, Tensor, contiguous, fault, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("MatMulInteger", 10, "INT8 UINT8", |_| operator(integer_product)),
    Entry::new("QLinearMatMul", 10, "INT8 UINT8", |_| operator(linear_product)),
];

/// A matrix of bytes less its zero point, in `FP64`.
fn centred(x: Tensor, zero: Option<Tensor>, side: Side) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    if !matches!(dtype, DType::I8 | DType::U8) {
        fault!("bytes are needed, not {dtype}");
    }
    let (rank, wide) = (x.rank(), cast(x, DType::F64)?);
    let Some(zero) = zero else { return Ok(wide) };
    if zero.dtype() != dtype {
        fault!("a zero point of {} does not go with {dtype}", zero.dtype());
    }
    let zero = cast(side.placed(zero, rank)?, DType::F64)?.dense()?;
    Ok(subtract(wide.dense()?, zero)?.into())
}

/// Which matrix of a product a parameter belongs to.
#[derive(Clone, Copy)]
enum Side {
    /// A list has one element for each row.
    Left,
    /// A list has one element for each column.
    Right,
}

impl Side {
    /// A parameter so that it goes with a matrix: a list for rows becomes a column.
    fn placed(self, parameter: Tensor, rank: usize) -> Result<Tensor, Fault> {
        match (self, parameter.shape()) {
            (_, &[1]) => parameter.reshape(&[]),
            (Self::Left, &[rows]) if rank > 1 => parameter.reshape(&[rows, 1]),
            _ => Ok(parameter),
        }
    }
}

fn integer_product(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (a, b) = (inputs.take(0)?, inputs.take(1)?);
    let a = centred(a, inputs.optional(2), Side::Left)?;
    let b = centred(b, inputs.optional(3), Side::Right)?;
    // A sum that is too large wraps around.
    let wide = cast(stacked(a, b)?, DType::I64)?;
    Ok(cast(wide, DType::I32)?.into())
}

/// The product of the numbers that are meant, quantised again.
fn linear_product(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (a, b) = (inputs.take(0)?, inputs.take(3)?);
    let mut parameter = |index, side: Side, rank| side.placed(inputs.take(index)?, rank);
    let (left, right) = (a.rank(), b.rank());
    let single = |tensor: Tensor| cast(tensor, DType::F32)?.dense();
    let a_scale = single(parameter(1, Side::Left, left)?)?;
    let b_scale = single(parameter(4, Side::Right, right)?)?;
    let y_scale = single(parameter(6, Side::Left, left)?)?;
    let a_zero = parameter(2, Side::Left, left)?;
    let b_zero = parameter(5, Side::Right, right)?;
    let y_zero = parameter(7, Side::Left, left)?;
    let product = stacked(centred(a, Some(a_zero), Side::Left)?, centred(b, Some(b_zero), Side::Right)?)?;
    let shape = product.shape().to_vec();
    let dtype = y_zero.dtype();
    let Some((low, high)) = range(dtype).filter(|_| matches!(dtype, DType::I8 | DType::U8)) else {
        fault!("bytes are needed, not {dtype}")
    };
    // As ONNX Runtime does, the sum is scaled in single precision: it decides where halves are rounded to.
    let scaled = multiply(single(product)?, divide(multiply(a_scale, b_scale)?, y_scale)?)?;
    let moved = add(map(scaled, f32::round_ties_even), single(y_zero)?)?;
    if moved.layout().shape()[..] != shape[..] {
        fault!("scales and zero points do not fit a product of {shape:?}");
    }
    let moved = contiguous(&moved);
    let kept = items::<f32>(&moved).iter().map(|&x| f64::from(x).clamp(low, high)).collect();
    Ok(cast(Tensor::from_items(moved.layout().shape(), kept), dtype)?.into())
}
