//! The latency target: what cannot be answered within it is refused at once.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use crate::started::{Started, digits, request};

/// Requests of one row, and of as many that a run of them takes more than a millisecond on any machine.
fn bodies() -> (String, String) {
    let images = digits().images;
    let many: Vec<_> = images.iter().cycle().take(5000).cloned().collect();
    (request(&images[..1]).to_string(), request(&many).to_string())
}

/// Asks, in the name of the router where it says a target. Gives the status, the seconds to wait and the text.
async fn ask(server: &Started, body: &str, target: Option<&str>) -> (StatusCode, Option<u64>, String) {
    let mut asked = server.client.post(server.url("/v2/models/digits/infer")).body(body.to_owned());
    if let Some(target) = target {
        asked = asked.header("stoker-latency-target", target);
    }
    let answer = asked.send().await.unwrap();
    let wait = answer.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse().unwrap());
    (answer.status(), wait, answer.text().await.unwrap())
}

async fn assert_metrics(server: &Started, lines: &[&str]) {
    let metrics = server.metrics().await;
    for line in lines {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_kept_is_told_to_clients_and_tried_now_and_then() {
    let (_, large) = bodies();
    let server = Started::new("digits-v2.onnx", &["--threads", "1", "--latency-target", "1ms"]).await;
    let mut refused = 0;
    loop {
        match ask(&server, &large, None).await {
            // The trial, once nothing has run for a while.
            (StatusCode::OK, None, _) => break,
            (StatusCode::SERVICE_UNAVAILABLE, Some(1), text) => {
                let error: Value = serde_json::from_str(&text).unwrap();
                let message = error["error"].as_str().unwrap();
                assert!(message.contains("and the latency limit is 1ms"), "{message}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "the first request comes right after the start");
    let count = format!("stoker_server_refusals_total{{model=\"digits\",reason=\"deadline\"}} {refused}");
    assert_metrics(&server, &[&count, "stoker_server_latency_target_seconds{model=\"digits\"} 0.001"]).await;
    server.end().await;
}

#[tokio::test]
async fn the_router_changes_the_target_without_a_restart() {
    let (small, large) = bodies();
    let server = Started::new("digits-v2.onnx", &["--threads", "1", "--behind-router"]).await;
    assert_eq!(ask(&server, &large, None).await.0, StatusCode::OK);
    assert_eq!(ask(&server, &small, None).await.0, StatusCode::OK);
    assert_metrics(&server, &["stoker_server_latency_target_seconds{model=\"digits\"} 0.0\n"]).await;
    let (status, wait, text) = ask(&server, &large, Some("1")).await;
    assert_eq!((status, wait), (StatusCode::SERVICE_UNAVAILABLE, Some(1)), "{text}");
    assert_eq!(ask(&server, &large, Some("60000")).await.0, StatusCode::OK);
    assert_eq!(ask(&server, &small, None).await.0, StatusCode::OK);
    let lines = [
        "stoker_server_latency_target_seconds{model=\"digits\"} 60.0\n",
        "stoker_server_refusals_total{model=\"digits\",reason=\"deadline\"} 1\n",
        "stoker_server_batch_releases_total{model=\"digits\",reason=\"idle\"}",
        "stoker_server_batch_cap_rows",
        "stoker_server_run_fixed_seconds",
        "stoker_server_run_row_seconds",
    ];
    assert_metrics(&server, &lines).await;
    server.end().await;
}

#[tokio::test]
async fn without_a_router_before_it_nobody_sets_the_target() {
    let (small, large) = bodies();
    let server = Started::new("digits-v2.onnx", &["--threads", "1"]).await;
    assert_eq!(ask(&server, &large, Some("1")).await.0, StatusCode::OK);
    assert_eq!(ask(&server, &small, None).await.0, StatusCode::OK);
    assert_metrics(&server, &["stoker_server_latency_target_seconds{model=\"digits\"} 0.0\n"]).await;
    server.end().await;
}

#[tokio::test]
async fn requests_that_come_together_and_have_time_are_all_answered() {
    let (small, _) = bodies();
    let server = Started::new("digits-v2.onnx", &["--threads", "1", "--latency-target", "1m"]).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let request = server.client.post(server.url("/v2/models/digits/infer")).body(small.clone());
        asked.spawn(async move { request.send().await.unwrap().status() });
    }
    while let Some(status) = asked.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_metrics(&server, &["stoker_server_batch_requests_sum{model=\"digits\"} 40.0"]).await;
    assert!(!server.metrics().await.contains("stoker_server_refusals_total{"), "nobody was refused");
    server.end().await;
}
