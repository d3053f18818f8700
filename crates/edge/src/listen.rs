//! A bounded HTTP/1.1 server for any hyper service whose errors are answers already.
//!
//! A tower service, such as an axum router, fits through `hyper_util::service::TowerToHyperService`. Every connection is
//! a task of its own; a panic in a request is answered with 500 and ends nothing else.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Activity, Patience, Tracked, Watched};
use crate::drain::{Drain, Phase};
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

/// How to listen.
#[derive(Clone, Default)]
pub struct Options {
    /// What strangers may take.
    pub limits: Limits,
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
    S::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut http = http1::Builder::new();
    // Time limits are kept by `Watched`; hyper's own timer cannot tell an idle connection from a slow head.
    http.header_read_timeout(None).max_header_size(options.limits.header_bytes);
    http.max_buf_size((128 << 10).max(options.limits.header_bytes)).half_close(false);
    let gate = Arc::new(Gate {
        places: Arc::new(Semaphore::new(options.limits.connections)),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        http,
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
    http: http1::Builder,
    options: Options,
    drain: Drain,
}

impl Gate {
    /// Starts a task for a connection, or for telling it that there is no room.
    fn admit<S, B>(self: &Arc<Self>, connections: &mut JoinSet<()>, stream: TcpStream, service: &S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
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
                None => gate.serve(stream, service, None).await,
                Some(tls) => {
                    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
                    match tokio::time::timeout(gate.options.limits.handshake_time, handshake).await {
                        Ok(Ok(stream)) => {
                            let peer = Peer::of(stream.get_ref().1);
                            gate.serve(stream, service, peer).await;
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

    /// Serves one connection to its end. `peer` is who called, where that is known.
    async fn serve<T, S, B>(&self, stream: T, service: S, peer: Option<Peer>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limits = &self.options.limits;
        let patience =
            Patience { head: limits.header_time, idle: limits.idle_time, write: limits.write_time };
        let activity = Activity::new();
        let stream = TokioIo::new(Watched::new(stream, activity.clone(), patience));
        let asked = activity.clone();
        let (drain, panics) = (self.drain.clone(), self.options.stats.panics.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            asked.begin();
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            // Made before the call: it marks the connection idle again however the request ends.
            let (asked, drain, panics) = (asked.clone(), drain.clone(), panics.clone());
            let answer = AssertUnwindSafe(service.call(request)).catch_unwind();
            async move {
                let answer = if let Ok(Ok(answer)) = answer.await {
                    answer.map(Either::Left)
                } else {
                    panics.inc();
                    reply::error(StatusCode::INTERNAL_SERVER_ERROR, "internal error").map(Either::Right)
                };
                let mut answer = answer.map(|body: Either<B, Full<Bytes>>| Tracked::new(body, asked));
                if drain.phase() > Phase::Serving {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drain.reached(Phase::Closing) => {
                loop {
                    // Every answer asks for the end of the connection by now. One without a request is told only after
                    // a while: hyper closes it whatever is on its way.
                    match tokio::time::timeout(LAST_CALL, connection.as_mut()).await {
                        Ok(ended) => break ended,
                        Err(_) if activity.is_idle() => connection.as_mut().graceful_shutdown(),
                        Err(_) => {}
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
    }
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
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        for _ in 0..16 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
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
