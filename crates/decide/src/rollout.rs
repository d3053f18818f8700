//! The state machine of a ModelDeployment: which revision is stable, which one is tried, at which step, and why.
//!
//! [`decide`] takes the wish, the state and what was seen, and returns the next state with what happened. The traffic table
//! ([`State::traffic`]) and the set of revisions that keep their pods ([`State::kept`]) are pure functions of the state, so
//! that a state, once stored, is all that is needed to go on after a crash at any instant.
//!
//! Order: pods ready, then verified, then weight up; weight down, then verified and nothing in flight, then pods away. How many pods
//! a revision has follows from the state as well ([`State::sizes`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::alert::Alerts;
use crate::text::cut;
use crate::verdict::Verdict;

mod advance;
mod capacity;
mod gate;
mod guard;
mod plan;
mod request;
mod room;
mod state;

pub use capacity::{Capacity, Refill, Replicas, Shares};
pub use gate::{Approval, Gate, NoGate};
pub use plan::{Kind, Plan, Step, Strategy, Wish};
pub use request::{Request, Verb};
pub use room::Room;
pub use state::{Guard, Pin, Run, Shadow, Share, State, Traffic, Watched};

/// Rejected revisions that are remembered.
const REJECTED: usize = 10;
/// Longest reason that is remembered with one, in bytes: pods' last words can be kilobytes.
const LONGEST_REASON: usize = 512;
/// Alerts that are kept in mind at most, of those that fire when a run starts.
const ALERTS: usize = 50;

/// The pods of one revision as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// As many as there should be.
    pub wanted: u32,
    /// As many as are enough to serve, where others come and go with the demand; none: all of them.
    pub enough: Option<u32>,
    /// As many as answer.
    pub ready: u32,
    /// As many as there are, ready or not.
    pub there: u32,
    /// As many as take room: those that are there, and those on their way out.
    pub standing: u32,
    /// What keeps a pod from getting ready, in words, if anything does.
    pub trouble: Option<Trouble>,
    /// How often their containers were started again after an end that was not asked for.
    pub restarts: u32,
    /// How the last of those ended, in words.
    pub last_end: Option<String>,
}

impl Pods {
    /// All of them answer.
    pub fn complete(&self) -> bool {
        self.ready >= self.wanted
    }

    /// As many answer as are enough.
    pub fn serve(&self) -> bool {
        self.ready >= self.enough.map_or(self.wanted, |enough| enough.min(self.wanted))
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
    /// The verdict on what is compared ([`State::compared`]); none while nothing is.
    pub verdict: Option<&'a Verdict>,
    /// Bad answers of the compared revision in this run, in parts per million; 0 where that is not known.
    pub bad_ppm: u32,
    /// Why routers gave the compared revision no more traffic in this run, if they did.
    pub cut: Option<&'a str>,
    /// Why no run may start now, if so: too many are under way.
    pub queued: Option<&'a str>,
    /// Why nothing may advance now, if so: someone froze the fleet.
    pub frozen: Option<&'a str>,
    /// The alerts that the user declares; none where there are none, or nothing is compared.
    pub alerts: Option<&'a Alerts>,
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
    /// The pods of stable were told to go, to make room for the candidate's.
    StableStopped,
    /// Someone asked to skip the rest of a step, or all that remain.
    PromoteRequested,
    /// Someone said that a step, or the promotion, may begin.
    Approved,
    /// Someone asked a run to stand still.
    Paused,
    /// The candidate became stable.
    Promoted,
    /// The candidate did harm or never got ready, or stable did harm in its guard.
    RolledBack,
    /// The time after a promotion is over without harm.
    GuardPassed,
    /// Someone ended a pause.
    Resumed,
    /// Someone took up the plan that the spec has now.
    Repinned,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// One look: the next state and what happened.
pub fn decide(wish: &Wish, state: &State, seen: &Seen<'_>) -> Decision {
    let mut next = Next { wish, seen, before: state, state: state.clone(), transitions: Vec::new() };
    next.note_served();
    next.note_alerts();
    next.obey();
    next.follow_target();
    next.follow_refill();
    next.keep_size();
    let (standing, sentence) = next.advance();
    next.keep_and_leave();
    Decision { state: next.state, transitions: next.transitions, sentence, standing }
}

/// A decision in the making.
struct Next<'a> {
    wish: &'a Wish,
    seen: &'a Seen<'a>,
    /// The state before the look: what is under way in the cluster.
    before: &'a State,
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
            self.give_way(&run.candidate);
            self.note(reason, &run.candidate, message);
        }
        let idle = self.state.run.is_none() && self.state.stable.as_deref() != Some(wanted.as_str());
        let free = self.state.rejection(&wanted).is_none();
        let known = self.seen.target_waits.is_none() || wanted != target;
        if idle && free && known && self.may_start(&wanted).is_none() {
            self.start(wanted);
        }
    }

    /// Why a run for `candidate` must wait, if so. What brings service back, or goes back, never waits.
    fn may_start(&self, candidate: &str) -> Option<&str> {
        let back = self.state.stable.is_none() || self.state.pin.is_some() || self.is_warm(candidate);
        self.seen.frozen.or(self.seen.queued).filter(|_| !back)
    }

    /// Whether a revision was stable until recently, and still has its pods: to return to it is no new try.
    fn is_warm(&self, revision: &str) -> bool {
        self.state.previous.as_ref().is_some_and(|(previous, _)| previous == revision)
    }

    fn start(&mut self, candidate: String) {
        let plan = self.wish.plan.clone();
        // Who must make room first can be held before that, without any step.
        let no_steps = plan.steps.is_empty() && plan.strategy != Strategy::Recreate;
        let nothing_to_try = !plan.has_gates() && (no_steps || !self.wish.replicas.serves());
        let first = self.state.stable.is_none();
        let direct = first || self.state.pin.is_some() || self.is_warm(&candidate) || nothing_to_try;
        self.state.runs += 1;
        self.state.guard = None;
        self.state.leaving.retain(|revision| *revision != candidate);
        let how = match plan.strategy {
            Strategy::Recreate if !first => {
                format!("takes the place of stable: {}", self.cost(&candidate))
            }
            _ if direct => "takes over as soon as it is ready".to_owned(),
            Strategy::BlueGreen => "answers at its preview address, and then takes over at once".to_owned(),
            Strategy::Canary | Strategy::Recreate => "takes over step by step".to_owned(),
        };
        let message = format!("run {}: {candidate} {how}", self.state.runs);
        self.note(Reason::RunStarted, &candidate, message);
        self.share_the_room(plan.strategy, &candidate);
        self.size_by(plan.capacity, &candidate);
        self.state.run = Some(Run { number: self.state.runs, candidate, direct, plan, ..Run::default() });
    }

    /// In a run and on the way back from it, pods that somebody else counts grow only: a rollback must find them.
    fn keep_size(&mut self) {
        let (wish, in_run) = (self.wish, self.state.run.is_some());
        let Some(shares) = &mut self.state.shares else { return };
        let keeps = wish.counted_elsewhere && (in_run || shares.refill.is_some());
        shares.least = if keeps { shares.least.max(wish.replicas.all) } else { 0 };
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
        self.give_way(&run.candidate);
        self.remember_rejected(&run.candidate, because);
        let stable = self.state.stable.as_deref().unwrap_or("nothing");
        let traffic = self.gone_back(&format!("{stable} has all the traffic"));
        let message = format!("{}: {because}; {traffic}", run.candidate);
        self.note(reason, &run.candidate, message);
    }

    /// A revision that is not tried again by itself.
    fn remember_rejected(&mut self, revision: &str, because: &str) {
        self.state.pin.take_if(|pin| pin.revision == revision);
        self.state.rejected.retain(|(known, _)| known != revision);
        self.state.rejected.insert(0, (revision.to_owned(), cut(because, LONGEST_REASON).to_owned()));
        self.state.rejected.truncate(REJECTED);
    }

    /// Makes the candidate stable. Only the table and names change: no pod is touched.
    fn promote(&mut self, run: &Run) {
        let candidate = &run.candidate;
        let returns = self.state.pin.is_some() || self.is_warm(candidate);
        let old = self.state.stable.replace(candidate.clone());
        let compared = old.is_some() && !returns && self.wish.replicas.serves();
        let left = old.clone();
        if let Some((before, _)) = old.and_then(|old| self.state.previous.replace((old, Duration::ZERO))) {
            // Who was the previous one may be the one that is returned to.
            if before != *candidate {
                self.leave(&before);
            }
        }
        self.state.took = self.state.run.take().and_then(|run| run.took);
        self.end_refill();
        if run.plan.capacity == Capacity::Full {
            self.state.shares = None;
        } else if let Some(left) = left {
            // Only who returns early has fewer pods than the whole demand needs.
            self.give_way(&left);
        }
        self.state.guard = (compared && !run.plan.guard.is_zero()).then(|| Guard {
            step: run.plan.steps.len() + 1,
            lasts: run.plan.guard,
            holdback: run.plan.holdback,
            spent: Duration::ZERO,
            restarts: self.seen.pods.get(candidate).map_or(0, |pods| pods.restarts),
            known_alerts: run.known_alerts.clone(),
        });
        let message = match &self.state.guard {
            None => format!("{candidate} is stable and {}", self.gone_back("has all the traffic")),
            Some(guard) => format!("{candidate} is stable; it is guarded for {} s", guard.lasts.as_secs()),
        };
        self.note(Reason::Promoted, candidate, message);
    }

    /// Lets go of pods: those of the previous revision after their time, those without requests at once.
    fn keep_and_leave(&mut self) {
        if let Some((_, kept)) = &mut self.state.previous {
            *kept += self.seen.elapsed;
        }
        // In a run the previous revision may still be wanted, should stable itself be undone; in the guard it is the control.
        let over = |(_, kept): &mut (String, Duration)| *kept >= self.wish.keep_warm;
        // A table that was changed by this very decision is not served yet, so nothing leaves in the same look: a cut may be on
        // its way that needs the previous revision.
        let same = self.transitions.is_empty() && self.before.refill() == self.state.refill();
        let settled = self.seen.unverified.is_none() && same;
        if settled
            && self.state.run.is_none()
            && self.state.guard.is_none()
            && let Some((revision, _)) = self.state.previous.take_if(over)
        {
            self.leave(&revision);
        }
        let in_flight = self.seen.in_flight;
        if settled {
            self.state.leaving.retain(|revision| in_flight.get(revision).is_some_and(|count| *count > 0));
        }
    }
}

#[cfg(test)]
mod tests;
