//! Which arm serves a request: weighted rendezvous hashing over (unit, salt of the run).
//!
//! Each arm draws a number from a hash of the unit, the salt and its own name; the largest score `ppm / -ln(u)` wins. An
//! arm wins in exact proportion to its weight, and while only the candidate's weight grows a unit moves only towards the
//! candidate. Source: weighted rendezvous hashing, Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).

use std::hash::Hasher;

use siphasher::{sip::SipHasher13, sip128};

/// The whole of the traffic, in parts per million. The weights of a rule sum to this.
pub const WHOLE: u32 = 1_000_000;

/// Longest name of a unit, in bytes. A longer one names nothing: it is a document, not a user.
pub const LONGEST_NAME: usize = 1024;

/// The unit that a name stands for, such as the value of `x-user-id`; the same in every router and in every release.
/// `None` when the name is empty or longer than [`LONGEST_NAME`]: such a request is drawn by itself.
///
/// 128 bits of SipHash-1-3, so that no two users of a model ever share a unit. The keys are no secret: who looks for a
/// name that falls to the candidate finds one, as does who asks again without a cookie.
pub fn unit(name: &[u8]) -> Option<u128> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return None;
    }
    Some(sip128::SipHasher13::new_with_keys(0x7374_6f6b_6572, 0x0075_6e69_7473).hash(name).as_u128())
}

/// Chooses the arm of a unit: the index in `arms`, given as (name, weight in parts per million).
///
/// `unit` is whatever is kept together (here: one request), `salt` changes with the run, so that other units are in the
/// next canary. Arms of weight 0 are never chosen; `None` when no arm has weight.
pub fn choose<'a>(unit: u128, salt: &str, arms: impl IntoIterator<Item = (&'a str, u32)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, (name, ppm)) in arms.into_iter().enumerate() {
        if ppm == 0 {
            continue;
        }
        let score = f64::from(ppm) / -uniform(unit, salt, name).ln();
        if best.is_none_or(|(_, high)| score > high) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// An arm of a rule, with other arms by their positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its weight in parts per million.
    pub ppm: u32,
    /// The arm that takes the share while this one has no ready pod.
    pub fallback: Option<usize>,
    /// The arm that it is compared with, if any: takes over when this one is cut.
    pub control: Option<usize>,
    /// Whether it must get nothing.
    pub cut: bool,
}

/// The same rule when its cut arms get nothing. The share of a cut arm goes to its control; where that is cut too or there
/// is none, to the next arm in the chain of fallbacks that is not; else to the heaviest that is not. No chain of
/// fallbacks leads to a cut arm. Where all arms are cut nobody could take over, and nothing but errors would be worse than
/// what was cut: then nothing changes.
#[must_use]
pub fn without_cut(arms: &[Share]) -> Vec<Share> {
    if arms.iter().all(|arm| arm.cut) {
        return arms.to_vec();
    }
    let is_open = |index: &usize| arms.get(*index).is_some_and(|arm| !arm.cut);
    // A circle of fallbacks ends after each arm had its turn.
    let chain = |from: usize| {
        let next = |index: &usize| arms.get(*index).and_then(|arm| arm.fallback);
        std::iter::successors(next(&from), next).take(arms.len())
    };
    let heaviest =
        || (0..arms.len()).filter(is_open).max_by_key(|index| (arms[*index].ppm, usize::MAX - index));
    let mut rest: Vec<Share> = (0..arms.len())
        .map(|index| {
            let arm = arms[index];
            let fallback = chain(index).filter(|next| *next != index).find(is_open);
            Share { ppm: if arm.cut { 0 } else { arm.ppm }, fallback, ..arm }
        })
        .collect();
    for (index, arm) in arms.iter().enumerate().filter(|(_, arm)| arm.cut) {
        let heir = arm.control.filter(is_open).or_else(|| chain(index).find(is_open)).or_else(heaviest);
        if let Some(heir) = heir {
            rest[heir].ppm = rest[heir].ppm.saturating_add(arm.ppm);
        }
    }
    rest
}

/// A number in the open interval (0, 1), the same on every machine and in every release.
fn uniform(unit: u128, salt: &str, arm: &str) -> f64 {
    let mut hasher = SipHasher13::new_with_keys(0x7374_6f6b_6572, 0x6172_6d73);
    hasher.write(&unit.to_le_bytes());
    hasher.write(salt.as_bytes());
    // A separator that no name holds, so that ("ab", "c") and ("a", "bc") differ.
    hasher.write(&[0xff]);
    hasher.write(arm.as_bytes());
    // The upper 53 bits fill the mantissa; half a step up keeps 0 and 1 out.
    ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(candidate_ppm: u32, units: u128) -> f64 {
        let arms = [("stable", WHOLE - candidate_ppm), ("candidate", candidate_ppm)];
        let hits = (0..units).filter(|unit| choose(*unit, "salt", arms) == Some(1)).count();
        hits as f64 / units as f64
    }

    #[test]
    fn shares_follow_the_weights() {
        for ppm in [0, 1_000, 10_000, 100_000, 500_000, 1_000_000] {
            let p = f64::from(ppm) / f64::from(WHOLE);
            // Five standard deviations of a binomial over 200,000 units.
            let tolerance = 5.0 * (p * (1.0 - p) / 200_000.0).sqrt();
            assert!((share(ppm, 200_000) - p).abs() <= tolerance, "{ppm} ppm gave {}", share(ppm, 200_000));
        }
    }

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        // A change here would move units between arms at an upgrade of the router.
        let arms = [("stable", 500_000), ("candidate", 500_000)];
        let picks: Vec<_> = (0..16).map(|unit| choose(unit, "uid/1", arms).unwrap()).collect();
        assert_eq!(picks, GOLDEN);
    }
    const GOLDEN: [usize; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0];

    #[test]
    fn the_unit_of_a_name_is_the_same_in_every_release() {
        // A change here would move users between arms at an upgrade of the router.
        let units = ["a", "alice", "bob@example.com"].map(|name| unit(name.as_bytes()));
        assert_eq!(units, GOLDEN_UNITS.map(Some));
    }
    // SipHash-1-3 with 128 bits, computed from its definition by a second implementation.
    const GOLDEN_UNITS: [u128; 3] = [
        89_506_645_744_277_047_128_161_152_608_940_684_375,
        234_942_808_114_880_466_172_407_719_482_155_931_507,
        132_692_440_632_928_701_615_646_290_088_152_839_408,
    ];

    #[test]
    fn names_that_are_empty_or_endless_name_no_unit() {
        assert_eq!(unit(b""), None);
        assert!(unit(&[b'x'; LONGEST_NAME]).is_some());
        assert_eq!(unit(&[b'x'; LONGEST_NAME + 1]), None);
    }

    #[test]
    fn no_weight_means_no_arm() {
        assert_eq!(choose(7, "salt", [("a", 0), ("b", 0)]), None);
        assert_eq!(choose(7, "salt", []), None);
    }

    fn arm(ppm: u32, fallback: Option<usize>, control: Option<usize>, cut: bool) -> Share {
        Share { ppm, fallback, control, cut }
    }

    #[test]
    fn a_cut_arm_gives_its_share_to_its_control() {
        let weights = |arms: &[Share]| without_cut(arms).iter().map(|arm| arm.ppm).collect::<Vec<_>>();
        let stable = arm(700_000, None, None, false);
        let other = arm(200_000, Some(0), None, false);
        let cases = [
            // Nothing is cut.
            (vec![stable, other, arm(100_000, Some(0), Some(0), false)], vec![700_000, 200_000, 100_000]),
            // The control goes before the fallback.
            (vec![stable, other, arm(100_000, Some(0), Some(1), true)], vec![700_000, 300_000, 0]),
            // Without a control: the fallback.
            (vec![stable, other, arm(100_000, Some(1), None, true)], vec![700_000, 300_000, 0]),
            // The control is cut as well: along the chain.
            (
                vec![stable, arm(200_000, Some(0), None, true), arm(100_000, Some(1), Some(1), true)],
                vec![1_000_000, 0, 0],
            ),
            // Nothing is named: the heaviest.
            (vec![stable, other, arm(100_000, None, None, true)], vec![800_000, 200_000, 0]),
            // Nobody is left.
            (vec![arm(WHOLE, None, None, true)], vec![WHOLE]),
        ];
        for (arms, wanted) in cases {
            assert_eq!(weights(&arms), wanted, "{arms:?}");
        }
    }

    #[test]
    fn names_fall_to_arms_by_weight_and_to_others_in_the_next_run() {
        let arms = [("stable", 900_000), ("candidate", 100_000)];
        let hit = |salt: &str, user: u32| {
            choose(unit(format!("user-{user}").as_bytes()).unwrap(), salt, arms) == Some(1)
        };
        let users = 100_000_u32;
        let first = (0..users).filter(|user| hit("uid/1", *user)).count() as f64;
        let both = (0..users).filter(|user| hit("uid/1", *user) && hit("uid/2", *user)).count() as f64;
        // Five standard deviations of binomials; the two runs are independent, so 1 % are in both.
        assert!((first / f64::from(users) - 0.1).abs() < 5.0 * (0.09 / f64::from(users)).sqrt(), "{first}");
        assert!((both / f64::from(users) - 0.01).abs() < 5.0 * (0.0099 / f64::from(users)).sqrt(), "{both}");
    }

    proptest! {
        #[test]
        fn no_traffic_and_no_fallback_leads_to_a_cut_arm(
            drawn in prop::collection::vec((0..=WHOLE / 8, prop::option::of(0_usize..8), prop::option::of(0_usize..8), any::<bool>()), 1..8)
        ) {
            let arms: Vec<Share> = drawn.into_iter().map(|(ppm, fallback, control, cut)| arm(ppm, fallback, control, cut)).collect();
            let rest = without_cut(&arms);
            prop_assert_eq!(rest.len(), arms.len());
            let sum = |arms: &[Share]| arms.iter().map(|arm| arm.ppm).sum::<u32>();
            prop_assert_eq!(sum(&rest), sum(&arms));
            if arms.iter().all(|arm| arm.cut) {
                prop_assert_eq!(&rest, &arms);
                return Ok(());
            }
            for (before, after) in arms.iter().zip(&rest) {
                if before.cut {
                    prop_assert_eq!(after.ppm, 0);
                } else {
                    prop_assert!(after.ppm >= before.ppm);
                }
                if let Some(next) = after.fallback {
                    prop_assert!(!arms[next].cut);
                }
            }
            // Nothing more changes when it is done again.
            prop_assert_eq!(&without_cut(&rest), &rest);
        }

        #[test]
        fn a_unit_moves_only_to_the_candidate_while_its_weight_grows(unit: u128, low in 0..=WHOLE, more in 0..=WHOLE) {
            let high = low.saturating_add(more).min(WHOLE);
            let pick = |ppm| choose(unit, "run", [("stable", WHOLE - ppm), ("candidate", ppm)]);
            if pick(low) == Some(1) {
                prop_assert_eq!(pick(high), Some(1));
            }
        }
    }
}
