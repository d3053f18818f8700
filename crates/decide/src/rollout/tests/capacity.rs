//! Pods by share of the traffic, and the way back to those that are too few.

use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::*;

/// A world in which revisions have pods for their shares of a demand that needs five, and `a` serves.
fn proportional(steps: Vec<Step>) -> World {
    let mut world = World::new();
    world.wish.replicas = 5.into();
    world.wish.plan.steps = steps;
    world.wish.plan.capacity = Capacity::Proportional;
    world.looks(3);
    assert_eq!(world.state.stable.as_deref(), Some("a"));
    world.told.clear();
    world
}

/// `b` has half of the traffic, and both have the pods for it.
fn halved() -> World {
    let mut world = proportional(vec![step(Kind::Weight(50))]);
    world.target = "b";
    world.looks(4);
    assert_eq!(world.weights(), [("a".to_owned(), 500_000), ("b".to_owned(), 500_000)]);
    assert_eq!(sizes(&world), [("a", 3), ("b", 3)]);
    world.told.clear();
    world.slow = true;
    world
}

fn sizes(world: &World) -> Vec<(&str, u32)> {
    world.state.sizes(&world.wish.replicas).into_iter().collect()
}

#[test]
fn each_revision_has_pods_by_its_own_capacity_and_a_run_ends_the_sleep() {
    let mut world = World::serving();
    world.wish.replicas =
        Replicas { all: 2, of: [("a".to_owned(), 4), ("b".to_owned(), 7)].into(), asleep: true };
    world.looks(2);
    assert_eq!((sizes(&world), world.standing), (vec![("a", 0)], Standing::Serving));
    assert!(world.sentence.contains("no requests came"), "{}", world.sentence);
    world.target = "b";
    world.looks(3);
    assert_eq!((sizes(&world), world.state.step()), (vec![("a", 4), ("b", 7)], 1));
    // Who sleeps said 0 for each; what is tried has a pod all the same.
    world.wish.replicas.of = [("a".to_owned(), 0)].into();
    assert_eq!(sizes(&world), [("a", 1), ("b", 2)]);
}

#[test]
fn in_a_run_pods_that_somebody_else_counts_grow_only() {
    let mut world = proportional(vec![step(Kind::Weight(50))]);
    world.wish.counted_elsewhere = true;
    world.target = "b";
    world.verdict = Some(Verdict::Inconclusive("3 of 50 requests".into()));
    world.looks(4);
    assert_eq!(sizes(&world), [("a", 3), ("b", 3)]);
    world.wish.replicas = 2.into();
    world.looks(1);
    assert_eq!(sizes(&world), [("a", 3), ("b", 3)]);
    world.wish.replicas = 8.into();
    world.looks(1);
    world.wish.replicas = 2.into();
    world.looks(1);
    assert_eq!(sizes(&world), [("a", 4), ("b", 4)]);
    assert_eq!(
        world.state.whole(&world.wish.replicas, "a"),
        8,
        "routers must not take half of the pods for all"
    );
    world.verdict = Some(Verdict::Pass("fine".into()));
    world.looks(100);
    assert_eq!((world.state.stable.as_deref(), sizes(&world)), (Some("b"), vec![("b", 2)]));
}

/// Table: (state, pods). `a` is stable.
#[test]
fn pods_follow_shares() {
    let steps = vec![
        step(Kind::Shadow { percent: 30, agreement: None }),
        step(Kind::Weight(10)),
        step(Kind::Shadow { percent: 100, agreement: None }),
        step(Kind::Pause),
        step(Kind::Weight(50)),
    ];
    let plan = Plan { steps, capacity: Capacity::Proportional, ..Plan::default() };
    let shares = |served: &[(&str, u32)]| {
        let served = served.iter().map(|(name, percent)| ((*name).to_owned(), *percent)).collect();
        Some(Shares { served, ..Shares::default() })
    };
    let of = |step: usize, passed: bool, served: &[(&str, u32)]| {
        let run =
            Run { number: 2, candidate: "b".into(), step, passed, plan: plan.clone(), ..Run::default() };
        State { stable: Some("a".into()), run: Some(run), shares: shares(served), ..State::default() }
    };
    let direct = |mut state: State| {
        if let Some(run) = &mut state.run {
            run.direct = true;
        }
        state
    };
    let guarded = State {
        stable: Some("b".into()),
        previous: Some(("a".into(), Duration::ZERO)),
        guard: Some(Guard { step: 6, holdback: 1, ..Guard::default() }),
        shares: shares(&[("a", 1), ("b", 99)]),
        leaving: vec!["c".into()],
        ..State::default()
    };
    let cases = [
        // The candidate is prepared for its copies.
        (of(0, false, &[("a", 100), ("b", 0)]), vec![("a", 10), ("b", 3)]),
        (of(1, false, &[("a", 100), ("b", 30)]), vec![("a", 10), ("b", 3)]),
        // The table gives it 10 %, and routers may still serve the one before.
        (of(2, false, &[("a", 100), ("b", 30)]), vec![("a", 10), ("b", 3)]),
        (of(2, false, &[("a", 90), ("b", 10)]), vec![("a", 9), ("b", 1)]),
        // What comes next is 10 % and copies of the rest.
        (of(2, true, &[("a", 90), ("b", 10)]), vec![("a", 9), ("b", 10)]),
        (of(3, false, &[("a", 90), ("b", 100)]), vec![("a", 9), ("b", 10)]),
        (of(4, false, &[("a", 90), ("b", 10)]), vec![("a", 9), ("b", 1)]),
        (of(4, true, &[("a", 90), ("b", 10)]), vec![("a", 9), ("b", 5)]),
        (of(5, false, &[("a", 50), ("b", 50)]), vec![("a", 5), ("b", 5)]),
        // The promotion comes next.
        (of(5, true, &[("a", 50), ("b", 50)]), vec![("a", 5), ("b", 10)]),
        (direct(of(2, false, &[("a", 90), ("b", 10)])), vec![("a", 9), ("b", 10)]),
        // Nobody knows what it had.
        (of(2, false, &[]), vec![("a", 10), ("b", 10)]),
        // Who leaves stays as it is, for whoever is in flight there.
        (guarded, vec![("a", 1), ("b", 10), ("c", 10)]),
    ];
    for (state, wanted) in cases {
        assert_eq!(state.sizes(&10.into()).into_iter().collect::<Vec<_>>(), wanted, "{state:?}");
        assert!(state.sizes(&0.into()).values().all(|size| *size == 0));
        let full = State { shares: None, ..state };
        assert!(full.sizes(&10.into()).values().all(|size| *size == 10));
    }
}

#[test]
fn weight_waits_for_pods_and_pods_for_verified_weight() {
    let mut world = proportional(vec![step(Kind::Weight(20)), step(Kind::Weight(60))]);
    world.slow = true;
    world.target = "b";
    world.look();
    assert_eq!(sizes(&world), [("a", 5), ("b", 1)]);
    world.look();
    assert_eq!((world.state.step(), world.weights()[0].1), (1, 800_000));
    world.unverified = Some("router r1 is behind");
    world.looks(3);
    assert_eq!(sizes(&world)[0], ("a", 5), "routers may still send everything there");
    world.unverified = None;
    world.look();
    assert_eq!(sizes(&world)[0], ("a", 4));
    world.looks(2);
    // The step is over; three pods take two more looks.
    assert_eq!((world.state.step(), sizes(&world)[1]), (1, ("b", 3)));
    assert_eq!(world.standing, Standing::Moving);
    assert!(world.sentence.contains("1 of 3 pods of b"), "{}", world.sentence);
    world.look();
    assert_eq!(world.weights()[1].1, 200_000);
    world.look();
    assert_eq!((world.state.step(), world.weights()[1].1), (2, 600_000));
    // So does the promotion.
    world.looks(3);
    assert_eq!((world.state.stable.as_deref(), sizes(&world)[1]), (Some("a"), ("b", 5)));
    world.looks(3);
    assert_eq!(world.weights(), all("b"));
    world.looks(2);
    assert_eq!(sizes(&world), [("a", 1), ("b", 5)], "the previous one is warm");
}

#[test]
fn pods_that_never_come_end_the_run_at_its_deadline() {
    let mut world = proportional(vec![step(Kind::Weight(20)), step(Kind::Weight(60))]);
    world.target = "b";
    world.looks(4);
    let full = Trouble { what: "pod p cannot be scheduled".into(), permanent: false, crashed: false };
    world.pods.get_mut("b").unwrap().trouble = Some(full);
    world.looks(25);
    assert_eq!(world.weights(), all("a"));
    assert!(world.sentence.contains("cannot be scheduled"), "{}", world.sentence);
}

#[test]
fn a_cut_moves_traffic_as_stable_refills() {
    let mut world = halved();
    (world.cut, world.bad_ppm) = (Some("candidate failed 8 of 26 requests"), 300_000);
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack]);
    let told = &world.told[0].message;
    assert!(told.contains("40 % still goes to b until a has 5 of 5 pods"), "{told}");
    assert_eq!(world.weights(), [("a".to_owned(), WHOLE), ("b".to_owned(), 0)]);
    let refill = Refill { from: "b".into(), most: 50, bad_ppm: 300_000 };
    assert_eq!(world.state.traffic().refill, Some(refill));
    assert_eq!(sizes(&world), [("a", 5), ("b", 3)]);
    world.look();
    // Four of five: nothing is overloaded any more, and what fails fails.
    assert_eq!((world.state.traffic().refill, world.weights()), (None, all("a")));
    assert!(world.state.kept().contains("b"), "requests in flight need their pods");
    world.looks(2);
    assert_eq!(sizes(&world), [("a", 5)]);
}

#[test]
fn everything_moves_at_once_when_harm_exceeds_overload() {
    let mut world = halved();
    (world.cut, world.bad_ppm) = (Some("candidate failed all of 26 requests"), 1_000_000);
    world.look();
    assert_eq!((world.state.traffic().refill, world.weights()), (None, all("a")));
    assert!(world.told[0].message.contains("at once with 3 of 5 pods"), "{}", world.told[0].message);
}

#[test]
fn an_abort_and_a_newer_wish_wait_for_every_pod() {
    for newer in [false, true] {
        let mut world = halved();
        if newer {
            world.target = "c";
            world.look();
        } else {
            world.ask("abort 1");
        }
        assert!(world.state.refill().is_some_and(|refill| refill.from == "b" && refill.bad_ppm == 0));
        world.pods.get_mut("a").unwrap().ready = 3;
        world.look();
        assert!(world.state.refill().is_some(), "{}", world.sentence);
        world.looks(5);
        assert!(world.state.refill().is_none() && !world.state.kept().contains("b"));
        world.looks(20);
        assert_eq!(world.weights(), all(if newer { "c" } else { "a" }));
    }
}

#[test]
fn a_run_that_comes_in_between_waits_for_the_way_back() {
    let mut world = halved();
    world.target = "c";
    world.look();
    let full = Trouble { what: "pod p cannot be scheduled".into(), permanent: false, crashed: false };
    world.pods.get_mut("a").unwrap().trouble = Some(full);
    world.looks(30);
    assert_eq!((world.state.step(), world.weights()[0].clone()), (0, ("a".to_owned(), WHOLE)));
    assert!(world.sentence.contains("still goes to b"), "{}", world.sentence);
    world.pods.get_mut("a").unwrap().trouble = None;
    world.looks(5);
    assert_eq!((world.state.step(), world.weights()[1].0.as_str()), (1, "c"));
}

#[test]
fn harm_in_the_guard_goes_back_to_one_pod_and_then_to_all() {
    let mut world = proportional(vec![step(Kind::Weight(50))]);
    (world.wish.plan.guard, world.wish.plan.holdback) = (100 * SECOND, 1);
    world.target = "b";
    world.looks(10);
    assert_eq!(sizes(&world), [("a", 1), ("b", 5)]);
    world.slow = true;
    (world.cut, world.bad_ppm) = (Some("stable failed 30 of 900 requests"), 30_000);
    world.look();
    assert_eq!((world.state.stable.as_deref(), world.weights()[1].clone()), (Some("a"), ("b".to_owned(), 0)));
    assert!(world.sentence.contains("80 % still goes to b"), "{}", world.sentence);
    world.cut = None;
    assert_eq!(sizes(&world), [("a", 5), ("b", 5)]);
    world.looks(8);
    assert_eq!((world.weights(), sizes(&world)), (all("a"), vec![("a", 5)]));
}

#[test]
fn undo_to_a_warm_revision_begins_at_once() {
    let mut world = proportional(vec![step(Kind::Weight(50))]);
    world.target = "b";
    world.looks(10);
    assert_eq!(sizes(&world), [("a", 1), ("b", 5)]);
    world.slow = true;
    world.ask("undo 1");
    assert_eq!(world.state.stable.as_deref(), Some("a"));
    assert!(world.told.last().unwrap().message.contains("80 % still goes to b"), "{:?}", world.told);
    assert_eq!(sizes(&world), [("a", 5), ("b", 5)]);
    world.looks(8);
    assert_eq!((world.weights(), sizes(&world)), (all("a"), vec![("a", 5), ("b", 1)]));
}

#[test]
fn the_way_of_sizing_is_pinned_and_changes_only_where_no_weight_does() {
    let mut world = halved();
    world.verdict = Some(Verdict::Inconclusive("few".into()));
    world.wish.plan.capacity = Capacity::Full;
    world.looks(3);
    assert_eq!(sizes(&world), [("a", 3), ("b", 3)]);
    world.ask("repin 1");
    world.wish.plan.capacity = Capacity::Proportional;
    world.wish.plan.steps = vec![step(Kind::Weight(10)), step(Kind::Weight(70))];
    world.ask("repin 2");
    assert_eq!(world.reasons(), [Reason::RequestRefused; 2]);
    assert!(world.told[0].message.contains("`abort`"), "{}", world.told[0].message);
    world.wish.plan.steps = vec![step(Kind::Weight(50)), step(Kind::Weight(70))];
    world.ask("repin 3");
    assert_eq!((world.reasons()[2], sizes(&world)), (Reason::Repinned, vec![("a", 3), ("b", 3)]));
    // The next run goes by the new wish.
    world.wish.plan.capacity = Capacity::Full;
    world.target = "c";
    world.looks(8);
    assert_eq!(sizes(&world), [("a", 5), ("c", 5)]);
}

#[test]
fn a_run_for_the_whole_demand_waits_for_all_pods_of_a_revision_that_had_few() {
    let mut world =
        proportional(vec![step(Kind::Shadow { percent: 20, agreement: None }), step(Kind::Weight(50))]);
    world.target = "b";
    world.looks(3);
    assert_eq!(sizes(&world), [("a", 5), ("b", 1)]);
    world.wish.plan.capacity = Capacity::Full;
    (world.target, world.slow) = ("a", true);
    world.in_flight.insert("b".into(), 1);
    world.look();
    world.ask("undo/b 1");
    assert_eq!(world.weights(), all("a"));
    world.looks(6);
    assert_eq!(world.weights(), all("b"));
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Act {
    Look(u8),
    Target(u8),
    Verdict(u8),
    Verified(bool),
    Cut(bool),
    Slow(bool),
    Full(bool),
    Ask(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1_u8..8).prop_map(Act::Look),
        2 => (0_u8..3).prop_map(Act::Target),
        2 => (0_u8..3).prop_map(Act::Verdict),
        2 => any::<bool>().prop_map(Act::Verified),
        1 => any::<bool>().prop_map(Act::Cut),
        2 => any::<bool>().prop_map(Act::Slow),
        1 => any::<bool>().prop_map(Act::Full),
        1 => (0_u8..7).prop_map(Act::Ask),
    ]
}

/// Pods for a share in parts per million.
fn needed(ppm: u32, replicas: u32) -> u32 {
    u32::try_from((u64::from(ppm) * u64::from(replicas)).div_ceil(WHOLE.into())).unwrap()
}

/// A world, and the tables that some router may serve: those since the last one that all of them did.
struct Course {
    world: World,
    tables: Vec<Traffic>,
}

impl Course {
    /// A look, and the rules: pods for every share that some router may serve, and no share that grows without them.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let world = &mut self.world;
        let (before, seen) = (world.state.traffic(), world.pods.clone());
        if world.unverified.is_none() {
            self.tables = vec![before.clone()];
        }
        let told = world.told.len();
        world.look();
        let rolled_back = world.told[told..].iter().any(|told| told.reason == Reason::RolledBack);
        let (after, replicas) = (world.state.traffic(), world.wish.replicas.all);
        self.tables.push(after.clone());
        let from = after.refill.as_ref().map(|refill| &refill.from);
        prop_assert!(from.is_none() || from != world.state.stable.as_ref(), "it is refilled from itself");
        let sizes = world.state.sizes(&replicas.into());
        for arm in self.tables.iter().flat_map(|table| &table.arms) {
            // Whose pods are gone has left every table that was verified.
            let size = sizes.get(arm.revision.as_str()).copied().unwrap_or(0);
            prop_assert!(
                size >= needed(arm.ppm, replicas),
                "{} has {size} pods for {} ppm",
                arm.revision,
                arm.ppm
            );
        }
        let had = |name: &str| before.arms.iter().find(|arm| arm.revision == name).map_or(0, |arm| arm.ppm);
        for arm in after.arms.iter().filter(|arm| arm.ppm > had(&arm.revision) && !before.arms.is_empty()) {
            if let Some(refill) = &after.refill {
                // Routers give it more only as its pods get ready; whom it comes from gets no more than it had.
                prop_assert!(refill.most * 10_000 <= had(&refill.from).max(10_000));
                continue;
            }
            // With pods for the whole demand a rollback waits for one of them, as ever.
            if rolled_back && world.state.shares.is_none() {
                continue;
            }
            let ready = seen.get(&arm.revision).map_or(0, |pods| pods.ready);
            prop_assert!(
                ready >= needed(arm.ppm, replicas),
                "{} has {ready} pods for {} ppm",
                arm.revision,
                arm.ppm
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn capacity_before_weight_whatever_happens(acts in prop::collection::vec(act(), 1..60), replicas in 1_u32..12) {
        let mut world = proportional(vec![
            step(Kind::Shadow { percent: 40, agreement: None }),
            step(Kind::Weight(10)),
            step(Kind::Pause),
            step(Kind::Weight(50)),
        ]);
        world.wish.replicas = replicas.into();
        (world.wish.plan.guard, world.wish.plan.holdback) = (6 * SECOND, 3);
        world.looks(3);
        let mut course = Course { tables: vec![world.state.traffic()], world };
        for act in acts {
            let world = &mut course.world;
            match act {
                Act::Look(count) => {
                    for _ in 0..count {
                        course.look()?;
                    }
                }
                Act::Target(index) => world.target = ["a", "b", "c"][usize::from(index)],
                Act::Verdict(kind) => world.verdict = Some(match kind {
                    0 => Verdict::Fail("harm".into()),
                    1 => Verdict::Inconclusive("few".into()),
                    _ => Verdict::Pass("fine".into()),
                }),
                Act::Verified(yes) => world.unverified = (!yes).then_some("a router is behind"),
                Act::Cut(yes) => world.cut = yes.then_some("a router saw it fail"),
                Act::Slow(yes) => world.slow = yes,
                Act::Full(yes) => {
                    world.wish.plan.capacity = if yes { Capacity::Full } else { Capacity::Proportional };
                }
                Act::Ask(kind) => {
                    let text = ["promote-full", "promote", "abort", "retry", "undo", "undo/a", "undo/b"][usize::from(kind)];
                    world.request = Some(Request::parse(text, "ann").unwrap());
                }
            }
            course.look()?;
        }
        // Without further trouble everything comes to rest with all its pods.
        let world = &mut course.world;
        (world.unverified, world.cut, world.verdict) = (None, None, Some(Verdict::Pass("fine".into())));
        for _ in 0..150 {
            course.look()?;
        }
        let world = &course.world;
        prop_assert!(world.state.run.is_none() && world.state.refill().is_none(), "{}", world.sentence);
        let stable = world.state.stable.clone().unwrap();
        prop_assert_eq!(world.pods[&stable].ready, replicas);
    }
}
