//! The thread that sends copies: a small runtime of its own, with connections of its own, behind the threads that serve
//! clients.

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use stoker_api::names::headers::{CACHE, SHADOW};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::live::Revision;
use crate::shadow::compare::{self, Pair};
use crate::shadow::count::Dropped;
use crate::shadow::tee::{Copied, Kept};
use crate::shadow::{Job, Shared, answer, step_back};
use crate::table::snapshot::Mirror;

/// How often the queue is looked at while copies come. Waking a thread for each would cost the request that made it
/// more than all the rest of the copy does.
const LOOK: Duration = Duration::from_millis(1);
/// How long opening a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How long a connection is kept without a request.
const IDLE_TIME: Duration = Duration::from_secs(20);

type Http = Client<HttpConnector, Full<Bytes>>;

/// What all copies need.
#[derive(Clone)]
struct Sender {
    shared: Arc<Shared>,
    http: Http,
    pairs: SyncSender<Pair>,
}

/// Starts the threads that send and compare. They end when the sender is dropped.
pub fn start(shared: Arc<Shared>) -> std::io::Result<UnboundedSender<Job>> {
    let (jobs, queue) = unbounded_channel();
    let pairs = compare::start()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("shadow-send".into())
        .spawn(move || run(&runtime, shared, queue, pairs))?;
    Ok(jobs)
}

fn run(runtime: &Runtime, shared: Arc<Shared>, queue: UnboundedReceiver<Job>, pairs: SyncSender<Pair>) {
    step_back();
    runtime.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIME));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(shared.limits.concurrency)
            .build(connector);
        dispatch(queue, Sender { shared, http, pairs }).await;
    });
}

/// Starts each copy; those of one shadow wait for each other.
async fn dispatch(mut queue: UnboundedReceiver<Job>, sender: Sender) {
    while let Some(job) = queue.recv().await {
        tokio::spawn(sender.clone().send(job));
        while let Ok(job) = queue.try_recv() {
            tokio::spawn(sender.clone().send(job));
        }
        // While this sleeps, nobody who adds to the queue has to wake it.
        tokio::time::sleep(LOOK).await;
    }
}

impl Sender {
    async fn send(self, Job { mut place, copied }: Job) {
        let mirror = Arc::clone(place.mirror());
        // The semaphore is never closed.
        let Ok(_slot) = mirror.revision.lane.slots(&self.shared.limits).acquire().await else { return };
        // Counted first and looked at then, as requests are: the operator takes pods away once nothing is under way.
        let _flight = InFlight::new(&mirror.revision);
        place.begin();
        if self.shared.is_ending() {
            return mirror.count.dropped(Dropped::Draining);
        }
        if !self.is_wanted(&mirror) {
            return mirror.count.dropped(Dropped::Outdated);
        }
        let Some(busy) = mirror.revision.pick(None) else {
            return mirror.count.dropped(Dropped::NoEndpoint);
        };
        let sent = Instant::now();
        let exchange = self.exchange(busy.endpoint().address.socket, &copied);
        let answer = match tokio::time::timeout(self.shared.limits.timeout, exchange).await {
            Ok(Ok((true, answer))) => {
                mirror.count.succeeded(sent.elapsed());
                answer
            }
            Ok(Ok((false, _))) | Err(_) => {
                mirror.count.failed();
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(revision = mirror.revision.name, %error, "a copy failed");
                mirror.count.failed();
                None
            }
        };
        let Some(answer) = answer.filter(|_| copied.answer.is_some()) else {
            return mirror.count.compared(None);
        };
        match self.pairs.try_send(Pair { place, copied, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => mirror.count.skipped(),
        }
    }

    /// Whether the table still copies to that revision.
    fn is_wanted(&self, mirror: &Mirror) -> bool {
        let tables = self.shared.plane.tables();
        tables
            .route(&mirror.route)
            .is_some_and(|route| route.mirrors().any(|now| Arc::ptr_eq(&now.revision, &mirror.revision)))
    }

    /// Sends a copy and reads the answer to its end. Gives whether it is a success, and the body if it is fit to be
    /// compared.
    async fn exchange(
        &self,
        pod: std::net::SocketAddr,
        copied: &Copied,
    ) -> Result<(bool, Option<Kept>), Box<dyn Error + Send + Sync>> {
        let path = copied.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme("http").authority(pod.to_string()).path_and_query(path).build()?;
        let mut request = Request::new(Full::new(copied.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        request.headers_mut().clone_from(&copied.headers);
        request.headers_mut().insert(HeaderName::from_static(SHADOW), HeaderValue::from_static("true"));
        // A copy is there to see how the model runs.
        request.headers_mut().insert(HeaderName::from_static(CACHE), HeaderValue::from_static("bypass"));
        let answer = self.http.request(request).await?;
        self.read(answer).await
    }

    async fn read(
        &self,
        answer: Response<Incoming>,
    ) -> Result<(bool, Option<Kept>), Box<dyn Error + Send + Sync>> {
        let (parts, mut body) = answer.into_parts();
        let (limit, budget) = (self.shared.limits.longest_answer, &self.shared.budget);
        let mut kept = answer::is_readable(parts.status, &parts.headers).then(Kept::default);
        while let Some(frame) = body.frame().await {
            if let Some(piece) = frame?.data_ref() {
                kept = kept.and_then(|kept| kept.and(piece, limit, budget));
            }
        }
        Ok((parts.status.is_success(), kept))
    }
}

/// A copy under way counts at its revision, as a request does.
struct InFlight<'a>(&'a Revision);

impl<'a> InFlight<'a> {
    fn new(revision: &'a Revision) -> Self {
        revision.entered();
        Self(revision)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.left();
    }
}
