//! The state machine of a ModelDeployment: which revision is stable, which one is tried, at which step, and why.
//!
//! [`decide`] takes the plan, the state and what was seen, and returns the next state with what happened. The traffic table
//! ([`State::shares`]) and the set of revisions that keep their pods ([`State::kept`]) are pure functions of the state, so
//! that a state, once stored, is all that is needed to go on after a crash at any instant.
//!
//! Order: pods ready, then verified, then weight up; weight down, then verified and nothing in flight, then pods away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::text::cut;
use crate::traffic::WHOLE;
use crate::verdict::Verdict;

mod advance;
mod request;

pub use request::{Request, Verb};

/// Rejected revisions that are remembered.
const REJECTED: usize = 10;
/// Longest reason that is remembered with one, in bytes: pods' last words can be kilobytes.
const LONGEST_REASON: usize = 512;

/// What the user wants of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The candidate's weights, rising.
    pub steps: Vec<Step>,
    /// How long the candidate may take to get ready.
    pub progress_deadline: Duration,
    /// How long the previous revision keeps its pods.
    pub keep_warm: Duration,
    /// Pods of a revision. With none there is nothing to try: a new revision takes over at once.
    pub replicas: u32,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Percent of the traffic, 0..=100.
    pub weight: u32,
    /// How long the step lasts at least.
    pub duration: Duration,
}

/// All that must survive a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revision that serves.
    pub stable: Option<String>,
    /// The one before it, while its pods are kept, and for how long it has been.
    pub previous: Option<(String, Duration)>,
    /// Number of the last run.
    pub runs: u64,
    /// The run that is under way.
    pub run: Option<Run>,
    /// Out of traffic, pods still there for requests in flight.
    pub leaving: Vec<String>,
    /// Not tried again by itself: revision and why.
    pub rejected: Vec<(String, String)>,
    /// An undo against the spec.
    pub pin: Option<Pin>,
}

/// One attempt to make a candidate stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub number: u64,
    /// The revision that is tried.
    pub candidate: String,
    /// Without canary steps: promoted as soon as it is ready.
    pub direct: bool,
    /// 0 while the candidate's pods are prepared, then the step, counted from 1.
    pub step: usize,
    /// Time spent in this step.
    pub in_step: Duration,
}

/// The user went back, against the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What runs.
    pub revision: String,
    /// What the spec asks for.
    pub instead_of: String,
    /// Why.
    pub because: String,
}

/// The pods of one revision as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// As many as there should be.
    pub wanted: u32,
    /// As many as answer.
    pub ready: u32,
    /// What keeps a pod from getting ready, in words, if anything does.
    pub trouble: Option<Trouble>,
}

impl Pods {
    /// All of them answer.
    pub fn complete(&self) -> bool {
        self.ready >= self.wanted
    }
}

/// What is wrong with the pods of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In words: which pod, what, why.
    pub what: String,
    /// No waiting will heal it: the artifact itself is bad.
    pub permanent: bool,
    /// A pod that had been started was killed or crashed: harm, once it has traffic.
    pub crashed: bool,
}

/// What is seen at one look.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The revision that the spec asks for.
    pub target: &'a str,
    /// Why the target cannot be started yet (its digest is not known), if so.
    pub target_waits: Option<&'a Wait>,
    /// Pods by revision; a revision that is not in here has none yet.
    pub pods: &'a BTreeMap<String, Pods>,
    /// Revisions whose snapshot is kept: those that one can return to.
    pub revisions: &'a BTreeSet<String>,
    /// Why the last table cannot be taken as served everywhere, if so.
    pub unverified: Option<&'a str>,
    /// Why no request gets to the revision that has the traffic (no router, or none that knows a pod), if so.
    pub unreachable: Option<&'a str>,
    /// Requests in flight by revision, for those that have any.
    pub in_flight: &'a BTreeMap<String, u64>,
    /// The verdict on the candidate of the run's step; none while it has no traffic.
    pub verdict: Option<&'a Verdict>,
    /// What someone asks for now.
    pub request: Option<&'a Request>,
    /// Time since the last look.
    pub elapsed: Duration,
}

/// Why a revision cannot be started yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In words.
    pub why: String,
    /// Something is wrong; else it only takes a moment.
    pub trouble: bool,
}

/// What happened: an Event, and a line of the history when a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The kind.
    pub reason: Reason,
    /// The run that it belongs to.
    pub run: u64,
    /// The revision that it is about.
    pub revision: String,
    /// In a sentence.
    pub message: String,
}

/// Kinds of transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A run started.
    RunStarted,
    /// A step began.
    StepStarted,
    /// Someone asked to skip the remaining steps.
    PromoteRequested,
    /// The candidate became stable.
    Promoted,
    /// The candidate did harm or never got ready.
    RolledBack,
    /// Someone ended the run.
    Aborted,
    /// The spec asks for another revision now.
    Superseded,
    /// Someone went back to an earlier revision.
    Undone,
    /// A rejected revision is tried again.
    Retried,
    /// A request that cannot be carried out.
    RequestRefused,
}

impl Reason {
    /// Whether a run ended with it.
    pub fn ends_run(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack | Self::Aborted | Self::Superseded)
    }
}

/// The next state, what happened on the way, and the one sentence that says where things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To be stored before anything is done about it.
    pub state: State,
    /// In order.
    pub transitions: Vec<Transition>,
    /// For people.
    pub sentence: String,
    /// What kind of sentence it is.
    pub standing: Standing,
}

/// How things stand, beside the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Stable serves with all its pods; there is no run.
    Serving,
    /// Not all pods of stable are ready, or no request gets there; there is no run.
    Unready,
    /// A run makes its way.
    Moving,
    /// A run waits for something that it needs.
    Holding,
    /// Something is wrong with the pods or the artifact of what is to be served next.
    Troubled,
}

/// The sentence with its kind.
type Said = (Standing, String);

/// A share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The revision.
    pub revision: String,
    /// Parts per million.
    pub ppm: u32,
    /// Who takes over while it has no ready pod.
    pub fallback: Option<String>,
}

impl State {
    /// The traffic table. Empty while there is no revision at all.
    pub fn shares(&self, plan: &Plan) -> Vec<Share> {
        let whole = |revision: &String| Share { revision: revision.clone(), ppm: WHOLE, fallback: None };
        match (&self.stable, &self.run) {
            (None, None) => Vec::new(),
            (None, Some(run)) => vec![whole(&run.candidate)],
            (Some(stable), None) => vec![whole(stable)],
            (Some(stable), Some(run)) => {
                let ppm = run.weight(plan) * (WHOLE / 100);
                let candidate =
                    Share { revision: run.candidate.clone(), ppm, fallback: Some(stable.clone()) };
                let stable = Share { ppm: WHOLE - ppm, ..whole(stable) };
                // An arm without weight is left out: nothing may reach it, not even by fallback.
                if ppm == 0 { vec![stable] } else { vec![stable, candidate] }
            }
        }
    }

    /// Revisions whose pods must be there: with traffic, to be tried, to return to, or with requests in flight.
    pub fn kept(&self) -> BTreeSet<&str> {
        let mut kept: BTreeSet<&str> = self.leaving.iter().map(String::as_str).collect();
        kept.extend(self.stable.as_deref());
        kept.extend(self.run.as_ref().map(|run| run.candidate.as_str()));
        kept.extend(self.previous.as_ref().map(|(revision, _)| revision.as_str()));
        kept
    }

    /// The step that counts are kept under: 0 outside a canary step.
    pub fn step(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.step)
    }

    /// What should run: the spec's wish, or the pin against it.
    fn wanted<'a>(&'a self, target: &'a str) -> &'a str {
        self.pin.as_ref().map_or(target, |pin| pin.revision.as_str())
    }

    /// Why a revision is not tried by itself, if so.
    fn rejection(&self, revision: &str) -> Option<&str> {
        self.rejected.iter().find(|(name, _)| name == revision).map(|(_, why)| why.as_str())
    }
}

impl Run {
    /// Percent of the traffic that the candidate is meant to get.
    pub fn weight(&self, plan: &Plan) -> u32 {
        self.current(plan).map_or(0, |step| step.weight.min(100))
    }

    /// The step of the plan; none while the pods are prepared. A plan that was shortened in mid-run ends at its last step.
    pub fn current<'a>(&self, plan: &'a Plan) -> Option<&'a Step> {
        let index = self.step.checked_sub(1)?;
        plan.steps.get(index).or(plan.steps.last())
    }
}

/// One look: the next state and what happened.
pub fn decide(plan: &Plan, state: &State, seen: &Seen<'_>) -> Decision {
    let mut next = Next { plan, seen, state: state.clone(), transitions: Vec::new() };
    next.obey();
    next.follow_target();
    let (standing, sentence) = next.advance();
    next.keep_and_leave();
    Decision { state: next.state, transitions: next.transitions, sentence, standing }
}

/// A decision in the making.
struct Next<'a> {
    plan: &'a Plan,
    seen: &'a Seen<'a>,
    state: State,
    transitions: Vec<Transition>,
}

impl Next<'_> {
    fn note(&mut self, reason: Reason, revision: &str, message: impl Into<String>) {
        let (run, revision, message) = (self.state.runs, revision.to_owned(), message.into());
        self.transitions.push(Transition { reason, run, revision, message });
    }

    /// Ends runs whose candidate is no longer asked for, and starts the one that is.
    fn follow_target(&mut self) {
        let target = self.seen.target;
        // The spec asks for something new: that is a newer wish than the pin.
        if self.state.pin.as_ref().is_some_and(|pin| pin.instead_of != target) {
            self.state.pin = None;
        }
        let wanted = self.state.wanted(target).to_owned();
        if let Some(run) = self.state.run.take_if(|run| run.candidate != wanted) {
            let (reason, message) = if self.state.stable.as_deref() == Some(wanted.as_str()) {
                (
                    Reason::Aborted,
                    format!("run {} ended: the wish returned to {wanted}, which is stable", run.number),
                )
            } else {
                (
                    Reason::Superseded,
                    format!("run {} ended: {wanted} took the place of {}", run.number, run.candidate),
                )
            };
            self.leave(&run.candidate);
            self.note(reason, &run.candidate, message);
        }
        let idle = self.state.run.is_none() && self.state.stable.as_deref() != Some(wanted.as_str());
        let free = self.state.rejection(&wanted).is_none();
        let known = self.seen.target_waits.is_none() || wanted != target;
        if idle && free && known {
            self.start(wanted);
        }
    }

    fn start(&mut self, candidate: String) {
        let nothing_to_try = self.plan.steps.is_empty() || self.plan.replicas == 0;
        let direct = self.state.stable.is_none() || self.state.pin.is_some() || nothing_to_try;
        self.state.runs += 1;
        self.state.leaving.retain(|revision| *revision != candidate);
        self.state.previous.take_if(|(revision, _)| *revision == candidate);
        let how = if direct { "as soon as it is ready" } else { "step by step" };
        let message = format!("run {}: {candidate} takes over {how}", self.state.runs);
        self.note(Reason::RunStarted, &candidate, message);
        self.state.run =
            Some(Run { number: self.state.runs, candidate, direct, step: 0, in_step: Duration::ZERO });
    }

    /// Takes a revision out; its pods stay until nothing is in flight.
    fn leave(&mut self, revision: &str) {
        if !self.state.leaving.iter().any(|name| name == revision) {
            self.state.leaving.push(revision.to_owned());
        }
    }

    /// Ends the run against its candidate, which is remembered as rejected.
    fn reject(&mut self, reason: Reason, because: &str) {
        let Some(run) = self.state.run.take() else { return };
        let because = cut(because, LONGEST_REASON);
        self.leave(&run.candidate);
        self.state.pin.take_if(|pin| pin.revision == run.candidate);
        self.state.rejected.retain(|(revision, _)| *revision != run.candidate);
        self.state.rejected.insert(0, (run.candidate.clone(), because.to_owned()));
        self.state.rejected.truncate(REJECTED);
        let stable = self.state.stable.as_deref().unwrap_or("nothing");
        let message = format!("{}: {because}; {stable} has all the traffic", run.candidate);
        self.note(reason, &run.candidate, message);
    }

    /// Makes the candidate stable. Only the table and names change: no pod is touched.
    fn promote(&mut self, run: &Run) {
        if let Some(old) = self.state.stable.replace(run.candidate.clone())
            && let Some((before, _)) = self.state.previous.replace((old, Duration::ZERO))
        {
            self.leave(&before);
        }
        self.state.run = None;
        self.note(
            Reason::Promoted,
            &run.candidate,
            format!("{} is stable and has all the traffic", run.candidate),
        );
    }

    /// Lets go of pods: those of the previous revision after their time, those without requests at once.
    fn keep_and_leave(&mut self) {
        if let Some((_, kept)) = &mut self.state.previous {
            *kept += self.seen.elapsed;
        }
        // While a run is under way the previous revision may still be wanted, should stable itself be undone.
        let over = |(_, kept): &mut (String, Duration)| *kept >= self.plan.keep_warm;
        if self.state.run.is_none()
            && let Some((revision, _)) = self.state.previous.take_if(over)
        {
            self.leave(&revision);
        }
        // A table that was changed by this very decision is not served yet, so nothing leaves in the same look.
        let settled = self.seen.unverified.is_none() && self.transitions.is_empty();
        let in_flight = self.seen.in_flight;
        if settled {
            self.state.leaving.retain(|revision| in_flight.get(revision).is_some_and(|count| *count > 0));
        }
    }
}

#[cfg(test)]
mod tests;
