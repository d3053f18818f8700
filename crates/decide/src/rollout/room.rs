//! One revision at a time: [`Strategy::Recreate`], for clusters that have no room for two.
//!
//! ```text
//! stable serves ──► its pods go ──► the candidate's come ──► promoted
//!   (Taken)          (Leaving)         (Free)
//! ```
//! Before the first arrow nothing is lost, so that is where pauses, alerts and approvals hold the run. Behind it nobody is served:
//! then nothing holds it, and only the candidate's own failure turns it round. The table follows the room, so that a candidate's
//! first ready pod answers at once. Routers get nobody to cut: there are no pods to turn to.

use std::time::Duration;

use super::advance::why;
use super::plan::Strategy;
use super::{Next, Pods, Reason, Run, Said, Standing, State};

/// Whose pods have the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Stable's.
    #[default]
    Taken,
    /// Nobody's: those of stable go.
    Leaving,
    /// The candidate's.
    Free,
}

impl State {
    /// The one revision that has pods, where only one may; none while those of stable go.
    pub(super) fn holder(&self) -> Option<&str> {
        let (stable, run) = (self.stable.as_deref(), self.run.as_ref());
        match run.map(|run| run.room) {
            Some(Room::Leaving) => None,
            Some(Room::Free) => run.map(|run| run.candidate.as_str()),
            Some(Room::Taken) | None => stable,
        }
    }

    /// The revision that has the traffic, or all of it but a candidate's weight. While room is made it is who had it last.
    pub fn main(&self) -> Option<&String> {
        let candidate = self.run.as_ref().map(|run| &run.candidate);
        match &self.run {
            Some(run) if self.alone && run.room == Room::Free => candidate,
            _ => self.stable.as_ref().or(candidate),
        }
    }

    /// Nobody is served: the pods of stable go, to make room.
    pub fn is_between(&self) -> bool {
        self.alone && self.holder().is_none()
    }
}

impl Next<'_> {
    /// A run starts: whether only one revision has pods from now on.
    pub(super) fn share_the_room(&mut self, strategy: Strategy, candidate: &str) {
        let alone = strategy == Strategy::Recreate && self.state.stable.is_some();
        if self.state.alone && !alone && !self.is_warm(candidate) {
            // Its pods went long ago: they would come up for nothing.
            self.state.previous = None;
        }
        self.state.alone = alone;
    }

    /// What it costs that only one revision has pods, in a sentence.
    pub(super) fn cost(&self, candidate: &str) -> String {
        let stable = self.state.stable.as_deref().unwrap_or_default();
        let pods = self.seen.pods.get(stable).map_or(0, |pods| pods.wanted);
        let go = if pods == 1 { "goes" } else { "go" };
        let took = match self.state.took {
            Some(took) => format!("{stable} took {} s to get ready", took.as_secs()),
            None => "how long that takes is not known".to_owned(),
        };
        format!(
            "nobody is served from the moment the {} of {stable} {go} until those of {candidate} are ready ({took})",
            counted(pods)
        )
    }

    /// Makes room for the candidate's pods. None once there is, or where none is needed.
    pub(super) fn make_room(&mut self, run: &Run) -> Option<Said> {
        let stable = self.state.stable.clone().filter(|_| self.state.alone)?;
        let number = run.number;
        match run.room {
            Room::Free => None,
            Room::Taken => {
                if let Some(said) = self.keeps_room(run) {
                    return Some(said);
                }
                // Not in the look that it starts with: alerts, and whether the API server takes its pods, are known from the next one on.
                if self.before.run.as_ref().is_none_or(|before| before.number != number) {
                    return Some((Standing::Moving, format!("run {number}: {}", self.cost(&run.candidate))));
                }
                self.enter_room(Room::Leaving);
                let message = format!("run {number}: {}", self.cost(&run.candidate));
                self.note(Reason::StableStopped, &run.candidate, message.clone());
                Some((Standing::Moving, message))
            }
            Room::Leaving => {
                let waited = run.in_step + self.seen.elapsed;
                let others = self.seen.pods.iter().filter(|(name, _)| **name != run.candidate);
                let standing: u32 = others.map(|(_, pods)| pods.standing).sum();
                if standing == 0 {
                    self.enter_room(Room::Free);
                    let what = format!(
                        "run {number}: there is room for {}; its pods start, and nobody is served until they are ready",
                        run.candidate
                    );
                    return Some((Standing::Moving, what));
                }
                let deadline = run.plan.progress_deadline;
                if waited >= deadline {
                    let seconds = deadline.as_secs();
                    return Some(
                        self.back(&format!(
                            "{} of {stable} still there after {seconds} s",
                            counted(standing)
                        )),
                    );
                }
                self.spend(waited);
                Some((
                    Standing::Moving,
                    format!("run {number}: {} of {stable} still to go; nobody is served", counted(standing)),
                ))
            }
        }
    }

    /// Why stable's pods do not go yet, if so.
    fn keeps_room(&mut self, run: &Run) -> Option<Said> {
        let number = run.number;
        // The API server takes no pods of it: to find that out later would be dear.
        if let Some(trouble) = self.seen.pods.get(&run.candidate).and_then(|pods| pods.trouble.as_ref()) {
            let what =
                format!("run {number}: {} keeps stable's pods from going: {}", run.candidate, trouble.what);
            return Some((Standing::Troubled, what));
        }
        if run.direct {
            return None;
        }
        if let Some(why) = self.held_back(run) {
            return Some((
                Standing::Holding,
                format!("run {number}: {} holds before stable's pods go: {why}", run.candidate),
            ));
        }
        let (standing, gate) = self.awaits(run)?;
        Some((standing, format!("{gate}. {}", self.cost(&run.candidate))))
    }

    fn enter_room(&mut self, room: Room) {
        if let Some(run) = &mut self.state.run {
            (run.room, run.in_step) = (room, Duration::ZERO);
            // From here on there is no way to stand still.
            run.paused_by = None;
        }
    }

    /// Stable does harm, and the previous revision has no pods: it gets the room. Pinned, for the spec asks for what does harm.
    pub(super) fn exchange(&mut self, previous: String, because: &str) -> Said {
        let how = format!("{previous} takes its place, and nobody is served until its pods are ready");
        let why = format!("{previous} did none");
        self.fall_back(previous, because, &how, &why);
        self.advance()
    }
}

impl Run {
    /// Whether the run is past the point where it can stand still.
    pub(super) fn is_committed(&self) -> bool {
        self.room != Room::Taken
    }
}

/// The pods of stable on their way back, as the end of a sentence.
pub(super) fn returning(stable: &str, pods: Option<&Pods>) -> String {
    let pods = pods.cloned().unwrap_or_default();
    format!("nobody is served until the pods of {stable} are back{}", why(&pods))
}

/// So many pods, in words.
fn counted(pods: u32) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}
