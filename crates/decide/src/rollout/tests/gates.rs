//! Approvals, pauses and alerts.

use super::*;

/// A world with `b` at its first step, in which step 2 and the promotion want an approval.
fn gated() -> World {
    let mut world = World::serving();
    world.wish.plan.steps[1].approval = true;
    world.wish.plan.approval = true;
    world.target = "b";
    world.looks(3);
    assert_eq!(world.state.step(), 1);
    world.told.clear();
    world
}

fn step_of(world: &World) -> Option<usize> {
    world.state.run.as_ref().map(|run| run.step)
}

#[test]
fn a_step_and_the_promotion_wait_for_their_approvals() {
    let mut world = gated();
    world.looks(50);
    assert_eq!((step_of(&world), world.standing), (Some(1), Standing::Holding));
    assert_eq!(
        world.sentence,
        "run 2, step 1/2: b gets 10 %; step 2 (50 %) waits for an approval: `approve` with a reason lets it begin"
    );
    assert_eq!(world.state.run.as_ref().unwrap().awaits, Some(Gate::Step(2)));
    world.ask("approve 1");
    assert_eq!(world.reasons(), [Reason::Approved, Reason::StepStarted]);
    assert_eq!(world.told[0].message, "b: step 2 is approved by ann: it looks well");
    assert_eq!(world.state.run.as_ref().unwrap().awaits, None);
    world.looks(50);
    assert_eq!(step_of(&world), Some(2));
    assert!(world.sentence.contains("the promotion waits for an approval"), "{}", world.sentence);
    world.ask("approve 2");
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}

#[test]
fn an_approval_is_for_what_waits_and_for_nothing_ahead() {
    let mut world = gated();
    world.ask("approve 1");
    let early = "approve: nothing waits for an approval yet; step 2 will, once the run gets there";
    assert_eq!(world.told.last().unwrap().message, early);
    world.looks(10);
    world.ask("approve 2");
    // Somebody else was asked as well, and says yes to the same a moment later.
    world.ask("approve 3");
    let early = "approve: nothing waits for an approval yet; the promotion will, once the run gets there";
    assert_eq!(world.told.last().unwrap().message, early);
    world.looks(50);
    assert_eq!(world.state.stable.as_deref(), Some("a"));
}

#[test]
fn what_somebody_skipped_does_not_go_on_under_a_pause_or_a_freeze() {
    for freeze in [false, true] {
        let mut world = gated();
        world.ask("promote 1");
        assert_eq!(world.state.run.as_ref().unwrap().awaits, Some(Gate::Step(2)));
        if freeze {
            world.frozen = Some("the fleet is frozen");
        } else {
            world.ask("pause 2");
        }
        world.ask("approve 3");
        world.looks(10);
        assert_eq!(step_of(&world), Some(1), "{}", world.sentence);
    }
    let mut world = World::trying();
    world.frozen = Some("the fleet is frozen");
    for text in ["promote 1", "promote-full 2"] {
        world.ask(text);
        assert!(world.told.last().unwrap().message.ends_with(": the fleet is frozen"));
    }
    assert_eq!(step_of(&world), Some(1));
}

#[test]
fn time_in_which_a_run_was_held_is_no_time_without_evidence() {
    let mut world = World::trying();
    world.wish.plan.inconclusive_deadline = Some(5 * SECOND);
    world.state.run.as_mut().unwrap().plan.inconclusive_deadline = Some(5 * SECOND);
    world.frozen = Some("the fleet is frozen");
    world.verdict = Some(Verdict::Inconclusive("few".into()));
    world.looks(50);
    world.frozen = None;
    world.looks(3);
    assert_eq!(step_of(&world), Some(1), "{}", world.sentence);
    world.looks(5);
    assert_eq!(world.told.last().unwrap().reason, Reason::RolledBack, "{}", world.sentence);
}

#[test]
fn who_waits_for_an_approval_is_still_looked_after() {
    let mut world = gated();
    world.wish.plan.inconclusive_deadline = Some(5 * SECOND);
    world.looks(20);
    // Long beyond the step's time, a moment without a verdict is no reason to take it back.
    world.verdict = Some(Verdict::Inconclusive("few".into()));
    world.looks(3);
    assert_eq!(step_of(&world), Some(1));
    world.verdict = Some(Verdict::Fail("it fails".into()));
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack]);
}

#[test]
fn an_approval_is_for_one_candidate_with_a_reason_and_for_one_plan() {
    let mut world = gated();
    world.ask("approve/c 1");
    assert_eq!(world.told.last().unwrap().message, "approve: c is not the candidate, b is");
    world.request = Some(Request::parse("approve 2", "ann").unwrap());
    world.look();
    assert_eq!(world.told.last().unwrap().message, "approve: say why, in the annotation stoker.dev/reason");
    let mut world = gated();
    world.looks(10);
    world.alert(None);
    world.frozen = Some("the fleet is frozen");
    world.ask("approve 3");
    world.frozen = None;
    world.wish.plan.steps[1] = Step { approval: true, ..step(Kind::Weight(90)) };
    world.ask("repin 4");
    world.looks(20);
    assert_eq!(step_of(&world), Some(1), "it was given for another plan: {}", world.sentence);
}

#[test]
fn a_plan_without_steps_waits_for_the_approval_of_its_promotion() {
    let mut world = World::serving();
    (world.wish.plan.steps, world.wish.plan.approval) = (Vec::new(), true);
    world.target = "b";
    world.looks(10);
    assert_eq!((step_of(&world), world.weights()), (Some(0), all("a")));
    assert_eq!(
        world.sentence,
        "run 2, step 0/0: b is ready; the promotion waits for an approval: `approve` with a reason lets it begin"
    );
    world.ask("approve 1");
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}

#[test]
fn neither_promote_goes_through_a_closed_gate() {
    let mut world = gated();
    world.ask("promote-full 1");
    assert_eq!(
        world.told.last().unwrap().message,
        "promote-full: step 2 wants an approval first; use `approve`"
    );
    world.ask("promote 2");
    world.looks(10);
    assert_eq!(step_of(&world), Some(1));
    world.ask("approve 3");
    assert_eq!(step_of(&world), Some(2));
}

#[test]
fn promote_ends_one_step_whatever_it_waits_for() {
    let mut world = World::trying();
    world.verdict = Some(Verdict::Inconclusive("few".into()));
    world.looks(10);
    assert_eq!(step_of(&world), Some(1));
    world.ask("promote 1");
    assert_eq!(step_of(&world), Some(2));
    world.looks(10);
    assert_eq!(step_of(&world), Some(2), "one step, and no more");
    world.ask("promote 2");
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}

#[test]
fn a_paused_run_stands_still_and_harm_still_ends_it() {
    let mut world = World::trying();
    world.ask("pause 1");
    let spent = world.state.run.as_ref().unwrap().in_step;
    world.looks(50);
    assert_eq!((step_of(&world), world.standing), (Some(1), Standing::Holding));
    assert_eq!(world.sentence, "run 2, step 1/2: b gets 10 % is paused by ann: `resume` lets it go on");
    assert_eq!(world.state.run.as_ref().unwrap().in_step, spent);
    world.ask("pause 2");
    assert_eq!(world.told.last().unwrap().reason, Reason::RequestRefused);
    world.ask("resume 3");
    world.looks(3);
    assert_eq!(step_of(&world), Some(2));
    world.ask("pause 4");
    world.verdict = Some(Verdict::Fail("it fails".into()));
    world.look();
    assert_eq!(world.told.last().unwrap().reason, Reason::RolledBack);
}

#[test]
fn an_alert_takes_the_candidate_back_or_holds_it() {
    let mut world = World::trying();
    world.alert(Some(Action::Rollback));
    world.look();
    assert_eq!((world.reasons(), world.weights()), (vec![Reason::RolledBack], all("a")));
    assert!(world.told[0].message.starts_with("b: alert Wrong fires"), "{}", world.told[0].message);

    let mut world = World::trying();
    world.alert(Some(Action::Hold));
    world.looks(20);
    assert_eq!((step_of(&world), world.standing), (Some(1), Standing::Holding));
    assert!(world.sentence.contains("holds: alert Wrong fires"), "{}", world.sentence);
    world.alert(None);
    world.looks(2);
    assert_eq!(step_of(&world), Some(2));
}

#[test]
fn alerts_that_cannot_be_read_hold_and_take_nothing_back() {
    let mut world = World::trying();
    world.alerts = Some(Alerts { unreadable: Some("no answer within 5 s".into()), firing: Vec::new() });
    world.looks(20);
    assert_eq!((step_of(&world), world.standing), (Some(1), Standing::Holding));
    assert!(world.sentence.contains("alerts cannot be read: no answer within 5 s"), "{}", world.sentence);
}

#[test]
fn an_alert_that_fires_already_is_not_about_the_candidate() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    world.alert(Some(Action::Rollback));
    world.looks(20);
    assert_eq!((step_of(&world), world.weights()), (Some(0), all("a")), "{}", world.sentence);
    assert!(world.sentence.contains("before the candidate has any traffic"), "{}", world.sentence);
    // The candidate may be what mends it.
    world.ask("promote 1");
    world.looks(2);
    assert_eq!(step_of(&world), Some(1), "{}", world.sentence);
    world.looks(2);
    // It ends, and fires again: that is news.
    world.alert(None);
    world.look();
    world.alert(Some(Action::Rollback));
    world.look();
    assert_eq!(world.told.last().unwrap().reason, Reason::RolledBack);
}

#[test]
fn what_fired_while_nobody_could_read_alerts_is_not_about_the_candidate() {
    let mut world = World::serving();
    world.target = "b";
    world.alerts = Some(Alerts { unreadable: Some("no answer".into()), firing: Vec::new() });
    world.looks(10);
    assert_eq!(step_of(&world), Some(0), "{}", world.sentence);
    world.ask("promote 1");
    world.look();
    assert_eq!(step_of(&world), Some(1), "{}", world.sentence);
    world.alert(Some(Action::Rollback));
    world.looks(2);
    assert!(world.state.rejected.is_empty(), "{}", world.sentence);
}

#[test]
fn a_plan_without_steps_knows_what_fired_before() {
    let mut world = World::serving();
    (world.wish.plan.steps, world.wish.plan.guard) = (Vec::new(), 20 * SECOND);
    world.target = "b";
    world.look();
    world.alert(Some(Action::Rollback));
    world.looks(5);
    assert_eq!(world.state.stable.as_deref(), Some("b"), "{}", world.sentence);
    assert!(world.state.guard.is_some());
}

#[test]
fn an_alert_in_a_step_without_traffic_is_not_about_the_candidate() {
    let mut world = World::serving();
    world.wish.plan.steps.insert(0, step(Kind::Weight(0)));
    world.target = "b";
    world.looks(3);
    assert_eq!((step_of(&world), world.weights()), (Some(1), all("a")));
    world.alert(Some(Action::Rollback));
    world.looks(2);
    assert!(world.state.rejected.is_empty(), "{}", world.sentence);
}

#[test]
fn an_alert_in_the_guard_goes_back_to_the_previous_revision() {
    let mut world = World::serving();
    (world.wish.plan.guard, world.wish.plan.holdback) = (20 * SECOND, 1);
    world.target = "b";
    while world.state.guard.is_none() {
        world.look();
    }
    world.alert(Some(Action::Hold));
    world.look();
    assert_eq!(world.state.stable.as_deref(), Some("b"), "a hold is for runs");
    world.alert(Some(Action::Rollback));
    world.look();
    assert_eq!(world.weights(), all("a"));
}

#[test]
fn observed_harm_by_an_alert_is_only_told() {
    let mut world = World::trying();
    world.wish.enforce = false;
    world.alert(Some(Action::Rollback));
    world.looks(5);
    assert_eq!(step_of(&world), Some(1));
    assert!(world.sentence.contains("rollback.mode is Observe"), "{}", world.sentence);
}

#[test]
fn gates_have_names_that_are_read_back() {
    for gate in [Gate::Step(2), Gate::Promotion] {
        assert_eq!(gate.to_string().parse(), Ok(gate));
    }
    assert_eq!(
        "step x".parse::<Gate>().unwrap_err().to_string(),
        "\"step x\" is no gate; there are `step <number>` and `promotion`"
    );
}
