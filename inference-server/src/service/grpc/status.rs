//! Refusals as gRPC has them: a code of the same meaning as HTTP's status, and the same sentence.

use http::StatusCode;
use http::header::RETRY_AFTER;
use stoker_edge::untouched;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::super::Refusal;

impl Refusal {
    /// The code over gRPC.
    pub fn code(&self) -> Code {
        match self.status() {
            StatusCode::BAD_REQUEST => Code::InvalidArgument,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
            _ => Code::Internal,
        }
    }
}

/// The longest sentence, in bytes: it goes into a header, where escapes may make it three times as long, and clients take
/// headers of some KiB in all.
const LONGEST_MESSAGE: usize = 1024;

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut metadata = MetadataMap::new();
        // When to come again, as HTTP's answer says it.
        if let Some(seconds) = refusal.retry_after() {
            metadata.insert(RETRY_AFTER.as_str(), MetadataValue::from(seconds));
        }
        if let Some(reason) = refusal.untouched() {
            metadata.insert(untouched::NAME, MetadataValue::from_static(reason));
        }
        let mut message = refusal.to_string();
        if message.len() > LONGEST_MESSAGE {
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
            message.push_str("...");
        }
        Self::with_metadata(refusal.code(), message, metadata)
    }
}

/// The status over HTTP of the same meaning, under which a call is counted.
pub(super) fn counted(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted | Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::Failure;
    use crate::protocol::RequestError;

    #[test]
    fn long_sentences_are_cut_between_letters() {
        let sentence = |length| format!("a{}", "é".repeat(length));
        let message = |length| Status::from(Refusal::NotFound(sentence(length))).message().to_owned();
        assert_eq!(message(511), sentence(511));
        assert_eq!(message(5000), format!("{}...", sentence(511)));
    }

    #[test]
    fn codes_mean_what_the_status_means() {
        let malformed = RequestError::Malformed { reason: "x".to_owned(), hint: "" };
        let cases = [
            (Refusal::Request(malformed), Code::InvalidArgument, 400),
            (Refusal::NotFound(String::new()), Code::NotFound, 404),
            (Refusal::TooLarge(1), Code::ResourceExhausted, 413),
            (Refusal::AnswerLate(Duration::ZERO), Code::DeadlineExceeded, 504),
            (Refusal::Failure(Failure::Expired), Code::DeadlineExceeded, 504),
            (Refusal::Failure(Failure::Panicked), Code::Internal, 500),
            (Refusal::Internal, Code::Internal, 500),
            (Refusal::QueueFull { retry_after: 2 }, Code::Unavailable, 503),
            (Refusal::BodiesFull, Code::Unavailable, 503),
            (Refusal::Loading, Code::Unavailable, 503),
        ];
        for (refusal, code, status) in cases {
            assert_eq!(refusal.code(), code, "{refusal:?}");
            assert_eq!(counted(code), refusal.status(), "{refusal:?}");
            assert_eq!(counted(code).as_u16(), status);
            let sentence = refusal.to_string();
            let answer = Status::from(refusal);
            assert_eq!((answer.code(), answer.message()), (code, sentence.as_str()));
            assert_eq!(answer.metadata().contains_key("retry-after"), code == Code::Unavailable);
            assert_eq!(answer.metadata().contains_key("stoker-untouched"), code == Code::Unavailable);
        }
    }
}
