//! What the operator remembers between looks. All of it may be lost: it comes back from status and from the routers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stoker_api::deployment::ModelDeploymentStatus;
use stoker_decide::analysis::Analysis;
use stoker_decide::rollout::State;

use crate::report::gateway::Refusal;

/// A gap between looks longer than this (a suspended process) counts as this much: a rollout errs late.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// Why the API server refuses the pods of a revision, by revision. Told with the next look as that revision's trouble.
pub type Refused = BTreeMap<String, String>;

/// What is remembered of one ModelDeployment.
#[derive(Default)]
pub struct Remembered {
    /// Counts and evidence of the run.
    pub analysis: Analysis,
    /// The state after the last look, with times more exact than the status has them.
    pub state: Option<State>,
    /// The status as it was written last. When the live one differs, somebody else wrote it: then it is read anew.
    pub written: Option<ModelDeploymentStatus>,
    /// When status was written last.
    pub written_at: Option<Instant>,
    /// When the last look was.
    pub looked_at: Option<Instant>,
    /// The last trouble or hold that an Event was published for, without its figures.
    pub told: Option<String>,
    /// Hosts of somebody else that an Event was published for.
    pub told_conflict: Option<String>,
    /// Why the last look failed, if it did: reason and message.
    pub failure: Option<(&'static str, String)>,
    /// The last failure that an Event was published for, without its figures.
    pub told_failure: Option<String>,
    /// What the API server refused at the last look.
    pub refused: Refused,
    /// Why a route from a gateway could not be written at the last look, if so.
    pub gateway_refusal: Option<Refusal>,
    /// For how long nobody has answered for the routes.
    pub gateway_waited: Duration,
}

impl Remembered {
    /// Time since the last look; nothing at the first one.
    pub fn elapsed(&mut self, now: Instant) -> Duration {
        let before = self.looked_at.replace(now);
        before.map_or(Duration::ZERO, |before| now.duration_since(before).min(LONGEST_GAP))
    }
}

/// All ModelDeployments that were looked at, by uid.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Remembered>>>>);

impl Memory {
    /// What is remembered of a ModelDeployment; nothing at the first look. Held by the one reconcile that works on it.
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<Remembered>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(uid.to_owned()).or_default())
    }

    /// Forgets all ModelDeployments but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }

    /// Forgets a ModelDeployment that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_is_there_is_remembered() {
        let memory = Memory::default();
        for uid in ["a", "b"] {
            memory.of(uid).lock().await.told = Some(uid.to_owned());
        }
        memory.keep(&BTreeSet::from(["b".to_owned()]));
        assert_eq!(memory.of("a").lock().await.told, None);
        assert_eq!(memory.of("b").lock().await.told.as_deref(), Some("b"));
    }
}
