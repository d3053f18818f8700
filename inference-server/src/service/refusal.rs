//! Why a request is not answered by the model, with what clients are told.

use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, HeaderValue, RETRY_AFTER};
use stoker_edge::BoxError;
use stoker_edge::reply::Reply;

use super::rest::json;
use crate::batch::Failure;
use crate::protocol::{RequestError, answer};

/// What a client that is turned away is told to wait, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no answer of the model.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not a request that the model can answer.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The model failed on it, or its time passed in the queue.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// JSON cannot carry the answer.
    #[error("{0}")]
    NotFinite(#[from] answer::NotFinite),
    /// It names another model or version, or a path that is not there.
    #[error("{0}")]
    NotFound(String),
    /// The model is not there yet.
    #[error("the model is being loaded")]
    Loading,
    /// As many requests wait as may.
    #[error("too many requests wait for the model already; send less or wait")]
    QueueFull,
    /// As many bytes of bodies are held as may be.
    #[error("too many bytes of request bodies are in work; send less or wait")]
    BodiesFull,
    /// Its body is longer than so many bytes.
    #[error("the body is longer than the limit of {0} bytes; send fewer rows at a time")]
    TooLarge(usize),
    /// Its connection failed.
    #[error("the body could not be read: {0}")]
    Broken(BoxError),
    /// Its body was not there in so long a time.
    #[error("the body did not come within {0:?}")]
    BodyLate(Duration),
    /// Its answer was not there in so long a time.
    #[error("the request took longer than {0:?}")]
    AnswerLate(Duration),
    /// Its body has a content coding.
    #[error(
        "compressed bodies are not read here: send the body as it is, without the header Content-Encoding"
    )]
    Encoded,
    /// It wants something of the repository that is not served; says what.
    #[error("{0}")]
    Repository(&'static str),
    /// A fault of ours.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// The status over HTTP.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) | Self::Broken(_) | Self::Repository(_) => StatusCode::BAD_REQUEST,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Loading | Self::QueueFull | Self::BodiesFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::AnswerLate(_) | Self::Failure(Failure::Expired) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failure(_) | Self::NotFinite(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer over HTTP.
    pub fn reply(&self) -> Reply {
        let status = self.status();
        let mut reply = json(status, answer::error(&self.to_string()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // Says that the coding was the reason, and which one is taken (RFC 9110, 15.5.16).
            reply.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        reply
    }
}
