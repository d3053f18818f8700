//! What routers counted, joined: totals of all routers, over restarts of routers, and what is new since the last look.
//!
//! Routers report totals since their process started. The book keeps the newest totals of each process and arm, so a router
//! that restarts loses nothing that was read before, and an operator that restarts reads what the routers still hold.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::traffic::WHOLE;

/// Totals of one arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Attempts that ended.
    pub attempts: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Latencies of those that succeeded.
    pub latency: Histogram,
}

impl Counts {
    /// Adds another arm's or router's totals.
    pub fn merge(&mut self, other: &Self) {
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency.merge(&other.latency);
    }

    /// What was added since `earlier`. Totals never shrink within a process, so a smaller one means nothing new.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            attempts: self.attempts.saturating_sub(earlier.attempts),
            errors: self.errors.saturating_sub(earlier.errors),
            latency: self.latency.since(&earlier.latency),
        }
    }

    /// Why these totals cannot be true, if so. Evidence that contradicts itself is no evidence: neither for a candidate nor
    /// against it.
    pub fn absurd(&self) -> Option<&'static str> {
        // 2^53: above it numbers are no longer exact, and no router counts as much in a thousand years.
        const MOST: u64 = 1 << 53;
        let answered = self.latency.count();
        let accounted = self.errors.saturating_add(answered);
        if self.attempts > MOST {
            Some("more attempts than there can have been")
        } else if self.errors > self.attempts {
            Some("more errors than attempts")
        } else if accounted > self.attempts {
            Some("more latencies than answers")
        } else if (self.attempts - accounted) > 5 + self.attempts / 100 {
            // Latencies say which answers were slow: without them a slow candidate looks good.
            Some("answers without latencies")
        } else {
            None
        }
    }

    /// Attempts that count against the arm: failed, or answered later than `slow_above`.
    pub fn bad(&self, slow_above: Option<Duration>) -> u64 {
        self.errors.saturating_add(self.slow(slow_above)).min(self.attempts)
    }

    /// [`Counts::bad`] in parts per million of the attempts; none without an attempt.
    pub fn bad_ppm(&self, slow_above: Option<Duration>) -> Option<u32> {
        let bad = u128::from(self.bad(slow_above)) * u128::from(WHOLE);
        bad.checked_div(self.attempts.into()).and_then(|ppm| u32::try_from(ppm).ok())
    }

    /// Attempts that were answered later than `slow_above`.
    pub fn slow(&self, slow_above: Option<Duration>) -> u64 {
        slow_above.map_or(0, |limit| self.latency.count_above(limit))
    }
}

/// Which arm of which step a router counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The run.
    pub run: u64,
    /// The step.
    pub step: u32,
    /// The revision.
    pub revision: String,
}

/// The newest totals of every router process that was seen, for one ModelDeployment.
#[derive(Clone, Debug, Default)]
pub struct Book {
    totals: BTreeMap<(String, Key), Counts>,
}

impl Book {
    /// Takes over what a router reports and returns what is new in it. Totals that are lower than those known (a reply that
    /// was overtaken) change nothing.
    pub fn note(&mut self, process: &str, key: Key, counts: &Counts) -> Counts {
        let known = self.totals.entry((process.to_owned(), key)).or_default();
        let shrunk = counts.attempts < known.attempts || counts.errors < known.errors;
        if shrunk || counts.latency.count() < known.latency.count() {
            return Counts::default();
        }
        let new = counts.since(known);
        *known = counts.clone();
        new
    }

    /// Totals of one revision in a run, over all steps that `in_step` accepts.
    pub fn total(&self, run: u64, revision: &str, in_step: impl Fn(u32) -> bool) -> Counts {
        let mut sum = Counts::default();
        for ((_, key), counts) in &self.totals {
            if key.run == run && key.revision == revision && in_step(key.step) {
                sum.merge(counts);
            }
        }
        sum
    }

    /// Attempts of one revision in one step of a run.
    pub fn attempts(&self, run: u64, step: u32, revision: &str) -> u64 {
        let of = |key: &Key| key.run == run && key.step == step && key.revision == revision;
        let attempts = self.totals.iter().filter(|((_, key), _)| of(key)).map(|(_, counts)| counts.attempts);
        attempts.fold(0, u64::saturating_add)
    }

    /// Forgets the runs before `run`.
    pub fn forget_before(&mut self, run: u64) {
        self.totals.retain(|(_, key), _| key.run >= run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(step: u32) -> Key {
        Key { run: 3, step, revision: "b".into() }
    }

    fn counts(attempts: u64, errors: u64) -> Counts {
        Counts { attempts, errors, latency: Histogram::default() }
    }

    #[test]
    fn totals_of_two_routers_add_and_only_news_are_reported() {
        let mut book = Book::default();
        assert_eq!(book.note("r1", key(1), &counts(10, 1)), counts(10, 1));
        assert_eq!(book.note("r2", key(1), &counts(5, 0)), counts(5, 0));
        assert_eq!(book.note("r1", key(1), &counts(12, 1)), counts(2, 0));
        assert_eq!(book.total(3, "b", |_| true), counts(17, 1));
    }

    #[test]
    fn a_restarted_router_loses_nothing_that_was_read() {
        let mut book = Book::default();
        book.note("r1", key(1), &counts(100, 7));
        assert_eq!(book.note("r1-again", key(1), &counts(3, 0)), counts(3, 0));
        assert_eq!(book.total(3, "b", |_| true), counts(103, 7));
    }

    #[test]
    fn an_overtaken_reply_changes_nothing() {
        let mut book = Book::default();
        book.note("r1", key(1), &counts(100, 7));
        assert_eq!(book.note("r1", key(1), &counts(90, 7)), counts(0, 0));
        assert_eq!(book.total(3, "b", |_| true), counts(100, 7));
    }

    #[test]
    fn steps_and_runs_are_apart() {
        let mut book = Book::default();
        book.note("r1", key(0), &counts(4, 0));
        book.note("r1", key(1), &counts(6, 0));
        assert_eq!(book.total(3, "b", |step| step == 1), counts(6, 0));
        assert_eq!(book.total(2, "b", |_| true), counts(0, 0));
        book.forget_before(4);
        assert_eq!(book.total(3, "b", |_| true), counts(0, 0));
    }

    #[test]
    fn slow_answers_count_against_the_arm_once() {
        let mut arm = counts(10, 2);
        for ms in [10, 10, 10, 10, 10, 300, 300, 300] {
            arm.latency.record(Duration::from_millis(ms));
        }
        assert_eq!(arm.bad(None), 2);
        assert_eq!(arm.bad(Some(Duration::from_millis(100))), 5);
    }
}
