//! The prediction cache over HTTP: equal answers to equal requests without a run, and nothing else.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::started::{Started, digits, labels, request};

/// Name and value.
type Header = (&'static str, &'static str);

const CACHE: [&str; 2] = ["--cache", "64Mi"];

/// A request with these headers, not sent yet.
fn asking(server: &Started, body: String, headers: &[(&str, &str)]) -> RequestBuilder {
    let request = server.client.post(server.url("/v2/models/digits/infer")).body(body);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// Status, headers and bytes of the answer.
async fn ask(server: &Started, body: &Value, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let answer = asking(server, body.to_string(), headers).send().await.unwrap();
    (answer.status(), answer.headers().clone(), answer.bytes().await.unwrap().to_vec())
}

/// What an answer says about the cache.
fn word(headers: &HeaderMap) -> Option<&str> {
    headers.get("stoker-cache").map(|value| value.to_str().unwrap())
}

/// What the cache did with a request that must succeed.
async fn status(server: &Started, body: &Value, headers: &[(&str, &str)]) -> Option<String> {
    let (status, headers, text) = ask(server, body, headers).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&text));
    assert_eq!(headers.contains_key("age"), word(&headers) == Some("hit"));
    word(&headers).map(str::to_owned)
}

/// A number of the metrics, 0 where there is none.
async fn count(server: &Started, name: &str) -> u64 {
    let text = server.metrics().await;
    let series = match name.split_once('{') {
        Some((family, labels)) => format!("{family}{{model=\"digits\",{labels}"),
        None => format!("{name}{{model=\"digits\"}}"),
    };
    let value = text.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap_or_else(|_| panic!("{name} is {value}")))
}

async fn runs(server: &Started) -> u64 {
    count(server, "stoker_server_batch_requests_count").await
}

#[tokio::test]
async fn the_second_answer_is_the_first_to_the_bit_and_the_model_ran_once() {
    let server = Started::new("digits-v2.onnx", &CACHE).await;
    let mut body = request(&digits().images[..3]);
    let (_, first_headers, first) = ask(&server, &body, &[]).await;
    let (_, second_headers, second) = ask(&server, &body, &[]).await;
    assert_eq!((word(&first_headers), word(&second_headers)), (Some("miss"), Some("hit")));
    assert_eq!((first_headers.get("age"), second_headers["age"].to_str().unwrap()), (None, "0"));
    assert_eq!(first, second);
    assert_eq!(runs(&server).await, 1);
    // The id is the request's, and no part of what the answer depends on.
    body["id"] = json!("q-7");
    let (_, headers, third) = ask(&server, &body, &[]).await;
    let third: Value = serde_json::from_slice(&third).unwrap();
    assert_eq!((word(&headers), &third["id"]), (Some("hit"), &json!("q-7")));
    assert_eq!(runs(&server).await, 1);

    let metrics = server.metrics().await;
    for line in [
        "stoker_server_cache_hits_total{model=\"digits\"} 2\n",
        "stoker_server_cache_misses_total{model=\"digits\"} 1\n",
        "stoker_server_cache_entries{model=\"digits\"} 1\n",
        "stoker_server_cache_enabled{model=\"digits\"} 1\n",
        "phase=\"total\",cache=\"hit\"} 2\n",
        "phase=\"total\",cache=\"miss\"} 1\n",
        "phase=\"serialise\",cache=\"hit\"} 2\n",
        "phase=\"compute\",cache=\"miss\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("phase=\"compute\",cache=\"hit\""), "a hit computes nothing\n{metrics}");
    server.end().await;
}

#[tokio::test]
async fn what_differs_in_anything_that_the_answer_depends_on_is_run() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &CACHE).await;
    let with = |outputs: Value| {
        let mut body = request(&digits.images[..1]);
        body["outputs"] = outputs;
        body
    };
    let (label, both) = (json!([{"name": "label"}]), json!([{"name": "label"}, {"name": "probabilities"}]));
    let swapped = json!([{"name": "probabilities"}, {"name": "label"}]);
    let bodies = [
        request(&digits.images[..1]),
        request(&digits.images[..2]),
        request(&digits.images[1..2]),
        with(label),
        with(swapped),
    ];
    for body in &bodies {
        assert_eq!(status(&server, body, &[]).await.as_deref(), Some("miss"), "{body}");
    }
    for body in &bodies {
        assert_eq!(status(&server, body, &[]).await.as_deref(), Some("hit"), "{body}");
    }
    // All outputs in the model's order are what a request without a list gets.
    assert_eq!(status(&server, &with(both), &[]).await.as_deref(), Some("hit"));
    assert_eq!(runs(&server).await, bodies.len() as u64);
    server.end().await;
}

#[tokio::test]
async fn an_answer_is_not_given_after_its_time_to_live() {
    let server = Started::new("digits-v2.onnx", &["--cache", "1Mi", "--cache-ttl", "40ms"]).await;
    let body = request(&digits().images[..1]);
    for run in 1..=3 {
        assert_eq!(status(&server, &body, &[]).await.as_deref(), Some("miss"));
        assert_eq!(runs(&server).await, run);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    server.end().await;
}

#[tokio::test]
async fn requests_pass_the_cache_by_as_http_has_it() {
    let server = Started::new("digits-v2.onnx", &CACHE).await;
    let body = request(&digits().images[..1]);
    let cases: [(&[Header], Option<&str>, u64); 9] = [
        // (headers, what the cache did, runs so far)
        (&[("stoker-cache", "bypass")], None, 1),
        (&[("cache-control", "no-store")], None, 2),
        (&[], Some("miss"), 3),
        (&[], Some("hit"), 3),
        (&[("cache-control", "no-cache")], Some("miss"), 4),
        (&[("cache-control", "no-store")], None, 5),
        (&[("stoker-cache", "bypass")], None, 6),
        (&[("cache-control", "max-age=3600")], Some("hit"), 6),
        (&[], Some("hit"), 6),
    ];
    for (headers, expected, ran) in cases {
        assert_eq!(status(&server, &body, headers).await.as_deref(), expected, "{headers:?}");
        assert_eq!(runs(&server).await, ran, "{headers:?}");
    }
    assert_eq!(count(&server, "stoker_server_cache_bypassed_total{reason=\"request\"}").await, 4);
    server.end().await;
}

#[tokio::test]
async fn without_the_flag_nothing_is_kept() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let body = request(&digits().images[..1]);
    for run in 1..=2 {
        assert_eq!(status(&server, &body, &[]).await, None);
        assert_eq!(runs(&server).await, run);
    }
    assert_eq!(count(&server, "stoker_server_cache_enabled").await, 0);
    server.end().await;
}

#[tokio::test]
async fn errors_are_neither_kept_nor_shared() {
    let digits = digits();
    let server = Started::new("digits-v3.onnx", &[&CACHE[..], &["--threads", "1"]].concat()).await;
    // The model fails on some images.
    let mut bad = None;
    for image in &digits.images {
        let body = request(std::slice::from_ref(image));
        if ask(&server, &body, &[]).await.0 == StatusCode::INTERNAL_SERVER_ERROR {
            bad = Some(body);
            break;
        }
    }
    let bad = bad.unwrap();
    let entries = count(&server, "stoker_server_cache_entries").await;
    let before = runs(&server).await;
    for run in 1..=3 {
        let (status, headers, _) = ask(&server, &bad, &[]).await;
        assert_eq!((status, word(&headers)), (StatusCode::INTERNAL_SERVER_ERROR, None));
        assert_eq!(runs(&server).await, before + run);
    }
    let mut together = tokio::task::JoinSet::new();
    for _ in 0..20 {
        together.spawn(asking(&server, bad.to_string(), &[]).send());
    }
    while let Some(answer) = together.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = answer.text().await.unwrap();
        assert!(text.contains("`gain_lookup` (Gather)"), "{text}");
    }
    // Each of them has the error of a run of its own, alone or in a batch that was then run one by one.
    assert!(runs(&server).await >= before + 23, "{} of {}", runs(&server).await, before);
    assert_eq!(count(&server, "stoker_server_cache_entries").await, entries);
    // A request that cannot be read is no request of the model.
    let (status, ..) = ask(&server, &json!({"inputs": []}), &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(count(&server, "stoker_server_cache_entries").await, entries);
    server.end().await;
}

#[tokio::test]
async fn a_hundred_identical_requests_at_a_time_run_the_model_once() {
    let server = Started::new("digits-v2.onnx", &CACHE).await;
    let body = request(&digits().images).to_string();
    let mut together = tokio::task::JoinSet::new();
    for _ in 0..100 {
        together.spawn(asking(&server, body.clone(), &[]).send());
    }
    let mut texts = Vec::new();
    while let Some(answer) = together.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        texts.push(answer.bytes().await.unwrap());
    }
    assert!(texts.iter().all(|text| text == &texts[0]));
    assert_eq!((texts.len(), runs(&server).await), (100, 1));
    let hits = count(&server, "stoker_server_cache_hits_total").await;
    let coalesced = count(&server, "stoker_server_cache_coalesced_total").await;
    assert_eq!((hits + coalesced, count(&server, "stoker_server_cache_misses_total").await), (99, 1));
    server.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_answer_from_nobody() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[&CACHE[..], &["--threads", "1"]].concat()).await;
    let known = Started::new("digits-v2.onnx", &[]).await;
    for round in 0..6 {
        // A body of its own for each round, large enough to run for a while.
        let images: Vec<_> = std::iter::repeat_n(&digits.images, 4).flatten().skip(round).cloned().collect();
        let body = request(&images).to_string();
        let misses = count(&server, "stoker_server_cache_misses_total").await;
        let mut leader = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        leader.write_all(head.as_bytes()).await.unwrap();
        leader.write_all(body.as_bytes()).await.unwrap();
        while count(&server, "stoker_server_cache_misses_total").await == misses {
            tokio::task::yield_now().await;
        }
        let followers = tokio::spawn(asking(&server, body.clone(), &[]).send());
        let second = tokio::spawn(asking(&server, body.clone(), &[]).send());
        // Sometimes before the others are there, sometimes after.
        tokio::time::sleep(Duration::from_millis(3) * u32::try_from(round).unwrap()).await;
        drop(leader);
        for follower in [followers, second] {
            let answer = follower.await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let given = labels(&answer.json::<Value>().await.unwrap());
            assert_eq!(given, labels(&known.infer(body.clone()).await.1));
        }
    }
    // All places of those who went away are free again: a key that is not under way takes part as any other.
    let body = request(&digits.images[..1]);
    assert_eq!(status(&server, &body, &[]).await.as_deref(), Some("miss"));
    assert_eq!(status(&server, &body, &[]).await.as_deref(), Some("hit"));
    known.end().await;
    server.end().await;
}

#[tokio::test]
async fn confidence_of_predictions_is_counted_and_can_be_switched_off() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    let (status, answer) = server.infer(request(&digits.images).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let rows = answer["outputs"][0]["shape"][0].as_u64().unwrap();
    // The sample is looked at by a thread of its own, some times a second.
    let metrics = loop {
        let metrics = server.metrics().await;
        if metrics.contains("stoker_server_prediction_top_score_count{") {
            break metrics;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let value = |start: &str| -> &str {
        let line = metrics.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{start} is not in\n{metrics}")).rsplit(' ').next().unwrap()
    };
    let number = |start: &str| -> u64 { value(start).parse().unwrap() };
    let examined = number("stoker_server_prediction_rows_examined_total{");
    assert!((1..=64).contains(&examined), "{examined}");
    assert_eq!(number("stoker_server_prediction_rows_total{"), rows);
    for name in ["top_score", "margin", "entropy"] {
        assert_eq!(number(&format!("stoker_server_prediction_{name}_count{{")), examined, "{name}");
    }
    // A good classifier of digits is sure of most of them.
    let sum: f64 = value("stoker_server_prediction_top_score_sum{").parse().unwrap();
    assert!(sum / examined as f64 > 0.7, "{metrics}");
    let classes: Vec<u64> = metrics
        .lines()
        .filter(|line| line.starts_with("stoker_server_prediction_classes_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!((2..=10).contains(&classes.len()), "{classes:?}");
    assert_eq!(classes.iter().sum::<u64>(), examined);
    server.end().await;

    let off = Started::new("digits-v2.onnx", &["--prediction-metrics", "off"]).await;
    off.infer(request(&digits.images[..20]).to_string()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!off.metrics().await.contains("stoker_server_prediction_rows_total{"));
    off.end().await;
}
