//! Windows that move over the spatial dimensions: what convolutions and pools have in common.

use std::ops::Range;

use super::Refusal;
use crate::load::Node;
use crate::tensor::{Fault, fault};

/// The longest dimension after padding: padding costs the file nothing, but time to walk over.
const MAX_PADDED: usize = 1 << 24;

/// How the window moves: one entry per spatial dimension.
#[derive(Clone)]
pub(crate) struct Window {
    /// The length of the window; empty where the weights say it.
    pub(crate) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) pads: Vec<usize>,
    pub(super) auto_pad: AutoPad,
    pub(super) ceil: bool,
}

/// Who decides on the padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AutoPad {
    /// The attribute `pads`.
    Explicit,
    /// There is none.
    Valid,
    /// As much as keeps the length, divided by the stride; an odd element goes to the end.
    SameUpper,
    /// The same; an odd element goes to the beginning.
    SameLower,
}

/// The window along one dimension of a certain length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    /// Zeros, or nothing, before and after.
    pub(crate) pad: (usize, usize),
    /// How many positions the window takes.
    pub(crate) output: usize,
}

impl AutoPad {
    /// What goes before and after, of a total to add or to take away.
    pub(super) fn share(self, total: usize) -> (usize, usize) {
        let (less, more) = (total / 2, total - total / 2);
        if self == Self::SameUpper { (less, more) } else { (more, less) }
    }

    /// True where the padding follows from the lengths.
    pub(super) fn is_same(self) -> bool {
        matches!(self, Self::SameUpper | Self::SameLower)
    }
}

impl Window {
    /// Reads the attributes that convolutions and pools have in common.
    pub(crate) fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let auto_pad = match node.string("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => AutoPad::Explicit,
            "VALID" => AutoPad::Valid,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            other => return Err(Refusal::Invalid(format!("`auto_pad` cannot be `{other}`"))),
        };
        let pads = node.ints("pads").unwrap_or_default();
        let pads: Option<Vec<usize>> = pads.iter().map(|&pad| usize::try_from(pad).ok()).collect();
        let Some(pads) = pads else {
            return Err(Refusal::Unsupported("negative padding is not supported".to_owned()));
        };
        Ok(Self {
            kernel: lengths(node, "kernel_shape")?,
            strides: lengths(node, "strides")?,
            dilations: lengths(node, "dilations")?,
            pads,
            auto_pad,
            ceil: node.flag("ceil_mode", false),
        })
    }

    /// The same, of an operator that must say how long its window is.
    pub(crate) fn read_with_kernel(node: &Node<'_>) -> Result<Self, Refusal> {
        let window = Self::read(node)?;
        if window.kernel.is_empty() {
            return Err(Refusal::Invalid("`kernel_shape` is missing".to_owned()));
        }
        Ok(window)
    }

    /// A fault where the attributes are not for `kernel.len()` spatial dimensions.
    pub(super) fn check(&self, kernel: &[usize]) -> Result<(), Fault> {
        let rank = kernel.len();
        let fits = |list: usize| list == 0 || list == rank;
        if !fits(self.strides.len())
            || !fits(self.dilations.len())
            || !(self.pads.is_empty() || self.pads.len() == 2 * rank)
        {
            fault!("the window's attributes are not for {rank} spatial dimensions");
        }
        if !self.kernel.is_empty() && self.kernel != kernel {
            fault!("weights of {kernel:?} are not those of a window of {:?}", self.kernel);
        }
        if kernel.contains(&0) {
            fault!("a window of {kernel:?} has no element");
        }
        Ok(())
    }

    /// The padding that the file gives before and after dimension `axis`.
    pub(super) fn pad(&self, axis: usize, rank: usize) -> (usize, usize) {
        let pad_at = |index: usize| self.pads.get(index).copied().unwrap_or(0);
        (pad_at(axis), pad_at(axis + rank))
    }

    /// The window over an input with these spatial dimensions.
    pub(crate) fn spans(&self, lengths: &[usize], kernel: &[usize]) -> Result<Vec<Span>, Fault> {
        let rank = lengths.len();
        if kernel.len() != rank {
            fault!("a window of {} dimensions cannot move over {rank}", kernel.len());
        }
        self.check(kernel)?;
        (0..rank).map(|axis| self.span(axis, lengths[axis], kernel[axis], rank)).collect()
    }

    fn span(&self, axis: usize, length: usize, kernel: usize, rank: usize) -> Result<Span, Fault> {
        // A longer stride has one place either way, and one step has no distance to the next.
        let stride = self.strides.get(axis).copied().unwrap_or(1).min(MAX_PADDED + 1);
        let dilation = if kernel == 1 { 1 } else { self.dilations.get(axis).copied().unwrap_or(1) };
        let reach = reach(kernel, dilation)?;
        let pad = match self.auto_pad {
            AutoPad::Explicit => self.pad(axis, rank),
            AutoPad::Valid => (0, 0),
            same => {
                let positions = length.div_ceil(stride);
                let needed = positions.saturating_sub(1).saturating_mul(stride).saturating_add(reach);
                same.share(needed.saturating_sub(length))
            }
        };
        let padded = length.checked_add(pad.0).and_then(|padded| padded.checked_add(pad.1));
        let padded = padded.filter(|&padded| padded <= MAX_PADDED);
        let Some(room) = padded.and_then(|padded| padded.checked_sub(reach)) else {
            fault!("a window of {reach} over a length of {length} with padding {pad:?} is not possible");
        };
        // The formulas for padding that is not explicit give the same number in both modes.
        let ceil = self.ceil && self.auto_pad == AutoPad::Explicit;
        let mut output = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // A window that would start in the padding after the input is left out.
        if ceil && (output - 1) * stride >= length + pad.0 {
            output -= 1;
        }
        Ok(Span { kernel, stride, dilation, pad, output })
    }
}

/// A number as wide as sums are made.
pub(super) fn wide<F: num_traits::Float>(x: F) -> f64 {
    num_traits::ToPrimitive::to_f64(&x).unwrap_or(f64::NAN)
}

/// How far a window goes from its first element to its last.
pub(super) fn reach(kernel: usize, dilation: usize) -> Result<usize, Fault> {
    let reach = kernel.checked_sub(1).and_then(|steps| steps.checked_mul(dilation)?.checked_add(1));
    reach.ok_or_else(|| Fault(format!("a window of {kernel} steps of {dilation} is not possible")))
}

/// Lengths that are an attribute: none, or all positive.
pub(super) fn lengths(node: &Node<'_>, name: &str) -> Result<Vec<usize>, Refusal> {
    let numbers = node.ints(name).unwrap_or_default();
    let lengths: Option<Vec<usize>> =
        numbers.iter().map(|&number| usize::try_from(number).ok().filter(|&length| length > 0)).collect();
    lengths.ok_or_else(|| Refusal::Invalid(format!("`{name}` must be positive, not {numbers:?}")))
}

/// A regular row of positions along a dimension, counted in elements of the whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(super) start: usize,
    pub(super) step: usize,
    pub(crate) count: usize,
}

impl Span {
    /// The steps of the window at place `at` that lie inside of the input.
    fn steps(&self, at: usize, length: usize) -> Range<usize> {
        let start = at * self.stride;
        let first = self.pad.0.saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        let end = (self.pad.0 + length).saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        first..end.max(first)
    }

    /// The input under the window at place `at`, where neighbours are `scale` elements apart.
    pub(crate) fn under(&self, at: usize, length: usize, scale: usize) -> Run {
        let steps = self.steps(at, length);
        // Where no step is inside, the start means nothing.
        let start = (at * self.stride + steps.start * self.dilation).saturating_sub(self.pad.0);
        Run { start: start * scale, step: self.dilation * scale, count: steps.len() }
    }

    /// How many steps of the window at place `at` lie in the input or in its padding.
    pub(crate) fn padded_steps(&self, at: usize, length: usize) -> usize {
        let padded = self.pad.0 + length + self.pad.1;
        padded.saturating_sub(at * self.stride).div_ceil(self.dilation).min(self.kernel)
    }

    /// The places at which step `step` of the window lies inside of the input, and the input there.
    fn places(&self, step: usize, length: usize) -> (Range<usize>, usize) {
        let shift = step * self.dilation;
        let first = self.pad.0.saturating_sub(shift).div_ceil(self.stride).min(self.output);
        let end = (self.pad.0 + length).saturating_sub(shift).div_ceil(self.stride).min(self.output);
        let start = (first * self.stride + shift).saturating_sub(self.pad.0);
        (first..end.max(first), start)
    }
}

/// Calls `visit` with each position that one run per dimension gives together, row-major.
pub(super) fn visit(runs: &[Run], base: usize, visitor: &mut impl FnMut(usize)) {
    let Some((run, rest)) = runs.split_first() else { return visitor(base) };
    let positions = (0..run.count).map(|index| base + run.start + index * run.step);
    if rest.is_empty() {
        positions.for_each(visitor);
    } else {
        positions.for_each(|position| visit(rest, position, visitor));
    }
}

/// Moves to the next place of a grid, row-major; false after the last.
pub(super) fn advance(at: &mut [usize], shape: &[usize]) -> bool {
    for (place, &length) in at.iter_mut().zip(shape).rev() {
        *place += 1;
        if *place < length {
            return true;
        }
        *place = 0;
    }
    false
}

/// How far apart neighbours are along each dimension of a row-major image.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Pairs of runs, through the image that a window moves over and through the places that it takes.
type Pair = (Run, Run);

/// For each element of the window, in row-major order, which elements of the image meet which places of
/// the window. It is the whole geometry of a convolution, and read backwards that of a transposed one.
pub(super) struct Meetings {
    /// By dimension and step.
    pairs: Vec<Vec<Pair>>,
    kernel: Vec<usize>,
}

impl Meetings {
    /// Of a window over an image with these lengths.
    pub(super) fn new(lengths: &[usize], spans: &[Span]) -> Self {
        let outputs: Vec<usize> = spans.iter().map(|span| span.output).collect();
        let (scales, output_scales) = (strides(lengths), strides(&outputs));
        let pairs = (0..spans.len()).map(|axis| {
            let (span, scale, output_scale) = (&spans[axis], scales[axis], output_scales[axis]);
            let pair = |step| {
                let (places, start) = span.places(step, lengths[axis]);
                let count = places.len();
                let image = Run { start: start * scale, step: span.stride * scale, count };
                (image, Run { start: places.start * output_scale, step: output_scale, count })
            };
            (0..span.kernel).map(pair).collect()
        });
        Self { pairs: pairs.collect(), kernel: spans.iter().map(|span| span.kernel).collect() }
    }

    /// Calls `row` for each element of the window with its number, and with runs through image and places
    /// along the last dimension.
    pub(super) fn rows(&self, mut row: impl FnMut(usize, Run, Run)) {
        let mut at = vec![0; self.kernel.len()];
        let mut chosen: Vec<Pair> = Vec::with_capacity(at.len());
        for element in 0.. {
            chosen.clear();
            chosen.extend(self.pairs.iter().zip(&at).map(|(pairs, &step)| pairs[step]));
            nest(&chosen, (0, 0), &mut |image, places| row(element, image, places));
            if !advance(&mut at, &self.kernel) {
                break;
            }
        }
    }
}

fn nest(pairs: &[Pair], (image_base, place_base): (usize, usize), row: &mut impl FnMut(Run, Run)) {
    let Some(((image, places), rest)) = pairs.split_first() else { return };
    if image.count == 0 {
        return;
    }
    if rest.is_empty() {
        let image = Run { start: image_base + image.start, ..*image };
        return row(image, Run { start: place_base + places.start, ..*places });
    }
    for index in 0..image.count {
        let base =
            (image_base + image.start + index * image.step, place_base + places.start + index * places.step);
        nest(rest, base, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies under a window, step by step.
    fn slowly(span: Span, at: usize, length: usize) -> Vec<usize> {
        let steps = (0..span.kernel).map(|step| at * span.stride + step * span.dilation);
        steps.filter_map(|position| position.checked_sub(span.pad.0)).filter(|&at| at < length).collect()
    }

    #[test]
    fn runs_are_what_lies_under_the_window() {
        for (kernel, stride, dilation, pad, length) in
            [(3, 1, 1, 1, 5), (2, 3, 2, 2, 7), (4, 2, 3, 5, 1), (1, 1, 4, 0, 3), (3, 2, 2, 9, 4)]
        {
            let room = (length + 2_usize * pad).saturating_sub((kernel - 1) * dilation + 1);
            let span = Span { kernel, stride, dilation, pad: (pad, pad), output: room / stride + 1 };
            let meetings = Meetings::new(&[length], &[span]);
            let mut met = vec![Vec::new(); span.output];
            meetings.rows(|_, image, places| {
                for index in 0..places.count {
                    met[places.start + index].push(image.start + index * image.step);
                }
            });
            for (at, met) in met.into_iter().enumerate() {
                let mut seen = Vec::new();
                visit(&[span.under(at, length, 1)], 0, &mut |position| seen.push(position));
                assert_eq!(seen, slowly(span, at, length), "{span:?} at {at}");
                assert_eq!(met, seen, "{span:?} at {at}");
            }
        }
    }
}
