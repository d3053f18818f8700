//! The operator's process: command line, lead, controllers, and an orderly end.
//!
//! Exit codes: 0 after SIGTERM, 64 for bad settings (before any port is bound), 70 when the lead is lost or a part of the
//! process ended by itself.

pub mod args;
pub mod crd;
pub mod lease;

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stoker_api::{ModelDeployment, ModelRoute, ModelRouter};
use stoker_edge::admin::Admin;
use stoker_edge::drain::{self, Drain, Phase};
use stoker_edge::{exit, logs, tls};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::context::{Context, Settings};
use crate::controllers;
use crate::fence::{self, Fence};
use crate::observe::routers::Routers;
use crate::trust::{self, Authority};
use args::{Args, Command};
use lease::{Election, Ended};

/// Time between two tries of what the operator cannot start without.
const RETRY: Duration = Duration::from_secs(2);
/// How long reconciles that are under way may take to finish after SIGTERM; with the release of the Lease below the pod's
/// grace period of 15 s.
const FINISH: Duration = Duration::from_secs(8);

/// The whole process.
pub fn main() -> ExitCode {
    tls::install_provider();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nothing is left to do when standard error is closed.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            exit::termination_message(&error.to_string());
            return ExitCode::from(exit::BAD_CONFIGURATION);
        }
    };
    logs::init();
    match args.command {
        Command::Crd { out } => match crd::write(out.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::fail(exit::INTERNAL, &error.to_string()),
        },
        Command::Run(run) => match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(operate(&run)),
            Err(error) => exit::fail(exit::INTERNAL, &format!("threads cannot be started: {error}")),
        },
    }
}

/// What the operator waits for before it can work; nothing once it works, or while another one leads.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Option<String>>>);

impl Waiting {
    fn set(&self, why: Option<String>) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.as_ref().filter(|_| *now != why) {
            tracing::warn!("{why}");
        }
        *now = why;
    }

    fn check(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

async fn operate(args: &args::Run) -> ExitCode {
    let config = match kube::Config::infer().await {
        Ok(config) => config,
        Err(error) => return exit::fail(exit::BAD_CONFIGURATION, &format!("no cluster to talk to: {error}")),
    };
    let fence = Fence::default();
    let clients =
        Client::try_from(config.clone()).and_then(|of_lease| Ok((of_lease, fence::client(config, &fence)?)));
    let (of_lease, client) = match clients {
        Ok(clients) => clients,
        Err(error) => {
            return exit::fail(exit::BAD_CONFIGURATION, &format!("the cluster cannot be talked to: {error}"));
        }
    };
    let listener = match TcpListener::bind(args.metrics_listen).await {
        Ok(listener) => listener,
        Err(error) => {
            return exit::fail(exit::INTERNAL, &format!("cannot listen on {}: {error}", args.metrics_listen));
        }
    };
    let drain = match drain::on_signal(Duration::ZERO, FINISH) {
        Ok(drain) => drain,
        Err(error) => return exit::fail(exit::INTERNAL, &format!("signals cannot be caught: {error}")),
    };

    let (ctx, is_leader, registry) = assemble(client, args.settings());
    let waiting = Waiting::default();
    let ready = waiting.clone();
    let admin = Admin::new(registry, drain.clone(), Arc::new(move || ready.check()));
    tokio::spawn(admin.serve(listener));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), metrics = %args.metrics_listen, "started");

    let election = Election::new(of_lease, ctx.calls.clone(), fence, args.seat());
    let mut lead = tokio::select! {
        lead = election.clone().win() => lead,
        () = drain.reached(Phase::Leaving) => return ExitCode::SUCCESS,
    };
    // They only read, so they go on while the lead is in doubt.
    let leaving = || {
        let drain = drain.clone();
        async move { drain.reached(Phase::Leaving).await }
    };
    let (fleet, client) = (Arc::clone(&ctx.fleet), ctx.client.clone());
    tokio::spawn(fleet.follow(client, ctx.settings.namespace.clone(), leaving()));
    let mut slices = tokio::spawn(ctx.routers.clone().follow(leaving()));
    loop {
        tracing::info!(name = args.pod_name, "this operator leads");
        is_leader.set(1);
        let mut parts = JoinSet::new();
        let work = work(Arc::clone(&ctx), &waiting, &drain, &mut parts, &mut slices);
        let why = match Box::pin(end(&drain, lead, work)).await {
            Over::Exit(code) => return code,
            Over::Doubt(why) => why,
        };
        is_leader.set(0);
        // Nothing of the work may be under way when it is known who leads.
        parts.shutdown().await;
        waiting.set(Some(format!(
            "the lead is in doubt ({why}); the work stops until the API server says who leads"
        )));
        lead = tokio::select! {
            again = election.clone().regain() => match again {
                Ok(lead) => lead,
                Err(holder) => return lost(&format!("{holder} leads now")),
            },
            () = drain.reached(Phase::Leaving) => return ExitCode::SUCCESS,
        };
    }
}

/// What the work needs, whether this operator leads, and the figures of both.
fn assemble(client: Client, settings: Settings) -> (Arc<Context>, Gauge, Registry) {
    let mut registry = Registry::default();
    let is_leader = Gauge::<i64>::default();
    registry.register("stoker_operator_leading", "Whether this operator leads", is_leader.clone());
    let routers = Routers::new(client.clone(), settings.watch.clone());
    routers.register(&mut registry);
    let ctx = Context::new(client, settings, routers, &mut registry);
    (ctx, is_leader, registry)
}

/// Why a leader's work is over.
enum Over {
    /// The process ends.
    Exit(ExitCode),
    /// The Lease could not be renewed, for this reason.
    Doubt(String),
}

fn lost(why: &str) -> ExitCode {
    exit::fail(exit::INTERNAL, &format!("the lead is lost ({why}); another operator goes on"))
}

/// Works as long as the lead is kept and nobody asks for the end; then finishes, and gives the lead back last.
async fn end(drain: &Drain, lead: lease::Lead, work: impl Future<Output = ()>) -> Over {
    let (finished, stop) = tokio::sync::oneshot::channel::<()>();
    // A task of its own: however busy the reconciles are, renewals go on.
    let mut keeper = tokio::spawn(lead.keep(async {
        // A dropped sender means the same.
        let _ = stop.await;
    }));
    let overdue = async {
        drain.reached(Phase::Leaving).await;
        tokio::time::sleep(FINISH).await;
    };
    tokio::select! {
        ended = &mut keeper => {
            return match ended {
                Ok(Ended::Unrenewed(why)) => Over::Doubt(why),
                Ok(Ended::Lost(why)) => Over::Exit(lost(&why)),
                Ok(Ended::Released) => Over::Exit(lost("it was given back too early")),
                Err(error) => Over::Exit(lost(&error.to_string())),
            };
        }
        () = work => {}
        () = overdue => tracing::warn!("reconciles did not finish in time and are cut; the next operator repeats them"),
    }
    drop(finished);
    // Its own time limit is in there.
    let _ = keeper.await;
    if drain.phase() == Phase::Serving {
        return Over::Exit(exit::fail(exit::INTERNAL, "a part of the operator ended by itself"));
    }
    tracing::info!("stopped");
    Over::Exit(ExitCode::SUCCESS)
}

/// What a leader does until it is asked to leave, in tasks that are added to `parts`. Beside them goes `slices`, the watch on
/// the routers' addresses.
async fn work(
    ctx: Arc<Context>,
    waiting: &Waiting,
    drain: &Drain,
    parts: &mut JoinSet<()>,
    slices: &mut JoinHandle<()>,
) {
    let leaving = || {
        let drain = drain.clone();
        async move { drain.reached(Phase::Leaving).await }
    };
    let authority = tokio::select! {
        authority = prepare(&ctx, waiting) => authority,
        () = leaving() => return,
    };
    parts.spawn(controllers::deployment::run(Arc::clone(&ctx), leaving()));
    parts.spawn(controllers::scaling::run(Arc::clone(&ctx), leaving()));
    parts.spawn(controllers::gateways::run(Arc::clone(&ctx), leaving()));
    parts.spawn(controllers::router::run(ctx, authority, leaving()));
    loop {
        let ended = tokio::select! {
            ended = parts.join_next() => ended,
            ended = &mut *slices, if drain.phase() == Phase::Serving => Some(ended),
        };
        let Some(ended) = ended else { return };
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the operator failed");
        }
        // Without one of them the rest does half the work: better to start anew.
        if drain.phase() == Phase::Serving {
            return;
        }
    }
}

/// Waits for what the controllers need: their custom resources and the CA.
async fn prepare(ctx: &Context, waiting: &Waiting) -> Authority {
    loop {
        match missing(ctx).await {
            None => break,
            Some(why) => waiting.set(Some(why)),
        }
        tokio::time::sleep(RETRY).await;
    }
    loop {
        match trusted(ctx).await {
            Ok(authority) => {
                waiting.set(None);
                return authority;
            }
            Err(error) => waiting.set(Some(format!("the operator has no CA: {error}"))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn trusted(ctx: &Context) -> Result<Authority, trust::Error> {
    let now = Timestamp::now();
    let authority = Authority::load_or_create(&ctx.client, &ctx.calls, &ctx.settings.namespace, now).await?;
    ctx.routers.trust(authority.client_config(now)?);
    Ok(authority)
}

/// Why the controllers cannot start yet, if so.
async fn missing(ctx: &Context) -> Option<String> {
    let checks = [
        served::<ModelDeployment>(ctx, "list ModelDeployments").await,
        served::<ModelRoute>(ctx, "list ModelRoutes").await,
        served::<ModelRouter>(ctx, "list ModelRouters").await,
    ];
    let missing: Vec<_> = checks.into_iter().flatten().collect();
    (!missing.is_empty()).then(|| format!("controllers wait: {}", missing.join("; ")))
}

/// Why a custom resource cannot be listed, if so.
async fn served<K>(ctx: &Context, call: &'static str) -> Option<String>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send,
{
    let api: Api<K> = ctx.scope();
    match ctx.calls.make(call, "everywhere", api.list_metadata(&ListParams::default().limit(1))).await {
        Ok(_) => None,
        // For a kind that is not there the API server answers in plain text, which has a code and no reason.
        Err(error) if error.answer().is_some_and(|status| status.code == 404) => {
            Some(format!("{} is not installed (kubectl apply -k crds)", K::plural(&())))
        }
        Err(error) => Some(format!("{} cannot be listed: {error}", K::plural(&()))),
    }
}

#[cfg(test)]
mod reference;
