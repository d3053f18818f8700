//! What a status says of approvals, pauses, metrics and alerts. Read from the object as it is written, field by field: an operator of
//! another release says less, or more.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An approval that was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Approval {
    /// `step 2` or `promotion`.
    pub gate: String,
    /// Who gave it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, on the wall clock.
    pub at: Option<String>,
}

/// A metric of the user's own, as it was measured last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// Its name in the spec.
    pub name: String,
    /// Pass, Fail, Inconclusive or Error.
    pub verdict: String,
    /// The candidate's value.
    pub value: Option<Value>,
    /// What it is held against: stable's value or a threshold.
    pub against: Option<Value>,
    /// Why, in a sentence.
    pub message: String,
    /// It is measured and decides nothing.
    pub dry_run: bool,
}

/// An alert that fires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Alert {
    /// Its name in Prometheus.
    pub alert: String,
    /// `Rollback` or `Hold`.
    pub action: String,
    /// Since when, on the wall clock.
    pub since: Option<String>,
    /// What it says.
    pub message: String,
}

/// What a status says of gates, and of what comes from Prometheus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gates {
    /// Which steps begin with an approval only, by index.
    pub steps: Vec<bool>,
    /// Whether the promotion needs one.
    pub promotion: bool,
    /// Approvals that were given.
    pub approvals: Vec<Approval>,
    /// The gate whose approval is waited for.
    pub awaits: Option<String>,
    /// Who paused the run.
    pub paused_by: Option<String>,
    /// Metrics.
    pub metrics: Vec<Metric>,
    /// Alerts.
    pub alerts: Vec<Alert>,
}

impl Gates {
    /// Reads them.
    pub fn of(object: &Value) -> Self {
        let at = |path: &str| object.pointer(path);
        let text = |path: &str| at(path).and_then(Value::as_str).map(str::to_owned);
        let steps = at("/status/run/plan/steps").and_then(Value::as_array);
        Self {
            steps: steps.map(|steps| steps.iter().map(is_gated).collect()).unwrap_or_default(),
            promotion: at("/status/run/plan").is_some_and(is_gated),
            approvals: list(at("/status/run/approvals")),
            awaits: text("/status/run/awaits"),
            paused_by: text("/status/run/pausedBy"),
            metrics: list(at("/status/metrics")),
            alerts: list(at("/status/alerts")),
        }
    }

    /// Who approved a gate.
    pub fn approver(&self, gate: &str) -> Option<String> {
        self.approvals.iter().find(|given| given.gate == gate).map(|given| given.by.clone())
    }
}

/// `approval: Required`.
pub fn is_gated(at: &Value) -> bool {
    at.get("approval").and_then(Value::as_str) == Some("Required")
}

/// The entries that can be read.
fn list<T: for<'a> Deserialize<'a>>(values: Option<&Value>) -> Vec<T> {
    let values = values.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(|value| T::deserialize(value).ok()).collect()
}
