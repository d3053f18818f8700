//! One look at the run that is under way: on to the next step, back, or wait; always with the sentence that says why.

use std::time::Duration;

use super::{Next, Pods, Reason, Run, Said, Standing};
use crate::verdict::Verdict;

impl Next<'_> {
    /// Moves the run on as far as what was seen allows, and says where things stand.
    pub(super) fn advance(&mut self) -> Said {
        let Some(run) = self.state.run.clone() else { return self.rest() };
        // A run that started in this very look has no pods to speak of yet.
        let pods = self.seen.pods.get(&run.candidate).cloned();
        if run.step == 0 {
            self.prepare(&run, pods.as_ref())
        } else {
            self.step(&run, &pods.unwrap_or_default())
        }
    }

    /// No run: stable is what is wanted, or the reason why not.
    fn rest(&self) -> Said {
        let target = self.seen.target;
        let waits = self.seen.target_waits.map_or("it is about to be started", |wait| wait.why.as_str());
        let Some(stable) = self.state.stable.as_deref() else {
            return (self.waiting(), format!("nothing serves yet; {target}: {waits}"));
        };
        let (standing, state) = match self.seen.pods.get(stable) {
            Some(pods) if !pods.complete() => {
                (Standing::Unready, format!("{} of {} pods are ready{}", pods.ready, pods.wanted, why(pods)))
            }
            _ => match self.seen.unreachable {
                Some(why) => (Standing::Unready, format!("is ready, but no request gets there: {why}")),
                None => (Standing::Serving, "serves".to_owned()),
            },
        };
        if stable == target {
            return (standing, format!("{stable} {state}"));
        }
        let rest = if let Some(pin) = &self.state.pin {
            format!("the spec wants {target}, which does not run: {}; `retry` tries it", pin.because)
        } else if let Some(because) = self.state.rejection(target) {
            format!(
                "the spec wants {target}, which was taken back: {because}; change spec.model or spec.runtime, or ask for `retry`"
            )
        } else {
            return (self.waiting(), format!("{stable} {state}; {target} waits: {waits}"));
        };
        (standing, format!("{stable} {state}; {rest}"))
    }

    /// The target is not started yet: because something is wrong, or because that takes a moment.
    fn waiting(&self) -> Standing {
        if self.seen.target_waits.is_some_and(|wait| wait.trouble) {
            Standing::Troubled
        } else {
            Standing::Moving
        }
    }

    /// The candidate's pods come up. It has no traffic yet, unless there is nothing else to send it to.
    fn prepare(&mut self, run: &Run, pods: Option<&Pods>) -> Said {
        let number = run.number;
        let waited = run.in_step + self.seen.elapsed;
        if pods.is_some_and(Pods::complete) {
            // The first revision becomes stable when clients can use it, so that Ready means that.
            if let Some(why) = self.seen.unreachable.filter(|_| self.state.stable.is_none()) {
                self.spend(waited);
                let sentence = format!("run {number}: all pods are ready; waits for the routers: {why}");
                return (Standing::Moving, sentence);
            }
            return if run.direct { self.finish(run) } else { self.enter(run, 1) };
        }
        let pods = pods.cloned().unwrap_or_default();
        // Without a stable revision there is nothing to go back to: then the first one is tried for ever.
        if self.state.stable.is_some() {
            if let Some(trouble) = pods.trouble.as_ref().filter(|trouble| trouble.permanent) {
                return self.back(&trouble.what);
            }
            let deadline = self.plan.progress_deadline;
            if waited >= deadline {
                return self.back(&format!("not ready within {} s{}", deadline.as_secs(), why(&pods)));
            }
        }
        self.spend(waited);
        let standing = if pods.trouble.is_some() { Standing::Troubled } else { Standing::Moving };
        let sentence = format!(
            "run {number}: {} of {} pods of {} are ready{}",
            pods.ready,
            pods.wanted,
            run.candidate,
            why(&pods)
        );
        (standing, sentence)
    }

    /// The candidate has traffic.
    fn step(&mut self, run: &Run, pods: &Pods) -> Said {
        let Some(step) = run.current(self.plan).copied() else { return self.finish(run) };
        let broken = pods.trouble.as_ref().filter(|trouble| trouble.crashed || trouble.permanent);
        let failed = match self.seen.verdict {
            Some(Verdict::Fail(because)) => Some(because.as_str()),
            _ => None,
        };
        if let Some(because) = broken.map(|trouble| trouble.what.as_str()).or(failed) {
            let Some(why) = self.nobody_takes_over() else { return self.back(because) };
            let sentence = format!("{}: {because}; it is not taken back yet: {why}", self.place(run));
            return (Standing::Holding, sentence);
        }
        if let Some(why) = self.seen.unverified.filter(|_| !run.direct) {
            let sentence = format!("{}: waits until all routers serve the table: {why}", self.place(run));
            return (Standing::Moving, sentence);
        }
        if !pods.complete() {
            let (ready, wanted) = (pods.ready, pods.wanted);
            let what = format!("{ready} of {wanted} pods of {} are ready{}", run.candidate, why(pods));
            return (Standing::Holding, format!("{} holds: {what}", self.place(run)));
        }
        if run.direct {
            // Someone asked for the promotion in mid-run.
            return self.finish(run);
        }
        let in_step = run.in_step + self.seen.elapsed;
        if in_step < step.duration {
            self.spend(in_step);
            let left = step.duration.saturating_sub(in_step).as_secs_f64().ceil();
            let verdict = self.seen.verdict.map_or("no verdict yet", Verdict::because);
            return (Standing::Moving, format!("{}: {left} s to go; {verdict}", self.place(run)));
        }
        match self.seen.verdict {
            // Without traffic there is nothing to judge: such a step is only a time to wait.
            _ if step.weight == 0 && run.step < self.plan.steps.len() => self.enter(run, run.step + 1),
            Some(Verdict::Pass(_)) if run.step < self.plan.steps.len() => self.enter(run, run.step + 1),
            Some(Verdict::Pass(_)) => self.finish(run),
            other => {
                self.spend(in_step);
                let because = other.map_or("there is no verdict yet", Verdict::because);
                (Standing::Holding, format!("{} holds: {because}", self.place(run)))
            }
        }
    }

    /// Why stable cannot take the candidate's traffic, if so: to send it there would turn some errors into nothing but errors.
    fn nobody_takes_over(&self) -> Option<String> {
        let stable = self.state.stable.as_deref()?;
        let pods = self.seen.pods.get(stable)?;
        let none = pods.ready == 0 && pods.wanted > 0;
        none.then(|| format!("{stable} has no ready pod to take over{}", why(pods)))
    }

    /// Ends the run against the candidate.
    fn back(&mut self, because: &str) -> Said {
        self.reject(Reason::RolledBack, because);
        self.rest()
    }

    /// Begins a step.
    fn enter(&mut self, run: &Run, step: usize) -> Said {
        let run = Run { step, in_step: Duration::ZERO, ..run.clone() };
        let message = self.place(&run);
        self.note(Reason::StepStarted, &run.candidate, message.clone());
        self.state.run = Some(run);
        (Standing::Moving, message)
    }

    fn finish(&mut self, run: &Run) -> Said {
        self.promote(run);
        self.rest()
    }

    fn spend(&mut self, in_step: Duration) {
        if let Some(run) = &mut self.state.run {
            run.in_step = in_step;
        }
    }

    /// `run 3, step 1/2: digits-0123456789 gets 10 %`
    fn place(&self, run: &Run) -> String {
        let (number, step, of) = (run.number, run.step, self.plan.steps.len());
        format!("run {number}, step {step}/{of}: {} gets {} %", run.candidate, run.weight(self.plan))
    }
}

/// The trouble of pods as the end of a sentence.
fn why(pods: &Pods) -> String {
    pods.trouble.as_ref().map(|trouble| format!(": {}", trouble.what)).unwrap_or_default()
}
