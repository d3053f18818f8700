//! A gRPC client that can do one thing: ask for the digit in an image. Its few messages are written by hand, as
//! `inference-server/proto/open_inference.proto` has them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, TE};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stoker_api::names::headers;
use stoker_e2e::cluster::until;
use stoker_e2e::digits::PIXELS;
use stoker_e2e::subject::PATIENCE;
use tokio::net::TcpStream;

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Calls over connections of their own that must all succeed: there are two Envoys.
const IN_A_ROW: usize = 10;

/// Waits until calls to `host` are answered by `revision`, by every Envoy.
pub(crate) async fn infers(address: SocketAddr, host: &str, model: &str, revision: &str) -> Result<()> {
    until(&format!("gRPC calls to {host} are answered by {revision}"), PATIENCE, async || {
        for _ in 0..IN_A_ROW {
            let call = tokio::time::timeout(DEADLINE, infer(address, host, model));
            let by = call.await.context("no answer in time")??;
            ensure!(by == revision, "{by:?} answered");
        }
        Ok(Some(()))
    })
    .await
}

/// One call over a connection of its own; the revision that answered.
async fn infer(address: SocketAddr, host: &str, model: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Its errors come out at the call.
    tokio::spawn(connection);
    let request = Request::post(format!("http://{host}/inference.GRPCInferenceService/ModelInfer"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(&message(model))))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    let of = |map: &http::HeaderMap, name: &str| {
        map.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let trailers = body.trailers().cloned().unwrap_or_default();
    // An answer without a message has its status in the head.
    let status = of(&trailers, "grpc-status").or_else(|| of(&head.headers, "grpc-status"));
    let why = of(&trailers, "grpc-message").or_else(|| of(&head.headers, "grpc-message"));
    ensure!(status.as_deref() == Some("0"), "HTTP {}, grpc-status {status:?}: {why:?}", head.status);
    let answer = body.to_bytes();
    ensure!(answer.windows(5).any(|name| name == b"label"), "no output `label` in {} bytes", answer.len());
    Ok(of(&head.headers, headers::REVISION).unwrap_or_default())
}

/// A message of its own in a stream: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), message].concat().into()
}

/// A `ModelInferRequest` with one black image.
fn message(model: &str) -> Vec<u8> {
    let shape = [1, u8::try_from(PIXELS).unwrap_or(u8::MAX)];
    let pixels = vec![0; PIXELS * size_of::<f32>()];
    // InferTensorContents.fp32_contents
    let contents = field(6, &pixels);
    // InferInputTensor: name, datatype, shape, contents
    let input = [field(1, b"input"), field(2, b"FP32"), field(3, &shape), field(5, &contents)].concat();
    // ModelInferRequest: model_name, inputs
    [field(1, model.as_bytes()), field(5, &input)].concat()
}

/// A field of type length-delimited.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    const LENGTH_DELIMITED: u8 = 2;
    let mut all = vec![number << 3 | LENGTH_DELIMITED];
    let mut left = bytes.len();
    while left >= 0x80 {
        // The lowest seven bits; more follow.
        all.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
        left >>= 7;
    }
    all.push(u8::try_from(left).unwrap_or(0));
    all.extend_from_slice(bytes);
    all
}
