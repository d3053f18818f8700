//! Headers that an answer gives back: who asked, and where in a trace the request is.

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;

use crate::protocol::trace::{TRACEPARENT, Trace};

/// The header by which clients and gateways tell requests apart.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id is not given back.
const LONGEST_ID: usize = 128;

/// What is given back of one request.
#[derive(Debug)]
pub struct Echo {
    request_id: Option<HeaderValue>,
    /// The trace of the request, with a span of our own.
    trace: Option<Trace>,
}

impl Echo {
    /// What the headers of a request ask for.
    pub fn of(headers: &HeaderMap) -> Self {
        let is_id = |value: &&HeaderValue| {
            (1..=LONGEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        Self {
            request_id: headers.get(REQUEST_ID).filter(is_id).cloned(),
            // Unique ids are wanted, not secret ones.
            trace: Trace::of(headers).map(|trace| trace.with_span(rand::random())),
        }
    }

    /// The span in which the request is answered, so that log lines have its trace.
    pub fn span(&self) -> Span {
        match &self.trace {
            Some(trace) => tracing::info_span!("request", trace_id = trace.trace_id()),
            None => Span::none(),
        }
    }

    /// Puts them into the headers of the answer.
    pub fn mark(self, headers: &mut HeaderMap) {
        if let Some(id) = self.request_id {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(Ok(trace)) = self.trace.map(|trace| HeaderValue::try_from(trace.to_string())) {
            headers.insert(TRACEPARENT, trace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut answer = HeaderMap::new();
        Echo::of(&headers).mark(&mut answer);
        answer
    }

    #[test]
    fn ids_are_given_back_when_they_are_short_and_visible() {
        let longest = "x".repeat(LONGEST_ID);
        for id in ["a", "4bf9-22/x=\"1\"", &longest] {
            assert_eq!(answered(&[("x-request-id", id)])[REQUEST_ID], id);
        }
        for id in ["", "a b", "ä", &format!("{longest}x")] {
            assert!(answered(&[("x-request-id", id)]).is_empty(), "{id}");
        }
        assert!(answered(&[]).is_empty());
    }

    #[test]
    fn each_answer_has_a_span_of_its_own_in_the_trace_of_its_request() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let asked = format!("00-{trace}-{span}-01");
        let mut spans = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let answer = answered(&[("traceparent", &asked)]);
            let ours = Trace::of(&answer).unwrap();
            assert_eq!(ours.trace_id(), trace);
            spans.insert(ours.to_string());
        }
        assert!(spans.len() == 100 && !spans.contains(&asked));
        assert!(answered(&[("traceparent", "00-x")]).is_empty());
    }
}
