//! Convolutions in which each channel of the result sees one channel of the input.
//!
//! A strip of a plane is copied with its padding, each row divided into as many pieces as the window's step is long, so that
//! neighbouring places read neighbouring numbers. A row of the result is then a sum of rows, which are in the nearest cache.

use std::ops::Range;

use super::{Filters, Span};
use crate::isa::Work;
use crate::lanes::{Lanes, mask};
use crate::threads::{Shared, divide, part, tasks, threads};
use crate::tile::{BiasFor, Columns, Finish, Target, finish};

/// A strip is as high as fits into so many numbers, which are half of the nearest cache.
const STRIP: usize = 4096;
/// A strip gives so many rows of the result at least: each reads some rows that the one before it has read.
const LEAST_ROWS: usize = 4;

/// The sums of all planes.
pub(super) fn fill(filters: &Filters, x: &[f32], span: &Span, finish: Finish<'_>, to: &Shared<'_>) {
    let planes = span.images * filters.outputs;
    let area = span.output[0] * span.output[1];
    let window = filters.kernel[0] * filters.kernel[1];
    // A pass over memory for each plane costs more than the products of a small window.
    let products = planes * area.max(span.input[0] * span.input[1]) * window.max(8);
    let threads = threads(products);
    let tasks = planes.min(tasks(threads, products));
    divide(threads, tasks, &|at| {
        let planes = part(planes, tasks, at);
        filters.isa.run(Planes {
            filters,
            x,
            span,
            finish,
            to,
            before: 0,
            own: planes,
            rows: 0..span.output[0],
        });
    });
}

/// Some planes of the result.
pub(super) struct Planes<'a> {
    pub(super) filters: &'a Filters,
    /// The image, and where the result goes: both from the same plane on.
    pub(super) x: &'a [f32],
    pub(super) span: &'a Span,
    pub(super) finish: Finish<'a>,
    pub(super) to: &'a Shared<'a>,
    /// How many planes are before the first one of both; where there are any, each plane of the result has one of its own.
    pub(super) before: usize,
    pub(super) own: Range<usize>,
    /// Rows of each plane, which are all that is there of the result.
    pub(super) rows: Range<usize>,
}

/// A strip of a plane with its padding, divided.
struct Padded {
    /// The length of a row, of all its pieces.
    row: usize,
    /// The length of a piece.
    piece: usize,
    /// How many vectors of a piece have numbers of the plane.
    taken: usize,
    /// How many rows of the result it is for.
    gives: usize,
    items: Vec<f32>,
    /// For each number of a row all bits where it is inside of the plane, and none where it is padding.
    inside: Vec<f32>,
    /// A row of the plane with what is beside it, for those that have nothing beside them in memory.
    spare: Vec<f32>,
    /// The row of the result from which on it was for the last time: where that is the same, padding above and below is zero already.
    first: Option<usize>,
}

impl Padded {
    /// Zeros, with four vectors of so many numbers that can be read beyond the end of each piece.
    fn new(filters: &Filters, span: &Span, vector: usize) -> Self {
        let seen = |axis: usize, places: usize| {
            let first = places.saturating_sub(1) * span.stride[axis];
            first + (filters.kernel[axis].saturating_sub(1)) * span.dilation[axis] + 1
        };
        let (stride, left) = (span.stride[1], span.pad[1]);
        let piece = seen(1, span.output[1]).div_ceil(stride) + 4 * vector;
        let taken = (left + span.input[1]).div_ceil(stride).div_ceil(vector);
        let row = piece * stride;
        let fits = (STRIP / row).saturating_sub(seen(0, 1)) / span.stride[0] + 1;
        let gives = fits.max(LEAST_ROWS).min(span.output[0].max(1));
        let places = left..left + span.input[1];
        let mut inside = Vec::with_capacity(row);
        for first in 0..stride {
            inside.extend((0..piece).map(|at| mask(places.contains(&(at * stride + first)))));
        }
        Self {
            row,
            piece,
            taken,
            gives,
            items: vec![0.0; seen(0, gives) * row],
            inside,
            spare: vec![0.0; row],
            first: None,
        }
    }

    /// Takes what the window sees from row `first` of the result on, of the plane that begins at `plane` in `x`.
    #[inline(always)]
    fn copy<L: Lanes>(&mut self, lanes: L, x: &[f32], plane: usize, first: usize, span: &Span) {
        let [height, width] = span.input;
        let (stride, left) = (span.stride[1], span.pad[1]);
        let is_elsewhere = self.first.replace(first) != Some(first);
        // Rows are counted, not divided into chunks: a division for each plane takes as long as a row.
        let (mut end, mut next) = (0, first * span.stride[0]);
        while end < self.items.len() {
            let (to, y) = (&mut self.items[end..][..self.row], next.wrapping_sub(span.pad[0]));
            (end, next) = (end + self.row, next + 1);
            if y >= height || width == 0 {
                if is_elsewhere {
                    to.fill(0.0);
                }
                continue;
            }
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
            let (inside, inside_odd) = self.inside.split_at(self.piece);
            let (to, to_odd) = to.split_at_mut(self.piece);
            let inside = inside.chunks_exact(L::WIDTH);
            let even = to.chunks_exact_mut(L::WIDTH).zip(inside).take(self.taken);
            if stride == 1 {
                for ((to, inside), from) in even.zip(from.chunks_exact(L::WIDTH)) {
                    lanes.store(lanes.and(lanes.load(from), lanes.load(inside)), to);
                }
            } else {
                let odd = to_odd.chunks_exact_mut(L::WIDTH).zip(inside_odd.chunks_exact(L::WIDTH));
                for (((to, inside), (to_odd, inside_odd)), from) in
                    even.zip(odd).zip(from.chunks_exact(2 * L::WIDTH))
                {
                    let (a, b) = (lanes.load(from), lanes.load(&from[L::WIDTH..]));
                    lanes.store(lanes.and(lanes.even(a, b), lanes.load(inside)), to);
                    lanes.store(lanes.and(lanes.odd(a, b), lanes.load(inside_odd)), to_odd);
                }
            }
        }
    }
}

impl Work for Planes<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let Planes { filters, x, span, to, before, rows, .. } = self;
        let window = filters.kernel[0] * filters.kernel[1];
        let (height, width) = (rows.len(), span.output[1]);
        let size = span.input[0] * span.input[1];
        let mut padded = Padded::new(filters, span, L::WIDTH);
        // Where the elements of the window are, from its first one.
        let mut offsets = Vec::with_capacity(window);
        for element in 0..window {
            let down = element / filters.kernel[1] * span.dilation[0];
            let across = element % filters.kernel[1] * span.dilation[1];
            let piece = across % span.stride[1] * padded.piece;
            offsets.push(down * padded.row + piece + across / span.stride[1]);
        }
        let reach = offsets.iter().max().copied().unwrap_or(0);
        let mut held = None;
        let last = self.own.end.saturating_sub(1);
        // A group has one channel of the input, and as a rule one of the result.
        let each = filters.outputs / filters.groups;
        let (mut image, mut next) = (self.own.start / filters.outputs, self.own.start % filters.outputs);
        for plane in self.own {
            let output = next;
            let source = image * filters.groups + if each == 1 { output } else { output / each };
            next += 1;
            if next == filters.outputs {
                (image, next) = (image + 1, 0);
            }
            let weights = &filters.items[output * window..][..window];
            let bias = self.finish.bias.map(|bias| &bias[output..=output]);
            let finish = Finish { bias, ..self.finish };
            for done in (0..height).step_by(padded.gives) {
                let first = rows.start + done;
                if held.replace((source, first)) != Some((source, first)) {
                    padded.copy(lanes, x, (source - before) * size, first, span);
                }
                let start = ((plane - before) * height + done) * width;
                let target = Target { to, finish, bias_for: BiasFor::All, start, stride: width };
                let gives = padded.gives.min(height - done);
                let later = ((last - plane) * height + height - done - gives) * width;
                let places = Places {
                    from: &padded.items,
                    down: span.stride[0] * padded.row,
                    weights,
                    offsets: &offsets,
                    reach,
                    rows: gives,
                    width,
                    later,
                };
                places.all(lanes, &target);
            }
        }
    }
}

/// What the window sees of one strip.
struct Places<'a> {
    from: &'a [f32],
    /// How far rows of the result are apart in it.
    down: usize,
    weights: &'a [f32],
    /// Where the elements of the window are, from its first one, and how far the last of them is.
    offsets: &'a [usize],
    reach: usize,
    /// Rows of the result, and how long they are.
    rows: usize,
    width: usize,
    /// So many numbers of the result follow that are written later: by the rows and planes that come after these.
    later: usize,
}

impl Places<'_> {
    #[inline(always)]
    fn all<L: Lanes>(&self, lanes: L, target: &Target<'_>) {
        let mut x = 0;
        while x < self.width {
            // As many rows at a time as make eight vectors of sums or so, or four of a narrow image.
            let vectors = (self.width - x).div_ceil(L::WIDTH).min(4);
            match vectors {
                4 => self.columns::<L, 2, 4>(lanes, x, target),
                3 => self.columns::<L, 3, 3>(lanes, x, target),
                2 => self.columns::<L, 4, 2>(lanes, x, target),
                _ => self.columns::<L, 4, 1>(lanes, x, target),
            }
            x += vectors * L::WIDTH;
        }
    }

    /// Some columns of all rows, from `x` on.
    #[inline(always)]
    fn columns<L: Lanes, const ROWS: usize, const V: usize>(&self, lanes: L, x: usize, target: &Target<'_>) {
        let count = (self.width - x).min(V * L::WIDTH);
        // Where a row is one piece, what is written beyond its end is the next rows', which are written next. Only the last ones of
        // the last plane have none, or too few.
        let whole = if x == 0 { V * L::WIDTH } else { count };
        let last = self.rows.saturating_sub((whole - count).saturating_sub(self.later).div_ceil(self.width));
        let mut y = 0;
        if self.rows >= ROWS {
            while y < self.rows {
                // The last time some rows are done once more: few sums at a time take as long as many.
                y = y.min(self.rows - ROWS);
                let count = if y + ROWS <= last { whole } else { count };
                self.some::<L, ROWS, V>(lanes, y, target, &Columns { first: x, count });
                y += ROWS;
            }
        }
        while y < self.rows {
            let count = if y < last { whole } else { count };
            self.some::<L, 1, V>(lanes, y, target, &Columns { first: x, count });
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
        // All of one length, so that one question for each element of the window is enough.
        let reach = self.reach + V * L::WIDTH;
        let mut rows = [&self.from[..0]; ROWS];
        for (row, from) in rows.iter_mut().enumerate() {
            *from = &self.from[(y + row) * self.down + columns.first..][..reach];
        }
        let mut sums = [[lanes.zero(); V]; ROWS];
        for (&weight, &offset) in self.weights.iter().zip(self.offsets) {
            let weight = lanes.splat(weight);
            for row in 0..ROWS {
                let from = &rows[row][offset..][..V * L::WIDTH];
                for v in 0..V {
                    sums[row][v] = lanes.fma(weight, lanes.load(&from[v * L::WIDTH..]), sums[row][v]);
                }
            }
        }
        // SAFETY: each plane belongs to one task, and rows are written in their order.
        unsafe { finish(lanes, &sums, target, columns, y) };
    }
}
