//! Pods of a server that is not Stoker's: anything that speaks the Open Inference Protocol v2 over HTTP.
//!
//! It knows nothing of digests, credentials or of where models are. An init container of Stoker's own server fetches the artifact,
//! checks it, and puts it where the other container reads it; that one never sees the credentials.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, PodSpec, SecurityContext, SleepAction,
};
use stoker_api::artifact::Uri;
use stoker_api::deployment::{Model, Resources, Runtime};
use stoker_api::names::ports;

use super::revision::{self, MODELS, mount, port, probe, scratch};
use crate::context::Settings;

/// Name of the init container.
pub const FETCH: &str = "fetch";
/// Where the init container reads what is a volume.
const SOURCE: &str = "/mnt/source";
/// A server that does not answer so long after its start hangs, in probes of 5 seconds. `rollout.progressDeadline` ends the wait for
/// its pods long before.
const STARTS: i32 = 360;
/// Seconds from the decision to end a pod to the signal: routers hear of it in the meantime. Stoker's own server waits by itself.
const LEAVE: i64 = 5;

/// Makes the container one that runs `runtime.image` with the user's arguments, beside an init container that fetches the model.
pub(super) fn complete(
    template: &mut PodSpec,
    args: &[String],
    runtime: &Runtime,
    model: &Model,
    uri: &Uri,
    digest: &str,
    settings: &Settings,
) {
    let number = runtime.ports.as_ref().map_or(ports::SERVER_DATA, |ports| ports.http);
    let volumes = template.volumes.get_or_insert_default();
    volumes.push(scratch("fetched"));
    let mut fetch = Container {
        name: FETCH.into(),
        image: Some(settings.server_image.clone()),
        image_pull_policy: Some(settings.pull_policy.clone()),
        resources: Some(Resources::default().to_container(&revision::default_resources())),
        security_context: Some(revision::container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![mount("tmp", "/tmp", false), mount("fetched", MODELS, false)]),
        ..Container::default()
    };
    let mut command = vec!["fetch".to_owned(), format!("--digest={digest}"), format!("--to={MODELS}")];
    command.extend(revision::place(&mut fetch, volumes, SOURCE, model, uri, settings));
    fetch.args = Some(command);
    template.init_containers = Some(vec![fetch]);

    let leave =
        LifecycleHandler { sleep: Some(SleepAction { seconds: LEAVE }), ..LifecycleHandler::default() };
    template.containers[0].merge_from(Container {
        name: "server".into(),
        args: Some(args.to_vec()),
        ports: Some(vec![port(ports::DATA_NAME, number)]),
        volume_mounts: Some(vec![mount("fetched", MODELS, true)]),
        startup_probe: Some(probe(ports::DATA_NAME, "/v2/health/live", 5, STARTS)),
        readiness_probe: Some(probe(ports::DATA_NAME, "/v2/health/ready", 1, 3)),
        liveness_probe: Some(probe(ports::DATA_NAME, "/v2/health/live", 10, 3)),
        // Most images write somewhere below their root, and those that run as any user write there as group 0. The standard for pods
        // does not ask for more.
        security_context: Some(SecurityContext {
            read_only_root_filesystem: Some(false),
            run_as_group: Some(0),
            ..SecurityContext::default()
        }),
        lifecycle: Some(Lifecycle { pre_stop: Some(leave), ..Lifecycle::default() }),
        ..Container::default()
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stoker_api::ModelDeployment;

    use super::*;

    fn template(uri: &str, runtime: &Value) -> Value {
        let md: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"},
            "spec": {"model": {"uri": uri, "secret": "token"}, "runtime": runtime},
        }))
        .unwrap();
        let uri = uri.parse().unwrap();
        let (model, runtime) = (&md.spec.model, &md.spec.runtime);
        let kept =
            revision::snapshot("digits", "digits-1", model, runtime, &uri, "sha256:00", &Settings::sample());
        serde_json::to_value(kept.template.spec.unwrap()).unwrap()
    }

    #[test]
    fn another_server_finds_the_verified_model_and_never_sees_the_credentials() {
        let runtime =
            json!({"image": "triton:1", "args": ["--model=/mnt/models/a.onnx"], "ports": {"http": 8000}});
        let spec = template("https://models.example/a.onnx", &runtime);
        let (fetch, server) = (&spec["initContainers"][0], &spec["containers"][0]);
        assert_eq!((&fetch["image"], &server["image"]), (&json!("server:1"), &json!("triton:1")));
        assert_eq!(
            fetch["args"],
            json!([
                "fetch",
                "--digest=sha256:00",
                "--to=/mnt/models",
                "--model-uri=https://models.example/a.onnx",
                "--credentials=/etc/stoker/credentials"
            ])
        );
        assert_eq!(fetch["env"], json!([{"name": "STOKER_ALLOW_NETWORKS", "value": "10.0.0.0/8"}]));
        assert_eq!(server["args"], json!(["--model=/mnt/models/a.onnx"]));
        assert_eq!(server["env"], Value::Null);
        let rights = &server["securityContext"];
        assert_eq!(
            (&rights["readOnlyRootFilesystem"], &rights["allowPrivilegeEscalation"]),
            (&json!(false), &json!(false))
        );
        let places = |container: &Value| -> Vec<(String, bool)> {
            let mounts = container["volumeMounts"].as_array().unwrap();
            let place =
                |mount: &Value| (mount["mountPath"].as_str().unwrap().to_owned(), mount["readOnly"] == true);
            mounts.iter().map(place).collect()
        };
        let place = |path: &str, read_only| (path.to_owned(), read_only);
        let own = [place("/tmp", false), place("/mnt/models", false), place("/etc/stoker/credentials", true)];
        assert_eq!(places(fetch), own);
        assert_eq!(places(server), [place("/tmp", false), place("/mnt/models", true)]);
        assert_eq!(server["ports"], json!([{"name": "http", "containerPort": 8000, "protocol": "TCP"}]));
        for (kind, path) in [("startup", "live"), ("readiness", "ready"), ("liveness", "live")] {
            let get = &server[format!("{kind}Probe")]["httpGet"];
            assert_eq!(*get, json!({"path": format!("/v2/health/{path}"), "port": "http"}));
        }
    }

    #[test]
    fn a_model_in_a_volume_is_read_beside_the_place_that_it_goes_to() {
        let spec = template("pvc://shared/team/a.onnx", &json!({"image": "triton:1", "args": []}));
        let fetch = &spec["initContainers"][0];
        assert_eq!(fetch["args"][3], "--model-uri=file:///mnt/source/team/a.onnx");
        assert_eq!(
            fetch["volumeMounts"][2],
            json!({"name": "model", "mountPath": "/mnt/source", "readOnly": true})
        );
        assert_eq!(spec["containers"][0]["ports"][0]["containerPort"], 8080);
    }

    #[test]
    fn an_image_without_arguments_is_a_build_of_stokers_server() {
        let spec = template("https://models.example/a.onnx", &json!({"image": "stoker-server:cuda"}));
        assert_eq!(spec["initContainers"], Value::Null);
        assert_eq!(spec["containers"][0]["args"][0], "serve");
    }
}
