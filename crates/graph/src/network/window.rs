//! Windows that move over the spatial dimensions: convolutions and pools.

use burn::backend::Backend;
use burn::backend::ops::{ConvOptions, ConvTransposeOptions};

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, one};
use super::real::Real;
use crate::ops::Refusal;
use crate::ops::conv_transpose::Transposed;
use crate::ops::window::{Span, Window};
use crate::tensor::{Fault, check_size, check_work, fault};

/// What is made of the elements under the window.
pub(crate) enum Windowed {
    /// Sums of products with weights.
    Convolution { window: Window, group: usize },
    /// The same backwards.
    Transposed(Transposed),
    /// The largest.
    Max { window: Window },
    /// The mean, of the padding too or without it.
    Average { window: Window, count_padding: bool },
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("Conv", |node, _| {
        let group = usize::try_from(node.int("group", 1)).ok().filter(|&group| group > 0);
        let group = group.ok_or_else(|| Refusal::Invalid("`group` must be positive".to_owned()))?;
        Ok(Form::Window(Windowed::Convolution { window: Window::read(node)?, group }))
    }),
    Entry::new("ConvTranspose", |node, _| Ok(Form::Window(Windowed::Transposed(Transposed::read(node)?)))),
    Entry::new("MaxPool", |node, _| {
        if node.output_used(1) {
            return Err(Refusal::Unsupported("the positions of the largest are read".to_owned()));
        }
        Ok(Form::Window(Windowed::Max { window: Window::read_with_kernel(node)? }))
    }),
    Entry::new("AveragePool", |node, _| {
        let count_padding = node.flag("count_include_pad", false);
        Ok(Form::Window(Windowed::Average { window: Window::read_with_kernel(node)?, count_padding }))
    }),
];

impl Windowed {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        let x = arguments.real(0)?;
        if x.rank() < 3 {
            fault!("{} has no spatial dimension", x.describe());
        }
        Ok(one(match self {
            Self::Convolution { window, group } => {
                let (weights, bias) = (arguments.real(1)?, arguments.optional(2)?);
                let kernel = weights.shape().get(2..).unwrap_or_default();
                let spans = window.spans(&x.shape()[2..], kernel)?;
                biased(convolved(x, weights, &spans, *group)?, bias)?
            }
            Self::Transposed(transposed) => {
                let (weights, bias) = (arguments.real(1)?, arguments.optional(2)?);
                biased(spread(transposed, x, weights)?, bias)?
            }
            Self::Max { window } => {
                let spans = window.spans(&x.shape()[2..], &window.kernel)?;
                largest(x, &spans)?
            }
            Self::Average { window, count_padding } => {
                let spans = window.spans(&x.shape()[2..], &window.kernel)?;
                average(x, &spans, *count_padding)?
            }
        }))
    }
}

/// One number per channel is added.
fn biased<B: Backend>(x: Real<B>, bias: Option<Real<B>>) -> Result<Real<B>, Fault> {
    let Some(bias) = bias else { return Ok(x) };
    let mut shape = vec![1; x.rank()];
    shape[1] = x.length(1)?;
    x.add(bias.reshape(&shape)?)
}

/// The convolution without a bias.
fn convolved<B: Backend>(
    x: Real<B>,
    weights: Real<B>,
    spans: &[Span],
    group: usize,
) -> Result<Real<B>, Fault> {
    let (from, by) = (x.shape().to_vec(), weights.shape().to_vec());
    if by.len() != from.len() || by[1].checked_mul(group) != Some(from[1]) || !by[0].is_multiple_of(group) {
        fault!("weights of {by:?} in {group} groups do not fit an input of {from:?}");
    }
    if x.dtype() != weights.dtype() {
        fault!("input and weights must have one type, not {} and {}", x.dtype(), weights.dtype());
    }
    let mut shape = vec![from[0], by[0]];
    shape.extend(spans.iter().map(|span| span.output));
    check_size(&shape)?;
    let padded = from[2..].iter().zip(spans).map(|(length, span)| length + span.pad.0 + span.pad.1);
    check_size(&from[..2].iter().copied().chain(padded).collect::<Vec<_>>())?;
    if shape.contains(&0) {
        return x.full(&shape, 0.0);
    }
    if x.len() == 0 {
        fault!("a convolution of {from:?} by {by:?} is not possible");
    }
    // The gradient that burn 0.22 gives the image is not cut to its shape where the sides of three spatial
    // dimensions have different padding.
    let uneven = spans.iter().any(|span| span.pad.0 != span.pad.1);
    let x = if uneven { framed(x, spans, 0.0)? } else { x };
    let pad = |span: Span| if uneven { 0 } else { span.pad.0 };
    let (primitive, weights) = (x.into_primitive(), weights.into_primitive());
    let made = match *spans {
        [a] => {
            let options = ConvOptions::new([a.stride], [pad(a)], [a.dilation], group);
            B::conv1d(primitive, weights, None, options)
        }
        [a, b] => {
            let options =
                ConvOptions::new([a.stride, b.stride], [pad(a), pad(b)], [a.dilation, b.dilation], group);
            B::conv2d(primitive, weights, None, options)
        }
        [a, b, c] => {
            let options = ConvOptions::new(
                [a.stride, b.stride, c.stride],
                [pad(a), pad(b), pad(c)],
                [a.dilation, b.dilation, c.dilation],
                group,
            );
            B::conv3d(primitive, weights, None, options)
        }
        _ => fault!("no gradient goes through a convolution of {} spatial dimensions", spans.len()),
    };
    Real::made(made, &shape)
}

/// The transposed convolution without a bias. The kernels make all of it, of which the padding takes away
/// the edges.
fn spread<B: Backend>(transposed: &Transposed, x: Real<B>, weights: Real<B>) -> Result<Real<B>, Fault> {
    let (from, by, group) = (x.shape().to_vec(), weights.shape().to_vec(), transposed.group);
    if by.len() != from.len() || by[0] != from[1] || !from[1].is_multiple_of(group) {
        fault!("weights of {by:?} in {group} groups do not fit {from:?}");
    }
    if x.dtype() != weights.dtype() {
        fault!("input and weights must have one type, not {} and {}", x.dtype(), weights.dtype());
    }
    let (spans, lengths) = transposed.spans(&from[2..], &by[2..])?;
    let Some(outputs) = by[1].checked_mul(group) else { fault!("the result would be too large") };
    let all = |axis: usize| {
        let span = spans[axis];
        (from[axis + 2].saturating_sub(1) * span.stride).saturating_add((span.kernel - 1) * span.dilation + 1)
    };
    let mut whole = vec![from[0], outputs];
    whole.extend((0..spans.len()).map(all));
    check_size(&whole)?;
    let mut shape = vec![from[0], outputs];
    shape.extend_from_slice(&lengths);
    if check_size(&shape)? == 0 || x.len() == 0 {
        fault!("a transposed convolution of {from:?} to {shape:?} is not possible");
    }
    let (primitive, weights) = (x.into_primitive(), weights.into_primitive());
    let made = match spans[..] {
        [a] => {
            let options = ConvTransposeOptions::new([a.stride], [0], [0], [a.dilation], group);
            B::conv_transpose1d(primitive, weights, None, options)
        }
        [a, b] => {
            let (strides, dilations) = ([a.stride, b.stride], [a.dilation, b.dilation]);
            let options = ConvTransposeOptions::new(strides, [0; 2], [0; 2], dilations, group);
            B::conv_transpose2d(primitive, weights, None, options)
        }
        [a, b, c] => {
            let strides = [a.stride, b.stride, c.stride];
            let dilations = [a.dilation, b.dilation, c.dilation];
            let options = ConvTransposeOptions::new(strides, [0; 3], [0; 3], dilations, group);
            B::conv_transpose3d(primitive, weights, None, options)
        }
        _ => fault!("no gradient goes through a convolution of {} spatial dimensions", spans.len()),
    };
    let mut result = Real::made(made, &whole)?;
    for (axis, (span, &length)) in spans.iter().zip(&lengths).enumerate() {
        let mut pads = vec![(0, 0); whole.len()];
        pads[axis + 2].1 = (length + span.pad.0).saturating_sub(whole[axis + 2]);
        result = result.padded(&pads, 0.0)?.part(axis + 2, span.pad.0, length)?;
    }
    Ok(result)
}

/// The image with as much padding as the window covers, and no element that it does not.
fn framed<B: Backend>(x: Real<B>, spans: &[Span], number: f64) -> Result<Real<B>, Fault> {
    let mut x = x;
    for (index, span) in spans.iter().enumerate() {
        let axis = index + 2;
        let seen = (span.output - 1) * span.stride + (span.kernel - 1) * span.dilation + 1;
        let mut pads = vec![(0, 0); x.rank()];
        pads[axis] = (span.pad.0, seen.saturating_sub(x.length(axis)? + span.pad.0));
        let mut shape = x.shape().to_vec();
        shape[axis] += pads[axis].0 + pads[axis].1;
        check_size(&shape)?;
        x = x.padded(&pads, number)?.part(axis, 0, seen)?;
    }
    Ok(x)
}

/// The shape of a pool's result, after a check that the work is bounded.
fn pooled_shape(from: &[usize], spans: &[Span]) -> Result<Vec<usize>, Fault> {
    let mut shape = from[..2].to_vec();
    shape.extend(spans.iter().map(|span| span.output));
    let window = spans.iter().map(|span| span.kernel).fold(1, usize::saturating_mul);
    check_work(&[check_size(&shape)?, window])?;
    if from.contains(&0) {
        fault!("the image is empty");
    }
    Ok(shape)
}

/// The largest is separable: one or two dimensions at a time.
fn largest<B: Backend>(x: Real<B>, spans: &[Span]) -> Result<Real<B>, Fault> {
    let shape = pooled_shape(x.shape(), spans)?;
    let x = framed(x, spans, f64::NEG_INFINITY)?;
    if let [a, b] = *spans {
        let made = B::max_pool2d(
            x.into_primitive(),
            [a.kernel, b.kernel],
            [a.stride, b.stride],
            [0, 0],
            [a.dilation, b.dilation],
            false,
        );
        return Real::made(made, &shape);
    }
    let mut x = x;
    for (index, span) in spans.iter().enumerate() {
        let axis = index + 2;
        let last = x.rank() - 1;
        let moved = x.swapped(axis, last)?;
        let mut pooled = moved.shape().to_vec();
        let rows = moved.len() / pooled[last];
        let lines = moved.clone().reshape(&[rows, 1, pooled[last]])?;
        let made = B::max_pool1d(lines.into_primitive(), span.kernel, span.stride, 0, span.dilation, false);
        pooled[last] = span.output;
        x = Real::made(made, &[rows, 1, span.output])?.reshape(&pooled)?.swapped(axis, last)?;
    }
    x.reshape(&shape)
}

/// The sum is a convolution with ones.
fn average<B: Backend>(x: Real<B>, spans: &[Span], count_padding: bool) -> Result<Real<B>, Fault> {
    let shape = pooled_shape(x.shape(), spans)?;
    let lengths = x.shape()[2..].to_vec();
    // How many elements each place has, along each dimension.
    let counts = spans.iter().zip(&lengths).enumerate().map(|(axis, (span, &length))| {
        let count =
            |at| if count_padding { span.padded_steps(at, length) } else { span.under(at, length, 1).count };
        let mut along = vec![1; shape.len()];
        along[axis + 2] = span.output;
        x.numbers(&along, (0..span.output).map(|at| count(at) as f64).collect())
    });
    let counts = counts.collect::<Result<Vec<_>, Fault>>()?;
    let images = shape[0] * shape[1];
    let x = framed(x, spans, 0.0)?;
    let flat = [&[images, 1], &x.shape()[2..]].concat();
    let kernel: Vec<usize> = [1, 1].into_iter().chain(spans.iter().map(|span| span.kernel)).collect();
    let ones = x.full(&kernel, 1.0)?;
    let bare: Vec<Span> = spans.iter().map(|span| Span { pad: (0, 0), ..*span }).collect();
    let mut result = convolved(x.reshape(&flat)?, ones, &bare, 1)?.reshape(&shape)?;
    for counts in counts {
        result = result.divide(counts)?;
    }
    Ok(result)
}
