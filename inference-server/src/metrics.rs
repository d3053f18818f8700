//! What the server counts, as Prometheus metrics with the prefix `stoker_server_`. docs/metrics/server.md lists them.

mod phases;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use stoker_graph::Value;

use crate::artifact::Digest;
use crate::batch::{Learned, Release, Stages, Telemetry};
use crate::cache::{CacheMetrics, CacheStatus};
use crate::health::{PredictionMetrics, Sampler};
use crate::statistics::{Passed, Statistics};
pub use phases::Phase;
use phases::Phases;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    model: Arc<str>,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    model: Arc<str>,
    digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

/// The counts of one server. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    model: Arc<str>,
    requests: Family<RequestLabels, Counter>,
    /// The counter that nearly all requests go to, without the way through the family.
    answered: Counter,
    phases: Phases,
    batch_rows: Histogram,
    batch_requests: Histogram,
    waiting: Gauge,
    dropped: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    batching: Batching,
    panics: Counter,
    info: Family<InfoLabels, Gauge>,
    start: Family<StepLabels, Gauge<f64, AtomicU64>>,
    statistics: Arc<Statistics>,
    /// Of the prediction cache.
    pub cache: CacheMetrics,
    /// Of what the model predicts.
    pub predictions: PredictionMetrics,
    /// What looks at predictions, where that is wanted and the model is a classifier.
    sampler: Arc<OnceLock<Arc<Sampler>>>,
}

impl Metrics {
    /// Puts the metrics of `model` into a registry. `max_batch` bounds the buckets of the batch sizes.
    pub fn new(registry: &mut Registry, model: &str, max_batch: usize) -> Self {
        let model: Arc<str> = model.into();
        let doubling = |most: usize| {
            std::iter::successors(Some(1_usize), |size| size.checked_mul(2))
                .take_while(move |size| *size <= most)
        };
        let sizes = || Histogram::new(doubling(max_batch).map(|size| size as f64));

        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Infer requests by status code", requests.clone());
        let phases = Phases::new(registry, &model);
        let (batch_rows, batch_requests) = (sizes(), sizes());
        registry.register("batch_rows", "Rows of each run of the model", batch_rows.clone());
        registry.register("batch_requests", "Requests of each run of the model", batch_requests.clone());
        let waiting = Gauge::default();
        registry.register("queue_requests", "Infer requests that wait for the model or run", waiting.clone());
        let dropped = Family::<ReasonLabels, Counter>::default();
        let help = "Requests that left the queue without a run: the client had gone, the time limit had passed, or the answer could not come in time";
        registry.register("requests_dropped", help, dropped.clone());
        let refused = Family::<ReasonLabels, Counter>::default();
        registry.register(
            "refusals",
            "Infer requests without an answer of the model, by reason",
            refused.clone(),
        );
        let batching = Batching::new(registry);
        let panics = Counter::default();
        registry.register(
            "model_panics",
            "Panics while the model ran; above 0 is a fault of ours",
            panics.clone(),
        );
        let info = Family::<InfoLabels, Gauge>::default();
        registry.register("model_info", "The model that is served", info.clone());
        let start = Family::<StepLabels, Gauge<f64, AtomicU64>>::default();
        let help = "Time of each step of the start: fetch, load, warm";
        registry.register_with_unit("start", help, Unit::Seconds, start.clone());

        Self {
            answered: requests.get_or_create_owned(&RequestLabels { model: Arc::clone(&model), code: 200 }),
            phases,
            model,
            requests,
            batch_rows,
            batch_requests,
            waiting,
            dropped,
            refused,
            batching,
            panics,
            info,
            start,
            statistics: Arc::default(),
            cache: CacheMetrics::new(registry),
            predictions: PredictionMetrics::new(registry),
            sampler: Arc::default(),
        }
    }

    /// What is counted for the statistics extension.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Counts an infer request that was answered. Refusals are answers in which the cache has no part.
    pub fn answered(&self, code: StatusCode, cache: CacheStatus, total: Duration) {
        self.phase(Phase::Total, cache, total);
        if code == StatusCode::OK {
            self.answered.inc();
            self.statistics.succeeded(total, SystemTime::now());
        } else {
            // A request for another model says nothing of this one.
            if code != StatusCode::NOT_FOUND {
                self.statistics.failed(total);
            }
            let labels = RequestLabels { model: Arc::clone(&self.model), code: code.as_u16() };
            self.requests.get_or_create(&labels).inc();
        }
    }

    /// Counts an infer request that got no answer of the model.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts the time of one phase of a request that passed it.
    pub fn phase(&self, phase: Phase, cache: CacheStatus, time: Duration) {
        self.phases.record(phase, cache, time);
        let passed = match phase {
            Phase::Parse => Passed::Input,
            Phase::Queue => Passed::Queue,
            Phase::Compute => Passed::Infer,
            Phase::Serialise => Passed::Output,
            // Counted with its outcome.
            Phase::Total => return,
        };
        self.statistics.passed(passed, time);
    }

    /// Shows the outputs of runs to `sampler`. A second call changes nothing.
    pub fn samples(&self, sampler: Arc<Sampler>) {
        // One model is served for as long as the process lives.
        let _ = self.sampler.set(sampler);
    }

    /// Counts a request as waiting until the guard is dropped.
    pub fn waiting(&self) -> Waiting<'_> {
        self.waiting.inc();
        Waiting(&self.waiting)
    }

    /// Requests that wait for the model or run.
    pub fn in_work(&self) -> i64 {
        self.waiting.get()
    }

    /// Says which model is served.
    pub fn serves(&self, digest: Digest) {
        self.phases.serves(&digest.version());
        let labels = InfoLabels { model: Arc::clone(&self.model), digest: digest.to_string() };
        self.info.get_or_create(&labels).set(1);
    }

    /// Says how long a step of the start took.
    pub fn started(&self, step: &'static str, time: Duration) {
        self.start.get_or_create(&StepLabels { step }).set(time.as_secs_f64());
    }
}

impl Telemetry for Metrics {
    fn ran(&self, requests: usize, rows: usize, _: Duration) {
        self.batch_requests.observe(requests as f64);
        self.batch_rows.observe(rows as f64);
    }

    fn gave(&self, outputs: &[Value]) {
        if let Some(sampler) = self.sampler.get() {
            sampler.see(outputs);
        }
    }

    fn did(&self, rows: usize, stages: Stages) {
        self.statistics.ran(rows, stages);
    }

    fn released(&self, release: Release, learned: &Learned) {
        self.batching.released(release, learned);
    }

    fn dropped(&self, cancelled: usize, expired: usize, late: usize) {
        for (reason, count) in [("cancelled", cancelled), ("expired", expired), ("deadline", late)] {
            if count > 0 {
                self.dropped.get_or_create(&ReasonLabels { reason }).inc_by(count as u64);
            }
        }
    }

    fn panicked(&self) {
        self.panics.inc();
    }
}

/// Why batches were run as they were, and what decides it. Each batch writes to it, so nothing is looked up.
#[derive(Clone, Debug)]
struct Batching {
    full: Counter,
    idle: Counter,
    shape: Counter,
    delay: Counter,
    fixed: Gauge<f64, AtomicU64>,
    per_row: Gauge<f64, AtomicU64>,
    cap: Gauge,
    target: Gauge<f64, AtomicU64>,
}

impl Batching {
    fn new(registry: &mut Registry) -> Self {
        let releases = Family::<ReasonLabels, Counter>::default();
        let help = "Batches by why no more requests are in them: full, none waited (idle), another shape, or held back long enough (delay)";
        registry.register("batch_releases", help, releases.clone());
        let release = |reason| releases.get_or_create_owned(&ReasonLabels { reason });
        let mut seconds = |name: &str, help: &str| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
            gauge
        };
        let fixed = seconds("run_fixed", "What a run of the model takes whatever its rows, as learned");
        let per_row = seconds("run_row", "What each row adds to a run of the model, as learned");
        let target = seconds("latency_target", "The latency target; 0 without one");
        let cap = Gauge::default();
        registry.register("batch_cap_rows", "Most rows of a batch by now", cap.clone());
        Self {
            full: release("full"),
            idle: release("idle"),
            shape: release("shape"),
            delay: release("delay"),
            fixed,
            per_row,
            cap,
            target,
        }
    }

    fn released(&self, release: Release, learned: &Learned) {
        let counter = match release {
            Release::Full => &self.full,
            Release::Idle => &self.idle,
            Release::Shape => &self.shape,
            Release::Delay => &self.delay,
        };
        counter.inc();
        self.fixed.set(learned.fixed);
        self.per_row.set(learned.per_row);
        self.cap.set(i64::try_from(learned.cap).unwrap_or(i64::MAX));
        self.target.set(learned.target.map_or(0.0, |target| target.as_secs_f64()));
    }
}

/// Counts a request as waiting for as long as it lives, however it ends.
pub struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
