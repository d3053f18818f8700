//! Factors and summands of channels that go into the weights before them.
//!
//! `scale * (W x + bias) + shift` is `(scale * W) x + (scale * bias + shift)`: of a `BatchNormalization` with
//! known statistics, and of products and sums with constants, nothing is left to do for a request.

use num_traits::{Float, ToPrimitive};

use super::{Flow, Role};
use crate::ops::cast::{cast, numbers};
use crate::ops::channel_factors;
use crate::plan::Source;
use crate::tensor::{Item, Tensor};
use crate::value::DType;

/// What is done to each channel of a result; `None` where it is nothing.
struct Channels {
    scale: Option<Vec<f64>>,
    shift: Option<Vec<f64>>,
}

/// Folds a step into the weights of the step that makes its input.
pub(super) fn fold(flow: &mut Flow<'_>, at: usize) {
    let _ = match flow.role(at) {
        &Role::BatchNormalization { epsilon } => normalisation(flow, at, epsilon),
        Role::Add | Role::Sub | Role::Mul | Role::Div => arithmetic(flow, at),
        _ => None,
    };
}

fn normalisation(flow: &mut Flow<'_>, at: usize, epsilon: f64) -> Option<()> {
    let first = flow.maker(flow.input(at, 0), 1)?;
    // The channels are the second dimension: the result of `MatMul` may have them elsewhere.
    if *flow.role(first) == Role::MatMul {
        return None;
    }
    let weights = Weights::of(flow, first)?;
    flow.spend(weights.outputs)?;
    let given: Option<Vec<Tensor>> =
        (1..5).map(|input| flow.constant(flow.input(at, input)).cloned()).collect();
    let [scale, shift] = channel_factors(given?, epsilon)?;
    (scale.len() == weights.outputs).then_some(())?;
    put_in(flow, first, at, &weights, Channels { scale: Some(scale), shift: Some(shift) })
}

/// A constant for each channel that is added, taken away, or that the result is multiplied with or divided by.
fn arithmetic(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let role = flow.role(at).clone();
    let constant = |source| flow.floats(source).map(|_| source);
    let (parameter, x) = match role {
        Role::Add | Role::Mul => flow.pair(at, constant)?,
        _ => (constant(flow.input(at, 1))?, flow.input(at, 0)),
    };
    let first = flow.maker(x, 1)?;
    let weights = Weights::of(flow, first)?;
    // A bias of `MatMul` need not be a row: see `epilogue`.
    if *flow.role(first) == Role::MatMul && matches!(role, Role::Add | Role::Sub) {
        return None;
    }
    let parameter = flow.floats(parameter).filter(|parameter| weights.fits(parameter))?.clone();
    flow.spend(weights.outputs)?;
    let each = weights.for_each_channel(&parameter)?;
    let of = |function: fn(f64) -> f64| Some(each.iter().map(|&x| function(x)).collect());
    let channels = match role {
        Role::Add => Channels { scale: None, shift: of(|x| x) },
        Role::Sub => Channels { scale: None, shift: of(|x| -x) },
        Role::Mul => Channels { scale: of(|x| x), shift: None },
        _ => Channels { scale: of(|x| 1.0 / x), shift: None },
    };
    put_in(flow, first, at, &weights, channels)
}

/// Where the channels of a result are in the weights.
enum Place {
    /// The first dimension.
    First,
    /// The second dimension, by groups of the first.
    Grouped { group: usize },
    /// The last dimension.
    Last,
}

/// The weights of a step that gives channels.
struct Weights {
    place: Place,
    outputs: usize,
    /// Of the result; 0 where it is not known.
    rank: usize,
    dtype: DType,
    shape: Vec<usize>,
}

impl Weights {
    /// Those of a step; `None` where they are not known, or where it has none.
    fn of(flow: &Flow<'_>, at: usize) -> Option<Self> {
        let weights = flow.floats(flow.input(at, 1))?;
        let (shape, dtype) = (weights.shape().to_vec(), weights.dtype());
        let &[first, second, ..] = &shape[..] else { return None };
        let (place, outputs, rank) = match *flow.role(at) {
            Role::Conv if shape.len() > 2 => (Place::First, first, shape.len()),
            Role::ConvTranspose { group } if shape.len() > 2 && first.is_multiple_of(group) => {
                (Place::Grouped { group }, second.checked_mul(group)?, shape.len())
            }
            Role::Gemm { transposed: true } if shape.len() == 2 => (Place::First, first, 2),
            Role::Gemm { transposed: false } if shape.len() == 2 => (Place::Last, second, 2),
            Role::MatMul if shape.len() == 2 => (Place::Last, second, 0),
            _ => return None,
        };
        (weights.len() > 0 && outputs > 0).then_some(Self { place, outputs, rank, dtype, shape })
    }

    /// True for a constant of the type of the weights that has one number for each channel, or one for all.
    fn fits(&self, parameter: &Tensor) -> bool {
        let shape = parameter.shape();
        // Where the channels are, counted from the end.
        let axis = match self.rank {
            0 => 1,
            rank => rank - 1,
        };
        let alone = |(place, &length): (usize, &usize)| {
            length == 1 || (shape.len() - place == axis && length == self.outputs)
        };
        parameter.dtype() == self.dtype
            && shape.len() <= self.rank.max(1)
            && shape.iter().enumerate().all(alone)
    }

    /// One number for each channel.
    fn for_each_channel(&self, parameter: &Tensor) -> Option<Vec<f64>> {
        if !self.fits(parameter) {
            return None;
        }
        let numbers = parameter.to_f64s().ok()?;
        match numbers[..] {
            [number] => Some(vec![number; self.outputs]),
            _ => (numbers.len() == self.outputs).then_some(numbers),
        }
    }

    /// The bias that the step has already.
    fn bias(&self, bias: &Tensor) -> Option<Vec<f64>> {
        // That of a convolution has one dimension, whatever the rank of the result.
        match self.place {
            Place::First | Place::Grouped { .. } if self.rank > 2 => {
                let fits = bias.dtype() == self.dtype && bias.shape() == [self.outputs];
                fits.then(|| bias.to_f64s().ok()).flatten()
            }
            _ => self.for_each_channel(bias),
        }
    }

    /// The channel that an element of the weights belongs to.
    fn channel(&self, element: usize) -> usize {
        let inner: usize = self.shape[1..].iter().product();
        match self.place {
            Place::First => element / inner,
            Place::Last => element % self.outputs,
            Place::Grouped { group } => {
                let each = self.shape[1];
                let kernel = inner / each;
                let of_group = self.shape[0] / group;
                element / inner / of_group * each + element / kernel % each
            }
        }
    }
}

/// Gives a step new weights and a new bias, and takes the second step away.
fn put_in(
    flow: &mut Flow<'_>,
    first: usize,
    second: usize,
    weights: &Weights,
    channels: Channels,
) -> Option<()> {
    let bias = match flow.input(first, 2) {
        Source::Absent => None,
        source => Some(weights.bias(flow.floats(source)?)?),
    };
    let bias = match (bias, &channels.scale) {
        (Some(bias), Some(scale)) => Some(bias.iter().zip(scale).map(|(bias, scale)| bias * scale).collect()),
        (bias, _) => bias,
    };
    let bias: Option<Vec<f64>> = match (bias, channels.shift) {
        (Some(bias), Some(shift)) => {
            Some(bias.iter().zip(&shift).map(|(bias, shift)| bias + shift).collect())
        }
        (bias, shift) => bias.or(shift),
    };
    // Half precision is computed in single precision: weights that are rounded once more would be less exact.
    let wide = if weights.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let bias = match bias {
        Some(bias) => Some(finite(bias, &[weights.outputs], wide)?),
        None => None,
    };
    let scaled = match channels.scale {
        Some(scale) => {
            let before = flow.floats(flow.input(first, 1))?.clone();
            flow.spend(before.len())?;
            let factor = |element| scale[weights.channel(element)];
            Some(match wide {
                DType::F64 => scaled::<f64>(before, factor)?,
                _ => scaled::<f32>(before, factor)?,
            })
        }
        // Weights and bias must have one type.
        None if wide != weights.dtype => return None,
        None => None,
    };
    if let Some(scaled) = scaled {
        let source = flow.add_constant(scaled);
        flow.set_input(first, 1, source);
    }
    if let Some(bias) = bias {
        let source = flow.add_constant(bias);
        flow.set_input(first, 2, source);
    }
    flow.absorb(first, second);
    Some(())
}

/// Each element times a factor; `None` where a product is no number, or too large.
fn scaled<F: Item + Float>(tensor: Tensor, factor: impl Fn(usize) -> f64) -> Option<Tensor> {
    let shape = tensor.shape().to_vec();
    let mut numbers = numbers::<F>(tensor).ok()?;
    for (element, number) in numbers.iter_mut().enumerate() {
        let product = ToPrimitive::to_f64(number)? * factor(element);
        *number = <F as num_traits::NumCast>::from(product).filter(|product| product.is_finite())?;
    }
    Some(Tensor::from_items(&shape, numbers))
}

/// A constant of these numbers; `None` where one is no number, or too large for the type.
fn finite(numbers: Vec<f64>, shape: &[usize], dtype: DType) -> Option<Tensor> {
    let largest = if dtype == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
    if !numbers.iter().all(|number| number.abs() <= largest) {
        return None;
    }
    cast(Tensor::from_items(shape, numbers), dtype).ok()
}
