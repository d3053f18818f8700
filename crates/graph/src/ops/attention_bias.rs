//! What attention adds to its scores: a mask, and negative infinity where a query may not look.

use num_traits::Float;

use crate::tensor::{Fault, fault, to_i64};

/// A mask as numbers to add. Dimensions of length 1 are repeated.
pub(super) struct Mask<F> {
    items: Vec<F>,
    shape: [usize; 4],
    /// Keys after those of the mask are masked.
    pads: bool,
}

impl<F: Float> Mask<F> {
    /// A mask of the shape `own` for scores of the shape `scores`: batch, head, query, key.
    pub(super) fn new(items: Vec<F>, own: &[usize], scores: [usize; 4], pads: bool) -> Result<Self, Fault> {
        let mut shape = [1; 4];
        if own.is_empty() || own.len() > 4 {
            fault!("a mask of the shape {own:?} has not one to four dimensions");
        }
        shape[4 - own.len()..].copy_from_slice(own);
        let fits = |axis: usize| shape[axis] == 1 || shape[axis] == scores[axis];
        let last = if pads { shape[3] <= scores[3] } else { fits(3) };
        if !(0..3).all(fits) || !last {
            fault!("a mask of the shape {own:?} does not fit scores of the shape {scores:?}");
        }
        Ok(Self { items, shape, pads })
    }

    fn fill(&self, batch: usize, head: usize, query: usize, row: &mut [F]) {
        let [batches, heads, queries, keys] = self.shape;
        let at = |position: usize, length: usize| if length == 1 { 0 } else { position };
        let line = (at(batch, batches) * heads + at(head, heads)) * queries + at(query, queries);
        let own = self.items.get(line * keys..(line + 1) * keys).unwrap_or_default();
        if let (&[one], false) = (own, self.pads) {
            row.fill(one);
            return;
        }
        let (covered, rest) = row.split_at_mut(own.len().min(row.len()));
        covered.copy_from_slice(&own[..covered.len()]);
        rest.fill(F::neg_infinity());
    }
}

/// All that limits where a query looks. Its position is that of its own key: the keys from before the first
/// query come before it.
pub(super) struct Bias<F> {
    pub(super) mask: Option<Mask<F>>,
    /// How many keys come before the first query.
    pub(super) first: usize,
    /// How many keys of each row of the batch are there; the queries are the last of them.
    pub(super) filled: Option<Vec<i64>>,
    /// No query looks beyond its own position.
    pub(super) causal: bool,
    /// How far a query looks to the left and to the right.
    pub(super) window: [Option<i64>; 2],
    /// The number of keys.
    pub(super) keys: usize,
    /// The number of queries.
    pub(super) queries: usize,
}

impl<F: Float> Bias<F> {
    /// True when nothing is added to any score.
    pub(super) fn is_empty(&self) -> bool {
        self.mask.is_none() && self.filled.is_none() && !self.causal && self.window == [None, None]
    }

    /// Writes what is added to the scores of one query.
    pub(super) fn row(&self, batch: usize, head: usize, query: usize, row: &mut [F]) {
        match &self.mask {
            Some(mask) => mask.fill(batch, head, query, row),
            None => row.fill(F::zero()),
        }
        let (start, end) = self.seen(batch, query);
        let masked = |x: &mut F| *x = *x + F::neg_infinity();
        row[..start].iter_mut().for_each(masked);
        row[end..].iter_mut().for_each(masked);
    }

    /// The keys that a query may look at, as a range within the keys.
    fn seen(&self, batch: usize, query: usize) -> (usize, usize) {
        let filled = self.filled.as_ref().and_then(|filled| filled.get(batch).copied());
        let offset = match filled {
            Some(filled) => filled.saturating_sub(to_i64(self.queries)),
            None => to_i64(self.first),
        };
        let position = offset.saturating_add(to_i64(query));
        let mut end = filled.unwrap_or(i64::MAX);
        if self.causal {
            end = end.min(position.saturating_add(1));
        }
        let [left, right] = self.window;
        if let Some(right) = right {
            end = end.min(position.saturating_add(right).saturating_add(1));
        }
        let start = left.map_or(0, |left| position.saturating_sub(left));
        let clamp = |at: i64| usize::try_from(at.clamp(0, to_i64(self.keys))).unwrap_or(0);
        let end = clamp(end);
        (clamp(start).min(end), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bias(first: usize, filled: Option<Vec<i64>>, window: [Option<i64>; 2]) -> Bias<f32> {
        Bias { mask: None, first, filled, causal: window == [None, None], window, keys: 6, queries: 2 }
    }

    #[test]
    fn a_causal_query_sees_the_past_and_itself() {
        let bias = bias(4, None, [None, None]);
        assert_eq!([bias.seen(0, 0), bias.seen(0, 1)], [(0, 5), (0, 6)]);
    }

    #[test]
    fn queries_are_the_last_of_the_keys_that_are_there() {
        let bias = bias(0, Some(vec![3, 1]), [None, None]);
        assert_eq!([bias.seen(0, 0), bias.seen(0, 1)], [(0, 2), (0, 3)]);
        // With fewer keys than queries the first query sees nothing.
        assert_eq!([bias.seen(1, 0), bias.seen(1, 1)], [(0, 0), (0, 1)]);
    }

    #[test]
    fn a_window_has_two_sides() {
        let bias = bias(2, None, [Some(1), Some(1)]);
        assert_eq!([bias.seen(0, 0), bias.seen(0, 1)], [(1, 4), (2, 5)]);
    }
}
