//! What a person asks for: to go on, to stand still, to go back.

use std::fmt;
use std::str::FromStr;

use super::capacity::Capacity;
use super::plan::Kind;
use super::{Next, Pin, Reason};

/// A request, as in the annotation `stoker.dev/request: <verb>[/<revision>] <nonce>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub verb: Verb,
    /// The revision that it is about, where one is named.
    pub revision: Option<String>,
    /// Who asks.
    pub by: String,
    /// Why; empty where nothing is said.
    pub reason: String,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// End the step that is under way.
    Promote,
    /// Skip the remaining steps.
    PromoteFull,
    /// Let the next step, or the promotion, begin that wants an approval.
    Approve,
    /// Stand still.
    Pause,
    /// End the pause that the run is in.
    Resume,
    /// Take up the plan that the spec has now.
    Repin,
    /// End the run; the candidate is not tried again by itself.
    Abort,
    /// Try the revision that the spec asks for again.
    Retry,
    /// Return to an earlier revision, against the spec.
    Undo,
}

/// Why an annotation is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "request {0:?} is not understood; write `promote`, `promote-full`, `approve`, `pause`, `resume`, `abort`, `retry`, `undo` or `repin`, then `/<revision>` where one is meant, then a space and anything that was not used before"
)]
pub struct RequestError(String);

impl Verb {
    /// All of them.
    const ALL: [Self; 9] = [
        Self::Promote,
        Self::PromoteFull,
        Self::Approve,
        Self::Pause,
        Self::Resume,
        Self::Repin,
        Self::Abort,
        Self::Retry,
        Self::Undo,
    ];
}

impl fmt::Display for Verb {
    /// As the annotation has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promote => "promote",
            Self::PromoteFull => "promote-full",
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Repin => "repin",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Undo => "undo",
        })
    }
}

impl FromStr for Verb {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let named = Self::ALL.into_iter().find(|verb| verb.to_string() == text);
        named.ok_or_else(|| RequestError(text.chars().take(80).collect()))
    }
}

impl Request {
    /// Reads the annotation's value. The nonce only makes two equal requests differ.
    pub fn parse(text: &str, by: &str) -> Result<Self, RequestError> {
        let error = || RequestError(text.chars().take(80).collect());
        let action = text.split_whitespace().next().ok_or_else(error)?;
        let (verb, revision) = match action.split_once('/') {
            Some((verb, revision)) if !revision.is_empty() => (verb, Some(revision.to_owned())),
            Some(_) => return Err(error()),
            None => (action, None),
        };
        // A name for people, which goes into sentences.
        let by = by.chars().take(80).collect();
        Ok(Self { verb: verb.parse().map_err(|_| error())?, revision, by, reason: String::new() })
    }

    /// The same request with a reason.
    #[must_use]
    pub fn because(self, reason: &str) -> Self {
        Self { reason: reason.to_owned(), ..self }
    }
}

impl Next<'_> {
    /// Carries out what is asked for, or says why not.
    pub(super) fn obey(&mut self) {
        let Some(request) = self.seen.request else { return };
        let refusal = match request.verb {
            Verb::Promote => self.obey_promote(request),
            Verb::PromoteFull => self.obey_promote_full(request),
            Verb::Approve => self.obey_approve(request),
            Verb::Pause => self.obey_pause(request),
            Verb::Resume => self.obey_resume(request),
            Verb::Repin => self.obey_repin(request),
            Verb::Abort => self.obey_abort(request),
            Verb::Retry => self.obey_retry(request),
            Verb::Undo => self.obey_undo(request),
        };
        if let Err(why) = refusal {
            let revision = request.revision.as_deref().unwrap_or(self.seen.target).to_owned();
            self.note(Reason::RequestRefused, &revision, why);
        }
    }

    fn obey_resume(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_mut().ok_or("resume: there is no run")?;
        let (candidate, step) = (run.candidate.clone(), run.step);
        if run.paused_by.take().is_some() {
            let message = format!("{candidate} goes on at step {step}, as {} asked", request.by);
            self.note(Reason::Resumed, &candidate, message);
            return Ok(());
        }
        if run.plan.step(run.step).is_none_or(|step| step.kind != Kind::Pause) {
            return Err("resume: the run is in no pause; `promote` ends the step that it is at".into());
        }
        run.resumed = true;
        let message = format!("{candidate}: the pause at step {step} ends, as {} asked", request.by);
        self.note(Reason::Resumed, &candidate, message);
        Ok(())
    }

    fn obey_repin(&mut self, request: &Request) -> Result<(), String> {
        let run =
            self.state.run.as_mut().ok_or("repin: there is no run; the next one takes the spec's plan")?;
        if run.plan == self.wish.plan {
            return Err("repin: the run has the spec's plan already".into());
        }
        let (plan, step) = (&self.wish.plan, run.step.min(self.wish.plan.steps.len()));
        let by_shares = [run.plan.capacity, plan.capacity].contains(&Capacity::Proportional);
        if by_shares && (plan.capacity != run.plan.capacity || plan.weight(step) != run.weight()) {
            let what = "repin: where pods go by shares of the traffic, neither `capacity` nor the weight of the step that the run is at can change";
            return Err(format!("{what}; use `abort` and then `retry`"));
        }
        let here = step.checked_sub(1).and_then(|index| plan.steps.get(index));
        if here.is_some_and(|here| here.approval && run.plan.step(run.step) != Some(here)) {
            let what = format!(
                "repin: step {step} of the new plan wants an approval before it begins, and the run would be in it"
            );
            return Err(format!("{what}; use `abort` and then `retry`"));
        }
        (run.plan, run.step, run.passed) = (plan.clone(), step, false);
        // They were given for the plan before.
        run.approvals.clear();
        run.awaits = None;
        let candidate = run.candidate.clone();
        let message = format!("{candidate} goes on by the spec's present plan, as {} asked", request.by);
        self.note(Reason::Repinned, &candidate, message);
        Ok(())
    }

    fn obey_abort(&mut self, request: &Request) -> Result<(), String> {
        let run = self.state.run.as_ref().ok_or("abort: there is no run")?;
        if self.state.stable.is_none() {
            return Err("abort: this is the first revision, there is nothing to return to".into());
        }
        if let Some(named) = request.revision.as_ref().filter(|named| **named != run.candidate) {
            return Err(format!("abort: {named} is not the candidate, {} is", run.candidate));
        }
        self.reject(Reason::Aborted, &format!("aborted by {}", request.by));
        Ok(())
    }

    fn obey_retry(&mut self, request: &Request) -> Result<(), String> {
        let target = self.seen.target;
        if let Some(named) = request.revision.as_ref().filter(|named| *named != target) {
            return Err(format!(
                "retry: the spec wants {target}, not {named}; change the spec or use `undo/{named}`"
            ));
        }
        let rejected = self.state.rejection(target).is_some();
        if !rejected && self.state.pin.is_none() {
            return Err(format!("retry: {target} was neither taken back nor undone"));
        }
        self.state.rejected.retain(|(revision, _)| revision != target);
        self.state.pin = None;
        self.note(Reason::Retried, target, format!("{target} is tried again, as {} asked", request.by));
        Ok(())
    }

    fn obey_undo(&mut self, request: &Request) -> Result<(), String> {
        let stable = self.state.stable.clone().ok_or("undo: nothing serves yet")?;
        let named = request.revision.clone();
        if self.state.run.is_some() && named.as_ref().is_none_or(|named| *named == stable) {
            // In mid-run, going back means going back to stable.
            self.reject(Reason::Aborted, &format!("undone by {}", request.by));
            return Ok(());
        }
        let previous = self.state.previous.as_ref().map(|(revision, _)| revision.clone());
        let kept = || {
            self.seen.revisions.iter().filter(|name| **name != stable).cloned().collect::<Vec<_>>().join(", ")
        };
        let good = || self.wish.known_good.clone().filter(|good| *good != stable);
        let to = named
            .or(previous)
            .or_else(good)
            .ok_or_else(|| format!("undo: no previous revision has pods; name one of: {}", kept()))?;
        if to == stable {
            return Err(format!("undo: {to} is stable already"));
        }
        if !self.seen.revisions.contains(&to) {
            return Err(format!("undo: there is no revision {to}; kept are: {}", kept()));
        }
        self.state.rejected.retain(|(revision, _)| *revision != to);
        let target = self.seen.target.to_owned();
        // A return to what the spec asks for is no pin.
        self.state.pin = (to != target).then(|| Pin {
            revision: to.clone(),
            instead_of: target,
            because: format!("{} went back to {to}", request.by),
        });
        self.note(Reason::Undone, &to, format!("back to {to}, as {} asked", request.by));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let cases = [
            ("promote 1", Verb::Promote, None),
            ("abort", Verb::Abort, None),
            ("undo/digits-0123456789 2026-11-21", Verb::Undo, Some("digits-0123456789".to_owned())),
            ("  retry x", Verb::Retry, None),
            ("promote-full 7", Verb::PromoteFull, None),
            ("approve/digits-0123456789 7", Verb::Approve, Some("digits-0123456789".to_owned())),
        ];
        for (text, verb, revision) in cases {
            assert_eq!(
                Request::parse(text, "ann"),
                Ok(Request { verb, revision, by: "ann".into(), reason: String::new() }),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_words_that_are_understood() {
        for text in ["", " ", "stop", "promote/ 1", "PROMOTE"] {
            let error = Request::parse(text, "ann").unwrap_err().to_string();
            assert!(error.contains("promote"), "{error}");
        }
    }
}
