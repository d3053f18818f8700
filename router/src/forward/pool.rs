//! Connections to one pod: opened, used by one request at a time, kept for the next.
//!
//! A connection has no task of its own: whoever uses it drives it, in the task of the client's connection. That saves
//! two wake-ups and two context switches of the runtime for each request, and a request that is dropped takes its
//! connection with it, so the pod learns that the client went away.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::forward::body::ToPod;

/// How long opening a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How long a connection is kept without a request. Below what model servers keep, so that the router closes first.
const IDLE_TIME: Duration = Duration::from_secs(20);
/// How many connections to one pod are kept.
const KEPT: usize = 512;

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The pod or the network said no.
    #[error("cannot connect: {0}")]
    Refused(#[from] std::io::Error),
    /// Nobody answered.
    #[error("cannot connect within {} s", CONNECT_TIME.as_secs())]
    Timeout,
    /// HTTP could not be started.
    #[error("cannot connect: {0}")]
    Handshake(#[from] hyper::Error),
}

/// Reads and writes a connection while it is polled.
type Driver = Connection<TokioIo<TcpStream>, ToPod>;

/// An open connection to a pod.
pub struct Link {
    sender: SendRequest<ToPod>,
    /// Does the reading and writing while it is polled; none once the connection has ended.
    driver: Option<Pin<Box<Driver>>>,
    reused: bool,
    idle_since: Instant,
}

impl Link {
    /// Opens a connection.
    pub async fn open(address: SocketAddr) -> Result<Self, ConnectError> {
        let stream = connect(address).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), reused: false, idle_since: Instant::now() })
    }

    /// Whether another request used it before: the pod may be closing it just now.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the head of the answer. The body of the answer comes while [`Link::drive`] is
    /// called.
    pub async fn send(&mut self, request: Request<ToPod>) -> hyper::Result<Response<Incoming>> {
        let mut response = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            response.as_mut().poll(cx)
        })
        .await
    }

    /// Reads and writes what is there. The task of `cx` is woken when there is more.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(_ended) = driver.as_mut().poll(cx)
        {
            // What it still had to say is told to the request by dropping it.
            self.driver = None;
        }
    }

    /// Whether it can take a request.
    fn is_usable(&mut self) -> bool {
        // Nobody waits for an idle connection: what happened to it meanwhile is seen now.
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// Opens a connection.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let connect = TcpStream::connect(address);
    let stream = tokio::time::timeout(CONNECT_TIME, connect).await.map_err(|_| ConnectError::Timeout)??;
    // Without it a request in two writes waits for the pod's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Connections that wait for a request.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Link>>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.lock().len()).finish()
    }
}

impl Pool {
    /// The connection that was used last, if one is still open.
    pub fn take(&self) -> Option<Link> {
        loop {
            let mut link = self.lock().pop()?;
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose request has ended, if it can take another.
    pub fn put(&self, mut link: Link) {
        if !link.is_usable() {
            return;
        }
        link.reused = true;
        link.idle_since = Instant::now();
        let mut links = self.lock();
        if links.len() < KEPT {
            links.push(link);
        }
    }

    /// Closes those that waited too long, and those that the pod closed.
    pub fn sweep(&self) {
        let mut links = std::mem::take(&mut *self.lock());
        links.retain_mut(|link| link.idle_since.elapsed() < IDLE_TIME && link.is_usable());
        let mut now = self.lock();
        // What was put back meanwhile was used later.
        links.append(&mut now);
        *now = links;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
