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
pub fn encode(histogram: &Histogram, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    encode_with(histogram, None, encoder)
}

/// As [`encode`], with one more bound. Classic bounds double, so that a quantile between two of them is a guess; at a bound that
/// is asked for, such as a target, what is above is counted.
pub fn encode_with(
    histogram: &Histogram,
    bound: Option<Duration>,
    mut encoder: MetricEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let total = histogram.count();
    let mut cumulative = histogram.classic();
    if let Some(bound) = bound {
        let (seconds, up_to) = (bound.as_secs_f64(), total - histogram.count_above(bound));
        let at = cumulative.partition_point(|(known, _)| *known < seconds);
        if cumulative.get(at).is_none_or(|(known, _)| *known > seconds) {
            cumulative.insert(at, (seconds, up_to));
        }
    }
    let mut below = 0;
    // The encoder wants the count of each bucket alone and adds them up itself.
    let mut buckets: Vec<_> = cumulative
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
    fn what_is_above_a_bound_that_is_asked_for_is_counted_and_not_guessed() {
        /// Shows a histogram with one more bound.
        #[derive(Debug)]
        struct Shown(Histogram, Duration);
        impl prometheus_client::collector::Collector for Shown {
            fn encode(
                &self,
                mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                let family = encoder.encode_descriptor("x", "X", None, MetricType::Histogram)?;
                encode_with(&self.0, Some(self.1), family)
            }
        }
        let text = |bound| {
            let mut histogram = Histogram::default();
            // All in one bucket of the classic ones, between 1/16 and 1/8 s.
            (0..90).for_each(|_| histogram.record(Duration::from_millis(70)));
            (0..10).for_each(|_| histogram.record(Duration::from_millis(120)));
            let mut registry = Registry::default();
            registry.register_collector(Box::new(Shown(histogram, bound)));
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let found = text(Duration::from_millis(100));
        for line in [r#"x_bucket{le="0.0625"} 0"#, r#"x_bucket{le="0.1"} 90"#, r#"x_bucket{le="0.125"} 100"#]
        {
            assert!(found.contains(line), "{line} is not in:\n{found}");
        }
        let found = text(Duration::from_millis(125));
        assert_eq!(found.matches(r#"le="0.125""#).count(), 1, "{found}");
    }

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
