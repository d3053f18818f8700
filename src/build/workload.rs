//! The objects of a revision that run: a Deployment, what protects its pods, and a headless Service whose EndpointSlices list its ready pods.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stoker_api::names::ports;

use super::labels;

/// The Deployment of a revision.
pub fn deployment(md: &str, revision: &str, template: &PodTemplateSpec, replicas: u32) -> Deployment {
    // A lost node or an eviction replaces pods one by one; an operator upgrade replaces none.
    let update = RollingUpdateDeployment {
        max_surge: Some(IntOrString::Int(1)),
        max_unavailable: Some(IntOrString::Int(0)),
    };
    Deployment {
        metadata: metadata(md, revision),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            selector: LabelSelector {
                match_labels: Some(labels::selector(md, revision)),
                match_expressions: None,
            },
            template: template.clone(),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(update),
            }),
            revision_history_limit: Some(1),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Keeps most pods of a revision while nodes are emptied. None for a lone pod: it would keep its node from being emptied.
pub fn budget(md: &str, revision: &str, replicas: u32) -> Option<PodDisruptionBudget> {
    (replicas > 1).then(|| PodDisruptionBudget {
        metadata: metadata(md, revision),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(labels::selector(md, revision)),
                ..LabelSelector::default()
            }),
            // A pod that is not ready serves nobody; it must not keep a node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

/// The headless Service of a revision. Routers read its EndpointSlices.
pub fn service(md: &str, revision: &str) -> Service {
    let port = ServicePort {
        name: Some(ports::DATA_NAME.into()),
        port: ports::SERVER_DATA.into(),
        target_port: Some(IntOrString::String(ports::DATA_NAME.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(md, revision),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(labels::selector(md, revision)),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn metadata(md: &str, revision: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(revision.to_owned()),
        labels: Some(labels::of_revision(md, revision)),
        ..ObjectMeta::default()
    }
}
