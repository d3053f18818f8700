//! What the status says, decision by decision.

use stoker_api::deployment::RevisionScaling;
use stoker_decide::alert::{Action, Concern};
use stoker_decide::analysis::Finding;
use stoker_decide::metric::Figure;
use stoker_decide::rollout::{Approval, Gate, Kind, Run, State, Step, Transition};
use stoker_decide::verdict::Verdict;

use super::*;

/// A decision in which `a` is stable.
fn decision(standing: Standing) -> Decision {
    let state = State { stable: Some("md-a".into()), runs: 2, ..State::default() };
    Decision { state, transitions: Vec::new(), sentence: "a sentence".into(), standing }
}

fn running(mut decision: Decision) -> Decision {
    let step = Run { number: 2, candidate: "md-b".into(), step: 1, ..Run::default() };
    decision.state.run = Some(step);
    decision
}

fn ended(mut decision: Decision, reason: Reason) -> Decision {
    let message = "because".to_owned();
    decision.transitions.push(Transition { reason, run: 2, revision: "md-b".into(), message });
    decision
}

fn examined(verdict: Verdict) -> Examined {
    let counts = Counts::default;
    let finding = Finding {
        verdict: verdict.clone(),
        candidate: counts(),
        stable: counts(),
        harm_log10: 0.0,
        slow_above: None,
        wanted: 0,
    };
    Examined { finding, agreement: None, verdict, alarm_log10: 5.0 }
}

/// The status that follows from an old one.
struct Case<'a> {
    decision: &'a Decision,
    examined: Option<Examined>,
    taken: &'a [(&'a str, &'a str)],
    target: &'a str,
    ready: u32,
    unreachable: Option<&'a str>,
    scaling: Option<ScalingStatus>,
    measured: &'a [Measured],
    alerts: Option<Alerts>,
}

impl Case<'_> {
    fn status(&self, old: &ModelDeploymentStatus) -> ModelDeploymentStatus {
        let pods = Pods { wanted: 2, ready: self.ready, there: 2, ..Pods::default() };
        let taken =
            self.taken.iter().map(|(host, owner)| ((*host).to_owned(), (*owner).to_owned())).collect();
        let told = Told {
            decision: self.decision,
            examined: self.examined.as_ref(),
            taken: &taken,
            rollout: &Rollout::default(),
            name: "md",
            target: self.target,
            main: Some(&pods),
            unverified: None,
            unreachable: self.unreachable,
            handled: None,
            measured: self.measured,
            alerts: self.alerts.as_ref(),
            scaling: self.scaling.as_ref(),
            pods: &BTreeMap::from([("md-a".to_owned(), pods.clone()), ("md-b".to_owned(), pods.clone())]),
            external: false,
            gateway: None,
            now: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        compose(old, 1, &told)
    }
}

fn case<'a>(decision: &'a Decision, target: &'a str) -> Case<'a> {
    Case {
        decision,
        examined: None,
        taken: &[],
        target,
        ready: 2,
        unreachable: None,
        scaling: None,
        measured: &[],
        alerts: None,
    }
}

fn condition<'s>(status: &'s ModelDeploymentStatus, kind: &str) -> &'s str {
    &status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().status
}

/// A run at its only step, in which `Old-1` fired before.
fn trying() -> Decision {
    let mut moving = decision(Standing::Moving);
    let approvals = vec![Approval { gate: Gate::Step(1), by: "ann".into(), reason: "it looks well".into() }];
    moving.state.run = Some(Run {
        number: 2,
        candidate: "md-b".into(),
        step: 1,
        approvals,
        known_alerts: vec!["Old-1".into()],
        ..Run::default()
    });
    moving
}

fn concern(name: &str, action: Option<Action>) -> Concern {
    let sentence = format!("alert {name} fires");
    Concern { key: format!("{name}-1"), alert: name.into(), action, sentence }
}

#[test]
fn alerts_are_told_with_what_they_do_and_not_without_an_end() {
    let trying = trying();
    let firing = vec![
        concern("Silenced", None),
        concern("Old", Some(Action::Rollback)),
        concern("New", Some(Action::Rollback)),
        concern("Busy", Some(Action::Hold)),
    ];
    let told = |firing: Vec<Concern>| {
        let alerts = Some(Alerts { firing, unreadable: None });
        Case { alerts, ..case(&trying, "md-b") }.status(&ModelDeploymentStatus::default()).alerts
    };
    let found = told(firing);
    let found: Vec<_> = found.iter().map(|alert| (alert.alert.as_str(), alert.action.as_str())).collect();
    assert_eq!(found, [("New", "Rollback"), ("Busy", "Hold"), ("Silenced", "Nothing"), ("Old", "Nothing")]);
    let many = (0..1000).map(|number| concern(&format!("A{number}"), Some(Action::Hold))).collect();
    assert_eq!(told(many).len(), ALERTS);
}

#[test]
fn a_value_that_changes_is_no_news_and_a_verdict_that_changes_is() {
    let trying = trying();
    let status = |verdict: Verdict, value: f64| {
        let measured = [Measured {
            name: "m".into(),
            verdict,
            value: Some(Figure(value)),
            against: None,
            dry_run: false,
        }];
        Case { measured: &measured, ..case(&trying, "md-b") }.status(&ModelDeploymentStatus::default())
    };
    let pass = |value: f64| status(Verdict::Pass(format!("is {}", Figure(value))), value);
    assert_eq!(pass(0.25).metrics[0].value.as_deref(), Some("0.25"));
    for value in [0.5, -0.5, 0.000_000_1, 12_345_678.0] {
        assert_eq!(gist(&pass(0.25)), gist(&pass(value)), "{value}");
    }
    assert_ne!(gist(&pass(0.25)), gist(&status(Verdict::Fail("is 0.25".into()), 0.25)));
}

#[test]
fn approvals_get_their_time_once_and_go_into_the_history() {
    let trying = trying();
    let first = case(&trying, "md-b").status(&ModelDeploymentStatus::default());
    let given = first.run.as_ref().unwrap().approvals.clone();
    assert_eq!(given[0].at, Some(Time(jiff::Timestamp::UNIX_EPOCH)));
    let over = ended(decision(Standing::Serving), Reason::Promoted);
    assert_eq!(case(&over, "md-b").status(&first).history[0].approvals, given);
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
    let passing = Case { examined: Some(examined(Verdict::Pass("fine".into()))), ..case(&running, "md-b") };
    let old = passing.status(&ModelDeploymentStatus::default());
    assert_eq!(old.verdict.as_deref(), Some("Pass"));
    let verdict = |reason, seen: Option<Verdict>| {
        let decision = ended(decision(Standing::Serving), reason);
        let case = Case { examined: seen.map(examined), ..case(&decision, "md-b") };
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

#[test]
fn what_kstatus_reads_follows_the_state_and_ends_with_it() {
    let old = ModelDeploymentStatus::default();
    let kinds = |status: &ModelDeploymentStatus| {
        let kstatus = [conditions::RECONCILING, conditions::STALLED];
        let found = status.conditions.iter().filter(|one| kstatus.contains(&one.type_.as_str()));
        found.map(|one| (one.type_.clone(), one.reason.clone())).collect::<Vec<_>>()
    };
    let reconciling = |reason: &str| vec![("Reconciling".to_owned(), reason.to_owned())];
    let stalled = |reason: &str| vec![("Stalled".to_owned(), reason.to_owned())];
    let moving = case(&running(decision(Standing::Moving)), "md-b").status(&old);
    assert_eq!(kinds(&moving), reconciling("RunStarted"));
    assert_eq!(moving.divergence, None);
    let mut rejected = decision(Standing::Serving);
    rejected.state.rejected.push(("md-b".into(), "it failed".into()));
    let back = case(&rejected, "md-b").status(&moving);
    assert_eq!(kinds(&back), stalled("RolledBack"));
    let differs = back.divergence.as_ref().unwrap();
    assert_eq!((differs.wants.as_str(), differs.runs.as_str()), ("md-b", "md-a"));
    // Git goes back to what runs.
    let healthy = case(&rejected, "md-a").status(&back);
    assert_eq!((kinds(&healthy), &healthy.divergence), (vec![], &None));

    let now = Time(jiff::Timestamp::UNIX_EPOCH);
    let failed = |reason| kinds(&failed(&moving, 2, reason, "x", &now));
    assert_eq!(failed(reasons::CONFLICTED), stalled("Conflicted"));
    assert_eq!(failed(reasons::INVALID_SPEC), stalled("InvalidSpec"));
    // Tried again by itself.
    assert_eq!(failed(reasons::RECONCILE_FAILED), reconciling("RunStarted"));
}

#[test]
fn a_host_of_somebody_else_is_a_conflict_that_is_told_first() {
    let serving = decision(Standing::Serving);
    let taken = [("models.example.com", "older")];
    let status = Case { taken: &taken, ..case(&serving, "md-a") }.status(&ModelDeploymentStatus::default());
    assert_eq!(status.phase, Phase::Conflicted);
    assert!(
        status.message.starts_with("host models.example.com belongs to ModelDeployment older"),
        "{}",
        status.message
    );
    assert!(status.message.ends_with("a sentence"), "{}", status.message);
}

#[test]
fn the_scale_subresource_names_the_pods_that_have_traffic() {
    let old = ModelDeploymentStatus::default();
    let serving = case(&decision(Standing::Serving), "md-a").status(&old);
    let selector = "stoker.dev/model-deployment=md,stoker.dev/part=server,stoker.dev/revision in (md-a)";
    assert_eq!((serving.replicas, serving.selector.as_deref()), (Some(2), Some(selector)));
    let mut moving = running(decision(Standing::Moving));
    moving.state.run.as_mut().unwrap().plan.steps = vec![Step::new(Kind::Weight(10), None)];
    let trying = case(&moving, "md-b").status(&old);
    let both = "stoker.dev/revision in (md-a,md-b)";
    assert!(
        trying.selector.as_ref().is_some_and(|selector| selector.ends_with(both)),
        "{:?}",
        trying.selector
    );
    assert_eq!(trying.replicas, Some(4));
}

#[test]
fn scaling_is_active_unless_it_holds_or_cannot_keep_the_target() {
    let old = ModelDeploymentStatus::default();
    let serving = decision(Standing::Serving);
    let said = |scaling: ScalingStatus| {
        let status = Case { scaling: Some(scaling), ..case(&serving, "md-a") }.status(&old);
        let found =
            status.conditions.into_iter().find(|one| one.type_ == conditions::SCALING_ACTIVE).unwrap();
        (found.status, found.reason, found.message)
    };
    assert!(
        !case(&serving, "md-a")
            .status(&old)
            .conditions
            .iter()
            .any(|one| one.type_ == conditions::SCALING_ACTIVE)
    );
    let learning = said(ScalingStatus::default());
    assert_eq!((learning.0.as_str(), learning.1.as_str()), ("Unknown", "Learning"));
    let known = RevisionScaling {
        revision: "md-a".into(),
        capacity_per_pod: Some(80.0),
        ..RevisionScaling::default()
    };
    assert_eq!(said(ScalingStatus { revisions: vec![known], ..ScalingStatus::default() }).0, "True");
    let holds = said(ScalingStatus { holds: Some("router x: no answer".into()), ..ScalingStatus::default() });
    assert_eq!((holds.0.as_str(), holds.1.as_str()), ("False", "ScalingHolds"));
    let slow =
        RevisionScaling { revision: "md-a".into(), reachable_ms: Some(180.0), ..RevisionScaling::default() };
    let slow = said(ScalingStatus { revisions: vec![slow], ..ScalingStatus::default() });
    assert_eq!((slow.0.as_str(), slow.1.as_str()), ("False", "TargetUnreachable"));
    assert!(slow.2.contains("md-a can reach 180 ms"), "{}", slow.2);
    assert_eq!(said(ScalingStatus { asleep: true, ..ScalingStatus::default() }).1, "ScaledToZero");
}
