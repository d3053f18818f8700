//! Without harm: false alarms stay within the bound, whatever the base rate does. At an alarm of 10^2 or 10^3 they are frequent enough to
//! be counted.

use super::*;

/// How often the evidence of a run of blocks reaches the alarm: runs with an alarm among `runs`.
fn alarms(runs: u64, blocks: u64, alarm_log10: f64, mut world: impl FnMut(&mut Random, u64) -> Block) -> u64 {
    (0..runs)
        .filter(|seed| {
            let mut random = Random(seed * 7919 + 1);
            let (mut detector, mut evidence) = (Detector::default(), Evidence::default());
            (0..blocks).any(|block| {
                evidence.add(&detector.increment(world(&mut random, block), true));
                evidence.alarm(alarm_log10)
            })
        })
        .count() as u64
}

/// The most alarms among `runs` that a probability of `p` leaves likely: four standard deviations above the mean.
fn most(runs: u64, p: f64) -> f64 {
    let mean = runs as f64 * p;
    mean + 4.0 * (mean * (1.0 - p)).sqrt()
}

#[test]
fn on_the_edge_of_harm_alarms_stay_within_the_bound() {
    // The candidate is worse by exactly the tolerance: the null at its worst.
    let (runs, blocks, alarm) = (600, 100, 3.0);
    let bound = most(runs, blocks as f64 / 10_f64.powf(alarm));
    for base in [0.0, 0.001, 0.05, 0.5, 0.97] {
        for (candidate, stable) in [(1, 1), (1, 9), (10, 90), (9, 1)] {
            let found = alarms(runs, blocks, alarm, |random, _| {
                random.block(candidate, stable, (base, base + TOLERANCE))
            });
            assert!(
                found as f64 <= bound,
                "base {base}, {candidate}:{stable}: {found} of {runs}, bound {bound}"
            );
        }
    }
}

#[test]
fn equal_arms_give_far_fewer_alarms_than_the_bound() {
    let (runs, blocks, alarm) = (1000, 100, 2.0);
    for base in [0.0, 0.001, 0.05, 0.5, 0.99, 1.0] {
        let found = alarms(runs, blocks, alarm, |random, _| random.block(1, 9, (base, base)));
        assert!(found as f64 <= most(runs, 0.25), "base {base}: {found} of {runs}");
    }
}
