//! A bounded HTTP server for any hyper service whose errors are answers already: HTTP/1.1, and HTTP/2 beside it on the
//! same port where it is wanted. The client's first bytes say which of the two it speaks.
//!
//! A tower service, such as an axum router, fits through `hyper_util::service::TowerToHyperService`. Every connection is
//! a task of its own; a panic in a request is answered with 500 and ends nothing else.

mod http1;
mod http2;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Activity, Patience, Watched};
use crate::drain::{Drain, Phase};
use crate::linger::{self, LINGER};
use crate::tls::{Peer, Tls};
use crate::{BoxError, reply};

/// Connections above the limit that are told so at a time; further ones are just closed.
const REFUSALS: usize = 64;
/// What such a connection is told.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 33\r\n\
connection: close\r\nretry-after: 1\r\n\r\n{\"error\":\"too many connections\"}\n";
/// How long an open connection that carries no request is kept while the process closes: its request may be under way.
const LAST_CALL: Duration = Duration::from_millis(500);

/// What strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; above, a connection is answered with 503 and closed.
    pub connections: usize,
    /// Bytes of a request's line and headers; above, 431. At most 100 headers, whatever their size.
    pub header_bytes: usize,
    /// Time from the first byte of a request to the end of its headers.
    pub header_time: Duration,
    /// Time that a connection may be open without a request.
    pub idle_time: Duration,
    /// Time that the peer may take to accept the next bytes of an answer.
    pub write_time: Duration,
    /// Time for the TLS handshake.
    pub handshake_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 32 << 10,
            header_time: Duration::from_secs(10),
            // Above what common clients keep (60 s), so that the client closes first and no request meets a closing
            // connection.
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_mins(1),
            handshake_time: Duration::from_secs(10),
        }
    }
}

/// What the streams of HTTP/2 connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Streams of one connection at a time.
    pub streams: u32,
    /// Streams of all connections together; above, a stream is answered with 503.
    pub streams_total: usize,
    /// The longest that a stream may be open, whatever its service and its client do.
    pub stream_time: Duration,
    /// Bytes of one request's body that may wait to be read.
    pub stream_window: u32,
    /// Bytes of all bodies of one connection that may wait to be read.
    pub connection_window: u32,
    /// Bytes of one answer that may wait to be accepted by the client.
    pub send_buffer: usize,
    /// How often the client is asked whether it is still there.
    pub ping_interval: Duration,
    /// How long it may take to say so.
    pub ping_time: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            streams: 100,
            streams_total: 20_000,
            stream_time: Duration::from_secs(90),
            stream_window: 64 << 10,
            // One slow pod must not stop the other requests of a gateway that sends all it has over one connection.
            connection_window: 1 << 20,
            send_buffer: 64 << 10,
            ping_interval: Duration::from_secs(30),
            ping_time: Duration::from_secs(20),
        }
    }
}

/// How to listen.
#[derive(Clone, Default)]
pub struct Options {
    /// What strangers may take.
    pub limits: Limits,
    /// Whether HTTP/2 is spoken as well: with prior knowledge, and over TLS where its ALPN names it (see
    /// [`crate::tls::protocols`]).
    pub http2: Option<Http2>,
    /// With certificates, if any.
    pub tls: Option<Tls>,
    /// Where connections are counted.
    pub stats: Stats,
}

impl Options {
    /// For ports that only machines of the same cluster read now and then.
    pub fn small() -> Self {
        let limits = Limits { connections: 256, header_bytes: 16 << 10, ..Limits::default() };
        Self { limits, ..Self::default() }
    }
}

/// Counts of a listener. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Connections that are open.
    pub open: Gauge,
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Connections that were above the limit.
    pub refused: Counter,
    /// TLS handshakes that failed, a client without a good certificate among them.
    pub handshakes_failed: Counter,
    /// Requests whose framing could be read in two ways.
    pub malformed: Counter,
    /// HTTP/2 connections that were closed because their client reset most of its requests.
    pub floods: Counter,
    /// Panics that were caught. Anything above 0 is a fault of ours.
    pub panics: Counter,
}

impl Stats {
    /// Puts the counts into a registry, as `connections_open`, `connections_accepted_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Connections that are open", self.open.clone());
        registry.register("connections_accepted", "Connections that were accepted", self.accepted.clone());
        registry.register("connections_refused", "Connections above the limit", self.refused.clone());
        registry.register("handshakes_failed", "TLS handshakes that failed", self.handshakes_failed.clone());
        registry.register("requests_malformed", "Requests with ambiguous framing", self.malformed.clone());
        registry.register(
            "reset_floods",
            "HTTP/2 connections whose client reset most of its requests",
            self.floods.clone(),
        );
        registry.register("panics", "Panics that were caught while serving", self.panics.clone());
    }
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Connections that were cut because they did not finish within the drain's timeout.
    pub cut: usize,
}

/// Serves until the drain reaches [`Phase::Closing`] and all connections have finished, or its timeout is over.
pub async fn serve<S, B>(listener: TcpListener, service: S, options: Options, drain: Drain) -> Finished
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let gate = Arc::new(Gate {
        places: Arc::new(Semaphore::new(options.limits.connections)),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        http1: http1::builder(&options.limits),
        http2: options.http2.as_ref().map(|http2| http2::Builder::new(http2, &options.limits)),
        options,
        drain: drain.clone(),
    });

    let mut connections = JoinSet::new();
    let mut closing = pin!(drain.reached(Phase::Closing));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => gate.admit(&mut connections, stream, &service),
                Err(error) => pause_after(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut closing => break,
        }
    }
    // What the kernel has accepted already is served, not reset.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        gate.admit(&mut connections, stream, &service);
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    let cut = match tokio::time::timeout(drain.timeout(), rest).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    if cut > 0 {
        tracing::warn!(connections = cut, "connections did not finish in time and are cut");
    }
    Finished { cut }
}

/// What all connections of a listener share.
struct Gate {
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    http1: hyper::server::conn::http1::Builder,
    http2: Option<http2::Builder>,
    options: Options,
    drain: Drain,
}

impl Gate {
    /// Starts a task for a connection, or for telling it that there is no room.
    fn admit<S, B>(self: &Arc<Self>, connections: &mut JoinSet<()>, stream: TcpStream, service: &S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let stats = &self.options.stats;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            stats.refused.inc();
            // A TLS client could not read the refusal.
            if self.options.tls.is_none()
                && let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned()
            {
                connections.spawn(refuse(stream, permit));
            }
            return;
        };
        stats.accepted.inc();
        stats.open.inc();
        // Without it an answer in two writes waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let (gate, service) = (Arc::clone(self), service.clone());
        connections.spawn(async move {
            let _open = Open { stats: &gate.options.stats, _place: place };
            match &gate.options.tls {
                None => gate.serve(stream, service).await,
                Some(tls) => {
                    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
                    match tokio::time::timeout(gate.options.limits.handshake_time, handshake).await {
                        Ok(Ok(stream)) => {
                            let peer = Peer::of(stream.get_ref().1);
                            let service =
                                hyper::service::service_fn(move |mut request: Request<Incoming>| {
                                    if let Some(peer) = &peer {
                                        request.extensions_mut().insert(peer.clone());
                                    }
                                    service.call(request)
                                });
                            gate.serve(stream, service).await;
                        }
                        Ok(Err(error)) => {
                            gate.options.stats.handshakes_failed.inc();
                            tracing::debug!(%error, "TLS handshake failed");
                        }
                        Err(_) => {
                            gate.options.stats.handshakes_failed.inc();
                        }
                    }
                }
            }
        });
    }

    /// Serves one connection to its end.
    async fn serve<T, S, B>(&self, stream: T, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limits = &self.options.limits;
        let patience =
            Patience { head: limits.header_time, idle: limits.idle_time, write: limits.write_time };
        let activity = Activity::default();
        let mut stream = Watched::new(stream, activity.clone(), patience, limits.header_bytes);
        let Some(http2) = &self.http2 else {
            return self.serve_http1(stream, activity, service).await;
        };
        match self.protocol(&mut stream).await {
            // In a place of its own: the state of an HTTP/2 connection is large, and most speak HTTP/1.
            Some(true) => Box::pin(self.serve_http2(http2, stream, service)).await,
            Some(false) => self.serve_http1(stream, activity, service).await,
            None => {}
        }
    }

    /// Whether the client speaks HTTP/2; nothing when it does not say so in time.
    async fn protocol<T: AsyncRead + Unpin>(&self, stream: &mut Watched<T>) -> Option<bool> {
        let mut first = pin!(stream.is_http2());
        tokio::select! {
            biased;
            is_http2 = &mut first => is_http2.ok(),
            () = self.drain.reached(Phase::Closing) => {
                tokio::time::timeout(LAST_CALL, first).await.ok()?.ok()
            }
        }
    }
}

/// The answer of a service, or what is said in its place when it panicked.
fn panicked<B>(
    answer: std::thread::Result<Result<Response<B>, Infallible>>,
    panics: &Counter,
) -> Response<Either<B, Full<Bytes>>> {
    if let Ok(Ok(answer)) = answer {
        return answer.map(Either::Left);
    }
    panics.inc();
    reply::error(StatusCode::INTERNAL_SERVER_ERROR, "internal error").map(Either::Right)
}

/// Counts a connection for as long as it is open, however it ends.
struct Open<'a> {
    stats: &'a Stats,
    _place: OwnedSemaphorePermit,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.stats.open.dec();
    }
}

/// Tells a connection that there is no room, and reads a little so that it is not reset before it has read that.
async fn refuse(mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
    let _ = tokio::time::timeout(LINGER, async {
        stream.write_all(REFUSAL).await?;
        linger::close(&mut stream, 16).await
    })
    .await;
}

/// Accepting fails for the connection (gone already: go on) or for the process (out of file handles: wait a little).
async fn pause_after(error: &io::Error) {
    let gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if !gone {
        tracing::warn!(%error, "cannot accept connections; trying again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
