//! The evidence that a promotion needs, against the detector itself.

use super::power::wanted_requests;
use super::*;

/// Candidate requests until the alarm in each of 200 runs, rising. Stable's rate is known by then.
fn delays(candidate: u64, stable: u64, base: f64, harm: f64) -> Vec<u64> {
    let once = |seed| {
        let mut random = Random(seed);
        let (mut detector, mut evidence) = (Detector::default(), Evidence::default());
        let learned = random.bad_of(1000, base);
        detector.learn(1000, learned);
        let mut requests = 0;
        while !evidence.alarm(ALARM_LOG10) {
            let block = random.block(candidate, stable, (base, base + harm));
            evidence.add(&detector.increment(block, true));
            requests += candidate;
        }
        requests
    };
    let mut delays: Vec<u64> = (0..200).map(once).collect();
    delays.sort_unstable();
    delays
}

#[test]
fn the_wanted_requests_find_harm_with_the_declared_power() {
    for (candidate, stable) in [(1, 9), (1, 1), (1, 99), (10, 90)] {
        for base in [0.001, 0.01, 0.05, 0.2] {
            for harm in [0.1, 0.2, 0.5] {
                let share = candidate as f64 / (candidate + stable) as f64;
                let delays = delays(candidate, stable, base, harm);
                for power in [0.5, 0.9] {
                    let wanted = wanted_requests(base, harm, power, ALARM_LOG10, share);
                    let found =
                        delays.partition_point(|requests| *requests < wanted + candidate) as f64 / 200.0;
                    // Three standard deviations of a share of 200 runs below the promise, and not far above it either:
                    // evidence that nobody asked for is time lost.
                    let least = power - 3.0 * (power * (1.0 - power) / 200.0).sqrt();
                    let case = format!(
                        "{candidate}:{stable}, base {base}, harm {harm}, power {power}: {wanted} requests"
                    );
                    assert!(found >= least, "{case} find {found}");
                    let at = delays[(1..200).take_while(|rank| f64::from(*rank) <= power * 199.0).count()];
                    assert!(wanted <= at * 3 / 2 + candidate, "{case}, {at} would do");
                }
            }
        }
    }
}

#[test]
fn wanted_requests_of_the_formula() {
    // By Python's math and scipy.stats.norm.ppf, to the whole request above.
    let golden = [
        (0.001, 0.1, 0.9, 6.0, 0.1, 333),
        (0.01, 0.05, 0.9, 6.0, 0.5, 3172),
        (0.05, 0.25, 0.8, 7.0, 0.1, 115),
        (0.2, 0.5, 0.99, 5.5, 0.01, 56),
        (0.0, 0.2, 0.9, 6.0, 0.1, 91),
        (0.01, 0.2, 0.9, 6.0, 1.0, 111),
    ];
    for (base, harm, power, alarm, share, expected) in golden {
        let found = wanted_requests(base, harm, power, alarm, share);
        assert!(
            found.abs_diff(expected) <= 1 + expected / 500,
            "{base}, {harm}, {power}: {found}, not {expected}"
        );
    }
}

#[test]
fn what_cannot_be_found_is_never_enough() {
    for harm in [-0.1, 0.0, 0.01, TOLERANCE] {
        assert_eq!(wanted_requests(0.01, harm, 0.9, 6.0, 0.1), u64::MAX, "{harm}");
    }
    // A rate above 1 is 1: there is no room for harm beyond a base rate of 0.99.
    assert_eq!(wanted_requests(0.99, 0.5, 0.9, 6.0, 0.1), u64::MAX);
}

#[test]
fn more_of_anything_but_requests_needs_more_requests() {
    let wanted = |base, harm, power, alarm| wanted_requests(base, harm, power, alarm, 0.1);
    let start = wanted(0.01, 0.2, 0.8, 6.0);
    assert!(wanted(0.05, 0.2, 0.8, 6.0) > start, "noise");
    assert!(wanted(0.01, 0.1, 0.8, 6.0) > start, "less harm");
    assert!(wanted(0.01, 0.2, 0.9, 6.0) > start, "more power");
    assert!(wanted(0.01, 0.2, 0.8, 7.0) > start, "a stricter budget");
    assert!(wanted_requests(0.01, 0.2, 0.8, 6.0, 0.5) > start, "less of stable to compare with");
    assert!(wanted_requests(0.01, 0.2, 0.8, 6.0, 1.0) < start, "a rate that is known");
}
