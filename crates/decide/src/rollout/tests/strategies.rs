//! Blue-green: a preview, then everything at once. Recreate: one revision at a time.

use super::*;
use crate::alert::Action;

/// A world in which `a` serves, and the next revision goes by a strategy.
fn by(strategy: Strategy, steps: Vec<Step>) -> World {
    let mut world = World::new();
    world.wish.plan = Plan { strategy, steps, guard: 8 * SECOND, ..world.wish.plan };
    world.looks(3);
    assert_eq!(world.state.stable.as_deref(), Some("a"));
    world.told.clear();
    world
}

/// One in which `b` has its preview.
fn previewing(steps: Vec<Step>) -> World {
    let mut world = by(Strategy::BlueGreen, steps);
    world.target = "b";
    world.looks(2);
    assert_eq!(world.state.step(), 1);
    world
}

fn recreating() -> World {
    let mut world = by(Strategy::Recreate, Vec::new());
    world.target = "b";
    world
}

fn sizes(world: &World) -> Vec<(&str, u32)> {
    world.state.sizes(&world.wish.replicas).into_iter().collect()
}

#[test]
fn a_blue_green_candidate_is_previewed_and_then_has_everything() {
    let mut world = previewing(vec![step(Kind::Analysis)]);
    let traffic = world.state.traffic();
    assert_eq!((world.weights(), traffic.trial.as_deref(), traffic.preview), (all("a"), Some("b"), true));
    assert_eq!(traffic.watched, None, "who answers testers alone is not cut");
    assert_eq!(world.sentence, "run 2, step 1/1: b answers at its preview address");
    world.looks(4);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert_eq!(world.weights(), [("b".to_owned(), WHOLE), ("a".to_owned(), 0)], "a is ready to take over");
    assert_eq!(world.state.traffic().trial, None);
    assert_eq!(sizes(&world), [("a", 2), ("b", 2)]);
}

#[test]
fn a_preview_that_is_not_approved_waits_and_one_that_fails_its_metrics_is_taken_back() {
    let mut world = previewing(vec![step(Kind::Analysis)]);
    world.state.run.as_mut().unwrap().plan.approval = true;
    world.looks(20);
    assert_eq!((world.standing, world.weights()), (Standing::Holding, all("a")));
    assert!(world.sentence.contains("the promotion waits for an approval"), "{}", world.sentence);
    world.verdict = Some(Verdict::Fail("metric orders failed".into()));
    world.look();
    assert_eq!((world.reasons().last(), world.weights()), (Some(&Reason::RolledBack), all("a")));
}

#[test]
fn after_the_switch_harm_goes_back_in_one_look() {
    let mut world = previewing(vec![step(Kind::Analysis)]);
    world.looks(4);
    world.verdict = Some(Verdict::Fail("it failed 12 of 40 requests".into()));
    world.look();
    assert_eq!((world.state.stable.as_deref(), world.weights()), (Some("a"), all("a")));
}

#[test]
fn stable_makes_room_before_the_candidate_starts() {
    let mut world = recreating();
    world.look();
    let told = &world.told[0].message;
    assert!(
        told.contains("nobody is served from the moment the 2 pods of a go until those of b are ready"),
        "{told}"
    );
    assert!(told.contains("(a took 2 s to get ready)"), "{told}");
    assert_eq!((world.reasons(), sizes(&world)), (vec![Reason::RunStarted], vec![("a", 2), ("b", 0)]));
    world.look();
    assert_eq!(world.reasons()[1..], [Reason::StableStopped]);
    // Its pods go slowly.
    world.pods.get_mut("a").unwrap().standing = 1;
    world.look();
    assert_eq!((sizes(&world), world.weights()), (vec![("a", 0), ("b", 0)], all("a")));
    assert_eq!(world.sentence, "run 2: 1 pod of a still to go; nobody is served");
    world.look();
    assert_eq!((sizes(&world), world.weights()), (vec![("a", 0), ("b", 2)], all("b")));
    world.look();
    assert_eq!((world.state.stable.as_deref(), world.state.alone), (Some("b"), true));
    assert_eq!(
        sizes(&world),
        [("a", 0), ("b", 2)],
        "what was there before has no pods while it could be returned to"
    );
    assert_eq!(world.weights(), all("b"));
    assert_eq!(world.state.traffic().watched, None, "routers cannot turn to pods that are not there");
    world.looks(40);
    assert_eq!((sizes(&world), world.state.guard.is_none()), (vec![("b", 2)], true));
}

#[test]
fn pods_that_do_not_go_bring_stable_back() {
    let mut world = recreating();
    world.looks(2);
    for _ in 0..25 {
        if let Some(pods) = world.pods.get_mut("a") {
            pods.standing = 2;
        }
        world.look();
    }
    assert_eq!(world.reasons()[2..], [Reason::RolledBack]);
    assert!(
        world.told[2].message.contains("2 pods of a still there after 20 s"),
        "{}",
        world.told[2].message
    );
    assert_eq!((world.state.stable.as_deref(), world.weights()), (Some("a"), all("a")));
    assert_eq!(world.state.sizes(&world.wish.replicas)["a"], 2);
}

#[test]
fn before_stable_goes_everything_holds_and_afterwards_nothing_does() {
    for hold in ["approval", "alert", "frozen", "pause", "refused"] {
        let mut world = by(Strategy::Recreate, Vec::new());
        world.wish.plan.approval = hold == "approval";
        world.alert((hold == "alert").then_some(Action::Rollback));
        world.target = "b";
        if hold == "pause" {
            // Asked for in the look after the start, so something must hold the first one.
            world.alert(Some(Action::Hold));
            world.look();
            world.ask("pause 1");
            world.alert(None);
        }
        if hold == "frozen" {
            world.alert(Some(Action::Hold));
            world.look();
            (world.frozen, world.alerts) = (Some("the fleet is frozen"), None);
        }
        if hold == "refused" {
            world.break_pods("b", "the quota of the namespace is used up", false, false);
        }
        world.looks(5);
        assert_eq!(sizes(&world), [("a", 2), ("b", 0)], "{hold}: {}", world.sentence);
        assert!(world.standing >= Standing::Holding, "{hold}: {}", world.sentence);
        match hold {
            "approval" => {
                assert!(world.sentence.contains("nobody is served from the moment"), "{}", world.sentence);
                world.ask("approve 2");
            }
            "alert" => world.alert(None),
            "frozen" => world.frozen = None,
            "pause" => world.ask("resume 2"),
            _ => world.pods.get_mut("b").unwrap().trouble = None,
        }
        world.look();
        world.alert(Some(Action::Hold));
        world.frozen = Some("the fleet is frozen");
        world.ask("pause 3");
        world.looks(4);
        assert_eq!(world.state.stable.as_deref(), Some("b"), "{hold}: {}", world.sentence);
    }
}

#[test]
fn a_candidate_that_fails_gives_the_room_back() {
    let mut world = recreating();
    world.looks(3);
    world.break_pods("b", "the file is no model", true, false);
    world.look();
    assert_eq!(world.reasons()[2..], [Reason::RolledBack]);
    let told = &world.told[2].message;
    assert!(told.contains("the file is no model; nobody is served until the pods of a are back"), "{told}");
    assert_eq!((sizes(&world), world.weights()), (vec![("a", 2), ("b", 0)], all("a")));
    world.looks(2);
    assert_eq!((world.standing, world.state.kept().len()), (Standing::Serving, 1), "{}", world.sentence);
}

#[test]
fn harm_after_the_exchange_exchanges_them_again() {
    let mut world = recreating();
    world.looks(5);
    assert!(world.state.guard.is_some(), "{}", world.sentence);
    world.told.clear();
    world.verdict = Some(Verdict::Fail("it failed 12 of 40 requests".into()));
    world.look();
    world.verdict = Some(Verdict::Pass("fine".into()));
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack, Reason::RunStarted, Reason::StableStopped]);
    assert!(
        world.told[0].message.contains("a takes its place, and nobody is served until"),
        "{}",
        world.told[0].message
    );
    world.looks(4);
    assert_eq!((world.state.stable.as_deref(), world.weights()), (Some("a"), all("a")));
    assert!(world.state.guard.is_none() && world.sentence.contains("`retry`"), "{}", world.sentence);
    assert_eq!(world.state.sizes(&world.wish.replicas)["a"], 2);
}

#[test]
fn a_later_canary_brings_no_pods_back_that_went() {
    let mut world = recreating();
    world.looks(5);
    world.wish.plan = World::new().wish.plan;
    world.target = "c";
    world.looks(2);
    assert!(!world.state.alone);
    assert_eq!(
        sizes(&world).into_iter().filter(|(_, size)| *size > 0).collect::<Vec<_>>(),
        [("b", 2), ("c", 2)]
    );
}

#[test]
fn what_serves_nobody_makes_no_room_and_a_first_revision_needs_none() {
    let mut world = World::new();
    world.wish.plan = Plan { strategy: Strategy::Recreate, steps: Vec::new(), ..world.wish.plan };
    world.looks(3);
    assert_eq!(
        (world.reasons(), sizes(&world)),
        (vec![Reason::RunStarted, Reason::Promoted], vec![("a", 2)])
    );
    assert!(
        world.told[0].message.ends_with("a takes over as soon as it is ready"),
        "{}",
        world.told[0].message
    );
    world.wish.replicas = 0.into();
    world.target = "b";
    world.looks(5);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}
