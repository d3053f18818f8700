//! The gateway through which clients outside of the cluster reach a model: `ModelDeployment.spec.traffic.gatewayRef`.

use kube::KubeSchema;
use kube::core::Duration;
use serde::{Deserialize, Serialize};

/// A Gateway of the Gateway API. Routes from it to the model are written, and kept as they are; TLS and listeners are the
/// gateway's.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. Default: that of the ModelDeployment. Its listeners must allow routes from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name of one of its listeners. Default: all that take the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// Port of its listeners. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// How long the gateway waits for an answer, for example `30s`. Default: what the gateway does by itself. Not every gateway
    /// can be told, and none for hosts of `grpc.hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s') && duration(self) <= duration('24h')", "traffic.gatewayRef.requestTimeout must be between 1s and 24h"))]
    pub request_timeout: Option<Duration>,
    /// Takes gRPC calls as well. Default: HTTP alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GatewayGrpc>,
}

impl GatewayRef {
    /// The namespace of the gateway, for a ModelDeployment of `namespace`.
    pub fn namespace<'a>(&'a self, namespace: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(namespace)
    }

    /// Whether a host is for gRPC alone.
    pub fn is_for_grpc(&self, host: &str) -> bool {
        self.grpc.as_ref().is_some_and(|grpc| grpc.hosts.iter().any(|other| other == host))
    }
}

/// How gRPC calls come through a gateway.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayGrpc {
    /// Hosts of `traffic.hosts` that are for gRPC alone: a GRPCRoute takes them, which has no host in common with an HTTPRoute.
    /// Default: none, and the HTTPRoute takes calls at all its hosts, where the gateway speaks HTTP/2 to a backend of an HTTPRoute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
}
