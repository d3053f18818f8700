//! Convolutions of 8-bit integers, summed in 32 bits.

use num_traits::ToPrimitive;

use super::cast::cast;
use super::convolution::{Sizes, direct, group};
use super::prepared::Prepared;
use super::window::Window;
use super::{Built, Entry, Inputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_work, contiguous, fault, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("ConvInteger", 10, "INT8 UINT8", conv_integer),
    Entry::new("QLinearConv", 10, "INT8 UINT8", quantised),
];

fn conv_integer(node: &Node<'_>) -> Built {
    let window = Window::read(node)?;
    let group = group(node)?;
    let weights = Shifted::prepared(node, 1, 3);
    operator(move |inputs| {
        let (x, x_zero) = (inputs.take(0)?, inputs.optional(2));
        let weights = weights.get(inputs)?;
        let sizes = Sizes::new(&window, group, x.shape(), &weights.shape)?;
        Ok(Tensor::from_items(&sizes.output, sums(&sizes, x, x_zero, &weights)?).into())
    })
}

/// Weights less their zero point, of which there is one for all, or one for each channel of the result.
#[derive(Clone)]
struct Shifted {
    shape: Vec<usize>,
    numbers: Vec<i32>,
}

impl Shifted {
    fn new(weights: Tensor, zero: Option<Tensor>) -> Result<Self, Fault> {
        let shape = weights.shape().to_vec();
        let numbers = shifted(weights, zero, shape.first().copied().unwrap_or(1))?;
        Ok(Self { shape, numbers })
    }

    fn prepared(node: &Node<'_>, weights: usize, zero: usize) -> Prepared<Self> {
        Prepared::new(node, [weights, zero], Self::new, |shifted| shifted.numbers.len())
    }
}

/// The sums of `(x - x_zero) * (weight - weight_zero)`.
fn sums(sizes: &Sizes, x: Tensor, x_zero: Option<Tensor>, weights: &Shifted) -> Result<Vec<i32>, Fault> {
    check_work(&sizes.work())?;
    // Padding stands for the number zero, which is what is left of the zero point.
    Ok(direct(sizes, &shifted(x, x_zero, 1)?, &weights.numbers))
}

/// 8-bit integers less their zero point, of which there is one for all, or one for each of `rows`.
fn shifted(x: Tensor, zero: Option<Tensor>, rows: usize) -> Result<Vec<i32>, Fault> {
    let dtype = x.dtype();
    if !matches!(dtype, DType::I8 | DType::U8) {
        fault!("8-bit integers are needed, not {}", x.describe());
    }
    let mut numbers = wide(x)?;
    let Some(zero) = zero else { return Ok(numbers) };
    if zero.dtype() != dtype {
        fault!("the zero point of {dtype} cannot be {}", zero.describe());
    }
    let zeros = wide(zero)?;
    if zeros.len() != 1 && zeros.len() != rows {
        fault!("{} zero points are given for {rows} channels", zeros.len());
    }
    let row = (numbers.len() / rows.max(1)).max(1);
    for (row, &zero) in numbers.chunks_mut(row).zip(zeros.iter().cycle()) {
        for number in row {
            *number -= zero;
        }
    }
    Ok(numbers)
}

fn wide(x: Tensor) -> Result<Vec<i32>, Fault> {
    Ok(items::<i32>(&contiguous(&cast(x, DType::I32)?.dense()?)).to_vec())
}

/// `y = saturate(round((sum + bias) * x_scale * weight_scale / y_scale) + y_zero)`, ties to even.
fn quantised(node: &Node<'_>) -> Built {
    let window = Window::read(node)?;
    let group = group(node)?;
    let weights = Shifted::prepared(node, 3, 5);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let weights = weights.get(inputs)?;
        let sizes = Sizes::new(&window, group, x.shape(), &weights.shape)?;
        let outputs = sizes.weights[0];
        let x_scale = scales(inputs, 1, 1)?;
        let weight_scales = scales(inputs, 4, outputs)?;
        let y_scale = scales(inputs, 6, 1)?;
        let y_zero = inputs.take(7)?;
        let dtype = y_zero.dtype();
        let (DType::I8 | DType::U8, &[y_zero]) = (dtype, y_zero.to_i64s()?.as_slice()) else {
            fault!("the zero point of the result cannot be {}", y_zero.describe());
        };
        let bias = inputs.optional(8).map(|bias| bias.to_i64s()).transpose()?;
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
            fault!("the bias must have {outputs} elements");
        }
        let sums = sums(&sizes, x, inputs.optional(2), &weights)?;
        let area = sizes.output[2..].iter().product::<usize>().max(1);
        let mut numbers: Vec<i64> = Vec::with_capacity(sums.len());
        for (index, plane) in sums.chunks(area).enumerate() {
            let output = index % outputs.max(1);
            let weight_scale = weight_scales.get(output).or(weight_scales.first()).copied().unwrap_or(1.0);
            let factor = x_scale[0] * weight_scale / y_scale[0];
            let bias = bias.as_ref().map_or(0, |bias| bias[output]);
            let (low, high) = if dtype == DType::I8 { (-128, 127) } else { (0, 255) };
            numbers.extend(plane.iter().map(|&sum| {
                let scaled = (i64::from(sum).saturating_add(bias) as f32 * factor).round_ties_even();
                // Only NaN has no integer after the clamp.
                let scaled = scaled.clamp(-1e6, 1e6).to_i64().unwrap_or(0);
                scaled.saturating_add(y_zero).clamp(low, high)
            }));
        }
        Ok(cast(Tensor::from_items(&sizes.output, numbers), dtype)?.into())
    })
}

/// Input `index` as scales: one for all, or one for each of `rows`.
fn scales(inputs: &mut Inputs<'_>, index: usize, rows: usize) -> Result<Vec<f32>, Fault> {
    let scales = inputs.take(index)?;
    if scales.dtype() != DType::F32 || (scales.len() != 1 && scales.len() != rows) {
        fault!("input {index} must be one scale, or one for each of {rows} channels");
    }
    Ok(items::<f32>(&contiguous(&scales.dense()?)).to_vec())
}
