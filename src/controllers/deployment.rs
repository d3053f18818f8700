//! The ModelDeployment's driver: one look every second in a run, otherwise when something changed, and every few minutes for
//! what no watch tells.

mod carry_out;
pub(crate) mod evidence;
mod gateway;
mod signals;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use stoker_api::ModelDeployment;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::{annotations, managers, reasons};
use stoker_api::pause::Pause;
use stoker_api::route::ModelRoute;
use stoker_decide::analysis::Analysis;
use stoker_decide::rollout::{self, Decision, Request, Seen, Standing, State, Wish};
use stoker_decide::text::cut;

use carry_out::carry_out;
use evidence::{Examined, examine, given, was_cut};

use super::memory::Remembered;
use super::scaling::{News, Scale};
use crate::apply;
use crate::build::route;
use crate::call::CallError;
use crate::context::Context;
use crate::observe::routers::RouterView;
use crate::observe::world::{World, version};
use crate::report::rollouts::Look;
use crate::report::{events, status};

/// ModelDeployments that are worked on at the same time.
const CONCURRENCY: u16 = 16;
/// Between two looks when nothing happens: finds what no watch tells, such as a deleted Service or routers that died.
const CALM: Duration = Duration::from_mins(5);
/// Between two tries of what the API server refuses.
const REFUSED: Duration = Duration::from_secs(10);
/// What counts of a request's text, in bytes.
const LONGEST_REQUEST: usize = 128;

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A child could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The spec cannot be carried out.
    #[error("{0}")]
    InvalidSpec(String),
    /// The data plane of the namespace could not be asked for.
    #[error(transparent)]
    Router(#[from] super::router::Error),
}

impl Error {
    /// The word for conditions, Events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) | Self::Router(_) => reasons::RECONCILE_FAILED,
            Self::Apply(error) => error.reason(),
            Self::InvalidSpec(_) => reasons::INVALID_SPEC,
        }
    }

    /// The user must change the spec, or what it names.
    fn is_about_the_spec(&self) -> bool {
        match self {
            Self::InvalidSpec(_) => true,
            Self::Call(error) | Self::Apply(apply::Error::Call(error)) => error.is_refusal(),
            Self::Apply(_) | Self::Router(_) => false,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Call(error) | Self::Apply(apply::Error::Call(error)) if error.is_conflict())
    }

    /// The lead is old: it may be another operator that acts now.
    fn is_not_sent(&self) -> bool {
        use super::router::Error as Router;
        matches!(
            self,
            Self::Call(error)
                | Self::Apply(apply::Error::Call(error))
                | Self::Router(Router::Call(error) | Router::Apply(apply::Error::Call(error)))
            if error.is_not_sent()
        )
    }
}

/// Works until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let watched = watcher::Config::default();
    // An object that cannot be read must not stop the watch of the others.
    let controller = Controller::new(ctx.scope::<DeserializeGuard<ModelDeployment>>(), watched.clone());
    ctx.fleet.see(controller.store());
    controller
        .owns(ctx.scope::<Deployment>(), watched.clone())
        .owns(ctx.scope::<ModelRoute>(), watched)
        .reconcile_on(ctx.scaling.changes())
        .reconcile_on(ctx.gateways.changes.heard())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(Pause::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, Arc::clone(&ctx))
        .for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "reconcile");
                // All that is heard of one that was deleted: nobody looks at it any more.
                if matches!(error, controller::Error::ObjectNotFound(_)) {
                    let there = ctx.fleet.forget_gone();
                    ctx.memory.keep(&there);
                    ctx.scaling.keep(&there);
                    ctx.rollouts.keep(&there);
                    ctx.monitoring.keep(&there);
                }
            }
            std::future::ready(())
        })
        .await;
}

/// One look: the outcome is counted, and told in status on every path.
async fn reconcile(
    object: Arc<DeserializeGuard<ModelDeployment>>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Ok(md) => {
            let uid = md.uid().unwrap_or_default();
            let shared = ctx.memory.of(&uid);
            let mut memory = shared.lock().await;
            // On the heap: a look reads and writes much, and many wait at the same time.
            Box::pin(look(&ctx, md, &uid, &mut memory)).await
        }
        Err(invalid) => Err(unreadable(&ctx, object.meta(), &invalid.error).await),
    };
    let outcome = result.as_ref().map_or_else(Error::reason, |_| "ok");
    ctx.metrics.reconciled("ModelDeployment", outcome, started.elapsed());
    result
}

/// An object that cannot be read has no status that could be written: an Event tells the user.
async fn unreadable(ctx: &Context, meta: &ObjectMeta, error: &str) -> Error {
    let message = format!("the ModelDeployment cannot be read: {error}");
    let shared = ctx.memory.of(meta.uid.as_deref().unwrap_or_default());
    let mut memory = shared.lock().await;
    if memory.told_failure.as_ref() != Some(&message) {
        memory.told_failure = Some(message.clone());
        let about = ObjectReference {
            api_version: Some(ModelDeployment::api_version(&()).into_owned()),
            kind: Some(ModelDeployment::kind(&()).into_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        events::concern(&ctx.recorder, &about, reasons::INVALID_SPEC, &message).await;
    }
    Error::InvalidSpec(message)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn on_error(object: Arc<DeserializeGuard<ModelDeployment>>, error: &Error, _ctx: Arc<Context>) -> Action {
    if !error.is_conflict() {
        let meta = object.meta();
        tracing::warn!(namespace = meta.namespace, name = meta.name, %error, "a look failed and is repeated");
    }
    // A conflict means that somebody was quicker: look again at once. Anything else gets a breath.
    Action::requeue(Duration::from_millis(if error.is_conflict() { 100 } else { 2000 }))
}

async fn look(
    ctx: &Context,
    md: &ModelDeployment,
    uid: &str,
    memory: &mut Remembered,
) -> Result<Action, Error> {
    let (namespace, name) = (md.namespace().unwrap_or_default(), md.name_any());
    // observe (client required)
    let Some(mut world) = Box::pin(World::read(ctx, &namespace, &name)).await? else {
        ctx.memory.forget(uid);
        ctx.fleet.forget(uid);
        ctx.scaling.forget(uid);
        ctx.rollouts.forget(uid);
        ctx.monitoring.forget(uid);
        return Ok(Action::await_change());
    };
    let failed_before = memory.failure.is_some();
    let result = Box::pin(act(ctx, &mut world, memory)).await;
    match &result {
        Err(error) => tell_failure(ctx, &mut world.md, memory, error).await,
        Ok(_) if failed_before => {
            memory.failure = None;
            memory.told_failure = None;
            // Status still tells of the failure.
            return Ok(Action::requeue(ctx.settings.tick));
        }
        Ok(_) => {}
    }
    result
}

async fn act(ctx: &Context, world: &mut World, memory: &mut Remembered) -> Result<Action, Error> {
    let wish = Wish::from(&world.md.spec);
    let rollout = world.md.spec.resolved_rollout();
    let uid = world.md.uid().unwrap_or_default();
    let applier = ctx.applier(&world.md, managers::CHILDREN);
    let routers = super::router::ensure_present(ctx, &applier.namespace).await;
    let (state, recovered) = remembered_state(world, memory);
    let scale = ctx.scaling.enter(world, &state, &ctx.settings.prices);
    let wish = Wish { replicas: scale.replicas.clone(), ..wish };
    let waits = target::resolve(ctx, &applier, world, state.run.is_some()).await?;
    let elapsed = memory.elapsed(Instant::now());

    // decide (no client)
    let taken = ctx.fleet.taken_hosts(&world.md);
    let unverified = unverified(world, &state, &taken, &scale);
    let examined = examine(world, &state, memory, elapsed);
    let signals = signals::ask(ctx, world, &state, &uid);
    let examined = signals::judge(examined, &state, &signals.measured);
    let cut = world.routers.as_ref().and_then(|routers| was_cut(world, routers, &state));
    let frozen = ctx.fleet.frozen();
    let queued = queued(ctx, world, &state, &uid);
    let (request, refused, handled) = request(&world.md, recovered);
    let pods = carry_out::pods(world, &state, &scale, &memory.refused);
    let unreachable = unreachable(world, &state, &scale);
    let revisions = returnable(world);
    let in_flight = world.routers.as_ref().map(RouterView::in_flight).unwrap_or_default();
    let seen = Seen {
        target: &world.target,
        target_waits: waits.as_ref(),
        pods: &pods,
        revisions: &revisions,
        unverified: unverified.as_deref(),
        unreachable: unreachable.as_deref(),
        in_flight: &in_flight,
        verdict: examined.as_ref().map(|examined| &examined.verdict),
        bad_ppm: examined.as_ref().map_or(0, Examined::bad_ppm),
        cut: cut.as_deref(),
        queued: queued.as_deref(),
        frozen: frozen.as_deref(),
        alerts: signals.alerts.as_ref(),
        request: request.as_ref(),
        elapsed,
    };
    let decision = rollout::decide(&wish, &state, &seen);
    let at_gateway = gateway::judged(world, &taken, memory, elapsed);
    ctx.fleet.told(&uid, &applier.namespace, is_under_way(&decision.state));
    ctx.scaling.settled(&uid, &decision.state, &scale.replicas);

    // store the intent, before the effect (client required)
    let name = world.md.name_any();
    let told = status::Told {
        decision: &decision,
        examined: examined.as_ref(),
        taken: &taken,
        rollout: &rollout,
        name: &name,
        target: &world.target,
        main: decision.state.main().and_then(|main| pods.get(main)),
        unverified: unverified.as_deref(),
        unreachable: unreachable.as_deref(),
        handled: handled.as_deref(),
        measured: &signals.measured,
        alerts: signals.alerts.as_ref(),
        scaling: scale.status.as_ref(),
        external: world.md.spec.is_counted_elsewhere(),
        pods: &pods,
        gateway: at_gateway.told.as_ref(),
        now: Time(jiff::Timestamp::now()),
    };
    let new = composed(&world.md, memory, &told);
    status::write(ctx, &mut world.md, memory, new).await?;
    memory.state = Some(decision.state.clone());
    let look = Look::of(&world.md, &state, &decision, examined.as_ref(), &seen, &scale.replicas);
    ctx.rollouts.looked(&uid, &look, world.began, Instant::now());

    // build (no client) and apply (client required)
    let table = route::route(&world.md, &decision.state, &given(world, &decision.state, &taken, &scale));
    let carried = Box::pin(carry_out(
        ctx,
        &applier,
        world,
        &decision.state,
        &scale.replicas,
        table,
        &mut memory.refused,
    ))
    .await;
    // Events come after the effect: an API server that takes none must not hold up a rollback.
    tell(ctx, &world.md, memory, &decision, refused.as_deref()).await;
    tell_conflict(ctx, &world.md, memory, &taken).await;
    let (gateway_soon, gateway_stuck) = (at_gateway.soon, at_gateway.stuck);
    let of_gateway = Box::pin(gateway::carry_out(ctx, world, at_gateway, &mut memory.gateway_refusal)).await;
    for News { reason, message, warning } in ctx.scaling.news(&uid).into_iter().chain(of_gateway) {
        events::news(&ctx.recorder, &world.md.object_ref(&()), warning, reason, &message).await;
    }
    carried?;
    // Last: that routers cannot be asked for must not keep a run from being looked after.
    routers?;
    let waits = unverified.is_some() || waits.is_some() || gateway_soon;
    let stuck = !memory.refused.is_empty()
        || !taken.is_empty()
        || frozen.is_some()
        || queued.is_some()
        || gateway_stuck;
    Ok(next_look(ctx, &wish, &decision, waits, stuck))
}

/// The status after a decision.
fn composed(md: &ModelDeployment, memory: &Remembered, told: &status::Told<'_>) -> ModelDeploymentStatus {
    let old = md.status.clone().unwrap_or_default();
    let generation = md.metadata.generation.unwrap_or_default();
    let new = status::compose(&old, generation, told);
    match &memory.failure {
        // Until a look succeeds: else status would change to and fro with each.
        Some((reason, message)) => status::failed(&new, generation, reason, message, &told.now),
        None => new,
    }
}

/// The state to go on from: the one in memory while status is as we wrote it, else what status says, else (status is empty)
/// what the table serves: then the flag is set.
fn remembered_state(world: &World, memory: &mut Remembered) -> (State, bool) {
    let live = world.md.status.as_ref();
    if let Some(state) = memory.state.as_ref().filter(|_| live.is_some() && memory.written.as_ref() == live) {
        return (state.clone(), false);
    }
    memory.written = live.cloned();
    // Should this look fail before it stores its decision, the next one must not go on from before what was read now.
    memory.state = None;
    let state = live.map(ModelDeploymentStatus::state).unwrap_or_default();
    let lost = state.stable.is_none() && state.runs == 0;
    let recovered = world.route.as_ref().filter(|_| lost).and_then(route::recover);
    let (state, recovered) = match recovered {
        // Only a revision that was served can be served again, and a first one that never got ready is not stable.
        Some((stable, runs)) if world.snapshots.contains_key(&stable) => {
            let because = "status was lost, and what was served goes on".to_owned();
            let pin = (stable != world.target).then(|| rollout::Pin {
                revision: stable.clone(),
                instead_of: world.target.clone(),
                because,
            });
            // Others may still have traffic until all routers serve the next table: their pods go after that.
            let leaving = world.deployments.keys().filter(|name| **name != stable).cloned().collect();
            (State { stable: Some(stable), runs, pin, leaving, ..State::default() }, true)
        }
        _ => (state, false),
    };
    let known = live.and_then(ModelDeploymentStatus::slow_above);
    memory.analysis = Analysis::resume(state.runs, known);
    (state, recovered)
}

/// Why the table of this state is not served everywhere, if so.
fn unverified(
    world: &World,
    state: &State,
    taken: &BTreeMap<String, String>,
    scale: &Scale,
) -> Option<String> {
    let wanted = route::route(&world.md, state, &given(world, state, taken, scale))?;
    let (Some(live), Some(routers)) = (&world.route, &world.routers) else {
        return Some("the table is not written yet".to_owned());
    };
    if live.spec != wanted.spec {
        return Some("the table is not written yet".to_owned());
    }
    version(live).and_then(|version| routers.unverified(&version))
}

/// Why no request gets to the revision that has the traffic, if so.
fn unreachable(world: &World, state: &State, scale: &Scale) -> Option<String> {
    let main = state.main()?;
    // Without pods there is nothing to reach.
    state.sizes(&scale.replicas).get(main.as_str()).filter(|size| **size > 0)?;
    match &world.routers {
        Some(routers) => routers.unreachable(main),
        None => Some("the table is not written yet".to_owned()),
    }
}

/// Why no run may start now, if so. Only who is about to start one asks for a place.
fn queued(ctx: &Context, world: &World, state: &State, uid: &str) -> Option<String> {
    let starts = state.run.is_none() && state.pin.is_none();
    let another = state.stable.as_ref().is_some_and(|stable| *stable != world.target);
    let rejected = state.rejected.iter().any(|(revision, _)| *revision == world.target);
    let namespace = world.md.namespace().unwrap_or_default();
    (starts && another && !rejected).then(|| ctx.fleet.place(uid, &namespace).err()).flatten()
}

/// Revisions that one can return to: those that are kept, and may be.
fn returnable(world: &World) -> BTreeSet<String> {
    world.snapshots.keys().filter(|revision| world.md.may_return_to(revision)).cloned().collect()
}

/// Whether a rollout is under way that counts: a first revision has nobody to harm, and a way back must not wait.
fn is_under_way(state: &State) -> bool {
    state.stable.is_some() && state.run.as_ref().is_some_and(|run| !run.direct)
}

/// The request that is not handled yet, why it cannot be understood, and the annotation's value once it is handled.
///
/// When status was `lost`, nobody knows whether the annotation was handled: it counts as such, for an old `undo` must not
/// come back to life.
fn request(md: &ModelDeployment, lost: bool) -> (Option<Request>, Option<String>, Option<String>) {
    let before = md.status.as_ref().and_then(|status| status.handled_request.clone());
    let text = md.annotations().get(annotations::REQUEST).map(|text| cut(text, LONGEST_REQUEST).to_owned());
    if lost {
        return (None, None, text);
    }
    let Some(text) = text.filter(|text| before.as_ref() != Some(text)) else { return (None, None, before) };
    let by = md.annotations().get(annotations::REQUESTED_BY).map_or("someone", String::as_str);
    let reason = md.annotations().get(annotations::REASON).map_or("", String::as_str);
    match Request::parse(&text, by) {
        Ok(request) => (Some(request.because(reason)), None, Some(text)),
        Err(error) => (None, Some(error.to_string()), Some(text)),
    }
}

/// Events of what happened, and one for a new trouble.
async fn tell(
    ctx: &Context,
    md: &ModelDeployment,
    memory: &mut Remembered,
    decision: &Decision,
    refused: Option<&str>,
) {
    for transition in &decision.transitions {
        ctx.metrics.transition(events::word(transition.reason));
        tracing::info!(
            namespace = md.namespace(),
            name = md.name_any(),
            reason = events::word(transition.reason),
            "{}",
            transition.message
        );
        events::transition(&ctx.recorder, &md.object_ref(&()), transition).await;
    }
    if let Some(why) = refused {
        events::concern(&ctx.recorder, &md.object_ref(&()), reasons::REQUEST_REFUSED, why).await;
    }
    let reason = match decision.standing {
        Standing::Troubled => reasons::CANDIDATE_FAILED,
        Standing::Holding => reasons::HOLDING,
        Standing::Unready => reasons::STABLE_UNREADY,
        Standing::Serving | Standing::Moving => {
            memory.told = None;
            return;
        }
    };
    // The same trouble with other figures is no news.
    let shape = status::shape(&decision.sentence);
    if memory.told.as_ref() != Some(&shape) {
        memory.told = Some(shape);
        events::concern(&ctx.recorder, &md.object_ref(&()), reason, &decision.sentence).await;
    }
}

/// An Event for hosts that another ModelDeployment has, when that is new.
async fn tell_conflict(
    ctx: &Context,
    md: &ModelDeployment,
    memory: &mut Remembered,
    taken: &BTreeMap<String, String>,
) {
    let conflict = status::conflict(taken);
    if let Some(message) = conflict.as_ref().filter(|_| conflict != memory.told_conflict) {
        events::concern(&ctx.recorder, &md.object_ref(&()), reasons::CONFLICTED, message).await;
    }
    memory.told_conflict = conflict;
}

/// A failed look is told too. What cannot even be told is logged by the controller.
async fn tell_failure(ctx: &Context, md: &mut ModelDeployment, memory: &mut Remembered, error: &Error) {
    if error.is_conflict() || error.is_not_sent() {
        return;
    }
    let message = error.to_string();
    memory.failure = Some((error.reason(), message.clone()));
    let shape = status::shape(&message);
    if memory.told_failure.as_ref() != Some(&shape) {
        memory.told_failure = Some(shape);
        events::concern(&ctx.recorder, &md.object_ref(&()), error.reason(), &message).await;
    }
    let old = md.status.clone().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    let status =
        status::failed(&old, md.metadata.generation.unwrap_or_default(), error.reason(), &message, &now);
    if let Err(error) = status::write(ctx, md, memory, status).await {
        tracing::debug!(%error, "status");
    }
}

/// When to look again: every second while something moves, else when something changes or the previous revision's time is up.
fn next_look(ctx: &Context, wish: &Wish, decision: &Decision, waits: bool, stuck: bool) -> Action {
    let state = &decision.state;
    let moves = state.run.is_some()
        || state.guard.is_some()
        || state.refill().is_some()
        || !state.leaving.is_empty()
        || waits
        || !decision.transitions.is_empty();
    if moves || decision.standing == Standing::Unready {
        return Action::requeue(ctx.settings.tick);
    }
    let pause = match &state.previous {
        // Not longer than the gap that counts as one look.
        Some((_, kept)) => {
            wish.keep_warm.saturating_sub(*kept).clamp(ctx.settings.tick, Duration::from_secs(8))
        }
        None => CALM,
    };
    Action::requeue(if stuck { pause.min(REFUSED) } else { pause })
}

#[cfg(test)]
mod tests;
