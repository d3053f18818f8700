//! From routers' totals to what is new since the last look.

use std::collections::BTreeMap;
use std::time::Duration;

use super::load::Counted;
use crate::histogram::Histogram;

/// What one router process counted of one ModelDeployment since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests that came, whatever became of them.
    pub offered: u64,
    /// Requests that wait for a pod now.
    pub held: u64,
    /// By revision.
    pub revisions: BTreeMap<String, ArmTotals>,
}

/// What one router process counted of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmTotals {
    /// Attempts that pods answered, be it with an error of the client's.
    pub answered: u64,
    /// Attempts that overload cost: refused as too much, or not answered by the deadline.
    pub overloaded: u64,
    /// Latencies of those that succeeded.
    pub latency: Histogram,
    /// Requests that are at pods now.
    pub in_flight: u64,
}

/// What all routers counted between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// Time between the looks.
    pub took: Duration,
    /// Requests that came.
    pub offered: u64,
    /// Requests that wait for a pod now.
    pub held: u64,
    /// A router was not known at the last look: what came to it before is in none of this.
    pub is_partial: bool,
    /// By revision.
    pub revisions: BTreeMap<String, Counted>,
}

/// Remembers totals by router process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meter {
    processes: BTreeMap<String, Totals>,
    read: Option<Duration>,
}

impl Meter {
    /// What is new. None at the first look: totals alone say nothing of when.
    ///
    /// A process that was not known counts from now on. All routers must have answered: part of the demand looks like less of it.
    pub fn read(&mut self, now: Duration, replies: BTreeMap<String, Totals>) -> Option<Interval> {
        let before = std::mem::replace(&mut self.processes, replies);
        let last = self.read.replace(now)?;
        let took = now.saturating_sub(last);
        if took.is_zero() {
            return None;
        }
        let mut sum = Interval { took, ..Interval::default() };
        for (process, totals) in &self.processes {
            sum.held = sum.held.saturating_add(totals.held);
            let earlier = before.get(process);
            sum.is_partial |= earlier.is_none();
            let new = |now: u64, then: Option<u64>| then.map_or(0, |then| now.saturating_sub(then));
            sum.offered = sum.offered.saturating_add(new(totals.offered, earlier.map(|then| then.offered)));
            for (name, arm) in &totals.revisions {
                let counted = sum.revisions.entry(name.clone()).or_default();
                counted.in_flight = counted.in_flight.saturating_add(arm.in_flight);
                // A revision that a known process had not counted yet began at nothing.
                let Some(then) = earlier.map(|then| then.revisions.get(name).cloned().unwrap_or_default())
                else {
                    continue;
                };
                counted.answered =
                    counted.answered.saturating_add(arm.answered.saturating_sub(then.answered));
                counted.overloaded =
                    counted.overloaded.saturating_add(arm.overloaded.saturating_sub(then.overloaded));
                counted.latency.merge(&arm.latency.since(&then.latency));
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(offered: u64, answered: u64) -> Totals {
        let mut arm = ArmTotals { answered, in_flight: 1, ..ArmTotals::default() };
        for _ in 0..answered {
            arm.latency.record(Duration::from_millis(10));
        }
        Totals { offered, held: 1, revisions: BTreeMap::from([("a".to_owned(), arm)]) }
    }

    fn replies(of: &[(&str, u64, u64)]) -> BTreeMap<String, Totals> {
        of.iter()
            .map(|(process, offered, answered)| ((*process).to_owned(), totals(*offered, *answered)))
            .collect()
    }

    #[test]
    fn what_is_new_is_summed_over_routers_and_a_new_one_counts_from_now_on() {
        let mut meter = Meter::default();
        let at = Duration::from_secs;
        assert_eq!(meter.read(at(1), replies(&[("x", 100, 90)])), None);
        let sum = meter.read(at(3), replies(&[("x", 110, 95), ("y", 1000, 900)])).unwrap();
        assert_eq!((sum.took, sum.offered, sum.held, sum.is_partial), (at(2), 10, 2, true));
        let arm = &sum.revisions["a"];
        assert_eq!((arm.answered, arm.latency.count(), arm.in_flight), (5, 5, 2));
        // `x` started again under another id.
        let sum = meter.read(at(4), replies(&[("z", 7, 7), ("y", 1003, 901)])).unwrap();
        assert_eq!((sum.offered, sum.revisions["a"].answered), (3, 1));
    }
}
