//! What became of copies, by (run, step, revision). They never count as attempts of an arm.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stoker_api::scrape::ShadowCounts;
use stoker_decide::compare::Comparison;
use stoker_decide::histogram::Histogram;

use crate::count::{Count, Ledger};

/// Why a copy was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// Too many wait for the shadow already.
    QueueFull,
    /// Copies take all the memory that they may.
    Memory,
    /// The request's body was too long to be kept.
    LongBody,
    /// The shadow has no ready pod.
    NoEndpoint,
    /// The client went away before its answer ended.
    Aborted,
    /// The table no longer copies to that revision.
    Outdated,
    /// The process is on its way out.
    Draining,
    /// The threads for copies are not there.
    Unavailable,
}

impl Dropped {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::QueueFull,
        Self::Memory,
        Self::LongBody,
        Self::NoEndpoint,
        Self::Aborted,
        Self::Outdated,
        Self::Draining,
        Self::Unavailable,
    ];

    /// As Prometheus sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "QueueFull",
            Self::Memory => "Memory",
            Self::LongBody => "LongBody",
            Self::NoEndpoint => "NoEndpoint",
            Self::Aborted => "Aborted",
            Self::Outdated => "Outdated",
            Self::Draining => "Draining",
            Self::Unavailable => "Unavailable",
        }
    }
}

/// Totals of copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShadowTotals {
    /// Copies that were answered or failed.
    pub attempts: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Copies that were not sent, in the order of [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Pairs of answers that were compared.
    pub compared: u64,
    /// Of these, with the same labels.
    pub agreed: u64,
    /// Pairs that could not be compared.
    pub incomparable: u64,
    /// Pairs that were not compared because too many others waited.
    pub skipped: u64,
    /// Distances, see [`Comparison::distance`].
    pub distance: Histogram,
    /// Latencies of the copies that succeeded.
    pub latency: Histogram,
}

/// The count of one (run, step, revision).
#[derive(Debug, Default)]
pub struct ShadowCount {
    /// Changed by the threads of shadows.
    totals: Mutex<ShadowTotals>,
    /// Changed by requests, which must not wait for those threads.
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl ShadowCount {
    /// A copy was not sent.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A copy was answered after `latency`.
    pub fn succeeded(&self, latency: Duration) {
        let mut totals = self.lock();
        totals.attempts += 1;
        totals.latency.record(latency);
    }

    /// A copy failed.
    pub fn failed(&self) {
        let mut totals = self.lock();
        totals.attempts += 1;
        totals.errors += 1;
    }

    /// A pair of answers was looked at; `None` when it cannot be compared.
    pub fn compared(&self, result: Option<Comparison>) {
        let mut totals = self.lock();
        let Some(Comparison { agree, distance }) = result else {
            totals.incomparable += 1;
            return;
        };
        totals.compared += 1;
        totals.agreed += u64::from(agree);
        if let Some(distance) = distance.and_then(|distance| Duration::try_from_secs_f64(distance).ok()) {
            totals.distance.record(distance);
        }
    }

    /// A pair of answers was not looked at.
    pub fn skipped(&self) {
        self.lock().skipped += 1;
    }

    fn lock(&self) -> MutexGuard<'_, ShadowTotals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count for ShadowCount {
    type Totals = ShadowTotals;

    fn totals(&self) -> ShadowTotals {
        let dropped = self.dropped.each_ref().map(|count| count.load(Ordering::Relaxed));
        ShadowTotals { dropped, ..self.lock().clone() }
    }

    fn add(sum: &mut ShadowTotals, more: &ShadowTotals) {
        sum.attempts += more.attempts;
        sum.errors += more.errors;
        for (sum, more) in sum.dropped.iter_mut().zip(more.dropped) {
            *sum += more;
        }
        sum.compared += more.compared;
        sum.agreed += more.agreed;
        sum.incomparable += more.incomparable;
        sum.skipped += more.skipped;
        sum.distance.merge(&more.distance);
        sum.latency.merge(&more.latency);
    }
}

impl Ledger<ShadowCount> {
    /// The counts of a route, as the operator reads them.
    pub fn read(&self, route: &str) -> Vec<ShadowCounts> {
        self.map(route, |run, step, revision, count| {
            let totals = count.totals();
            ShadowCounts {
                run,
                step,
                revision: revision.to_owned(),
                attempts: totals.attempts,
                errors: totals.errors,
                dropped: totals.dropped.iter().sum(),
                compared: totals.compared,
                agreed: totals.agreed,
                incomparable: totals.incomparable,
                distance: totals.distance,
                latency: totals.latency,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_order() {
        for (index, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
            assert_eq!(reason.name(), format!("{reason:?}"));
        }
    }

    #[test]
    fn the_operator_reads_what_was_counted() {
        let ledger: Ledger<ShadowCount> = Ledger::default();
        let count = ledger.arm("digits", "uid", 3, 1, "digits-b");
        count.succeeded(Duration::from_millis(5));
        count.failed();
        count.dropped(Dropped::QueueFull);
        count.dropped(Dropped::NoEndpoint);
        count.compared(Some(Comparison { agree: true, distance: Some(0.25) }));
        count.compared(Some(Comparison { agree: false, distance: None }));
        count.compared(None);
        count.skipped();
        let read = &ledger.read("digits")[0];
        assert_eq!((read.run, read.step, read.revision.as_str()), (3, 1, "digits-b"));
        assert_eq!((read.attempts, read.errors, read.dropped), (2, 1, 2));
        assert_eq!((read.compared, read.agreed, read.incomparable), (2, 1, 1));
        assert_eq!((read.latency.count(), read.distance.count(), read.distance.sum()), (1, 1, 0.25));

        // Folded into the totals with its run.
        let before = ledger.totals("digits")["digits-b"].clone();
        ledger.begin("digits", "uid", 4);
        ledger.begin("digits", "uid", 5);
        assert!(ledger.read("digits").is_empty());
        assert_eq!(ledger.totals("digits")["digits-b"], before);
        assert_eq!(before.skipped, 1);
    }
}
