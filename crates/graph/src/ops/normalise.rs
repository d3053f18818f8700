//! Normalisations of a tensor by its own statistics.

use burn::backend::flex::FlexTensor;
use num_traits::Float;

use super::arithmetic::{add, multiply};
use super::cast::{cast, numbers};
use super::{Built, Entry, FLOATS, Outputs, Refusal, operator, single};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_work, contiguous, fault, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("LayerNormalization", 17, FLOATS, |node| layer(node, true)),
    Entry::new("RMSNormalization", 23, FLOATS, |node| layer(node, false)),
    Entry::widening("GroupNormalization", 18, FLOATS, group),
    Entry::widening("InstanceNormalization", 1, FLOATS, instance),
    Entry::widening("MeanVarianceNormalization", 9, FLOATS, mean_variance),
    Entry::widening("LRN", 1, FLOATS, local_response),
    Entry::widening("LpNormalization", 1, FLOATS, lp),
];

/// The mean and the factor of a row.
struct Statistics {
    mean: Vec<f64>,
    factor: Vec<f64>,
}

/// Each row of `width` elements with its mean taken away, times a factor that is made of the variance.
/// Without `centred` the mean stays, and the factor is made of the mean of squares.
fn standardised<F: Item + Float>(
    x: &FlexTensor,
    width: usize,
    centred: bool,
    factor: impl Fn(f64) -> f64,
) -> (Tensor, Statistics) {
    let x = contiguous(x);
    let number = |number: f64| <F as num_traits::NumCast>::from(number).unwrap_or_else(F::nan);
    let mut result = Vec::with_capacity(x.layout().num_elements());
    let mut statistics = Statistics { mean: Vec::new(), factor: Vec::new() };
    for row in items::<F>(&x).chunks_exact(width.max(1)) {
        // Twice the width of the elements: a variance is a difference of large sums.
        let wide = |x: &F| num_traits::ToPrimitive::to_f64(x).unwrap_or(f64::NAN);
        let count = row.len() as f64;
        let mean = if centred { row.iter().map(wide).sum::<f64>() / count } else { 0.0 };
        let variance = row.iter().map(|x| (wide(x) - mean).powi(2)).sum::<f64>() / count;
        let factor = factor(variance);
        result.extend(row.iter().map(|x| number((wide(x) - mean) * factor)));
        statistics.mean.push(mean);
        statistics.factor.push(factor);
    }
    (Tensor::from_items(x.layout().shape(), result), statistics)
}

/// The same in the type of the tensor, `FP32` or `FP64`.
fn standardise(
    x: &FlexTensor,
    width: usize,
    centred: bool,
    factor: impl Fn(f64) -> f64,
) -> (Tensor, Statistics) {
    match type_of(x) {
        DType::F64 => standardised::<f64>(x, width, centred, factor),
        _ => standardised::<f32>(x, width, centred, factor),
    }
}

/// One over the deviation.
fn over_deviation(epsilon: f32) -> impl Fn(f64) -> f64 {
    move |variance| 1.0 / (variance + f64::from(epsilon)).sqrt()
}

/// The dimensions from `axis` on together: y = (x - mean) / deviation * scale + bias, or without the mean.
///
/// The first of two stages is computed in the type that `stash_type` names, which is also that of mean and
/// deviation; scale and bias are applied in the type of the tensor.
fn layer(node: &Node<'_>, centred: bool) -> Built {
    let axis = node.int("axis", -1);
    let epsilon = node.float("epsilon", 1e-5);
    let stash = i32::try_from(node.int("stash_type", 1)).ok().and_then(DType::from_onnx);
    let Some(stash @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16)) = stash else {
        return Err(Refusal::Invalid("`stash_type` is not a floating-point type".to_owned()));
    };
    let statistics_used = (1..node.output_count()).any(|output| node.output_used(output));
    operator(move |inputs| {
        let (x, scale, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let axis = resolve_axis(axis, shape.len())?;
        let width: usize = shape[axis..].iter().product();
        // The result of a normalisation without mean has the type of the scale.
        let result_type = if centred { dtype } else { scale.dtype() };
        let mut x = cast(x, wide)?.float()?;
        // In one pass where nothing is rounded in between and nobody asks for the statistics.
        if dtype == DType::F32 && result_type == DType::F32 && !statistics_used {
            let (scale, bias) = (scale.clone().dense()?, bias.clone().map(Tensor::dense).transpose()?);
            match single::normalise(x, &shape[axis..], (centred, epsilon), Some(&scale), bias.as_ref()) {
                Ok(normalised) => return Ok(normalised.into()),
                Err(given) => x = given,
            }
        }
        let (normalised, statistics) = standardise(&x, width, centred, over_deviation(epsilon));
        let rounded = |x: FlexTensor, dtype: DType| cast(cast(Tensor::Dense(x), dtype)?, wide)?.float();
        let normalised = rounded(normalised.float()?, dtype)?;
        let mut result = multiply(normalised, cast(scale, wide)?.float()?)?;
        if let Some(bias) = bias {
            result = add(rounded(result, dtype)?, cast(bias, wide)?.float()?)?;
        }
        if result.layout().shape()[..] != shape[..] {
            fault!("scale or bias do not fit a tensor of {shape:?}");
        }
        let result = cast(Tensor::Dense(result), result_type)?;
        if !statistics_used {
            return Ok(result.into());
        }
        let mut per_row = shape[..axis].to_vec();
        per_row.resize(shape.len(), 1);
        if statistics.mean.len() != per_row.iter().product::<usize>() {
            fault!("rows without elements have no mean");
        }
        let column = |numbers: Vec<f64>| cast(Tensor::from_items(&per_row, numbers), stash);
        Ok(Outputs::Many(vec![result, column(statistics.mean)?, column(statistics.factor)?]))
    })
}

/// Groups of channels. Scale and bias are per group at first, and per channel from opset 21 on.
fn group(node: &Node<'_>) -> Built {
    let per_channel = node.opset() >= 21;
    let epsilon = node.float("epsilon", 1e-5);
    let groups = match usize::try_from(node.int("num_groups", 0)) {
        Ok(groups) if groups > 0 => groups,
        _ => return Err(Refusal::Invalid("`num_groups` must be positive".to_owned())),
    };
    operator(move |inputs| {
        let (x, scale, bias) = (inputs.float(0)?, inputs.float(1)?, inputs.float(2)?);
        channels(&x, Some(groups), per_channel, [scale, bias], epsilon)
    })
}

/// Each channel of each row of the batch.
fn instance(node: &Node<'_>) -> Built {
    let epsilon = node.float("epsilon", 1e-5);
    operator(move |inputs| {
        let (x, scale, bias) = (inputs.float(0)?, inputs.float(1)?, inputs.float(2)?);
        channels(&x, None, true, [scale, bias], epsilon)
    })
}

/// Normalises `groups` groups of channels, or each channel.
fn channels(
    x: &FlexTensor,
    groups: Option<usize>,
    per_channel: bool,
    factors: [FlexTensor; 2],
    epsilon: f32,
) -> Result<Outputs, Fault> {
    let shape = x.layout().shape().to_vec();
    let Some(&count) = shape.get(1) else { fault!("{shape:?} has no channels") };
    let groups = groups.unwrap_or(count);
    if groups == 0 || !count.is_multiple_of(groups) {
        fault!("{count} channels cannot be divided into {groups} groups");
    }
    let pixels: usize = shape[2..].iter().product();
    let (normalised, _) = standardise(x, count / groups * pixels, true, over_deviation(epsilon));
    // Dimensions of batch, group, channel of the group, and pixel.
    let blocks = [shape[0], groups, count / groups, pixels];
    let factor_shape = if per_channel { [1, groups, count / groups, 1] } else { [1, groups, 1, 1] };
    let [scale, bias] = factors.map(|factor| Tensor::Dense(factor).reshape(&factor_shape));
    let scaled = multiply(normalised.reshape(&blocks)?.float()?, scale?.float()?)?;
    Ok(Tensor::Dense(add(scaled, bias?.float()?)?).reshape(&shape)?.into())
}

/// Applies a function of rows to what lies along some dimensions.
fn along(
    x: &FlexTensor,
    axes: &[usize],
    function: impl FnOnce(&FlexTensor, usize) -> Tensor,
) -> Result<FlexTensor, Fault> {
    let rank = x.layout().num_dims();
    let mut order: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
    order.extend((0..rank).filter(|axis| axes.contains(axis)));
    let width = axes.iter().map(|&axis| x.layout().shape()[axis]).product();
    let result = function(&contiguous(&x.permute(&order)), width).dense()?;
    let mut back = vec![0; rank];
    for (position, &axis) in order.iter().enumerate() {
        back[axis] = position;
    }
    Ok(result.permute(&back))
}

/// (x - mean) / deviation over some dimensions. The small number is that of ONNX's own definition.
fn mean_variance(node: &Node<'_>) -> Built {
    let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let rank = x.layout().num_dims();
        let mut axes: Vec<usize> =
            axes.iter().map(|&axis| resolve_axis(axis, rank)).collect::<Result<_, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        let over = |variance: f64| 1.0 / (variance.sqrt() + 1e-9);
        Ok(along(&x, &axes, |rows, width| standardise(rows, width, true, over).0)?.into())
    })
}

/// x / (bias + alpha / size * sum of squares of the channels around) ^ beta.
struct LocalResponse {
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
}

fn local_response(node: &Node<'_>) -> Built {
    let size = match usize::try_from(node.int("size", 0)) {
        Ok(size) if size > 0 => size,
        _ => return Err(Refusal::Invalid("`size` must be positive".to_owned())),
    };
    let (alpha, beta) = (node.float("alpha", 1e-4), node.float("beta", 0.75));
    let response = LocalResponse { size, alpha, beta, bias: node.float("bias", 1.0) };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        match x.dtype() {
            DType::F64 => response.apply::<f64>(x),
            _ => response.apply::<f32>(x),
        }
        .map(Into::into)
    })
}

impl LocalResponse {
    fn apply<F: Item + Float>(&self, x: Tensor) -> Result<Tensor, Fault> {
        let shape = x.shape().to_vec();
        let [_, channels, pixels @ ..] = &shape[..] else { fault!("{shape:?} has no channels") };
        let pixels: usize = pixels.iter().product();
        check_work(&[x.len(), self.size.min(*channels)])?;
        let number = |x: f64| <F as num_traits::NumCast>::from(x).unwrap_or_else(F::nan);
        let factor = number(f64::from(self.alpha) / self.size as f64);
        let (bias, beta) = (number(f64::from(self.bias)), number(f64::from(self.beta)));
        let all = numbers::<F>(x)?;
        let mut result = Vec::with_capacity(all.len());
        for image in all.chunks_exact((channels * pixels).max(1)) {
            for channel in 0..*channels {
                let first = channel.saturating_sub((self.size - 1) / 2);
                let last = channel.saturating_add(self.size / 2).min(channels - 1);
                for pixel in 0..pixels {
                    let sum = (first..=last).fold(F::zero(), |sum, channel| {
                        let x = image[channel * pixels + pixel];
                        sum + x * x
                    });
                    result.push(image[channel * pixels + pixel] / (bias + factor * sum).powf(beta));
                }
            }
        }
        Ok(Tensor::from_items(&shape, result))
    }
}

fn lp(node: &Node<'_>) -> Built {
    let axis = node.int("axis", -1);
    let norm = match node.int("p", 2) {
        1 => Norm::L1,
        2 => Norm::L2,
        p => return Err(Refusal::Invalid(format!("`p` must be 1 or 2, not {p}"))),
    };
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let axis = resolve_axis(axis, x.layout().num_dims())?;
        Ok(along(&x, &[axis], |rows, width| match type_of(rows) {
            DType::F64 => rows_over_norm::<f64>(rows, width, norm),
            _ => rows_over_norm::<f32>(rows, width, norm),
        })?
        .into())
    })
}

/// What each row is divided by.
#[derive(Clone, Copy)]
pub(super) enum Norm {
    /// The largest element.
    Max,
    /// The sum of absolute values.
    L1,
    /// The root of the sum of squares.
    L2,
}

/// Each row of `width` elements divided by its norm; a row whose norm is 0 stays as it is.
pub(super) fn rows_over_norm<F: Item + Float>(x: &FlexTensor, width: usize, norm: Norm) -> Tensor {
    let x = contiguous(x);
    let mut result = Vec::with_capacity(x.layout().num_elements());
    for row in items::<F>(&x).chunks_exact(width.max(1)) {
        let size = match norm {
            Norm::Max => row.iter().fold(F::neg_infinity(), |best, &x| best.max(x)),
            Norm::L1 => row.iter().fold(F::zero(), |sum, &x| sum + x.abs()),
            Norm::L2 => row.iter().fold(F::zero(), |sum, &x| sum + x * x).sqrt(),
        };
        result.extend(row.iter().map(|&x| if size == F::zero() { x } else { x / size }));
    }
    Tensor::from_items(x.layout().shape(), result)
}
