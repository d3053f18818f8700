//! The watches against an API server of this process: away, back, forgetful, restored.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::core::DeserializeGuard;
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_router::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ROUTES, SLICES};
use crate::world::{Pod, World, eventually, http, settings, slices, table};

/// A router that follows the API server.
struct Following {
    world: World,
    api: Arc<Cluster>,
    tasks: Vec<JoinHandle<()>>,
}

impl Following {
    async fn new(api: Cluster) -> Self {
        let (world, api) = (World::new(settings()).await, Arc::new(api));
        let (routes, slices): (Api<DeserializeGuard<ModelRoute>>, Api<EndpointSlice>) =
            (Api::namespaced(api.client(), "team"), Api::namespaced(api.client(), "team"));
        let (keeper, counts) = (&world.router.keeper, &world.router.counts);
        let lookup = watch::lookup(routes.clone());
        let tasks = vec![
            tokio::spawn(watch::routes(routes, Arc::clone(keeper), lookup, counts.clone())),
            tokio::spawn(watch::slices(slices, Arc::clone(keeper), counts.clone())),
        ];
        Self { world, api, tasks }
    }

    fn generation(&self) -> Option<i64> {
        self.world.router.plane.tables().route("digits").map(|route| route.version.generation)
    }

    async fn serves(&self, generation: Option<i64>) {
        eventually(&format!("generation {generation:?}"), || self.generation() == generation).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn digits(generation: i64) -> ModelRoute {
    table("digits", generation, (1, 0), &[("digits-a", 1_000_000, None)])
}

#[tokio::test]
async fn tables_and_pods_are_followed() {
    let pod = Pod::good().await;
    let following = Following::new(Cluster::default()).await;
    let (world, api) = (&following.world, &following.api);
    eventually("both are watched", || api.watched() == 2).await;
    assert_eq!(world.router.keeper.readiness(), Ok(()));
    let added = api.store(ROUTES, &digits(1));
    api.event(ROUTES, "ADDED", &added);
    following.serves(Some(1)).await;
    let slice = api.store(SLICES, &slices(&[("digits-a", &[pod.address])])[0]);
    api.event(SLICES, "ADDED", &slice);
    eventually("the pod is known", || world.router.plane.arms("digits")[0].ready_endpoints == 1).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);
    api.event(SLICES, "DELETED", &slice);
    eventually("the pod is gone", || world.router.plane.arms("digits")[0].ready_endpoints == 0).await;
    api.event(ROUTES, "DELETED", &added);
    following.serves(None).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_at_first_is_found_when_it_comes() {
    let api = Cluster { away: Mutex::new(true), ..Cluster::default() };
    api.store(ROUTES, &digits(3));
    let following = Following::new(api).await;
    let errors = || following.world.router.counts.watch_errors.clone();
    eventually("failed reads", || {
        let label = stoker_router::metrics::WatchLabel { what: stoker_router::metrics::Watched::Routes };
        errors().get_or_create(&label).get() >= 2
    })
    .await;
    assert!(following.world.router.keeper.readiness().is_err());
    *following.api.away.lock().unwrap() = false;
    following.serves(Some(3)).await;
    eventually("ready", || following.world.router.keeper.readiness().is_ok()).await;

    // Away again: what is served stays. Back again: what was missed is listed.
    *following.api.away.lock().unwrap() = true;
    following.api.watches.lock().unwrap().clear();
    following.api.store(ROUTES, &digits(4));
    let lists = *following.api.lists.lock().unwrap();
    assert_eq!(following.generation(), Some(3));
    *following.api.away.lock().unwrap() = false;
    eventually("watched again", || following.api.watched() == 2).await;
    // A watch that was cut goes on where it was, and this server tells it of nothing: the table comes with an event.
    let object = following.api.store(ROUTES, &digits(4));
    following.api.event(ROUTES, "MODIFIED", &object);
    following.serves(Some(4)).await;
    assert!(*following.api.lists.lock().unwrap() >= lists);
}

#[tokio::test]
async fn what_was_missed_is_listed_anew() {
    let following = Following::new(Cluster::default()).await;
    let api = &following.api;
    eventually("both are watched", || api.watched() == 2).await;
    api.store(ROUTES, &digits(7));
    api.forget();
    following.serves(Some(7)).await;
}

#[tokio::test]
async fn a_lower_generation_is_believed_only_when_the_api_server_has_it() {
    let following = Following::new(Cluster::default()).await;
    let (world, api) = (&following.world, &following.api);
    eventually("both are watched", || api.watched() == 2).await;
    let newest = api.store(ROUTES, &digits(9));
    api.event(ROUTES, "ADDED", &newest);
    following.serves(Some(9)).await;
    // A stale event: a live read still has 9. A newer one behind it shows that it was looked at.
    let mut stale = newest.clone();
    stale["metadata"]["generation"] = json!(8);
    api.event(ROUTES, "MODIFIED", &stale);
    let newer = api.store(ROUTES, &digits(10));
    api.event(ROUTES, "MODIFIED", &newer);
    following.serves(Some(10)).await;
    assert_eq!(world.router.counts.regressions.get(), 0);
    // The cluster was restored: the live read has the lower one as well.
    let restored = api.store(ROUTES, &digits(2));
    api.event(ROUTES, "MODIFIED", &restored);
    following.serves(Some(2)).await;
    assert_eq!(world.router.counts.regressions.get(), 1);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_holds_up_no_other() {
    let following = Following::new(Cluster::default()).await;
    let api = &following.api;
    eventually("both are watched", || api.watched() == 2).await;
    let mut broken = serde_json::to_value(digits(1)).unwrap();
    broken["metadata"]["name"] = json!("broken");
    broken["spec"]["run"] = json!("not a number");
    api.store(ROUTES, &broken);
    let good = api.store(ROUTES, &digits(2));
    api.event(ROUTES, "ADDED", &broken);
    api.event(ROUTES, "ADDED", &good);
    following.serves(Some(2)).await;
    assert!(following.world.router.keeper.refusal("broken").is_some_and(|why| why.contains("cannot read")));
    // Nor does it in a list.
    api.store(ROUTES, &digits(3));
    api.forget();
    following.serves(Some(3)).await;
}
