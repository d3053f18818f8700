//! Requests that a pod turned away before it began with them: another pod gets them, at once.
//!
//! The pod says so itself ([`stoker_edge::untouched`]); it is busy, or expects to miss the latency target. The attempt counts
//! as failed in its arm, since a revision that turns requests away harms whoever depends on it, and as no failure of the pod,
//! which answers as it should. The other pod is one of the same arm, or where there is none one of the fallbacks. A request
//! that is turned away twice is answered with the second refusal.

use std::time::Duration;

use futures::FutureExt as _;
use http::Response;
use hyper::body::Incoming;

use crate::forward::relay::{Attempt, Carrier, Relay};
use crate::forward::{Forward, Message, grpc};
use crate::live::{Busy, Outcome};
use crate::plane::{Assigned, Flight};
use crate::table::snapshot::Route;

/// How long a pod may take for the rest of an answer that nobody gets.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Whether a pod says that it has not begun with the request. Beside an answer that is none of a failure it says nothing.
pub(super) fn is_untouched<B>(answer: &Response<B>) -> bool {
    let headers = answer.headers();
    stoker_edge::untouched::is_said(headers)
        && (answer.status().is_server_error() || grpc::status(headers).is_some_and(|status| status != 0))
}

impl Forward {
    /// Another pod for a request that was turned away, if it can be sent again and that is worth it. Nobody waits for one: the
    /// refusal is there already.
    pub(super) fn elsewhere(
        &self,
        route: &Route,
        message: &Message,
        drawn: u128,
        busy: &Busy,
    ) -> Option<(Flight, Busy)> {
        if !message.is_whole() || !route.retries.goes_elsewhere() {
            return None;
        }
        match self.plane.assign(&route.name, message.asked(), drawn, Some(busy.endpoint())) {
            Assigned::Pod(flight, busy) => {
                self.counts.elsewhere.inc();
                Some((flight, busy))
            }
            Assigned::Nowhere | Assigned::Gone => None,
        }
    }

    /// Counts an attempt that was turned away, and keeps its connection.
    pub(super) fn dismiss(
        &self,
        answer: Response<Incoming>,
        carrier: Carrier,
        (flight, mut busy, sent): (Flight, Busy, std::time::Instant),
    ) {
        flight.overloaded();
        if matches!(carrier, Carrier::Place(_)) {
            // Its head was all of it.
            flight.ended(&mut busy, Outcome::Refused, sent.elapsed());
            return;
        }
        let aborted = self.counts.aborted.clone();
        let outcome = Outcome::Refused;
        let attempt = Attempt { flight, busy, sent, outcome, is_untouched: true, aborted, tee: None };
        let alarm = Box::pin(tokio::time::sleep(DISCARD_TIME));
        let mut rest = Box::pin(Relay::new(answer.into_body(), carrier, attempt, None, alarm).discard());
        // Mostly it came in one piece.
        if (&mut rest).now_or_never().is_none() {
            tokio::spawn(rest);
        }
    }
}
