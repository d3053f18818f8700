//! How many pods each revision has, and the way back to one that has too few.
//!
//! With [`Capacity::Full`] every kept revision has pods for the whole demand. With [`Capacity::Proportional`] it has them for its
//! share. Capacity comes before weight: a run counts the share that comes next as soon as only pods are waited for
//! ([`Run::passed`]), and raises the weight when they are ready. Weight goes before capacity: a share that fell counts until all
//! routers were seen to serve the lower one ([`Shares::served`]).
//!
//! On the way back stable has too few pods. Then the revision that is left keeps what they cannot take ([`Refill`]), by the
//! rule of [`crate::refill`]; routers apply it to the endpoints that they see, so that it needs nobody else.

use std::collections::BTreeMap;

use super::room::returning;
use super::state::PERCENT;
use super::{Next, Plan, Pods, Run, State};
use crate::refill;
use crate::traffic::WHOLE;

/// How many pods the revisions of a run have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capacity {
    /// For the whole demand, each of them.
    #[default]
    Full,
    /// For their shares of the traffic.
    Proportional,
}

/// What pods are counted by while they go by shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Percent of the traffic, copies included, by the last table that all routers were seen to serve. A revision that leaves, or
    /// that keeps a rest, stays with what it had. One that is not in here may have had everything.
    pub served: BTreeMap<String, u32>,
    /// The way back to stable, while it is under way.
    pub refill: Option<Refill>,
    /// Pods for the whole demand that there were once in the run or on the way back: somebody else counts them, and may not take
    /// any away meanwhile.
    pub least: u32,
}

/// Traffic goes back to stable as its pods get ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refill {
    /// The revision that keeps what stable cannot take yet.
    pub from: String,
    /// Percent of the traffic that it keeps at most: what it had.
    pub most: u32,
    /// Its bad answers, in parts per million.
    pub bad_ppm: u32,
}

/// Pods that the whole demand needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Of any revision that nothing else is known of; 0: nobody is to be served.
    pub all: u32,
    /// Of those whose capacity was seen.
    pub of: BTreeMap<String, u32>,
    /// There are none for now, because there are no requests. Not so in a run or its guard: there is something to try.
    pub asleep: bool,
}

impl From<u32> for Replicas {
    fn from(all: u32) -> Self {
        Self { all, ..Self::default() }
    }
}

impl Replicas {
    /// Pods that a revision needs for the whole demand.
    pub fn of(&self, revision: &str) -> u32 {
        if self.asleep { 0 } else { self.awake(revision) }
    }

    fn awake(&self, revision: &str) -> u32 {
        if self.all == 0 { 0 } else { self.of.get(revision).map_or(self.all, |pods| (*pods).max(1)) }
    }

    /// Whether anybody is to be served.
    pub fn serves(&self) -> bool {
        self.all > 0
    }
}

impl State {
    /// How many pods each kept revision has. At least one, while any are wanted.
    pub fn sizes(&self, replicas: &Replicas) -> BTreeMap<&str, u32> {
        let kept = self.kept().into_iter();
        if self.alone {
            let holder = self.holder();
            let size = |revision| if holder == Some(revision) { self.whole(replicas, revision) } else { 0 };
            return kept.map(|revision| (revision, size(revision))).collect();
        }
        let Some(shares) = &self.shares else {
            return kept.map(|revision| (revision, self.whole(replicas, revision))).collect();
        };
        let table = self.loads();
        let size =
            |revision: &str| pods_for(self.load(shares, &table, revision), self.whole(replicas, revision));
        kept.map(|revision| (revision, size(revision))).collect()
    }

    /// A run or its guard is under way: what is tried has pods, although nobody asks for anything.
    pub fn tries(&self) -> bool {
        self.run.is_some() || self.guard.is_some()
    }

    /// Pods that a revision needs for the whole demand.
    pub fn whole(&self, replicas: &Replicas, revision: &str) -> u32 {
        let whole = if self.tries() { replicas.awake(revision) } else { replicas.of(revision) };
        whole.max(self.shares.as_ref().map_or(0, |shares| shares.least))
    }

    /// The way back that is under way.
    pub fn refill(&self) -> Option<&Refill> {
        self.shares.as_ref()?.refill.as_ref()
    }

    /// Percent of the traffic that each revision has by the table, copies included.
    pub(super) fn loads(&self) -> BTreeMap<String, u32> {
        let traffic = self.traffic();
        let mut loads: BTreeMap<String, u32> =
            traffic.arms.iter().map(|arm| (arm.revision.clone(), arm.ppm.div_ceil(PERCENT))).collect();
        if let Some(shadow) = traffic.shadow {
            let of = loads.get(&shadow.of).copied().unwrap_or(0);
            *loads.entry(shadow.revision).or_default() += copies(of, shadow.ppm.div_ceil(PERCENT));
        }
        loads
    }

    /// Percent of the traffic that a revision must have pods for.
    fn load(&self, shares: &Shares, table: &BTreeMap<String, u32>, revision: &str) -> u32 {
        // Outside a run stable is what everything falls back to.
        if self.run.is_none() && self.stable.as_deref() == Some(revision) {
            return 100;
        }
        let has = table.get(revision).copied().unwrap_or(0);
        let had = shares.served.get(revision).copied().unwrap_or(100);
        let next = self.run.as_ref().filter(|run| run.candidate == revision).map_or(0, Run::load);
        has.max(had).max(next)
    }
}

impl Run {
    /// Percent of the traffic that the candidate must have pods for: of its step, and of the one that it waits for.
    fn load(&self) -> u32 {
        let waits = self.step == 0 || self.passed;
        if self.direct || (waits && self.step >= self.plan.steps.len()) {
            return 100;
        }
        let next = if waits { self.plan.load(self.step + 1) } else { 0 };
        self.plan.load(self.step).max(next)
    }
}

impl Plan {
    /// Percent of the traffic that the candidate gets at a step, copies included.
    fn load(&self, number: usize) -> u32 {
        let weight = self.weight(number);
        weight + copies(100 - weight, self.shadow(number))
    }
}

/// Copies of `percent` of the requests of a share.
fn copies(of: u32, percent: u32) -> u32 {
    (of * percent).div_ceil(100)
}

/// Pods for a share of a demand that needs `replicas`.
fn pods_for(percent: u32, replicas: u32) -> u32 {
    replicas.saturating_mul(percent).div_ceil(100).max(1).min(replicas)
}

impl Next<'_> {
    /// What routers serve by now: this table, or while they do not all, one of those since the last that they all did.
    pub(super) fn note_served(&mut self) {
        if self.state.shares.is_none() {
            return;
        }
        let table = self.state.loads();
        if self.seen.unverified.is_some() {
            let Some(shares) = &mut self.state.shares else { return };
            for (revision, load) in &mut shares.served {
                *load = (*load).max(table.get(revision).copied().unwrap_or(0));
            }
            return;
        }
        let from = self.state.refill().map(|refill| refill.from.clone());
        let goes = |revision: &str| {
            from.as_deref() == Some(revision) || self.state.leaving.iter().any(|name| name == revision)
        };
        let known = |revision: &str| self.state.shares.as_ref()?.served.get(revision).copied();
        let load = |revision: &str| {
            if goes(revision) { known(revision) } else { Some(table.get(revision).copied().unwrap_or(0)) }
        };
        let served = self.state.kept().into_iter();
        let served = served.filter_map(|revision| Some((revision.to_owned(), load(revision)?))).collect();
        if let Some(shares) = &mut self.state.shares {
            shares.served = served;
        }
    }

    /// A run starts and counts pods in this way. A way back that is under way goes on as it began.
    pub(super) fn size_by(&mut self, capacity: Capacity, candidate: &str) {
        if capacity == Capacity::Proportional {
            let (before, verified) = (self.before, self.seen.unverified.is_none());
            let shares = self.state.shares.get_or_insert_with(|| {
                let served = if verified { before.loads() } else { BTreeMap::new() };
                Shares { served, refill: None, least: 0 }
            });
            if !before.kept().contains(candidate) {
                shares.served.insert(candidate.to_owned(), 0);
            }
        } else if self.state.refill().is_none() {
            self.state.shares = None;
        }
    }

    /// Whether a revision has the pods that it needs by the state as it is now, which may be more than was wanted at the last look.
    pub(super) fn has_pods(&self, revision: &str, pods: &Pods) -> bool {
        pods.complete() && pods.ready >= self.wanted_pods(revision, pods)
    }

    /// How many pods of a revision are waited for.
    pub(super) fn wanted_pods(&self, revision: &str, pods: &Pods) -> u32 {
        // A run that has just begun to count them in another way: what was wanted at the last look says nothing.
        let by_shares = self.state.shares.is_some() || self.before.shares.is_some() || self.state.alone;
        let sizes = self.state.sizes(&self.wish.replicas);
        let wanted = sizes.get(revision).copied().filter(|_| by_shares);
        wanted.map_or(pods.wanted, |wanted| wanted.max(pods.wanted))
    }

    /// Whether `candidate` was stable until recently and can take over as its pods come: nobody waits for the last of them.
    pub(super) fn may_return_early(&self, run: &Run, pods: &Pods) -> bool {
        let by_shares = self.state.shares.is_some() && self.state.refill().is_none();
        by_shares && run.direct && self.is_warm(&run.candidate) && pods.ready > 0
    }

    /// A revision gives way to stable: at once, or as the pods of stable get ready.
    pub(super) fn give_way(&mut self, from: &str) {
        let arms = self.before.traffic().arms;
        let had = arms.iter().find(|arm| arm.revision == from).map_or(0, |arm| arm.ppm.div_ceil(PERCENT));
        let refill = Refill { from: from.to_owned(), most: had, bad_ppm: self.seen.bad_ppm };
        if self.state.shares.is_some() && self.left_behind(&refill) > 0 {
            self.end_refill();
            if let Some(shares) = &mut self.state.shares {
                shares.refill = Some(refill);
            }
        } else {
            self.retire(from);
        }
    }

    /// Ends the way back once nothing is left to go it.
    pub(super) fn follow_refill(&mut self) {
        if self.state.refill().is_some_and(|refill| self.left_behind(refill) == 0) {
            self.end_refill();
        }
    }

    /// Ends the way back: stable has everything.
    pub(super) fn end_refill(&mut self) {
        let Some(refill) = self.state.shares.as_mut().and_then(|shares| shares.refill.take()) else { return };
        self.retire(&refill.from);
        // The run that came meanwhile does not go by shares.
        if self.state.run.as_ref().is_some_and(|run| run.plan.capacity == Capacity::Full) {
            self.state.shares = None;
        }
    }

    /// Takes a revision out, unless it is kept for something else.
    fn retire(&mut self, revision: &str) {
        let is_tried = self.state.run.as_ref().is_some_and(|run| run.candidate == revision);
        let is_stable = self.state.stable.as_deref() == Some(revision);
        let is_kept = is_tried || is_stable || self.is_warm(revision);
        if self.state.shares.is_none() || !is_kept {
            self.leave(revision);
        }
    }

    /// Parts per million that stay with the revision that is left.
    fn left_behind(&self, refill: &Refill) -> u32 {
        let most = refill.most.saturating_mul(PERCENT).min(WHOLE);
        refill::rest(self.stable_ready(), self.stable_whole(), most, refill.bad_ppm)
    }

    fn stable_ready(&self) -> u32 {
        let stable = self.state.stable.as_ref().and_then(|stable| self.seen.pods.get(stable));
        stable.map_or(0, |pods| pods.ready)
    }

    /// Pods of stable for the whole demand.
    fn stable_whole(&self) -> u32 {
        self.state.stable.as_ref().map_or(0, |stable| self.state.whole(&self.wish.replicas, stable))
    }

    /// What is still on its way back to stable, as a part of a sentence.
    pub(super) fn on_its_way(&self) -> Option<String> {
        let (refill, stable) = (self.state.refill()?, self.state.stable.as_deref()?);
        let (percent, whole) = (self.left_behind(refill).div_ceil(PERCENT), self.stable_whole());
        Some(format!(
            "{percent} % still goes to {} until {stable} has {whole} of {whole} pods (moving all at once would overload it)",
            refill.from
        ))
    }

    /// Where the traffic is after a way back, as a part of a sentence; `all` where nothing holds it up.
    pub(super) fn gone_back(&self, all: &str) -> String {
        if let Some(rest) = self.on_its_way() {
            return rest;
        }
        let (ready, whole) = (self.stable_ready(), self.stable_whole());
        if let Some(stable) =
            self.state.stable.as_deref().filter(|_| self.state.alone && ready == 0 && whole > 0)
        {
            return returning(stable, self.seen.pods.get(stable));
        }
        if self.state.shares.is_some() && ready < whole {
            return format!(
                "{all}, at once with {ready} of {whole} pods: to wait would do more harm than overload"
            );
        }
        all.to_owned()
    }
}
