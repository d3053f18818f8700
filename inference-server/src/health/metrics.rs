//! What is counted of predictions.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use stoker_decide::confidence::{Confidence, Distribution};

/// A [`Distribution`] in a registry. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Confidences(Arc<Mutex<Distribution>>);

impl Confidences {
    fn record(&self, number: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record(number);
    }
}

impl TypedMetric for Confidences {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Confidences {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let distribution = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The encoder adds the buckets up itself.
        let mut buckets: Vec<_> = distribution.buckets().collect();
        buckets.push((f64::INFINITY, 0));
        encoder.encode_histogram::<NoLabelSet>(distribution.sum(), distribution.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutputLabels {
    pub(super) model: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) output: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    model: Arc<str>,
    version: Arc<str>,
    output: Arc<str>,
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
    version: Arc<str>,
}

/// The counts. Clones share them; while no model runs they are empty.
#[derive(Clone, Debug, Default)]
pub struct PredictionMetrics {
    top: Family<OutputLabels, Confidences>,
    margin: Family<OutputLabels, Confidences>,
    entropy: Family<OutputLabels, Confidences>,
    classes: Family<ClassLabels, Counter>,
    rows: Family<ModelLabels, Counter>,
    examined: Family<ModelLabels, Counter>,
    unfit: Family<OutputLabels, Counter>,
}

impl PredictionMetrics {
    /// Puts them into a registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let confidences = [
            ("prediction_top_score", "Largest probability of each examined row", &metrics.top),
            (
                "prediction_margin",
                "Largest less second largest probability of each examined row",
                &metrics.margin,
            ),
            (
                "prediction_entropy",
                "Entropy of the probabilities of each examined row, over that of the even distribution: 0 is sure",
                &metrics.entropy,
            ),
        ];
        for (name, help, family) in confidences {
            registry.register(name, help, Family::clone(family));
        }
        let help = "Examined rows by the class that the model names; `other` beyond the first 100 classes";
        registry.register("prediction_classes", help, metrics.classes.clone());
        let help = "Rows that runs of the model gave; answers from the cache are not runs";
        registry.register("prediction_rows", help, metrics.rows.clone());
        let help = "Rows whose confidence and class were looked at: a sample of at most 64 rows of a batch";
        registry.register("prediction_rows_examined", help, metrics.examined.clone());
        let help = "Examined rows that are not probabilities, though the output was seen to hold them";
        registry.register("prediction_rows_unfit", help, metrics.unfit.clone());
        metrics
    }

    /// The series of one model.
    pub(super) fn of(&self, model: &Arc<str>, version: &Arc<str>) -> Series {
        let labels = ModelLabels { model: Arc::clone(model), version: Arc::clone(version) };
        Series {
            all: self.clone(),
            rows: self.rows.get_or_create_owned(&labels),
            examined: self.examined.get_or_create_owned(&labels),
            model: Arc::clone(model),
            version: Arc::clone(version),
        }
    }
}

/// The counts of one model and version.
#[derive(Clone, Debug)]
pub(super) struct Series {
    all: PredictionMetrics,
    pub(super) rows: Counter,
    pub(super) examined: Counter,
    model: Arc<str>,
    version: Arc<str>,
}

impl Series {
    /// Counts confidences of rows of an output.
    pub(super) fn confident(&self, output: &Arc<str>, rows: &[Confidence]) {
        let labels = self.labels(output);
        let (top, margin, entropy) = (
            self.all.top.get_or_create_owned(&labels),
            self.all.margin.get_or_create_owned(&labels),
            self.all.entropy.get_or_create_owned(&labels),
        );
        for row in rows {
            top.record(row.top);
            margin.record(row.margin);
            entropy.record(row.entropy);
        }
    }

    /// Counts rows of the chosen output that are no probabilities.
    pub(super) fn unfit(&self, output: &Arc<str>, rows: u64) {
        self.all.unfit.get_or_create(&self.labels(output)).inc_by(rows);
    }

    /// Counts rows of a class; `None` is all classes that are not told apart.
    pub(super) fn class(&self, output: &Arc<str>, class: Option<i64>, rows: u64) {
        let labels = ClassLabels {
            model: Arc::clone(&self.model),
            version: Arc::clone(&self.version),
            output: Arc::clone(output),
            class: class.map_or_else(|| "other".to_owned(), |class| class.to_string()),
        };
        self.all.classes.get_or_create(&labels).inc_by(rows);
    }

    fn labels(&self, output: &Arc<str>) -> OutputLabels {
        OutputLabels {
            model: Arc::clone(&self.model),
            version: Arc::clone(&self.version),
            output: Arc::clone(output),
        }
    }
}
