//! `BatchNormalization`, at inference and in training.

use burn::backend::flex::FlexTensor;

use super::arithmetic::{add, multiply};
use super::cast::{cast, numbers};
use super::{Built, Entry, FLOATS, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("BatchNormalization", 1, FLOATS, build)];

struct Batch {
    epsilon: f64,
    momentum: f64,
    training: bool,
    /// Old files may normalise each element of a row by itself, not only each channel.
    per_channel: bool,
    /// Until opset 13 training also gives the statistics of the batch.
    gives_statistics: bool,
}

fn build(node: &Node<'_>) -> Built {
    let opset = node.opset();
    let more_outputs = (1..node.output_count()).any(|output| node.has_output(output));
    let training = match opset {
        ..7 => !node.flag("is_test", false),
        // The number of outputs says what is meant.
        7..14 => more_outputs,
        _ => node.flag("training_mode", false),
    };
    if !training && (1..node.output_count()).any(|output| node.output_used(output)) {
        return Err(Refusal::Invalid("running statistics are given in training mode only".to_owned()));
    }
    let batch = Batch {
        epsilon: node.float("epsilon", 1e-5).into(),
        momentum: node.float("momentum", 0.9).into(),
        training,
        per_channel: opset >= 9 || node.flag("spatial", true),
        gives_statistics: opset < 14,
    };
    let given: Option<Vec<Tensor>> = (1..5).map(|input| node.constant(input).cloned()).collect();
    let known = match given {
        // Nodes may share parameters, but each has factors of its own.
        Some(given) if !training && node.keep(&[], 2 * given.iter().map(Tensor::len).max().unwrap_or(0)) => {
            let given = Given::read(given).map_err(|fault| Refusal::Invalid(fault.0))?;
            Some(given.factors(&given.mean, &given.variance, batch.epsilon))
        }
        _ => None,
    };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        if let Some(factors) = &known {
            return Ok(batch.apply(x, factors)?.into());
        }
        let given = (1..5).map(|input| inputs.take(input)).collect::<Result<Vec<_>, Fault>>()?;
        let running_type = given[2].dtype();
        let given = Given::read(given)?;
        if !batch.training {
            return Ok(batch.apply(x, &given.factors(&given.mean, &given.variance, batch.epsilon))?.into());
        }
        if batch.blocks(x.shape())[1] != given.scale.len() {
            fault!(
                "{} channels are normalised, but the input has the shape {:?}",
                given.scale.len(),
                x.shape()
            );
        }
        let (mean, variance) = batch.statistics(&x)?;
        let result = batch.apply(x, &given.factors(&mean, &variance, batch.epsilon))?;
        let running = |before: &[f64], now: &[f64]| {
            let both = before.iter().zip(now);
            both.map(|(before, now)| before * batch.momentum + now * (1.0 - batch.momentum)).collect()
        };
        let vector = |numbers: Vec<f64>| cast(Tensor::from_items(&given.shape, numbers), running_type);
        let mut outputs =
            vec![result, vector(running(&given.mean, &mean))?, vector(running(&given.variance, &variance))?];
        if batch.gives_statistics {
            outputs.extend([vector(mean)?, vector(variance)?]);
        }
        Ok(Outputs::Many(outputs))
    })
}

/// Scale, bias, mean and variance of each channel as a factor and a summand; `None` where they do not go
/// together.
pub(crate) fn channel_factors(given: Vec<Tensor>, epsilon: f64) -> Option<[Vec<f64>; 2]> {
    let given = Given::read(given).ok()?;
    Some(given.factors(&given.mean, &given.variance, epsilon))
}

/// The parameters of all channels.
struct Given {
    shape: Vec<usize>,
    scale: Vec<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Given {
    fn read(given: Vec<Tensor>) -> Result<Self, Fault> {
        let shape = given.first().map(|scale| scale.shape().to_vec()).unwrap_or_default();
        if given.iter().any(|vector| vector.shape() != shape) {
            fault!("scale, bias, mean and variance differ in length");
        }
        let mut vectors = given.into_iter().map(numbers::<f64>);
        let mut next = || vectors.next().unwrap_or_else(|| Err(Fault("four vectors are needed".to_owned())));
        Ok(Self { scale: next()?, bias: next()?, mean: next()?, variance: next()?, shape })
    }

    /// y = scale * (x - mean) / sqrt(variance + epsilon) + bias, written as x * a + b.
    fn factors(&self, mean: &[f64], variance: &[f64], epsilon: f64) -> [Vec<f64>; 2] {
        let scale = self.scale.iter().zip(variance);
        let a: Vec<f64> = scale.map(|(scale, variance)| scale / (variance + epsilon).sqrt()).collect();
        let b = self.bias.iter().zip(mean).zip(&a).map(|((bias, mean), a)| bias - mean * a).collect();
        [a, b]
    }
}

impl Batch {
    /// The tensor as batch, channel, and what belongs to a channel.
    fn blocks(&self, shape: &[usize]) -> [usize; 3] {
        match shape {
            // One dimension is a batch of one channel.
            [] => [1, 1, 1],
            &[rows] => [rows, 1, 1],
            [rows, channels, rest @ ..] if self.per_channel => [*rows, *channels, rest.iter().product()],
            [rows, all @ ..] => [*rows, all.iter().product(), 1],
        }
    }

    fn apply(&self, x: Tensor, [a, b]: &[Vec<f64>; 2]) -> Result<Tensor, Fault> {
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let blocks = self.blocks(&shape);
        if blocks[1] != a.len() {
            fault!("{} channels are normalised, but the input has the shape {shape:?}", a.len());
        }
        let vector = |numbers: &[f64]| -> Result<FlexTensor, Fault> {
            cast(Tensor::from_items(&[1, blocks[1], 1], numbers.to_vec()), wide)?.dense()
        };
        let scaled = multiply(cast(x, wide)?.reshape(&blocks)?.float()?, vector(a)?)?;
        cast(Tensor::Dense(add(scaled, vector(b)?)?), dtype)?.reshape(&shape)
    }

    /// Mean and variance of each channel.
    fn statistics(&self, x: &Tensor) -> Result<(Vec<f64>, Vec<f64>), Fault> {
        let [rows, channels, pixels] = self.blocks(x.shape());
        let all = x.to_f64s()?;
        let count = (rows * pixels) as f64;
        let of_channel = |channel: usize| {
            let starts = (0..rows).map(move |row| (row * channels + channel) * pixels);
            starts.flat_map(|start| &all[start..start + pixels])
        };
        let mean: Vec<f64> = (0..channels).map(|channel| of_channel(channel).sum::<f64>() / count).collect();
        let variance = mean
            .iter()
            .enumerate()
            .map(|(channel, mean)| of_channel(channel).map(|x| (x - mean).powi(2)).sum::<f64>() / count);
        let variance = variance.collect();
        Ok((mean, variance))
    }
}
