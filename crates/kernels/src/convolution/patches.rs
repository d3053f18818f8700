//! What a convolution's window sees at neighbouring places, laid out as a panel of the right side of a product.
//!
//! A step of depth is an element of the window and a channel. The places that stand in one row of the result see
//! neighbouring elements of a row of the image, and for an element of the window that is the same in all channels: so
//! what to copy is worked out once for all of them.

use std::ops::Range;

use super::{Filters, Span};
use crate::lanes::Lanes;
use crate::threads::scratch;
use crate::tile::{Columns, Right};

/// Places of the window in one row of the result.
struct Run {
    /// Where they begin in the panel, and how many they are.
    at: usize,
    count: usize,
    /// The row, and where they begin in it.
    y: usize,
    x: usize,
}

/// Numbers that stand side by side in the panel.
struct Copy {
    at: usize,
    count: usize,
    /// Where the first one is in each channel; `None` for zeros.
    from: Option<usize>,
}

/// A panel that is laid out step by step, or several short ones. One that is whole has `V` vectors of columns.
pub(super) struct Patches<'a, L, const V: usize> {
    lanes: L,
    /// From the first channel on.
    items: &'a [f32],
    channels: usize,
    kernel: [usize; 2],
    span: &'a Span,
    /// True where the window is one element that stands on each element of the image.
    stays: bool,
    /// The places of all panels: from the first on, so many.
    first: usize,
    count: usize,
    /// The panel among them that `runs` and `width` are for.
    standing: Option<usize>,
    runs: Vec<Run>,
    width: usize,
    /// The element of the window that `copies` are for.
    element: Option<usize>,
    copies: Vec<Copy>,
    panel: Vec<f32>,
}

impl<'a, L: Lanes, const V: usize> Patches<'a, L, V> {
    const FULL: usize = V * L::WIDTH;

    #[inline(always)]
    pub(super) fn new(lanes: L, items: &'a [f32], filters: &Filters, span: &'a Span) -> Self {
        let (channels, kernel) = (filters.channels, filters.kernel);
        let (runs, copies, panel) = (Vec::new(), Vec::new(), scratch());
        let stays = span.stays(kernel);
        let (first, count, standing, width, element) = (0, 0, None, 0, None);
        Self {
            lanes,
            items,
            channels,
            kernel,
            span,
            stays,
            first,
            count,
            standing,
            runs,
            width,
            element,
            copies,
            panel,
        }
    }

    /// What it was laid out in.
    pub(super) fn into_memory(self) -> Vec<f32> {
        self.panel
    }

    /// Takes other places.
    pub(super) fn stand_at(&mut self, columns: &Columns) {
        (self.first, self.count, self.standing) = (columns.first, columns.count, None);
    }

    /// Works out where the places of a panel are.
    fn stand(&mut self, panel: usize) {
        let first = self.first + panel * Self::FULL;
        let count = Self::FULL.min(self.count - panel * Self::FULL);
        self.standing = Some(panel);
        self.width = count.next_multiple_of(L::WIDTH);
        self.element = None;
        self.runs.clear();
        let row = self.span.output[1];
        let mut at = 0;
        while at < count {
            let (y, x) = ((first + at) / row, (first + at) % row);
            let count = (row - x).min(count - at);
            self.runs.push(Run { at, count, y, x });
            at += count;
        }
    }

    /// Works out what to copy of each channel for an element of the window.
    fn prepare(&mut self, element: usize) {
        self.element = Some(element);
        self.copies.clear();
        let Span { input, stride, dilation, pad, .. } = self.span;
        let down = element / self.kernel[1] * dilation[0];
        let across = element % self.kernel[1] * dilation[1];
        for run in &self.runs {
            let mut zeros = |at: usize, count: usize| {
                if count > 0 {
                    self.copies.push(Copy { at, count, from: None });
                }
            };
            let y = run.y * stride[0] + down;
            if y < pad[0] || y - pad[0] >= input[0] {
                zeros(run.at, run.count);
                continue;
            }
            // The places, counted from the first of the run, whose element is inside of the row.
            let place = |x: usize| (x + pad[1]).saturating_sub(across).div_ceil(stride[1]);
            let inside = |x: usize| place(x).saturating_sub(run.x).min(run.count);
            let (start, end) = (inside(0), inside(input[1]));
            zeros(run.at, start);
            zeros(run.at + end, run.count - end);
            if start < end {
                let x = (run.x + start) * stride[1] + across - pad[1];
                let from = Some((y - pad[0]) * input[1] + x);
                let copy = Copy { at: run.at + start, count: end - start, from };
                // In the order of the panel: each may write beyond its end.
                let place = self.copies.len() - usize::from(end < run.count);
                self.copies.insert(place, copy);
            }
        }
        // What is beyond the last place is never used, but must be numbers.
    }

    /// Steps of depth whose numbers all stand side by side in the image, as those of a window of one element do. Gives how many
    /// channels it did: none where that is not so, and not those at the end of the image, where whole vectors do not fit.
    #[inline(always)]
    fn lay_whole(&mut self, channels: Range<usize>, start: usize) -> usize {
        let (lanes, width) = (self.lanes, self.width);
        let &[Copy { at: 0, count, from: Some(from) }] = &self.copies[..] else { return 0 };
        if self.span.stride[1] != 1 || count.next_multiple_of(L::WIDTH) != width {
            return 0;
        }
        let plane = self.span.input[0] * self.span.input[1];
        let mut done = 0;
        for to in self.panel[start..].chunks_exact_mut(width).take(channels.len()) {
            let from = (channels.start + done) * plane + from;
            let Some(from) = self.items.get(from..from + width) else { break };
            for (from, to) in from.chunks_exact(L::WIDTH).zip(to.chunks_exact_mut(L::WIDTH)) {
                lanes.store(lanes.load(from), to);
            }
            done += 1;
        }
        done
    }

    /// Lays out several panels of a window of one element together: a channel of the image after the other, so that each time
    /// as many neighbours as possible are read.
    #[inline(always)]
    fn lay_together(&mut self, depth: Range<usize>) -> usize {
        let (lanes, plane) = (self.lanes, self.span.input[0] * self.span.input[1]);
        let (panels, length) = (self.count / Self::FULL, depth.len() * Self::FULL);
        self.panel.resize(self.panel.len().max(panels * length), 0.0);
        let (items, panel) = (self.items, &mut self.panel[..]);
        for (step, channel) in depth.enumerate() {
            let from = &items[channel * plane + self.first..][..panels * Self::FULL];
            // Not by an iterator over chunks of `length`: it would divide by it, which takes longer than a short panel.
            let mut start = step * Self::FULL;
            for from in from.chunks_exact(Self::FULL) {
                let to = &mut panel[start..][..Self::FULL];
                for v in 0..V {
                    lanes.store(lanes.load(&from[v * L::WIDTH..]), &mut to[v * L::WIDTH..]);
                }
                start += length;
            }
        }
        panels * length
    }

    /// Lays out what an element of the window sees in some channels, where all places of a whole panel stand in one row and it is
    /// inside of the image for all of them. Gives whether that is so.
    #[inline(always)]
    fn lay_row(&mut self, element: usize, channels: Range<usize>, start: usize) -> bool {
        let (lanes, &Span { input, stride, dilation, pad, .. }) = (self.lanes, self.span);
        let &[Run { count, y, x, .. }] = &self.runs[..] else { return false };
        let y = y * stride[0] + element / self.kernel[1] * dilation[0];
        let x = x * stride[1] + element % self.kernel[1] * dilation[1];
        let reach = stride[1] * Self::FULL;
        if count < Self::FULL || stride[1] > 2 || y < pad[0] || x < pad[1] {
            return false;
        }
        let (y, x) = (y - pad[0], x - pad[1]);
        if y >= input[0] || x + reach - stride[1] >= input[1] {
            return false;
        }
        let (plane, from) = (input[0] * input[1], y * input[1] + x);
        if channels.end > 0 && (channels.end - 1) * plane + from + reach > self.items.len() {
            return false;
        }
        let to = self.panel[start..].chunks_exact_mut(Self::FULL);
        for (to, channel) in to.zip(channels) {
            let from = &self.items[channel * plane + from..][..reach];
            for v in 0..V {
                let x = if stride[1] == 1 {
                    lanes.load(&from[v * L::WIDTH..])
                } else {
                    let from = &from[2 * v * L::WIDTH..];
                    lanes.even(lanes.load(from), lanes.load(&from[L::WIDTH..]))
                };
                lanes.store(x, &mut to[v * L::WIDTH..]);
            }
        }
        true
    }

    /// One step of depth.
    #[inline(always)]
    fn lay(&mut self, channel: usize, start: usize) {
        let lanes = self.lanes;
        let items = &self.items[channel * self.span.input[0] * self.span.input[1]..];
        let stride = self.span.stride[1];
        for copy in &self.copies {
            let to = &mut self.panel[start + copy.at..];
            let Some(from) = copy.from else {
                for to in to.chunks_exact_mut(L::WIDTH).take(copy.count.div_ceil(L::WIDTH)) {
                    lanes.store(lanes.zero(), to);
                }
                continue;
            };
            let vectors = copy.count.div_ceil(L::WIDTH);
            let side_by_side = stride == 1 || copy.count == 1;
            let reach = if side_by_side { vectors } else { 2 * vectors } * L::WIDTH;
            match items.get(from..from + reach) {
                Some(from) if side_by_side => {
                    for (from, to) in from.chunks_exact(L::WIDTH).zip(to.chunks_exact_mut(L::WIDTH)) {
                        lanes.store(lanes.load(from), to);
                    }
                }
                Some(from) if stride == 2 => {
                    for (from, to) in from.chunks_exact(2 * L::WIDTH).zip(to.chunks_exact_mut(L::WIDTH)) {
                        lanes.store(lanes.even(lanes.load(from), lanes.load(&from[L::WIDTH..])), to);
                    }
                }
                _ => {
                    for (to, from) in to[..copy.count].iter_mut().zip(items[from..].iter().step_by(stride)) {
                        *to = *from;
                    }
                }
            }
        }
    }
}

impl<L: Lanes, const V: usize> Right for Patches<'_, L, V> {
    #[inline(always)]
    fn block(&mut self, depth: Range<usize>) -> (&[f32], &[f32]) {
        let mut start = 0;
        if self.stays && self.count.is_multiple_of(Self::FULL) {
            let length = self.lay_together(depth);
            return (&self.panel[..length], &[]);
        }
        for panel in 0..self.count.div_ceil(Self::FULL) {
            if self.standing != Some(panel) {
                self.stand(panel);
            }
            // A copy writes whole vectors, also at the end.
            let length = start + depth.len() * self.width;
            self.panel.resize(self.panel.len().max(length + L::WIDTH), 0.0);
            let mut step = depth.start;
            while step < depth.end {
                let (element, first) = (step / self.channels, step % self.channels);
                let count = (self.channels - first).min(depth.end - step);
                if self.lay_row(element, first..first + count, start) {
                    start += count * self.width;
                    step += count;
                    continue;
                }
                if self.element != Some(element) {
                    self.prepare(element);
                }
                let copied = self.lay_whole(first..first + count, start);
                for channel in first + copied..first + count {
                    self.lay(channel, start + (channel - first) * self.width);
                }
                start += count * self.width;
                step += count;
            }
        }
        (&self.panel[..start], &[])
    }
}
