//! The fence against an operator that lost the lead and does not know it yet: nothing is changed with an old lead.
//!
//! A process that was paused past its Lease wakes up in the middle of its work, before the task that renews the Lease can find
//! out that another operator leads. So the client that the work is done with ([`client`]) asks here right before it sends a
//! request that changes something, also when it sends one again after a 429. Reads pass. The Lease itself is renewed with
//! another client.
//!
//! The age of the lead is measured by `CLOCK_BOOTTIME`: it never jumps, and unlike the clock of [`std::time::Instant`] it goes
//! on while the machine is suspended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use rustix::time::{ClockId, clock_gettime};
use tower::filter::FilterLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer, Service, service_fn};

/// Why a request that changes something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// There is no lead, or it was given up.
    #[error("this operator does not lead; it writes again when it has the Lease")]
    NoLead,
    /// The lead was not renewed for too long: another operator may have it by now.
    #[error(
        "the Lease was last renewed {:.1} s ago and nothing is written later than {:.1} s after that, since another \
         operator may lead by now; this one writes again when it has renewed the Lease",
        age.as_secs_f64(),
        lasts.as_secs_f64()
    )]
    Old {
        /// Time since the renewal was begun.
        age: Duration,
        /// How long a renewal counts here.
        lasts: Duration,
    },
}

/// The lead as it was renewed last.
#[derive(Clone, Copy)]
struct Lead {
    /// On the fence's clock.
    renewed: Duration,
    /// How long writes may follow.
    lasts: Duration,
}

struct Inner {
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    lead: Mutex<Option<Lead>>,
}

/// Lets writes pass while the lead is young. Closed at first. Clones are one fence.
#[derive(Clone)]
pub struct Fence(Arc<Inner>);

impl Default for Fence {
    fn default() -> Self {
        Self::new(since_boot)
    }
}

impl Fence {
    /// A fence with a clock of its own: any time that never goes back.
    pub fn new(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { clock: Box::new(clock), lead: Mutex::default() }))
    }

    /// The time by the fence's clock.
    pub fn now(&self) -> Duration {
        (self.0.clock)()
    }

    /// Lets writes pass until `lasts` after `renewed`, the time when the renewal that succeeded was begun.
    pub fn open(&self, renewed: Duration, lasts: Duration) {
        self.set(Some(Lead { renewed, lasts }));
    }

    /// Lets no write pass any more.
    pub fn close(&self) {
        self.set(None);
    }

    fn set(&self, lead: Option<Lead>) {
        *self.0.lead.lock().unwrap_or_else(PoisonError::into_inner) = lead;
    }

    /// Whether a write may be sent now.
    pub fn check(&self) -> Result<(), Closed> {
        let lead = *self.0.lead.lock().unwrap_or_else(PoisonError::into_inner);
        let Lead { renewed, lasts } = lead.ok_or(Closed::NoLead)?;
        let age = self.now().saturating_sub(renewed);
        if age < lasts { Ok(()) } else { Err(Closed::Old { age, lasts }) }
    }

    fn admit(&self, request: Request<Body>) -> Result<Request<Body>, Closed> {
        if !request.method().is_safe() {
            self.check()?;
        }
        Ok(request)
    }
}

/// Time since the machine was started, times of suspension included.
fn since_boot() -> Duration {
    // It is never negative.
    clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}

/// A client whose writes pass the fence.
pub fn client(mut config: kube::Config, fence: &Fence) -> kube::Result<Client> {
    // Repetitions go through the fence too, so they are made outside of it.
    config.default_retry = false;
    Ok(guard(ClientBuilder::try_from(config)?, fence))
}

/// The client of a stack of services that repeats nothing by itself.
pub(crate) fn guard<S, B>(stack: ClientBuilder<S>, fence: &Fence) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let gate = fence.clone();
    let gate = FilterLayer::new(move |request: Request<Body>| gate.admit(request));
    let once = stack.with_layer(&gate).build();
    let namespace = once.default_namespace().to_owned();
    let send = service_fn(move |request: Request<Body>| {
        let once = once.clone();
        async move { once.send(request).await.map_err(BoxError::from) }
    });
    Client::new(RetryLayer::new(RetryPolicy::server_retry()).layer(send), namespace)
}

#[cfg(test)]
pub(crate) mod tests;
