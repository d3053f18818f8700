//! Routes from the user's gateway to a model (no client): a pure function of the spec.
//!
//! They lead to the Service of the ModelDeployment, which means to the routers, and never to pods of a revision: weights are
//! the routers' alone. HTTPRoute and GRPCRoute have no host in common, since the Gateway API has a gateway refuse one of two
//! that do.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use stoker_api::ModelDeployment;
use stoker_api::deployment::GatewayRef;
use stoker_api::gateway::{
    BackendRef, GROUP, GRPCMatch, GRPCRoute, GRPCRouteRule, GRPCRouteSpec, HTTPMatch, HTTPRoute,
    HTTPRouteRule, HTTPRouteSpec, MethodMatch, ParentReference, PathMatch, Timeouts,
};
use stoker_api::names::ports;

use super::labels;

/// What the routers forward over HTTP.
const HTTP_PATH: &str = "/v2";
/// What they forward of gRPC.
const GRPC_SERVICE: &str = "inference.GRPCInferenceService";
/// Its methods. Each by itself, since Contour takes no match without one.
const GRPC_METHODS: [&str; 7] = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
];

/// The routes of a ModelDeployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// For the hosts that are not for gRPC alone.
    pub http: Option<HTTPRoute>,
    /// For those that are.
    pub grpc: Option<GRPCRoute>,
}

/// The routes that the spec asks for, without the hosts that are `taken` by another ModelDeployment.
pub fn routes(md: &ModelDeployment, taken: &BTreeMap<String, String>) -> Routes {
    let Some(gateway) = &md.spec.traffic.gateway_ref else { return Routes::default() };
    let ours = md.spec.traffic.hosts.iter().filter(|host| !taken.contains_key(*host)).cloned();
    let (for_grpc, for_http): (Vec<_>, Vec<_>) = ours.partition(|host| gateway.is_for_grpc(host));
    // A route without a host takes all hosts of the gateway.
    Routes {
        http: (!for_http.is_empty()).then(|| http(md, gateway, for_http)),
        grpc: (!for_grpc.is_empty()).then(|| grpc(md, gateway, for_grpc)),
    }
}

/// How the routes name the gateway. With its namespace, so that what is written and what is asked for look alike.
pub fn parent(gateway: &GatewayRef, namespace: &str) -> ParentReference {
    ParentReference {
        group: GROUP.to_owned(),
        kind: "Gateway".to_owned(),
        namespace: Some(gateway.namespace(namespace).to_owned()),
        name: gateway.name.clone(),
        section_name: gateway.section_name.clone(),
        port: gateway.port,
    }
}

fn http(md: &ModelDeployment, gateway: &GatewayRef, hostnames: Vec<String>) -> HTTPRoute {
    let timeouts = gateway
        .request_timeout
        .map(|time| Timeouts { request: Some(written(time.into())), backend_request: None });
    let rule = |path: &str, port| HTTPRouteRule {
        matches: vec![HTTPMatch {
            path: Some(PathMatch { kind: "PathPrefix".to_owned(), value: path.to_owned() }),
            ..HTTPMatch::default()
        }],
        backend_refs: vec![backend(md, port)],
        timeouts: timeouts.clone(),
        ..HTTPRouteRule::default()
    };
    let mut rules = vec![rule(HTTP_PATH, ports::SERVICE)];
    // Hosts of its own are the other way for gRPC to come in.
    if gateway.grpc.as_ref().is_some_and(|grpc| grpc.hosts.is_empty()) {
        rules.push(rule(&format!("/{GRPC_SERVICE}"), ports::SERVICE_GRPC));
    }
    let spec = HTTPRouteSpec { parent_refs: vec![parent(gateway, &namespace(md))], hostnames, rules };
    HTTPRoute { metadata: metadata(md), spec, status: None }
}

fn grpc(md: &ModelDeployment, gateway: &GatewayRef, hostnames: Vec<String>) -> GRPCRoute {
    let matched = |method: &str| GRPCMatch {
        method: Some(MethodMatch {
            kind: "Exact".to_owned(),
            service: Some(GRPC_SERVICE.to_owned()),
            method: Some(method.to_owned()),
        }),
        headers: Vec::new(),
    };
    let rule = GRPCRouteRule {
        matches: GRPC_METHODS.map(matched).into(),
        backend_refs: vec![backend(md, ports::SERVICE_GRPC)],
        ..GRPCRouteRule::default()
    };
    let spec =
        GRPCRouteSpec { parent_refs: vec![parent(gateway, &namespace(md))], hostnames, rules: vec![rule] };
    GRPCRoute { metadata: metadata(md), spec, status: None }
}

/// The Service of the ModelDeployment.
fn backend(md: &ModelDeployment, port: u16) -> BackendRef {
    BackendRef {
        group: String::new(),
        kind: "Service".to_owned(),
        namespace: None,
        name: md.name_any(),
        port: Some(port),
        weight: 1,
        filters: Vec::new(),
    }
}

fn metadata(md: &ModelDeployment) -> ObjectMeta {
    let name = md.name_any();
    let labels = Some(labels::of_deployment(&name));
    ObjectMeta { name: Some(name), labels, ..ObjectMeta::default() }
}

fn namespace(md: &ModelDeployment) -> String {
    md.namespace().unwrap_or_default()
}

/// A time as the Gateway API takes it: whole numbers of seconds and milliseconds.
fn written(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        millis => format!("{}s{millis}ms", time.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn md(traffic: &Value) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "team", "uid": "u"},
            "spec": {"model": {"uri": "configmap://m/m.onnx"}, "traffic": traffic},
        }))
        .unwrap()
    }

    fn made(traffic: &Value) -> Routes {
        routes(&md(traffic), &BTreeMap::new())
    }

    #[test]
    fn an_http_route_leads_from_the_listener_to_the_service_and_has_no_weights() {
        let gateway = json!({"name": "public", "namespace": "infra", "sectionName": "web", "port": 443});
        let routes = made(&json!({"hosts": ["digits.example", "d.example"], "gatewayRef": gateway}));
        assert_eq!(routes.grpc, None);
        let route = serde_json::to_value(routes.http.unwrap()).unwrap();
        assert_eq!(route["metadata"]["name"], "digits");
        assert_eq!(
            route["spec"],
            json!({
                "parentRefs": [{
                    "group": "gateway.networking.k8s.io", "kind": "Gateway",
                    "name": "public", "namespace": "infra", "sectionName": "web", "port": 443,
                }],
                "hostnames": ["digits.example", "d.example"],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
                    "backendRefs": [{"group": "", "kind": "Service", "name": "digits", "port": 80, "weight": 1}],
                }],
            })
        );
    }

    #[test]
    fn grpc_comes_by_the_http_route_or_at_hosts_of_its_own() {
        let shared = made(&json!({"hosts": ["a.example"], "gatewayRef": {"name": "public", "grpc": {}}}));
        let rules = serde_json::to_value(&shared.http.unwrap().spec.rules).unwrap();
        assert_eq!(rules[1]["matches"][0]["path"]["value"], "/inference.GRPCInferenceService");
        assert_eq!(
            (&rules[0]["backendRefs"][0]["port"], &rules[1]["backendRefs"][0]["port"]),
            (&json!(80), &json!(8001))
        );
        assert_eq!(shared.grpc, None);

        let hosts = json!(["a.example", "grpc.a.example"]);
        let apart = json!({"name": "public", "grpc": {"hosts": ["grpc.a.example"]}});
        let apart = made(&json!({"hosts": hosts, "gatewayRef": apart}));
        let (http, grpc) = (apart.http.unwrap().spec, apart.grpc.unwrap().spec);
        // A gateway takes only one of two routes of different kinds that have a host in common.
        assert_eq!(
            (http.hostnames, grpc.hostnames.clone()),
            (vec!["a.example".into()], vec!["grpc.a.example".to_owned()])
        );
        assert_eq!(http.rules.len(), 1);
        let rule = serde_json::to_value(&grpc.rules[0]).unwrap();
        let first =
            json!({"type": "Exact", "service": "inference.GRPCInferenceService", "method": "ServerLive"});
        assert_eq!((&rule["matches"][0]["method"], &rule["backendRefs"][0]["port"]), (&first, &json!(8001)));
    }

    #[test]
    fn what_comes_by_a_route_is_what_routers_forward() {
        use stoker_router::forward::{grpc, paths};

        assert!(paths::parse(HTTP_PATH).is_some());
        for method in GRPC_METHODS {
            assert!(grpc::parse(&format!("/{GRPC_SERVICE}/{method}")).is_some(), "{method}");
        }
        // It names all of them, as a list.
        assert_eq!(grpc::HELP.matches(", ").count() + 2, GRPC_METHODS.len(), "{}", grpc::HELP);
    }

    #[test]
    fn a_host_of_somebody_else_is_in_no_route_and_the_last_one_takes_the_route_along() {
        let hosts = ["a.example", "grpc.a.example"];
        let traffic =
            json!({"hosts": hosts, "gatewayRef": {"name": "public", "grpc": {"hosts": ["grpc.a.example"]}}});
        let taken =
            |hosts: &[&str]| hosts.iter().map(|host| ((*host).to_owned(), "older".to_owned())).collect();
        let some = routes(&md(&traffic), &taken(&hosts[1..]));
        assert_eq!((some.http.unwrap().spec.hostnames, some.grpc), (vec!["a.example".to_owned()], None));
        assert_eq!(routes(&md(&traffic), &taken(&hosts)), Routes::default());
        assert_eq!(made(&json!({"hosts": hosts})), Routes::default());
    }

    #[test]
    fn a_timeout_is_written_as_the_gateway_api_takes_it() {
        for (time, text) in [("90s", "90s"), ("1m30s", "90s"), ("1.5s", "1s500ms"), ("24h", "86400s")] {
            let gateway = json!({"name": "public", "requestTimeout": time});
            let route = made(&json!({"hosts": ["a.example"], "gatewayRef": gateway})).http.unwrap();
            assert_eq!(
                route.spec.rules[0].timeouts.clone().unwrap().request.as_deref(),
                Some(text),
                "{time}"
            );
        }
    }
}
