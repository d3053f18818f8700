//! The one-shot pod that finds out the digest of an artifact, in the tenant's namespace and with the tenant's credentials.
//!
//! It answers by its termination message. The kubelet repeats it with growing pauses while it fails.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use stoker_api::ModelDeployment;
use stoker_api::artifact::{Digest, Uri};
use stoker_api::names::{labels as label, parts};

use super::{labels, revision};
use crate::context::Settings;

/// Name of the pod that resolves the digest of a revision.
pub fn name(revision: &str) -> String {
    format!("{revision}-resolve")
}

/// The pod. It runs the server image also where the revision runs another one, which need not know how to resolve.
pub fn pod(md: &ModelDeployment, target: &str, uri: &Uri, settings: &Settings) -> Pod {
    let mut spec = revision::template(&md.spec.runtime, settings);
    let (container, volumes) = (&mut spec.containers[0], spec.volumes.get_or_insert_default());
    let place = revision::place(container, volumes, revision::MODELS, &md.spec.model, uri, settings);
    let args = std::iter::once("resolve".to_owned()).chain(place).collect();
    container.merge_from(Container {
        name: "server".into(),
        image: Some(settings.server_image.clone()),
        args: Some(args),
        ..Container::default()
    });
    spec.restart_policy = Some("OnFailure".into());
    let mut labels = labels::of_revision(&md.name_any(), target);
    labels.insert(label::PART.to_owned(), parts::RESOLVER.to_owned());
    let metadata = ObjectMeta { name: Some(name(target)), labels: Some(labels), ..ObjectMeta::default() };
    Pod { metadata, spec: Some(spec), status: None }
}

/// The digest that a finished pod found.
pub fn answer(pod: &Pod) -> Option<Digest> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.iter().find_map(|container| container.state.as_ref()?.terminated.as_ref())?;
    if ended.exit_code != 0 {
        return None;
    }
    ended.message.as_deref()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pod_runs_the_server_image_with_the_tenants_rights() {
        let md: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"},
            "spec": {
                "model": {"uri": "https://models.example/a.onnx", "secret": "token"},
                "runtime": {"image": "triton:1", "pod": {"serviceAccountName": "team"}},
            },
        }))
        .unwrap();
        let mut settings = Settings::sample();
        settings.artifact_networks.push("fd12::/16".parse().unwrap());
        let uri = md.spec.model.uri.parse().unwrap();
        let spec = pod(&md, "digits-1", &uri, &settings).spec.unwrap();
        let container = &spec.containers[0];
        assert_eq!(container.image.as_deref(), Some("server:1"));
        assert_eq!(spec.service_account_name.as_deref(), Some("team"));
        let args =
            ["resolve", "--model-uri=https://models.example/a.onnx", "--credentials=/etc/stoker/credentials"];
        assert_eq!(container.args.as_deref().unwrap(), args);
        let variables: Vec<_> =
            container.env.iter().flatten().map(|v| (&*v.name, v.value.as_deref())).collect();
        assert_eq!(variables, [("STOKER_ALLOW_NETWORKS", Some("10.0.0.0/8,fd12::/16"))]);
    }
}
