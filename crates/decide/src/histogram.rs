//! Latency histograms: buckets of the native Prometheus schema 3, merged exactly, sparse on the wire.
//!
//! Bucket `i` holds values in `(2^((i-1)/8), 2^(i/8)]` seconds, so neighbouring bounds differ by 9 %. All processes use
//! the same bounds, so histograms of routers and pods add without loss; percentiles are never averaged.
//! Source of the layout: Prometheus native histograms, standard schema 3 (2^3 buckets for each power of two).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets for each doubling of the latency (`2^3`, hence "schema 3").
const PER_OCTAVE: f64 = 8.0;
/// Index of the lowest bucket: at most `2^-20` s, about one microsecond. Shorter latencies count here.
const LOWEST: i16 = -20 * 8;
/// Index of the highest bucket: at most `2^10` s, about 17 minutes. Longer latencies count here.
const HIGHEST: i16 = 10 * 8;
/// How many buckets there are.
const BUCKETS: usize = (HIGHEST - LOWEST + 1) as usize;

/// Counts of latencies. Empty histograms hold no memory; the buckets are allocated on first use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    /// One count for each bucket from [`LOWEST`] on, or nothing at all.
    counts: Vec<u64>,
    /// Sum of all recorded latencies, in seconds.
    sum: f64,
}

/// The wire form: only buckets that hold something, as `[index, count]`.
#[derive(Serialize, Deserialize)]
struct Sparse {
    #[serde(default)]
    buckets: Vec<(i16, u64)>,
    #[serde(default)]
    sum: f64,
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Self {
        let mut histogram =
            Self { sum: if sparse.sum.is_finite() { sparse.sum } else { 0.0 }, ..Self::default() };
        for (index, count) in sparse.buckets {
            let slot = histogram.slot(index);
            *slot = slot.saturating_add(count);
        }
        histogram
    }
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let buckets = histogram.filled().collect();
        Self { buckets, sum: histogram.sum }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        *self.slot(bucket_of(seconds)) += 1;
        self.sum += seconds;
    }

    /// Adds all counts of `other`. Exact: the result is what one histogram would hold that had seen both.
    pub fn merge(&mut self, other: &Self) {
        for (index, count) in other.filled() {
            let slot = self.slot(index);
            *slot = slot.saturating_add(count);
        }
        self.sum = (self.sum + other.sum).clamp(f64::MIN, f64::MAX);
    }

    /// What was recorded since `earlier`, an older reading of the same histogram. A bucket that shrank (the process
    /// started again) counts from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self { sum: (self.sum - earlier.sum).max(0.0), ..Self::default() };
        for (index, count) in self.filled() {
            let before = earlier.counts.get(offset(index)).copied().unwrap_or(0);
            let added = if count >= before { count - before } else { count };
            if added > 0 {
                *difference.slot(index) = added;
            }
        }
        difference
    }

    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        total(self.counts.iter().copied())
    }

    /// Sum of all latencies, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The latency below which the share `q` (0..1) of all records lies, as the upper bound of its bucket: at most 9 %
    /// above the exact value. `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let wanted = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0);
        let mut seen = 0_u64;
        for (index, count) in self.filled() {
            seen = seen.saturating_add(count);
            if seen as f64 >= wanted {
                return Some(Duration::from_secs_f64(upper_bound(index)));
            }
        }
        None
    }

    /// How many latencies are certainly above `limit`: those in buckets that begin at or above it.
    pub fn count_above(&self, limit: Duration) -> u64 {
        let limit = limit.as_secs_f64();
        total(self.filled().filter(|(index, _)| upper_bound(index - 1) >= limit).map(|(_, count)| count))
    }

    /// Cumulative counts at at most 20 classic bounds, for scrapers that do not read native histograms: pairs of
    /// (upper bound in seconds, records up to there). The bound `+Inf` is left to the caller: it is [`Histogram::count`].
    pub fn classic(&self) -> Vec<(f64, u64)> {
        // One bound for each doubling from 1/4096 s (0.24 ms) to 64 s: 19 bounds.
        let mut cumulative = Vec::with_capacity(19);
        let mut seen = 0_u64;
        let mut filled = self.filled().peekable();
        for power in -12_i16..=6 {
            let bound = power * 8;
            while let Some((_, count)) = filled.next_if(|(index, _)| *index <= bound) {
                seen = seen.saturating_add(count);
            }
            cumulative.push((f64::from(power).exp2(), seen));
        }
        cumulative
    }

    /// The buckets that hold something, in order, as (index, count).
    fn filled(&self) -> impl Iterator<Item = (i16, u64)> + '_ {
        (LOWEST..=HIGHEST).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// The count of a bucket, to be changed; allocates the buckets on first use.
    fn slot(&mut self, index: i16) -> &mut u64 {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        &mut self.counts[offset(index)]
    }
}

/// A sum that stays at the highest number: counts come from other processes.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// Position of a bucket in the dense array. Indexes outside the range are clamped, so a hostile wire form is harmless.
fn offset(index: i16) -> usize {
    usize::try_from(index.clamp(LOWEST, HIGHEST) - LOWEST).unwrap_or(0)
}

/// Index of the bucket that holds a latency of `seconds`.
fn bucket_of(seconds: f64) -> i16 {
    if seconds <= 0.0 {
        return LOWEST;
    }
    let index = (seconds.log2() * PER_OCTAVE).ceil();
    // The clamp makes the conversion exact.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of buckets")]
    let index = index.clamp(f64::from(LOWEST), f64::from(HIGHEST)) as i16;
    index
}

/// Upper bound of a bucket, in seconds.
fn upper_bound(index: i16) -> f64 {
    (f64::from(index) / PER_OCTAVE).exp2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(millis: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for ms in millis {
            histogram.record(Duration::from_millis(*ms));
        }
        histogram
    }

    #[test]
    fn an_empty_histogram_has_no_quantile_and_no_memory() {
        let empty = Histogram::default();
        assert_eq!(empty.quantile(0.99), None);
        assert_eq!(empty.counts.capacity(), 0);
    }

    #[test]
    fn bounds_are_those_of_schema_3() {
        // Prometheus, schema 3: 2^(1/8) = 1.0905077; exact powers of two close their bucket.
        for (seconds, index) in
            [(1.0, 0), (1.000_001, 1), (1.090_507, 1), (1.090_508, 2), (0.5, -8), (2.0, 8)]
        {
            assert_eq!(bucket_of(seconds), index, "{seconds} s");
        }
    }

    #[test]
    fn latencies_out_of_range_count_in_the_outer_buckets() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(1_000_000));
        assert_eq!(histogram.filled().collect::<Vec<_>>(), [(LOWEST, 1), (HIGHEST, 1)]);
    }

    #[test]
    fn count_above_counts_only_what_is_certainly_above() {
        let histogram = of(&[10, 50, 99, 101, 150, 400]);
        // 101 ms shares its bucket (92..101 ms, 101..110 ms) with values on either side of the limit only at the edge.
        assert_eq!(histogram.count_above(Duration::from_millis(120)), 2);
        assert_eq!(histogram.count_above(Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_restart_of_the_process_counts_from_zero() {
        let before = of(&[10, 10, 10]);
        let after = of(&[10]);
        assert_eq!(after.since(&before).count(), 1);
    }

    #[test]
    fn classic_buckets_are_cumulative_and_few() {
        let classic = of(&[1, 10, 100, 1000]).classic();
        assert!(classic.len() <= 20);
        assert!(classic.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert_eq!(classic.last(), Some(&(64.0, 4)));
    }

    proptest! {
        #[test]
        fn merging_equals_recording_both(a in prop::collection::vec(0_u64..100_000, 0..50), b in prop::collection::vec(0_u64..100_000, 0..50)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let both: Vec<_> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(merged.counts, of(&both).counts);
        }

        #[test]
        fn a_quantile_is_at_most_nine_percent_high(mut values in prop::collection::vec(1_u64..1_000_000, 1..200), q in 0.0..1.0_f64) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = values.partition_point(|value| (values.partition_point(|other| other <= value) as f64) < q * values.len() as f64);
            let exact = values[rank.min(values.len() - 1)] as f64 / 1e3;
            let estimate = histogram.quantile(q).unwrap().as_secs_f64();
            prop_assert!(estimate >= exact * 0.999 && estimate <= exact * 1.0906, "{} for {}", estimate, exact);
        }

        #[test]
        fn the_wire_form_loses_nothing(values in prop::collection::vec(0_u64..100_000, 0..50)) {
            let histogram = of(&values);
            let text = serde_json::to_string(&histogram).unwrap();
            let back: Histogram = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.filled().collect::<Vec<_>>(), histogram.filled().collect::<Vec<_>>());
        }

        #[test]
        fn since_and_merge_are_inverse(a in prop::collection::vec(0_u64..100_000, 0..50), b in prop::collection::vec(0_u64..100_000, 0..50)) {
            let before = of(&a);
            let mut after = before.clone();
            after.merge(&of(&b));
            prop_assert_eq!(after.since(&before).filled().collect::<Vec<_>>(), of(&b).filled().collect::<Vec<_>>());
        }
    }
}
