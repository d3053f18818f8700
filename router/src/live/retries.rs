//! The budget for second attempts of one model, shared by all its requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stoker_decide::balance::retry::{SLOTS, Slot, is_within, position};

/// Requests and retries of the last seconds. The rule is in [`stoker_decide::balance::retry`].
#[derive(Debug, Default)]
pub struct Retries([AtomicU64; SLOTS]);

impl Retries {
    /// A request has come.
    pub fn requested(&self, now: Duration) {
        self.change(now, |slot| slot.requested(now));
    }

    /// Takes a retry out of the budget, if there is one left.
    pub fn take(&self, now: Duration) -> bool {
        self.change(now, |slot| slot.retried(now));
        let slots = self.0.iter().map(|slot| Slot::from_bits(slot.load(Ordering::Relaxed)));
        let allowed = is_within(slots, now);
        if !allowed {
            self.change(now, |slot| slot.forgone(now));
        }
        allowed
    }

    fn change(&self, now: Duration, change: impl Fn(Slot) -> Slot) {
        let Some(slot) = self.0.get(position(now)) else { return };
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
