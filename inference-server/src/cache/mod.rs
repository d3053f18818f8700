//! Keeps answers of the model, so that a request that comes again does not run it again.
//!
//! - `key` is what an answer depends on: model, inputs, and the outputs that are asked for.
//! - `store` holds answers within a budget of bytes and a time to live.
//! - `flight` lets requests wait for an identical one that runs.
//! - `directives` is what a request says about it.
//! - `metrics` is what is counted.
//!
//! An answer is given again only where the whole key is the same to the bit: a hash finds, and never decides. Errors are
//! neither kept nor shared. The decision whether it is worth its lookups is `stoker_decide::caching`.

mod directives;
mod flight;
mod key;
mod metrics;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoker_decide::caching::{Settings as WorthSettings, SwitchedOff, Worth};
use stoker_graph::Value;

use crate::artifact::Digest;

pub use directives::{AGE_HEADER, CACHE_HEADER, CacheStatus, Directives};
pub use flight::{Followed, Follower, Lead};
pub use key::{Fingerprint, Key, keyed_fingerprint};
pub use metrics::{Bypass, CacheFamilies, CacheMetrics};
pub use store::Kept;

use flight::Flights;
use store::{Found, Removed, Store};

/// The part of the budget that all keys of requests under way may take together.
const UNDER_WAY_PART: usize = 8;
/// The most bytes of one key. It is hashed, compared and copied on a thread that serves connections, in about a
/// millisecond.
const LARGEST_KEY: usize = 1 << 20;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of all that the cache holds: keys, answers, tables, and keys of requests under way.
    pub budget: usize,
    /// Answers are given again for at most this long.
    pub time_to_live: Duration,
    /// When it switches itself off.
    pub worth: WorthSettings,
}

/// The cache of one model. Shared by all requests.
pub struct Cache {
    settings: Settings,
    model: Digest,
    fingerprint: Fingerprint,
    metrics: CacheMetrics,
    started: Instant,
    state: Mutex<State>,
}

/// What is behind the lock. It is held for look-ups in tables only: keys are hashed, compared and freed without it.
struct State {
    store: Store,
    flights: Flights,
    worth: Worth,
}

/// How a request goes on.
pub enum Begin {
    /// The answer is there.
    Hit(Hit),
    /// Nobody has it: run the model, and tell the lead how that went.
    Lead(Lead),
    /// Somebody runs the model for it already.
    Follow(Follower),
    /// The cache has no part in this request.
    Alone,
}

/// An answer that is there.
pub struct Hit {
    cache: Arc<Cache>,
    kept: Arc<Kept>,
    begun: Instant,
    /// How long ago it was computed.
    pub age: Duration,
}

impl Hit {
    /// A copy of the outputs.
    pub fn outputs(self) -> Vec<(usize, Value)> {
        let outputs = self.kept.outputs();
        self.cache.looked_up(true, self.begun.elapsed(), Instant::now());
        outputs
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cache").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache of the answers of `model`. `fingerprint` hashes keys: [`keyed_fingerprint`], or a weaker one in tests.
    pub fn new(
        settings: Settings,
        model: Digest,
        fingerprint: Fingerprint,
        metrics: CacheMetrics,
        now: Instant,
    ) -> Self {
        metrics.enabled(true);
        let state = State {
            store: Store::new(settings.budget),
            flights: Flights::new(settings.budget / UNDER_WAY_PART),
            worth: Worth::new(settings.worth),
        };
        Self { settings, model, fingerprint, metrics, started: now, state: Mutex::new(state) }
    }

    /// The key of a request with these inputs, for these outputs.
    pub fn key(&self, inputs: Vec<Value>, outputs: Vec<usize>) -> Arc<Key> {
        Arc::new(Key::new(self.model, inputs, outputs))
    }

    /// Looks for the answer to a request.
    pub fn begin(self: &Arc<Self>, key: &Arc<Key>, directives: Directives, now: Instant) -> Begin {
        let begun = Instant::now();
        if !directives.writes && !directives.reads {
            self.metrics.bypassed(Bypass::Request);
            return Begin::Alone;
        }
        if key.bytes() > LARGEST_KEY.min(self.settings.budget / UNDER_WAY_PART) {
            self.metrics.bypassed(Bypass::Large);
            return Begin::Alone;
        }
        if !self.is_on(now) {
            self.metrics.bypassed(Bypass::Off);
            return Begin::Alone;
        }
        let hash = (self.fingerprint)(key);
        if directives.reads {
            let found = self.lock().store.find(hash, now);
            match found {
                Found::Fresh(kept) if kept.is_for(key) => {
                    let age = now.saturating_duration_since(kept.since());
                    if directives.takes(age) {
                        self.metrics.hit();
                        return Begin::Hit(Hit { cache: Arc::clone(self), kept, begun, age });
                    }
                }
                Found::Stale(kept) => {
                    self.metrics.expired(1);
                    drop(kept);
                }
                // The answer to another request of the same hash gives way when this one's is kept.
                Found::Fresh(_) | Found::Nothing => {}
            }
        }
        // A request that wants a run of its own neither waits for one that began before it, nor is waited for.
        self.take_off(key, hash, directives.reads, begun, now)
    }

    /// The model has to run: joins a flight, or begins one.
    fn take_off(
        self: &Arc<Self>,
        key: &Arc<Key>,
        hash: u128,
        shares: bool,
        begun: Instant,
        now: Instant,
    ) -> Begin {
        let mut state = self.lock();
        if shares && let Some((flying, progress)) = state.flights.join(hash) {
            drop(state);
            if !flying.is_same(key) {
                self.metrics.bypassed(Bypass::Collision);
                return Begin::Alone;
            }
            return Begin::Follow(Follower::new(Arc::clone(self), progress, begun.elapsed()));
        }
        let Some(ticket) = state.flights.begin(hash, key, shares) else {
            drop(state);
            self.metrics.bypassed(Bypass::Busy);
            return Begin::Alone;
        };
        let reserved = state.flights.bytes();
        let removed = state.store.make_room(reserved, now);
        let (bytes, entries) = (state.store.bytes() + reserved, state.store.len());
        drop(state);
        self.removed(&removed, bytes, entries);
        self.metrics.miss();
        Begin::Lead(Lead::new(Arc::clone(self), Arc::clone(key), hash, ticket, begun.elapsed()))
    }

    /// True when the cache is not switched off.
    fn is_on(&self, now: Instant) -> bool {
        let on = self.lock().worth.is_on(now.saturating_duration_since(self.started));
        self.metrics.enabled(on);
        on
    }

    /// Counts the cost of a lookup, all of it.
    fn looked_up(&self, hit: bool, time: Duration, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        let decision = self.lock().worth.looked_up(hit, time, since);
        if let Some(SwitchedOff { balance, pause }) = decision {
            self.metrics.switched_off();
            tracing::info!(
                hit_share = balance.hit_share,
                lookup_seconds = balance.lookup,
                run_seconds = balance.run,
                pause_seconds = pause.as_secs(),
                "the prediction cache costs more than it saves and is switched off for a while"
            );
        }
    }

    /// A flight ends: with an answer to keep, or without.
    fn land(&self, hash: u128, flight: u64, key: &Key, kept: Option<&Arc<Kept>>, now: Instant) {
        let mut state = self.lock();
        state.flights.end(hash, flight, key.bytes());
        let reserved = state.flights.bytes();
        let mut large = false;
        let removed = match kept {
            Some(kept) if kept.bytes() <= state.store.largest() => {
                state.store.insert(hash, Arc::clone(kept), reserved, now)
            }
            Some(_) => {
                large = true;
                Removed::default()
            }
            None => Removed::default(),
        };
        let (bytes, entries) = (state.store.bytes() + reserved, state.store.len());
        drop(state);
        if large {
            self.metrics.bypassed(Bypass::Large);
        }
        self.removed(&removed, bytes, entries);
    }

    fn removed(&self, removed: &Removed, bytes: usize, entries: usize) {
        self.metrics.expired(removed.expired.len());
        self.metrics.evicted(removed.evicted.len());
        self.metrics.holds(bytes, entries);
    }

    /// No code that can panic runs under the lock; were it to, what is found is still compared with the whole key.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
