//! The time after a promotion.

use super::*;

/// A world in which `b` was promoted just now, and `a` is its control.
fn guarded() -> World {
    let mut world = World::serving();
    (world.wish.plan.guard, world.wish.plan.holdback) = (10 * SECOND, 1);
    world.target = "b";
    world.looks(12);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert!(world.state.guard.is_some());
    world.told.clear();
    world
}

fn harm() -> Verdict {
    Verdict::Fail("stable failed 30 of 900 requests".into())
}

#[test]
fn the_previous_revision_keeps_a_part_until_the_guard_is_over() {
    let mut world = guarded();
    world.wish.keep_warm = 100 * SECOND;
    assert_eq!(world.weights(), [("b".to_owned(), 990_000), ("a".to_owned(), 10_000)]);
    assert_eq!(world.state.traffic().watched, Some(Watched { revision: "b".into(), control: "a".into() }));
    assert_eq!((world.state.step(), world.standing), (3, Standing::Serving));
    assert!(world.sentence.contains("guarded for"), "{}", world.sentence);
    world.unverified = Some("router r1 is behind");
    world.looks(20);
    assert!(world.state.guard.is_some(), "time counts only while all routers serve the table");
    world.unverified = None;
    // Without evidence nothing speaks against it either.
    world.verdict = Some(Verdict::Inconclusive("few requests".into()));
    world.looks(10);
    assert_eq!((world.reasons(), world.weights()), (vec![Reason::GuardPassed], all("b")));
    assert!(world.state.kept().contains("a"), "still warm");
}

#[test]
fn the_guard_does_not_end_while_harm_is_not_ruled_out() {
    let mut world = guarded();
    world.verdict = Some(Verdict::Doubtful("stable failed 9 of 90 requests".into()));
    world.looks(30);
    assert!(world.state.guard.is_some() && world.reasons().is_empty());
    assert!(world.sentence.contains("guarded beyond its 10 s"), "{}", world.sentence);
    let settled = |verdict| {
        let mut world = world.clone();
        world.verdict = Some(verdict);
        world.look();
        world.reasons()
    };
    assert_eq!(settled(Verdict::Pass("0 of 900 lately".into())), [Reason::GuardPassed]);
    assert_eq!(settled(harm()), [Reason::RolledBack]);
}

#[test]
fn harm_in_the_guard_goes_back_by_one_change_of_weights() {
    for kind in ["verdict", "cut", "crash"] {
        let mut world = guarded();
        match kind {
            "verdict" => world.verdict = Some(harm()),
            "cut" => world.cut = Some("stable failed 30 of 900 requests"),
            _ => world.break_pods("b", "pod p was killed for memory", false, true),
        }
        world.look();
        assert_eq!((world.weights(), world.reasons()), (all("a"), vec![Reason::RolledBack]), "{kind}");
        assert!(world.state.kept().contains("b"), "requests in flight need their pods");
        (world.verdict, world.cut) = (None, None);
        world.looks(50);
        assert_eq!(world.weights(), all("a"), "{kind}: what was taken back is not tried again by itself");
        assert!(world.sentence.contains("`retry`"), "{}", world.sentence);
        world.ask("retry 1");
        assert!(world.state.run.as_ref().is_some_and(|run| !run.direct), "a retry goes step by step");
    }
}

#[test]
fn observe_only_tells() {
    let mut world = guarded();
    world.wish.enforce = false;
    world.verdict = Some(harm());
    world.looks(5);
    assert_eq!((world.state.stable.as_deref(), world.standing), (Some("b"), Standing::Holding));
    assert!(world.sentence.contains("30 of 900"), "{}", world.sentence);
}

#[test]
fn without_a_ready_pod_of_the_previous_one_nobody_is_sent_there() {
    let mut world = guarded();
    world.break_pods("a", "node n1 is gone", false, false);
    world.verdict = Some(harm());
    world.looks(5);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert!(world.sentence.contains("node n1 is gone"), "{}", world.sentence);
    world.pods.insert("a".into(), Pods { wanted: 2, ready: 1, ..Pods::default() });
    world.look();
    assert_eq!(world.state.stable.as_deref(), Some("a"));
}

#[test]
fn a_lost_previous_revision_is_replaced_by_the_known_good_one() {
    let mut world = guarded();
    world.wish.known_good = Some("c".into());
    world.revisions.remove("a");
    world.pods.remove("a");
    world.verdict = Some(harm());
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack, Reason::RunStarted]);
    assert_eq!(world.weights(), all("b"), "the known good one has no ready pod yet");
    world.verdict = None;
    world.looks(3);
    assert_eq!(world.weights(), all("c"));
    assert!(world.sentence.contains("known to be good"), "{}", world.sentence);
    assert!(world.state.guard.is_none(), "who is fallen back to is not compared with what did harm");
}

#[test]
fn a_new_wish_ends_the_guard() {
    let mut world = guarded();
    world.target = "c";
    world.looks(3);
    assert!(world.state.guard.is_none());
    assert_eq!(world.weights(), [("b".to_owned(), 900_000), ("c".to_owned(), 100_000)]);
}

#[test]
fn undo_in_the_guard_is_not_guarded_itself() {
    let mut world = guarded();
    world.ask("undo 1");
    assert_eq!((world.weights(), world.state.guard.is_none()), (all("a"), true));
    world.looks(50);
    assert_eq!(world.weights(), all("a"));
}

#[test]
fn the_first_revision_has_nobody_to_be_compared_with() {
    let mut world = World::new();
    (world.wish.plan.guard, world.wish.plan.holdback) = (10 * SECOND, 1);
    world.looks(3);
    assert_eq!((world.state.stable.as_deref(), world.state.guard.is_none()), (Some("a"), true));
}

#[test]
fn a_cut_that_came_while_the_promotion_was_written_is_followed() {
    let mut world = World::trying();
    world.looks(9);
    assert_eq!((world.state.stable.as_deref(), world.state.guard.is_none()), (Some("b"), true));
    let revocable = Watched { revision: "b".into(), control: "a".into() };
    assert_eq!(world.state.revocable(), Some(revocable));
    world.cut = Some("candidate failed 8 of 26 requests");
    world.look();
    assert_eq!((world.weights(), world.state.rejected[0].0.as_str()), (all("a"), "b"));
}
