//! What the cache counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Why the cache had no part in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The request says so.
    Request,
    /// The request is too large for the budget; or its answer is, and is not kept.
    Large,
    /// Keys of other requests under way take all that they may.
    Busy,
    /// The cache is switched off for a while.
    Off,
    /// Another request with the same hash runs.
    Collision,
}

impl Bypass {
    const ALL: [Self; 5] = [Self::Request, Self::Large, Self::Busy, Self::Off, Self::Collision];

    fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Large => "large",
            Self::Busy => "busy",
            Self::Off => "off",
            Self::Collision => "collision",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BypassLabels {
    reason: &'static str,
}

/// The counts of the cache. Clones share them; without a cache they stay at 0.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    coalesced: Counter,
    evicted: Counter,
    expired: Counter,
    switched_off: Counter,
    bypassed: Family<BypassLabels, Counter>,
    enabled: Gauge,
    bytes: Gauge,
    entries: Gauge,
}

impl CacheMetrics {
    /// Puts them into a registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let counters = [
            ("cache_hits", "Requests that were answered from the prediction cache", &metrics.hits),
            ("cache_misses", "Requests that ran the model because the cache had no answer", &metrics.misses),
            (
                "cache_coalesced",
                "Requests that were answered by the run of an identical request under way",
                &metrics.coalesced,
            ),
            ("cache_evicted", "Answers that gave way to others", &metrics.evicted),
            ("cache_expired", "Answers that were dropped at the end of their time to live", &metrics.expired),
            (
                "cache_switched_off",
                "Times that the cache switched itself off because it cost more than it saved",
                &metrics.switched_off,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Requests in which the cache had no part, by reason: request (its headers say so), large (it, or its \
                    answer), busy (too many under way), off (switched off for a while), collision";
        registry.register("cache_bypassed", help, metrics.bypassed.clone());
        for reason in Bypass::ALL {
            drop(metrics.bypassed.get_or_create(&BypassLabels { reason: reason.word() }));
        }
        registry.register("cache_enabled", "1 while the cache is used", metrics.enabled.clone());
        let help = "Memory that the cache takes: keys, answers, tables, and keys of requests under way";
        registry.register_with_unit("cache", help, Unit::Bytes, metrics.bytes.clone());
        registry.register("cache_entries", "Answers that the cache holds", metrics.entries.clone());
        metrics
    }

    pub(super) fn hit(&self) {
        self.hits.inc();
    }

    pub(super) fn miss(&self) {
        self.misses.inc();
    }

    pub(super) fn coalesced(&self) {
        self.coalesced.inc();
    }

    pub(super) fn evicted(&self, count: usize) {
        self.evicted.inc_by(count as u64);
    }

    pub(super) fn expired(&self, count: usize) {
        self.expired.inc_by(count as u64);
    }

    pub(super) fn switched_off(&self) {
        self.switched_off.inc();
        self.enabled(false);
    }

    pub(super) fn bypassed(&self, reason: Bypass) {
        self.bypassed.get_or_create(&BypassLabels { reason: reason.word() }).inc();
    }

    pub(super) fn enabled(&self, enabled: bool) {
        self.enabled.set(i64::from(enabled));
    }

    pub(super) fn holds(&self, bytes: usize, entries: usize) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}
