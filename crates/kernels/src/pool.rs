//! Maxima of windows, and means of whole planes.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::convolution::Span;
use crate::isa::{Isa, Work};
use crate::lanes::Lanes;
use crate::threads::{divide, filled, part, threads};
use crate::tile::{MAX_WIDTH, write_some};

/// The greatest number that a window of `kernel` elements sees at each place, plane by plane: `span.images` is how many
/// planes there are. What is beyond a plane does not count, and nothing is as great as what is no number. Panics where
/// `x` has not the right size.
pub fn maxima(isa: Isa, x: &[f32], kernel: [usize; 2], span: &Span) -> Vec<f32> {
    let (from, to) = (span.input[0] * span.input[1], span.output[0] * span.output[1]);
    assert_eq!(x.len(), span.images * from, "the input is of its shape");
    assert!(!span.stride.contains(&0), "the window moves");
    let threads = threads(span.images * (from * kernel[0] + to * kernel[1]));
    let tasks = if threads > 1 { span.images.min(8 * threads) } else { 1 };
    // SAFETY: the tasks are all planes, each of which belongs to one of them and is written from its first row to its last.
    unsafe {
        filled(span.images * to, |all| {
            divide(threads, tasks, &|at| {
                for plane in part(span.images, tasks, at) {
                    let to = all.part(plane * to, to);
                    isa.run(Maxima { from: &x[plane * from..][..from], to, kernel, span });
                }
            });
        })
    }
}

/// The maxima of a plane.
struct Maxima<'a> {
    from: &'a [f32],
    to: &'a mut [MaybeUninit<f32>],
    kernel: [usize; 2],
    span: &'a Span,
}

impl Work for Maxima<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let Span { input, stride, dilation, pad, output, .. } = *self.span;
        let lowest = lanes.splat(f32::NEG_INFINITY);
        // The maxima of columns, with what is beyond the plane on both sides, and room to read and write whole vectors.
        let reach = output[1].saturating_sub(1) * stride[1] + (self.kernel[1].max(1) - 1) * dilation[1] + 1;
        let mut columns = vec![f32::NEG_INFINITY; reach.max(pad[1] + input[1]) + 2 * L::WIDTH];
        for (y, to) in self.to.chunks_exact_mut(output[1].max(1)).enumerate() {
            let own = &mut columns[pad[1]..][..input[1]];
            own.fill(f32::NEG_INFINITY);
            for down in 0..self.kernel[0] {
                let row = (y * stride[0] + down * dilation[0]).checked_sub(pad[0]);
                let Some(row) = row.filter(|&row| row < input[0]) else { continue };
                let (own, own_rest) = own.split_at_mut(input[1] - input[1] % L::WIDTH);
                let (from, rest) = self.from[row * input[1]..][..input[1]].split_at(own.len());
                for (best, x) in own.chunks_exact_mut(L::WIDTH).zip(from.chunks_exact(L::WIDTH)) {
                    lanes.store(lanes.greater(lanes.load(x), lanes.load(best)), best);
                }
                for (best, &x) in own_rest.iter_mut().zip(rest) {
                    *best = greater(x, *best);
                }
            }
            let mut done = 0;
            while done < output[1] {
                let to = &mut to[done..];
                // Beyond the last place there is nothing to read for a window that moves by more than two.
                if stride[1] > 2 {
                    let mut best = f32::NEG_INFINITY;
                    for across in 0..self.kernel[1] {
                        best = greater(columns[done * stride[1] + across * dilation[1]], best);
                    }
                    to[0].write(best);
                    done += 1;
                    continue;
                }
                let mut best = lowest;
                for across in 0..self.kernel[1] {
                    let from = &columns[done * stride[1] + across * dilation[1]..];
                    best = lanes.greater(stepping(lanes, from, stride[1]), best);
                }
                write_some(lanes, best, to);
                done += L::WIDTH;
            }
        }
    }
}

/// The numbers 0, 1, 2, .. or 0, 2, 4, ..
#[inline(always)]
fn stepping<L: Lanes>(lanes: L, from: &[f32], step: usize) -> L::V {
    if step == 1 {
        return lanes.load(from);
    }
    lanes.even(lanes.load(from), lanes.load(&from[L::WIDTH..]))
}

/// The greater one; what is no number where one of them is none.
#[inline(always)]
fn greater(x: f32, best: f32) -> f32 {
    if x > best || x.is_nan() { x } else { best }
}

/// The mean of each plane of `length` numbers. Panics where `x` is not so many planes, or where a plane has no number.
pub fn means(isa: Isa, x: &[f32], length: usize) -> Vec<f32> {
    assert!(length > 0 && x.len().is_multiple_of(length), "planes of one length");
    isa.run(Means { x, length })
}

struct Means<'a> {
    x: &'a [f32],
    length: usize,
}

impl Work for Means<'_> {
    type Result = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) -> Vec<f32> {
        let mut means = Vec::with_capacity(self.x.len() / self.length);
        for plane in self.x.chunks_exact(self.length) {
            let (vectors, rest) = plane.split_at(self.length - self.length % L::WIDTH);
            let mut sums = lanes.zero();
            for x in vectors.chunks_exact(L::WIDTH) {
                sums = lanes.add(sums, lanes.load(x));
            }
            let mut all = [0.0f32; MAX_WIDTH];
            lanes.store(sums, &mut all);
            let sum: f32 = all.iter().chain(rest).sum();
            means.push(sum / self.length as f32);
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::numbers;

    #[test]
    fn maxima_are_those_written_plainly() {
        for (input, kernel, stride, dilation, pad) in [
            ([7, 9], [3, 3], 2, 1, 1),
            ([112, 112], [3, 3], 2, 1, 1),
            ([5, 40], [2, 4], 1, 2, 0),
            ([1, 1], [3, 3], 1, 1, 2),
            ([6, 33], [2, 2], 3, 1, 0),
        ] {
            let output =
                [0, 1].map(|axis| (input[axis] + 2 * pad - (kernel[axis] - 1) * dilation - 1) / stride + 1);
            let span = Span {
                images: 5,
                input,
                stride: [stride; 2],
                dilation: [dilation; 2],
                pad: [pad; 2],
                output,
            };
            let mut x = numbers(5 * input[0] * input[1], 3);
            x[0] = f32::NAN;
            let at = |plane: usize, y: usize, across_at: usize| {
                let mut best = f32::NEG_INFINITY;
                for (down, across) in
                    (0..kernel[0]).flat_map(|down| (0..kernel[1]).map(move |across| (down, across)))
                {
                    let row = (y * stride + down * dilation).checked_sub(pad).filter(|&row| row < input[0]);
                    let column =
                        (across_at * stride + across * dilation).checked_sub(pad).filter(|&c| c < input[1]);
                    if let (Some(row), Some(column)) = (row, column) {
                        best = greater(x[(plane * input[0] + row) * input[1] + column], best);
                    }
                }
                best.to_bits()
            };
            for isa in Isa::available() {
                let all = maxima(isa, &x, kernel, &span);
                for (index, best) in all.iter().enumerate() {
                    let (plane, at_place) =
                        (index / (output[0] * output[1]), index % (output[0] * output[1]));
                    assert_eq!(
                        best.to_bits(),
                        at(plane, at_place / output[1], at_place % output[1]),
                        "{isa:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn means_are_of_planes() {
        let x = numbers(3 * 53, 1);
        for isa in Isa::available() {
            for (mean, plane) in means(isa, &x, 53).iter().zip(x.chunks(53)) {
                let sum: f32 = plane.iter().sum();
                assert!((mean - sum / 53.0).abs() < 1e-6, "{isa:?}");
            }
        }
    }
}
