//! Who may connect to whom in a namespace that has models (no client). A second belt: mutual TLS guards the admin port.
//!
//! Only incoming connections are restricted. Model pods download artifacts from wherever their owners keep them, by http(s)
//! on any port, so a list of allowed destinations would have to come from the owners; a namespace that wants one adds a
//! policy of its own, which holds beside these.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stoker_api::names::{objects, parts, ports};

use crate::build::router::{meta, part};

/// Name of the policy for the pods of models.
const SERVERS: &str = "stoker-server";

/// Routers: clients come from anywhere (other namespaces, gateways on the host network, port-forward), Prometheus too; the
/// admin port is for the operator and for the other routers of the namespace.
pub(crate) fn routers(operator_namespace: &str) -> NetworkPolicy {
    let namespace = [("kubernetes.io/metadata.name".to_owned(), operator_namespace.to_owned())];
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(namespace.into()),
            ..LabelSelector::default()
        }),
        ..pods(parts::OPERATOR)
    };
    let rules = vec![
        rule(&[number(ports::ROUTER_DATA), number(ports::METRICS)], None),
        rule(&[number(ports::ROUTER_ADMIN)], Some(vec![operator, pods(parts::ROUTER)])),
    ];
    policy(objects::ROUTER, parts::ROUTER, rules)
}

/// Model pods: requests come from the routers of the same namespace alone, so that they are counted and can be held back.
pub(crate) fn servers() -> NetworkPolicy {
    // By their names: servers that are not Stoker's listen elsewhere, and have no port of this name for metrics.
    let named = |name: &str| IntOrString::String(name.to_owned());
    let rules = vec![
        rule(&[named(ports::DATA_NAME)], Some(vec![pods(parts::ROUTER)])),
        rule(&[named("metrics")], None),
    ];
    policy(SERVERS, parts::SERVER, rules)
}

fn policy(name: &str, selected: &str, ingress: Vec<NetworkPolicyIngressRule>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: meta(name, Some(selected)),
        spec: Some(NetworkPolicySpec {
            pod_selector: pods(selected).pod_selector,
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            egress: None,
        }),
    }
}

fn number(port: u16) -> IntOrString {
    IntOrString::Int(i32::from(port))
}

/// From any of `peers`, or from anywhere.
fn rule(ports: &[IntOrString], peers: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = |port: &IntOrString| NetworkPolicyPort {
        port: Some(port.clone()),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    NetworkPolicyIngressRule { ports: Some(ports.iter().map(port).collect()), from: peers }
}

/// The pods of a part, in the policy's own namespace.
fn pods(of: &str) -> NetworkPolicyPeer {
    let selector = LabelSelector { match_labels: Some(part(of)), ..LabelSelector::default() };
    NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() }
}
