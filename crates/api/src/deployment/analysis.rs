//! What is asked of a monitoring system about a rollout: metrics of the user's own, and alerts; and what came of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration as StdDuration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::Duration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use stoker_decide::{alert, metric};

use crate::names::labels;

// Defaults of what stands in lists are not in the schema: tools that compare lists as a whole would see a difference for ever.
/// Between two measurements.
const INTERVAL: StdDuration = StdDuration::from_secs(10);
/// Measurements in a row.
const FAILURES: u32 = 3;
/// What is older is no measurement.
const MAX_AGE: StdDuration = StdDuration::from_mins(2);

/// The provider that is asked where none is named.
pub const DEFAULT_PROVIDER: &str = "prometheus";

/// A measure of the user's own, such as a conversion rate: the result of a `PromQL` query, with the bounds that it must keep.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.min) || has(self.max) || has(self.regression)",
    "rollout.analysis.metrics[]: give min, max or regression; without a bound nothing is judged"
), validation = (
    "!has(self.min) || !has(self.max) || double(self.min) <= double(self.max)",
    "rollout.analysis.metrics[]: min must not be above max"
), validation = (
    "!has(self.regression) || self.query.contains('$revision')",
    "rollout.analysis.metrics[]: with regression the query is asked for both revisions; write revision=\"$revision\" into it"
))]
pub struct Metric {
    /// What it is called in status, Events and messages.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = ("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')", "rollout.analysis.metrics[].name must hold only a-z, 0-9 and -"))]
    pub name: String,
    /// Which Prometheus is asked, by its name in the operator's configuration. Default: prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub provider: Option<String>,
    /// `PromQL` with one number as its result. `$revision` stands for the revision that is judged, `$stable` for the one that it is
    /// compared with, `$name` and `$namespace` for those of the ModelDeployment. Only series of its own namespace are read,
    /// whatever the query says.
    #[schemars(length(min = 1, max = 1024))]
    pub query: String,
    /// The value must not be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// The value must not be above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// The candidate's value against stable's at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Regression>,
    /// Time between two measurements. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s') && duration(self) <= duration('1h')", "rollout.analysis.metrics[].interval must be between 1s and 1h"))]
    pub interval: Option<Duration>,
    /// So many measurements in a row must break a bound before the candidate is taken back. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: Option<u32>,
    /// What is older than this is no measurement: the newest sample of the series that the query reads. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s') && duration(self) <= duration('24h')", "rollout.analysis.metrics[].maxAge must be between 1s and 24h"))]
    pub max_age: Option<Duration>,
    /// It is measured and shown, and decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// By how much the candidate's value may be worse than stable's.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Regression {
    /// Which way is worse.
    pub worse: Worse,
    /// Percent of stable's value.
    #[x_kube(validation = ("double(self) >= 0.0 && double(self) <= 10000.0", "rollout.analysis.metrics[].regression.percent must be between 0 and 10000"))]
    pub percent: Number,
}

/// Which way a value gets worse.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Worse {
    /// A higher value is worse, as of an error rate.
    Higher,
    /// A lower value is worse, as of a conversion rate.
    Lower,
}

/// A number of a custom resource, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(serde_json::Number);

impl Number {
    /// Its value. What JSON can hold and a 64-bit float cannot is not a number, and keeps no bound.
    pub fn value(&self) -> f64 {
        self.0.as_f64().unwrap_or(f64::NAN)
    }
}

impl From<i32> for Number {
    fn from(number: i32) -> Self {
        Self(number.into())
    }
}

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number"})
    }
}

/// An alert that concerns a rollout while it fires. It must carry the label `namespace` of the ModelDeployment's own.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.alert) || (has(self.labels) && self.labels.size() > 0)",
    "rollback.alerts[]: name the alert, or labels that it carries"
))]
pub struct AlertRule {
    /// Its name (the label `alertname`). Default: any that has the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub alert: Option<String>,
    /// Labels that it carries, all of them. Default: `model_deployment` with the name of this ModelDeployment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub labels: BTreeMap<String, String>,
    /// What it does while it fires and is not silenced: `Rollback` (default) in a run and in the guard after it, `Hold` in a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<AlertAction>,
    /// Which Prometheus is asked, by its name in the operator's configuration. Default: prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub provider: Option<String>,
}

/// What a firing alert does.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertAction {
    /// The candidate is taken back; in the guard, stable is.
    #[default]
    Rollback,
    /// The rollout stands still.
    Hold,
}

/// Whether somebody must say yes first.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Approval {
    /// Nothing goes on before someone asks for `approve`.
    Required,
}

/// The last measurement of a metric, and what it means.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricStatus {
    /// The metric.
    pub name: String,
    /// Pass, Fail, Inconclusive or Error.
    pub verdict: String,
    /// The candidate's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Stable's value, with `regression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// The verdict in a sentence.
    pub message: String,
    /// It decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// An alert that fires and concerns the rollout.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertStatus {
    /// Its name.
    pub alert: String,
    /// What it does: Rollback, Hold or, when it is silenced or fired before the candidate had traffic, Nothing.
    pub action: String,
    /// In a sentence.
    pub message: String,
}

/// Somebody said yes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    /// What may begin: `step 2`, or `promotion`.
    pub gate: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, on the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

impl Metric {
    /// Which provider is asked.
    pub fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(DEFAULT_PROVIDER)
    }

    /// Time between two measurements.
    pub fn interval(&self) -> StdDuration {
        self.interval.map_or(INTERVAL, StdDuration::from)
    }

    /// The bounds, as decisions are made by them.
    pub fn rule(&self) -> metric::Rule {
        let max_age = self.max_age.map_or(MAX_AGE, StdDuration::from);
        metric::Rule {
            min: self.min.as_ref().map(Number::value),
            max: self.max.as_ref().map(Number::value),
            regression: self.regression.as_ref().map(|regression| metric::Regression {
                higher_is_worse: regression.worse == Worse::Higher,
                percent: regression.percent.value(),
            }),
            failures: self.failures.unwrap_or(FAILURES),
            max_age,
            lasts: max_age.max(2 * self.interval()),
        }
    }
}

impl AlertRule {
    /// Which provider is asked.
    pub fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(DEFAULT_PROVIDER)
    }

    /// Which alerts it means, for the ModelDeployment of this name.
    pub fn rule(&self, name: &str) -> alert::Rule {
        let mut labels = self.labels.clone();
        if labels.is_empty() {
            labels.insert(labels::IN_METRICS.to_owned(), name.to_owned());
        }
        alert::Rule {
            alert: self.alert.clone(),
            labels,
            action: match self.action.unwrap_or_default() {
                AlertAction::Rollback => alert::Action::Rollback,
                AlertAction::Hold => alert::Action::Hold,
            },
        }
    }
}
