//! What happened to attempts, by (run, step, arm): the evidence that the operator decides on.
//!
//! Each arm of each table has its own count, so a request is counted under the table that it was assigned by, however
//! long it takes. Counts of the run that is served and of the one before are kept; older ones are folded into a total
//! of their revision, so that what Prometheus reads never shrinks. Attempts that are no evidence (chosen by a header
//! rule, at a pod in its slow start, or further ones of a unit within a second) are in that total and nowhere else.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stoker_api::scrape::ArmCounts;
use stoker_decide::evidence::Counts;
use stoker_decide::histogram::Histogram;

/// How many runs of a route are kept.
const RUNS: usize = 2;

/// Totals of attempts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Attempts that ended.
    pub attempts: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Of these, lost to overload. No evidence of its own: they are among the errors.
    pub overloaded: u64,
    /// Latencies of those that succeeded.
    pub latency: Histogram,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.errors += other.errors;
        self.overloaded += other.overloaded;
        self.latency.merge(&other.latency);
    }
}

/// What a [`Ledger`] keeps for one (run, step, revision).
pub trait Count: Default {
    /// What it has counted.
    type Totals: Clone + Default + Debug;
    /// All that it has counted.
    fn totals(&self) -> Self::Totals;
    /// Adds what another has counted.
    fn add(sum: &mut Self::Totals, more: &Self::Totals);
}

/// The count of one (run, step, arm).
#[derive(Debug, Default)]
pub struct ArmCount(Mutex<Tallies>);

#[derive(Debug, Default)]
struct Tallies {
    evidence: Tally,
    /// Attempts that are no evidence.
    apart: Tally,
}

impl Tallies {
    fn of(&mut self, evidence: bool) -> &mut Tally {
        if evidence { &mut self.evidence } else { &mut self.apart }
    }
}

impl ArmCount {
    /// An attempt succeeded after `latency`.
    pub fn succeeded(&self, latency: Duration, evidence: bool) {
        let mut tallies = lock(&self.0);
        let tally = tallies.of(evidence);
        tally.attempts += 1;
        tally.latency.record(latency);
    }

    /// An attempt failed.
    pub fn failed(&self, evidence: bool) {
        let mut tallies = lock(&self.0);
        let tally = tallies.of(evidence);
        tally.attempts += 1;
        tally.errors += 1;
    }

    /// An attempt that is about to be counted as failed was lost to overload.
    pub fn overloaded(&self) {
        lock(&self.0).apart.overloaded += 1;
    }

    /// A copy of the totals of what is evidence.
    pub fn read(&self) -> Tally {
        lock(&self.0).evidence.clone()
    }
}

impl Count for ArmCount {
    type Totals = Tally;

    fn totals(&self) -> Tally {
        let tallies = lock(&self.0);
        let mut sum = tallies.evidence.clone();
        sum.add(&tallies.apart);
        sum
    }

    fn add(sum: &mut Tally, more: &Tally) {
        sum.add(more);
    }
}

/// All counts of one kind of this process.
#[derive(Debug)]
pub struct Ledger<C: Count = ArmCount>(Mutex<HashMap<String, RouteCounts<C>>>);

impl<C: Count> Default for Ledger<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[derive(Debug)]
struct RouteCounts<C: Count> {
    uid: String,
    /// The runs that are kept, the one that is served last.
    runs: Vec<u64>,
    arms: BTreeMap<(u64, u32, String), Arc<C>>,
    /// Totals of what is not kept any more, by revision.
    past: HashMap<String, C::Totals>,
}

impl<C: Count> Default for RouteCounts<C> {
    fn default() -> Self {
        Self { uid: String::new(), runs: Vec::new(), arms: BTreeMap::new(), past: HashMap::new() }
    }
}

impl Ledger {
    /// The evidence on a route, as the operator reads it.
    pub fn read(&self, route: &str) -> Vec<ArmCounts> {
        self.map(route, |run, step, revision, count| {
            let Tally { attempts, errors, latency, .. } = count.read();
            ArmCounts { run, step, revision: revision.to_owned(), attempts, errors, latency }
        })
    }

    /// The evidence on a revision in a run, over all steps in which the candidate has traffic.
    pub fn in_steps(&self, route: &str, run: u64, revision: &str) -> Counts {
        let routes = lock(&self.0);
        let mut sum = Tally::default();
        if let Some(counts) = routes.get(route) {
            let from = (run, 1, String::new());
            let steps = counts.arms.range(from..).take_while(|((of, _, _), _)| *of == run);
            for (_, count) in steps.filter(|((_, _, name), _)| name == revision) {
                sum.add(&count.read());
            }
        }
        Counts { attempts: sum.attempts, errors: sum.errors, latency: sum.latency }
    }
}

impl<C: Count> Ledger<C> {
    /// A table is about to be served: old runs are folded into the totals.
    pub fn begin(&self, route: &str, uid: &str, run: u64) {
        let mut routes = lock(&self.0);
        let counts = routes.entry(route.to_owned()).or_default();
        if counts.uid != uid {
            // Another object of the same name: its runs are numbered anew, and have nothing to do with the old ones.
            counts.forget(|_| true);
            counts.runs.clear();
            uid.clone_into(&mut counts.uid);
        }
        if counts.runs.last() != Some(&run) {
            counts.runs.retain(|known| *known != run);
            counts.runs.push(run);
            let surplus = counts.runs.len().saturating_sub(RUNS);
            let old: Vec<u64> = counts.runs.drain(..surplus).collect();
            counts.forget(|run| old.contains(&run));
        }
    }

    /// The count of a revision of a table that is about to be served.
    pub fn arm(&self, route: &str, uid: &str, run: u64, step: u32, revision: &str) -> Arc<C> {
        self.begin(route, uid, run);
        let mut routes = lock(&self.0);
        let counts = routes.entry(route.to_owned()).or_default();
        Arc::clone(counts.arms.entry((run, step, revision.to_owned())).or_default())
    }

    /// Each count that is kept of a route, by run, step and revision.
    pub fn map<T>(&self, route: &str, each: impl Fn(u64, u32, &str, &C) -> T) -> Vec<T> {
        let routes = lock(&self.0);
        let Some(counts) = routes.get(route) else { return Vec::new() };
        counts.arms.iter().map(|((run, step, revision), count)| each(*run, *step, revision, count)).collect()
    }

    /// Totals of each revision of a route since the process started, or since the revision came.
    pub fn totals(&self, route: &str) -> BTreeMap<String, C::Totals> {
        let routes = lock(&self.0);
        let Some(counts) = routes.get(route) else { return BTreeMap::new() };
        let mut totals: BTreeMap<_, _> =
            counts.past.iter().map(|(revision, totals)| (revision.clone(), totals.clone())).collect();
        for ((_, _, revision), count) in &counts.arms {
            C::add(totals.entry(revision.clone()).or_default(), &count.totals());
        }
        totals
    }

    /// Forgets a route that is gone.
    pub fn forget(&self, route: &str) {
        lock(&self.0).remove(route);
    }

    /// Forgets the totals of revisions that are neither kept nor `wanted`, so that labels stay few.
    pub fn retain(&self, route: &str, wanted: impl Fn(&str) -> bool) {
        if let Some(counts) = lock(&self.0).get_mut(route) {
            let kept: Vec<String> = counts.arms.keys().map(|(_, _, revision)| revision.clone()).collect();
            counts.past.retain(|revision, _| kept.contains(revision) || wanted(revision));
        }
    }
}

impl<C: Count> RouteCounts<C> {
    /// Folds the arms of some runs into the totals of their revisions. Attempts of theirs that are still under way are
    /// lost to the totals; the operator asked for those runs long ago.
    fn forget(&mut self, is_old: impl Fn(u64) -> bool) {
        let (old, kept) =
            std::mem::take(&mut self.arms).into_iter().partition(|((run, _, _), _)| is_old(*run));
        self.arms = kept;
        let old: BTreeMap<(u64, u32, String), Arc<C>> = old;
        for ((_, _, revision), count) in old {
            C::add(self.past.entry(revision).or_default(), &count.totals());
        }
    }
}

/// A panic while counting leaves the counts usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_for_two_runs_and_totals_never_shrink() {
        let ledger: Ledger = Ledger::default();
        for run in 1..=4 {
            let arm = ledger.arm("digits", "uid", run, 0, "digits-a");
            arm.succeeded(Duration::from_millis(5), true);
            arm.failed(true);
        }
        let counts = ledger.read("digits");
        assert_eq!(counts.iter().map(|count| count.run).collect::<Vec<_>>(), [3, 4]);
        assert!(
            counts.iter().all(|count| count.attempts == 2 && count.errors == 1 && count.latency.count() == 1)
        );
        assert_eq!(ledger.totals("digits")["digits-a"].attempts, 8);
    }

    #[test]
    fn an_arm_of_the_same_table_keeps_its_count() {
        let ledger: Ledger = Ledger::default();
        ledger.arm("digits", "uid", 1, 2, "digits-a").failed(true);
        ledger.arm("digits", "uid", 1, 2, "digits-a").failed(true);
        ledger.arm("digits", "uid", 1, 3, "digits-a").failed(true);
        let errors: Vec<_> = ledger.read("digits").iter().map(|count| (count.step, count.errors)).collect();
        assert_eq!(errors, [(2, 2), (3, 1)]);
    }

    #[test]
    fn a_run_is_summed_from_its_first_step_on() {
        let ledger: Ledger = Ledger::default();
        for (run, step, revision) in
            [(1, 2, "a"), (2, 0, "a"), (2, 1, "a"), (2, 1, "b"), (2, 7, "a"), (3, 1, "a")]
        {
            ledger.arm("digits", "uid", run, step, revision).failed(true);
        }
        let errors = |run, revision| ledger.in_steps("digits", run, revision).errors;
        assert_eq!([errors(2, "a"), errors(2, "b"), errors(3, "a"), errors(4, "a")], [2, 1, 1, 0]);
    }

    #[test]
    fn what_is_no_evidence_is_in_the_totals_alone() {
        let ledger: Ledger = Ledger::default();
        let arm = ledger.arm("digits", "uid", 1, 0, "digits-a");
        arm.succeeded(Duration::from_millis(5), true);
        arm.failed(false);
        arm.succeeded(Duration::from_millis(5), false);
        let counts = &ledger.read("digits")[0];
        assert_eq!((counts.attempts, counts.errors, counts.latency.count()), (1, 0, 1));
        let totals = &ledger.totals("digits")["digits-a"];
        assert_eq!((totals.attempts, totals.errors, totals.latency.count()), (3, 1, 2));
    }

    #[test]
    fn another_object_of_the_same_name_starts_anew() {
        let ledger: Ledger = Ledger::default();
        ledger.arm("digits", "old", 1, 0, "digits-a").failed(true);
        ledger.arm("digits", "new", 1, 0, "digits-a").failed(true);
        assert_eq!(ledger.read("digits")[0].errors, 1);
        assert_eq!(ledger.totals("digits")["digits-a"].errors, 2);
        ledger.forget("digits");
        assert!(ledger.read("digits").is_empty());
    }

    #[test]
    fn totals_of_revisions_that_nobody_knows_are_dropped() {
        let ledger: Ledger = Ledger::default();
        for (run, revision) in [(1, "a"), (2, "b"), (3, "c")] {
            ledger.arm("digits", "uid", run, 0, revision).failed(true);
        }
        ledger.retain("digits", |_| false);
        assert_eq!(ledger.totals("digits").into_keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
