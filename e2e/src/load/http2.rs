//! An HTTP/2 connection of the load generator: all its requests share it, and it is opened anew when the server says goodbye.

use std::error::Error as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Reply, read};

/// The connection to one address.
pub(super) struct Shared {
    address: SocketAddr,
    now: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Shared {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, now: Mutex::default() }
    }

    /// Sends one POST and waits for its answer until `deadline`.
    pub(super) async fn send(&self, host: &str, path: &str, body: Bytes, deadline: Instant) -> Result<Reply> {
        let mut moved = false;
        loop {
            let request = Request::post(format!("http://{host}{path}"))
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
                .context("the request cannot be made")?;
            let mut sender = self.sender(deadline).await?;
            let sent = timeout_at(deadline, sender.try_send_request(request)).await;
            match sent.context("no answer in time over HTTP/2")? {
                Ok(answer) => return read(answer, deadline, moved).await.context("over HTTP/2"),
                // The server said goodbye first. Any client opens another connection then; this is no retry, since nothing
                // was tried. The next connection may get its goodbye as well.
                Err(failed) if was_not_begun(&failed) && Instant::now() < deadline => {
                    moved = true;
                    self.forget().await;
                }
                Err(failed) => return Err(anyhow!(failed.into_error()).context("sending over HTTP/2")),
            }
        }
    }

    /// The next request opens a connection of its own.
    async fn forget(&self) {
        *self.now.lock().await = None;
    }

    /// The connection, opened where there is none.
    async fn sender(&self, deadline: Instant) -> Result<SendRequest<Full<Bytes>>> {
        let mut now = self.now.lock().await;
        if let Some(open) = now.as_ref().filter(|open| !open.is_closed()) {
            let mut open = open.clone();
            if timeout_at(deadline, open.ready()).await.context("no room on the connection in time")?.is_ok()
            {
                return Ok(open);
            }
        }
        let stream = timeout_at(deadline, TcpStream::connect(self.address))
            .await
            .with_context(|| format!("no connection to {} in time", self.address))?
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.context("starting HTTP/2")?;
        // Its errors come out at the requests that they hit.
        tokio::spawn(connection);
        *now = Some(sender.clone());
        Ok(sender)
    }
}

/// Whether the server never looked at a request. hyper gives back what it has not begun to send; what it began while a goodbye
/// came in fails with that goodbye, and RFC 9113, 6.8, says of the streams that this ends that they were not processed. A request
/// that was about to be opened then is lost by hyper itself, which says that it was cancelled: no fault of the server either.
fn was_not_begun(failed: &TrySendError<Request<Full<Bytes>>>) -> bool {
    let reason = failed.error().source().and_then(|source| source.downcast_ref::<h2::Error>());
    let goodbye = |error: &h2::Error| {
        error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    failed.message().is_some() || failed.error().is_canceled() || reason.is_some_and(goodbye)
}
