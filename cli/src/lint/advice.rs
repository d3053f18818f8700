//! What the operator would refuse although the API server takes it, and what a person with experience would warn of. Pure.
//!
//! Each warning says what may happen, not only what differs from a habit. What is right in some places is warned of only where it
//! is likely not meant.

use std::time::Duration;

use serde_json::Value;
use stoker_api::ModelDeployment;
use stoker_api::deployment::rollout::{Capacity, OnInconclusive, probability};
use stoker_api::deployment::spec::ResourceQuantity;
use stoker_api::deployment::{ModelDeploymentSpec, RollbackMode, Step, Strategy};
use stoker_api::names::annotations;

use super::Remark;
use super::rules::{Kind, defaulted};
use stoker_api::quantity::quantity;

/// All remarks about a ModelDeployment that is valid.
pub fn advise(object: &Value) -> Vec<Remark> {
    let parsed: Result<ModelDeployment, _> = serde_json::from_value(defaulted(Kind::Deployment, object));
    let md = match parsed {
        Ok(md) => md,
        // Schema and rules took it: the two would contradict the types.
        Err(error) => {
            return vec![Remark::error("type", "spec", error.to_string(), "the operator could not read it")];
        }
    };
    let written = |path: &str| object.pointer(path).is_some();
    let mut found = Vec::new();
    metadata(&md, &written, &mut found);
    model(&md.spec, &mut found);
    runtime(&md.spec, &mut found);
    size(&md.spec, &written, &mut found);
    rollout(&md.spec, &mut found);
    queries(&md.spec, &mut found);
    rollback(&md, &mut found);
    found
}

fn metadata(md: &ModelDeployment, written: &dyn Fn(&str) -> bool, found: &mut Vec<Remark>) {
    if written("/status") {
        let message = "a status is written by the operator alone, and is dropped here";
        found.push(Remark::warning("status", "status", message, "take it out"));
    }
    let given = md.metadata.annotations.as_ref();
    if given.is_some_and(|given| given.contains_key(annotations::REQUEST)) {
        let field = format!("metadata.annotations.{}", annotations::REQUEST);
        let message = "an action in a manifest is asked for again whenever somebody asks for another one meanwhile, and Git puts this one back";
        found.push(Remark::warning("request-in-git", field, message, "take it out; ask with kubectl stoker"));
    }
}

fn model(spec: &ModelDeploymentSpec, found: &mut Vec<Remark>) {
    let (uri, digest) = (&spec.model.uri, &spec.model.digest);
    let field = "spec.model.uri";
    if uri.starts_with("http://") && digest.is_none() {
        let message = "it comes over plain HTTP without a digest: whoever is on the way can change the model";
        found.push(Remark::warning("plain-http", field, message, "use https://, or give model.digest"));
    } else if digest.is_none() && !uri.starts_with("configmap://") {
        let message = "without a digest the first download decides what the model is, and another file at the same address is no new revision";
        let hint = "give model.digest, as `sha256sum FILE` prints it after sha256:";
        found.push(Remark::warning("no-digest", "spec.model", message, hint));
    }
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    if ["latest", "main", "master"].iter().any(|word| last.split('.').next() == Some(*word))
        && digest.is_none()
    {
        let message =
            format!("{last} names no version: two revisions of it look the same in history and undo");
        found.push(Remark::warning("floating-uri", field, message, "name the version in the address"));
    }
}

fn runtime(spec: &ModelDeploymentSpec, found: &mut Vec<Remark>) {
    let runtime = &spec.runtime;
    if let Some(image) = &runtime.image {
        let name = image.rsplit('/').next().unwrap_or_default();
        let floats = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        if floats {
            let message =
                format!("image {image} names no version: pods of one revision may run different servers");
            found.push(Remark::warning(
                "floating-image",
                "spec.runtime.image",
                message,
                "give it a tag or a digest",
            ));
        }
    }
    let read = |value: &ResourceQuantity| {
        quantity(&k8s_openapi::apimachinery::pkg::api::resource::Quantity::from(value).0)
    };
    for (name, limit) in &runtime.resources.limits {
        let request = runtime.resources.requests.get(name);
        if let (Some(request), Some(limit)) = (request.and_then(read), read(limit))
            && request > limit
        {
            let field = format!("spec.runtime.resources.requests.{name}");
            let message = "more is requested than the limit allows: the API server refuses such pods";
            found.push(Remark::error(
                "request-above-limit",
                field,
                message,
                "raise the limit, or request less",
            ));
        }
    }
    if let Some(cpu) = runtime.resources.limits.get("cpu").and_then(read).filter(|cpu| *cpu < 0.1) {
        let message = format!("{cpu} of a CPU starves the pods: answers come late, and probes fail");
        found.push(Remark::warning(
            "little-cpu",
            "spec.runtime.resources.limits.cpu",
            message,
            "allow at least 100m",
        ));
    }
}

fn size(spec: &ModelDeploymentSpec, written: &dyn Fn(&str) -> bool, found: &mut Vec<Remark>) {
    let Some(scaling) = &spec.scaling else {
        match spec.replicas {
            0 => {
                let message = "nothing serves with 0 pods, and a new version takes over without any trial";
                found.push(Remark::warning(
                    "no-pods",
                    "spec.replicas",
                    message,
                    "give it at least 1, or take it away",
                ));
            }
            1 => {
                let message = "one pod is no pod while its node is drained or restarted";
                found.push(Remark::warning("one-pod", "spec.replicas", message, "give it at least 2"));
            }
            _ => {}
        }
        return;
    };
    if spec.is_counted_elsewhere() {
        if written("/spec/replicas") {
            let message = "another autoscaler writes it (scaling.mode: External), and whoever applies this manifest sets it back";
            found.push(Remark::warning(
                "replicas-in-git",
                "spec.replicas",
                message,
                "take it out of the manifest",
            ));
        }
        return;
    }
    let bounds = scaling.bounds();
    if bounds.min == 1 && bounds.zero_after.is_none() {
        let message = "at low demand there is one pod, and none while its node is drained or restarted";
        found.push(Remark::warning("one-pod", "spec.scaling.minReplicas", message, "give it at least 2"));
    }
    if bounds.zero_after.is_some_and(|after| after < Duration::from_mins(2)) {
        let message =
            "pods go after less than two minutes without a request: each lull costs somebody a cold start";
        found.push(Remark::warning(
            "hasty-sleep",
            "spec.scaling.scaleToZeroAfter",
            message,
            "give it some minutes",
        ));
    }
}

fn rollout(spec: &ModelDeploymentSpec, found: &mut Vec<Remark>) {
    let plan = spec.resolved_rollout().plan();
    let (steps, strategy) = (spec.rollout.steps(), spec.rollout.strategy());
    let weights: Vec<(usize, u32)> = (1..=plan.steps.len())
        .filter(|number| steps.get(number - 1).is_some_and(|step| step.weight.is_some()))
        .map(|number| (number, plan.weight(number)))
        .filter(|(_, weight)| *weight > 0)
        .collect();
    let at = |number: usize, field: &str| format!("spec.rollout.steps[{}].{field}", number - 1);
    if strategy == Strategy::Recreate {
        let message = "nobody is served from the moment the old pods go until the new ones are ready, and again on a way back";
        let hint =
            "where there is room for both, leave it out; where there is none, give `approval: Required`";
        let gated = spec.rollout.approval.is_some();
        found.extend((!gated).then(|| Remark::warning("gap", "spec.rollout.strategy", message, hint)));
    } else if strategy == Strategy::BlueGreen && !is_looked_at(spec) {
        let message = "nothing looks at the preview: no shadow step, metric, alert or approval; when its time is over it gets all of the traffic, whatever it answers";
        let hint = "give it a step of `shadow`, or `approval: Required`";
        found.push(Remark::warning("blind-preview", "spec.rollout.strategy", message, hint));
    } else if plan.steps.is_empty() {
        let message = "without steps a new version gets all the traffic as soon as its pods are ready";
        found.push(Remark::warning(
            "no-steps",
            "spec.rollout.steps",
            message,
            "give it steps, such as {weight: 10}",
        ));
    }
    if let Some((number, weight)) = weights.first().filter(|(_, weight)| *weight > 50) {
        let message =
            format!("the first weight is {weight} %: a version that does harm does it to most users");
        found.push(Remark::warning("steep-start", at(*number, "weight"), message, "begin with 10 or less"));
    }
    if let Some((number, weight)) = weights.last().filter(|(_, weight)| *weight < 20) {
        let message = format!(
            "after {weight} % all the traffic follows: load that breaks the new version is seen only then"
        );
        found.push(Remark::warning("steep-end", at(*number, "weight"), message, "add a step of about 50"));
    }
    let rolls_back = spec.rollout.analysis.on_inconclusive == OnInconclusive::Rollback;
    if rolls_back
        && spec.rollout.analysis.inconclusive_deadline < kube::core::Duration::from(Duration::from_mins(10))
    {
        let message = "without requests for less than ten minutes the new version is taken back, and is not tried again by itself";
        let hint = "give it the longest lull of your traffic";
        found.push(Remark::warning(
            "hasty-rollback",
            "spec.rollout.analysis.inconclusiveDeadline",
            message,
            hint,
        ));
    }
    if plan.guard.is_zero() && !plan.steps.is_empty() {
        let message =
            "without a guard nobody compares after the promotion: what shows up late is not taken back";
        found.push(Remark::warning(
            "no-guard",
            "spec.rollout.guard.duration",
            message,
            "give it some minutes at least",
        ));
    } else if plan.holdback == 0 && strategy == Strategy::Canary && !plan.steps.is_empty() {
        let message = "with a holdback of 0 the guard compares with what was, and not with what is: an incident that hits everybody looks like harm";
        found.push(Remark::warning("no-control", "spec.rollout.guard.holdback", message, "leave it at 1"));
    }
    if plan.progress_deadline < Duration::from_secs(60) {
        let message = "pods that pull an image and load a model within less than a minute are rare; whose are not is taken back";
        found.push(Remark::warning(
            "hasty-deadline",
            "spec.rollout.progressDeadline",
            message,
            "give it some minutes",
        ));
    }
    if plan.capacity == Capacity::Proportional.into() && spec.replicas == 1 && spec.scaling.is_none() {
        let message = "with one pod each revision has one at any weight: Proportional saves nothing, and a way back has to wait all the same";
        found.push(Remark::warning("no-shares", "spec.rollout.capacity", message, "leave it at Full"));
    }
}

/// Whether anything judges a candidate before it has traffic.
fn is_looked_at(spec: &ModelDeploymentSpec) -> bool {
    let rollout = &spec.rollout;
    let steps = rollout.steps();
    rollout.approval.is_some()
        || steps.iter().any(|step| step.approval.is_some() || step.shadow.is_some() || is_endless(step))
        || !rollout.analysis.metrics.is_empty()
        || !spec.rollback.alerts.is_empty()
}

/// A pause that somebody has to end.
fn is_endless(step: &Step) -> bool {
    step.pause.is_some() && step.duration.is_none()
}

fn queries(spec: &ModelDeploymentSpec, found: &mut Vec<Remark>) {
    for (number, metric) in spec.rollout.analysis.metrics.iter().enumerate() {
        let field = format!("spec.rollout.analysis.metrics[{number}].query");
        if let Err(error) = stoker_query::check(&metric.query) {
            let hint = "the rollout would hold until it is right; docs/analysis.md says what a query may be";
            found.push(Remark::error("promql", field, error.to_string(), hint));
        } else if !metric.query.contains("$revision") {
            let message =
                "the query is the same for all revisions: stable's requests hide what the candidate does";
            let hint = "select the candidate's own, by revision=\"$revision\"";
            found.push(Remark::warning("any-revision", field, message, hint));
        }
    }
}

fn rollback(md: &ModelDeployment, found: &mut Vec<Remark>) {
    let rollback = &md.spec.rollback;
    if rollback.mode == RollbackMode::Observe {
        let message = "harm is told, and nothing is taken back: somebody must watch";
        found.push(Remark::warning(
            "observe",
            "spec.rollback.mode",
            message,
            "use Enforce once you trust it",
        ));
    }
    if Duration::from(rollback.keep_warm).is_zero() {
        let message = "the previous version's pods go with the promotion: to go back then takes as long as they need to start";
        found.push(Remark::warning(
            "cold-undo",
            "spec.rollback.keepWarm",
            message,
            "keep them for some minutes",
        ));
    }
    for (field, budget) in
        [("perRollout", &rollback.budget.per_rollout), ("perGuardMonth", &rollback.budget.per_guard_month)]
    {
        if probability(budget) > 0.1 {
            let message = format!(
                "{budget} of good versions may be taken back: alarms that are often false are soon ignored"
            );
            let field = format!("spec.rollback.budget.{field}");
            found.push(Remark::warning("wide-budget", field, message, "give it 10% at most"));
        }
    }
    let name = md.metadata.name.as_deref().unwrap_or_default();
    if let Some(good) = &rollback.known_good {
        let hash = good.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
        let is_revision =
            hash.len() == 10 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_revision {
            let message = format!("{good} is no revision of {name}: those are named {name}-<10 hex digits>");
            let hint = format!("choose one of `kubectl stoker history {name}`");
            found.push(Remark::error("no-revision", "spec.rollback.knownGood", message, hint));
        }
    }
}
