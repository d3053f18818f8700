//! What comes for a model is counted whatever becomes of it, and a model that sleeps is called for.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use kube::Api;
use stoker_api::ModelRoute;
use stoker_api::scrape::RevisionDemand;
use stoker_router::cut::metrics::{Outcome, OutcomeLabel};
use stoker_router::wake;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ROUTES};
use crate::world::{Pod, World, answer, eventually, http, settings, table};

/// A table of `digits` in its `sleep`th sleep.
fn asleep(generation: i64, sleep: u64) -> ModelRoute {
    let mut table = table("digits", generation, (1, 0), &[("digits-a", 1_000_000, None)]);
    table.spec.asleep = Some(sleep);
    table
}

/// A router whose model sleeps, and which calls by `api`.
struct Sleeping {
    world: Arc<World>,
    task: JoinHandle<()>,
}

impl Sleeping {
    async fn new(api: &Arc<Cluster>, sleep: u64) -> Self {
        let world = Arc::new(World::new(settings()).await);
        world.pods(&[("digits-a", &[])]);
        world.serve(asleep(1, sleep));
        let routes: Api<ModelRoute> = Api::namespaced(api.client(), "team");
        let (plane, counts) = (Arc::clone(&world.router.plane), world.router.counts.clone());
        let task = tokio::spawn(wake::report(plane, routes, counts));
        Self { world, task }
    }

    fn asks(&self) -> JoinHandle<u16> {
        let world = Arc::clone(&self.world);
        tokio::spawn(async move { world.infer(&http(), "{}").await.unwrap().status })
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn called(api: &Cluster) -> Option<u64> {
    api.objects.lock().unwrap()[ROUTES]["digits"]["status"]["wake"].as_u64()
}

#[tokio::test]
async fn a_request_for_a_model_that_sleeps_calls_once_and_waits_longer_than_others() {
    let api = Arc::new(Cluster::default());
    api.store(ROUTES, &asleep(1, 7));
    let sleeping = Sleeping::new(&api, 7).await;
    let asked: Vec<_> = (0..3).map(|_| sleeping.asks()).collect();
    eventually("it is called for", || called(&api) == Some(7)).await;
    // Longer than the 300 ms after which others give up.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(sleeping.world.router.plane.demand("digits").held, 3);
    let pod = Pod::good().await;
    sleeping.world.pods(&[("digits-a", &[pod.address])]);
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let demand = sleeping.world.router.plane.demand("digits");
    assert_eq!((demand.offered, demand.held), (3, 0));
    assert_eq!(api.writes.lock().unwrap().0, 1, "called more than once");
}

#[tokio::test]
async fn a_later_sleep_is_called_for_again_and_so_is_one_that_could_not_be_written() {
    let api = Arc::new(Cluster::default());
    api.store(ROUTES, &asleep(1, 1));
    *api.away.lock().unwrap() = true;
    let sleeping = Sleeping::new(&api, 1).await;
    let first = sleeping.asks();
    let woke = |outcome| sleeping.world.router.counts.wakes.get_or_create(&OutcomeLabel { outcome }).get();
    eventually("it cannot be written", || woke(Outcome::Failed) > 0).await;
    *api.away.lock().unwrap() = false;
    eventually("it is written", || called(&api) == Some(1)).await;
    sleeping.world.serve(asleep(2, 2));
    eventually("the one that waits calls for the next sleep as well", || called(&api) == Some(2)).await;
    first.abort();
}

#[tokio::test]
async fn refusals_are_told_from_other_errors_and_held_requests_count_as_demand() {
    let demand = |world: &World| {
        let demand = world.router.plane.demand("digits");
        (demand.offered, demand.revisions.into_iter().next().unwrap_or_default())
    };
    for (status, answered, overloaded, measured) in [
        (StatusCode::OK, 1, 0, 1),
        (StatusCode::BAD_REQUEST, 1, 0, 0),
        (StatusCode::INTERNAL_SERVER_ERROR, 1, 0, 0),
        (StatusCode::SERVICE_UNAVAILABLE, 0, 1, 0),
        (StatusCode::TOO_MANY_REQUESTS, 0, 1, 0),
        (StatusCode::GATEWAY_TIMEOUT, 0, 1, 0),
    ] {
        let pod = Pod::with(answer(status)).await;
        let world = World::with_pods(settings(), &[pod.address]).await;
        assert_eq!(world.infer(&http(), "{}").await.unwrap().status, status.as_u16());
        eventually("it is counted", || world.counted(1, 0, "digits-a").0 == 1).await;
        let (offered, RevisionDemand { answered: a, overloaded: o, latency, .. }) = demand(&world);
        assert_eq!((offered, a, o, latency.count()), (1, answered, overloaded, measured), "{status}");
        // The evidence knows nothing of that.
        let errors = u64::from(!status.is_success());
        assert_eq!(world.counted(1, 0, "digits-a"), (1, errors));
    }
    // Without a pod a request is refused in the end, and was asked for all the same.
    let world = World::with_pods(settings(), &[]).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 503);
    assert_eq!(demand(&world).0, 1);
}

#[tokio::test]
async fn a_pod_that_does_not_answer_in_time_is_overloaded_and_the_next_table_goes_on_counting() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let stuck = {
        let gate = Arc::clone(&gate);
        Pod::with(Arc::new(move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                http::Response::new(http_body_util::Full::default())
            })
        }))
        .await
    };
    let mut hasty = settings();
    hasty.request_timeout = Duration::from_millis(100);
    let world = World::with_pods(hasty, &[stuck.address]).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 504);
    world.serve(table("digits", 2, (2, 0), &[("digits-a", 1_000_000, None)]));
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 504);
    let demand = world.router.plane.demand("digits");
    assert_eq!((demand.offered, demand.revisions[0].overloaded, demand.revisions[0].answered), (2, 2, 0));
}
