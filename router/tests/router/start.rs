//! Starting without the API server.

use std::sync::Arc;

use stoker_router::run::Router;
use stoker_router::table::disk;

use crate::world::{Pod, World, http, settings, slices, table};

#[tokio::test]
async fn a_router_starts_from_its_disk() {
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::good().await);
    let first = World::with_pods(settings(), &[pod.address]).await;
    disk::save(folder.path(), &first.router.keeper.to_save()).unwrap();
    drop(first);

    let router = Arc::new(Router::new("team", settings(), 100));
    assert!(router.keeper.readiness().is_err());
    router.restore(folder.path());
    assert_eq!(router.keeper.readiness(), Ok(()));
    let world = World::around(router).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);

    // The API server comes back, and knows a later table.
    assert!(
        world
            .router
            .keeper
            .listed(vec![table("digits", 4, (2, 0), &[("digits-a", 1_000_000, None)])])
            .is_empty()
    );
    world.router.keeper.slices_listed(&slices(&[("digits-a", &[pod.address])]));
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);
    assert_eq!(world.counted(2, 0, "digits-a"), (1, 0));
}

#[tokio::test]
async fn changes_are_saved_by_themselves() {
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::good().await);
    let world = World::with_pods(settings(), &[pod.address]).await;
    let (router, path) = (Arc::clone(&world.router), folder.path().to_owned());
    let saving = tokio::spawn(async move { router.save(path).await });
    crate::world::eventually("the tables are on disk", || {
        matches!(disk::load(folder.path(), "team"), Ok(Some(saved)) if saved == world.router.keeper.to_save())
    })
    .await;
    saving.abort();
}

#[tokio::test]
async fn a_corrupt_file_is_refused_and_the_router_starts_without_it() {
    let (folder, pod) = (tempfile::tempdir().unwrap(), Pod::good().await);
    let first = World::with_pods(settings(), &[pod.address]).await;
    disk::save(folder.path(), &first.router.keeper.to_save()).unwrap();
    let file = folder.path().join("tables");
    let mut content = std::fs::read(&file).unwrap();
    let last = content.len() - 10;
    content[last] ^= 1;
    std::fs::write(&file, content).unwrap();

    let router = Arc::new(Router::new("team", settings(), 100));
    router.restore(folder.path());
    assert!(router.keeper.readiness().is_err());
    let world = World::around(router).await;
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!((got.status, got.headers["retry-after"].to_str().unwrap()), (503, "1"));
    world.serve(table("digits", 1, (1, 0), &[("digits-a", 1_000_000, None)]));
    world.pods(&[("digits-a", &[pod.address])]);
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);
}
