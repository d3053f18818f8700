//! What the status says, decision by decision.

use stoker_decide::rollout::{Run, State, Transition};
use stoker_decide::verdict::Verdict;

use super::*;

/// A decision in which `a` is stable.
fn decision(standing: Standing) -> Decision {
    let state = State { stable: Some("md-a".into()), runs: 2, ..State::default() };
    Decision { state, transitions: Vec::new(), sentence: "a sentence".into(), standing }
}

fn running(mut decision: Decision) -> Decision {
    let step = Run { number: 2, candidate: "md-b".into(), direct: false, step: 1, in_step: Duration::ZERO };
    decision.state.run = Some(step);
    decision
}

fn ended(mut decision: Decision, reason: Reason) -> Decision {
    let message = "because".to_owned();
    decision.transitions.push(Transition { reason, run: 2, revision: "md-b".into(), message });
    decision
}

fn finding(verdict: Verdict) -> Finding {
    let counts = Counts::default;
    Finding { verdict, candidate: counts(), stable: counts(), harm_log10: 0.0, slow_above: None, wanted: 0 }
}

/// The status that follows from an old one.
struct Case<'a> {
    decision: &'a Decision,
    finding: Option<Finding>,
    target: &'a str,
    ready: u32,
    unreachable: Option<&'a str>,
}

impl Case<'_> {
    fn status(&self, old: &ModelDeploymentStatus) -> ModelDeploymentStatus {
        let plan = Plan {
            steps: Vec::new(),
            progress_deadline: Duration::ZERO,
            keep_warm: Duration::ZERO,
            replicas: 2,
        };
        let pods = Pods { wanted: 2, ready: self.ready, trouble: None };
        let told = Told {
            plan: &plan,
            decision: self.decision,
            finding: self.finding.as_ref(),
            target: self.target,
            stable: Some(&pods),
            unverified: None,
            unreachable: self.unreachable,
            handled: None,
            now: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        compose(old, 1, &told)
    }
}

fn case<'a>(decision: &'a Decision, target: &'a str) -> Case<'a> {
    Case { decision, finding: None, target, ready: 2, unreachable: None }
}

fn condition<'s>(status: &'s ModelDeploymentStatus, kind: &str) -> &'s str {
    &status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().status
}

#[test]
fn ready_means_that_requests_get_there() {
    let serving = decision(Standing::Serving);
    let healthy = case(&serving, "md-a").status(&ModelDeploymentStatus::default());
    assert_eq!((healthy.phase, condition(&healthy, conditions::READY)), (Phase::Healthy, "True"));
    let unready = decision(Standing::Unready);
    for (ready, unreachable) in [(1, None), (2, Some("no router is running yet"))] {
        let case = Case { ready, unreachable, ..case(&unready, "md-a") };
        let status = case.status(&healthy);
        assert_eq!((status.phase, condition(&status, conditions::READY)), (Phase::Degraded, "False"));
    }
}

#[test]
fn progressing_from_the_change_of_the_spec_to_its_end() {
    let old = ModelDeploymentStatus::default();
    let progressing = |decision: &Decision, target: &str| {
        condition(&case(decision, target).status(&old), conditions::PROGRESSING).to_owned()
    };
    let serving = decision(Standing::Serving);
    assert_eq!(progressing(&serving, "md-a"), "False");
    // The digest of md-b is being resolved.
    assert_eq!(progressing(&decision(Standing::Moving), "md-b"), "True");
    assert_eq!(progressing(&running(decision(Standing::Moving)), "md-b"), "True");
    let mut rejected = serving;
    rejected.state.rejected.push(("md-b".into(), "it failed".into()));
    assert_eq!(progressing(&rejected, "md-b"), "False");
    assert_eq!(case(&rejected, "md-b").status(&old).phase, Phase::RolledBack);
}

#[test]
fn the_verdict_is_that_of_the_run_and_not_of_another() {
    let running = running(decision(Standing::Moving));
    let passing = Case { finding: Some(finding(Verdict::Pass("fine".into()))), ..case(&running, "md-b") };
    let old = passing.status(&ModelDeploymentStatus::default());
    assert_eq!(old.verdict.as_deref(), Some("Pass"));
    let verdict = |reason, seen: Option<Verdict>| {
        let decision = ended(decision(Standing::Serving), reason);
        let case = Case { finding: seen.map(finding), ..case(&decision, "md-b") };
        let status = case.status(&old);
        assert_eq!((status.history.len(), status.history[0].run), (1, 2));
        status.verdict
    };
    let pass = || Some(Verdict::Pass("fine".into()));
    assert_eq!(verdict(Reason::Promoted, pass()).as_deref(), Some("Pass"));
    // Killed for memory, with figures that look well.
    assert_eq!(verdict(Reason::RolledBack, pass()).as_deref(), Some("Fail"));
    assert_eq!(verdict(Reason::Aborted, pass()), None);
    // An undo, or a promotion that somebody asked for.
    assert_eq!(verdict(Reason::Promoted, None), None);
    assert_eq!(verdict(Reason::Promoted, Some(Verdict::Inconclusive("few".into()))), None);
}

#[test]
fn a_failure_changes_the_sentence_and_keeps_the_rest() {
    let serving = decision(Standing::Serving);
    let old = case(&serving, "md-a").status(&ModelDeploymentStatus::default());
    let now = Time(jiff::Timestamp::UNIX_EPOCH);
    let status = failed(&old, 2, reasons::RECONCILE_FAILED, "no answer within 10 s", &now);
    assert_eq!((status.stable.as_deref(), status.phase), (Some("md-a"), Phase::Healthy));
    assert_eq!(status.message, "no answer within 10 s");
    let of = |reason| failed(&old, 2, reason, "x", &now).phase;
    assert_eq!((of(reasons::CONFLICTED), of(reasons::INVALID_SPEC)), (Phase::Conflicted, Phase::Degraded));
    // The same failure with other figures is not worth a write.
    let again = failed(&status, 2, reasons::RECONCILE_FAILED, "no answer within 11 s", &now);
    assert_eq!(gist(&again), gist(&status));
    assert_ne!(again, status);
}
