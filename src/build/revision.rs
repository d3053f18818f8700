//! From a resolved spec to the pod template of a revision, and the ControllerRevision that keeps both.
//!
//! The template is made once. Later releases of the operator use the stored one, so an upgrade restarts no pod.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    HTTPGetAction, KeyToPath, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use stoker_api::ModelDeployment;
use stoker_api::artifact::Uri;
use stoker_api::deployment::{Model, Resources, Runtime};
use stoker_api::names::ports;
use stoker_api::revision::{FORM, Snapshot};

use super::{foreign, labels};
use crate::context::Settings;

/// Where servers find the artifact, if it is a file.
pub(super) const MODELS: &str = "/mnt/models";
/// Where the Secret for downloads is mounted.
const CREDENTIALS: &str = "/etc/stoker/credentials";
/// Answers in flight are finished within this time after a pod was told to stop, in seconds.
const GRACE: i64 = 60;
/// The user that all pods of Stoker run as.
pub const USER: i64 = 65532;

/// The networks that artifacts may come from, with commas between them. In the environment, since a server that does not know an
/// argument does not start, and passes over a variable: an older one that a deployment names, or another one.
const ALLOW_NETWORKS: &str = "STOKER_ALLOW_NETWORKS";
/// All requests come through routers, whose word is taken for the latency target. In the environment for the same reason.
const BEHIND_ROUTER: &str = "STOKER_BEHIND_ROUTER";

/// The snapshot of a new revision.
pub fn snapshot(
    md: &str,
    revision: &str,
    model: &Model,
    runtime: &Runtime,
    uri: &Uri,
    digest: &str,
    settings: &Settings,
) -> Snapshot {
    let mut template = template(runtime, settings);
    match &runtime.args {
        Some(args) => foreign::complete(&mut template, args, runtime, model, uri, digest, settings),
        None => complete(&mut template, md, model, uri, digest, settings),
    }
    let metadata = ObjectMeta { labels: Some(labels::selector(md, revision)), ..ObjectMeta::default() };
    template.termination_grace_period_seconds = Some(GRACE);
    template.topology_spread_constraints = Some(vec![spread(md, revision)]);
    let template = PodTemplateSpec { metadata: Some(metadata), spec: Some(template) };
    Snapshot {
        form: FORM,
        model: model.clone(),
        runtime: runtime.clone(),
        digest: digest.to_owned(),
        template,
    }
}

/// Makes the container one of Stoker's own server.
fn complete(template: &mut PodSpec, md: &str, model: &Model, uri: &Uri, digest: &str, settings: &Settings) {
    let mut args = vec!["serve".to_owned(), format!("--model-name={md}"), format!("--digest={digest}")];
    let (container, volumes) = (&mut template.containers[0], template.volumes.get_or_insert_default());
    args.extend(place(container, volumes, MODELS, model, uri, settings));
    container.merge_from(Container {
        name: "server".into(),
        args: Some(args),
        ports: Some(vec![port(ports::DATA_NAME, ports::SERVER_DATA), port("metrics", ports::METRICS)]),
        // Loading and warm-up may take long: they hold back readiness, not life.
        readiness_probe: Some(probe("metrics", "/readyz", 1, 3)),
        liveness_probe: Some(probe("metrics", "/healthz", 10, 3)),
        ..Container::default()
    });
    set(container, BEHIND_ROUTER, "true");
}

/// On different nodes where there are some; on one rather than not at all.
fn spread(md: &str, revision: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::selector(md, revision)),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }
}

/// What every pod with a tenant's model has: image, security, resources, a place for temporary files.
pub(super) fn template(runtime: &Runtime, settings: &Settings) -> PodSpec {
    let pod = &runtime.pod;
    let secrets = pod.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    // Empty means unset, and the API server drops it: written, it would look like a difference for ever.
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let tolerations = pod.tolerations.iter().map(|toleration| Toleration {
        key: set(&toleration.key),
        operator: set(&toleration.operator),
        value: set(&toleration.value),
        effect: set(&toleration.effect),
        toleration_seconds: None,
    });
    let container = Container {
        name: "server".into(),
        image: Some(runtime.image.clone().unwrap_or_else(|| settings.server_image.clone())),
        image_pull_policy: Some(settings.pull_policy.clone()),
        resources: Some(runtime.resources.to_container(&default_resources())),
        security_context: Some(container_security()),
        // A crash without a message shows the end of its log instead.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![mount("tmp", "/tmp", false)]),
        ..Container::default()
    };
    PodSpec {
        containers: vec![container],
        volumes: Some(vec![scratch("tmp")]),
        security_context: Some(pod_security()),
        service_account_name: pod.service_account_name.clone(),
        // Models need no access to the API server.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets.collect()).filter(|list: &Vec<_>| !list.is_empty()),
        node_selector: Some(pod.node_selector.clone()).filter(|map| !map.is_empty()),
        tolerations: Some(tolerations.collect()).filter(|list: &Vec<_>| !list.is_empty()),
        priority_class_name: pod.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

/// Sets a variable in the environment of a container.
fn set(container: &mut Container, name: &str, value: &str) {
    let variable = EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
    container.env.get_or_insert_default().push(variable);
}

/// Mounts what the artifact is read from, at `folder` where that is a volume, sets the networks that it may come from, and returns the
/// arguments that say where it is.
pub(super) fn place(
    container: &mut Container,
    volumes: &mut Vec<Volume>,
    folder: &str,
    model: &Model,
    uri: &Uri,
    settings: &Settings,
) -> Vec<String> {
    let mut args = Vec::new();
    let (source, path) = match uri {
        Uri::Http(url) | Uri::Object(url) => (None, url.clone()),
        Uri::ConfigMap { name, key } => {
            let items = Some(vec![KeyToPath { key: key.clone(), path: key.clone(), mode: None }]);
            let config_map =
                ConfigMapVolumeSource { name: name.clone(), items, ..ConfigMapVolumeSource::default() };
            (
                Some(Volume { config_map: Some(config_map), ..named("model") }),
                format!("file://{folder}/{key}"),
            )
        }
        Uri::Claim { name, path } => {
            let claim = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: Some(true) };
            (
                Some(Volume { persistent_volume_claim: Some(claim), ..named("model") }),
                format!("file://{folder}/{path}"),
            )
        }
    };
    args.push(format!("--model-uri={path}"));
    // Without networks there is no variable: an empty text is no network.
    if matches!(uri, Uri::Http(_) | Uri::Object(_)) && !settings.artifact_networks.is_empty() {
        let networks: Vec<_> = settings.artifact_networks.iter().map(ToString::to_string).collect();
        set(container, ALLOW_NETWORKS, &networks.join(","));
    }
    let mounts = container.volume_mounts.get_or_insert_default();
    if let Some(volume) = source {
        volumes.push(volume);
        mounts.push(mount("model", folder, true));
    }
    if let Some(secret) = &model.secret {
        let secret =
            SecretVolumeSource { secret_name: Some(secret.clone()), ..SecretVolumeSource::default() };
        volumes.push(Volume { secret: Some(secret), ..named("credentials") });
        mounts.push(mount("credentials", CREDENTIALS, true));
        args.push(format!("--credentials={CREDENTIALS}"));
    }
    args
}

/// The object that keeps a snapshot. Immutable: the API server refuses a change of its data.
pub fn controller_revision(
    md: &ModelDeployment,
    name: &str,
    number: i64,
    snapshot: &Snapshot,
) -> Result<ControllerRevision, serde_json::Error> {
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels::of_revision(&md.name_any(), name)),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(serde_json::to_value(snapshot)?)),
        revision: number,
    })
}

/// What a pod of a user who says nothing gets.
pub(super) fn default_resources() -> Resources {
    Resources {
        requests: BTreeMap::from([("cpu".into(), "100m".into()), ("memory".into(), "128Mi".into())]),
        limits: BTreeMap::from([("memory".into(), "1Gi".into())]),
    }
}

fn named(name: &str) -> Volume {
    Volume { name: name.to_owned(), ..Volume::default() }
}

/// An empty folder that goes with the pod.
pub(super) fn scratch(name: &str) -> Volume {
    let empty = EmptyDirVolumeSource { size_limit: Some(Quantity("4Gi".into())), medium: None };
    Volume { empty_dir: Some(empty), ..named(name) }
}

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

pub(super) fn probe(port: &str, path: &str, period: i32, failures: i32) -> Probe {
    let http_get = HTTPGetAction {
        path: Some(path.into()),
        port: IntOrString::String(port.into()),
        ..HTTPGetAction::default()
    };
    Probe {
        http_get: Some(http_get),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// As the *restricted* Pod Security Standard asks.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// As the *restricted* Pod Security Standard asks.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_a_revision_get_their_model_as_arguments_and_believe_routers() {
        let model: Model = serde_json::from_value(json!({"uri": "configmap://digits/v1.onnx"})).unwrap();
        let uri = model.uri.parse().unwrap();
        let settings = Settings::sample();
        let kept = snapshot("digits", "digits-1", &model, &Runtime::default(), &uri, "sha256:00", &settings);
        let spec = kept.template.spec.unwrap();
        let server = &spec.containers[0];
        let args =
            ["serve", "--model-name=digits", "--digest=sha256:00", "--model-uri=file:///mnt/models/v1.onnx"];
        assert_eq!(server.args.as_deref().unwrap(), args);
        let env: Vec<_> = server.env.iter().flatten().map(|var| (&*var.name, var.value.as_deref())).collect();
        assert_eq!(env, [("STOKER_BEHIND_ROUTER", Some("true"))], "no variable that they do not need");
    }
}
