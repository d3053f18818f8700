//! Writes cuts to the status of their ModelRoute: on the transition only, and whenever the API server can be reached.
//!
//! A router reads the object first and writes only what is missing there, under the version that it read. So several routers
//! that write at once end with the union, and one that comes late writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_api::pause::Pause;
use stoker_api::route::Cut;

use super::latch::LARGEST;
use super::metrics::{CutCounts, Outcome};
use crate::table::keeper::Keeper;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);
/// How often a write is tried anew at once because somebody else wrote meanwhile.
const CONFLICTS: usize = 5;
/// The longest wait before the first write, in milliseconds: routers that reach an alarm together do not write together.
const SPREAD: u64 = 200;

/// Cuts that the status of a route lacks, as far as this router knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreported {
    /// Name of the ModelRoute.
    pub route: String,
    /// Its uid.
    pub uid: String,
    /// The run that is served.
    pub run: u64,
    /// All cuts of the run.
    pub cuts: Vec<Cut>,
}

/// Writes what is missing for as long as the process runs; ends never.
pub async fn report(keeper: Arc<Keeper>, api: Api<ModelRoute>, counts: CutCounts) {
    let mut changes = keeper.latched();
    let mut pause = Pause::default();
    loop {
        let open = keeper.unreported();
        if open.is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
            // Long enough for a watch to tell that it is done.
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..SPREAD))).await;
            continue;
        }
        let mut failed = false;
        // One after the other, and none waits for another that fails.
        for route in open {
            match write(&api, &route, &counts).await {
                Ok(told) => keeper.reported(&route.uid, told),
                Err(why) => {
                    failed = true;
                    tracing::warn!(
                        route = route.route,
                        why,
                        "a cut could not be written to status; it holds all the same, and is tried again"
                    );
                }
            }
        }
        if failed {
            tokio::time::sleep(pause.next().unwrap_or(CALL)).await;
        }
    }
}

/// Brings the status of one route up to date, and gives what it says then.
async fn write(api: &Api<ModelRoute>, route: &Unreported, counts: &CutCounts) -> Result<Vec<Cut>, String> {
    for _ in 0..CONFLICTS {
        let live = match tokio::time::timeout(CALL, api.get_opt(&route.route)).await {
            Ok(Ok(live)) => live,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(late()),
        };
        // It is gone, or another object of its name: there is nothing to write about.
        let Some(live) = live.filter(|live| live.metadata.uid.as_ref() == Some(&route.uid)) else {
            return Ok(route.cuts.clone());
        };
        let said = live.status.map(|status| status.cuts).unwrap_or_default();
        let Some(cuts) = union(&said, &route.cuts, live.spec.run.max(route.run)) else {
            return Ok(route.cuts.clone());
        };
        let patch = json!({
            "metadata": {"uid": route.uid, "resourceVersion": live.metadata.resource_version},
            "status": {"cuts": cuts},
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match tokio::time::timeout(CALL, api.patch_status(&route.route, &params, &patch)).await {
            Ok(Ok(_)) => {
                counts.wrote(Outcome::Ok);
                tracing::info!(route = route.route, run = route.run, "the cut stands in status");
                return Ok(cuts);
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(error)) => {
                counts.wrote(Outcome::Failed);
                return Err(error.to_string());
            }
            Err(_) => {
                counts.wrote(Outcome::TimedOut);
                return Err(late());
            }
        }
    }
    Err("others changed the object each time".to_owned())
}

fn late() -> String {
    format!("no answer from the API server within {} s", CALL.as_secs())
}

/// What status should say: what it says and `own`, without runs before `run`. `None` when it says all of that.
fn union(said: &[Cut], own: &[Cut], run: u64) -> Option<Vec<Cut>> {
    let key = |cut: &Cut| (cut.run, cut.revision.clone());
    let mut all: BTreeMap<_, _> = own.iter().map(|cut| (key(cut), cut.clone())).collect();
    // Who wrote first stays.
    all.extend(said.iter().map(|cut| (key(cut), cut.clone())));
    all.retain(|(of, _), _| *of >= run);
    let missing = all.keys().any(|wanted| said.iter().all(|cut| key(cut) != *wanted));
    if !missing {
        return None;
    }
    while all.len() > LARGEST {
        all.pop_first();
    }
    Some(all.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::latch::tests::cut;

    #[test]
    fn status_ends_with_the_union_of_the_run() {
        let names = |cuts: Option<Vec<Cut>>| {
            cuts.map(|cuts| cuts.into_iter().map(|cut| (cut.run, cut.revision, cut.by)).collect::<Vec<_>>())
        };
        let of = |run: u64, revision: &str, by: &str| (run, revision.to_owned(), by.to_owned());
        let mine = cut(2, "b", "me");
        assert_eq!(names(union(&[], std::slice::from_ref(&mine), 2)), Some(vec![of(2, "b", "me")]));
        assert_eq!(names(union(&[cut(2, "b", "other")], std::slice::from_ref(&mine), 2)), None);
        // Another's cut stays, an older run's goes.
        let said = [cut(1, "b", "old"), cut(2, "c", "other")];
        assert_eq!(
            names(union(&said, std::slice::from_ref(&mine), 2)),
            Some(vec![of(2, "b", "me"), of(2, "c", "other")])
        );
        // The run is over meanwhile: nothing to say.
        assert_eq!(names(union(&said, &[mine], 3)), None);
        let many: Vec<_> = (0..20).map(|number| cut(2, &format!("r{number}"), "me")).collect();
        assert_eq!(union(&[], &many, 2).map(|cuts| cuts.len()), Some(LARGEST));
    }
}
