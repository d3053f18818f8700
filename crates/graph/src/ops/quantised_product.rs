//! Matrix products of quantised numbers.
//!
//! A sum of so many products of bytes is exact in `FP32` that burn's kernel can do them block by block, which is
//! faster than a loop over integers, and than the same in `FP64`.

use super::activation::map;
use super::arithmetic::{add, divide, multiply, subtract};
use super::cast::cast;
use super::matmul::stacked;
use super::prepared::Prepared;
use super::quantise::range;
use super::slice::part;
use super::{Built, Entry, Inputs, Outputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, contiguous, fault, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("MatMulInteger", 10, "INT8 UINT8", integer_product),
    Entry::new("QLinearMatMul", 10, "INT8 UINT8", linear_product),
];

/// How many products are summed in `FP32`: each is a whole number of at most 255 * 255, and so their sum is below
/// 2^24, up to which `FP32` has all whole numbers.
const BLOCK: usize = 256;

/// A matrix of bytes less its zero point, in `FP32`.
fn centred(x: Tensor, zero: Option<Tensor>, side: Side) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    if !matches!(dtype, DType::I8 | DType::U8) {
        fault!("bytes are needed, not {dtype}");
    }
    let (rank, wide) = (x.rank(), cast(x, DType::F32)?);
    let Some(zero) = zero else { return Ok(wide) };
    if zero.dtype() != dtype {
        fault!("a zero point of {} does not go with {dtype}", zero.dtype());
    }
    let zero = cast(side.placed(zero, rank)?, DType::F32)?.dense()?;
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

/// The right matrix less its zero point.
fn right_matrix(node: &Node<'_>, matrix: usize, zero: usize) -> Prepared<Tensor> {
    Prepared::new(node, [matrix, zero], |bytes, zero| centred(bytes, zero, Side::Right), Tensor::len)
}

/// The exact product of matrices of whole numbers between -255 and 255.
fn exact(left: Tensor, right: Tensor) -> Result<Tensor, Fault> {
    let (rows, columns) = (left.rank(), right.rank());
    let inner = left.shape().last().copied().unwrap_or(0);
    let across = columns.saturating_sub(2);
    // One block, or matrices that do not fit: the product says what is wrong with them.
    if inner <= BLOCK || right.shape().get(across) != Some(&inner) {
        return cast(stacked(left, right)?, DType::I64);
    }
    let mut sums: Vec<i64> = Vec::new();
    let mut shape = Vec::new();
    for start in (0..inner).step_by(BLOCK) {
        let length = BLOCK.min(inner - start);
        let left = part(left.clone(), rows - 1, start, length)?;
        let right = part(right.clone(), across, start, length)?;
        let product = stacked(left, right)?;
        shape = product.shape().to_vec();
        let product = contiguous(&product.dense()?);
        let block = items::<f32>(&product);
        sums.resize(block.len(), 0);
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers below 2^24")]
        sums.iter_mut().zip(block).for_each(|(sum, &product)| *sum += product as i64);
    }
    Ok(Tensor::from_items(&shape, sums))
}

fn integer_product(node: &Node<'_>) -> Built {
    let right = right_matrix(node, 1, 3);
    operator(move |inputs| {
        let a = centred(inputs.take(0)?, inputs.optional(2), Side::Left)?;
        // A sum that is too large wraps around.
        Ok(cast(exact(a, right.get(inputs)?.into_owned())?, DType::I32)?.into())
    })
}

fn linear_product(node: &Node<'_>) -> Built {
    let right = right_matrix(node, 3, 5);
    operator(move |inputs| quantised(&right, inputs))
}

/// The product of the numbers that are meant, quantised again.
fn quantised(right: &Prepared<Tensor>, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (a, b) = (inputs.take(0)?, right.get(inputs)?.into_owned());
    let mut parameter = |index, side: Side, rank| side.placed(inputs.take(index)?, rank);
    let (rows, columns) = (a.rank(), b.rank());
    let single = |tensor: Tensor| cast(tensor, DType::F32)?.dense();
    let a_scale = single(parameter(1, Side::Left, rows)?)?;
    let b_scale = single(parameter(4, Side::Right, columns)?)?;
    let y_scale = single(parameter(6, Side::Left, rows)?)?;
    let a_zero = parameter(2, Side::Left, rows)?;
    let y_zero = parameter(7, Side::Left, rows)?;
    let product = exact(centred(a, Some(a_zero), Side::Left)?, b)?;
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

#[cfg(test)]
mod tests;
