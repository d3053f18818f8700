//! One look at the run that is under way: on to the next step, back, or wait; always with the sentence that says why.

use std::time::Duration;

use super::plan::{Kind, Step, Strategy};
use super::{Next, Pods, Reason, Run, Said, Standing};
use crate::verdict::Verdict;

/// A candidate without any ready pod for this long does harm: a restart of its node takes less.
const LOST: Duration = Duration::from_secs(30);

impl Next<'_> {
    /// Moves the run on as far as what was seen allows, and says where things stand.
    pub(super) fn advance(&mut self) -> Said {
        let Some(run) = self.state.run.clone() else { return self.watch_over() };
        // A run that started in this very look has no pods to speak of yet.
        let pods = self.seen.pods.get(&run.candidate).cloned();
        if run.step == 0 {
            self.prepare(&run, pods.as_ref())
        } else {
            // What was not seen does not answer: somebody deleted the Deployment, and it is made again.
            let unseen = || Pods { wanted: self.wish.replicas.all, ..Pods::default() };
            self.step(&run, &pods.unwrap_or_else(unseen))
        }
    }

    /// No run: stable is what is wanted, or the reason why not.
    pub(super) fn rest(&self) -> Said {
        let target = self.seen.target;
        let queued = self.may_start(target).unwrap_or("it is about to be started");
        let waits = self.seen.target_waits.map_or(queued, |wait| wait.why.as_str());
        let Some(stable) = self.state.stable.as_deref() else {
            return (self.waiting(), format!("nothing serves yet; {target}: {waits}"));
        };
        let (standing, mut state) = match self.seen.pods.get(stable) {
            Some(pods) if !pods.serve() => {
                (Standing::Unready, format!("{} of {} pods are ready{}", pods.ready, pods.wanted, why(pods)))
            }
            _ => match self.seen.unreachable {
                Some(why) => (Standing::Unready, format!("is ready, but no request gets there: {why}")),
                None if self.wish.replicas.asleep => (
                    Standing::Serving,
                    "has no pods, as no requests came; the next one brings them back".to_owned(),
                ),
                None => (Standing::Serving, "serves".to_owned()),
            },
        };
        if let Some(rest) = self.on_its_way() {
            state = format!("{state}; {rest}");
        }
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
        if let Some(said) = self.make_room(run) {
            return said;
        }
        let number = run.number;
        let waited = run.in_step + self.seen.elapsed;
        let prepared = |pods: &Pods| self.has_pods(&run.candidate, pods) || self.may_return_early(run, pods);
        if pods.is_some_and(prepared) {
            if let Some(run) = &mut self.state.run {
                run.took.get_or_insert(waited);
            }
            // The first revision becomes stable when clients can use it, so that Ready means that.
            if let Some(why) = self.seen.unreachable.filter(|_| self.state.stable.is_none()) {
                self.spend(waited);
                let sentence = format!("run {number}: all pods are ready; waits for the routers: {why}");
                return (Standing::Moving, sentence);
            }
            if run.direct || self.state.alone {
                return self.finish(run);
            }
            // Until stable has all its pods again it has none to give away.
            if let Some(rest) = self.on_its_way() {
                return (
                    Standing::Moving,
                    format!("run {number}: {} is ready and waits: {rest}", run.candidate),
                );
            }
            return self.begin(run);
        }
        let pods = pods.cloned().unwrap_or_default();
        // Without a stable revision there is nothing to go back to: then the first one is tried for ever.
        if self.state.stable.is_some() {
            if let Some(trouble) = pods.trouble.as_ref().filter(|trouble| trouble.permanent) {
                return self.back(&trouble.what);
            }
            let deadline = run.plan.progress_deadline;
            if waited >= deadline && !pods.serve() {
                return self.back(&format!("not ready within {} s{}", deadline.as_secs(), why(&pods)));
            }
        }
        self.spend(waited);
        let standing = if pods.trouble.is_some() { Standing::Troubled } else { Standing::Moving };
        let nobody = if self.state.alone && pods.ready == 0 { "; nobody is served meanwhile" } else { "" };
        let sentence = format!(
            "run {number}: {} of {} pods of {} are ready{}{nobody}",
            pods.ready,
            self.wanted_pods(&run.candidate, &pods),
            run.candidate,
            why(&pods)
        );
        (standing, sentence)
    }

    /// The candidate's pods are ready: its first step, unless something keeps it from beginning.
    fn begin(&mut self, run: &Run) -> Said {
        if let Some(why) = self.held_back(run) {
            let sentence = format!("run {}: {} is ready and holds: {why}", run.number, run.candidate);
            return (Standing::Holding, sentence);
        }
        if let Some(said) = self.awaits(run) {
            return said;
        }
        if run.plan.steps.is_empty() { self.finish(run) } else { self.enter(run, 1) }
    }

    /// The candidate has traffic, or gets copies of it.
    fn step(&mut self, run: &Run, pods: &Pods) -> Said {
        let Some(step) = run.plan.step(run.step).cloned() else { return self.finish(run) };
        let place = self.place(run);
        if let Some(because) = self.harm(pods, run.restarts).or_else(|| gone(run, pods)) {
            return self.answer(run, &because);
        }
        if let Some(why) = self.seen.unverified.filter(|_| !run.direct) {
            return (Standing::Moving, format!("{place}: waits until all routers serve the table: {why}"));
        }
        if !self.has_pods(&run.candidate, pods) {
            if let Some(run) = &mut self.state.run {
                run.unready += self.seen.elapsed;
            }
            return self.short(run, pods);
        }
        if let Some(run) = &mut self.state.run {
            run.unready = Duration::ZERO;
        }
        if run.direct {
            // Someone asked for the promotion in mid-run.
            return self.finish(run);
        }
        let held = self.held(run);
        if let Some(why) = held.as_ref().filter(|_| run.paused_by.is_some()) {
            // Its time stands still as well.
            return (Standing::Holding, format!("{place} is {why}"));
        }
        if run.skipped && self.seen.frozen.is_none() {
            return self.go_on(run);
        }
        let in_step = run.in_step + self.seen.elapsed;
        let verdict = self.seen.verdict.map_or("no verdict yet", Verdict::because);
        let left = step.lasts.map(|lasts| lasts.saturating_sub(in_step)).filter(|left| !left.is_zero());
        match (left, step.lasts) {
            _ if run.resumed => {}
            (Some(left), _) => {
                self.spend(in_step);
                let left = left.as_secs_f64().ceil();
                return (Standing::Moving, format!("{place}: {left} s to go; {verdict}"));
            }
            (None, None) => {
                self.spend(in_step);
                return (
                    Standing::Holding,
                    format!("{place} pauses until someone asks for `resume`; {verdict}"),
                );
            }
            (None, Some(_)) => {}
        }
        if let Some(why) = held {
            return (Standing::Holding, format!("{place} holds: {why}; {verdict}"));
        }
        // Time in which somebody held the run is none in which evidence stayed away.
        self.spend(in_step);
        self.end_step(run, &step, in_step)
    }

    /// The step's time is over: on, when the evidence allows.
    fn end_step(&mut self, run: &Run, step: &Step, in_step: Duration) -> Said {
        let last = run.step >= run.plan.steps.len();
        match self.seen.verdict {
            // Without traffic there is nothing to judge: such a step is only a time to wait. Nobody is promoted by that alone.
            _ if !step.is_judged() && !last => self.go_on(run),
            Some(Verdict::Pass(_)) => self.go_on(run),
            other => {
                let because = other.map_or("there is no verdict yet", Verdict::because);
                let over = in_step.saturating_sub(step.lasts.unwrap_or(in_step));
                // Who waits for an approval has passed: how long that takes is no fault of the candidate.
                let deadline = run.plan.inconclusive_deadline.filter(|_| run.awaits.is_none());
                if let Some(deadline) = deadline.filter(|deadline| over >= *deadline) {
                    let seconds = deadline.as_secs();
                    return self
                        .answer(run, &format!("no verdict for {seconds} s beyond the step: {because}"));
                }
                (Standing::Holding, format!("{} holds: {because}", self.place(run)))
            }
        }
    }

    /// The step is over: the next one, or the promotion, once there are pods for the share that it brings.
    fn go_on(&mut self, run: &Run) -> Said {
        if let Some(said) = self.awaits(run) {
            return said;
        }
        if self.state.shares.is_some() {
            let pods = self.seen.pods.get(&run.candidate).cloned().unwrap_or_default();
            if let Some(run) = &mut self.state.run {
                run.passed = true;
            }
            if !self.has_pods(&run.candidate, &pods) {
                return self.short(run, &pods);
            }
        }
        if run.step >= run.plan.steps.len() { self.finish(run) } else { self.enter(run, run.step + 1) }
    }

    /// Pods of the candidate are waited for.
    fn short(&self, run: &Run, pods: &Pods) -> Said {
        let (ready, wanted) = (pods.ready, self.wanted_pods(&run.candidate, pods));
        let what = format!("{ready} of {wanted} pods of {} are ready{}", run.candidate, why(pods));
        let passed = self.state.run.as_ref().is_some_and(|run| run.passed || run.direct);
        let place = self.place(run);
        if self.state.shares.is_some() && passed && pods.trouble.is_none() {
            return (Standing::Moving, format!("{place} and waits for the pods of its next share: {what}"));
        }
        (Standing::Holding, format!("{place} holds: {what}"))
    }

    /// Harm to whoever is compared, if there is any: seen by the routers, by the operator, or by the pods' own end.
    pub(super) fn harm(&self, pods: &Pods, restarts_before: u32) -> Option<String> {
        if let Some(because) = self.seen.cut {
            return Some(because.to_owned());
        }
        if let Some(trouble) = pods.trouble.as_ref().filter(|trouble| trouble.crashed || trouble.permanent) {
            return Some(trouble.what.clone());
        }
        if pods.restarts > restarts_before {
            let more = pods.restarts - restarts_before;
            let last = pods.last_end.as_deref().unwrap_or("no reason is known");
            return Some(format!("its pods were restarted {more} times under traffic; the last: {last}"));
        }
        match self.seen.verdict {
            Some(Verdict::Fail(because)) => Some(because.clone()),
            _ => self.alarm(),
        }
    }

    /// What harm leads to: the way back, where there is one and that is what the user wants.
    fn answer(&mut self, run: &Run, because: &str) -> Said {
        // What somebody wanted before the harm was seen is not what they want now.
        if let Some(run) = &mut self.state.run {
            run.skipped = false;
        }
        let place = self.place(run);
        if !self.wish.enforce && self.seen.cut.is_none() {
            let sentence =
                format!("{place} holds: {because}; rollback.mode is Observe: nothing is taken back");
            return (Standing::Holding, sentence);
        }
        let Some(why) = self.nobody_takes_over() else { return self.back(because) };
        (Standing::Holding, format!("{place}: {because}; it is not taken back yet: {why}"))
    }

    /// Why stable cannot take the candidate's traffic, if so: to send it there would turn some errors into nothing but errors.
    fn nobody_takes_over(&self) -> Option<String> {
        let stable = self.state.stable.as_deref()?;
        let Some(pods) = self.seen.pods.get(stable) else {
            return self.wish.replicas.serves().then(|| format!("{stable} has no pods to take over"));
        };
        let none = pods.ready == 0 && pods.wanted > 0;
        none.then(|| format!("{stable} has no ready pod to take over{}", why(pods)))
    }

    /// Ends the run against the candidate.
    pub(super) fn back(&mut self, because: &str) -> Said {
        self.reject(Reason::RolledBack, because);
        self.rest()
    }

    /// Begins a step.
    fn enter(&mut self, run: &Run, step: usize) -> Said {
        let pods = self.seen.pods.get(&run.candidate);
        let restarts = if run.step == 0 { pods.map_or(0, |pods| pods.restarts) } else { run.restarts };
        let fresh = Run { step, restarts, in_step: Duration::ZERO, unready: Duration::ZERO, ..run.clone() };
        let run = Run { resumed: false, passed: false, skipped: false, awaits: None, ..fresh };
        let message = self.place(&run);
        self.note(Reason::StepStarted, &run.candidate, message.clone());
        self.state.run = Some(run);
        (Standing::Moving, message)
    }

    fn finish(&mut self, run: &Run) -> Said {
        self.promote(run);
        self.rest()
    }

    pub(super) fn spend(&mut self, in_step: Duration) {
        if let Some(run) = &mut self.state.run {
            run.in_step = in_step;
        }
    }

    /// `run 3, step 1/2: digits-0123456789 gets 10 %`
    pub(super) fn place(&self, run: &Run) -> String {
        let (number, step, of) = (run.number, run.step, run.plan.steps.len());
        let candidate = &run.candidate;
        let what = match step {
            0 if run.plan.strategy == Strategy::Recreate => "takes the place of stable".to_owned(),
            0 => "is ready".to_owned(),
            _ if run.is_preview(step) => "answers at its preview address".to_owned(),
            _ => format!("gets {}", run.what(step)),
        };
        let drift = if run.plan == self.wish.plan {
            ""
        } else {
            " (by the plan it started with; `repin` takes up the new one)"
        };
        format!("run {number}, step {step}/{of}: {candidate} {what}{drift}")
    }
}

impl Run {
    /// Whether the candidate answers at its preview address and nowhere else.
    fn is_preview(&self, step: usize) -> bool {
        let copies = matches!(self.plan.step(step).map(|step| step.kind), Some(Kind::Shadow { .. }));
        self.plan.strategy == Strategy::BlueGreen && !copies
    }

    /// What the candidate gets at a step: `10 %`, `copies of 100 %`.
    pub(super) fn what(&self, step: usize) -> String {
        match self.plan.step(step).map(|step| step.kind) {
            Some(Kind::Shadow { percent, .. }) => format!("copies of {percent} %"),
            _ if self.is_preview(step) => "preview".to_owned(),
            _ => format!("{} %", self.plan.weight(step)),
        }
    }
}

/// The candidate's pods were lost, and did not come back in time.
fn gone(run: &Run, pods: &Pods) -> Option<String> {
    let none = pods.ready == 0 && pods.wanted > 0 && run.unready >= LOST.min(run.plan.progress_deadline);
    // What the demand asks for beyond that may find no room: that is no fault of the candidate.
    let late = !pods.serve() && run.unready >= run.plan.progress_deadline;
    (none || late).then(|| {
        let (ready, wanted, seconds) = (pods.ready, pods.wanted, run.unready.as_secs());
        format!("{ready} of {wanted} pods have been ready for {seconds} s{}", why(pods))
    })
}

/// The trouble of pods as the end of a sentence.
pub(super) fn why(pods: &Pods) -> String {
    pods.trouble.as_ref().map(|trouble| format!(": {}", trouble.what)).unwrap_or_default()
}
