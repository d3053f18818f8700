//! Products with a matrix of weights.

#![allow(unsafe_code)]

use std::ops::Range;

use crate::isa::{Isa, Work};
use crate::lanes::{Lanes, interleave};
use crate::threads::{Shared, divide, filled, keep, part, scratch, share, tasks, threads};
use crate::tile::{BiasFor, Columns, Finish, Laid, Left, Target, lay_left, tiles};

/// A thread lays out so many numbers of rows at least.
const LEAST_LAID: usize = 1 << 13;

/// A matrix of so many numbers stays in the second cache beside rows that pass.
const NEAR: usize = 1 << 15;

/// A matrix somewhere in memory: element (r, c) is at `r * strides[0] + c * strides[1]`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The store.
    pub items: &'a [f32],
    /// How many rows there are.
    pub rows: usize,
    /// How many columns there are.
    pub columns: usize,
    /// How far rows, and columns, are apart.
    pub strides: [usize; 2],
}

impl<'a> View<'a> {
    /// One whose rows follow each other.
    pub fn new(items: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { items, rows, columns, strides: [columns, 1] }
    }

    /// The same numbers with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Panics where an element would be outside of the store.
    fn check(&self) {
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1)
                .checked_mul(self.strides[0])
                .zip((self.columns - 1).checked_mul(self.strides[1]))
                .and_then(|(row, column)| row.checked_add(column));
            assert!(last.is_some_and(|last| last < self.items.len()), "the matrix is inside of its store");
        }
    }
}

/// The right side of a product, laid out for the instructions that are there.
#[derive(Clone, Debug)]
pub struct Matrix {
    isa: Isa,
    rows: usize,
    columns: usize,
    items: Vec<f32>,
}

impl Matrix {
    /// Lays a matrix out: panels of columns, as many as a tile of sums has; for each row the numbers of the panel. Of the
    /// last panel the columns that are not there are zeros, up to the length of a vector.
    pub fn new(isa: Isa, matrix: View<'_>) -> Self {
        matrix.check();
        let View { rows, columns, .. } = matrix;
        let items = isa.run(Lay { matrix });
        Self { isa, rows, columns, items }
    }

    /// How many numbers [`Matrix::new`] takes in memory for so many rows and columns; `None` where there are no such
    /// numbers.
    pub fn laid_len(isa: Isa, rows: usize, columns: usize) -> Option<usize> {
        rows.checked_mul(columns.checked_next_multiple_of(isa.run(Width))?)
    }

    /// Multiplies each element with a factor.
    pub fn scale(&mut self, factor: f32) {
        self.items.iter_mut().for_each(|x| *x *= factor);
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many numbers it takes in memory.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True where it has no element.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// `x` times this matrix, row by row, finished. Panics where `x` has not as many columns as this matrix has rows, or
    /// where what finishes it has not the size of the result.
    pub fn product(&self, x: View<'_>, finish: Finish<'_>) -> Vec<f32> {
        x.check();
        assert_eq!(x.columns, self.rows, "columns meet rows");
        let length = x.rows * self.columns;
        finish.check(self.columns, length);
        // SAFETY: the tasks of `fill` are all panels of rows by all panels of columns.
        unsafe { filled(length, |to| self.fill(x, finish, to, 0, threads(length * self.rows))) }
    }

    /// `x` times this matrix, on the caller's thread alone. Panics as [`Matrix::product`] does.
    pub(crate) fn product_alone(&self, x: View<'_>) -> Vec<f32> {
        x.check();
        assert_eq!(x.columns, self.rows, "columns meet rows");
        // SAFETY: as in `product`.
        unsafe { filled(x.rows * self.columns, |to| self.fill(x, Finish::default(), to, 0, 1)) }
    }

    /// Writes the product from `start` on, on up to `threads` threads.
    pub(crate) fn fill(
        &self,
        x: View<'_>,
        finish: Finish<'_>,
        to: &Shared<'_>,
        start: usize,
        threads: usize,
    ) {
        let (isa, depth) = (self.isa, self.rows);
        let (tile, width) = isa.tile();
        let (panels, wide) = (x.rows.div_ceil(tile), self.columns.div_ceil(width));
        let target = Target { to, finish, bias_for: BiasFor::Column, start, stride: self.columns };
        // Rows that stay in the second cache while all columns pass.
        let chunk = (65536 / depth.max(1) / tile).clamp(4, 32);
        // A small matrix is near each thread, and so are the rows that it has written in the step before.
        let chunk = if threads > 1 && self.items.len() <= NEAR {
            chunk.min(panels / (4 * threads)).max(1)
        } else {
            chunk
        };
        let chunks = panels.div_ceil(chunk);
        if chunks >= 4 * threads {
            divide(threads, chunks, &|at| {
                let own = part(panels, chunks, at);
                let rows = own.start * tile..(own.end * tile).min(x.rows);
                let mut laid = vec![0.0; rows.len() * depth];
                isa.run(LayRows { x, first: rows.start, laid: &mut laid });
                let left = Left { items: &laid, rows: rows.len(), depth };
                let target = Target { start: start + rows.start * self.columns, ..target };
                isa.run(Product { matrix: self, left, panels: 0..own.len(), wide: 0..wide, target: &target });
            });
            return;
        }
        let laid;
        let items = if x.rows == 1 && x.strides[1] == 1 {
            &x.items[..depth]
        } else {
            let mut all = vec![0.0; x.rows * depth];
            let least = if threads > 1 { LEAST_LAID } else { usize::MAX };
            share(&mut all, tile * depth, least, |first, laid| {
                isa.run(LayRows { x, first: first / depth.max(1), laid });
            });
            laid = all;
            &laid
        };
        let left = Left { items, rows: x.rows, depth };
        // Columns are divided first: then each number of the matrix is read once.
        let wanted = tasks(threads, x.rows * self.columns * depth);
        let across = wanted.clamp(1, wide.max(1));
        let down = wanted.div_ceil(across).clamp(1, panels.max(1));
        divide(threads, down * across, &|at| {
            let (panels, wide) = (part(panels, down, at % down), part(wide, across, at / down));
            isa.run(Product { matrix: self, left, panels, wide, target: &target });
        });
    }
}

/// Lays out rows in panels of the left side.
struct LayRows<'a> {
    x: View<'a>,
    first: usize,
    laid: &'a mut [f32],
}

impl Work for LayRows<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let View { items, columns: depth, strides, .. } = self.x;
        if depth == 0 {
            return;
        }
        for (panel, laid) in self.laid.chunks_mut(ROWS * depth).enumerate() {
            let (row, rows) = (self.first + panel * ROWS, laid.len() / depth);
            lay_left::<L, ROWS>(lanes, &items[row * strides[0]..], [rows, depth], strides, laid);
        }
    }
}

/// How many numbers a vector has.
struct Width;

impl Work for Width {
    type Result = usize;

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, _lanes: L) -> usize {
        L::WIDTH
    }
}

/// Lays out a matrix of the right side.
struct Lay<'a> {
    matrix: View<'a>,
}

impl Work for Lay<'_> {
    type Result = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) -> Vec<f32> {
        let View { items, rows, columns, strides } = self.matrix;
        let full = VECTORS * L::WIDTH;
        let mut laid = vec![0.0; rows * columns.next_multiple_of(L::WIDTH)];
        if rows == 0 {
            return laid;
        }
        for (panel, laid) in laid.chunks_mut(rows * full).enumerate() {
            let first = panel * full;
            let (width, count) = (laid.len() / rows, full.min(columns - first));
            let turned = if strides[0] == 1 {
                turn(lanes, &items[first * strides[1]..], [rows, count], strides[1], laid)
            } else {
                0
            };
            for (row, to) in laid.chunks_exact_mut(width).enumerate().skip(turned) {
                let from = &items[row * strides[0] + first * strides[1]..];
                if strides[1] == 1 {
                    to[..count].copy_from_slice(&from[..count]);
                } else {
                    for (column, to) in to[..count].iter_mut().enumerate() {
                        *to = from[column * strides[1]];
                    }
                }
            }
        }
        laid
    }
}

/// Lays out columns whose elements follow each other, as far as whole vectors go. Gives how many rows that are.
#[inline(always)]
fn turn<L: Lanes>(
    lanes: L,
    items: &[f32],
    [rows, columns]: [usize; 2],
    stride: usize,
    laid: &mut [f32],
) -> usize {
    match L::WIDTH {
        4 => turn_by::<L, 4>(lanes, items, [rows, columns], stride, laid),
        8 => turn_by::<L, 8>(lanes, items, [rows, columns], stride, laid),
        _ => turn_by::<L, 16>(lanes, items, [rows, columns], stride, laid),
    }
}

/// The same, with the length of a vector known.
#[inline(always)]
fn turn_by<L: Lanes, const WIDTH: usize>(
    lanes: L,
    items: &[f32],
    [rows, columns]: [usize; 2],
    stride: usize,
    laid: &mut [f32],
) -> usize {
    let (width, whole) = (laid.len() / rows, rows - rows % WIDTH);
    for first in (0..columns).step_by(WIDTH) {
        for row in (0..whole).step_by(WIDTH) {
            let mut from = [lanes.zero(); WIDTH];
            for (column, from) in from.iter_mut().enumerate().take(columns - first) {
                *from = lanes.load(&items[(first + column) * stride + row..]);
            }
            let steps = laid[row * width..].chunks_exact_mut(width);
            for (x, to) in interleave(lanes, from).into_iter().zip(steps) {
                lanes.store(x, &mut to[first..]);
            }
        }
    }
    whole
}

/// Some panels of rows by some panels of columns.
struct Product<'a> {
    matrix: &'a Matrix,
    left: Left<'a>,
    panels: Range<usize>,
    wide: Range<usize>,
    target: &'a Target<'a>,
}

impl Work for Product<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        let Matrix { rows: depth, columns, items, .. } = self.matrix;
        let full = VECTORS * L::WIDTH;
        let mut partial = scratch();
        for panel in self.wide {
            let columns = Columns { first: panel * full, count: full.min(columns - panel * full) };
            let width = columns.count.next_multiple_of(L::WIDTH);
            let mut right = Laid { items: &items[columns.first * depth..], width };
            let panels = self.panels.clone();
            // SAFETY: each task has panels of its own.
            unsafe {
                tiles::<L, ROWS, VECTORS>(
                    lanes,
                    self.left,
                    panels,
                    &mut right,
                    &mut partial,
                    self.target,
                    &columns,
                );
            }
        }
        keep(partial);
    }
}

#[cfg(test)]
pub(crate) mod tests;
