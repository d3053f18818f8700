//! Which arm serves a request: weighted rendezvous hashing over (unit, salt of the run).
//!
//! Each arm draws a number from a hash of the unit, the salt and its own name; the largest score `ppm / -ln(u)` wins. An
//! arm wins in exact proportion to its weight, and while only the candidate's weight grows a unit moves only towards the
//! candidate. Source: weighted rendezvous hashing, Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The whole of the traffic, in parts per million. The weights of a rule sum to this.
pub const WHOLE: u32 = 1_000_000;

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
    fn no_weight_means_no_arm() {
        assert_eq!(choose(7, "salt", [("a", 0), ("b", 0)]), None);
        assert_eq!(choose(7, "salt", []), None);
    }

    proptest! {
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
