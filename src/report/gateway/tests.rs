//! Each thing that can be wrong with a gateway, and the sentence that says what to do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::build::gateway::routes;

/// A ModelDeployment that asks for Gateway infra/public, and everything as it is when all is well.
struct Case {
    md: ModelDeployment,
    wanted: Routes,
    view: View,
}

fn deployment(gateway: &Value) -> ModelDeployment {
    let traffic = json!({"hosts": ["digits.example", "grpc.digits.example"], "gatewayRef": gateway});
    serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "team", "uid": "ours"},
        "spec": {"model": {"uri": "configmap://m/m.onnx"}, "traffic": traffic},
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// The answer of a gateway that takes a route.
fn taken() -> Value {
    json!([
        condition("Accepted", "True", "Accepted", "ok"),
        condition("ResolvedRefs", "True", "ResolvedRefs", "ok")
    ])
}

/// A route as it was written, with an answer to its own reference.
fn written<K: serde::Serialize + serde::de::DeserializeOwned>(route: &K, conditions: &Value) -> Found<K> {
    let mut value = serde_json::to_value(route).unwrap();
    let reference = value["spec"]["parentRefs"][0].clone();
    value["metadata"]["generation"] = json!(3);
    let owner = json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "name": "digits", "uid": "ours"});
    value["metadata"]["ownerReferences"] = json!([owner]);
    value["status"] =
        json!({"parents": [{"parentRef": reference, "controllerName": "x/y", "conditions": conditions}]});
    Found::There(Box::new(serde_json::from_value(value).unwrap()))
}

fn gateway(conditions: &Value, listeners: &Value) -> Found<Gateway> {
    let object = json!({
        "metadata": {"name": "public", "namespace": "infra", "generation": 3},
        "spec": {"gatewayClassName": "contour"},
        "status": {"conditions": conditions, "listeners": listeners},
    });
    Found::There(Box::new(serde_json::from_value(object).unwrap()))
}

fn programmed(status: &str, reason: &str, message: &str) -> Value {
    json!([condition("Programmed", status, reason, message)])
}

impl Case {
    fn new(gateway_ref: &Value) -> Self {
        let md = deployment(gateway_ref);
        let wanted = routes(&md, &BTreeMap::new());
        let view = View {
            http: wanted.http.as_ref().map_or(Found::Absent, |route| written(route, &taken())),
            grpc: wanted.grpc.as_ref().map_or(Found::Absent, |route| written(route, &taken())),
            gateway: gateway(&programmed("True", "Programmed", ""), &json!([])),
        };
        Self { md, wanted, view }
    }

    fn well() -> Self {
        Self::new(&json!({"name": "public", "namespace": "infra"}))
    }

    /// The HTTPRoute has this answer.
    fn answered(mut self, conditions: &Value) -> Self {
        self.view.http = written(self.wanted.http.as_ref().unwrap(), conditions);
        self
    }

    #[track_caller]
    fn says(&self, status: Option<bool>, reason: &str, words: &[&str]) {
        let told = judge(&self.md, &self.wanted, Some(&self.view), None).unwrap();
        assert_eq!((told.status, told.reason), (status, reason), "{}", told.message);
        for word in words {
            assert!(told.message.contains(word), "{word:?} is not in: {}", told.message);
        }
    }
}

#[test]
fn all_is_well_when_routes_and_gateway_are_taken_as_they_are_now() {
    let words = ["digits.example, grpc.digits.example are served through Gateway infra/public"];
    Case::well().says(Some(true), reasons::GATEWAY_PROGRAMMED, &words);
    let apart = json!({"name": "public", "namespace": "infra", "grpc": {"hosts": ["grpc.digits.example"]}});
    Case::new(&apart).says(Some(true), reasons::GATEWAY_PROGRAMMED, &words);
}

#[test]
fn a_route_that_is_not_accepted_says_what_to_change() {
    let cases = [
        ("NoMatchingParent", "traffic.gatewayRef.sectionName and port, or leave both out"),
        ("NotAllowedByListeners", "allowedRoutes take HTTPRoutes from namespace team"),
        (
            "NoMatchingListenerHostname",
            "no listener has a hostname for digits.example, grpc.digits.example: change traffic.hosts",
        ),
        ("UnsupportedValue", "traffic.gatewayRef.requestTimeout"),
        ("Whatever", "see the documentation of the gateway's controller"),
    ];
    for (reason, advice) in cases {
        let answer = json!([
            condition("Accepted", "False", reason, "the controller's words."),
            condition("ResolvedRefs", "True", "ResolvedRefs", "ok"),
        ]);
        let words = [
            "Gateway infra/public does not take HTTPRoute digits",
            &format!("{reason} (the controller's words); "),
            advice,
        ];
        Case::well().answered(&answer).says(Some(false), reasons::ROUTE_NOT_ACCEPTED, &words);
    }
}

#[test]
fn a_route_that_leads_nowhere_or_holds_in_part_says_so() {
    let accepted = condition("Accepted", "True", "Accepted", "");
    let unresolved = |reason: &str| json!([accepted, condition("ResolvedRefs", "False", reason, "")]);
    let h2c = ["cannot follow HTTPRoute digits", "UnsupportedProtocol; ", "traffic.gatewayRef.grpc.hosts"];
    Case::well().answered(&unresolved("UnsupportedProtocol")).says(
        Some(false),
        reasons::ROUTE_NOT_RESOLVED,
        &h2c,
    );
    let gone = ["BackendNotFound", "has seen the Service"];
    Case::well().answered(&unresolved("BackendNotFound")).says(
        Some(false),
        reasons::ROUTE_NOT_RESOLVED,
        &gone,
    );
    let mut partial = taken();
    partial.as_array_mut().unwrap().push(condition(
        "PartiallyInvalid",
        "True",
        "UnsupportedValue",
        "a rule was dropped",
    ));
    let words = ["takes only a part of HTTPRoute digits", "a rule was dropped"];
    Case::well().answered(&partial).says(Some(false), reasons::ROUTE_NOT_ACCEPTED, &words);
}

#[test]
fn what_was_said_of_an_earlier_generation_or_another_listener_does_not_count() {
    let waits = ["no controller has answered for HTTPRoute digits as it is now"];
    let mut old = taken();
    old[0]["observedGeneration"] = json!(2);
    Case::well().answered(&old).says(None, reasons::GATEWAY_PENDING, &waits);
    let mut elsewhere = Case::well();
    if let Found::There(route) = &mut elsewhere.view.http {
        route.status.as_mut().unwrap().parents[0].parent_ref.section_name = Some("other".into());
    }
    elsewhere.says(None, reasons::GATEWAY_PENDING, &waits);
    Case::well().answered(&json!([])).says(None, reasons::GATEWAY_PENDING, &waits);
}

#[test]
fn routes_that_are_not_there_yet_or_not_as_they_should_be_are_waited_for() {
    let mut absent = Case::well();
    absent.view.http = Found::Absent;
    absent.says(None, reasons::GATEWAY_PENDING, &["HTTPRoute digits is not written yet"]);
    let mut edited = Case::well();
    if let Found::There(route) = &mut edited.view.http {
        route.spec.hostnames.push("another.example".into());
    }
    edited.says(None, reasons::GATEWAY_PENDING, &["HTTPRoute digits is being written"]);
    let mut mirrored = Case::well();
    if let Found::There(route) = &mut mirrored.view.http {
        route.spec.rules[0].filters.push(json!({"type": "RequestMirror"}));
    }
    mirrored.says(None, reasons::GATEWAY_PENDING, &["HTTPRoute digits is being written"]);
    let mut foreign = Case::well();
    if let Found::There(route) = &mut foreign.view.http {
        route.metadata.owner_references = None;
    }
    foreign.says(Some(false), reasons::CONFLICTED, &["HTTPRoute digits exists and is not ours; delete it"]);
    let mut unreadable = Case::well();
    unreadable.view.http = Found::Unreadable("forbidden".into());
    unreadable.says(None, reasons::GATEWAY_UNREADABLE, &["HTTPRoute digits cannot be read: forbidden"]);
}

#[test]
fn a_gateway_that_is_not_there_or_not_served_is_named() {
    let mut case = Case::well();
    // What was said of the route before does not hold any more.
    case.view.gateway = Found::Absent;
    let words = ["Gateway infra/public does not exist; make it, or change traffic.gatewayRef"];
    case.says(Some(false), reasons::GATEWAY_NOT_FOUND, &words);
    case.view.gateway = gateway(&programmed("False", "AddressNotAssigned", "no address is left"), &json!([]));
    let words = ["Gateway infra/public is not served: AddressNotAssigned (no address is left); its owner"];
    case.says(Some(false), reasons::GATEWAY_NOT_PROGRAMMED, &words);
    case.view.gateway = gateway(&json!([]), &json!([]));
    case.says(None, reasons::GATEWAY_PENDING, &["whether that of GatewayClass contour runs"]);
    case.view.gateway = Found::Unreadable("forbidden".into());
    case.says(None, reasons::GATEWAY_UNREADABLE, &["let the operator `get` gateways of that namespace"]);
}

#[test]
fn of_a_gateway_only_the_listener_counts_that_was_named() {
    let mut case = Case::new(&json!({"name": "public", "namespace": "infra", "sectionName": "web"}));
    let bad = programmed("False", "ListenersNotValid", "another listener is bad");
    let listener = |name: &str, status: &str| json!({"name": name, "conditions": programmed(status, "Invalid", "no certificate")});
    case.view.gateway = gateway(&bad, &json!([listener("web", "True"), listener("other", "False")]));
    case.says(Some(true), reasons::GATEWAY_PROGRAMMED, &[]);
    case.view.gateway = gateway(&programmed("True", "Programmed", ""), &json!([listener("web", "False")]));
    let words = ["listener web of Gateway infra/public is not served: Invalid (no certificate)"];
    case.says(Some(false), reasons::GATEWAY_NOT_PROGRAMMED, &words);
}

#[test]
fn a_cluster_without_the_gateway_api_says_what_to_install() {
    let mut case = Case::well();
    case.view = View { http: Found::NoApi, grpc: Found::NoApi, gateway: Found::NoApi };
    let words =
        ["the cluster has no HTTPRoute of gateway.networking.k8s.io/v1", "take traffic.gatewayRef away"];
    case.says(Some(false), reasons::GATEWAY_API_MISSING, &words);
    // An old one has no GRPCRoute, which is missed only where it is wanted.
    let mut old = Case::well();
    old.view.grpc = Found::NoApi;
    old.says(Some(true), reasons::GATEWAY_PROGRAMMED, &[]);
    let apart = json!({"name": "public", "namespace": "infra", "grpc": {"hosts": ["grpc.digits.example"]}});
    let mut old = Case::new(&apart);
    old.view.grpc = Found::NoApi;
    old.says(Some(false), reasons::GATEWAY_API_MISSING, &["no GRPCRoute", "from 1.1 on"]);
}

#[test]
fn hosts_that_all_belong_to_others_leave_no_route() {
    let mut case = Case::well();
    case.wanted = Routes::default();
    case.says(Some(false), reasons::CONFLICTED, &["all of traffic.hosts belong to other ModelDeployments"]);
}

#[test]
fn what_the_api_server_refused_is_told() {
    let case = Case::well();
    let refusal = (reasons::ROUTE_REFUSED, "apply HTTPRoute digits: forbidden".to_owned());
    let told = judge(&case.md, &case.wanted, Some(&case.view), Some(&refusal)).unwrap();
    assert_eq!((told.status, told.reason, told.message), (Some(false), refusal.0, refusal.1));
}

#[test]
fn without_a_gateway_in_the_spec_the_condition_stays_until_the_routes_are_gone() {
    let mut case = Case::well();
    case.md.spec.traffic.gateway_ref = None;
    let wanted = Routes::default();
    let told = judge(&case.md, &wanted, Some(&case.view), None).unwrap();
    assert_eq!((told.status, told.reason), (Some(false), reasons::ROUTE_LEAVING));
    assert_eq!(judge(&case.md, &wanted, Some(&View::default()), None), None);
    assert_eq!(judge(&case.md, &wanted, None, None), None);
    if let Found::There(route) = &mut case.view.http {
        route.metadata.owner_references = None;
    }
    assert_eq!(
        judge(&case.md, &wanted, Some(&case.view), None),
        None,
        "a route of somebody else is their affair"
    );
}
