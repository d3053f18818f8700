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
use super::{App, Refusal};
use crate::protocol::answer::{self, State};
use crate::protocol::message;
use crate::protocol::path::Model;

/// The longest body that asks for the index, in bytes: it holds one truth value.
const INDEX_BODY: usize = 4 << 10;

impl App {
    /// The counts of a model since the start.
    pub(super) fn statistics(&self, model: Model<'_>) -> Reply {
        match self.find(model) {
            Ok(ready) => {
                let snapshot = self.metrics.statistics().snapshot();
                json(StatusCode::OK, answer::statistics(&self.model_name, &ready.version, &snapshot))
            }
            Err(refusal) => refusal.reply(),
        }
    }

    /// The counts of all models: of the one that there is.
    pub(super) fn all_statistics(&self) -> Reply {
        self.statistics(Model { name: &self.model_name, version: None })
    }

    /// What is to be known of the model, as its configuration has it.
    pub(super) fn configuration(&self, model: Model<'_>) -> Reply {
        match self.find(model) {
            Ok(ready) => {
                let config = message::config(&self.model_name, &ready.model.signature);
                json(StatusCode::OK, answer::model_config(&config))
            }
            Err(refusal) => refusal.reply(),
        }
    }

    /// The one model, with its state. A request may ask for those that are ready only.
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
        let (state, reason) = self.state();
        let version = self.loaded.get().map(|ready| ready.version.as_str());
        json(StatusCode::OK, answer::repository_index(&self.model_name, version, state, &reason, asked.ready))
    }

    /// The state of the model, and why it is not ready.
    pub(super) fn state(&self) -> (State, String) {
        match self.readiness() {
            Ok(()) => (State::Ready, String::new()),
            Err(reason) if self.loaded.get().is_some() || self.drain.phase() > DrainPhase::Serving => {
                (State::Unavailable, reason)
            }
            Err(reason) => (State::Loading, reason),
        }
    }

    /// A pod serves one model for as long as it lives.
    pub(super) fn load_or_unload(&self, name: &str, headers: &HeaderMap, body: Incoming) -> Reply {
        refuse_body(headers, body);
        let refusal = match self.find(Model { name, version: None }) {
            Err(refusal @ Refusal::NotFound(_)) => refusal,
            _ => Refusal::Repository(
                "models are not loaded and unloaded here: a server serves the one model that it was started with; \
                 change its deployment instead",
            ),
        };
        refusal.reply()
    }
}
