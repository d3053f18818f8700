//! Shares, ejection, slow start and what must never happen, over the whole choice.

use proptest::prelude::*;

use super::*;
use crate::balance::outlier::{BASE, FAILURES};

const NOW: Duration = Duration::from_secs(1000);
/// Whoever was ejected then is due for its trial.
const LONG_AGO: Duration = NOW.saturating_sub(BASE);

/// A pod that takes `ms` for a request and is past its slow start.
fn pod(ms: u64, in_flight: u32) -> Pod {
    Pod {
        service: ServiceTime::default().answered(Duration::from_millis(ms), 0, NOW),
        in_flight,
        busy_since: NOW,
        ready_since: Duration::ZERO,
        health: Health::default(),
        barred: false,
    }
}

fn ejected(now: Duration) -> Health {
    (0..FAILURES).fold(Health::default(), |health, _| health.failed(false, now))
}

/// How often each pod is chosen in 10,000 draws.
fn shares(pods: &[Pod], now: Duration) -> Vec<f64> {
    let mut hits = vec![0_u32; pods.len()];
    for draw in 0..10_000_u64 {
        let choice = choose(pods.iter().copied(), now, draw.wrapping_mul(0x2545_F491_4F6C_DD1D)).unwrap();
        hits[choice.index] += 1;
    }
    hits.into_iter().map(|hits| f64::from(hits) / 10_000.0).collect()
}

#[test]
fn the_least_expected_delay_wins_and_ties_are_broken_at_random() {
    assert_eq!(shares(&[pod(10, 2), pod(30, 0), pod(10, 1)], NOW), [0.0, 0.0, 1.0]);
    for share in shares(&[pod(10, 1), pod(20, 0), pod(30, 0), pod(21, 0)], NOW).iter().take(2) {
        // 0.02 is more than four standard deviations.
        assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
    }
    // Pods that nobody knows are alike.
    let unknown = Pod { service: ServiceTime::default(), ..pod(1, 0) };
    for share in shares(&[unknown; 4], NOW) {
        assert!((share - 0.25).abs() < 0.02, "{share}");
    }
}

#[test]
fn a_new_pod_takes_its_share_step_by_step() {
    let new = Pod { service: ServiceTime::default(), ready_since: NOW, ..pod(1, 0) };
    let pods = [pod(10, 0), pod(10, 0), pod(10, 0), new];
    for (seconds, wanted) in [(0, 0.1 / 4.0), (5, 0.5 / 4.0), (10, 0.25)] {
        let share = shares(&pods, NOW + Duration::from_secs(seconds))[3];
        assert!((share - wanted).abs() < 0.02, "{seconds} s: {share}");
    }
    let choice = |pods: &[Pod]| choose(pods.iter().copied(), NOW, 7).unwrap();
    // Where the others are new as well, or fail, it takes all.
    assert!(!choice(&[new, new]).warming);
    let dead = Pod { health: ejected(NOW), ..pod(10, 0) };
    assert_eq!((choice(&[dead, new]).index, choice(&[dead, new]).warming), (1, false));
    // And is known as new where it is chosen beside one that is not.
    let warm = (0..1000).filter_map(|draw| choose([pod(10, 0), new].into_iter(), NOW, draw << 40));
    assert!(warm.into_iter().all(|choice| choice.warming == (choice.index == 1)));
}

#[test]
fn half_may_be_out_and_beyond_that_none_is() {
    let dead = Pod { health: ejected(NOW), ..pod(10, 0) };
    let good = pod(10, 0);
    let half = shares(&[dead, good, dead, good], NOW);
    assert!(half[0] + half[2] < f64::EPSILON, "{half:?}");
    let three = shares(&[dead, good, dead, dead], NOW);
    assert!(three.iter().all(|share| (share - 0.25).abs() < 0.02), "{three:?}");
    assert!(choose([dead].into_iter(), NOW, 1).unwrap().fail_open);
    // Whom else could it be sent to?
    let barred = Pod { barred: true, ..good };
    let choice = choose([barred, barred, dead, barred].into_iter(), NOW, 1).unwrap();
    assert_eq!((choice.index, choice.fail_open), (2, false));
    assert_eq!(choose([barred].into_iter(), NOW, 1), None);
    assert_eq!(choose(std::iter::empty(), NOW, 1), None);
}

#[test]
fn an_ejected_pod_is_tried_by_one_request_which_did_not_fail_before() {
    let due = Pod { health: ejected(LONG_AGO), ..pod(10, 0) };
    let choice = choose([pod(1, 0), due].into_iter(), NOW, 1).unwrap();
    assert_eq!((choice.index, choice.trial), (1, true));
    let tried = Pod { health: due.health.begin_trial(NOW).unwrap(), ..due };
    assert_eq!(choose([pod(1, 0), tried].into_iter(), NOW, 1).map(|choice| choice.index), Some(0));
    let failed_once = [Pod { barred: true, ..pod(1, 0) }, pod(1, 0), due, pod(1, 0)];
    assert!(!choose(failed_once.into_iter(), NOW, 1).unwrap().trial);
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let health = prop_oneof![
        3 => Just(Health::default()),
        2 => Just(ejected(NOW)),
        1 => Just(ejected(LONG_AGO)),
        1 => Just(ejected(LONG_AGO).begin_trial(NOW).unwrap_or_default()),
    ];
    (0..50_u64, 0..20_u32, 0..1000_u64, 0..1000_u64, health, prop::bool::weighted(0.1)).prop_map(
        |(ms, in_flight, busy, ready, health, barred)| Pod {
            service: if ms == 0 { ServiceTime::default() } else { pod(ms, 0).service },
            in_flight,
            busy_since: Duration::from_secs(busy),
            ready_since: Duration::from_secs(ready),
            health,
            barred,
        },
    )
}

proptest! {
    #[test]
    fn a_pod_is_found_whenever_there_is_one_and_the_healthy_go_first(
        pods in prop::collection::vec(any_pod(), 0..12), random: u64,
    ) {
        let Some(choice) = choose(pods.iter().copied(), NOW, random) else {
            prop_assert!(pods.iter().all(|pod| pod.barred));
            return Ok(());
        };
        let chosen = pods[choice.index];
        prop_assert!(!chosen.barred);
        let out = pods.iter().filter(|pod| pod.health.is_ejected()).count();
        prop_assert_eq!(choice.fail_open, 2 * out > pods.len());
        if choice.trial {
            prop_assert!(chosen.health.is_trial_due(NOW) && !choice.fail_open);
        } else if chosen.health.is_ejected() && !choice.fail_open {
            prop_assert!(pods.iter().all(|pod| pod.barred || pod.health.is_ejected()));
        }
        if choice.warming {
            prop_assert!(ramp::is_warming(chosen.ready_since, NOW));
        }
    }
}
