//! Asking the routers of a namespace (client required): which table they serve, and what they count.
//!
//! Which routers there are comes from a watch on the EndpointSlices of the router Services, so that a look at a run costs
//! the API server nothing. A router is asked while it is serving or terminating; one that is terminating and cannot be
//! connected to is gone. The watch may be late, which is safe: a new router gets traffic only when it is an endpoint, and
//! reads the newest table before it is ready.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, pin_mut};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::{Client as HttpClient, Error as HttpError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use stoker_api::names::{objects, ports, router_identity};
use stoker_api::pause::Pause;
use stoker_api::scrape::{SCRAPE_PATH, ScrapeReply, ScrapeRequest, TableVersion};

use crate::context::scope;

/// Longest time that a router may take, connecting included. A look at a run waits for the slowest.
const DEADLINE: Duration = Duration::from_secs(1);
/// Longest time that connecting may take: below the deadline, so that a dead node is told from a slow router.
const CONNECT: Duration = Duration::from_millis(750);
/// Longest answer that is read, in bytes. Two runs of 20 steps with full histograms stay below a quarter of it.
const ANSWER_LIMIT: usize = 4 << 20;
/// How long a connection without a request is kept; above the time between two looks.
const IDLE: Duration = Duration::from_secs(30);

/// Said where there is nobody to ask.
const NONE: &str = "no router is running yet";

/// How [`Routers`] makes HTTPS connections: the address is in the host name, so nothing is looked up.
type Connector = hyper_rustls::HttpsConnector<HttpConnector<Resolver>>;
type Resolver =
    tower::util::ServiceFn<fn(Name) -> std::future::Ready<Result<std::iter::Once<SocketAddr>, io::Error>>>;
type Http = HttpClient<Connector, Full<Bytes>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// Talks to the routers of all namespaces. Clones share connections and what is known.
#[derive(Clone)]
pub struct Routers(Arc<Inner>);

struct Inner {
    client: Client,
    watch: Option<String>,
    slices: Store<EndpointSlice>,
    /// Taken by [`Routers::follow`].
    writer: Mutex<Option<reflector::store::Writer<EndpointSlice>>>,
    /// None until the operator has its certificate.
    http: RwLock<Option<Http>>,
    scrapes: Family<Labels, Counter>,
}

/// What the routers of a namespace said about one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterView {
    /// By pod name, each once: the answer, or why there is none.
    pub replies: Vec<(String, Result<ScrapeReply, String>)>,
}

impl RouterView {
    /// What the routers that answered said.
    pub fn answers(&self) -> impl Iterator<Item = &ScrapeReply> {
        self.replies.iter().filter_map(|(_, reply)| reply.as_ref().ok())
    }

    /// None when every router serves `expect` or a later generation of it; else the sentence that says what is missing.
    pub fn unverified(&self, expect: &TableVersion) -> Option<String> {
        if self.replies.is_empty() {
            return Some(NONE.to_owned());
        }
        self.replies.iter().find_map(|(pod, reply)| match reply {
            Err(why) => Some(format!("router {pod}: {why}")),
            Ok(reply) => behind(reply, expect).map(|why| format!("router {pod} {why}")),
        })
    }

    /// Requests that were sent to each revision and are not answered, summed over the routers that answered.
    pub fn in_flight(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for arm in self.answers().flat_map(|reply| &reply.arms) {
            let total = sum.entry(arm.revision.clone()).or_insert(0_u64);
            *total = total.saturating_add(arm.in_flight);
        }
        sum
    }

    /// Why no router can send anything to `revision`, if so. Routers that do not answer are no proof of that.
    pub fn unreachable(&self, revision: &str) -> Option<String> {
        if self.replies.is_empty() {
            return Some(NONE.to_owned());
        }
        let mut answers = self.answers().peekable();
        answers.peek()?;
        let mut arms = answers.filter(|reply| reply.serving.is_some()).flat_map(|reply| &reply.arms);
        let reached = arms.any(|arm| arm.revision == revision && arm.ready_endpoints > 0);
        (!reached).then(|| format!("no router knows a ready pod of {revision} yet"))
    }

    /// Why nothing is known, when not one router could be read.
    pub fn unreadable(&self) -> Option<String> {
        if self.answers().next().is_some() {
            return None;
        }
        let first = self.replies.iter().find_map(|(pod, reply)| Some((pod, reply.as_ref().err()?)));
        Some(match first {
            None => NONE.to_owned(),
            Some((pod, why)) => format!("router {pod}: {why}"),
        })
    }
}

/// What a router lacks to serve `expect`.
fn behind(reply: &ScrapeReply, expect: &TableVersion) -> Option<String> {
    let refused = reply.refused.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match &reply.serving {
        Some(serving) if serving.uid == expect.uid && serving.generation >= expect.generation => None,
        Some(serving) if serving.uid == expect.uid => Some(format!(
            "serves generation {} of the table, not {}{refused}",
            serving.generation, expect.generation
        )),
        Some(_) => Some(format!("serves the table of a deleted object of the same name{refused}")),
        None => Some(format!("has no table of this model yet{refused}")),
    }
}

/// A router to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    serving: bool,
    terminating: bool,
}

impl Endpoint {
    /// Whether a router that gave no answer is gone; the list of endpoints just does not say so yet.
    fn is_gone(self, why: &Unanswered) -> bool {
        match why {
            Unanswered::Refused(_) => self.terminating,
            // Its node is dead, most likely. One that is serving would hold requests.
            Unanswered::Unreachable(_) => self.terminating && !self.serving,
            Unanswered::Other(_) => false,
        }
    }
}

/// Why a router gave no answer.
#[derive(Debug, PartialEq, Eq)]
enum Unanswered {
    /// Nothing listens there: the process is gone.
    Refused(String),
    /// Nobody says anything when it is connected to.
    Unreachable(String),
    /// Anything else.
    Other(String),
}

impl Unanswered {
    fn into_why(self) -> String {
        match self {
            Self::Refused(why) | Self::Unreachable(why) | Self::Other(why) => why,
        }
    }
}

impl Routers {
    /// Asks no router before [`Routers::trust`] and [`Routers::follow`]. `watch`: the only namespace, or all.
    pub fn new(client: Client, watch: Option<String>) -> Self {
        let (slices, writer) = reflector::store();
        let writer = Mutex::new(Some(writer));
        let (http, scrapes) = (RwLock::new(None), Family::default());
        Self(Arc::new(Inner { client, watch, slices, writer, http, scrapes }))
    }

    /// Shows the counters among the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let scrapes = self.0.scrapes.clone();
        registry.register("stoker_operator_router_scrapes", "Questions to routers by outcome", scrapes);
    }

    /// Counts a question to a router.
    pub(crate) fn count(&self, outcome: &'static str) {
        self.0.scrapes.get_or_create(&Labels { outcome }).inc();
    }

    /// The certificate to show and the CA to trust from now on.
    pub fn trust(&self, config: ClientConfig) {
        *self.0.http.write().unwrap_or_else(PoisonError::into_inner) = Some(http_client(config));
    }

    /// Keeps the list of routers until `shutdown`. The second call does nothing.
    pub async fn follow(self, shutdown: impl Future<Output = ()>) {
        let Some(writer) = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let api: Api<EndpointSlice> = scope(&self.0.client, self.0.watch.as_deref());
        let config =
            watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", objects::ROUTER));
        let events = watcher(api, config).backoff(Pause::default()).reflect(writer).take_until(shutdown);
        pin_mut!(events);
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "the list of routers cannot be watched; the last one is used");
            }
        }
    }

    /// Waits until the list of routers was read once.
    pub async fn ready(&self) {
        // Fails only when the watch has ended, and then the process ends.
        let _ = self.0.slices.wait_until_ready().await;
    }

    /// Asks every router of `namespace` about a route, all at once, each within a second.
    pub async fn scrape(&self, namespace: &str, request: &ScrapeRequest) -> RouterView {
        let unknown =
            |why: &str| RouterView { replies: vec![(objects::ROUTER.to_owned(), Err(why.to_owned()))] };
        let Some(http) = self.0.http.read().unwrap_or_else(PoisonError::into_inner).clone() else {
            return unknown("the operator has no certificate yet");
        };
        if futures::FutureExt::now_or_never(self.0.slices.wait_until_ready()).is_none() {
            return unknown("the list of routers has not been read yet");
        }
        let body = match serde_json::to_vec(request) {
            Ok(body) => Bytes::from(body),
            Err(error) => return unknown(&format!("the question cannot be written as JSON: {error}")),
        };
        let http = &http;
        let asked = endpoints(&self.0.slices.state(), namespace).into_iter().map(async |(pod, endpoint)| {
            let authority = format!("{}:{}", host(namespace, endpoint.address), ports::ROUTER_ADMIN);
            let answer = ask(http, &authority, body.clone()).await;
            let outcome = if answer.is_ok() { "ok" } else { "failed" };
            self.count(outcome);
            let reply = match answer {
                Ok(reply) => Ok(reply),
                Err(why) if endpoint.is_gone(&why) => return None,
                Err(why) => Err(why.into_why()),
            };
            Some((pod, reply))
        });
        RouterView { replies: join_all(asked).await.into_iter().flatten().collect() }
    }
}

/// The routers of a namespace that may hold requests, by pod name.
fn endpoints(slices: &[Arc<EndpointSlice>], namespace: &str) -> BTreeMap<String, Endpoint> {
    let own = slices.iter().filter(|slice| slice.namespace().as_deref() == Some(namespace));
    let mut found = BTreeMap::new();
    for endpoint in own.flat_map(|slice| &slice.endpoints) {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let terminating = conditions.terminating.unwrap_or(false);
        // Unset means true, says the API.
        let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
        let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
            continue;
        };
        if serving || terminating {
            let pod = endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone());
            // A pod in two slices (two address families, or on its way from one to the other) is asked once.
            found.entry(pod.unwrap_or_else(|| address.to_string())).or_insert(Endpoint {
                address,
                serving,
                terminating,
            });
        }
    }
    found
}

fn other<T>(why: String) -> Result<T, Unanswered> {
    Err(Unanswered::Other(why))
}

/// One question to one router.
async fn ask(http: &Http, authority: &str, body: Bytes) -> Result<ScrapeReply, Unanswered> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{authority}{SCRAPE_PATH}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body));
    let request = match request {
        Ok(request) => request,
        Err(error) => return other(format!("the question cannot be addressed: {error}")),
    };
    let answer = async {
        let mut answer = http.request(request).await.map_err(|error| unanswered(&error))?;
        let body = stoker_edge::body::read_bounded(answer.body_mut(), ANSWER_LIMIT).await;
        let body = body.map_err(|error| Unanswered::Other(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return other(format!("answered {}: {text}", answer.status()));
        }
        serde_json::from_slice(&body).or_else(|error| other(format!("the answer cannot be read: {error}")))
    };
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => other(format!("no answer within {} s", DEADLINE.as_secs())),
    }
}

/// Tells a connection that was not made from the rest, and finds the sentence that says what happened.
fn unanswered(error: &HttpError) -> Unanswered {
    let mut why = error.to_string();
    let mut kind = None;
    let mut source = error.source();
    while let Some(cause) = source {
        why = cause.to_string();
        kind = cause.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
        source = cause.source();
    }
    match kind.filter(|_| error.is_connect()) {
        Some(io::ErrorKind::ConnectionRefused) => Unanswered::Refused(why),
        Some(
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable,
        ) => Unanswered::Unreachable(format!("it cannot be connected to: {why}")),
        _ => Unanswered::Other(why),
    }
}

/// The host name of a pod, in the form that Kubernetes' DNS has for pods: `10-1-2-3.namespace.pod`.
///
/// It holds the address and the namespace, and so keeps connections of two namespaces apart when an address moves.
fn host(namespace: &str, address: IpAddr) -> String {
    let label = address.to_string().replace(['.', ':'], "-");
    format!("{label}.{namespace}.pod")
}

/// The address in a name that [`host`] made.
fn address(host: &str) -> Option<IpAddr> {
    let (label, _) = host.split_once('.')?;
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

/// The name that the router at `host` must prove to have.
fn server_name(host: &str) -> Result<ServerName<'static>, io::Error> {
    let namespace = host.split('.').nth(1).ok_or_else(|| io::Error::other("the name holds no namespace"))?;
    ServerName::try_from(router_identity(namespace)).map_err(io::Error::other)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is hyper's")]
fn resolve(name: Name) -> std::future::Ready<Result<std::iter::Once<SocketAddr>, io::Error>> {
    let found = address(name.as_str()).ok_or_else(|| io::Error::other("the name holds no address"));
    // The port comes from the URI.
    std::future::ready(found.map(|address| std::iter::once(SocketAddr::new(address, 0))))
}

fn http_client(config: ClientConfig) -> Http {
    let mut tcp = HttpConnector::new_with_resolver(tower::service_fn(resolve as fn(Name) -> _));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .with_server_name_resolver(|uri: &http::Uri| server_name(uri.host().unwrap_or_default()))
        .enable_http1()
        .wrap_connector(tcp);
    HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector)
}

#[cfg(test)]
mod tests;
