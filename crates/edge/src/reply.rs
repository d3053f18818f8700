//! Answers in JSON.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// A whole answer, in memory.
pub type Reply = Response<Full<Bytes>>;

/// What an error answer looks like: `{"error": "..."}`.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// An error answer, `{"error": "..."}`. The message is for strangers: no addresses, paths or names of pods in it.
pub fn error(status: StatusCode, message: &str) -> Reply {
    json(status, &ErrorBody { error: message })
}

/// An answer in JSON. What cannot be written as JSON (a map with keys that are not strings) becomes an error answer.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(text) => content(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            content(StatusCode::INTERNAL_SERVER_ERROR, "application/json", r#"{"error":"internal error"}"#)
        }
    }
}

/// An answer in plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    content(status, "text/plain; charset=utf-8", text)
}

/// An answer of the given content type.
pub fn content(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
