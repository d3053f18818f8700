//! The body of an answer on its way to the client, and what is counted at its end.

mod call;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus_client::metrics::counter::Counter;
use stoker_edge::BoxError;
use tokio::time::Sleep;

use crate::forward::channel::Place;
use crate::forward::headers;
use crate::forward::pool::Link;
use crate::live::{Busy, Outcome};
use crate::plane::Flight;
use crate::shadow::tee::Tee;

pub use crate::forward::relay::call::{Call, Ending};

/// An attempt whose answer has begun.
pub struct Attempt {
    /// Where it is counted.
    pub flight: Flight,
    /// The pod.
    pub busy: Busy,
    /// When the request was sent.
    pub sent: Instant,
    /// How it ends if nothing breaks: by its status.
    pub outcome: Outcome,
    /// The pod turned it away before it began with it: nothing is wrong with the pod.
    pub is_untouched: bool,
    /// Where it is counted when the client goes away.
    pub aborted: Counter,
    /// What becomes copies once the answer has ended.
    pub tee: Option<Box<Tee>>,
}

/// What an answer comes over.
pub enum Carrier {
    /// A connection that is read and written by whoever reads the answer.
    Link(Link),
    /// A place on a connection that has tasks of its own.
    Place(Place),
}

/// The body of an answer.
pub struct Relay {
    body: Incoming,
    /// Brings the body; none once it has ended.
    carrier: Option<Carrier>,
    /// None once it is counted.
    attempt: Option<Attempt>,
    /// What a gRPC call needs besides.
    call: Option<Box<Call>>,
    /// Rings at the request's deadline.
    alarm: Pin<Box<Sleep>>,
}

/// What is read of an answer that nobody gets, in bytes.
const LONGEST_DISCARDED: usize = 64 << 10;

/// The pod did not finish its answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer did not end before the request's deadline")]
struct TooSlow;

impl Relay {
    /// Takes over an answer whose head was read.
    pub fn new(
        body: Incoming,
        carrier: Carrier,
        attempt: Attempt,
        call: Option<Box<Call>>,
        alarm: Pin<Box<Sleep>>,
    ) -> Self {
        let mut relay = Self { body, carrier: Some(carrier), attempt: Some(attempt), call, alarm };
        if relay.body.is_end_stream() {
            match &mut relay.call {
                None => relay.finish(),
                Some(call) if call.ends_with_head() => relay.finish_call(),
                // Its end is told when the client asks for it.
                Some(_) => {}
            }
        }
        relay
    }

    /// Reads an answer that nobody gets to its end, so that its connection can take another request.
    pub async fn discard(mut self) {
        let mut read = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > LONGEST_DISCARDED {
                return self.fail();
            }
        }
    }

    /// The answer has ended as it should: count it, and keep the connection for the next request.
    fn finish(&mut self) {
        let Some(Attempt { flight, mut busy, sent, outcome, tee, .. }) = self.attempt.take() else { return };
        flight.ended(&mut busy, outcome, sent.elapsed());
        if let Some(tee) = tee {
            tee.ended();
        }
        if let Some(Carrier::Link(link)) = self.carrier.take() {
            busy.endpoint().pool.put(link);
        }
    }

    /// The answer broke off.
    fn fail(&mut self) {
        if let Some(Attempt { flight, mut busy, sent, tee, .. }) = self.attempt.take() {
            flight.ended(&mut busy, Outcome::Failed, sent.elapsed());
            if let Some(tee) = tee {
                tee.broke();
            }
        }
        self.carrier = None;
    }

    /// The next piece, if it is here.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let first = Pin::new(&mut self.body).poll_frame(cx);
        match &mut self.carrier {
            Some(Carrier::Link(link)) if first.is_pending() => {
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
        if this.call.is_some() {
            return this.poll_call(cx).map(|frame| frame.map(Ok));
        }
        match this.next(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                frame.trailers_mut().into_iter().for_each(headers::strip);
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
                if let Some(attempt) = &this.attempt {
                    attempt.flight.overloaded();
                }
                this.fail();
                Poll::Ready(Some(Err(TooSlow.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.call.as_ref().map_or_else(|| self.body.is_end_stream(), |call| call.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        // Trailers may follow whatever the pod announced.
        if self.call.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}
