//! The switch as tables and properties, in simulated time.

use proptest::prelude::*;

use super::*;

const MICROSECOND: Duration = Duration::from_micros(1);

/// A window of `hits` hits in 10 lookups of `lookup`, and runs of `run` for the rest; the last lookup's decision.
fn window(
    worth: &mut Worth,
    hits: u64,
    lookup: Duration,
    run: Duration,
    now: Duration,
) -> Option<SwitchedOff> {
    let mut decision = None;
    for number in 0..10 {
        let hit = number < hits;
        if !hit {
            worth.ran(run);
        }
        decision = worth.looked_up(hit, lookup, now);
    }
    decision
}

fn settings() -> Settings {
    Settings { window: 10, patience: 3, ..Settings::default() }
}

#[test]
fn a_cache_is_switched_off_where_it_costs_more_than_it_saves() {
    let cases = [
        // (hits of 10, lookup and run in microseconds, switched off)
        (0, 1, 1_000_000, true),
        (1, 1, 5, true),
        (1, 1, 11, false),
        (5, 10, 15, true),
        (5, 10, 25, false),
        (9, 10, 12, false),
        // All were hits: no run was seen, so nothing speaks against it.
        (10, 1000, 1, false),
        // Equal is no loss.
        (5, 10, 20, false),
    ];
    for (hits, lookup, run, off) in cases {
        let mut worth = Worth::new(settings());
        let (lookup, run) = (MICROSECOND * lookup, MICROSECOND * run);
        let decisions: Vec<_> =
            (0..3).map(|_| window(&mut worth, hits, lookup, run, Duration::ZERO).is_some()).collect();
        assert_eq!(decisions, [false, false, off], "{hits} of 10, {lookup:?}, {run:?}");
        assert_eq!(worth.is_on(Duration::ZERO), !off);
    }
}

#[test]
fn pauses_double_until_a_trial_is_won() {
    let mut worth = Worth::new(settings());
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        for _ in 0..2 {
            assert_eq!(window(&mut worth, 0, MICROSECOND, MICROSECOND, now), None);
        }
        let off = window(&mut worth, 0, MICROSECOND, MICROSECOND, now).unwrap();
        pauses.push(off.pause.as_secs());
        assert!(!worth.is_on(now + off.pause / 2));
        now += off.pause;
        assert!(worth.is_on(now));
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    assert_eq!(window(&mut worth, 9, MICROSECOND, MICROSECOND * 100, now), None);
    for _ in 0..20 {
        if let Some(off) = window(&mut worth, 0, MICROSECOND, MICROSECOND, now) {
            assert_eq!(off.pause.as_secs(), 60);
            return;
        }
    }
    panic!("a cache without hits stays on");
}

#[test]
fn lookups_that_end_after_the_switch_change_nothing() {
    let mut worth = Worth::new(settings());
    let off = (0..3).find_map(|_| window(&mut worth, 0, MICROSECOND, MICROSECOND, Duration::ZERO)).unwrap();
    for _ in 0..100 {
        assert_eq!(worth.looked_up(true, MICROSECOND, Duration::ZERO), None);
    }
    assert!(!worth.is_on(off.pause / 2) && worth.is_on(off.pause));
}

#[test]
fn averages_are_exponential_over_windows() {
    let mut worth = Worth::new(Settings { patience: 100, ..settings() });
    window(&mut worth, 0, MICROSECOND * 10, MICROSECOND * 100, Duration::ZERO);
    window(&mut worth, 5, MICROSECOND * 20, MICROSECOND * 200, Duration::ZERO);
    // 0 + 0.3 (0.5 - 0) = 0.15; 10 + 0.3 (20 - 10) = 13; 100 + 0.3 (200 - 100) = 130.
    let balance = worth.balance.unwrap();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(near(balance.hit_share, 0.15) && near(balance.lookup, 13e-6), "{balance:?}");
    assert!(near(balance.run.unwrap(), 130e-6), "{balance:?}");
}

proptest! {
    #[test]
    fn steady_conditions_are_judged_by_the_formula(hits in 0_u64..10, lookup in 1_u32..1000, run in 1_u32..10_000) {
        let saves = f64::from(run) * hits as f64 / 10.0;
        prop_assume!((saves - f64::from(lookup)).abs() > 1e-6);
        let mut worth = Worth::new(settings());
        let off = (0..10).any(|_| {
            window(&mut worth, hits, MICROSECOND * lookup, MICROSECOND * run, Duration::ZERO).is_some()
        });
        prop_assert_eq!(off, saves < f64::from(lookup));
    }

    #[test]
    fn it_is_off_exactly_from_a_switch_to_the_end_of_its_pause(
        steps in prop::collection::vec((any::<bool>(), 0_u64..50, 0_u64..50, 0_u64..100), 1..500),
    ) {
        let mut worth = Worth::new(settings());
        let (mut now, mut until) = (Duration::ZERO, Duration::ZERO);
        for (hit, lookup, run, passed) in steps {
            now += Duration::from_secs(passed);
            prop_assert_eq!(worth.is_on(now), now >= until);
            if now < until {
                continue;
            }
            worth.ran(MICROSECOND * u32::try_from(run).unwrap());
            if let Some(off) = worth.looked_up(hit, MICROSECOND * u32::try_from(lookup).unwrap(), now) {
                prop_assert!(off.balance.is_loss() && off.pause <= settings().longest_pause);
                until = now + off.pause;
            }
        }
    }
}
