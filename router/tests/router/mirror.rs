//! Copies for shadows: who gets them, what they cost, what the comparison says.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use stoker_api::ModelRoute;
use stoker_api::route::{HeaderMatch, Mirror, RouteRule};
use stoker_edge::listen::Stats;
use stoker_router::forward::Settings;
use stoker_router::metrics;
use stoker_router::shadow::count::{Dropped, ShadowTotals};
use tokio::sync::Semaphore;

use crate::traffic::gated;
use crate::world::{Behaviour, Pod, World, answer, closed_port, eventually, http, settings, table};

/// Stable `digits-a` with all the traffic, and copies for `digits-b`.
fn shadowed(generation: i64, ppm: u32) -> ModelRoute {
    let mut table = table("digits", generation, (3, 1), &[("digits-a", 1_000_000, None)]);
    table.spec.mirrors = vec![Mirror { revision: "digits-b".into(), of: "digits-a".into(), ppm }];
    table
}

fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    // Enough for every test that does not mean to fill it.
    settings.mirror.queue = 4096;
    change(&mut settings);
    settings
}

async fn world(settings: Settings, stable: &Pod, shadow: std::net::SocketAddr) -> World {
    let world = World::new(settings).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[shadow])]);
    world.serve(shadowed(1, 1_000_000));
    world
}

/// What became of the copies for `digits-b`.
fn totals(world: &World) -> ShadowTotals {
    world.router.plane.shadows.totals("digits").remove("digits-b").unwrap_or_default()
}

fn dropped(world: &World, reason: Dropped) -> u64 {
    totals(world).dropped[reason as usize]
}

/// Waits until so many copies have come to their end, comparison included.
async fn settled(world: &World, copies: u64) -> ShadowTotals {
    eventually("all copies have come to their end", || {
        let totals = totals(world);
        totals.dropped.iter().sum::<u64>() + totals.compared + totals.incomparable + totals.skipped == copies
    })
    .await;
    totals(world)
}

async fn ask_all(world: &World, requests: u64) {
    let client = http();
    for number in 0..requests {
        let got = world.infer(&client, format!("{{\"id\": \"{number}\"}}")).await.unwrap();
        assert_eq!((got.status, got.revision()), (200, "digits-a"));
    }
}

/// A behaviour: answers 200 with this text, as JSON.
fn says(text: &'static str) -> Behaviour {
    Arc::new(move |request| {
        Box::pin(async move {
            let _ = request.into_body().collect().await;
            let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
            answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
            answer
        })
    })
}

/// What a pod got.
type Seen = Arc<Mutex<Vec<(Method, HeaderMap, Bytes)>>>;

/// A behaviour: remembers what it gets.
fn remembers(seen: &Seen) -> Behaviour {
    let seen = Arc::clone(seen);
    Arc::new(move |request| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push((parts.method, parts.headers, body));
            Response::new(Full::new(Bytes::from_static(b"{}")))
        })
    })
}

#[tokio::test]
async fn every_inference_is_copied_whole_and_no_read_is() {
    let seen = Seen::default();
    let (stable, shadow) = (Pod::good().await, Pod::with(remembers(&seen)).await);
    let world = world(with(|_| {}), &stable, shadow.address).await;
    ask_all(&world, 50).await;
    for path in ["/v2", "/v2/models/digits", "/v2/models/digits/ready"] {
        assert_eq!(world.get(path, &[("host", "digits"), ("authorization", "me")]).await.status, 200);
    }
    let totals = settled(&world, 50).await;
    assert_eq!((totals.attempts, totals.errors, totals.latency.count()), (50, 0, 50));
    let seen = seen.lock().unwrap();
    let bodies: BTreeMap<Bytes, u32> = seen.iter().map(|(_, _, body)| (body.clone(), 1)).collect();
    assert_eq!((seen.len(), bodies.len()), (50, 50), "each request has one copy");
    assert!(bodies.contains_key(&b"{\"id\": \"49\"}"[..]));
    for (method, headers, _) in &*seen {
        assert_eq!(
            (method, &headers["host"], &headers["stoker-shadow"]),
            (&Method::POST, &"digits".parse().unwrap(), &"true".parse().unwrap())
        );
        assert_eq!(headers["stoker-cache"], "bypass", "a copy has to run the model");
    }

    // Copies are counted apart from requests.
    assert_eq!(world.counted(3, 1, "digits-a"), (53, 0));
    assert_eq!(world.counted(3, 1, "digits-b"), (0, 0));
    let read = world.router.plane.shadows.read("digits");
    assert_eq!((read.len(), read[0].run, read[0].step, read[0].attempts), (1, 3, 1, 50));
}

#[tokio::test]
async fn a_share_is_drawn_without_bias() {
    let (stable, shadow) = (Pod::good().await, Pod::good().await);
    let world = world(with(|_| {}), &stable, shadow.address).await;
    world.serve(shadowed(2, 300_000));
    let total = 2000_u64;
    ask_all(&world, total).await;
    eventually("nothing waits and nothing is under way", || {
        let waiting =
            world.router.plane.revisions()[&("digits".to_owned(), "digits-b".to_owned())].lane.waiting();
        waiting == 0 && world.in_flight("digits-b") == Some(0)
    })
    .await;
    let totals = totals(&world);
    let share = (totals.attempts + totals.dropped.iter().sum::<u64>()) as f64 / total as f64;
    // Five standard deviations of a binomial.
    assert!((share - 0.3).abs() < 5.0 * (0.3 * 0.7 / total as f64).sqrt(), "{share}");
    assert_eq!(shadow.hits(), totals.attempts);
}

#[tokio::test]
async fn only_requests_of_that_arm_by_the_main_rule_are_copied() {
    let (stable, candidate, shadow) = (Pod::good().await, Pod::good().await, Pod::good().await);
    let world = World::new(with(|_| {})).await;
    world.pods(&[
        ("digits-a", &[stable.address]),
        ("digits-b", &[shadow.address]),
        ("digits-c", &[candidate.address]),
    ]);
    let arms = [("digits-a", 500_000, None), ("digits-c", 500_000, Some("digits-a"))];
    let mut table = table("digits", 1, (3, 1), &arms);
    table.spec.mirrors = vec![Mirror { revision: "digits-b".into(), of: "digits-a".into(), ppm: 1_000_000 }];
    let mut arms = table.spec.rules[0].arms.clone();
    (arms[0].ppm, arms[1].ppm) = (1_000_000, 0);
    let tester = HeaderMatch { name: "x-tester".into(), value: "yes".into() };
    table
        .spec
        .rules
        .insert(0, RouteRule { headers: vec![tester], salt: "t".into(), arms, ..RouteRule::default() });
    world.serve(table);
    let client = http();
    for _ in 0..100 {
        world.infer(&client, "{}").await.unwrap();
    }
    let copied = stable.hits();
    assert!(copied > 0 && candidate.hits() > 0);
    for _ in 0..20 {
        let headers = [("host", "digits"), ("x-tester", "yes")];
        let got = world.ask(&client, Method::POST, "/v2/models/digits/infer", &headers, "{}").await.unwrap();
        assert_eq!(got.revision(), "digits-a");
    }
    settled(&world, copied).await;
    assert_eq!((stable.hits(), shadow.hits()), (copied + 20, copied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_hangs_or_is_gone_fails_no_request_and_fills_only_its_queue() {
    let hangs: Behaviour = Arc::new(|_| Box::pin(pending()));
    let hanging = Pod::with(hangs).await;
    for (shadow, timeout) in [(hanging.address, 200), (closed_port().await, 10_000)] {
        let stable = Pod::good().await;
        let bounded = with(|settings| {
            settings.mirror.queue = 16;
            settings.mirror.concurrency = 4;
            settings.mirror.timeout = Duration::from_millis(timeout);
        });
        let world = Arc::new(world(bounded, &stable, shadow).await);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { ask_all(&world, 250).await })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
            let revisions = world.router.plane.revisions();
            let waiting = revisions[&("digits".to_owned(), "digits-b".to_owned())].lane.waiting();
            assert!(waiting <= 16, "{waiting}");
        }
        assert_eq!((stable.hits(), world.counted(3, 1, "digits-a")), (1000, (1000, 0)));
        let totals = settled(&world, 1000).await;
        assert!(totals.attempts > 0 && totals.errors == totals.attempts, "{totals:?}");
        assert_eq!(totals.attempts + totals.dropped[Dropped::QueueFull as usize], 1000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_dies_under_load_fails_no_request() {
    let (stable, shadow) = (Pod::good().await, Pod::good().await);
    let world = Arc::new(world(with(|_| {}), &stable, shadow.address).await);
    ask_all(&world, 100).await;
    eventually("copies come", || totals(&world).attempts > 10).await;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { ask_all(&world, 200).await })
        })
        .collect();
    shadow.kill().await;
    for client in clients {
        client.await.unwrap();
    }
    let totals = settled(&world, 900).await;
    assert!(totals.errors > 0 && totals.errors < totals.attempts, "{totals:?}");
    assert_eq!(world.counted(3, 1, "digits-a"), (900, 0));
}

#[tokio::test]
async fn answers_are_compared() {
    const STABLE: &str = r#"{"model_name": "digits", "model_version": "a", "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 7]},
        {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 1.0]}]}"#;
    const NEAR: &str = r#"{"model_name": "digits", "model_version": "b", "outputs": [
        {"name": "scores", "datatype": "FP16", "shape": [2, 2], "data": [[0.75, 0.25], [0.25, 1]]},
        {"name": "label", "datatype": "INT32", "shape": [2], "data": [3, 7]}]}"#;
    const OTHER: &str = r#"{"model_name": "digits", "model_version": "b", "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 8]},
        {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 1.0]}]}"#;
    const BROKEN: &str = r#"{"outputs": [{"name": "label", "#;
    let stable = Pod::with(says(STABLE)).await;
    // Text, (compared, agreed, incomparable), sum of distances.
    for (text, wanted, distance) in [
        (STABLE, (5, 5, 0), 0.0),
        (NEAR, (5, 5, 0), 5.0 * 0.25),
        (OTHER, (5, 0, 0), 0.0),
        (BROKEN, (0, 0, 5), 0.0),
    ] {
        let shadow = Pod::with(says(text)).await;
        let world = world(with(|_| {}), &stable, shadow.address).await;
        ask_all(&world, 5).await;
        let totals = settled(&world, 5).await;
        assert_eq!((totals.compared, totals.agreed, totals.incomparable), wanted, "{text}");
        assert_eq!((totals.attempts, totals.errors, totals.distance.sum()), (5, 0, distance), "{text}");
    }
}

#[tokio::test]
async fn a_pair_with_a_failure_or_a_long_answer_cannot_be_compared() {
    let long: &'static str = format!(r#"{{"outputs": [], "pad": "{}"}}"#, "x".repeat(5000)).leak();
    let short = r#"{"outputs": []}"#;
    let failing = || answer(StatusCode::NOT_FOUND);
    for (stable, shadow, errors) in [
        (failing(), says(short), 0),
        (says(short), failing(), 3),
        (says(long), says(short), 0),
        (says(short), says(long), 0),
    ] {
        let (stable, shadow) = (Pod::with(stable).await, Pod::with(shadow).await);
        let world =
            world(with(|settings| settings.mirror.longest_answer = 1000), &stable, shadow.address).await;
        let client = http();
        for _ in 0..3 {
            assert!(world.infer(&client, "{}").await.is_some());
        }
        let totals = settled(&world, 3).await;
        assert_eq!((totals.attempts, totals.errors, totals.compared, totals.incomparable), (3, errors, 0, 3));
    }
}

#[tokio::test]
async fn a_request_that_stable_fails_is_copied_all_the_same() {
    let shadow = Pod::good().await;
    let world = World::new(with(|_| {})).await;
    world.pods(&[("digits-a", &[closed_port().await]), ("digits-b", &[shadow.address])]);
    world.serve(shadowed(1, 1_000_000));
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 502);
    let totals = settled(&world, 1).await;
    assert_eq!((totals.attempts, totals.errors, totals.incomparable), (1, 0, 1));
}

#[tokio::test]
async fn copies_are_dropped_first() {
    let (stable, shadow) = (Pod::good().await, Pod::good().await);
    let client = http();

    let short = world(with(|settings| settings.buffer_limit = 100), &stable, shadow.address).await;
    assert_eq!(short.infer(&client, vec![b' '; 1000]).await.unwrap().status, 200);
    assert_eq!(dropped(&short, Dropped::LongBody), 1);

    let little = world(with(|settings| settings.mirror.bytes = 10_000), &stable, shadow.address).await;
    assert_eq!(little.infer(&client, "{}").await.unwrap().status, 200);
    assert_eq!(dropped(&little, Dropped::Memory), 1);

    let alone = world(with(|_| {}), &stable, shadow.address).await;
    alone.pods(&[("digits-a", &[stable.address])]);
    assert_eq!(alone.infer(&client, "{}").await.unwrap().status, 200);
    eventually("it has nowhere to go", || dropped(&alone, Dropped::NoEndpoint) == 1).await;

    let leaving = world(with(|_| {}), &stable, shadow.address).await;
    // Serving follows the drain from its first connection on.
    assert_eq!(leaving.infer(&client, "{}").await.unwrap().status, 200);
    eventually("one copy comes", || totals(&leaving).attempts == 1).await;
    leaving.drain.leave();
    assert_eq!(leaving.infer(&client, "{}").await.unwrap().status, 200);
    assert_eq!(dropped(&leaving, Dropped::Draining), 1);
    assert_eq!(shadow.hits(), 1);
}

#[tokio::test]
async fn what_waits_for_a_shadow_that_left_the_table_is_not_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let (stable, shadow) = (Pod::good().await, Pod::with(gated(&gate)).await);
    let world = world(with(|settings| settings.mirror.concurrency = 1), &stable, shadow.address).await;
    ask_all(&world, 3).await;
    eventually("one is under way", || shadow.hits() == 1).await;
    world.serve(table("digits", 2, (3, 2), &[("digits-a", 1_000_000, None)]));
    // The operator sees that it must leave the pods alone.
    assert_eq!(world.in_flight("digits-b"), Some(1));
    let before = totals(&world);
    assert_eq!((before.attempts, before.dropped.iter().sum::<u64>()), (0, 0));
    gate.add_permits(3);
    let read = || world.router.plane.shadows.read("digits").remove(0);
    eventually("nothing is left of it", || read().dropped == 2 && world.in_flight("digits-b").is_none())
        .await;
    assert_eq!((read().attempts, shadow.hits()), (1, 1));
}

#[tokio::test]
async fn prometheus_reads_what_became_of_copies() {
    let (stable, shadow) =
        (Pod::with(says(r#"{"outputs": []}"#)).await, Pod::with(says(r#"{"outputs": []}"#)).await);
    let world = world(with(|_| {}), &stable, shadow.address).await;
    ask_all(&world, 4).await;
    settled(&world, 4).await;
    let router = &world.router;
    let (data, admin) = (Stats::default(), Stats::default());
    let registry = metrics::registry(&router.counts, &router.plane, &router.keeper, &data, &admin);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"stoker_router_mirrored_total{route="digits",revision="digits-b",outcome="Succeeded"} 4"#,
        r#"stoker_router_mirrored_total{route="digits",revision="digits-b",outcome="Failed"} 0"#,
        r#"stoker_router_mirror_dropped_total{route="digits",revision="digits-b",reason="QueueFull"} 0"#,
        r#"stoker_router_mirror_comparisons_total{route="digits",revision="digits-b",result="Agreed"} 4"#,
        r#"stoker_router_mirror_waiting{route="digits",revision="digits-b"} 0"#,
        r#"stoker_router_mirror_latency_seconds_count{route="digits",revision="digits-b"} 4"#,
        r#"stoker_router_mirror_distance_count{route="digits",revision="digits-b"} 0"#,
        r#"stoker_router_ready_endpoints{route="digits",revision="digits-b"} 1"#,
    ] {
        assert!(text.lines().any(|known| known.starts_with(line)), "{line} is not in:\n{text}");
    }
    // What never was a shadow is in none of these.
    assert!(!text.contains(r#"mirrored_total{route="digits",revision="digits-a""#), "{text}");
}
