//! Slow start: a pod that has just become ready takes its share step by step.
//!
//! Caches are cold and code is not compiled yet; a full share would meet the slowest pod at its slowest. While there are
//! pods past it, a new one is considered for a growing part of the requests only.

use std::time::Duration;

/// How long it takes to the full share.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The share that it begins with: without requests a pod does not get warm.
const FLOOR: f64 = 0.1;

/// Whether a pod that became ready at `since` has not its full share yet.
pub fn is_warming(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < WINDOW
}

/// The part of its share that it has by now, from 0.1 to 1.
pub fn share(since: Duration, now: Duration) -> f64 {
    (now.saturating_sub(since).as_secs_f64() / WINDOW.as_secs_f64()).clamp(FLOOR, 1.0)
}

/// Whether it is considered for a request, by a random number.
pub fn is_admitted(since: Duration, now: Duration, random: u64) -> bool {
    // The upper 53 bits, as a number in [0, 1).
    ((random >> 11) as f64) / ((1_u64 << 53) as f64) < share(since, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_the_whole() {
        let since = Duration::from_secs(100);
        let at = |seconds: f64| share(since, since + Duration::from_secs_f64(seconds));
        for (seconds, wanted) in [(0.0, 0.1), (0.5, 0.1), (5.0, 0.5), (10.0, 1.0), (1000.0, 1.0)] {
            assert!((at(seconds) - wanted).abs() < 1e-9, "{seconds} s: {}", at(seconds));
        }
        assert!(is_warming(since, since + Duration::from_secs(9)) && !is_warming(since, since + WINDOW));
    }
}
