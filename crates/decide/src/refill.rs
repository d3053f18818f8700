//! The way back to a revision whose pods cannot take the whole demand yet: how much the revision that is left keeps meanwhile.
//!
//! To move all requests at once overloads the pods that are there; to leave some of them does harm. Both are counted in the
//! same measure, the share of all requests that go wrong:
//!
//! ```text
//! cost(x) = h x + max(0, 1 - x - c / u)
//! ```
//! - `x`: the share of all requests that the other revision keeps;
//! - `h`: the share of its answers that are bad;
//! - `c`: ready pods over those that the whole demand needs;
//! - `u`: the utilisation that pods are planned for ([`PLANNED_UTILISATION`]), so that ready pods can answer `c / u` of the
//!   demand before they refuse some of it.
//!
//! The other revision keeps what the ready pods cannot take as planned, `x = min(most, 1 - c)`, unless `cost(0) < cost(x)`: then
//! everything moves at once. The rule is our own; the two costs are those that Argo Rollouts' `dynamicStableScale` and a plain
//! abort choose between without weighing them.

use crate::traffic::WHOLE;

/// How busy pods are meant to be when they have their share, in percent: what is left is for bursts and lost pods.
pub const PLANNED_UTILISATION: u32 = 80;

/// Parts per million of the traffic that stay with the other revision: at most `most_ppm`, of which `bad_ppm` parts per million
/// are answered badly. `ready` of the `whole` pods that the demand needs are there.
///
/// More ready pods never leave more, so that what moved back stays.
#[must_use]
pub fn rest(ready: u32, whole: u32, most_ppm: u32, bad_ppm: u32) -> u32 {
    if ready >= whole {
        return 0;
    }
    let taken = u64::from(WHOLE) * u64::from(ready) / u64::from(whole);
    let lacking = WHOLE.saturating_sub(u32::try_from(taken).unwrap_or(WHOLE));
    let rest = lacking.min(most_ppm);
    // Costs times WHOLE^2 * planned * whole, which makes all of it whole numbers: a tie must not be decided by rounding.
    let all = i128::from(WHOLE);
    let planned = i128::from(PLANNED_UTILISATION) * i128::from(whole);
    let able = 100 * i128::from(ready) * all * all;
    let harm = i128::from(bad_ppm.min(WHOLE));
    let cost = |kept: u32| {
        let kept = i128::from(kept);
        harm * kept * planned + ((all - kept) * all * planned - able).max(0)
    };
    if cost(0) < cost(rest) { 0 } else { rest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERCENT: u32 = WHOLE / 100;

    #[test]
    fn everything_moves_when_harm_costs_more_than_overload() {
        // (ready, whole, most %, bad %, rest %)
        let cases = [
            // All pods are there.
            (5, 5, 50, 0, 0),
            (6, 5, 50, 100, 0),
            (0, 0, 50, 0, 0),
            // An abort of a good candidate: as pods come.
            (3, 5, 50, 0, 40),
            (4, 5, 50, 0, 20),
            // Never more than it had.
            (1, 5, 50, 0, 50),
            (1, 5, 10, 0, 10),
            // Overload 1 - 0.6 / 0.8 = 25 %; harm 0.4 h.
            (3, 5, 50, 60, 40),
            (3, 5, 50, 65, 0),
            // Overload 50 %, harm 60 %.
            (2, 5, 60, 100, 0),
            (2, 5, 60, 80, 60),
            // From 80 % of the pods on there is no overload: any harm is too much.
            (4, 5, 50, 1, 0),
            // Nobody is there to take over.
            (0, 5, 50, 100, 50),
        ];
        for (ready, whole, most, bad, rest) in cases {
            let found = super::rest(ready, whole, most * PERCENT, bad * PERCENT);
            assert_eq!(found, rest * PERCENT, "{ready} of {whole}, most {most} %, bad {bad} %");
        }
    }

    proptest! {
        #[test]
        fn what_moved_back_stays(whole in 1_u32..1000, most in 0..=WHOLE, bad in 0..=2 * WHOLE) {
            let mut before = most;
            for ready in 0..=whole {
                let rest = rest(ready, whole, most, bad);
                prop_assert!(rest <= before, "{ready} of {whole} leave {rest} after {before}");
                before = rest;
            }
            prop_assert_eq!(before, 0);
        }

        #[test]
        fn more_harm_never_leaves_more(ready in 0_u32..50, whole in 1_u32..50, most in 0..=WHOLE, bad in 0..=WHOLE, more in 0..=WHOLE) {
            prop_assert!(rest(ready, whole, most, bad.saturating_add(more)) <= rest(ready, whole, most, bad));
        }
    }
}
