//! What is counted of requests, whether a model had to do with them or not.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::families::{Families, ReasonLabels, RequestLabels};
use super::phases::{Phase, Phases};
use crate::cache::CacheStatus;
use crate::statistics::{Passed, Statistics};

/// The counts of requests of one model, or of those that name none that is served. Clones share them.
#[derive(Clone, Debug)]
pub struct Requests {
    model: Arc<str>,
    by_code: Family<RequestLabels, Counter>,
    /// The counter that nearly all requests go to, without the way through the family.
    answered: OnceLock<Counter>,
    refused: Family<ReasonLabels, Counter>,
    phases: Phases,
    statistics: Arc<Statistics>,
}

impl Requests {
    /// Of a model, whose answers are counted from 0 on.
    pub(super) fn of(families: &Families, model: &Arc<str>) -> Self {
        let counts = Self::new(families, model);
        counts.succeeded();
        counts
    }

    /// Of requests that name no model that is served, where several are: the label `model` is empty. Where one is, they count
    /// as requests for that one.
    pub fn unnamed(families: &Families) -> Self {
        Self::new(families, &Arc::from(""))
    }

    fn new(families: &Families, model: &Arc<str>) -> Self {
        Self {
            model: Arc::clone(model),
            by_code: families.requests.clone(),
            answered: OnceLock::new(),
            refused: families.refused.clone(),
            phases: Phases::new(&families.phases, model),
            statistics: Arc::default(),
        }
    }

    /// What is counted for the statistics extension.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Counts an infer request that was answered. Refusals are answers in which the cache has no part.
    pub fn answered(&self, code: StatusCode, cache: CacheStatus, total: Duration) {
        self.phase(Phase::Total, cache, total);
        if code == StatusCode::OK {
            self.succeeded().inc();
            self.statistics.succeeded(total, SystemTime::now());
        } else {
            // A request for another model says nothing of this one.
            if code != StatusCode::NOT_FOUND {
                self.statistics.failed(total);
            }
            self.by_code.get_or_create(&self.labels(code)).inc();
        }
    }

    /// Counts an infer request that got no answer of the model.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { model: Arc::clone(&self.model), reason }).inc();
    }

    /// Counts the time of one phase of a request that passed it.
    pub fn phase(&self, phase: Phase, cache: CacheStatus, time: Duration) {
        self.phases.record(phase, cache, time);
        let passed = match phase {
            Phase::Parse => Passed::Input,
            Phase::Queue => Passed::Queue,
            Phase::Compute => Passed::Infer,
            Phase::Serialise => Passed::Output,
            // Counted with its outcome.
            Phase::Total => return,
        };
        self.statistics.passed(passed, time);
    }

    /// From here on the version of the model is known.
    pub(super) fn serves(&self, version: &str) {
        self.phases.serves(version);
    }

    fn succeeded(&self) -> &Counter {
        self.answered.get_or_init(|| self.by_code.get_or_create_owned(&self.labels(StatusCode::OK)))
    }

    fn labels(&self, code: StatusCode) -> RequestLabels {
        RequestLabels { model: Arc::clone(&self.model), code: code.as_u16() }
    }
}
