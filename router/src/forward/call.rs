//! An attempt to call a pod by gRPC: over a connection that it shares with other calls.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Sleep;

use crate::forward::body::ToPod;
use crate::forward::channel::Place;
use crate::forward::refuse::Refused;
use crate::forward::relay::Carrier;
use crate::forward::{Content, Failure, Forward, Message, before};
use crate::live::Endpoint;
use crate::plane::Flight;

impl Forward {
    /// Sends a call to a pod, and waits for the head of the answer. `fresh` when it met a connection that the pod was
    /// closing before.
    pub(super) async fn call(
        &self,
        flight: &Flight,
        endpoint: &Arc<Endpoint>,
        message: &mut Message,
        fresh: bool,
        alarm: &mut Pin<Box<Sleep>>,
    ) -> Result<(Response<Incoming>, Carrier, std::time::Instant), Failure> {
        let place = match endpoint.channels.take() {
            Some(place) => place,
            None => self.open(endpoint, alarm).await?,
        };
        // Assigned by the table before, and maybe long ago: connecting takes time.
        if flight.revision.is_cut() {
            return Err(Failure::Cut);
        }
        let request = message.request()?;
        let (sent, heard) = (std::time::Instant::now(), place.heard());
        let answered = tokio::select! {
            biased;
            answered = before(alarm, place.send(request)) => answered,
            () = message.ended() => {
                self.counts.ended.inc();
                return Err(Failure::Client(Refused::Ended));
            }
        };
        match answered {
            Some(Ok(answer)) => Ok((answer, Carrier::Place(place), sent)),
            Some(Err(error)) => Err(self.failure(endpoint, message, &place, fresh, error)),
            None => {
                // Not a word in all this time: the pod may be gone without having said so.
                if place.heard() == heard {
                    place.retire();
                }
                Err(Failure::Late)
            }
        }
    }

    async fn open(&self, endpoint: &Arc<Endpoint>, alarm: &mut Pin<Box<Sleep>>) -> Result<Place, Failure> {
        let opened = endpoint.channels.open(endpoint.address.socket);
        match before(alarm, opened).await.ok_or(Failure::Late)? {
            Ok(place) => Ok(place),
            Err(error) => {
                tracing::debug!(pod = %endpoint.address.socket, %error, "pod not reachable");
                Err(Failure::Unreachable)
            }
        }
    }

    /// Why a call got no answer.
    fn failure(
        &self,
        endpoint: &Endpoint,
        message: &mut Message,
        place: &Place,
        fresh: bool,
        mut failed: TrySendError<http::Request<ToPod>>,
    ) -> Failure {
        let unsent = failed.take_message().map(http::Request::into_body);
        let returned = unsent.is_some();
        let error = failed.into_error();
        tracing::debug!(pod = %endpoint.address.socket, %error, "no answer to a call");
        if let Content::Long(_, verdict) = &message.body {
            if verdict.is_too_long() {
                return Failure::Client(Refused::TooLong(self.settings.max_body));
            }
            if verdict.is_broken() {
                return Failure::Client(Refused::BadRequest("the body of the request broke off".into()));
            }
        }
        if place.is_no_http2() {
            place.retire();
            return Failure::NoGrpc;
        }
        // Set once by whoever sends it; a connection that ended before that gives it back.
        let sendable = match (&mut message.body, unsent) {
            (Content::Long(passing, _), Some(ToPod::Long(body))) => {
                *passing = Some(body);
                true
            }
            (Content::Long(..), _) => false,
            (Content::Whole { .. }, _) => true,
        };
        let reason = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        // RFC 9113, 6.8 and 8.7: the pod has not looked at this call, and takes no more on this connection.
        let refused = |reason: &h2::Error| {
            reason.is_remote()
                && ((reason.is_go_away() && reason.reason() == Some(h2::Reason::NO_ERROR))
                    || reason.reason() == Some(h2::Reason::REFUSED_STREAM))
        };
        let untouched = returned || reason.is_some_and(refused);
        let connection = reason.is_none_or(|reason| !reason.is_reset());
        if connection {
            place.retire();
        }
        if !fresh && sendable && (untouched || (connection && place.is_reused())) {
            return Failure::Raced;
        }
        if sendable && matches!(message.body, Content::Long(..)) {
            // Nothing was sent, so another pod may get it.
            return Failure::Unreachable;
        }
        Failure::Lost
    }
}
