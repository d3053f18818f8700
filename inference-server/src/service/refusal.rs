//! Why a request is not answered by the model, with what clients are told.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use stoker_edge::BoxError;
use stoker_edge::reply::Reply;

use super::rest::{BINARY_HEADER, json};
use crate::batch::Failure;
use crate::protocol::{RequestError, answer};

/// What a client that is turned away is told to wait, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no answer of the model.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("{0}")]
    Failure(#[from] Failure),
    #[error("{0}")]
    NotFinite(#[from] answer::NotFinite),
    #[error("{0}")]
    NotFound(String),
    #[error("the model is being loaded")]
    Loading,
    #[error("too many requests wait for the model already; send less or wait")]
    QueueFull,
    #[error("too many bytes of request bodies are in work; send less or wait")]
    BodiesFull,
    #[error("the body is longer than the limit of {0} bytes; send fewer rows at a time")]
    TooLarge(usize),
    #[error("the body could not be read: {0}")]
    Broken(BoxError),
    #[error("the body did not come within {0:?}")]
    BodyLate(Duration),
    #[error("the request took longer than {0:?}")]
    AnswerLate(Duration),
    #[error("binary tensors are not read here: send `data` as JSON, without the header {BINARY_HEADER}")]
    Binary,
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// The status over HTTP.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) | Self::Broken(_) | Self::Binary => StatusCode::BAD_REQUEST,
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
        reply
    }
}
