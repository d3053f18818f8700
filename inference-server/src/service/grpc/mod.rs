//! The protocol over gRPC, on the port of HTTP: its calls are HTTP/2 requests of the content type `application/grpc`.
//!
//! `body` bounds what comes, `calls` answers what is asked about the server and the model, `infer` runs the model,
//! `status` is how refusals are told. Compressed messages are refused, as the protocol wants it of a server that does not
//! read them: with UNIMPLEMENTED.

mod body;
mod calls;
mod infer;
mod status;

pub use infer::STREAM_REQUESTS;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use stoker_edge::reply::Reply;
use stoker_edge::target;
use tonic::Status;
use tower::Service;
use tracing::Instrument as _;

use self::body::{Account, Messages};
use super::bodies::refuse_body;
use super::echo::Echo;
use super::rest::{LOAD, json};
use super::{Models, Refusal};
use crate::cache::{CacheStatus, Directives};
use crate::proto::health::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use crate::proto::inference::grpc_inference_service_server::{
    GrpcInferenceServiceServer, SERVICE_NAME as INFERENCE,
};
use crate::protocol::{answer, deadline};

/// The method whose calls are counted as infer requests. Those of a stream are counted one by one.
const INFER: &str = "ModelInfer";
/// The method that takes more than one message.
const STREAM: &str = "ModelStreamInfer";
/// Largest message of a health check: the name of a service.
const MAX_HEALTH: usize = 4 << 10;

/// An answer over either transport.
pub type Answer = Response<Either<Full<Bytes>, tonic::body::Body>>;

/// What a call has, beside its message.
#[derive(Clone, Debug)]
struct Call {
    /// Bytes of its messages.
    account: Arc<Account>,
    begun: Instant,
    /// How long the client waits, where it says so.
    patience: Option<Duration>,
    /// How long the answer may take: the limit of the server, and no longer than the client waits.
    time: Duration,
    /// The latency target that its headers say.
    said: Option<Duration>,
    /// What they say was not heard yet.
    is_news: bool,
    /// What the call lets the cache do.
    cache: Directives,
}

impl Models {
    /// Answers one request over HTTP or gRPC.
    pub async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        match content(&request) {
            Content::Http => self.answer(request).await.map(Either::Left),
            // In a place of its own: most requests are none, and need not carry the room for it.
            Content::Grpc => Box::pin(self.answer_call(request)).await.map(Either::Right),
            Content::Refused(why) => {
                let (head, body) = request.into_parts();
                refuse_body(&head.headers, body);
                refused(why).map(Either::Left)
            }
        }
    }

    /// Answers one call, with what its headers ask to be given back.
    async fn answer_call(self: &Arc<Self>, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let echo = Echo::of(request.headers());
        let mut answer = self.serve_call(request).instrument(echo.span()).await;
        echo.mark(answer.headers_mut());
        answer
    }

    /// Does what a call is for.
    async fn serve_call(self: &Arc<Self>, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let begun = Instant::now();
        let (mut head, body) = request.into_parts();
        let mut parts = head.uri.path().trim_start_matches('/').splitn(2, '/');
        let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (health, infer, stream) = (service == HEALTH, method == INFER, method == STREAM);
        if !health && service != INFERENCE {
            let text = format!("there is no such service; there are {INFERENCE} and {HEALTH}");
            return Status::unimplemented(text).into_http();
        }
        let patience = deadline::asked(&head.headers);
        let time = patience.map_or(self.limits.request_time, |wait| wait.min(self.limits.request_time));
        let (said, cache) = (target::read(&head.headers), Directives::of(&head.headers));
        let account = Arc::new(Account::new(Arc::clone(self)));
        let call = Call { account, begun, patience, time, said, is_news: true, cache };
        head.extensions.insert(call.clone());
        let limit = if health { MAX_HEALTH } else { self.limits.max_body };
        let is_infer = !health && (infer || stream);
        let messages = Messages::new(body, Arc::clone(&call.account), limit, !stream, is_infer);
        let request = Request::from_parts(head, messages);
        let answer = if health {
            HealthServer::from_arc(Arc::clone(self)).max_decoding_message_size(limit).call(request)
        } else {
            let server = GrpcInferenceServiceServer::from_arc(Arc::clone(self));
            server.max_decoding_message_size(limit).call(request)
        };
        let mut answer = match tokio::time::timeout_at((begun + time).into(), answer).await {
            // Errors are answers already.
            Ok(Ok(answer)) => answer,
            Err(_) => {
                let late = if call.account.was_read() { Refusal::AnswerLate } else { Refusal::BodyLate };
                let refusal = late(time);
                if is_infer {
                    call.account.counts().refused(refusal.reason());
                }
                Status::from(refusal).into_http()
            }
        };
        if infer && !health {
            let code = Status::from_header_map(answer.headers())
                .map_or(StatusCode::OK, |status| status::counted(status.code()));
            let took = begun.elapsed();
            let cache = answer.extensions().get::<CacheStatus>().copied().unwrap_or_default();
            call.account.counts().answered(code, cache, took);
            cache.write_to(answer.headers_mut());
            tracing::debug!(status = code.as_u16(), ?took, "an infer request was answered");
            answer.headers_mut().insert(LOAD, HeaderValue::from(self.in_work()));
        }
        answer
    }
}

/// What a request's content type says.
enum Content {
    Http,
    Grpc,
    /// gRPC that is not spoken here, and why.
    Refused(&'static str),
}

fn content<B>(request: &Request<B>) -> Content {
    let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let Some(kind) = kind.strip_prefix(b"application/grpc") else { return Content::Http };
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !matches!(kind, b"" | b"+proto") {
        Content::Refused("gRPC is spoken with messages of protobuf: send the content type application/grpc")
    } else if request.version() == Version::HTTP_2 {
        Content::Grpc
    } else {
        Content::Refused("gRPC is spoken over HTTP/2; send JSON over HTTP/1.1")
    }
}

/// The answer to gRPC that is not spoken here.
fn refused(why: &str) -> Reply {
    json(StatusCode::UNSUPPORTED_MEDIA_TYPE, answer::error(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_and_the_version_tell_grpc_from_http() {
        let kind = |version, kind: &str| {
            content(&Request::post("/").version(version).header(CONTENT_TYPE, kind).body(()).unwrap())
        };
        for text in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(matches!(kind(Version::HTTP_2, text), Content::Grpc), "{text}");
            assert!(matches!(kind(Version::HTTP_11, text), Content::Refused(_)), "{text}");
        }
        for text in ["application/json", "", "application/octet-stream"] {
            assert!(matches!(kind(Version::HTTP_2, text), Content::Http), "{text}");
        }
        for text in ["application/grpc+json", "application/grpc-web"] {
            assert!(matches!(kind(Version::HTTP_2, text), Content::Refused(_)), "{text}");
        }
        assert!(matches!(content(&Request::get("/v2").body(()).unwrap()), Content::Http));
    }
}
