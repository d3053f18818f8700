//! Answers requests of the Open Inference Protocol: reads, queues, waits, writes. Every refusal is `{"error": ...}`.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, EXPECT, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use stoker_edge::body::{self, ReadError};
use stoker_edge::drain::{Drain, Phase as DrainPhase};
use stoker_edge::reply::{self, Reply};
use stoker_edge::{BoxError, exit};
use stoker_graph::Value;
use tokio::sync::oneshot;

use crate::artifact::Digest;
use crate::batch::{Done, Failure, Full, Job, Queue};
use crate::metrics::{Metrics, Phase};
use crate::protocol::path::{Call, Model};
use crate::protocol::{InferRequest, RequestError, Signature, answer, request};

/// Bodies and answers above this are read and written on a thread of their own, so that they do not hold up others.
const HEAVY_BYTES: usize = 128 << 10;
/// Elements of an answer above which it is heavy.
const HEAVY_ELEMENTS: usize = 16 << 10;
/// What a client that is turned away is told to wait, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// The header of Triton's binary tensors, which this server does not read.
const BINARY_HEADER: &str = "inference-header-content-length";

/// What requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Bytes of bodies in the process at a time.
    pub max_body_total: u64,
    /// Time from the head of a request to its answer.
    pub request_time: Duration,
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
}

/// Answers requests. Shared by all connections.
#[derive(Debug)]
pub struct App {
    model_name: String,
    limits: Limits,
    metrics: Metrics,
    drain: Drain,
    /// Bytes of bodies that are in the process.
    body_bytes: AtomicU64,
    loaded: OnceLock<Ready>,
}

/// The model with what is derived from it once.
#[derive(Debug)]
struct Ready {
    model: Loaded,
    version: String,
}

/// Why a request has no answer of the model.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("{0}")]
    Failure(#[from] Failure),
    #[error("{0}")]
    NotFinite(#[from] answer::NotFinite),
    #[error("{0}")]
    NotFound(String),
    #[error("the model is being loaded")]
    Loading,
    #[error("too many requests wait for the model already; send less or wait")]
    QueueFull,
    #[error("too many bytes of request bodies are in work; send less or wait")]
    BodiesFull,
    #[error("the body is longer than the limit of {0} bytes; send fewer rows at a time")]
    TooLarge(usize),
    #[error("the body could not be read: {0}")]
    Broken(BoxError),
    #[error("the body did not come within {0:?}")]
    BodyLate(Duration),
    #[error("the request took longer than {0:?}")]
    AnswerLate(Duration),
    #[error("binary tensors are not read here: send `data` as JSON, without the header {BINARY_HEADER}")]
    Binary,
    #[error("internal error")]
    Internal,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) | Self::Broken(_) | Self::Binary => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Loading | Self::QueueFull | Self::BodiesFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::AnswerLate(_) | Self::Failure(Failure::Expired) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failure(_) | Self::NotFinite(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn reply(&self) -> Reply {
        let status = self.status();
        let mut reply = json(status, answer::error(&self.to_string()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        reply
    }
}

impl App {
    /// Nothing is loaded yet: health answers, everything else is 503.
    pub fn new(model_name: String, limits: Limits, metrics: Metrics, drain: Drain) -> Self {
        Self { model_name, limits, metrics, drain, body_bytes: AtomicU64::new(0), loaded: OnceLock::new() }
    }

    /// From here on the model is served. A second call changes nothing.
    pub fn ready(&self, model: Loaded) {
        let version = model.digest.version();
        if self.loaded.set(Ready { model, version }).is_err() {
            tracing::error!(code = exit::INTERNAL, "a second model was loaded and is not served");
        }
    }

    /// Says why this server is not ready, if it is not.
    pub fn readiness(&self) -> Result<(), String> {
        if self.drain.phase() > DrainPhase::Serving {
            return Err("draining: this process is about to end".to_owned());
        }
        self.loaded.get().map(|_| ()).ok_or_else(|| Refusal::Loading.to_string())
    }

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
                let reply = match found {
                    Ok(ready) => match self.infer(ready, &head.headers, body, begun).await {
                        Ok(text) => json(StatusCode::OK, text),
                        Err(refusal) => refusal.reply(),
                    },
                    Err(refusal) => {
                        refuse_body(&head.headers, body);
                        refusal.reply()
                    }
                };
                self.metrics.answered(reply.status(), begun.elapsed());
                reply
            }
        }
    }

    fn ready_status(&self) -> StatusCode {
        if self.readiness().is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }

    /// The model that a URL names, if it is this one.
    fn find(&self, model: Model<'_>) -> Result<&Ready, Refusal> {
        if model.name != self.model_name {
            return Err(Refusal::NotFound(format!(
                "there is no model `{}` here; this server serves `{}`",
                shortened(model.name),
                self.model_name
            )));
        }
        let ready = self.loaded.get().ok_or(Refusal::Loading)?;
        match model.version {
            Some(version) if version != ready.version => Err(Refusal::NotFound(format!(
                "model `{}` has no version `{}` here; this server serves version `{}`",
                self.model_name,
                shortened(version),
                ready.version
            ))),
            _ => Ok(ready),
        }
    }

    /// The text of an answer.
    async fn infer(
        &self,
        ready: &Ready,
        headers: &HeaderMap,
        mut body: Incoming,
        begun: Instant,
    ) -> Result<Vec<u8>, Refusal> {
        let deadline = begun + self.limits.request_time;
        if headers.contains_key(BINARY_HEADER) {
            refuse_body(headers, body);
            return Err(Refusal::Binary);
        }
        let mut counted = Counted { all: &self.body_bytes, limit: self.limits.max_body_total, own: 0 };
        let mut metered = Metered { body: &mut body, counted: &mut counted };
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

        let asked = self.parse(ready, bytes).await?;
        let done = self.run(ready, asked.inputs, deadline).await?;
        self.metrics.phase(Phase::Queue, done.waited);
        self.metrics.phase(Phase::Compute, done.computed);
        let text = self.write(ready, asked.id, &asked.outputs, done.outputs).await;
        // The values take as much room as the body did, so its bytes count until here.
        drop(counted);
        text
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
        self.metrics.phase(Phase::Parse, begun.elapsed());
        Ok(parsed?)
    }

    /// Queues a request and waits for its outputs. When the client goes away, this future is dropped, and with it the
    /// receiver: the executor then skips the request.
    async fn run(&self, ready: &Ready, inputs: Vec<Value>, deadline: Instant) -> Result<Done, Refusal> {
        let rows = if ready.model.joinable { common_rows(&inputs) } else { None };
        let (reply, outcome) = oneshot::channel();
        let job = Job { inputs, rows, queued: Instant::now(), deadline, reply };
        let _waiting = self.metrics.waiting();
        ready.model.queue.push(job).map_err(|Full| Refusal::QueueFull)?;
        match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(Refusal::Internal),
            Err(_) => Err(Refusal::AnswerLate(self.limits.request_time)),
        }
    }

    /// Writes the answer; a heavy one on a thread of its own.
    async fn write(
        &self,
        ready: &Ready,
        id: Option<String>,
        wanted: &[usize],
        outputs: Vec<Value>,
    ) -> Result<Vec<u8>, Refusal> {
        let begun = Instant::now();
        let mut outputs: Vec<_> = outputs.into_iter().map(Some).collect();
        let chosen: Vec<(usize, Value)> = wanted
            .iter()
            .filter_map(|position| outputs.get_mut(*position)?.take().map(|value| (*position, value)))
            .collect();
        let elements: usize = chosen.iter().map(|(_, value)| value.data().len()).sum();
        let (name, version) = (self.model_name.as_str(), ready.version.as_str());
        let text = if elements > HEAVY_ELEMENTS {
            let (name, version) = (name.to_owned(), version.to_owned());
            let signature = Arc::clone(&ready.model.signature);
            tokio::task::spawn_blocking(move || written(&name, &version, id.as_deref(), chosen, &signature))
                .await
                .map_err(|_| Refusal::Internal)?
        } else {
            written(name, version, id.as_deref(), chosen, &ready.model.signature)
        };
        self.metrics.phase(Phase::Serialise, begun.elapsed());
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

/// The rows along axis 0 when all inputs have the same number and there is one at least.
fn common_rows(inputs: &[Value]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    let all = inputs.iter().all(|input| input.shape().first() == Some(&rows));
    (all && rows > 0).then_some(rows)
}

/// Bytes of a body, counted against the bound of all bodies for as long as this lives.
struct Counted<'a> {
    all: &'a AtomicU64,
    limit: u64,
    own: u64,
}

impl Counted<'_> {
    /// Counts further bytes, unless the bound would be passed.
    fn add(&mut self, bytes: u64) -> Result<(), BodiesFull> {
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.own += bytes;
        if before.saturating_add(bytes) > self.limit { Err(BodiesFull) } else { Ok(()) }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// The bound of all bodies is reached.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes of request bodies are in work")]
struct BodiesFull;

/// A body whose bytes are counted while they come.
struct Metered<'a, 'b> {
    body: &'a mut Incoming,
    counted: &'a mut Counted<'b>,
}

impl hyper::body::Body for Metered<'_, '_> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut *this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            this.counted.add(bytes)?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Throws away the body of a request that is refused without reading it, so that the client gets to read the refusal.
/// A client that waits for `100 Continue` has not sent it.
fn refuse_body(headers: &HeaderMap, rest: Incoming) {
    if !rest.is_end_stream() && !headers.contains_key(EXPECT) {
        body::discard(rest);
    }
}

/// An answer in JSON.
fn json(status: StatusCode, text: Vec<u8>) -> Reply {
    reply::content(status, "application/json", text)
}

/// An answer without a body, as the protocol has it for health.
fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = status;
    reply
}

/// A stranger's text, cut to what a message can bear.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
