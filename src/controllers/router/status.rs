//! The status of a ModelRouter: composed from the outcome of a look (pure), written when it says something new.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use stoker_api::ModelRouter;
use stoker_api::names::{conditions, managers, reasons};
use stoker_api::router::ModelRouterStatus;

use super::{Error, Standing};
use stoker_decide::text::cut;

use crate::build::router as build;
use crate::call::CallError;
use crate::context::Context;
use crate::report::conditions::{Wanted, update};

/// Longest message, in bytes; also the longest note of an Event.
const LONGEST: usize = 1024;

/// The status after a look.
pub(super) fn compose(
    router: &ModelRouter,
    outcome: Result<&Standing, &Error>,
    now: &Time,
) -> ModelRouterStatus {
    let mut status = router.status.clone().unwrap_or_default();
    let generation = router.metadata.generation.unwrap_or_default();
    let wanted = i32::try_from(router.spec.replicas).unwrap_or(i32::MAX);
    status.observed_generation = generation;
    if let Ok(Standing::Applied(deployment) | Standing::Waiting { live: deployment, .. }) = outcome {
        status.ready_replicas = ready(deployment);
        build::image(deployment).unwrap_or_default().clone_into(&mut status.image);
    }
    let (ready, reason, message) = match outcome {
        Ok(Standing::Waiting { other, .. }) => (
            Some(status.ready_replicas >= wanted),
            reasons::HOLDING,
            format!("the new image waits until the routers of namespace {other} are replaced"),
        ),
        Ok(Standing::Applied(_)) if status.ready_replicas >= wanted => {
            (Some(true), reasons::CONVERGED, "all routers are ready".to_owned())
        }
        Ok(Standing::Applied(deployment)) => {
            let trouble = trouble(deployment).map(|why| format!(": {why}")).unwrap_or_default();
            (
                Some(false),
                reasons::HOLDING,
                format!("{} of {wanted} routers are ready{trouble}", status.ready_replicas),
            )
        }
        // The routers that run go on; whether they do is not known.
        Err(error) if error.reason() == reasons::RECONCILE_FAILED => {
            (None, error.reason(), error.to_string())
        }
        Err(error) => (Some(false), error.reason(), error.to_string()),
    };
    let message = cut(&message, LONGEST).to_owned();
    let wanted = vec![Wanted { type_: conditions::READY, status: ready, reason, message }];
    status.conditions = update(&status.conditions, wanted, generation, now);
    status
}

/// Routers that are ready, by the last count that belongs to the present spec or an earlier one.
fn ready(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

/// Why pods cannot be made, or are not ready for too long, if the Deployment knows.
fn trouble(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let find = |type_: &str, status: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status)?
            .message
            .clone()
    };
    find("ReplicaFailure", "True").or_else(|| find("Progressing", "False"))
}

/// Writes a status if it says something new, and an Event if the routers got ready or unready by it.
pub(super) async fn write(
    ctx: &Context,
    router: &ModelRouter,
    status: ModelRouterStatus,
) -> Result<(), CallError> {
    let old = router.status.clone().unwrap_or_default();
    if old == status {
        return Ok(());
    }
    let name = router.name_any();
    let api: Api<ModelRouter> = Api::namespaced(ctx.client.clone(), &router.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": ModelRouter::api_version(&()),
        "kind": ModelRouter::kind(&()),
        // Refused when the object has changed since: a deposed leader's word does not count.
        "metadata": {"name": name, "resourceVersion": router.resource_version()},
        "status": status,
    });
    let params = PatchParams::apply(managers::STATUS).force();
    ctx.calls
        .make("patch ModelRouter status", &name, api.patch_status(&name, &params, &Patch::Apply(&body)))
        .await?;
    publish(ctx, router, &old, &status).await;
    Ok(())
}

/// An Event for a transition. It is for people: a failed publication is logged and dropped.
async fn publish(ctx: &Context, router: &ModelRouter, old: &ModelRouterStatus, new: &ModelRouterStatus) {
    let gist = |status: &ModelRouterStatus| {
        status.conditions.first().map(|ready| (ready.status.clone(), ready.reason.clone()))
    };
    let Some(ready) = new.conditions.first().filter(|_| gist(old) != gist(new)) else { return };
    let event = Event {
        type_: if ready.status == "True" { EventType::Normal } else { EventType::Warning },
        reason: ready.reason.clone(),
        note: Some(ready.message.clone()),
        // The recorder joins Events of one (reason, action) and keeps the first note, so the action differs for each.
        action: cut(&format!("{} {}", ready.status, ready.message), 128).to_owned(),
        secondary: None,
    };
    let published = ctx
        .calls
        .make("create Event", &ready.reason, ctx.recorder.publish(&event, &router.object_ref(&())))
        .await;
    if let Err(error) = published {
        tracing::warn!(namespace = router.namespace(), %error, "an Event could not be published");
    }
}
