//! The corpus of ambiguous messages: a request that could be cut in two ways is refused and ends its connection, any other
//! reaches a pod exactly once; an answer that could is the failure of its pod.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Collected, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Behaviour, Pod, World, eventually, http, settings};

/// A pod that keeps the bodies that it got.
async fn recorder() -> (Pod, Arc<Mutex<Vec<Bytes>>>) {
    let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let kept = Arc::clone(&bodies);
    let behaviour: Behaviour = Arc::new(move |request| {
        let kept = Arc::clone(&kept);
        Box::pin(async move {
            let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
            kept.lock().unwrap().push(body);
            Response::new(Full::new(Bytes::from("{}")))
        })
    });
    (Pod::with(behaviour).await, bodies)
}

const POST: &str = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\n";
/// What a smuggler would like to be read as a request.
const SECOND: &str = "GET /v2 HTTP/1.1\r\nhost: digits\r\nx-smuggled: 1\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_and_end_the_connection() {
    let (pod, bodies) = recorder().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let mut corpus: Vec<String> = [
        // Two lengths.
        "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        "content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        "content-length: 2\r\nContent-Length: 0\r\n\r\n{}",
        "content-length: 2, 2\r\n\r\n{}",
        // No number.
        "content-length: -1\r\n\r\n{}",
        "content-length: +2\r\n\r\n{}",
        "content-length: 0x2\r\n\r\n{}",
        "content-length: 2 2\r\n\r\n{}",
        "content-length: \r\n\r\n{}",
        "content-length: 18446744073709551618\r\n\r\n{}",
        // No coding that is known.
        "transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n{}",
        "transfer-encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: \"chunked\"\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding:\r\n\r\n{}",
        // Fields that not everybody reads alike.
        "content-length : 2\r\n\r\n{}",
        "content-length\t: 2\r\n\r\n{}",
        " content-length: 2\r\n\r\n{}",
        "x: 1\r\n content-length: 2\r\n\r\n{}",
        "x: 1\r\n\tfolded\r\ncontent-length: 2\r\n\r\n{}",
        "no colon\r\n\r\n",
        ": no name\r\n\r\n",
        "bad name: 1\r\n\r\n",
        "bad\x01name: 1\r\n\r\n",
        "x: a\x00b\r\n\r\n",
        "x: a\x07b\r\n\r\n",
        "x: a\x7fb\r\n\r\n",
        "x: a\rb\r\n\r\n",
        "host: digits\r\n\r\n",
        "Host: other\r\n\r\n",
        "upgrade: websocket\r\n\r\n",
        "upgrade: h2c\r\nconnection: keep-alive\r\n\r\n",
        // Lines without CR.
        "content-length: 2\n\r\n{}",
        "x: 1\ncontent-length: 2\r\n\r\n{}",
        "content-length: 2\r\n\n{}",
        "x: 1\r\r\n\r\n",
        // Chunks.
        "transfer-encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n 2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2\r\n{} \r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n;a=b\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: 1\ny: 2\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nbad trailer\r\n\r\n",
    ]
    .map(|rest| format!("{POST}{rest}"))
    .to_vec();
    corpus.extend(
        [
            "POST /v2/models/digits/infer HTTP/1.0\r\nhost: digits\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "POST /v2/models/digits/infer HTTP/1.1\nhost: digits\r\ncontent-length: 2\r\n\r\n{}",
            "POST  /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\n\r\n",
            "POST /v2/models/digits/infer  HTTP/1.1\r\nhost: digits\r\n\r\n",
            "POST /v2/models/digits/infer HTTP/1.1 \r\nhost: digits\r\n\r\n",
            "POST /v2/models/digits\x00/infer HTTP/1.1\r\nhost: digits\r\n\r\n",
            "PO\x01ST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\n\r\n",
            "POST /v2/models/digits/infer HTTP/1.2\r\nhost: digits\r\n\r\n",
            "POST /v2/models/digits/infer\r\nhost: digits\r\n\r\n",
            "\nGET /v2 HTTP/1.1\r\nhost: digits\r\n\r\n",
            "\r\n\r\nGET /v2 HTTP/1.1\r\nhost: digits\r\n\r\n",
            "GET /v2 HTTP/1.1\r\n\r\n",
        ]
        .map(String::from),
    );
    for request in &corpus {
        let got = world.raw(format!("{request}{SECOND}").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 400") || got.starts_with("HTTP/1.0 400"), "{request:?}: {got:?}");
        assert_eq!(got.matches("HTTP/1.").count(), 1, "{request:?}: {got:?}");
        assert!(bodies.lock().unwrap().is_empty(), "{request:?} reached the pod");
    }
    // The same behind a good request on the same connection: that one is served, and nothing else.
    for request in &corpus {
        let first = format!("{POST}content-length: 2\r\n\r\n[]");
        let got = world.raw(format!("{first}{request}{SECOND}").as_bytes()).await;
        let answers: Vec<_> = got.matches("HTTP/1.1 ").collect();
        assert!(got.starts_with("HTTP/1.1 200") && answers.len() <= 2, "{request:?}: {got:?}");
        // A line feed before a request belongs to nothing, so an answer is owed only to what follows.
        assert!(got.contains(" 400 "), "{request:?}: {got:?}");
        assert_eq!(std::mem::take(&mut *bodies.lock().unwrap()), ["[]"], "{request:?}");
    }
    assert_eq!(world.in_flight("digits-a"), Some(0));
}

#[tokio::test]
async fn clear_requests_reach_the_pod_exactly_once() {
    let (pod, bodies) = recorder().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let inner = format!("{POST}content-length: 1\r\ncontent-length: 1\r\n\r\n");
    let last = "connection: close\r\n";
    for (request, wanted) in [
        (format!("{POST}{last}content-length: 2\r\n\r\n{{}}"), vec!["{}"]),
        (format!("{POST}{last}Content-Length:\t 2 \r\n\r\n{{}}{SECOND}"), vec!["{}"]),
        (format!("{POST}{last}content-length: 0002\r\n\r\n{{}}"), vec!["{}"]),
        (format!("{POST}{last}\r\n"), vec![""]),
        (format!("{POST}{last}transfer-encoding: Chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"), vec!["{}"]),
        (
            format!(
                "{POST}{last}transfer-encoding: chunked\r\n\r\n1;a=\"b;c\"\r\n{{\r\n01\r\n}}\r\n000\r\n\r\n"
            ),
            vec!["{}"],
        ),
        (
            format!(
                "{POST}{last}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\ncontent-length: 9\r\n\r\n"
            ),
            vec!["{}"],
        ),
        (format!("\r\n{POST}{last}content-length: 2\r\n\r\n{{}}"), vec!["{}"]),
        (
            format!("{POST}connection: close, Upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{{}}"),
            vec!["{}"],
        ),
        ("POST /v2/models/digits/infer HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}".into(), vec!["{}"]),
        // A body that looks like a request, and a request behind it.
        (
            format!(
                "{POST}content-length: {}\r\n\r\n{inner}{POST}{last}content-length: 2\r\n\r\n{{}}",
                inner.len()
            ),
            vec![inner.as_str(), "{}"],
        ),
        (
            format!(
                "{POST}transfer-encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n{POST}{last}\r\n",
                inner.len()
            ),
            vec![inner.as_str(), ""],
        ),
    ] {
        let got = world.raw(request.as_bytes()).await;
        assert_eq!(got.matches(" 200 OK\r\n").count(), wanted.len(), "{request:?}: {got:?}");
        assert_eq!(std::mem::take(&mut *bodies.lock().unwrap()), wanted, "{request:?}");
    }
}

#[tokio::test]
async fn a_wrong_chunk_in_a_body_that_is_passed_on_ends_it() {
    let (pod, bodies) = recorder().await;
    let mut small = settings();
    small.buffer_limit = 1;
    let world = World::with_pods(small, &[pod.address]).await;
    let got = world
        .raw(
            format!("{POST}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n2 \r\n{{}}\r\n0\r\n\r\n{SECOND}")
                .as_bytes(),
        )
        .await;
    assert!(got.starts_with("HTTP/1.1 400") && got.matches("HTTP/1.1 ").count() == 1, "{got:?}");
    // The pod saw a body that broke off, not one that ended, and is not to blame.
    assert!(!bodies.lock().unwrap().iter().any(|body| body == "{}{}"));
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));
}

#[tokio::test]
async fn bodies_in_chunks_of_one_byte_take_no_more_than_the_budget() {
    let (pod, bodies) = recorder().await;
    let mut small = settings();
    small.buffer_total = 16 << 10;
    let world = World::with_pods(small, &[pod.address]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let head = format!("{POST}connection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(format!("{head}{}", "1\r\nx\r\n".repeat(1024)).as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Sixteen of them are kept; the others do not wait for their end.
    eventually("the budget is spent", || world.router.counts.unbuffered.get() == 4).await;
    eventually("what is not kept is passed on", || pod.hits() == 4).await;
    for stream in &mut streams {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    }
    assert_eq!(world.router.counts.unbuffered.get(), 4);
    let bodies = bodies.lock().unwrap();
    assert!(bodies.len() == 20 && bodies.iter().all(|body| body.len() == 1024));
}

/// A pod that answers each request with these bytes, and then waits.
async fn raw_pod(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn ambiguous_answers_are_failures_of_the_pod() {
    for head in [
        "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        "content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        "content-length: 2, 2\r\n\r\n{}",
        "content-length: +2\r\n\r\n{}",
        "transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\n\r\n{}",
        "content-length : 2\r\n\r\n{}",
        "x: 1\r\n folded\r\ncontent-length: 2\r\n\r\n{}",
        "x: \x00\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let pod = raw_pod(format!("HTTP/1.1 200 OK\r\n{head}")).await;
        let world = World::with_pods(settings(), &[pod]).await;
        let got = world.infer(&http(), "{}").await.unwrap();
        assert_eq!(got.status, 502, "{head:?}");
        assert_eq!(world.counted(1, 0, "digits-a"), (1, 1), "{head:?}");
    }
    for answer in [
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let pod = raw_pod(answer.into()).await;
        let world = World::with_pods(settings(), &[pod]).await;
        assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 502, "{answer:?}");
        assert_eq!(world.counted(1, 0, "digits-a"), (1, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_nobodys_answer() {
    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let pod = raw_pod(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{}}{forged}")).await;
    let world = World::with_pods(settings(), &[pod]).await;
    let client = http();
    for _ in 0..20 {
        let got = world.infer(&client, "{}").await.unwrap();
        assert_eq!((got.status, got.body), (200, Bytes::from("{}")));
    }
}
