//! All that explains a failed test, gathered as text: the objects, their Events, and the ends of all logs.

use std::fmt::{Debug, Write as _};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoker_api::{ModelDeployment, ModelRoute};

use crate::cluster::{OPERATOR_NAMESPACE, OPERATOR_PODS};
use crate::namespace::TestNamespace;

/// Lines of each log.
const LOG_LINES: i64 = 25;
/// Lines of the operator's log, before those of other namespaces are left out.
const OPERATOR_LINES: i64 = 2_000;

/// What is to be known about a test's namespace. Never fails: what cannot be had is named.
pub async fn of_namespace(namespace: &TestNamespace) -> String {
    let (client, name) = (&namespace.client, namespace.name.as_str());
    let mut text = String::new();
    yaml::<ModelDeployment>(&mut text, client, name, "ModelDeployments").await;
    yaml::<ModelRoute>(&mut text, client, name, "ModelRoutes").await;
    events(&mut text, client, name).await;
    pods(&mut text, client, name, "", LOG_LINES, None).await;
    heading(&mut text, "operator");
    pods(&mut text, client, OPERATOR_NAMESPACE, OPERATOR_PODS, OPERATOR_LINES, Some(name)).await;
    text
}

fn heading(text: &mut String, title: &str) {
    let _ = writeln!(text, "--- {title}");
}

async fn yaml<K>(text: &mut String, client: &Client, namespace: &str, title: &str)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    heading(text, title);
    match Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await {
        Ok(list) => {
            for mut object in list {
                object.managed_fields_mut().clear();
                text.push_str(&serde_yaml::to_string(&object).unwrap_or_default());
            }
        }
        Err(error) => {
            let _ = writeln!(text, "cannot be listed: {error}");
        }
    }
}

async fn events(text: &mut String, client: &Client, namespace: &str) {
    heading(text, "Events");
    match Api::<Event>::namespaced(client.clone(), namespace).list(&ListParams::default()).await {
        Ok(mut list) => {
            list.items.sort_by_key(|event| event.metadata.creation_timestamp.clone());
            for event in list {
                let object = event.regarding.unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{} {} {}/{}: {}",
                    event.type_.unwrap_or_default(),
                    event.reason.unwrap_or_default(),
                    object.kind.unwrap_or_default(),
                    object.name.unwrap_or_default(),
                    event.note.unwrap_or_default()
                );
            }
        }
        Err(error) => {
            let _ = writeln!(text, "cannot be listed: {error}");
        }
    }
}

/// States and logs of pods; of the logs only the lines that hold `about`, where it is given.
async fn pods(
    text: &mut String,
    client: &Client,
    namespace: &str,
    labels: &str,
    lines: i64,
    about: Option<&str>,
) {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let list = match api.list(&ListParams::default().labels(labels)).await {
        Ok(list) => list,
        Err(error) => {
            let _ = writeln!(text, "pods of {namespace} cannot be listed: {error}");
            return;
        }
    };
    for pod in list {
        let name = pod.name_any();
        let status = pod.status.unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let described: Vec<String> = containers.iter().map(container).collect();
        let phase = status.phase.unwrap_or_default();
        heading(text, &format!("pod {name}: {phase}; {}", described.join("; ")));
        let restarted = containers.iter().any(|container| container.restart_count > 0);
        for previous in [true, false].into_iter().skip(usize::from(!restarted)) {
            let wanted = LogParams { tail_lines: Some(lines), previous, ..LogParams::default() };
            match api.logs(&name, &wanted).await {
                Ok(log) => {
                    for line in log.lines().filter(|line| about.is_none_or(|about| line.contains(about))) {
                        let _ =
                            writeln!(text, "{}{line}", if previous { "(before the restart) " } else { "" });
                    }
                }
                Err(error) => {
                    let _ = writeln!(text, "no log: {error}");
                }
            }
        }
    }
}

/// The state of a container in a few words.
fn container(status: &ContainerStatus) -> String {
    let mut words = format!("{} ready={} restarts={}", status.name, status.ready, status.restart_count);
    let state = status.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        let _ = write!(
            words,
            " waiting: {} {}",
            waiting.reason.unwrap_or_default(),
            waiting.message.unwrap_or_default()
        );
    }
    let last = status.last_state.clone().unwrap_or_default().terminated;
    if let Some(ended) = state.terminated.or(last) {
        let (reason, message) = (ended.reason.unwrap_or_default(), ended.message.unwrap_or_default());
        let _ = write!(words, " ended with {}: {reason} {message}", ended.exit_code);
    }
    words
}
