//! Whether a request that one pod turned away is sent to another one.
//!
//! Nothing was begun with it, so this is no retry and takes nothing out of the budget for those ([`super::retry`]): where one
//! pod is slow or busy, another one takes all that it turns away. But when all are busy, a second attempt costs them work
//! and brings nothing. So it is learned how often the second pod takes the request, and where that is seldom only one
//! request of some is tried.

/// Weight of a new outcome in the mean: it is over the last 16 or so.
const NEW: f32 = 1.0 / 16.0;
/// The share that must be taken: below it a second attempt costs more than it brings.
const WORTH: f32 = 0.25;
/// Where it is not worth it, one request of so many finds out whether it is again.
const EXPLORE: u32 = 16;

/// What is known of second attempts of one model. 8 bytes, so that it fits into one atomic: see [`Elsewhere::to_bits`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elsewhere {
    /// The share that the second pod took.
    taken: f32,
    /// Requests since the last one that was tried though it seemed not worth it.
    passed: u32,
}

impl Default for Elsewhere {
    /// Nothing is known: it is tried.
    fn default() -> Self {
        Self { taken: 1.0, passed: 0 }
    }
}

impl Elsewhere {
    /// For an atomic. 0 is as [`Elsewhere::default`].
    pub fn to_bits(self) -> u64 {
        // The share that was not taken, so that zeros are the beginning.
        (u64::from((1.0 - self.taken).to_bits()) << 32) | u64::from(self.passed)
    }

    /// From what [`Elsewhere::to_bits`] gave.
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken by itself")]
    pub fn from_bits(bits: u64) -> Self {
        Self { taken: 1.0 - f32::from_bits((bits >> 32) as u32), passed: bits as u32 }
    }

    /// Whether the next request that is turned away is sent elsewhere, and what is known then.
    pub fn next(self) -> (bool, Self) {
        if self.taken >= WORTH {
            return (true, self);
        }
        let passed = self.passed.saturating_add(1);
        if passed >= EXPLORE { (true, Self { passed: 0, ..self }) } else { (false, Self { passed, ..self }) }
    }

    /// The second pod took the request, or turned it away as well.
    #[must_use]
    pub fn ended(self, was_taken: bool) -> Self {
        let outcome = if was_taken { 1.0 } else { 0.0 };
        Self { taken: self.taken + NEW * (outcome - self.taken), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `count` requests that are turned away, those that are sent elsewhere when the second pod does as told.
    fn sent(state: &mut Elsewhere, count: usize, takes: impl Fn(usize) -> bool) -> usize {
        let mut sent = 0;
        for number in 0..count {
            let (tries, after) = state.next();
            *state = after;
            if tries {
                sent += 1;
                *state = state.ended(takes(number));
            }
        }
        sent
    }

    #[test]
    fn all_are_sent_while_another_pod_takes_them() {
        let mut state = Elsewhere::default();
        assert_eq!(sent(&mut state, 1000, |_| true), 1000);
        assert_eq!(sent(&mut state, 1000, |number| number % 2 == 0), 1000, "every second one is worth it");
    }

    #[test]
    fn one_of_some_is_sent_while_all_turn_requests_away_and_all_are_again_when_they_do_not() {
        let mut state = Elsewhere::default();
        let futile = sent(&mut state, 1600, |_| false);
        assert!((100..140).contains(&futile), "{futile}");
        let found = sent(&mut state, 200, |_| true);
        assert!(found > 100, "{found}: it is seen after some explorations");
        assert_eq!(sent(&mut state, 100, |_| true), 100);
    }

    #[test]
    fn zeros_are_the_beginning_and_bits_are_kept() {
        assert_eq!(Elsewhere::from_bits(0), Elsewhere::default());
        let mut state = Elsewhere::default();
        sent(&mut state, 90, |_| false);
        let back = Elsewhere::from_bits(state.to_bits());
        assert!(
            (back.taken - state.taken).abs() < 1e-6 && back.passed == state.passed && back.passed > 0,
            "{back:?}"
        );
    }
}
