//! A picture of a namespace: all objects of the kinds that the operator makes or has made, without what differs between two runs
//! that are the same: uids, versions, times, figures, random suffixes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Map, Value, json};
use stoker_api::names::annotations;

/// Group, version, kind.
const KINDS: [(&str, &str, &str); 14] = [
    ("stoker.dev", "v1alpha1", "ModelDeployment"),
    ("stoker.dev", "v1alpha1", "ModelRoute"),
    ("stoker.dev", "v1alpha1", "ModelRouter"),
    ("apps", "v1", "ControllerRevision"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Secret"),
    ("", "v1", "ServiceAccount"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
];

/// Objects by kind and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture(BTreeMap<String, Value>);

impl Picture {
    /// Takes the picture of a namespace.
    pub async fn take(client: &Client, namespace: &str) -> Result<Self> {
        let kinds = KINDS.into_iter().map(|(group, version, kind)| async move {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let list = api.list(&ListParams::default()).await.with_context(|| format!("listing {kind}"))?;
            anyhow::Ok((kind, list.items))
        });
        let kinds = try_join_all(kinds).await?;
        let uids: Vec<String> =
            kinds.iter().flat_map(|(_, items)| items).filter_map(kube::ResourceExt::uid).collect();
        let mut picture = Self::default();
        for (kind, items) in kinds {
            for item in items {
                picture.add(kind, &item, namespace, &uids);
            }
        }
        Ok(picture)
    }

    /// Whether an object is on its way out: it says so, or its owner is gone and the garbage collector has not come yet.
    pub fn is_moving(&self) -> bool {
        let lost = |owner: &Value| owner.as_str().is_some_and(|owner| !self.0.contains_key(owner));
        let owners =
            |object: &Value| object["owners"].as_array().is_some_and(|owners| owners.iter().any(lost));
        self.0.values().any(|object| object["going"] == true || owners(object))
    }

    /// Adds something that is no object.
    pub fn note(&mut self, what: &str, value: Value) {
        self.0.insert(what.to_owned(), value);
    }

    fn add(&mut self, kind: &str, object: &DynamicObject, namespace: &str, uids: &[String]) {
        let given = object.metadata.generate_name.clone();
        // A pod's random suffix. That of a ReplicaSet is a hash of its template, and must be the same.
        let name =
            given.filter(|_| kind != "ReplicaSet").map_or(object.name_any(), |stem| format!("{stem}*"));
        let uids = uids.iter().map(|uid| (uid.as_str(), "UID"));
        let names: Vec<(&str, &str)> = std::iter::once((namespace, "NAMESPACE")).chain(uids).collect();
        let mut value = normal(kind, object);
        rename(&mut value, &names);
        // Equal pods of one ReplicaSet: each counts.
        let key = format!("{kind}/{}", name.replace(namespace, "NAMESPACE"));
        let mut number = 1;
        let mut place = key.clone();
        while self.0.contains_key(&place) {
            number += 1;
            place = format!("{key}#{number}");
        }
        self.0.insert(place, value);
    }

    /// What differs, a line for each place, at most `most` lines. Empty when nothing does.
    pub fn differences(&self, other: &Self, most: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let (own, others) = (json!(self.0), json!(other.0));
        compare("", &own, &others, &mut lines);
        lines.truncate(most);
        lines
    }
}

/// Puts other names in the place of those that the cluster handed out, in every text.
fn rename(value: &mut Value, names: &[(&str, &str)]) {
    match value {
        Value::String(text) => {
            for (name, other) in names.iter().filter(|(name, _)| !name.is_empty()) {
                if text.contains(name) {
                    *text = text.replace(name, other);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Walks both values and names the places where they differ.
fn compare(place: &str, wanted: &Value, found: &Value, lines: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let names: std::collections::BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
            for name in names {
                let (wanted, found) = (wanted.get(name), found.get(name));
                let place = format!("{place}/{name}");
                match (wanted, found) {
                    (Some(wanted), Some(found)) => compare(&place, wanted, found, lines),
                    (Some(_), None) => lines.push(format!("{place}: is missing")),
                    (None, Some(found)) => lines.push(format!("{place}: is too much: {}", brief(found))),
                    (None, None) => {}
                }
            }
        }
        _ if wanted == found => {}
        _ => lines.push(format!("{place}: {} instead of {}", brief(found), brief(wanted))),
    }
}

fn brief(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

/// An object without what differs between equal runs.
fn normal(kind: &str, object: &DynamicObject) -> Value {
    let metadata = &object.metadata;
    let owners = metadata.owner_references.iter().flatten();
    let owners: Vec<String> = owners.map(|owner| format!("{}/{}", owner.kind, owner.name)).collect();
    let mut own = metadata.annotations.clone().unwrap_or_default();
    // A digest over the owner's uid among others, and what the endpoints' controller notes for itself.
    own.remove(annotations::APPLIED);
    own.retain(|name, _| !name.starts_with("endpoints.kubernetes.io/"));
    let mut kept = json!({
        "labels": metadata.labels,
        "annotations": own,
        "owners": owners,
        "finalizers": metadata.finalizers,
        "going": metadata.deletion_timestamp.is_some(),
    });
    let data = &object.data;
    match kind {
        "ModelDeployment" => {
            kept["spec"] = data["spec"].clone();
            kept["status"] = status(&data["status"]);
        }
        "ModelRouter" => {
            kept["spec"] = data["spec"].clone();
            kept["conditions"] = conditions(&data["status"]["conditions"]);
        }
        "ControllerRevision" => {
            kept["data"] = data["data"].clone();
            kept["revision"] = data["revision"].clone();
        }
        "Deployment" | "ReplicaSet" => {
            kept["spec"] = data["spec"].clone();
            for count in ["replicas", "readyReplicas", "updatedReplicas"] {
                kept[count] = data["status"][count].clone();
            }
        }
        "Pod" => kept["phase"] = data["status"]["phase"].clone(),
        "Secret" => {
            let keys = data["data"].as_object().map(Map::keys).into_iter().flatten();
            kept["keys"] = keys.cloned().collect();
        }
        "EndpointSlice" => {
            let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] == true;
            let endpoints = data["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
            kept["ready"] = json!(endpoints.iter().filter(ready).count());
            kept["endpoints"] = json!(endpoints.len());
            kept["ports"] = data["ports"].clone();
        }
        "Service" => {
            kept["spec"] = data["spec"].clone();
            if let Some(spec) = kept["spec"].as_object_mut() {
                // Headless stays headless; other addresses are handed out.
                for addresses in ["clusterIP", "clusterIPs"] {
                    let headless =
                        spec.get(addresses).is_some_and(|value| value.to_string().contains("None"));
                    spec.insert(addresses.to_owned(), json!(headless));
                }
            }
        }
        _ => {
            let fields = data.as_object().into_iter().flatten();
            let fields = fields.filter(|(name, _)| *name != "status" && *name != "secrets");
            kept["rest"] =
                fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into();
        }
    }
    kept
}

/// The status of a ModelDeployment without times and figures.
fn status(status: &Value) -> Value {
    let mut kept = status.clone();
    let Some(fields) = kept.as_object_mut() else { return kept };
    fields.insert("conditions".to_owned(), conditions(&status["conditions"]));
    shape_in(fields, "message");
    // How long its pods took, which an operator that was away sees later.
    fields.remove("readySeconds");
    for (list, sentence) in [("history", "message"), ("rejected", "because")] {
        for entry in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("at");
                shape_in(entry, sentence);
            }
        }
    }
    if let Some(divergence) = fields.get_mut("divergence").and_then(Value::as_object_mut) {
        divergence.remove("since");
        shape_in(divergence, "because");
    }
    if let Some(previous) = fields.get_mut("previous").and_then(Value::as_object_mut) {
        previous.remove("keptSeconds");
    }
    if let Some(run) = fields.get_mut("run").and_then(Value::as_object_mut) {
        run.retain(|name, _| ["number", "step", "direct"].contains(&name.as_str()));
    }
    kept
}

/// Conditions by type, without times.
fn conditions(conditions: &Value) -> Value {
    let mut by_type = Map::new();
    for condition in conditions.as_array().into_iter().flatten() {
        let message = shape(condition["message"].as_str().unwrap_or_default());
        let kept = json!({"status": condition["status"], "reason": condition["reason"], "message": message});
        by_type.insert(condition["type"].as_str().unwrap_or_default().to_owned(), kept);
    }
    Value::Object(by_type)
}

fn shape_in(fields: &mut Map<String, Value>, name: &str) {
    if let Some(Value::String(sentence)) = fields.get_mut(name) {
        *sentence = shape(sentence);
    }
}

/// A sentence without its figures and without the evidence: how strong that was, and which router or whether the operator saw it
/// first, differs from run to run.
fn shape(sentence: &str) -> String {
    let evidence = sentence.find("candidate failed").zip(sentence.rfind(')')).filter(|(from, to)| from < to);
    let told = match evidence {
        Some((from, to)) => format!("{}EVIDENCE{}", &sentence[..from], &sentence[to + 1..]),
        None => sentence.to_owned(),
    };
    told.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, value: Value) -> DynamicObject {
        let mut value = value;
        value["kind"] = json!(kind);
        serde_json::from_value(value).unwrap()
    }

    fn picture(kind: &str, objects: &[Value], namespace: &str) -> Picture {
        let mut picture = Picture::default();
        for value in objects {
            let object = object(kind, value.clone());
            let uids: Vec<String> = object.uid().into_iter().collect();
            picture.add(kind, &object, namespace, &uids);
        }
        picture
    }

    fn route(namespace: &str, uid: &str, ppm: u32) -> Value {
        json!({
            "apiVersion": "stoker.dev/v1alpha1",
            "metadata": {"name": "digits", "namespace": namespace, "uid": uid, "resourceVersion": uid, "generation": ppm},
            "spec": {"rules": [{"salt": format!("{uid}/2"), "arms": [{"revision": "digits-a", "ppm": ppm}]}]},
        })
    }

    #[test]
    fn what_the_cluster_hands_out_makes_no_difference() {
        let (one, other) = (
            picture("ModelRoute", &[route("a-1", "u1", 1)], "a-1"),
            picture("ModelRoute", &[route("b-2", "u2", 1)], "b-2"),
        );
        assert_eq!(one, other);
        assert!(one.differences(&other, 10).is_empty());
    }

    #[test]
    fn a_weight_a_missing_object_and_one_too_many_are_differences() {
        let one = picture("ModelRoute", &[route("team-1", "u1", 1)], "team-1");
        let other = picture("ModelRoute", &[route("team-1", "u1", 2)], "team-1");
        let lines = one.differences(&other, 10);
        assert!(lines.len() == 1 && lines[0].contains("ModelRoute/digits/rest/spec/rules"), "{lines:?}");
        let none = Picture::default();
        assert!(one.differences(&none, 10)[0].contains("is missing"));
        assert!(none.differences(&one, 10)[0].contains("is too much"));
    }

    #[test]
    fn what_the_garbage_collector_has_not_taken_yet_is_on_its_way_out() {
        let owner = json!({"apiVersion": "v1", "metadata": {"name": "team-1-owner"}});
        let child = json!({"apiVersion": "v1", "metadata": {"name": "child", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Service", "name": "team-1-owner", "uid": "u"},
        ]}});
        assert!(!picture("Service", &[owner, child.clone()], "team-1").is_moving());
        assert!(picture("Service", &[child], "team-1").is_moving());
    }

    #[test]
    fn pods_are_counted_though_their_names_are_random() {
        let pod = |suffix: &str| json!({"apiVersion": "v1", "metadata": {"name": format!("d-{suffix}"), "generateName": "d-"}, "status": {"phase": "Running"}});
        let two = picture("Pod", &[pod("x"), pod("y")], "team-1");
        assert_eq!(two, picture("Pod", &[pod("z"), pod("q")], "team-1"));
        assert_eq!(two.differences(&picture("Pod", &[pod("x")], "team-1"), 10).len(), 1);
    }

    #[test]
    fn a_status_is_compared_without_times_and_figures_but_with_outcomes() {
        let status = |at: &str, figure: u32, outcome: &str| {
            json!({"apiVersion": "stoker.dev/v1alpha1", "metadata": {"name": "digits"}, "spec": {}, "status": {
                "phase": "RolledBack", "message": format!("failed {figure} of 90"),
                "history": [{"run": 2, "outcome": outcome, "message": format!("failed {figure} of 90"), "at": at}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Converged", "message": "", "lastTransitionTime": at}],
                "previous": {"revision": "a", "keptSeconds": figure}, "readySeconds": figure,
            }})
        };
        let of = |value: Value| picture("ModelDeployment", &[value], "ns");
        let one = of(status("t1", 3, "RolledBack"));
        assert_eq!(one, of(status("t2", 44, "RolledBack")));
        assert_ne!(one, of(status("t1", 3, "Promoted")));
    }
}
