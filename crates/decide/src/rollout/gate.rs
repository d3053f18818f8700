//! What a run stands still for although nothing is wrong with it: an approval, a pause that somebody asked for, an alert.

use std::fmt;
use std::str::FromStr;

use super::{Next, Reason, Request, Run, Said, Standing};
use crate::alert::{Action, Alerts, Concern};
use crate::text::cut;

/// Among the alerts that are kept in mind: they could not be read when the candidate got its first traffic.
const UNREAD: &str = "?";
/// Longest reason of an approval that is kept, in bytes.
const LONGEST_REASON: usize = 256;

/// What may want an approval before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// A step, counted from 1.
    Step(usize),
    /// The promotion.
    Promotion,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "step {step}"),
            Self::Promotion => f.write_str("promotion"),
        }
    }
}

impl Gate {
    /// Its name in a sentence.
    fn named(self) -> String {
        match self {
            Self::Step(_) => self.to_string(),
            Self::Promotion => "the promotion".to_owned(),
        }
    }
}

/// A text that names no gate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no gate; there are `step <number>` and `promotion`")]
pub struct NoGate(String);

impl FromStr for Gate {
    type Err = NoGate;

    fn from_str(text: &str) -> Result<Self, NoGate> {
        if text == "promotion" {
            return Ok(Self::Promotion);
        }
        let step = text.strip_prefix("step ").and_then(|number| number.parse().ok());
        step.map(Self::Step).ok_or_else(|| NoGate(text.chars().take(80).collect()))
    }
}

/// Somebody said yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// To what.
    pub gate: Gate,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Run {
    /// Whether a gate wants an approval that was not given.
    fn is_closed(&self, gate: Gate) -> bool {
        let wanted = match gate {
            Gate::Step(step) => self.plan.steps.get(step.wrapping_sub(1)).is_some_and(|step| step.approval),
            Gate::Promotion => self.plan.approval,
        };
        wanted && self.approvals.iter().all(|given| given.gate != gate)
    }

    /// The gates ahead that want an approval which was not given, in order.
    fn closed(&self) -> impl Iterator<Item = Gate> {
        let steps = (self.step + 1..=self.plan.steps.len()).map(Gate::Step);
        steps.chain([Gate::Promotion]).filter(|gate| self.is_closed(*gate))
    }

    /// What follows the step that the run is at.
    pub(super) fn next_gate(&self) -> Gate {
        if self.step >= self.plan.steps.len() { Gate::Promotion } else { Gate::Step(self.step + 1) }
    }
}

impl Next<'_> {
    /// The run waits for an approval of what comes next, if so: the sentence that says it.
    pub(super) fn awaits(&mut self, run: &Run) -> Option<Said> {
        let gate = run.next_gate();
        let closed = run.is_closed(gate);
        if let Some(run) = &mut self.state.run {
            run.awaits = closed.then_some(gate);
        }
        let what = match gate {
            Gate::Step(step) => format!("{gate} ({})", run.what(step)),
            Gate::Promotion => gate.named(),
        };
        let place = self.place(run);
        closed.then(|| {
            (
                Standing::Holding,
                format!("{place}; {what} waits for an approval: `approve` with a reason lets it begin"),
            )
        })
    }

    /// Why the run stands still for now, if so: somebody paused it or froze the fleet, or an alert fires.
    pub(super) fn held(&self, run: &Run) -> Option<String> {
        if let Some(by) = &run.paused_by {
            return Some(format!("paused by {by}: `resume` lets it go on"));
        }
        if let Some(why) = self.seen.frozen {
            return Some(why.to_owned());
        }
        let alerts = self.seen.alerts?;
        if let Some(why) = &alerts.unreadable {
            return Some(format!("alerts cannot be read: {why}"));
        }
        let holds = |concern: &&Concern| concern.action == Some(Action::Hold) && !run.knows(&concern.key);
        alerts.firing.iter().find(holds).map(|concern| concern.sentence.clone())
    }

    /// Why the candidate does not get its first traffic, if so: an alert that fires already is not about it.
    pub(super) fn held_back(&self, run: &Run) -> Option<String> {
        let firing = || {
            // More than can be kept in mind cannot be let pass.
            let skipped = |alerts: &Alerts| run.skipped && alerts.firing.len() <= super::ALERTS;
            let alerts = self.seen.alerts.filter(|alerts| !skipped(alerts))?;
            let concern = alerts.firing.iter().find(|concern| concern.action.is_some())?;
            Some(format!(
                "{}, before the candidate has any traffic; `promote` starts it all the same, and this alert then counts for nothing until it has ended",
                concern.sentence
            ))
        };
        let stands = run.paused_by.is_some() || self.seen.frozen.is_some();
        self.held(run).filter(|_| !run.skipped || stands).or_else(firing)
    }

    /// An alert that takes the compared revision back, in a sentence.
    pub(super) fn alarm(&self) -> Option<String> {
        let known = |key: &str| match (&self.state.run, &self.state.guard) {
            (Some(run), _) => run.knows(key),
            (None, Some(guard)) => guard.known_alerts.iter().any(|known| known == key),
            (None, None) => true,
        };
        let alerts = self.seen.alerts?;
        let takes_back =
            |concern: &&Concern| concern.action == Some(Action::Rollback) && !known(&concern.key);
        alerts.firing.iter().find(takes_back).map(|concern| concern.sentence.clone())
    }

    /// Keeps in mind which alerts fired before the candidate had traffic, for as long as they do.
    pub(super) fn note_alerts(&mut self) {
        let Some(alerts) = self.seen.alerts else { return };
        let untouched = self.state.run.as_ref().is_some_and(Run::is_untouched);
        let run = self.state.run.as_mut().map(|run| &mut run.known_alerts);
        let Some(known) = run.or(self.state.guard.as_mut().map(|guard| &mut guard.known_alerts)) else {
            return;
        };
        let firing = || alerts.firing.iter().map(|concern| concern.key.clone()).take(super::ALERTS);
        if alerts.unreadable.is_some() {
            if untouched {
                *known = firing().chain([UNREAD.to_owned()]).collect();
            }
        } else if untouched || known.iter().any(|key| key == UNREAD) {
            // The first that is heard after a start without knowing: it may all be older than that.
            *known = firing().collect();
        } else {
            known.retain(|key| alerts.firing.iter().any(|concern| concern.key == *key));
        }
    }

    pub(super) fn obey_approve(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_mut().ok_or("approve: there is no run")?;
        run.is_about("approve", request)?;
        let reason = cut(request.reason.trim(), LONGEST_REASON).to_owned();
        if reason.is_empty() {
            return Err("approve: say why, in the annotation stoker.dev/reason".into());
        }
        let Some(gate) = run.awaits else {
            let ahead = run.closed().next().filter(|_| !run.direct);
            let ahead = ahead
                .map(|gate| format!(" yet; {} will, once the run gets there", gate.named()))
                .unwrap_or_default();
            return Err(format!("approve: nothing waits for an approval{ahead}"));
        };
        // The wait is over, and was no time in which evidence stayed away.
        run.awaits = None;
        if let Some(lasts) = run.plan.step(run.step).and_then(|step| step.lasts) {
            run.in_step = run.in_step.min(lasts);
        }
        let (candidate, by) = (run.candidate.clone(), request.by.clone());
        run.approvals.push(Approval { gate, by: by.clone(), reason: reason.clone() });
        let message = format!("{candidate}: {} is approved by {by}: {reason}", gate.named());
        self.note(Reason::Approved, &candidate, message);
        Ok(())
    }

    pub(super) fn obey_pause(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_mut().ok_or("pause: there is no run")?;
        run.is_about("pause", request)?;
        if run.direct {
            return Err(format!(
                "pause: {} takes over as soon as it is ready; `abort` ends that",
                run.candidate
            ));
        }
        if let Some(by) = &run.paused_by {
            return Err(format!("pause: it is paused already, by {by}"));
        }
        if run.is_committed() {
            let what = "pause: the pods of stable are gone, and to stand still would serve nobody";
            return Err(format!("{what}; `abort` brings them back"));
        }
        (run.paused_by, run.skipped) = (Some(request.by.clone()), false);
        let (candidate, weight) = (run.candidate.clone(), run.weight());
        let message = format!(
            "{candidate} stands still at {weight} %, as {} asked; harm still takes it back",
            request.by
        );
        self.note(Reason::Paused, &candidate, message);
        Ok(())
    }

    pub(super) fn obey_promote(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_mut().ok_or("promote: there is no run")?;
        run.is_about("promote", request)?;
        if let Some(why) = self.seen.frozen {
            return Err(format!("promote: {why}"));
        }
        if run.direct {
            return Err(format!("promote: {} takes over as soon as it is ready", run.candidate));
        }
        (run.skipped, run.paused_by) = (true, None);
        let (candidate, step) = (run.candidate.clone(), run.step);
        let next = run.next_gate().named();
        let message = if step == 0 {
            format!("{candidate} goes on to {next} as soon as its pods are ready, as {} asked", request.by)
        } else {
            format!("{candidate} goes on from step {step} to {next}, as {} asked", request.by)
        };
        self.note(Reason::PromoteRequested, &candidate, message);
        Ok(())
    }

    pub(super) fn obey_promote_full(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_mut().ok_or("promote-full: there is no run")?;
        run.is_about("promote-full", request)?;
        if let Some(why) = self.seen.frozen {
            return Err(format!("promote-full: {why}"));
        }
        if let Some(gate) = run.closed().next().filter(|_| !run.direct) {
            return Err(format!("promote-full: {} wants an approval first; use `approve`", gate.named()));
        }
        (run.direct, run.paused_by, run.awaits) = (true, None, None);
        let candidate = run.candidate.clone();
        let message = format!("{candidate} skips the remaining steps, as {} asked", request.by);
        self.note(Reason::PromoteRequested, &candidate, message);
        Ok(())
    }
}

impl Run {
    /// Whether the candidate has answered nobody yet, and nobody's copies.
    fn is_untouched(&self) -> bool {
        (1..=self.step).all(|step| self.plan.weight(step) == 0 && self.plan.shadow(step) == 0)
    }

    fn knows(&self, alert: &str) -> bool {
        self.known_alerts.iter().any(|known| known == alert)
    }

    /// Refuses a request that names another revision: it was meant for another run.
    fn is_about(&self, verb: &str, request: &Request) -> Result<(), String> {
        match request.revision.as_ref().filter(|named| **named != self.candidate) {
            Some(named) => Err(format!("{verb}: {named} is not the candidate, {} is", self.candidate)),
            None => Ok(()),
        }
    }
}
