//! Convolutions in which each channel of the result sees one channel of the input.
//!
//! A plane is copied once with its padding, each row divided into as many pieces as the window's step is long, so that
//! neighbouring places read neighbouring numbers. A row of the result is then a sum of rows.

use std::ops::Range;

use super::{Filters, Span};
use crate::isa::Work;
use crate::lanes::Lanes;
use crate::threads::{Shared, divide, part, threads};
use crate::tile::{Columns, Finish, Target, finish};

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
}

impl Padded {
    /// Zeros, with `more` numbers that can be read beyond the end of each piece.
    fn new(filters: &Filters, span: &Span, more: usize) -> Self {
        let reach = |axis: usize| {
            let places = span.output[axis].saturating_sub(1) * span.stride[axis];
            places + (filters.kernel[axis].saturating_sub(1)) * span.dilation[axis] + 1
        };
        let piece = reach(1).div_ceil(span.stride[1]) + more;
        let (rows, row) = (reach(0), piece * span.stride[1]);
        Self { row, piece, items: vec![0.0; rows * row] }
    }

    /// Takes the numbers of a plane; those of the padding stay.
    #[inline(always)]
    fn copy<L: Lanes>(&mut self, lanes: L, plane: &[f32], span: &Span) {
        let [height, width] = span.input;
        let (stride, left) = (span.stride[1], span.pad[1]);
        if width == 0 {
            return;
        }
        let rows = self.items.chunks_exact_mut(self.row).skip(span.pad[0]);
        for (to, from) in rows.zip(plane.chunks_exact(width)).take(height) {
            if stride == 2 {
                // The numbers 0, 2, .. go into one piece, and 1, 3, .. into the other.
                let (one, other) = to.split_at_mut(self.piece);
                let (even, odd) = if left % 2 == 0 { (one, other) } else { (other, one) };
                let even = even.get_mut(left / 2..).unwrap_or_default();
                let odd = odd.get_mut(left.div_ceil(2)..).unwrap_or_default();
                let mut done = 0;
                while 2 * (done + L::WIDTH) <= width.min(2 * odd.len()).min(2 * even.len()) {
                    let from = &from[2 * done..];
                    let (a, b) = (lanes.load(from), lanes.load(&from[L::WIDTH..]));
                    lanes.store(lanes.even(a, b), &mut even[done..]);
                    lanes.store(lanes.odd(a, b), &mut odd[done..]);
                    done += L::WIDTH;
                }
                for (to, from) in even[done..].iter_mut().zip(from.iter().skip(2 * done).step_by(2)) {
                    *to = *from;
                }
                for (to, from) in odd[done..].iter_mut().zip(from.iter().skip(2 * done + 1).step_by(2)) {
                    *to = *from;
                }
                continue;
            }
            for (piece, to) in to.chunks_exact_mut(self.piece).enumerate() {
                // The first number of the row that is in this piece, and where.
                let first = (piece + stride - left % stride) % stride;
                let at = (left + first) / stride;
                let (Some(from), Some(to)) = (from.get(first..), to.get_mut(at..)) else { continue };
                if stride == 1 {
                    let count = from.len().min(to.len());
                    to[..count].copy_from_slice(&from[..count]);
                } else {
                    for (to, from) in to.iter_mut().zip(from.iter().step_by(stride)) {
                        *to = *from;
                    }
                }
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
                padded.copy(lanes, &x[source * size..][..size], span);
            }
            let weights = &filters.items[output * window..][..window];
            let bias = self.finish.bias.map(|bias| &bias[output..=output]);
            let finish = Finish { bias, ..self.finish };
            let start = plane * height * width;
            let target = Target { to, finish, by_row: true, start, stride: 0 };
            for y in 0..height {
                let from = &padded.items[y * span.stride[0] * padded.row..];
                let mut at = 0;
                while at < width {
                    let columns =
                        |most: usize| Columns { first: y * width + at, count: most.min(width - at) };
                    if width - at > 2 * L::WIDTH {
                        row::<L, 4>(lanes, &from[at..], weights, &offsets, &target, &columns(4 * L::WIDTH));
                        at += 4 * L::WIDTH;
                    } else {
                        row::<L, 1>(lanes, &from[at..], weights, &offsets, &target, &columns(L::WIDTH));
                        at += L::WIDTH;
                    }
                }
            }
        }
    }
}

/// Neighbouring places of a row.
#[inline(always)]
#[expect(unsafe_code, reason = "each task writes planes of its own")]
fn row<L: Lanes, const V: usize>(
    lanes: L,
    from: &[f32],
    weights: &[f32],
    offsets: &[usize],
    target: &Target<'_>,
    columns: &Columns,
) {
    let mut sums = [[lanes.zero(); V]; 1];
    for (&weight, &offset) in weights.iter().zip(offsets) {
        let (weight, from) = (lanes.splat(weight), &from[offset..][..V * L::WIDTH]);
        for v in 0..V {
            sums[0][v] = lanes.fma(weight, lanes.load(&from[v * L::WIDTH..]), sums[0][v]);
        }
    }
    // SAFETY: each plane belongs to one task.
    unsafe { finish(lanes, &sums, target, columns, 0) };
}
