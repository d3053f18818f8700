//! Latencies as a Prometheus metric.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use stoker_decide::histogram::Histogram;

/// A [`Histogram`] that can be put into a registry or a `Family`. Clones share their counts.
///
/// Exposed with at most 20 classic buckets; inside, the counts keep the resolution of the native schema 3.
#[derive(Clone, Debug, Default)]
pub struct LatencyHistogram(Arc<Mutex<Histogram>>);

impl LatencyHistogram {
    /// Counts one latency.
    pub fn record(&self, latency: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
    }

    /// A copy of the counts.
    pub fn read(&self) -> Histogram {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TypedMetric for LatencyHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for LatencyHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encode(&self.read(), encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Writes a histogram as classic buckets, for collectors that hold plain histograms.
pub fn encode(histogram: &Histogram, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    let total = histogram.count();
    let mut below = 0;
    // The encoder wants the count of each bucket alone and adds them up itself.
    let mut buckets: Vec<_> = histogram
        .classic()
        .into_iter()
        .map(|(bound, cumulative)| (bound, cumulative - std::mem::replace(&mut below, cumulative)))
        .collect();
    buckets.push((f64::INFINITY, total - below));
    encoder.encode_histogram::<NoLabelSet>(histogram.sum(), total, &buckets, None)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::family::Family;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_family_of_histograms_is_exposed_with_cumulative_buckets() {
        let family = Family::<Vec<(String, String)>, LatencyHistogram>::default();
        let mut registry = Registry::default();
        registry.register("latency_seconds", "Latency", family.clone());
        let arm = family.get_or_create(&vec![("revision".into(), "a".into())]).clone();
        arm.record(Duration::from_millis(1));
        arm.record(Duration::from_secs(3));
        arm.record(Duration::from_secs(100));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "latency_seconds_count{revision=\"a\"} 3",
            "latency_seconds_bucket{le=\"4.0\",revision=\"a\"} 2",
            "latency_seconds_bucket{le=\"+Inf\",revision=\"a\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(text.matches("_bucket").count() <= 20, "{text}");
    }
}
