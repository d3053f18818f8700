//! Why a request is not answered by the model, with what clients are told.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use stoker_edge::BoxError;
use stoker_edge::reply::Reply;

use super::rest::{BINARY_HEADER, json};
use crate::batch::Failure;
use crate::protocol::{RequestError, answer};

/// What a client is told to wait that is turned away for other reasons than the work before it, in seconds.
const RETRY_SECONDS: u64 = 1;

/// Why a request has no answer of the model.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The client's to mend.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The model failed, or was not run.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// An output that JSON cannot carry.
    #[error("{0}")]
    NotFinite(#[from] answer::NotFinite),
    /// Another model, version or path, with what there is.
    #[error("{0}")]
    NotFound(String),
    /// Not ready yet.
    #[error("the model is being loaded")]
    Loading,
    /// The queue is at its bound.
    #[error("too many requests wait for the model already; send less or wait")]
    QueueFull {
        /// Whole seconds after which another request has a chance.
        retry_after: u64,
    },
    /// By what runs took so far, and what waits, the answer could not come in time.
    #[error(
        "the answer would take about {expected:.1?}, and the latency limit is {limit:?}: send less, send fewer rows at a time, or wait"
    )]
    TooLate {
        /// The latency target, or the client's own limit.
        limit: Duration,
        /// When the answer would come.
        expected: Duration,
        /// Whole seconds after which another request has a chance.
        retry_after: u64,
    },
    /// All bodies together are at their bound.
    #[error("too many bytes of request bodies are in work; send less or wait")]
    BodiesFull,
    /// The body is above the limit, in bytes.
    #[error("the body is longer than the limit of {0} bytes; send fewer rows at a time")]
    TooLarge(usize),
    /// The client broke off, or sent no body of HTTP.
    #[error("the body could not be read: {0}")]
    Broken(BoxError),
    /// The body took longer than the time limit.
    #[error("the body did not come within {0:?}")]
    BodyLate(Duration),
    /// The answer took longer than the time limit.
    #[error("the request took longer than {0:?}")]
    AnswerLate(Duration),
    /// A header asks for what is not read.
    #[error("binary tensors are not read here: send `data` as JSON, without the header {BINARY_HEADER}")]
    Binary,
    /// A fault of ours. The log has the place.
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
            Self::Loading
            | Self::QueueFull { .. }
            | Self::BodiesFull
            | Self::TooLate { .. }
            | Self::Failure(Failure::TooLate { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::AnswerLate(_) | Self::Failure(Failure::Expired) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failure(_) | Self::NotFinite(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whole seconds after which the same request has a chance, where only the moment was wrong.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after }
            | Self::TooLate { retry_after, .. }
            | Self::Failure(Failure::TooLate { retry_after }) => Some(*retry_after),
            Self::Loading | Self::BodiesFull => Some(RETRY_SECONDS),
            _ => None,
        }
    }

    /// The kind of refusal, as the metrics name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) | Self::Broken(_) | Self::Binary => "request",
            Self::NotFound(_) => "model",
            Self::Loading => "loading",
            Self::QueueFull { .. } => "queue",
            Self::BodiesFull => "bodies",
            Self::TooLarge(_) => "size",
            Self::TooLate { .. } | Self::Failure(Failure::TooLate { .. }) => "deadline",
            Self::BodyLate(_) | Self::AnswerLate(_) | Self::Failure(Failure::Expired) => "timeout",
            Self::Failure(_) | Self::NotFinite(_) => "failure",
            Self::Internal => "internal",
        }
    }

    /// The answer over HTTP.
    pub fn reply(&self) -> Reply {
        let mut reply = json(self.status(), answer::error(&self.to_string()));
        if let Some(seconds) = self.retry_after() {
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        reply
    }
}
