//! HTTP/2 by hand: pods that speak gRPC, and clients that send many requests over one connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub type Content = BoxBody<Bytes, Infallible>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Content>> + Send + Sync>;

/// A pod that speaks HTTP/2 alone. Dies with this value.
pub struct GrpcPod {
    pub address: SocketAddr,
    pub hits: Arc<AtomicU64>,
    /// Connections that were opened, and that are open.
    pub opened: Arc<AtomicU64>,
    pub open: Arc<AtomicU64>,
    /// The headers of the last call.
    pub seen: Arc<Mutex<HeaderMap>>,
    leave: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl GrpcPod {
    pub async fn with<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Content>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hits, opened, open): (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let seen: Arc<Mutex<HeaderMap>> = Arc::default();
        let handler: Handler = Arc::new(move |request| Box::pin(answer(request)));
        let counted = (Arc::clone(&hits), Arc::clone(&opened), Arc::clone(&open), Arc::clone(&seen));
        let (leave, leaving) = watch::channel(());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (hits, opened, open, seen) = counted.clone();
                let (handler, mut leaving) = (Arc::clone(&handler), leaving.clone());
                leaving.mark_unchanged();
                opened.fetch_add(1, Ordering::Relaxed);
                open.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request: Request<Incoming>| {
                    hits.fetch_add(1, Ordering::Relaxed);
                    let mut headers = request.headers().clone();
                    let authority = request.uri().authority().unwrap().as_str();
                    headers.insert("x-authority", authority.parse().unwrap());
                    *seen.lock().unwrap() = headers;
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.spawn(async move {
                    let http = http2::Builder::new(TokioExecutor::new());
                    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        _ = connection.as_mut() => {}
                        () = async { drop(leaving.changed().await) } => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, hits, opened, open, seen, leave, task }
    }

    /// Answers every call with its own message, `x-cost` and the status 0.
    pub async fn echo() -> Self {
        Self::with(|request| async move {
            let sent = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
            reply(vec![
                Frame::data(sent),
                Frame::trailers(trailers(&[("grpc-status", "0"), ("x-cost", "3"), ("stoker-x", "1")])),
            ])
        })
        .await
    }

    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Says GOAWAY on the connections that are open.
    pub fn leave(&self) {
        self.leave.send_replace(());
    }

    /// Closes the port and all connections at once.
    pub async fn kill(self) {
        let mut task = self.task;
        task.abort();
        let _ = (&mut task).await;
    }
}

/// An answer of these frames.
pub fn reply(frames: Vec<Frame<Bytes>>) -> Response<Content> {
    let frames = futures::stream::iter(frames.into_iter().map(Ok));
    answer(StreamBody::new(frames).boxed())
}

/// An answer with any body.
pub fn answer(body: Content) -> Response<Content> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

pub fn trailers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in fields {
        trailers.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    trailers
}

/// A message as gRPC frames it: not compressed, its length, its bytes.
pub fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], text.as_bytes()].concat().into()
}

/// A body that is sent piece by piece.
pub fn piecewise() -> (UnboundedSender<Result<Frame<Bytes>, Infallible>>, Content) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, StreamBody::new(receiver).boxed())
}

pub fn whole(bytes: impl Into<Bytes>) -> Content {
    Full::new(bytes.into()).boxed()
}

/// A request to `digits`.
pub fn post(path: &str, fields: &[(&str, &str)], body: Content) -> Request<Content> {
    let mut request = Request::builder().method("POST").uri(format!("http://digits{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// One connection of a client.
#[derive(Clone)]
pub struct Http2 {
    pub sender: SendRequest<Content>,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn send(&self, request: Request<Content>) -> hyper::Result<Response<Incoming>> {
        self.sender.clone().send_request(request).await
    }

    /// Calls a method of the protocol, and reads the whole answer.
    pub async fn call(&self, method: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Called {
        let answer = self.open(method, fields, whole(body)).await;
        Called::read(answer).await
    }

    /// Calls a method, and gives the answer as soon as its head is there.
    pub async fn open(&self, method: &str, fields: &[(&str, &str)], body: Content) -> Response<Incoming> {
        let path = format!("/inference.GRPCInferenceService/{method}");
        let fields = [&[("content-type", "application/grpc"), ("te", "trailers")], fields].concat();
        self.send(post(&path, &fields, body)).await.expect("an answer")
    }

    /// An inference over HTTP.
    pub async fn infer(&self, body: impl Into<Bytes>) -> hyper::Result<(u16, Bytes)> {
        let answer = self.send(post("/v2/models/digits/infer", &[], whole(body))).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Called {
    pub http: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Called {
    pub async fn read(answer: Response<Incoming>) -> Self {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("an answer to its end");
        let trailers = body.trailers().cloned();
        Self { http: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes(), trailers }
    }

    fn field(&self, name: &str) -> &str {
        let value =
            self.trailers.as_ref().and_then(|trailers| trailers.get(name)).or_else(|| self.headers.get(name));
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The status, -1 where there is none.
    pub fn status(&self) -> i32 {
        self.field("grpc-status").parse().unwrap_or(-1)
    }

    pub fn message(&self) -> &str {
        self.field("grpc-message")
    }

    /// Fields of the trailers, in order of their names.
    pub fn trailers(&self) -> Vec<(String, String)> {
        let fields: HashMap<_, _> =
            self.trailers.iter().flatten().map(|(name, value)| (name.to_string(), value)).collect();
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (name, value.to_str().unwrap().to_owned())).collect();
        fields.sort();
        fields
    }
}
