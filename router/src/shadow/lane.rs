//! How much may wait for one shadow. A shadow that hangs fills its own lane and leaves those of others alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use crate::shadow::Limits;
use crate::shadow::count::Dropped;
use crate::table::snapshot::Mirror;

/// One lane may take this part of the memory for copies.
const PART: usize = 4;

/// The copies for one revision.
#[derive(Debug, Default)]
pub struct Lane {
    waiting: AtomicUsize,
    bytes: AtomicUsize,
    /// Permits for those that are under way.
    slots: OnceLock<Semaphore>,
}

impl Lane {
    /// How many copies wait to be sent.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Permits to be under way, given out in order.
    pub fn slots(&self, limits: &Limits) -> &Semaphore {
        self.slots.get_or_init(|| Semaphore::new(limits.concurrency))
    }
}

/// A copy's place in a lane, from its making until it was compared.
#[derive(Debug)]
pub struct Place {
    mirror: Arc<Mirror>,
    bytes: usize,
    waiting: bool,
}

impl Place {
    /// Takes a place for a copy of `bytes`, if there is one.
    pub fn take(mirror: &Arc<Mirror>, bytes: usize, limits: &Limits) -> Result<Self, Dropped> {
        let lane = &mirror.revision.lane;
        take(&lane.waiting, 1, limits.queue).ok_or(Dropped::QueueFull)?;
        let mut place = Self { mirror: Arc::clone(mirror), bytes: 0, waiting: true };
        take(&lane.bytes, bytes, limits.bytes / PART).ok_or(Dropped::Memory)?;
        place.bytes = bytes;
        Ok(place)
    }

    /// Where the copy goes.
    pub fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    /// It waits no longer.
    pub fn begin(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.mirror.revision.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.begin();
        self.mirror.revision.lane.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Adds `more` to what is taken, if that stays within the limit.
fn take(taken: &AtomicUsize, more: usize, limit: usize) -> Option<usize> {
    let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= limit);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::live::Revision;

    #[test]
    fn a_lane_is_bounded_in_number_and_in_bytes() {
        let revision = Arc::new(Revision::new("digits-b"));
        let mirror = Arc::new(Mirror { route: "digits".into(), revision, ppm: 1, count: Arc::default() });
        let timeout = Duration::from_secs(1);
        let limits = Limits { queue: 2, bytes: 400, concurrency: 1, timeout, longest_answer: 1 };
        let take = |bytes| Place::take(&mirror, bytes, &limits);
        let mut first = take(60).unwrap();
        // A quarter of all the bytes, and what is refused takes no place.
        assert_eq!(take(41).unwrap_err(), Dropped::Memory);
        let second = take(40).unwrap();
        assert_eq!(take(0).unwrap_err(), Dropped::QueueFull);
        // What is under way waits no longer, but is still there.
        first.begin();
        assert_eq!(mirror.revision.lane.waiting(), 1);
        assert_eq!(take(1).unwrap_err(), Dropped::Memory);
        drop((first, second));
        assert_eq!(mirror.revision.lane.waiting(), 0);
        assert!(take(100).is_ok());
    }
}
