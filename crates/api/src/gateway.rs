//! The Gateway API, as much of it as Stoker reads and writes: version v1 of `gateway.networking.k8s.io`.
//!
//! Written by hand, since only a few fields are needed. What a rule may hold and Stoker never writes is kept as JSON, so that
//! an addition by another hand is seen.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// What a Service's port is marked with where HTTP/2 without TLS is spoken.
pub const H2C: &str = "kubernetes.io/h2c";

/// Conditions and reasons that the specification names.
pub mod conditions {
    /// Of a route: the gateway takes it.
    pub const ACCEPTED: &str = "Accepted";
    /// Of a route: what it names is there.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Of a route: some of its rules do not hold.
    pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
    /// Of a gateway, and of each of its listeners: the data plane serves it.
    pub const PROGRAMMED: &str = "Programmed";
}

/// HTTP requests by host and path.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    derive = "PartialEq",
    status = "RouteStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteSpec {
    /// The gateways that it asks for.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Its hosts; without any, all hosts of the listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Where requests go.
    #[serde(default)]
    pub rules: Vec<HTTPRouteRule>,
}

/// gRPC calls by host and service.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GRPCRoute",
    plural = "grpcroutes",
    namespaced,
    derive = "PartialEq",
    status = "RouteStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct GRPCRouteSpec {
    /// The gateways that it asks for.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Its hosts; without any, all hosts of the listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Where calls go.
    #[serde(default)]
    pub rules: Vec<GRPCRouteRule>,
}

/// A gateway, or one listener of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group.
    #[serde(default = "group")]
    pub group: String,
    /// Kind.
    #[serde(default = "gateway")]
    pub kind: String,
    /// Namespace; without it that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Name of a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port of a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentReference {
    /// Whether two references mean the same, in a route of `namespace`.
    pub fn is_same(&self, other: &Self, namespace: &str) -> bool {
        let whole = |one: &Self| {
            let mut whole = one.clone();
            whole.namespace.get_or_insert_with(|| namespace.to_owned());
            whole
        };
        whole(self) == whole(other)
    }
}

/// Requests that match go to the backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteRule {
    /// Any of these.
    #[serde(default)]
    pub matches: Vec<HTTPMatch>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// How long they may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What happens to them on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Value>,
    /// Second tries of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Value>,
    /// What stays at one backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Value>,
}

/// What a request must be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HTTPMatch {
    /// Its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Its headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Value>,
    /// Its query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<Value>,
    /// Its method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathMatch {
    /// `Exact` or `PathPrefix`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path.
    pub value: String,
}

/// Times of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The whole request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// One try of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<String>,
}

/// Calls that match go to the backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GRPCRouteRule {
    /// Any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GRPCMatch>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// What happens to them on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Value>,
    /// What stays at one backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Value>,
}

/// What a call must be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GRPCMatch {
    /// Service and method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodMatch>,
    /// Its metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Value>,
}

/// A gRPC service, and a method of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodMatch {
    /// `Exact` or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method; without it all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// API group; empty for a Service.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service")]
    pub kind: String,
    /// Namespace; without it that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share beside other backends of the rule.
    #[serde(default = "one")]
    pub weight: u32,
    /// What happens to requests on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Value>,
}

/// What gateways say about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// For each gateway that it asks for, and each controller that answers.
    #[serde(default)]
    pub parents: Vec<RouteParentStatus>,
}

/// What a controller says about a route at one of its gateways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The gateway.
    pub parent_ref: ParentReference,
    /// Who says so.
    #[serde(default)]
    pub controller_name: String,
    /// What it says.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Where a cluster takes requests from outside.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    plural = "gateways",
    namespaced,
    derive = "PartialEq",
    status = "GatewayStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Which controller serves it.
    #[serde(default)]
    pub gateway_class_name: String,
}

/// What its controller says about a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// About all of it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// About each listener.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
}

/// What its controller says about a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// What it says.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn group() -> String {
    GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn service() -> String {
    "Service".to_owned()
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_sets_by_default_is_the_same_object() {
        let short = json!({"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": "digits", "port": 80}]}]});
        let long = json!({
            "parentRefs": [{"group": GROUP, "kind": "Gateway", "name": "public"}],
            "rules": [{"matches": [], "backendRefs": [{"group": "", "kind": "Service", "name": "digits", "port": 80, "weight": 1}]}],
        });
        let read = |value: Value| serde_json::from_value::<HTTPRouteSpec>(value).unwrap();
        assert_eq!(read(short), read(long.clone()));
        let mut mirrored = long;
        mirrored["rules"][0]["filters"] = json!([{"type": "RequestMirror"}]);
        assert_ne!(read(mirrored.clone()).rules[0].filters, [Value::Null; 0], "{mirrored}");
    }

    #[test]
    fn a_reference_without_namespace_means_that_of_the_route() {
        let read = |value: Value| serde_json::from_value::<ParentReference>(value).unwrap();
        let (here, named) =
            (read(json!({"name": "public"})), read(json!({"name": "public", "namespace": "team"})));
        assert!(here.is_same(&named, "team") && !here.is_same(&named, "infra"));
        let listener = read(json!({"name": "public", "sectionName": "web"}));
        assert!(!here.is_same(&listener, "team"), "one listener is not the whole gateway");
    }
}
