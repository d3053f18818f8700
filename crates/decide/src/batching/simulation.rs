//! A server in simulated time: requests come as a Poisson process, and the rules of this module decide. Everything follows
//! from a seed; nothing here reads a clock.
//!
//! `cargo test -p stoker-decide batching::simulation -- --nocapture` prints the figures.

use std::collections::BTreeSet;

use super::order::Lanes;
use super::standing::patience;
use super::*;

/// Uniform numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((bits ^ (bits >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }

    /// About normal, with mean 0 and deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A model and its target; times in seconds.
#[derive(Clone, Copy, Debug)]
struct Case {
    fixed: f64,
    per_row: f64,
    target: f64,
    max_rows: usize,
    executors: usize,
    /// Times of runs scatter by this share.
    scatter: f64,
    /// Of the requests, this share has 16 rows instead of 1.
    large: f64,
    /// What warm-up measured, as a share of what runs take under load.
    seeds: f64,
    /// Once in two seconds a run takes so much longer: its process has no CPU.
    pause: f64,
}

/// The model of the benchmark: T(1) = 5 ms, fixed / per_row = 4.
const MODEL: Case = Case {
    fixed: 0.004,
    per_row: 0.001,
    target: 0.1,
    max_rows: 64,
    executors: 1,
    scatter: 0.03,
    large: 0.0,
    seeds: 1.0,
    pause: 0.0,
};

#[derive(Clone, Copy)]
struct Request {
    at: u64,
    due: u64,
    rows: usize,
    must_run: bool,
}

struct Run {
    began: u64,
    ends: u64,
    batch: Vec<Request>,
}

/// What came of a simulation.
#[derive(Debug)]
struct Outcome {
    /// Rows answered within the target, a second.
    goodput: f64,
    /// Of all rows that came, those answered within the target.
    in_time: f64,
    /// Requests that had no answer.
    refused: usize,
    /// Of the answers, in targets; the worst without any.
    p99: f64,
    /// Rows of a run on average.
    batch: f64,
    /// The controller in the end.
    control: Control,
}

const SECOND: f64 = 1e9;
/// Seconds from one pause to the next.
const PAUSES: f64 = 2.0;

fn nanos(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_nanos()).unwrap()
}

fn seconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / SECOND
}

struct World {
    case: Case,
    control: Control,
    queue: Lanes<u64, Request>,
    running: Vec<Option<Run>>,
    ends: BTreeSet<(u64, usize)>,
    last_end: u64,
    random: Random,
    runs: (usize, usize),
    /// When the process has no CPU again.
    pause: u64,
    refused: usize,
}

impl World {
    fn cap(&self) -> usize {
        self.control.cap(Some(Duration::from_secs_f64(self.case.target)))
    }

    fn arrives(&mut self, now: u64, rows: usize) {
        let due = now + nanos(budget(Duration::from_secs_f64(self.case.target)).as_secs_f64());
        let mut busy: Vec<f64> = self
            .running
            .iter()
            .map(|run| {
                let Some(run) = run else { return 0.0 };
                let rows = run.batch.iter().map(|request| request.rows).sum();
                (self.control.cost().seconds(rows) - seconds(run.began, now)).max(0.0)
            })
            .collect();
        let idle = self.ends.is_empty() && self.queue.is_empty();
        let asked = Asked {
            rows,
            ahead: self.queue.ahead(1, due),
            cap: self.cap(),
            left: seconds(now, due),
            limit: seconds(now, due),
            own: f64::INFINITY,
            idle: idle.then(|| seconds(self.last_end, now)),
            now: seconds(0, now),
            patience: patience(self.case.target),
        };
        let admission = self.control.admit(asked, &mut busy);
        if let Admission::TooLate { .. } = admission {
            self.refused += 1;
            return;
        }
        let must_run = matches!(admission, Admission::Trial | Admission::Likely);
        self.queue.push(1, due, rows, Request { at: now, due, rows, must_run });
        self.dispatch(now);
    }

    fn dispatch(&mut self, now: u64) {
        for place in 0..self.running.len() {
            if self.running[place].is_some() || self.queue.is_empty() {
                continue;
            }
            let cap = self.cap();
            let (mut batch, mut rows, mut is_late) = (Vec::new(), 0, false);
            while let Some(head) = self.queue.front().copied() {
                let waiting = rows + self.queue.rows();
                let fate = if head.must_run {
                    Fate::InTime
                } else {
                    self.control.fate(Head {
                        rows: head.rows,
                        waiting,
                        cap,
                        left: seconds(now, head.due),
                        own: f64::INFINITY,
                        now: seconds(0, now),
                        patience: patience(self.case.target),
                    })
                };
                let lost = fate == Fate::GivenUp;
                if !lost && rows > 0 && rows + head.rows > cap {
                    break;
                }
                self.queue.pop();
                if lost {
                    self.refused += 1;
                } else {
                    is_late |= fate == Fate::Late;
                    rows += head.rows;
                    batch.push(head);
                }
            }
            if self.queue.is_empty() && !is_late {
                self.control.emptied();
            }
            if batch.is_empty() {
                continue;
            }
            self.runs = (self.runs.0 + 1, self.runs.1 + rows);
            let scatter = (self.case.scatter * self.random.normal()).exp();
            let mut took = (self.case.fixed + self.case.per_row * rows as f64) * scatter;
            if now >= self.pause {
                took += self.case.pause;
                self.pause = now + nanos(PAUSES);
            }
            let ends = now + nanos(took);
            self.ends.insert((ends, place));
            self.running[place] = Some(Run { began: now, ends, batch });
        }
    }
}

/// Simulates `count` requests that come at `rate` rows a second. The first tenth is not counted.
fn simulate(case: Case, rate: f64, count: usize, seed: u64) -> Outcome {
    let mut control = Control::new(Limits { max_rows: case.max_rows, executors: case.executors });
    let mut random = Random(seed);
    for size in [1, 2, 4, 8, 16, 32, 64] {
        let scatter = case.seeds * (case.scatter * random.normal()).exp();
        control.seed(size, (case.fixed + case.per_row * size as f64) * scatter);
    }
    let mut world = World {
        case,
        control,
        queue: Lanes::default(),
        running: (0..case.executors).map(|_| None).collect(),
        ends: BTreeSet::new(),
        last_end: 0,
        random: Random(seed + 1),
        runs: (0, 0),
        pause: nanos(PAUSES),
        refused: 0,
    };
    let mean_rows = 1.0 + 15.0 * case.large;
    let (mut next, mut arrived, mut asked_rows) = (0_u64, 0, 0_usize);
    let (from, mut until) = (count / 10, 0_u64);
    let mut begin = 0_u64;
    let (mut latencies, mut good) = (Vec::new(), 0_usize);
    while arrived < count || !world.ends.is_empty() {
        let end = world.ends.first().copied();
        if arrived < count && end.is_none_or(|(end, _)| next <= end) {
            let rows = if random.uniform() < case.large { 16 } else { 1 };
            if arrived == from {
                begin = next;
            }
            asked_rows += if arrived >= from { rows } else { 0 };
            world.arrives(next, rows);
            arrived += 1;
            until = next;
            next += nanos(random.exponential(mean_rows / rate));
        } else if let Some((now, place)) = world.ends.pop_first() {
            let run = world.running[place].take().unwrap();
            world.last_end = now;
            let rows = run.batch.iter().map(|request| request.rows).sum();
            world.control.ran(rows, seconds(run.began, run.ends));
            for request in run.batch.iter().filter(|request| request.at >= begin && begin > 0) {
                let latency = seconds(request.at, now);
                good += if latency <= case.target { request.rows } else { 0 };
                latencies.push(latency);
            }
            world.dispatch(now);
        }
    }
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies.get(latencies.len() * 99 / 100).map_or(f64::INFINITY, |last| last / case.target);
    Outcome {
        goodput: good as f64 / seconds(begin, until),
        in_time: good as f64 / asked_rows as f64,
        p99,
        refused: world.refused,
        batch: world.runs.1 as f64 / world.runs.0 as f64,
        control: world.control,
    }
}

/// The highest rate, in rows a second, at which 99 of 100 requests are answered within the target.
fn capacity(case: Case) -> f64 {
    let most =
        case.executors as f64 * case.max_rows as f64 / (case.fixed + case.per_row * case.max_rows as f64);
    let (mut good, mut bad) = (0.0, 1.5 * most);
    while bad - good > 0.01 * most {
        let rate = f64::midpoint(good, bad);
        if simulate(case, rate, 30_000, 7).in_time >= 0.99 { good = rate } else { bad = rate }
    }
    good
}

/// What the formula promises of batches of `cap` rows over runs of one row.
fn formula(case: Case, cap: usize) -> f64 {
    let cap = cap as f64;
    cap * (case.fixed + case.per_row) / (case.fixed + case.per_row * cap)
}

/// The targets of the benchmark, in simulated time: batching gains what its formula says at an equal p99, and under overload
/// as much is answered in time as at capacity, and what is answered is in time.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are read by people")]
fn batches_gain_what_they_should_and_overload_takes_nothing_away() {
    let cases = [
        MODEL,
        Case { target: 0.06, executors: 2, ..MODEL },
        Case { target: 0.2, scatter: 0.1, ..MODEL },
        Case { fixed: 0.001, target: 0.05, ..MODEL },
    ];
    for case in cases {
        let alone = capacity(Case { max_rows: 1, ..case });
        let most = capacity(case);
        let end = simulate(case, most, 30_000, 7);
        let cap = end.control.cap(Some(Duration::from_secs_f64(case.target)));
        let gain = most / alone / formula(case, cap);
        println!(
            "{case:?}: cap {cap}, capacity {alone:.0} and {most:.0} rows/s, gain {gain:.2} of the formula"
        );
        assert!(gain >= 0.9, "{gain} of the formula's gain: {end:?}");
        assert!(end.p99 <= 1.0 && end.in_time >= 0.99, "{end:?}");
        for load in [1.3, 2.0, 5.0] {
            let outcome = simulate(case, most * load, 40_000, 11);
            let goodput = outcome.goodput / most;
            println!("  load {load}: goodput {goodput:.3}, p99 {:.3} of the target", outcome.p99);
            assert!(goodput >= 0.9, "load {load}: goodput {goodput} of capacity: {outcome:?}");
            assert!(outcome.p99 <= 1.05, "load {load}: {outcome:?}");
        }
    }
}

#[test]
fn requests_of_many_rows_beside_small_ones_are_in_time_too() {
    let case = Case { large: 0.1, ..MODEL };
    let rate = 64.0 / (case.fixed + case.per_row * 64.0);
    for load in [0.5, 1.3, 3.0] {
        let outcome = simulate(case, rate * load, 20_000, 3);
        assert!(outcome.p99 <= 1.05, "load {load}: {outcome:?}");
        assert!(outcome.goodput >= 0.8 * rate * load.min(0.9), "load {load}: {outcome:?}");
    }
}

#[test]
fn what_warm_up_measured_need_not_be_right() {
    let rate = 64.0 / (MODEL.fixed + MODEL.per_row * 64.0);
    for seeds in [0.3, 3.0] {
        for load in [0.5, 1.3, 2.0] {
            let outcome = simulate(Case { seeds, ..MODEL }, rate * load, 40_000, 3);
            assert!(outcome.p99 <= 1.05, "seeds {seeds}, load {load}: {outcome:?}");
            assert!(
                outcome.goodput >= 0.88 * rate * load.min(1.0),
                "seeds {seeds}, load {load}: {outcome:?}"
            );
        }
    }
}

#[test]
fn where_rows_cost_as_much_as_runs_there_is_no_batch() {
    let case = Case { fixed: 0.000_1, ..MODEL };
    let outcome = simulate(case, 0.9 / 0.001_1, 30_000, 5);
    assert!(outcome.batch < 1.5, "{outcome:?}");
    assert!(outcome.in_time >= 0.99 && outcome.p99 <= 1.0, "{outcome:?}");
}

/// Seen on a node without a CPU to spare: a pod refused what it could have answered some 100 ms later.
#[test]
fn a_server_that_stands_still_now_and_then_refuses_nobody() {
    let most = |case: Case| {
        let rows = case.max_rows as f64;
        rows / (case.fixed + case.per_row * rows)
    };
    let small = Case { fixed: 0.000_02, per_row: 0.000_1, ..MODEL };
    for (case, rate) in [(MODEL, 0.3 * most(MODEL)), (small, 30.0), (small, 1000.0)] {
        for pause in [0.05, 0.3, 0.8] {
            let outcome = simulate(Case { pause, ..case }, rate, 20_000, 3);
            assert_eq!(outcome.refused, 0, "{rate}/s, {pause} s: {outcome:?}");
            let in_time = 1.0 - 1.5 * (pause / PAUSES);
            assert!(outcome.in_time >= in_time, "{rate}/s, {pause} s: {outcome:?}");
        }
    }
}
