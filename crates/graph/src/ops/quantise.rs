//! Numbers as small integers or small floating-point numbers, with a scale and a zero point.
//!
//! Scale and zero point are one for the whole tensor, one for each position of a dimension, or one for each
//! block of a dimension.

use burn::backend::flex::FlexTensor;
use half::{bf16, f16};

use super::cast::{cast, cast_as};
use super::matrix::type_attribute;
use super::small::Narrowing;
use super::{Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, contiguous, fault, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("QuantizeLinear", 10, "FP16 BF16 FP32 INT32", quantise),
    Entry::new("DequantizeLinear", 10, "integers, FP8, FP4", dequantise),
    Entry::new("DynamicQuantizeLinear", 11, "FP32", |_| operator(dynamic)),
];

/// The smallest and largest integer of a type that tensors are quantised to.
pub(super) fn range(dtype: DType) -> Option<(f64, f64)> {
    Some(match dtype {
        DType::U2 => (0.0, 3.0),
        DType::I2 => (-2.0, 1.0),
        DType::U4 => (0.0, 15.0),
        DType::I4 => (-8.0, 7.0),
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65_535.0),
        DType::I16 => (-32_768.0, 32_767.0),
        _ => return None,
    })
}

/// Which scale an element has.
enum Grid {
    /// All have the same.
    One,
    /// By the position in a dimension of `length`, whose elements lie `inner` apart.
    Axis { length: usize, inner: usize },
    /// The same, `block` positions at a time, of which there are `blocks`.
    Blocks { length: usize, inner: usize, block: usize, blocks: usize },
}

impl Grid {
    /// How scales of a shape go with a tensor.
    fn new(scales: &Tensor, x: &[usize], axis: i64, block: usize) -> Result<Self, Fault> {
        let shape = scales.shape();
        if scales.len() == 1 {
            return Ok(Self::One);
        }
        let unfit = || Fault(format!("scales {} do not fit the shape {x:?}", scales.describe()));
        let axis = resolve_axis(axis, x.len())?;
        let (length, inner) = (x[axis], x[axis + 1..].iter().product());
        if block == 0 {
            return if shape == [length] { Ok(Self::Axis { length, inner }) } else { Err(unfit()) };
        }
        let blocks = length.div_ceil(block);
        let mut expected = x.to_vec();
        expected[axis] = blocks;
        if shape == expected { Ok(Self::Blocks { length, inner, block, blocks }) } else { Err(unfit()) }
    }

    /// A function of each element and the place of its scale.
    fn apply<E: Copy, R>(&self, all: &[E], function: impl Fn(E, usize) -> R) -> Vec<R> {
        match *self {
            Self::One => all.iter().map(|&x| function(x, 0)).collect(),
            Self::Axis { length, inner } => {
                let mut results = Vec::with_capacity(all.len());
                for (row, run) in all.chunks(inner.max(1)).enumerate() {
                    let place = row % length;
                    results.extend(run.iter().map(|&x| function(x, place)));
                }
                results
            }
            Self::Blocks { length, inner, block, blocks } => {
                let place = |at: usize| {
                    let (outer, position) = (at / (inner * length), at / inner % length);
                    (outer * blocks + position / block) * inner + at % inner
                };
                all.iter().enumerate().map(|(at, &x)| function(x, place(at))).collect()
            }
        }
    }
}

/// What both directions read of a node.
struct Layout {
    axis: i64,
    block: usize,
    dtype: Option<DType>,
}

impl Layout {
    fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let Ok(block) = usize::try_from(node.int("block_size", 0)) else {
            return Err(Refusal::Invalid("`block_size` is negative".to_owned()));
        };
        Ok(Self { axis: node.int("axis", 1), block, dtype: type_attribute(node, "output_dtype")? })
    }

    /// The scales and zero points, which have one shape, and which element has which.
    fn parameters(
        &self,
        x: &[usize],
        scales: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Result<(Grid, Vec<f64>, Vec<f64>), Fault> {
        let grid = Grid::new(scales, x, self.axis, self.block)?;
        let Some(zeros) = zeros else { return Ok((grid, scales.to_f64s()?, vec![0.0; scales.len()])) };
        // One element may be a scalar here and a list there.
        if zeros.shape() != scales.shape() && (zeros.len() != 1 || scales.len() != 1) {
            fault!("zero points {} do not fit scales {}", zeros.describe(), scales.describe());
        }
        Ok((grid, scales.to_f64s()?, zeros.to_f64s()?))
    }
}

/// A number in the precision of a type.
#[expect(clippy::cast_possible_truncation, reason = "that is the purpose")]
fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 => x,
        // Through single precision, as all that computes halves does.
        DType::F16 => f16::from_f32(x as f32).to_f64(),
        DType::BF16 => bf16::from_f32(x as f32).to_f64(),
        _ => f64::from(x as f32),
    }
}

/// `x / scale + zero`, rounded to even and kept in range.
fn quantise(node: &Node<'_>) -> Built {
    let layout = Layout::read(node)?;
    let precision = type_attribute(node, "precision")?;
    let saturate = node.flag("saturate", true);
    operator(move |inputs| {
        let (x, scales, zeros) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let dtype = match (zeros.as_ref().map(Tensor::dtype), layout.dtype) {
            (Some(given), Some(wanted)) if given != wanted => {
                fault!("zero points of {given} do not make {wanted}")
            }
            (given, wanted) => given.or(wanted).unwrap_or(DType::U8),
        };
        // A power of two, and an integer, say nothing of the precision.
        let precision = match precision.unwrap_or(scales.dtype()) {
            dtype @ (DType::F16 | DType::BF16 | DType::F64) => dtype,
            _ => DType::F32,
        };
        let (grid, scales, zeros) = layout.parameters(x.shape(), &scales, zeros.as_ref())?;
        if let (DType::F32, DType::F32, DType::U8 | DType::I8) = (x.dtype(), precision, dtype) {
            return Ok(quantised_bytes(&x.dense()?, &grid, &single(&scales), &single(&zeros), dtype).into());
        }
        let quotient =
            |x, place: usize| rounded(precision, rounded(precision, x) / rounded(precision, scales[place]));
        let (all, shape) = (x.to_f64s()?, x.shape());
        Ok(if let Some((low, high)) = range(dtype) {
            let whole = |x, at: usize| (quotient(x, at).round_ties_even() + zeros[at]).clamp(low, high);
            cast(Tensor::from_items(shape, grid.apply(&all, whole)), dtype)?
        } else if dtype.is_small() && dtype != DType::F8E8M0 {
            let how = Narrowing { saturate, ..Narrowing::default() };
            let moved = grid.apply(&all, |x, at| quotient(x, at) + zeros[at]);
            cast_as(Tensor::from_items(shape, moved), dtype, how)?
        } else {
            fault!("nothing is quantised to {dtype}")
        }
        .into())
    })
}

/// `(x - zero) * scale`.
fn dequantise(node: &Node<'_>) -> Built {
    let layout = Layout::read(node)?;
    operator(move |inputs| {
        let (x, scales, zeros) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        if let Some(zeros) = zeros.as_ref().filter(|zeros| zeros.dtype() != x.dtype()) {
            fault!("zero points of {} do not go with {}", zeros.dtype(), x.dtype());
        }
        let dtype = layout.dtype.unwrap_or(scales.dtype());
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            fault!("the result must be of a floating-point type, not {dtype}");
        }
        let quantised = range(x.dtype()).is_some() || x.dtype() == DType::I32 || x.dtype().is_small();
        if !quantised {
            fault!("{} is no type of quantised numbers", x.dtype());
        }
        let (grid, scales, zeros) = layout.parameters(x.shape(), &scales, zeros.as_ref())?;
        // The product in the width of the result, and never in less than single precision.
        let width = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let shape = x.shape().to_vec();
        if let (DType::F32, DType::U8 | DType::I8) = (width, x.dtype()) {
            let (scales, zeros, bytes) = (single(&scales), single(&zeros), contiguous(&x.dense()?));
            let meant = |x: f32, place: usize| (x - zeros[place]) * scales[place];
            let products = match type_of(&bytes) {
                DType::I8 => grid.apply(items::<i8>(&bytes), |x, place| meant(x.into(), place)),
                _ => grid.apply(items::<u8>(&bytes), |x, place| meant(x.into(), place)),
            };
            return Ok(cast(Tensor::from_items(&shape, products), dtype)?.into());
        }
        let meant = |x: f64, at: usize| rounded(width, rounded(width, x - zeros[at]) * scales[at]);
        Ok(cast(Tensor::from_items(&shape, grid.apply(&x.to_f64s()?, meant)), dtype)?.into())
    })
}

/// Numbers that were single precision before.
#[expect(clippy::cast_possible_truncation, reason = "they come back as they were")]
fn single(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

/// The most frequent case: bytes of single precision, in one pass.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kept in range before")]
fn quantised_bytes(x: &FlexTensor, grid: &Grid, scales: &[f32], zeros: &[f32], dtype: DType) -> Tensor {
    let x = contiguous(x);
    let (all, shape) = (items::<f32>(&x), x.layout().shape());
    let moved = |x: f32, at: usize| (x / scales[at]).round_ties_even() + zeros[at];
    if dtype == DType::I8 {
        Tensor::from_items(shape, grid.apply(all, |x, at| moved(x, at).clamp(-128.0, 127.0) as i8))
    } else {
        Tensor::from_items(shape, grid.apply(all, |x, at| moved(x, at).clamp(0.0, 255.0) as u8))
    }
}

/// Bytes with a scale and a zero point for the range of the elements, which always includes zero.
fn dynamic(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let x = contiguous(&inputs.float(0)?);
    let x = cast(x.into(), DType::F32)?.dense()?;
    let all = items::<f32>(&x);
    let high = all.iter().fold(0f32, |high, &x| high.max(x));
    let low = all.iter().fold(0f32, |low, &x| low.min(x));
    // Where all is zero any scale is right.
    let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let bytes = all.iter().map(|x| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0)).collect();
    let byte = |shape: &[usize], items: Vec<f32>| cast(Tensor::from_items(shape, items), DType::U8);
    Ok(Outputs::Many(vec![
        byte(x.layout().shape(), bytes)?,
        Tensor::from_items(&[], vec![scale]),
        byte(&[], vec![zero])?,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_finds_its_scale() {
        let scales = |shape: &[usize]| Tensor::from_items(shape, vec![1f32; shape.iter().product()]);
        let places = |grid: Grid, count: usize| grid.apply(&vec![(); count], |(), place| place);
        let grid = Grid::new(&scales(&[3]), &[2, 3], 1, 0).unwrap();
        assert_eq!(places(grid, 6), [0, 1, 2, 0, 1, 2]);
        let grid = Grid::new(&scales(&[2, 2]), &[2, 3], -1, 2).unwrap();
        assert_eq!(places(grid, 6), [0, 0, 1, 2, 2, 3]);
        let grid = Grid::new(&scales(&[2, 2]), &[3, 2], 0, 2).unwrap();
        assert_eq!(places(grid, 6), [0, 1, 0, 1, 2, 3]);
        assert!(Grid::new(&scales(&[4]), &[2, 3], 1, 0).is_err());
    }
}
