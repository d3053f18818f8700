//! The bounded queue between the requests and the executors. Which requests are taken, in which order they run and how many
//! together is decided by [`stoker_decide::batching`]; here are the clock, the lock and the threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoker_decide::batching::delay::{Arrivals, Waiting, hold};
use stoker_decide::batching::order::{Lanes, lane};
use stoker_decide::batching::standing::patience;
use stoker_decide::batching::{self, Admission, Asked, Control, Fate, Head, Limits};
use stoker_graph::{RunError, Value};
use tokio::sync::oneshot;

use super::held::Held;

/// A request that waits to be run.
#[derive(Debug)]
pub struct Job {
    /// One value for each input of the model, in its order.
    pub inputs: Vec<Value>,
    /// Rows along axis 0 where this request may be joined with others.
    pub rows: Option<usize>,
    /// Rows that it costs, whether it may be joined or not.
    pub cost: usize,
    /// 1 is the highest; 0 is none: see [`lane`].
    pub priority: u32,
    /// When it was queued.
    pub queued: Instant,
    /// After this nobody waits for the answer.
    pub deadline: Instant,
    /// By when the answer must be there, where its client or a latency target says so: it is refused or dropped when that
    /// cannot be.
    pub due: Option<Instant>,
    /// The same by the word of the client alone, which holds also when nobody could keep the target.
    pub own: Option<Instant>,
    /// Dropped with the request.
    pub held: Held,
    /// Where the answer goes. Closed when the client has gone.
    pub reply: Reply,
}

/// Where the answer to a request goes.
pub type Reply = oneshot::Sender<Outcome>;

/// The outcome of a request.
pub type Outcome = Result<Done, Failure>;

/// A request that was run.
#[derive(Debug)]
pub struct Done {
    /// One value for each output of the model, in its order.
    pub outputs: Vec<Value>,
    /// Time from queueing to the start of the run.
    pub waited: Duration,
    /// Time of the run, of the whole batch.
    pub computed: Duration,
    /// The part of the batch's rows that are this request's.
    pub share: f64,
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
    /// The run that it was in failed, and took the time that it had.
    #[error(
        "the run that the request was in failed for another request, and took the time that this one had"
    )]
    Spent,
    /// It waited until its answer could not come in time any more.
    #[error("the request waited until its answer could not come within its latency limit; send less or wait")]
    TooLate {
        /// Whole seconds after which another one has a chance.
        retry_after: u64,
    },
}

/// Why a request is not queued.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refused {
    /// The queue is at its bound, or closed.
    Full {
        /// Whole seconds after which another one has a chance.
        retry_after: u64,
    },
    /// Its answer could not come in time.
    TooLate {
        /// When it would come, by what runs of the model took so far.
        expected: Duration,
        /// Whole seconds after which another one has a chance.
        retry_after: u64,
        /// Its client's own limit was the shorter one.
        is_own: bool,
        /// Nothing was before it: it takes too long by itself.
        alone: bool,
    },
}

/// What a queue keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Requests that wait at a time.
    pub capacity: usize,
    /// Most rows of a batch, whatever the latency target.
    pub max_rows: usize,
    /// How long a batch waits for more requests.
    pub max_delay: Duration,
    /// Executors that take from it.
    pub executors: usize,
}

/// The queue. One for each model, shared by all executors.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    rules: Rules,
}

#[derive(Debug)]
struct State {
    jobs: Lanes<Instant, Queued>,
    control: Control,
    /// The latency target of the last request.
    target: Option<Duration>,
    /// What each executor runs.
    running: Vec<Option<Running>>,
    /// When the last run ended, or the queue was made.
    last_end: Instant,
    arrivals: Arrivals,
    /// Zero of the clock of `arrivals` and of `control`.
    made: Instant,
    /// Seconds that each executor is still busy; kept for its memory.
    busy: Vec<f64>,
    /// Executors that wait and were not woken yet: each push wakes at most one of them, and mostly none.
    sleeping: usize,
    /// When a full queue was last searched for requests that nobody waits for.
    swept: Option<Instant>,
    /// Requests that were taken out then and not told of yet: their clients had gone, their time was over.
    dropped: (usize, usize),
    closed: bool,
}

/// A full queue is searched for requests that nobody waits for at most this often, so that turning others away stays cheap.
const SWEEP: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Queued {
    job: Job,
    /// How it was let in.
    let_in: LetIn,
}

/// How a request was let into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LetIn {
    /// With time enough, or late behind a queue that will be empty soon; it is dropped when that changes.
    InTime,
    /// By a thread that was free, though it may just miss its target: it is run.
    Likely,
    /// Against the estimate, to try it: it is run.
    Trial,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    began: Instant,
    rows: usize,
    /// The estimate was against it.
    is_trial: bool,
    /// No other run went on when it began, and nothing more waited: nothing of the model's own was beside it.
    is_quiet: bool,
}

/// Why a batch was run with the requests that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// No more fit into it.
    Full,
    /// No others waited.
    #[default]
    Idle,
    /// The next request has another shape, or may not be joined.
    Shape,
    /// No others waited, and it had been held back for them as long as is allowed.
    Delay,
}

/// What is known by the time that a batch is run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Learned {
    /// Seconds of a run, whatever its size.
    pub fixed: f64,
    /// Seconds for each row.
    pub per_row: f64,
    /// Most rows of a batch.
    pub cap: usize,
    /// The latency target.
    pub target: Option<Duration>,
}

/// What an executor takes from the queue.
#[derive(Debug, Default)]
pub struct Taken {
    /// To be run together, in order.
    pub batch: Vec<Job>,
    /// Why there are no more in it.
    pub release: Release,
    /// What it was formed by.
    pub learned: Learned,
    /// Out of the queue without a run: their clients have gone.
    pub cancelled: usize,
    /// Out of the queue without a run: their time is over.
    pub expired: usize,
    /// Out of the queue without a run: they could not be answered in time.
    pub late: usize,
    /// What those that are over or late are told.
    pub refused: Vec<(Reply, Outcome)>,
}

impl Queue {
    /// An empty queue. `seeds` are rows and times of runs before the first request.
    pub fn new(rules: Rules, seeds: &[(usize, Duration)]) -> Self {
        let executors = rules.executors.max(1);
        let rules = Rules { executors, ..rules };
        let mut control = Control::new(Limits { max_rows: rules.max_rows, executors });
        for (rows, took) in seeds {
            control.seed(*rows, took.as_secs_f64());
        }
        let made = Instant::now();
        let state = State {
            jobs: Lanes::default(),
            control,
            target: None,
            running: vec![None; executors],
            last_end: made,
            arrivals: Arrivals::default(),
            made,
            busy: Vec::with_capacity(executors),
            sleeping: 0,
            swept: None,
            dropped: (0, 0),
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), rules }
    }

    /// Queues a request, unless the queue is full or its answer could not come in time. `target` is the latency target by
    /// now: batches are formed by it from here on.
    pub fn push(&self, mut job: Job, target: Option<Duration>) -> Result<(), Refused> {
        let mut state = self.lock();
        state.target = target;
        if state.feasible().is_none() {
            job.due = job.own;
        }
        if state.jobs.len() >= self.rules.capacity {
            state.sweep(job.queued);
        }
        if state.closed || state.jobs.len() >= self.rules.capacity {
            let (rows, cap) = (state.jobs.rows(), state.control.cap(state.feasible()));
            return Err(Refused::Full { retry_after: batching::retry_after(state.control.drain(rows, cap)) });
        }
        let lane = lane(job.priority);
        let let_in = match job.due {
            Some(due) => state.admit(&job, lane, due)?,
            None => LetIn::InTime,
        };
        if !self.rules.max_delay.is_zero() {
            let now = state.seconds(job.queued);
            state.arrivals.came(now);
        }
        let order = job.due.unwrap_or(job.deadline);
        state.jobs.push(lane, order, job.cost, Queued { job, let_in });
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

    /// Waits for requests and takes the next batch for one of the executors, of at most `max_rows` rows. `tells` says
    /// whether the time since it took the one before is what such a batch costs. `None` when the queue is closed and empty.
    /// The batch is empty when all that waited had gone.
    pub fn take(&self, executor: usize, max_rows: usize, tells: bool) -> Option<Taken> {
        let mut state = self.lock();
        let mut now = Instant::now();
        state.ended(executor, tells, now);
        let mut was_held = false;
        loop {
            if state.jobs.is_empty() {
                if state.closed {
                    return None;
                }
                // A push takes the count down for the one that it wakes. A wake-up that no push asked for leaves it one too
                // high, which costs a needless wake-up and never loses one.
                state.sleeping += 1;
                drop(self.wake.wait(state).unwrap_or_else(PoisonError::into_inner));
                // Where threads share a CPU, the one that pushed has more requests to read: it goes first, and they form
                // one batch. Where the CPU is free this returns at once.
                std::thread::yield_now();
                state = self.lock();
            } else if let Some(wait) = state.hold(self.rules.max_delay, max_rows, now) {
                was_held = true;
                state.sleeping += 1;
                let woken = self.wake.wait_timeout(state, wait);
                (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
            now = Instant::now();
        }
        let taken = state.form(executor, now, max_rows, was_held);
        // What was left may be run by another, who was woken by nothing while this one held the batch back.
        if was_held && !state.jobs.is_empty() && state.sleeping > 0 {
            state.sleeping -= 1;
            drop(state);
            self.wake.notify_one();
        }
        Some(taken)
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

impl State {
    /// Makes room: takes out the requests that nobody waits for any more, wherever they stand.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now.saturating_duration_since(last) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        for Queued { job, .. } in
            self.jobs.remove_if(|Queued { job, .. }| job.reply.is_closed() || job.deadline <= now)
        {
            if job.reply.is_closed() {
                self.dropped.0 += 1;
            } else {
                self.dropped.1 += 1;
                // The client may go at this very moment.
                let _ = job.reply.send(Err(Failure::Expired));
            }
        }
    }

    /// The latency target, unless it is below a single run: nothing is refused for what nobody could keep.
    fn feasible(&self) -> Option<Duration> {
        self.target.filter(|target| self.control.is_feasible(*target))
    }

    /// An instant on the clock of the rules.
    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.made).as_secs_f64()
    }

    /// Seconds that the queue may stand before its requests are held to the target.
    fn patience(&self) -> f64 {
        patience(self.target.unwrap_or_default().as_secs_f64())
    }

    /// Whether a request can be answered in time.
    fn admit(&mut self, job: &Job, lane: usize, due: Instant) -> Result<LetIn, Refused> {
        let now = job.queued;
        self.busy.clear();
        let mut is_idle = self.jobs.is_empty();
        for run in &self.running {
            let left = run.map_or(0.0, |run| {
                let passed = now.saturating_duration_since(run.began).as_secs_f64();
                if passed > self.control.upper(run.rows) {
                    // Nobody knows when it ends: the longer it has taken, the longer it will. One request finds out whether the
                    // machine only stood still.
                    return if self.jobs.is_empty() { 0.0 } else { passed };
                }
                (self.control.cost().seconds(run.rows) - passed).max(0.0)
            });
            is_idle &= run.is_none();
            self.busy.push(left);
        }
        let asked = Asked {
            rows: job.cost,
            ahead: self.jobs.ahead(lane, due),
            cap: self.control.cap(self.feasible()),
            left: due.saturating_duration_since(now).as_secs_f64(),
            limit: batching::budget(self.target.unwrap_or_default()).as_secs_f64(),
            own: seconds_until(job.own, now),
            idle: is_idle.then(|| now.saturating_duration_since(self.last_end).as_secs_f64()),
            now: self.seconds(now),
            patience: self.patience(),
        };
        match self.control.admit(asked, &mut self.busy) {
            Admission::Fits | Admission::Late => Ok(LetIn::InTime),
            Admission::Likely => Ok(LetIn::Likely),
            Admission::Trial => Ok(LetIn::Trial),
            Admission::TooLate { drain, done } => Err(Refused::TooLate {
                expected: Duration::try_from_secs_f64(done).unwrap_or(Duration::MAX),
                retry_after: batching::retry_after(drain),
                is_own: done > asked.own,
                alone: drain <= 0.0,
            }),
        }
    }

    /// An executor is back from its run. What the run cost is all the time that the executor was away: handing over the
    /// answers is a part of it.
    fn ended(&mut self, executor: usize, tells: bool, now: Instant) {
        if let Some(run) = self.running.get_mut(executor).and_then(Option::take) {
            self.last_end = now;
            let took = now.saturating_duration_since(run.began).as_secs_f64();
            match (tells, run.is_trial) {
                (true, true) => self.control.tried(run.rows, took),
                (true, false) => self.control.ran(run.rows, took),
                (false, _) => {}
            }
            if tells && run.is_quiet {
                self.control.ran_alone(run.rows, took);
            }
        }
    }

    /// How long an executor that could run what waits waits for more; `None` when it does not.
    fn hold(&self, delay: Duration, max_rows: usize, now: Instant) -> Option<Duration> {
        if delay.is_zero() || self.closed {
            return None;
        }
        let first = &self.jobs.front()?.job;
        let rows = self.jobs.rows();
        if rows >= self.control.cap(self.feasible()).min(max_rows) {
            return None;
        }
        let (mut oldest, mut due) = (first.queued, first.due);
        for Queued { job, .. } in self.jobs.iter() {
            // What cannot be joined waits for nothing.
            if !can_join(first, job) {
                return None;
            }
            oldest = oldest.min(job.queued);
            due = due.into_iter().chain(job.due).min();
        }
        let left = |due: Instant| due.saturating_duration_since(now).as_secs_f64();
        let waiting = Waiting {
            delay: delay.as_secs_f64(),
            age: now.saturating_duration_since(oldest).as_secs_f64(),
            slack: due.map(|due| left(due) - self.control.upper(rows + 1)),
        };
        Duration::try_from_secs_f64(hold(waiting, &self.arrivals)?).ok()
    }

    /// Takes the next batch: in order, up to the first request that cannot be joined or does not fit any more. A request of
    /// more rows than the cap runs alone.
    fn form(&mut self, executor: usize, now: Instant, max_rows: usize, was_held: bool) -> Taken {
        let cap = self.control.cap(self.feasible()).min(max_rows).max(1);
        let cost = self.control.cost();
        let learned = Learned { fixed: cost.fixed(), per_row: cost.per_row(), cap, target: self.target };
        let release = if was_held { Release::Delay } else { Release::Idle };
        let (cancelled, expired) = std::mem::take(&mut self.dropped);
        let (clock, patience) = (self.seconds(now), self.patience());
        let mut taken = Taken { release, learned, cancelled, expired, ..Taken::default() };
        let (mut rows, mut cost, mut has_trial, mut is_late) = (0_usize, 0_usize, false, false);
        while let Some(Queued { job: next, let_in }) = self.jobs.front() {
            let is_gone = next.reply.is_closed();
            let is_over = next.deadline <= now;
            let fate = match next.due.filter(|_| *let_in == LetIn::InTime) {
                Some(due) => self.control.fate(Head {
                    rows: next.cost,
                    waiting: cost + self.jobs.rows(),
                    cap,
                    left: due.saturating_duration_since(now).as_secs_f64(),
                    own: seconds_until(next.own, now),
                    now: clock,
                    patience,
                }),
                None => Fate::InTime,
            };
            let runs = !is_gone && !is_over && fate != Fate::GivenUp;
            if runs {
                let added = next.rows.unwrap_or(cap);
                if let Some(first) = taken.batch.first() {
                    if !can_join(first, next) {
                        taken.release = Release::Shape;
                        break;
                    }
                    if rows.saturating_add(added) > cap {
                        taken.release = Release::Full;
                        break;
                    }
                }
                rows = rows.saturating_add(added);
                cost = cost.saturating_add(next.cost);
                has_trial |= *let_in == LetIn::Trial;
                is_late |= fate == Fate::Late;
            }
            let Some(Queued { job, .. }) = self.jobs.pop() else { break };
            if runs {
                taken.batch.push(job);
            } else if is_gone {
                taken.cancelled += 1;
            } else if is_over {
                taken.expired += 1;
                taken.refused.push((job.reply, Err(Failure::Expired)));
            } else {
                taken.late += 1;
                let drain = self.control.drain(self.jobs.rows(), cap);
                let retry_after = batching::retry_after(drain);
                taken.refused.push((job.reply, Err(Failure::TooLate { retry_after })));
            }
        }
        if rows >= cap {
            taken.release = Release::Full;
        }
        if self.jobs.is_empty() && !is_late {
            self.control.emptied();
        }
        let is_quiet = self.jobs.is_empty() && self.running.iter().all(Option::is_none);
        if let Some(slot) = self.running.get_mut(executor)
            && !taken.batch.is_empty()
        {
            *slot = Some(Running { began: now, rows: cost, is_trial: has_trial, is_quiet });
        }
        taken
    }
}

/// Seconds until an instant; none is never.
fn seconds_until(at: Option<Instant>, now: Instant) -> f64 {
    at.map_or(f64::INFINITY, |at| at.saturating_duration_since(now).as_secs_f64())
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
