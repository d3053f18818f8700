//! Whether a download is worth its time.

use std::time::Duration;

/// How much faster than until now the rest would have to come before a download is given up.
const FASTER: u128 = 2;
/// The part of the allowed time that a download has before it is judged: one in so many.
const GRACE: u32 = 4;

/// Whether a download cannot end in time: a quarter of the `allowed` time is over, and what is missing of `expected` bytes would
/// not come in the rest of it even at twice the mean rate so far,
///
/// ```text
/// (expected - received) / (2 received / elapsed) > allowed - elapsed
/// ```
///
/// Without an `expected` length there is nothing to judge by, and the time limit alone ends it.
pub fn hopeless(received: u64, expected: Option<u64>, elapsed: Duration, allowed: Duration) -> bool {
    let Some(expected) = expected else { return false };
    if elapsed < allowed / GRACE {
        return false;
    }
    let missing = u128::from(expected.saturating_sub(received));
    let left = allowed.saturating_sub(elapsed).as_millis();
    // Bytes below 2^64 and milliseconds below 2^64 leave room for the product with 2.
    missing.saturating_mul(elapsed.as_millis()) > left.saturating_mul(FASTER).saturating_mul(received.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_given_up_and_a_slow_start_is_not() {
        let minutes = Duration::from_mins;
        // (received, expected, elapsed, allowed, hopeless)
        let cases = [
            (1, Some(1 << 30), minutes(1), minutes(15), false),
            (1 << 20, Some(1 << 30), minutes(5), minutes(15), true),
            // A third of the time, a fifth of the bytes: twice the rate makes it.
            (200, Some(1000), minutes(5), minutes(15), false),
            (199, Some(1000), minutes(5), minutes(15), true),
            (0, Some(1), minutes(4), minutes(15), true),
            (1000, Some(1000), minutes(14), minutes(15), false),
            (0, None, minutes(14), minutes(15), false),
        ];
        for (received, expected, elapsed, allowed, wanted) in cases {
            let actual = hopeless(received, expected, elapsed, allowed);
            assert_eq!(actual, wanted, "{received} of {expected:?} in {elapsed:?} of {allowed:?}");
        }
    }
}
