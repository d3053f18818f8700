//! Convolutions in which each channel of the result sees one channel of the input.
//!
//! A plane is copied once with its padding, each row divided into as many pieces as the window's step is long, so that
//! neighbouring places read neighbouring numbers. A row of the result is then a sum of rows.

use std::ops::Range;

use super::{Filters, Span};
use crate::isa::Work;
use crate::lanes::{Lanes, mask};
use crate::threads::{Shared, divide, part, threads};
use crate::tile::{BiasFor, Columns, Finish, Target, finish};

/// The sums of all planes.
pub(super) fn fill(filters: &Filters, x: &[f32], span: &Span, finish: Finish<'_>, to: &Shared<'_>) {
    let planes = span.images * filters.outputs;
    let area = span.output[0] * span.output[1];
    let window = filters.kernel[0] * filters.kernel[1];
    // A pass over memory for each plane costs more than the products of a small window.
    let threads = threads(planes * area.max(span.input[0] * span.input[1]) * window.max(8));
    let tasks = if threads > 1 { planes.min(8 * threads) } else { 1 };
    divide(threads, tasks, &|at| {
        let planes = part(planes, tasks, at);
        filters.isa.run(Planes { filters, x, span, finish, to, own: planes });
    });
}

/// Some planes of the result.
struct Planes<'a> {
    filters: &'a Filters,
    x: &'a [f32],
    span: &'a Span,
    finish: Finish<'a>,
    to: &'a Shared<'a>,
    own: Range<usize>,
}

/// A plane with its padding, divided.
struct Padded {
    /// The length of a row, of all its pieces.
    row: usize,
    /// The length of a piece.
    piece: usize,
    items: Vec<f32>,
    /// For each number of a row all bits where it is inside of the plane, and none where it is padding.
    inside: Vec<f32>,
    /// A row of the plane with what is beside it, for those that have nothing beside them in memory.
    spare: Vec<f32>,
}

impl Padded {
    /// Zeros, with `more` numbers that can be read beyond the end of each piece.
    fn new(filters: &Filters, span: &Span, more: usize) -> Self {
        let reach = |axis: usize| {
            let places = span.output[axis].saturating_sub(1) * span.stride[axis];
            places + (filters.kernel[axis].saturating_sub(1)) * span.dilation[axis] + 1
        };
        let (stride, left) = (span.stride[1], span.pad[1]);
        let piece = reach(1).div_ceil(stride) + more;
        let (rows, row) = (reach(0), piece * stride);
        let column = |at: usize| at % piece * stride + at / piece;
        let inside = (0..row).map(|at| mask((left..left + span.input[1]).contains(&column(at)))).collect();
        Self { row, piece, items: vec![0.0; rows * row], inside, spare: vec![0.0; row] }
    }

    /// Takes the numbers of the plane that begins at `plane` in `x`; those of the padding stay.
    #[inline(always)]
    fn copy<L: Lanes>(&mut self, lanes: L, x: &[f32], plane: usize, span: &Span) {
        let [height, width] = span.input;
        let (stride, left) = (span.stride[1], span.pad[1]);
        if width == 0 {
            return;
        }
        for (y, to) in self.items.chunks_exact_mut(self.row).skip(span.pad[0]).take(height).enumerate() {
            let start = plane + y * width;
            if stride > 2 {
                for (piece, to) in to.chunks_exact_mut(self.piece).enumerate() {
                    // The first number of the row that is in this piece, and where.
                    let first = (piece + stride - left % stride) % stride;
                    let to = to.iter_mut().skip((left + first) / stride);
                    for (to, from) in to.zip(x[start..start + width].iter().skip(first).step_by(stride)) {
                        *to = *from;
                    }
                }
                continue;
            }
            // What is beside the row is the end of other rows, and masked. Only at both ends of `x` there is nothing.
            let beside = start.checked_sub(left).and_then(|start| x.get(start..start + self.row));
            let from = if let Some(from) = beside {
                from
            } else {
                for (to, from) in self.spare.iter_mut().skip(left).zip(&x[start..start + width]) {
                    *to = *from;
                }
                &self.spare
            };
            let mut at = 0;
            while at + L::WIDTH <= self.piece && at * stride < left + width {
                if stride == 1 {
                    let inside = lanes.load(&self.inside[at..]);
                    lanes.store(lanes.and(lanes.load(&from[at..]), inside), &mut to[at..]);
                } else {
                    let (a, b) = (lanes.load(&from[2 * at..]), lanes.load(&from[2 * at + L::WIDTH..]));
                    let inside = lanes.load(&self.inside[at..]);
                    lanes.store(lanes.and(lanes.even(a, b), inside), &mut to[at..]);
                    let inside = lanes.load(&self.inside[self.piece + at..]);
                    lanes.store(lanes.and(lanes.odd(a, b), inside), &mut to[self.piece + at..]);
                }
                at += L::WIDTH;
            }
        }
    }
}

impl Work for Planes<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let Planes { filters, x, span, to, .. } = self;
        let window = filters.kernel[0] * filters.kernel[1];
        let (height, width) = (span.output[0], span.output[1]);
        let size = span.input[0] * span.input[1];
        let mut padded = Padded::new(filters, span, 4 * L::WIDTH);
        // Where the elements of the window are, from its first one.
        let mut offsets = Vec::with_capacity(window);
        for element in 0..window {
            let down = element / filters.kernel[1] * span.dilation[0];
            let across = element % filters.kernel[1] * span.dilation[1];
            let piece = across % span.stride[1] * padded.piece;
            offsets.push(down * padded.row + piece + across / span.stride[1]);
        }
        let mut held = None;
        for plane in self.own {
            let (image, output) = (plane / filters.outputs, plane % filters.outputs);
            let source = image * filters.groups + output / (filters.outputs / filters.groups);
            if held.replace(source) != Some(source) {
                padded.copy(lanes, x, source * size, span);
            }
            let weights = &filters.items[output * window..][..window];
            let bias = self.finish.bias.map(|bias| &bias[output..=output]);
            let finish = Finish { bias, ..self.finish };
            let target =
                Target { to, finish, bias_for: BiasFor::All, start: plane * height * width, stride: width };
            let places =
                Places { from: &padded.items, down: span.stride[0] * padded.row, weights, offsets: &offsets };
            let mut x = 0;
            while x < width {
                // As many rows at a time as make eight vectors of sums, or four of a narrow image.
                let left = width - x;
                if left > 2 * L::WIDTH {
                    places.all::<L, 2, 4>(lanes, x, height, left, &target);
                    x += 4 * L::WIDTH;
                } else if left > L::WIDTH {
                    places.all::<L, 4, 2>(lanes, x, height, left, &target);
                    x += 2 * L::WIDTH;
                } else {
                    places.all::<L, 4, 1>(lanes, x, height, left, &target);
                    x += L::WIDTH;
                }
            }
        }
    }
}

/// What the window sees of one plane.
struct Places<'a> {
    from: &'a [f32],
    /// How far rows of the result are apart in it.
    down: usize,
    weights: &'a [f32],
    offsets: &'a [usize],
}

impl Places<'_> {
    /// Some columns of all rows, from `x` on.
    #[inline(always)]
    fn all<L: Lanes, const ROWS: usize, const V: usize>(
        &self,
        lanes: L,
        x: usize,
        height: usize,
        left: usize,
        target: &Target<'_>,
    ) {
        let columns = Columns { first: x, count: left.min(V * L::WIDTH) };
        let mut y = 0;
        while y + ROWS <= height {
            self.some::<L, ROWS, V>(lanes, y, target, &columns);
            y += ROWS;
        }
        while y < height {
            self.some::<L, 1, V>(lanes, y, target, &columns);
            y += 1;
        }
    }

    /// Some columns of some rows.
    #[inline(always)]
    #[expect(unsafe_code, reason = "each task writes planes of its own")]
    fn some<L: Lanes, const ROWS: usize, const V: usize>(
        &self,
        lanes: L,
        y: usize,
        target: &Target<'_>,
        columns: &Columns,
    ) {
        let from = &self.from[y * self.down + columns.first..];
        let mut sums = [[lanes.zero(); V]; ROWS];
        for (&weight, &offset) in self.weights.iter().zip(self.offsets) {
            let weight = lanes.splat(weight);
            for row in 0..ROWS {
                let from = &from[offset + row * self.down..][..V * L::WIDTH];
                for v in 0..V {
                    sums[row][v] = lanes.fma(weight, lanes.load(&from[v * L::WIDTH..]), sums[row][v]);
                }
            }
        }
        // SAFETY: each plane belongs to one task.
        unsafe { finish(lanes, &sums, target, columns, y) };
    }
}
