//! What the server counts, as Prometheus metrics with the prefix `stoker_server_`. docs/metrics/server.md lists them.
//!
//! Families are registered once for the process; each model has a [`Metrics`] with its series.

mod families;
mod phases;
mod requests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use stoker_graph::Value;

use crate::artifact::Digest;
use crate::batch::{Learned, Release, Stages, Telemetry};
use crate::cache::{CacheMetrics, CacheStatus};
use crate::health::{PredictionMetrics, Sampler};
use crate::statistics::Statistics;
pub use families::Families;
pub(crate) use families::ModelLabels;
use families::{InfoLabels, ReasonLabels, Seconds, StepLabels};
pub use phases::Phase;
pub use requests::Requests;

/// The counts of one model. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    model: Arc<str>,
    requests: Requests,
    batch_rows: Histogram,
    batch_requests: Histogram,
    waiting: Gauge,
    dropped: Family<ReasonLabels, Counter>,
    batching: Batching,
    panics: Counter,
    info: Family<InfoLabels, Gauge>,
    start: Family<StepLabels, Seconds>,
    /// Of the prediction cache.
    pub cache: CacheMetrics,
    /// Of what the model predicts.
    pub predictions: PredictionMetrics,
    /// What looks at predictions, where that is wanted and the model is a classifier.
    sampler: Arc<OnceLock<Arc<Sampler>>>,
}

impl Metrics {
    /// The series of a model in the families.
    pub fn new(families: &Families, model: &str) -> Self {
        let model: Arc<str> = model.into();
        let labels = ModelLabels { model: Arc::clone(&model) };
        Self {
            requests: Requests::of(families, &model),
            batch_rows: families.batch_rows.get_or_create_owned(&labels),
            batch_requests: families.batch_requests.get_or_create_owned(&labels),
            waiting: families.waiting.get_or_create_owned(&labels),
            dropped: families.dropped.clone(),
            batching: Batching::new(families, &labels),
            panics: families.panics.get_or_create_owned(&labels),
            info: families.info.clone(),
            start: families.start.clone(),
            cache: families.cache.of(&labels),
            predictions: families.predictions.clone(),
            sampler: Arc::default(),
            model,
        }
    }

    /// The part that is about requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// What is counted for the statistics extension.
    pub fn statistics(&self) -> &Statistics {
        self.requests.statistics()
    }

    /// As [`Requests::answered`].
    pub fn answered(&self, code: StatusCode, cache: CacheStatus, total: Duration) {
        self.requests.answered(code, cache, total);
    }

    /// As [`Requests::refused`].
    pub fn refused(&self, reason: &'static str) {
        self.requests.refused(reason);
    }

    /// As [`Requests::phase`].
    pub fn phase(&self, phase: Phase, cache: CacheStatus, time: Duration) {
        self.requests.phase(phase, cache, time);
    }

    /// Shows the outputs of runs to `sampler`. A second call changes nothing.
    pub fn samples(&self, sampler: Arc<Sampler>) {
        // A model is served for as long as the process lives.
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
        self.requests.serves(&digest.version());
        let labels = InfoLabels { model: Arc::clone(&self.model), digest: digest.to_string() };
        self.info.get_or_create(&labels).set(1);
    }

    /// Says how long a step of the start took.
    pub fn started(&self, step: &'static str, time: Duration) {
        let labels = StepLabels { model: Arc::clone(&self.model), step };
        self.start.get_or_create(&labels).set(time.as_secs_f64());
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
        self.statistics().ran(rows, stages);
    }

    fn released(&self, release: Release, learned: &Learned) {
        self.batching.released(release, learned);
    }

    fn dropped(&self, cancelled: usize, expired: usize, late: usize) {
        for (reason, count) in [("cancelled", cancelled), ("expired", expired), ("deadline", late)] {
            if count > 0 {
                let labels = ReasonLabels { model: Arc::clone(&self.model), reason };
                self.dropped.get_or_create(&labels).inc_by(count as u64);
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
    fixed: Seconds,
    per_row: Seconds,
    cap: Gauge,
    target: Seconds,
}

impl Batching {
    fn new(families: &Families, labels: &ModelLabels) -> Self {
        let release = |reason| {
            let labels = ReasonLabels { model: Arc::clone(&labels.model), reason };
            families.releases.get_or_create_owned(&labels)
        };
        Self {
            full: release("full"),
            idle: release("idle"),
            shape: release("shape"),
            delay: release("delay"),
            fixed: families.fixed.get_or_create_owned(labels),
            per_row: families.per_row.get_or_create_owned(labels),
            cap: families.cap.get_or_create_owned(labels),
            target: families.target.get_or_create_owned(labels),
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
