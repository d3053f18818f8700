//! Answers within a budget of bytes and a time to live.
//!
//! Which answer gives way is chosen by SIEVE (Zhang et al., "SIEVE is simpler than LRU", NSDI 2024): the answers stand in
//! the order in which they came, a hand walks from the oldest to the newest, and takes the first that was not asked for
//! since it last came by. A hit sets a mark and moves nothing. As the order is that of age, those whose time is over
//! are the oldest, and go first. All work is constant for each answer that comes or goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stoker_graph::Value;

use super::key::{Key, bytes_of};

/// Marks that the hand passes over before it takes an answer all the same: the bound of its work.
const SECOND_CHANCES: usize = 16;
/// Answers that are looked at for the end of their time whenever room is made.
const EXPIRED_AT_A_TIME: usize = 4;
/// Places of the smallest table; others are this times a power of two. See [`tables`].
const FIRST_PLACES: usize = 14;
/// The tables take at most this part of the budget.
const TABLES_PART: usize = 4;
/// One answer takes at most this part of the budget.
const LARGEST_PART: usize = 8;
/// The most bytes of one answer, whatever the budget: it is copied on a thread that serves connections.
const LARGEST: usize = 4 << 20;
/// Lives end up to this part before their time, so that answers that came together do not go together.
const JITTER: f64 = 0.1;
/// A hundred years, so that no sum of times passes what clocks hold.
const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Two counts and the allocator's own, for an `Arc`.
const SHARED: usize = 32;

/// An answer, with all that it depends on.
#[derive(Debug)]
pub struct Kept {
    key: Arc<Key>,
    outputs: Vec<(usize, Value)>,
    since: Instant,
    until: Instant,
    bytes: usize,
}

impl Kept {
    /// A copy of `outputs`, computed at `now`, for at most `time_to_live`. The jitter is in the upper bits of the hash:
    /// it differs from key to key, and from process to process.
    pub fn new(
        key: Arc<Key>,
        outputs: &[(usize, Value)],
        time_to_live: Duration,
        hash: u128,
        now: Instant,
    ) -> Self {
        // A copy is not larger than it must be; outputs that were cut out of a batch are.
        let outputs = outputs.to_vec();
        let bytes = key.bytes()
            + size_of::<Self>()
            + 2 * SHARED
            + outputs.capacity() * size_of::<(usize, Value)>()
            + outputs.iter().map(|(_, value)| bytes_of(value)).sum::<usize>();
        let fraction = (hash >> 96) as f64 / 2_f64.powi(32);
        let life = time_to_live.min(LONGEST_LIFE).mul_f64(1.0 - JITTER * fraction);
        Self { key, outputs, since: now, until: now + life, bytes }
    }

    /// True when it is the answer to a request of this key.
    pub fn is_for(&self, key: &Key) -> bool {
        self.key.is_same(key)
    }

    /// A copy of the outputs.
    pub fn outputs(&self) -> Vec<(usize, Value)> {
        self.outputs.clone()
    }

    /// Bytes that it takes in memory, with its key.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When it was computed.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// What a hash leads to.
#[derive(Debug)]
pub enum Found {
    /// An answer whose time is not over. Whether it is that of the request the caller compares.
    Fresh(Arc<Kept>),
    /// One whose time is over; it is out of the store.
    Stale(Arc<Kept>),
    /// None.
    Nothing,
}

/// Answers that are out of the store, to be freed when the lock is not held.
#[derive(Debug, Default)]
pub struct Removed {
    /// Their time was over.
    pub expired: Vec<Arc<Kept>>,
    /// They gave way.
    pub evicted: Vec<Arc<Kept>>,
}

/// A place in the order.
#[derive(Debug, Default)]
struct Place {
    hash: u128,
    /// `None` for a place that is free.
    kept: Option<Arc<Kept>>,
    asked_for: bool,
    newer: Option<usize>,
    older: Option<usize>,
}

/// The answers. Not shared: it stands behind a lock.
#[derive(Debug)]
pub struct Store {
    budget: usize,
    /// Bytes of the answers.
    bytes: usize,
    /// How many answers the tables have room for.
    places_limit: usize,
    places: Vec<Place>,
    free: Vec<usize>,
    index: HashMap<u128, usize>,
    newest: Option<usize>,
    oldest: Option<usize>,
    hand: Option<usize>,
}

impl Store {
    /// An empty store of at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            bytes: 0,
            places_limit: 0,
            places: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            newest: None,
            oldest: None,
            hand: None,
        }
    }

    /// Bytes of answers and tables.
    pub fn bytes(&self) -> usize {
        self.bytes + tables(self.places_limit)
    }

    /// The most bytes of one answer that is kept.
    pub fn largest(&self) -> usize {
        LARGEST.min(self.budget / LARGEST_PART)
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The answer of a hash.
    pub fn find(&mut self, hash: u128, now: Instant) -> Found {
        let Some(&at) = self.index.get(&hash) else { return Found::Nothing };
        let Some(place) = self.places.get_mut(at) else { return Found::Nothing };
        match &place.kept {
            Some(kept) if now < kept.until => {
                place.asked_for = true;
                Found::Fresh(Arc::clone(kept))
            }
            _ => self.take(at).map_or(Found::Nothing, Found::Stale),
        }
    }

    /// Keeps an answer, instead of one of the same hash. `reserved` bytes of the budget are for others. One that is too
    /// large for the budget is not kept.
    pub fn insert(&mut self, hash: u128, kept: Arc<Kept>, reserved: usize, now: Instant) -> Removed {
        let mut removed = Removed::default();
        if let Some(&at) = self.index.get(&hash) {
            removed.evicted.extend(self.take(at));
        }
        if kept.bytes > self.largest() {
            return removed;
        }
        self.forget_expired(now, &mut removed);
        if self.len() >= self.places_limit && !self.grow() {
            removed.evicted.extend(self.evict());
        }
        self.shrink_to(self.budget.saturating_sub(reserved.saturating_add(kept.bytes)), &mut removed);
        if self.len() < self.places_limit
            && self.bytes().saturating_add(kept.bytes).saturating_add(reserved) <= self.budget
        {
            self.put(hash, kept);
        }
        removed
    }

    /// Makes room for `reserved` bytes of others.
    pub fn make_room(&mut self, reserved: usize, now: Instant) -> Removed {
        let mut removed = Removed::default();
        self.forget_expired(now, &mut removed);
        self.shrink_to(self.budget.saturating_sub(reserved), &mut removed);
        removed
    }

    /// Evicts until no more than `bytes` are taken, or nothing is left.
    fn shrink_to(&mut self, bytes: usize, removed: &mut Removed) {
        while self.bytes() > bytes {
            match self.evict() {
                Some(kept) => removed.evicted.push(kept),
                None => return,
            }
        }
    }

    /// Takes the oldest answers out whose time is over, a few at a time.
    fn forget_expired(&mut self, now: Instant, removed: &mut Removed) {
        for _ in 0..EXPIRED_AT_A_TIME {
            let Some(at) = self.oldest else { return };
            let over = |place: &Place| place.kept.as_ref().is_some_and(|kept| kept.until <= now);
            if !self.places.get(at).is_some_and(over) {
                return;
            }
            removed.expired.extend(self.take(at));
        }
    }

    /// Takes out the answer that the hand chooses.
    fn evict(&mut self) -> Option<Arc<Kept>> {
        let mut at = self.hand.or(self.oldest)?;
        for _ in 0..SECOND_CHANCES {
            let place = self.places.get_mut(at)?;
            if !std::mem::take(&mut place.asked_for) {
                break;
            }
            at = place.newer.or(self.oldest)?;
        }
        // Leaving the order, it sends the hand on.
        self.hand = Some(at);
        self.take(at)
    }

    /// Doubles the tables where the budget has room for that.
    fn grow(&mut self) -> bool {
        let limit = (self.places_limit * 2).max(FIRST_PLACES);
        if tables(limit) > self.budget / TABLES_PART {
            return false;
        }
        let more = |has: usize| limit.saturating_sub(has);
        self.places.reserve_exact(more(self.places.len()));
        self.free.reserve_exact(more(self.free.len()));
        self.index.reserve((2 * limit).saturating_sub(self.index.len()));
        self.places_limit = limit;
        true
    }

    /// Puts an answer in as the newest.
    fn put(&mut self, hash: u128, kept: Arc<Kept>) {
        self.bytes += kept.bytes;
        let place = Place { hash, kept: Some(kept), asked_for: false, newer: None, older: self.newest };
        let at = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(at) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        if let Some(newest) = self.newest.and_then(|newest| self.places.get_mut(newest)) {
            newest.newer = Some(at);
        }
        self.newest = Some(at);
        self.oldest = self.oldest.or(Some(at));
        self.index.insert(hash, at);
    }

    /// Takes an answer out of its place.
    fn take(&mut self, at: usize) -> Option<Arc<Kept>> {
        let Place { hash, kept, newer, older, .. } = std::mem::take(self.places.get_mut(at)?);
        let kept = kept?;
        match newer.and_then(|newer| self.places.get_mut(newer)) {
            Some(place) => place.older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| self.places.get_mut(older)) {
            Some(place) => place.newer = newer,
            None => self.oldest = newer,
        }
        if self.hand == Some(at) {
            self.hand = newer;
        }
        self.index.remove(&hash);
        self.free.push(at);
        self.bytes -= kept.bytes;
        Some(kept)
    }
}

/// Bytes of tables for so many answers. The hash table has a power of two of buckets and fills seven eighths of them. It
/// grows when removals have left more than half of those unusable, so it is made for twice as many answers as there can
/// be, and then never does: 16 buckets for 7 answers, with a byte beside each.
fn tables(places: usize) -> usize {
    places * (size_of::<Place>() + size_of::<usize>()) + places * 16 / 7 * (size_of::<(u128, usize)>() + 1)
}

#[cfg(test)]
mod tests;
