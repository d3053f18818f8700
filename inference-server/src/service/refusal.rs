//! Why a request is not answered by the model, with what clients are told.

use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, HeaderValue, RETRY_AFTER};
use stoker_edge::BoxError;
use stoker_edge::reply::Reply;
use stoker_edge::untouched;

use super::rest::json;
use crate::batch::Failure;
use crate::protocol::{RequestError, answer};

/// What a client is told to wait that is turned away for other reasons than the work before it, in seconds.
const RETRY_SECONDS: u64 = 1;

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
        /// Nothing was before it: it takes too long by itself.
        alone: bool,
    },
    /// As many bytes of bodies are held as may be.
    #[error("too many bytes of request bodies are in work; send less or wait")]
    BodiesFull,
    /// As many bytes of answers wait for their clients as may.
    #[error("too many bytes of answers wait for clients to read them; ask for less, read faster, or wait")]
    AnswersFull,
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
            Self::Loading
            | Self::QueueFull { .. }
            | Self::BodiesFull
            | Self::AnswersFull
            | Self::TooLate { .. }
            | Self::Failure(Failure::TooLate { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::AnswerLate(_) | Self::Failure(Failure::Expired | Failure::Spent) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Failure(_) | Self::NotFinite(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whole seconds after which the same request has a chance, where only the moment was wrong: the model was not run for it.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after }
            | Self::TooLate { retry_after, .. }
            | Self::Failure(Failure::TooLate { retry_after }) => Some(*retry_after),
            Self::Loading | Self::BodiesFull | Self::AnswersFull => Some(RETRY_SECONDS),
            _ => None,
        }
    }

    /// What the router is told of a request that the model was not run for and that may be sent elsewhere: the reason.
    pub fn untouched(&self) -> Option<&'static str> {
        match self {
            Self::TooLate { alone: true, .. } => Some(untouched::ALONE),
            // The model was run for it.
            Self::AnswersFull => None,
            _ => self.retry_after().map(|_| self.reason()),
        }
    }

    /// The kind of refusal, as the metrics name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) | Self::Broken(_) | Self::Encoded => "request",
            Self::NotFound(_) | Self::Repository(_) => "model",
            Self::Loading => "loading",
            Self::QueueFull { .. } => "queue",
            Self::BodiesFull => "bodies",
            Self::AnswersFull => "answers",
            Self::TooLarge(_) => "size",
            Self::TooLate { .. } | Self::Failure(Failure::TooLate { .. }) => "deadline",
            Self::BodyLate(_) | Self::AnswerLate(_) | Self::Failure(Failure::Expired | Failure::Spent) => {
                "timeout"
            }
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
        if let Some(reason) = self.untouched() {
            reply.headers_mut().insert(untouched::UNTOUCHED, HeaderValue::from_static(reason));
        }
        if self.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // Says that the coding was the reason, and which one is taken (RFC 9110, 15.5.16).
            reply.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        reply
    }
}
