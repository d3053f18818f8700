//! The status of a ModelDeployment: made from a decision (pure), written when it differs, with the version that was read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use stoker_api::ModelDeployment;
use stoker_api::deployment::status::to_millis;
use stoker_api::deployment::{
    AlertStatus, ArmEvidence, Evidence, MetricStatus, ModelDeploymentStatus, Outcome, Phase, Rollout,
    ScalingStatus,
};
use stoker_api::names::{conditions, labels, managers, parts, reasons};
use stoker_decide::alert::{self, Alerts};
use stoker_decide::evidence::Counts;
use stoker_decide::rollout::{Decision, Pods, Reason, Standing, State};
use stoker_decide::text::cut;

use super::conditions::Wanted;
use super::divergence::{Known, divergence, kstatus};
use super::events::word;
use crate::call::CallError;
use crate::context::Context;
use crate::controllers::deployment::evidence::Examined;
use crate::controllers::memory::Remembered;
use crate::observe::monitoring::Measured;

/// Runs that the history holds.
const HISTORY: usize = 10;
/// Longest message, in bytes.
const LONGEST: usize = 1024;
/// Longest message about one metric or alert, in bytes.
const LONGEST_DETAIL: usize = 512;
/// Alerts that are shown.
const ALERTS: usize = 10;
/// Live figures are written at most this often.
const LIVE: Duration = Duration::from_secs(15);

/// Everything that a status is made from, beside the old one.
pub struct Told<'a> {
    /// What was decided.
    pub decision: &'a Decision,
    /// What the routers' counts say, in a run or its guard.
    pub examined: Option<&'a Examined>,
    /// Hosts that the spec asks for and another ModelDeployment has.
    pub taken: &'a BTreeMap<String, String>,
    /// The spec's rollout, resolved.
    pub rollout: &'a Rollout,
    /// The name of the ModelDeployment.
    pub name: &'a str,
    /// The revision that the spec asks for.
    pub target: &'a str,
    /// Pods of the revision that has the traffic.
    pub main: Option<&'a Pods>,
    /// Why the last table is not served everywhere, if so.
    pub unverified: Option<&'a str>,
    /// Why no request gets to it, if so.
    pub unreachable: Option<&'a str>,
    /// The value of the request annotation that was handled, now or before.
    pub handled: Option<&'a str>,
    /// What the metrics of the user's own say.
    pub measured: &'a [Measured],
    /// The alerts that are declared, and which of them fire.
    pub alerts: Option<&'a Alerts>,
    /// What the scaler did; none where Stoker does not count the pods.
    pub scaling: Option<&'a ScalingStatus>,
    /// Pods by revision.
    pub pods: &'a BTreeMap<String, Pods>,
    /// Somebody else counts the pods.
    pub external: bool,
    /// What is said about the gateway; none where the spec names none.
    pub gateway: Option<&'a Wanted>,
    /// Wall time, for people.
    pub now: Time,
}

impl<'a> Told<'a> {
    /// What the divergence is told from.
    fn known(&self) -> Known<'a> {
        let Decision { state, standing, sentence, .. } = self.decision;
        Known { state, standing: *standing, sentence, target: self.target }
    }
}

/// The status after a decision.
pub fn compose(old: &ModelDeploymentStatus, generation: i64, told: &Told<'_>) -> ModelDeploymentStatus {
    let Told { decision, examined, target, main, unverified, handled, now, .. } = told;
    let mut status = old.clone();
    status.store(&decision.state, told.rollout);
    status.observed_generation = generation;
    status.target = Some((*target).to_owned());
    let sentence = match conflict(told.taken) {
        None => decision.sentence.clone(),
        Some(conflict) => format!("{conflict}; {}", decision.sentence),
    };
    cut(&sentence, LONGEST).clone_into(&mut status.message);
    status.phase = phase(told);
    status.ready = main.map(|pods| format!("{}/{}", pods.ready, pods.wanted));
    status.handled_request = handled.map(str::to_owned);
    status.scaling = told.scaling.cloned();
    status.metrics = told.measured.iter().map(metric).collect();
    status.alerts = alerts(told, &decision.state);
    for given in status.run.iter_mut().flat_map(|run| &mut run.approvals) {
        given.at.get_or_insert_with(|| now.clone());
    }
    (status.replicas, status.selector) = scale(told);
    if let Some(examined) = examined {
        let limit = to_millis(examined.finding.slow_above);
        status.verdict = Some(examined.verdict.word().to_owned());
        if let Some(run) = &mut status.run {
            run.slow_above_ms = limit;
            run.evidence = Some(evidence(examined));
        } else if let Some(guard) = &mut status.guard {
            guard.slow_above_ms = limit.or(guard.slow_above_ms);
            guard.evidence = Some(evidence(examined));
        }
    } else if status.run.is_some() || is_settled(told, old) {
        status.verdict = None;
    }
    for transition in decision.transitions.iter().filter(|transition| transition.reason.ends_run()) {
        // The last figures may have looked well when a crash ended the run, or nobody may have waited for any.
        let passed = examined.is_some_and(|examined| examined.verdict.word() == reasons::PASS);
        status.verdict = match transition.reason {
            Reason::RolledBack => Some(reasons::FAIL.to_owned()),
            Reason::Promoted if passed => Some(reasons::PASS.to_owned()),
            _ => None,
        };
        let outcome = Outcome {
            run: transition.run,
            revision: transition.revision.clone(),
            outcome: word(transition.reason).to_owned(),
            message: cut(&transition.message, LONGEST).to_owned(),
            at: now.clone(),
            approvals: old
                .run
                .as_ref()
                .filter(|run| run.number == transition.run)
                .map(|run| run.approvals.clone())
                .unwrap_or_default(),
        };
        status.history.insert(0, outcome);
    }
    status.history.truncate(HISTORY);
    status.divergence = divergence(&told.known(), old.divergence.as_ref(), now);
    let wanted = conditions(told, &status, *unverified);
    status.conditions = super::conditions::update(&old.conditions, wanted, generation, now);
    status
}

/// The status when the reconcile itself failed: all is kept but the sentence and what follows from it.
pub fn failed(
    old: &ModelDeploymentStatus,
    generation: i64,
    reason: &'static str,
    message: &str,
    now: &Time,
) -> ModelDeploymentStatus {
    let mut status = old.clone();
    cut(message, LONGEST).clone_into(&mut status.message);
    if reason == reasons::CONFLICTED {
        status.phase = Phase::Conflicted;
    } else if status.stable.is_none() || reason == reasons::INVALID_SPEC {
        status.phase = Phase::Degraded;
    }
    let mut conditions = status.conditions.clone();
    let wanted =
        |type_, status_| Wanted { type_, status: Some(status_), reason, message: status.message.clone() };
    let mut wanted = vec![wanted(conditions::PROGRESSING, false), wanted(conditions::STALLED, true)];
    let replaced: &[&str] = if [reasons::CONFLICTED, reasons::INVALID_SPEC].contains(&reason) {
        &[conditions::PROGRESSING, conditions::RECONCILING, conditions::STALLED]
    } else {
        // It is tried again by itself.
        wanted.pop();
        &[conditions::PROGRESSING]
    };
    conditions.retain(|condition| !replaced.contains(&condition.type_.as_str()));
    conditions.extend(super::conditions::update(&old.conditions, wanted, generation, now));
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    status.conditions = conditions;
    status
}

/// Writes a status if it says something new: at once for what matters, live figures only now and then. The write carries
/// the version that was read, so that a deposed leader's is refused. `md` has the new version and status afterwards.
pub async fn write(
    ctx: &Context,
    md: &mut ModelDeployment,
    memory: &mut Remembered,
    status: ModelDeploymentStatus,
) -> Result<(), CallError> {
    let old = md.status.clone().unwrap_or_default();
    let due = memory.written_at.is_none_or(|at| at.elapsed() >= LIVE);
    if status == old
        || (gist(&status) == gist(&old) && !(due && (status.run.is_some() || status.guard.is_some())))
    {
        return Ok(());
    }
    let name = md.name_any();
    let api: Api<ModelDeployment> = Api::namespaced(ctx.client.clone(), &md.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": ModelDeployment::api_version(&()),
        "kind": ModelDeployment::kind(&()),
        "metadata": {"name": name, "resourceVersion": md.resource_version()},
        "status": status,
    });
    let params = PatchParams::apply(managers::STATUS).force();
    let written = ctx
        .calls
        .make("patch ModelDeployment status", &name, api.patch_status(&name, &params, &Patch::Apply(&body)))
        .await?;
    // What follows in this look goes on from here.
    md.metadata.resource_version = written.metadata.resource_version;
    md.status.clone_from(&written.status);
    memory.written = written.status;
    memory.written_at = Some(Instant::now());
    ctx.metrics.status_written();
    Ok(())
}

/// A status without the figures that change with every look.
fn gist(status: &ModelDeploymentStatus) -> ModelDeploymentStatus {
    let mut gist = status.clone();
    gist.message = shape(&gist.message);
    for metric in &mut gist.metrics {
        (metric.value, metric.against) = (None, None);
        metric.message = shape(&metric.message);
    }
    for condition in &mut gist.conditions {
        condition.message = shape(&condition.message);
    }
    if let Some(divergence) = &mut gist.divergence {
        divergence.because = shape(&divergence.because);
    }
    if let Some(run) = &mut gist.run {
        run.step_seconds = 0;
        run.unready_seconds = 0;
        run.evidence = None;
    }
    if let Some(guard) = &mut gist.guard {
        guard.seconds = 0;
        guard.evidence = None;
    }
    if let Some(previous) = &mut gist.previous {
        previous.kept_seconds = 0;
    }
    gist
}

/// A sentence without its figures.
pub fn shape(message: &str) -> String {
    message.chars().filter(|c| !c.is_ascii_digit() && !matches!(c, '.' | '-')).collect()
}

/// What was found out about another revision says nothing any more: the spec returned to stable.
fn is_settled(told: &Told<'_>, old: &ModelDeploymentStatus) -> bool {
    let state = &told.decision.state;
    let failed = state.rejected.iter().any(|(revision, _)| revision == told.target);
    let quiet = state.run.is_none() && state.guard.is_none() && told.decision.transitions.is_empty();
    let of_another = old.history.first().is_some_and(|last| Some(&last.revision) != state.stable.as_ref());
    quiet && !failed && of_another && state.stable.as_deref() == Some(told.target)
}

fn phase(told: &Told<'_>) -> Phase {
    let state = &told.decision.state;
    if !told.taken.is_empty() {
        return Phase::Conflicted;
    }
    let Some(stable) = &state.stable else {
        return if told.decision.standing == Standing::Troubled { Phase::Degraded } else { Phase::Pending };
    };
    if state.run.is_some() {
        return Phase::Progressing;
    }
    if told.unreachable.is_some() || told.main.is_some_and(|pods| !pods.serve()) {
        return Phase::Degraded;
    }
    if stable == told.target {
        return Phase::Healthy;
    }
    let taken_back =
        state.pin.is_some() || state.rejected.iter().any(|(revision, _)| revision == told.target);
    match told.decision.standing {
        _ if taken_back => Phase::RolledBack,
        Standing::Troubled => Phase::Degraded,
        _ => Phase::Progressing,
    }
}

/// The pods of the revisions that have traffic, and what selects exactly these: for the scale subresource.
fn scale(told: &Told<'_>) -> (Option<u32>, Option<String>) {
    let traffic = told.decision.state.traffic();
    let served: Vec<&str> =
        traffic.arms.iter().filter(|arm| arm.ppm > 0).map(|arm| arm.revision.as_str()).collect();
    if served.is_empty() {
        return (None, None);
    }
    let there = served.iter().filter_map(|revision| told.pods.get(*revision)).map(|pods| pods.there).sum();
    let selector = format!(
        "{}={},{}={},{} in ({})",
        labels::DEPLOYMENT,
        told.name,
        labels::PART,
        parts::SERVER,
        labels::REVISION,
        served.join(",")
    );
    (Some(there), Some(selector))
}

/// The last measurement of a metric.
fn metric(measured: &Measured) -> MetricStatus {
    MetricStatus {
        name: measured.name.clone(),
        verdict: measured.verdict.word().to_owned(),
        value: measured.value.map(|value| value.to_string()),
        against: measured.against.map(|value| value.to_string()),
        message: cut(measured.verdict.because(), LONGEST_DETAIL).to_owned(),
        dry_run: measured.dry_run,
    }
}

/// Alerts that fire, those that do something first.
fn alerts(told: &Told<'_>, state: &State) -> Vec<AlertStatus> {
    let guard = state.guard.as_ref().map(|guard| &guard.known_alerts);
    let known = state.run.as_ref().map(|run| &run.known_alerts).or(guard);
    let firing = told.alerts.iter().flat_map(|alerts| &alerts.firing);
    let mut all: Vec<AlertStatus> = firing
        .map(|concern| {
            let before = known.is_some_and(|known| known.contains(&concern.key));
            let action = match concern.action.filter(|_| !before) {
                Some(alert::Action::Rollback) => "Rollback",
                Some(alert::Action::Hold) => "Hold",
                None => "Nothing",
            };
            let since = if before { ", since before the candidate had traffic" } else { "" };
            AlertStatus {
                alert: concern.alert.clone(),
                action: action.to_owned(),
                message: cut(&format!("{}{since}", concern.sentence), LONGEST_DETAIL).to_owned(),
            }
        })
        .collect();
    all.sort_by_key(|alert| alert.action == "Nothing");
    all.truncate(ALERTS);
    all
}

/// Hosts that somebody else has, as a sentence.
pub fn conflict(taken: &BTreeMap<String, String>) -> Option<String> {
    let (host, owner) = taken.iter().next()?;
    let more = taken.len() - 1;
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Some(format!(
        "host {host}{more} belongs to ModelDeployment {owner}, which had it first; change traffic.hosts of one of them"
    ))
}

fn evidence(examined: &Examined) -> Evidence {
    let finding = &examined.finding;
    let arm = |counts: &Counts| ArmEvidence {
        requests: counts.attempts,
        errors: counts.errors,
        slow: counts.slow(finding.slow_above),
        p99_ms: counts.latency.quantile(0.99).map(|p99| (p99.as_secs_f64() * 1e6).round() / 1e3),
    };
    Evidence {
        candidate: arm(&finding.candidate),
        stable: arm(&finding.stable),
        harm_log10: finding.harm_log10,
        alarm_log10: Some(examined.alarm_log10),
        compared: examined.agreement.map(|agreement| agreement.compared),
        agreed: examined.agreement.map(|agreement| agreement.agreed),
    }
}

fn conditions(told: &Told<'_>, status: &ModelDeploymentStatus, unverified: Option<&str>) -> Vec<Wanted> {
    let message = || status.message.clone();
    let state = &told.decision.state;
    let served = told.main.is_some_and(Pods::serve) && !state.is_between();
    let ready = state.stable.is_some() && served && told.unreachable.is_none();
    let taken_back = state.rejected.iter().find(|(revision, _)| revision == told.target);
    let pinned = state.pin.as_ref();
    let settled = taken_back.is_some() || pinned.is_some();
    // From the change of the spec on, also while the digest is being resolved.
    let progressing = state.run.is_some() || (!settled && state.stable.as_deref() != Some(told.target));
    let analysis = match told.examined.map(|examined| &examined.verdict) {
        Some(verdict) if state.tries() => {
            let passing = match verdict.word() {
                reasons::PASS => Some(true),
                reasons::FAIL => Some(false),
                _ => None,
            };
            (passing, verdict.word(), verdict.because().to_owned())
        }
        _ => (None, reasons::NO_RUN, "no candidate has traffic".to_owned()),
    };
    let back = match (taken_back, pinned) {
        (Some((_, because)), _) => (true, reasons::ROLLED_BACK, because.clone()),
        (None, Some(pin)) => (true, reasons::UNDONE, pin.because.clone()),
        (None, None) => (false, reasons::CONVERGED, "the spec's revision was not taken back".to_owned()),
    };
    let standing = match told.decision.standing {
        Standing::Serving => reasons::CONVERGED,
        Standing::Unready => reasons::STABLE_UNREADY,
        Standing::Moving => reasons::RUN_STARTED,
        Standing::Holding => reasons::HOLDING,
        Standing::Troubled => reasons::CANDIDATE_FAILED,
    };
    let ready_reason = if ready { reasons::CONVERGED } else { reasons::STABLE_UNREADY };
    // Ready is about clients inside of the cluster, and says so where it is not the same for those outside.
    let ready_message = match told.gateway.filter(|gateway| ready && gateway.status != Some(true)) {
        Some(_) => format!(
            "{}; that is for clients inside of the cluster: see {}",
            status.message,
            conditions::GATEWAY_READY
        ),
        None => message(),
    };
    let mut wanted = vec![
        Wanted {
            type_: conditions::ANALYSIS_PASSING,
            status: analysis.0,
            reason: analysis.1,
            message: analysis.2,
        },
        Wanted {
            type_: conditions::PROGRESSING,
            status: Some(progressing),
            reason: standing,
            message: message(),
        },
        Wanted {
            type_: conditions::READY,
            status: Some(ready),
            reason: ready_reason,
            message: ready_message,
        },
        Wanted { type_: conditions::ROLLED_BACK, status: Some(back.0), reason: back.1, message: back.2 },
        Wanted {
            type_: conditions::TRAFFIC_VERIFIED,
            status: Some(unverified.is_none()),
            reason: if unverified.is_none() { reasons::VERIFIED } else { reasons::UNVERIFIED },
            message: unverified.unwrap_or("all routers serve the table").to_owned(),
        },
    ];
    wanted.extend(told.gateway.cloned());
    wanted.extend(scaling(told));
    wanted.extend(kstatus(&told.known(), conflict(told.taken).as_deref()));
    wanted
}

/// Whether the number of pods follows the demand; nothing is said where it is fixed.
fn scaling(told: &Told<'_>) -> Option<Wanted> {
    let type_ = conditions::SCALING_ACTIVE;
    if told.external {
        let message = "another autoscaler writes spec.replicas through the scale subresource".to_owned();
        return Some(Wanted { type_, status: Some(true), reason: reasons::EXTERNAL, message });
    }
    let scaling = told.scaling?;
    let slow = scaling.revisions.iter().find_map(|known| Some((&known.revision, known.reachable_ms?)));
    let (status, reason, message) = if let Some(why) = &scaling.holds {
        (Some(false), reasons::SCALING_HOLDS, why.clone())
    } else if let Some((revision, reachable)) = slow {
        let message =
            format!("no number of pods keeps the latency target: {revision} can reach {reachable} ms");
        (Some(false), reasons::TARGET_UNREACHABLE, message)
    } else if scaling.asleep {
        let message = "no requests came; the next one brings the pods back".to_owned();
        (Some(true), reasons::SCALED_TO_ZERO, message)
    } else if scaling.revisions.first().is_none_or(|main| main.capacity_per_pod.is_none()) {
        let message = "too few requests came to learn what a pod carries; the number of pods stays as it is";
        (None, reasons::LEARNING, message.to_owned())
    } else {
        (Some(true), reasons::SCALED, "the number of pods follows the demand".to_owned())
    };
    Some(Wanted { type_, status, reason, message })
}

#[cfg(test)]
mod tests;
