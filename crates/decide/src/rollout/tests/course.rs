//! Kinds of steps, the pinned plan, and what keeps a run from going on.

use super::*;

/// A world in which `b` is tried by a plan.
fn trying(steps: Vec<Step>) -> World {
    let mut world = World::serving();
    world.wish.plan.steps = steps;
    world.target = "b";
    world.looks(3);
    world.told.clear();
    world
}

#[test]
fn a_shadow_step_gives_copies_and_no_traffic() {
    let mut world = trying(vec![step(Kind::Shadow { percent: 30, agreement: None }), step(Kind::Weight(10))]);
    assert_eq!(world.weights(), all("a"));
    let shadow = Shadow { revision: "b".into(), of: "a".into(), ppm: 300_000 };
    assert_eq!(world.state.traffic().shadow, Some(shadow));
    assert!(world.sentence.contains("copies of 30 %"), "{}", world.sentence);
    world.looks(4);
    assert_eq!(world.weights(), [("a".to_owned(), 900_000), ("b".to_owned(), 100_000)]);
    assert_eq!(world.state.traffic().shadow, None);
}

#[test]
fn harm_in_the_shadow_ends_the_run_before_anybody_is_harmed() {
    let mut world =
        trying(vec![step(Kind::Shadow { percent: 100, agreement: None }), step(Kind::Weight(10))]);
    world.verdict = Some(Verdict::Fail("candidate failed 12 of 40 copies".into()));
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack]);
}

#[test]
fn a_pause_with_an_end_passes_and_one_without_waits_for_resume() {
    let pause = |lasts| Step::new(Kind::Pause, lasts);
    let mut world =
        trying(vec![step(Kind::Weight(10)), pause(Some(5 * SECOND)), pause(None), step(Kind::Weight(50))]);
    world.looks(4);
    assert_eq!(world.state.step(), 2);
    // A night without traffic is no reason to stay in a pause.
    world.verdict = Some(Verdict::Inconclusive("no request".into()));
    world.looks(6);
    assert_eq!((world.state.step(), world.weights()[1].1), (3, 100_000));
    world.looks(100);
    assert_eq!((world.state.step(), world.standing), (3, Standing::Holding));
    assert!(world.sentence.contains("`resume`"), "{}", world.sentence);
    world.ask("resume 1");
    assert_eq!(world.state.step(), 4);
    assert_eq!(world.reasons()[2..], [Reason::Resumed, Reason::StepStarted]);
    world.ask("resume 2");
    assert_eq!(world.reasons().last(), Some(&Reason::RequestRefused));
}

#[test]
fn a_pause_at_the_end_promotes_nobody_without_evidence() {
    let mut world = trying(vec![step(Kind::Weight(10)), Step::new(Kind::Pause, None)]);
    world.looks(4);
    world.verdict = Some(Verdict::Inconclusive("no request".into()));
    world.ask("resume 1");
    world.looks(20);
    assert_eq!((world.state.step(), world.standing), (2, Standing::Holding));
    world.verdict = Some(Verdict::Pass("fine".into()));
    world.look();
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}

#[test]
fn an_analysis_keeps_the_weight_and_needs_a_verdict() {
    let mut world = trying(vec![step(Kind::Weight(10)), step(Kind::Analysis), step(Kind::Weight(50))]);
    world.looks(4);
    world.verdict = None;
    world.looks(50);
    assert_eq!((world.state.step(), world.weights()[1].1), (2, 100_000));
    world.verdict = Some(Verdict::Pass("fine".into()));
    world.look();
    assert_eq!(world.state.step(), 3);
}

#[test]
fn the_plan_of_a_run_is_the_one_that_it_started_with() {
    let mut world = World::trying();
    let before = world.state.run.clone().unwrap().plan;
    for round in 1..20 {
        // A plan that changes at every look changes nothing.
        world.wish.plan.steps = vec![Step::new(Kind::Weight(90), Some(round * SECOND))];
        world.verdict = Some(Verdict::Inconclusive("few".into()));
        world.look();
        assert_eq!((&world.state.run.as_ref().unwrap().plan, world.weights()[1].1), (&before, 100_000));
        assert!(world.sentence.contains("`repin`"), "{}", world.sentence);
    }
    world.ask("repin 1");
    assert_eq!(world.weights()[1].1, 900_000);
    assert!(!world.sentence.contains("`repin`"), "{}", world.sentence);
    world.ask("repin 2");
    assert_eq!(world.reasons(), [Reason::Repinned, Reason::RequestRefused]);
}

#[test]
fn a_frozen_fleet_neither_starts_nor_advances_and_still_goes_back() {
    let mut world = World::trying();
    world.frozen = Some("the fleet is frozen: incident 7");
    world.looks(100);
    assert_eq!((world.state.step(), world.standing), (1, Standing::Holding));
    assert!(world.sentence.contains("incident 7"), "{}", world.sentence);
    world.target = "c";
    world.look();
    assert_eq!((world.state.run.is_none(), world.reasons()), (true, vec![Reason::Superseded]));
    assert!(world.sentence.contains("incident 7"), "{}", world.sentence);
    world.frozen = None;
    world.looks(3);
    world.frozen = Some("the fleet is frozen: incident 8");
    world.verdict = Some(Verdict::Fail("it failed".into()));
    world.look();
    assert_eq!(world.reasons().last(), Some(&Reason::RolledBack));
}

#[test]
fn runs_wait_for_their_turn_but_not_the_first_and_no_way_back() {
    let mut world = World::new();
    world.queued = Some("2 rollouts are under way in this namespace, as many as may be");
    world.looks(3);
    assert_eq!(world.state.stable.as_deref(), Some("a"));
    world.target = "b";
    world.looks(5);
    assert!(world.state.run.is_none());
    assert!(world.sentence.contains("as many as may be"), "{}", world.sentence);
    world.queued = None;
    world.looks(15);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    world.queued = Some("2 rollouts are under way");
    world.ask("undo 1");
    assert_eq!(world.state.stable.as_deref(), Some("a"));
}

#[test]
fn observe_tells_of_harm_and_does_nothing_about_it() {
    let mut world = World::trying();
    world.wish.enforce = false;
    world.verdict = Some(Verdict::Fail("candidate failed 12 of 40 requests".into()));
    world.looks(50);
    assert_eq!((world.state.step(), world.standing), (1, Standing::Holding));
    assert!(world.sentence.contains("12 of 40") && world.sentence.contains("Observe"), "{}", world.sentence);
}

#[test]
fn what_routers_cut_is_taken_back_whatever_the_operator_thinks() {
    for enforce in [true, false] {
        let mut world = World::trying();
        world.wish.enforce = enforce;
        world.cut = Some("candidate failed 8 of 26 requests, stable 0 of 240");
        world.look();
        assert_eq!(world.reasons(), [Reason::RolledBack]);
        assert!(world.sentence.contains("8 of 26"), "{}", world.sentence);
    }
}

#[test]
fn a_rollout_without_evidence_goes_back_at_its_deadline_where_that_is_asked_for() {
    let mut world = World::serving();
    world.wish.plan.inconclusive_deadline = Some(30 * SECOND);
    world.target = "b";
    world.looks(3);
    world.verdict = Some(Verdict::Inconclusive("0 of 50 requests".into()));
    world.looks(30);
    assert_eq!((world.state.step(), world.standing), (1, Standing::Holding));
    world.looks(5);
    assert_eq!(world.reasons().last(), Some(&Reason::RolledBack));
    assert!(world.sentence.contains("30 s beyond the step"), "{}", world.sentence);
}

#[test]
fn a_spec_that_returns_to_the_previous_revision_is_a_way_back() {
    let mut world = World::trying();
    world.looks(10);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    world.target = "a";
    world.looks(2);
    assert_eq!((world.state.stable.as_deref(), world.weights()), (Some("a"), all("a")));
    assert!(!world.reasons().contains(&Reason::Undone));
}
