//! One request from client to pod and back.
//!
//! ```text
//! path and host ──► route ──► body (kept up to a limit) ──► arm, pod (or held) ──► attempt ──► answer
//!                                                             ▲                      │
//!                                                             └── once more, elsewhere ◄─┘ connection failed
//! ```
//! An attempt that failed counts in the arm where it failed; what the router refuses by itself counts in no arm. A kept
//! connection that the pod closed while it was idle is the router's own race and no harm: the request is sent again to
//! the same pod over a new connection, and that result counts. A pod that drops every request is found out so. A request
//! that a pod turned away before it began with it goes to another pod: see [`elsewhere`].
//!
//! HTTP goes to pods over HTTP/1.1 whatever the client speaks; gRPC goes over HTTP/2 (see [`channel`] and [`grpc`]). Whoever
//! stays at an arm does so by a [`crate::unit`]; copies for shadows are handed over at the end: [`crate::shadow`].

pub mod body;
mod call;
pub mod channel;
mod elsewhere;
pub mod grpc;
pub mod headers;
mod hold;
mod message;
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
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use stoker_api::names::headers::MODEL;
use stoker_edge::drain::Drain;
use stoker_edge::target::LATENCY_TARGET;
use tokio::time::{Instant, Sleep};

use crate::forward::body::{BodyError, Budget, Kind, Passing, Prepared, Whole};
use crate::forward::grpc::Call;
use crate::forward::message::{Content, Message};
use crate::forward::pool::Link;
use crate::forward::refuse::Refused;
use crate::forward::relay::{Attempt, Carrier, Relay};
use crate::live::{Busy, Endpoint, Outcome, clock};
use crate::metrics::Counts;
use crate::plane::{Flight, Plane};
use crate::shadow::count::Dropped;
use crate::shadow::tee::Tee;
use crate::shadow::{self, Shadow};
use crate::table::keeper::Keeper;
use crate::table::snapshot::{Found, Route};
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
    /// The revision was cut before anything was sent.
    Cut,
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

    /// What a request is for, and what is sent to pods for it.
    async fn accept(
        &self,
        request: Request<Incoming>,
        is_call: bool,
        mut deadline: Instant,
    ) -> Result<(Arc<Route>, Message), Refused> {
        let (parts, body) = request.into_parts();
        let found = self.route(&parts, is_call).and_then(|(found, call)| {
            if found.preview && !found.route.is_previewed() {
                return Err(Refused::NoPreview(found.route.name.clone()));
            }
            Ok((found, call))
        });
        let (Found { route, preview }, call) = match found {
            Ok(found) => found,
            Err(refused) => {
                throw_away(body, &parts);
                return Err(refused);
            }
        };
        // Probes and questions about the model neither keep it awake nor need pods of their own.
        let infers = call.map_or(parts.method == Method::POST, |call| call.infers);
        if call.is_some() {
            let asked = grpc::timeout(&parts.headers).map_err(|bad| Refused::BadRequest(bad.to_string()))?;
            deadline = asked.map_or(deadline, |asked| deadline.min(Instant::now() + asked));
        }
        route.retries.requested(clock());
        // What testers do is no demand that pods are counted by.
        if infers && !preview {
            route.demand.came();
        }
        let mut message = self.message(parts, body, &route, call, deadline).await?;
        message.preview = preview;
        Ok((route, message))
    }

    async fn forward(&self, request: Request<Incoming>, is_call: bool) -> Result<Response<Relay>, Refused> {
        let start = Instant::now();
        let (route, mut message) =
            self.accept(request, is_call, start + self.settings.request_timeout).await?;
        let (call, deadline) = (message.call, message.deadline);
        let mut alarm = Box::pin(tokio::time::sleep_until(deadline));
        let drawn = rand::random();
        // Whether the next attempt of the unit counts; asked once.
        let mut counts: Option<bool> = None;
        let mut failed: Option<Arc<Endpoint>> = None;
        let mut retried = false;
        // A pod turned it away, and another one is asked: once. Whether that one takes it is learned from the first attempt there.
        let (mut moved, mut asks) = (false, false);
        let mut next = None;
        // A body that can be sent only once must not meet a connection that the pod may be closing.
        let mut fresh = matches!(message.body, Content::Long(..));
        'attempts: loop {
            let (mut flight, mut busy) = match next.take() {
                Some(found) => found,
                None => self.place(&route.name, message.asked(), drawn, failed.as_deref(), deadline).await?,
            };
            if flight.is_evidence()
                && let Some(unit) = flight.unit
                && !*counts.get_or_insert_with(|| self.once.counts(&route.name, unit, start.into_std()))
            {
                flight.set_apart();
            }
            message.hidden.clone_from(&flight.cookie);
            message.ending = call.filter(|call| call.streams).map(|_| flight.revision.ending());
            let assigned = clock();
            let failure = loop {
                let sent = self.attempt(&flight, busy.endpoint(), &mut message, fresh, &mut alarm).await;
                match sent {
                    Ok((answer, carrier, sent)) => {
                        let is_untouched = elsewhere::is_untouched(&answer);
                        // What takes too long by itself does not say how busy pods are.
                        let tells = !stoker_edge::untouched::is_alone(answer.headers());
                        if std::mem::take(&mut asks) && tells {
                            route.retries.went_elsewhere(!is_untouched);
                        }
                        if is_untouched
                            && !moved
                            && !retried
                            && let Some(found) = self.elsewhere(&route, &message, drawn, &busy)
                        {
                            (moved, next, failed) = (true, Some(found), Some(Arc::clone(busy.endpoint())));
                            asks = tells;
                            counts = flight.unit.map(|_| false);
                            self.dismiss(answer, carrier, (flight, busy, sent));
                            continue 'attempts;
                        }
                        let cookie = message.new_cookie(&flight, drawn);
                        let attempt = (flight, busy, sent, is_untouched);
                        return Ok(self.relay(answer, carrier, attempt, message, cookie, alarm));
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
            asks = false;
            if matches!(failure, Failure::Late) {
                flight.overloaded();
            }
            match &failure {
                Failure::Raced | Failure::Cut => {}
                Failure::Client(refused) => return Err(refused.clone()),
                _ => {
                    flight.ended(&mut busy, Outcome::Failed, clock().saturating_sub(assigned));
                    // A unit counts at most once, also when it is tried twice.
                    counts = flight.unit.map(|_| false);
                }
            }
            let again = match failure {
                Failure::Raced | Failure::Cut => true,
                Failure::Unreachable => !retried && self.may_retry(&route, deadline),
                Failure::Lost => message.is_whole() && !retried && self.may_retry(&route, deadline),
                _ => false,
            };
            if !again {
                let refused = match failure {
                    Failure::Late => Refused::Late,
                    Failure::NoGrpc => Refused::NoGrpc,
                    _ => Refused::Failed,
                };
                flight.revision.answered(refused.status());
                if let Some(tee) = self.tee(&flight, message) {
                    tee.broke();
                }
                return Err(refused);
            }
            if !matches!(failure, Failure::Raced | Failure::Cut) {
                retried = true;
                self.counts.retries.inc();
            }
            // The pod of a revision that was cut has failed nothing.
            if !matches!(failure, Failure::Cut) {
                failed = Some(Arc::clone(busy.endpoint()));
            }
        }
    }

    /// Whether a request that failed may be sent again, and takes that out of the budget. Not when requests are refused
    /// for want of pods already: then a second attempt takes the place of somebody's first.
    fn may_retry(&self, route: &Route, deadline: Instant) -> bool {
        if Instant::now() >= deadline || self.held.load(Ordering::Relaxed) >= self.settings.hold_queue {
            return false;
        }
        let allowed = route.retries.take(clock());
        if !allowed {
            self.counts.retries_denied.inc();
        }
        allowed
    }

    /// Which model a request is for: by host, by header, by path; and what it calls, if it is a gRPC call.
    fn route(&self, parts: &Parts, is_call: bool) -> Result<(Found, Option<Call>), Refused> {
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
        let named = |name: &str| tables.by_name(name);
        let found = host
            .and_then(|host| tables.by_host(host))
            .or_else(|| parts.headers.get(MODEL)?.to_str().ok().and_then(named))
            .or_else(|| model.and_then(named));
        match found {
            Some(found) => Ok((found, call)),
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
        route: &Route,
        call: Option<Call>,
        deadline: Instant,
    ) -> Result<Message, Refused> {
        if body.size_hint().lower() > self.settings.max_body {
            throw_away(body, &parts);
            return Err(Refused::TooLong(self.settings.max_body));
        }
        let bad = |error: headers::HeaderError| Refused::BadRequest(error.to_string());
        headers::to_pod(&mut parts.headers, parts.uri.authority(), &route.name).map_err(bad)?;
        // After the client's own headers of that prefix were taken out.
        if let Some(target) = &route.latency_target {
            parts.headers.insert(LATENCY_TARGET, target.clone());
        }
        let body = if body.is_end_stream() {
            Content::Whole { whole: Whole::default(), share: None }
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
                Ok(Ok(Prepared::Whole(whole, share))) => Content::Whole { whole, share },
                Ok(Ok(Prepared::Long(passing))) => {
                    self.counts.unbuffered.inc();
                    let verdict = passing.verdict();
                    Content::Long(Some(passing), verdict)
                }
            }
        };
        let secure = parts.uri.scheme() == Some(&Scheme::HTTPS) || is_forwarded_by_tls(&parts.headers);
        let uri = match parts.uri.authority() {
            _ if call.is_some() => headers::to_call(&mut parts.headers, &parts.uri).map_err(bad)?,
            // In absolute form; pods want the path alone.
            Some(_) => parts.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
            None => parts.uri,
        };
        let (method, headers) = (parts.method, parts.headers);
        Ok(Message {
            method,
            uri,
            headers,
            body,
            deadline,
            call,
            ending: None,
            preview: false,
            secure,
            hidden: None,
        })
    }

    /// Sends the request to a pod, and waits for the head of the answer.
    async fn attempt(
        &self,
        flight: &Flight,
        endpoint: &Arc<Endpoint>,
        message: &mut Message,
        fresh: bool,
        alarm: &mut Pin<Box<Sleep>>,
    ) -> Result<(Response<Incoming>, Carrier, std::time::Instant), Failure> {
        if message.call.is_some() {
            // In a place of its own, so that the state of other requests does not grow by it.
            return Box::pin(self.call(flight, endpoint, message, fresh, alarm)).await;
        }
        let kept = if fresh { None } else { endpoint.pool.take() };
        let mut link = match kept {
            Some(link) => link,
            None => match before(alarm, Link::open(endpoint.address.socket)).await.ok_or(Failure::Late)? {
                Ok(link) => link,
                Err(error) => {
                    tracing::debug!(pod = %endpoint.address.socket, %error, "pod not reachable");
                    return Err(Failure::Unreachable);
                }
            },
        };
        // Assigned by the table before, and maybe long ago: connecting takes time.
        if flight.revision.is_cut() {
            return Err(Failure::Cut);
        }
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
        (flight, busy, sent, is_untouched): (Flight, Busy, std::time::Instant, bool),
        message: Message,
        cookie: Option<HeaderValue>,
        alarm: Pin<Box<Sleep>>,
    ) -> Response<Relay> {
        let (mut parts, body) = answer.into_parts();
        let (mut call, mut tee) = (None, None);
        if message.call.is_some() {
            headers::to_client(&mut parts.headers, &flight.revision.header);
            // What the router adds in the end must not contradict it.
            parts.headers.remove(CONTENT_LENGTH);
            call = Some(Box::new(message.into_call(&parts.headers, &self.counts)));
        } else {
            tee = self.tee(&flight, message);
            if let Some(tee) = &mut tee {
                tee.head(&parts);
            }
            headers::to_client(&mut parts.headers, &flight.revision.header);
            flight.revision.answered(parts.status);
        }
        if let Some(cookie) = cookie {
            parts.headers.append(SET_COOKIE, cookie);
        }
        let outcome = match parts.status {
            status if status.is_success() => Outcome::Succeeded,
            status if status.is_server_error() && !is_untouched => Outcome::Failed,
            _ => Outcome::Refused,
        };
        if is_untouched || is_overload(parts.status) {
            flight.overloaded();
        }
        let aborted = self.counts.aborted.clone();
        let attempt = Attempt { flight, busy, sent, outcome, is_untouched, aborted, tee };
        Response::from_parts(parts, Relay::new(body, carrier, attempt, call, alarm))
    }

    /// What becomes copies of a request for shadows, when it was drawn for any. Only inferences are copied, and of gRPC
    /// none.
    fn tee(&self, flight: &Flight, message: Message) -> Option<Box<Tee>> {
        let mirrors = flight.mirrors.as_deref()?;
        let Message { method, uri, mut headers, body, hidden, call, .. } = message;
        if method != Method::POST || call.is_some() {
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
            Content::Whole { whole, share } => {
                Some(Box::new(Tee::new(&self.shadow, targets, uri, headers, (whole.bytes, share))))
            }
            Content::Long(..) => {
                shadow::drop_all(&targets, Dropped::LongBody);
                None
            }
        }
    }
}

/// Whether a status says that there was too much to do.
fn is_overload(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Whether a proxy says that its client came by TLS. Of several proxies the first counts.
fn is_forwarded_by_tls(headers: &HeaderMap) -> bool {
    let first =
        headers.get(FORWARDED_PROTO).and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
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
