//! Fetches, loads and warms the models, and starts what runs them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stoker_decide::caching::Settings as WorthSettings;
use tokio::sync::Mutex;

use super::{ServeError, threads};
use crate::artifact::{Digest, Fetcher, Format};
use crate::batch::{self, Bounded, Queue, Rules, warm};
use crate::cache::{Cache, Settings as CacheSettings, keyed_fingerprint};
use crate::config::{Named, Serve, Switch};
use crate::device::Model;
use crate::health::Predictions;
use crate::memory::{self, Share};
use crate::metrics::Metrics;
use crate::protocol::Signature;
use crate::service::{App, Loaded};

/// How long readiness waits for warm-up at ever larger batches.
const WARM_TIME: Duration = Duration::from_secs(5);

/// What becomes of one model.
pub(super) struct Part {
    /// Answers its requests.
    pub(super) app: Arc<App>,
    /// What it is.
    pub(super) named: Named,
    /// Its counts.
    pub(super) metrics: Metrics,
    /// Gets its artifact.
    pub(super) fetcher: Fetcher,
}

/// What runs one model. Dropped, its executors end as soon as they are done.
pub(super) struct Running {
    queue: Arc<Queue>,
    executors: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What models have in common while they start.
struct Shared<'a> {
    settings: &'a Serve,
    /// How many there are.
    models: usize,
    /// Held by the one that is loaded.
    turn: Mutex<()>,
    /// Memory of a run.
    share: Arc<Share>,
    /// Threads for the runs of each model.
    executors: usize,
}

/// Starts all models; each serves as soon as it is ready. The first error ends it.
///
/// Each model has as many executors as the process may have runs at a time, and not a part of them: executors sleep while
/// their queue is empty, so that a model that is asked alone has all the CPUs, as if it were served alone. Shares of its own
/// would leave CPUs idle beside a queue that grows. Where several models are busy, the operating system divides the CPUs
/// among them evenly; their runs then take longer, each model learns that as the cost of its runs, and keeps to its target
/// by smaller batches and by refusals. So no model can take more than its part from one that needs it. What that costs is
/// memory: all executors of all models may run at a time, so that a run may take less ([`Share`]). A GPU has one run of each
/// model at a time.
pub(super) async fn all(parts: Vec<Part>, settings: &Serve) -> Result<Vec<Running>, ServeError> {
    let device = settings.device;
    let executors =
        device.executors((threads(settings.threads) / usize::from(settings.threads_per_run)).max(1));
    let models = parts.len();
    let share = Arc::new(Share::among(executors.saturating_mul(models)));
    let shared = Shared { settings, models, turn: Mutex::new(()), share, executors };
    let shared = &shared;
    let starting = parts.into_iter().map(|part| async move {
        let name = part.named.name.clone();
        one(part, shared).await.map_err(|error| {
            // With one model there is no doubt which one it is.
            if models > 1 { ServeError::Of { name, error: Box::new(error) } } else { error }
        })
    });
    futures::future::try_join_all(starting).await
}

/// Waits for the executors of all models to end: those that are at work finish their runs.
pub(super) fn end(running: Vec<Running>) {
    for running in &running {
        running.queue.close();
    }
    for mut running in running {
        for executor in running.executors.drain(..) {
            drop(executor.join());
        }
    }
}

/// Fetches, loads and warms a model, then starts its executors and declares it ready.
async fn one(part: Part, shared: &Shared<'_>) -> Result<Running, ServeError> {
    let Part { app, named, metrics, fetcher } = part;
    let Shared { settings, models, turn, share, executors } = shared;
    let (location, executors) = (&named.uri, *executors);
    let begun = Instant::now();
    tracing::info!(model = named.name, %location, "fetching the model");
    // All of it is in memory until it is loaded, beside what is fetched for the other models, whose sizes nobody knows yet: each
    // has an equal part. Beyond the container's limit the kernel would end the process without a word.
    let fetcher = fetcher.within_memory(memory::for_each_run(*models));
    let (bytes, digest) = fetcher.fetch(location, named.digest).await?;
    metrics.started("fetch", begun.elapsed());
    if named.digest.is_none() {
        tracing::warn!(model = named.name, %digest, "no digest was given: the model is served unchecked");
    }

    // One at a time: loading takes a multiple of the artifact's memory, and warm-up measures what runs take, as far as those of
    // the models that are served by then let it.
    let turn = turn.lock().await;
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
    // A request that asks for more fails alone, and before the kernel ends the process.
    let memory = share.measure().filter(|_| device.counts_memory());
    let bound = device.counts_memory().then(|| Arc::clone(share));
    let model = Arc::new(Bounded { model, memory: bound });
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
    drop(turn);
    if let Some(reason) = &warmth.failure {
        tracing::warn!(model = named.name, reason, "warm-up failed; the first requests may be slower");
    }
    if signature.batch_axis && !warmth.joinable {
        tracing::warn!(
            model = named.name,
            "the model declares a batch axis but mixes rows; requests run one by one"
        );
    }

    let cache = cache(settings, &*model.model, digest, &metrics);
    if settings.prediction_metrics == Switch::On {
        let version = digest.version();
        let sampler = Predictions::start(&metrics.predictions, &named.name, &version, &signature)
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
        batch::start(&queue, &model, &signature, &metrics, executors, per_run).map_err(ServeError::Start)?;
    tokio::spawn(answers.deliver());
    metrics.serves(digest);
    tracing::info!(
        model = named.name,
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
    Ok(Running { queue, executors: handles })
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
