//! The protocol over HTTP: reads, asks the model, writes. Every refusal is `{"error": ...}`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use stoker_edge::body::{self, ReadError};
use stoker_edge::reply::{self, Reply};
use stoker_graph::Value;

use super::bodies::{BodiesFull, Counted, Metered, refuse_body};
use super::predict::Predicted;
use super::{App, Ready, Refusal};
use crate::cache::{CacheStatus, Directives};
use crate::metrics::Phase;
use crate::protocol::path::Call;
use crate::protocol::{InferRequest, Signature, answer, request};

/// Bodies and answers above this are read and written on a thread of their own, so that they do not hold up others.
const HEAVY_BYTES: usize = 128 << 10;
/// Elements of an answer above which it is heavy.
const HEAVY_ELEMENTS: usize = 16 << 10;
/// The header of Triton's binary tensors, which this server does not read.
pub const BINARY_HEADER: &str = "inference-header-content-length";

impl App {
    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Reply {
        let Some(call) = Call::parse(request.uri().path()) else {
            let known = "there are /v2, /v2/health/live, /v2/health/ready, and /v2/models/{name} with /ready and /infer";
            return Refusal::NotFound(format!("no such path; {known}")).reply();
        };
        if !call.takes(request.method()) {
            let mut reply = json(
                StatusCode::METHOD_NOT_ALLOWED,
                answer::error(&format!("{} is not allowed here; use {}", request.method(), call.allow())),
            );
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(call.allow()));
            return reply;
        }
        match call {
            Call::ServerMetadata => json(StatusCode::OK, answer::server_metadata()),
            Call::ServerLive => empty(StatusCode::OK),
            Call::ServerReady => empty(self.ready_status()),
            Call::ModelMetadata(model) => match self.find(model) {
                Ok(ready) => json(
                    StatusCode::OK,
                    answer::model_metadata(&self.model_name, &ready.version, &ready.model.signature),
                ),
                Err(refusal) => refusal.reply(),
            },
            Call::ModelReady(model) => match self.find(model) {
                Ok(_) | Err(Refusal::Loading) => {
                    let status = self.ready_status();
                    json(status, answer::model_ready(&self.model_name, status == StatusCode::OK))
                }
                Err(refusal) => refusal.reply(),
            },
            Call::Infer(model) => {
                let begun = Instant::now();
                let found = self.find(model);
                let (head, body) = request.into_parts();
                let (mut reply, cache) = match found {
                    Ok(ready) => match self.infer(ready, &head.headers, body, begun).await {
                        Ok((text, cache)) => (json(StatusCode::OK, text), cache),
                        Err(refusal) => (refusal.reply(), CacheStatus::Off),
                    },
                    Err(refusal) => {
                        refuse_body(&head.headers, body);
                        (refusal.reply(), CacheStatus::Off)
                    }
                };
                cache.write_to(reply.headers_mut());
                self.metrics.answered(reply.status(), cache, begun.elapsed());
                reply
            }
        }
    }

    fn ready_status(&self) -> StatusCode {
        if self.readiness().is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }

    /// The text of an answer, and the cache's part in it.
    async fn infer(
        &self,
        ready: &Ready,
        headers: &HeaderMap,
        mut body: Incoming,
        begun: Instant,
    ) -> Result<(Vec<u8>, CacheStatus), Refusal> {
        let deadline = begun + self.limits.request_time;
        if headers.contains_key(BINARY_HEADER) {
            refuse_body(headers, body);
            return Err(Refusal::Binary);
        }
        let mut counted = Counted::new(&self.body_bytes, self.limits.max_body_total);
        let mut metered = Metered::new(&mut body, &mut counted);
        let read = body::read_bounded(&mut metered, self.limits.max_body);
        let bytes = match tokio::time::timeout_at(deadline.into(), read).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                refuse_body(headers, body);
                return Err(match error {
                    ReadError::TooLarge { limit } => Refusal::TooLarge(limit),
                    ReadError::Broken(error) if error.is::<BodiesFull>() => Refusal::BodiesFull,
                    ReadError::Broken(error) => Refusal::Broken(error),
                });
            }
            Err(_) => return Err(Refusal::BodyLate(self.limits.request_time)),
        };

        let mut asked = self.parse(ready, bytes).await?;
        let id = asked.id.take();
        asked.cache = Directives::of(headers);
        let Predicted { outputs, cache } = self.predict(ready, asked, deadline).await?;
        let text = self.write(ready, id, outputs, cache).await;
        // The values take as much room as the body did, so its bytes count until here.
        drop(counted);
        Ok((text?, cache))
    }

    /// Reads the body; a heavy one on a thread of its own.
    async fn parse(&self, ready: &Ready, bytes: Bytes) -> Result<InferRequest, Refusal> {
        let begun = Instant::now();
        let parsed = if bytes.len() > HEAVY_BYTES {
            let signature = Arc::clone(&ready.model.signature);
            tokio::task::spawn_blocking(move || request::parse(&bytes, &signature))
                .await
                .map_err(|_| Refusal::Internal)?
        } else {
            request::parse(&bytes, &ready.model.signature)
        };
        self.metrics.phase(Phase::Parse, CacheStatus::Off, begun.elapsed());
        Ok(parsed?)
    }

    /// Writes the answer; a heavy one on a thread of its own.
    async fn write(
        &self,
        ready: &Ready,
        id: Option<String>,
        outputs: Vec<(usize, Value)>,
        cache: CacheStatus,
    ) -> Result<Vec<u8>, Refusal> {
        let begun = Instant::now();
        let elements: usize = outputs.iter().map(|(_, value)| value.data().len()).sum();
        let (name, version) = (self.model_name.as_str(), ready.version.as_str());
        let text = if elements > HEAVY_ELEMENTS {
            let (name, version) = (name.to_owned(), version.to_owned());
            let signature = Arc::clone(&ready.model.signature);
            tokio::task::spawn_blocking(move || written(&name, &version, id.as_deref(), outputs, &signature))
                .await
                .map_err(|_| Refusal::Internal)?
        } else {
            written(name, version, id.as_deref(), outputs, &ready.model.signature)
        };
        self.metrics.phase(Phase::Serialise, cache, begun.elapsed());
        Ok(text?)
    }
}

/// The text of an answer with the chosen outputs.
fn written(
    name: &str,
    version: &str,
    id: Option<&str>,
    chosen: Vec<(usize, Value)>,
    signature: &Signature,
) -> Result<Vec<u8>, answer::NotFinite> {
    let outputs: Vec<_> =
        chosen.into_iter().map(|(position, value)| (&signature.outputs[position], value)).collect();
    answer::infer(name, version, id, &outputs)
}

/// An answer in JSON.
pub fn json(status: StatusCode, text: Vec<u8>) -> Reply {
    reply::content(status, "application/json", text)
}

/// An answer without a body, as the protocol has it for health.
fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = status;
    reply
}
