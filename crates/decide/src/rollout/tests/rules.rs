//! Properties that hold whatever happens.

use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::*;
use crate::alert::Action;

/// One thing that may happen to a world.
#[derive(Clone, Debug)]
enum Act {
    Look(u8),
    Target(u8),
    Verdict(u8),
    Verified(bool),
    Break(u8),
    Mend,
    Cut(bool),
    Enforce(bool),
    Frozen(bool),
    Alert(u8),
    Lose(u8),
    Ask(u8),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (1_u8..12).prop_map(Act::Look),
        2 => (0_u8..3).prop_map(Act::Target),
        2 => (0_u8..5).prop_map(Act::Verdict),
        1 => any::<bool>().prop_map(Act::Verified),
        1 => (0_u8..3).prop_map(Act::Break),
        1 => Just(Act::Mend),
        1 => any::<bool>().prop_map(Act::Cut),
        1 => any::<bool>().prop_map(Act::Enforce),
        1 => any::<bool>().prop_map(Act::Frozen),
        1 => (0_u8..3).prop_map(Act::Lose),
        2 => (0_u8..11).prop_map(Act::Ask),
        1 => (0_u8..4).prop_map(Act::Alert),
        1 => Just(Act::Restart),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: weights sum to the whole, nobody but arms of the state has weight, a candidate never has more than
    /// its step's weight, pods with weight are kept, and runs are numbered upwards.
    #[test]
    fn the_rules_hold_whatever_happens(acts in prop::collection::vec(act(), 1..60), way in 0_u8..3) {
        use super::Strategy as Way;
        let mut world = World::new();
        world.wish.plan.strategy = [Way::Canary, Way::BlueGreen, Way::Recreate][usize::from(way)];
        world.wish.plan.steps = vec![
            step(Kind::Shadow { percent: 100, agreement: None }),
            step(Kind::Weight(10)),
            Step::new(Kind::Pause, None),
            Step { approval: true, ..step(Kind::Weight(50)) },
            step(Kind::Analysis),
        ];
        match world.wish.plan.strategy {
            Way::Canary => {}
            Way::BlueGreen => world.wish.plan.steps.retain(|step| !matches!(step.kind, Kind::Weight(_))),
            Way::Recreate => world.wish.plan.steps.clear(),
        }
        world.wish.plan.approval = true;
        (world.wish.plan.guard, world.wish.plan.holdback) = (6 * SECOND, 1);
        world.wish.known_good = Some("c".into());
        let mut runs = 0;
        for act in acts {
            match act {
                Act::Look(count) => world.looks(count.into()),
                Act::Target(index) => world.target = NAMES[usize::from(index)],
                Act::Verdict(kind) => world.verdict = Some(match kind {
                    0 => Verdict::Fail("harm".into()),
                    1 => Verdict::Inconclusive("few".into()),
                    2 => Verdict::Error("away".into()),
                    3 => Verdict::Doubtful("a little".into()),
                    _ => Verdict::Pass("fine".into()),
                }),
                Act::Verified(yes) => world.unverified = (!yes).then_some("a router is behind"),
                Act::Break(index) => world.break_pods(NAMES[usize::from(index)], "it crashed", false, true),
                Act::Mend => world.pods.values_mut().for_each(|pods| pods.trouble = None),
                Act::Cut(yes) => world.cut = yes.then_some("a router saw it fail"),
                Act::Enforce(yes) => world.wish.enforce = yes,
                Act::Frozen(yes) => world.frozen = yes.then_some("the fleet is frozen"),
                Act::Alert(kind) => world.alert(match kind {
                    0 => Some(Action::Rollback),
                    1 => Some(Action::Hold),
                    _ => None,
                }),
                Act::Lose(index) => {
                    world.revisions.remove(NAMES[usize::from(index)]);
                }
                Act::Ask(kind) => world.ask(
                    ["promote", "promote-full", "approve", "pause", "abort", "retry", "undo", "undo/a", "undo/b", "resume", "repin"][usize::from(kind)],
                ),
                // What is stored is all that is needed: nothing else exists here.
                Act::Restart => world.state = world.state.clone(),
            }
            world.look();
            let traffic = world.state.traffic();
            let shares = &traffic.arms;
            let sum: u32 = shares.iter().map(|share| share.ppm).sum();
            prop_assert!(shares.is_empty() || sum == WHOLE);
            let kept = world.state.kept();
            for share in shares {
                prop_assert!(kept.contains(share.revision.as_str()), "{} has weight and no pods", share.revision);
                let main = world.state.guard.is_none().then_some(&world.state.stable);
                prop_assert!(share.fallback.is_none() || main.is_none_or(|stable| share.fallback == *stable));
                prop_assert!(share.fallback.as_ref().is_none_or(|name| shares.iter().any(|arm| arm.revision == *name)));
            }
            for name in traffic.watched.iter().flat_map(|watched| [&watched.revision, &watched.control]) {
                prop_assert!(shares.iter().any(|arm| arm.revision == *name));
            }
            for name in traffic.shadow.iter().map(|shadow| &shadow.revision).chain(&traffic.trial) {
                prop_assert!(kept.contains(name.as_str()));
            }
            prop_assert!(world.state.guard.is_none() || (world.state.run.is_none() && world.state.previous.is_some()));
            if let (Some(stable), Some(run)) = (&world.state.stable, &world.state.run) {
                prop_assert_ne!(stable, &run.candidate);
                let candidate = shares.iter().find(|share| share.revision == run.candidate);
                let most = if run.room == Room::Free { WHOLE } else { run.weight() * 10_000 };
                prop_assert!(candidate.map_or(0, |share| share.ppm) <= most);
                prop_assert!(run.room == Room::Taken || world.state.alone);
            }
            if world.state.alone {
                let sizes = world.state.sizes(&world.wish.replicas);
                prop_assert!(sizes.values().filter(|size| **size > 0).count() <= 1, "there is no room for {sizes:?}");
                prop_assert!(traffic.watched.is_none(), "there is nobody to turn to");
            }
            if let Some(run) = world.state.run.as_ref().filter(|run| !run.direct && run.step >= 4) {
                prop_assert!(run.approvals.iter().any(|given| given.gate == Gate::Step(4)), "nobody approved step 4");
            }
            prop_assert!(world.state.runs >= runs);
            runs = world.state.runs;
            prop_assert!(!world.sentence.is_empty());
        }
    }

    /// Only a Pass promotes a canary.
    #[test]
    fn nothing_but_pass_promotes(kinds in prop::collection::vec(0_u8..2, 1..80)) {
        let mut world = World::trying();
        for kind in kinds {
            world.verdict = Some(if kind == 0 { Verdict::Inconclusive("few".into()) } else { Verdict::Error("away".into()) });
            world.look();
            prop_assert_eq!(world.state.stable.as_deref(), Some("a"));
        }
    }
}
