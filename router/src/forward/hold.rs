//! Requests that wait for a pod: a place in the queue, for as long as they may, and the call for pods of a model that sleeps.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::refuse::Refused;
use super::{Forward, SECOND_WAIT};
use crate::live::{Busy, Endpoint, demand};
use crate::plane::{Assigned, Flight};
use crate::table::snapshot::Asked;

impl Forward {
    /// Finds a pod, and waits for one where there is none. `failed` is a pod that failed the request already.
    pub(super) async fn place(
        &self,
        route: &str,
        asked: Asked<'_>,
        drawn: u128,
        failed: Option<&Endpoint>,
        deadline: Instant,
    ) -> Result<(Flight, Busy), Refused> {
        match self.plane.assign(route, asked, drawn, failed) {
            Assigned::Pod(flight, busy) => return Ok((flight, busy)),
            Assigned::Gone => return Err(self.gone()),
            Assigned::Nowhere => {}
        }
        let _held = self.hold()?;
        let _waits = self.waits(route)?;
        let wait = if failed.is_some() { self.settings.hold.min(SECOND_WAIT) } else { self.settings.hold };
        let until = deadline.min(Instant::now() + wait);
        // Subscribed before the tables are looked at again, so that no change is missed.
        let mut changes = self.plane.changes();
        let mut not = failed;
        loop {
            match self.plane.assign(route, asked, drawn, not) {
                Assigned::Pod(flight, busy) => return Ok((flight, busy)),
                Assigned::Gone => return Err(self.gone()),
                Assigned::Nowhere => {}
            }
            // Pods that start for this very request are waited for as long as it may take.
            let until = if self.calls(route) { deadline } else { until };
            if tokio::time::timeout_at(until, changes.changed()).await.is_err() && not.take().is_none() {
                return Err(Refused::NoEndpoint);
            }
        }
    }

    /// Counts a request of a model that waits. Those of one that sleeps wait for long, and may have half of the queue.
    fn waits(&self, route: &str) -> Result<Option<demand::Held>, Refused> {
        let tables = self.plane.tables();
        let Some(route) = tables.route(route) else { return Ok(None) };
        let most = self.settings.hold_queue.div_ceil(2) as u64;
        if route.asleep.is_some() && route.demand.held() >= most {
            return Err(Refused::QueueFull);
        }
        Ok(Some(route.demand.holds()))
    }

    /// Calls for pods where the model sleeps. Whether it does.
    fn calls(&self, route: &str) -> bool {
        let tables = self.plane.tables();
        let Some((route, sleep)) = tables.route(route).and_then(|route| Some((route, route.asleep?))) else {
            return false;
        };
        self.plane.wakes.wake(&route.name, &route.version.uid, sleep);
        true
    }

    /// A place in the queue of requests that wait for a pod.
    fn hold(&self) -> Result<Held<'_>, Refused> {
        let more = |held: usize| (held < self.settings.hold_queue).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Refused::QueueFull)?;
        self.counts.held.inc();
        Ok(Held(self))
    }

    /// The model went away while the request waited.
    fn gone(&self) -> Refused {
        Refused::no_route(self.plane.tables().routes().map(|route| route.name.as_str()))
    }
}

/// A request that waits for a pod.
struct Held<'a>(&'a Forward);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.counts.held.dec();
    }
}
