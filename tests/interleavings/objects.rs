//! The objects of the API server that routers read: the table, and the pods behind it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use stoker_api::names::ports;
use stoker_api::route::{Cut, ModelRoute, ModelRouteSpec};
use stoker_router::table::slices::SERVICE_LABEL;

/// A ModelRoute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    pub version: u64,
    pub generation: i64,
    /// As JSON.
    pub spec: String,
    pub cuts: BTreeSet<(u64, String)>,
}

/// The pods of a revision: all that are wanted are ready as soon as that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scale {
    /// The version of its Deployment.
    pub version: u64,
    pub replicas: u32,
}

impl Table {
    pub fn spec(&self) -> ModelRouteSpec {
        serde_json::from_str(&self.spec).unwrap()
    }

    pub fn object(&self) -> ModelRoute {
        let cuts: Vec<Cut> = self.cuts.iter().map(|(run, revision)| new_cut(*run, revision)).collect();
        serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelRoute",
            "metadata": {"name": "m", "namespace": "team", "uid": "uid-r", "generation": self.generation},
            "spec": self.spec(), "status": {"cuts": cuts},
        }))
        .unwrap()
    }
}

pub fn new_cut(run: u64, revision: &str) -> Cut {
    let at = "2026-01-02T03:04:05Z";
    serde_json::from_value(
        json!({"run": run, "revision": revision, "because": "it failed", "by": "r", "at": at}),
    )
    .unwrap()
}

/// The EndpointSlices of all pods.
pub fn slices(pods: &BTreeMap<String, Scale>) -> Vec<EndpointSlice> {
    let slice = |(index, (revision, scale)): (usize, (&String, &Scale))| {
        let endpoints: Vec<_> = (0..scale.replicas)
            .map(|pod| json!({"addresses": [format!("10.0.{index}.{pod}")], "conditions": {"ready": true}}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": revision, "namespace": "team", "labels": {SERVICE_LABEL: revision}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": ports::DATA_NAME, "port": 8080}],
        }))
        .unwrap()
    };
    pods.iter().enumerate().map(slice).collect()
}
