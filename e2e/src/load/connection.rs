//! HTTP/1.1 connections of the load generator: a few that are kept alive and used in turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use stoker_api::names::headers;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::LONGEST_BODY;

/// An answer, read to its end.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) revision: Option<String>,
    pub(super) body: Bytes,
    pub(super) moved: bool,
}

/// Reads an answer to its end.
pub(super) async fn read(answer: Response<Incoming>, deadline: Instant, moved: bool) -> Result<Reply> {
    let status = answer.status();
    let revision = answer.headers().get(headers::REVISION);
    let revision = revision.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = timeout_at(deadline, Limited::new(answer.into_body(), LONGEST_BODY).collect()).await;
    let body = body.with_context(|| format!("{status}, but no whole body in time"))?;
    let body = body.map_err(|error| anyhow!("{status}, but its body broke off: {error}"))?;
    Ok(Reply { status, revision, body: body.to_bytes(), moved })
}

/// A connection, and what is known of it when a request gets lost on it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Our end: finds the connection in a capture, and in the router's log.
    local: SocketAddr,
    answered: usize,
}

impl Connection {
    fn describe(&self) -> String {
        format!("on a connection from {} that carried {} answers before", self.local, self.answered)
    }
}

/// Connections to one address.
pub(super) struct Pool {
    address: SocketAddr,
    most: usize,
    /// The one that rested longest comes first, so that none rests for long.
    idle: Mutex<VecDeque<Connection>>,
}

impl Pool {
    pub(super) fn new(address: SocketAddr, most: usize) -> Self {
        Self { address, most, idle: Mutex::default() }
    }

    /// Sends one POST, over a connection of its own when `fresh`, and waits for its answer until `deadline`.
    pub(super) async fn send(
        &self,
        host: &str,
        path: &str,
        body: Bytes,
        fresh: bool,
        deadline: Instant,
    ) -> Result<Reply> {
        let mut request = Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("the request cannot be made")?;
        if fresh {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut connection = match if fresh { None } else { self.take() } {
            Some(connection) => connection,
            None => self.open(deadline).await?,
        };
        let mut moved = false;
        let answer = loop {
            let sent = timeout_at(deadline, connection.sender.try_send_request(request)).await;
            match sent.with_context(|| format!("no answer in time {}", connection.describe()))? {
                Ok(answer) => break answer,
                // hyper hands a request back only when not a byte of it was written: the server closed an idle connection,
                // as it may at any time. Any client opens another one then; this is no retry, since nothing was tried.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !moved => (request, moved) = (unsent, true),
                    _ => {
                        let error = anyhow!(failed.into_error());
                        return Err(error.context(format!("sending {}", connection.describe())));
                    }
                },
            }
            connection = self.open(deadline).await?;
        };
        let reply = read(answer, deadline, moved).await.with_context(|| connection.describe())?;
        if !fresh {
            connection.answered += 1;
            self.give_back(connection);
        }
        Ok(reply)
    }

    async fn open(&self, deadline: Instant) -> Result<Connection> {
        let stream = timeout_at(deadline, TcpStream::connect(self.address))
            .await
            .with_context(|| format!("no connection to {} in time", self.address))?
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let local = stream.local_addr().context("asking for the own address")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("starting HTTP")?;
        // Its errors come out at the request that they hit.
        tokio::spawn(connection);
        Ok(Connection { sender, local, answered: 0 })
    }

    /// One that can take a request at once.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = idle.iter().position(|connection| connection.sender.is_ready())?;
        // Those before it were closed by the server, or are still ending their last answer.
        let mut skipped = idle.drain(..=ready);
        let found = skipped.next_back();
        let skipped: Vec<_> = skipped.filter(|connection| !connection.sender.is_closed()).collect();
        idle.extend(skipped);
        found
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most && !connection.sender.is_closed() {
            idle.push_back(connection);
        }
    }
}
