//! A proxy in front of the API server. One operator talks through it; it counts that operator's writes and disturbs one of them.
//!
//! Everything else goes through as it is, watches as streams. What the proxy answers by itself looks like an answer of the
//! API server: a `Status` with reason and code.

mod fault;
mod watches;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use fault::{Disturbance, Fault, Write};
use watches::Cut;

/// No object that an operator writes comes near it.
const LONGEST_REQUEST: usize = 8 << 20;

/// Kills the operator that talks through a proxy, and is done when that process is gone.
pub type Kill = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Error>>;

/// A proxy that is running. It ends with the value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    /// To the API server. It must not repeat anything by itself: what an operator sees is what is answered.
    upstream: Client,
    state: Mutex<State>,
    /// Tells the watches that are open to end.
    cuts: watch::Sender<Cut>,
}

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    armed: Option<Disturbance>,
    struck: Vec<String>,
    victim: Option<Kill>,
    /// Watches by their path that are answered with 410 once; none when no watch is.
    expired: Option<BTreeSet<String>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics with it in hand.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Listens on loopback. `upstream` must not retry (`kube::Config::default_retry`).
    pub async fn start(upstream: Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
        let address = listener.local_addr()?;
        let (cuts, _) = watch::channel(Cut::default());
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), cuts });
        let serving = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, serving })
    }

    /// A kubeconfig that leads here, as JSON, which is YAML too. It holds no credentials: the proxy has them.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        })
        .to_string()
    }

    /// Who dies by [`Fault::KillBefore`] and [`Fault::KillAfter`].
    pub fn set_victim(&self, kill: Kill) {
        self.shared.state().victim = Some(kill);
    }

    /// Counts from 1 again, and disturbs what `disturbance` says, if there is one.
    pub fn arm(&self, disturbance: Option<Disturbance>) {
        let mut state = self.shared.state();
        state.writes.clear();
        state.struck.clear();
        state.armed = disturbance;
    }

    /// The writes since [`Proxy::arm`].
    pub fn writes(&self) -> Vec<Write> {
        self.shared.state().writes.clone()
    }

    /// The writes that were disturbed, each as [`Write::what`] says it.
    pub fn struck(&self) -> Vec<String> {
        self.shared.state().struck.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with this task, and so with the proxy.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Else small answers wait for the operator's acknowledgement of earlier ones.
        stream.set_nodelay(true).ok();
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| handle(Arc::clone(&shared), request));
        connections.spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// One request. An error closes the connection without an answer.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Error> {
    let (mut head, body) = request.into_parts();
    let body = Limited::new(body, LONGEST_REQUEST).collect().await?.to_bytes();
    // These belong to the connection with the operator.
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    let is_watch = head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let request = Request::from_parts(head, Body::from(body.to_vec()));
    if is_watch {
        return watch(&shared, &path, request).await;
    }
    if !fault::counts(&method, &path) {
        return forward(&shared, request).await;
    }
    write(&shared, method, path, request, &body).await
}

async fn watch(shared: &Shared, path: &str, request: Request<Body>) -> Result<Answer, Error> {
    // From here on: a cut between the request and its answer counts too.
    let cuts = shared.cuts.subscribe();
    let refused = shared.state().expired.as_mut().is_some_and(|paths| paths.insert(path.to_owned()));
    if refused {
        return Ok(own_answer(StatusCode::GONE));
    }
    let (head, body) = passed_back(shared.upstream.send(request).await?);
    Ok(Response::from_parts(head, UnsyncBoxBody::new(watches::until_cut(body, cuts))))
}

async fn write(
    shared: &Shared,
    method: Method,
    path: String,
    request: Request<Body>,
    body: &[u8],
) -> Result<Answer, Error> {
    let (number, fault) = {
        let mut state = shared.state();
        let what = fault::describe(&method, &path, body);
        state.writes.push(Write { what: what.clone(), status: None });
        let number = state.writes.len();
        let hit = state.armed.filter(|armed| armed.hits(number) && !state.struck.contains(&what));
        if hit.is_some() {
            state.struck.push(what);
        }
        (number, hit.map(|armed| armed.fault))
    };
    match fault {
        Some(Fault::KillBefore) => return Err(kill(shared).await),
        Some(Fault::Answer(status)) => return Ok(own_answer(status)),
        Some(Fault::DropWatches) => shared.cuts.send_modify(Cut::drop_all),
        Some(Fault::ExpireWatches) => shared.cuts.send_modify(Cut::expire_all),
        Some(Fault::RefuseWatches) => {
            shared.state().expired = Some(BTreeSet::new());
            shared.cuts.send_modify(Cut::drop_all);
        }
        None | Some(Fault::KillAfter | Fault::LoseReply) => {}
    }
    let answer = forward(shared, request).await?;
    if let Some(write) = shared.state().writes.get_mut(number - 1) {
        write.status = Some(answer.status().as_u16());
    }
    match fault {
        Some(Fault::KillAfter) => Err(kill(shared).await),
        Some(Fault::LoseReply) => Err("the reply is lost, as planned".into()),
        _ => Ok(answer),
    }
}

/// Kills the operator; the error closes its connection.
async fn kill(shared: &Shared) -> Error {
    let victim = shared.state().victim.clone();
    if let Some(victim) = victim {
        victim().await;
    }
    "its operator was killed, as planned".into()
}

/// Passes a request on, and its answer back, read to its end: what is counted as written is written.
async fn forward(shared: &Shared, request: Request<Body>) -> Result<Answer, Error> {
    let (head, body) = passed_back(shared.upstream.send(request).await?);
    Ok(Response::from_parts(head, whole(body.collect().await?.to_bytes())))
}

/// An answer without what belongs to the connection with the API server.
fn passed_back(answer: Response<Body>) -> (http::response::Parts, Body) {
    let (mut head, body) = answer.into_parts();
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    (head, body)
}

fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, Error> {
    UnsyncBoxBody::new(Full::new(bytes).map_err(Error::from))
}

/// What the API server would answer.
fn own_answer(status: StatusCode) -> Answer {
    let mut answer = Response::new(whole(Bytes::from(status_object(status).to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn status_object(status: StatusCode) -> Value {
    let reason = match status {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::GONE => "Expired",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{} by the proxy of a test", status.as_str()),
        "reason": reason,
        "code": status.as_u16(),
    })
}

#[cfg(test)]
mod tests;
