//! Runs the server: binds, fetches, loads, warms, serves, drains.

mod start;

use std::convert::Infallible;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use stoker_decide::address::Guard;
use stoker_edge::admin::Admin;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Finished, Http2, Options, Stats};
use stoker_edge::{drain, exit};
use stoker_graph::LoadError;
use tokio::net::TcpListener;

use crate::artifact::{
    Credentials, CredentialsError, Digest, FetchError, Fetcher, Format, Limits as FetchLimits, Location,
};
use crate::config::{Access, Fetch, ModelsError, Serve, Source};
use crate::device::Device;
use crate::metrics::{Families, Metrics, Requests};
use crate::protocol::NotServable;
use crate::service::{Limits, Models, STREAM_REQUESTS};
use start::Part;

/// How long the end of the process waits for runs of the model whose clients have gone.
const LAST_RUNS: Duration = Duration::from_secs(1);

/// Why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Models that one process cannot serve.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// One of several models cannot be served.
    #[error("model `{name}`: {error}")]
    Of {
        /// Its name.
        name: String,
        /// Why.
        error: Box<ServeError>,
    },
    /// The folder of credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The artifact is not there, or not the right one.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The artifact is not a model that can be served.
    #[error("the artifact at {location} cannot be served: {error}")]
    Load {
        /// Where it came from.
        location: String,
        /// What is wrong with it.
        error: LoadError,
    },
    /// The device is not on this machine.
    #[error("--device {device} is not there: no such GPU, or no driver of it, was found on this machine")]
    NoDevice {
        /// What was asked for.
        device: Device,
    },
    /// The artifact is a model that the processor may run, and the device does not.
    #[error(
        "the artifact at {location} cannot be run on {device}: {error}\nwith --device cpu more operators run"
    )]
    NotPlaced {
        /// Where it came from.
        location: String,
        /// Where it was to run.
        device: Device,
        /// Which operators or values do not run there.
        error: LoadError,
    },
    /// The artifact is something else, and is known to be.
    #[error("the artifact at {location} cannot be served: {format}")]
    Format {
        /// Where it came from.
        location: String,
        /// What it is.
        format: Format,
    },
    /// The model has inputs or outputs that the protocol cannot carry.
    #[error("the model at {location} cannot be served: {error}")]
    NotServable {
        /// Where it came from.
        location: String,
        /// Which input or output, and why.
        error: NotServable,
    },
    /// A port cannot be bound.
    #[error("{address} cannot be bound: {error}")]
    Bind {
        /// The address.
        address: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// Threads or signal handlers cannot be made.
    #[error("the server cannot start: {0}")]
    Start(#[source] std::io::Error),
    /// The loader panicked.
    #[error("internal error while the model was loaded; the log has the place")]
    Panicked,
}

impl ServeError {
    /// The code to end the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Of { error, .. } => error.exit_code(),
            Self::Models(_) | Self::Credentials(_) | Self::NoDevice { .. } => exit::BAD_CONFIGURATION,
            Self::Fetch(error) => error.exit_code(),
            Self::Load { error: LoadError::Read { .. }, .. } => exit::UNAVAILABLE,
            Self::Load { .. } | Self::NotPlaced { .. } | Self::Format { .. } | Self::NotServable { .. } => {
                exit::BAD_ARTIFACT
            }
            Self::Bind { .. } | Self::Start(_) | Self::Panicked => exit::INTERNAL,
        }
    }
}

/// Threads that the process may use: what was asked for, else the CPUs that its cgroup and affinity leave it.
pub fn threads(asked: Option<u16>) -> usize {
    match asked {
        Some(count) => usize::from(count).max(1),
        None => std::thread::available_parallelism().map_or(1, NonZero::get),
    }
}

/// A server whose ports are bound.
pub struct Server {
    models: Arc<Models>,
    parts: Vec<Part>,
    stats: Stats,
    admin: Admin,
    data_port: TcpListener,
    metrics_port: TcpListener,
    settings: Serve,
    drain: Drain,
}

impl Server {
    /// Checks the settings, then binds the ports: a wrong setting ends the process before it can be seen.
    pub async fn bind(settings: Serve, drain: Drain) -> Result<Self, ServeError> {
        let named = settings.models()?;
        let fetchers = named.iter().map(|model| fetcher(&settings.access, &model.uri));
        let fetchers = fetchers.collect::<Result<Vec<_>, _>>()?;
        let device = settings.device;
        if !device.is_there() {
            return Err(ServeError::NoDevice { device });
        }
        let (registry, stats, families) = metrics(&settings);
        let limits = Limits {
            // The size of a body was checked to fit into an address when it was read.
            max_body: usize::try_from(settings.max_body).unwrap_or(usize::MAX),
            max_body_total: settings.max_body_total,
            request_time: settings.request_timeout,
            latency_target: settings.latency_target,
            behind_router: settings.behind_router,
        };
        let counted = named.iter().map(|model| (model.name.clone(), Metrics::new(&families, &model.name)));
        let counted: Vec<_> = counted.collect();
        let metrics: Vec<_> = counted.iter().map(|(_, metrics)| metrics.clone()).collect();
        let models = Models::new(counted, Requests::unnamed(&families), limits, drain.clone());
        let models = Arc::new(models);
        let parts = models.apps().iter().zip(named).zip(metrics.into_iter().zip(fetchers));
        let parts = parts.map(|((app, named), (metrics, fetcher))| {
            let app = Arc::clone(app);
            Part { app, named, metrics, fetcher }
        });
        let parts = parts.collect();
        let asked = Arc::clone(&models);
        let admin = Admin::new(registry, drain.clone(), Arc::new(move || asked.readiness()));
        let bind = async |address: std::net::SocketAddr| {
            let bound = TcpListener::bind(address).await;
            bound.map_err(|error| ServeError::Bind { address: address.to_string(), error })
        };
        let (data_port, metrics_port) = (bind(settings.listen).await?, bind(settings.metrics_listen).await?);
        // Which ports they are when 0 was asked for.
        let bound =
            |port: &TcpListener| port.local_addr().map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(data = bound(&data_port), metrics = bound(&metrics_port), "listening");
        Ok(Self { models, parts, stats, admin, data_port, metrics_port, settings, drain })
    }

    /// The address of the Open Inference Protocol, for those who bound port 0.
    pub fn data_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.data_port.local_addr()
    }

    /// The address of the metrics, for those who bound port 0.
    pub fn metrics_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.metrics_port.local_addr()
    }

    /// Serves until the drain is over. Both ports answer from the start: the data port with 503 for a model until it is warm.
    pub async fn run(self) -> Result<Finished, ServeError> {
        let Self { models, parts, stats, admin, data_port, metrics_port, settings, drain } = self;
        let admin = tokio::spawn(admin.serve(metrics_port));
        let mut http2 = Http2::default();
        // A stream that takes requests to its end has the time to answer the last one.
        http2.stream_time = http2.stream_time.max(settings.request_timeout * (STREAM_REQUESTS + 1));
        let mut options = Options { stats, http2: Some(http2), ..Options::default() };
        options.limits.connections = settings.max_connections as usize;
        let service = hyper::service::service_fn(move |request| {
            let models = Arc::clone(&models);
            async move { Ok::<_, Infallible>(models.respond(request).await) }
        });
        let mut serving = tokio::spawn(listen::serve(data_port, service, options, drain));

        let outcome = tokio::select! {
            started = start::all(parts, &settings) => match started {
                Ok(running) => {
                    let finished = (&mut serving).await;
                    // Nobody is left who could ask: what still waits are requests whose clients have gone. On a thread that
                    // may block; a model that runs for long is not waited for beyond the drain.
                    let ended = tokio::task::spawn_blocking(move || start::end(running));
                    drop(tokio::time::timeout(LAST_RUNS, ended).await);
                    finished
                }
                Err(error) => {
                    serving.abort();
                    admin.abort();
                    return Err(error);
                }
            },
            // Told to end while still loading.
            finished = &mut serving => finished,
        };
        admin.abort();
        outcome.map_err(|_| ServeError::Panicked)
    }
}

/// All that the server counts, in a registry.
pub fn metrics(settings: &Serve) -> (Registry, Stats, Families) {
    let mut registry = Registry::default();
    let stats = Stats::default();
    let prefixed = registry.sub_registry_with_prefix("stoker_server");
    stats.register(prefixed);
    let families = Families::new(prefixed, settings.max_batch as usize);
    (registry, stats, families)
}

/// Runs `serve` to its end.
pub async fn serve(settings: Serve) -> Result<Finished, ServeError> {
    let drain = drain::on_signal(settings.drain_delay, settings.drain_timeout).map_err(ServeError::Start)?;
    Server::bind(settings, drain).await?.run().await
}

/// Runs `resolve`: the digest of what is at the URI.
pub async fn resolve(source: &Source) -> Result<Digest, ServeError> {
    Ok(fetcher(&source.access, &source.model_uri)?.digest(&source.model_uri).await?)
}

/// Runs `fetch`: the path at which the artifact then is.
pub async fn fetch(settings: &Fetch) -> Result<PathBuf, ServeError> {
    let source = &settings.source;
    let fetcher = fetcher(&source.access, &source.model_uri)?;
    Ok(fetcher.fetch_into(&source.model_uri, settings.digest, &settings.to).await?)
}

/// What fetches the artifact at a URI.
fn fetcher(access: &Access, uri: &Location) -> Result<Fetcher, CredentialsError> {
    let read = |folder: &Path| Credentials::read(folder, uri);
    let credentials = access.credentials.as_deref().map(read).transpose()?;
    let limits = FetchLimits {
        max_bytes: access.max_artifact,
        retry_for: access.fetch_retry_for,
        total_time: access.fetch_timeout,
    };
    let guard = Guard::new(access.allow_network.clone());
    Ok(Fetcher::new(limits, credentials, guard).through_proxies(access.use_proxies))
}
