//! A pod as the router knows it: its connections, its requests, how long it takes and whether it is ejected.
//!
//! All of it is in atomics: requests read every pod of their revision, and none waits for another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoker_decide::balance::delay::ServiceTime;
use stoker_decide::balance::outlier::Health;
use stoker_decide::balance::{Choice, Pod};

use crate::forward::channel::Channels;
use crate::forward::pool::Pool;

/// A pod of a revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Where it listens.
    pub socket: SocketAddr,
    /// uid of the pod, or nothing where the EndpointSlice names none: another pod may get the same address later.
    #[serde(default)]
    pub pod: String,
}

/// A pod as the router knows it.
#[derive(Debug)]
pub struct Endpoint {
    /// Which pod it is.
    pub address: Address,
    /// Connections that wait for a request.
    pub pool: Pool,
    /// Connections that carry gRPC calls.
    pub channels: Channels,
    in_flight: AtomicU32,
    /// When it got the first of them, in milliseconds on [`clock`].
    busy_since: AtomicU64,
    /// When it became ready, on [`clock`].
    ready_since: Duration,
    /// A [`ServiceTime`].
    service: AtomicU64,
    /// A [`Health`].
    health: AtomicU64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a success.
    Succeeded,
    /// The pod answered with something else, which may be the client's fault.
    Refused,
    /// A gateway failure: no connection, a reset, a 5xx, no answer by the deadline. The pod may be at fault as a whole.
    Failed,
}

impl Endpoint {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            pool: Pool::default(),
            channels: Channels::default(),
            in_flight: AtomicU32::new(0),
            busy_since: AtomicU64::new(0),
            ready_since: clock(),
            service: AtomicU64::new(0),
            health: AtomicU64::new(0),
        }
    }

    /// What the chooser sees.
    pub(super) fn pod(&self, barred: bool) -> Pod {
        Pod {
            service: self.service(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            busy_since: Duration::from_millis(self.busy_since.load(Ordering::Relaxed)),
            ready_since: self.ready_since,
            health: self.health(),
            barred,
        }
    }

    /// How long it takes for a request.
    pub(super) fn service(&self) -> ServiceTime {
        ServiceTime::from_bits(self.service.load(Ordering::Relaxed))
    }

    /// Whether it is ejected.
    pub(super) fn health(&self) -> Health {
        Health::from_bits(self.health.load(Ordering::Relaxed))
    }

    /// Begins the trial of an ejected pod, unless another request did.
    pub(super) fn begin_trial(&self, now: Duration) -> bool {
        self.heal(|health| health.begin_trial(now)).is_some()
    }

    /// Changes how healthy it is; gives what it was before and is by now, if that changed.
    pub(super) fn heal(&self, change: impl Fn(Health) -> Option<Health>) -> Option<(Health, Health)> {
        let changed = |bits: u64| change(Health::from_bits(bits)).map(Health::to_bits);
        let before = self.health.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed).ok()?;
        Some((Health::from_bits(before), change(Health::from_bits(before))?))
    }

    /// Takes a sample of its service time.
    pub(super) fn sample(&self, change: impl Fn(ServiceTime) -> ServiceTime) {
        let changed = |bits: u64| Some(change(ServiceTime::from_bits(bits)).to_bits());
        // A closure that always gives a value cannot fail.
        let _ = self.service.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

/// Counts a request at its pod for as long as it lives, however it ends.
#[derive(Debug)]
pub struct Busy {
    endpoint: Arc<Endpoint>,
    /// Requests that the pod had already.
    pub(super) ahead: u32,
    /// When it was assigned, on [`clock`].
    pub(super) since: Duration,
    pub(super) is_trial: bool,
    is_warming: bool,
    /// Its end was told.
    pub(super) has_ended: bool,
}

impl Busy {
    pub(super) fn new(endpoint: &Arc<Endpoint>, choice: Choice, now: Duration) -> Self {
        let ahead = endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        if ahead == 0 {
            let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            endpoint.busy_since.store(millis, Ordering::Relaxed);
        }
        Self {
            endpoint: Arc::clone(endpoint),
            ahead,
            since: now,
            is_trial: choice.trial,
            is_warming: choice.warming,
            has_ended: false,
        }
    }

    /// The pod.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether the pod is in slow start: then its errors count in its arm, and its latency does not.
    pub fn is_warming(&self) -> bool {
        self.is_warming
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.has_ended {
            return;
        }
        // The client went away, or it was its fault. A pod that lets clients wait until they leave is a slow one.
        let now = clock();
        self.endpoint.sample(|service| service.abandoned(now.saturating_sub(self.since), self.ahead, now));
        if self.is_trial {
            self.endpoint.heal(|health| Some(health.abandon_trial()));
        }
    }
}

/// A clock that never jumps.
pub fn clock() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}
