//! The wish: `ModelDeployment.spec`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::gateway::GatewayRef;
use super::rollout::{Capacity, Rollback, Rollout, Strategy};
use super::scaling::Scaling;
use super::status::ModelDeploymentStatus;
use crate::artifact::{DIGEST_PATTERN, ENCODED_DOTS_PATTERN, LONGEST_NAME, uri_pattern};
use crate::names::{ports, reasons};
use crate::route::{HeaderMatch, Unit};

/// How a model is served, and how a new version of it takes over.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "stoker.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    namespaced,
    derive = "PartialEq",
    shortname = "md",
    category = "stoker",
    status = "ModelDeploymentStatus",
    doc = "Serves a model and moves traffic to a new version of it step by step. A version that does harm is rolled back.",
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "STEP", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "WEIGHT", type_ = "integer", json_path = ".status.weight", description = "Percent of the traffic that the candidate gets."),
    printcolumn(name = "VERDICT", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.ready", description = "Ready pods of stable."),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "STABLE", type_ = "string", json_path = ".status.stable", priority = 1),
    printcolumn(name = "CANDIDATE", type_ = "string", json_path = ".status.candidate", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.message", priority = 1),
    validation = (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 40 characters, start with a letter and hold only a-z, 0-9 and -"
    ),
    validation = ("self.metadata.name != 'stoker-router'", "metadata.name stoker-router is taken by the namespace's routers"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.scaling) || self.scaling.mode != 'Latency' || (has(self.slo) && has(self.slo.latency))",
    "scaling needs slo.latency.target: it runs as few pods as keep it"
))]
#[x_kube(validation = (
    "!has(self.rollout.guard) || !has(self.rollout.guard.duration) || duration(self.rollout.guard.duration) <= duration(self.rollback.keepWarm)",
    "rollback.keepWarm must be at least as long as rollout.guard.duration: the guard needs the previous revision"
))]
pub struct ModelDeploymentSpec {
    /// Pods of each revision that has traffic. 0 stops serving. With `scaling` it is what the first revision starts with, or, in
    /// mode External, what the other autoscaler writes.
    #[schemars(range(max = 1000))]
    #[serde(default = "one")]
    pub replicas: u32,
    /// How many pods follow the demand. Without it there are always `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// The model. A change makes a new revision, which takes over by the steps of `rollout`.
    pub model: Model,
    /// How its pods run. A change makes a new revision.
    #[serde(default, skip_serializing_if = "Runtime::is_default")]
    pub runtime: Runtime,
    /// What users of the model are promised. A candidate that keeps it less often than stable is rolled back.
    #[serde(default)]
    pub slo: Slo,
    /// How requests reach the model.
    #[serde(default)]
    pub traffic: Traffic,
    /// How a new revision takes over.
    #[serde(default)]
    pub rollout: Rollout,
    /// What stays ready for a way back.
    #[serde(default)]
    pub rollback: Rollback,
}

impl ModelDeployment {
    /// Whether one can go back to a revision, if it is kept. Where a rollout wants approvals, only to what was promoted once: a way back
    /// waits for nobody.
    pub fn may_return_to(&self, revision: &str) -> bool {
        if !self.spec.rollout.plan().has_gates() {
            return true;
        }
        let status = self.status.iter();
        let runs = status.clone().flat_map(|status| &status.history);
        let promoted = runs.filter(|run| run.outcome == reasons::PROMOTED).map(|run| &run.revision);
        let previous = status.clone().flat_map(|status| &status.previous).map(|previous| &previous.revision);
        let stable = status.flat_map(|status| &status.stable);
        promoted
            .chain(previous)
            .chain(stable)
            .chain(&self.spec.rollback.known_good)
            .any(|known| known == revision)
    }
}

impl ModelDeploymentSpec {
    /// The rollout with all that follows from other parts of the spec.
    pub fn resolved_rollout(&self) -> Rollout {
        let mut rollout = self.rollout.resolved(&self.rollback);
        if self.is_counted_elsewhere() && rollout.strategy() != Strategy::Recreate {
            // Pods for everything twice would look like half of the load to whoever counts them.
            rollout.capacity = Capacity::Proportional;
        }
        rollout
    }

    /// Whether somebody else counts the pods, through the scale subresource.
    pub fn is_counted_elsewhere(&self) -> bool {
        self.scaling.as_ref().is_some_and(|scaling| !scaling.is_ours())
    }
}

/// Where the model is and what it must be.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// An ONNX file: `https://host/path`, `s3://bucket/key`, `gs://bucket/object`, `az://account/container/blob`, or, in the same
    /// namespace, `configmap://name/key` or `pvc://claim/path`.
    #[schemars(length(max = 2048))]
    #[x_kube(
        validation = Rule::new(format!("self.matches(r'{}')", uri_pattern()))
            .message("model.uri must be https://host/path, s3://bucket/key, gs://bucket/object, az://account/container/blob, configmap://name/key or pvc://claim/path, without empty parts, `.` or `..`"),
        validation = Rule::new(format!("!self.matches(r'{ENCODED_DOTS_PATTERN}')"))
            .message("model.uri: a part of its path is an encoded `.` or `..` (%2e)"),
        validation = Rule::new(format!("self.startsWith('http') || self.split('/').all(part, part.size() <= {LONGEST_NAME})"))
            .message("model.uri: a name in it has more than 253 characters")
    )]
    pub uri: String,
    /// SHA-256 of the file, as `sha256:<64 hex digits>`. Without it the first download decides, and the digest is pinned from
    /// then on. Pods serve nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(format!("self.matches('{DIGEST_PATTERN}')")).message("model.digest must be sha256: followed by 64 lower-case hex digits"))]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// A Secret of the same namespace for downloads. For http(s): key `token` is sent as a bearer token, keys `username` and
    /// `password` as basic authentication. For s3: `accessKeyId` and `secretAccessKey`, and where needed `sessionToken`, `region`
    /// (default us-east-1) and `endpoint` (default Amazon's). For gs: `serviceAccount`, the JSON of a service account's key. For
    /// az: `accountKey` or `sasToken`, and where needed `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret: Option<String>,
}

/// How the pods of a revision run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.args) || has(self.image)",
        "runtime.args are those of a server that is not Stoker's: runtime.image must name its image"
    ),
    validation = (
        "!has(self.ports) || has(self.args)",
        "runtime.ports are those of a server that is not Stoker's: runtime.args must be set, to [] if it takes none"
    )
)]
pub struct Runtime {
    /// The image of the pods. Without `args` it is a build of Stoker's inference server. Default: the one that belongs to the
    /// operator's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Arguments of another server: with them, and be it `[]`, the image is anything that speaks the Open Inference Protocol v2 over
    /// HTTP. Its pods get the model, verified, as the file `/mnt/models/<name of the file in model.uri>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub args: Option<Vec<String>>,
    /// Where another server listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<ServerPorts>,
    /// Requests and limits of the server container.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Where and as whom the pods run.
    #[serde(default, skip_serializing_if = "PodSettings::is_default")]
    pub pod: PodSettings,
}

impl Runtime {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a server that is not Stoker's listens.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerPorts {
    /// The port of the Open Inference Protocol over HTTP. Default 8080. A server that has gRPC on another one is reached over HTTP alone.
    #[serde(default = "default_server_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub http: u16,
}

fn default_server_port() -> u16 {
    ports::SERVER_DATA
}

/// Requests and limits of a container, by resource name: `{requests: {cpu: 500m}, limits: {memory: 1Gi}}`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler reserves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, ResourceQuantity>,
    /// What the pod may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, ResourceQuantity>,
}

/// A quantity as users write it: `2` or `"2"`, `500m`, `1Gi`. Kubernetes takes numbers above 32 bits too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResourceQuantity {
    /// Written as a number.
    Number(i64),
    /// Written as a string.
    Text(String),
}

impl From<&str> for ResourceQuantity {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&ResourceQuantity> for Quantity {
    /// `1` and `"1"` are the same quantity.
    fn from(value: &ResourceQuantity) -> Self {
        match value {
            ResourceQuantity::Number(number) => Self(number.to_string()),
            ResourceQuantity::Text(text) => Self(text.clone()),
        }
    }
}

impl JsonSchema for ResourceQuantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ResourceQuantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A quantity: a number, or a string such as 500m or 1Gi.",
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [{
                // As a string, since a value that may be either has no type of its own in a rule.
                "rule": "isQuantity(string(self)) && !string(self).startsWith('-')",
                "message": "resources: must be a quantity of at least 0, such as 2, 500m or 1Gi",
            }],
        })
    }
}

impl Resources {
    /// Nothing is set.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }

    /// As a container takes it, with `defaults` for the names that are set nowhere.
    #[must_use]
    pub fn to_container(&self, defaults: &Self) -> core::ResourceRequirements {
        type Quantities = BTreeMap<String, ResourceQuantity>;
        let quantities = |own: &Quantities, default: &Quantities| {
            let default = default.iter().filter(|(name, _)| !self.names(name));
            let merged: BTreeMap<_, _> =
                default.chain(own).map(|(name, value)| (name.clone(), value.into())).collect();
            (!merged.is_empty()).then_some(merged)
        };
        core::ResourceRequirements {
            requests: quantities(&self.requests, &defaults.requests),
            limits: quantities(&self.limits, &defaults.limits),
            claims: None,
        }
    }

    /// Whether the user said anything about a resource: then no default of ours may contradict it.
    fn names(&self, resource: &str) -> bool {
        self.requests.contains_key(resource) || self.limits.contains_key(resource)
    }
}

/// Where and as whom the pods of a revision run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// ServiceAccount of the pods. Default: the namespace's `default`, whose token is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub tolerations: Vec<Toleration>,
    /// Priority of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

impl PodSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A taint that the pods accept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
        "tolerations[] without a key must have the operator Exists"
    ),
    validation = (
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "tolerations[] with the operator Exists must have no value"
    )
)]
pub struct Toleration {
    /// Key of the taint; empty means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['Exists', 'Equal']", "tolerations[].operator must be Exists or Equal"))]
    #[schemars(length(max = 16))]
    pub operator: Option<String>,
    /// Value of the taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; empty means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = (
        "self in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']",
        "tolerations[].effect must be NoSchedule, PreferNoSchedule or NoExecute"
    ))]
    #[schemars(length(max = 16))]
    pub effect: Option<String>,
}

/// What users of the model are promised.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slo {
    /// How quickly answers come. Without it a candidate is measured against twice the p99 of stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// A latency target.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// The share of answers that the number of pods keeps within the target, as a percentile. Default p99.
    #[serde(default)]
    pub percentile: Percentile,
    /// An answer that takes longer counts against the revision that gave it, as an error does. Stoker's server batches for it, and
    /// under more load than it can carry refuses what it could not answer in time. For example `100ms`.
    #[x_kube(validation = ("duration(self) >= duration('1ms') && duration(self) <= duration('10m')", "slo.latency.target must be between 1ms and 10m"))]
    pub target: Duration,
}

/// A percentile of latencies.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Percentile {
    /// Half of the answers.
    P50,
    /// 90 of 100.
    P90,
    /// 95 of 100.
    P95,
    /// 99 of 100.
    #[default]
    P99,
}

impl Percentile {
    /// The word, as it stands in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }

    /// As a share.
    pub fn quantile(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }
}

/// How requests reach the model.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.gatewayRef) || (has(self.hosts) && self.hosts.size() > 0)",
        "traffic.gatewayRef needs traffic.hosts: a route without a host would take all hosts of the gateway"
    ),
    validation = (
        "!has(self.gatewayRef) || !has(self.gatewayRef.grpc) || !has(self.gatewayRef.grpc.hosts) || self.gatewayRef.grpc.hosts.all(h, has(self.hosts) && h in self.hosts)",
        "traffic.gatewayRef.grpc.hosts must be among traffic.hosts"
    )
)]
pub struct Traffic {
    /// Host names that reach the model, besides `<name>`, `<name>.<namespace>` and `<name>.<namespace>.svc...`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(validation = (
        "self.all(h, h.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",
        "traffic.hosts must be lower-case DNS names without a port"
    ))]
    pub hosts: Vec<String>,
    /// A gateway that takes requests to `hosts` from outside of the cluster. Weights stay in the routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ref: Option<GatewayRef>,
    /// What stays at one revision: all requests with the same value of a header, or all of one browser (a cookie). Such a unit
    /// moves from stable to the candidate once, as the weight grows, and never to and fro. Default: each request by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Unit>,
    /// Testers: a request with one of these headers goes to the candidate while there is one, at any weight from the first step
    /// on. What they do is no evidence.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub testers: Vec<HeaderMatch>,
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_takes_them_and_kept_as_they_were_written() {
        let written =
            json!({"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": 4_294_967_296_i64}});
        let resources: Resources = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&resources).unwrap(), written);
        let container = serde_json::to_value(resources.to_container(&Resources::default())).unwrap();
        assert_eq!(
            container,
            json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "4294967296"}})
        );
    }
}
