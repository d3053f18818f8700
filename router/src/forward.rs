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
//! Whoever stays at an arm does so by a [`crate::unit`]; copies for shadows are handed over at the end: [`crate::shadow`].

pub mod body;
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
use http::header::{CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderValue, SET_COOKIE};
use http::uri::Scheme;
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use stoker_api::names::headers::MODEL;
use stoker_edge::drain::Drain;
use tokio::time::{Instant, Sleep};

use crate::forward::body::{BodyError, Budget, Passing, Prepared, Share, ToPod, Verdict};
use crate::forward::pool::Link;
use crate::forward::refuse::Refused;
use crate::forward::relay::{Attempt, Relay};
use crate::live::{Busy, Endpoint};
use crate::metrics::Counts;
use crate::plane::{Assigned, Flight, Plane};
use crate::shadow::count::Dropped;
use crate::shadow::tee::Tee;
use crate::shadow::{self, Shadow};
use crate::table::keeper::Keeper;
use crate::unit::cookie;
use crate::unit::once::Once;

/// In which scheme the client came to a proxy before this router.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

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
    /// What copies for shadows may take.
    pub mirror: shadow::Limits,
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
    once: Once,
    shadow: Arc<Shadow>,
}

/// A request as it is sent to pods.
struct Message {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Content,
    /// Whether the client came by TLS.
    secure: bool,
    /// A cookie that pods do not see.
    hidden: Option<Arc<str>>,
}

enum Content {
    /// With its part of the budget for kept bodies.
    Whole { bytes: Bytes, share: Option<Share> },
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
    /// The answer was no HTTP.
    Garbage,
    /// The deadline has passed.
    Late,
    /// The client's body was too long or broke off.
    Client(Refused),
}

impl Forward {
    /// Forwards by the tables of `plane`.
    pub fn new(plane: Arc<Plane>, keeper: Arc<Keeper>, settings: Settings, counts: Counts) -> Self {
        let budget = Budget::new(settings.buffer_total);
        let shadow = Arc::new(Shadow::new(settings.mirror, Arc::clone(&plane)));
        let (held, once) = (AtomicUsize::new(0), Once::default());
        Self { plane, keeper, settings, counts, budget, held, once, shadow }
    }

    /// Makes no copies any more once the process begins to leave.
    pub fn follow(&self, drain: Drain) {
        self.shadow.follow(drain);
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Answer> {
        match self.forward(request).await {
            Ok(answer) => answer.map(Either::Left),
            Err(refused) => {
                if let Some(reason) = refused.reason() {
                    self.counts.refused(reason);
                }
                refused.answer().map(Either::Right)
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Relay>, Refused> {
        let start = Instant::now();
        let deadline = start + self.settings.request_timeout;
        let (parts, body) = request.into_parts();
        let route = match self.route(&parts) {
            Ok(route) => route,
            Err(refused) => {
                throw_away(body, &parts.headers);
                return Err(refused);
            }
        };
        let mut message = self.message(parts, body, &route, deadline).await?;
        let mut alarm = Box::pin(tokio::time::sleep_until(deadline));
        let drawn = rand::random();
        // Whether the next attempt of the unit counts; asked once.
        let mut counts: Option<bool> = None;
        let mut failed: Option<Arc<Endpoint>> = None;
        let mut retried = false;
        // A body that can be sent only once must not meet a connection that the pod may be closing.
        let mut fresh = matches!(message.body, Content::Long(..));
        loop {
            let (mut flight, busy) =
                self.place(&route, &message.headers, drawn, failed.as_deref(), deadline).await?;
            if flight.is_evidence()
                && let Some(unit) = flight.unit
                && !*counts.get_or_insert_with(|| self.once.counts(&route, unit, start.into_std()))
            {
                flight.set_apart();
            }
            message.hidden.clone_from(&flight.cookie);
            let failure = loop {
                let sent = self.attempt(busy.endpoint(), &mut message, fresh, &mut alarm).await;
                match sent {
                    Ok((answer, link, sent)) => {
                        let cookie = message.new_cookie(&flight, drawn);
                        let tee = self.tee(&flight, message);
                        let (good, aborted) = (answer.status().is_success(), self.counts.aborted.clone());
                        let attempt = Attempt { flight, busy, sent, good, aborted, tee };
                        return Ok(relay(answer, link, attempt, cookie, alarm));
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
                _ => {
                    flight.failed();
                    // A unit counts at most once, also when it is tried twice.
                    counts = flight.unit.map(|_| false);
                }
            }
            let again = match failure {
                Failure::Raced => true,
                Failure::Unreachable => !std::mem::replace(&mut retried, true),
                Failure::Lost => message.is_whole() && !std::mem::replace(&mut retried, true),
                _ => false,
            };
            if !again {
                let refused = if matches!(failure, Failure::Late) { Refused::Late } else { Refused::Failed };
                flight.revision.answered(refused.status());
                if let Some(tee) = self.tee(&flight, message) {
                    tee.broke();
                }
                return Err(refused);
            }
            if !matches!(failure, Failure::Raced) {
                self.counts.retries.inc();
            }
            failed = Some(Arc::clone(busy.endpoint()));
        }
    }

    /// Which model a request is for: by host, by header, by path.
    fn route(&self, parts: &http::request::Parts) -> Result<String, Refused> {
        let target = paths::parse(parts.uri.path()).ok_or(Refused::NotForwarded)?;
        if parts.method != target.method() {
            return Err(Refused::Method(target.method()));
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
            .or_else(|| target.model.and_then(named));
        match route {
            Some(route) => Ok(route.name.clone()),
            None => match self.keeper.readiness() {
                Err(_) => Err(Refused::NotReady),
                Ok(()) => Err(Refused::no_route(tables.routes().map(|route| route.name.as_str()))),
            },
        }
    }

    /// Makes a request ready to be sent: its body is kept or looked at, its headers are cleaned.
    async fn message(
        &self,
        parts: http::request::Parts,
        body: Incoming,
        route: &str,
        deadline: Instant,
    ) -> Result<Message, Refused> {
        let mut headers = parts.headers;
        if body.size_hint().lower() > self.settings.max_body {
            throw_away(body, &headers);
            return Err(Refused::TooLong(self.settings.max_body));
        }
        headers::to_pod(&mut headers, route).map_err(|error| Refused::BadRequest(error.to_string()))?;
        let body = if body.is_end_stream() {
            Content::Whole { bytes: Bytes::new(), share: None }
        } else {
            let (keep, limit) = (self.settings.buffer_limit, self.settings.max_body);
            let prepared = body::prepare(body, keep, limit, &self.budget);
            match tokio::time::timeout_at(deadline, prepared).await {
                Err(_) => return Err(Refused::TooSlow),
                Ok(Err(BodyError::TooLong(limit))) => return Err(Refused::TooLong(limit)),
                Ok(Err(BodyError::Broken(_))) => {
                    return Err(Refused::BadRequest(
                        "the body of the request is malformed or broke off".into(),
                    ));
                }
                Ok(Ok(Prepared::Whole(bytes, share))) => Content::Whole { bytes, share },
                Ok(Ok(Prepared::Long(passing))) => {
                    self.counts.unbuffered.inc();
                    let verdict = passing.verdict();
                    Content::Long(Some(passing), verdict)
                }
            }
        };
        let secure = parts.uri.scheme() == Some(&Scheme::HTTPS) || is_forwarded_by_tls(&headers);
        let uri = match parts.uri.authority() {
            // In absolute form; pods want the path alone.
            Some(_) => parts.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
            None => parts.uri,
        };
        Ok(Message { method: parts.method, uri, headers, body, secure, hidden: None })
    }

    /// Finds a pod, and waits for one where there is none.
    async fn place(
        &self,
        route: &str,
        headers: &HeaderMap,
        drawn: u128,
        failed: Option<&Endpoint>,
        deadline: Instant,
    ) -> Result<(Flight, Busy), Refused> {
        match self.plane.assign(route, headers, drawn, failed) {
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
            match self.plane.assign(route, headers, drawn, not) {
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
    ) -> Result<(Response<Incoming>, Link, std::time::Instant), Failure> {
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
            Ok(answer) => Ok((answer, link, sent)),
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

    /// What becomes copies of a request for shadows, when it was drawn for any. Only inferences are copied, and of gRPC
    /// none.
    fn tee(&self, flight: &Flight, message: Message) -> Option<Box<Tee>> {
        let mirrors = flight.mirrors.as_deref()?;
        let Message { method, uri, mut headers, body, hidden, .. } = message;
        let is_grpc =
            headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if method != Method::POST || is_grpc {
            return None;
        }
        let targets = Shadow::draw(mirrors);
        if targets.is_empty() {
            return None;
        }
        if let Some(name) = hidden {
            cookie::hide(&mut headers, &name);
        }
        match body {
            Content::Whole { bytes, share } => {
                Some(Box::new(Tee::new(&self.shadow, targets, uri, headers, (bytes, share))))
            }
            Content::Long(..) => {
                shadow::drop_all(&targets, Dropped::LongBody);
                None
            }
        }
    }
}

/// Passes the answer of a pod on.
fn relay(
    answer: Response<Incoming>,
    link: Link,
    mut attempt: Attempt,
    cookie: Option<HeaderValue>,
    alarm: Pin<Box<Sleep>>,
) -> Response<Relay> {
    let (mut parts, body) = answer.into_parts();
    if let Some(tee) = &mut attempt.tee {
        tee.head(&parts);
    }
    headers::to_client(&mut parts.headers, &attempt.flight.revision.header);
    if let Some(cookie) = cookie {
        parts.headers.append(SET_COOKIE, cookie);
    }
    attempt.flight.revision.answered(parts.status);
    Response::from_parts(parts, Relay::new(body, link, attempt, alarm))
}

/// Whether a proxy says that its client came by TLS. Of several proxies the first counts.
fn is_forwarded_by_tls(headers: &HeaderMap) -> bool {
    let first =
        headers.get(FORWARDED_PROTO).and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// Reads the body of a refused request, so that a client that is still sending gets to read the refusal. One that waits
/// for `100 Continue` gets the refusal instead.
fn throw_away(body: Incoming, headers: &HeaderMap) {
    if !body.is_end_stream() && !headers.contains_key(EXPECT) {
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
            Content::Whole { bytes, .. } => ToPod::Whole(bytes.clone()),
            Content::Long(passing, _) => ToPod::Long(passing.take().ok_or(Failure::Lost)?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(name) = &self.hidden {
            cookie::hide(request.headers_mut(), name);
        }
        Ok(request)
    }

    /// The cookie that is set with the answer, when the rule keeps units in one and the request had none.
    fn new_cookie(&self, flight: &Flight, drawn: u128) -> Option<HeaderValue> {
        let name = flight.cookie.as_deref().filter(|_| flight.unit.is_none())?;
        cookie::set(name, drawn, self.secure)
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
