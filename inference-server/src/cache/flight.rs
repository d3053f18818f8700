//! Requests that wait for an identical one under way.
//!
//! The first is the lead and runs the model. The others wait for it, each with its own deadline. When the lead fails, or
//! its client goes away, its flight is over and those who waited begin again: the first of them is the next lead. So no
//! error reaches another request, and no client can take an answer away from others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stoker_graph::Value;
use tokio::sync::watch;

use super::store::Kept;
use super::{Cache, Key};

/// How far a flight is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Running,
    Answered(Arc<Kept>),
    Failed,
}

/// Where followers see it.
pub(super) type Watch = watch::Receiver<Progress>;

/// The flights of a cache.
pub(super) struct Flights {
    limit: usize,
    bytes: usize,
    next: u64,
    under_way: HashMap<u128, Flight>,
}

struct Flight {
    id: u64,
    key: Arc<Key>,
    progress: Watch,
}

/// What a lead gets.
pub(super) struct Ticket {
    id: u64,
    /// Others may join.
    shared: bool,
    progress: watch::Sender<Progress>,
}

impl Flights {
    /// None yet. All their keys together take at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, next: 0, under_way: HashMap::new() }
    }

    /// Bytes of the keys of requests under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The flight of this hash: its key, which the caller compares, and where it is followed.
    pub(super) fn join(&self, hash: u128) -> Option<(Arc<Key>, Watch)> {
        let flight = self.under_way.get(&hash)?;
        Some((Arc::clone(&flight.key), flight.progress.clone()))
    }

    /// Begins a flight; `None` when there is no room for its key. One that is not `shared` cannot be joined.
    pub(super) fn begin(&mut self, hash: u128, key: &Arc<Key>, shared: bool) -> Option<Ticket> {
        let bytes = self.bytes.checked_add(key.bytes()).filter(|bytes| *bytes <= self.limit)?;
        self.bytes = bytes;
        let id = self.next;
        self.next += 1;
        let (sender, progress) = watch::channel(Progress::Running);
        if shared {
            self.under_way.entry(hash).or_insert_with(|| Flight { id, key: Arc::clone(key), progress });
        }
        Some(Ticket { id, shared, progress: sender })
    }

    /// Ends a flight whose key takes `bytes`.
    pub(super) fn end(&mut self, hash: u128, id: u64, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.under_way.get(&hash).is_some_and(|flight| flight.id == id) {
            self.under_way.remove(&hash);
        }
    }
}

/// The request that runs the model. Dropped without a word, it was given up: somebody else takes over.
pub struct Lead {
    cache: Arc<Cache>,
    key: Arc<Key>,
    hash: u128,
    ticket: Ticket,
    /// What the cache cost the request so far.
    cost: Duration,
    landed: bool,
}

impl Lead {
    pub(super) fn new(cache: Arc<Cache>, key: Arc<Key>, hash: u128, ticket: Ticket, cost: Duration) -> Self {
        Self { cache, key, hash, ticket, cost, landed: false }
    }

    /// The model gave these outputs in a run of `computed`: they are kept, and those who wait get them.
    pub fn succeed(mut self, outputs: &[(usize, Value)], computed: Duration, now: Instant) {
        let begun = Instant::now();
        let kept = Arc::new(Kept::new(
            Arc::clone(&self.key),
            outputs,
            self.cache.settings.time_to_live,
            self.hash,
            now,
        ));
        self.cache.land(self.hash, self.ticket.id, &self.key, Some(&kept), now);
        self.landed = true;
        // Nobody may wait.
        self.ticket.progress.send_replace(Progress::Answered(kept));
        // One that did not look says nothing about the worth of looking.
        if self.ticket.shared {
            self.cache.lock().worth.ran(computed);
            self.cache.looked_up(false, self.cost + begun.elapsed(), now);
        }
    }

    /// There is no answer, and the error is this request's alone.
    pub fn fail(mut self) {
        // Ended before it is told, so that the next lead finds nothing.
        self.land_empty();
        self.ticket.progress.send_replace(Progress::Failed);
    }

    fn land_empty(&mut self) {
        if !std::mem::replace(&mut self.landed, true) {
            self.cache.land(self.hash, self.ticket.id, &self.key, None, Instant::now());
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.land_empty();
    }
}

/// A request that waits for a lead.
pub struct Follower {
    cache: Arc<Cache>,
    progress: Watch,
    cost: Duration,
}

/// How a flight ended for those who followed it.
pub enum Followed {
    /// With these outputs.
    Answered(Vec<(usize, Value)>),
    /// The lead failed. What is wrong may be its own affair, or the inputs that all have.
    Failed,
    /// The lead's client went away.
    GivenUp,
}

impl Follower {
    pub(super) fn new(cache: Arc<Cache>, progress: Watch, cost: Duration) -> Self {
        Self { cache, progress, cost }
    }

    /// Waits for the end of the flight. The caller has the deadline.
    pub async fn end(mut self) -> Followed {
        let ended = match self.progress.wait_for(|progress| !matches!(progress, Progress::Running)).await {
            Ok(progress) => progress.clone(),
            // The sender is gone without a word.
            Err(_) => return Followed::GivenUp,
        };
        match ended {
            Progress::Answered(kept) => {
                let begun = Instant::now();
                let outputs = kept.outputs();
                self.cache.metrics.coalesced();
                self.cache.looked_up(true, self.cost + begun.elapsed(), Instant::now());
                Followed::Answered(outputs)
            }
            Progress::Failed | Progress::Running => Followed::Failed,
        }
    }
}
