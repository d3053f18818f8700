//! Executors: threads of their own that run batches. A request that fails, fails alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stoker_graph::{Limits, RunError, Value};
use tokio::sync::mpsc;

use super::queue::{Done, Failure, Job, Learned, Outcome, Queue, Release, Reply};
use crate::device::Model;
use crate::memory::Share;
use crate::protocol::Signature;

/// Something that runs a model: that of the file, or a double in tests.
pub trait Runner: Send + Sync + 'static {
    /// Runs the model once. It may give up with [`RunError::Stopped`] as soon as `stop` says so.
    fn run(&self, inputs: Vec<(String, Value)>, stop: Stop<'_>) -> Result<Vec<(String, Value)>, RunError>;
}

/// Whether nobody waits for a run any more.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// A model, and the memory that one run of it may take.
pub struct Bounded {
    /// The model, on its device.
    pub model: Box<dyn Model>,
    /// Bytes of all tensors of a run that are alive at a time; without it or without a limit it is the model's own bound.
    pub memory: Option<Arc<Share>>,
}

impl Runner for Bounded {
    fn run(&self, inputs: Vec<(String, Value)>, stop: Stop<'_>) -> Result<Vec<(String, Value)>, RunError> {
        let mut limits = Limits { stop: Some(stop), ..Limits::default() };
        let bytes = self.memory.as_ref().and_then(|memory| memory.bytes());
        limits.memory = bytes.map_or(limits.memory, |memory| memory.min(limits.memory));
        self.model.run_within(inputs, limits)
    }
}

/// What executors tell about their work.
pub trait Telemetry: Send + Sync + 'static {
    /// A batch of `requests` and `rows` was run in `computed`.
    fn ran(&self, requests: usize, rows: usize, computed: Duration);
    /// The model did a run of `rows` rows, whose parts took what `stages` says. Runs that failed are not told.
    fn did(&self, _rows: usize, _stages: Stages) {}
    /// A run gave these outputs, one for each of the signature. Called between the run and the answers: it must be short.
    fn gave(&self, outputs: &[Value]) {
        let _ = outputs;
    }
    /// A batch was formed: why no more requests are in it, and what it was formed by.
    fn released(&self, release: Release, learned: &Learned);
    /// Requests left the queue without a run: their clients had gone, their time was over, they could not make it in time.
    fn dropped(&self, cancelled: usize, expired: usize, late: usize);
    /// The model panicked. The panic hook has logged where.
    fn panicked(&self);
}

/// The times of the parts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Joining the inputs of the requests; none for a request alone.
    pub joined: Duration,
    /// The model.
    pub computed: Duration,
    /// Dividing the outputs among the requests; none for a request alone.
    pub divided: Duration,
}

/// Outcomes on their way to the requests that wait for them.
///
/// An executor hands over a whole batch at once: one wake-up from thread to thread for the batch, and the waiting
/// requests are then woken on their own thread. Waking each of them from here costs a system call and often a change of
/// the running thread for each.
#[derive(Debug)]
pub struct Answers(mpsc::UnboundedReceiver<Vec<(Reply, Outcome)>>);

impl Answers {
    /// Passes outcomes on until all executors have ended. What is on the way is bounded by the queue.
    pub async fn deliver(mut self) {
        while let Some(outcomes) = self.0.recv().await {
            for (reply, outcome) in outcomes {
                // The client may have gone in the meantime.
                let _ = reply.send(outcome);
            }
        }
    }
}

/// What one executor needs.
struct Executor<R, T> {
    queue: Arc<Queue>,
    runner: Arc<R>,
    signature: Arc<Signature>,
    telemetry: T,
    /// Its number among the executors of the queue.
    number: usize,
    answers: mpsc::UnboundedSender<Vec<(Reply, Outcome)>>,
    /// Set when the model was seen to give other rows than it was given: from then on nothing is joined.
    splits_badly: Arc<AtomicBool>,
}

/// Starts `threads` executors, as many as the queue knows of, each with `kernel_threads` for the kernels of one run. They end when the queue is closed
/// and empty. Their answers reach the requests for as long as [`Answers::deliver`] runs.
///
/// Each executor is a member of a rayon pool of its own, so that a kernel that divides its work does it on this
/// executor's threads, without a hand-over to a pool that all executors would compete for.
pub fn start<R: Runner, T: Telemetry + Clone>(
    queue: &Arc<Queue>,
    runner: &Arc<R>,
    signature: &Arc<Signature>,
    telemetry: &T,
    threads: usize,
    kernel_threads: usize,
) -> std::io::Result<(Vec<JoinHandle<()>>, Answers)> {
    let (answers, receiver) = mpsc::unbounded_channel();
    let splits_badly = Arc::new(AtomicBool::new(false));
    let handles = (0..threads.max(1))
        .map(|number| {
            let executor = Executor {
                queue: Arc::clone(queue),
                runner: Arc::clone(runner),
                signature: Arc::clone(signature),
                telemetry: telemetry.clone(),
                number,
                answers: answers.clone(),
                splits_badly: Arc::clone(&splits_badly),
            };
            std::thread::Builder::new().name(format!("executor-{number}")).spawn(move || {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(kernel_threads.max(1)).use_current_thread();
                // Without a pool of its own the executor uses the global one: slower, and right.
                let _pool = pool
                    .build()
                    .inspect_err(|error| tracing::warn!(%error, "an executor shares the global thread pool"));
                executor.work();
            })
        })
        .collect::<std::io::Result<_>>()?;
    Ok((handles, Answers(receiver)))
}

impl<R: Runner, T: Telemetry> Executor<R, T> {
    /// Runs batches until the queue is closed.
    fn work(&self) {
        let mut tells = false;
        loop {
            let max_rows = if self.splits_badly.load(Ordering::Relaxed) { 1 } else { usize::MAX };
            let Some(mut taken) = self.queue.take(self.number, max_rows, tells) else { return };
            if taken.cancelled + taken.expired + taken.late > 0 {
                self.telemetry.dropped(taken.cancelled, taken.expired, taken.late);
            }
            if !taken.refused.is_empty() {
                self.answer(std::mem::take(&mut taken.refused));
            }
            if !taken.batch.is_empty() {
                self.telemetry.released(taken.release, &taken.learned);
            }
            // The model's panics end in `run`; this one is for faults around it, so that no executor is ever lost. The
            // requests of the batch see their reply dropped.
            let outcome = catch_unwind(AssertUnwindSafe(|| match taken.batch.len() {
                0 | 1 => taken.batch.pop().is_some_and(|job| self.run_alone(job)),
                _ => self.run_together(taken.batch),
            }));
            tells = outcome.unwrap_or_else(|_| {
                self.telemetry.panicked();
                false
            });
        }
    }

    /// Runs one request. Gives whether the run says what others will cost: one that failed does not.
    fn run_alone(&self, mut job: Job) -> bool {
        let begun = Instant::now();
        let (inputs, rows, queued) = (std::mem::take(&mut job.inputs), job.rows, job.queued);
        let result = self.run(inputs, &|| is_over(&job));
        let computed = begun.elapsed();
        self.telemetry.ran(1, rows.unwrap_or(1), computed);
        let tells = result.is_ok();
        if tells {
            self.telemetry.did(rows.unwrap_or(1), Stages { computed, ..Stages::default() });
        }
        let outcome = result.map(|outputs| Done { outputs, waited: begun - queued, computed, share: 1.0 });
        // Before the answer: its client may send the next request at once.
        drop(job.held);
        self.answer(vec![(job.reply, outcome)]);
        tells
    }

    /// Runs each of some requests alone, but for those that nobody waits for any more: the run that they were in, and
    /// those of the others, took their time.
    fn run_each(&self, batch: Vec<Job>) {
        for job in batch {
            let now = Instant::now();
            let failure = if job.reply.is_closed() {
                self.telemetry.dropped(1, 0, 0);
                continue;
            } else if job.deadline <= now {
                self.telemetry.dropped(0, 1, 0);
                Failure::Expired
            } else if job.due.is_some_and(|due| due <= now) {
                self.telemetry.dropped(0, 0, 1);
                Failure::Spent
            } else {
                self.run_alone(job);
                continue;
            };
            self.answer(vec![(job.reply, Err(failure))]);
        }
    }

    /// Runs requests as one. When that fails, each of them alone: only the one that is to blame gets the error. Gives
    /// whether the run says what others will cost.
    fn run_together(&self, batch: Vec<Job>) -> bool {
        let begun = Instant::now();
        let counts: Vec<usize> = batch.iter().map(|job| job.rows.unwrap_or(0)).collect();
        let total = counts.iter().sum();
        let inputs: Result<Vec<_>, _> = (0..self.signature.inputs.len())
            .map(|position| {
                let parts: Vec<_> = batch.iter().filter_map(|job| job.inputs.get(position)).collect();
                Value::concat(&parts)
            })
            .collect();
        // What cannot be joined, such as a sum of rows that no memory holds, is not a fault of any one request.
        let joined = begun.elapsed();
        let stop = || batch.iter().all(is_over);
        let outputs = inputs.ok().and_then(|inputs| self.run(inputs, &stop).ok());
        let ran = begun.elapsed();
        let Some(parts) = outputs.and_then(|outputs| self.divide(outputs, &counts, total)) else {
            self.run_each(batch);
            return false;
        };
        let computed = begun.elapsed();
        self.telemetry.ran(batch.len(), total, computed);
        let (alone, divided) = (ran.saturating_sub(joined), computed.saturating_sub(ran));
        self.telemetry.did(total, Stages { joined, computed: alone, divided });
        let outcomes = batch.into_iter().zip(parts).zip(counts).map(|((job, outputs), rows)| {
            let (waited, share) = (begun - job.queued, rows as f64 / (total as f64).max(1.0));
            (job.reply, Ok(Done { outputs, waited, computed, share }))
        });
        self.answer(outcomes.collect());
        true
    }

    /// Hands outcomes over. It fails only when the server is about to end and nobody waits.
    fn answer(&self, outcomes: Vec<(Reply, Outcome)>) {
        let _ = self.answers.send(outcomes);
    }

    /// The outputs of each request of a batch. `None` when the outputs do not have the batch's rows.
    fn divide(&self, outputs: Vec<Value>, counts: &[usize], total: usize) -> Option<Vec<Vec<Value>>> {
        let mut parts: Vec<Vec<Value>> = counts.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
        for (output, info) in outputs.into_iter().zip(&self.signature.outputs) {
            let rows = output.shape().first().copied();
            let Ok(pieces) = output.split(counts) else {
                if !self.splits_badly.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        output = info.name,
                        rows_in = total,
                        rows_out = ?rows,
                        "the model declares axis 0 as the batch and does not keep it; requests run one by one from here on"
                    );
                }
                return None;
            };
            for (part, piece) in parts.iter_mut().zip(pieces) {
                part.push(piece);
            }
        }
        Some(parts)
    }

    /// Runs the model once. A panic ends the run and not the thread.
    fn run(&self, inputs: Vec<Value>, stop: Stop<'_>) -> Result<Vec<Value>, Failure> {
        let named = self.signature.inputs.iter().map(|info| info.name.clone()).zip(inputs).collect();
        // The graph is immutable, so a panic leaves nothing half done behind.
        let outputs = catch_unwind(AssertUnwindSafe(|| self.runner.run(named, stop))).map_err(|_| {
            self.telemetry.panicked();
            Failure::Panicked
        })?;
        let outputs = outputs.map_err(|error| match error {
            RunError::Stopped => Failure::Expired,
            error => Failure::Model(error),
        })?;
        let outputs = in_declared_order(outputs, &self.signature)?;
        self.telemetry.gave(&outputs);
        Ok(outputs)
    }
}

/// Whether nobody waits for the answer: the client has gone, or its time is over.
fn is_over(job: &Job) -> bool {
    job.reply.is_closed() || job.deadline <= Instant::now()
}

/// The values of the declared outputs, in their order.
fn in_declared_order(
    mut outputs: Vec<(String, Value)>,
    signature: &Signature,
) -> Result<Vec<Value>, Failure> {
    signature
        .outputs
        .iter()
        .map(|info| {
            let position = outputs.iter().position(|(name, _)| *name == info.name);
            position
                .map(|position| outputs.swap_remove(position).1)
                .ok_or_else(|| Failure::Output(format!("it gave no output `{}`", info.name)))
        })
        .collect()
}

#[cfg(test)]
#[path = "executor/tests.rs"]
mod tests;
