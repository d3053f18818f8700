//! One knob, the latency target, decides how large batches are, which requests are taken, and which are given up.
//!
//! - [`cost`]: what a run of so many rows takes, learned from runs, and how much longer it may take.
//! - [`order`]: who runs first.
//! - [`delay`]: whether a batch waits for more.
//! - [`standing`]: whether those that are late are so by overload, or by a pause that is over.
//!
//! [`Control`] puts them together. Batches are work-conserving: an executor that is free takes what waits, up to the cap.
//! - **The cap** is the largest batch of which two in a row end within the target: a request that just missed one batch is
//!   in the next (Nexus, SOSP 2019). Where the fixed part of a run is small a batch gains nothing and makes its first
//!   request wait for its last one, so there is none.
//! - **At arrival** a request is refused when those before it leave no time for it (Clockwork, OSDI 2020): a client that hears
//!   so at once can go elsewhere, and the work of an answer that comes too late would make the others late as well.
//! - **Before a run** a request that cannot make it any more is dropped, for the same reason: where more wait than the run
//!   takes, or its client wants no late answer.
//! - **A queue that is late and will be empty soon** refuses and drops nobody for the target's sake: a late answer is more than
//!   none. Only one that stands is overload.
//!
//! Without a target and without a limit of the request's own nothing is refused or dropped, and the cap is `max_rows`. A target
//! below a single run is as none: nobody can keep it, and refusing would help no one.
//! Times are seconds, as numbers: the rules multiply and add them.

pub mod cost;
pub mod delay;
pub mod order;
#[cfg(test)]
mod simulation;
pub mod standing;

use std::time::Duration;

use crate::batching::cost::{Cost, Tail};
use crate::batching::standing::Standing;

/// Share of the target that is left for the network and for writing the answer.
const RESERVE: f64 = 0.05;
/// Least ratio of the fixed part of a run to that of a row: below it the largest batch is not 1.2 times as good as none.
const WORTH: f64 = 0.2;
/// Where batches are not worth it, one run of so many may be one all the same, so that the ratio is learned anew.
const EXPLORE: u64 = 64;
/// After so many seconds without a run, and as many as it would take, the estimate is not trusted to refuse a request that
/// nobody else waits with. A server whose estimate is wrong still answers now and then, and so learns; and one large request
/// after the other cannot keep it from the small ones for more than half of the time.
const STALE: f64 = 1.0;
/// The longest of these times: an estimate may be wrong by any factor.
const LONGEST_STALE: f64 = 10.0;
/// How many times less than feared a trial must take to be believed over the estimate.
const ANEW: f64 = 2.0;
/// Weight of a new run in the mean of those with nothing beside them.
const NEW: f64 = 0.1;
/// The longest that a client is told to wait, in seconds.
const LONGEST_RETRY: f64 = 3600.0;

/// The part of a latency limit that is there for waiting and running.
pub fn budget(limit: Duration) -> Duration {
    limit.mul_f64(1.0 - RESERVE)
}

/// Whole seconds after which a request has a chance that is refused now, when the work before it ends in `drain` seconds. At
/// least 1: a header says it, which has no smaller unit.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
pub fn retry_after(drain: f64) -> u64 {
    drain.ceil().clamp(1.0, LONGEST_RETRY) as u64
}

/// What a controller is given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows of a batch, whatever the target.
    pub max_rows: usize,
    /// Runs at a time.
    pub executors: usize,
}

/// A request that asks to be queued.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Its rows.
    pub rows: usize,
    /// Rows that would run before it.
    pub ahead: usize,
    /// The cap of batches.
    pub cap: usize,
    /// Seconds until it must be done.
    pub left: f64,
    /// Seconds that the target of the model gives a request in all.
    pub limit: f64,
    /// Seconds until the client itself wants no answer any more; infinite where it says nothing.
    pub own: f64,
    /// Seconds since the last run ended, when nothing runs and nothing waits.
    pub idle: Option<f64>,
    /// Seconds on any clock that does not go back.
    pub now: f64,
    /// Seconds that the queue may stand: [`standing::patience`] of the target.
    pub patience: f64,
}

/// The first request of the queue when a batch is formed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Its rows.
    pub rows: usize,
    /// Rows that wait, with its own and those that are in the batch by now.
    pub waiting: usize,
    /// The cap of batches.
    pub cap: usize,
    /// Seconds until it must be done.
    pub left: f64,
    /// As [`Asked::own`].
    pub own: f64,
    /// As [`Asked::now`].
    pub now: f64,
    /// As [`Asked::patience`].
    pub patience: f64,
}

/// What becomes of a request when a batch is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is run.
    InTime,
    /// It is run, though its answer will be late.
    Late,
    /// It is dropped.
    GivenUp,
}

/// Whether a request is queued.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Admission {
    /// It can make its deadline.
    Fits,
    /// On average it can, if not 99 times of 100, and an executor is free: it must be run.
    Likely,
    /// It cannot by the estimate, which is tried again: it must be run.
    Trial,
    /// It cannot, and is queued all the same: the queue is behind and does not stand. By itself it would be in time, and its client waits
    /// for long enough.
    Late,
    /// It cannot.
    TooLate {
        /// Seconds until the work before it is done.
        drain: f64,
        /// Seconds until it would be done.
        done: f64,
    },
}

/// The controller of one model. Starts without knowledge.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    limits: Limits,
    cost: Cost,
    tail: Tail,
    runs: u64,
    /// Seconds of a run of one row with nothing beside it.
    alone: Option<f64>,
    standing: Standing,
}

impl Control {
    /// A controller that has seen no run.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { max_rows: limits.max_rows.max(1), executors: limits.executors.max(1) };
        Self {
            limits,
            cost: Cost::default(),
            tail: Tail::default(),
            runs: 0,
            alone: None,
            standing: Standing::default(),
        }
    }

    /// Learns from a run before the first request. It says nothing about how much times scatter under load.
    pub fn seed(&mut self, rows: usize, seconds: f64) {
        self.cost.observe(rows, seconds);
        // The first ones find nothing in the caches, and take longer than any run after them.
        if let Some(one) = self.of_one_row(rows, seconds) {
            self.alone = Some(self.alone.map_or(one, |alone| alone.min(one)));
        }
    }

    /// Learns from a run that had nothing of the model's own beside it; [`Control::ran`] is told of it too. Runs at a time slow
    /// each other down, so that the mean of all says what the load is, and not what the model can do.
    pub fn ran_alone(&mut self, rows: usize, seconds: f64) {
        if let Some(one) = self.of_one_row(rows, seconds) {
            self.alone = Some(self.alone.map_or(one, |alone| alone + NEW * (one - alone)));
        }
    }

    /// What a run of one row would have taken, by one of `rows` that took `seconds`.
    fn of_one_row(&self, rows: usize, seconds: f64) -> Option<f64> {
        let expected = self.cost.seconds(rows);
        let tells = rows > 0 && expected > 0.0 && seconds.is_finite() && seconds >= 0.0;
        tells.then(|| seconds * self.cost.seconds(1) / expected)
    }

    /// Learns from a run of requests.
    pub fn ran(&mut self, rows: usize, seconds: f64) {
        if self.cost.is_known() && rows > 0 {
            self.tail.observe(seconds / self.cost.seconds(rows));
        }
        self.cost.observe(rows, seconds);
        self.runs = self.runs.wrapping_add(1);
    }

    /// Learns from a run that the estimate was against. Where it took less than half of what was feared, the estimate is of
    /// another time, a pause of the whole machine perhaps: it is brought down to this run at once. While all are refused
    /// there is one such run a second, and learning from them as from others would take minutes.
    pub fn tried(&mut self, rows: usize, seconds: f64) {
        if self.cost.is_known() && rows > 0 && seconds * ANEW < self.upper(rows) {
            self.cost.rescale(seconds / self.cost.seconds(rows));
            self.tail = Tail::default();
        }
        self.ran(rows, seconds);
    }

    /// What a run costs.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// How many times the expected time a run stays below, 99 times of 100.
    pub fn tail(&self) -> f64 {
        self.tail.factor()
    }

    /// Seconds that a run of `rows` stays below, 99 times of 100.
    pub fn upper(&self, rows: usize) -> f64 {
        self.cost.seconds(rows) * self.tail.factor()
    }

    /// Whether a target can be kept at all: a run of one row with nothing beside it takes no longer on average. Load does not
    /// make a target infeasible: then less is taken, and not everything.
    pub fn is_feasible(&self, target: Duration) -> bool {
        self.alone.is_none_or(|alone| alone <= budget(target).as_secs_f64())
    }

    /// Seconds of a run of `rows` with nothing beside it, on average; of any run where none was seen alone.
    fn alone(&self, rows: usize) -> f64 {
        self.alone.map_or(1.0, |alone| alone / self.cost.seconds(1)) * self.cost.seconds(rows)
    }

    /// Most rows of a batch: the largest `b` with `2 * upper(b) <= budget(target)`. A request of more rows runs alone.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    pub fn cap(&self, target: Option<Duration>) -> usize {
        let most = self.limits.max_rows;
        let Some(target) = target.filter(|_| self.cost.is_known()) else { return most };
        let is_worth = !self.cost.is_split() || self.cost.fixed() >= WORTH * self.cost.per_row();
        if !is_worth && self.runs % EXPLORE != EXPLORE - 1 {
            return 1;
        }
        let each = budget(target).as_secs_f64() / (2.0 * self.tail.factor());
        let rows = (each - self.cost.fixed()) / self.cost.per_row();
        (rows.floor().clamp(1.0, most as f64) as usize).min(most)
    }

    /// Seconds until so many waiting rows are done, in batches of `cap` rows (Little's law).
    pub fn drain(&self, rows: usize, cap: usize) -> f64 {
        let cap = cap.max(1);
        let batches = rows as f64 / (cap * self.limits.executors) as f64;
        batches * self.cost.seconds(cap)
    }

    /// Whether a request is queued. `busy` has the seconds after which each executor is free, 0 for one that is; it is
    /// overwritten.
    ///
    /// The batches before it are taken to be full and to take what they take on average, its own to be full and to take
    /// what 99 of 100 stay below: errors of several runs in a row cancel in part, and the check before the run mends
    /// what is left.
    pub fn admit(&mut self, asked: Asked, busy: &mut [f64]) -> Admission {
        let cap = asked.cap.max(1);
        let (mut before, mut own) = (asked.ahead / cap, asked.ahead % cap + asked.rows);
        if own > cap && own > asked.rows {
            (before, own) = (before + 1, asked.rows);
        }
        if let Some(idle) = asked.idle {
            self.standing.rested(idle, asked.patience);
        }
        let start = nth_start(busy, before, self.cost.seconds(cap));
        // It begins at once with those that are there, or later with all that come until then.
        let size = if start > 0.0 { own.max(cap) } else { own };
        let done = start + self.upper(size);
        // An executor that is free and refuses it keeps the target no better.
        let is_next = start <= 0.0 && asked.ahead == 0;
        let is_likely = is_next && asked.own > asked.left && self.cost.seconds(size) <= asked.left;
        if done <= asked.left {
            Admission::Fits
        } else if is_likely {
            Admission::Likely
        } else if asked.idle.is_some_and(|idle| idle >= done.clamp(STALE, LONGEST_STALE)) {
            Admission::Trial
        } else {
            // What an executor that stands still seems to need yet is no work that waits.
            let work = self.drain(asked.ahead, cap);
            let is_possible = done <= asked.own && self.alone(asked.rows) <= asked.limit;
            // Nobody is before it, and to refuse it would help no one; unless runs beside each other are what makes all of them late.
            let is_harmless =
                is_next && (asked.idle.is_some() || self.cost.seconds(asked.rows) <= asked.limit);
            if is_possible && (is_harmless || !self.standing.is_late(asked.now, work, asked.patience)) {
                Admission::Late
            } else {
                Admission::TooLate { drain: start, done }
            }
        }
    }

    /// What becomes of the request at the head of the queue in the run that begins now: the head goes first, and what waits behind it
    /// fills the batch up.
    ///
    /// Where all that wait fit into the batch, a late answer to one makes no other late, and is more than none; unless its
    /// client waits for none.
    pub fn fate(&mut self, head: Head) -> Fate {
        let done = self.upper(head.waiting.min(head.cap).max(head.rows));
        let work = self.drain(head.waiting, head.cap);
        if done <= head.left {
            Fate::InTime
        } else if done > head.own
            || (head.waiting > head.cap.max(head.rows)
                && self.standing.is_late(head.now, work, head.patience))
        {
            Fate::GivenUp
        } else {
            Fate::Late
        }
    }

    /// A batch was formed of all that waited, and none of them was late.
    pub fn emptied(&mut self) {
        self.standing.emptied();
    }
}

/// When run number `n`, from 0, begins: runs take `each` seconds and go to whichever executor is free first.
///
/// Each executor begins runs at its time in `busy` and every `each` seconds from there; the answer is number `n` of all of
/// these in order. `busy` is overwritten.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates")]
fn nth_start(busy: &mut [f64], mut n: usize, each: f64) -> f64 {
    busy.sort_unstable_by(f64::total_cmp);
    let Some(first) = busy.first().copied() else { return each * n as f64 };
    if each <= 0.0 {
        return first;
    }
    // Round `r` is the time from `r * each` on for `each` seconds: in it each executor that is free by then begins one run.
    let round = |free: f64| (free / each) as usize;
    let mut at = round(first);
    let mut begin = 0;
    loop {
        begin += busy.get(begin..).map_or(0, |rest| rest.partition_point(|free| round(*free) <= at));
        let rounds = n / begin.max(1);
        match busy.get(begin).map(|free| round(*free)) {
            // Another executor joins before.
            Some(next) if at + rounds >= next => {
                n -= (next - at) * begin;
                at = next;
            }
            _ => {
                at += rounds;
                n %= begin.max(1);
                break;
            }
        }
    }
    let busy = busy.get_mut(..begin).unwrap_or_default();
    for free in busy.iter_mut() {
        *free -= round(*free) as f64 * each;
    }
    busy.sort_unstable_by(f64::total_cmp);
    at as f64 * each + busy.get(n).copied().unwrap_or_default()
}

#[cfg(test)]
#[path = "batching/tests.rs"]
mod tests;
