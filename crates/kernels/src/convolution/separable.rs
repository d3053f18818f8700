//! A depthwise convolution, the one of one element that makes its channels, and the one that follows it, as one step.
//!
//! The first one makes many channels of few and the last one few of many, so that what is between them is several times as large as
//! what goes in and comes out. Where it is too large for caches, a strip of rows of the result is made at a time: of some channels what
//! their windows see, and at once the windows; when those of all channels are there, the last product. Nothing of that is ever in
//! memory but a strip. Rows that the next strip sees, too, are kept for it.

use std::ops::Range;

use super::depthwise::Planes;
use super::{Filters, Piece, Span, tiles_of};
use crate::lanes::as_uninit;
use crate::threads::{Shared, divide, filled, keep, part, scratch, threads};
use crate::tile::{BiasFor, Finish, Left, Target};

/// So many numbers between two of the convolutions are more than what caches hold; reading and writing them takes longer than what
/// strips cost.
const LARGE: usize = 1 << 20;
/// A strip has so many numbers at most on each side of the windows: together they are about the size of the second cache.
const STRIP: usize = 1 << 17;
/// So many panels of channels are made at a time: what they are made of is laid out once for all of them.
const PANELS: usize = 16;
/// Into so many bands for each thread an image is divided, so that one that comes late has less to do. Each band makes the rows
/// at its ends that the one beside it makes, too.
const BANDS: usize = 2;

/// A convolution, and what finishes it.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Its weights.
    pub filters: &'a Filters,
    /// What is done to its sums.
    pub finish: Finish<'a>,
}

/// Convolutions that follow each other, of which only the last one's result is wanted: a depthwise separable convolution, or with all
/// three the inverted residual block of MobileNetV2 (Sandler et al., 2018).
#[derive(Clone, Copy, Debug)]
pub struct Separable<'a> {
    /// A window of one element, which makes the channels; without it they are those of the input.
    pub widen: Option<Layer<'a>>,
    /// A window for each channel.
    pub depthwise: Layer<'a>,
    /// A window of one element.
    pub narrow: Layer<'a>,
}

impl Separable<'_> {
    /// The result of the last convolution, of images in the order that [`Filters::convolve`] has. `span` is how the depthwise window
    /// moves, and the others stand on each element. Panics where the convolutions do not fit each other, where `x`, or what finishes a
    /// result, has not the right size, and where any but the last one has an addend.
    pub fn convolve(&self, x: &[f32], span: &Span) -> Vec<f32> {
        self.check(x, span);
        let channels = self.depthwise.filters.outputs;
        let between = if self.widen.is_some() { span.input } else { span.output };
        if span.images * channels * between[0] * between[1] >= LARGE {
            return self.by_strips(x, span, STRIP);
        }
        let still =
            |size| Span { input: size, stride: [1, 1], dilation: [1, 1], pad: [0, 0], output: size, ..*span };
        let made = self.widen.map(|widen| widen.filters.convolve(x, &still(span.input), widen.finish));
        let Layer { filters, finish } = self.depthwise;
        let seen = filters.convolve(made.as_deref().unwrap_or(x), span, finish);
        drop(made);
        self.narrow.filters.convolve(&seen, &still(span.output), self.narrow.finish)
    }

    fn check(&self, x: &[f32], span: &Span) {
        let (depthwise, narrow) = (self.depthwise.filters, self.narrow.filters);
        let channels = depthwise.outputs;
        assert!(depthwise.channels == 1 && depthwise.groups == channels, "each channel has its window");
        for Layer { filters, .. } in self.widen.iter().chain([&self.narrow]) {
            assert!(
                filters.kernel == [1, 1] && filters.groups == 1,
                "a window of one element sees all channels"
            );
        }
        assert!(narrow.channels == channels, "the last convolution takes the channels of the windows");
        assert!(
            self.widen.is_none_or(|widen| widen.filters.outputs == channels),
            "windows take the channels that are made"
        );
        assert_eq!(
            x.len(),
            span.images * self.inputs() * span.input[0] * span.input[1],
            "the input is of its shape"
        );
        assert!(!span.stride.contains(&0), "the window moves");
        for Layer { filters, finish } in self.widen.iter().chain([&self.depthwise]) {
            assert!(finish.addend.is_none(), "only the last convolution has an addend");
            finish.check(filters.outputs, 0);
        }
        let length = span.images * narrow.outputs * span.output[0] * span.output[1];
        self.narrow.finish.check(narrow.outputs, length);
    }

    /// Channels of the input.
    fn inputs(&self) -> usize {
        self.widen.map_or(self.depthwise.filters.outputs, |widen| widen.filters.channels)
    }

    /// The result by strips of at most so many numbers.
    fn by_strips(&self, x: &[f32], span: &Span, most: usize) -> Vec<f32> {
        let (inputs, channels, outputs) =
            (self.inputs(), self.depthwise.filters.outputs, self.narrow.filters.outputs);
        let (plane, height) = (span.input[0] * span.input[1], span.output[0]);
        let places = height * span.output[1];
        let threads = threads(span.images * channels * (inputs * plane + outputs * places));
        let bands = if threads < 2 || span.images.is_multiple_of(threads) {
            1
        } else {
            (BANDS * threads).min(height).max(1)
        };
        // SAFETY: the tasks are all rows of all images.
        unsafe {
            filled(span.images * outputs * places, |to| {
                divide(threads, span.images * bands, &|at| {
                    let (image, band) = (at / bands, at % bands);
                    let target = Target {
                        to,
                        finish: self.narrow.finish,
                        bias_for: BiasFor::Row,
                        start: image * outputs * places,
                        stride: places,
                    };
                    let x = &x[image * inputs * plane..][..inputs * plane];
                    Band::new(self, x, span).fill(part(height, bands, band), most, &target);
                });
            })
        }
    }
}

/// Neighbouring rows of an image's result, which are made one strip after the other.
struct Band<'a> {
    of: &'a Separable<'a>,
    x: &'a [f32],
    span: &'a Span,
    /// Some of the channels that were made: what the windows of a strip see.
    made: Vec<f32>,
    /// Of all of them, the rows that the next strip sees, too, and how far channels are apart in it.
    kept: Vec<f32>,
    apart: usize,
    /// The row of the image up to which channels were made.
    end: usize,
    /// All channels of a strip, as the windows give them.
    seen: Vec<f32>,
}

impl<'a> Band<'a> {
    fn new(of: &'a Separable<'a>, x: &'a [f32], span: &'a Span) -> Self {
        let apart = reach(of, span).saturating_sub(span.stride[0]) * span.input[1];
        let mut kept = scratch();
        if of.widen.is_some() {
            at_least(&mut kept, of.depthwise.filters.outputs * apart);
        }
        Self { of, x, span, made: scratch(), kept, apart, end: 0, seen: scratch() }
    }

    /// Writes these rows.
    fn fill(mut self, rows: Range<usize>, most: usize, target: &Target<'_>) {
        let (Layer { filters, finish }, narrow) = (self.of.depthwise, self.of.narrow.filters);
        let (channels, width) = (filters.outputs, self.span.output[1]);
        let group = (PANELS * filters.isa.tile().0).min(channels);
        // For each row of the result, on both sides of the windows.
        let each = (group * self.span.input[1] * self.span.stride[0]).max(channels * width);
        let strips = rows.len().div_ceil((most / each.max(1)).max(1));
        for strip in 0..strips {
            let own = part(rows.len(), strips, strip);
            let own = rows.start + own.start..rows.start + own.end;
            let count = own.len() * width;
            at_least(&mut self.seen, channels * count);
            if let Some(widen) = &self.of.widen {
                self.make(widen, group, own.clone());
            } else {
                let (x, span, to) = (self.x, self.span, &Shared::new(as_uninit(&mut self.seen)));
                let (own, rows) = (0..channels, own.clone());
                filters.isa.run(Planes { filters, x, span, finish, to, before: 0, own, rows });
            }
            let target = Target { start: target.start + own.start * width, ..*target };
            product(narrow, 0..narrow.outputs, &self.seen, [count, count], &target);
        }
        keep(self.made);
        keep(self.kept);
        keep(self.seen);
    }

    /// Makes the channels, a group of them at a time, and their windows of some rows.
    fn make(&mut self, widen: &Layer<'_>, group: usize, rows: Range<usize>) {
        let Layer { filters, finish } = self.of.depthwise;
        let (channels, width) = (filters.outputs, self.span.input[1]);
        let (own, next) = (self.rows_seen(&rows), self.rows_seen(&(rows.end..rows.end + 1)));
        // Numbers of a channel: all, those that are there already, and those that the next strip will find.
        let plane = own.len() * width;
        let there = self.end.saturating_sub(own.start) * width;
        let left = own.end.saturating_sub(next.start) * width;
        let span = Span {
            images: 1,
            input: [own.len(), width],
            pad: [self.span.pad[0].saturating_sub(rows.start * self.span.stride[0]), self.span.pad[1]],
            output: [rows.len(), self.span.output[1]],
            ..*self.span
        };
        let places = rows.len() * self.span.output[1];
        at_least(&mut self.made, group * plane);
        for first in (0..channels).step_by(group) {
            let group = first..(first + group).min(channels);
            let made = &mut self.made[..group.len() * plane];
            for (made, channel) in made.chunks_exact_mut(plane.max(1)).zip(group.clone()) {
                made[..there].copy_from_slice(&self.kept[channel * self.apart..][..there]);
            }
            let target = Target {
                to: &Shared::new(as_uninit(made)),
                finish: widen.finish,
                bias_for: BiasFor::Row,
                start: there,
                stride: plane,
            };
            let x = &self.x[own.start * width + there..];
            product(widen.filters, group.clone(), x, [self.span.input[0] * width, plane - there], &target);
            for (made, channel) in made.chunks_exact(plane.max(1)).zip(group.clone()) {
                self.kept[channel * self.apart..][..left].copy_from_slice(&made[plane - left..]);
            }
            let to = &Shared::new(as_uninit(&mut self.seen[first * places..group.end * places]));
            let (x, rows) = (&*made, 0..rows.len());
            filters.isa.run(Planes { filters, x, span: &span, finish, to, before: first, own: group, rows });
        }
        self.end = own.end;
    }

    /// Rows of the image that the windows of some rows see.
    fn rows_seen(&self, rows: &Range<usize>) -> Range<usize> {
        let reach = reach(self.of, self.span);
        let inside = |row: usize| row.saturating_sub(self.span.pad[0]).min(self.span.input[0]);
        inside(rows.start * self.span.stride[0])..inside((rows.end - 1) * self.span.stride[0] + reach)
    }
}

/// How many rows a window sees, from the first one to the last.
fn reach(of: &Separable<'_>, span: &Span) -> usize {
    of.depthwise.filters.kernel[0].saturating_sub(1) * span.dilation[0] + 1
}

/// Some channels of a convolution of one element, from the first one of a panel on, for neighbouring places: `x` has so many from
/// one of its channels to the next, of which so many are wanted.
fn product(
    filters: &Filters,
    channels: Range<usize>,
    x: &[f32],
    [apart, count]: [usize; 2],
    target: &Target<'_>,
) {
    if count == 0 {
        return;
    }
    let (tile, width) = filters.isa.tile();
    let (rows, depth) = (channels.len(), filters.channels);
    let span = Span {
        images: 1,
        input: [1, apart],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [0, 0],
        output: [1, count],
    };
    let left = Left { items: &filters.items[channels.start * depth..channels.end * depth], rows, depth };
    let bias = target.finish.bias.map(|bias| &bias[channels]);
    let target = &Target { finish: Finish { bias, ..target.finish }, ..*target };
    let (panels, wide) = (0..rows.div_ceil(tile), 0..tiles_of(count, width));
    filters.isa.run(Piece { filters, span: &span, own: x, left, panels, wide, target });
}

/// Makes memory as long, where it is shorter.
fn at_least(memory: &mut Vec<f32>, length: usize) {
    if memory.len() < length {
        memory.resize(length, 0.0);
    }
}

#[cfg(test)]
mod tests;
