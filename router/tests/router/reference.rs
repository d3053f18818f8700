//! The reference of metrics in the docs is what a router registers.

use std::path::Path;
use std::sync::Arc;

use stoker_api::route::Mirror;
use stoker_edge::listen::Stats;
use stoker_edge::process::Process;
use stoker_edge::reference::Reference;
use stoker_router::cut::Origin;
use stoker_router::cut::metrics::{Harm, Outcome};
use stoker_router::cut::suspect::Withheld;
use stoker_router::metrics::{self, Refusal, Watched};

use crate::cut::watched;
use crate::world::{Pod, World, eventually, http, settings};

/// Counts something in each family: one without a series is not exposed, and its labels are not known.
async fn fill(world: &World) {
    let counts = &world.router.counts;
    counts.refused(Refusal::NoRoute);
    counts.woke(Outcome::Ok);
    counts.watch_failed(Watched::Routes);
    counts.cut.cut(Origin::Own);
    counts.cut.withheld(Withheld::Observe);
    counts.cut.exchanged(Outcome::Ok);
    counts.cut.wrote(Outcome::Ok);
    let client = http();
    for _ in 0..20 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    eventually("copies were sent, and the candidate is watched", || {
        let copies = world.router.plane.shadows.totals("digits").remove("digits-c");
        copies.is_some_and(|copies| copies.attempts > 0) && !world.router.detectors.suspicions().is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_reference_of_metrics_is_what_a_router_registers() {
    let (stable, candidate, shadow) = (Pod::good().await, Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[
        ("digits-a", &[stable.address]),
        ("digits-b", &[candidate.address]),
        ("digits-c", &[shadow.address]),
    ]);
    let mut table = watched(1, (1, 1), false);
    table.spec.mirrors = vec![Mirror { revision: "digits-c".into(), of: "digits-a".into(), ppm: 1_000_000 }];
    world.serve(table.clone());
    // What came from the API server has an age, as well.
    world.router.keeper.listed([table]);
    let router = Arc::clone(&world.router);
    let detecting = tokio::spawn(async move { router.detect(None).await });
    fill(&world).await;
    detecting.abort();

    let router = &world.router;
    let (data, admin) = (Stats::default(), Stats::default());
    let mut registry = metrics::registry(&router.counts, &router.plane, &router.keeper, &data, &admin);
    Reference::of(&registry).is_whole(&registry).unwrap();
    registry.register_collector(Box::new(Harm(Arc::clone(&router.detectors))));
    registry.register_collector(Box::new(Process));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics/router.md");
    Reference::of(&registry).check(&page).unwrap();
}
