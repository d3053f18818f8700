//! Requests and their faults. What both arms share: a base rate that drifts, a mood that changes within seconds, incidents that
//! make answers fail or late. What each arm has for itself: chance, and errors that come in clumps, as when a client tries again.

use crate::random::Random;

/// Routers in front of the model.
pub const ROUTERS: usize = 2;

/// The probability that an error is followed by another one in the same arm at the same router: errors come in clumps of 1.5 on
/// average, and the counts of successive moments are correlated by this much (an integer autoregression; Al-Osh and
/// Alzaid, "First-order integer-valued autoregressive process", 1987).
const CLUMPS: f64 = 1.0 / 3.0;

/// Share of answers that take long anyway.
const SLOW: f64 = 0.005;

/// How bad the candidate is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Harm {
    /// As a difference of rates, 0..=1.
    pub points: f64,
    /// Its answers come late instead of failing.
    pub late: bool,
}

/// The attempts of one arm at one router in one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// All of them.
    pub all: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, answered late.
    pub late: u64,
}

/// The attempts of both arms at one router in one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The candidate's.
    pub candidate: Attempts,
    /// Stable's.
    pub stable: Attempts,
}

/// A stretch of trouble that both arms share.
#[derive(Clone, Copy, Debug)]
struct Incident {
    until: f64,
    level: f64,
    late: bool,
}

/// Everything that happens to a model in one rollout.
#[derive(Clone, Debug)]
pub struct World {
    random: Random,
    /// Requests a second, over all routers.
    rate: f64,
    harm: Harm,
    now: f64,
    /// Logarithm of the base rate, which drifts.
    base: f64,
    /// Stands above its usual base rate for some seconds.
    agitated: bool,
    incident: Option<Incident>,
    next_incident: f64,
    /// The last errors of each router, for each arm: they beget the next ones.
    last: [[u64; 2]; ROUTERS],
}

impl World {
    /// A world with `rate` requests a second. Base rates are from 0.1 % to 5 %.
    pub fn new(mut random: Random, rate: f64, harm: Harm) -> Self {
        let base = random.between(0.001_f64.ln(), 0.05_f64.ln());
        let next_incident = random.exponential(TO_INCIDENT);
        let last = [[0; 2]; ROUTERS];
        Self { random, rate, harm, now: 0.0, base, agitated: false, incident: None, next_incident, last }
    }

    /// What happens in the next `seconds` while the candidate's share of the traffic is `share`.
    pub fn pass(&mut self, seconds: f64, share: f64) -> [Moment; ROUTERS] {
        self.now += seconds;
        self.drift(seconds);
        let (failing, late) = self.rates();
        let mut moments = [Moment::default(); ROUTERS];
        for (router, moment) in moments.iter_mut().enumerate() {
            let all = self.random.poisson(self.rate * seconds / ROUTERS as f64);
            let candidate = self.random.binomial(all, share);
            moment.candidate = self.attempts(router, 0, candidate, failing, late);
            moment.stable = self.attempts(router, 1, all - candidate, failing, late);
            self.hurt(&mut moment.candidate, failing, late);
        }
        moments
    }

    /// The base rate wanders by a factor of 2 or so in ten minutes, and is drawn back to 1 % over an hour.
    fn drift(&mut self, seconds: f64) {
        let back = (0.01_f64.ln() - self.base) * (seconds / 3600.0).min(1.0);
        self.base += back + 0.7 * (seconds / 600.0).sqrt().min(1.0) * self.random.normal();
        self.base = self.base.clamp(0.001_f64.ln(), 0.05_f64.ln());
        // Calm for 20 s on average, agitated for 4 s.
        let stays = if self.agitated { 4.0 } else { 20.0 };
        if self.random.uniform() < 1.0 - (-seconds / stays).exp() {
            self.agitated = !self.agitated;
        }
        if self.incident.is_some_and(|incident| incident.until < self.now) {
            self.incident = None;
        }
        if self.now >= self.next_incident {
            let (level, late) = (self.random.between(0.1, 0.6), self.random.uniform() < 0.3);
            self.incident =
                Some(Incident { until: self.now + self.random.exponential(INCIDENT), level, late });
            self.next_incident = self.now + self.random.exponential(TO_INCIDENT);
        }
    }

    /// The rates of failing and of late answers now, for both arms.
    fn rates(&self) -> (f64, f64) {
        let failing = self.base.exp() * if self.agitated { 3.0 } else { 1.0 };
        match self.incident {
            Some(Incident { level, late: true, .. }) => (failing, level),
            Some(Incident { level, late: false, .. }) => (failing.max(level), SLOW),
            None => (failing, SLOW),
        }
    }

    fn attempts(&mut self, router: usize, arm: usize, all: u64, failing: f64, late: f64) -> Attempts {
        if all == 0 {
            return Attempts::default();
        }
        let again = self.random.binomial(self.last[router][arm], CLUMPS);
        let failed = (again + self.random.binomial(all, failing * (1.0 - CLUMPS))).min(all);
        self.last[router][arm] = failed;
        Attempts { all, failed, late: self.random.binomial(all - failed, late) }
    }

    /// What the candidate does on top: `points` of all its attempts.
    fn hurt(&mut self, attempts: &mut Attempts, failing: f64, late: f64) {
        let Harm { points, late: slow } = self.harm;
        let good = attempts.all - attempts.failed - attempts.late;
        let share = (points / (1.0 - failing) / (1.0 - late)).min(1.0);
        let hurt = self.random.binomial(good, share);
        if slow {
            attempts.late += hurt;
        } else {
            attempts.failed += hurt;
        }
    }
}

/// Mean time between incidents, and their mean length, in seconds.
const TO_INCIDENT: f64 = 600.0;
const INCIDENT: f64 = 20.0;
