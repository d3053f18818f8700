//! The e-variable is checked exactly (its expectation over every outcome, golden values of scipy), the detector by simulation with
//! fixed seeds.

use proptest::prelude::*;

use super::e_variable::closest_null;
use super::*;

mod detect;
mod null;
mod powers;

/// A small generator, so that simulations repeat: splitmix64.
pub(super) struct Random(pub u64);

impl Random {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn bad_of(&mut self, attempts: u64, rate: f64) -> u64 {
        (0..attempts).filter(|_| self.uniform() < rate).count() as u64
    }

    /// A block of `candidate` and `stable` attempts with these rates (stable's first).
    pub fn block(&mut self, candidate: u64, stable: u64, rates: (f64, f64)) -> Block {
        Block {
            candidate,
            candidate_bad: self.bad_of(candidate, rates.1),
            stable,
            stable_bad: self.bad_of(stable, rates.0),
        }
    }
}

/// The middle value.
pub(super) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Expectation of the e-variable of one block under true rates, summed over all outcomes.
fn expectation(block: Block, p_stable: f64, p_candidate: f64, tolerance: f64, truth: (f64, f64)) -> f64 {
    let (n_stable, n_candidate) = (block.stable as f64, block.candidate as f64);
    let q = closest_null(p_stable, p_candidate, n_stable, n_candidate, tolerance);
    let side = |n: u64, p: f64, null: f64, true_rate: f64| -> f64 {
        // Outcomes are independent, so the sum over sequences is the n-th power of the sum over one attempt.
        let once = true_rate * p / null + (1.0 - true_rate) * (1.0 - p) / (1.0 - null);
        once.powi(i32::try_from(n).unwrap())
    };
    side(block.stable, p_stable, q, truth.0) * side(block.candidate, p_candidate, q + tolerance, truth.1)
}

proptest! {
    /// The property that makes the false-alarm rate hold: without harm the expected evidence is at most 1.
    #[test]
    fn without_harm_the_expected_evidence_is_at_most_one(
        stable in 1_u64..40, candidate in 1_u64..20, p in 0.001_f64..0.9, effect in prop::sample::select(BEYOND_TOLERANCE.to_vec()),
        rate in 0.0005_f64..0.97, share in 0.0..=1.0_f64, tolerance in prop::sample::select(vec![0.0, 0.02, 0.1]),
    ) {
        let (p, candidates) = e_variable::alternatives(p, tolerance);
        let index = BEYOND_TOLERANCE.iter().position(|other| other.to_bits() == effect.to_bits()).unwrap();
        prop_assume!(candidates[index].is_some());
        let block = Block { candidate, stable, ..Block::default() };
        let worse = (rate + share * tolerance).min(1.0);
        let e = expectation(block, p, candidates[index].unwrap(), tolerance, (rate, worse));
        prop_assert!(e <= 1.0 + 1e-9, "expectation {}", e);
    }

    /// Rates that change inside a block only make the expectation smaller than their means would.
    #[test]
    fn only_the_mean_rates_of_a_block_matter(rates in prop::collection::vec(0.0..1.0_f64, 2..20), p in 0.001..0.5_f64) {
        let q = closest_null(p, p + 0.2, rates.len() as f64, 1.0, TOLERANCE);
        let factor = |rate: f64| rate * p / q + (1.0 - rate) * (1.0 - p) / (1.0 - q);
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let product: f64 = rates.iter().map(|rate| factor(*rate)).product();
        prop_assert!(product <= factor(mean).powi(i32::try_from(rates.len()).unwrap()) * (1.0 + 1e-9));
    }

    /// Whatever is counted, the evidence stays a number.
    #[test]
    fn evidence_is_always_finite(
        blocks in prop::collection::vec((any_count(), any_count(), any_count(), any_count()), 0..40), controlled: bool, tolerance: f64,
    ) {
        let (mut detector, mut evidence, mut sum) = (Detector::new(tolerance), Evidence::default(), Increment::default());
        for (candidate, candidate_bad, stable, stable_bad) in blocks {
            let increment = detector.increment(Block { candidate, candidate_bad, stable, stable_bad }, controlled);
            evidence.add(&increment);
            sum += increment;
            prop_assert!(evidence.log10().is_finite() && sum.0.iter().all(|log| log.is_finite()));
        }
    }

    /// Increments travel as text between routers.
    #[test]
    fn an_increment_survives_the_wire(logs in prop::array::uniform5(-1e6..1e6_f64)) {
        let increment = Increment(logs);
        let text = serde_json::to_string(&increment).unwrap();
        let back: Increment = serde_json::from_str(&text).unwrap();
        prop_assert!(back.since(&increment).0.iter().all(|log| log.abs() < 1e-9));
    }
}

fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..50, Just(u64::MAX), any::<u64>()]
}

#[test]
fn closest_pairs_and_increments_are_those_of_scipy() {
    // scipy.optimize.brentq on the derivative of the divergence, and the log-likelihood ratio by Python's math.log.
    // p_stable, p_candidate, block as (stable, stable_bad, candidate, candidate_bad), q, increment.
    let cases = [
        (0.01, 0.06, (9, 0, 1, 1), 0.011_171_680_434_811_397, 0.665_492_506_452_909_5),
        (0.01, 0.81, (9, 0, 1, 1), 0.074_012_586_887_239_68, 2.755_204_283_236_289_6),
        (0.001, 0.201, (1, 0, 1, 1), 0.082_221_873_123_403_83, 0.760_958_339_550_983_4),
        (0.05, 0.15, (900, 30, 100, 33), 0.056_179_806_240_234_414, 18.960_806_780_936_018),
        (0.5, 0.9, (90, 3, 10, 3), 0.538_267_546_794_816, -2.260_157_189_158_196),
        (0.9, 0.95, (9, 0, 1, 1), 0.903_618_695_043_463_8, 0.359_884_082_310_255_1),
    ];
    for (p_stable, p_candidate, (stable, stable_bad, candidate, candidate_bad), q, expected) in cases {
        let found = closest_null(p_stable, p_candidate, stable as f64, candidate as f64, TOLERANCE);
        assert!((found - q).abs() < 1e-12, "{p_stable}, {p_candidate}: {found}, not {q}");
        let block = Block { candidate, candidate_bad, stable, stable_bad };
        let increments = e_variable::controlled(block, p_stable, TOLERANCE).0;
        let (_, candidates) = e_variable::alternatives(p_stable, TOLERANCE);
        let index =
            candidates.iter().position(|p| p.is_some_and(|p| (p - p_candidate).abs() < 1e-9)).unwrap();
        assert!(
            (increments[index] - expected).abs() < 1e-9,
            "{p_stable}, {p_candidate}: {}",
            increments[index]
        );
    }
}

#[test]
fn what_is_no_number_is_refused_with_its_cause() {
    assert_eq!(Increment::try_from([0.0, 1.0, f64::NAN, 0.0, 0.0]), Err(NotFinite));
    assert_eq!(Increment::try_from([0.0, f64::INFINITY, 0.0, 0.0, 0.0]), Err(NotFinite));
    assert!(serde_json::from_str::<Increment>("[1e999, 0, 0, 0, 0]").is_err());
    assert!(serde_json::from_str::<Increment>("[1, 2]").is_err());
    assert!(NotFinite.to_string().contains("finite"));
}

#[test]
fn the_alarm_follows_from_the_budget() {
    let cases = [
        // 1 % for 10,000 blocks is a million to one.
        (budget::alarm_log10(0.01, 10_000), 6.0),
        // A month of one operator's looks.
        (budget::alarm_log10(0.01, 2_592_000), 8.413_634),
        // Bounds: no budget is above a half or below one in a million, no alarm below 100 or above 10^15.
        (budget::alarm_log10(7.0, 1), 2.0),
        (budget::alarm_log10(0.0, 1), 6.0),
        (budget::alarm_log10(f64::NAN, 10_000), 6.0),
        (budget::alarm_log10(f64::INFINITY, 10_000), 4.301_03),
        (budget::alarm_log10(1e-6, u64::MAX), 15.0),
        // The plan has half of the budget; each doubling of the time costs a factor of 4.
        (budget::alarm_log10_after(0.01, 10_000, 0), 6.301_03),
        (budget::alarm_log10_after(0.01, 10_000, 10_000), 6.301_03),
        (budget::alarm_log10_after(0.01, 10_000, 10_001), 6.903_09),
        (budget::alarm_log10_after(0.01, 10_000, 40_001), 8.107_21),
        (budget::alarm_log10_after(0.01, 0, u64::MAX), 15.0),
    ];
    for (index, (alarm, expected)) in cases.into_iter().enumerate() {
        assert!((alarm - expected).abs() < 1e-5, "case {index}: {alarm}, not {expected}");
    }
}

#[test]
fn the_budget_of_a_run_that_holds_for_ever_is_kept() {
    // Sum over the doublings of P(alarm) <= blocks until then / T.
    let (declared, planned) = (0.01, 7200_u64);
    let spent: f64 = (0..14)
        .map(|doubling| {
            let until = planned << doubling;
            until as f64 / 10_f64.powf(budget::alarm_log10_after(declared, planned, until))
        })
        .sum();
    assert!(spent <= declared && spent > declared * 0.99, "{spent}");
}

#[test]
fn blocks_are_those_of_all_who_decide() {
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(budget::blocks(hour, 1, 1), 4 * 3600 + 3600);
    assert_eq!(budget::blocks(hour, 3, 2), (9 * 4 * 3600 + 3600) * 2);
    assert_eq!(budget::blocks(std::time::Duration::MAX, u32::MAX, u32::MAX), u64::MAX);
}
