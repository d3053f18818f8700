//! Headers and parameters beside the tensors: ids, traces, deadlines, load; and what is politely refused.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::binary::{LENGTH, raw_request};
use crate::started::{Started, digits, request};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn ids_and_traces_are_given_back() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let body = request(&digits().images[..1]).to_string();
    let asked = [
        (Method::POST, "/v2/models/digits/infer", body.clone()),
        (Method::POST, "/v2/models/digits/infer", "not JSON".to_owned()),
        (Method::GET, "/v2/models/digits", String::new()),
        (Method::GET, "/nowhere", String::new()),
    ];
    for (method, path, body) in asked {
        let with = |id: &'static str, trace: &'static str| {
            let request = server.client.request(method.clone(), server.url(path)).body(body.clone());
            request.header("x-request-id", id).header("traceparent", trace).send()
        };
        let answer = with("a-1/b", TRACE).await.unwrap();
        assert_eq!(answer.headers()["x-request-id"], "a-1/b", "{path}");
        let trace = answer.headers()["traceparent"].to_str().unwrap();
        assert!(
            trace.starts_with(&TRACE[..36]) && trace.ends_with("-01") && trace != TRACE,
            "{path}: {trace}"
        );
        let answer = with("two words", "00-nothing").await.unwrap();
        for name in ["x-request-id", "traceparent"] {
            assert!(!answer.headers().contains_key(name), "{path}: {name}");
        }
    }
    server.end().await;
}

#[tokio::test]
async fn the_load_is_what_waits_or_runs() {
    let load = |answer: &reqwest::Response| -> u64 {
        answer.headers()["stoker-load"].to_str().unwrap().parse().unwrap()
    };
    let images = digits().images;
    let server = Started::new("digits-v2.onnx", &["--threads", "2"]).await;
    let body = request(&images[..1]).to_string();
    let ask = || server.client.post(server.url("/v2/models/digits/infer")).body(body.clone()).send();
    assert_eq!(load(&ask().await.unwrap()), 0, "nothing but the one that was answered");
    // One request of many rows runs for longer than many of one row, which have an executor of their own.
    let many: Vec<_> = std::iter::repeat_n(&images, 50).flatten().cloned().collect();
    let (bytes, length) = raw_request(&many);
    let long = server.client.post(server.url("/v2/models/digits/infer")).header(LENGTH, length).body(bytes);
    let long = tokio::spawn(long.send());
    let mut loads = Vec::new();
    while !long.is_finished() {
        loads.push(load(&ask().await.unwrap()));
    }
    assert_eq!(long.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(loads.contains(&1) && loads.iter().all(|load| *load <= 1), "{loads:?}");
    assert_eq!(load(&ask().await.unwrap()), 0, "all are answered");
    server.end().await;
}

#[tokio::test]
async fn a_body_is_waited_for_as_long_as_the_gateway_waits() {
    let server = Started::new("digits-v2.onnx", &["--request-timeout", "1h"]).await;
    for (header, said) in [("x-envoy-expected-rq-timeout-ms: 70", "70ms"), ("grpc-timeout: 80m", "80ms")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\ncontent-length: 10\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Ends when the server does not wait for the rest of the body any more.
        let mut piece = [0; 1024];
        while !String::from_utf8_lossy(&answer).contains('}') {
            let length = stream.read(&mut piece).await.unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..length]);
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains(&format!("within {said}")), "{answer}");
    }
    server.end().await;
}

#[tokio::test]
async fn parameters_are_read_tolerated_or_refused() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let with = |parameters: Value| {
        let mut body = request(&digits().images[..1]);
        body["parameters"] = parameters;
        body.to_string()
    };
    for good in [
        json!({"priority": 1, "timeout": 20_000_000, "mine": {"a": [1]}, "sequence_id": 0}),
        json!({"binary_data_output": false, "headers": null}),
        Value::Null,
    ] {
        let (status, answer) = server.infer(with(good.clone())).await;
        assert_eq!(status, StatusCode::OK, "{good}: {answer}");
    }
    for (bad, part) in [
        (json!({"priority": "high"}), "`priority` must be an integer"),
        (json!({"timeout": -1}), "`timeout` must be an integer"),
        (json!({"sequence_id": 42}), "`sequence_id` is not served"),
        (json!({"binary_data_output": "yes"}), "`binary_data_output` must be true or false"),
        (json!([1]), "an object of parameters"),
    ] {
        let message = server.refused(StatusCode::BAD_REQUEST, with(bad.clone())).await;
        assert!(message.contains(part), "{bad}: {message}");
    }
    let mut classes = request(&digits().images[..1]);
    classes["outputs"] = json!([{"name": "label", "parameters": {"classification": 3}}]);
    let message = server.refused(StatusCode::BAD_REQUEST, classes.to_string()).await;
    assert!(message.contains("`classification` is not served"), "{message}");
    server.end().await;
}

#[tokio::test]
async fn compressed_bodies_are_refused_by_name() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let body = request(&digits().images[..1]).to_string();
    for (coding, status) in [("gzip", 415), ("identity, deflate", 415), ("Identity", 200)] {
        let request =
            server.client.post(server.url("/v2/models/digits/infer")).header("content-encoding", coding);
        let answer = request.body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), status, "{coding}");
        if status == 415 {
            assert_eq!(answer.headers()["accept-encoding"], "identity");
            assert!(answer.text().await.unwrap().contains("Content-Encoding"));
        }
    }
    server.end().await;
}

#[tokio::test]
async fn the_repository_has_the_one_model() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let metadata: Value = serde_json::from_str(&server.get("/v2").await.1).unwrap();
    assert_eq!(metadata["extensions"], json!(["binary_tensor_data", "model_configuration", "statistics"]));
    for body in ["", "{}", "{\"ready\": true}"] {
        let (status, text) = server.ask(Method::POST, "/v2/repository/index", body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let index: Value = serde_json::from_str(&text).unwrap();
        let entry = &index[0];
        assert_eq!((&entry["name"], &entry["state"]), (&json!("digits"), &json!("READY")), "{index}");
        assert_eq!(entry["version"].as_str().map(str::len), Some(12));
    }
    let refused = [
        ("/v2/repository/index", "[".repeat(3), StatusCode::BAD_REQUEST, "must be empty or"),
        ("/v2/repository/index", " ".repeat(5000), StatusCode::PAYLOAD_TOO_LARGE, "4096 bytes"),
        (
            "/v2/repository/models/digits/load",
            String::new(),
            StatusCode::BAD_REQUEST,
            "not loaded and unloaded here",
        ),
        (
            "/v2/repository/models/digits/unload",
            "{}".to_owned(),
            StatusCode::BAD_REQUEST,
            "not loaded and unloaded here",
        ),
        ("/v2/repository/models/cats/load", String::new(), StatusCode::NOT_FOUND, "no model `cats`"),
    ];
    for (path, body, status, part) in refused {
        let (actual, text) = server.ask(Method::POST, path, body).await;
        assert!(actual == status && text.contains(part), "{path}: {actual} {text}");
    }
    assert_eq!(server.get("/v2/repository/index").await.0, StatusCode::METHOD_NOT_ALLOWED);
    server.end().await;

    // An address that takes connections and never answers: the model is not there yet.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/a.onnx", silent.local_addr().unwrap());
    let server = Started::loading(&uri, &["--allow-network", "127.0.0.1"]).await;
    let (_, text) = server.ask(Method::POST, "/v2/repository/index", "").await;
    let index: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&index[0]["state"], index[0].get("version")), (&json!("LOADING"), None), "{index}");
    assert_eq!(server.ask(Method::POST, "/v2/repository/index", "{\"ready\":true}").await.1, "[]");
    assert_eq!(server.get("/v2/models/stats").await.0, StatusCode::SERVICE_UNAVAILABLE);
    server.drain.close();
    assert!(server.running.await.unwrap().is_ok());
}
