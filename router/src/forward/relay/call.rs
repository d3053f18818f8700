//! The answer to a gRPC call: how it ended stands in its trailers. A client always gets trailers, from the pod or, where
//! the pod fails or its revision is taken out of service, from the router.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prometheus_client::metrics::counter::Counter;

use super::{Attempt, Relay};
use crate::forward::body::Verdict;
use crate::forward::grpc::{self, Code};
use crate::forward::headers;
use crate::forward::refuse::ENDED;
use crate::live::Outcome;

/// What the relay of a call knows besides.
pub struct Call {
    /// How the call ended, once the pod has said so.
    status: Option<u32>,
    /// Nothing more is to be said.
    over: bool,
    /// Rings when streams of the revision are to end; only for calls that stream.
    ending: Option<Ending>,
    /// Time from the request to the first piece of a stream.
    first: Option<Duration>,
    /// Ends the request's body with the answer.
    body: Option<Verdict>,
}

/// The end of a revision's streams, and where streams that ended so are counted.
pub struct Ending {
    /// Done when streams are to end.
    pub rings: BoxFuture<'static, ()>,
    /// Streams that ended so.
    pub ended: Counter,
}

impl Call {
    /// A call whose answer begins with `head`.
    pub fn new(head: &HeaderMap, ending: Option<Ending>, body: Option<Verdict>) -> Self {
        Self { status: grpc::status(head), over: false, ending, first: None, body }
    }

    /// Whether the head says how the call ended.
    pub(super) fn ends_with_head(&self) -> bool {
        self.status.is_some()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            body.stop();
        }
    }
}

impl Relay {
    /// The pod has said how the call ended.
    pub(super) fn finish_call(&mut self) {
        let Some(call) = &mut self.call else { return };
        call.over = true;
        if let Some(Attempt { flight, mut busy, sent, outcome, is_untouched, .. }) = self.attempt.take() {
            let good = outcome == Outcome::Succeeded;
            let class = grpc::class(call.status.filter(|_| good));
            let outcome = match class {
                class if class.is_success() => Outcome::Succeeded,
                class if class.is_server_error() && !is_untouched => Outcome::Failed,
                _ => Outcome::Refused,
            };
            // A stream is as slow as its first piece: how long it lasts is its client's affair.
            if !is_untouched && call.status.is_some_and(grpc::is_overload) {
                flight.overloaded();
            }
            let first = call.first.filter(|_| call.ending.is_some());
            flight.ended(&mut busy, outcome, first.unwrap_or_else(|| sent.elapsed()));
            flight.revision.answered(class);
        }
        self.carrier = None;
    }

    /// The router says how the call ended.
    fn end_call(&mut self, code: Code, message: &str) -> Poll<Option<Frame<Bytes>>> {
        if let Some(call) = &mut self.call {
            call.over = true;
        }
        self.carrier = None;
        Poll::Ready(Some(Frame::trailers(grpc::trailers(code, message))))
    }

    /// The same, where the pod is to blame.
    fn fail_call(&mut self, code: Code, message: &str) -> Poll<Option<Frame<Bytes>>> {
        if let Some(Attempt { flight, mut busy, sent, .. }) = self.attempt.take() {
            if code == Code::DeadlineExceeded {
                flight.overloaded();
            }
            flight.ended(&mut busy, Outcome::Failed, sent.elapsed());
            flight.revision.answered(grpc::class(Some(code as u32)));
        }
        self.end_call(code, message)
    }

    /// The next piece of the answer to a call.
    pub(super) fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some(call) = &mut self.call else { return Poll::Ready(None) };
        if call.over {
            return Poll::Ready(None);
        }
        if let Some(ending) = &mut call.ending
            && ending.rings.as_mut().poll(cx).is_ready()
        {
            ending.ended.inc();
            // Neither the pod's fault nor the client's: counted in no arm.
            self.attempt = None;
            return self.end_call(Code::Unavailable, ENDED);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_trailers() {
                Err(frame) => {
                    if call.first.is_none() {
                        call.first = self.attempt.as_ref().map(|attempt| attempt.sent.elapsed());
                    }
                    Poll::Ready(Some(frame))
                }
                Ok(mut trailers) => {
                    call.status = grpc::status(&trailers);
                    if call.status.is_none() {
                        return self.fail_call(Code::Unknown, "the pod ended its answer without a status");
                    }
                    headers::strip(&mut trailers);
                    self.finish_call();
                    Poll::Ready(Some(Frame::trailers(trailers)))
                }
            },
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "the answer to a call broke off");
                self.fail_call(Code::Unavailable, "the pod broke its answer off")
            }
            Poll::Ready(None) if call.ends_with_head() => {
                self.finish_call();
                Poll::Ready(None)
            }
            Poll::Ready(None) => self.fail_call(Code::Unknown, "the pod ended its answer without a status"),
            Poll::Pending if self.attempt.is_some() && self.alarm.as_mut().poll(cx).is_ready() => {
                self.fail_call(Code::DeadlineExceeded, "the answer did not end before the request's deadline")
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
