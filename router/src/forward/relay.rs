//! The body of an answer on its way to the client, and what is counted at its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus_client::metrics::counter::Counter;
use stoker_edge::BoxError;
use tokio::time::Sleep;

use crate::forward::pool::Link;
use crate::live::Busy;
use crate::plane::Flight;
use crate::shadow::tee::Tee;

/// An attempt whose answer has begun.
pub struct Attempt {
    /// Where it is counted.
    pub flight: Flight,
    /// The pod.
    pub busy: Busy,
    /// When the request was sent.
    pub sent: Instant,
    /// Whether the status says that it succeeded.
    pub good: bool,
    /// Where it is counted when the client goes away.
    pub aborted: Counter,
    /// What becomes copies once the answer has ended.
    pub tee: Option<Box<Tee>>,
}

/// The body of an answer.
pub struct Relay {
    body: Incoming,
    /// Drives the body; none once it has ended.
    link: Option<Link>,
    /// None once it is counted.
    attempt: Option<Attempt>,
    /// Rings at the request's deadline.
    alarm: Pin<Box<Sleep>>,
}

/// The pod did not finish its answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer did not end before the request's deadline")]
struct TooSlow;

impl Relay {
    /// Takes over an answer whose head was read.
    pub fn new(body: Incoming, link: Link, attempt: Attempt, alarm: Pin<Box<Sleep>>) -> Self {
        let mut relay = Self { body, link: Some(link), attempt: Some(attempt), alarm };
        if relay.body.is_end_stream() {
            relay.finish();
        }
        relay
    }

    /// The answer has ended as it should: count it, and keep the connection for the next request.
    fn finish(&mut self) {
        let Some(Attempt { flight, busy, sent, good, tee, .. }) = self.attempt.take() else { return };
        if good {
            flight.succeeded(sent.elapsed());
        } else {
            flight.failed();
        }
        if let Some(tee) = tee {
            tee.ended();
        }
        if let Some(link) = self.link.take() {
            busy.endpoint().pool.put(link);
        }
    }

    /// The answer broke off.
    fn fail(&mut self) {
        if let Some(Attempt { flight, tee, .. }) = self.attempt.take() {
            flight.failed();
            if let Some(tee) = tee {
                tee.broke();
            }
        }
        self.link = None;
    }

    /// The next piece, if it is here.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let first = Pin::new(&mut self.body).poll_frame(cx);
        match &mut self.link {
            Some(link) if first.is_pending() => {
                link.drive(cx);
                Pin::new(&mut self.body).poll_frame(cx)
            }
            _ => first,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(Attempt { aborted, tee, .. }) = self.attempt.take() {
            aborted.inc();
            if let Some(tee) = tee {
                tee.aborted();
            }
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match this.next(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(Attempt { tee: Some(tee), .. }), Some(data)) =
                    (&mut this.attempt, frame.data_ref())
                {
                    tee.piece(data);
                }
                // hyper does not ask again when it knows that this was the last piece.
                if this.body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending if this.attempt.is_some() && this.alarm.as_mut().poll(cx).is_ready() => {
                this.fail();
                Poll::Ready(Some(Err(TooSlow.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
