//! Who gets which request, and how it is counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use stoker_edge::listen::Stats;
use stoker_router::metrics;
use tokio::sync::Semaphore;

use crate::world::{Behaviour, Pod, World, answer, echo_headers, eventually, http, settings, table};

/// A behaviour: answers once the gate has a permit.
pub fn gated(gate: &Arc<Semaphore>) -> Behaviour {
    let gate = Arc::clone(gate);
    Arc::new(move |_request| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Response::new(Full::new(Bytes::from("late")))
        })
    })
}

#[tokio::test]
async fn requests_are_split_by_weight_and_counted_by_run_and_step() {
    let (stable, candidate) = (Pod::good().await, Pod::with(answer(StatusCode::NOT_FOUND)).await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    let split = [("digits-a", 900_000, None), ("digits-b", 100_000, Some("digits-a"))];
    world.serve(table("digits", 1, (7, 1), &split));
    let client = http();
    let total = 2000_u64;
    for _ in 0..total {
        let got = world.infer(&client, "{}").await.unwrap();
        let (status, revision) = (got.status, got.revision());
        assert!(
            matches!((status, revision), (200, "digits-a") | (404, "digits-b")),
            "{status} from {revision}"
        );
    }
    let (attempts, errors) = world.counted(7, 1, "digits-b");
    assert_eq!((attempts, errors), (candidate.hits(), candidate.hits()));
    assert_eq!(world.counted(7, 1, "digits-a"), (stable.hits(), 0));
    assert_eq!(stable.hits() + candidate.hits(), total);
    // Five standard deviations of a binomial.
    let tolerance = 5.0 * (0.1 * 0.9 / total as f64).sqrt();
    let share = candidate.hits() as f64 / total as f64;
    assert!((share - 0.1).abs() < tolerance, "the candidate got {share}");

    // Another step, another count.
    let attempts = |step| world.counted(7, step, "digits-a").0 + world.counted(7, step, "digits-b").0;
    world.serve(table("digits", 2, (7, 2), &split));
    world.infer(&client, "{}").await.unwrap();
    assert_eq!((attempts(1), attempts(2)), (total, 1));
}

#[tokio::test]
async fn latencies_of_successes_are_recorded() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = http();
    for _ in 0..10 {
        world.infer(&client, "{}").await.unwrap();
    }
    let counts = world.router.plane.ledger.read("digits");
    assert_eq!((counts[0].attempts, counts[0].latency.count()), (10, 10));
    assert!(counts[0].latency.quantile(0.5).unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn hosts_headers_and_paths_name_the_model() {
    let pod = Pod::with(echo_headers()).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let tables =
        ["digits", "other"].map(|name| table(name, 1, (1, 0), &[(&format!("{name}-a"), 1_000_000, None)]));
    assert!(world.router.keeper.listed(tables.to_vec()).is_empty());
    let ready = "/v2/health/ready";
    for host in
        ["digits", "DIGITS:8080", "digits.team", "digits.team.svc.cluster.local", "digits.example.com"]
    {
        assert_eq!(world.get(ready, &[("host", host)]).await.status, 200, "{host}");
    }
    assert_eq!(world.get(ready, &[("host", "127.0.0.1"), ("stoker-model", "digits")]).await.status, 200);
    assert_eq!(world.get("/v2/models/digits/ready", &[("host", "localhost")]).await.status, 200);

    for host in ["unknown", "digits.elsewhere", "digits.elsewhere.svc.cluster.local"] {
        let got = world.get(ready, &[("host", host)]).await;
        assert_eq!(got.status, 404, "{host}");
        assert!(got.error().contains("digits, other"), "{}", got.error());
    }
    let got = world.get("/v2/models/digits/load", &[("host", "digits")]).await;
    assert_eq!(got.status, 404);
    assert!(got.error().contains("/infer"), "{}", got.error());
    let got = world.get("/v2/models/digits/infer", &[("host", "digits")]).await;
    assert_eq!((got.status, got.headers["allow"].to_str().unwrap()), (405, "POST"));
}

#[tokio::test]
async fn the_routers_own_headers_are_stripped_on_both_ways() {
    let pod = Pod::with(echo_headers()).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let sent = [
        ("host", "digits"),
        ("stoker-model", "digits"),
        ("Stoker-Revision", "x"),
        ("te", "trailers"),
        ("authorization", "kept"),
    ];
    let got = world.get("/v2", &sent).await;
    let seen: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    let seen: Vec<_> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(seen, ["authorization", "host"]);
    assert_eq!(got.revision(), "digits-a");
    assert_eq!(got.headers.get_all("stoker-revision").iter().count(), 1);
    assert!(!got.headers.contains_key("stoker-secret"));
    assert!(got.headers.contains_key("x-kept"));
}

#[tokio::test]
async fn an_arm_without_pods_yields_to_its_fallback_but_never_the_other_way() {
    let stable = Pod::good().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address])]);
    world.serve(table(
        "digits",
        1,
        (1, 1),
        &[("digits-a", 0, None), ("digits-b", 1_000_000, Some("digits-a"))],
    ));
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!((got.status, got.revision()), (200, "digits-a"));
    assert_eq!(world.counted(1, 1, "digits-a"), (1, 0));
    assert_eq!(world.counted(1, 1, "digits-b"), (0, 0));

    // Stable has no fallback: its requests do not go to the candidate.
    world.pods(&[("digits-b", &[stable.address])]);
    world.serve(table(
        "digits",
        2,
        (1, 2),
        &[("digits-a", 1_000_000, None), ("digits-b", 0, Some("digits-a"))],
    ));
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 503);
}

#[tokio::test]
async fn a_request_without_a_pod_is_held_until_one_comes_or_told_to_come_again() {
    let pod = Pod::good().await;
    let world = Arc::new(World::with_pods(settings(), &[]).await);
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!((got.status, got.headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));

    let mut patient = settings();
    patient.hold = Duration::from_secs(10);
    let world = Arc::new(World::with_pods(patient, &[]).await);
    let held = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.infer(&http(), "{}").await.unwrap().status }
    });
    eventually("the request is held", || world.router.counts.held.get() == 1).await;
    world.pods(&[("digits-a", &[pod.address])]);
    assert_eq!(held.await.unwrap(), 200);
    assert_eq!(world.router.counts.held.get(), 0);
}

#[tokio::test]
async fn the_queue_of_held_requests_is_bounded() {
    let mut patient = settings();
    (patient.hold, patient.hold_queue) = (Duration::from_secs(10), 3);
    let world = Arc::new(World::with_pods(patient, &[]).await);
    for _ in 0..3 {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.infer(&http(), "{}").await });
    }
    eventually("three are held", || world.router.counts.held.get() == 3).await;
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!(got.status, 503);
    assert!(got.error().contains("too many"), "{}", got.error());
}

#[tokio::test]
async fn requests_in_flight_to_a_revision_that_left_the_table_are_seen() {
    let gate = Arc::new(Semaphore::new(0));
    let (slow, next) = (Pod::with(gated(&gate)).await, Pod::good().await);
    let world = Arc::new(World::with_pods(settings(), &[slow.address]).await);
    let asked = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.infer(&http(), "{}").await.unwrap() }
    });
    eventually("the request is at the pod", || slow.hits() == 1).await;
    assert_eq!(world.in_flight("digits-a"), Some(1));
    world.pods(&[("digits-b", &[next.address])]);
    world.serve(table("digits", 2, (2, 0), &[("digits-b", 1_000_000, None)]));
    assert_eq!(world.in_flight("digits-a"), Some(1));
    assert_eq!(world.in_flight("digits-b"), Some(0));
    assert_eq!(world.infer(&http(), "{}").await.unwrap().revision(), "digits-b");
    gate.add_permits(1);
    assert_eq!(asked.await.unwrap().revision(), "digits-a");
    eventually("nothing is in flight", || world.in_flight("digits-a").is_none()).await;
    // Counted under the table that it was assigned by.
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 0));
}

#[tokio::test]
async fn the_least_loaded_pod_is_taken() {
    let gate = Arc::new(Semaphore::new(0));
    let (stuck, free) = (Pod::with(gated(&gate)).await, Pod::good().await);
    let world = Arc::new(World::with_pods(settings(), &[stuck.address, free.address]).await);
    let mut first = Vec::new();
    for _ in 0..2 {
        let world = Arc::clone(&world);
        first.push(tokio::spawn(async move { world.infer(&http(), "{}").await.unwrap() }));
    }
    eventually("one is stuck", || stuck.hits() == 1).await;
    let client = http();
    for _ in 0..20 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    assert_eq!(stuck.hits(), 1);
    gate.add_permits(1);
    for asked in first {
        assert_eq!(asked.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn answers_without_a_body_and_large_ones_pass() {
    let large: Behaviour = Arc::new(|request| {
        Box::pin(async move {
            let size = if request.uri().path() == "/v2" { 3 << 20 } else { 0 };
            let mut answer = Response::new(Full::new(Bytes::from(vec![7_u8; size])));
            if size == 0 {
                *answer.status_mut() = StatusCode::NO_CONTENT;
            }
            answer
        })
    });
    let pod = Pod::with(large).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = http();
    for _ in 0..3 {
        let got = world.ask(&client, Method::GET, "/v2", &[("host", "digits")], "").await.unwrap();
        assert_eq!((got.status, got.body.len()), (200, 3 << 20));
        let got =
            world.ask(&client, Method::GET, "/v2/health/live", &[("host", "digits")], "").await.unwrap();
        assert_eq!((got.status, got.body.len()), (204, 0));
    }
    assert_eq!(world.counted(1, 0, "digits-a"), (6, 0));
}

#[tokio::test]
async fn prometheus_reads_routes_and_refusals_with_labels_from_tables_alone() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let mut table = table("digits", 2, (1, 0), &[("digits-a", 1_000_000, None)]);
    table.spec.latency_target_ms = Some(9_876);
    world.serve(table.clone());
    world.router.keeper.listed([table]);
    world.infer(&http(), "{}").await.unwrap();
    world.get("/v2", &[("host", "made-up-by-a-stranger")]).await;
    let router = &world.router;
    let (data, admin) = (Stats::default(), Stats::default());
    let registry = metrics::registry(&router.counts, &router.plane, &router.keeper, &data, &admin);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"stoker_router_requests_total{route="digits",revision="digits-a",code="2xx"} 1"#,
        r#"stoker_router_attempts_total{route="digits",revision="digits-a"} 1"#,
        r#"stoker_router_errors_total{route="digits",revision="digits-a"} 0"#,
        r#"stoker_router_latency_seconds_count{route="digits",revision="digits-a"} 1"#,
        // The target is a bound of its own.
        r#"stoker_router_latency_seconds_bucket{le="9.876",route="digits",revision="digits-a"} 1"#,
        r#"stoker_router_in_flight{route="digits",revision="digits-a"} 0"#,
        r#"stoker_router_ready_endpoints{route="digits",revision="digits-a"} 1"#,
        r#"stoker_router_table_generation{route="digits"} 2"#,
        r#"stoker_router_refusals_total{reason="NoRoute"} 1"#,
        "stoker_router_data_connections_open 0",
    ] {
        assert!(text.lines().any(|known| known.starts_with(line)), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("stranger"), "{text}");
}

#[tokio::test]
async fn pods_are_told_the_latency_target_by_the_table_and_by_nobody_else() {
    let pod = Pod::with(echo_headers()).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let seen = async |world: &World| {
        let forged = [("host", "digits"), ("stoker-latency-target", "1")];
        let got = world.ask(&http(), Method::POST, "/v2/models/digits/infer", &forged, "{}").await.unwrap();
        let headers: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        headers["stoker-latency-target"].clone()
    };
    assert_eq!(seen(&world).await, serde_json::Value::Null);

    let mut with_target = table("digits", 2, (1, 0), &[("digits-a", 1_000_000, None)]);
    with_target.spec.latency_target_ms = Some(250);
    world.serve(with_target);
    assert_eq!(seen(&world).await, "250");

    world.serve(table("digits", 3, (1, 0), &[("digits-a", 1_000_000, None)]));
    assert_eq!(seen(&world).await, serde_json::Value::Null);
}
