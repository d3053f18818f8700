//! What is remembered of the scaling of one ModelDeployment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use stoker_api::deployment::{RevisionScaling, ScalingStatus};
use stoker_api::names::reasons;
use stoker_api::scrape::ScrapeReply;
use stoker_decide::autoscale::{
    Aim, ArmTotals, Bounds, Figures, Interval, Look, Meter, Pods, Rule, Scaler, Totals,
};
use stoker_decide::rollout::{Replicas, State};

use super::{News, Scale};
use crate::observe::routers::RouterView;
use crate::observe::world::World;

/// A hold that passes within this time is not worth a word.
const MOMENT: Duration = Duration::from_secs(15);
/// What is learned is stored when it differs from what is stored by more than this share ...
const NEWS: f64 = 0.25;
/// ... and at most so often.
const STORED: Duration = Duration::from_mins(1);
/// Revisions that status tells of, as its schema has it.
const MOST_TOLD: usize = 8;

/// What the reconcile decided last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pods that each revision should have.
    pub wanted: BTreeMap<String, u32>,
    /// The revision that has most of the traffic.
    pub main: String,
    /// A run or its guard is under way: silence is then no reason to take the pods away.
    pub in_run: bool,
}

impl Frame {
    /// Of what was decided about the revisions; none before there is one.
    pub fn of(state: &State, replicas: &Replicas) -> Option<Self> {
        let sizes = state.sizes(replicas);
        state.main().map(|main| Self {
            wanted: sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect(),
            main: main.clone(),
            in_run: state.tries(),
        })
    }
}

/// One ModelDeployment.
pub struct Entry {
    namespace: String,
    name: String,
    scaler: Scaler,
    meter: Meter,
    aim: Aim,
    bounds: Bounds,
    /// Where the scaler's clock began.
    began: Instant,
    looked: Option<Instant>,
    /// None until a reconcile decided.
    pub frame: Option<Frame>,
    /// Changes for Events.
    pub news: Vec<News>,
    /// What status says.
    told: ScalingStatus,
    stored: Option<Instant>,
    /// Why nothing may change, and since when.
    holds: Option<(String, Instant)>,
    /// A router called for pods in this sleep.
    heard: u64,
    /// When pods were called for last, until all routers see one that is ready.
    woken: Option<Instant>,
    /// Pods by revision, at the last look.
    pods: BTreeMap<String, Pods>,
    /// Pods times seconds, by revision.
    pub pod_seconds: BTreeMap<String, f64>,
    /// What a pod costs in an hour, by revision, where that is known.
    prices: BTreeMap<String, f64>,
    /// What they cost so far.
    pub costs: BTreeMap<String, f64>,
}

impl Entry {
    /// Goes on from status; else from the pods that are there; else from what the spec says.
    pub fn resume(world: &World, state: &State, aim: Aim, bounds: Bounds) -> Self {
        let told = world.md.status.as_ref().and_then(|status| status.scaling.clone()).unwrap_or_default();
        let within = |size: u32| size.clamp(bounds.min, bounds.max.max(bounds.min));
        let live = |name: &str| {
            let pods = world.deployments.get(name).and_then(|live| live.spec.as_ref()?.replicas);
            pods.and_then(|pods| u32::try_from(pods).ok())
        };
        let shared: u32 = world.deployments.keys().filter_map(|name| live(name)).sum();
        let known = |name: &str| {
            let stored = told.revisions.iter().find(|known| known.revision == name);
            // Pods by share: all of them together carry the demand.
            let live = if state.shares.is_some() { Some(shared) } else { live(name) };
            let size = stored.map(|known| known.replicas).or(live);
            let size = size.unwrap_or(world.md.spec.replicas);
            let size = if told.asleep { size } else { within(size) };
            (name.to_owned(), size, stored.and_then(|known| known.capacity_per_pod))
        };
        let called_for = world.route.as_ref().and_then(|route| route.spec.asleep);
        let heard = world.route.as_ref().and_then(|route| route.status.as_ref()?.wake);
        let called = called_for.max(heard);
        let sleeps = told.sleeps.max(called.unwrap_or(0));
        let scaler = Scaler::resume(state.kept().into_iter().map(known), told.asleep);
        Self {
            namespace: world.md.namespace().unwrap_or_default(),
            name: world.md.name_any(),
            pods: unseen(&scaler),
            scaler,
            meter: Meter::default(),
            aim,
            bounds,
            began: Instant::now(),
            looked: None,
            frame: None,
            news: Vec::new(),
            stored: None,
            holds: None,
            heard: if told.asleep { sleeps.saturating_sub(1) } else { sleeps },
            // Whoever led before may have gone while the pods were starting: requests wait for them.
            woken: (!told.asleep && called_for == Some(told.sleeps)).then(Instant::now),
            told: ScalingStatus { sleeps, ..told },
            pod_seconds: BTreeMap::new(),
            prices: BTreeMap::new(),
            costs: BTreeMap::new(),
        }
    }

    /// Namespace and name.
    pub fn name(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// What the user wants by now. Other bounds hold at once, whatever is known of the demand.
    pub fn allow(&mut self, aim: Aim, bounds: Bounds) {
        self.aim = aim;
        if std::mem::replace(&mut self.bounds, bounds) != bounds {
            self.decide(Instant::now(), Err("other bounds"), &Time(jiff::Timestamp::now()));
        }
    }

    /// What a pod of each revision costs in an hour.
    pub fn price<'a>(&mut self, prices: impl Iterator<Item = (&'a String, f64)>) {
        self.prices = prices.map(|(name, price)| (name.clone(), price)).collect();
    }

    /// A router called for pods in a sleep.
    pub fn hear(&mut self, sleep: u64) {
        if self.scaler.is_asleep() && sleep >= self.told.sleeps && self.heard < self.told.sleeps {
            self.heard = self.told.sleeps;
            self.decide(Instant::now(), Err("a router called"), &Time(jiff::Timestamp::now()));
        }
    }

    /// For the reconcile; `all` is what the spec says.
    pub fn scale(&self, all: u32) -> Scale {
        let of = self.scaler.sizes();
        let main = self.frame.as_ref().and_then(|frame| of.get(&frame.main)).or(of.values().max());
        let least = self.bounds.min.max(1);
        let all = main.copied().unwrap_or(all).clamp(least, self.bounds.max.max(least));
        let asleep = self.scaler.is_asleep();
        let calls = (asleep || self.woken.is_some()).then_some(self.told.sleeps);
        let (replicas, enough) = (Replicas { all, of, asleep }, Some(least));
        Scale { replicas, calls, enough, status: Some(self.told.clone()) }
    }

    /// One look at what the routers say. Whether a reconcile is due.
    pub fn look(&mut self, now: Instant, view: &RouterView, wall: &Time) -> bool {
        let Some(frame) = self.frame.clone() else { return false };
        let pods: BTreeMap<String, Pods> = frame
            .wanted
            .iter()
            .map(|(name, wanted)| {
                // Routers know nothing of a revision that has no part in the table.
                let ready = ready_endpoints(view, name).max().unwrap_or(*wanted);
                (name.clone(), Pods { wanted: *wanted, ready })
            })
            .collect();
        if let Some(before) = self.looked.replace(now) {
            let took = now.duration_since(before).as_secs_f64();
            for (name, pods) in &pods {
                *self.pod_seconds.entry(name.clone()).or_default() += took * f64::from(pods.wanted);
            }
            for (name, price) in &self.prices {
                if let Some(pods) = pods.get(name) {
                    *self.costs.entry(name.clone()).or_default() +=
                        price * took * f64::from(pods.wanted) / 3600.0;
                }
            }
            self.pod_seconds.retain(|name, _| pods.contains_key(name));
            self.costs.retain(|name, _| pods.contains_key(name));
        }
        let mut due = false;
        // A router that does not see the pod yet would no longer hold requests for it.
        let reached = ready_endpoints(view, &frame.main).min().is_some_and(|ready| ready > 0);
        if let Some(since) = self.woken.filter(|_| reached) {
            self.woken = None;
            self.told.cold_start_seconds = Some(round(now.duration_since(since).as_secs_f64()));
            due = true;
        }
        let at = now.duration_since(self.began);
        let missing = view
            .replies
            .iter()
            .find_map(|(pod, reply)| Some(format!("router {pod}: {}", reply.as_ref().err()?)));
        let counted: Option<BTreeMap<String, Totals>> = view.answers().map(totals).collect();
        let counted = match missing.or_else(|| view.unreadable()) {
            Some(why) => Err(why),
            None => match counted {
                Some(counted) => Ok(self.meter.read(at, counted)),
                None => {
                    Err("a router of an older release does not count what comes for the model".to_owned())
                }
            },
        };
        self.pods = pods;
        let counted = match &counted {
            Ok(Some(interval)) => Ok(interval),
            // The first look after a start: there is nothing to compare with.
            Ok(None) => return due,
            Err(why) => Err(why.as_str()),
        };
        let (holds, decided) = self.decide(now, counted, wall);
        self.tell_hold(now, holds) || decided || due
    }

    /// Decides, and keeps what is to be told. Why nothing may change, and whether a reconcile is due.
    fn decide(
        &mut self,
        now: Instant,
        counted: Result<&Interval, &str>,
        wall: &Time,
    ) -> (Option<String>, bool) {
        let main = self.frame.as_ref().map(|frame| &frame.main).or_else(|| self.pods.keys().next());
        let look = Look {
            now: now.duration_since(self.began),
            counted,
            pods: &self.pods,
            main: main.map_or("", String::as_str),
            in_run: self.frame.as_ref().is_some_and(|frame| frame.in_run),
            wake: self.scaler.is_asleep() && self.heard >= self.told.sleeps,
        };
        let slept = self.scaler.is_asleep();
        let decision = self.scaler.look(&look, self.aim, self.bounds);
        match (slept, self.scaler.is_asleep()) {
            (false, true) => self.told.sleeps += 1,
            (true, false) => self.woken = Some(now),
            _ => {}
        }
        self.told.asleep = self.scaler.is_asleep();
        for change in &decision.changes {
            let reason = match change.rule {
                Rule::Idle => reasons::SCALED_TO_ZERO,
                Rule::Wake => reasons::WOKEN,
                _ => reasons::SCALED,
            };
            let message =
                format!("{}: {} -> {} pods: {}", change.revision, change.from, change.to, change.because);
            tracing::info!(
                namespace = self.namespace,
                name = self.name,
                rule = change.rule.as_str(),
                "{message}"
            );
            self.news.push(News { reason, message, warning: false });
        }
        let due = !decision.changes.is_empty() || self.has_learned(now);
        if due {
            self.store(now, wall, |name| decision.changes.iter().any(|change| change.revision == name));
        }
        (decision.holds, due)
    }

    /// Whether status should say something else about what is known of a revision.
    fn has_learned(&self, now: Instant) -> bool {
        if self.scaler.is_asleep() || self.stored.is_some_and(|stored| now.duration_since(stored) < STORED) {
            return false;
        }
        self.scaler.figures().any(|(name, figures)| {
            let told = self.told.revisions.iter().find(|told| told.revision == name);
            let known = told.and_then(|told| told.capacity_per_pod);
            let differs = match (known, figures.capacity) {
                (Some(known), Some(now)) => (now - known).abs() > NEWS * known,
                (known, now) => known.is_some() != now.is_some(),
            };
            differs || told.is_some_and(|told| told.reachable_ms.is_some()) != figures.too_slow.is_some()
        })
    }

    /// Puts the figures of now into what status says.
    fn store(&mut self, now: Instant, wall: &Time, changed: impl Fn(&str) -> bool) {
        self.stored = Some(now);
        let before = std::mem::take(&mut self.told.revisions);
        for (name, figures) in self.scaler.figures() {
            let old = before.iter().find(|told| told.revision == name);
            let since = old.and_then(|old| old.since.clone()).filter(|_| !changed(name));
            let reachable = millis(figures.too_slow);
            if let (Some(reachable), None) = (reachable, old.and_then(|old| old.reachable_ms)) {
                let (target, percent) = (self.aim.target.as_secs_f64() * 1e3, self.aim.quantile * 100.0);
                let message = format!(
                    "{name} cannot keep {target} ms: nearly idle pods take {reachable} ms for {percent} % of the answers. More pods do \
                     not help; raise slo.latency.target, or serve a faster model"
                );
                self.news.push(News { reason: reasons::TARGET_UNREACHABLE, message, warning: true });
            }
            // As it comes back from the API server.
            let since = since.or_else(|| jiff::Timestamp::from_second(wall.0.as_second()).ok().map(Time));
            self.told.revisions.push(RevisionScaling { since, ..told(name, figures) });
        }
        let main = self.frame.as_ref().map(|frame| frame.main.clone());
        self.told.revisions.sort_by_key(|told| Some(&told.revision) != main.as_ref());
        self.told.revisions.truncate(MOST_TOLD);
        self.told.start_seconds = self.scaler.start_time().map(|time| round(time.as_secs_f64()));
    }

    /// Tells of a hold that lasts. Whether that is new.
    fn tell_hold(&mut self, now: Instant, holds: Option<String>) -> bool {
        let Some(why) = holds else {
            self.holds = None;
            return self.told.holds.take().is_some();
        };
        let since = self.holds.as_ref().map_or(now, |(_, since)| *since);
        self.holds = Some((why.clone(), since));
        if now.duration_since(since) < MOMENT || self.told.holds.is_some() {
            return false;
        }
        let message = format!("the number of pods stays as it is: {why}");
        self.news.push(News { reason: reasons::SCALING_HOLDS, message: message.clone(), warning: true });
        self.told.holds = Some(message);
        true
    }

    /// What the size of each revision follows from, for metrics.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.scaler.figures()
    }
}

/// Pods as they are taken to be before the first look.
fn unseen(scaler: &Scaler) -> BTreeMap<String, Pods> {
    scaler.sizes().into_iter().map(|(name, size)| (name, Pods { wanted: size, ready: size })).collect()
}

/// Pods of a revision that each router may send requests to, where its table names the revision.
fn ready_endpoints<'a>(view: &'a RouterView, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    let arms = view.answers().flat_map(|reply| &reply.arms).filter(move |arm| arm.revision == name);
    arms.map(|arm| arm.ready_endpoints)
}

/// What a router counted, if it does.
fn totals(reply: &ScrapeReply) -> Option<(String, Totals)> {
    let demand = reply.demand.as_ref()?;
    let mut totals = Totals { offered: demand.offered, held: demand.held, ..Totals::default() };
    for own in &demand.revisions {
        let arm = totals.revisions.entry(own.revision.clone()).or_default();
        *arm = ArmTotals {
            answered: own.answered,
            overloaded: own.overloaded,
            latency: own.latency.clone(),
            in_flight: arm.in_flight,
        };
    }
    for arm in &reply.arms {
        totals.revisions.entry(arm.revision.clone()).or_default().in_flight = arm.in_flight;
    }
    Some((reply.process.clone(), totals))
}

fn told(name: &str, figures: &Figures) -> RevisionScaling {
    RevisionScaling {
        revision: name.to_owned(),
        replicas: figures.replicas,
        rule: figures.rule.as_str().to_owned(),
        because: figures.because(),
        demand_per_second: round(figures.demand.per_second),
        window_seconds: round(figures.demand.window.as_secs_f64()),
        capacity_per_pod: figures.capacity.map(round),
        latency_ms: millis(figures.latency),
        reachable_ms: millis(figures.too_slow),
        utilisation: figures.utilisation().map(|share| round(share * 100.0)),
        since: None,
    }
}

fn millis(time: Option<Duration>) -> Option<f64> {
    time.map(|time| round(time.as_secs_f64() * 1e3))
}

/// To three digits behind the point: more is noise.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
