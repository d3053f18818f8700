//! How many requests come: what arrived, whether it was answered, refused or held.
//!
//! Several windows are looked at, and the highest rate counts: a long one is exact, a short one is quick. A short window is
//! believed by the lower end of what it can mean, `(n - 2 sqrt(n)) / w` (requests that come independently scatter by
//! `sqrt(n)`), so that chance alone never looks like a burst.

use std::collections::VecDeque;
use std::time::Duration;

/// Windows whose lower ends are believed, shortest first.
const QUICK: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];
/// The window whose mean is believed.
const STEADY: Duration = Duration::from_mins(1);
/// Below this much time nothing is known of a rate.
const SHORTEST: Duration = Duration::from_secs(2);
/// How many deviations a short window is lowered by.
const DOUBT: f64 = 2.0;
/// A trend is read from so many windows ...
const TREND: u32 = 4;
/// ... of this length each. A step lies in at most two neighbouring ones, and is no trend therefore.
const TREND_WINDOW: Duration = Duration::from_secs(10);

/// Arrivals by time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Oldest first; what is older than all windows is dropped.
    slots: VecDeque<Slot>,
}

#[derive(Clone, Debug, PartialEq)]
struct Slot {
    from: Duration,
    to: Duration,
    arrived: u64,
}

/// A rate, and the window that it was seen in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// The window.
    pub window: Duration,
}

impl Demand {
    /// So many requests arrived between two looks.
    pub fn add(&mut self, from: Duration, to: Duration, arrived: u64) {
        if to <= from {
            return;
        }
        self.slots.push_back(Slot { from, to, arrived });
        let oldest = to.saturating_sub(STEADY);
        while self.slots.front().is_some_and(|slot| slot.to <= oldest) {
            self.slots.pop_front();
        }
    }

    /// Requests per second by the window that shows the most; none while too little is known.
    pub fn rate(&self, now: Duration) -> Option<Rate> {
        let known = now.saturating_sub(self.slots.front()?.from);
        if known < SHORTEST {
            return None;
        }
        let steady = STEADY.min(known);
        let mut highest =
            Rate { per_second: self.arrived(now, steady) / steady.as_secs_f64(), window: steady };
        for window in QUICK.into_iter().filter(|window| *window < steady) {
            let arrived = self.arrived(now, window);
            let per_second = DOUBT.mul_add(-arrived.sqrt(), arrived) / window.as_secs_f64();
            if per_second > highest.per_second {
                highest = Rate { per_second, window };
            }
        }
        Some(highest)
    }

    /// By how many requests per second the rate grows each second; 0 unless it grew without a pause for 30 seconds.
    pub fn growth(&self, now: Duration) -> f64 {
        let seconds = TREND_WINDOW.as_secs_f64();
        if self.slots.front().is_none_or(|slot| now.saturating_sub(slot.from) < TREND_WINDOW * TREND) {
            return 0.0;
        }
        // Newest first.
        let counts: Vec<f64> = (0..TREND)
            .map(|back| self.arrived(now.saturating_sub(TREND_WINDOW * back), TREND_WINDOW))
            .collect();
        let steps = counts.windows(2).map(|pair| {
            let (newer, older) = (pair[0], pair[1]);
            // Certainly more, and not by a trifle.
            let sure = newer - older > DOUBT.mul_add((newer + older).sqrt() / 2.0, older * 0.02);
            if sure { newer - older } else { 0.0 }
        });
        steps.fold(f64::INFINITY, f64::min) / seconds / seconds
    }

    /// Requests in the window that ends at `now`. What came in a part of a slot counts in proportion.
    fn arrived(&self, now: Duration, window: Duration) -> f64 {
        let from = now.saturating_sub(window);
        let parts = self.slots.iter().map(|slot| {
            let overlap = slot.to.min(now).saturating_sub(slot.from.max(from));
            slot.arrived as f64 * overlap.as_secs_f64() / slot.to.saturating_sub(slot.from).as_secs_f64()
        });
        parts.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// So many requests in each second.
    fn of(counts: impl IntoIterator<Item = u64>) -> (Demand, Duration) {
        let (mut demand, mut now) = (Demand::default(), Duration::ZERO);
        for count in counts {
            demand.add(now, now + SECOND, count);
            now += SECOND;
        }
        (demand, now)
    }

    #[test]
    fn an_even_rate_is_read_from_the_long_window_and_a_step_from_the_short_one() {
        // (requests by second, rate, window in seconds)
        let even = vec![100; 90];
        let step = [vec![100; 60], vec![1000; 5]].concat();
        let dip = [vec![100; 60], vec![0; 30]].concat();
        // 5000 requests in 5 s, less twice their deviation of 71.
        for (counts, wanted, window) in [(even, 100.0, 60), (step, 971.7, 5), (dip, 50.0, 60)] {
            let (demand, now) = of(counts);
            let rate = demand.rate(now).unwrap();
            assert!((rate.per_second - wanted).abs() < 0.1, "{rate:?} {wanted}");
            assert_eq!(rate.window.as_secs(), window);
        }
    }

    #[test]
    fn one_look_says_nothing_and_a_gap_is_spread_evenly() {
        let (mut demand, now) = of([500]);
        assert_eq!(demand.rate(now), None);
        demand.add(now, now + SECOND * 40, 400);
        assert!((demand.rate(now + SECOND * 40).unwrap().per_second - 900.0 / 41.0).abs() < 1.0);
    }

    #[test]
    fn a_ramp_has_a_slope_and_a_step_has_none() {
        let (ramp, now) = of((0..60).map(|second| 500 + 20 * second));
        assert!((ramp.growth(now) - 20.0).abs() < 0.5, "{}", ramp.growth(now));
        for after in 1..60 {
            let (step, now) = of([vec![500; 60], vec![1500; after]].concat());
            assert!(step.growth(now) < 1e-9, "{after} s after the step: {}", step.growth(now));
        }
        let (even, now) = of(vec![500; 60]);
        assert!(even.growth(now) < 1e-9);
    }
}
