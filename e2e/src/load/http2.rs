//! An HTTP/2 connection of the load generator: all its requests share it, and it is opened anew when the server says goodbye.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
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
        let mut request = Request::post(format!("http://{host}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("the request cannot be made")?;
        let mut moved = false;
        loop {
            let mut sender = self.sender(deadline).await?;
            let sent = timeout_at(deadline, sender.try_send_request(request)).await;
            match sent.context("no answer in time over HTTP/2")? {
                Ok(answer) => return read(answer, deadline, moved).await.context("over HTTP/2"),
                // It was not sent: the server said goodbye first. Any client opens another connection then.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !moved => (request, moved) = (unsent, true),
                    _ => return Err(anyhow!(failed.into_error()).context("sending over HTTP/2")),
                },
            }
        }
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
