//! Tables and properties of the rules.

use proptest::prelude::*;

use super::order::{LANES, Lanes, lane};
use super::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A controller that has seen sizes 1, 2, 4, ... 64 of a model with these costs, one executor.
fn seeded(fixed: f64, per_row: f64) -> Control {
    with_executors(fixed, per_row, 1)
}

fn with_executors(fixed: f64, per_row: f64, executors: usize) -> Control {
    let mut control = Control::new(Limits { max_rows: 64, executors });
    for rows in [1_usize, 2, 4, 8, 16, 32, 64] {
        control.seed(rows, fixed + per_row * rows as f64);
    }
    control
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1e-9)
}

#[test]
fn exact_times_give_the_exact_cost() {
    for (fixed, per_row) in [(0.004, 0.001), (0.0, 0.002), (0.1, 1e-6), (1e-5, 3e-6)] {
        let cost = *seeded(fixed, per_row).cost();
        assert!(near(cost.per_row(), per_row) && (cost.fixed() - fixed).abs() < 1e-9, "{cost:?}");
        assert!(cost.is_split());
    }
}

/// The least-squares line through two sizes passes through the mean time of each, however they are weighted.
#[test]
fn the_line_goes_through_the_means_of_two_sizes() {
    let mut cost = Cost::default();
    for _ in 0..500 {
        for (rows, seconds) in [(2, 0.009), (2, 0.011), (10, 0.024), (10, 0.026)] {
            cost.observe(rows, seconds);
        }
    }
    assert!((cost.seconds(2) - 0.010).abs() < 2e-4 && (cost.seconds(10) - 0.025).abs() < 2e-4, "{cost:?}");
}

#[test]
fn costs_are_never_below_nothing() {
    // Larger batches that are quicker, and a line whose fixed part would be negative.
    for runs in [[(1, 0.010), (10, 0.005)], [(1, 0.001), (10, 0.100)]] {
        let mut cost = Cost::default();
        for _ in 0..50 {
            for (rows, seconds) in runs {
                cost.observe(rows, seconds);
            }
        }
        assert!(cost.fixed() >= 0.0 && cost.per_row() > 0.0, "{cost:?}");
    }
}

#[test]
fn one_size_alone_keeps_the_ratio_and_follows_the_level() {
    let mut control = seeded(0.004, 0.001);
    for _ in 0..2000 {
        control.ran(8, 0.012);
    }
    let ratio = control.cost().fixed() / control.cost().per_row();
    assert!((ratio - 4.0).abs() < 0.01, "{control:?}");
    for _ in 0..500 {
        control.ran(8, 0.036);
    }
    let slower = control.cost();
    assert!((slower.fixed() / slower.per_row() - ratio).abs() < 0.01, "{slower:?}");
    assert!((slower.seconds(8) - 0.036).abs() < 1e-3, "{slower:?}");
}

#[test]
fn a_stopped_process_does_not_make_the_model_slow_and_nonsense_teaches_nothing() {
    let mut control = seeded(0.004, 0.001);
    for _ in 0..100 {
        control.ran(8, 0.012);
    }
    let mut stopped = control.clone();
    stopped.ran(8, 60.0);
    assert!(stopped.cost().seconds(8) < 0.014, "{stopped:?}");
    for seconds in [f64::NAN, f64::INFINITY, -1.0] {
        let before = *control.cost();
        control.ran(8, seconds);
        control.ran(0, 0.01);
        assert_eq!(*control.cost(), before);
    }
}

#[test]
fn the_factor_is_the_quantile_of_the_scatter() {
    let mut tail = Tail::default();
    // 98 of 100 runs take as long as expected, two take 1.5 times as long: the quantile lies at these.
    for number in 0..20_000 {
        tail.observe(if number % 50 == 0 { 1.5 } else { 1.0 });
    }
    assert!((tail.factor() - 1.5).abs() < 0.08, "{tail:?}");
    for _ in 0..20_000 {
        tail.observe(1.0);
    }
    assert!(tail.factor() < 1.06, "{tail:?}");
    (0..10_000).for_each(|_| tail.observe(1e9));
    assert!(tail.factor() <= 10.0, "{tail:?}");
}

#[test]
fn the_cap_follows_from_the_target() {
    // budget / (2 * 1.3) of 4 ms + 1 ms * rows: 95 / 2.6 - 4 = 32.5.
    let control = seeded(0.004, 0.001);
    for (target, cap) in [(100, 32), (50, 14), (13, 1), (1, 1), (1000, 64)] {
        assert_eq!(control.cap(Some(millis(target))), cap, "{target} ms");
    }
    assert_eq!(control.cap(None), 64, "without a target as many as there are");
    assert_eq!(
        Control::new(Limits { max_rows: 64, executors: 1 }).cap(Some(millis(100))),
        64,
        "nothing is known"
    );
    assert_eq!(seeded(0.000_1, 0.001).cap(Some(millis(100))), 1, "a batch gains nothing");
    assert_eq!(seeded(0.000_1, 0.001).cap(None), 64);
}

#[test]
fn where_batches_gain_nothing_one_is_tried_now_and_then() {
    let mut control = seeded(0.000_1, 0.001);
    let mut tries = 0;
    for _ in 0..640 {
        tries += usize::from(control.cap(Some(millis(100))) > 1);
        control.ran(1, 0.001_1);
    }
    assert_eq!(tries, 10);
}

#[test]
fn sizes_are_told_apart_before_batches_are_ruled_out() {
    // Warm-up failed, and requests have one row: nobody knows yet whether batches are worth it.
    let mut control = Control::new(Limits { max_rows: 64, executors: 1 });
    control.ran(1, 0.005);
    assert!(!control.cost().is_split());
    assert!(control.cap(Some(millis(100))) > 1, "{control:?}");
}

fn asked(rows: usize, ahead: usize, left: f64) -> Asked {
    Asked { rows, ahead, cap: 32, left, limit: left, own: left, idle: None, now: 0.0, patience: 0.0 }
}

#[test]
fn a_request_is_taken_when_those_before_it_leave_it_time() {
    // T(32) = 36 ms, 46.8 ms with the factor.
    let mut control = seeded(0.004, 0.001);
    let mut fits = |asked, busy: &[f64]| control.admit(asked, &mut busy.to_vec()) == Admission::Fits;
    assert!(fits(asked(1, 0, 0.0066), &[0.0]), "idle: its own run alone");
    assert!(!fits(asked(1, 0, 0.0064), &[0.0]));
    assert!(fits(asked(1, 31, 0.083), &[0.036]), "in the next batch, which will be full");
    assert!(!fits(asked(1, 31, 0.082), &[0.036]));
    assert!(!fits(asked(2, 31, 0.083), &[0.036]), "its rows do not fit into that one");
    assert!(fits(asked(2, 31, 0.119), &[0.036]));
    assert!(fits(asked(100, 0, 0.136), &[0.0]), "larger than a batch: it runs alone");
    assert!(!fits(asked(100, 0, 0.134), &[0.0]));
}

#[test]
fn all_executors_work_on_what_is_before_it() {
    let mut control = with_executors(0.004, 0.001, 3);
    let mut fits = |asked, busy: &[f64]| control.admit(asked, &mut busy.to_vec()) == Admission::Fits;
    assert!(fits(asked(1, 0, 0.007), &[0.036, 0.0, 0.036]), "one is free");
    assert!(fits(asked(1, 0, 0.058), &[0.036, 0.010, 0.030]), "the first to be free takes it");
    assert!(!fits(asked(1, 0, 0.056), &[0.036, 0.010, 0.030]));
    assert!(fits(asked(1, 32, 0.078), &[0.036, 0.010, 0.030]), "the second");
    assert!(!fits(asked(1, 64, 0.078), &[0.036, 0.010, 0.030]), "the third");
    assert!(fits(asked(1, 96, 0.094), &[0.036, 0.010, 0.030]), "the first once more");
    assert!(!fits(asked(1, 96, 0.091), &[0.036, 0.010, 0.030]));
}

#[test]
fn a_refusal_says_when_the_work_before_it_is_done() {
    let mut control = seeded(0.004, 0.001);
    let refused = control.admit(asked(1, 3200, 0.1), &mut [0.01]);
    let Admission::TooLate { drain, done } = refused else { panic!("{refused:?}") };
    assert!(near(drain, 0.01 + 100.0 * 0.036) && near(done, drain + 1.3 * 0.036), "{refused:?}");
    assert_eq!(retry_after(drain), 4);
    for (drain, seconds) in [(0.0, 1), (0.2, 1), (1.0, 1), (1.1, 2), (1e12, 3600)] {
        assert_eq!(retry_after(drain), seconds, "{drain}");
    }
}

#[test]
fn a_wrong_estimate_is_tried_again() {
    let idle = |control: &mut Control, idle| control.admit(Asked { idle, ..asked(1, 0, 0.1) }, &mut [0.0]);
    let mut control = seeded(0.4, 0.001);
    assert_eq!(idle(&mut control, Some(1.0)), Admission::Trial);
    assert!(matches!(idle(&mut control, Some(0.9)), Admission::TooLate { .. }), "not more often");
    assert!(matches!(idle(&mut control, None), Admission::TooLate { .. }), "not beside others");
    let mut control = seeded(4.0, 0.001);
    assert!(
        matches!(idle(&mut control, Some(5.0)), Admission::TooLate { .. }),
        "not more than half of the time"
    );
    assert_eq!(idle(&mut control, Some(5.5)), Admission::Trial);
    assert_eq!(idle(&mut seeded(4000.0, 0.001), Some(10.0)), Admission::Trial, "however wrong it is");
}

#[test]
fn a_target_below_a_single_run_is_not_feasible() {
    let control = seeded(0.004, 0.001);
    assert!(
        control.is_feasible(millis(6)) && !control.is_feasible(millis(5)),
        "a part of it is for the network"
    );
    assert!(
        Control::new(Limits { max_rows: 1, executors: 1 }).is_feasible(millis(1)),
        "nothing is known yet"
    );
}

#[test]
fn load_makes_no_target_infeasible_and_a_model_that_became_slow_does() {
    let mut control = seeded(0.004, 0.001);
    // Runs beside each other take three times as long: less is taken, but not everything.
    (0..500).for_each(|_| control.ran(1, 0.015));
    let one = control.cost().seconds(1);
    assert!((0.014..0.016).contains(&one) && control.is_feasible(millis(6)), "{control:?}");
    for _ in 0..40 {
        control.ran(1, 0.015);
        control.ran_alone(1, 0.015);
    }
    assert!(!control.is_feasible(millis(6)), "{control:?}");
    // Back as it was: seen by the first runs.
    for _ in 0..40 {
        control.ran_alone(2, 0.005);
    }
    assert!(control.is_feasible(millis(6)), "{control:?}");
}

#[test]
fn an_idle_server_answers_though_it_just_misses_the_target_and_never_for_a_limit_of_the_client() {
    // T(1) = 5 ms, 6.5 ms with the factor; T(8) = 12 ms on average.
    let control = seeded(0.004, 0.001);
    let admit = |rows, left, is_own, idle| {
        let asked = Asked { own: if is_own { left } else { f64::INFINITY }, idle, ..asked(rows, 0, left) };
        control.clone().admit(asked, &mut [0.0])
    };
    assert_eq!(admit(1, 0.006, false, Some(0.0)), Admission::Likely);
    assert!(matches!(admit(1, 0.006, true, Some(0.0)), Admission::TooLate { .. }));
    let beside = |ahead, busy: &mut [f64]| {
        control.clone().admit(Asked { own: f64::INFINITY, ..asked(1, ahead, 0.006) }, busy)
    };
    assert_eq!(beside(0, &mut [0.003, 0.0]), Admission::Likely, "another executor is free");
    assert!(matches!(beside(0, &mut [0.003]), Admission::TooLate { .. }), "none is free");
    assert!(matches!(beside(1, &mut [0.0]), Admission::TooLate { .. }), "another one waits for it");
    assert!(matches!(admit(8, 0.01, false, Some(0.0)), Admission::TooLate { .. }), "fewer rows would fit");
}

/// The request that follows a pause of 0.3 s, in which 40 others came: they take 56 ms, and it has 50 ms.
fn behind(now: f64) -> Asked {
    Asked { own: f64::INFINITY, now, patience: 1.0, ..asked(1, 40, 0.05) }
}

#[test]
fn a_queue_that_is_behind_refuses_nobody_and_one_that_stands_does() {
    let mut control = seeded(0.004, 0.001);
    let mut admit = |asked| control.admit(asked, &mut [0.0]);
    assert_eq!(admit(behind(5.0)), Admission::Late);
    assert!(matches!(admit(Asked { own: 0.05, ..behind(5.1) }), Admission::TooLate { .. }));
    let large = Asked { rows: 60, ..behind(5.2) };
    assert!(matches!(admit(large), Admission::TooLate { .. }), "by itself it is late");
    let patient = Asked { own: 0.4, ..behind(5.2) };
    assert_eq!(admit(patient), Admission::Late);
    assert!(
        matches!(admit(Asked { own: 0.05, ..patient }), Admission::TooLate { .. }),
        "its client is gone by then"
    );
    assert_eq!(admit(behind(5.9)), Admission::Late);
    assert!(matches!(admit(behind(6.0)), Admission::TooLate { .. }), "for a second");
    control.emptied();
    assert!(matches!(control.admit(behind(6.5), &mut [0.0]), Admission::TooLate { .. }), "it comes back");
    let next = Asked { ahead: 0, left: 0.0, ..behind(6.6) };
    assert_eq!(control.admit(next, &mut [0.0]), Admission::Late, "nobody is before it");
    assert!(matches!(control.admit(Asked { ahead: 0, ..next }, &mut [0.02]), Admission::TooLate { .. }));
    control.emptied();
    assert_eq!(control.admit(behind(8.0), &mut [0.0]), Admission::Late, "another time");
    assert_eq!(
        control.admit(Asked { left: 0.0, ..behind(8.1) }, &mut [0.0]),
        Admission::Late,
        "read too late"
    );
    let flood = Asked { ahead: 500, ..behind(8.0) };
    assert!(matches!(control.admit(flood, &mut [0.0]), Admission::TooLate { .. }), "that is no pause");
}

#[test]
fn the_head_of_a_queue_is_given_up_for_those_behind_it_where_the_queue_stands() {
    // T(32) = 36 ms, 46.8 ms with the factor.
    let mut control = seeded(0.004, 0.001);
    let head =
        |now| Head { rows: 1, waiting: 40, cap: 32, left: 0.04, own: f64::INFINITY, now, patience: 1.0 };
    let mut fate = |head| control.fate(head);
    assert_eq!(fate(Head { left: 0.047, ..head(0.0) }), Fate::InTime);
    let impatient = Head { waiting: 32, own: 0.04, ..head(0.0) };
    assert_eq!(fate(impatient), Fate::GivenUp, "its client waits for no late answer");
    assert_eq!(fate(Head { own: 0.047, ..impatient }), Fate::Late, "it waits for this one");
    assert_eq!(fate(Head { waiting: 32, ..head(0.0) }), Fate::Late, "it makes nobody else late");
    assert_eq!(fate(head(0.0)), Fate::Late, "the queue is behind");
    assert_eq!(fate(head(1.0)), Fate::GivenUp, "it stands");
    assert_eq!(fate(Head { waiting: 32, ..head(1.0) }), Fate::Late, "it makes nobody else late");
}

#[test]
fn priorities_are_four_lanes_and_none_is_the_second() {
    let lanes = [0, 1, 2, 3, 4, 5, u32::MAX].map(lane);
    assert_eq!(lanes, [1, 0, 1, 2, 3, 3, 3]);
}

proptest! {
    #[test]
    fn the_cap_grows_with_the_target_and_keeps_its_bound(
        fixed in 0.0..0.1_f64,
        per_row in 1e-6..0.01_f64,
        max_rows in 1_usize..200,
        mut targets in prop::collection::vec(1_u64..10_000, 2..8),
    ) {
        let mut control = Control::new(Limits { max_rows, executors: 2 });
        for rows in [1_usize, 3, 9, 27] {
            control.seed(rows, fixed + per_row * rows as f64);
        }
        targets.sort_unstable();
        let caps: Vec<usize> = targets.iter().map(|target| control.cap(Some(millis(*target)))).collect();
        prop_assert!(caps.is_sorted(), "{targets:?} {caps:?}");
        prop_assert!(caps.iter().all(|cap| (1..=max_rows).contains(cap)), "{caps:?}");
        // Two batches in a row end within the target.
        for (target, cap) in targets.iter().zip(caps).filter(|(_, cap)| *cap > 1) {
            prop_assert!(2.0 * control.upper(cap) <= 0.95 * *target as f64 / 1e3 * (1.0 + 1e-9));
        }
    }

    #[test]
    fn an_idle_server_takes_what_fits(
        fixed in 0.0..0.1_f64,
        per_row in 1e-6..0.01_f64,
        rows in 1_usize..200,
        spare in 1.0..3.0_f64,
        idle in 0.0..10.0_f64,
        executors in 1_usize..5,
    ) {
        let mut control = with_executors(fixed, per_row, executors);
        let left = control.upper(rows) * spare * (1.0 + 1e-9);
        let cap = control.cap(Some(millis(100)));
        let admission = control.admit(Asked { cap, idle: Some(idle), ..asked(rows, 0, left) }, &mut vec![0.0; executors]);
        prop_assert_eq!(admission, Admission::Fits);
    }

    /// Little's law: of more rows than are done within the time that is left, the last one is not taken.
    #[test]
    fn the_queue_is_bounded_by_what_is_done_in_time(
        fixed in 0.0..0.1_f64,
        per_row in 1e-6..0.01_f64,
        cap in 1_usize..64,
        left in 0.001..2.0_f64,
        executors in 1_usize..5,
        more in 0_usize..100,
    ) {
        let mut control = with_executors(fixed, per_row, executors);
        let rate = executors as f64 * cap as f64 / control.cost().seconds(cap);
        let in_time = Duration::from_secs_f64(rate * left).as_secs();
        let ahead = usize::try_from(in_time).unwrap() + cap * executors + more;
        let admission = control.admit(Asked { cap, ..asked(1, ahead, left) }, &mut vec![0.0; executors]);
        let too_late = matches!(admission, Admission::TooLate { .. });
        prop_assert!(too_late, "{:?}", admission);
    }

    /// Whoever has more before it is not taken rather than the others.
    #[test]
    fn more_work_before_a_request_never_helps_it(
        ahead in 0_usize..500,
        more in 0_usize..100,
        left in 0.0..1.0_f64,
        busy in prop::collection::vec(0.0..0.1_f64, 1..5),
    ) {
        let mut control = with_executors(0.004, 0.001, busy.len());
        let mut fits = |ahead| control.admit(asked(1, ahead, left), &mut busy.clone()) == Admission::Fits;
        prop_assert!(fits(ahead) || !fits(ahead + more));
    }

    /// As a list of executors that each take the next run says.
    #[test]
    fn runs_begin_on_whichever_executor_is_free_first(
        busy in prop::collection::vec(prop_oneof![Just(0.0), 0.0..10.0_f64], 1..6),
        n in 0_usize..60,
        each in 0.1..3.0_f64,
    ) {
        let mut free = busy.clone();
        let mut start = 0.0;
        for _ in 0..=n {
            let next = free.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
            start = *next;
            *next += each;
        }
        prop_assert!((nth_start(&mut busy.clone(), n, each) - start).abs() < 1e-9, "{start}");
    }

    #[test]
    fn a_model_that_gets_slower_is_learned(
        fixed in 0.0..0.05_f64,
        per_row in 1e-5..0.01_f64,
        slower in 1.0..20.0_f64,
        sizes in prop::collection::vec(1_usize..64, 1..6),
    ) {
        let mut control = seeded(fixed, per_row);
        for rows in sizes.iter().cycle().take(600) {
            control.ran(*rows, slower * (fixed + per_row * *rows as f64));
        }
        for rows in sizes {
            let wanted = slower * (fixed + per_row * rows as f64);
            let learned = control.cost().seconds(rows);
            prop_assert!((learned / wanted - 1.0).abs() < 0.05, "{rows} rows: {learned} for {wanted}");
        }
    }

    #[test]
    fn lanes_keep_the_order_and_count_rows(
        asked in prop::collection::vec((0_usize..LANES, 0_u32..20, 1_usize..5), 1..60),
        probe in (0_usize..LANES, 0_u32..20),
    ) {
        let mut lanes = Lanes::default();
        for (number, (lane, due, rows)) in asked.iter().enumerate() {
            lanes.push(*lane, *due, *rows, (*lane, *due, number, *rows));
        }
        let mut wanted: Vec<_> =
            asked.iter().enumerate().map(|(number, (lane, due, rows))| (*lane, *due, number, *rows)).collect();
        wanted.sort_unstable();
        let ahead: usize = wanted.iter().filter(|entry| (entry.0, entry.1) <= probe).map(|entry| entry.3).sum();
        prop_assert_eq!(lanes.ahead(probe.0, probe.1), ahead);
        prop_assert_eq!(lanes.rows(), wanted.iter().map(|entry| entry.3).sum::<usize>());
        prop_assert_eq!(lanes.iter().copied().collect::<Vec<_>>(), wanted.clone());
        prop_assert_eq!(lanes.front(), wanted.first());
        let mut taken = Vec::new();
        while let Some(next) = lanes.pop() {
            taken.push(next);
            prop_assert_eq!(lanes.len(), wanted.len() - taken.len());
        }
        prop_assert_eq!(taken, wanted);
        prop_assert_eq!((lanes.rows(), lanes.is_empty()), (0, true));
    }
}

#[test]
fn a_slow_time_that_is_over_is_forgotten_with_the_first_trial() {
    let mut control = Control::new(Limits { max_rows: 32, executors: 1 });
    let seconds = |rows: usize| 0.004 + 0.001 * rows as f64;
    for rows in [1, 2, 4, 8, 16, 32, 1, 2, 4, 8, 16, 32] {
        control.ran(rows, seconds(rows));
    }
    // The machine stands still for a while: each run takes twenty times as long.
    for run in 0..60 {
        let rows = 1 + run % 4;
        control.ran(rows, 20.0 * seconds(rows));
    }
    let asked = |idle| Asked { cap: 1, idle, ..asked(1, 0, 0.04) };
    assert!(matches!(control.admit(asked(None), &mut [0.0]), Admission::TooLate { .. }));
    assert_eq!(control.admit(asked(Some(60.0)), &mut [0.0]), Admission::Trial);
    control.tried(1, seconds(1));
    assert_eq!(control.admit(asked(None), &mut [0.0]), Admission::Fits, "{control:?}");
    // What was learned of the sizes is still there.
    let ratio = control.cost().fixed() / control.cost().per_row();
    assert!((2.0..16.0).contains(&ratio), "{control:?}");
}

#[test]
fn a_trial_waits_for_as_long_as_it_may_take() {
    let mut control = Control::new(Limits { max_rows: 32, executors: 1 });
    control.ran(1, 0.01);
    let asked = |idle| Asked { own: f64::INFINITY, idle: Some(idle), ..asked(1000, 0, 0.1) };
    let expected = control.upper(1000);
    assert!(expected > LONGEST_STALE);
    assert!(matches!(control.admit(asked(2.0), &mut [0.0]), Admission::TooLate { .. }));
    assert_eq!(control.admit(asked(LONGEST_STALE), &mut [0.0]), Admission::Trial);
}
