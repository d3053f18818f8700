//! The families of metrics: registered once, with the series of each model in them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use stoker_edge::metrics::LatencyHistogram;

use super::phases;
use crate::cache::CacheFamilies;
use crate::health::PredictionMetrics;

/// The model that is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ModelLabels {
    pub(crate) model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) model: Arc<str>,
    pub(super) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) model: Arc<str>,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct InfoLabels {
    pub(super) model: Arc<str>,
    pub(super) digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StepLabels {
    pub(super) model: Arc<str>,
    pub(super) step: &'static str,
}

/// A number of seconds.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// Makes histograms of batch sizes up to this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes(usize);

impl MetricConstructor<Histogram> for Sizes {
    fn new_metric(&self) -> Histogram {
        let doubling = std::iter::successors(Some(1_usize), |size| size.checked_mul(2));
        Histogram::new(doubling.take_while(|size| *size <= self.0).map(|size| size as f64))
    }
}

/// The families of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Families {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) phases: Family<phases::Labels, LatencyHistogram>,
    pub(super) batch_rows: Family<ModelLabels, Histogram, Sizes>,
    pub(super) batch_requests: Family<ModelLabels, Histogram, Sizes>,
    pub(super) waiting: Family<ModelLabels, Gauge>,
    pub(super) dropped: Family<ReasonLabels, Counter>,
    pub(super) refused: Family<ReasonLabels, Counter>,
    pub(super) releases: Family<ReasonLabels, Counter>,
    pub(super) fixed: Family<ModelLabels, Seconds>,
    pub(super) per_row: Family<ModelLabels, Seconds>,
    pub(super) target: Family<ModelLabels, Seconds>,
    pub(super) cap: Family<ModelLabels, Gauge>,
    pub(super) panics: Family<ModelLabels, Counter>,
    pub(super) info: Family<InfoLabels, Gauge>,
    pub(super) start: Family<StepLabels, Seconds>,
    pub(super) cache: CacheFamilies,
    pub(super) predictions: PredictionMetrics,
}

impl Families {
    /// Puts them into a registry. `max_batch` bounds the buckets of the batch sizes.
    pub fn new(registry: &mut Registry, max_batch: usize) -> Self {
        let sizes = || Family::new_with_constructor(Sizes(max_batch));
        let families = Self {
            requests: Family::default(),
            phases: Family::default(),
            batch_rows: sizes(),
            batch_requests: sizes(),
            waiting: Family::default(),
            dropped: Family::default(),
            refused: Family::default(),
            releases: Family::default(),
            fixed: Family::default(),
            per_row: Family::default(),
            target: Family::default(),
            cap: Family::default(),
            panics: Family::default(),
            info: Family::default(),
            start: Family::default(),
            cache: CacheFamilies::new(registry),
            predictions: PredictionMetrics::new(registry),
        };
        let all = families.clone();
        registry.register("requests", "Infer requests by status code", all.requests);
        let help = "Time of infer requests by phase (parse, queue, compute, serialise; total is the whole), by version \
                    of the model, and by the cache's part: off, miss, hit; nothing for parse, which is before it";
        registry.register_with_unit("phase", help, Unit::Seconds, all.phases);
        registry.register("batch_rows", "Rows of each run of the model", all.batch_rows);
        registry.register("batch_requests", "Requests of each run of the model", all.batch_requests);
        registry.register("queue_requests", "Infer requests that wait for the model or run", all.waiting);
        let help = "Requests that left the queue without a run: the client had gone, the time limit had passed, or the answer could not come in time";
        registry.register("requests_dropped", help, all.dropped);
        registry.register(
            "refusals",
            "Infer requests without an answer of the model, by reason",
            all.refused,
        );
        let help = "Batches by why no more requests are in them: full, none waited (idle), another shape, or held back long enough (delay)";
        registry.register("batch_releases", help, all.releases);
        let help = "What a run of the model takes whatever its rows, as learned";
        registry.register_with_unit("run_fixed", help, Unit::Seconds, all.fixed);
        let help = "What each row adds to a run of the model, as learned";
        registry.register_with_unit("run_row", help, Unit::Seconds, all.per_row);
        let help = "The latency target; 0 without one";
        registry.register_with_unit("latency_target", help, Unit::Seconds, all.target);
        registry.register("batch_cap_rows", "Most rows of a batch by now", all.cap);
        let help = "Panics while the model ran; above 0 is a fault of ours";
        registry.register("model_panics", help, all.panics);
        registry.register("model_info", "The model that is served", all.info);
        let help = "Time of each step of the start: fetch, load, warm";
        registry.register_with_unit("start", help, Unit::Seconds, all.start);
        families
    }
}
