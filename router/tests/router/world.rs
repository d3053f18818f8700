//! The world around a router: fake pods, tables, clients.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Finished, Options, Stats};
use stoker_router::forward::Settings;
use stoker_router::run::Router;
use stoker_router::shadow::Limits;
use stoker_router::table::keeper::{Offer, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a fake pod does with a request.
pub type Behaviour =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// A fake pod. Dies with this value.
pub struct Pod {
    pub address: SocketAddr,
    pub hits: Arc<AtomicU64>,
    task: JoinHandle<Finished>,
}

impl Pod {
    /// Answers 200 to everything.
    pub async fn good() -> Self {
        Self::with(answer(StatusCode::OK)).await
    }

    pub async fn with(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&hits);
        let service = service_fn(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = behaviour(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let drain = Drain::new(Duration::from_secs(5));
        let task = tokio::spawn(listen::serve(listener, service, Options::default(), drain));
        Self { address, hits, task }
    }

    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Closes the port and resets what is under way, as a killed process does.
    pub async fn kill(self) {
        let mut task = self.task;
        task.abort();
        let _ = (&mut task).await;
    }
}

/// A behaviour: reads the body and answers with a status and the number of bytes.
pub fn answer(status: StatusCode) -> Behaviour {
    Arc::new(move |request| {
        Box::pin(async move {
            let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            let mut answer = Response::new(Full::new(Bytes::from(length.to_string())));
            *answer.status_mut() = status;
            answer
        })
    })
}

/// A behaviour: answers with the headers that it got, as JSON.
pub fn echo_headers() -> Behaviour {
    Arc::new(|request: Request<Incoming>| {
        Box::pin(async move {
            let seen: BTreeMap<_, _> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()))
                .collect();
            let mut answer = Response::new(Full::new(Bytes::from(serde_json::to_vec(&seen).unwrap())));
            answer.headers_mut().insert("stoker-revision", "forged".parse().unwrap());
            answer.headers_mut().insert("stoker-secret", "1".parse().unwrap());
            answer.headers_mut().insert("x-kept", "1".parse().unwrap());
            answer
        })
    })
}

/// A port where nobody listens.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub fn settings() -> Settings {
    Settings {
        request_timeout: Duration::from_secs(10),
        max_body: 32 << 20,
        buffer_limit: 1 << 20,
        buffer_total: 64 << 20,
        hold: Duration::from_millis(300),
        hold_queue: 8,
        mirror: Limits {
            queue: 64,
            bytes: 64 << 20,
            concurrency: 8,
            timeout: Duration::from_secs(10),
            longest_answer: 1 << 20,
        },
    }
}

/// A table of `name` with arms as (revision, ppm, fallback).
pub fn table(
    name: &str,
    generation: i64,
    (run, step): (u64, u32),
    arms: &[(&str, u32, Option<&str>)],
) -> ModelRoute {
    let arms: Vec<_> = arms
        .iter()
        .map(|(revision, ppm, fallback)| json!({"revision": revision, "ppm": ppm, "fallback": fallback}))
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": name, "namespace": "team", "uid": format!("uid-{name}"), "generation": generation},
        "spec": {"schema": 1, "hosts": [format!("{name}.example.com")], "run": run, "step": step,
            "rules": [{"salt": format!("{name}/{run}"), "arms": arms}]},
    }))
    .unwrap()
}

/// The EndpointSlices of revisions with their ready pods.
pub fn slices(revisions: &[(&str, &[SocketAddr])]) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for (revision, pods) in revisions {
        // Ports belong to the slice, and fake pods differ in nothing else.
        for pod in *pods {
            let slice = json!({
                "metadata": {"name": format!("{revision}-{}", pod.port()), "labels": {"kubernetes.io/service-name": revision}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": pod.port()}],
                "endpoints": [{"addresses": [pod.ip()], "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "uid": format!("pod-{}", pod.port())}}],
            });
            slices.push(serde_json::from_value(slice).unwrap());
        }
    }
    slices
}

/// A router that serves on loopback.
pub struct World {
    pub router: Arc<Router>,
    pub address: SocketAddr,
    pub drain: Drain,
    pub task: JoinHandle<Finished>,
}

impl World {
    pub async fn new(settings: Settings) -> Self {
        let router = Arc::new(Router::new("team", settings, 1000));
        Self::around(router).await
    }

    pub async fn around(router: Arc<Router>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new(Duration::from_secs(5));
        let (serving, draining) = (Arc::clone(&router), drain.clone());
        let task = tokio::spawn(async move { serving.serve(listener, Stats::default(), draining).await });
        Self { router, address, drain, task }
    }

    /// A router with one model `digits`, one revision and these pods.
    pub async fn with_pods(settings: Settings, pods: &[SocketAddr]) -> Self {
        let world = Self::new(settings).await;
        world.pods(&[("digits-a", pods)]);
        world.serve(table("digits", 1, (1, 0), &[("digits-a", 1_000_000, None)]));
        world
    }

    pub fn pods(&self, revisions: &[(&str, &[SocketAddr])]) {
        self.router.keeper.slices_listed(&slices(revisions));
    }

    pub fn serve(&self, table: ModelRoute) {
        assert_eq!(self.router.keeper.offer(table, Origin::Watch), Offer::Served);
    }

    /// Attempts and errors of a revision under (run, step).
    pub fn counted(&self, run: u64, step: u32, revision: &str) -> (u64, u64) {
        let counts = self.router.plane.ledger.read("digits");
        let own =
            counts.iter().find(|arm| (arm.run, arm.step, arm.revision.as_str()) == (run, step, revision));
        own.map_or((0, 0), |arm| (arm.attempts, arm.errors))
    }

    pub fn in_flight(&self, revision: &str) -> Option<u64> {
        let arms = self.router.plane.arms("digits");
        arms.iter().find(|arm| arm.revision == revision).map(|arm| arm.in_flight)
    }

    /// Posts an inference for `digits`.
    pub async fn infer(&self, client: &Http, body: impl Into<Bytes>) -> Option<Got> {
        self.ask(client, Method::POST, "/v2/models/digits/infer", &[("host", "digits")], body).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Got {
        self.ask(&http(), Method::GET, path, headers, "").await.unwrap()
    }

    pub async fn ask(
        &self,
        client: &Http,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Got> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client.request(request.body(Full::new(body.into())).unwrap()).await.ok()?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Got { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// Sends bytes as they are, and gives all that comes back until the router closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn revision(&self) -> &str {
        self.headers.get("stoker-revision").map_or("", |value| value.to_str().unwrap())
    }

    pub fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }
}

pub type Http = Client<HttpConnector, Full<Bytes>>;

/// A client that keeps its connections.
pub fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Waits until `done`; the test fails when that takes absurdly long.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}
