//! The protocol over HTTP, with tensors as JSON or as raw bytes: reads, asks the model that is named, writes. Every refusal is `{"error": ...}`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, HeaderValue};
use http::{HeaderMap, HeaderName, Request, StatusCode};
use hyper::body::Incoming;
use stoker_edge::body::{self, ReadError};
use stoker_edge::reply::{self, Reply};
use stoker_graph::Value;
use tracing::Instrument as _;

use super::bodies::{BodiesFull, Counted, Metered, Written, refuse_body};
use super::echo::Echo;
use super::predict::{Predicted, Times};
use super::{App, Models, Ready, Refusal};
use crate::batch::Held;
use crate::cache::{CacheStatus, Directives};
use crate::metrics::Phase;
use crate::protocol::path::{Call, Model};
use crate::protocol::{Asked, Signature, answer, binary, deadline, request};

/// Bodies and answers above this are read and written on a thread of their own, so that they do not hold up others.
pub(super) const HEAVY_BYTES: usize = 128 << 10;
/// Elements of an answer above which it is heavy.
pub(super) const HEAVY_ELEMENTS: usize = 16 << 10;
/// Raw bytes weigh this much less than JSON: they are copied, and not read digit by digit.
const RAW_BYTES_PER_JSON: usize = 16;
/// Tells the router how many requests wait for the model or run; no client sees it.
pub(super) const LOAD: HeaderName = HeaderName::from_static("stoker-load");

impl Models {
    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Reply {
        let echo = Echo::of(request.headers());
        let mut reply = self.call(request).instrument(echo.span()).await;
        echo.mark(reply.headers_mut());
        reply
    }

    /// Does what a request calls for.
    async fn call(&self, request: Request<Incoming>) -> Reply {
        let Some(call) = Call::parse(request.uri().path()) else {
            let known = "there are /v2, /v2/health/live, /v2/health/ready, /v2/repository/index, /v2/models/stats, and \
                         /v2/models/{name} with /ready, /infer, /stats and /config";
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
            Call::ServerReady => empty(ready_status(self.readiness().is_ok())),
            Call::ModelMetadata(model) => match self.find(model) {
                Ok((app, ready)) => json(
                    StatusCode::OK,
                    answer::model_metadata(&app.model_name, &ready.version, &ready.model.signature),
                ),
                Err(refusal) => refusal.reply(),
            },
            Call::ModelReady(Model { name, version }) => {
                let asked = self.app(name).and_then(|app| Ok((app, app.is_ready(version)?)));
                match asked {
                    Ok((app, ready)) => {
                        json(ready_status(ready), answer::model_ready(&app.model_name, ready))
                    }
                    Err(refusal) => refusal.reply(),
                }
            }
            Call::AllStatistics => self.all_statistics(),
            Call::Statistics(model) => self.statistics(model),
            Call::Configuration(model) => self.configuration(model),
            Call::RepositoryIndex => {
                let (head, body) = request.into_parts();
                self.repository_index(&head.headers, body).await
            }
            Call::LoadOrUnload(name) => {
                let name = name.to_owned();
                let (head, body) = request.into_parts();
                self.load_or_unload(&name, &head.headers, body)
            }
            Call::Infer(model) => {
                let begun = Instant::now();
                let app = self.app(model.name);
                let counts = app.as_ref().map_or(&self.unnamed, |app| app.metrics.requests());
                let found = app.and_then(|app| Ok((app, app.find(model.version)?)));
                let (head, body) = request.into_parts();
                let outcome = match found {
                    Ok((app, ready)) => app.infer(ready, &head.headers, body, begun).await,
                    Err(refusal) => {
                        refuse_body(&head.headers, body);
                        Err(refusal)
                    }
                };
                let (mut reply, cache) = match outcome {
                    Ok(answered) => answered,
                    Err(refusal) => {
                        counts.refused(refusal.reason());
                        (refusal.reply(), CacheStatus::Off)
                    }
                };
                let took = begun.elapsed();
                counts.answered(reply.status(), cache, took);
                tracing::debug!(status = reply.status().as_u16(), ?took, "an infer request was answered");
                cache.write_to(reply.headers_mut());
                reply.headers_mut().insert(LOAD, HeaderValue::from(self.in_work()));
                reply
            }
        }
    }
}

impl App {
    /// The answer to an infer request, and the cache's part in it.
    async fn infer(
        &self,
        ready: &Ready,
        headers: &HeaderMap,
        mut body: Incoming,
        begun: Instant,
    ) -> Result<(Reply, CacheStatus), Refusal> {
        if !headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            refuse_body(headers, body);
            return Err(Refusal::Encoded);
        }
        // Nobody waits for longer than the gateway does, and the body is the first thing to be waited for.
        let asked_time = deadline::asked(headers);
        let body_time =
            asked_time.map_or(self.limits.request_time, |time| time.min(self.limits.request_time));
        let mut counted = Counted::new(Arc::clone(&self.body_bytes), self.limits.max_body_total);
        let mut metered = Metered::new(&mut body, &mut counted);
        let read = body::read_bounded(&mut metered, self.limits.max_body);
        let bytes = match tokio::time::timeout_at((begun + body_time).into(), read).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                refuse_body(headers, body);
                return Err(match error {
                    ReadError::TooLarge { limit } => Refusal::TooLarge(limit),
                    ReadError::Broken(error) if error.is::<BodiesFull>() => Refusal::BodiesFull,
                    ReadError::Broken(error) => Refusal::Broken(error),
                });
            }
            Err(_) => return Err(Refusal::BodyLate(body_time)),
        };

        // The values take as much room as the body did, so its bytes count until the answer is there, and for as long as
        // a request whose client has gone is in work.
        let held = Held::new(counted);
        let Asked { mut request, binary } = self.parse(ready, headers, bytes, &held).await?;
        request.held = held.clone();
        let id = request.id.take();
        request.timeout = deadline::shorter(request.timeout, asked_time);
        request.cache = Directives::of(headers);
        let deadline = begun + self.limits.request_time;
        let times = Times { begun, deadline, target: self.target.of(headers) };
        let Predicted { outputs, cache } = self.predict(ready, request, times).await?;
        let answer = self.write(ready, id, outputs, binary, cache, held).await?;
        Ok((self.answered(answer)?, cache))
    }

    /// Reads the body; a heavy one on a thread of its own.
    async fn parse(
        &self,
        ready: &Ready,
        headers: &HeaderMap,
        bytes: Bytes,
        held: &Held,
    ) -> Result<Asked, Refusal> {
        let begun = Instant::now();
        let (json, tail) = binary::divide(&bytes, binary::header(headers)?)?;
        let parsed = if json.len() + tail.len() / RAW_BYTES_PER_JSON > HEAVY_BYTES {
            let (json, tail) = (bytes.slice_ref(json), bytes.slice_ref(tail));
            let signature = Arc::clone(&ready.model.signature);
            let parse = move || request::parse(&json, &tail, &signature);
            held.clone().apart(parse).await.map_err(|_| Refusal::Internal)?
        } else {
            request::parse(json, tail, &ready.model.signature)
        }?;
        self.metrics.phase(Phase::Parse, CacheStatus::Off, begun.elapsed());
        Ok(parsed)
    }

    /// Writes the answer, in which the outputs that `binary` says are raw bytes; a heavy one on a thread of its own.
    async fn write(
        &self,
        ready: &Ready,
        id: Option<String>,
        outputs: Vec<(usize, Value)>,
        binary: Vec<bool>,
        cache: CacheStatus,
        held: Held,
    ) -> Result<answer::Answer, Refusal> {
        let begun = Instant::now();
        let is_binary = |position: &usize| binary.get(*position).copied().unwrap_or(false);
        let weight = |(position, value): &(usize, Value)| {
            value.data().len() / if is_binary(position) { RAW_BYTES_PER_JSON } else { 1 }
        };
        let weight: usize = outputs.iter().map(weight).sum();
        let (name, version) = (self.model_name.as_str(), ready.version.as_str());
        let answer = if weight > HEAVY_ELEMENTS {
            let (name, version) = (name.to_owned(), version.to_owned());
            let signature = Arc::clone(&ready.model.signature);
            let write = move || written(&name, &version, id.as_deref(), outputs, &binary, &signature);
            held.apart(write).await.map_err(|_| Refusal::Internal)?
        } else {
            written(name, version, id.as_deref(), outputs, &binary, &ready.model.signature)
        }?;
        self.metrics.phase(Phase::Serialise, cache, begun.elapsed());
        Ok(answer)
    }

    /// An answer of the model over HTTP, which counts until it is written.
    fn answered(&self, answer: answer::Answer) -> Result<Reply, Refusal> {
        let counted = Counted::new(Arc::clone(&self.body_bytes), self.limits.max_body_total);
        let written = Written::new(answer.bytes, counted).map_err(|_| Refusal::AnswersFull)?;
        let bytes = Bytes::from_owner(written);
        let Some(length) = answer.json_length else { return Ok(json(StatusCode::OK, bytes)) };
        let mut reply = reply::content(StatusCode::OK, "application/octet-stream", bytes);
        reply.headers_mut().insert(binary::HEADER, HeaderValue::from(length));
        Ok(reply)
    }
}

/// An answer with the chosen outputs.
fn written(
    name: &str,
    version: &str,
    id: Option<&str>,
    chosen: Vec<(usize, Value)>,
    binary: &[bool],
    signature: &Signature,
) -> Result<answer::Answer, answer::NotFinite> {
    let output = |(position, value): (usize, Value)| {
        let binary = binary.get(position).copied().unwrap_or(false);
        Some(answer::Output { info: signature.outputs.get(position)?, value, binary })
    };
    let outputs: Vec<_> = chosen.into_iter().filter_map(output).collect();
    answer::infer(name, version, id, &outputs)
}

/// An answer in JSON.
pub fn json(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    reply::content(status, "application/json", text)
}

/// The status that says whether something is ready.
fn ready_status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// An answer without a body, as the protocol has it for health.
fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = status;
    reply
}
