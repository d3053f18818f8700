//! How many pods a revision needs: the fewest that keep the latency percentile, down to none.
//!
//! `replicas = demand / capacity`. Demand is what arrives at the routers, refused and held requests included ([`demand`]);
//! capacity is what one pod carries within the target, which latency teaches ([`capacity`]). The percentile itself is only a
//! guard: where it is missed over one minute and over five, a pod carries less than was believed.
//!
//! - Up at once; within 15 s at most to twice as many or four more by a guess, to four times as many by what was seen. Pods that
//!   are starting count, so nobody asks twice.
//! - Ahead of a steady growth by what it will be when pods are ready, whose start is measured.
//! - Down only to what was needed at no time of the window (5 min), to a half at most at a time, never while pods start, and only
//!   where 5 % of the capacity stay free: a demand that sways stays where it is.
//! - What is not known changes nothing: routers that do not answer, and figures that contradict each other.
//!
//! One demand, several revisions: each has pods for the whole demand by a capacity of its own; the rollout takes shares of that.
//! All of it may be lost: [`Scaler::resume`] goes on from the pods that are there.

pub mod capacity;
pub mod demand;
pub mod load;
mod meter;
mod why;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use capacity::Capacity;
use demand::Demand;
pub use demand::Rate;
use load::{Counted, LONGEST, Load, Sum};
pub use meter::{ArmTotals, Interval, Meter, Totals};
pub use why::{Change, Figures, Rule};

/// The near window: what is believed of now.
const MINUTE: Duration = Duration::from_mins(1);
/// What has gathered in queues is to be gone within this time.
const DRAIN: Duration = Duration::from_mins(1);
/// Time within which pods become so many more at most.
const STEP: Duration = Duration::from_secs(15);
/// Share of the capacity that is used at most after pods were taken away.
const ROOM: f64 = 0.95;
/// Seconds after which it shows whether queues are being worked off.
const SETTLED: f64 = 30.0;
/// The same for pods that refuse what they cannot answer in time.
const SETTLED_REFUSING: f64 = 10.0;
/// The time that pods take to get ready, before it was seen.
const START: Duration = Duration::from_secs(20);
/// A longer start says something of the cluster, and nothing of the pods.
const LONGEST_START: Duration = Duration::from_mins(10);
/// Pods that did not get ready for so many times their usual time, and at least for five minutes, keep nobody from going down.
const STUCK: u32 = 3;
/// A demand that grows is met at most to this multiple of what is there.
const MOST_AHEAD: f64 = 2.0;
/// Requests under way are at least this share of what rate and latency say (Little's law). They may be many more: clients take
/// their time to read, streams last, copies for shadows are answered to nobody, and who gave up leaves no latency.
const FEWER: f64 = 0.7;
/// Requests in flight below which chance explains any difference.
const COUNTABLE: f64 = 3.0;

/// What users are promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// This share of the answers ...
    pub quantile: f64,
    /// ... comes within this time.
    pub target: Duration,
}

impl Aim {
    /// Requests without which a percentile says nothing: two beyond it.
    pub(crate) fn enough(self) -> u64 {
        let beyond = 2.0 / (1.0 - self.quantile).max(1e-3);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 2 and 2000")]
        let enough = beyond.ceil() as u64;
        enough.max(50)
    }

    /// Whether more came late than may, and not by chance.
    pub(crate) fn is_missed(self, sum: &Sum) -> bool {
        let allowed = (1.0 - self.quantile) * sum.total() as f64;
        sum.total() >= self.enough()
            && sum.late(self.target) as f64 > 2.0_f64.mul_add(allowed.sqrt(), allowed)
    }
}

/// What the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pods of a revision while it serves.
    pub min: u32,
    /// Pods of a revision at most.
    pub max: u32,
    /// Without a request for this long there are none; unset: never.
    pub zero_after: Option<Duration>,
    /// Pods go only when they were not needed for this long.
    pub down_window: Duration,
}

/// The pods of a revision as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// As many as there should be.
    pub wanted: u32,
    /// As many as routers reach.
    pub ready: u32,
}

/// One look.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// On a clock that does not jump.
    pub now: Duration,
    /// What was counted since the last look, or why that is not known.
    pub counted: Result<&'a Interval, &'a str>,
    /// Revisions that have pods, or are to have some.
    pub pods: &'a BTreeMap<String, Pods>,
    /// The one that has most of the traffic: others are taken to be like it until they were seen.
    pub main: &'a str,
    /// A run or its guard is under way.
    pub in_run: bool,
    /// A router asked for pods.
    pub wake: bool,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What changed.
    pub changes: Vec<Change>,
    /// Why nothing may change now, if so.
    pub holds: Option<String>,
}

/// The scaler of one ModelDeployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scaler {
    demand: Demand,
    revisions: BTreeMap<String, Revision>,
    /// When a request was last seen, or anything that keeps pods.
    busy: Option<Duration>,
    asleep: bool,
    /// How long pods take to get ready.
    start: Option<Duration>,
    /// The revision that has most of the traffic.
    main: String,
}

/// What is known of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
struct Revision {
    load: Load,
    capacity: Capacity,
    figures: Figures,
    /// What was needed at each time of the window.
    needed: VecDeque<(Duration, f64)>,
    /// Sizes before each change of the last seconds.
    before: VecDeque<(Duration, u32)>,
    /// Since when fewer pods are ready than there should be.
    starting: Option<Duration>,
    /// When pods were last added.
    added: Option<Duration>,
    /// When pods were last taken away.
    removed: Option<Duration>,
    pods: Pods,
}

impl Scaler {
    /// Goes on from what is there: pods for the whole demand and known capacities, by revision.
    pub fn resume(known: impl IntoIterator<Item = (String, u32, Option<f64>)>, asleep: bool) -> Self {
        let revisions = known.into_iter().map(|(name, replicas, capacity)| {
            let figures = Figures { replicas, capacity, ..Figures::default() };
            let capacity = capacity.map(Capacity::known).unwrap_or_default();
            (name, Revision { capacity, figures, ..Revision::default() })
        });
        Self { revisions: revisions.collect(), asleep, ..Self::default() }
    }

    /// Whether there are no pods because there are no requests.
    pub fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Pods that each revision needs for the whole demand.
    pub fn sizes(&self) -> BTreeMap<String, u32> {
        self.revisions.iter().map(|(name, revision)| (name.clone(), revision.figures.replicas)).collect()
    }

    /// What the size of each revision follows from.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.revisions.iter().map(|(name, revision)| (name.as_str(), &revision.figures))
    }

    /// How long pods take to get ready, where that was seen.
    pub fn start_time(&self) -> Option<Duration> {
        self.start
    }

    /// One look.
    pub fn look(&mut self, look: &Look<'_>, aim: Aim, bounds: Bounds) -> Decision {
        let bounds = Bounds { max: bounds.max.max(bounds.min), ..bounds };
        self.follow_pods(look);
        let mut holds = match look.counted {
            Ok(counted) => {
                self.count(look.now, counted);
                None
            }
            Err(why) => Some(why.to_owned()),
        };
        let mut changes = Vec::new();
        if self.sleep_or_wake(look, bounds, &mut changes) {
            return Decision { changes, holds };
        }
        for (name, revision) in &mut self.revisions {
            let size = revision.figures.replicas.clamp(bounds.min.max(1), bounds.max);
            changes.extend(revision.set(name, size, Rule::Bounds));
        }
        if holds.is_none() {
            holds = self.contradiction();
        }
        let Some(rate) = self.demand.rate(look.now).filter(|_| holds.is_none()) else {
            return Decision { changes, holds };
        };
        self.hand_over(look.main);
        self.learn(look.now, aim);
        let (growth, start) = (self.demand.growth(look.now), self.start.unwrap_or(START));
        let main =
            self.revisions.get(look.main).map(|revision| revision.capacity.clone()).unwrap_or_default();
        let main_mean = self.revisions.get(look.main).map(|main| main.load.window(LONGEST));
        for (name, revision) in &mut self.revisions {
            let capacity = revision.believed(&main, main_mean.as_ref().filter(|_| name != look.main), aim);
            let signals = Signals { now: look.now, rate, growth, start, capacity };
            changes.extend(revision.decide(name, &signals, look.counted.ok(), aim, bounds));
        }
        Decision { changes, holds }
    }

    /// Revisions come and go; how long pods take to start is measured.
    fn follow_pods(&mut self, look: &Look<'_>) {
        let hears = look.counted.is_ok();
        self.revisions.retain(|name, _| look.pods.contains_key(name));
        let like = self.revisions.get(look.main).map(|main| main.figures.replicas);
        for (name, pods) in look.pods {
            let revision = self.revisions.entry(name.clone()).or_insert_with(|| {
                let replicas = like.unwrap_or(pods.wanted);
                Revision { figures: Figures { replicas, ..Figures::default() }, ..Revision::default() }
            });
            // Who hears nothing does not know who is ready.
            if !hears {
                continue;
            }
            revision.pods = *pods;
            if pods.ready < pods.wanted {
                revision.starting.get_or_insert(look.now);
            } else if let Some(since) = revision.starting.take() {
                let took = look.now.saturating_sub(since).min(LONGEST_START);
                self.start = Some(self.start.map_or(took, |before| (before + took) / 2));
            }
        }
    }

    fn count(&mut self, now: Duration, counted: &Interval) {
        let from = now.saturating_sub(counted.took);
        self.demand.add(from, now, counted.offered);
        for (name, revision) in &mut self.revisions {
            let none = Counted::default();
            revision.load.add(from, now, revision.pods.ready, counted.revisions.get(name).unwrap_or(&none));
        }
        let under_way = counted.revisions.values().any(|own| own.in_flight > 0);
        if counted.offered > 0 || counted.held > 0 || under_way || counted.is_partial {
            self.busy = Some(now);
        }
    }

    /// Ends or begins the time without pods. True when nothing else is to be decided.
    fn sleep_or_wake(&mut self, look: &Look<'_>, bounds: Bounds, changes: &mut Vec<Change>) -> bool {
        let held = look.counted.is_ok_and(|counted| counted.held > 0 || counted.offered > 0);
        let wanted = look.wake || held || look.in_run;
        let start = self.start.unwrap_or(START);
        let starting = self.revisions.values().any(|revision| revision.starts(look.now, start));
        if wanted || starting || self.busy.is_none() {
            self.busy = Some(look.now);
        }
        if self.asleep {
            if wanted || bounds.zero_after.is_none() {
                self.asleep = false;
                self.change_all(Rule::Wake, bounds.min.max(1), changes);
            }
            return true;
        }
        let idle = self.busy.map_or(Duration::ZERO, |busy| look.now.saturating_sub(busy));
        // Only who hears from the routers knows that nothing came.
        if look.counted.is_ok() && bounds.zero_after.is_some_and(|after| idle >= after) {
            self.asleep = true;
            self.change_all(Rule::Idle, 0, changes);
        }
        self.asleep
    }

    fn change_all(&mut self, rule: Rule, size: u32, changes: &mut Vec<Change>) {
        for (name, revision) in &mut self.revisions {
            revision.needed.clear();
            revision.before.clear();
            changes.extend(revision.set(name, size, rule));
        }
    }

    /// Another revision has most of the traffic from now on: what was believed of it by the one before goes on to be believed.
    fn hand_over(&mut self, main: &str) {
        if self.main != main {
            main.clone_into(&mut self.main);
            if let Some(revision) = self.revisions.get_mut(main) {
                revision.capacity.inherit(revision.figures.capacity);
            }
        }
    }

    fn learn(&mut self, now: Duration, aim: Aim) {
        for revision in self.revisions.values_mut() {
            let (near, far) = (revision.load.steady(MINUTE), revision.load.steady(LONGEST));
            // Who refuses has no queue to work off.
            let refuses = near.overloaded.saturating_mul(10) > near.total();
            let shows = near.seconds >= if refuses { SETTLED_REFUSING } else { SETTLED };
            let settled = revision.pods.ready >= revision.pods.wanted && shows && !revision.drains();
            revision.capacity.learn(now, &near, &far, aim, settled);
        }
    }

    /// Figures that cannot all be true, in a sentence.
    fn contradiction(&self) -> Option<String> {
        self.revisions.iter().find_map(|(name, revision)| {
            let (seen, told) = revision.contradiction()?;
            Some(format!(
                "the routers' figures of {name} contradict each other: {seen:.1} requests are under way, and rate times latency \
                 makes {told:.1}"
            ))
        })
    }
}

/// What all revisions go by in a look.
struct Signals {
    now: Duration,
    rate: Rate,
    growth: f64,
    start: Duration,
    capacity: Option<f64>,
}

impl Revision {
    /// Whether pods start that are still believed to get ready.
    fn starts(&self, now: Duration, usual: Duration) -> bool {
        let stuck = (STUCK * usual).max(LONGEST);
        self.starting.is_some_and(|since| now.saturating_sub(since) < stuck)
    }

    /// Whether queues are being worked off: what is late came earlier.
    fn drains(&self) -> bool {
        let (older, newer) = self.load.halves(MINUTE);
        newer.in_flight() < 0.8 * older.in_flight()
    }

    /// What a pod carries: as it was seen, else as those of the main revision do, less where this one is slower.
    fn believed(&self, main: &Capacity, main_seen: Option<&Sum>, aim: Aim) -> Option<f64> {
        let own = self.capacity.per_pod();
        // Until it was seen to fail, what it carried is not all that it can carry.
        let Some(main_seen) = main_seen.filter(|_| !self.capacity.is_strained()) else { return own };
        let seen = self.load.window(LONGEST);
        let slower = match (seen.mean(), main_seen.mean()) {
            (Some(own), Some(main)) if seen.total() >= aim.enough() && main > 0.0 => {
                (own / main).clamp(1.0, 10.0)
            }
            _ => 1.0,
        };
        let alike = main.per_pod().map(|per_pod| per_pod / slower);
        // A guess of its own says less than what is known of the other.
        let proven = own.filter(|_| self.capacity.is_proven());
        match (alike, proven) {
            (Some(alike), Some(proven)) => Some(alike.max(proven)),
            (alike, _) => alike.or(own),
        }
    }

    fn decide(
        &mut self,
        name: &str,
        signals: &Signals,
        counted: Option<&Interval>,
        aim: Aim,
        bounds: Bounds,
    ) -> Option<Change> {
        let (low, high) = (bounds.min.max(1), bounds.max);
        let current = self.figures.replicas;
        self.figures.demand = signals.rate;
        self.figures.capacity = signals.capacity;
        self.figures.latency = self.load.window(MINUTE).latency.quantile(aim.quantile);
        self.figures.too_slow = self.capacity.too_slow();
        let (needed, rule) = self.needed(name, signals, counted, aim)?;
        self.remember(signals.now, needed, current, bounds.down_window);
        let pods = whole(needed).clamp(low, high);
        if pods > current {
            let most = self.most(signals.now, current);
            return self.up(name, signals.now, pods.min(most).max(current), rule);
        }
        let fewer = self.fewer(signals, current, low)?;
        self.removed = Some(signals.now);
        self.set(name, fewer, Rule::Quiet)
    }

    /// Pods that carry the demand, as a number with a fraction, and the rule that says so. None while no capacity is known.
    fn needed(
        &mut self,
        name: &str,
        signals: &Signals,
        counted: Option<&Interval>,
        aim: Aim,
    ) -> Option<(f64, Rule)> {
        let capacity = signals.capacity.filter(|capacity| *capacity > 0.0)?;
        let rate = signals.rate.per_second;
        let waiting = counted.map_or(0.0, |counted| {
            // Where answers come in time nobody waits in line, whatever is under way.
            let is_late = self.figures.latency.is_some_and(|latency| latency > aim.target);
            let own = counted.revisions.get(name).filter(|_| is_late);
            let in_flight = own.map_or(0, |own| own.in_flight) as f64;
            // What could still be answered in time is no queue.
            counted.held as f64 + (in_flight - rate * aim.target.as_secs_f64()).max(0.0)
        });
        let queued = (waiting / DRAIN.as_secs_f64()).min((MOST_AHEAD - 1.0) * rate.max(1.0));
        let grown = (signals.growth * signals.start.as_secs_f64()).min((MOST_AHEAD - 1.0) * rate);
        self.figures.ahead = queued.max(grown);
        let rule = if self.capacity.failed_within(signals.now, MINUTE) {
            Rule::Latency
        } else if grown > queued {
            Rule::Growth
        } else {
            Rule::Demand
        };
        Some(((rate + self.figures.ahead) / capacity, rule))
    }

    /// What is needed now, among what was needed before.
    fn remember(&mut self, now: Duration, needed: f64, current: u32, window: Duration) {
        if self.needed.is_empty() {
            // Of the time before nothing is known: then what was there counts as needed.
            self.needed.push_back((now, f64::from(current)));
        }
        // Falling from front to back: the first one is the highest of the window.
        while self.needed.back().is_some_and(|(_, older)| *older <= needed) {
            self.needed.pop_back();
        }
        self.needed.push_back((now, needed));
        while self.needed.front().is_some_and(|(when, _)| now.saturating_sub(*when) > window) {
            self.needed.pop_front();
        }
    }

    /// The most pods that may be there now.
    fn most(&mut self, now: Duration, current: u32) -> u32 {
        while self.before.front().is_some_and(|(when, _)| now.saturating_sub(*when) > STEP) {
            self.before.pop_front();
        }
        let base = self.before.iter().map(|(_, size)| *size).min().unwrap_or(current).min(current);
        // A guess may be wrong; what was seen is worth a longer step.
        let times = if self.capacity.is_proven() { 4 } else { 2 };
        base.saturating_mul(times).max(base.saturating_add(4))
    }

    fn up(&mut self, name: &str, now: Duration, size: u32, rule: Rule) -> Option<Change> {
        let current = self.figures.replicas;
        let change = self.set(name, size, rule)?;
        self.before.push_back((now, current));
        self.added = Some(now);
        Some(change)
    }

    /// How many pods are left, where fewer are enough.
    fn fewer(&self, signals: &Signals, current: u32, low: u32) -> Option<u32> {
        if self.starts(signals.now, signals.start) {
            return None;
        }
        let within =
            |when: Option<Duration>, pause| when.is_some_and(|when| signals.now.saturating_sub(when) < pause);
        if within(self.added, STEP.max(2 * signals.start)) || within(self.removed, STEP) {
            return None;
        }
        let (_, most) = self.needed.front()?;
        let size = whole(most / ROOM).max(current / 2).max(low);
        (size < current).then_some(size)
    }

    fn set(&mut self, name: &str, to: u32, rule: Rule) -> Option<Change> {
        let from = std::mem::replace(&mut self.figures.replicas, to);
        if from == to {
            return None;
        }
        self.figures.rule = rule;
        Some(Change { revision: name.to_owned(), from, to, rule, because: self.figures.because() })
    }

    /// Requests under way as they were seen, and as rate times latency says, where the two cannot both be true. Only a load that
    /// does not change can be judged so.
    fn contradiction(&self) -> Option<(f64, f64)> {
        let sum = self.load.steady(MINUTE);
        if sum.looks < 20 || sum.overloaded > 0 {
            return None;
        }
        let (older, newer) = self.load.halves(MINUTE);
        let alike = |a: f64, b: f64| (a - b).abs() <= 0.2 * a.max(b);
        let per_second = |sum: &Sum| sum.answered as f64 / sum.seconds.max(1e-9);
        if !alike(per_second(&older), per_second(&newer)) || !alike(older.in_flight(), newer.in_flight()) {
            return None;
        }
        let (seen, told) = (sum.in_flight(), sum.latency.sum() / sum.seconds);
        let chance = 3.0 * (told / f64::from(sum.looks)).sqrt();
        (told >= COUNTABLE && seen < FEWER.mul_add(told, -chance)).then_some((seen, told))
    }
}

/// As many whole pods. A trifle above a whole number is no pod more.
fn whole(pods: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = (pods - 1e-9).ceil().max(0.0) as u32;
    whole
}

#[cfg(test)]
mod tests;
