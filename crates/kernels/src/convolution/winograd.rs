//! Convolutions by windows of 3 x 3 with a quarter of the products: Winograd's F(4 x 4, 3 x 3).
//!
//! A tile of 4 x 4 results sees 6 x 6 elements of each channel. Both these and the window are transformed to 36 numbers,
//! whose products are added up over the channels, for each of the 36 as a product of matrices of its own; the sums are
//! transformed back. See Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). The sums have two to
//! three bits less than those of the plain way.
//!
//! As many tiles as a tile of sums has columns are one task's work: what they see is transformed once and stays in the
//! second cache, while some channels of the result after the other are made of it.

#![allow(unsafe_code)]

use std::ops::Range;

use super::Span;
use crate::isa::{Isa, Work};
use crate::lanes::{Lanes, interleave, mask};
use crate::threads::{Shared, divide, part, threads};
use crate::tile::{BiasFor, Columns, ENOUGH, Finish, Target, add_products, add_products_of_two, finish};

/// Results along a side of a tile.
const SIDE: usize = 4;
/// Elements along a side of what a tile sees.
const SEEN: usize = 6;
/// How many products of matrices there are.
const POINTS: usize = SEEN * SEEN;
/// How many channels of the result are made at a time.
const CHUNK: usize = 32;

/// Weights of windows of 3 x 3, transformed: for each of the 36 points rows of the left side of a product.
#[derive(Clone, Debug)]
pub(super) struct Transformed {
    items: Vec<f32>,
    outputs: usize,
    channels: usize,
}

impl Transformed {
    /// How many numbers they take.
    pub(super) fn laid_len(outputs: usize, channels: usize) -> Option<usize> {
        outputs.checked_mul(channels)?.checked_mul(POINTS)
    }

    /// Transforms `weights`: for each output and each channel nine numbers.
    pub(super) fn new(isa: Isa, weights: &[f32], outputs: usize, channels: usize) -> Self {
        let tile = isa.tile().0;
        let mut items = vec![0.0; POINTS * outputs * channels];
        for (at, window) in weights.as_chunks::<9>().0.iter().enumerate() {
            let (output, channel) = (at / channels, at % channels);
            let (panel, row) = (output / tile, output % tile);
            let rows = tile.min(outputs - panel * tile);
            let place = panel * tile * channels + channel * rows + row;
            for (point, number) in of_window(window).into_iter().enumerate() {
                items[point * outputs * channels + place] = number;
            }
        }
        Self { items, outputs, channels }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Writes the convolution of images.
    pub(super) fn fill(&self, isa: Isa, x: &[f32], span: &Span, finish: Finish<'_>, to: &Shared<'_>) {
        let grid = Grid::new(span);
        let threads = threads(grid.tiles * self.outputs * self.channels * POINTS);
        let (rows, width) = isa.tile();
        let (blocks, panels) = (grid.tiles.div_ceil(width), self.outputs.div_ceil(rows));
        // Where there are fewer blocks than threads, threads share their channels, and each transforms what the tiles see again. A
        // block of a few tiles that are left is none.
        let full = ((grid.tiles + width / 2) / width).max(1);
        let down = threads.div_ceil(full);
        let down = down.clamp(1, self.outputs.div_ceil(CHUNK).max(1));
        divide(threads, blocks * down, &|at| {
            let first = at / down * width;
            let tiles = first..(first + width).min(grid.tiles);
            let panels = part(panels, down, at % down);
            isa.run(Block { weights: self, x, span, grid: &grid, tiles, panels, finish, to });
        });
    }
}

/// The window's 3 x 3 numbers as 6 x 6, computed with twice the digits.
fn of_window(window: &[f32; 9]) -> [f32; POINTS] {
    let line = |a: f64, b: f64, c: f64| {
        let (outer, wide) = (a + c, a / 4.0 + c);
        [a / 4.0, -(outer + b) / 6.0, (b - outer) / 6.0, (wide + b / 2.0) / 6.0, (wide - b / 2.0) / 6.0, c]
    };
    let at = |row: usize, column: usize| f64::from(window[row * 3 + column]);
    let rows: [[f64; SEEN]; 3] = [0, 1, 2].map(|row| line(at(row, 0), at(row, 1), at(row, 2)));
    let mut all = [0.0; POINTS];
    for column in 0..SEEN {
        let numbers = line(rows[0][column], rows[1][column], rows[2][column]);
        for (row, number) in numbers.into_iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
            let number = number as f32;
            all[row * SEEN + column] = number;
        }
    }
    all
}

/// How the results of all images are divided into tiles.
struct Grid {
    down: usize,
    across: usize,
    tiles: usize,
}

impl Grid {
    fn new(span: &Span) -> Self {
        let (down, across) = (span.output[0].div_ceil(SIDE), span.output[1].div_ceil(SIDE));
        Self { down, across, tiles: span.images * down * across }
    }

    /// Tiles as those that stand side by side in an image.
    fn runs(&self, tiles: Range<usize>) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (line, x) = (tile / self.across, tile % self.across);
            let count = (self.across - x).min(tiles.end - tile);
            let at = tile - tiles.start;
            runs.push(Run { at, count, image: line / self.down, y: line % self.down, x });
            tile += count;
        }
        runs
    }
}

/// Tiles side by side.
struct Run {
    /// The first one among those of the task.
    at: usize,
    count: usize,
    image: usize,
    /// In tiles.
    y: usize,
    x: usize,
}

/// Some channels of the result for some tiles.
struct Block<'a> {
    weights: &'a Transformed,
    x: &'a [f32],
    span: &'a Span,
    grid: &'a Grid,
    tiles: Range<usize>,
    /// Of as many channels as a tile of sums has rows.
    panels: Range<usize>,
    finish: Finish<'a>,
    to: &'a Shared<'a>,
}

impl Work for Block<'_> {
    type Result = ();

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) {
        match self.tiles.len().div_ceil(L::WIDTH) {
            1 => self.of_width::<L, ROWS, 1>(lanes),
            2 => self.of_width::<L, ROWS, 2>(lanes),
            _ => self.of_width::<L, ROWS, VECTORS>(lanes),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn of_width<L: Lanes, const ROWS: usize, const V: usize>(self, lanes: L) {
        let Transformed { items, outputs, channels } = self.weights;
        let (outputs, channels, width) = (*outputs, *channels, V * L::WIDTH);
        let runs = self.grid.runs(self.tiles.clone());
        let mut seen = Seen::new::<L>(channels, width, &runs, self.span);
        // Channel by channel: the last vector of one may reach into the next.
        for channel in 0..channels {
            seen.transform(lanes, self.x, self.span, channel);
        }
        let places = self.span.output[0] * self.span.output[1];
        // A line of the cache more than a power of two: else all points' sums of a tile compete for two places there.
        let apart = CHUNK * width + 16;
        let mut sums = vec![0.0; POINTS * apart + L::WIDTH];
        let each = CHUNK / ROWS;
        let mut first = self.panels.start;
        while first < self.panels.end {
            let panels = first..(first + each).min(self.panels.end);
            let rows = panels.start * ROWS..(panels.end * ROWS).min(outputs);
            for point in 0..POINTS {
                let of_point = &items[point * outputs * channels..][..outputs * channels];
                let right = &seen.items[point * seen.stride..][..channels * width];
                let to = &mut sums[point * apart..][..rows.len() * width];
                multiply::<L, ROWS, V>(
                    lanes,
                    &of_point[rows.start * channels..rows.end * channels],
                    right,
                    channels,
                    to,
                );
            }
            for (at, row) in rows.clone().enumerate() {
                for run in &runs {
                    let start = run.image * outputs * places;
                    let target = Target {
                        to: self.to,
                        finish: self.finish,
                        bias_for: BiasFor::Row,
                        start,
                        stride: places,
                    };
                    // SAFETY: each task has tiles and channels of its own.
                    unsafe { self.back(lanes, &sums[at * width..], apart, &target, run, row) };
                }
            }
            first = panels.end;
        }
    }

    /// Transforms the sums of a channel for tiles side by side back, and stores them. `stride` is how far the sums of the
    /// points are apart.
    ///
    /// # Safety
    /// Nobody else writes these tiles of the channel at the same time.
    #[inline(always)]
    unsafe fn back<L: Lanes>(
        &self,
        lanes: L,
        sums: &[f32],
        stride: usize,
        target: &Target<'_>,
        run: &Run,
        row: usize,
    ) {
        let [height, width] = self.span.output;
        let mut done = 0;
        while done < run.count {
            // Written out, as all would be set to zero before a loop.
            let of_tiles = &sums[run.at + done..];
            let half = [
                column_back(lanes, of_tiles, stride),
                column_back(lanes, &of_tiles[stride..], stride),
                column_back(lanes, &of_tiles[2 * stride..], stride),
                column_back(lanes, &of_tiles[3 * stride..], stride),
                column_back(lanes, &of_tiles[4 * stride..], stride),
                column_back(lanes, &of_tiles[5 * stride..], stride),
            ];
            let (y, x) = (run.y * SIDE, (run.x + done) * SIDE);
            let count = (SIDE * L::WIDTH.min(run.count - done)).min(width - x);
            for side in 0..SIDE {
                if y + side < height {
                    let [a, b, c, d, e, f] = half;
                    let line = [a[side], b[side], c[side], d[side], e[side], f[side]];
                    let results = interleave(lanes, line_back(lanes, line));
                    let columns = Columns { first: (y + side) * width + x, count };
                    // SAFETY: the caller's promise.
                    unsafe { finish(lanes, &[results], target, &columns, row) };
                }
            }
            done += L::WIDTH;
        }
    }
}

/// Rows of the left side by one panel of the right side, whose sums follow each other row by row.
#[inline(always)]
fn multiply<L: Lanes, const ROWS: usize, const V: usize>(
    lanes: L,
    left: &[f32],
    right: &[f32],
    depth: usize,
    to: &mut [f32],
) {
    let width = V * L::WIDTH;
    let (mut left, mut to) = (left, to);
    if ROWS * V < ENOUGH {
        while to.len() >= 2 * ROWS * width {
            let (first, second) = left[..2 * ROWS * depth].split_at(ROWS * depth);
            let sums = [[[lanes.zero(); V]; ROWS]; 2];
            let [sums, others] = add_products_of_two::<L, ROWS, V>(lanes, [first, second], right, sums);
            let (here, rest) = to.split_at_mut(2 * ROWS * width);
            keep::<L, ROWS, V>(lanes, &sums, here);
            keep::<L, ROWS, V>(lanes, &others, &mut here[ROWS * width..]);
            (left, to) = (&left[2 * ROWS * depth..], rest);
        }
    }
    for (a, to) in left.chunks(ROWS * depth).zip(to.chunks_mut(ROWS * width)) {
        match to.len() / width {
            rows if rows == ROWS => products::<L, ROWS, V>(lanes, a, right, to),
            1 => products::<L, 1, V>(lanes, a, right, to),
            2 => products::<L, 2, V>(lanes, a, right, to),
            3 => products::<L, 3, V>(lanes, a, right, to),
            4 if ROWS > 4 => products::<L, 4, V>(lanes, a, right, to),
            5 if ROWS > 4 => products::<L, 5, V>(lanes, a, right, to),
            6 if ROWS > 4 => products::<L, 6, V>(lanes, a, right, to),
            _ => products::<L, 7, V>(lanes, a, right, to),
        }
    }
}

#[inline(always)]
fn products<L: Lanes, const R: usize, const V: usize>(lanes: L, a: &[f32], b: &[f32], to: &mut [f32]) {
    keep::<L, R, V>(lanes, &add_products::<L, R, V>(lanes, a, b, [[lanes.zero(); V]; R]), to);
}

#[inline(always)]
fn keep<L: Lanes, const R: usize, const V: usize>(lanes: L, sums: &[[L::V; V]; R], to: &mut [f32]) {
    for (sums, to) in sums.iter().zip(to.chunks_exact_mut(V * L::WIDTH)) {
        for (v, &sum) in sums.iter().enumerate() {
            lanes.store(sum, &mut to[v * L::WIDTH..]);
        }
    }
}

/// What tiles see, transformed: for each of the 36 points a panel of the right side of a product.
struct Seen<'a> {
    items: Vec<f32>,
    channels: usize,
    /// Tiles of a panel.
    width: usize,
    /// How far points are apart.
    stride: usize,
    strips: Vec<Strip<'a>>,
}

/// The columns of the image that tiles side by side see.
struct Strip<'a> {
    run: &'a Run,
    /// Where they begin, and how many are inside of the image.
    start: usize,
    count: usize,
    /// How many are beyond the image's left side.
    skipped: usize,
    /// For each column of a row all bits where it is inside of the image, and none where it is not.
    inside: Vec<f32>,
    /// Six rows, transformed down: neighbouring tiles share two of six columns.
    rows: Vec<f32>,
    /// Rows of the image as they would be with what is beyond it.
    copies: Vec<f32>,
}

impl<'a> Strip<'a> {
    fn new<L: Lanes>(run: &'a Run, span: &Span) -> Self {
        let first = run.x * SIDE;
        let (skipped, start) = (span.pad[1].saturating_sub(first), first.saturating_sub(span.pad[1]));
        let seen = SIDE * run.count + SEEN - SIDE;
        let skipped = skipped.min(seen);
        let count = (seen - skipped).min(span.input[1].saturating_sub(start));
        // As many vectors as give whole ones of each part, with one tile more.
        let row = (run.count + 1).next_multiple_of(L::WIDTH) * SIDE;
        let inside = (0..row).map(|column| mask((skipped..skipped + count).contains(&column))).collect();
        let copies = vec![0.0; SEEN * row];
        Self { run, start, count, skipped, inside, rows: vec![0.0; SEEN * row], copies }
    }

    /// How long a row is.
    fn row(&self) -> usize {
        self.inside.len()
    }

    /// Takes the rows of an image, of which `plane` is where it is in `x`.
    #[inline(always)]
    fn fill<L: Lanes>(&mut self, lanes: L, x: &[f32], plane: usize, span: &Span) {
        let ([height, width], row) = (span.input, self.row());
        let mut starts = [None; SEEN];
        let mut copies = self.copies.chunks_exact_mut(row);
        for (down, (at, copy)) in starts.iter_mut().zip(&mut copies).enumerate() {
            let y =
                (self.run.y * SIDE + down).checked_sub(span.pad[0]).filter(|&y| y < height && self.count > 0);
            let from = y.map(|y| plane + y * width + self.start);
            // What is beyond the sides is the end of other rows, and masked. Only at both ends of `x` there is nothing.
            *at = from.and_then(|from| from.checked_sub(self.skipped)).filter(|from| from + row <= x.len());
            if at.is_none() {
                copy.fill(0.0);
                if let Some(from) = from {
                    copy[self.skipped..][..self.count].copy_from_slice(&x[from..][..self.count]);
                }
            }
        }
        let mut image = [&self.copies[..row]; SEEN];
        for (down, from) in image.iter_mut().enumerate() {
            *from = match starts[down] {
                Some(start) => &x[start..][..row],
                None => &self.copies[down * row..][..row],
            };
        }
        // Vector by vector, as it is read again soon: else the processor waits for the stores.
        let mut at = 0;
        while at < row {
            let inside = lanes.load(&self.inside[at..]);
            let mut line = [lanes.zero(); SEEN];
            for down in 0..SEEN {
                line[down] = lanes.and(lanes.load(&image[down][at..]), inside);
            }
            let line = line_there(lanes, line);
            for down in 0..SEEN {
                lanes.store(line[down], &mut self.rows[down * row + at..]);
            }
            at += L::WIDTH;
        }
    }
}

impl<'a> Seen<'a> {
    fn new<L: Lanes>(channels: usize, width: usize, runs: &'a [Run], span: &Span) -> Self {
        // Whole vectors are written, also at the end.
        let stride = channels * width + L::WIDTH;
        let strips = runs.iter().map(|run| Strip::new::<L>(run, span)).collect();
        Self { items: vec![0.0; POINTS * stride], channels, width, stride, strips }
    }

    /// Transforms what the tiles see of a channel.
    #[inline(always)]
    fn transform<L: Lanes>(&mut self, lanes: L, x: &[f32], span: &Span, channel: usize) {
        for strip in &mut self.strips {
            let plane = (strip.run.image * self.channels + channel) * span.input[0] * span.input[1];
            strip.fill(lanes, x, plane, span);
            for (row, line) in strip.rows.chunks_exact(strip.row()).enumerate() {
                let to = row * SEEN * self.stride + channel * self.width + strip.run.at;
                let mut groups = line.chunks_exact(SIDE * L::WIDTH);
                let mut here = quarters(lanes, groups.next());
                let mut done = 0;
                while done < strip.run.count {
                    let there = quarters(lanes, groups.next());
                    let [a, b, c, d] = here;
                    let line = [a, b, c, d, lanes.next(a, there[0]), lanes.next(b, there[1])];
                    let line = line_there(lanes, line);
                    let to = &mut self.items[to + done..];
                    for column in 0..SEEN {
                        lanes.store(line[column], &mut to[column * self.stride..]);
                    }
                    here = there;
                    done += L::WIDTH;
                }
            }
        }
    }
}

/// Four vectors as [`Lanes::quarters`]; zeros where there are none.
#[inline(always)]
fn quarters<L: Lanes>(lanes: L, from: Option<&[f32]>) -> [L::V; SIDE] {
    let mut four = [lanes.zero(); SIDE];
    if let Some(from) = from {
        for v in 0..SIDE {
            four[v] = lanes.load(&from[v * L::WIDTH..]);
        }
    }
    lanes.quarters(four)
}

/// Six elements, transformed.
#[inline(always)]
fn line_there<L: Lanes>(lanes: L, x: [L::V; SEEN]) -> [L::V; SEEN] {
    let (two, four, five) = (lanes.splat(2.0), lanes.splat(-4.0), lanes.splat(-5.0));
    let (a, b) = (lanes.fma(four, x[2], x[4]), lanes.fma(four, x[1], x[3]));
    let (c, d) = (lanes.sub(x[4], x[2]), lanes.sub(x[3], x[1]));
    let plain = lanes.splat(4.0);
    [
        lanes.fma(plain, x[0], lanes.fma(five, x[2], x[4])),
        lanes.add(a, b),
        lanes.sub(a, b),
        lanes.fma(two, d, c),
        lanes.sub(c, lanes.mul(two, d)),
        lanes.fma(plain, x[1], lanes.fma(five, x[3], x[5])),
    ]
}

/// A column of six sums, which are so far apart as six points are, transformed back to four.
#[inline(always)]
fn column_back<L: Lanes>(lanes: L, sums: &[f32], stride: usize) -> [L::V; SIDE] {
    let mut line = [lanes.zero(); SEEN];
    for point in 0..SEEN {
        line[point] = lanes.load(&sums[point * SEEN * stride..]);
    }
    line_back(lanes, line)
}

/// Six sums, transformed back to four.
#[inline(always)]
fn line_back<L: Lanes>(lanes: L, x: [L::V; SEEN]) -> [L::V; SIDE] {
    let (near, near_difference) = (lanes.add(x[1], x[2]), lanes.sub(x[1], x[2]));
    let (far, far_difference) = (lanes.add(x[3], x[4]), lanes.sub(x[3], x[4]));
    [
        lanes.add(x[0], lanes.add(near, far)),
        lanes.fma(lanes.splat(2.0), far_difference, near_difference),
        lanes.fma(lanes.splat(4.0), far, near),
        lanes.add(lanes.fma(lanes.splat(8.0), far_difference, near_difference), x[5]),
    ]
}
