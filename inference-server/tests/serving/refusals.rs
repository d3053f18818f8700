//! Bad requests: a 4xx with a message that helps, and the server goes on.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::started::{Started, digits, request};

#[tokio::test]
async fn bad_requests_are_refused_with_a_message_and_harm_nothing() {
    let server = Started::new("digits-v2.onnx", &["--max-body", "1Mi"]).await;
    let good = request(&digits().images[..1]);
    let text = good.to_string();
    let with = |member: &str, value| {
        let mut body = good.clone();
        body["inputs"][0][member] = value;
        body.to_string()
    };
    let bad = StatusCode::BAD_REQUEST;
    let cases = [
        (text[..text.len() - 1].to_owned(), "EOF while parsing"),
        ("not json".to_owned(), "the body is not an infer request"),
        (String::new(), "the body is empty"),
        (text.replace("0.0,", "NaN,"), "JSON has no NaN"),
        (text.replace("0.0,", "null,"), "JSON has no NaN"),
        (with("shape", json!([1, 63])), "must have the shape [-1, 64], but has [1, 63]"),
        (with("shape", json!([2, 64])), "takes 128 elements, but `data` has 64"),
        (with("datatype", json!("INT64")), "must have the datatype FP32, but has INT64"),
        (with("datatype", json!("FP16")), "must have the datatype FP32, but has FP16"),
        (with("name", json!("pixels")), "the model has no input `pixels`; its inputs are `input`"),
        (with("data", json!(["a"])), "expected FP32"),
        (with("data", json!({"a": 1})), "FP32"),
        (format!("{{\"inputs\":{}}}", "[".repeat(500_000)), "not an infer request"),
    ];
    for (body, part) in cases {
        let start: String = body.chars().take(60).collect();
        let message = server.refused(bad, body).await;
        assert!(message.contains(part), "{start}\n  gave: {message}\n  want: {part}");
    }

    let refused = |method, path: &'static str| server.ask(method, path, text.clone());
    let (status, message) = refused(Method::POST, "/v2/models/cats/infer").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(message.contains("there is no model `cats` here; this server serves `digits`"), "{message}");
    let (status, message) = refused(Method::POST, "/v2/models/digits/versions/1/infer").await;
    assert!(status == StatusCode::NOT_FOUND && message.contains("has no version `1`"), "{message}");
    let (status, message) = refused(Method::GET, "/v2/models/digits/infer").await;
    assert!(status == StatusCode::METHOD_NOT_ALLOWED && message.contains("use POST"), "{message}");
    assert_eq!(refused(Method::DELETE, "/v2").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused(Method::GET, "/").await.0, StatusCode::NOT_FOUND);

    let (status, answer) = server.infer(text).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(server.metrics().await.contains("code=\"400\"} 13"));
    server.end().await;
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_refused_and_the_client_gets_to_read_it() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let huge = vec![b'0'; 100 << 20];
    let message = server.refused(StatusCode::PAYLOAD_TOO_LARGE, huge.clone()).await;
    assert!(message.contains("longer than the limit of 33554432 bytes"), "{message}");

    // Without a length, so that it shows only while it comes.
    let address = server.address;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        for piece in huge.chunks(1 << 20) {
            writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
            writer.write_all(piece).await.unwrap();
            writer.write_all(b"\r\n").await.unwrap();
        }
        writer
    });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
    drop(sending.await.unwrap());

    let (status, answer) = server.infer(request(&digits().images[..1]).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    server.end().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Started::new("digits-v2.onnx", &["--request-timeout", "200ms"]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408");
    server.end().await;
}

#[tokio::test]
async fn a_model_that_takes_too_long_is_not_waited_for_and_the_queue_is_bounded() {
    // One run of digits-v4 takes milliseconds, so a queue of 1 fills at once.
    let more = ["--threads", "1", "--queue", "1", "--max-batch", "1", "--request-timeout", "20s"];
    let server = Started::new("digits-v4.onnx", &more).await;
    let body = request(&digits().images[..1]).to_string();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let request = server.client.post(server.url("/v2/models/digits/infer")).body(body.clone());
        asked.spawn(async move {
            let answer = request.send().await.unwrap();
            (answer.status(), answer.headers().contains_key("retry-after"), answer.text().await.unwrap())
        });
    }
    let (mut answered, mut turned_away) = (0, 0);
    while let Some(outcome) = asked.join_next().await {
        match outcome.unwrap() {
            (StatusCode::OK, _, _) => answered += 1,
            (StatusCode::SERVICE_UNAVAILABLE, true, text) => {
                assert!(text.contains("too many requests wait"), "{text}");
                turned_away += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(answered > 0 && turned_away > 0, "{answered} {turned_away}");
    server.end().await;
}

#[tokio::test]
async fn until_the_model_is_loaded_the_port_answers_503() {
    // An address that takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/a.onnx", silent.local_addr().unwrap());
    let server = Started::loading(&uri, &[]).await;
    assert_eq!(server.get("/v2/health/live").await.0, StatusCode::OK);
    assert_eq!(server.get("/v2/health/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.get("/v2/models/digits/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let message = server.refused(StatusCode::SERVICE_UNAVAILABLE, "{}").await;
    assert!(message.contains("being loaded"), "{message}");
    // It also ends when it is told to.
    server.drain.close();
    let ended = tokio::time::timeout(Duration::from_secs(30), server.running).await;
    assert!(ended.unwrap().unwrap().is_ok());
}
