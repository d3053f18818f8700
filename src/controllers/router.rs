//! The ModelRouter's driver: the data plane of each namespace that has ModelDeployments.
//!
//! The object is made when the first ModelDeployment of a namespace is looked at, and goes after the last one, unless a
//! user made it. Its children go with it, by their ownerReferences.

mod presence;
mod status;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use stoker_api::ModelRouter;
use stoker_api::names::{labels, managers, objects, parts, reasons};
use stoker_api::pause::Pause;

use crate::apply::{self, Applier};
use crate::build::router as build;
use crate::call::CallError;
use crate::context::Context;
use crate::trust::{self, Authority};
pub use presence::ensure_present;

/// Namespaces that are worked on at the same time.
const CONCURRENCY: u16 = 4;
/// Time between two looks when nothing happens: certificates wear, and not all children are watched.
const CALM: Duration = Duration::from_mins(5);
/// Time between two looks while another namespace's routers are replaced.
const WAITING: Duration = Duration::from_secs(5);
/// First and longest pause after a failed look.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A child could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The routers' certificate could not be made.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The object cannot be read.
    #[error("the ModelRouter cannot be read: {0}")]
    Invalid(String),
}

impl Error {
    /// The word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.reason(),
            Self::Invalid(_) => reasons::INVALID_SPEC,
            Self::Call(_) | Self::Trust(_) => reasons::RECONCILE_FAILED,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Call(error) | Self::Apply(apply::Error::Call(error)) if error.is_conflict())
    }
}

/// What the reconciles of ModelRouters share.
struct Work {
    ctx: Arc<Context>,
    authority: Authority,
    /// Failed looks in a row, by namespace.
    failures: Mutex<HashMap<String, u32>>,
    /// Held while it is decided which namespace's routers are replaced next.
    turn: tokio::sync::Mutex<()>,
}

impl Work {
    fn succeeded(&self, namespace: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }

    fn failed(&self, namespace: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failures.entry(namespace.to_owned()).or_default();
        let pause = pause(*before);
        *before = before.saturating_add(1);
        pause
    }
}

/// The pause after a failed look that follows `before` failed ones.
fn pause(before: u32) -> Duration {
    let (first, longest) = PAUSE;
    first.saturating_mul(1 << before.min(16)).min(longest)
}

/// Works until `shutdown`. `authority` signs the routers' certificates.
pub async fn run(
    ctx: Arc<Context>,
    authority: Authority,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.shared();
    let (failures, turn) = (Mutex::default(), tokio::sync::Mutex::default());
    let work = Arc::new(Work { ctx: Arc::clone(&ctx), authority, failures, turn });
    let children = watcher::Config::default().labels(&router_part());
    // An object that cannot be read must not stop the watch of the others.
    let controller =
        Controller::new(ctx.scope::<DeserializeGuard<ModelRouter>>(), watcher::Config::default())
            .owns(ctx.scope::<Deployment>(), children.clone())
            // Without it the operator finds no router, and nothing advances.
            .owns(ctx.scope::<Service>(), children)
            .with_config(Config::default().concurrency(CONCURRENCY))
            .trigger_backoff(Pause::default())
            .graceful_shutdown_on(shutdown.clone())
            .run(reconcile, on_error, work)
            .for_each(|result| {
                if let Err(error) = result {
                    tracing::debug!(%error, "reconcile");
                    // All that is heard of one that was deleted.
                    if let controller::Error::ObjectNotFound(gone) = error {
                        ctx.metrics.certificate(gone.namespace.as_deref().unwrap_or_default(), None);
                    }
                }
                std::future::ready(())
            });
    let deployments = presence::watch(ctx.scope(), shutdown.clone());
    let routers = presence::watch(ctx.scope(), shutdown);
    tokio::join!(controller, presence::reap(&ctx, deployments), presence::restore(&ctx, routers));
}

fn router_part() -> String {
    format!("{}={}", labels::PART, parts::ROUTER)
}

/// One look: the outcome is counted, and told in status on every path.
async fn reconcile(object: Arc<DeserializeGuard<ModelRouter>>, work: Arc<Work>) -> Result<Action, Error> {
    let started = Instant::now();
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let result = match &object.0 {
        Ok(router) if router.name_any() == objects::ROUTER => Box::pin(look(&work, &namespace)).await,
        // The API server refuses other names; one that got by it is not ours.
        Ok(_) => Ok(Action::await_change()),
        Err(invalid) => Err(Error::Invalid(invalid.error.clone())),
    };
    if result.is_ok() {
        work.succeeded(&namespace);
    }
    let outcome = result.as_ref().map_or_else(Error::reason, |_| "ok");
    work.ctx.metrics.reconciled("ModelRouter", outcome, started.elapsed());
    result
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn on_error(object: Arc<DeserializeGuard<ModelRouter>>, error: &Error, work: Arc<Work>) -> Action {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let pause = work.failed(&namespace);
    if !error.is_conflict() {
        tracing::warn!(namespace, %error, pause_s = pause.as_secs(), "a look at a ModelRouter failed and is repeated");
    }
    Action::requeue(pause)
}

async fn look(work: &Work, namespace: &str) -> Result<Action, Error> {
    let ctx = &work.ctx;
    // observe (client required). Live: children of an object that is gone would be made for nobody.
    let api: Api<ModelRouter> = Api::namespaced(ctx.client.clone(), namespace);
    let live = ctx.calls.make("get ModelRouter", objects::ROUTER, api.get_opt(objects::ROUTER)).await?;
    let Some(router) = live.filter(|router| router.metadata.deletion_timestamp.is_none()) else {
        ctx.metrics.certificate(namespace, None);
        return Ok(Action::await_change());
    };
    if presence::release(&ctx.client, &ctx.calls, namespace).await? {
        ctx.metrics.certificate(namespace, None);
        return Ok(Action::await_change());
    }
    // build (no client) and apply (client required)
    let result = Box::pin(carry_out(work, &router)).await;
    // report (client required)
    let told = status::compose(&router, result.as_ref(), &Time(Timestamp::now()));
    if !result.as_ref().is_err_and(Error::is_conflict) {
        status::write(ctx, &router, told).await?;
    }
    Ok(match result? {
        Standing::Waiting { .. } => Action::requeue(WAITING),
        Standing::Applied(_) => Action::requeue(CALM),
    })
}

/// How far the routers of a namespace are.
#[derive(Debug)]
enum Standing {
    /// The Deployment is as it should be; here as the API server has it.
    Applied(Box<Deployment>),
    /// The Deployment keeps its image until the routers of `other` are replaced.
    Waiting { live: Box<Deployment>, other: String },
}

async fn carry_out(work: &Work, router: &ModelRouter) -> Result<Standing, Error> {
    let ctx = &work.ctx;
    let applier = ctx.applier(router, managers::ROUTER);
    let build::DataPlane { account, binding, service, budget, router_policy, server_policy, deployment } =
        build::data_plane(router, &ctx.settings);
    // What a router needs to start comes before the routers: its rights, its certificate, and who may connect to it.
    applier.ensure("apply ServiceAccount", account).await?;
    applier.ensure("apply RoleBinding", binding).await?;
    certificate(work, &applier).await?;
    applier.ensure("apply NetworkPolicy", router_policy).await?;
    applier.ensure("apply NetworkPolicy", server_policy).await?;
    applier.ensure("apply PodDisruptionBudget", budget).await?;
    applier.ensure("apply Service", service).await?;
    Box::pin(roll(work, &applier, deployment)).await
}

/// The routers' Secret, made anew when its certificate is worn. Routers notice the change by themselves.
async fn certificate(work: &Work, applier: &Applier) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let live =
        applier.calls.make("get Secret", objects::ROUTER_TLS, api.get_opt(objects::ROUTER_TLS)).await?;
    let now = Timestamp::now();
    let ours = live.filter(|live| live.owner_references().iter().any(|owner| owner.uid == applier.owner.uid));
    let data = ours.as_ref().and_then(|secret| secret.data.as_ref());
    let Some(why) = work.authority.why_renew(data, &applier.namespace, now) else {
        let ends = data.and_then(|data| trust::ends(&data.get("tls.crt")?.0));
        work.ctx.metrics.certificate(&applier.namespace, ends);
        return Ok(());
    };
    tracing::info!(namespace = applier.namespace, why, "the routers get a new certificate");
    let leaf = work.authority.router_leaf(&applier.namespace, now)?;
    let ends = trust::ends(leaf.certificate.as_bytes());
    applier.ensure("apply Secret", build::secret(leaf)).await?;
    work.ctx.metrics.certificate(&applier.namespace, ends);
    Ok(())
}

/// The Deployment. A new image is rolled out one namespace at a time: a bad one is seen before it is everywhere.
async fn roll(work: &Work, applier: &Applier, desired: Deployment) -> Result<Standing, Error> {
    let api: Api<Deployment> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let live = applier.calls.make("get Deployment", objects::ROUTER, api.get_opt(objects::ROUTER)).await?;
    let changed = live.filter(|live| build::image(live) != build::image(&desired));
    let Some(live) = changed else {
        let live = applier.ensure("apply Deployment", desired).await?;
        return Ok(Standing::Applied(Box::new(live)));
    };
    // Until the change is written, nobody else may find that it is their turn.
    let _turn = work.turn.lock().await;
    let all: Api<Deployment> = work.ctx.scope();
    let routers = ListParams::default().labels(&router_part());
    let routers = applier.calls.make("list Deployments", objects::ROUTER, all.list(&routers)).await?;
    let other = routers
        .items
        .iter()
        .find(|other| other.namespace().as_ref() != Some(&applier.namespace) && build::is_rolling(other));
    if let Some(other) = other {
        return Ok(Standing::Waiting { live: Box::new(live), other: other.namespace().unwrap_or_default() });
    }
    let live = applier.ensure("apply Deployment", desired).await?;
    Ok(Standing::Applied(Box::new(live)))
}

#[cfg(test)]
mod tests;
