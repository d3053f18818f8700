//! The models of the process: which of them a request is for, and what they share.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use stoker_edge::drain::{Drain, Phase as DrainPhase};

use super::{App, Limits, Ready, Refusal, shortened};
use crate::metrics::{Metrics, Requests};
use crate::protocol::path::Model;

/// Names that an answer lists.
const LISTED: usize = 8;

/// Answers requests, each by the model that it names. Shared by all connections.
///
/// The models have nothing in common but the port, the bound of all bodies, and the machine. They are few and never change,
/// so that one is found by comparing names: without a lock or a table, and with one comparison where one model is served.
#[derive(Debug)]
pub struct Models {
    apps: Box<[Arc<App>]>,
    /// Counts requests that name none of them.
    pub(super) unnamed: Requests,
    pub(super) limits: Limits,
    pub(super) drain: Drain,
    /// Bytes of bodies that are in the process.
    pub(super) body_bytes: Arc<AtomicU64>,
}

impl Models {
    /// Models by name, of which none is loaded yet. Names must differ. `unnamed` counts requests that name none of them,
    /// where there are several; a single one counts all that come.
    pub fn new(
        models: impl IntoIterator<Item = (String, Metrics)>,
        unnamed: Requests,
        limits: Limits,
        drain: Drain,
    ) -> Self {
        let body_bytes = Arc::<AtomicU64>::default();
        let app = |(name, metrics)| {
            Arc::new(App::new(name, limits, metrics, drain.clone(), Arc::clone(&body_bytes)))
        };
        let apps: Box<[_]> = models.into_iter().map(app).collect();
        let unnamed = match &*apps {
            [only] => only.metrics.requests().clone(),
            _ => unnamed,
        };
        Self { apps, unnamed, limits, drain, body_bytes }
    }

    /// All of them, in the order of the command line.
    pub fn apps(&self) -> &[Arc<App>] {
        &self.apps
    }

    /// Says why this server is not ready, if it is not: it is when all models are.
    pub fn readiness(&self) -> Result<(), String> {
        if self.drain.phase() > DrainPhase::Serving {
            return Err("draining: this process is about to end".to_owned());
        }
        self.apps.iter().try_for_each(|app| match app.readiness() {
            Err(reason) if self.apps.len() > 1 => Err(format!("model `{}`: {reason}", app.model_name)),
            outcome => outcome,
        })
    }

    /// The model of that name.
    pub(super) fn app(&self, name: &str) -> Result<&Arc<App>, Refusal> {
        self.apps.iter().find(|app| app.model_name == name).ok_or_else(|| self.unknown(name))
    }

    /// The model that a request names, where it is loaded.
    pub(super) fn find(&self, model: Model<'_>) -> Result<(&App, &Ready), Refusal> {
        let app = self.app(model.name)?;
        Ok((app, app.find(model.version)?))
    }

    /// Those that are loaded, for answers about all. Refused where none is.
    pub(super) fn loaded(&self) -> Result<Vec<(&App, &Ready)>, Refusal> {
        let loaded: Vec<_> = self.apps.iter().filter_map(|app| Some((&**app, app.loaded.get()?))).collect();
        if loaded.is_empty() { Err(Refusal::Loading) } else { Ok(loaded) }
    }

    /// Requests that wait for the models or run: they share the threads, so the load of one is that of all.
    pub(super) fn in_work(&self) -> i64 {
        self.apps.iter().map(|app| app.metrics.in_work()).sum()
    }

    fn unknown(&self, name: &str) -> Refusal {
        let mut text = format!("there is no model `{}` here; this server serves ", shortened(name));
        for (position, app) in self.apps.iter().take(LISTED).enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            // A string takes all that is written to it.
            let _ = write!(text, "{comma}`{}`", shortened(&app.model_name));
        }
        let rest = self.apps.len().saturating_sub(LISTED);
        if rest > 0 {
            let _ = write!(text, " and {rest} more, which /v2/repository/index lists");
        }
        Refusal::NotFound(text)
    }
}

#[cfg(test)]
#[path = "models/tests.rs"]
mod tests;
