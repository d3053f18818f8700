//! Products with one column: a convolution with one place, or what is left of one over 49 places beside whole tiles.
//!
//! A tile would compute a whole vector of columns for the sake of one. Here the vector is of rows, which stand side by side in
//! a panel of the left side. In what order products are added depends on how many rows the panel has: that is for channels, of
//! which there are always as many, and not for the rows of a batch.

#![allow(unsafe_code)]

use std::ops::Range;

use crate::lanes::Lanes;
use crate::threads::{keep, scratch};
use crate::tile::{BiasFor, Left, MAX_WIDTH, Right, Target};

/// So many sums of the same rows are under way at a time: one alone would wait for itself.
const SUMS: usize = 4;

/// The products of some panels of the left matrix with column `column` of the right one, which `right` has as the first of a
/// vector. A panel has no more rows than a vector has numbers.
///
/// # Safety
/// Nobody else writes these rows of that column of the target at the same time.
#[inline(always)]
pub(crate) unsafe fn one_column<L: Lanes, const ROWS: usize>(
    lanes: L,
    left: Left<'_>,
    panels: Range<usize>,
    right: &mut impl Right,
    target: &Target<'_>,
    column: usize,
) {
    let (first, end) = (panels.start * ROWS, left.rows.min(panels.end * ROWS));
    let mut sums = ColumnSums::new(end - first);
    let (b, _) = right.block(0..left.depth);
    sums.take(b, L::WIDTH);
    for panel in panels {
        let (a, rows) = left.panel(ROWS, panel);
        sums.add(lanes, a, rows, panel * ROWS - first);
    }
    // SAFETY: the caller's promise.
    unsafe { sums.end(target, first, column) };
}

/// The sums of a column, made block by block of depth. Beside a whole tile they are made while the numbers of the left side are near, so
/// that those are read once.
pub(crate) struct ColumnSums {
    /// The numbers of the column for some steps of depth.
    x: Vec<f32>,
    /// The sums so far, row by row.
    sums: Vec<f32>,
}

impl ColumnSums {
    /// For so many rows of the left side.
    pub(crate) fn new(rows: usize) -> Self {
        let (x, mut sums) = (scratch(), scratch());
        sums.clear();
        sums.resize(rows, 0.0);
        Self { x, sums }
    }

    /// Takes the numbers of some steps of depth, each of which is the first of `width`.
    pub(crate) fn take(&mut self, column: &[f32], width: usize) {
        self.x.clear();
        self.x.extend(column.iter().step_by(width));
    }

    /// Adds the products of some rows, which are side by side in `a` for each of these steps, to the sums from `first` on.
    #[inline(always)]
    pub(crate) fn add<L: Lanes>(&mut self, lanes: L, a: &[f32], rows: usize, first: usize) {
        let mut sums = [0.0; MAX_WIDTH];
        add_products(lanes, a, rows, &self.x, &mut sums);
        for (sum, more) in self.sums[first..].iter_mut().zip(&sums[..rows]) {
            *sum += more;
        }
    }

    /// Writes the sums to column `column` of the target, from row `first` on.
    ///
    /// # Safety
    /// Nobody else writes these rows of that column of the target at the same time.
    pub(crate) unsafe fn end(self, target: &Target<'_>, first: usize, column: usize) {
        for (row, &sum) in (first..).zip(&self.sums) {
            let place = target.start + row * target.stride + column;
            // SAFETY: the caller's promise.
            let to = unsafe { target.to.part(place, 1) };
            to[0].write(finished(target, sum, row, column, place));
        }
        keep(self.x);
        keep(self.sums);
    }
}

/// Adds the products of all rows of a panel with a column.
#[inline(always)]
fn add_products<L: Lanes>(lanes: L, a: &[f32], rows: usize, x: &[f32], to: &mut [f32; MAX_WIDTH]) {
    let mut step = 0;
    let mut sums = [lanes.zero(); SUMS];
    // What a vector reads beyond the rows of its step is not used, but must be there.
    while (step + SUMS - 1) * rows + L::WIDTH <= a.len() {
        let (a, x) = (&a[step * rows..], &x[step..][..SUMS]);
        for at in 0..SUMS {
            sums[at] = lanes.fma(lanes.splat(x[at]), lanes.load(&a[at * rows..]), sums[at]);
        }
        step += SUMS;
    }
    lanes.store(lanes.add(lanes.add(sums[0], sums[1]), lanes.add(sums[2], sums[3])), to);
    for (a, x) in a.chunks_exact(rows).zip(x).skip(step) {
        for (sum, a) in to.iter_mut().zip(a) {
            *sum += a * x;
        }
    }
}

/// A sum with what is done to it before it is stored.
fn finished(target: &Target<'_>, mut sum: f32, row: usize, column: usize, place: usize) -> f32 {
    if let Some(bias) = target.finish.bias {
        sum += match target.bias_for {
            BiasFor::Column => bias[column],
            BiasFor::Row => bias[row],
            BiasFor::All => bias[0],
        };
    }
    if let Some(addend) = target.finish.addend {
        sum += addend[place];
    }
    // As the tiles do it: the greatest number wins where it is less than the least, and what is no number stays so.
    if let Some((low, high)) = target.finish.bounds {
        sum = if sum < low { low } else { sum };
        sum = if sum > high { high } else { sum };
    }
    sum
}
