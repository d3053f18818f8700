//! The innermost loop: a tile of sums of products that stays in registers, and what finishes it.
//!
//! A tile is a few rows of the left matrix by a few vectors of columns of the right one. Both are laid out in panels:
//! for each step of depth the numbers of the panel's rows, or columns, side by side.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::column::{ColumnSums, one_column};
use crate::lanes::{Lanes, interleave};
use crate::threads::Shared;

/// How many numbers of a right panel are used again and again before the next ones: they stay in the nearest cache,
/// beside the left panels that pass through it.
pub(crate) const BLOCK: usize = 6144;

/// So many vectors of sums are enough to begin a product with each step: two at a time, each of which takes four steps.
pub(crate) const ENOUGH: usize = 8;

/// The most numbers of a vector.
pub(crate) const MAX_WIDTH: usize = 16;

/// What is done to each sum before it is stored, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// Added: a number for each column of a matrix product, or for each channel that a convolution gives.
    pub bias: Option<&'a [f32]>,
    /// Added: numbers in the order of the result, as many as it has.
    pub addend: Option<&'a [f32]>,
    /// The least and the greatest number of the result. What is no number stays so.
    pub bounds: Option<(f32, f32)>,
}

impl Finish<'_> {
    /// Panics where the lengths are not those of a result.
    pub(crate) fn check(&self, biases: usize, numbers: usize) {
        assert!(self.bias.is_none_or(|bias| bias.len() == biases), "one bias for each");
        assert!(self.addend.is_none_or(|addend| addend.len() == numbers), "as many numbers as the result");
    }
}

/// What each number of a bias is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BiasFor {
    Column,
    Row,
    /// There is only one.
    All,
}

/// Where sums go.
pub(crate) struct Target<'a> {
    pub(crate) to: &'a Shared<'a>,
    pub(crate) finish: Finish<'a>,
    pub(crate) bias_for: BiasFor,
    /// Where the first row of the left matrix is.
    pub(crate) start: usize,
    /// How far its rows are apart.
    pub(crate) stride: usize,
}

/// The left matrix: panels of as many rows as a tile has. The last one may have fewer.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) items: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) depth: usize,
}

impl<'a> Left<'a> {
    /// The numbers of a panel, and how many rows it has.
    #[inline(always)]
    pub(crate) fn panel(&self, tile: usize, panel: usize) -> (&'a [f32], usize) {
        let rows = tile.min(self.rows - panel * tile);
        (&self.items[panel * tile * self.depth..][..rows * self.depth], rows)
    }
}

/// A panel of the right matrix, given part by part, or several of them, given whole.
pub(crate) trait Right {
    /// The numbers of some steps of depth, panel after panel, and those that will be asked for next where they are far away.
    fn block(&mut self, depth: Range<usize>) -> (&[f32], &[f32]);
}

/// One that is laid out, and all that follow it.
pub(crate) struct Laid<'a> {
    pub(crate) items: &'a [f32],
    pub(crate) width: usize,
}

impl Right for Laid<'_> {
    #[inline(always)]
    fn block(&mut self, depth: Range<usize>) -> (&[f32], &[f32]) {
        let next = &self.items[depth.end * self.width..];
        (&self.items[depth.start * self.width..depth.end * self.width], &next[..next.len().min(BLOCK)])
    }
}

/// Some columns of the result.
pub(crate) struct Columns {
    /// The first one.
    pub(crate) first: usize,
    /// How many there are: those of one tile, of several whole ones, or of a whole one and one more.
    pub(crate) count: usize,
}

/// All tiles of some panels of the left matrix with one of the right matrix, whose width is that of the vectors that
/// `columns` take; `partial` has room for the sums of all of them. Or with several of the right matrix that are short enough to be
/// in one block together: a row of the result is then written for all of them before the next ones, as rows are far apart in memory.
///
/// # Safety
/// Nobody else writes these rows and columns of the target at the same time.
#[inline(always)]
pub(crate) unsafe fn tiles<L: Lanes, const ROWS: usize, const VECTORS: usize>(
    lanes: L,
    left: Left<'_>,
    panels: Range<usize>,
    right: &mut impl Right,
    partial: &mut Vec<f32>,
    target: &Target<'_>,
    columns: &Columns,
) {
    let vectors = columns.count.div_ceil(L::WIDTH);
    // SAFETY: the caller's promise.
    unsafe {
        match vectors {
            1 if columns.count == 1 && ROWS <= L::WIDTH && target.bias_for == BiasFor::Row => {
                one_column::<L, ROWS>(lanes, left, panels, right, target, columns.first);
            }
            1 => of_width::<L, ROWS, 1>(lanes, left, panels, right, partial, target, columns),
            2 => of_width::<L, ROWS, 2>(lanes, left, panels, right, partial, target, columns),
            _ => of_width::<L, ROWS, VECTORS>(lanes, left, panels, right, partial, target, columns),
        }
    }
}

/// The same, with the number of vectors known.
#[inline(always)]
unsafe fn of_width<L: Lanes, const ROWS: usize, const V: usize>(
    lanes: L,
    left: Left<'_>,
    panels: Range<usize>,
    right: &mut impl Right,
    partial: &mut Vec<f32>,
    target: &Target<'_>,
    columns: &Columns,
) {
    let (depth, width) = (left.depth, V * L::WIDTH);
    let one_more = columns.count == width + 1;
    let wide = if one_more { 1 } else { columns.count.div_ceil(width) };
    let laid = if one_more { width + L::WIDTH } else { width };
    let blocks = if wide > 1 { 1 } else { depth.div_ceil(BLOCK / laid).max(1) };
    let last_row = left.rows.min(panels.end * ROWS);
    let mut beside = if one_more { Some(ColumnSums::new(last_row - panels.start * ROWS)) } else { None };
    if blocks > 1 {
        partial.resize(panels.len() * ROWS * width, 0.0);
    }
    for block in 0..blocks {
        let steps = depth * block / blocks..depth * (block + 1) / blocks;
        let size = steps.len() * width;
        let (b, next) = right.block(steps.clone());
        if let Some(beside) = &mut beside {
            beside.take(&b[size..], L::WIDTH);
        }
        // A share of what comes next is asked for with each panel, so that it is there when it is its turn.
        let share = if panels.len() > 1 { next.len().div_ceil(panels.len()) } else { 0 };
        let mut panel = panels.start;
        while panel < panels.end {
            let (items, rows) = left.panel(ROWS, panel);
            let a = &items[steps.start * rows..steps.end * rows];
            let at = panel - panels.start;
            if share > 0 && at * share < next.len() {
                lanes.prefetch(&next[at * share..((at + 1) * share).min(next.len())]);
            }
            let kept: &mut [f32] = if blocks > 1 {
                &mut partial[at * ROWS * width..][..2.min(panels.end - panel) * ROWS * width]
            } else {
                &mut []
            };
            let place = Place { row: panel * ROWS, first: block == 0, last: block + 1 == blocks };
            if let Some(beside) = &mut beside {
                beside.add(lanes, a, rows, at * ROWS);
            }
            if ROWS * V < ENOUGH && !one_more && panel + 1 < panels.end {
                let (items, more) = left.panel(ROWS, panel + 1);
                if more == ROWS {
                    let second = &items[steps.start * rows..steps.end * rows];
                    // SAFETY: the caller's promise.
                    unsafe { two_tiles::<L, ROWS, V>(lanes, [a, second], b, kept, target, columns, place) };
                    panel += 2;
                    continue;
                }
            }
            panel += 1;
            for at in 0..wide {
                let b = &b[at * size..][..size];
                let (first, count) = (columns.first + at * width, width.min(columns.count - at * width));
                let columns = &Columns { first, count };
                // SAFETY: the caller's promise.
                unsafe {
                    match rows {
                        _ if rows == ROWS => tile::<L, ROWS, V>(lanes, a, b, kept, target, columns, place),
                        1 => tile::<L, 1, V>(lanes, a, b, kept, target, columns, place),
                        2 => tile::<L, 2, V>(lanes, a, b, kept, target, columns, place),
                        3 => tile::<L, 3, V>(lanes, a, b, kept, target, columns, place),
                        4 if ROWS > 4 => tile::<L, 4, V>(lanes, a, b, kept, target, columns, place),
                        5 if ROWS > 4 => tile::<L, 5, V>(lanes, a, b, kept, target, columns, place),
                        6 if ROWS > 4 => tile::<L, 6, V>(lanes, a, b, kept, target, columns, place),
                        _ => tile::<L, 7, V>(lanes, a, b, kept, target, columns, place),
                    }
                }
            }
        }
    }
    if let Some(beside) = beside {
        // SAFETY: the caller's promise.
        unsafe { beside.end(target, panels.start * ROWS, columns.first + width) };
    }
}

/// A tile among others, in rows and in depth.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    first: bool,
    last: bool,
}

/// One tile over some steps of depth. What is not finished is kept.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: &[f32],
    b: &[f32],
    kept: &mut [f32],
    target: &Target<'_>,
    columns: &Columns,
    place: Place,
) {
    let sums = add_products::<L, R, V>(lanes, a, b, begun(lanes, kept, &place));
    // SAFETY: the caller's promise.
    unsafe { end(lanes, &sums, kept, target, columns, &place) };
}

/// Two tiles of neighbouring panels side by side: one alone has too few sums for the processor to begin one with each
/// step while it ends others.
#[inline(always)]
unsafe fn two_tiles<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: [&[f32]; 2],
    b: &[f32],
    kept: &mut [f32],
    target: &Target<'_>,
    columns: &Columns,
    place: Place,
) {
    let (kept, more) = kept.split_at_mut(kept.len() / 2);
    let second = Place { row: place.row + R, ..place };
    let sums = [begun(lanes, kept, &place), begun(lanes, more, &second)];
    let [sums, others] = add_products_of_two::<L, R, V>(lanes, a, b, sums);
    // SAFETY: the caller's promise.
    unsafe {
        end(lanes, &sums, kept, target, columns, &place);
        end(lanes, &others, more, target, columns, &second);
    }
}

/// The sums that were kept.
#[inline(always)]
fn begun<L: Lanes, const R: usize, const V: usize>(lanes: L, kept: &[f32], place: &Place) -> [[L::V; V]; R] {
    let mut sums = [[lanes.zero(); V]; R];
    if !place.first {
        for (sums, kept) in sums.iter_mut().zip(kept.chunks_exact(V * L::WIDTH)) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = lanes.load(&kept[v * L::WIDTH..]);
            }
        }
    }
    sums
}

/// Finishes sums, or keeps them.
#[inline(always)]
unsafe fn end<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    sums: &[[L::V; V]; R],
    kept: &mut [f32],
    target: &Target<'_>,
    columns: &Columns,
    place: &Place,
) {
    if place.last {
        // SAFETY: the caller's promise.
        unsafe { finish(lanes, sums, target, columns, place.row) };
    } else {
        for (sums, kept) in sums.iter().zip(kept.chunks_exact_mut(V * L::WIDTH)) {
            for (v, &sum) in sums.iter().enumerate() {
                lanes.store(sum, &mut kept[v * L::WIDTH..]);
            }
        }
    }
}

/// `sums` and the products of all rows of `a` with all columns of `b`, for each step of depth.
#[inline(always)]
pub(crate) fn add_products<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: &[f32],
    b: &[f32],
    mut sums: [[L::V; V]; R],
) -> [[L::V; V]; R] {
    for (a, b) in a.as_chunks::<R>().0.iter().zip(b.chunks_exact(V * L::WIDTH)) {
        let mut columns = [lanes.zero(); V];
        for v in 0..V {
            columns[v] = lanes.load(&b[v * L::WIDTH..]);
        }
        for r in 0..R {
            let x = lanes.splat(a[r]);
            for v in 0..V {
                sums[r][v] = lanes.fma(x, columns[v], sums[r][v]);
            }
        }
    }
    sums
}

/// The same for two panels of rows.
#[inline(always)]
pub(crate) fn add_products_of_two<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: [&[f32]; 2],
    b: &[f32],
    mut sums: [[[L::V; V]; R]; 2],
) -> [[[L::V; V]; R]; 2] {
    let a = a[0].as_chunks::<R>().0.iter().zip(a[1].as_chunks::<R>().0);
    for ((first, second), b) in a.zip(b.chunks_exact(V * L::WIDTH)) {
        let mut columns = [lanes.zero(); V];
        for v in 0..V {
            columns[v] = lanes.load(&b[v * L::WIDTH..]);
        }
        for r in 0..R {
            let (x, y) = (lanes.splat(first[r]), lanes.splat(second[r]));
            for v in 0..V {
                sums[0][r][v] = lanes.fma(x, columns[v], sums[0][r][v]);
                sums[1][r][v] = lanes.fma(y, columns[v], sums[1][r][v]);
            }
        }
    }
    sums
}

/// Adds bias and addend to sums, bounds them, and writes them to their places.
///
/// # Safety
/// Nobody else writes these rows and columns of the target at the same time.
#[inline(always)]
#[expect(
    clippy::manual_map,
    reason = "a closure is called, with all registers put away, for each row of a tile"
)]
pub(crate) unsafe fn finish<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    sums: &[[L::V; V]; R],
    target: &Target<'_>,
    columns: &Columns,
    row: usize,
) {
    if columns.count == V * L::WIDTH {
        // SAFETY: the caller's promise.
        return unsafe { finish_whole(lanes, sums, target, columns, row) };
    }
    let Target { finish, bias_for, .. } = target;
    for r in 0..R {
        let start = target.start + (row + r) * target.stride + columns.first;
        // SAFETY: the caller's promise.
        let to = unsafe { target.to.part(start, columns.count) };
        let addend = match finish.addend {
            Some(addend) => Some(&addend[start..][..columns.count]),
            None => None,
        };
        let bias = match finish.bias {
            Some(bias) => Some(match bias_for {
                BiasFor::Column => &bias[columns.first..],
                BiasFor::Row => &bias[row + r..],
                BiasFor::All => bias,
            }),
            None => None,
        };
        for v in 0..V {
            let first = v * L::WIDTH;
            let count = columns.count.saturating_sub(first).min(L::WIDTH);
            if count == 0 {
                break;
            }
            let mut sum = sums[r][v];
            if let Some(bias) = bias {
                let bias = match bias_for {
                    BiasFor::Column => some(lanes, &bias[first..], count),
                    BiasFor::Row | BiasFor::All => lanes.splat(bias[0]),
                };
                sum = lanes.add(sum, bias);
            }
            if let Some(addend) = addend {
                sum = lanes.add(sum, some(lanes, &addend[first..], count));
            }
            if let Some((low, high)) = finish.bounds {
                sum = lanes.min(lanes.splat(high), lanes.max(lanes.splat(low), sum));
            }
            write_some(lanes, sum, &mut to[first..]);
        }
    }
}

/// The same for columns that are whole vectors: without questions that keep the sums from staying in registers.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn finish_whole<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    sums: &[[L::V; V]; R],
    target: &Target<'_>,
    columns: &Columns,
    row: usize,
) {
    let Target { finish, bias_for, .. } = target;
    // What it is added to stays as it is, zeros of both signs and all.
    let nothing = lanes.splat(-0.0);
    let mut for_all = nothing;
    let mut for_columns = [nothing; V];
    let mut for_rows: Option<&[f32]> = None;
    match (finish.bias, bias_for) {
        (Some(bias), BiasFor::All) => for_all = lanes.splat(bias[0]),
        (Some(bias), BiasFor::Row) => for_rows = Some(&bias[row..][..R]),
        (Some(bias), BiasFor::Column) => {
            let bias = &bias[columns.first..][..V * L::WIDTH];
            for v in 0..V {
                for_columns[v] = lanes.load(&bias[v * L::WIDTH..]);
            }
        }
        (None, _) => {}
    }
    let (low, high) = finish.bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let (low, high) = (lanes.splat(low), lanes.splat(high));
    let first = target.start + row * target.stride + columns.first;
    target.to.has_rows(first, target.stride, [R, V * L::WIDTH]);
    for r in 0..R {
        let start = first + r * target.stride;
        // SAFETY: the caller's promise, and `has_rows` found it inside.
        let to = unsafe { target.to.part_inside(start, V * L::WIDTH) };
        let for_row = if let Some(bias) = for_rows { lanes.splat(bias[r]) } else { for_all };
        let mut all = sums[r];
        for v in 0..V {
            all[v] = lanes.add(lanes.add(all[v], for_row), for_columns[v]);
        }
        if let Some(addend) = finish.addend {
            let addend = &addend[start..][..V * L::WIDTH];
            for v in 0..V {
                all[v] = lanes.add(all[v], lanes.load(&addend[v * L::WIDTH..]));
            }
        }
        for v in 0..V {
            lanes.write(lanes.min(high, lanes.max(low, all[v])), &mut to[v * L::WIDTH..]);
        }
    }
}

/// Writes as many numbers of a vector as there is room for.
#[inline(always)]
pub(crate) fn write_some<L: Lanes>(lanes: L, x: L::V, to: &mut [MaybeUninit<f32>]) {
    if to.len() >= L::WIDTH {
        return lanes.write(x, to);
    }
    let mut all = [0.0; MAX_WIDTH];
    lanes.store(x, &mut all);
    for (to, &x) in to.iter_mut().zip(&all) {
        to.write(x);
    }
}

/// The first `count` numbers, and zeros for the rest of a vector.
#[inline(always)]
fn some<L: Lanes>(lanes: L, from: &[f32], count: usize) -> L::V {
    if count == L::WIDTH {
        return lanes.load(from);
    }
    let mut short = [0.0; MAX_WIDTH];
    for (to, from) in short.iter_mut().zip(&from[..count]) {
        *to = *from;
    }
    lanes.load(&short)
}

/// Lays out rows of a matrix as a panel of the left side: for each step of depth the numbers of all rows. `strides` are
/// how far rows and steps are apart.
#[inline(always)]
pub(crate) fn lay_left<L: Lanes, const ROWS: usize>(
    lanes: L,
    items: &[f32],
    [rows, depth]: [usize; 2],
    strides: [usize; 2],
    panel: &mut [f32],
) {
    let mut done = 0;
    if rows == ROWS && strides[1] == 1 {
        done = match ROWS {
            ..=4 => lay_turned::<L, ROWS, 4>(lanes, items, depth, strides[0], panel),
            _ => lay_turned::<L, ROWS, 8>(lanes, items, depth, strides[0], panel),
        };
    }
    for step in done..depth {
        for row in 0..rows {
            panel[step * rows + row] = items[row * strides[0] + step * strides[1]];
        }
    }
}

/// Does it for rows whose steps follow each other, as far as whole vectors go, and gives how many steps that are.
///
/// `TURNED` rows are turned at a time, as only a power of two can be. Where there are fewer, the rest of each step is written
/// over by the next step; the last one is then left to the caller.
#[inline(always)]
fn lay_turned<L: Lanes, const ROWS: usize, const TURNED: usize>(
    lanes: L,
    items: &[f32],
    depth: usize,
    stride: usize,
    panel: &mut [f32],
) -> usize {
    let mut done = 0;
    if ROWS > TURNED || ROWS < TURNED && L::WIDTH > TURNED {
        return done;
    }
    while done + L::WIDTH <= depth && (done + L::WIDTH - 1) * ROWS + TURNED <= panel.len() {
        let mut from = [lanes.zero(); TURNED];
        for (row, from) in from.iter_mut().enumerate().take(ROWS) {
            *from = lanes.load(&items[row * stride + done..]);
        }
        for (at, x) in interleave(lanes, from).into_iter().enumerate() {
            let (step, row) = (at * L::WIDTH / TURNED, at * L::WIDTH % TURNED);
            if row < ROWS {
                lanes.store(x, &mut panel[(done + step) * ROWS + row..]);
            }
        }
        done += L::WIDTH;
    }
    done
}
