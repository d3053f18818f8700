//! `ModelRouter`: the data plane of one namespace. Made by the operator when missing, so that a user need not know it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::deployment::Resources;

/// Settings of a namespace's routers.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "stoker.dev",
    version = "v1alpha1",
    kind = "ModelRouter",
    namespaced,
    derive = "PartialEq",
    category = "stoker",
    status = "ModelRouterStatus",
    doc = "The routers of one namespace. The operator makes one named stoker-router when the first ModelDeployment of the namespace appears, and removes it after the last one.",
    printcolumn(name = "REPLICAS", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "READY", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("self.metadata.name == 'stoker-router'", "a namespace has one ModelRouter; its name must be stoker-router")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouterSpec {
    /// How many routers run. At least 2, so that one may be lost or replaced at any time.
    #[schemars(range(min = 2, max = 100))]
    #[serde(default = "two")]
    pub replicas: u32,
    /// Requests and limits of a router pod.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Where the pods may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

impl Default for ModelRouterSpec {
    fn default() -> Self {
        Self { replicas: two(), resources: Resources::default(), node_selector: BTreeMap::new() }
    }
}

/// The least that survives the loss of one.
fn two() -> u32 {
    2
}

/// What the operator saw last.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouterStatus {
    /// The generation that this status belongs to.
    #[serde(default)]
    pub observed_generation: i64,
    /// Routers that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The image that the routers run.
    #[serde(default)]
    pub image: String,
    /// `Ready`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
