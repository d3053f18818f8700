//! What the pods of one revision did in the last minutes, in slots that can be summed over any window.
//!
//! Histograms are added and percentiles are read from the sum. A slot never spans a change of the number of ready pods, so that
//! a window can begin where the last change was.

use std::collections::VecDeque;
use std::time::Duration;

use crate::histogram::Histogram;

/// A slot is closed after this long.
const SLOT: Duration = Duration::from_secs(10);
/// The longest window.
pub const LONGEST: Duration = Duration::from_mins(5);

/// Counts of one revision between two looks, all routers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Requests that pods answered.
    pub answered: u64,
    /// Requests that pods refused or did not answer in time because they had too much to do.
    pub overloaded: u64,
    /// Latencies of the answers.
    pub latency: Histogram,
    /// Requests that were at pods at the end.
    pub in_flight: u64,
}

/// The slots of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    slots: VecDeque<Slot>,
}

#[derive(Clone, Debug, PartialEq)]
struct Slot {
    from: Duration,
    to: Duration,
    /// Pods that were ready.
    ready: u32,
    sum: Sum,
}

/// A window of a revision's load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Its length.
    pub seconds: f64,
    /// Ready pods times seconds.
    pub pod_seconds: f64,
    /// Looks that it was made from.
    pub looks: u32,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that overload cost.
    pub overloaded: u64,
    /// Latencies of the answers.
    pub latency: Histogram,
    /// Requests at pods times seconds.
    pub in_flight_seconds: f64,
}

impl Sum {
    fn merge(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.pod_seconds += other.pod_seconds;
        self.looks += other.looks;
        self.answered += other.answered;
        self.overloaded += other.overloaded;
        self.latency.merge(&other.latency);
        self.in_flight_seconds += other.in_flight_seconds;
    }

    /// Requests that ended, in time or not.
    pub fn total(&self) -> u64 {
        self.answered.saturating_add(self.overloaded)
    }

    /// Requests that each ready pod answered in a second.
    pub fn per_pod(&self) -> f64 {
        if self.pod_seconds > 0.0 { self.answered as f64 / self.pod_seconds } else { 0.0 }
    }

    /// Requests that came later than `target`, or not at all.
    pub fn late(&self, target: Duration) -> u64 {
        self.latency.count_above(target).saturating_add(self.overloaded)
    }

    /// Mean latency in seconds.
    pub fn mean(&self) -> Option<f64> {
        let count = self.latency.count();
        (count > 0).then(|| self.latency.sum() / count as f64)
    }

    /// Requests at pods on average.
    pub fn in_flight(&self) -> f64 {
        if self.seconds > 0.0 { self.in_flight_seconds / self.seconds } else { 0.0 }
    }
}

impl Load {
    /// What was counted between two looks, with so many pods ready.
    pub fn add(&mut self, from: Duration, to: Duration, ready: u32, counted: &Counted) {
        if to <= from {
            return;
        }
        let seconds = to.saturating_sub(from).as_secs_f64();
        let sum = Sum {
            seconds,
            pod_seconds: seconds * f64::from(ready),
            looks: 1,
            answered: counted.answered,
            overloaded: counted.overloaded,
            latency: counted.latency.clone(),
            in_flight_seconds: counted.in_flight as f64 * seconds,
        };
        match self.slots.back_mut() {
            Some(last) if last.ready == ready && to.saturating_sub(last.from) <= SLOT => {
                last.to = to;
                last.sum.merge(&sum);
            }
            _ => self.slots.push_back(Slot { from, to, ready, sum }),
        }
        let oldest = to.saturating_sub(LONGEST);
        while self.slots.front().is_some_and(|slot| slot.to <= oldest) {
            self.slots.pop_front();
        }
    }

    /// The slots that end within `window` before the last look.
    pub fn window(&self, window: Duration) -> Sum {
        self.sum(window, |_| true)
    }

    /// The same, as far back as the number of ready pods is the one of now.
    pub fn steady(&self, window: Duration) -> Sum {
        let Some(now) = self.slots.back().map(|slot| slot.ready) else { return Sum::default() };
        self.sum(window, |slot| slot.ready == now)
    }

    /// The steady window in an older and a newer half.
    pub fn halves(&self, window: Duration) -> (Sum, Sum) {
        let (whole, newer) = (self.steady(window), self.steady(window / 2));
        let older = Sum {
            seconds: whole.seconds - newer.seconds,
            looks: whole.looks - newer.looks,
            answered: whole.answered - newer.answered,
            in_flight_seconds: whole.in_flight_seconds - newer.in_flight_seconds,
            ..Sum::default()
        };
        (older, newer)
    }

    fn sum(&self, window: Duration, belongs: impl Fn(&Slot) -> bool) -> Sum {
        let mut sum = Sum::default();
        let Some(last) = self.slots.back() else { return sum };
        let oldest = last.to.saturating_sub(window);
        for slot in self.slots.iter().rev().take_while(|slot| slot.to > oldest && belongs(slot)) {
            sum.merge(&slot.sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_window_ends_where_pods_came() {
        let mut load = Load::default();
        for second in 0..90_u64 {
            let (from, to) = (Duration::from_secs(second), Duration::from_secs(second + 1));
            let mut counted = Counted { answered: 10, in_flight: 2, ..Counted::default() };
            for _ in 0..10 {
                counted.latency.record(Duration::from_millis(20));
            }
            load.add(from, to, if second < 60 { 1 } else { 2 }, &counted);
        }
        let minute = Duration::from_mins(1);
        let (all, steady) = (load.window(minute), load.steady(minute));
        assert_eq!((all.answered, steady.answered, steady.looks), (600, 300, 30));
        assert!((steady.per_pod() - 5.0).abs() < 1e-9);
        assert!((all.mean().unwrap() - 0.02).abs() < 1e-6);
        assert!((all.in_flight() - 2.0).abs() < 1e-9);
        assert_eq!(all.late(Duration::from_millis(10)), 600);
    }
}
