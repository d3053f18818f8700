//! Convolutions over images, and over anything with one or two spatial dimensions.

#![allow(unsafe_code)]

mod depthwise;
mod patches;
mod separable;
mod winograd;

use std::ops::Range;

use crate::isa::{Isa, Work};
use crate::lanes::Lanes;
use crate::threads::{Shared, divide, filled, keep, part, scratch, tasks, threads};
use crate::tile::{BLOCK, BiasFor, Columns, Finish, Left, Target, tiles};
use patches::Patches;
pub use separable::{Layer, Separable};
use winograd::Transformed;

/// How a window moves over images, and over how many.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The number of images.
    pub images: usize,
    /// Height and width of an image.
    pub input: [usize; 2],
    /// How far the window moves, down and across. Not 0.
    pub stride: [usize; 2],
    /// How far the elements of the window are apart, down and across.
    pub dilation: [usize; 2],
    /// The zeros above and to the left. What is beyond the image on any side is zero.
    pub pad: [usize; 2],
    /// Height and width of a result.
    pub output: [usize; 2],
}

impl Span {
    /// True where the window is one element that stands on each element of the image.
    fn stays(&self, kernel: [usize; 2]) -> bool {
        kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0] && self.input == self.output
    }
}

/// The weights of a convolution, laid out for the instructions that are there.
#[derive(Clone, Debug)]
pub struct Filters {
    isa: Isa,
    outputs: usize,
    /// Channels of the input in each group.
    channels: usize,
    kernel: [usize; 2],
    groups: usize,
    items: Vec<f32>,
    /// The same weights for images that are large enough for fewer products.
    transformed: Option<Transformed>,
}

/// The most numbers that transformed weights of one convolution may take: where they are more, images are small and reading
/// them takes longer than the products that they save.
const MAX_TRANSFORMED: usize = 36 << 16;

/// Patches that are laid out are used for so many channels at least, where threads have enough to do: laying them out takes as long as
/// their products with some 30.
const ROWS_OF_PATCHES: usize = 256;

/// Tiles of the result below which there is too little work for each number of transformed weights.
const FEW_TILES: usize = 12;

impl Filters {
    /// Lays out `weights`: for each of the `outputs` channels of the result, `channels` windows of `kernel` elements. The
    /// channels of input and result are in `groups`. Panics where the sizes do not fit each other.
    pub fn new(
        isa: Isa,
        weights: &[f32],
        outputs: usize,
        channels: usize,
        kernel: [usize; 2],
        groups: usize,
    ) -> Self {
        let depth = channels * kernel[0] * kernel[1];
        assert!(groups > 0 && outputs.is_multiple_of(groups), "outputs are in groups");
        assert_eq!(weights.len(), outputs * depth, "weights are of their shape");
        let items = if channels == 1 {
            // One channel for each: the elements of a window are read one by one.
            weights.to_vec()
        } else {
            lay(weights, outputs / groups, channels, kernel[0] * kernel[1], isa.tile().0)
        };
        Self { isa, outputs, channels, kernel, groups, items, transformed: None }
    }

    /// How many numbers more [`Filters::transform`] takes in memory; `None` where there is no faster way for such weights.
    pub fn transformed_len(&self) -> Option<usize> {
        if self.kernel != [3, 3] || self.groups > 1 || self.channels < 8 || self.outputs < 8 {
            return None;
        }
        Transformed::laid_len(self.outputs, self.channels).filter(|&length| length <= MAX_TRANSFORMED)
    }

    /// Lays the weights, given once more, out for windows that move by one element, too. Sums are then less exact by two to
    /// three bits. Panics where the number of weights is another one.
    pub fn transform(&mut self, weights: &[f32]) {
        assert_eq!(weights.len(), self.outputs * self.channels * 9, "weights are of their shape");
        self.transformed = Some(Transformed::new(self.isa, weights, self.outputs, self.channels));
    }

    /// How many numbers they take in memory.
    pub fn len(&self) -> usize {
        self.items.len() + self.transformed.as_ref().map_or(0, Transformed::len)
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The convolution of images, finished: images, channels, height and width in this order, in `x` and in the result.
    /// Panics where `x`, or what finishes the result, has not the right size.
    pub fn convolve(&self, x: &[f32], span: &Span, finish: Finish<'_>) -> Vec<f32> {
        let plane: usize = span.input.iter().product();
        assert_eq!(x.len(), span.images * self.groups * self.channels * plane, "the input is of its shape");
        assert!(!span.stride.contains(&0), "the window moves");
        let length = span.images * self.outputs * span.output[0] * span.output[1];
        finish.check(self.outputs, length);
        // SAFETY: the tasks of both are all images by all channels by all places of the window.
        unsafe {
            filled(length, |to| {
                if self.channels == 1 {
                    depthwise::fill(self, x, span, finish, to);
                } else if let Some(transformed) = self.transformed.as_ref().filter(|_| is_fast(span)) {
                    transformed.fill(self.isa, x, span, finish, to);
                } else {
                    self.fill(x, &self.flat(span), finish, to);
                }
            })
        }
    }

    /// The same convolution with one long row, where the window is one element that stands on each element of the image.
    fn flat(&self, span: &Span) -> Span {
        if span.stays(self.kernel) {
            let row = [1, span.input[0] * span.input[1]];
            return Span { input: row, output: row, ..*span };
        }
        *span
    }

    fn fill(&self, x: &[f32], span: &Span, finish: Finish<'_>, to: &Shared<'_>) {
        let (tile, width) = self.isa.tile();
        let (places, rows) = (span.output[0] * span.output[1], self.outputs / self.groups);
        let depth = self.channels * self.kernel[0] * self.kernel[1];
        let products = span.images * places * self.outputs * depth;
        let threads = threads(products);
        let panels = rows.div_ceil(tile);
        let wide = tiles_of(places, width);
        let whole = span.images * self.groups;
        // Enough tasks for all threads: first by place, then by channel, for which the patches are laid out again. Many channels
        // from few are divided by channel first: a depthwise step comes next, and then finds what it reads near its thread.
        let wanted = tasks(threads, products);
        let most = (if span.stays(self.kernel) { panels / 8 } else { rows / ROWS_OF_PATCHES }).max(1);
        let by_channel = whole == 1 && rows > self.channels && most >= threads;
        let least = if by_channel { threads } else { 1 };
        let across = wanted.div_ceil((whole * least).max(1)).clamp(1, wide.max(1));
        let parts = (whole * across).max(1);
        let least = threads.div_ceil(parts).clamp(1, panels.max(1)).max(least);
        let down = wanted.div_ceil(parts).clamp(least, most.max(least));
        divide(threads, whole * across * down, &|at| {
            let (piece, at) = (at % (across * down), at / (across * down));
            let (image, group) = (at / self.groups, at % self.groups);
            let own = &x[(image * self.groups + group) * self.channels * span.input[0] * span.input[1]..];
            let first = group * rows;
            let target = Target {
                to,
                finish: Finish { bias: finish.bias.map(|bias| &bias[first..][..rows]), ..finish },
                bias_for: BiasFor::Row,
                start: (image * self.outputs + first) * places,
                stride: places,
            };
            let left = Left { items: &self.items[first * depth..][..rows * depth], rows, depth };
            let (channels, places) =
                if by_channel { (piece / across, piece % across) } else { (piece % down, piece / down) };
            let (panels, wide) = (part(panels, down, channels), part(wide, across, places));
            self.isa.run(Piece { filters: self, span, own, left, panels, wide, target: &target });
        });
    }
}

/// How many tiles there are for so many places. One place more than whole tiles is done beside the last one.
fn tiles_of(places: usize, tile: usize) -> usize {
    if has_one_more(places, tile) { places / tile } else { places.div_ceil(tile) }
}

/// True where one place is left beside tiles of so many.
fn has_one_more(places: usize, tile: usize) -> bool {
    places > tile && places % tile == 1
}

/// True for what transformed weights can do and are worth it.
fn is_fast(span: &Span) -> bool {
    let tiles = span.images * span.output[0].div_ceil(4) * span.output[1].div_ceil(4);
    span.stride == [1, 1] && span.dilation == [1, 1] && tiles >= FEW_TILES
}

/// Some channels of the result at some places.
struct Piece<'a> {
    filters: &'a Filters,
    span: &'a Span,
    /// From the first channel of the group on.
    own: &'a [f32],
    left: Left<'a>,
    panels: Range<usize>,
    wide: Range<usize>,
    target: &'a Target<'a>,
}

impl Work for Piece<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let full = VECTORS * L::WIDTH;
        let places = self.span.output[0] * self.span.output[1];
        let mut partial = scratch();
        let mut patches = Patches::<L, VECTORS>::new(lanes, self.own, self.filters, self.span);
        let together = (BLOCK / (self.left.depth * full).max(1)).max(1);
        let mut panel = self.wide.start;
        while panel < self.wide.end {
            // Panels that are not whole stand alone.
            let mut whole = (places / full).min(self.wide.end).saturating_sub(panel).clamp(1, together);
            let first = panel * full;
            let mut count = (whole * full).min(places - first);
            if has_one_more(places, full) {
                // The last one, and what is beside it, too.
                let last = places / full - 1;
                whole = whole.min(last.saturating_sub(panel)).max(1);
                count = if panel == last { full + 1 } else { whole * full };
            }
            let columns = Columns { first, count };
            patches.stand_at(&columns);
            panel += whole;
            let panels = self.panels.clone();
            // SAFETY: each task has channels and places of its own.
            unsafe {
                tiles::<L, ROWS, VECTORS>(
                    lanes,
                    self.left,
                    panels,
                    &mut patches,
                    &mut partial,
                    self.target,
                    &columns,
                );
            }
        }
        keep(patches.into_memory());
        keep(partial);
    }
}

/// Lays out weights as rows of the left side, group after group: a step of depth is an element of the window and then a
/// channel, so that neighbouring steps read the same place of all channels.
fn lay(weights: &[f32], rows: usize, channels: usize, window: usize, tile: usize) -> Vec<f32> {
    let mut laid = Vec::with_capacity(weights.len());
    let depth = channels * window;
    if depth == 0 || rows == 0 {
        return laid;
    }
    for group in weights.chunks_exact(rows * depth) {
        for panel in group.chunks(tile * depth) {
            for element in 0..window {
                for channel in 0..channels {
                    let column = channel * window + element;
                    laid.extend(panel[column..].iter().step_by(depth));
                }
            }
        }
    }
    laid
}

#[cfg(test)]
mod tests;
