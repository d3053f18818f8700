//! What Prometheus reads about scaling: a gauge for each revision that is there now, so that labels stay few.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use stoker_decide::autoscale::Figures;

use super::Scaling;

/// Reads the scalers when Prometheus asks.
pub struct Shown(pub Arc<Scaling>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shown")
    }
}

/// A revision of a ModelDeployment with its figures.
struct Row {
    namespace: String,
    name: String,
    revision: String,
    figures: Figures,
    pod_seconds: f64,
    cost: Option<f64>,
}

impl Row {
    fn labels(&self) -> [(&str, &str); 3] {
        [("namespace", &self.namespace), ("model_deployment", &self.name), ("revision", &self.revision)]
    }
}

impl Shown {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.0.each(|entry| {
            let (namespace, name) = entry.name();
            rows.extend(entry.figures().map(|(revision, figures)| Row {
                namespace: namespace.clone(),
                name: name.clone(),
                revision: revision.to_owned(),
                figures: figures.clone(),
                pod_seconds: entry.pod_seconds.get(revision).copied().unwrap_or(0.0),
                cost: entry.costs.get(revision).copied(),
            }));
        });
        rows
    }
}

/// Name, help, and the value where there is one.
type Column = (&'static str, &'static str, fn(&Figures) -> Option<f64>);

const COLUMNS: [Column; 5] = [
    ("stoker_scaling_replicas", "Pods that a revision needs for the whole demand", |figures| {
        Some(f64::from(figures.replicas))
    }),
    ("stoker_scaling_demand", "Requests per second that count", |figures| Some(figures.demand.per_second)),
    (
        "stoker_scaling_capacity",
        "Requests per second that a pod carries within the latency target",
        |figures| figures.capacity,
    ),
    ("stoker_scaling_utilisation", "Share of the capacity that the demand uses", Figures::utilisation),
    ("stoker_scaling_latency_seconds", "The latency percentile of the last minute", |figures| {
        figures.latency.map(|latency| latency.as_secs_f64())
    }),
];

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        Row::encode(&self.rows(), encoder)
    }
}

impl Row {
    fn encode(rows: &[Self], mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in COLUMNS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (row, value) in rows.iter().filter_map(|row| Some((row, value(&row.figures)?))) {
                ConstGauge::new(value).encode(family.encode_family(&row.labels())?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "stoker_scaling_pod_seconds",
            "Pods times seconds since the operator looks after the revision",
            None,
            MetricType::Counter,
        )?;
        for row in rows {
            ConstCounter::new(row.pod_seconds).encode(family.encode_family(&row.labels())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "stoker_scaling_cost",
            "What the pods cost since the operator looks after the revision, by --prices",
            None,
            MetricType::Counter,
        )?;
        for (row, cost) in rows.iter().filter_map(|row| Some((row, row.cost?))) {
            ConstCounter::new(cost).encode(family.encode_family(&row.labels())?)?;
        }
        Ok(())
    }
}

/// A revision with all that there can be, for the reference of metrics.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Sample;

#[cfg(test)]
impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::time::Duration;

        use stoker_decide::autoscale::{Rate, Rule};

        let row = Row {
            namespace: "team".into(),
            name: "digits".into(),
            revision: "digits-a".into(),
            figures: Figures {
                replicas: 2,
                rule: Rule::Demand,
                demand: Rate { per_second: 10.0, window: Duration::from_secs(15) },
                ahead: 0.0,
                capacity: Some(8.0),
                latency: Some(Duration::from_millis(50)),
                too_slow: None,
            },
            pod_seconds: 1.0,
            cost: Some(1.0),
        };
        Row::encode(&[row], encoder)
    }
}
