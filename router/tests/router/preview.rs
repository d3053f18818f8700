//! The address of a candidate that has no other traffic.

use http::Method;
use stoker_api::ModelRoute;
use stoker_api::route::{Arm, RouteRule};

use crate::world::{Got, Http, Pod, World, http, settings, table};

const INFER: &str = "/v2/models/digits/infer";

/// `digits-a` serves, and `digits-b` has its preview where there is one.
fn previewing(generation: i64, is_tried: bool) -> ModelRoute {
    let mut table = table("digits", generation, (2, 1), &[("digits-a", 1_000_000, None)]);
    table.spec.preview = true;
    let arm = Arm { revision: "digits-b".into(), ppm: 1_000_000, fallback: None, refill: None };
    let rule = RouteRule { preview: true, arms: vec![arm], ..RouteRule::default() };
    table.spec.rules.splice(0..0, is_tried.then_some(rule));
    table
}

async fn ask(world: &World, client: &Http, headers: &[(&str, &str)]) -> Got {
    world.ask(client, Method::POST, INFER, headers, "{}").await.unwrap()
}

#[tokio::test]
async fn the_preview_is_answered_by_the_candidate_alone_and_is_neither_evidence_nor_demand() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(previewing(1, true));
    let client = http();
    let doors = [
        [("host", "digits-preview"), ("x-a", "b")],
        [("host", "digits-preview.team"), ("x-a", "b")],
        [("host", "Digits-Preview.team.svc.cluster.local:80"), ("x-a", "b")],
        // As behind `kubectl port-forward`.
        [("host", "localhost:8080"), ("stoker-model", "digits-preview")],
    ];
    for headers in &doors {
        let got = ask(&world, &client, headers).await;
        assert_eq!((got.status, got.revision()), (200, "digits-b"), "{headers:?}");
    }
    assert_eq!((stable.hits(), candidate.hits()), (0, 4));
    for headers in [[("host", "digits"), ("x-a", "b")], [("host", "x"), ("stoker-model", "digits")]] {
        assert_eq!(ask(&world, &client, &headers).await.revision(), "digits-a");
    }
    let counts = world.router.plane.ledger.read("digits");
    assert!(counts.iter().all(|arm| arm.revision != "digits-b" || arm.attempts == 0), "{counts:?}");
    assert_eq!(world.router.plane.demand("digits").offered, 2);
}

#[tokio::test]
async fn without_a_candidate_the_preview_says_so_and_stable_does_not_stand_in() {
    let stable = Pod::good().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address])]);
    world.serve(previewing(1, false));
    let got = ask(&world, &http(), &[("host", "digits-preview")]).await;
    assert_eq!((got.status, stable.hits()), (503, 0));
    assert!(got.error().contains("digits has no candidate to preview"), "{}", got.error());
    assert_eq!(got.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_model_of_that_very_name_keeps_its_own_address() {
    let (stable, other) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-preview-a", &[other.address])]);
    world.serve(previewing(1, false));
    world.serve(table("digits-preview", 1, (1, 0), &[("digits-preview-a", 1_000_000, None)]));
    let got = world
        .ask(&http(), Method::POST, "/v2/models/digits-preview/infer", &[("host", "digits-preview")], "{}")
        .await
        .unwrap();
    assert_eq!((got.status, got.revision()), (200, "digits-preview-a"));
}
