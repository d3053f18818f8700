//! Extensions of the protocol beside inference: statistics, the configuration of the model, and what little there is of the model repository.

use std::time::Instant;

use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use stoker_edge::body;
use stoker_edge::drain::Phase as DrainPhase;
use stoker_edge::reply::Reply;

use super::bodies::refuse_body;
use super::rest::json;
use super::{App, Models, Ready, Refusal};
use crate::protocol::answer::{self, Counted, Entry, State};
use crate::protocol::message;
use crate::protocol::path::Model;

/// The longest body that asks for the index, in bytes: it holds one truth value.
const INDEX_BODY: usize = 4 << 10;

impl Models {
    /// The counts of a model since the start.
    pub(super) fn statistics(&self, model: Model<'_>) -> Reply {
        written_statistics(self.find(model).map(|found| vec![found]))
    }

    /// The counts of all models that are loaded.
    pub(super) fn all_statistics(&self) -> Reply {
        written_statistics(self.loaded())
    }

    /// What is to be known of the model, as its configuration has it.
    pub(super) fn configuration(&self, model: Model<'_>) -> Reply {
        match self.find(model) {
            Ok((app, ready)) => {
                let config = message::config(&app.model_name, &ready.model.signature);
                json(StatusCode::OK, answer::model_config(&config))
            }
            Err(refusal) => refusal.reply(),
        }
    }

    /// The models, with their states. A request may ask for those that are ready only.
    pub(super) async fn repository_index(&self, headers: &HeaderMap, mut body: Incoming) -> Reply {
        #[derive(Default, Deserialize)]
        struct Asked {
            #[serde(default)]
            ready: bool,
        }
        let deadline = Instant::now() + self.limits.request_time;
        let read = body::read_bounded(&mut body, INDEX_BODY);
        let asked = match tokio::time::timeout_at(deadline.into(), read).await {
            Ok(Ok(bytes)) if bytes.is_empty() => Asked::default(),
            Ok(Ok(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(asked) => asked,
                Err(_) => return Refusal::Repository(r#"the body must be empty or {"ready": true}"#).reply(),
            },
            Ok(Err(_)) => {
                refuse_body(headers, body);
                return Refusal::TooLarge(INDEX_BODY).reply();
            }
            Err(_) => return Refusal::BodyLate(self.limits.request_time).reply(),
        };
        json(StatusCode::OK, answer::repository_index(&self.index(asked.ready)))
    }

    /// The models with their states, or only those that are ready.
    pub(super) fn index(&self, ready_only: bool) -> Vec<Entry<'_>> {
        let entries = self.apps().iter().map(|app| {
            let (state, reason) = app.state();
            let version = app.loaded.get().map(|ready| ready.version.as_str());
            Entry { name: &app.model_name, version, state, reason }
        });
        entries.filter(|entry| !ready_only || entry.state == State::Ready).collect()
    }

    /// A server serves the same models for as long as it lives.
    pub(super) fn load_or_unload(&self, name: &str, headers: &HeaderMap, body: Incoming) -> Reply {
        refuse_body(headers, body);
        let refusal = match self.app(name) {
            Err(refusal) => refusal,
            Ok(_) => Refusal::Repository(
                "models are not loaded and unloaded here: a server serves what it was started with; change its \
                 deployment or its command line instead",
            ),
        };
        refusal.reply()
    }
}

impl App {
    /// The state of the model, and why it is not ready.
    fn state(&self) -> (State, String) {
        match self.readiness() {
            Ok(()) => (State::Ready, String::new()),
            Err(reason) if self.loaded.get().is_some() || self.drain.phase() > DrainPhase::Serving => {
                (State::Unavailable, reason)
            }
            Err(reason) => (State::Loading, reason),
        }
    }
}

/// The counts of some models.
fn written_statistics(models: Result<Vec<(&App, &Ready)>, Refusal>) -> Reply {
    match models {
        Ok(models) => {
            let counted = models.into_iter().map(|(app, ready)| Counted {
                name: &app.model_name,
                version: &ready.version,
                snapshot: app.metrics.statistics().snapshot(),
            });
            json(StatusCode::OK, answer::statistics(counted.collect()))
        }
        Err(refusal) => refusal.reply(),
    }
}
