//! The ModelDeployment's driver: one look every second in a run, none without a reason otherwise.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use stoker_api::ModelDeployment;
use stoker_api::artifact::Uri;
use stoker_api::names::{annotations, managers, reasons};
use stoker_api::pause::Pause;
use stoker_api::route::ModelRoute;
use stoker_decide::analysis::{Analysis, Finding, Look, Report};
use stoker_decide::evidence::{Counts, Key};
use stoker_decide::rollout::{self, Decision, Plan, Request, Seen, Standing, State, Wait};

use super::memory::Remembered;
use crate::apply::{self, Applier};
use crate::build::{resolver, revision, route, router as router_objects, workload};
use crate::call::CallError;
use crate::context::Context;
use crate::observe::pods::pod_trouble;
use crate::observe::routers::RouterView;
use crate::observe::world::{World, version};
use crate::report::{events, status};

/// ModelDeployments that are worked on at the same time.
const CONCURRENCY: u16 = 16;

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

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Call(error) | Self::Apply(apply::Error::Call(error)) if error.is_conflict())
    }
}

/// Works until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let watched = watcher::Config::default();
    // An object that cannot be read must not stop the watch of the others.
    Controller::new(scope::<DeserializeGuard<ModelDeployment>>(&ctx), watched.clone())
        .owns(scope::<Deployment>(&ctx), watched.clone())
        .owns(scope::<ModelRoute>(&ctx), watched)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(Pause::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "reconcile");
            }
        })
        .await;
}

fn scope<K>(ctx: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match &ctx.settings.watch {
        Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
        None => Api::all(ctx.client.clone()),
    }
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
        Err(invalid) => {
            Err(Error::InvalidSpec(format!("the ModelDeployment cannot be read: {}", invalid.error)))
        }
    };
    let outcome = result.as_ref().map_or_else(Error::reason, |_| "ok");
    ctx.metrics.reconciled("ModelDeployment", outcome, started.elapsed());
    result
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
        return Ok(Action::await_change());
    };
    let result = Box::pin(act(ctx, &mut world, memory)).await;
    if let Err(error) = &result {
        tell_failure(ctx, &world.md, memory, error).await;
    }
    result
}

async fn act(ctx: &Context, world: &mut World, memory: &mut Remembered) -> Result<Action, Error> {
    let plan = Plan::from(&world.md.spec);
    let applier = ctx.applier(&world.md, managers::CHILDREN);
    super::router::ensure_present(ctx, &applier.namespace).await?;
    let waits = resolve_target(ctx, &applier, world).await?;
    let state = remembered_state(world, memory);
    let elapsed = memory.elapsed(Instant::now());

    // decide (no client)
    let unverified = unverified(world, &plan, &state);
    let finding = examine(world, &plan, &state, memory, elapsed);
    let (request, refused, handled) = request(&world.md);
    let pods = world.summaries();
    let revisions: BTreeSet<String> = world.snapshots.keys().cloned().collect();
    let in_flight = world.routers.as_ref().map(RouterView::in_flight).unwrap_or_default();
    let seen = Seen {
        target: &world.target,
        target_waits: waits.as_ref(),
        pods: &pods,
        revisions: &revisions,
        unverified: unverified.as_deref(),
        in_flight: &in_flight,
        verdict: finding.as_ref().filter(|_| state.step() > 0).map(|finding| &finding.verdict),
        request: request.as_ref(),
        elapsed,
    };
    let decision = rollout::decide(&plan, &state, &seen);

    // report, before the effect (client required)
    let told = status::Told {
        plan: &plan,
        decision: &decision,
        finding: finding.as_ref().filter(|_| state.step() > 0),
        target: &world.target,
        stable: decision.state.stable.as_ref().and_then(|stable| pods.get(stable)),
        unverified: unverified.as_deref(),
        handled: handled.as_deref(),
        now: Time(jiff::Timestamp::now()),
    };
    let old = world.md.status.clone().unwrap_or_default();
    let new = status::compose(&old, world.md.metadata.generation.unwrap_or_default(), &told);
    status::write(ctx, &world.md, memory, new).await?;
    memory.state = Some(decision.state.clone());
    tell(ctx, &world.md, memory, &decision, refused.as_deref()).await;

    // build (no client) and apply (client required)
    Box::pin(carry_out(ctx, &applier, world, &plan, &decision.state)).await?;
    Ok(next_look(ctx, &plan, &decision, unverified.is_some(), waits.is_some()))
}

/// Makes sure that the target has a snapshot. Returns why it has none yet, if so.
async fn resolve_target(ctx: &Context, applier: &Applier, world: &mut World) -> Result<Option<Wait>, Error> {
    let resolver = world.resolver().cloned();
    if world.snapshots.contains_key(&world.target) {
        if let Some(pod) = resolver {
            applier.remove("delete Pod", &pod).await?;
        }
        return Ok(None);
    }
    let model = world.md.spec.model.clone();
    let uri: Uri = model
        .uri
        .parse()
        .map_err(|error: stoker_api::artifact::UriError| Error::InvalidSpec(error.to_string()))?;
    let digest = match (&model.digest, &resolver) {
        (Some(digest), _) => digest.clone(),
        (None, Some(pod)) => {
            let Some(digest) = resolver::answer(pod) else {
                let trouble = pod_trouble(pod, &world.events);
                return Ok(Some(resolving(trouble.map(|trouble| trouble.what))));
            };
            digest.to_string()
        }
        (None, None) => {
            let pod = resolver::pod(&world.md, &world.target, &uri, &ctx.settings);
            applier.ensure("apply Pod", pod).await?;
            return Ok(Some(resolving(None)));
        }
    };
    let name = world.md.name_any();
    let snapshot = revision::snapshot(
        &name,
        &world.target,
        &model,
        &world.md.spec.runtime,
        &uri,
        &digest,
        &ctx.settings,
    );
    let number = world.controller_revisions.values().map(|kept| kept.revision).max().unwrap_or(0) + 1;
    let kept = revision::controller_revision(&world.md, &world.target, number, &snapshot)
        .map_err(|error| Error::InvalidSpec(format!("the revision cannot be stored: {error}")))?;
    let kept = applier.ensure("apply ControllerRevision", kept).await?;
    world.controller_revisions.insert(world.target.clone(), kept);
    world.snapshots.insert(world.target.clone(), snapshot);
    Ok(None)
}

/// The target waits for its digest, and what is wrong with that, if anything is.
fn resolving(trouble: Option<String>) -> Wait {
    match trouble {
        None => Wait { why: "its digest is being resolved".to_owned(), trouble: false },
        Some(what) => Wait { why: format!("its digest cannot be resolved: {what}"), trouble: true },
    }
}

/// The state to go on from: the one in memory while status is as we wrote it, else what status says, else (status is empty)
/// what the table serves.
fn remembered_state(world: &World, memory: &mut Remembered) -> State {
    let live = world.md.status.as_ref();
    if let Some(state) = memory.state.as_ref().filter(|_| live.is_some() && memory.written.as_ref() == live) {
        return state.clone();
    }
    memory.written = live.cloned();
    let state = live.map(stoker_api::deployment::ModelDeploymentStatus::state).unwrap_or_default();
    let lost = state.stable.is_none() && state.runs == 0;
    let recovered = world.route.as_ref().filter(|_| lost).and_then(route::recover);
    let state = match recovered {
        // Only a revision that was served can be served again, and a first one that never got ready is not stable.
        Some((stable, runs)) if world.snapshots.contains_key(&stable) => {
            let because = "status was lost, and what was served goes on".to_owned();
            let pin = (stable != world.target).then(|| rollout::Pin {
                revision: stable.clone(),
                instead_of: world.target.clone(),
                because,
            });
            State { stable: Some(stable), runs, pin, ..State::default() }
        }
        _ => state,
    };
    let known = live
        .and_then(|status| status.run.as_ref())
        .and_then(|run| run.slow_above_ms)
        .map(Duration::from_millis);
    memory.analysis = Analysis::resume(state.runs, known);
    state
}

/// Why the table of this state is not served everywhere, if so.
fn unverified(world: &World, plan: &Plan, state: &State) -> Option<String> {
    let wanted = route::route(&world.md, plan, state)?;
    let (Some(live), Some(routers)) = (&world.route, &world.routers) else {
        return Some("the table is not written yet".to_owned());
    };
    if live.spec != wanted.spec {
        return Some("the table is not written yet".to_owned());
    }
    version(live).and_then(|version| routers.unverified(&version))
}

/// Counts of the routers, and the verdict that follows.
fn examine(
    world: &World,
    plan: &Plan,
    state: &State,
    memory: &mut Remembered,
    elapsed: Duration,
) -> Option<Finding> {
    let (stable, run, routers) = (state.stable.as_deref()?, state.run.as_ref()?, world.routers.as_ref()?);
    let reports: Vec<Report> = routers
        .replies
        .iter()
        .filter_map(|(_, reply)| reply.as_ref().ok())
        .flat_map(|reply| {
            reply.counts.iter().map(|arm| Report {
                process: reply.process.clone(),
                key: Key { run: arm.run, step: arm.step, revision: arm.revision.clone() },
                counts: Counts { attempts: arm.attempts, errors: arm.errors, latency: arm.latency.clone() },
            })
        })
        .collect();
    let unreadable = routers.unreadable();
    let slo = world.md.spec.slo.latency.as_ref();
    Some(memory.analysis.look(&Look {
        run: run.number,
        step: u32::try_from(run.step).unwrap_or(u32::MAX),
        stable,
        candidate: &run.candidate,
        reports: &reports,
        unreadable: unreadable.as_deref(),
        controlled: run.weight(plan) < 100,
        target: slo.map(|latency| latency.target.into()),
        wanted: world.md.spec.rollout.min_requests.into(),
        in_step: run.in_step,
        elapsed,
    }))
}

/// The request that is not handled yet, why it cannot be understood, and the annotation's value once it is handled.
fn request(md: &ModelDeployment) -> (Option<Request>, Option<String>, Option<String>) {
    let before = md.status.as_ref().and_then(|status| status.handled_request.clone());
    let Some(text) = md.annotations().get(annotations::REQUEST).filter(|text| before.as_ref() != Some(text))
    else {
        return (None, None, before);
    };
    let by = md.annotations().get(annotations::REQUESTED_BY).map_or("someone", String::as_str);
    match Request::parse(text, by) {
        Ok(request) => (Some(request), None, Some(text.clone())),
        Err(error) => (None, Some(error.to_string()), Some(text.clone())),
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
        events::transition(&ctx.recorder, md, transition).await;
    }
    if let Some(why) = refused {
        events::concern(&ctx.recorder, md, reasons::REQUEST_REFUSED, why).await;
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
        events::concern(&ctx.recorder, md, reason, &decision.sentence).await;
    }
}

/// A failed look is told too. What cannot even be told is logged by the controller.
async fn tell_failure(ctx: &Context, md: &ModelDeployment, memory: &mut Remembered, error: &Error) {
    if error.is_conflict() {
        return;
    }
    let message = error.to_string();
    let shape = status::shape(&message);
    if memory.told.as_ref() != Some(&shape) {
        memory.told = Some(shape);
        events::concern(&ctx.recorder, md, error.reason(), &message).await;
    }
    let old = md.status.clone().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    let status =
        status::failed(&old, md.metadata.generation.unwrap_or_default(), error.reason(), &message, &now);
    if let Err(error) = status::write(ctx, md, memory, status).await {
        tracing::debug!(%error, "status");
    }
}

/// Makes the cluster follow the state: pods first, then the table, then what is left over goes.
async fn carry_out(
    ctx: &Context,
    applier: &Applier,
    world: &World,
    plan: &Plan,
    state: &State,
) -> Result<(), Error> {
    let (name, replicas) = (world.md.name_any(), world.md.spec.replicas);
    applier
        .keep("apply Service", router_objects::front_service(&world.md), world.services.get(&name))
        .await?;
    let kept = state.kept();
    for revision in &kept {
        let Some(snapshot) = world.snapshots.get(*revision) else {
            return Err(Error::InvalidSpec(format!(
                "the ControllerRevision of {revision} is gone; its pods cannot be made again"
            )));
        };
        let (service, deployment) = (world.services.get(*revision), world.deployments.get(*revision));
        applier.keep("apply Service", workload::service(&name, revision), service).await?;
        let desired = workload::deployment(&name, revision, &snapshot.template, replicas);
        applier.keep("apply Deployment", desired, deployment).await?;
    }
    if let Some(route) = route::route(&world.md, plan, state) {
        let writer = ctx.applier(&world.md, managers::ROUTE);
        writer.replace("write ModelRoute", route, world.route.as_ref()).await?;
    }
    let unkept = |revision: &&String| !kept.contains(revision.as_str());
    for revision in world.deployments.keys().filter(unkept) {
        applier.remove("delete Deployment", &world.deployments[revision]).await?;
    }
    for revision in world.services.keys().filter(unkept).filter(|revision| **revision != name) {
        applier.remove("delete Service", &world.services[revision]).await?;
    }
    let mut old: Vec<_> = world
        .controller_revisions
        .values()
        .filter(|kept_revision| unkept(&&kept_revision.name_any()))
        .collect();
    old.retain(|kept_revision| kept_revision.name_any() != world.target);
    old.sort_by_key(|kept_revision| std::cmp::Reverse(kept_revision.revision));
    for revision in old.into_iter().skip(world.md.spec.rollback.revisions as usize) {
        applier.remove("delete ControllerRevision", revision).await?;
    }
    Ok(())
}

/// When to look again: every second while something moves, else when something changes or the previous revision's time is up.
fn next_look(ctx: &Context, plan: &Plan, decision: &Decision, unverified: bool, waits: bool) -> Action {
    let state = &decision.state;
    let moves = state.run.is_some()
        || !state.leaving.is_empty()
        || unverified
        || waits
        || !decision.transitions.is_empty();
    if moves || decision.standing == Standing::Unready {
        return Action::requeue(ctx.settings.tick);
    }
    match &state.previous {
        // Not longer than the gap that counts as one look.
        Some((_, kept)) => Action::requeue(
            plan.keep_warm.saturating_sub(*kept).clamp(ctx.settings.tick, Duration::from_secs(8)),
        ),
        None => Action::await_change(),
    }
}
