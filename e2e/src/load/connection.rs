//! HTTP/1.1 connections of the load generator: a few that are kept alive and used in turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use stoker_api::names::headers;
use tokio::net::TcpStream;

use super::LONGEST_BODY;

/// An answer, read to its end.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) revision: Option<String>,
    pub(super) body: Bytes,
    pub(super) moved: bool,
}

/// Connections to one address.
pub(super) struct Pool {
    address: SocketAddr,
    most: usize,
    /// The one that rested longest comes first, so that none rests for long.
    idle: Mutex<VecDeque<SendRequest<Full<Bytes>>>>,
}

impl Pool {
    pub(super) fn new(address: SocketAddr, most: usize) -> Self {
        Self { address, most, idle: Mutex::default() }
    }

    /// Sends one POST, over a connection of its own when `fresh`.
    pub(super) async fn send(&self, host: &str, path: &str, body: Bytes, fresh: bool) -> Result<Reply> {
        let mut request = Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("the request cannot be made")?;
        if fresh {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let resting = if fresh { None } else { self.take().await };
        let mut connection = match resting {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let (answer, moved) = match connection.try_send_request(request).await {
            Ok(answer) => (answer, false),
            // hyper hands a request back only when not a byte of it was written: the server closed an idle connection, as it
            // may at any time. Any client opens another one then; this is no retry, since nothing was tried.
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    connection = self.open().await?;
                    (connection.send_request(request).await.context("on a new connection")?, true)
                }
                None => return Err(anyhow!(failed.into_error()).context("sending")),
            },
        };
        let status = answer.status();
        let revision = answer.headers().get(headers::REVISION);
        let revision = revision.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await;
        let body = body.map_err(|error| anyhow!("{status}, but its body broke off: {error}"))?.to_bytes();
        if !fresh {
            self.give_back(connection);
        }
        Ok(Reply { status, revision, body, moved })
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("starting HTTP")?;
        // Its errors come out at the request that they hit.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn give_back(&self, connection: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most && !connection.is_closed() {
            idle.push_back(connection);
        }
    }
}
