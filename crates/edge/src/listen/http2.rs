//! One HTTP/2 connection: many streams at a time, each in a task of its own.
//!
//! A connection is idle while it has no stream. It is closed as RFC 9113, 6.8 wants it: GOAWAY first, then the streams that
//! the client had opened by then finish. What the `h2` crate bounds by itself (settings and pings that pile up, small
//! frames, resets of streams that nobody has taken up yet) is left to it. It cannot know how many streams a client
//! opens and resets once they were taken up, which costs a request to a pod each; that is counted here.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Gate, Http2, LAST_CALL, Limits, panicked};
use crate::connection::Watched;
use crate::drain::Phase;
use crate::linger;
use crate::reply::{self, Reply};
use crate::{BoxError, listen::Stats};

/// Header fields of one request, as many as in HTTP/1.
const FIELDS: usize = 100;
/// Streams that the peer may reset before they were taken up.
const PENDING_RESETS: usize = 20;
/// Streams that may be reset because the peer broke the protocol.
const LOCAL_RESETS: usize = 100;
/// Bytes that hyper is given at a time: what it has taken is out of reach of the stream's time.
const PIECE: usize = 16 << 10;
/// So many streams may be given up by the client, and beyond that half of all.
const ABANDONED: u64 = 200;

/// What all HTTP/2 connections of a listener share.
pub(super) struct Builder {
    http: http2::Builder<Tasks>,
    places: Arc<Semaphore>,
    stream_time: Duration,
}

impl Builder {
    pub(super) fn new(options: &Http2, limits: &Limits) -> Self {
        let mut http = http2::Builder::new(Tasks { limit: options.stream_time });
        http.timer(TokioTimer::new())
            .max_concurrent_streams(options.streams)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(LOCAL_RESETS)
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_send_buf_size(options.send_buffer)
            .keep_alive_interval(options.ping_interval)
            .keep_alive_timeout(options.ping_time);
        let places = Arc::new(Semaphore::new(options.streams_total));
        Self { http, places, stream_time: options.stream_time }
    }
}

/// Runs each stream in a task, and ends it when its time is over: hyper does not ask for an answer's next piece while the
/// client accepts none, so no deadline inside the answer would be seen.
#[derive(Clone)]
struct Tasks {
    limit: Duration,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(tokio::time::timeout(self.limit, stream));
    }
}

impl Gate {
    /// Serves one HTTP/2 connection to its end.
    pub(super) async fn serve_http2<T, S, B>(&self, builder: &Builder, stream: Watched<T>, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let streams = Arc::new(Streams::default());
        let (opening, places) = (Arc::clone(&streams), Arc::clone(&builder.places));
        let stats = self.options.stats.clone();
        let service = hyper::service::service_fn(move |request| {
            let place = Place::new(&opening, Arc::clone(&places).try_acquire_owned().ok());
            let panics = stats.panics.clone();
            let answer = match refuse(&request, &place, &stats) {
                None => Ok(AssertUnwindSafe(service.call(request)).catch_unwind()),
                Some(refusal) => Err(refusal),
            };
            async move {
                let answer = match answer {
                    Ok(answer) => panicked(answer.await, &panics),
                    Err(refusal) => refusal.map(Either::Right),
                };
                Ok::<_, Infallible>(answer.map(|body| Placed::new(body, place)))
            }
        });
        let (stream, owner) = linger::lend(stream);
        // In a place of its own, to be dropped before the end of the stream is waited for.
        let mut connection = Box::pin(builder.http.serve_connection(TokioIo::new(stream), service));
        let flooded = || {
            self.options.stats.floods.inc();
            tracing::debug!("an HTTP/2 client resets most of its requests; its connection is closed");
        };
        let leaving = tokio::select! {
            ended = connection.as_mut() => {
                report(ended);
                drop(connection);
                return owner.linger().await;
            }
            () = streams.flooded.notified() => return flooded(),
            () = self.drain.reached(Phase::Leaving) => true,
            () = streams.idle(self.options.limits.idle_time) => false,
        };
        // Its first request may be under way.
        if leaving
            && streams.opened() == 0
            && let Ok(ended) = tokio::time::timeout(LAST_CALL, connection.as_mut()).await
        {
            report(ended);
            drop(connection);
            return owner.linger().await;
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection.as_mut() => report(ended),
            () = streams.flooded.notified() => return flooded(),
            // No stream lasts longer: the client does not answer.
            () = tokio::time::sleep(builder.stream_time) => {}
        }
        // What the client sent before it had read the goodbye must not reset the connection under it.
        drop(connection);
        owner.linger().await;
    }
}

fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// What is refused before any service sees it.
fn refuse(request: &Request<Incoming>, place: &Place, stats: &Stats) -> Option<Reply> {
    if place.permit.is_none() {
        stats.refused.inc();
        let mut refusal = reply::error(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time");
        refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Some(refusal);
    }
    let headers = request.headers();
    if headers.len() > FIELDS {
        let text = format!("the request has more than {FIELDS} header fields");
        return Some(reply::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &text));
    }
    // h2 compares the length with the body where it is one number.
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        stats.malformed.inc();
        let text = crate::framing::Fault::Length.message();
        return Some(reply::error(StatusCode::BAD_REQUEST, text));
    }
    None
}

/// The streams of one connection.
struct Streams {
    began: Instant,
    opened: AtomicU64,
    ended: AtomicU64,
    /// Of those that ended: the ones that the client did not wait for.
    abandoned: AtomicU64,
    /// When the last one ended, in milliseconds after `began`.
    last: AtomicU64,
    flooded: Notify,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            opened: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            last: AtomicU64::new(0),
            flooded: Notify::new(),
        }
    }
}

impl Streams {
    fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Waits until there was no stream for so long.
    async fn idle(&self, limit: Duration) {
        let mut due = self.began + limit;
        loop {
            tokio::time::sleep_until(due).await;
            let last = self.began + Duration::from_millis(self.last.load(Ordering::Acquire));
            due = if self.ended.load(Ordering::Acquire) < self.opened() {
                Instant::now() + limit
            } else if Instant::now() >= last + limit {
                return;
            } else {
                last + limit
            };
        }
    }
}

/// A stream, counted for as long as it is open.
struct Place {
    streams: Arc<Streams>,
    /// None above the limit of all connections.
    permit: Option<OwnedSemaphorePermit>,
    /// The answer was given whole.
    whole: bool,
}

impl Place {
    fn new(streams: &Arc<Streams>, permit: Option<OwnedSemaphorePermit>) -> Self {
        streams.opened.fetch_add(1, Ordering::AcqRel);
        Self { streams: Arc::clone(streams), permit, whole: false }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let streams = &self.streams;
        let last = u64::try_from(streams.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        streams.last.fetch_max(last, Ordering::AcqRel);
        streams.ended.fetch_add(1, Ordering::AcqRel);
        if !self.whole {
            let abandoned = streams.abandoned.fetch_add(1, Ordering::AcqRel) + 1;
            if abandoned > ABANDONED && abandoned > streams.opened() / 2 {
                streams.flooded.notify_one();
            }
        }
    }
}

/// The body of an answer, with the place of its stream.
struct Placed<B> {
    body: B,
    /// Of the piece that was read last.
    rest: Bytes,
    place: Place,
}

impl<B: Body> Placed<B> {
    fn new(body: B, mut place: Place) -> Self {
        place.whole = body.is_end_stream();
        Self { body, rest: Bytes::new(), place }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Placed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut polled = if this.rest.is_empty() {
            Pin::new(&mut this.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))))
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(data) = frame.data_mut()
            && data.len() > PIECE
        {
            this.rest = data.split_off(PIECE);
        }
        this.place.whole |= match &polled {
            Poll::Ready(None) => true,
            // hyper does not ask again after the last one.
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || this.is_end_stream(),
            _ => false,
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Asked before the first piece.
        self.body.size_hint()
    }
}
