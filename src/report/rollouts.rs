//! What Prometheus reads about rollouts: what the last look at each ModelDeployment found, and how runs ended.
//!
//! Series of a ModelDeployment end when it is gone: nothing is kept of one that the driver has forgotten. Words (phase, verdict,
//! outcome) are those of status; only the one that holds has a series, so that an idle ModelDeployment has few.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use stoker_api::ModelDeployment;
use stoker_api::deployment::Phase;
use stoker_api::names::reasons;
use stoker_decide::alert::Alerts;
use stoker_decide::evidence::Counts;
use stoker_decide::rollout::{Decision, Replicas, Seen, Standing, State};
use stoker_decide::traffic::WHOLE;
use stoker_edge::metrics::LatencyHistogram;

use super::events::word;
use crate::controllers::deployment::evidence::Examined;

/// Upper bounds of the durations of runs, in seconds: from a minute to a week.
const DURATIONS: [f64; 14] = [
    60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 57600.0, 86400.0, 259_200.0,
    604_800.0,
];

/// Everything that one look knows, when its decision is stored.
#[derive(Debug)]
pub struct Look<'a> {
    /// Whose rollout.
    pub md: &'a ModelDeployment,
    /// The state that was looked at.
    pub before: &'a State,
    /// What was decided.
    pub decision: &'a Decision,
    /// What the routers' counts say, in a run or its guard.
    pub examined: Option<&'a Examined>,
    /// What it was decided from.
    pub seen: &'a Seen<'a>,
    /// Pods for the whole demand.
    pub replicas: &'a Replicas,
}

impl<'a> Look<'a> {
    /// All of it; `md` has the status that was stored.
    pub fn of(
        md: &'a ModelDeployment,
        before: &'a State,
        decision: &'a Decision,
        examined: Option<&'a Examined>,
        seen: &'a Seen<'a>,
        replicas: &'a Replicas,
    ) -> Self {
        Self { md, before, decision, examined, seen, replicas }
    }
}

/// The rollouts of this process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rollouts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: Mutex<BTreeMap<String, Known>>,
    durations: Family<Outcome, Histogram, Durations>,
    decisions: Family<Until, LatencyHistogram>,
}

impl Default for Inner {
    fn default() -> Self {
        let durations = Family::new_with_constructor(Durations);
        Self { known: Mutex::default(), durations, decisions: Family::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Until {
    until: &'static str,
}

/// Makes the histogram of an outcome.
#[derive(Clone, Debug, Default)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATIONS)
    }
}

/// What is known of one ModelDeployment.
#[derive(Clone, Debug)]
struct Known {
    namespace: String,
    name: String,
    looked_at: Instant,
    phase: Phase,
    /// Shares of the traffic by revision, as the table says.
    wanted: BTreeMap<String, u32>,
    /// The same, of the last table that all routers were seen to serve.
    verified: BTreeMap<String, u32>,
    is_verified: bool,
    /// None where there is nothing to be reached: it sleeps, or has no revision.
    reachable: Option<bool>,
    pods: BTreeMap<String, (u32, u32)>,
    target: Option<(Duration, &'static str)>,
    run: Option<Running>,
    guard_left: Option<Duration>,
    held: Option<Held>,
    examined: Option<Figures>,
    queued: bool,
    /// `scaling.maxReplicas`.
    most: Option<u32>,
}

/// A run that is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Running {
    number: u64,
    step: usize,
    steps: usize,
    began: Instant,
    /// It goes, or went, step by step: a first revision has nobody to harm, and is no rollout.
    stepwise: bool,
}

/// A run, or a guard, that stands still.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    why: &'static str,
    since: Instant,
}

/// What the verdict was made from.
#[derive(Clone, Debug, PartialEq)]
struct Figures {
    verdict: &'static str,
    harm_log10: f64,
    alarm_log10: f64,
    wanted: u64,
    /// The compared revision and its control.
    arms: [Arm; 2],
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
struct Arm {
    name: &'static str,
    revision: String,
    attempts: u64,
    errors: u64,
    slow: u64,
}

impl Rollouts {
    /// Shows the figures.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "stoker_rollout_duration_seconds",
            "Time from the start of a run to its end, by outcome; of runs that went step by step. Where an earlier operator saw the start it is what the steps took at least",
            self.0.durations.clone(),
        );
        registry.register(
            "stoker_rollout_decision_seconds",
            "Time from the start of a look to the stored decision (until=stored) and to the written table (until=written), while a run or its guard is under way",
            self.0.decisions.clone(),
        );
        registry.register_collector(Box::new(shown::Shown(self.clone())));
    }

    /// A look that began at `began` has stored its decision.
    pub fn looked(&self, uid: &str, look: &Look<'_>, began: Instant, now: Instant) {
        // How soon is decided matters only while something is tried.
        if look.decision.state.tries() {
            let took = now.saturating_duration_since(began);
            self.0.decisions.get_or_create(&Until { until: "stored" }).record(took);
        }
        let mut known = self.known();
        let old = known.get(uid);
        self.count_ends(old, look, now);
        let new = Known::after(old, look, now);
        known.insert(uid.to_owned(), new);
    }

    /// The table of a state is written, so long after the look began.
    pub fn written(&self, state: &State, took: Duration) {
        if state.tries() {
            self.0.decisions.get_or_create(&Until { until: "written" }).record(took);
        }
    }

    /// Forgets a ModelDeployment that is gone.
    pub fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }

    /// Forgets all ModelDeployments but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.known().retain(|uid, _| uids.contains(uid));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the runs that ended in this look took.
    fn count_ends(&self, old: Option<&Known>, look: &Look<'_>, now: Instant) {
        let running = old.and_then(|old| old.run).or_else(|| Running::seen(None, look.before, now));
        for ended in look.decision.transitions.iter().filter(|transition| transition.reason.ends_run()) {
            // A return in the guard ends no run: that one was promoted.
            let run = running.filter(|run| run.number == ended.run && look.before.run.is_some());
            let Some(run) = run.filter(|run| run.stepwise) else { continue };
            let took = now.saturating_duration_since(run.began).as_secs_f64();
            self.0.durations.get_or_create(&Outcome { outcome: word(ended.reason) }).observe(took);
        }
    }
}

impl Known {
    fn after(old: Option<&Self>, look: &Look<'_>, now: Instant) -> Self {
        let Look { md, before, decision, examined, seen, replicas } = look;
        let is_verified = seen.unverified.is_none();
        let state = &decision.state;
        let main = state.main();
        let sizes = state.sizes(replicas);
        let serves = main.is_some_and(|main| sizes.get(main.as_str()).is_some_and(|size| *size > 0));
        let latency = md.spec.slo.latency.as_ref();
        Self {
            namespace: md.namespace().unwrap_or_default(),
            name: md.name_any(),
            looked_at: now,
            phase: md.status.as_ref().map(|status| status.phase).unwrap_or_default(),
            wanted: weights(state),
            verified: if is_verified {
                weights(before)
            } else {
                old.map(|old| old.verified.clone()).unwrap_or_default()
            },
            is_verified,
            reachable: serves.then_some(seen.unreachable.is_none()),
            pods: sizes
                .iter()
                .map(|(revision, size)| {
                    let ready = seen.pods.get(*revision).map_or(0, |pods| pods.ready);
                    ((*revision).to_owned(), (ready, *size))
                })
                .collect(),
            target: latency.map(|latency| (latency.target.into(), latency.percentile.as_str())),
            run: Running::seen(old.and_then(|old| old.run), state, now),
            guard_left: state.guard.as_ref().map(|guard| guard.lasts.saturating_sub(guard.spent)),
            held: why_held(look).map(|why| {
                // Why may change while it stands still: what counts is for how long for this reason.
                let before = old.and_then(|old| old.held).filter(|held| held.why == why);
                before.unwrap_or(Held { why, since: now })
            }),
            examined: examined.and_then(|examined| Figures::of(before, examined)),
            queued: seen.queued.is_some(),
            most: md
                .spec
                .scaling
                .as_ref()
                .filter(|scaling| scaling.is_ours())
                .map(|scaling| scaling.bounds().max),
        }
    }
}

impl Running {
    /// The run of a state; `known` is what the last look knew.
    fn seen(known: Option<Self>, state: &State, now: Instant) -> Option<Self> {
        let run = state.run.as_ref()?;
        let known = known.filter(|known| known.number == run.number);
        let stepwise = !run.direct && state.stable.is_some();
        let steps_before = run.plan.steps.iter().take(run.step.saturating_sub(1));
        let at_least = run.in_step + steps_before.filter_map(|step| step.lasts).sum::<Duration>();
        Some(Self {
            number: run.number,
            step: run.step,
            steps: run.plan.steps.len(),
            began: known.map_or_else(|| now.checked_sub(at_least).unwrap_or(now), |known| known.began),
            // Who is promoted in mid-run by request was a rollout until then.
            stepwise: stepwise || known.is_some_and(|known| known.stepwise),
        })
    }
}

impl Figures {
    fn of(state: &State, examined: &Examined) -> Option<Self> {
        let compared = state.compared()?;
        let finding = &examined.finding;
        let arm = |arm, revision, counts: &Counts| Arm {
            name: arm,
            revision,
            attempts: counts.attempts,
            errors: counts.errors,
            slow: counts.slow(finding.slow_above),
        };
        Some(Self {
            verdict: examined.verdict.word(),
            harm_log10: finding.harm_log10,
            alarm_log10: examined.alarm_log10,
            wanted: finding.wanted,
            arms: [
                arm("candidate", compared.revision, &finding.candidate),
                arm("stable", compared.control, &finding.stable),
            ],
        })
    }
}

/// Parts per million by revision. The candidate of a run is always among them, so that its line begins at 0.
fn weights(state: &State) -> BTreeMap<String, u32> {
    let mut weights: BTreeMap<String, u32> = state.run.iter().map(|run| (run.candidate.clone(), 0)).collect();
    weights.extend(state.traffic().arms.into_iter().map(|arm| (arm.revision, arm.ppm)));
    weights
}

/// What a run or its guard stands still for, if it does.
fn why_held(look: &Look<'_>) -> Option<&'static str> {
    let Decision { state, standing, .. } = look.decision;
    if *standing != Standing::Holding {
        return None;
    }
    let step = state.run.as_ref().and_then(|run| run.plan.step(run.step).filter(|_| !run.resumed));
    let fails = look.examined.is_some_and(|examined| examined.verdict.word() == reasons::FAIL);
    Some(match step {
        _ if fails => "Harm",
        _ if state.run.as_ref().is_some_and(|run| run.paused_by.is_some()) => "Paused",
        _ if short(look) => "Pods",
        _ if state.run.as_ref().is_some_and(|run| run.awaits.is_some()) => "Approval",
        Some(step) if step.lasts.is_none() => "Paused",
        _ if look.seen.frozen.is_some() => "Frozen",
        _ if look.seen.alerts.is_some_and(holds) => "Alert",
        _ => "Evidence",
    })
}

/// Whether an alert fires, or none can be read.
fn holds(alerts: &Alerts) -> bool {
    alerts.unreadable.is_some() || alerts.firing.iter().any(|concern| concern.action.is_some())
}

/// Whether pods of the candidate are waited for.
fn short(look: &Look<'_>) -> bool {
    let run = look.decision.state.run.as_ref();
    run.is_some_and(|run| look.seen.pods.get(&run.candidate).is_none_or(|pods| !pods.complete()))
}

/// Parts per million as a ratio.
fn ratio(ppm: u32) -> f64 {
    f64::from(ppm) / f64::from(WHOLE)
}

#[cfg(test)]
pub(crate) mod tests;
