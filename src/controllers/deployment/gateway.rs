//! Routes from the user's gateway: written after everything else of a look, and never a reason for it to fail.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry};
use kube::ResourceExt;
use kube::core::object::HasSpec;
use stoker_api::ModelDeployment;
use stoker_api::names::{conditions, managers, reasons};

use crate::apply::{self, Applier, Child};
use crate::build::gateway::{Routes, routes};
use crate::context::Context;
use crate::controllers::memory::Remembered;
use crate::controllers::scaling::News;
use crate::observe::gateway::Found;
use crate::observe::world::World;
use crate::report::conditions::Wanted;
use crate::report::gateway::{Refusal, is_ours, judge};
use crate::report::status::shape;

/// For so long a gateway's controller is looked at every second; after that as everything that is stuck.
const SOON: Duration = Duration::from_mins(1);

/// What a look finds out about a gateway, before anything is written.
pub(super) struct AtGateway {
    /// The routes as they should be.
    routes: Routes,
    /// For status; none where there is nothing to say.
    pub(super) told: Option<Wanted>,
    /// What of that is news.
    turn: Option<News>,
    /// A look must follow soon.
    pub(super) soon: bool,
    /// A look must follow even if nothing else happens.
    pub(super) stuck: bool,
}

/// Judges what was seen (no client).
pub(super) fn judged(
    world: &World,
    taken: &BTreeMap<String, String>,
    memory: &mut Remembered,
    elapsed: Duration,
) -> AtGateway {
    let routes = routes(&world.md, taken);
    let told = judge(&world.md, &routes, world.gateway.as_ref(), memory.gateway_refusal.as_ref());
    let turn = turn(&world.md, told.as_ref());
    let (soon, stuck) = waits(told.as_ref(), memory, elapsed);
    AtGateway { routes, told, turn, soon, stuck }
}

/// Makes the routes of our name what they should be, and says what of that is news. What cannot be written is remembered, and
/// told by the condition of the next look.
pub(super) async fn carry_out(
    ctx: &Context,
    world: &World,
    at_gateway: AtGateway,
    refusal: &mut Option<Refusal>,
) -> Vec<News> {
    *refusal = None;
    let AtGateway { routes: wanted, turn, .. } = at_gateway;
    let Some(view) = &world.gateway else { return Vec::new() };
    ctx.gateways.saw(&world.md, &view.gateway);
    let applier = ctx.applier(&world.md, managers::GATEWAY);
    let done = [
        settle(&applier, ["apply HTTPRoute", "delete HTTPRoute"], wanted.http, &view.http).await,
        settle(&applier, ["apply GRPCRoute", "delete GRPCRoute"], wanted.grpc, &view.grpc).await,
    ];
    let mut news = Vec::from_iter(turn);
    for outcome in done {
        match outcome {
            Ok(told) => news.extend(told),
            Err(error) => {
                *refusal = refused(&error).or(refusal.take());
                // The route may have changed since it was read, or another operator leads: the next look sees.
                tracing::debug!(%error, "a route is left for the next look");
            }
        }
    }
    news
}

/// One route; what was put back, if that is news.
async fn settle<K>(
    applier: &Applier,
    [apply, delete]: [&'static str; 2],
    wanted: Option<K>,
    found: &Found<K>,
) -> Result<Option<News>, apply::Error>
where
    K: Child + HasSpec<Spec: PartialEq>,
{
    let (wanted, live) = match (wanted, found) {
        (_, Found::NoApi | Found::Unreadable(_)) | (None, Found::Absent) => return Ok(None),
        // What is not ours is left alone by this.
        (None, Found::There(live)) => return applier.remove(delete, &**live).await.map(|()| None),
        (Some(wanted), Found::Absent) => (wanted, None),
        (Some(wanted), Found::There(live)) => (wanted, Some(&**live)),
    };
    let ours = live.filter(|live| is_ours(*live, &applier.owner.uid));
    let as_written = ours.is_some_and(|live| applier.applied(&wanted, live));
    if let Some(live) = ours.filter(|_| as_written)
        && live.spec() == wanted.spec()
        && wanted.labels().iter().all(|(name, value)| live.labels().get(name) == Some(value))
    {
        return Ok(None);
    }
    let by = ours.map(|live| changed_by(live.managed_fields())).unwrap_or_default();
    let name = format!("{} {}", K::kind(&()), wanted.name_any());
    // On the heap: it is the rare case, and every caller would carry its size.
    Box::pin(applier.restore(apply, wanted)).await?;
    // Where the digest is another one, it is we who want something else now.
    Ok(as_written.then(|| News {
        reason: reasons::ROUTE_RESTORED,
        message: format!(
            "{name} was changed by {by} and is put back; a route of its own beside it is left alone, and traffic.gatewayRef and \
             traffic.hosts of the ModelDeployment change this one"
        ),
        warning: true,
    }))
}

/// Who wrote the spec last, besides us.
fn changed_by(fields: &[ManagedFieldsEntry]) -> String {
    let others = fields.iter().filter(|entry| {
        entry.manager.as_deref() != Some(managers::GATEWAY)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let last = others.max_by_key(|entry| {
        let spec = entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some());
        (spec, entry.time.as_ref().map(|time| time.0))
    });
    last.and_then(|entry| entry.manager.clone()).unwrap_or_else(|| "another hand".to_owned())
}

/// What a failed write says in the condition; none where the next look may well succeed.
fn refused(error: &apply::Error) -> Option<Refusal> {
    match error {
        apply::Error::Call(call) if call.is_conflict() || call.is_not_sent() => None,
        apply::Error::Conflicted { .. } => Some((error.reason(), error.to_string())),
        apply::Error::Call(call) => {
            let why = call.answer().map_or_else(|| call.to_string(), |answer| answer.message.clone());
            Some((reasons::ROUTE_REFUSED, format!("a route cannot be written or removed: {why}")))
        }
        apply::Error::Serialise(..) => Some((reasons::ROUTE_REFUSED, error.to_string())),
    }
}

/// What the condition says that it did not say before, for an Event.
fn turn(md: &ModelDeployment, now: Option<&Wanted>) -> Option<News> {
    let now = now?;
    let before: Option<&Condition> = md.status.as_ref().and_then(|status| {
        status.conditions.iter().find(|condition| condition.type_ == conditions::GATEWAY_READY)
    });
    let before_was = |status: &str| before.is_some_and(|before| before.status == status);
    let is_news = match now.status {
        Some(true) => !before_was("True"),
        Some(false) => {
            !before_was("False") || before.is_some_and(|before| shape(&before.message) != shape(&now.message))
        }
        // It has only begun, or is being looked into.
        None => false,
    };
    is_news.then(|| News {
        reason: now.reason,
        message: now.message.clone(),
        warning: now.status == Some(false),
    })
}

/// Whether a look must follow soon, and whether one must follow at all before something else happens.
fn waits(now: Option<&Wanted>, memory: &mut Remembered, elapsed: Duration) -> (bool, bool) {
    let unsettled = now.filter(|now| now.status != Some(true));
    let pending = unsettled.is_some_and(|now| now.status.is_none() || now.reason == reasons::ROUTE_LEAVING);
    memory.gateway_waited =
        if pending { memory.gateway_waited.saturating_add(elapsed) } else { Duration::ZERO };
    (pending && memory.gateway_waited < SOON, unsettled.is_some())
}

#[cfg(test)]
mod tests;
