//! The answer: `ModelDeployment.status`. Written by the operator alone; intent is written here before its effect.
//!
//! Flat on purpose (a structural schema allows no tagged enums); the operator turns it into the state of
//! `stoker_decide::rollout` and back.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use stoker_decide::rollout;

use super::analysis::{AlertStatus, ApprovalStatus, MetricStatus};
use super::rollout::Rollout;
use super::scaling::ScalingStatus;

/// What the operator did and why.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status answers.
    #[serde(default)]
    pub observed_generation: i64,
    /// In one word.
    #[serde(default)]
    pub phase: Phase,
    /// In one sentence: what is going on, and the one thing that is waited for.
    #[serde(default)]
    pub message: String,
    /// `2/3` while a run is at its second of three steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Percent of the traffic that the candidate is meant to get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Pass, Fail, Inconclusive or Error, while a run is under way and after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Ready and wanted pods of stable, as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The revision that the spec asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The revision that has the traffic, or all of it but the candidate's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The revision that is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The revision before stable, while its pods are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// Number of the last run that was started; grows by one with each.
    #[serde(default)]
    pub runs: u64,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// The time after a promotion in which stable is still compared with the previous revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardStatus>,
    /// Revisions out of traffic whose last requests are awaited before their pods go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
    /// Revisions that were rolled back or aborted: not tried again until the spec changes or someone asks for `retry`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// An undo against the spec: the spec wants one revision, another one runs, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// What the spec wants and what runs instead, while these differ and no run leads to what the spec wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// What pods are counted by with `rollout.capacity: Proportional`; none: each revision has pods for the whole demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacityStatus>,
    /// Only one revision at a time has pods: the last run went by strategy Recreate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Seconds that stable's pods took to get ready, in the run that made it stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_seconds: Option<u64>,
    /// The last measurements of `rollout.analysis.metrics`, in a run and its guard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricStatus>,
    /// Alerts of `rollback.alerts` that fire, in a run and its guard, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertStatus>,
    /// What the scaler did, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// Pods of the revisions that have traffic, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// What selects exactly these pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// How the last runs ended, newest first, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Outcome>,
    /// The last value of the annotation `stoker.dev/request` that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_request: Option<String>,
    /// Ready, Progressing, AnalysisPassing, TrafficVerified, RolledBack, and ScalingActive with `spec.scaling`. Reconciling and
    /// Stalled are there only while they are true.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The state in one word.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing serves yet; the first revision is being prepared.
    #[default]
    Pending,
    /// A run is under way.
    Progressing,
    /// Stable is what the spec asks for, and serves.
    Healthy,
    /// Stable serves, but not what the spec asks for: that was rolled back, aborted or undone.
    RolledBack,
    /// Stable has no ready pods, or the spec cannot be carried out.
    Degraded,
    /// An object of a name that we need belongs to somebody else.
    Conflicted,
}

impl Phase {
    /// The word, as it stands in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Progressing => "Progressing",
            Self::Healthy => "Healthy",
            Self::RolledBack => "RolledBack",
            Self::Degraded => "Degraded",
            Self::Conflicted => "Conflicted",
        }
    }
}

/// The revision before stable.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Its name.
    pub revision: String,
    /// For how many seconds it has been kept since the promotion.
    #[serde(default)]
    pub kept_seconds: u64,
}

/// A run: one attempt to make a candidate stable.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Its number; a later run has a higher one.
    pub number: u64,
    /// Steps of this run, counted from 1; 0 while the candidate's pods are prepared.
    #[serde(default)]
    pub step: u32,
    /// No canary: the candidate is promoted as soon as it is ready (first revision, undo, `promote-full`).
    #[serde(default)]
    pub direct: bool,
    /// Seconds spent in this step, on a clock that does not jump.
    #[serde(default)]
    pub step_seconds: u64,
    /// The rollout that the spec asked for when the run started: the run goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Rollout>,
    /// Digest of that plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_digest: Option<String>,
    /// Digest of the plan in the spec, while that is another one; `repin` takes it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_drift: Option<String>,
    /// Seconds for which the candidate's pods have not been complete, in this step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unready_seconds: u64,
    /// Restarts of the candidate's pods before its first step; more of them are harm.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub restarts: u32,
    /// Someone asked for the end of the pause that the run is in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// The step is over, and pods for the candidate's next share are waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passed: bool,
    /// Approvals that were given, for the plan of this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalStatus>,
    /// What waits for an approval: `step 2`, or `promotion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<String>,
    /// Who paused the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<String>,
    /// The step that someone ended, while it still waits for an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u32>,
    /// Alerts that fired before the candidate had traffic, and still do: they count for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_alerts: Vec<String>,
    /// With strategy Recreate: `Leaving` while the pods of stable go, `Free` once the candidate's may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
    /// Seconds that the candidate's pods took to get ready, once they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_seconds: Option<u64>,
    /// The latency in milliseconds above which an answer counts against its revision, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_above_ms: Option<f64>,
    /// What the verdict was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// Whose pods have the room, where only one revision has any.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    /// Stable's.
    #[default]
    Taken,
    /// Nobody's: those of stable go.
    Leaving,
    /// The candidate's.
    Free,
}

impl From<Room> for rollout::Room {
    fn from(room: Room) -> Self {
        match room {
            Room::Taken => Self::Taken,
            Room::Leaving => Self::Leaving,
            Room::Free => Self::Free,
        }
    }
}

impl From<rollout::Room> for Room {
    fn from(room: rollout::Room) -> Self {
        match room {
            rollout::Room::Taken => Self::Taken,
            rollout::Room::Leaving => Self::Leaving,
            rollout::Room::Free => Self::Free,
        }
    }
}

/// The time after a promotion.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardStatus {
    /// The step that counts are kept under.
    pub step: u32,
    /// How many seconds it lasts.
    pub of_seconds: u64,
    /// How many of them are over, on a clock that does not jump.
    #[serde(default)]
    pub seconds: u64,
    /// Percent of the traffic that the previous revision keeps.
    #[serde(default)]
    pub holdback: u32,
    /// Restarts of stable's pods at the promotion; more of them are harm.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub restarts: u32,
    /// Alerts that fired before stable had any traffic, and still do: they count for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_alerts: Vec<String>,
    /// The latency in milliseconds above which an answer counts against its revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_above_ms: Option<f64>,
    /// What the verdict was made from; the candidate is stable, and its control the previous revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// A limit in milliseconds as a time; none where it is not known. To the nanosecond what was stored: the next operator must
/// judge by the same limit.
pub fn from_millis(stored: Option<f64>) -> Option<Duration> {
    let limit = Duration::try_from_secs_f64(stored? / 1e3).ok()?;
    (!limit.is_zero()).then_some(limit)
}

/// A limit as it is stored.
pub fn to_millis(limit: Option<Duration>) -> Option<f64> {
    limit.map(|limit| limit.as_secs_f64() * 1e3)
}

impl ModelDeploymentStatus {
    /// The latency above which an answer counts against its revision, in the run or the guard that is under way.
    pub fn slow_above(&self) -> Option<Duration> {
        let run = self.run.as_ref().and_then(|run| run.slow_above_ms);
        from_millis(run.or(self.guard.as_ref().and_then(|guard| guard.slow_above_ms)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_none_at_all(number: &u32) -> bool {
    *number == 0
}

/// What a verdict was made from: both arms over the whole run, and the detector's score.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The candidate's counts.
    pub candidate: ArmEvidence,
    /// Stable's counts over the same time.
    pub stable: ArmEvidence,
    /// Evidence of harm as a power of ten; the candidate is rolled back at `alarmLog10`.
    #[serde(default)]
    pub harm_log10: f64,
    /// Follows from the declared budget of false rollbacks and the length of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm_log10: Option<f64>,
    /// Pairs of answers to the same request that were compared in a shadow step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<u64>,
    /// Of these, the ones with the same labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<u64>,
}

/// Counts of one arm in a run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmEvidence {
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Of these, answered too slowly.
    pub slow: u64,
    /// 99th percentile of the latency, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// A revision that is not tried again by itself.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Its name.
    pub revision: String,
    /// Why, in a sentence with figures.
    pub because: String,
}

/// The user went back, against the spec.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// What runs.
    pub revision: String,
    /// What the spec asks for. When the spec asks for something else, the pin ends.
    pub instead_of: String,
    /// Why.
    pub because: String,
}

/// Git wants one revision, and another one runs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// The revision that the spec asks for.
    pub wants: String,
    /// The revision that runs, or that the run which is under way leads to.
    pub runs: String,
    /// In a word: `RolledBack` (or aborted), `Undone`, `CandidateFailed` (it cannot be started), `Holding` (it waits).
    pub reason: String,
    /// In a sentence, with figures.
    pub because: String,
    /// Since when, on the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// What pods are counted by.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapacityStatus {
    /// The shares that all routers were last seen to serve: pods for them stay until a lower one is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub served: Vec<ServedShare>,
    /// Traffic that goes back to stable as its pods get ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refill: Option<RefillStatus>,
    /// With `scaling.mode: External`: pods for the whole demand that there were once in the run. They grow only until it is over.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub least_replicas: u32,
}

/// The share of a revision.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedShare {
    /// Its name.
    pub revision: String,
    /// Percent of the traffic, copies included.
    pub percent: u32,
}

/// A way back that is under way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefillStatus {
    /// The revision that keeps what stable has no pods for yet.
    pub from: String,
    /// Percent of the traffic that it keeps at most.
    pub most: u32,
    /// Its bad answers, in parts per million.
    #[serde(default)]
    pub bad_ppm: u32,
}

/// How a run ended.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Its number.
    pub run: u64,
    /// The candidate.
    pub revision: String,
    /// A reason such as Promoted, RolledBack, Aborted, Superseded.
    pub outcome: String,
    /// The sentence.
    pub message: String,
    /// When, on the wall clock.
    pub at: Time,
    /// Approvals that were given in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_latency_survives_being_stored() {
        let limits = [1, 999, 899_999, 900_001, 1_900_123, 40_000_000, 123_456_789_123, 3_599_999_999_999];
        for limit in limits.map(Duration::from_nanos) {
            let run = RunStatus { slow_above_ms: to_millis(Some(limit)), ..RunStatus::default() };
            let back: RunStatus = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
            assert_eq!(from_millis(back.slow_above_ms), Some(limit));
        }
    }

    #[test]
    fn a_limit_that_cannot_be_is_unknown() {
        for stored in [None, Some(0.0), Some(-1.0), Some(f64::MAX), Some(f64::NAN)] {
            assert_eq!(from_millis(stored), None);
        }
    }
}
