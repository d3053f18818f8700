//! Convolutions over one or two spatial dimensions.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ConvOptions, ModuleOps};

use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault, type_of};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::widening("Conv", 1, FLOATS, build)];

/// The longest dimension after padding: padding costs the file nothing, but time to walk over.
const MAX_PADDED: usize = 1 << 24;

/// How the window moves: one entry per spatial dimension.
#[derive(Clone)]
pub(super) struct Window {
    /// The length of the window; empty where the weights say it.
    pub(super) kernel: Vec<usize>,
    strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pads: Vec<i64>,
    auto_pad: AutoPad,
    pub(super) ceil: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AutoPad {
    Explicit,
    Valid,
    SameUpper,
    SameLower,
}

/// The window along one dimension of a certain length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    /// Zeros, or nothing, before and after.
    pub(super) pad: (usize, usize),
    /// How many positions the window takes.
    pub(super) output: usize,
}

impl Window {
    /// Reads the attributes that convolutions and pools have in common.
    pub(super) fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let auto_pad = match node.string("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => AutoPad::Explicit,
            "VALID" => AutoPad::Valid,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            other => return Err(Refusal::Invalid(format!("`auto_pad` cannot be `{other}`"))),
        };
        let pads = node.ints("pads").unwrap_or_default();
        if pads.iter().any(|&pad| pad < 0) {
            return Err(Refusal::Unsupported("negative padding is not supported".to_owned()));
        }
        let window = Self {
            kernel: lengths(node, "kernel_shape")?,
            strides: lengths(node, "strides")?,
            dilations: lengths(node, "dilations")?,
            pads,
            auto_pad,
            ceil: node.flag("ceil_mode", false),
        };
        if window.kernel.len() > 2 {
            return Err(Refusal::Unsupported("windows of three dimensions are not supported".to_owned()));
        }
        Ok(window)
    }

    /// The window over an input with these spatial dimensions.
    pub(super) fn spans(&self, lengths: &[usize], kernel: &[usize]) -> Result<Vec<Span>, Fault> {
        let rank = lengths.len();
        let fits = |list: usize| list == 0 || list == rank;
        if kernel.len() != rank
            || !fits(self.strides.len())
            || !fits(self.dilations.len())
            || !(self.pads.is_empty() || self.pads.len() == 2 * rank)
        {
            fault!("the window's attributes are not for {rank} spatial dimensions");
        }
        (0..rank).map(|axis| self.span(axis, lengths[axis], kernel[axis], rank)).collect()
    }

    fn span(&self, axis: usize, length: usize, kernel: usize, rank: usize) -> Result<Span, Fault> {
        let stride = self.strides.get(axis).copied().unwrap_or(1);
        let dilation = self.dilations.get(axis).copied().unwrap_or(1);
        let pad_at =
            |index: usize| self.pads.get(index).and_then(|&pad| usize::try_from(pad).ok()).unwrap_or(0);
        let reach = kernel.checked_sub(1).and_then(|steps| steps.checked_mul(dilation)?.checked_add(1));
        let Some(reach) = reach else { fault!("a window of {kernel} steps of {dilation} is not possible") };
        let pad = match self.auto_pad {
            AutoPad::Explicit => (pad_at(axis), pad_at(axis + rank)),
            AutoPad::Valid => (0, 0),
            same => {
                let positions = length.div_ceil(stride);
                let needed = positions.saturating_sub(1).saturating_mul(stride).saturating_add(reach);
                let total = needed.saturating_sub(length);
                let (less, more) = (total / 2, total - total / 2);
                if same == AutoPad::SameUpper { (less, more) } else { (more, less) }
            }
        };
        let padded = length.checked_add(pad.0).and_then(|padded| padded.checked_add(pad.1));
        let padded = padded.filter(|&padded| padded <= MAX_PADDED);
        let Some(room) = padded.and_then(|padded| padded.checked_sub(reach)) else {
            fault!("a window of {reach} over a length of {length} with padding {pad:?} is not possible");
        };
        let mut output = if self.ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // A window that would start in the padding after the input is left out.
        if self.ceil && (output - 1) * stride >= length + pad.0 {
            output -= 1;
        }
        Ok(Span { kernel, stride, dilation, pad, output })
    }
}

fn lengths(node: &Node<'_>, name: &str) -> Result<Vec<usize>, Refusal> {
    let numbers = node.ints(name).unwrap_or_default();
    let lengths: Option<Vec<usize>> =
        numbers.iter().map(|&number| usize::try_from(number).ok().filter(|&length| length > 0)).collect();
    lengths.ok_or_else(|| Refusal::Invalid(format!("`{name}` must be positive, not {numbers:?}")))
}

fn build(node: &Node<'_>) -> Built {
    let window = Window::read(node)?;
    let group = usize::try_from(node.int("group", 1)).ok().filter(|&group| group > 0);
    let Some(group) = group else { return Err(Refusal::Invalid("`group` must be positive".to_owned())) };
    operator(move |inputs| {
        let (x, weights) = (inputs.float(0)?, inputs.float(1)?);
        let bias = inputs.optional(2).map(Tensor::float).transpose()?;
        convolve(&window, group, x, weights, bias).map(Into::into)
    })
}

fn convolve(
    window: &Window,
    group: usize,
    x: FlexTensor,
    weights: FlexTensor,
    bias: Option<FlexTensor>,
) -> Result<FlexTensor, Fault> {
    let (x_shape, weights_shape) = (x.layout().shape().clone(), weights.layout().shape().clone());
    let rank = x_shape.len();
    if !(3..=4).contains(&rank) || weights_shape.len() != rank {
        fault!("convolutions of {x_shape:?} by {weights_shape:?} are not supported");
    }
    let dtype = type_of(&x);
    if dtype != type_of(&weights) || bias.as_ref().is_some_and(|bias| type_of(bias) != dtype) {
        fault!("input, weights and bias must have one type");
    }
    let outputs = weights_shape[0];
    let channels = weights_shape[1].checked_mul(group);
    if channels != Some(x_shape[1]) || !outputs.is_multiple_of(group) {
        fault!("weights of {weights_shape:?} in {group} groups do not fit an input of {x_shape:?}");
    }
    if bias.as_ref().is_some_and(|bias| bias.layout().shape()[..] != [outputs]) {
        fault!("the bias must have {outputs} elements");
    }
    let spans = window.spans(&x_shape[2..], &weights_shape[2..])?;
    let mut shape = vec![x_shape[0], outputs];
    shape.extend(spans.iter().map(|span| span.output));
    let padded: Vec<usize> = x_shape[..2]
        .iter()
        .copied()
        .chain(x_shape[2..].iter().zip(&spans).map(|(x, s)| x + s.pad.0 + s.pad.1))
        .collect();
    check_size(&padded)?;
    if check_size(&shape)? == 0 {
        return super::cast::cast(Tensor::from_items(&shape, Vec::<f32>::new()), dtype)?.dense();
    }
    Ok(match spans.as_slice() {
        [a] => {
            let options = ConvOptions::new_with_padding([a.stride], [a.pad], [a.dilation], group);
            Flex::conv1d(x, weights, bias, options)
        }
        [a, b] => {
            let options = ConvOptions::new_with_padding(
                [a.stride, b.stride],
                [a.pad, b.pad],
                [a.dilation, b.dilation],
                group,
            );
            Flex::conv2d(x, weights, bias, options)
        }
        _ => fault!("convolutions of more than two dimensions are not supported"),
    })
}
