//! The way back to a revision that has too few pods: its share grows as the router sees them ready.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use stoker_api::ModelRoute;
use stoker_router::cut::Origin;

use crate::cut::{failing, known_cut, watched};
use crate::world::{Pod, World, http, settings, table};

/// Five pods of stable, and one of the candidate.
struct Refilling {
    world: World,
    stable: Vec<Pod>,
    candidate: Pod,
}

impl Refilling {
    async fn new(candidate: Pod) -> Self {
        let mut stable = Vec::new();
        for _ in 0..5 {
            stable.push(Pod::good().await);
        }
        Self { world: World::new(settings()).await, stable, candidate }
    }

    /// So many pods of stable are ready.
    fn ready(&self, count: usize) {
        let stable: Vec<SocketAddr> = self.stable[..count].iter().map(|pod| pod.address).collect();
        self.world.pods(&[("digits-a", &stable), ("digits-b", &[self.candidate.address])]);
    }

    /// Percent of the traffic that the candidate has.
    fn left(&self) -> u32 {
        let tables = self.world.router.plane.tables();
        let arms = tables.route("digits").unwrap().main_arms();
        assert_eq!(arms.iter().map(|arm| arm.ppm).sum::<u32>(), 1_000_000);
        arms.iter().find(|arm| arm.revision.name == "digits-b").map_or(0, |arm| arm.ppm) / 10_000
    }

    /// Whether any of a hundred requests reaches the candidate. All of them are answered.
    async fn reaches_candidate(&self) -> bool {
        let (client, before) = (http(), self.candidate.hits());
        for _ in 0..100 {
            assert_eq!(self.world.infer(&client, "{}").await.unwrap().status, 200);
        }
        self.candidate.hits() > before
    }
}

/// Half of the traffic for the candidate, and a stable revision that may have too few of its five pods.
fn halved() -> ModelRoute {
    let mut table = watched(1, (1, 1), false);
    table.spec.detectors[0].whole = Some(5);
    table
}

/// The operator's table on the way back.
fn returning(generation: i64, most_ppm: u32) -> ModelRoute {
    let arms = [("digits-a", 1_000_000, None), ("digits-b", 0, Some("digits-a"))];
    let mut table = table("digits", generation, (1, 1), &arms);
    let refill = json!({"from": "digits-b", "whole": 5, "mostPpm": most_ppm});
    table.spec.rules[0].arms[0].refill = Some(serde_json::from_value(refill).unwrap());
    table
}

#[tokio::test]
async fn a_cut_moves_what_ready_pods_can_take_and_the_rest_as_they_come() {
    let way = Refilling::new(Pod::good().await).await;
    way.ready(3);
    way.world.serve(halved());
    assert_eq!(way.left(), 50);
    way.world.router.keeper.cut([known_cut(1, "digits-b")], Origin::Peer);
    assert_eq!(way.left(), 40);
    assert!(way.reaches_candidate().await, "what is left to it is served");
    way.ready(4);
    assert_eq!(way.left(), 20);
    // The operator's table says the same.
    way.world.serve(returning(2, 500_000));
    assert_eq!(way.left(), 20);
    way.ready(5);
    assert_eq!(way.left(), 0);
    assert!(!way.reaches_candidate().await);
}

#[tokio::test]
async fn a_cut_gives_the_candidate_no_more_than_it_had() {
    let way = Refilling::new(Pod::good().await).await;
    way.ready(1);
    way.world.serve(halved());
    way.world.router.keeper.cut([known_cut(1, "digits-b")], Origin::Peer);
    assert_eq!(way.left(), 50);
    // Nobody else is there at all.
    way.ready(0);
    assert_eq!(way.left(), 50);
}

#[tokio::test]
async fn a_cut_moves_everything_where_harm_exceeds_overload() {
    let way = Refilling::new(Pod::good().await).await;
    way.ready(3);
    way.world.serve(halved());
    let mut told = known_cut(1, "digits-b");
    told.cut.bad_ppm = Some(700_000);
    way.world.router.keeper.cut([told], Origin::Status);
    assert_eq!(way.left(), 0);
    assert!(!way.reaches_candidate().await);
}

#[tokio::test]
async fn without_the_number_of_pods_a_cut_moves_everything() {
    let way = Refilling::new(Pod::good().await).await;
    way.ready(1);
    way.world.serve(watched(1, (1, 1), false));
    way.world.router.keeper.cut([known_cut(1, "digits-b")], Origin::Peer);
    assert_eq!(way.left(), 0);
}

#[tokio::test]
async fn a_table_on_the_way_back_follows_the_pods() {
    let way = Refilling::new(Pod::good().await).await;
    way.ready(2);
    way.world.serve(returning(1, 1_000_000));
    assert_eq!(way.left(), 60);
    for (count, left) in [(3, 40), (4, 20), (3, 40), (5, 0)] {
        way.ready(count);
        assert_eq!(way.left(), left, "{count} pods");
    }
    assert!(!way.reaches_candidate().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_cuts_says_how_much_harm_it_saw() {
    let way = Refilling::new(Pod::with(failing(3)).await).await;
    way.ready(3);
    way.world.serve(halved());
    let router = Arc::clone(&way.world.router);
    let task = tokio::spawn(async move { router.detect(None).await });
    let client = http();
    for _ in 0..20_000 {
        if !way.world.router.keeper.cuts("digits").is_empty() {
            break;
        }
        way.world.infer(&client, "{}").await.unwrap();
    }
    task.abort();
    let cuts = way.world.router.keeper.cuts("digits");
    let bad = cuts[0].bad_ppm.unwrap();
    assert!((100_000..600_000).contains(&bad), "{bad}");
    assert_eq!(way.left(), 40);
    way.ready(4);
    assert_eq!(way.left(), 0, "from four of five pods on nothing is overloaded");
}
