//! Clients of the protocol over gRPC, and their requests for the demo's models.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stoker_server::proto::health::health_client::HealthClient;
use stoker_server::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use stoker_server::proto::inference::model_infer_request::InferInputTensor;
use stoker_server::proto::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::started::Started;

/// A connection of HTTP/2 with prior knowledge.
pub async fn connect<B>(server: &Started) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends the calls of the generated clients over one connection.
#[derive(Clone)]
pub struct Transport(SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A client of the protocol over a connection of its own.
pub async fn client(server: &Started) -> GrpcInferenceServiceClient<Transport> {
    GrpcInferenceServiceClient::with_origin(Transport(connect(server).await), origin(server))
}

/// A client of the health checks over a connection of its own.
pub async fn health_client(server: &Started) -> HealthClient<Transport> {
    HealthClient::with_origin(Transport(connect(server).await), origin(server))
}

fn origin(server: &Started) -> http::Uri {
    server.url("").parse().unwrap()
}

fn tensor(rows: usize, contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: "input".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![i64::try_from(rows).unwrap(), 64],
        contents,
        ..InferInputTensor::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the images are small whole numbers")]
fn pixels(images: &[Vec<f64>]) -> Vec<f32> {
    images.iter().flatten().map(|pixel| *pixel as f32).collect()
}

/// A request for some images, with typed tensors.
pub fn typed(images: &[Vec<f64>]) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: pixels(images), ..InferTensorContents::default() };
    ModelInferRequest {
        model_name: "digits".to_owned(),
        inputs: vec![tensor(images.len(), Some(contents))],
        ..ModelInferRequest::default()
    }
}

/// A request for some images, with raw tensors.
pub fn raw(images: &[Vec<f64>]) -> ModelInferRequest {
    let bytes: Vec<u8> = pixels(images).iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    ModelInferRequest {
        inputs: vec![tensor(images.len(), None)],
        raw_input_contents: vec![bytes.into()],
        ..typed(&[])
    }
}

/// Labels and the bits of the probabilities, in the order of the answer.
pub fn outputs(answer: &ModelInferResponse) -> (Vec<i64>, Vec<u32>) {
    let (mut labels, mut bits) = (Vec::new(), Vec::new());
    for (position, output) in answer.outputs.iter().enumerate() {
        let bytes = answer.raw_output_contents.get(position);
        let contents = output.contents.clone().unwrap_or_default();
        assert_eq!(bytes.is_some(), output.contents.is_none(), "raw or typed, never both");
        match (output.name.as_str(), bytes) {
            ("label", None) => labels = contents.int64_contents,
            ("label", Some(bytes)) => {
                labels = bytes.as_chunks().0.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect();
            }
            (_, None) => bits = contents.fp32_contents.iter().map(|number| number.to_bits()).collect(),
            (_, Some(bytes)) => {
                bits = bytes.as_chunks().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
            }
        }
    }
    (labels, bits)
}

/// The status of a refusal, which must have this code and this part of a sentence.
pub fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, part: &str) -> Status {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(part), "{status:?}\n  want: {part}");
    status
}
