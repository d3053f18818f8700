//! Many rollouts of several kinds, and the bounds that they must keep.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use stoker_decide::harm::{TOLERANCE, budget, power};

use crate::bound::upper_bound;
use crate::random::Random;
use crate::trial::{self, End, GRACE, Outcome, Setting};
use crate::world::Harm;

/// Requests a second.
pub const RATES: [f64; 3] = [0.1, 10.0, 1000.0];

/// Share of healthy rollouts that must be promoted in time.
const IN_TIME: f64 = 0.99;

/// The user's latency target, where there is one.
const TARGET: Duration = Duration::from_millis(20);

/// What the candidates of a group are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Like stable.
    Healthy,
    /// Worse by exactly what is tolerated.
    Edge,
    /// Worse by this much.
    Harmful(f64),
}

/// Rollouts of one kind at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The candidates.
    pub kind: Kind,
    /// Requests a second.
    pub rate: f64,
    /// How many rollouts.
    pub trials: u64,
}

/// A group with its outcomes.
#[derive(Clone, Debug)]
pub struct Result {
    /// The group.
    pub group: Group,
    /// In the order of their numbers.
    pub outcomes: Vec<Outcome>,
}

/// The groups of a study of about `rollouts` rollouts.
pub fn groups(rollouts: u64) -> Vec<Group> {
    // Healthy ones are what the rarest event is counted in.
    let kinds = [
        (Kind::Healthy, 20),
        (Kind::Edge, 5),
        (Kind::Harmful(0.05), 3),
        (Kind::Harmful(0.10), 3),
        (Kind::Harmful(0.25), 3),
    ];
    let mut groups = Vec::new();
    for rate in RATES {
        for (kind, parts) in kinds {
            groups.push(Group { kind, rate, trials: rollouts * parts / 102 });
        }
    }
    // What the division left over.
    let rest = rollouts - groups.iter().map(|group| group.trials).sum::<u64>();
    groups[5].trials += rest;
    groups
}

/// Plays all rollouts of a group on `threads` threads. The outcomes depend on the seed alone.
pub fn play(group: Group, seed: u64, threads: usize) -> Result {
    let trials = usize::try_from(group.trials).unwrap_or(usize::MAX);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let trial = next.fetch_add(1, Ordering::Relaxed);
            if trial >= trials {
                return done;
            }
            let random = Random::new(seed ^ group.key(), trial as u64);
            done.push((trial, trial::play(&group.setting(trial), random)));
        }
    };
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        // A worker that panicked has no outcomes: then their number is wrong, which every bound sees.
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    outcomes.sort_by_key(|(trial, _)| *trial);
    Result { group, outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect() }
}

impl Group {
    /// A number of its own for each group, so that no two share their world.
    fn key(&self) -> u64 {
        let points = self.points();
        (self.rate.to_bits() ^ points.to_bits().rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// How much worse the candidates are.
    pub fn points(&self) -> f64 {
        match self.kind {
            Kind::Healthy => 0.0,
            Kind::Edge => TOLERANCE,
            Kind::Harmful(points) => points,
        }
    }

    /// Every other rollout has a latency target, and of those with one every other candidate is late instead of wrong.
    fn setting(&self, trial: usize) -> Setting {
        let planned = trial::planned(&trial::plan());
        Setting {
            rate: self.rate,
            harm: Harm { points: self.points(), late: trial % 4 == 0 },
            target: (trial % 2 == 0).then_some(TARGET),
            budget: budget::PER_ROLLOUT,
            // At 0.1 requests a second the evidence takes hours: a day is enough for all but a few.
            give_up: if self.rate < 1.0 { Duration::from_secs(24 * 3600) } else { planned * 20 },
        }
    }
}

impl Result {
    /// How many ended like this.
    pub fn count(&self, end: End) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.end == end).count() as u64
    }

    /// Of a measure of those that ended like this: the value that the share `q` of them does not exceed.
    pub fn quantile(&self, end: End, q: f64, measure: impl Fn(&Outcome) -> f64) -> f64 {
        let mut values: Vec<f64> =
            self.outcomes.iter().filter(|outcome| outcome.end == end).map(measure).collect();
        values.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index within the list"
        )]
        let index = (values.len().saturating_sub(1) as f64 * q.clamp(0.0, 1.0)).round() as usize;
        values.get(index).copied().unwrap_or(f64::NAN)
    }

    /// Share that was promoted within the plan's time and the grace.
    pub fn in_time(&self) -> f64 {
        let limit = trial::planned(&trial::plan()).as_secs_f64() * GRACE;
        let promoted = |outcome: &&Outcome| outcome.end == End::Promoted && outcome.seconds <= limit;
        self.outcomes.iter().filter(promoted).count() as f64 / self.outcomes.len().max(1) as f64
    }

    /// Share of the requests of the rollouts that the candidate harmed, on average.
    pub fn harmed(&self) -> f64 {
        let harmed: f64 =
            self.outcomes.iter().map(|outcome| outcome.requests as f64).sum::<f64>() * self.group.points();
        harmed / self.outcomes.iter().map(|outcome| outcome.all as f64).sum::<f64>().max(1.0)
    }

    /// The highest probability of a rollback that these outcomes leave likely.
    pub fn rollback_bound(&self) -> f64 {
        upper_bound(self.count(End::RolledBack), self.outcomes.len() as u64)
    }

    /// The bounds that are broken, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                broken.push(format!("{:?} at {}/s: {what}", self.group.kind, self.group.rate));
            }
        };
        let trials = self.group.trials;
        check(
            self.outcomes.len() as u64 == trials,
            format!("{} of {trials} were played", self.outcomes.len()),
        );
        if let Kind::Harmful(points) = self.group.kind {
            let found = self.count(End::RolledBack) as f64 / trials.max(1) as f64;
            // Three standard deviations below the promise.
            let least =
                power::POWER - 3.0 * (power::POWER * (1.0 - power::POWER) / trials.max(1) as f64).sqrt();
            check(
                points < power::HARM || found >= least,
                format!("{:.1} % were found, {:.0} % are declared", found * 100.0, power::POWER * 100.0),
            );
            return broken;
        }
        let bound = self.rollback_bound();
        check(
            bound <= budget::PER_ROLLOUT,
            format!(
                "{} of {trials} were taken back, at most {:.2} % with 95 % confidence; the budget is {:.2} %",
                self.count(End::RolledBack),
                bound * 100.0,
                budget::PER_ROLLOUT * 100.0
            ),
        );
        if self.group.kind == Kind::Healthy {
            self.check_promotion(&mut check);
        }
        broken
    }

    fn check_promotion(&self, check: &mut impl FnMut(bool, String)) {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        if self.group.rate >= 1.0 {
            let share = self.in_time();
            let late: Vec<_> =
                self.outcomes.iter().filter_map(|outcome| outcome.late.as_deref()).take(3).collect();
            let what = format!(
                "{} were promoted within the plan's time + 20 %; late for example: {}",
                percent(share),
                late.join(" | ")
            );
            check(share >= IN_TIME, what);
            return;
        }
        let share = self.count(End::Promoted) as f64 / self.group.trials.max(1) as f64;
        check(share >= IN_TIME, format!("{} were promoted", percent(share)));
        let (lacking, untold) = self.untold();
        check(
            lacking > 0 && untold == 0,
            format!("{untold} of {lacking} sentences do not say how long the evidence takes"),
        );
        // Half of the requests were there when it was said, so the other half decides: what was said must be right for nearly all.
        let right = self.stated_right();
        check(
            right >= 0.95,
            format!("{} took no longer than half as much again as was said", percent(right)),
        );
    }

    /// Sentences of a rollout that lacks requests, and of these the ones that do not say how long they take.
    pub fn untold(&self) -> (u64, u64) {
        self.outcomes.iter().map(|outcome| outcome.untold).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// Share of promoted rollouts that took at most half as much time again as their status had said.
    pub fn stated_right(&self) -> f64 {
        let promoted: Vec<_> = self.outcomes.iter().filter(|outcome| outcome.end == End::Promoted).collect();
        let right = promoted.iter().filter(|outcome| outcome.seconds <= outcome.stated * 1.5).count();
        right as f64 / promoted.len().max(1) as f64
    }
}
