//! Runs the server: binds, fetches, loads, warms, serves, drains.

use std::convert::Infallible;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use stoker_decide::address::Guard;
use stoker_decide::caching::Settings as WorthSettings;
use stoker_edge::admin::Admin;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Finished, Http2, Options, Stats};
use stoker_edge::{drain, exit};
use stoker_graph::LoadError;
use tokio::net::TcpListener;

use crate::artifact::{
    Credentials, CredentialsError, Digest, FetchError, Fetcher, Format, Limits as FetchLimits,
};
use crate::batch::{Bounded, Queue, Rules, start, warm};
use crate::cache::{Cache, Settings as CacheSettings, keyed_fingerprint};
use crate::config::{Fetch, Serve, Source, Switch};
use crate::device::{Device, Model};
use crate::health::Predictions;
use crate::memory;
use crate::metrics::Metrics;
use crate::protocol::{NotServable, Signature};
use crate::service::{App, Limits, Loaded, STREAM_REQUESTS};

/// How long readiness waits for warm-up at ever larger batches.
const WARM_TIME: Duration = Duration::from_secs(5);
/// How long the end of the process waits for runs of the model whose clients have gone.
const LAST_RUNS: Duration = Duration::from_secs(1);

/// Why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
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
            Self::Credentials(_) | Self::NoDevice { .. } => exit::BAD_CONFIGURATION,
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
    app: Arc<App>,
    metrics: Metrics,
    stats: Stats,
    admin: Admin,
    data_port: TcpListener,
    metrics_port: TcpListener,
    settings: Serve,
    fetcher: Fetcher,
    drain: Drain,
}

impl Server {
    /// Checks the settings, then binds the ports: a wrong setting ends the process before it can be seen.
    pub async fn bind(settings: Serve, drain: Drain) -> Result<Self, ServeError> {
        let fetcher = fetcher(&settings.source)?;
        let device = settings.device;
        if !device.is_there() {
            return Err(ServeError::NoDevice { device });
        }
        let (registry, stats, metrics) = metrics(&settings);
        let limits = Limits {
            // The size of a body was checked to fit into an address when it was read.
            max_body: usize::try_from(settings.max_body).unwrap_or(usize::MAX),
            max_body_total: settings.max_body_total,
            request_time: settings.request_timeout,
            latency_target: settings.latency_target,
            behind_router: settings.behind_router,
        };
        let app = Arc::new(App::new(settings.model_name.clone(), limits, metrics.clone(), drain.clone()));
        let asked = Arc::clone(&app);
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
        Ok(Self { app, metrics, stats, admin, data_port, metrics_port, settings, fetcher, drain })
    }

    /// The address of the Open Inference Protocol, for those who bound port 0.
    pub fn data_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.data_port.local_addr()
    }

    /// The address of the metrics, for those who bound port 0.
    pub fn metrics_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.metrics_port.local_addr()
    }

    /// Serves until the drain is over. Both ports answer from the start: the data port with 503 until the model is warm.
    pub async fn run(self) -> Result<Finished, ServeError> {
        let Self { app, metrics, stats, admin, data_port, metrics_port, settings, fetcher, drain } = self;
        let admin = tokio::spawn(admin.serve(metrics_port));
        let mut http2 = Http2::default();
        // A stream that takes requests to its end has the time to answer the last one.
        http2.stream_time = http2.stream_time.max(settings.request_timeout * (STREAM_REQUESTS + 1));
        let mut options = Options { stats, http2: Some(http2), ..Options::default() };
        options.limits.connections = settings.max_connections as usize;
        let answering = Arc::clone(&app);
        let service = hyper::service::service_fn(move |request| {
            let app = Arc::clone(&answering);
            async move { Ok::<_, Infallible>(app.respond(request).await) }
        });
        let mut serving = tokio::spawn(listen::serve(data_port, service, options, drain));

        let outcome = tokio::select! {
            started = start_model(&app, &metrics, &settings, fetcher) => match started {
                Ok((queue, executors)) => {
                    let finished = (&mut serving).await;
                    // Nobody is left who could ask: what still waits are requests whose clients have gone.
                    queue.close();
                    // On a thread that may block; a model that runs for long is not waited for beyond the drain.
                    let ended = tokio::task::spawn_blocking(move || executors.into_iter().for_each(|executor| drop(executor.join())));
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

/// Fetches, loads and warms the model, then starts its executors and declares the server ready.
async fn start_model(
    app: &App,
    metrics: &Metrics,
    settings: &Serve,
    fetcher: Fetcher,
) -> Result<(Arc<Queue>, Vec<JoinHandle<()>>), ServeError> {
    let location = &settings.source.model_uri;
    let begun = Instant::now();
    tracing::info!(model = settings.model_name, %location, "fetching the model");
    // All of it is in memory until it is loaded; beyond the container's limit the kernel would end the process without a word.
    let fetcher = fetcher.within_memory(memory::for_each_run(1));
    let (bytes, digest) = fetcher.fetch(location, settings.digest).await?;
    metrics.started("fetch", begun.elapsed());
    if settings.digest.is_none() {
        tracing::warn!(%digest, "no --digest was given: the model is served unchecked");
    }

    let begun = Instant::now();
    let size = bytes.len();
    // The loader would name the byte at which it gave up; what the file is says more. Asked only then, no model is refused for it.
    let device = settings.device;
    let load = move || device.load(&bytes).map_err(|error| (error, Format::of(&bytes)));
    let loaded = tokio::task::spawn_blocking(load).await;
    let model = loaded.map_err(|_| ServeError::Panicked)?.map_err(|(error, format)| {
        let location = location.to_string();
        match format {
            Some(format) => ServeError::Format { location, format },
            None if device.refuses(&error) => ServeError::NotPlaced { location, device, error },
            None => ServeError::Load { location, error },
        }
    })?;
    metrics.started("load", begun.elapsed());

    let begun = Instant::now();
    let signature = Signature::of(&*model)
        .map_err(|error| ServeError::NotServable { location: location.to_string(), error })?;
    let signature = Arc::new(signature);
    let max_rows = settings.max_batch as usize;
    let per_run = usize::from(settings.threads_per_run);
    let executors = device.executors((threads(settings.threads) / per_run).max(1));
    // A request that asks for more fails alone, and before the kernel ends the process.
    let memory = memory::for_each_run(executors).filter(|_| device.counts_memory());
    let model = Arc::new(Bounded { model, memory });
    let warmth = {
        let (model, signature) = (Arc::clone(&model), Arc::clone(&signature));
        let warmed = tokio::task::spawn_blocking(move || {
            let run = || warm(&*model, &signature, max_rows, WARM_TIME);
            // With as many threads as runs of requests have: what it measures is what they are expected to take.
            match rayon::ThreadPoolBuilder::new().num_threads(per_run).build() {
                Ok(pool) => pool.install(run),
                Err(_) => run(),
            }
        });
        warmed.await.map_err(|_| ServeError::Panicked)?
    };
    metrics.started("warm", begun.elapsed());
    if let Some(reason) = &warmth.failure {
        tracing::warn!(reason, "warm-up failed; the first requests may be slower");
    }
    if signature.batch_axis && !warmth.joinable {
        tracing::warn!("the model declares a batch axis but mixes rows; requests run one by one");
    }

    let cache = cache(settings, &*model.model, digest, metrics);
    if settings.prediction_metrics == Switch::On {
        let version = digest.version();
        let sampler = Predictions::start(&metrics.predictions, &settings.model_name, &version, &signature)
            .map_err(ServeError::Start)?;
        if let Some(sampler) = sampler {
            metrics.samples(sampler);
        }
    }
    let rules = Rules {
        capacity: settings.queue as usize,
        max_rows: if warmth.joinable { max_rows } else { 1 },
        max_delay: settings.max_delay,
        executors,
    };
    let queue = Arc::new(Queue::new(rules, &warmth.times));
    let (handles, answers) =
        start(&queue, &model, &signature, metrics, executors, per_run).map_err(ServeError::Start)?;
    tokio::spawn(answers.deliver());
    metrics.serves(digest);
    tracing::info!(
        model = settings.model_name,
        %digest,
        bytes = size,
        %device,
        executors,
        memory_of_a_run = memory,
        batching = warmth.joinable,
        cache = cache.is_some(),
        warm = ?warmth.sizes,
        "ready"
    );
    app.ready(Loaded { digest, signature, joinable: warmth.joinable, queue: Arc::clone(&queue), cache });
    Ok((queue, handles))
}

/// All that the server counts, in a registry.
pub fn metrics(settings: &Serve) -> (Registry, Stats, Metrics) {
    let mut registry = Registry::default();
    let stats = Stats::default();
    let prefixed = registry.sub_registry_with_prefix("stoker_server");
    stats.register(prefixed);
    let metrics = Metrics::new(prefixed, &settings.model_name, settings.max_batch as usize);
    (registry, stats, metrics)
}

/// The prediction cache, where it is wanted and the model gives equal answers to equal requests.
fn cache(settings: &Serve, model: &dyn Model, digest: Digest, metrics: &Metrics) -> Option<Arc<Cache>> {
    if settings.cache == 0 {
        return None;
    }
    if !model.is_deterministic() {
        tracing::warn!("the model draws random numbers: its answers are not kept, and --cache does nothing");
        return None;
    }
    let size = CacheSettings {
        // The size was checked to fit into an address when it was read.
        budget: usize::try_from(settings.cache).unwrap_or(usize::MAX),
        time_to_live: settings.cache_ttl,
        worth: WorthSettings::default(),
    };
    Some(Arc::new(Cache::new(size, digest, keyed_fingerprint(), metrics.cache.clone(), Instant::now())))
}

/// Runs `serve` to its end.
pub async fn serve(settings: Serve) -> Result<Finished, ServeError> {
    let drain = drain::on_signal(settings.drain_delay, settings.drain_timeout).map_err(ServeError::Start)?;
    Server::bind(settings, drain).await?.run().await
}

/// Runs `resolve`: the digest of what is at the URI.
pub async fn resolve(source: &Source) -> Result<Digest, ServeError> {
    Ok(fetcher(source)?.digest(&source.model_uri).await?)
}

/// Runs `fetch`: the path at which the artifact then is.
pub async fn fetch(settings: &Fetch) -> Result<PathBuf, ServeError> {
    let source = &settings.source;
    Ok(fetcher(source)?.fetch_into(&source.model_uri, settings.digest, &settings.to).await?)
}

/// What fetches the artifact.
fn fetcher(source: &Source) -> Result<Fetcher, CredentialsError> {
    let read = |folder: &Path| Credentials::read(folder, &source.model_uri);
    let credentials = source.credentials.as_deref().map(read).transpose()?;
    let limits = FetchLimits {
        max_bytes: source.max_artifact,
        retry_for: source.fetch_retry_for,
        total_time: source.fetch_timeout,
    };
    let guard = Guard::new(source.allow_network.clone());
    Ok(Fetcher::new(limits, credentials, guard).through_proxies(source.use_proxies))
}
