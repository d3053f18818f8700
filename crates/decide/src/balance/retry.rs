//! The budget for second attempts: at most a fifth of the requests of the last ten seconds.
//!
//! When everything fails, retries only add load to what fails already. So they are bounded by what succeeds to come in at
//! all, and a few are always allowed, or a model with one request a minute could never retry. The count is kept in
//! [`SLOTS`] slots of one second; each fits into an atomic.

use std::time::Duration;

/// Seconds that are looked back on.
pub const SLOTS: usize = 10;
/// One retry for so many requests.
const REQUESTS_FOR_ONE: u64 = 5;
/// Retries in [`SLOTS`] seconds that are allowed in any case: 3 a second.
const FLOOR: u64 = 3 * SLOTS as u64;

const REQUESTS_BITS: u32 = 28;
const RETRIES_BITS: u32 = 16;

/// What happened in one second. 8 bytes, so that it fits into one atomic: see [`Slot::to_bits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Which second, modulo 2^20: 12 days.
    second: u32,
    requests: u32,
    retries: u32,
}

/// The position of the slot that counts at `now`.
pub fn position(now: Duration) -> usize {
    usize::try_from(now.as_secs() % SLOTS as u64).unwrap_or(0)
}

/// Whether all slots together are within the budget. A retry is counted first and looked at then, so that two at once
/// cannot both take what is left; it is taken back with [`Slot::forgone`] when the answer is no.
pub fn is_within(slots: impl IntoIterator<Item = Slot>, now: Duration) -> bool {
    let (mut requests, mut retries) = (0, 0);
    for slot in slots.into_iter().filter(|slot| slot.is_recent(now)) {
        requests += u64::from(slot.requests);
        retries += u64::from(slot.retries);
    }
    retries <= (requests / REQUESTS_FOR_ONE).max(FLOOR)
}

impl Slot {
    /// For an atomic. 0 is an empty slot.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.second) << (REQUESTS_BITS + RETRIES_BITS))
            | (u64::from(self.requests) << RETRIES_BITS)
            | u64::from(self.retries)
    }

    /// From what [`Slot::to_bits`] gave.
    pub fn from_bits(bits: u64) -> Self {
        let field =
            |shift: u32, width: u32| u32::try_from((bits >> shift) & ((1 << width) - 1)).unwrap_or(u32::MAX);
        Self {
            second: field(REQUESTS_BITS + RETRIES_BITS, 20),
            requests: field(RETRIES_BITS, REQUESTS_BITS),
            retries: field(0, RETRIES_BITS),
        }
    }

    /// A request was begun.
    #[must_use]
    pub fn requested(self, now: Duration) -> Self {
        let slot = self.at(now);
        Self { requests: slot.requests.saturating_add(1).min((1 << REQUESTS_BITS) - 1), ..slot }
    }

    /// A retry is about to begin.
    #[must_use]
    pub fn retried(self, now: Duration) -> Self {
        let slot = self.at(now);
        Self { retries: slot.retries.saturating_add(1).min((1 << RETRIES_BITS) - 1), ..slot }
    }

    /// A retry that was counted at `counted` was not made.
    #[must_use]
    pub fn forgone(self, counted: Duration) -> Self {
        // A slot of another second does not hold it any more.
        if self.second == second(counted) {
            Self { retries: self.retries.saturating_sub(1), ..self }
        } else {
            self
        }
    }

    /// The slot, emptied when it is of an earlier second.
    fn at(self, now: Duration) -> Self {
        if self.second == second(now) { self } else { Self { second: second(now), ..Self::default() } }
    }

    fn is_recent(self, now: Duration) -> bool {
        (second(now).wrapping_sub(self.second) & ((1 << 20) - 1)) < u32::try_from(SLOTS).unwrap_or(0)
    }
}

fn second(now: Duration) -> u32 {
    u32::try_from(now.as_secs() & ((1 << 20) - 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Budget([Slot; SLOTS]);

    impl Budget {
        fn request(&mut self, now: Duration) {
            self.0[position(now)] = self.0[position(now)].requested(now);
        }

        fn retry(&mut self, now: Duration) -> bool {
            let slot = &mut self.0[position(now)];
            *slot = slot.retried(now);
            let allowed = is_within(self.0, now);
            if !allowed {
                self.0[position(now)] = self.0[position(now)].forgone(now);
            }
            allowed
        }
    }

    #[test]
    fn little_traffic_may_retry() {
        let mut budget = Budget::default();
        let now = Duration::from_secs(1000);
        budget.request(now);
        assert!(budget.retry(now));
        assert_eq!((1..100).filter(|_| budget.retry(now)).count(), 29);
        // And the floor comes again.
        let later = now + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| budget.retry(later)).count(), 30);
    }

    #[test]
    fn when_everything_fails_a_fifth_is_tried_again() {
        let mut budget = Budget::default();
        let mut allowed = 0;
        for i in 0..100_000_u64 {
            let now = Duration::from_millis(i);
            budget.request(now);
            allowed += u32::from(budget.retry(now));
        }
        assert!((19_900..=20_030).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_pod_that_dies_after_quiet_traffic_is_covered() {
        let mut budget = Budget::default();
        for i in 0..2_000_u64 {
            budget.request(Duration::from_millis(5 * i));
        }
        let burst = (0..1_000).filter(|_| budget.retry(Duration::from_secs(10))).count();
        assert!((350..=400).contains(&burst), "{burst}");
    }

    proptest! {
        #[test]
        fn amplification_is_bounded_in_the_ten_seconds_before_every_retry(
            steps in prop::collection::vec((0..3_u8, 0..400_u64), 1..2_000),
            begin in 0..10_000_000_000_u64,
        ) {
            let mut budget = Budget::default();
            let (mut now, mut requests, mut retries) = (Duration::from_millis(begin), Vec::new(), Vec::new());
            for (kind, pause) in steps {
                // Bursts and pauses: most steps are at the same millisecond.
                now += Duration::from_millis(pause.saturating_sub(350) * 20);
                if kind == 0 {
                    budget.request(now);
                    requests.push(now);
                } else if budget.retry(now) {
                    retries.push(now);
                    let from = now.as_secs().saturating_sub(SLOTS as u64 - 1);
                    let within = |times: &[Duration]| times.iter().filter(|time| time.as_secs() >= from).count();
                    prop_assert!(within(&retries) <= (within(&requests) / 5).max(30));
                }
            }
            for slot in budget.0 {
                prop_assert_eq!(Slot::from_bits(slot.to_bits()), slot);
            }
        }
    }
}
