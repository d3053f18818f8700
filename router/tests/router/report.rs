//! Cuts in the status of a ModelRoute: several routers, an API server that is away, other writers.

use std::sync::Arc;

use kube::Api;
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_api::exchange::KnownCut;
use stoker_router::cut::Origin;
use stoker_router::cut::metrics::{Outcome, OutcomeLabel};
use stoker_router::cut::report;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ROUTES};
use crate::world::{World, eventually, settings, table};

fn digits(run: u64) -> ModelRoute {
    table(
        "digits",
        i64::try_from(run).unwrap(),
        (run, 1),
        &[("digits-a", 1_000_000, None), ("digits-b", 0, None)],
    )
}

fn cut(run: u64, revision: &str, by: &str) -> KnownCut {
    let cut = json!({"run": run, "revision": revision, "because": "it failed", "by": by, "at": "2026-01-02T03:04:05Z"});
    KnownCut { uid: "uid-digits".into(), cut: serde_json::from_value(cut).unwrap() }
}

/// A router that reports to `api` and reads nothing from there.
struct Reporting {
    world: World,
    task: JoinHandle<()>,
}

impl Reporting {
    async fn new(api: &Arc<Cluster>, run: u64) -> Self {
        let world = World::new(settings()).await;
        world.serve(digits(run));
        let routes: Api<ModelRoute> = Api::namespaced(api.client(), "team");
        let (keeper, counts) = (Arc::clone(&world.router.keeper), world.router.counts.cut.clone());
        let task = tokio::spawn(report::report(keeper, routes, counts));
        Self { world, task }
    }

    fn cut(&self, cut: KnownCut) {
        self.world.router.keeper.cut([cut], Origin::Own);
    }

    fn is_done(&self) -> bool {
        self.world.router.keeper.unreported().is_empty()
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn status(api: &Cluster) -> Vec<(u64, String, String)> {
    let objects = api.objects.lock().unwrap();
    let cuts = objects[ROUTES]["digits"]["status"]["cuts"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    cuts.iter().map(|cut| (cut["run"].as_u64().unwrap(), text(&cut["revision"]), text(&cut["by"]))).collect()
}

#[tokio::test]
async fn of_several_routers_with_the_same_cut_one_writes() {
    let api = Arc::new(Cluster::default());
    api.store(ROUTES, &digits(2));
    let mut routers = Vec::new();
    for _ in 0..4 {
        routers.push(Reporting::new(&api, 2).await);
    }
    for router in &routers {
        router.cut(cut(2, "digits-b", "first"));
    }
    eventually("all are done", || routers.iter().all(Reporting::is_done)).await;
    assert_eq!(status(&api), [(2, "digits-b".into(), "first".into())]);
    assert_eq!(api.writes.lock().unwrap().0, 1, "written more than once");
}

#[tokio::test]
async fn several_cuts_end_in_their_union_and_older_runs_go() {
    let api = Arc::new(Cluster::default());
    let mut object = serde_json::to_value(digits(2)).unwrap();
    object["status"] = json!({"cuts": [cut(1, "digits-b", "old").cut]});
    api.store(ROUTES, &object);
    let mut routers = Vec::new();
    for (number, revision) in ["digits-a", "digits-b", "digits-c", "digits-d"].into_iter().enumerate() {
        let router = Reporting::new(&api, 2).await;
        router.cut(cut(2, revision, &format!("router-{number}")));
        routers.push(router);
    }
    eventually("all are done", || routers.iter().all(Reporting::is_done)).await;
    let revisions: Vec<_> = status(&api).into_iter().map(|(run, revision, _)| (run, revision)).collect();
    let wanted = ["digits-a", "digits-b", "digits-c", "digits-d"].map(|name| (2, name.to_owned()));
    assert_eq!(revisions, wanted);
    assert_eq!(api.writes.lock().unwrap().0, 4);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_told_when_it_comes_back() {
    let api = Arc::new(Cluster::default());
    *api.away.lock().unwrap() = true;
    api.store(ROUTES, &digits(2));
    let router = Reporting::new(&api, 2).await;
    router.cut(cut(2, "digits-b", "me"));
    assert!(!router.is_done());
    *api.away.lock().unwrap() = false;
    eventually("it is written", || !status(&api).is_empty()).await;
    eventually("it is done", || router.is_done()).await;
    let writes = &router.world.router.counts.cut.status_writes;
    assert_eq!(writes.get_or_create(&OutcomeLabel { outcome: Outcome::Ok }).get(), 1);
}

#[tokio::test]
async fn what_status_says_already_is_not_written() {
    let api = Arc::new(Cluster::default());
    let mut object = serde_json::to_value(digits(2)).unwrap();
    object["status"] = json!({"cuts": [cut(2, "digits-b", "other").cut]});
    api.store(ROUTES, &object);
    let router = Reporting::new(&api, 2).await;
    router.cut(cut(2, "digits-b", "me"));
    eventually("it is done", || router.is_done()).await;
    // An object that is gone, or another one of its name, is no reason to try for ever.
    api.objects.lock().unwrap().clear();
    router.cut(cut(2, "digits-a", "me"));
    eventually("it is done", || router.is_done()).await;
    assert_eq!(*api.writes.lock().unwrap(), (0, 0));
}
