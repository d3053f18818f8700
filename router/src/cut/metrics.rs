//! What Prometheus reads about cuts and about the exchange between routers.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::Origin;
use super::detect::Detectors;
use super::suspect::Withheld;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// With an error.
    Failed,
    /// Not within its deadline.
    TimedOut,
}

/// Label of [`CutCounts::cuts`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OriginLabel {
    /// Who made the cut.
    pub origin: Origin,
}

/// Label of [`CutCounts::withheld`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WithheldLabel {
    /// Why it was not made.
    pub reason: Withheld,
}

/// Label of calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// How it ended.
    pub outcome: Outcome,
}

/// Counts of cuts and of what is done for them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CutCounts {
    /// Cuts that came into force here.
    pub cuts: Family<OriginLabel, Counter>,
    /// Alarms without a cut.
    pub withheld: Family<WithheldLabel, Counter>,
    /// Messages to other routers.
    pub exchanges: Family<OutcomeLabel, Counter>,
    /// Messages from other routers that were understood.
    pub heard: Counter,
    /// Other routers that are told.
    pub peers: Gauge,
    /// Attempts to write a cut to the status of a ModelRoute.
    pub status_writes: Family<OutcomeLabel, Counter>,
}

impl CutCounts {
    /// Counts a cut that came into force.
    pub fn cut(&self, origin: Origin) {
        self.cuts.get_or_create(&OriginLabel { origin }).inc();
    }

    /// Counts an alarm without a cut.
    pub fn withheld(&self, reason: Withheld) {
        self.withheld.get_or_create(&WithheldLabel { reason }).inc();
    }

    /// Counts a message to another router.
    pub fn exchanged(&self, outcome: Outcome) {
        self.exchanges.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a write of status.
    pub fn wrote(&self, outcome: Outcome) {
        self.status_writes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Puts the counts into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cuts", "Revisions taken out of traffic, by who decided it", self.cuts.clone());
        registry.register("cuts_withheld", "Alarms without a cut, by reason", self.withheld.clone());
        registry.register("exchanges", "Messages to other routers", self.exchanges.clone());
        registry.register("exchanges_heard", "Messages from other routers", self.heard.clone());
        registry.register("peers", "Other routers that evidence is exchanged with", self.peers.clone());
        registry.register(
            "status_writes",
            "Writes of cuts to the status of a ModelRoute",
            self.status_writes.clone(),
        );
    }
}

/// Reads the evidence when Prometheus asks.
#[derive(Debug)]
pub struct Harm(pub Arc<Detectors>);

impl Collector for Harm {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "stoker_router_harm_log10",
            "Evidence of harm as a power of ten, own and peers'",
            None,
            MetricType::Gauge,
        )?;
        for (route, suspicion) in self.0.suspicions() {
            let labels = [("route", route.as_str()), ("revision", suspicion.revision.as_str())];
            ConstGauge::new(suspicion.harm_log10).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
