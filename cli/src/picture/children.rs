//! Revisions with their pods and their share of the traffic, as the cluster has them now.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use serde::Serialize;
use stoker_api::ModelRoute;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::labels;

use super::Look;

/// A revision that has pods, or should have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Its name, which its Deployment and Service have too.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Percent of the traffic that routers give it, by the table that is in force; none without one.
    pub percent: Option<f64>,
    /// Percent of stable's requests that are copied to it.
    pub copies_percent: Option<f64>,
    /// Why routers cut it in this run.
    pub cut: Option<String>,
    /// Ready pods; none where its Deployment was not seen.
    pub ready: Option<u32>,
    /// Wanted pods.
    pub wanted: Option<u32>,
    /// For how many seconds the previous revision has been kept.
    pub kept_seconds: Option<u64>,
    /// Its pods.
    pub pods: Vec<PodLine>,
}

/// What a revision is to its ModelDeployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It has the traffic.
    Stable,
    /// It is tried.
    Candidate,
    /// It was stable before.
    Previous,
    /// Its last requests are awaited.
    #[default]
    Leaving,
}

impl Role {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::Previous => "previous",
            Self::Leaving => "leaving",
        }
    }
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLine {
    /// Its name.
    pub name: String,
    /// What it is at, in one word: its phase, or what keeps its container.
    pub state: String,
    /// Whether it answers.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: i32,
    /// For how many seconds it has been there.
    pub age_seconds: Option<i64>,
}

/// The revisions that a status names, stable first.
pub fn revisions(status: &ModelDeploymentStatus, look: &Look) -> Vec<Revision> {
    let stable = status.stable.iter().map(|name| (name, Role::Stable, None));
    let candidate = status.candidate.iter().map(|name| (name, Role::Candidate, None));
    let previous = status.previous.iter().map(|one| (&one.revision, Role::Previous, Some(one.kept_seconds)));
    let leaving = status.leaving.iter().map(|name| (name, Role::Leaving, None));
    let mut revisions: Vec<Revision> = Vec::new();
    for (name, role, kept_seconds) in stable.chain(candidate).chain(previous).chain(leaving) {
        // In an undo the candidate is the previous revision as well.
        if revisions.iter().all(|known| known.name != *name) {
            revisions.push(Revision { kept_seconds, ..revision(name, role, look) });
        }
    }
    revisions
}

fn revision(name: &str, role: Role, look: &Look) -> Revision {
    let workload = look.workloads.iter().find(|one| label(one.metadata.labels.as_ref()) == Some(name));
    let (ready, wanted) = workload.map(sizes).unzip();
    let mut pods: Vec<_> = look
        .pods
        .iter()
        .filter(|pod| label(pod.metadata.labels.as_ref()) == Some(name))
        .map(|pod| line(pod, look))
        .collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    let route = look.route.as_ref();
    Revision {
        name: name.to_owned(),
        role,
        percent: route.and_then(|route| share(route, name)),
        copies_percent: route.and_then(|route| copies(route, name)),
        cut: route.and_then(|route| cut(route, name)),
        ready,
        wanted,
        kept_seconds: None,
        pods,
    }
}

fn label(labels: Option<&BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(labels::REVISION).map(String::as_str)
}

fn sizes(workload: &Deployment) -> (u32, u32) {
    let count = |number: Option<i32>| u32::try_from(number.unwrap_or_default()).unwrap_or_default();
    let ready = workload.status.as_ref().and_then(|status| status.ready_replicas);
    let wanted = workload.spec.as_ref().map_or(Some(1), |spec| spec.replicas.or(Some(1)));
    (count(ready), count(wanted))
}

/// Percent of the traffic, by the table and the cuts that are in force.
fn share(route: &ModelRoute, revision: &str) -> Option<f64> {
    let rule = route.spec.main_rule()?;
    if cut(route, revision).is_some() {
        return Some(0.0);
    }
    let own = rule.arms.iter().find(|arm| arm.revision == revision).map_or(0, |arm| arm.ppm);
    // What was cut goes to whoever it falls back to.
    let cuts: u32 = rule
        .arms
        .iter()
        .filter(|arm| arm.fallback.as_deref() == Some(revision) && cut(route, &arm.revision).is_some())
        .map(|arm| arm.ppm)
        .sum();
    Some(percent(own + cuts))
}

fn copies(route: &ModelRoute, revision: &str) -> Option<f64> {
    let mirror = route.spec.mirrors.iter().find(|mirror| mirror.revision == revision)?;
    Some(percent(mirror.ppm))
}

fn percent(ppm: u32) -> f64 {
    f64::from(ppm) / 1e4
}

/// Why routers cut a revision in the run that the table belongs to.
pub fn cut(route: &ModelRoute, revision: &str) -> Option<String> {
    let cuts = &route.status.as_ref()?.cuts;
    let cut = cuts.iter().find(|cut| cut.run == route.spec.run && cut.revision == revision)?;
    Some(format!("{} (cut by router {})", cut.because, cut.by))
}

fn line(pod: &Pod, look: &Look) -> PodLine {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let restarts = containers.into_iter().flatten().map(|container| container.restart_count).sum();
    let ready = status.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let trouble =
        init.into_iter().chain(containers).flatten().find_map(|container| keeps(container.state.as_ref()?));
    let phase = status.and_then(|status| status.phase.clone());
    let state = if pod.metadata.deletion_timestamp.is_some() {
        "Terminating".to_owned()
    } else {
        trouble.or(phase).unwrap_or_else(|| "Unknown".to_owned())
    };
    let created = pod.metadata.creation_timestamp.as_ref();
    PodLine {
        name: pod.metadata.name.clone().unwrap_or_default(),
        state,
        ready,
        restarts,
        age_seconds: created.map(|since| look.now.as_second() - since.0.as_second()),
    }
}

/// What keeps a container from running, in one word.
fn keeps(state: &ContainerState) -> Option<String> {
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0);
    let ended = ended.map(|ended| match &ended.reason {
        Some(reason) if reason != "Error" => reason.clone(),
        _ => format!("ended with {}", ended.exit_code),
    });
    // While it is started, the kubelet says so of each container.
    waiting.filter(|reason| reason != "PodInitializing").or(ended)
}
