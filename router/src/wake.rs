//! Calls for pods of models that have none because no requests came: a request that comes then writes the number of the sleep to
//! the status of its ModelRoute. The operator watches that, so it hears within milliseconds; while the API server is away it
//! hears of held requests when it asks the router.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_api::pause::Pause;
use tokio::sync::Notify;

use crate::cut::metrics::Outcome;
use crate::metrics::Counts;
use crate::plane::Plane;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);

/// Who is to be woken.
#[derive(Debug, Default)]
pub struct Wakes {
    calls: Mutex<BTreeMap<String, Call>>,
    new: Notify,
}

/// A call for pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    /// uid of the ModelRoute.
    uid: String,
    /// The number of the sleep.
    sleep: u64,
    /// It stands in the status.
    written: bool,
}

impl Wakes {
    /// A request came for a model that sleeps for the `sleep`th time.
    pub fn wake(&self, route: &str, uid: &str, sleep: u64) {
        let mut calls = self.calls();
        if calls.get(route).is_some_and(|known| known.uid == uid && known.sleep >= sleep) {
            return;
        }
        calls.insert(route.to_owned(), Call { uid: uid.to_owned(), sleep, written: false });
        drop(calls);
        self.new.notify_one();
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<String, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Vec<(String, Call)> {
        let calls = self.calls();
        let open = calls.iter().filter(|(_, call)| !call.written);
        open.map(|(route, call)| (route.clone(), call.clone())).collect()
    }

    /// Nothing is left to be said, unless a later sleep was called for meanwhile.
    fn done(&self, route: &str, call: &Call) {
        if let Some(known) = self.calls().get_mut(route).filter(|known| *known == call) {
            known.written = true;
        }
    }
}

/// Writes calls for as long as the process runs; ends never.
pub async fn report(plane: Arc<Plane>, api: Api<ModelRoute>, counts: Counts) {
    let mut pause = Pause::default();
    loop {
        let open = plane.wakes.open();
        if open.is_empty() {
            pause = Pause::default();
            plane.wakes.new.notified().await;
            continue;
        }
        let mut failed = false;
        for (route, call) in open {
            if !sleeps(&plane, &route, &call) {
                plane.wakes.done(&route, &call);
                continue;
            }
            match write(&api, &route, &call).await {
                Ok(()) => {
                    counts.woke(Outcome::Ok);
                    tracing::info!(route, sleep = call.sleep, "a request came: the model is called for");
                    plane.wakes.done(&route, &call);
                }
                Err((outcome, why)) => {
                    counts.woke(outcome);
                    failed = true;
                    tracing::warn!(
                        route,
                        why,
                        "the call for pods could not be written to status and is tried again"
                    );
                }
            }
        }
        if failed {
            tokio::time::sleep(pause.next().unwrap_or(CALL)).await;
        }
    }
}

/// Whether the model still sleeps for that time.
fn sleeps(plane: &Plane, route: &str, call: &Call) -> bool {
    let tables = plane.tables();
    tables.route(route).is_some_and(|route| route.version.uid == call.uid && route.asleep == Some(call.sleep))
}

/// Writes the number of the sleep. Two routers may: they write the same.
async fn write(api: &Api<ModelRoute>, route: &str, call: &Call) -> Result<(), (Outcome, String)> {
    let patch = json!({"metadata": {"uid": call.uid}, "status": {"wake": call.sleep}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    match tokio::time::timeout(CALL, api.patch_status(route, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        // It is gone, and with it whoever could be woken.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Ok(Err(error)) => Err((Outcome::Failed, error.to_string())),
        Err(_) => {
            Err((Outcome::TimedOut, format!("no answer from the API server within {} s", CALL.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sleep_is_called_once() {
        let wakes = Wakes::default();
        let open = |wakes: &Wakes| {
            wakes.open().into_iter().map(|(route, call)| (route, call.sleep)).collect::<Vec<_>>()
        };
        wakes.wake("digits", "u", 1);
        wakes.wake("digits", "u", 1);
        assert_eq!(open(&wakes), [("digits".to_owned(), 1)]);
        let (route, call) = wakes.open().remove(0);
        // It slept again while that was written.
        wakes.wake("digits", "u", 2);
        wakes.done(&route, &call);
        assert_eq!(open(&wakes), [("digits".to_owned(), 2)]);
        let (route, call) = wakes.open().remove(0);
        wakes.done(&route, &call);
        wakes.wake("digits", "u", 2);
        assert!(open(&wakes).is_empty());
        // Another object of the same name counts anew.
        wakes.wake("digits", "v", 1);
        assert_eq!(open(&wakes), [("digits".to_owned(), 1)]);
    }
}
