//! The bounded queue between the requests and the executors, and the rule that forms batches.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoker_graph::{RunError, Value};
use tokio::sync::oneshot;

/// A request that waits to be run.
#[derive(Debug)]
pub struct Job {
    /// One value for each input of the model, in its order.
    pub inputs: Vec<Value>,
    /// Rows along axis 0 where this request may be joined with others.
    pub rows: Option<usize>,
    /// When it was queued.
    pub queued: Instant,
    /// After this nobody waits for the answer.
    pub deadline: Instant,
    /// Where the answer goes. Closed when the client has gone.
    pub reply: oneshot::Sender<Result<Done, Failure>>,
}

/// A request that was run.
#[derive(Debug)]
pub struct Done {
    /// One value for each output of the model, in its order.
    pub outputs: Vec<Value>,
    /// Time from queueing to the start of the run.
    pub waited: Duration,
    /// Time of the run, of the whole batch.
    pub computed: Duration,
}

/// Why a request has no outputs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The model failed on it.
    #[error("the model failed: {0}")]
    Model(#[from] RunError),
    /// The model's outputs are not what it declares.
    #[error("the model failed: {0}")]
    Output(String),
    /// A fault of ours. The panic's text is in the log.
    #[error("internal error while the model ran")]
    Panicked,
    /// Its deadline passed while it waited.
    #[error("the request waited longer than its time limit")]
    Expired,
}

/// The queue is at its bound.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The queue. One for each model, shared by all executors.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Executors that wait and were not woken yet: each push wakes at most one of them, and mostly none.
    sleeping: usize,
    closed: bool,
}

/// What an executor takes from the queue.
#[derive(Debug, Default)]
pub struct Taken {
    /// To be run together, in the order in which they came.
    pub batch: Vec<Job>,
    /// Out of the queue without a run: their clients have gone.
    pub cancelled: usize,
    /// Out of the queue without a run: their time is over, and they were told so.
    pub expired: usize,
}

impl Queue {
    /// An empty queue for at most `capacity` requests.
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), capacity }
    }

    /// Queues a request.
    pub fn push(&self, job: Job) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= self.capacity {
            return Err(Full);
        }
        state.jobs.push_back(job);
        if state.sleeping > 0 {
            state.sleeping -= 1;
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// True when no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for requests and takes the next batch, of at most `max_rows` rows. `None` when the queue is closed and
    /// empty. The batch is empty when all that waited had gone.
    pub fn take(&self, max_rows: usize) -> Option<Taken> {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            // A push takes the count down for the one that it wakes. A wake-up that no push asked for leaves it one too
            // high, which costs a needless wake-up and never loses one.
            state.sleeping += 1;
            drop(self.wake.wait(state).unwrap_or_else(PoisonError::into_inner));
            // Where threads share a CPU, the one that pushed has more requests to read: it goes first, and they form one
            // batch. Where the CPU is free this returns at once.
            std::thread::yield_now();
            state = self.lock();
        }
        Some(form(&mut state.jobs, Instant::now(), max_rows))
    }

    /// Takes no more requests. Executors end when those that wait are done.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// No code that can panic runs under the lock; were it to, the queue is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the next batch: in order of arrival, up to the first request that cannot be joined or does not fit any more.
/// A request of more than `max_rows` rows runs alone.
fn form(jobs: &mut VecDeque<Job>, now: Instant, max_rows: usize) -> Taken {
    let mut taken = Taken::default();
    let mut rows = 0_usize;
    while let Some(next) = jobs.front() {
        let gone = next.reply.is_closed();
        let late = next.deadline <= now;
        if !gone && !late {
            let added = next.rows.unwrap_or(max_rows);
            if let Some(first) = taken.batch.first()
                && (rows.saturating_add(added) > max_rows || !can_join(first, next))
            {
                break;
            }
            rows = rows.saturating_add(added);
        }
        let Some(job) = jobs.pop_front() else { break };
        if gone {
            taken.cancelled += 1;
        } else if late {
            taken.expired += 1;
            // Nobody may listen any more; then nobody needs to know.
            let _ = job.reply.send(Err(Failure::Expired));
        } else {
            taken.batch.push(job);
        }
    }
    taken
}

/// True when two requests differ in their rows only. Types are those of the model.
fn can_join(a: &Job, b: &Job) -> bool {
    a.rows.is_some()
        && b.rows.is_some()
        && a.inputs.iter().zip(&b.inputs).all(|(a, b)| a.shape().get(1..) == b.shape().get(1..))
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
