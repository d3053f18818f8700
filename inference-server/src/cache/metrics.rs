//! What the cache counts.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::ModelLabels;

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
    /// In the order of their declaration.
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
    model: Arc<str>,
    reason: &'static str,
}

/// The families of the counts below, for all models of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CacheFamilies {
    hits: Family<ModelLabels, Counter>,
    misses: Family<ModelLabels, Counter>,
    coalesced: Family<ModelLabels, Counter>,
    evicted: Family<ModelLabels, Counter>,
    expired: Family<ModelLabels, Counter>,
    switched_off: Family<ModelLabels, Counter>,
    bypassed: Family<BypassLabels, Counter>,
    enabled: Family<ModelLabels, Gauge>,
    bytes: Family<ModelLabels, Gauge>,
    entries: Family<ModelLabels, Gauge>,
}

impl CacheFamilies {
    /// Puts them into a registry.
    pub fn new(registry: &mut Registry) -> Self {
        let families = Self::default();
        let counters = [
            ("cache_hits", "Requests that were answered from the prediction cache", &families.hits),
            ("cache_misses", "Requests that ran the model because the cache had no answer", &families.misses),
            (
                "cache_coalesced",
                "Requests that were answered by the run of an identical request under way",
                &families.coalesced,
            ),
            ("cache_evicted", "Answers that gave way to others", &families.evicted),
            (
                "cache_expired",
                "Answers that were dropped at the end of their time to live",
                &families.expired,
            ),
            (
                "cache_switched_off",
                "Times that the cache switched itself off because it cost more than it saved",
                &families.switched_off,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, Family::clone(counter));
        }
        let help = "Requests in which the cache had no part, by reason: request (its headers say so), large (it, or its \
                    answer), busy (too many under way), off (switched off for a while), collision";
        registry.register("cache_bypassed", help, families.bypassed.clone());
        registry.register("cache_enabled", "1 while the cache is used", families.enabled.clone());
        let help = "Memory that the cache takes: keys, answers, tables, and keys of requests under way";
        registry.register_with_unit("cache", help, Unit::Bytes, families.bytes.clone());
        registry.register("cache_entries", "Answers that the cache holds", families.entries.clone());
        families
    }

    /// The series of a model.
    pub(crate) fn of(&self, labels: &ModelLabels) -> CacheMetrics {
        let counter = |family: &Family<ModelLabels, Counter>| family.get_or_create_owned(labels);
        let gauge = |family: &Family<ModelLabels, Gauge>| family.get_or_create_owned(labels);
        let bypassed = |reason: Bypass| {
            let labels = BypassLabels { model: Arc::clone(&labels.model), reason: reason.word() };
            self.bypassed.get_or_create_owned(&labels)
        };
        CacheMetrics {
            hits: counter(&self.hits),
            misses: counter(&self.misses),
            coalesced: counter(&self.coalesced),
            evicted: counter(&self.evicted),
            expired: counter(&self.expired),
            switched_off: counter(&self.switched_off),
            bypassed: Bypass::ALL.map(bypassed),
            enabled: gauge(&self.enabled),
            bytes: gauge(&self.bytes),
            entries: gauge(&self.entries),
        }
    }
}

/// The counts of the cache of one model. Clones share them; without a cache they stay at 0.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    coalesced: Counter,
    evicted: Counter,
    expired: Counter,
    switched_off: Counter,
    /// In the order of [`Bypass::ALL`].
    bypassed: [Counter; Bypass::ALL.len()],
    enabled: Gauge,
    bytes: Gauge,
    entries: Gauge,
}

impl CacheMetrics {
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
        if let Some(counter) = self.bypassed.get(reason as usize) {
            counter.inc();
        }
    }

    pub(super) fn enabled(&self, enabled: bool) {
        self.enabled.set(i64::from(enabled));
    }

    pub(super) fn holds(&self, bytes: usize, entries: usize) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}
