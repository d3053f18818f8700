//! A client with headers of its own choice. Each request has a connection of its own: the Service gives each connection to any
//! of the routers, so that what holds for many answers holds for all routers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, SET_COOKIE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use stoker_api::names::headers;
use stoker_e2e::digits::Digits;
use stoker_e2e::namespace::TestNamespace;
use tokio::net::TcpStream;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a client sees of an answer.
pub(crate) struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The revision that answered; empty where no revision did.
    pub revision: String,
    /// The value of `Set-Cookie`.
    pub cookie: Option<String>,
}

/// A client of one model.
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    path: String,
    image: Bytes,
}

impl Client {
    /// Sends an image to `model` at the address of its Service.
    pub(crate) fn new(address: SocketAddr, namespace: &TestNamespace, model: &str) -> Result<Self> {
        let host = format!("{model}.{}.svc", namespace.name);
        let (image, _) = Digits::load()?.request(0);
        Ok(Self { address, host, path: format!("/v2/models/{model}/infer"), image })
    }

    /// Asks for the digit in the image, with one more header where one is given. Anything but success is an error.
    pub(crate) async fn infer(&self, header: Option<(&str, &str)>) -> Result<Answer> {
        let mut request =
            Request::post(&self.path).header(HOST, &self.host).header(CONTENT_TYPE, "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = send(self.address, request.body(Full::new(self.image.clone()))?).await?;
        ensure!(answer.status == StatusCode::OK, "{header:?}: {} from {:?}", answer.status, answer.revision);
        Ok(answer)
    }
}

/// Asks for metadata of the server that a host leads to: the path names no model, so the host alone decides.
pub(crate) async fn metadata(address: SocketAddr, host: &str) -> Result<Answer> {
    send(address, Request::get("/v2").header(HOST, host).body(Full::default())?).await
}

async fn send(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Answer> {
    request.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors come out at the request.
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        body.collect().await?;
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let revision = text(headers::REVISION).unwrap_or_default();
        Ok::<_, anyhow::Error>(Answer { status: head.status, revision, cookie: text(SET_COOKIE.as_str()) })
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .with_context(|| format!("no answer from {address} in time"))?
}
