//! Faults that another rollout controller had, played against the machine. The numbers are those of the changes that mended them
//! there; `docs/known-faults.md` lists all.

use super::*;

/// Whether some of a revision's pods are lost for a moment, as when their node is drained.
fn churn(world: &mut World, revision: &str, lost: bool) {
    let pods = world.pods.get_mut(revision).unwrap();
    pods.trouble =
        lost.then(|| Trouble { what: "pod p cannot be scheduled".into(), permanent: false, crashed: false });
    pods.ready = if lost { 1 } else { pods.wanted };
}

/// Argo Rollouts 4612: on a return to an earlier version in mid-canary the weight was set at once, and whom it was for later, when
/// that version was ready: a candidate with pods for 5 % got 70 % of the traffic.
///
/// Ours: revision and weight stand in one arm of one table. The revision that is returned to has its own first weight, when all
/// its pods are ready, and until then the stable one has all.
#[test]
fn a_return_in_mid_canary_moves_weight_only_to_the_revision_that_it_is_for() {
    let mut world = World::trying();
    world.looks(60);
    world.target = "c";
    world.looks(3);
    assert_eq!(world.weights(), [("b".to_owned(), 900_000), ("c".to_owned(), 100_000)]);
    assert!(!world.state.kept().contains("a"), "its pods are gone");
    world.target = "a";
    world.break_pods("a", "pod p is starting", false, false);
    for _ in 0..10 {
        world.look();
        assert_eq!(world.weights(), all("b"), "{}", world.sentence);
    }
    world.pods.get_mut("a").unwrap().trouble = None;
    world.looks(2);
    assert_eq!(world.weights(), [("b".to_owned(), 900_000), ("a".to_owned(), 100_000)]);
}

/// Argo Rollouts 4639: the weight was set before it was checked that there were pods for it: on the way back a stable version that
/// had been scaled down got all the traffic.
///
/// Ours: traffic moves only to pods that this very look saw ready, on the way up and on the way back. A Deployment that is not
/// there is no pods.
#[test]
fn traffic_moves_only_to_pods_that_were_seen_ready() {
    // Back: nobody is there to take over.
    let mut world = World::trying();
    world.verdict = Some(Verdict::Fail("candidate failed 12 of 40 requests".into()));
    let stable = world.pods.remove("a").unwrap();
    world.look();
    assert_eq!(world.weights().len(), 2, "{}", world.sentence);
    assert_eq!(world.standing, Standing::Holding);
    assert!(world.sentence.contains("a has no pods to take over"), "{}", world.sentence);
    world.pods.insert("a".into(), stable);
    world.look();
    assert_eq!(world.weights(), all("a"));

    // Up: the step's time is over, the verdict is good, and somebody has deleted the candidate's Deployment.
    for (step, last) in [(1, false), (2, true)] {
        let mut world = World::trying();
        world.looks(if last { 4 } else { 1 });
        assert_eq!(world.state.step(), step);
        let before = world.weights();
        world.pods.remove("b");
        world.look();
        assert_eq!((world.state.step(), world.weights()), (step, before), "{}", world.sentence);
        assert_eq!(world.standing, Standing::Holding);
        world.looks(2);
        assert_ne!(world.state.step(), step, "its pods are there again: {}", world.sentence);
    }
}

/// Argo Rollouts 4787: whether a return was to pods that still ran was read from a date on their ReplicaSet. The date outlived its
/// meaning: versions whose time was over skipped pauses and analysis, and one that was returned to kept the date of its own end.
///
/// Ours: a return skips the steps only while the pods are kept. It ends their time: what is stable is not taken away. Later the same
/// revision is a candidate like any other.
#[test]
fn a_return_is_fast_while_the_pods_are_kept_and_not_after() {
    let mut world = World::trying();
    world.looks(9);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    world.looks(15);
    world.told.clear();
    world.target = "a";
    world.looks(2);
    assert_eq!(world.reasons(), [Reason::RunStarted, Reason::Promoted]);
    world.looks(100);
    assert_eq!(world.weights(), all("a"));
    assert!(world.state.kept().contains("a") && !world.state.kept().contains("b"), "{:?}", world.state);
    world.told.clear();
    world.target = "b";
    world.looks(3);
    assert_eq!(world.reasons(), [Reason::RunStarted, Reason::StepStarted]);
    assert_eq!(world.weights(), [("a".to_owned(), 900_000), ("b".to_owned(), 100_000)]);
}

/// Argo Rollouts 4604: when a pod of the new version was replaced in mid-analysis, the analysis was cancelled for lack of pods, and
/// a cancelled analysis counted as a success.
///
/// Ours: while pods are missing the step's time stands still and nothing is decided. The verdict is asked for when the time is
/// over, and only Pass leads on.
#[test]
fn pods_that_come_and_go_bring_no_run_to_its_end() {
    for (verdict, moves) in [
        (None, false),
        (Some(Verdict::Inconclusive("7 of 50 requests".into())), false),
        (Some(Verdict::Pass("fine".into())), true),
    ] {
        let mut world = World::trying();
        world.verdict = verdict;
        // Never whole for the three seconds that the step lasts; then whole.
        for _ in 0..20 {
            let before = world.state.run.clone().unwrap();
            churn(&mut world, "b", true);
            world.looks(5);
            assert_eq!(world.standing, Standing::Holding, "{}", world.sentence);
            assert_eq!(world.state.step(), 1);
            churn(&mut world, "b", false);
            world.look();
            let run = world.state.run.clone().unwrap();
            if run.step > 1 {
                assert!(moves && before.in_step >= 2 * SECOND, "{before:?}");
                break;
            }
            assert!(run.in_step <= before.in_step + SECOND, "time passed without pods");
        }
        assert_eq!(world.state.step() > 1, moves, "{}", world.sentence);
        assert_eq!(world.state.stable.as_deref(), Some("a"));
    }
}

/// Argo Rollouts 4602, where the version's own pods are meant: an image that cannot be pulled is no success. They get no traffic,
/// whatever was found out before, and are taken back at the deadline with the kubelet's words. A pod that is replaced in mid-step and
/// cannot be pulled holds the step.
#[test]
fn an_image_that_cannot_be_pulled_is_no_success() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    world.break_pods("b", "pod p: ImagePullBackOff: no such image", false, false);
    for _ in 0..19 {
        world.look();
        assert_eq!(world.weights(), all("a"), "{}", world.sentence);
    }
    world.look();
    assert_eq!(world.reasons(), [Reason::RunStarted, Reason::RolledBack]);
    assert!(world.told[1].message.contains("no such image"), "{:?}", world.told);

    let mut world = World::trying();
    world.break_pods("b", "pod p: ImagePullBackOff: no such image", false, false);
    world.pods.get_mut("b").unwrap().ready = 1;
    let before = world.weights();
    for _ in 0..15 {
        world.look();
        assert_eq!((world.state.step(), world.weights()), (1, before.clone()), "{}", world.sentence);
        assert_eq!(world.standing, Standing::Holding);
    }
}

/// Argo Rollouts 4692: a Job that could not run because of its cluster (no node, no secret, no image) was waited for until its
/// deadline and then counted against the version.
///
/// Ours: what keeps the operator from judging is the verdict Error. It is neither Pass nor Fail: the run holds and says why, goes
/// on when the evidence is there, and ends only at the deadline that the plan sets for that, with these words.
#[test]
fn a_broken_cluster_is_no_verdict_on_the_candidate() {
    let held = |looks| {
        let mut world = World::serving();
        world.wish.plan.inconclusive_deadline = Some(50 * SECOND);
        world.target = "b";
        world.looks(3);
        world.told.clear();
        world.verdict = Some(Verdict::Error("router r2: connection refused".into()));
        world.looks(looks);
        world
    };
    let mut world = held(50);
    assert_eq!((world.state.step(), world.standing), (1, Standing::Holding), "{}", world.sentence);
    assert!(world.sentence.contains("connection refused") && world.state.rejected.is_empty());
    world.verdict = Some(Verdict::Pass("fine".into()));
    world.look();
    assert_eq!(world.state.step(), 2);
    let world = held(60);
    assert_eq!(world.reasons(), [Reason::RolledBack]);
    assert!(world.state.rejected[0].1.contains("no verdict for 50 s"), "{:?}", world.state.rejected);
}
