//! The short form of `make verdicts`: some hundred rollouts of each rate keep the same promises.

use stoker_verdicts::study::{Group, Kind, play};
use stoker_verdicts::trial::End;

const SEED: u64 = 7;

#[test]
fn healthy_candidates_are_promoted_and_none_is_taken_back() {
    for (rate, trials) in [(0.1, 20), (10.0, 300), (1000.0, 60)] {
        let result = play(Group { kind: Kind::Healthy, rate, trials }, SEED, 2);
        assert_eq!(result.count(End::RolledBack), 0, "at {rate}/s");
        if rate >= 1.0 {
            assert!(result.in_time() >= 0.98, "at {rate}/s: {} in time", result.in_time());
        } else {
            assert_eq!(result.count(End::Promoted), trials, "at {rate}/s");
            assert_eq!(result.untold().1, 0, "at {rate}/s");
        }
    }
}

#[test]
fn harmful_candidates_are_taken_back_the_sooner_the_worse_they_are() {
    let found = |points, rate| {
        let result = play(Group { kind: Kind::Harmful(points), rate, trials: 30 }, SEED, 2);
        assert_eq!(result.broken(), Vec::<String>::new());
        (
            result.count(End::RolledBack),
            result.quantile(End::RolledBack, 0.5, |outcome| outcome.requests as f64),
        )
    };
    let (all, soon) = found(0.25, 10.0);
    let (most, later) = found(0.10, 10.0);
    assert_eq!(all, 30);
    assert!(most >= 24 && later > 2.0 * soon, "{most} of 30, {later} requests against {soon}");
    assert_eq!(found(0.25, 0.1).0, 30);
    assert_eq!(found(0.05, 1000.0).0, 30);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let group = Group { kind: Kind::Harmful(0.25), rate: 10.0, trials: 8 };
    let (one, two) = (play(group, SEED, 1), play(group, SEED, 3));
    assert_eq!(one.outcomes, two.outcomes);
    assert_ne!(one.outcomes, play(group, SEED + 1, 1).outcomes);
}
