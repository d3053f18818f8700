//! One request from client to pod and back.
//!
//! ```text
//! path and host ──► route ──► body (kept up to a limit) ──► arm, pod (or held) ──► attempt ──► answer
//!                                                             ▲                      │
//!                                                             └── once more, elsewhere ◄─┘ connection failed
//! ```
//! An attempt that failed counts in the arm where it failed; what the router refuses by itself counts in no arm. A kept
//! connection that the pod closed while it was idle is the router's own race and no harm: the request is sent again to
//! the same pod over a new connection, and that result counts. A pod that drops every request is found out so.
//!
//! HTTP goes to pods over HTTP/1.1 whatever the client speaks; gRPC goes over HTTP/2 (see [`channel`] and [`grpc`]).

pub mod body;
mod call;
pub mod channel;
pub mod grpc;
pub mod headers;
pub mod paths;
pub mod pool;
mod refuse;
pub mod relay;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap};
use http::request::Parts;
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use stoker_api::names::headers::MODEL;
use tokio::time::{Instant, Sleep};

use crate::forward::body::{BodyError, Budget, Kind, Passing, Prepared, Share, ToPod, Verdict, Whole};
use crate::forward::grpc::Call;
use crate::forward::pool::Link;
use crate::forward::refuse::Refused;
use crate::forward::relay::{Attempt, Carrier, Relay};
use crate::live::{Busy, Ending, Endpoint};
use crate::metrics::Counts;
use crate::plane::{Assigned, Flight, Plane};
use crate::table::keeper::Keeper;

/// How long a request waits for another pod when the only one failed it, before that one is tried again.
const SECOND_WAIT: Duration = Duration::from_secs(1);

/// The body of an answer: a pod's, or the router's own.
pub type Answer = Either<Relay, Full<Bytes>>;

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time for the whole request.
    pub request_timeout: Duration,
    /// Longest body, in bytes.
    pub max_body: u64,
    /// Bodies up to this many bytes are kept for another try.
    pub buffer_limit: usize,
    /// Bytes of all kept bodies together.
    pub buffer_total: usize,
    /// How long a request waits for a pod.
    pub hold: Duration,
    /// How many requests may wait.
    pub hold_queue: usize,
}

/// Forwards requests. Shared by all connections.
#[derive(Debug)]
pub struct Forward {
    plane: Arc<Plane>,
    keeper: Arc<Keeper>,
    settings: Settings,
    counts: Counts,
    budget: Budget,
    held: AtomicUsize,
}

/// A request as it is sent to pods.
struct Message {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Content,
    deadline: Instant,
    /// What is called by gRPC, if it is.
    call: Option<Call>,
    /// Of a call that streams: the end of the streams of the revision that it was assigned to.
    ending: Option<Ending>,
}

enum Content {
    /// With its part of the budget for kept bodies.
    Whole { whole: Whole, _share: Option<Share> },
    /// Until it is sent.
    Long(Option<Passing>, Verdict),
}

/// Why an attempt gave no answer.
enum Failure {
    /// No connection: nothing was sent.
    Unreachable,
    /// The connection broke before the answer began.
    Lost,
    /// The same on a connection that was kept open: nobody's fault.
    Raced,
    /// The answer was no HTTP, or its end is ambiguous.
    Garbage,
    /// The pod does not speak HTTP/2.
    NoGrpc,
    /// The deadline has passed.
    Late,
    /// The client's body was too long or broke off.
    Client(Refused),
}

impl Forward {
    /// Forwards by the tables of `plane`.
    pub fn new(plane: Arc<Plane>, keeper: Arc<Keeper>, settings: Settings, counts: Counts) -> Self {
        let budget = Budget::new(settings.buffer_total);
        Self { plane, keeper, settings, counts, budget, held: AtomicUsize::new(0) }
    }

    /// What a request may take.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Answer> {
        let is_call = grpc::is_call(&request);
        match self.forward(request, is_call).await {
            Ok(answer) => answer.map(Either::Left),
            Err(refused) => {
                if let Some(reason) = refused.reason() {
                    self.counts.refused(reason);
                }
                if is_call { refused.grpc_answer() } else { refused.answer() }.map(Either::Right)
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>, is_call: bool) -> Result<Response<Relay>, Refused> {
        let mut deadline = Instant::now() + self.settings.request_timeout;
        let (parts, body) = request.into_parts();
        let (route, call) = match self.route(&parts, is_call) {
            Ok(route) => route,
            Err(refused) => {
                throw_away(body, &parts);
                return Err(refused);
            }
        };
        if call.is_some() {
            let asked = grpc::timeout(&parts.headers).map_err(|bad| Refused::BadRequest(bad.to_string()))?;
            deadline = asked.map_or(deadline, |asked| deadline.min(Instant::now() + asked));
        }
        let mut message = self.message(parts, body, &route, call, deadline).await?;
        let mut alarm = Box::pin(tokio::time::sleep_until(deadline));
        let unit = rand::random();
        let mut failed: Option<Arc<Endpoint>> = None;
        let mut retried = false;
        // A body that can be sent only once must not meet a connection that the pod may be closing.
        let mut fresh = matches!(message.body, Content::Long(..));
        loop {
            let (flight, busy) = self.place(&route, unit, failed.as_deref(), deadline).await?;
            message.ending = call.filter(|call| call.streams).map(|_| flight.revision.ending());
            let failure = loop {
                let sent = self.attempt(busy.endpoint(), &mut message, fresh, &mut alarm).await;
                match sent {
                    Ok((answer, carrier, sent)) => {
                        let attempt = (flight, busy, sent);
                        return Ok(self.relay(answer, carrier, attempt, message, alarm));
                    }
                    Err(Failure::Raced) => {
                        self.counts.races.inc();
                        fresh = true;
                        if !flight.revision.is_listed(busy.endpoint()) {
                            break Failure::Raced;
                        }
                    }
                    Err(failure) => break failure,
                }
            };
            match &failure {
                Failure::Raced => {}
                Failure::Client(refused) => return Err(refused.clone()),
                _ => flight.count.failed(),
            }
            let again = match failure {
                Failure::Raced => true,
                Failure::Unreachable => !std::mem::replace(&mut retried, true),
                Failure::Lost => message.is_whole() && !std::mem::replace(&mut retried, true),
                _ => false,
            };
            if !again {
                let refused = match failure {
                    Failure::Late => Refused::Late,
                    Failure::NoGrpc => Refused::NoGrpc,
                    _ => Refused::Failed,
                };
                flight.revision.answered(refused.status());
                return Err(refused);
            }
            if !matches!(failure, Failure::Raced) {
                self.counts.retries.inc();
            }
            failed = Some(Arc::clone(busy.endpoint()));
        }
    }

    /// Which model a request is for: by host, by header, by path; and what it calls, if it is a gRPC call.
    fn route(&self, parts: &Parts, is_call: bool) -> Result<(String, Option<Call>), Refused> {
        let (method, model, call) = if is_call {
            (Method::POST, None, Some(grpc::parse(parts.uri.path()).ok_or(Refused::NotForwarded)?))
        } else {
            let target = paths::parse(parts.uri.path()).ok_or(Refused::NotForwarded)?;
            (target.method(), target.model, None)
        };
        if parts.method != method {
            return Err(Refused::Method(method));
        }
        let host = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => parts.headers.get(HOST).and_then(|host| host.to_str().ok()),
        };
        if host.is_none() && parts.version >= Version::HTTP_11 {
            return Err(Refused::BadRequest("a request must have exactly one Host header".into()));
        }
        let tables = self.plane.tables();
        let named = |name: &str| tables.route(name);
        let route = host
            .and_then(|host| tables.by_host(host))
            .or_else(|| parts.headers.get(MODEL)?.to_str().ok().and_then(named))
            .or_else(|| model.and_then(named));
        match route {
            Some(route) => Ok((route.name.clone(), call)),
            None => match self.keeper.readiness() {
                Err(_) => Err(Refused::NotReady),
                Ok(()) => Err(Refused::no_route(tables.routes().map(|route| route.name.as_str()))),
            },
        }
    }

    /// Makes a request ready to be sent: its body is kept or looked at, its headers are cleaned.
    async fn message(
        &self,
        mut parts: Parts,
        body: Incoming,
        route: &str,
        call: Option<Call>,
        deadline: Instant,
    ) -> Result<Message, Refused> {
        if body.size_hint().lower() > self.settings.max_body {
            throw_away(body, &parts);
            return Err(Refused::TooLong(self.settings.max_body));
        }
        let bad = |error: headers::HeaderError| Refused::BadRequest(error.to_string());
        headers::to_pod(&mut parts.headers, parts.uri.authority(), route).map_err(bad)?;
        let body = if body.is_end_stream() {
            Content::Whole { whole: Whole::default(), _share: None }
        } else if call.is_some_and(|call| call.streams) {
            let passing = Passing::stream(body);
            let verdict = passing.verdict();
            Content::Long(Some(passing), verdict)
        } else {
            let (keep, limit) = (self.settings.buffer_limit, self.settings.max_body);
            let kind = Kind { http2: parts.version == Version::HTTP_2, trailers: call.is_some() };
            let prepared = body::prepare(body, keep, limit, &self.budget, kind);
            match tokio::time::timeout_at(deadline, prepared).await {
                Err(_) => return Err(Refused::TooSlow),
                Ok(Err(BodyError::TooLong(limit))) => return Err(Refused::TooLong(limit)),
                Ok(Err(BodyError::Broken(_) | BodyError::Cancelled)) => {
                    return Err(Refused::BadRequest(
                        "the body of the request is malformed or broke off".into(),
                    ));
                }
                Ok(Ok(Prepared::Whole(whole, share))) => Content::Whole { whole, _share: share },
                Ok(Ok(Prepared::Long(passing))) => {
                    self.counts.unbuffered.inc();
                    let verdict = passing.verdict();
                    Content::Long(Some(passing), verdict)
                }
            }
        };
        let uri = match parts.uri.authority() {
            _ if call.is_some() => headers::to_call(&mut parts.headers, &parts.uri).map_err(bad)?,
            // In absolute form; pods want the path alone.
            Some(_) => parts.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
            None => parts.uri,
        };
        let (method, headers) = (parts.method, parts.headers);
        Ok(Message { method, uri, headers, body, deadline, call, ending: None })
    }

    /// Finds a pod, and waits for one where there is none.
    async fn place(
        &self,
        route: &str,
        unit: u128,
        failed: Option<&Endpoint>,
        deadline: Instant,
    ) -> Result<(Flight, Busy), Refused> {
        match self.plane.assign(route, unit, failed) {
            Assigned::Pod(flight, busy) => return Ok((flight, busy)),
            Assigned::Gone => return Err(self.gone()),
            Assigned::Nowhere => {}
        }
        let _held = self.hold()?;
        let wait = if failed.is_some() { self.settings.hold.min(SECOND_WAIT) } else { self.settings.hold };
        let until = deadline.min(Instant::now() + wait);
        // Subscribed before the tables are looked at again, so that no change is missed.
        let mut changes = self.plane.changes();
        let mut not = failed;
        loop {
            match self.plane.assign(route, unit, not) {
                Assigned::Pod(flight, busy) => return Ok((flight, busy)),
                Assigned::Gone => return Err(self.gone()),
                Assigned::Nowhere => {}
            }
            if tokio::time::timeout_at(until, changes.changed()).await.is_err() && not.take().is_none() {
                return Err(Refused::NoEndpoint);
            }
        }
    }

    /// A place in the queue of requests that wait for a pod.
    fn hold(&self) -> Result<Held<'_>, Refused> {
        let more = |held: usize| (held < self.settings.hold_queue).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Refused::QueueFull)?;
        self.counts.held.inc();
        Ok(Held(self))
    }

    /// The model went away while the request waited.
    fn gone(&self) -> Refused {
        Refused::no_route(self.plane.tables().routes().map(|route| route.name.as_str()))
    }

    /// Sends the request to a pod, and waits for the head of the answer.
    async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        message: &mut Message,
        fresh: bool,
        alarm: &mut Pin<Box<Sleep>>,
    ) -> Result<(Response<Incoming>, Carrier, std::time::Instant), Failure> {
        if message.call.is_some() {
            // In a place of its own, so that the state of other requests does not grow by it.
            return Box::pin(self.call(endpoint, message, fresh, alarm)).await;
        }
        let kept = if fresh { None } else { endpoint.pool.take() };
        let mut link = match kept {
            Some(link) => link,
            None => match before(alarm, Link::open(endpoint.address.socket)).await.ok_or(Failure::Late)? {
                Ok(link) => {
                    endpoint.absolve();
                    link
                }
                Err(error) => {
                    tracing::debug!(pod = %endpoint.address.socket, %error, "pod not reachable");
                    endpoint.strike();
                    return Err(Failure::Unreachable);
                }
            },
        };
        let request = message.request()?;
        let sent = std::time::Instant::now();
        match before(alarm, link.send(request)).await.ok_or(Failure::Late)? {
            // An upgrade was not asked for.
            Ok(answer) if answer.status().is_informational() => Err(Failure::Garbage),
            Ok(answer) if headers::is_ambiguous(&answer) => Err(Failure::Garbage),
            Ok(answer) => Ok((answer, Carrier::Link(link), sent)),
            Err(error) => {
                tracing::debug!(pod = %endpoint.address.socket, %error, "no answer");
                match &message.body {
                    Content::Long(_, verdict) if verdict.is_too_long() => {
                        Err(Failure::Client(Refused::TooLong(self.settings.max_body)))
                    }
                    Content::Long(_, verdict) if verdict.is_broken() => {
                        Err(Failure::Client(Refused::BadRequest("the body of the request broke off".into())))
                    }
                    _ if error.is_parse() => Err(Failure::Garbage),
                    _ if link.is_reused() => Err(Failure::Raced),
                    _ => Err(Failure::Lost),
                }
            }
        }
    }

    /// Passes the answer of a pod on.
    fn relay(
        &self,
        answer: Response<Incoming>,
        carrier: Carrier,
        (flight, busy, sent): (Flight, Busy, std::time::Instant),
        message: Message,
        alarm: Pin<Box<Sleep>>,
    ) -> Response<Relay> {
        let (mut parts, body) = answer.into_parts();
        headers::to_client(&mut parts.headers, &flight.revision.header);
        let call = message.call.is_some().then(|| {
            // What the router adds in the end must not contradict it.
            parts.headers.remove(CONTENT_LENGTH);
            Box::new(message.into_call(&parts.headers, &self.counts))
        });
        if call.is_none() {
            flight.revision.answered(parts.status);
        }
        let good = parts.status.is_success();
        let attempt = Attempt { flight, busy, sent, good, aborted: self.counts.aborted.clone() };
        Response::from_parts(parts, Relay::new(body, carrier, attempt, call, alarm))
    }
}

/// Reads the body of a refused request, so that a client that is still sending gets to read the refusal. One that waits
/// for `100 Continue` gets the refusal instead. A stream of HTTP/2 ends by itself.
fn throw_away(body: Incoming, parts: &Parts) {
    if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) && parts.version < Version::HTTP_2 {
        stoker_edge::body::discard(body);
    }
}

/// Waits for `work`, but not longer than the deadline.
async fn before<T>(alarm: &mut Pin<Box<Sleep>>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        result = work => Some(result),
        () = alarm => None,
    }
}

impl Message {
    fn is_whole(&self) -> bool {
        matches!(self.body, Content::Whole { .. })
    }

    /// The request, as often as its body allows.
    fn request(&mut self) -> Result<Request<ToPod>, Failure> {
        let body = match &mut self.body {
            Content::Whole { whole, .. } => ToPod::Whole(whole.clone()),
            Content::Long(passing, _) => ToPod::Long(passing.take().ok_or(Failure::Lost)?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if self.call.is_some() {
            *request.version_mut() = Version::HTTP_2;
            let left = self.deadline.saturating_duration_since(Instant::now());
            grpc::set_timeout(request.headers_mut(), left);
        }
        Ok(request)
    }

    /// Waits until the streams of the revision are to end; forever where this is no stream.
    async fn ended(&mut self) {
        match &mut self.ending {
            Some(ending) => ending.ended().await,
            None => std::future::pending().await,
        }
    }

    /// What is left of it when the answer to a call has begun with `head`.
    fn into_call(self, head: &HeaderMap, counts: &Counts) -> relay::Call {
        let ending = self.ending.map(|mut ending| relay::Ending {
            rings: Box::pin(async move { ending.ended().await }),
            ended: counts.ended.clone(),
        });
        let body = match self.body {
            Content::Long(_, verdict) => Some(verdict),
            Content::Whole { .. } => None,
        };
        relay::Call::new(head, ending, body)
    }
}

/// A request that waits for a pod.
struct Held<'a>(&'a Forward);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.counts.held.dec();
    }
}
