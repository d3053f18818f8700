//! A router from its parts: built from settings, served on given ports.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use stoker_api::ModelRoute;
use stoker_api::names::{objects, router_identity};
use stoker_edge::admin::Admin as Metrics;
use stoker_edge::drain::{self, Drain};
use stoker_edge::listen::{self, Finished, Http2, Limits, Options, Stats};
use stoker_edge::tls::{Tls, TlsError};
use tokio::net::TcpListener;

use crate::admin::Admin;
use crate::args::Args;
use crate::cut::detect::Detectors;
use crate::cut::metrics::Harm;
use crate::cut::report;
use crate::forward::{Forward, Settings};
use crate::metrics::{self, Counts};
use crate::plane::Plane;
use crate::shadow;
use crate::table::disk;
use crate::table::keeper::Keeper;
use crate::wake;
use crate::watch::{self, Lookup};

/// How often kept connections to pods are looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// Why a router cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server in the environment.
    #[error(
        "no configuration for the API server: {0}; run in a pod with a ServiceAccount, or set KUBECONFIG"
    )]
    Kube(String),
    /// The certificates cannot be used.
    #[error("the admin port cannot be served: {0}")]
    Tls(#[from] TlsError),
    /// A port cannot be bound, or signals cannot be handled.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
}

impl RunError {
    /// Whether a person must change something before it can work.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Kube(_) | Self::Tls(_))
    }
}

/// The parts of a router that share its tables.
pub struct Router {
    /// What requests see.
    pub plane: Arc<Plane>,
    /// What changes it.
    pub keeper: Arc<Keeper>,
    /// Forwards requests.
    pub forward: Arc<Forward>,
    /// Looks for harm.
    pub detectors: Arc<Detectors>,
    /// Counts that belong to no revision.
    pub counts: Counts,
    namespace: String,
    connections: usize,
}

impl Router {
    /// A router for `namespace` that knows no tables yet.
    pub fn new(namespace: &str, settings: Settings, connections: usize) -> Self {
        let (plane, counts) = (Arc::new(Plane::default()), Counts::default());
        let keeper = Arc::new(Keeper::new(Arc::clone(&plane), namespace, counts.clone()));
        let forward = Forward::new(Arc::clone(&plane), Arc::clone(&keeper), settings, counts.clone());
        let detectors = detectors(&plane, &keeper, &counts, objects::ROUTER);
        Self {
            plane,
            keeper,
            forward: Arc::new(forward),
            detectors,
            counts,
            namespace: namespace.to_owned(),
            connections,
        }
    }

    /// The same router under a name of its own.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.detectors = detectors(&self.plane, &self.keeper, &self.counts, name);
        self
    }

    /// Looks for harm while a table asks for it, and tells the other routers; ends never.
    pub async fn detect(&self, tls: Option<Tls>) {
        Arc::clone(&self.detectors).run(tls, self.namespace.clone()).await;
    }

    /// Starts from the tables that an earlier process saved, if it left any.
    pub fn restore(&self, folder: &std::path::Path) {
        match disk::load(folder, &self.namespace) {
            Ok(Some(saved)) => {
                tracing::info!(tables = saved.routes.len(), "starting from the tables on disk");
                self.keeper.restore(saved);
            }
            Ok(None) => tracing::info!("no tables on disk"),
            Err(error) => tracing::warn!(%error, "starting without the tables on disk"),
        }
    }

    /// Saves the tables after each change; ends never.
    pub async fn save(&self, folder: PathBuf) {
        let keeper = Arc::clone(&self.keeper);
        let write = move || -> watch::SaveFuture {
            let (saved, folder) = (keeper.to_save(), folder.clone());
            Box::pin(async move {
                let written = tokio::task::spawn_blocking(move || disk::save(&folder, &saved)).await;
                written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            })
        };
        watch::save(Arc::clone(&self.keeper), self.counts.clone(), write).await;
    }

    /// Looks after kept connections; ends never.
    pub async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let revisions: Vec<_> = self.plane.revisions().values().cloned().collect();
            for revision in revisions {
                revision.sweep();
            }
        }
    }

    /// Serves clients until the drain is over.
    pub async fn serve(&self, listener: TcpListener, stats: Stats, drain: Drain) -> Finished {
        let forward = Arc::clone(&self.forward);
        forward.follow(drain.clone());
        let service = service_fn(move |request| {
            let forward = Arc::clone(&forward);
            async move { Ok::<_, Infallible>(forward.handle(request).await) }
        });
        let limits = Limits { connections: self.connections, ..Limits::default() };
        let stream_time = self.forward.settings().request_timeout + limits.write_time;
        let http2 = Some(Http2 { stream_time, ..Http2::default() });
        listen::serve(listener, service, Options { limits, http2, tls: None, stats }, drain).await
    }

    /// Serves the operator and the other routers; ends when dropped.
    pub async fn serve_admin(&self, listener: TcpListener, tls: Tls, stats: Stats, lookup: Lookup) {
        let (plane, keeper) = (Arc::clone(&self.plane), Arc::clone(&self.keeper));
        let detectors = Arc::clone(&self.detectors);
        let admin = Admin::new(plane, keeper, detectors, self.counts.clone(), lookup, &self.namespace);
        let admin = Arc::new(admin);
        let service = service_fn(move |request| {
            let admin = Arc::clone(&admin);
            async move { Ok::<_, Infallible>(admin.handle(request).await) }
        });
        // The operator asks until the last request is done, so this port does not drain.
        let lasting = Drain::new(Duration::ZERO);
        listen::serve(listener, service, Options { tls: Some(tls), stats, ..Options::small() }, lasting)
            .await;
    }
}

fn detectors(plane: &Arc<Plane>, keeper: &Arc<Keeper>, counts: &Counts, name: &str) -> Arc<Detectors> {
    Arc::new(Detectors::new(Arc::clone(plane), Arc::clone(keeper), counts.clone(), name))
}

/// Runs a router until it is told to end.
pub async fn run(args: Args) -> Result<(), RunError> {
    let client = client(&args).await?;
    let fellow = router_identity(&args.namespace);
    let callers = [objects::OPERATOR_IDENTITY, fellow.as_str()];
    let tls = Tls::mutual(&args.tls_dir, &callers)?;
    let settings = Settings {
        request_timeout: args.request_timeout,
        max_body: args.max_body,
        buffer_limit: args.buffer_limit,
        buffer_total: args.buffer_total,
        hold: args.hold,
        hold_queue: args.hold_queue,
        mirror: shadow::Limits {
            queue: args.mirror_queue,
            bytes: args.mirror_bytes,
            concurrency: args.mirror_concurrency.get(),
            timeout: args.mirror_timeout,
            longest_answer: args.buffer_limit,
        },
    };
    let router = Arc::new(Router::new(&args.namespace, settings, args.max_connections).named(&args.name));
    let (data, admin) = (bind(args.listen).await?, bind(args.admin_listen).await?);
    let metrics = bind(args.metrics_listen).await?;
    let drain = drain::on_signal(args.drain_delay, args.drain_timeout)
        .map_err(|error| RunError::Io { what: "cannot handle signals".into(), error })?;

    router.restore(&args.state_dir);
    let tables: Api<DeserializeGuard<ModelRoute>> = Api::namespaced(client.clone(), &args.namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &args.namespace);
    let status: Api<ModelRoute> = Api::namespaced(client, &args.namespace);
    let lookup = watch::lookup(tables.clone());
    let (data_stats, admin_stats) = (Stats::default(), Stats::default());
    let mut registry =
        metrics::registry(&router.counts, &router.plane, &router.keeper, &data_stats, &admin_stats);
    registry.register_collector(Box::new(Harm(Arc::clone(&router.detectors))));
    let keeper = Arc::clone(&router.keeper);
    let ready = Metrics::new(registry, drain.clone(), Arc::new(move || keeper.readiness()));

    // All of these end with the process; the data port alone is waited for.
    let (keeper, counts) = (Arc::clone(&router.keeper), router.counts.clone());
    tokio::spawn(watch::routes(tables, Arc::clone(&keeper), Arc::clone(&lookup), counts.clone()));
    tokio::spawn(watch::slices(slices, Arc::clone(&keeper), counts.clone()));
    tokio::spawn(wake::report(Arc::clone(&router.plane), status.clone(), counts.clone()));
    tokio::spawn(report::report(keeper, status, counts.cut));
    tokio::spawn(tls.follow(args.tls_dir.clone(), &callers).run());
    tokio::spawn(ready.serve(metrics));
    let (shared, own) = (Arc::clone(&router), tls.clone());
    tokio::spawn(async move { shared.detect(Some(own)).await });
    let shared = Arc::clone(&router);
    tokio::spawn(async move { shared.serve_admin(admin, tls, admin_stats, lookup).await });
    let shared = Arc::clone(&router);
    tokio::spawn(async move { shared.save(args.state_dir).await });
    let shared = Arc::clone(&router);
    tokio::spawn(async move { shared.sweep().await });

    tracing::info!(namespace = args.namespace, listen = %args.listen, "router started");
    let finished = router.serve(data, data_stats, drain).await;
    tracing::info!(cut = finished.cut, "router ended");
    Ok(())
}

/// A client of the API server. Does not connect yet: the server may be away.
async fn client(args: &Args) -> Result<Client, RunError> {
    let failed = |error: &dyn std::error::Error| RunError::Kube(error.to_string());
    let mut config = kube::Config::infer().await.map_err(|error| failed(&error))?;
    config.default_namespace.clone_from(&args.namespace);
    config.connect_timeout = Some(Duration::from_secs(3));
    Client::try_from(config).map_err(|error| failed(&error))
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| RunError::Io { what: format!("cannot listen on {address}"), error })
}
