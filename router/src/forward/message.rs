//! A request on its way to pods: as often as its body allows.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use tokio::time::Instant;

use crate::forward::Failure;
use crate::forward::body::{Passing, Share, ToPod, Verdict, Whole};
use crate::forward::grpc::{self, Call};
use crate::forward::relay;
use crate::live::Ending;
use crate::metrics::Counts;
use crate::plane::Flight;
use crate::table::snapshot::Asked;
use crate::unit::cookie;

/// A request as it is sent to pods.
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Content,
    pub(super) deadline: Instant,
    /// What is called by gRPC, if it is.
    pub(super) call: Option<Call>,
    /// Of a call that streams: the end of the streams of the revision that it was assigned to.
    pub(super) ending: Option<Ending>,
    /// Whether it came by the address for previews.
    pub(super) preview: bool,
    /// Whether the client came by TLS.
    pub(super) secure: bool,
    /// A cookie that pods do not see.
    pub(super) hidden: Option<Arc<str>>,
}

pub(super) enum Content {
    /// With its part of the budget for kept bodies.
    Whole { whole: Whole, share: Option<Share> },
    /// Until it is sent.
    Long(Option<Passing>, Verdict),
}

impl Message {
    /// What decides where it goes.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked { headers: &self.headers, preview: self.preview }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self.body, Content::Whole { .. })
    }

    /// The request, as often as its body allows.
    pub(super) fn request(&mut self) -> Result<Request<ToPod>, Failure> {
        let body = match &mut self.body {
            Content::Whole { whole, .. } => ToPod::Whole(whole.clone()),
            Content::Long(passing, _) => ToPod::Long(passing.take().ok_or(Failure::Lost)?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if self.call.is_some() {
            *request.version_mut() = Version::HTTP_2;
            let left = self.deadline.saturating_duration_since(Instant::now());
            grpc::set_timeout(request.headers_mut(), left);
        }
        if let Some(name) = &self.hidden {
            cookie::hide(request.headers_mut(), name);
        }
        Ok(request)
    }

    /// Waits until the streams of the revision are to end; forever where this is no stream.
    pub(super) async fn ended(&mut self) {
        match &mut self.ending {
            Some(ending) => ending.ended().await,
            None => std::future::pending().await,
        }
    }

    /// What is left of it when the answer to a call has begun with `head`.
    pub(super) fn into_call(self, head: &HeaderMap, counts: &Counts) -> relay::Call {
        let ending = self.ending.map(|mut ending| relay::Ending {
            rings: Box::pin(async move { ending.ended().await }),
            ended: counts.ended.clone(),
        });
        let body = match self.body {
            Content::Long(_, verdict) => Some(verdict),
            Content::Whole { .. } => None,
        };
        relay::Call::new(head, ending, body)
    }

    /// The cookie that is set with the answer, when the rule keeps units in one and the request had none.
    pub(super) fn new_cookie(&self, flight: &Flight, drawn: u128) -> Option<HeaderValue> {
        let name = flight.cookie.as_deref().filter(|_| flight.unit.is_none())?;
        cookie::set(name, drawn, self.secure)
    }
}
