//! What is wrong with the pods of a revision, in words. Pure, over pods and Deployments as the API server shows them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod};
use kube::ResourceExt;
use stoker_decide::rollout::{Pods, Trouble};

use crate::build::foreign::FETCH;

/// The exit code with which Stoker's server says that the artifact itself is bad.
const BAD_ARTIFACT: i32 = 65;

/// Reasons for which a kubelet waits that need someone to do something.
const STUCK: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// How a runtime names the end of a container that it knows nothing of: its node went down, or was started anew.
const LOST: [&str; 2] = ["Unknown", "ContainerStatusUnknown"];

/// The pods of a revision: how many are ready, and what is wrong with the worst of them. `wanted` is how many there
/// should be.
pub fn summarise(deployment: &Deployment, wanted: u32, pods: &[&Pod], events: &[Event]) -> Pods {
    let status = deployment.status.as_ref();
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let current = status.is_some_and(|status| status.observed_generation == deployment.metadata.generation);
    // Those that are there are enough, also before its controller takes notice.
    let shrinks = count(status.and_then(|status| status.replicas)) > wanted;
    let sized = deployment.spec.as_ref().and_then(|spec| spec.replicas) == i32::try_from(wanted).ok();
    // It is about to be made smaller, and pods that are not ready go first.
    let larger = count(deployment.spec.as_ref().and_then(|spec| spec.replicas)) > wanted && wanted > 0;
    let ready = count(status.and_then(|status| status.ready_replicas));
    // A Deployment that still has another size is not complete, whatever it counts.
    let complete = (sized && (current || shrinks)) || (larger && ready >= wanted);
    let ready = if complete { ready } else { ready.min(wanted.saturating_sub(1)) };
    let trouble =
        pods.iter().find_map(|pod| pod_trouble(pod, events)).or_else(|| replica_failure(deployment));
    let (restarts, last_end) = restarts(pods);
    let there = count(status.and_then(|status| status.replicas));
    let standing = pods.iter().filter(|pod| !has_ended(pod)).count();
    let standing = u32::try_from(standing).unwrap_or(u32::MAX).max(there);
    Pods { wanted, enough: None, ready, there, standing, trouble, restarts, last_end }
}

/// All of its containers have ended, so that it takes no room.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// How often containers were started again after an end with an error of their own, and how the last of them ended.
fn restarts(pods: &[&Pod]) -> (u32, Option<String>) {
    let mut total = 0_u32;
    let mut last = None;
    for pod in pods {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        for container in statuses.into_iter().flatten() {
            let by_itself = |ended: &&ContainerStateTerminated| ended.exit_code != 0 && !is_lost(ended);
            let Some(ended) = last_end(container.last_state.as_ref()).filter(by_itself) else { continue };
            total = total.saturating_add(u32::try_from(container.restart_count).unwrap_or(0));
            last = Some(how_it_ended(&pod.name_any(), &container.name, ended));
        }
    }
    (total, last)
}

/// What is wrong with a pod, if anything is.
pub fn pod_trouble(pod: &Pod, events: &[Event]) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    // Evicted, or of a node that shut down: it stays in the list for good, and another one took its place.
    if has_failed(pod) && replaced(pod) {
        return None;
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut containers = containers;
    // In such a pod the server is another one, and so are its exit codes.
    let is_foreign = status.init_container_statuses.iter().flatten().any(|container| container.name == FETCH);
    containers
        .find_map(|container| container_trouble(&name, container, is_foreign && container.name != FETCH))
        .or_else(|| unscheduled(pod))
        .or_else(|| unmounted(pod, events))
}

/// Whether a pod has ended for good: nothing starts it again.
pub fn has_failed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
}

/// Whether a pod that ended for good is made anew by its owner. A resolver has no such owner.
fn replaced(pod: &Pod) -> bool {
    pod.owner_references().iter().any(|owner| owner.kind == "ReplicaSet")
}

fn container_trouble(pod: &str, container: &ContainerStatus, is_foreign: bool) -> Option<Trouble> {
    if container.ready {
        return None;
    }
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if STUCK.contains(&reason) {
            let message = waiting.message.as_deref().unwrap_or("no further message");
            return Some(Trouble {
                what: format!("pod {pod}: {reason}: {message}"),
                permanent: false,
                crashed: false,
            });
        }
    }
    let ended = state.terminated.as_ref().or_else(|| last_end(container.last_state.as_ref()))?;
    if ended.exit_code == 0 {
        return None;
    }
    if is_lost(ended) {
        let what = format!("pod {pod} was lost when its node went down, and is started again");
        return Some(Trouble { what, permanent: false, crashed: false });
    }
    let what = how_it_ended(pod, &container.name, ended);
    let restarts = container.restart_count;
    let what = if restarts > 1 { format!("{what} ({restarts} restarts)") } else { what };
    Some(Trouble { what, permanent: ended.exit_code == BAD_ARTIFACT && !is_foreign, crashed: true })
}

/// How a container ended, with what it said at its end.
fn how_it_ended(pod: &str, container: &str, ended: &ContainerStateTerminated) -> String {
    let message = ended.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    if ended.reason.as_deref() == Some("OOMKilled") && container == FETCH {
        format!(
            "pod {pod}: the container that fetches the model was killed for memory; the model's server sent too much at once"
        )
    } else if ended.reason.as_deref() == Some("OOMKilled") {
        format!(
            "pod {pod} was killed because it used more memory than its limit; raise spec.runtime.resources.limits.memory"
        )
    } else if let Some(message) = message {
        format!("pod {pod} ended with {}: {message}", ended.exit_code)
    } else {
        format!(
            "pod {pod} ended with {} and left no message; see `kubectl logs --previous {pod}`",
            ended.exit_code
        )
    }
}

/// Whether a container ended with its node: nothing that it did.
fn is_lost(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref().is_some_and(|reason| LOST.contains(&reason))
}

fn last_end(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state?.terminated.as_ref()
}

/// No node takes the pod.
fn unscheduled(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = scheduled.message.as_deref().unwrap_or("no node fits");
    Some(Trouble {
        what: format!("pod {} cannot be scheduled: {message}", pod.name_any()),
        permanent: false,
        crashed: false,
    })
}

/// A volume is missing: only an Event says so.
fn unmounted(pod: &Pod, events: &[Event]) -> Option<Trouble> {
    let uid = pod.uid()?;
    let about = |event: &&Event| {
        event.involved_object.uid.as_deref() == Some(uid.as_str())
            && event.reason.as_deref() == Some("FailedMount")
    };
    let message = events.iter().filter(about).filter_map(|event| event.message.as_deref()).next_back()?;
    Some(Trouble { what: format!("pod {}: {message}", pod.name_any()), permanent: false, crashed: false })
}

/// Whether the pod has been waiting for its volumes or network, so that Events are worth a look. A kubelet has another word for it
/// in a pod that has init containers.
pub fn is_creating(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let waits = |container: &ContainerStatus, word: &str| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(word))
    };
    let mut inits = status.init_container_statuses.iter().flatten();
    let mut others = status.container_statuses.iter().flatten();
    inits.any(|container| waits(container, "PodInitializing"))
        || others.any(|container| waits(container, "ContainerCreating"))
}

/// Pods cannot even be made (quota, admission).
fn replica_failure(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.as_deref().unwrap_or("no further message");
    Some(Trouble {
        what: format!("pods of {} cannot be made: {message}", deployment.name_any()),
        permanent: false,
        crashed: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: &Value, conditions: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u1"},
            "status": {"conditions": conditions, "containerStatuses": [container]},
        }))
        .unwrap()
    }

    fn container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "server", "image": "x", "imageID": "", "ready": ready, "restartCount": 3, "state": state, "lastState": last})
    }

    #[test]
    fn troubles_are_told_with_the_pod_and_the_cause() {
        let ended = |code: i32, reason: &str, message: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        // (container, part of the sentence, permanent, crashed)
        let cases = [
            (
                container(false, &waiting("ImagePullBackOff", "no such image"), &json!({})),
                "no such image",
                false,
                false,
            ),
            (
                container(
                    false,
                    &waiting("CreateContainerConfigError", "secret \"s\" not found"),
                    &json!({}),
                ),
                "secret \"s\"",
                false,
                false,
            ),
            (
                container(
                    false,
                    &waiting("CrashLoopBackOff", "x"),
                    &ended(65, "Error", "digest is a, not b"),
                ),
                "digest is a, not b",
                true,
                true,
            ),
            (
                container(false, &waiting("CrashLoopBackOff", "x"), &ended(137, "OOMKilled", "")),
                "more memory",
                false,
                true,
            ),
            (container(false, &ended(1, "Error", ""), &json!({})), "kubectl logs", false, true),
        ];
        for (container, part, permanent, crashed) in cases {
            let trouble = pod_trouble(&pod(&container, &json!([])), &[]).unwrap();
            assert!(trouble.what.contains(part) && trouble.what.contains("pod p"), "{}", trouble.what);
            assert_eq!((trouble.permanent, trouble.crashed), (permanent, crashed), "{}", trouble.what);
        }
    }

    #[test]
    fn what_heals_by_itself_is_no_trouble() {
        let running = container(true, &json!({"running": {}}), &json!({"terminated": {"exitCode": 1}}));
        let creating = container(false, &json!({"waiting": {"reason": "ContainerCreating"}}), &json!({}));
        assert_eq!(pod_trouble(&pod(&running, &json!([])), &[]), None);
        assert_eq!(pod_trouble(&pod(&creating, &json!([])), &[]), None);
    }

    #[test]
    fn a_pod_that_was_evicted_is_no_crash() {
        let ended =
            container(false, &json!({"terminated": {"exitCode": 137, "reason": "Error"}}), &json!({}));
        let mut evicted = pod(&ended, &json!([]));
        evicted.status.as_mut().unwrap().phase = Some("Failed".into());
        assert!(pod_trouble(&evicted, &[]).is_some(), "nobody makes this one anew");
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u2"}]);
        evicted.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
        assert_eq!(pod_trouble(&evicted, &[]), None);
    }

    /// Argo Rollouts 4692: what the cluster did was counted against the version. Ours: containers that went down with their node
    /// are started again, and that is no harm of theirs; an end of their own is.
    #[test]
    fn containers_that_went_down_with_their_node_did_no_harm() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"readyReplicas": 1},
        }))
        .unwrap();
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let running = json!({"running": {}});
        for (code, reason, harm) in [
            (255, "Unknown", false),
            (137, "ContainerStatusUnknown", false),
            (255, "Error", true),
            (137, "OOMKilled", true),
        ] {
            // Ready again, still starting, and not started yet.
            let again = pod(&container(true, &running, &ended(code, reason)), &json!([]));
            let pods = summarise(&deployment, 1, &[&again], &[]);
            assert_eq!(pods.restarts > 0, harm, "{reason}");
            for state in [(&running, &ended(code, reason)), (&ended(code, reason), &json!({}))] {
                let trouble =
                    pod_trouble(&pod(&container(false, state.0, state.1), &json!([])), &[]).unwrap();
                assert_eq!(trouble.crashed, harm, "{reason}: {}", trouble.what);
            }
        }
    }

    #[test]
    fn the_words_and_codes_of_another_server_are_its_own() {
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let mut other = pod(&container(false, &ended(65, "Error"), &json!({})), &json!([]));
        assert!(pod_trouble(&other, &[]).unwrap().permanent, "of Stoker's server");
        let mut fetch = container(true, &ended(0, "Completed"), &json!({}));
        fetch["name"] = json!(FETCH);
        let inits = |status: &Value| Some(vec![serde_json::from_value(status.clone()).unwrap()]);
        other.status.as_mut().unwrap().init_container_statuses = inits(&fetch);
        assert!(!pod_trouble(&other, &[]).unwrap().permanent);
        for (code, reason, permanent, words) in
            [(65, "Error", true, "ended with 65"), (137, "OOMKilled", false, "the container that fetches")]
        {
            fetch["ready"] = json!(false);
            fetch["state"] = ended(code, reason);
            other.status.as_mut().unwrap().init_container_statuses = inits(&fetch);
            let trouble = pod_trouble(&other, &[]).unwrap();
            assert!(trouble.permanent == permanent && trouble.what.contains(words), "{trouble:?}");
        }
    }

    #[test]
    fn a_missing_volume_and_a_full_cluster_are_told() {
        let creating = container(false, &json!({"waiting": {"reason": "ContainerCreating"}}), &json!({}));
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {"uid": "u1"}, "reason": "FailedMount", "message": "secret \"token\" not found",
        }))
        .unwrap();
        let pending = pod(&creating, &json!([]));
        assert!(is_creating(&pending));
        let initializing = json!({"name": FETCH, "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "PodInitializing"}}});
        let mut foreign = pod(
            &container(false, &json!({"waiting": {"reason": "PodInitializing"}}), &json!({})),
            &json!([]),
        );
        assert!(!is_creating(&foreign), "its first container runs");
        foreign.status.as_mut().unwrap().init_container_statuses =
            Some(vec![serde_json::from_value(initializing).unwrap()]);
        assert!(is_creating(&foreign));
        assert!(pod_trouble(&pending, &[event]).unwrap().what.contains("secret \"token\" not found"));
        let full =
            pod(&creating, &json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes fit"}]));
        assert!(pod_trouble(&full, &[]).unwrap().what.contains("0/1 nodes fit"));
    }

    #[test]
    fn a_deployment_of_another_size_is_not_complete() {
        let deployment = |replicas: i32, observed: i64| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": "d", "generation": 2},
                "spec": {"replicas": replicas, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "readyReplicas": 2},
            }))
            .unwrap()
        };
        assert!(summarise(&deployment(2, 2), 2, &[], &[]).complete());
        assert!(!summarise(&deployment(1, 2), 2, &[], &[]).complete());
        assert!(!summarise(&deployment(2, 1), 2, &[], &[]).complete());
        // It gets smaller, and its controller did not look yet.
        let mut shrinking = deployment(1, 1);
        shrinking.status.as_mut().unwrap().replicas = Some(2);
        assert!(summarise(&shrinking, 1, &[], &[]).complete());
    }
}
