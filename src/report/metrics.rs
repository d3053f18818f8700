//! Figures of the operator itself. No label holds the name of an object: their number would have no bound. A namespace's series
//! ends with its routers.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stoker_edge::metrics::LatencyHistogram;

/// Counters and latencies of reconciles.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    reconciles: Family<Outcome, Counter>,
    duration: Family<Kind, LatencyHistogram>,
    transitions: Family<Transition, Counter>,
    status_writes: Counter,
    certificates: Family<Namespace, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Namespace {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    reason: &'static str,
}

impl Metrics {
    /// Shows the figures.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "stoker_operator_reconciles",
            "Reconciles by kind and outcome",
            self.reconciles.clone(),
        );
        registry.register(
            "stoker_operator_reconcile_seconds",
            "Duration of reconciles",
            self.duration.clone(),
        );
        registry.register(
            "stoker_operator_transitions",
            "Transitions of rollouts by reason",
            self.transitions.clone(),
        );
        registry.register(
            "stoker_operator_status_writes",
            "Writes of ModelDeployment status",
            self.status_writes.clone(),
        );
        registry.register(
            "stoker_operator_router_certificate_expiry_timestamp_seconds",
            "When the certificate of a namespace's routers ends, since 1970; it is made anew in the last third of its time",
            self.certificates.clone(),
        );
    }

    /// A reconcile ended; `outcome` is `ok` or the reason of an error.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { kind, outcome }).inc();
        self.duration.get_or_create(&Kind { kind }).record(took);
    }

    /// A rollout made a transition.
    pub fn transition(&self, reason: &'static str) {
        self.transitions.get_or_create(&Transition { reason }).inc();
    }

    /// The certificate of a namespace's routers ends then; none when there are no routers any more.
    pub fn certificate(&self, namespace: &str, ends: Option<Timestamp>) {
        let labels = Namespace { namespace: namespace.to_owned() };
        match ends {
            Some(ends) => {
                self.certificates.get_or_create(&labels).set(ends.as_second());
            }
            None => {
                self.certificates.remove(&labels);
            }
        }
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }
}
