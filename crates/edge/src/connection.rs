//! One connection: who may keep it open for how long.
//!
//! hyper has one timer for "no head yet", which runs while a connection idles between requests as well. Clients keep idle
//! connections for more than a minute, and a head should take seconds, so the two are told apart here: [`Watched`] sees
//! the bytes, and [`Activity`] is told by the service when a request begins and when its answer has ended.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Between requests; nothing of the next head was seen.
const IDLE: u8 = 0;
/// Some bytes of a head are there.
const HEAD: u8 = 1;
/// A request is being served.
const BUSY: u8 = 2;

/// What a connection is doing, shared by its input, its service and the answer that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<AtomicU8>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(IDLE)))
    }

    /// A head is complete.
    pub(crate) fn begin(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// Whether no byte of a request is there that was not answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == IDLE
    }
}

/// How long a connection may take. See [`crate::listen::Limits`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

/// A stream that fails with `TimedOut` when the peer keeps it open without getting anywhere.
pub(crate) struct Watched<T> {
    stream: T,
    activity: Activity,
    patience: Patience,
    /// When the present wait for bytes began: for a head its first byte, else the end of the last answer.
    waiting: Option<Instant>,
    /// When writing began to make no progress.
    stalled: Option<Instant>,
    read_alarm: Alarm,
    write_alarm: Alarm,
}

impl<T> Watched<T> {
    pub(crate) fn new(stream: T, activity: Activity, patience: Patience) -> Self {
        let (read_alarm, write_alarm) = (Alarm::default(), Alarm::default());
        Self { stream, activity, patience, waiting: None, stalled: None, read_alarm, write_alarm }
    }

    /// Called when nothing can be read by now: is the peer's time over?
    fn reading_is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = match self.activity.0.load(Ordering::Relaxed) {
            IDLE => self.patience.idle,
            HEAD => self.patience.head,
            // The service bounds how long a request may take, and after it the connection is idle anew.
            _ => {
                self.waiting = None;
                return false;
            }
        };
        let since = *self.waiting.get_or_insert_with(Instant::now);
        self.read_alarm.is_over(since + limit, cx)
    }

    fn wrote<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        if self.write_alarm.is_over(since + self.patience.write, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending if this.reading_is_overdue(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let activity = &this.activity.0;
                match activity.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => this.waiting = Some(Instant::now()),
                    // A byte now and then does not extend the time for a head.
                    Err(HEAD) => {
                        if this.waiting.is_some_and(|since| since.elapsed() >= this.patience.head) {
                            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                        }
                    }
                    Err(_) => this.waiting = None,
                }
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A timer that is set again only when it rings too early, so that a busy connection costs no timer work per request.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `due` has passed; else the task is woken then, or earlier.
    fn is_over(&mut self, due: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return true;
            }
            sleep.as_mut().reset(due);
        }
        false
    }
}

/// The body of an answer, which tells the connection when it has ended.
pub struct Tracked<B> {
    body: B,
    activity: Activity,
    /// The connection's task, when it waited for a piece.
    waited: Option<Waker>,
}

impl<B> Tracked<B> {
    pub(crate) fn new(body: B, activity: Activity) -> Self {
        Self { body, activity, waited: None }
    }
}

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        self.activity.0.store(IDLE, Ordering::Relaxed);
        // hyper 1.12 forgets to look at a request that it has read already when the answer before it was waited for: one more
        // look finds it.
        if let Some(connection) = self.waited.take() {
            connection.wake();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending() {
            this.waited.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
