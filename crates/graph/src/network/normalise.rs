//! Normalisations of a tensor by statistics: its own, or those that were gathered in training.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, one};
use super::real::Real;
use super::reduce::root;
use crate::load::Node;
use crate::ops::Refusal;
use crate::tensor::{Fault, fault, resolve_axis};

/// By which statistics, and of what.
pub(crate) enum Normalise {
    Batch(Batch),
    /// The dimensions from `axis` on together; without `centred` the mean stays.
    Layer {
        axis: i64,
        epsilon: f64,
        centred: bool,
    },
    /// Groups of channels, or each channel. Scale and bias are per channel, or per group in old files.
    Channels {
        groups: Option<usize>,
        per_channel: bool,
        epsilon: f64,
    },
    /// Some dimensions together, without scale and bias.
    MeanVariance {
        axes: Vec<i64>,
    },
    /// Each row divided by its norm, of order 1 or 2.
    Norm {
        axis: i64,
        square: bool,
    },
    /// Each element divided by what the channels around it have.
    LocalResponse {
        size: usize,
        alpha: f64,
        beta: f64,
        bias: f64,
    },
}

/// `BatchNormalization`.
pub(crate) struct Batch {
    epsilon: f64,
    momentum: f64,
    training: bool,
    per_channel: bool,
    gives_statistics: bool,
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("BatchNormalization", |node, _| Ok(batch(node))),
    Entry::new("LayerNormalization", |node, _| Ok(layer(node, true))),
    Entry::new("RMSNormalization", |node, _| Ok(layer(node, false))),
    Entry::new("InstanceNormalization", |node, _| {
        Ok(Form::Normalise(Normalise::Channels { groups: None, per_channel: true, epsilon: epsilon(node) }))
    }),
    Entry::new("GroupNormalization", |node, _| {
        let groups = usize::try_from(node.int("num_groups", 0)).ok().filter(|&groups| groups > 0);
        let groups = groups.ok_or_else(|| Refusal::Invalid("`num_groups` must be positive".to_owned()))?;
        Ok(Form::Normalise(Normalise::Channels {
            groups: Some(groups),
            per_channel: node.opset() >= 21,
            epsilon: epsilon(node),
        }))
    }),
    Entry::new("MeanVarianceNormalization", |node, _| {
        let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
        Ok(Form::Normalise(Normalise::MeanVariance { axes }))
    }),
    Entry::new("LpNormalization", |node, _| {
        Ok(Form::Normalise(Normalise::Norm { axis: node.int("axis", -1), square: node.int("p", 2) == 2 }))
    }),
    Entry::new("LRN", |node, _| {
        let size = usize::try_from(node.int("size", 0)).ok().filter(|&size| size > 0);
        let size = size.ok_or_else(|| Refusal::Invalid("`size` must be positive".to_owned()))?;
        Ok(Form::Normalise(Normalise::LocalResponse {
            size,
            alpha: node.float("alpha", 1e-4).into(),
            beta: node.float("beta", 0.75).into(),
            bias: node.float("bias", 1.0).into(),
        }))
    }),
];

fn epsilon(node: &Node<'_>) -> f64 {
    node.float("epsilon", 1e-5).into()
}

fn layer(node: &Node<'_>, centred: bool) -> Form {
    Form::Normalise(Normalise::Layer { axis: node.int("axis", -1), epsilon: epsilon(node), centred })
}

/// What training means has changed: see the operator of the host.
fn batch(node: &Node<'_>) -> Form {
    let more_outputs = (1..node.output_count()).any(|output| node.has_output(output));
    let training = match node.opset() {
        ..7 => !node.flag("is_test", false),
        7..14 => more_outputs,
        _ => node.flag("training_mode", false),
    };
    Form::Normalise(Normalise::Batch(Batch {
        epsilon: epsilon(node),
        momentum: node.float("momentum", 0.9).into(),
        training,
        per_channel: node.opset() >= 9 || node.flag("spatial", true),
        gives_statistics: node.opset() < 14,
    }))
}

impl Normalise {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        let x = arguments.real(0)?;
        Ok(match self {
            Self::Batch(batch) => batch.run(x, arguments)?,
            Self::Layer { axis, epsilon, centred } => {
                let axis = resolve_axis(*axis, x.rank())?;
                let together: Vec<usize> = (axis..x.rank()).collect();
                let (scale, bias) = (arguments.real(1)?, arguments.optional(2)?);
                let shape = x.shape().to_vec();
                let Standardised { mean, factor, normalised } =
                    standardised(x, &together, *epsilon, *centred)?;
                let mut result = normalised.multiply(scale)?;
                if let Some(bias) = bias {
                    result = result.add(bias)?;
                }
                if result.shape() != shape {
                    fault!("scale or bias do not fit a tensor of {shape:?}");
                }
                vec![result.into(), mean.into(), factor.into()]
            }
            Self::Channels { groups, per_channel, epsilon } => {
                let factors = [arguments.real(1)?, arguments.real(2)?];
                one(channels(x, *groups, *per_channel, factors, *epsilon)?)
            }
            Self::MeanVariance { axes } => {
                let axes = axes.iter().map(|&axis| resolve_axis(axis, x.rank()));
                let mut axes = axes.collect::<Result<Vec<usize>, Fault>>()?;
                axes.sort_unstable();
                axes.dedup();
                let mean = x.clone().mean(&axes)?;
                let centred = x.subtract(mean)?;
                let variance = centred.clone().squared().mean(&axes)?;
                // The small number is that of ONNX's own definition.
                one(centred.divide(root(variance).plus(1e-9))?)
            }
            Self::Norm { axis, square } => {
                let axis = resolve_axis(*axis, x.rank())?;
                let size = if *square {
                    root(x.clone().squared().sum(&[axis])?)
                } else {
                    x.clone().map(B::float_abs).sum(&[axis])?
                };
                // A row of zeros stays as it is.
                let zero = size.equals(0.0);
                one(x.divide(size.fill(zero, 1.0))?)
            }
            Self::LocalResponse { size, alpha, beta, bias } => {
                let squares = around(x.clone().squared(), *size)?.times(alpha / *size as f64);
                let response = squares.plus(*bias).map(|x| B::float_powf_scalar(x, (-beta).into()));
                one(x.multiply(response)?)
            }
        })
    }
}

/// A tensor beside its statistics.
struct Standardised<B: Backend> {
    mean: Real<B>,
    /// One over the deviation.
    factor: Real<B>,
    /// The tensor with the mean taken away, times the factor.
    normalised: Real<B>,
}

/// Standardises over some dimensions. Without `centred` the mean is taken to be zero.
fn standardised<B: Backend>(
    x: Real<B>,
    axes: &[usize],
    epsilon: f64,
    centred: bool,
) -> Result<Standardised<B>, Fault> {
    let mean = x.clone().mean(axes)?;
    let x = if centred { x.subtract(mean.clone())? } else { x };
    let variance = x.clone().squared().mean(axes)?;
    let factor = variance.plus(epsilon).map(B::float_sqrt).map(B::float_recip);
    let normalised = x.multiply(factor.clone())?;
    Ok(Standardised { mean, factor, normalised })
}

/// Normalises `groups` groups of channels, or each channel.
fn channels<B: Backend>(
    x: Real<B>,
    groups: Option<usize>,
    per_channel: bool,
    factors: [Real<B>; 2],
    epsilon: f64,
) -> Result<Real<B>, Fault> {
    let shape = x.shape().to_vec();
    let Some(&count) = shape.get(1) else { fault!("{shape:?} has no channels") };
    let groups = groups.unwrap_or(count);
    if groups == 0 || !count.is_multiple_of(groups) {
        fault!("{count} channels cannot be divided into {groups} groups");
    }
    // Dimensions of batch, group, channel of the group, and pixel.
    let blocks = [shape[0], groups, count / groups, shape[2..].iter().product()];
    let factor_shape = if per_channel { [1, groups, count / groups, 1] } else { [1, groups, 1, 1] };
    let [scale, bias] = factors.map(|factor| factor.reshape(&factor_shape));
    let Standardised { normalised, .. } = standardised(x.reshape(&blocks)?, &[2, 3], epsilon, true)?;
    normalised.multiply(scale?)?.add(bias?)?.reshape(&shape)
}

/// The sums over `size` channels around each one, as far as there are any.
fn around<B: Backend>(x: Real<B>, size: usize) -> Result<Real<B>, Fault> {
    let channels = x.length(1)?;
    // What lies further away than all channels is never met.
    let (before, after) = (((size - 1) / 2).min(channels), (size / 2).min(channels));
    let mut pads = vec![(0, 0); x.rank()];
    pads[1] = (before, after);
    let padded = x.padded(&pads, 0.0)?;
    let mut sum = padded.clone().part(1, 0, channels)?;
    for start in 1..=before + after {
        sum = sum.add(padded.clone().part(1, start, channels)?)?;
    }
    Ok(sum)
}

impl Batch {
    fn run<B: Backend>(
        &self,
        x: Real<B>,
        arguments: &mut Arguments<'_, B>,
    ) -> Result<Vec<Carried<B>>, Fault> {
        let shape = x.shape().to_vec();
        // Batch, channel, and what belongs to a channel. One dimension is a batch of one channel.
        let blocks = match shape[..] {
            [] => [1, 1, 1],
            [rows] => [rows, 1, 1],
            [rows, channels, ref rest @ ..] if self.per_channel => [rows, channels, rest.iter().product()],
            [rows, ref all @ ..] => [rows, all.iter().product(), 1],
        };
        let mut given = Vec::new();
        let mut own_shape = Vec::new();
        for index in 1..5 {
            let vector = arguments.real(index)?;
            own_shape = vector.shape().to_vec();
            if vector.len() != blocks[1] {
                fault!("{} channels are normalised, but the input has the shape {shape:?}", vector.len());
            }
            given.push(vector.cast(x.dtype()).reshape(&[1, blocks[1], 1])?);
        }
        let [scale, bias, mean, variance]: [Real<B>; 4] =
            given.try_into().map_err(|_| Fault("four vectors are needed".to_owned()))?;
        let x = x.reshape(&blocks)?;
        if !self.training {
            let result = self.normalised(x, scale, bias, mean, variance)?;
            return Ok(one(result.reshape(&shape)?));
        }
        let now = x.clone().mean(&[0, 2])?;
        let spread = x.clone().subtract(now.clone())?.squared().mean(&[0, 2])?;
        let result = self.normalised(x, scale, bias, now.clone(), spread.clone())?.reshape(&shape)?;
        let running = |before: Real<B>, now: Real<B>| {
            before.times(self.momentum).add(now.times(1.0 - self.momentum))?.reshape(&own_shape)
        };
        let mut outputs = vec![result, running(mean, now.clone())?, running(variance, spread.clone())?];
        if self.gives_statistics {
            outputs.extend([now.reshape(&own_shape)?, spread.reshape(&own_shape)?]);
        }
        Ok(outputs.into_iter().map(Carried::Real).collect())
    }

    fn normalised<B: Backend>(
        &self,
        x: Real<B>,
        scale: Real<B>,
        bias: Real<B>,
        mean: Real<B>,
        variance: Real<B>,
    ) -> Result<Real<B>, Fault> {
        let factor = scale.divide(variance.plus(self.epsilon).map(B::float_sqrt))?;
        x.subtract(mean)?.multiply(factor)?.add(bias)
    }
}
