//! A web server for artifacts, at an address that pods reach. It ends with the value.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cluster;

/// What is served at one path.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The file.
    pub bytes: Bytes,
    /// What the header `Authorization` must be; else the answer is 401.
    pub authorization: Option<String>,
}

impl Artifact {
    /// A file for everybody.
    pub fn open(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), authorization: None }
    }

    /// A file for who sends `Authorization: <value>`.
    pub fn behind(bytes: &[u8], authorization: &str) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), authorization: Some(authorization.to_owned()) }
    }
}

/// Serves files over http until it is dropped.
pub struct ArtifactServer {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl ArtifactServer {
    /// Serves `files` by their path without the leading slash; any other path is 404.
    pub async fn start(client: &Client, files: &[(&str, Artifact)]) -> Result<Self> {
        let files = files.iter().map(|(path, artifact)| (format!("/{path}"), artifact.clone()));
        let files: Arc<BTreeMap<String, Artifact>> = Arc::new(files.collect());
        let ip = cluster::address_for_pods(client).await?;
        let listener = TcpListener::bind((ip, 0)).await.with_context(|| format!("listening on {ip}"))?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let files = files.clone();
                let answer = service_fn(move |request| {
                    let answer = answer(&files, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                // A client that goes away early is its own affair.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
                );
            }
        });
        Ok(Self { address, serving })
    }

    /// The URI of a file that is served.
    pub fn uri(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for ArtifactServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(files: &BTreeMap<String, Artifact>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = |status, text: &'static str| {
        let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *answer.status_mut() = status;
        answer
    };
    // A client that forgets Host is not a client that works with real web servers.
    if !request.headers().contains_key(HOST) {
        return plain(StatusCode::BAD_REQUEST, "no Host header");
    }
    let Some(artifact) = files.get(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "no such file");
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if artifact.authorization.is_some() && given != artifact.authorization.as_deref() {
        return plain(StatusCode::UNAUTHORIZED, "credentials are wanted");
    }
    Response::new(Full::new(artifact.bytes.clone()))
}
