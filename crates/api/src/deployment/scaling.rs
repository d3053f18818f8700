//! How many pods: `ModelDeployment.spec.scaling`, and what came of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stoker_decide::autoscale;

use super::spec::Slo;
use super::status::is_zero;

/// How many pods revisions have.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.mode != 'Latency' || has(self.maxReplicas)",
        "scaling.maxReplicas must be set: it is what the cluster can bear"
    ),
    validation = (
        "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        "scaling.minReplicas must not be above scaling.maxReplicas"
    ),
    validation = (
        "self.mode != 'External' || !(has(self.maxReplicas) || has(self.scaleToZeroAfter) || has(self.behavior) || self.minReplicas != 1)",
        "scaling.mode External leaves the number of pods to another autoscaler: its own bounds hold, and nothing else may be set here"
    )
)]
pub struct Scaling {
    /// Who counts the pods. `Latency` (default): Stoker, as few as keep `slo.latency`. `External`: whoever writes `spec.replicas`
    /// through the scale subresource, such as a HorizontalPodAutoscaler or KEDA.
    #[serde(default)]
    pub mode: ScalingMode,
    /// The fewest pods of a revision while it serves. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: u32,
    /// The most pods of a revision. A run has two revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<u32>,
    /// Without a request for this long there are no pods at all. The next request is held by the router and brings them back.
    /// Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('10s') && duration(self) <= duration('720h')", "scaling.scaleToZeroAfter must be between 10s and 720h"))]
    pub scale_to_zero_after: Option<Duration>,
    /// How quickly pods go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
}

/// Who counts the pods.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScalingMode {
    /// Stoker, as few as keep the latency target.
    #[default]
    Latency,
    /// Somebody else, through the scale subresource.
    External,
}

/// How quickly pods go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// Pods go when they were not needed for this long. Default 5m.
    #[serde(default = "default_down_window")]
    #[x_kube(validation = ("duration(self) >= duration('10s') && duration(self) <= duration('24h')", "scaling.behavior.scaleDownWindow must be between 10s and 24h"))]
    pub scale_down_window: Duration,
}

fn one() -> u32 {
    1
}

fn default_down_window() -> Duration {
    Duration::from(std::time::Duration::from_mins(5))
}

impl Scaling {
    /// Whether Stoker counts the pods.
    pub fn is_ours(&self) -> bool {
        self.mode == ScalingMode::Latency
    }

    /// What the user allows.
    pub fn bounds(&self) -> autoscale::Bounds {
        let behavior =
            self.behavior.as_ref().map_or_else(default_down_window, |behavior| behavior.scale_down_window);
        autoscale::Bounds {
            min: self.min_replicas.max(1),
            max: self.max_replicas.unwrap_or(self.min_replicas).max(1),
            zero_after: self.scale_to_zero_after.map(Into::into),
            down_window: behavior.into(),
        }
    }
}

impl Slo {
    /// What users are promised; none where no target is set.
    pub fn aim(&self) -> Option<autoscale::Aim> {
        let latency = self.latency.as_ref()?;
        Some(autoscale::Aim { quantile: latency.percentile.quantile(), target: latency.target.into() })
    }
}

/// What the scaler did, and why.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Why the number of pods may not change now: signals are missing or contradict each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// There are no pods, because there were no requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asleep: bool,
    /// How often that was so; grows by one each time. A router wakes the model by this number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sleeps: u64,
    /// How long it took from the last wake to the first ready pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start_seconds: Option<f64>,
    /// How long new pods take to get ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<f64>,
    /// By revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub revisions: Vec<RevisionScaling>,
}

/// The size of one revision as it was decided last, with the figures that it was decided from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionScaling {
    /// Its name.
    pub revision: String,
    /// Pods that it needs for the whole demand.
    pub replicas: u32,
    /// The rule: Start, Demand, Growth, Latency, Quiet, Bounds, Idle or Wake.
    pub rule: String,
    /// Why, in a sentence.
    pub because: String,
    /// Requests per second that counted.
    #[serde(default)]
    pub demand_per_second: f64,
    /// The window that they were seen in.
    #[serde(default)]
    pub window_seconds: f64,
    /// Requests per second that a pod carries within the target; none while nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_per_pod: Option<f64>,
    /// The latency percentile of the last minute, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// The percentile that can be reached, where the target is below it however many pods there are, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_ms: Option<f64>,
    /// Percent of the capacity that the demand uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
    /// When it last changed, on the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
