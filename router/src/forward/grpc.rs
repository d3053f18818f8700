//! gRPC as it stands in HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): which calls are
//! forwarded, deadlines, and how a call ends. Messages are not looked at.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode, Version};
use stoker_edge::reply::{self, Reply};

/// What the answer to any other call says.
pub const HELP: &str = "this method is not forwarded; of inference.GRPCInferenceService there are ServerLive, ServerReady, \
ModelReady, ServerMetadata, ModelMetadata, ModelInfer and ModelStreamInfer";

/// The Open Inference Protocol v2.
const SERVICE: &str = "/inference.GRPCInferenceService/";
/// The content type of calls and answers, with or without a suffix.
const CONTENT: &str = "application/grpc";
/// How a call ended; in the trailers, or in the headers of an answer that has nothing else.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Why, for people.
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the client waits.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// After how many milliseconds the client may try again.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// The router asks clients to wait as long as over HTTP (`Retry-After: 1`).
const PUSHBACK_MS: HeaderValue = HeaderValue::from_static("1000");

/// Statuses that the router gives by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The pod gave none.
    Unknown = 2,
    /// The request is malformed.
    InvalidArgument = 3,
    /// The deadline has passed.
    DeadlineExceeded = 4,
    /// No such model.
    NotFound = 5,
    /// A message is too long.
    ResourceExhausted = 8,
    /// No such method.
    Unimplemented = 12,
    /// Nobody answers by now.
    Unavailable = 14,
}

/// A call that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Both sides may send any number of messages.
    pub streams: bool,
    /// The model runs for it.
    pub infers: bool,
}

/// `grpc-timeout` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout must be at most eight digits and one of H, M, S, m, u and n")]
pub struct BadTimeout;

/// Whether a request is a gRPC call: there are none over HTTP/1.
pub fn is_call<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            let rest = kind.as_bytes().strip_prefix(CONTENT.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// Reads the path of a call. `None` when it is not one of the protocol's.
pub fn parse(path: &str) -> Option<Call> {
    match path.strip_prefix(SERVICE)? {
        "ServerLive" | "ServerReady" | "ModelReady" | "ServerMetadata" | "ModelMetadata" => {
            Some(Call { streams: false, infers: false })
        }
        "ModelInfer" => Some(Call { streams: false, infers: true }),
        "ModelStreamInfer" => Some(Call { streams: true, infers: true }),
        _ => None,
    }
}

/// How long the client waits, if it says so.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, BadTimeout> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let (unit, digits) = value.as_bytes().split_last().ok_or(BadTimeout)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadTimeout);
    }
    let number = digits.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(BadTimeout),
    }))
}

/// Tells the pod how much of the time is left.
pub fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    let micros = left.as_micros();
    // At most eight digits: from 100 s on, milliseconds are fine enough.
    let (number, unit) =
        if micros < 100_000_000 { (micros, 'u') } else { (left.as_millis().min(99_999_999), 'm') };
    if let Ok(value) = HeaderValue::from_str(&format!("{number}{unit}")) {
        headers.insert(TIMEOUT, value);
    }
}

/// The status in headers or trailers, if there is one. What is no number is a status that nobody knows.
pub fn status(headers: &HeaderMap) -> Option<u32> {
    let value = headers.get(STATUS)?;
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(Code::Unknown as u32))
}

/// The class of HTTP statuses that a status belongs to; for counts of answers by class.
pub fn class(status: Option<u32>) -> StatusCode {
    match status {
        Some(0) => StatusCode::OK,
        // CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
        // FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED.
        Some(1 | 3 | 5..=12 | 16) => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// Whether a status says that there was too much to do: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
pub fn is_overload(status: u32) -> bool {
    matches!(status, 4 | 8 | 14)
}

/// The trailers of a call that the router ends.
pub fn trailers(code: Code, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    put(&mut trailers, code, message);
    trailers
}

/// The answer to a call that the router refuses: headers alone. With `again` the client may try again soon.
pub fn refuse(code: Code, message: &str, again: bool) -> Reply {
    let mut answer = reply::content(StatusCode::OK, CONTENT, "");
    put(answer.headers_mut(), code, message);
    if again {
        answer.headers_mut().insert(PUSHBACK, PUSHBACK_MS);
    }
    answer
}

fn put(headers: &mut HeaderMap, code: Code, message: &str) {
    headers.insert(STATUS, HeaderValue::from(code as u32));
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.insert(MESSAGE, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_version_and_content_type() {
        let request = |version, kind: &str| {
            Request::builder().version(version).header(CONTENT_TYPE, kind).body(()).unwrap()
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            assert!(is_call(&request(Version::HTTP_2, kind)), "{kind}");
            assert!(!is_call(&request(Version::HTTP_11, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/json", ""] {
            assert!(!is_call(&request(Version::HTTP_2, kind)), "{kind}");
        }
    }

    #[test]
    fn the_protocol_is_forwarded_and_nothing_else_is() {
        assert_eq!(
            parse("/inference.GRPCInferenceService/ModelInfer"),
            Some(Call { streams: false, infers: true })
        );
        assert_eq!(
            parse("/inference.GRPCInferenceService/ModelStreamInfer"),
            Some(Call { streams: true, infers: true })
        );
        for path in [
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            "/inference.GRPCInferenceService/ModelInfer/",
            "/inference.GRPCInferenceService/",
            "/grpc.health.v1.Health/Check",
            "/v2/models/digits/infer",
            "",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn timeouts_are_read_and_written() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_str(text).unwrap());
            timeout(&headers)
        };
        for (text, wanted) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("30S", Duration::from_secs(30)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("5n", Duration::from_nanos(5)),
        ] {
            assert_eq!(read(text), Ok(Some(wanted)), "{text}");
        }
        for bad in ["", "S", "5", "123456789m", "-1S", "1 S", "1h", "+1S"] {
            assert_eq!(read(bad), Err(BadTimeout), "{bad:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for time in [Duration::ZERO, Duration::from_micros(99_999_999), Duration::from_millis(100_001)] {
            let mut headers = HeaderMap::new();
            set_timeout(&mut headers, time);
            assert_eq!(timeout(&headers), Ok(Some(time)));
        }
        let mut headers = HeaderMap::new();
        set_timeout(&mut headers, Duration::MAX);
        assert_eq!(timeout(&headers), Ok(Some(Duration::from_millis(99_999_999))));
    }

    #[test]
    fn messages_are_encoded_and_statuses_read() {
        let trailers = trailers(Code::Unavailable, "90 % of ä\n");
        assert_eq!(trailers[MESSAGE], "90 %25 of %C3%A4%0A");
        assert_eq!(status(&trailers), Some(14));
        assert_eq!(status(&HeaderMap::new()), None);
        let mut odd = HeaderMap::new();
        odd.insert(STATUS, HeaderValue::from_static("fine"));
        assert_eq!(status(&odd), Some(Code::Unknown as u32));
        assert_eq!(
            (class(Some(0)), class(Some(14)), class(None)),
            (StatusCode::OK, StatusCode::BAD_GATEWAY, StatusCode::BAD_GATEWAY)
        );
    }
}
