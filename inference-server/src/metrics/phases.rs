//! The time of requests by phase, version of the model, and the cache's part.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use stoker_edge::metrics::LatencyHistogram;

use crate::cache::CacheStatus;

/// A part of a request's way through the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From JSON to typed values. It comes before the cache is asked.
    Parse,
    /// Waiting for an executor; the wait for others of the same batch is in it.
    Queue,
    /// The run of the batch that the request was in.
    Compute,
    /// From typed values to JSON.
    Serialise,
    /// All of it.
    Total,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    model: Arc<str>,
    version: Arc<str>,
    phase: &'static str,
    cache: &'static str,
}

/// Phases times states of the cache.
const SERIES: usize = 5 * 3;

/// The histograms. Clones share them.
#[derive(Clone, Debug)]
pub struct Phases {
    family: Family<Labels, LatencyHistogram>,
    model: Arc<str>,
    served: Arc<OnceLock<Served>>,
}

/// What is counted for the version that is served, without the way through the family.
#[derive(Debug)]
struct Served {
    version: Arc<str>,
    series: [OnceLock<LatencyHistogram>; SERIES],
}

impl Phases {
    /// Those of a model in the family.
    pub(super) fn new(family: &Family<Labels, LatencyHistogram>, model: &Arc<str>) -> Self {
        Self { family: Family::clone(family), model: Arc::clone(model), served: Arc::default() }
    }

    /// From here on the version is known. A second call changes nothing.
    pub fn serves(&self, version: &str) {
        // A model is served for as long as the process lives.
        let _ = self.served.set(Served { version: version.into(), series: Default::default() });
    }

    /// Counts the time of one phase of a request.
    pub fn record(&self, phase: Phase, cache: CacheStatus, time: Duration) {
        let Some(served) = self.served.get() else {
            let labels = self.labels(phase, cache, Arc::from(""));
            self.family.get_or_create(&labels).record(time);
            return;
        };
        let state = match cache {
            CacheStatus::Off => 0,
            CacheStatus::Miss => 1,
            CacheStatus::Hit { .. } => 2,
        };
        if let Some(series) = served.series.get(phase as usize * 3 + state) {
            series
                .get_or_init(|| {
                    let labels = self.labels(phase, cache, Arc::clone(&served.version));
                    self.family.get_or_create_owned(&labels)
                })
                .record(time);
        }
    }

    fn labels(&self, phase: Phase, cache: CacheStatus, version: Arc<str>) -> Labels {
        let (phase, cache) = match phase {
            Phase::Parse => ("parse", ""),
            Phase::Queue => ("queue", cache.word()),
            Phase::Compute => ("compute", cache.word()),
            Phase::Serialise => ("serialise", cache.word()),
            Phase::Total => ("total", cache.word()),
        };
        Labels { model: Arc::clone(&self.model), version, phase, cache }
    }
}
