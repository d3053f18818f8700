//! "Git wants X, runs Y, because Z", and the conditions that GitOps controllers read (kstatus). Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stoker_api::deployment::Divergence;
use stoker_api::names::{conditions, reasons};
use stoker_decide::rollout::{Kind, Run, Standing, State};
use stoker_decide::text::cut;

use super::conditions::Wanted;

/// Longest reason, in bytes.
const LONGEST: usize = 1024;

/// What the two are made from.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The state after the decision.
    pub state: &'a State,
    /// How things stand.
    pub standing: Standing,
    /// The decision in one sentence.
    pub sentence: &'a str,
    /// The revision that the spec asks for.
    pub target: &'a str,
}

/// What the spec wants and what runs, where these differ and no run leads from one to the other. `old` is what was said before.
pub fn divergence(known: &Known<'_>, old: Option<&Divergence>, now: &Time) -> Option<Divergence> {
    let Known { state, target, .. } = *known;
    // While a run is under way, what it leads to counts; before the first revision nothing runs that could differ.
    let runs = state.run.as_ref().map(|run| &run.candidate).or(state.stable.as_ref())?;
    if runs == target {
        return None;
    }
    let (reason, because) = why(known);
    let same = old.filter(|old| old.wants == target && old.runs == *runs && old.reason == reason);
    Some(Divergence {
        wants: target.to_owned(),
        runs: runs.clone(),
        reason: reason.to_owned(),
        because: cut(because, LONGEST).to_owned(),
        since: Some(same.and_then(|same| same.since.clone()).unwrap_or_else(|| now.clone())),
    })
}

/// Why the spec's revision does not run, in a word and in a sentence.
fn why<'a>(known: &Known<'a>) -> (&'static str, &'a str) {
    let Known { state, standing, sentence, target } = *known;
    if let Some((_, because)) = state.rejected.iter().find(|(revision, _)| revision == target) {
        return (reasons::ROLLED_BACK, because);
    }
    match &state.pin {
        Some(pin) => (reasons::UNDONE, &pin.because),
        None if standing == Standing::Troubled => (reasons::CANDIDATE_FAILED, sentence),
        None => (reasons::HOLDING, sentence),
    }
}

/// `Reconciling` while the operator is on its way to what the spec wants, `Stalled` when it gets no further without a person.
/// Both are there only while they are true, and never together: that is how kstatus wants them. Nothing of them says how
/// stable fares: that is `Ready`.
pub fn kstatus(known: &Known<'_>, conflict: Option<&str>) -> Option<Wanted> {
    let Known { state, standing, sentence, target } = *known;
    let wanted = |type_, reason, message: &str| {
        Some(Wanted { type_, status: Some(true), reason, message: message.to_owned() })
    };
    if let Some(conflict) = conflict {
        return wanted(conditions::STALLED, reasons::CONFLICTED, conflict);
    }
    if let Some(run) = state.run.as_ref().filter(|run| run.candidate == target) {
        let reason = match standing {
            _ if awaits_person(run) => reasons::AWAITS_PERSON,
            Standing::Holding => reasons::HOLDING,
            _ => reasons::RUN_STARTED,
        };
        return wanted(conditions::RECONCILING, reason, sentence);
    }
    if state.stable.as_deref() == Some(target) && state.run.is_none() {
        return None;
    }
    match why(known) {
        (reasons::HOLDING, because) => wanted(conditions::RECONCILING, reasons::HOLDING, because),
        (reason, because) => wanted(conditions::STALLED, reason, because),
    }
}

/// The run goes on when a person says so, and not before.
fn awaits_person(run: &Run) -> bool {
    let step = run.plan.step(run.step);
    let pauses = step.is_some_and(|step| step.kind == Kind::Pause && step.lasts.is_none());
    run.paused_by.is_some() || run.awaits.is_some() || (pauses && !run.direct && !run.resumed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stoker_decide::rollout::{Gate, Pin, Plan, Step};

    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn stable(revision: &str) -> State {
        State { stable: Some(revision.into()), ..State::default() }
    }

    fn running(state: State, candidate: &str) -> State {
        State { run: Some(Run { candidate: candidate.into(), step: 1, ..Run::default() }), ..state }
    }

    fn rejected(state: State, revision: &str) -> State {
        State { rejected: vec![(revision.into(), "5 of 20 requests failed".into())], ..state }
    }

    fn pinned(state: State, instead_of: &str) -> State {
        let revision = state.stable.clone().unwrap();
        State {
            pin: Some(Pin { revision, instead_of: instead_of.into(), because: "ann went back".into() }),
            ..state
        }
    }

    fn known(state: &State, standing: Standing) -> Known<'_> {
        Known { state, standing, sentence: "a sentence", target: "md-b" }
    }

    /// What is said of a state whose spec wants `md-b`: the divergence as (runs, reason, because), and the condition as
    /// (type, reason).
    #[test]
    fn what_is_said_of_each_state() {
        use Standing::{Holding, Moving, Serving, Troubled, Unready};
        let reconciling = |reason| Some(("Reconciling", reason));
        let stalled = |reason| Some(("Stalled", reason));
        let harmful = Some(("md-a", "RolledBack", "5 of 20 requests failed"));
        let undone = Some(("md-a", "Undone", "ann went back"));
        let waits = Some(("md-a", "Holding", "a sentence"));
        let broken = Some(("md-a", "CandidateFailed", "a sentence"));
        let cases = [
            ("the spec's revision serves", stable("md-b"), Serving, None, None),
            ("its pods are being replaced", stable("md-b"), Unready, None, None),
            ("nothing serves yet", State::default(), Moving, None, reconciling("Holding")),
            ("nor will it", State::default(), Troubled, None, stalled("CandidateFailed")),
            ("a first run", running(State::default(), "md-b"), Moving, None, reconciling("RunStarted")),
            ("a run", running(stable("md-a"), "md-b"), Moving, None, reconciling("RunStarted")),
            ("a run holds", running(stable("md-a"), "md-b"), Holding, None, reconciling("Holding")),
            ("pods in trouble", running(stable("md-a"), "md-b"), Troubled, None, reconciling("RunStarted")),
            ("taken back", rejected(stable("md-a"), "md-b"), Serving, harmful, stalled("RolledBack")),
            ("another was taken back", rejected(stable("md-b"), "md-a"), Serving, None, None),
            ("undone", pinned(stable("md-a"), "md-b"), Serving, undone, stalled("Undone")),
            ("its digest is awaited", stable("md-a"), Moving, waits, reconciling("Holding")),
            ("its digest cannot be had", stable("md-a"), Troubled, broken, stalled("CandidateFailed")),
            (
                "an undo on its way",
                running(pinned(stable("md-a"), "md-b"), "md-a"),
                Moving,
                undone,
                stalled("Undone"),
            ),
            ("the spec moved on", running(stable("md-b"), "md-a"), Moving, waits, reconciling("Holding")),
        ];
        for (case, state, standing, differs, condition) in cases {
            let known = known(&state, standing);
            let said = divergence(&known, None, &at(0));
            let words = said.as_ref().map(|said| (&*said.runs, &*said.reason, &*said.because));
            assert_eq!(words, differs, "{case}");
            assert!(said.is_none_or(|said| said.wants == "md-b" && said.since == Some(at(0))), "{case}");
            let told = kstatus(&known, None);
            assert!(told.as_ref().is_none_or(|told| told.status == Some(true)), "{case}");
            assert_eq!(told.map(|told| (told.type_, told.reason)), condition, "{case}");
        }
    }

    #[test]
    fn a_run_that_awaits_a_person_says_so() {
        let reason = |change: &dyn Fn(&mut Run)| {
            let mut state = running(stable("md-a"), "md-b");
            let run = state.run.as_mut().unwrap();
            let pause = |lasts| Step::new(Kind::Pause, lasts);
            run.plan =
                Plan { steps: vec![pause(None), pause(Some(Duration::from_secs(60)))], ..Plan::default() };
            change(run);
            kstatus(&known(&state, Standing::Holding), None).unwrap().reason
        };
        assert_eq!(reason(&|_| {}), "AwaitsPerson");
        assert_eq!(reason(&|run| run.resumed = true), "Holding");
        assert_eq!(reason(&|run| run.step = 2), "Holding");
        assert_eq!(reason(&|run| run.direct = true), "Holding");
        let paused = |run: &mut Run| (run.step, run.paused_by) = (2, Some("ann".into()));
        assert_eq!(reason(&paused), "AwaitsPerson");
        assert_eq!(reason(&|run| (run.step, run.awaits) = (2, Some(Gate::Promotion))), "AwaitsPerson");
    }

    #[test]
    fn a_host_of_somebody_else_stalls_even_what_serves() {
        let state = stable("md-b");
        let told = kstatus(&known(&state, Standing::Serving), Some("host x belongs to y")).unwrap();
        assert_eq!((told.type_, told.reason), ("Stalled", "Conflicted"));
        assert_eq!(told.message, "host x belongs to y");
    }

    #[test]
    fn since_is_when_it_began_and_not_when_it_was_last_told() {
        let undone = pinned(stable("md-a"), "md-b");
        let taken_back = rejected(undone.clone(), "md-b");
        let said = |state, old, second| divergence(&known(state, Standing::Serving), old, &at(second));
        let first = said(&undone, None, 10);
        assert_eq!(said(&undone, first.as_ref(), 20), first);
        let another = said(&taken_back, first.as_ref(), 30).unwrap();
        assert_eq!((another.since, another.reason.as_str()), (Some(at(30)), reasons::ROLLED_BACK));
    }
}
