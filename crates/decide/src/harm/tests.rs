//! The e-variable is checked exactly (its expectation over every outcome), the detector by simulation with fixed seeds.

use proptest::prelude::*;

use super::*;

/// A small generator, so that simulations repeat: splitmix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn bad_of(&mut self, attempts: u64, rate: f64) -> u64 {
        (0..attempts).filter(|_| self.uniform() < rate).count() as u64
    }
}

/// Candidate requests until the alarm; `None` when there is none in `blocks` looks of `ratio` stable to 1 candidate attempts.
fn requests_to_alarm(seed: u64, blocks: u64, ratio: u64, rates: impl Fn(u64) -> (f64, f64)) -> Option<u64> {
    let mut random = Random(seed);
    let mut detector = Detector::default();
    for look in 0..blocks {
        let (stable, candidate) = rates(look);
        let block = Block {
            candidate: 1,
            candidate_bad: random.bad_of(1, candidate),
            stable: ratio,
            stable_bad: random.bad_of(ratio, stable),
        };
        detector.look(block, true);
        if detector.alarm() {
            return Some(look + 1);
        }
    }
    None
}

fn median(seeds: u64, ratio: u64, stable: f64, candidate: f64) -> u64 {
    let mut delays: Vec<_> =
        (0..seeds).filter_map(|seed| requests_to_alarm(seed, 3000, ratio, |_| (stable, candidate))).collect();
    assert_eq!(delays.len() as u64, seeds, "harm must always be found");
    delays.sort_unstable();
    delays[delays.len() / 2]
}

/// Expectation of the e-variable of one block under true rates, summed over all outcomes.
fn expectation(block: Block, p_stable: f64, effect: f64, truth: (f64, f64)) -> f64 {
    let p_candidate = (p_stable + effect).min(0.98);
    let q = closest_null(p_stable, p_candidate, block);
    let side = |n: u64, p: f64, null: f64, true_rate: f64| -> f64 {
        // Outcomes are independent, so the sum over sequences is the n-th power of the sum over one attempt.
        let once = true_rate * p / null + (1.0 - true_rate) * (1.0 - p) / (1.0 - null);
        once.powi(i32::try_from(n).unwrap())
    };
    side(block.stable, p_stable, q, truth.0) * side(block.candidate, p_candidate, q + TOLERANCE, truth.1)
}

proptest! {
    /// The property that makes the false-alarm rate hold: without harm the expected evidence is at most 1.
    #[test]
    fn without_harm_the_expected_evidence_is_at_most_one(
        stable in 1_u64..40, candidate in 1_u64..20, p in 0.001_f64..0.6, effect in prop::sample::select(EFFECTS.to_vec()),
        rate in 0.0005_f64..0.97, worse in 0.0..=TOLERANCE,
    ) {
        prop_assume!((p + effect).min(0.98) - p > TOLERANCE);
        let block = Block { candidate, stable, ..Block::default() };
        let e = expectation(block, p, effect, (rate, rate + worse));
        prop_assert!(e <= 1.0 + 1e-6, "expectation {}", e);
    }

    /// Whatever is counted, the evidence stays a number.
    #[test]
    fn evidence_is_always_finite(blocks in prop::collection::vec((0_u64..50, 0_u64..50, 0_u64..50, 0_u64..50), 0..40), controlled: bool) {
        let mut detector = Detector::default();
        for (candidate, bad, stable, stable_bad) in blocks {
            let block = Block { candidate, candidate_bad: bad.min(candidate), stable, stable_bad: stable_bad.min(stable) };
            detector.look(block, controlled);
            prop_assert!(detector.evidence_log10().is_finite());
        }
    }
}

#[test]
fn harm_is_found_within_the_published_delays() {
    // Medians of the project's simulation for 30 % harm at T = 1e6: 26 and 68 candidate requests at 9:1, 74 and 135 at 1:1,
    // for base rates of 0.1 % and 5 %. The margin covers the spread of a median of 41 runs.
    for (ratio, stable, published) in [(9, 0.001, 26), (9, 0.05, 68), (1, 0.001, 74), (1, 0.05, 135)] {
        let found = median(41, ratio, stable, 0.3);
        assert!(
            found <= published * 14 / 10,
            "{ratio}:1 at {stable}: {found} requests, published {published}"
        );
    }
}

#[test]
fn total_failure_is_found_in_a_few_requests() {
    assert!(median(41, 9, 0.001, 1.0) <= 12);
}

#[test]
fn an_incident_that_hits_both_arms_gives_no_alarm() {
    let shared = |look| if (1000..2000).contains(&look) { (0.2, 0.2) } else { (0.01, 0.01) };
    for ratio in [1, 9] {
        let alarms = (0..40).filter(|seed| requests_to_alarm(*seed, 6000, ratio, shared).is_some()).count();
        assert_eq!(alarms, 0, "{ratio}:1");
    }
}

#[test]
fn a_healthy_candidate_gives_no_alarm() {
    let alarms =
        (0..20).filter(|seed| requests_to_alarm(*seed, 20_000, 9, |_| (0.05, 0.05)).is_some()).count();
    assert_eq!(alarms, 0);
}

#[test]
fn a_candidate_without_company_is_judged_when_stable_answers() {
    let mut detector = Detector::default();
    detector.look(Block { candidate: 30, candidate_bad: 30, ..Block::default() }, true);
    assert!(!detector.alarm(), "without stable an outage of both cannot be told apart");
    detector.look(Block { stable: 270, ..Block::default() }, true);
    assert!(detector.alarm());
}

#[test]
fn without_control_the_remembered_rate_stands_in() {
    let mut detector = Detector::default();
    detector.look(Block { candidate: 100, candidate_bad: 0, stable: 900, stable_bad: 1 }, true);
    for _ in 0..10 {
        detector.look(Block { candidate: 100, candidate_bad: 0, ..Block::default() }, false);
    }
    assert!(!detector.alarm());
    detector.look(Block { candidate: 100, candidate_bad: 30, ..Block::default() }, false);
    assert!(detector.alarm());
}
