//! The data plane of a namespace (no client): what the routers run as, how they are reached, and who may connect.

mod network;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, Secret,
    SecretVolumeSource, SecurityContext, Service, ServiceAccount, ServicePort, ServiceSpec,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use stoker_api::deployment::Resources;
use stoker_api::gateway::H2C;
use stoker_api::names::{PREVIEW_SUFFIX, labels, objects, parts, ports};
use stoker_api::{ModelDeployment, ModelRouter};

use crate::context::Settings;
use crate::trust::Leaf;

/// The user of all pods that we make; the images have no other.
const USER: i64 = 65532;
/// Time between SIGTERM and SIGKILL, in seconds: above delay and timeout of the drain together.
const GRACE_SECONDS: i64 = 45;
/// A rollout of routers that moves nowhere for this long, in seconds, is given up: other namespaces go on then.
const PROGRESS_SECONDS: i32 = 120;
/// How the router drains, and what it may keep in memory: bodies for a second try stay well below the memory limit.
const ARGUMENTS: [&str; 3] = ["--drain-delay=5s", "--drain-timeout=30s", "--buffer-total=67108864"];

/// All objects of a namespace's data plane but the Secret, which is made only when it is worn.
#[derive(Clone, Debug, PartialEq)]
pub struct DataPlane {
    /// Who the routers are to the API server.
    pub account: ServiceAccount,
    /// What they may read there.
    pub binding: RoleBinding,
    /// By which the operator finds them.
    pub service: Service,
    /// Keeps them while nodes are emptied.
    pub budget: PodDisruptionBudget,
    /// Who may connect to them.
    pub router_policy: NetworkPolicy,
    /// Who may connect to the pods of models.
    pub server_policy: NetworkPolicy,
    /// The routers.
    pub deployment: Deployment,
}

/// What the namespace of `router` needs.
pub fn data_plane(router: &ModelRouter, settings: &Settings) -> DataPlane {
    let namespace = router.namespace().unwrap_or_default();
    DataPlane {
        account: account(),
        binding: binding(&namespace),
        service: service(),
        budget: budget(),
        router_policy: network::routers(&settings.namespace),
        server_policy: network::servers(),
        deployment: deployment(router, settings),
    }
}

/// The Service `<md>` that clients connect to: the namespace's routers, which know the model by its name.
pub fn front_service(md: &ModelDeployment) -> Service {
    let mut metadata = meta(&md.name_any(), None);
    let own = metadata.labels.get_or_insert_default();
    own.insert(labels::DEPLOYMENT.to_owned(), md.name_any());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(part(parts::ROUTER)),
            ports: Some(front_ports(md)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The Service `<md>-preview`, for testers of a candidate that has no other traffic: the same routers, told apart by the host.
pub fn preview_service(md: &ModelDeployment) -> Service {
    let mut service = front_service(md);
    service.metadata.name = Some(format!("{}{PREVIEW_SUFFIX}", md.name_any()));
    if let Some(spec) = &mut service.spec {
        spec.ports = Some(vec![port(ports::DATA_NAME, ports::SERVICE, ports::DATA_NAME)]);
    }
    service
}

/// A gateway learns from a port of its own that it must speak HTTP/2 there, which gRPC needs. Both lead to the same port of the
/// routers: a mark on the first one would change how everybody else's proxies treat it.
fn front_ports(md: &ModelDeployment) -> Vec<ServicePort> {
    let mut all = vec![port(ports::DATA_NAME, ports::SERVICE, ports::DATA_NAME)];
    if md.spec.traffic.gateway_ref.as_ref().is_some_and(|gateway| gateway.grpc.is_some()) {
        let grpc = port(ports::GRPC_NAME, ports::SERVICE_GRPC, ports::DATA_NAME);
        all.push(ServicePort { app_protocol: Some(H2C.to_owned()), ..grpc });
    }
    all
}

/// The Secret that the routers mount.
pub fn secret(leaf: Leaf) -> Secret {
    Secret {
        metadata: meta(objects::ROUTER_TLS, Some(parts::ROUTER)),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(leaf.into_data()),
        ..Secret::default()
    }
}

/// The image of a Deployment's first container.
pub fn image(deployment: &Deployment) -> Option<&str> {
    deployment.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.as_deref()
}

/// Whether new pods of a Deployment are still taking the place of old ones, and get anywhere.
///
/// One that finished and lost a pod since is not rolling: a sick namespace must not hold up the others.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let progress = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    let stuck = progress.is_some_and(|progress| progress.status == "False");
    let seen = status.observed_generation >= deployment.metadata.generation;
    let updated = status.updated_replicas.unwrap_or(0);
    let there = status.replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    // The reason alone is not enough: it stays for a moment when an earlier ReplicaSet is rolled out again.
    let finished = there == updated
        && progress.is_some_and(|progress| progress.reason.as_deref() == Some("NewReplicaSetAvailable"));
    !seen || !stuck && !finished && (updated < wanted || there > updated || available < updated)
}

/// Metadata of an object of ours. Namespace and owner are added where it is written.
pub(crate) fn meta(name: &str, part: Option<&str>) -> ObjectMeta {
    let mut own = BTreeMap::from([(labels::MANAGED_BY.to_owned(), labels::STOKER.to_owned())]);
    own.extend(part.map(|part| (labels::PART.to_owned(), part.to_owned())));
    ObjectMeta { name: Some(name.to_owned()), labels: Some(own), ..ObjectMeta::default() }
}

/// The label that selects the pods of a part.
pub(crate) fn part(part: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::PART.to_owned(), part.to_owned())])
}

fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some(part(parts::ROUTER)), ..LabelSelector::default() }
}

fn account() -> ServiceAccount {
    ServiceAccount {
        metadata: meta(objects::ROUTER, Some(parts::ROUTER)),
        // The Deployment asks for the token itself; no other pod gets one by naming this account.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn binding(namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: meta(objects::ROUTER, Some(parts::ROUTER)),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: objects::ROUTER_CLUSTER_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: objects::ROUTER.to_owned(),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

/// Headless, for the operator, Prometheus and the routers themselves; clients use the Service of their model.
fn service() -> Service {
    Service {
        metadata: meta(objects::ROUTER, Some(parts::ROUTER)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(part(parts::ROUTER)),
            ports: Some(vec![
                port(ports::ADMIN_NAME, ports::ROUTER_ADMIN, ports::ADMIN_NAME),
                port("metrics", ports::METRICS, "metrics"),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: u16, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(target.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

fn budget() -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta(objects::ROUTER, Some(parts::ROUTER)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector()),
            // A router that is not ready serves nobody; it must not keep a node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn deployment(router: &ModelRouter, settings: &Settings) -> Deployment {
    let replicas = i32::try_from(router.spec.replicas).unwrap_or(i32::MAX);
    let mut pod_labels = part(parts::ROUTER);
    pod_labels.insert(labels::MANAGED_BY.to_owned(), labels::STOKER.to_owned());
    // Prometheus installations that know no ServiceMonitor find the port by these.
    let scraped =
        [("prometheus.io/scrape", "true".to_owned()), ("prometheus.io/port", ports::METRICS.to_string())];
    Deployment {
        metadata: meta(objects::ROUTER, Some(parts::ROUTER)),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: selector(),
            // A ready router is waited for before one goes, and long enough for every node to know it.
            min_ready_seconds: Some(5),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            revision_history_limit: Some(2),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(scraped.map(|(name, value)| (name.to_owned(), value)).into()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(router, settings)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(router: &ModelRouter, settings: &Settings) -> PodSpec {
    let node_selector = &router.spec.node_selector;
    PodSpec {
        service_account_name: Some(objects::ROUTER.to_owned()),
        automount_service_account_token: Some(true),
        // Addresses of other Services are not needed in the environment, and there may be thousands.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        node_selector: (!node_selector.is_empty()).then(|| node_selector.clone()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        // On different nodes where there are some; on one rather than not at all.
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector()),
            // Old and new pods of a rollout are spread each among themselves.
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![container(router, settings)],
        volumes: Some(vec![
            Volume {
                name: "tls".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(objects::ROUTER_TLS.to_owned()),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            scratch("state", "64Mi"),
            scratch("tmp", "16Mi"),
        ]),
        ..PodSpec::default()
    }
}

fn container(router: &ModelRouter, settings: &Settings) -> Container {
    let number = |port: u16| i32::from(port);
    let listen = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: "router".to_owned(),
        image: Some(settings.router_image.clone()),
        image_pull_policy: Some(settings.pull_policy.clone()),
        command: Some(vec!["/stoker-router".to_owned()]),
        args: Some(ARGUMENTS.map(str::to_owned).to_vec()),
        env: Some(vec![
            from_pod("POD_NAMESPACE", "metadata.namespace"),
            from_pod("POD_NAME", "metadata.name"),
        ]),
        ports: Some(vec![
            listen(ports::DATA_NAME, ports::ROUTER_DATA),
            listen("metrics", ports::METRICS),
            listen(ports::ADMIN_NAME, ports::ROUTER_ADMIN),
        ]),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            failure_threshold: Some(2),
            ..probe("/readyz")
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(3),
            ..probe("/healthz")
        }),
        resources: Some(router.spec.resources.to_container(&default_resources())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("tls", "/etc/stoker/tls", true),
            mount("state", "/var/lib/stoker", false),
            mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    }
}

/// No CPU limit: throttling would show as latency of the models.
fn default_resources() -> Resources {
    Resources {
        requests: BTreeMap::from([("cpu".into(), "50m".into()), ("memory".into(), "64Mi".into())]),
        limits: BTreeMap::from([("memory".into(), "256Mi".into())]),
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn from_pod(name: &str, field: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: field.to_owned() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

fn scratch(name: &str, limit: &str) -> Volume {
    let empty = EmptyDirVolumeSource { size_limit: Some(Quantity(limit.to_owned())), medium: None };
    Volume { name: name.to_owned(), empty_dir: Some(empty), ..Volume::default() }
}

#[cfg(test)]
mod tests;
