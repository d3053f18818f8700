//! Answers of the router's own. They name hosts and limits, never pods, addresses or paths on disk.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use stoker_edge::reply::{self, Reply};

use crate::forward::grpc::{self, Code};
use crate::forward::paths;
use crate::metrics::Refusal;

/// What the client of a stream is told when the stream's revision is taken out of service.
pub(super) const ENDED: &str = "the revision of this stream was taken out of service; open the stream again";
/// How many hosts an answer names.
const NAMED: usize = 20;

/// Why a request got no answer from a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No model by that host, header or path; the message names those that there are.
    NoRoute(String),
    /// The model has no candidate that could be previewed; its name.
    NoPreview(String),
    /// The tables were not read yet.
    NotReady,
    /// The path is none of the protocol's.
    NotForwarded,
    /// The method does not fit the path; the one that does.
    Method(Method),
    /// Malformed; how.
    BadRequest(String),
    /// The body is longer than so many bytes.
    TooLong(u64),
    /// The body did not arrive in time.
    TooSlow,
    /// No pod became ready in time.
    NoEndpoint,
    /// Too many requests wait already.
    QueueFull,
    /// The pod, and where it was tried the second one, gave no answer. Counted in their arms.
    Failed,
    /// The pod gave no answer in time. Counted in its arm.
    Late,
    /// The pod does not speak HTTP/2, so it cannot be called by gRPC. Counted in its arm.
    NoGrpc,
    /// The revision was taken out of service while the stream was open.
    Ended,
}

impl Refused {
    /// No route, with the models that there are.
    pub(super) fn no_route<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let total = names.len();
        let mut text = String::from("no model by this Host, stoker-model header or path; ");
        if total == 0 {
            text.push_str("this namespace has no models");
        } else {
            text.push_str("there are: ");
            let names: Vec<_> = names.take(NAMED).collect();
            text.push_str(&names.join(", "));
            if total > NAMED {
                // Writing to a String cannot fail.
                let _ = write!(text, " and {} more", total - NAMED);
            }
        }
        Self::NoRoute(text)
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute(_) | Self::NotForwarded => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoPreview(_) | Self::NotReady | Self::NoEndpoint | Self::QueueFull | Self::Ended => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Failed | Self::NoGrpc => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The router's own reason; none for what is counted in an arm.
    pub(super) fn reason(&self) -> Option<Refusal> {
        Some(match self {
            Self::NoRoute(_) => Refusal::NoRoute,
            Self::NoPreview(_) => Refusal::NoPreview,
            Self::NotReady => Refusal::NotReady,
            Self::NotForwarded | Self::Method(_) => Refusal::NotForwarded,
            Self::BadRequest(_) => Refusal::BadRequest,
            Self::TooLong(_) => Refusal::BodyTooLong,
            Self::TooSlow => Refusal::BodyTooSlow,
            Self::NoEndpoint => Refusal::NoEndpoint,
            Self::QueueFull => Refusal::QueueFull,
            Self::Failed | Self::Late | Self::NoGrpc | Self::Ended => return None,
        })
    }

    /// What the client is told.
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::NoRoute(text) | Self::BadRequest(text) => text.into(),
            Self::NoPreview(name) => {
                format!("{name} has no candidate to preview; this address answers while a rollout tries one")
                    .into()
            }
            Self::NotReady => "the router has not read its tables yet; try again".into(),
            Self::NotForwarded => paths::HELP.into(),
            Self::Method(method) => format!("this path takes {method} only").into(),
            Self::TooLong(limit) => format!("the body is longer than the limit of {limit} bytes").into(),
            Self::TooSlow => "the body did not arrive in time".into(),
            Self::NoEndpoint => "no pod of this model is ready; try again".into(),
            Self::QueueFull => {
                "no pod of this model is ready and too many requests wait already; try again".into()
            }
            Self::Failed => "the pod of this model gave no answer".into(),
            Self::Late => "the pod of this model gave no answer in time".into(),
            Self::NoGrpc => "the pod of this model does not speak gRPC (no HTTP/2); use HTTP".into(),
            Self::Ended => ENDED.into(),
        }
    }

    /// Whether the client should come again soon.
    fn is_passing(&self) -> bool {
        matches!(self, Self::NoPreview(_) | Self::NotReady | Self::NoEndpoint | Self::QueueFull | Self::Ended)
    }

    /// The answer to a gRPC call.
    pub(super) fn grpc_answer(&self) -> Reply {
        let code = match self {
            Self::NoRoute(_) => Code::NotFound,
            Self::NotForwarded | Self::Method(_) | Self::NoGrpc => Code::Unimplemented,
            Self::BadRequest(_) => Code::InvalidArgument,
            Self::TooLong(_) => Code::ResourceExhausted,
            Self::TooSlow | Self::Late => Code::DeadlineExceeded,
            Self::NoPreview(_)
            | Self::NotReady
            | Self::NoEndpoint
            | Self::QueueFull
            | Self::Failed
            | Self::Ended => Code::Unavailable,
        };
        let text = if *self == Self::NotForwarded { grpc::HELP.into() } else { self.text() };
        grpc::refuse(code, &text, self.is_passing())
    }

    /// The answer.
    pub(super) fn answer(&self) -> Reply {
        let mut answer = reply::error(self.status(), &self.text());
        let headers = answer.headers_mut();
        match self {
            _ if self.is_passing() => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Method(method) => {
                if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
                    headers.insert(ALLOW, allowed);
                }
            }
            // The rest of the body may be in the connection still.
            Self::TooLong(_) | Self::TooSlow | Self::BadRequest(_) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_within_bounds() {
        let names: Vec<String> = (0..30).map(|i| format!("model-{i}")).collect();
        let Refused::NoRoute(text) = Refused::no_route(names.iter().map(String::as_str)) else {
            unreachable!()
        };
        assert!(text.contains("model-0, model-1") && text.contains("and 10 more"), "{text}");
        assert!(!text.contains("model-20"), "{text}");
        let Refused::NoRoute(none) = Refused::no_route(std::iter::empty()) else { unreachable!() };
        assert!(none.contains("no models"), "{none}");
    }

    #[test]
    fn a_client_that_should_come_again_is_told_so() {
        for refused in [Refused::NotReady, Refused::NoEndpoint, Refused::QueueFull] {
            let answer = refused.answer();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()[RETRY_AFTER]),
                (503, &HeaderValue::from_static("1"))
            );
        }
        assert_eq!(Refused::Method(Method::POST).answer().headers()[ALLOW], "POST");
    }

    #[test]
    fn grpc_clients_are_refused_in_their_own_words() {
        for (refused, code, again) in [
            (Refused::NotReady, 14, true),
            (Refused::QueueFull, 14, true),
            (Refused::Failed, 14, false),
            (Refused::NotForwarded, 12, false),
            (Refused::Late, 4, false),
            (Refused::TooLong(1), 8, false),
            (Refused::BadRequest("x".into()), 3, false),
            (Refused::NoRoute("x".into()), 5, false),
        ] {
            let answer = refused.grpc_answer();
            assert_eq!(answer.status(), StatusCode::OK, "{refused:?}");
            assert_eq!(grpc::status(answer.headers()), Some(code), "{refused:?}");
            assert_eq!(answer.headers().contains_key("grpc-retry-pushback-ms"), again, "{refused:?}");
        }
    }
}
