//! The machine is driven by a small world in which pods get ready and routers obey, look by look.

use super::*;
use crate::alert::{Action, Concern};
use crate::traffic::WHOLE;

const SECOND: Duration = Duration::from_secs(1);

/// A step of three seconds.
fn step(kind: Kind) -> Step {
    Step::new(kind, Some(3 * SECOND))
}

/// A world that does what the state asks for, one look later.
#[derive(Clone)]
struct World {
    wish: Wish,
    state: State,
    target: &'static str,
    pods: BTreeMap<String, Pods>,
    revisions: BTreeSet<String>,
    verdict: Option<Verdict>,
    bad_ppm: u32,
    /// One pod of each revision gets ready with each look, in place of all of them.
    slow: bool,
    cut: Option<&'static str>,
    queued: Option<&'static str>,
    frozen: Option<&'static str>,
    alerts: Option<Alerts>,
    unverified: Option<&'static str>,
    unreachable: Option<&'static str>,
    in_flight: BTreeMap<String, u64>,
    request: Option<Request>,
    told: Vec<Transition>,
    sentence: String,
    standing: Standing,
}

impl World {
    fn new() -> Self {
        Self {
            wish: Wish {
                plan: Plan {
                    steps: vec![step(Kind::Weight(10)), step(Kind::Weight(50))],
                    progress_deadline: 20 * SECOND,
                    ..Plan::default()
                },
                keep_warm: 30 * SECOND,
                replicas: 2.into(),
                counted_elsewhere: false,
                enforce: true,
                known_good: None,
            },
            state: State::default(),
            target: "a",
            pods: BTreeMap::new(),
            revisions: ["a", "b", "c"].map(str::to_owned).into(),
            verdict: Some(Verdict::Pass("fine".into())),
            bad_ppm: 0,
            slow: false,
            cut: None,
            queued: None,
            frozen: None,
            alerts: None,
            unverified: None,
            unreachable: None,
            in_flight: BTreeMap::new(),
            request: None,
            told: Vec::new(),
            sentence: String::new(),
            standing: Standing::Moving,
        }
    }

    /// A world in which `a` serves.
    fn serving() -> Self {
        let mut world = Self::new();
        world.looks(3);
        assert_eq!(world.state.stable.as_deref(), Some("a"));
        world.told.clear();
        world
    }

    /// A world in which `b` is tried at its first step.
    fn trying() -> Self {
        let mut world = Self::serving();
        world.target = "b";
        world.looks(3);
        assert_eq!(world.state.step(), 1);
        world.told.clear();
        world
    }

    fn look(&mut self) {
        let seen = Seen {
            target: self.target,
            target_waits: None,
            pods: &self.pods,
            revisions: &self.revisions,
            unverified: self.unverified,
            unreachable: self.unreachable,
            in_flight: &self.in_flight,
            verdict: self.verdict.as_ref().filter(|_| self.state.compared().is_some()),
            bad_ppm: self.bad_ppm,
            cut: self.cut.filter(|_| self.state.revocable().is_some()),
            queued: self.queued,
            frozen: self.frozen,
            alerts: self.alerts.as_ref().filter(|_| self.state.tries()),
            request: self.request.as_ref(),
            elapsed: SECOND,
        };
        let decision = decide(&self.wish, &self.state, &seen);
        self.request = None;
        self.state = decision.state;
        self.told.extend(decision.transitions);
        (self.sentence, self.standing) = (decision.sentence, decision.standing);
        // Pods come up, and those that are not kept go.
        let sizes = self.state.sizes(&self.wish.replicas);
        self.pods.retain(|revision, _| sizes.contains_key(revision.as_str()));
        for (revision, wanted) in sizes {
            let pods = self.pods.entry(revision.to_owned()).or_default();
            pods.wanted = wanted;
            if pods.trouble.is_none() {
                pods.ready = if self.slow { wanted.min(pods.ready + 1) } else { wanted };
            }
            (pods.there, pods.standing) = (pods.ready, pods.ready);
        }
    }

    fn looks(&mut self, count: usize) {
        for _ in 0..count {
            self.look();
        }
    }

    fn ask(&mut self, text: &str) {
        self.request = Some(Request::parse(text, "ann").unwrap().because("it looks well"));
        self.look();
    }

    /// The one alert that is declared fires, or it does not.
    fn alert(&mut self, action: Option<Action>) {
        let concern = |action| Concern {
            key: "Wrong-1".into(),
            alert: "Wrong".into(),
            action: Some(action),
            sentence: "alert Wrong fires".into(),
        };
        self.alerts = Some(Alerts { firing: action.map(concern).into_iter().collect(), unreadable: None });
    }

    fn break_pods(&mut self, revision: &str, what: &str, permanent: bool, crashed: bool) {
        let trouble = Trouble { what: what.into(), permanent, crashed };
        self.pods.insert(revision.into(), Pods { wanted: 2, trouble: Some(trouble), ..Pods::default() });
    }

    fn reasons(&self) -> Vec<Reason> {
        self.told.iter().map(|transition| transition.reason).collect()
    }

    fn weights(&self) -> Vec<(String, u32)> {
        self.state.traffic().arms.into_iter().map(|share| (share.revision, share.ppm)).collect()
    }
}

fn all(revision: &str) -> Vec<(String, u32)> {
    vec![(revision.to_owned(), WHOLE)]
}

#[test]
fn the_first_revision_is_served_as_soon_as_it_is_ready() {
    let mut world = World::new();
    world.look();
    assert_eq!(world.weights(), all("a"));
    assert_eq!(world.state.stable, None);
    world.looks(2);
    assert_eq!(world.state.stable.as_deref(), Some("a"));
    assert_eq!(world.reasons(), [Reason::RunStarted, Reason::Promoted]);
}

#[test]
fn a_good_candidate_goes_step_by_step_and_the_previous_one_is_kept_warm() {
    let mut world = World::trying();
    assert_eq!(world.weights(), [("a".to_owned(), 900_000), ("b".to_owned(), 100_000)]);
    world.looks(9);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert_eq!(world.reasons(), [Reason::StepStarted, Reason::Promoted]);
    assert_eq!(world.weights(), all("b"));
    assert!(world.state.kept().contains("a"));
    world.looks(40);
    assert!(!world.state.kept().contains("a"), "kept for ever");
}

#[test]
fn weight_comes_after_pods() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    assert_eq!(world.weights(), all("a"), "the candidate has no ready pod yet");
}

#[test]
fn a_harmful_candidate_is_taken_back_and_not_tried_again() {
    let mut world = World::trying();
    world.verdict = Some(Verdict::Fail("candidate failed 12 of 40 requests".into()));
    world.look();
    assert_eq!(world.weights(), all("a"));
    assert!(world.state.kept().contains("b"), "requests in flight need their pods");
    world.looks(20);
    assert_eq!(world.reasons(), [Reason::RolledBack]);
    assert!(!world.state.kept().contains("b"));
    assert!(world.sentence.contains("12 of 40"), "{}", world.sentence);
}

#[test]
fn pods_stay_while_requests_are_in_flight() {
    let mut world = World::trying();
    world.in_flight.insert("b".into(), 3);
    world.verdict = Some(Verdict::Fail("it failed".into()));
    world.looks(10);
    assert!(world.state.kept().contains("b"));
    world.in_flight.clear();
    world.unverified = Some("router r2 still serves the old table");
    world.looks(10);
    assert!(world.state.kept().contains("b"));
    world.unverified = None;
    world.look();
    assert!(!world.state.kept().contains("b"));
}

#[test]
fn without_evidence_a_rollout_holds() {
    for verdict in
        [None, Some(Verdict::Inconclusive("no traffic".into())), Some(Verdict::Error("no router".into()))]
    {
        let mut world = World::trying();
        world.verdict = verdict;
        world.looks(1000);
        assert_eq!(world.state.step(), 1);
        assert_eq!(world.standing, Standing::Holding);
        assert!(world.sentence.contains("holds"), "{}", world.sentence);
        world.verdict = Some(Verdict::Pass("fine".into()));
        world.look();
        assert_eq!(world.state.step(), 2);
    }
}

#[test]
fn time_counts_only_while_all_routers_serve_the_table() {
    let mut world = World::trying();
    world.unverified = Some("router r1 serves generation 3");
    world.looks(100);
    assert_eq!(world.state.step(), 1);
    assert!(world.sentence.contains("r1"), "{}", world.sentence);
}

#[test]
fn a_candidate_that_never_gets_ready_is_taken_back_at_the_deadline() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    world.break_pods("b", "pod p: ImagePullBackOff", false, false);
    world.looks(10);
    assert_eq!(world.standing, Standing::Troubled);
    assert!(world.sentence.contains("ImagePullBackOff"), "{}", world.sentence);
    world.looks(20);
    assert_eq!(world.reasons().last(), Some(&Reason::RolledBack));
    assert_eq!(world.weights(), all("a"));
}

#[test]
fn a_bad_artifact_is_taken_back_at_once() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    world.break_pods("b", "pod p: digest mismatch", true, true);
    world.look();
    assert_eq!(world.reasons().last(), Some(&Reason::RolledBack));
}

#[test]
fn a_crash_with_traffic_is_harm() {
    let mut world = World::trying();
    world.break_pods("b", "pod p was killed for memory", false, true);
    world.look();
    assert_eq!(world.reasons(), [Reason::RolledBack]);
}

#[test]
fn lost_capacity_without_a_crash_holds_until_it_lasts_too_long() {
    let mut world = World::trying();
    world.break_pods("b", "pod p cannot be scheduled", false, false);
    world.looks(15);
    assert_eq!((world.state.step(), world.standing), (1, Standing::Holding));
    world.looks(10);
    assert_eq!(world.reasons(), [Reason::RolledBack]);
    assert!(world.sentence.contains("cannot be scheduled"), "{}", world.sentence);
}

#[test]
fn restarts_under_traffic_are_harm_also_when_the_pods_are_ready_again() {
    let mut world = World::serving();
    world.target = "b";
    world.look();
    // Restarts before the first step may have waited for something.
    world.pods.get_mut("b").unwrap().restarts = 2;
    world.looks(2);
    assert_eq!(world.state.step(), 1);
    let pods = world.pods.get_mut("b").unwrap();
    (pods.restarts, pods.last_end) = (3, Some("pod p was killed for memory".into()));
    world.look();
    assert_eq!(world.reasons().last(), Some(&Reason::RolledBack));
    assert!(world.sentence.contains("restarted 1 times"), "{}", world.sentence);
}

#[test]
fn a_first_revision_that_fails_is_tried_for_ever_and_can_be_replaced() {
    let mut world = World::new();
    world.look();
    world.break_pods("a", "pod p: unsupported operator", true, true);
    world.looks(100);
    assert_eq!(world.standing, Standing::Troubled);
    world.target = "b";
    world.looks(3);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
}

#[test]
fn a_newer_wish_takes_the_place_of_the_candidate() {
    let mut world = World::trying();
    world.target = "c";
    world.look();
    assert_eq!(world.reasons(), [Reason::Superseded, Reason::RunStarted]);
    assert_eq!(world.weights(), all("a"));
    world.looks(12);
    assert_eq!(world.state.stable.as_deref(), Some("c"));
    assert!(!world.state.kept().contains("b"));
}

#[test]
fn a_return_to_stable_ends_the_run_and_rejects_nothing() {
    let mut world = World::trying();
    world.target = "a";
    world.looks(3);
    assert_eq!(world.reasons(), [Reason::Aborted]);
    assert!(world.state.rejected.is_empty());
    world.target = "b";
    world.look();
    assert!(world.state.run.is_some());
}

#[test]
fn requests_are_obeyed() {
    let mut world = World::trying();
    world.ask("promote-full 1");
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert_eq!(world.reasons(), [Reason::PromoteRequested, Reason::Promoted]);
    assert!(world.told[0].message.contains("as ann asked"), "{}", world.told[0].message);

    let mut world = World::trying();
    world.ask("abort 1");
    assert_eq!((world.weights(), world.state.run.is_none()), (all("a"), true));
    world.looks(10);
    assert!(world.state.run.is_none(), "an aborted candidate is not tried again");
    world.ask("retry 1");
    assert!(world.state.run.is_some());

    let mut world = World::trying();
    world.looks(10);
    world.ask("undo 1");
    world.look();
    assert_eq!(world.state.stable.as_deref(), Some("a"), "undo to a warm revision is immediate");
    world.looks(50);
    assert_eq!(world.weights(), all("a"));
    assert!(world.sentence.contains("the spec wants b"), "{}", world.sentence);
    world.target = "c";
    world.looks(12);
    assert_eq!(world.state.stable.as_deref(), Some("c"), "a new wish ends the pin");
}

#[test]
fn undo_reaches_revisions_whose_pods_are_gone() {
    let mut world = World::trying();
    world.looks(60);
    assert!(!world.state.kept().contains("a"));
    world.ask("undo/a 1");
    assert_eq!(world.weights(), all("b"), "not before its pods are ready");
    world.looks(2);
    assert_eq!(world.weights(), all("a"));
}

#[test]
fn undo_in_mid_run_returns_to_stable() {
    let mut world = World::trying();
    world.ask("undo 1");
    assert_eq!(world.reasons(), [Reason::Aborted]);
}

#[test]
fn requests_that_do_not_fit_are_refused_with_a_reason() {
    for text in [
        "promote",
        "promote-full",
        "approve",
        "pause",
        "abort",
        "retry",
        "undo",
        "undo/zz",
        "undo/a",
        "retry/zz",
    ] {
        let mut world = World::serving();
        let before = world.state.clone();
        world.ask(text);
        assert_eq!(world.reasons(), [Reason::RequestRefused], "{text}");
        assert_eq!(world.state, before, "{text}");
    }
}

#[test]
fn without_replicas_there_is_nothing_to_try() {
    let mut world = World::serving();
    world.wish.replicas = 0.into();
    world.pods.clear();
    world.looks(2);
    world.target = "b";
    world.looks(3);
    assert_eq!(world.state.stable.as_deref(), Some("b"));
    assert!(!world.reasons().contains(&Reason::StepStarted), "{:?}", world.reasons());
}

#[test]
fn a_step_without_traffic_is_a_time_to_wait() {
    let mut world = World::serving();
    world.wish.plan.steps[0] = step(Kind::Weight(0));
    world.target = "b";
    world.looks(3);
    world.verdict = Some(Verdict::Inconclusive("0 of 50 requests".into()));
    world.looks(4);
    assert_eq!(world.state.step(), 2);
    world.looks(50);
    assert_eq!((world.state.step(), world.standing), (2, Standing::Holding), "the last step needs evidence");
}

#[test]
fn the_first_revision_is_stable_only_when_requests_get_there() {
    let mut world = World::new();
    world.unreachable = Some("no router is running yet");
    world.looks(30);
    assert_eq!(world.state.stable, None);
    assert!(world.sentence.contains("no router is running yet"), "{}", world.sentence);
    world.unreachable = None;
    world.look();
    assert_eq!((world.state.stable.as_deref(), world.standing), (Some("a"), Standing::Serving));
    world.unreachable = Some("no router is running yet");
    world.look();
    assert_eq!((world.state.stable.as_deref(), world.standing), (Some("a"), Standing::Unready));
    assert!(world.sentence.contains("no router"), "{}", world.sentence);
}

#[test]
fn nobody_is_taken_back_to_a_revision_without_pods() {
    let harm = Some(Verdict::Fail("candidate failed 12 of 40 requests".into()));
    for (crashed, verdict) in [(true, None), (false, harm)] {
        let mut world = World::trying();
        world.break_pods("a", "node n1 is gone", false, false);
        if crashed {
            world.break_pods("b", "pod p was killed for memory", false, true);
        }
        world.verdict = verdict;
        world.looks(5);
        assert_eq!((world.state.step(), world.standing), (1, Standing::Holding));
        assert!(world.sentence.contains("node n1 is gone"), "{}", world.sentence);
        world.pods.insert("a".into(), Pods { wanted: 2, ready: 1, ..Pods::default() });
        world.look();
        assert_eq!(world.reasons(), [Reason::RolledBack]);
    }
}

#[test]
fn reasons_that_are_remembered_are_short() {
    let mut world = World::trying();
    world.break_pods("b", &"ü".repeat(4000), true, true);
    world.look();
    assert!(world.state.rejected[0].1.len() <= LONGEST_REASON);
}

mod capacity;
mod course;
mod gates;
mod guard;
mod known_faults;
mod rules;
mod strategies;
