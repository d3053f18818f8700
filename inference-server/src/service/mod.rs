//! Answers requests of the Open Inference Protocol.
//!
//! `models` finds the model that a request names; `predict` is the way of a request through the model, the same for every transport, and `cached` the way around it;
//! `rest` is HTTP with JSON and raw bytes; `grpc` is gRPC; `extensions` is statistics and the repository; `echo` is what
//! headers give back; `refusal` is why there is no answer; `bodies` bounds what requests may hold.

mod bodies;
mod cached;
mod echo;
mod extensions;
mod grpc;
mod models;
mod predict;
mod refusal;
mod rest;
mod target;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stoker_edge::drain::{Drain, Phase as DrainPhase};
use stoker_edge::exit;

use crate::artifact::Digest;
use crate::batch::Queue;
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::protocol::Signature;
pub use grpc::{Answer, STREAM_REQUESTS};
pub use models::Models;
pub use refusal::Refusal;
use target::Target;

/// What requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Bytes of bodies in the process at a time.
    pub max_body_total: u64,
    /// Time from the head of a request to its answer.
    pub request_time: Duration,
    /// The latency target as long as the router names none; of each model.
    pub latency_target: Option<Duration>,
    /// Requests come from a router, whose headers are believed.
    pub behind_router: bool,
}

/// A model that is loaded and warm.
#[derive(Debug)]
pub struct Loaded {
    /// What the artifact is.
    pub digest: Digest,
    /// What the model takes and gives.
    pub signature: Arc<Signature>,
    /// True when requests may be joined.
    pub joinable: bool,
    /// Where requests wait for it.
    pub queue: Arc<Queue>,
    /// Answers that are given again, where that is wanted and the model is deterministic.
    pub cache: Option<Arc<Cache>>,
}

/// Answers requests for one model. Shared by all connections.
#[derive(Debug)]
pub struct App {
    model_name: String,
    limits: Limits,
    metrics: Metrics,
    drain: Drain,
    /// Bytes of bodies that are in the process, whichever model they are for.
    body_bytes: Arc<AtomicU64>,
    target: Target,
    loaded: OnceLock<Ready>,
}

/// The model with what is derived from it once.
#[derive(Debug)]
struct Ready {
    model: Loaded,
    version: String,
}

impl App {
    /// Nothing is loaded yet: health answers, everything else is 503. `body_bytes` are those that are in the process.
    pub fn new(
        model_name: String,
        limits: Limits,
        metrics: Metrics,
        drain: Drain,
        body_bytes: Arc<AtomicU64>,
    ) -> Self {
        let target = Target::new(limits.latency_target, limits.behind_router);
        Self { model_name, limits, metrics, drain, body_bytes, target, loaded: OnceLock::new() }
    }

    /// From here on the model is served. A second call changes nothing.
    pub fn ready(&self, model: Loaded) {
        let version = model.digest.version();
        if self.loaded.set(Ready { model, version }).is_err() {
            tracing::error!(code = exit::INTERNAL, "a second model was loaded and is not served");
        }
    }

    /// Says why this model is not ready, if it is not.
    pub fn readiness(&self) -> Result<(), String> {
        if self.drain.phase() > DrainPhase::Serving {
            return Err("draining: this process is about to end".to_owned());
        }
        self.loaded.get().map(|_| ()).ok_or_else(|| Refusal::Loading.to_string())
    }

    /// The model, where it is loaded and has the version that a request names.
    fn find(&self, version: Option<&str>) -> Result<&Ready, Refusal> {
        let ready = self.loaded.get().ok_or(Refusal::Loading)?;
        match version {
            Some(version) if version != ready.version => Err(Refusal::NotFound(format!(
                "model `{}` has no version `{}` here; this server serves version `{}`",
                self.model_name,
                shortened(version),
                ready.version
            ))),
            _ => Ok(ready),
        }
    }

    /// Whether the model is ready; refused where it has no such version.
    fn is_ready(&self, version: Option<&str>) -> Result<bool, Refusal> {
        match self.find(version) {
            Ok(_) | Err(Refusal::Loading) => Ok(self.readiness().is_ok()),
            Err(refusal) => Err(refusal),
        }
    }
}

/// A stranger's text, cut to what a message can bear.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
