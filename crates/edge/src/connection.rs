//! One connection: which protocol it speaks, who may keep it open for how long, and whether its requests are framed well.
//!
//! hyper has one timer for "no head yet", which runs while a connection idles between requests as well. Clients keep idle
//! connections for more than a minute, and a head should take seconds, so the two are told apart here: [`Watched`] sees
//! the bytes, and [`Activity`] is told by the service when a request begins and when its answer has ended. An HTTP/2
//! connection is known by its preface; its streams are looked after in [`crate::listen`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::framing::{Fault, Framing, Wrong};

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A peer that takes less than so many bytes a second of what waits for it, beyond the time that any peer has, gets nowhere.
const LEAST_RATE: u64 = 1024;

/// Between requests; nothing of the next head was seen.
const IDLE: u8 = 0;
/// Some bytes of a head are there.
const HEAD: u8 = 1;
/// A request is being served.
const BUSY: u8 = 2;

/// What a connection is doing, shared by its input, its service and the answer that is being written. All of them are
/// polled by one task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<Doing>);

#[derive(Debug, Default)]
struct Doing {
    state: AtomicU8,
    /// Heads that hyper gave to the service.
    begun: AtomicU64,
    /// The first head that must not be served, counted from 1, and why; 0 while all are good.
    wrong: AtomicU64,
    fault: AtomicU8,
}

impl Activity {
    /// A head is complete; what is wrong with it, if anything.
    pub(crate) fn begin(&self) -> Option<Fault> {
        let Doing { state, begun, wrong, fault } = &*self.0;
        state.store(BUSY, Ordering::Relaxed);
        let number = begun.load(Ordering::Relaxed) + 1;
        begun.store(number, Ordering::Relaxed);
        match wrong.load(Ordering::Relaxed) {
            0 => None,
            first if number < first => None,
            _ => Fault::of(fault.load(Ordering::Relaxed)),
        }
    }

    /// The head after `good` ones must not be served.
    fn refuse(&self, good: u64, fault: Fault) {
        self.0.fault.store(fault as u8, Ordering::Relaxed);
        self.0.wrong.store(good + 1, Ordering::Relaxed);
    }

    /// Whether no byte of a request is there that was not answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == IDLE
    }
}

/// How long a connection may take. See [`crate::listen::Limits`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

/// A stream that fails with `TimedOut` when the peer keeps it open without getting anywhere, and with `InvalidData` when
/// the body of a request is malformed.
pub(crate) struct Watched<T> {
    stream: T,
    activity: Activity,
    patience: Patience,
    /// Follows the requests; none where the protocol is not HTTP/1.
    framing: Option<Framing>,
    /// A body went wrong: nothing more is read.
    broken: bool,
    early: Early,
    /// When the present wait for bytes began: for a head its first byte, else the end of the last answer.
    waiting: Option<Instant>,
    /// Since the peer does not take all that there is to write.
    stalled: Option<Stall>,
    read_alarm: Alarm,
    write_alarm: Alarm,
}

/// A peer that takes less than there is to write.
#[derive(Clone, Copy)]
struct Stall {
    began: Instant,
    /// When it took something last, and the bytes that it took since the beginning.
    last: Instant,
    taken: u64,
}

/// What was read to tell the protocol, to be read again by whoever speaks it.
#[derive(Default)]
struct Early {
    bytes: [u8; PREFACE.len()],
    filled: usize,
    taken: usize,
}

impl<T> Watched<T> {
    /// No line of a head may be longer than `line` bytes.
    pub(crate) fn new(stream: T, activity: Activity, patience: Patience, line: usize) -> Self {
        Self {
            stream,
            activity,
            patience,
            framing: Some(Framing::new(line)),
            broken: false,
            early: Early::default(),
            waiting: None,
            stalled: None,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
        }
    }

    /// Called when nothing can be read by now: is the peer's time over?
    fn reading_is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = match self.activity.0.state.load(Ordering::Relaxed) {
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

    /// A write took place or has to wait. A byte now and then does not extend the time for an answer.
    fn wrote(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = result {
            if let (Some(stall), Ok(bytes)) = (&mut self.stalled, &result) {
                (stall.last, stall.taken) = (Instant::now(), stall.taken.saturating_add(*bytes as u64));
            }
            return Poll::Ready(result);
        }
        let stall = *self.stalled.get_or_insert_with(|| {
            let now = Instant::now();
            Stall { began: now, last: now, taken: 0 }
        });
        let earned = stall.began + Duration::from_secs(stall.taken / LEAST_RATE);
        if self.write_alarm.is_over(stall.last.min(earned) + self.patience.write, cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Flushed is what was written whole, and the peer has all of its time for what comes next.
    fn flushed(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = result {
            self.stalled = None;
            return Poll::Ready(result);
        }
        self.wrote(cx, Poll::Pending).map_ok(drop)
    }
}

impl<T: AsyncRead + Unpin> Watched<T> {
    /// Reads until it is clear whether the client speaks HTTP/2. If so, the streams of the connection are looked after
    /// elsewhere, and a wait for bytes is the peer's affair from here on.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            loop {
                let Early { mut bytes, filled, .. } = self.early;
                if bytes[..filled] != PREFACE[..filled] {
                    return Poll::Ready(Ok(false));
                }
                if filled == PREFACE.len() {
                    self.framing = None;
                    self.activity.0.state.store(BUSY, Ordering::Relaxed);
                    return Poll::Ready(Ok(true));
                }
                let mut more = ReadBuf::new(&mut bytes[filled..]);
                ready!(self.poll_stream(cx, &mut more))?;
                let length = more.filled().len();
                if length == 0 {
                    return Poll::Ready(Ok(false));
                }
                self.early = Early { bytes, filled: filled + length, taken: 0 };
            }
        })
        .await
    }

    /// Reads from the stream within the time that the peer has.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending if self.reading_is_overdue(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let state = &self.activity.0.state;
                match state.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => self.waiting = Some(Instant::now()),
                    // A byte now and then does not extend the time for a head.
                    Err(HEAD) => {
                        if self.waiting.is_some_and(|since| since.elapsed() >= self.patience.head) {
                            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                        }
                    }
                    Err(_) => self.waiting = None,
                }
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        let Early { bytes, filled, taken } = &mut this.early;
        if *taken < *filled {
            let step = (*filled - *taken).min(buf.remaining());
            buf.put_slice(&bytes[*taken..*taken + step]);
            *taken += step;
        } else {
            ready!(this.poll_stream(cx, buf))?;
        }
        let Some(framing) = &mut this.framing else { return Poll::Ready(Ok(())) };
        match framing.read(&buf.filled()[before..]) {
            Ok(()) => {}
            Err(Wrong::Head { after, fault }) => this.activity.refuse(after, fault),
            Err(Wrong::Body { good }) => {
                this.broken = true;
                buf.set_filled(before + good);
                // Nothing read would be the end of the stream.
                if good == 0 {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.flushed(cx, result)
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
        self.activity.0.state.store(IDLE, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Writes an answer of `length` bytes to a peer that reads `step` of them at a time, with a pause before each.
    async fn write(length: usize, step: usize, pause: Duration) -> io::Result<()> {
        let (ours, mut peer) = duplex(step);
        let patience =
            Patience { head: Duration::MAX, idle: Duration::MAX, write: Duration::from_millis(300) };
        let mut stream = Watched::new(ours, Activity::default(), patience, 1024);
        let reads = tokio::spawn(async move {
            let mut bytes = vec![0; step];
            loop {
                tokio::time::sleep(pause).await;
                if peer.read(&mut bytes).await.is_ok_and(|read| read == 0) {
                    break;
                }
            }
        });
        let written = async {
            stream.write_all(&vec![0; length]).await?;
            stream.flush().await
        };
        let written = written.await;
        reads.abort();
        written
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_little_now_and_then_has_no_longer_than_one_that_takes_nothing() {
        // 400 bytes a second.
        let slow = write(16_000, 20, Duration::from_millis(50)).await;
        assert_eq!(slow.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Hundreds of kilobytes a second, for longer than a stop may last.
        write(1_000_000, 8192, Duration::from_millis(5)).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_peer_took_before_gives_it_no_longer_stop() {
        let (ours, mut peer) = duplex(8192);
        let patience =
            Patience { head: Duration::MAX, idle: Duration::MAX, write: Duration::from_millis(300) };
        let mut stream = Watched::new(ours, Activity::default(), patience, 1024);
        let reads = tokio::spawn(async move {
            peer.read_exact(&mut vec![0; 10 << 20]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let written =
            tokio::time::timeout(Duration::from_secs(60), stream.write_all(&vec![0; 20 << 20])).await;
        assert_eq!(written.expect("it is cut").unwrap_err().kind(), io::ErrorKind::TimedOut);
        reads.abort();
    }
}
