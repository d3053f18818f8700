//! One keep-alive connection.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    address: String,
    host: HeaderValue,
    path: Uri,
}

impl Target {
    /// Takes an `http` URL apart. `host` takes the place of its address in the Host header.
    pub fn new(url: &Uri, host: Option<&str>) -> anyhow::Result<Self> {
        ensure!(url.scheme_str() == Some("http"), "--url {url}: only http:// is spoken");
        let authority = url.authority().with_context(|| format!("--url {url} has no address"))?;
        let port = authority.port_u16().unwrap_or(80);
        let path = url.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        let host = HeaderValue::from_str(host.unwrap_or(authority.as_str()))?;
        Ok(Self { address: format!("{}:{port}", authority.host()), host, path })
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The revision that gave it, as a router says.
    pub revision: Option<String>,
    /// The body, when the status is not 200.
    text: Vec<u8>,
}

impl Answer {
    /// An error with its text, unless the status is 200.
    pub fn must_be_ok(&self) -> anyhow::Result<()> {
        ensure!(self.status == StatusCode::OK, "{}: {}", self.status, String::from_utf8_lossy(&self.text));
        Ok(())
    }
}

/// One connection, with at most one request on the way.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&target.address)
            .await
            .with_context(|| format!("connect to {}", target.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its error shows at the request that it breaks.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Self { sender, target: target.clone() })
    }

    /// Sends a body and reads the whole answer, whatever it is.
    pub async fn ask(&mut self, body: Bytes) -> anyhow::Result<Answer> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        request.headers_mut().insert(HOST, self.target.host.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.sender.ready().await.context("the connection was closed")?;
        let mut answer = self.sender.send_request(request).await.context("send")?;
        let status = answer.status();
        let revision = answer.headers().get("stoker-revision").and_then(|value| value.to_str().ok());
        let revision = revision.map(str::to_owned);
        let mut text = Vec::new();
        while let Some(frame) = answer.body_mut().frame().await {
            // Only an error is worth a copy.
            if let (Ok(data), false) = (frame.context("read")?.into_data(), status == StatusCode::OK) {
                text.extend_from_slice(&data);
            }
        }
        Ok(Answer { status, revision, text })
    }
}
