//! A unit counts at most once a second as evidence, however often it asks.
//!
//! One user in a loop would otherwise outvote all others: the statistics take attempts for independent. The first
//! request of a unit in a second counts with whatever becomes of it, the others of that second do not; so what is left
//! out does not depend on how attempts end, and both arms are thinned alike.
//!
//! Memory is fixed: sets of [`WAYS`] slots, each holding a part of the unit's hash and a second. Where a set is full of
//! other units of this second, the request does not count: losing some evidence of both arms is harmless, counting a
//! unit twice is not. With 10,000 units a second that happens to fewer than 1 request in 1,000. The hash has a key of
//! the process, so nobody can choose units that push others out.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How many sets there are.
const SETS: usize = 1 << 14;
/// How many units of one second a set holds.
const WAYS: usize = 4;

/// Remembers which units have counted in this second. Takes 512 KiB from its first use on.
#[derive(Debug)]
pub struct Once {
    start: Instant,
    key: RandomState,
    /// A tag in the upper half, in the lower the second after the last that counted; 0 for none.
    slots: OnceLock<Box<[AtomicU64]>>,
}

impl Default for Once {
    fn default() -> Self {
        Self { start: Instant::now(), key: RandomState::new(), slots: OnceLock::new() }
    }
}

impl Once {
    /// Whether a request of `unit` at `now` is the first of its second on this route.
    pub fn counts(&self, route: &str, unit: u128, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.start).as_secs();
        self.claim(self.key.hash_one((route, unit)), u32::try_from(second).unwrap_or(u32::MAX - 1) + 1)
    }

    /// The same with the hash, and the second counted from 1.
    fn claim(&self, hash: u64, second: u32) -> bool {
        let slots = self.slots.get_or_init(|| (0..SETS * WAYS).map(|_| AtomicU64::new(0)).collect());
        let set = usize::try_from(hash % SETS as u64).unwrap_or(0) * WAYS;
        let Some(slots) = slots.get(set..set + WAYS) else { return false };
        let tag = hash & !u64::from(u32::MAX);
        let mine = tag | u64::from(second);
        // Each round fails only when another thread took a slot, and there are few.
        loop {
            let seen: [u64; WAYS] = std::array::from_fn(|way| slots[way].load(Ordering::Relaxed));
            let last = |value: u64| value & u64::from(u32::MAX);
            // A request that was overtaken by a later second of its unit has counted, too.
            let own = seen.iter().position(|value| value & !u64::from(u32::MAX) == tag && last(*value) > 0);
            let way = match own {
                Some(way) if last(seen[way]) >= u64::from(second) => return false,
                Some(way) => way,
                None => match seen.iter().position(|value| last(*value) < u64::from(second)) {
                    Some(way) => way,
                    None => return false,
                },
            };
            if slots[way].compare_exchange(seen[way], mine, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_unit_counts_once_a_second_on_each_route() {
        let once = Once::default();
        let at = |ms| once.start + Duration::from_millis(ms);
        let first = [0, 10, 999, 1000, 1500, 2000, 1999].map(|ms| once.counts("digits", 7, at(ms)));
        assert_eq!(first, [true, false, false, true, false, true, false]);
        assert!(once.counts("digits", 8, at(2000)));
        assert!(once.counts("other", 7, at(2000)));
    }

    #[test]
    fn a_full_set_leaves_out_but_counts_nobody_twice() {
        let once = Once::default();
        let unit = |tag: u64| (tag << 32) | 5;
        let counted: Vec<bool> = (1..=6).map(|tag| once.claim(unit(tag), 1)).collect();
        assert_eq!(counted, [true, true, true, true, false, false]);
        assert!((1..=6).all(|tag| !once.claim(unit(tag), 1)));
        // The next second has room again.
        assert!((3..=6).all(|tag| once.claim(unit(tag), 2)));
    }

    #[test]
    fn few_of_ten_thousand_units_a_second_are_left_out() {
        let once = Once::default();
        for second in 0..5 {
            let now = once.start + Duration::from_secs(second);
            let counted = (0..10_000).filter(|unit| once.counts("digits", *unit, now)).count();
            // 7 of 10,000 on average, by the Poisson distribution of units over sets.
            assert!(counted >= 9_970, "{counted}");
        }
    }

    #[test]
    fn threads_do_not_count_a_unit_twice() {
        let once = Once::default();
        let now = once.start;
        let counted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|unit| once.counts("digits", *unit, now)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((990..=1000).contains(&counted), "{counted}");
    }
}
