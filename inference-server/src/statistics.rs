//! What the statistics extension tells: counts and times of requests and of runs, since the start.
//!
//! Times are sums in nanoseconds. The counts of a request's phases are of the requests that passed that phase, so
//! they differ from the count of successes by the requests that failed in a later one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::batch::Stages;

/// Batch sizes up to here are counted each for itself; larger ones as the next power of two, so that clients, who choose
/// the rows of a request, cannot make the counts many.
const EXACT_SIZES: u64 = 128;

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// The sum of the times, in nanoseconds.
    pub ns: u64,
}

impl Tally {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(nanoseconds(time));
    }
}

/// The same, added to by many threads.
#[derive(Debug, Default)]
struct Shared {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Shared {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    fn read(&self) -> Tally {
        Tally { count: self.count.load(Ordering::Relaxed), ns: self.ns.load(Ordering::Relaxed) }
    }
}

/// A phase of a request that passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It waited for an executor.
    Queue,
    /// Its tensors were read.
    Input,
    /// The batch that it was in was run.
    Infer,
    /// Its answer was written.
    Output,
}

/// The counts of one model. See [`Snapshot`].
#[derive(Debug, Default)]
pub struct Statistics {
    last_inference: AtomicU64,
    success: Shared,
    fail: Shared,
    queue: Shared,
    input: Shared,
    infer: Shared,
    output: Shared,
    cache_hit: Shared,
    cache_miss: Shared,
    runs: Mutex<Runs>,
}

/// Runs of the model.
#[derive(Debug, Default)]
struct Runs {
    rows: u64,
    count: u64,
    by_size: BTreeMap<u64, [Tally; 3]>,
}

impl Statistics {
    /// Counts a request that was answered by the model, `now`, after `total`.
    pub fn succeeded(&self, total: Duration, now: SystemTime) {
        self.success.add(total);
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_inference
            .fetch_max(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a request that was refused or failed, after `total`.
    pub fn failed(&self, total: Duration) {
        self.fail.add(total);
    }

    /// Counts the time of a phase of a request.
    pub fn passed(&self, phase: Passed, time: Duration) {
        match phase {
            Passed::Queue => self.queue.add(time),
            Passed::Input => self.input.add(time),
            Passed::Infer => self.infer.add(time),
            Passed::Output => self.output.add(time),
        }
    }

    /// Counts a run of `rows` rows that the model did.
    pub fn ran(&self, rows: usize, stages: Stages) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let size =
            if rows <= EXACT_SIZES { rows } else { rows.checked_next_power_of_two().unwrap_or(u64::MAX) };
        let mut runs = self.runs();
        runs.rows = runs.rows.saturating_add(rows);
        runs.count += 1;
        let [input, infer, output] = runs.by_size.entry(size).or_default();
        input.add(stages.joined);
        infer.add(stages.computed);
        output.add(stages.divided);
    }

    /// Counts an answer that came from the cache, and the time to find it.
    pub fn cache_hit(&self, time: Duration) {
        self.cache_hit.add(time);
    }

    /// Counts a request that the cache had no answer for, and the time to look for it and to keep the answer.
    pub fn cache_miss(&self, time: Duration) {
        self.cache_miss.add(time);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let runs = self.runs();
        let batch_stats = runs.by_size.iter().map(|(size, [input, infer, output])| BatchSnapshot {
            batch_size: *size,
            compute_input: *input,
            compute_infer: *infer,
            compute_output: *output,
        });
        Snapshot {
            last_inference: self.last_inference.load(Ordering::Relaxed),
            inference_count: runs.rows,
            execution_count: runs.count,
            inference_stats: RequestSnapshot {
                success: self.success.read(),
                fail: self.fail.read(),
                queue: self.queue.read(),
                compute_input: self.input.read(),
                compute_infer: self.infer.read(),
                compute_output: self.output.read(),
                cache_hit: self.cache_hit.read(),
                cache_miss: self.cache_miss.read(),
            },
            batch_stats: batch_stats.collect(),
        }
    }

    /// No code that can panic runs under the lock; were it to, the counts are still whole.
    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole nanoseconds; what does not fit is 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The counts at one time, by the names of the extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// When the last request was answered by the model, in milliseconds since 1970; 0 when none was.
    pub last_inference: u64,
    /// Rows of all runs.
    pub inference_count: u64,
    /// Runs of the model.
    pub execution_count: u64,
    /// Of requests.
    pub inference_stats: RequestSnapshot,
    /// Of runs, by their rows; above 128 rows by the next power of two.
    pub batch_stats: Vec<BatchSnapshot>,
}

/// What there is of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestSnapshot {
    /// Answered by the model; from the head of the request to the answer.
    pub success: Tally,
    /// Refused or failed.
    pub fail: Tally,
    /// Waited for an executor.
    pub queue: Tally,
    /// Read.
    pub compute_input: Tally,
    /// Run, alone or in a batch; the time is that of the whole batch.
    pub compute_infer: Tally,
    /// Answers written.
    pub compute_output: Tally,
    /// Answered from the cache.
    pub cache_hit: Tally,
    /// Not in the cache.
    pub cache_miss: Tally,
}

/// What there is of runs of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchSnapshot {
    /// Rows.
    pub batch_size: u64,
    /// Requests joined to a batch.
    pub compute_input: Tally,
    /// The model.
    pub compute_infer: Tally,
    /// The batch's outputs divided among its requests.
    pub compute_output: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tally(count: u64, milliseconds: u64) -> Tally {
        Tally { count, ns: milliseconds * 1_000_000 }
    }

    #[test]
    fn counts_and_times_add_up() {
        let statistics = Statistics::default();
        assert_eq!(statistics.snapshot(), Snapshot::default());
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        statistics.succeeded(5 * MS, at(1000));
        // A clock that was set back does not set the last request back.
        statistics.succeeded(7 * MS, at(900));
        statistics.failed(MS);
        for (phase, times) in
            [(Passed::Queue, 1), (Passed::Input, 2), (Passed::Infer, 3), (Passed::Output, 4)]
        {
            for _ in 0..times {
                statistics.passed(phase, 2 * MS);
            }
        }
        statistics.cache_hit(MS);
        statistics.cache_miss(2 * MS);
        statistics.cache_miss(3 * MS);
        let stages = Stages { joined: MS, computed: 3 * MS, divided: 2 * MS };
        statistics.ran(4, stages);
        statistics.ran(4, stages);
        statistics.ran(1, Stages { computed: MS, ..Stages::default() });
        let snapshot = statistics.snapshot();
        assert_eq!(
            snapshot.inference_stats,
            RequestSnapshot {
                success: tally(2, 12),
                fail: tally(1, 1),
                queue: tally(1, 2),
                compute_input: tally(2, 4),
                compute_infer: tally(3, 6),
                compute_output: tally(4, 8),
                cache_hit: tally(1, 1),
                cache_miss: tally(2, 5),
            }
        );
        let one = BatchSnapshot {
            batch_size: 1,
            compute_input: tally(1, 0),
            compute_infer: tally(1, 1),
            compute_output: tally(1, 0),
        };
        let four = BatchSnapshot {
            batch_size: 4,
            compute_input: tally(2, 2),
            compute_infer: tally(2, 6),
            compute_output: tally(2, 4),
        };
        assert_eq!(snapshot.batch_stats, [one, four]);
        assert_eq!(
            (snapshot.inference_count, snapshot.execution_count, snapshot.last_inference),
            (9, 3, 1000)
        );
    }

    #[test]
    fn batch_sizes_are_bounded_whatever_clients_send() {
        let statistics = Statistics::default();
        for rows in 1..100_000 {
            statistics.ran(rows, Stages::default());
        }
        statistics.ran(usize::MAX, Stages::default());
        let snapshot = statistics.snapshot();
        let sizes: Vec<_> = snapshot.batch_stats.iter().map(|batch| batch.batch_size).collect();
        assert!(sizes.starts_with(&[1, 2, 3]) && sizes[126..130] == [127, 128, 256, 512], "{sizes:?}");
        assert!(sizes.len() < 200, "{}", sizes.len());
        let runs: u64 = snapshot.batch_stats.iter().map(|batch| batch.compute_infer.count).sum();
        assert_eq!(runs, snapshot.execution_count);
    }

    #[test]
    fn the_names_are_those_of_the_extension() {
        let statistics = Statistics::default();
        statistics.ran(2, Stages { computed: MS, ..Stages::default() });
        let text = serde_json::to_value(statistics.snapshot()).unwrap();
        let zero = serde_json::json!({"count": 0, "ns": 0});
        for name in [
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        ] {
            assert_eq!(text["inference_stats"][name], zero, "{name}");
        }
        let batch = serde_json::json!([{"batch_size": 2, "compute_input": {"count": 1, "ns": 0},
            "compute_infer": {"count": 1, "ns": 1_000_000}, "compute_output": {"count": 1, "ns": 0}}]);
        assert_eq!(text["batch_stats"], batch);
        assert_eq!((&text["inference_count"], &text["execution_count"]), (&2.into(), &1.into()));
    }
}
