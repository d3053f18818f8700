//! HTTP/2 connections to one pod, for gRPC: a few, each carrying many calls at a time.
//!
//! Other than a [`Link`](crate::forward::pool::Link) a channel is shared, so tasks of its own read and write it. They end
//! with the channel: when it was idle for a while, when it failed, or with the last call after the pod has gone.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::forward::body::ToPod;
use crate::forward::pool::{self, ConnectError};

/// Calls on one connection before another is opened; fewer where the pod says so.
const CALLS: usize = 100;
/// Connections to one pod; when all are full, calls wait for the pod on the one with the fewest.
const CHANNELS: usize = 16;
/// How long a connection is kept without a call.
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Bytes of one answer that may wait for its client.
const STREAM_WINDOW: u32 = 64 << 10;
/// As much for each of [`CALLS`]: a client that reads slowly must not stop the others.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// Bytes of an answer's headers and trailers.
const HEADER_BYTES: u32 = 32 << 10;

/// What was heard from the pod: nothing yet, a frame of settings as HTTP/2 begins, or something else.
const SILENT: u8 = 0;
const SETTINGS: u8 = 1;
const OTHER: u8 = 2;

/// Connections that are open.
#[derive(Debug, Default)]
pub struct Channels {
    list: Mutex<Vec<Arc<Channel>>>,
    /// One at a time is opened; the others wait whether it will do for them too.
    opening: tokio::sync::Mutex<()>,
    /// When opening failed last.
    failed: Mutex<Option<Instant>>,
}

/// One connection.
#[derive(Debug)]
struct Channel {
    sender: SendRequest<ToPod>,
    calls: AtomicUsize,
    /// How many the pod takes at a time.
    most: Arc<AtomicUsize>,
    /// Takes no more calls.
    retired: AtomicBool,
    /// When its last call ended.
    idle_since: Mutex<Instant>,
    heard: Arc<Heard>,
    /// Its tasks, which end with it.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

/// A call's place on a connection; given back when dropped.
#[derive(Debug)]
pub struct Place {
    channel: Arc<Channel>,
    reused: bool,
}

impl Channels {
    /// A place on the open connection with the fewest calls, if one has room.
    pub fn take(&self) -> Option<Place> {
        let mut list = lock(&self.list);
        list.retain(|channel| channel.is_usable());
        let full = list.len() >= CHANNELS;
        let best = list.iter().min_by_key(|channel| channel.calls.load(Ordering::Relaxed))?;
        let room = best.calls.load(Ordering::Relaxed) < best.most.load(Ordering::Relaxed);
        (room || full).then(|| Place::new(best, true))
    }

    /// A place on a new connection, or on the one that somebody else has opened meanwhile.
    pub async fn open(&self, address: SocketAddr) -> Result<Place, ConnectError> {
        let asked = Instant::now();
        let _turn = self.opening.lock().await;
        if let Some(place) = self.take() {
            return Ok(place);
        }
        if lock(&self.failed).is_some_and(|failed| failed > asked) {
            return Err(ConnectError::Timeout);
        }
        match Channel::open(address).await {
            Ok(channel) => {
                let channel = Arc::new(channel);
                lock(&self.list).push(Arc::clone(&channel));
                Ok(Place::new(&channel, false))
            }
            Err(error) => {
                *lock(&self.failed) = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Closes those that waited too long, and those that ended.
    pub fn sweep(&self) {
        lock(&self.list).retain(|channel| {
            let idle = channel.calls.load(Ordering::Relaxed) == 0;
            channel.is_usable() && !(idle && lock(&channel.idle_since).elapsed() >= IDLE_TIME)
        });
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        lock(&self.list).len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Channel {
    async fn open(address: SocketAddr) -> Result<Self, ConnectError> {
        let heard = Arc::new(Heard::default());
        let stream = Listened { stream: pool::connect(address).await?, heard: Arc::clone(&heard) };
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let executor = Tasks(Arc::downgrade(&tasks));
        // No pings: gRPC servers close a connection that is asked more than once in five minutes.
        let (sender, mut connection) = http2::Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES)
            .handshake::<_, ToPod>(TokioIo::new(stream))
            .await?;
        let most = Arc::new(AtomicUsize::new(CALLS));
        let told = Arc::clone(&most);
        executor.execute(async move {
            let driven = poll_fn(|cx| {
                told.store(connection.current_max_send_streams().clamp(1, CALLS), Ordering::Relaxed);
                Pin::new(&mut connection).poll(cx)
            });
            if let Err(error) = driven.await {
                tracing::debug!(pod = %address, %error, "the connection ended early");
            }
        });
        Ok(Self {
            sender,
            calls: AtomicUsize::new(0),
            most,
            retired: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
            heard,
            _tasks: tasks,
        })
    }

    fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.sender.is_ready() && !self.sender.is_closed()
    }
}

impl Place {
    fn new(channel: &Arc<Channel>, reused: bool) -> Self {
        channel.calls.fetch_add(1, Ordering::Relaxed);
        Self { channel: Arc::clone(channel), reused }
    }

    /// Whether another call used the connection before: the pod may be closing it just now.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the head of the answer. A request that was not sent at all is given back.
    pub async fn send(
        &self,
        request: Request<ToPod>,
    ) -> Result<Response<Incoming>, TrySendError<Request<ToPod>>> {
        self.channel.sender.clone().try_send_request(request).await
    }

    /// Takes no more calls on this connection.
    pub fn retire(&self) {
        self.channel.retired.store(true, Ordering::Relaxed);
    }

    /// Bytes that came from the pod so far: when there are no more a while later, nobody is there.
    pub fn heard(&self) -> u64 {
        self.channel.heard.bytes.load(Ordering::Relaxed)
    }

    /// Whether the pod speaks something else.
    pub fn is_no_http2(&self) -> bool {
        self.channel.heard.what.load(Ordering::Relaxed) == OTHER
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *lock(&self.channel.idle_since) = Instant::now();
        self.channel.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs the tasks of a channel for as long as the channel is there.
#[derive(Clone)]
struct Tasks(Weak<Mutex<JoinSet<()>>>);

impl<F: Future + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            let mut tasks = lock(&tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move {
                task.await;
            });
        }
    }
}

/// What was heard from a pod.
#[derive(Debug, Default)]
struct Heard {
    bytes: AtomicU64,
    what: AtomicU8,
}

/// A stream that notes what it hears.
struct Listened {
    stream: TcpStream,
    heard: Arc<Heard>,
}

impl AsyncRead for Listened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            let heard = &self.heard;
            let seen = heard.bytes.fetch_add(new.len() as u64, Ordering::Relaxed);
            // RFC 9113, 3.4: a frame of settings comes first; the fourth byte of a frame is its type.
            if heard.what.load(Ordering::Relaxed) == SILENT
                && let Some(kind) = usize::try_from(3 - seen.min(3)).ok().and_then(|at| new.get(at))
            {
                heard.what.store(if *kind == 4 { SETTINGS } else { OTHER }, Ordering::Relaxed);
            }
        }
        polled
    }
}

impl AsyncWrite for Listened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A panic while counting leaves the list usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
