//! The statistics extension: counts that add up to what was asked.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::started::{Started, digits, request};

/// The counts of the model.
async fn statistics(server: &Started, path: &str) -> Value {
    let (status, text) = server.get(path).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let mut all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["model_stats"].as_array().map(Vec::len), Some(1), "{text}");
    all["model_stats"][0].take()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// The sum of one number over all batch sizes.
fn over_batches(statistics: &Value, of: impl Fn(&Value) -> u64) -> u64 {
    statistics["batch_stats"].as_array().unwrap().iter().map(of).sum()
}

#[tokio::test]
async fn counts_add_up_to_what_was_asked() {
    let images = digits().images;
    let server = Started::new("digits-v2.onnx", &[]).await;
    let before = statistics(&server, "/v2/models/digits/stats").await;
    assert_eq!(
        (&before["inference_count"], &before["last_inference"]),
        (&json!(0), &json!(0)),
        "warm-up counts"
    );
    assert_eq!(before["batch_stats"], json!([]));

    for rows in [1, 2, 3, 3] {
        let (status, answer) = server.infer(request(&images[..rows]).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    for bad in ["", "{}", "{\"inputs\": 1}"] {
        server.refused(StatusCode::BAD_REQUEST, bad).await;
    }
    let other = server.ask(Method::POST, "/v2/models/cats/infer", request(&images[..1]).to_string()).await;
    assert_eq!(other.0, StatusCode::NOT_FOUND);

    let after = statistics(&server, "/v2/models/digits/stats").await;
    assert_eq!(after["name"], "digits");
    assert!(number(&after["last_inference"]) > 0);
    assert_eq!((number(&after["inference_count"]), number(&after["execution_count"])), (9, 4));
    let of_requests = &after["inference_stats"];
    let counts = [
        ("success", 4),
        ("fail", 3),
        ("queue", 4),
        ("compute_input", 4),
        ("compute_infer", 4),
        ("compute_output", 4),
        ("cache_hit", 0),
        ("cache_miss", 0),
    ];
    for (name, count) in counts {
        assert_eq!(number(&of_requests[name]["count"]), count, "{name} in {after}");
        assert_eq!(number(&of_requests[name]["ns"]) > 0, count > 0, "{name} in {after}");
    }
    // The phases of a request lie in its time, one behind the other.
    let phases = ["queue", "compute_input", "compute_infer", "compute_output"];
    let phases: u64 = phases.iter().map(|name| number(&of_requests[*name]["ns"])).sum();
    assert!(phases <= number(&of_requests["success"]["ns"]), "{after}");

    let sizes: Vec<_> = after["batch_stats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (number(&batch["batch_size"]), number(&batch["compute_infer"]["count"])))
        .collect();
    assert_eq!(sizes, [(1, 1), (2, 1), (3, 2)]);

    let version = after["version"].as_str().unwrap();
    for path in ["/v2/models/stats".to_owned(), format!("/v2/models/digits/versions/{version}/stats")] {
        assert_eq!(statistics(&server, &path).await, after, "{path}");
    }
    for path in ["/v2/models/cats/stats", "/v2/models/digits/versions/1/stats"] {
        assert_eq!(server.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    server.end().await;
}

#[tokio::test]
async fn rows_of_joined_requests_are_counted_once() {
    let images = digits().images;
    let server = Started::new("digits-v2.onnx", &["--threads", "1"]).await;
    let mut asked = tokio::task::JoinSet::new();
    let mut rows = 0;
    for number in 0..200 {
        let count = 1 + number % 5;
        rows += count;
        let body = request(&images[number..number + count]).to_string();
        let request = server.client.post(server.url("/v2/models/digits/infer")).body(body);
        asked.spawn(async move { request.send().await.unwrap().status() });
    }
    while let Some(status) = asked.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    let after = statistics(&server, "/v2/models/digits/stats").await;
    assert_eq!(number(&after["inference_count"]), rows as u64);
    let of_batches =
        over_batches(&after, |batch| number(&batch["batch_size"]) * number(&batch["compute_infer"]["count"]));
    assert_eq!(of_batches, rows as u64, "{after}");
    for part in ["compute_input", "compute_infer", "compute_output"] {
        assert_eq!(
            over_batches(&after, |batch| number(&batch[part]["count"])),
            number(&after["execution_count"])
        );
    }
    assert_eq!(number(&after["inference_stats"]["success"]["count"]), 200);
    server.end().await;
}

#[tokio::test]
async fn a_failing_model_counts_failures_and_no_runs() {
    let digits = digits();
    let server = Started::new("digits-v3.onnx", &["--threads", "1"]).await;
    let (mut good, mut failed) = (0, 0);
    for image in &digits.images[..100] {
        match server.infer(request(std::slice::from_ref(image)).to_string()).await.0 {
            StatusCode::OK => good += 1,
            _ => failed += 1,
        }
    }
    assert!(good > 0 && failed > 0, "{good} {failed}");
    let after = statistics(&server, "/v2/models/stats").await;
    let counted = |name: &str| number(&after["inference_stats"][name]["count"]);
    assert_eq!((counted("success"), counted("fail")), (good, failed));
    assert_eq!((number(&after["inference_count"]), number(&after["execution_count"])), (good, good));
    server.end().await;
}
