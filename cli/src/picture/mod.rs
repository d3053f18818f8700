//! The picture of a ModelDeployment: all that its screens and JSON show, made from what was looked at. Pure.
//!
//! Its serialised form is the stable JSON of `get -o json`; docs/cli.md describes it. Fields are added, and none is renamed.

mod children;
mod gates;
mod hold;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use stoker_api::deployment::status::Room;
use stoker_api::deployment::{Evidence, ModelDeploymentStatus, Rollout, Strategy};
use stoker_api::names::annotations;
use stoker_api::{ModelDeployment, ModelRoute};

pub use children::{PodLine, Revision, Role};
pub use gates::{Alert, Approval, Gates, Metric, is_gated};
pub use hold::{Hold, Release};
pub use steps::{Place, Step, does, lasting};

use crate::trouble::Trouble;

/// What was looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The object as it is written.
    pub object: Value,
    /// The table that routers serve.
    pub route: Option<ModelRoute>,
    /// Deployments of its revisions.
    pub workloads: Vec<Deployment>,
    /// Pods of its revisions.
    pub pods: Vec<Pod>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
    /// When.
    pub now: Timestamp,
}

/// A ModelDeployment as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// For how many seconds it has been there.
    pub age_seconds: Option<i64>,
    /// The state in one word; `Pending` before the operator has said anything.
    pub phase: String,
    /// In one sentence, as the operator says it.
    pub message: String,
    /// Generation of the spec.
    pub generation: i64,
    /// The generation that phase, message and all else of the status speak of.
    pub observed_generation: i64,
    /// The revision that the spec asks for.
    pub target: Option<String>,
    /// `2/3` in a run.
    pub step: Option<String>,
    /// Percent of the traffic that the candidate is meant to get.
    pub weight: Option<u32>,
    /// Ready and wanted pods of stable, as the operator counts them.
    pub ready: Option<String>,
    /// Revisions that have pods, stable first.
    pub revisions: Vec<Revision>,
    /// The run that is under way.
    pub run: Option<Run>,
    /// The time after a promotion.
    pub guard: Option<Guard>,
    /// The verdict with its figures.
    pub verdict: Option<Verdict>,
    /// Metrics of the user's own.
    pub metrics: Vec<Metric>,
    /// Alerts that fire.
    pub alerts: Vec<Alert>,
    /// An undo against the spec.
    pub pin: Option<Pin>,
    /// Revisions that are not tried again by themselves.
    pub rejected: Vec<Rejected>,
    /// The last request by annotation.
    pub request: Option<Request>,
    /// The one thing that is waited for; none where nothing is.
    pub hold: Option<Hold>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its number.
    pub number: u64,
    /// Canary, `BlueGreen` or Recreate.
    pub strategy: Strategy,
    /// Whose pods have the room, with Recreate.
    pub room: Room,
    /// No canary: promoted as soon as it is ready.
    pub direct: bool,
    /// The step that it is at, counted from 1; 0 while pods are prepared.
    pub step: u32,
    /// All of them.
    pub steps: Vec<Step>,
    /// The promotion happens with an approval only.
    pub promotion: Option<Gate>,
    /// The guard that follows the promotion; none: it has none.
    pub then: Option<Guard>,
    /// Digest of the plan that it goes by.
    pub plan_digest: Option<String>,
    /// Digest of the spec's plan, where that is another one.
    pub plan_drift: Option<String>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// The gate whose approval is waited for: `step 2` or `promotion`.
    pub awaits: Option<String>,
    /// Approvals that were given.
    pub approvals: Vec<Approval>,
}

/// A place in the plan that is passed with an approval only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Who approved, where somebody has.
    pub approved_by: Option<String>,
}

/// The time after a promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// How many seconds it lasts.
    pub of_seconds: u64,
    /// How many are over.
    pub seconds: u64,
    /// Percent of the traffic that the previous revision keeps.
    pub holdback: u32,
}

/// A verdict with its figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Pass, Fail, Inconclusive or Error.
    pub word: String,
    /// The revision that is judged.
    pub of: String,
    /// The one that it is compared with.
    pub against: String,
    /// What it was made from, where that is known.
    pub evidence: Option<Evidence>,
    /// Milliseconds above which an answer counts against its revision.
    pub slow_above_ms: Option<f64>,
}

/// An undo against the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// What runs.
    pub revision: String,
    /// What the spec asks for.
    pub instead_of: String,
    /// Why.
    pub because: String,
}

/// A revision that is not tried again by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Its name.
    pub revision: String,
    /// Why.
    pub because: String,
}

/// A request by annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Verb, revision and nonce.
    pub value: String,
    /// Who asks.
    pub by: Option<String>,
    /// Whether the operator has handled it.
    pub handled: bool,
}

/// Reads a ModelDeployment.
pub fn read(object: &Value) -> Result<ModelDeployment, Trouble> {
    serde_json::from_value(object.clone()).map_err(|error| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
        Trouble::Unreadable { name: name.to_owned(), why: error.to_string() }
    })
}

/// An object as the API server sent it.
pub fn written(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The last request by annotation.
pub fn request(md: &ModelDeployment) -> Option<Request> {
    let annotations = md.metadata.annotations.as_ref()?;
    let value = annotations.get(annotations::REQUEST).filter(|value| !value.trim().is_empty())?;
    let handled = md.status.as_ref().and_then(|status| status.handled_request.as_ref());
    Some(Request {
        value: value.clone(),
        by: annotations.get(annotations::REQUESTED_BY).cloned(),
        handled: handled == Some(value),
    })
}

impl Picture {
    /// Makes the picture.
    pub fn of(look: &Look) -> Result<Self, Trouble> {
        let md = read(&look.object)?;
        let gates = Gates::of(&look.object);
        let status = md.status.clone().unwrap_or_default();
        let created = md.metadata.creation_timestamp.as_ref();
        let mut picture = Self {
            name: md.metadata.name.clone().unwrap_or_default(),
            namespace: md.metadata.namespace.clone().unwrap_or_default(),
            age_seconds: created.map(|since| look.now.as_second() - since.0.as_second()),
            phase: status.phase.as_str().to_owned(),
            message: status.message.clone(),
            generation: md.metadata.generation.unwrap_or_default(),
            observed_generation: status.observed_generation,
            target: status.target.clone(),
            step: status.step.clone(),
            weight: status.weight,
            ready: status.ready.clone(),
            revisions: children::revisions(&status, look),
            run: run(&status, &gates),
            guard: status.guard.as_ref().map(|guard| Guard {
                of_seconds: guard.of_seconds,
                seconds: guard.seconds,
                holdback: guard.holdback,
            }),
            verdict: verdict(&status),
            metrics: gates.metrics.clone(),
            alerts: gates.alerts.clone(),
            pin: status.pin.as_ref().map(|pin| Pin {
                revision: pin.revision.clone(),
                instead_of: pin.instead_of.clone(),
                because: pin.because.clone(),
            }),
            rejected: status
                .rejected
                .iter()
                .map(|one| Rejected { revision: one.revision.clone(), because: one.because.clone() })
                .collect(),
            request: request(&md),
            hold: None,
            notes: look.notes.clone(),
        };
        picture.hold = hold::of(&picture, &status);
        Ok(picture)
    }

    /// Whether the status speaks of an earlier generation of the spec.
    pub fn is_behind(&self) -> bool {
        self.observed_generation < self.generation
    }
}

fn run(status: &ModelDeploymentStatus, gates: &Gates) -> Option<Run> {
    let run = status.run.as_ref()?;
    Some(Run {
        number: run.number,
        strategy: run.plan.as_ref().map(Rollout::strategy).unwrap_or_default(),
        room: run.room.unwrap_or_default(),
        direct: run.direct,
        step: run.step,
        steps: steps::of(run, gates),
        promotion: gates.promotion.then(|| Gate { approved_by: gates.approver("promotion") }),
        then: run.plan.as_ref().map(Rollout::plan).filter(|plan| !plan.guard.is_zero()).map(|plan| Guard {
            of_seconds: plan.guard.as_secs(),
            seconds: 0,
            holdback: plan.holdback,
        }),
        plan_digest: run.plan_digest.clone(),
        plan_drift: run.plan_drift.clone(),
        paused_by: gates.paused_by.clone(),
        awaits: gates.awaits.clone(),
        approvals: gates.approvals.clone(),
    })
}

fn verdict(status: &ModelDeploymentStatus) -> Option<Verdict> {
    let stable = status.stable.clone();
    let (of, against, evidence) = match (&status.run, &status.guard) {
        (Some(run), _) => (status.candidate.clone(), stable, run.evidence.clone()),
        (None, Some(guard)) => {
            let previous = status.previous.as_ref().map(|previous| previous.revision.clone());
            (stable, previous, guard.evidence.clone())
        }
        // What is left of a run that is over is in the history.
        (None, None) => return None,
    };
    let word = status.verdict.clone()?;
    let slow_above_ms = status.slow_above().map(|limit| limit.as_secs_f64() * 1e3);
    Some(Verdict {
        word,
        of: of.unwrap_or_default(),
        against: against.unwrap_or_default(),
        evidence,
        slow_above_ms,
    })
}
