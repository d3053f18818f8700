//! Second attempts of one model: the budget for those of requests that failed, and whether those of requests that were turned
//! away are worth it. Shared by all its requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stoker_decide::balance::elsewhere::Elsewhere;
use stoker_decide::balance::retry::{SLOTS, Slot, is_within, position};

/// Second attempts. The rules are in [`stoker_decide::balance::retry`] and [`stoker_decide::balance::elsewhere`].
#[derive(Debug, Default)]
pub struct Retries {
    /// Requests and retries of the last seconds.
    slots: [AtomicU64; SLOTS],
    /// An [`Elsewhere`].
    elsewhere: AtomicU64,
}

impl Retries {
    /// A request has come.
    pub fn requested(&self, now: Duration) {
        self.change(now, |slot| slot.requested(now));
    }

    /// Takes a retry out of the budget, if there is one left.
    pub fn take(&self, now: Duration) -> bool {
        self.change(now, |slot| slot.retried(now));
        let slots = self.slots.iter().map(|slot| Slot::from_bits(slot.load(Ordering::Relaxed)));
        let allowed = is_within(slots, now);
        if !allowed {
            self.change(now, |slot| slot.forgone(now));
        }
        allowed
    }

    /// Whether a request that a pod turned away is sent to another one.
    pub fn goes_elsewhere(&self) -> bool {
        let before = Elsewhere::from_bits(self.elsewhere.load(Ordering::Relaxed));
        let (goes, after) = before.next();
        if after != before {
            // Two at once may count as one: it is a matter of some.
            self.elsewhere.store(after.to_bits(), Ordering::Relaxed);
        }
        goes
    }

    /// The other pod took the request, or turned it away as well.
    pub fn went_elsewhere(&self, was_taken: bool) {
        let change = |bits: u64| Some(Elsewhere::from_bits(bits).ended(was_taken).to_bits());
        // A closure that always gives a value cannot fail.
        let _ = self.elsewhere.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    fn change(&self, now: Duration, change: impl Fn(Slot) -> Slot) {
        let Some(slot) = self.slots.get(position(now)) else { return };
        let changed = |bits: u64| Some(change(Slot::from_bits(bits)).to_bits());
        // A closure that always gives a value cannot fail.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn requests_at_once_cannot_take_more_than_there_is() {
        let budget = Arc::new(Retries::default());
        let now = Duration::from_secs(77);
        (0..1000).for_each(|_| budget.requested(now));
        let takers = (0..4).map(|_| {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || (0..1000).filter(|_| budget.take(now)).count())
        });
        let takers: Vec<_> = takers.collect();
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        // Two that look at the same moment may both forgo the last one; it is there for the next.
        assert!(taken <= 200 && taken + usize::from(budget.take(now)) >= 196, "{taken}");
    }
}
