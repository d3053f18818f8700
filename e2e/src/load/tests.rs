//! The load against a small server of the test's own.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use stoker_api::names::headers;
use stoker_edge::linger;
use tokio::net::TcpListener;

use super::*;

/// Answers every request with label 3 of revision `digits-a`; each `close_every`-th answer ends its connection. The count is
/// that of connections.
async fn serve(close_every: usize, fail_every: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let opened = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            opened.fetch_add(1, Ordering::Relaxed);
            let requests = requests.clone();
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let number = requests.fetch_add(1, Ordering::Relaxed);
                async move {
                    assert_eq!(request.uri().path(), "/v2/models/digits/infer");
                    assert_eq!(request.headers()["host"], "digits.test.svc");
                    request.into_body().collect().await.unwrap();
                    let output = json!({"name": "label", "datatype": "INT64", "shape": [1], "data": [3]});
                    let mut answer =
                        Response::new(Full::new(Bytes::from(json!({"outputs": [output]}).to_string())));
                    answer.headers_mut().insert(headers::REVISION, HeaderValue::from_static("digits-a"));
                    if number.is_multiple_of(close_every) {
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    if number.is_multiple_of(fail_every) {
                        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(serving);
        }
    });
    (address, connections)
}

async fn load_of(address: SocketAddr, requests: usize) -> Ledger {
    let load = Load::start(Plan::of(address, "test", "digits", 500)).unwrap();
    load.ended(requests).await;
    load.finish().await.unwrap()
}

#[tokio::test]
async fn connections_are_kept_and_some_are_fresh() {
    let (address, connections) = serve(usize::MAX, usize::MAX).await;
    let ledger = load_of(address, 200).await;
    assert_eq!(ledger.failed_but_for(None), 0, "{}", ledger.explain());
    assert_eq!(ledger.of("digits-a").count(), ledger.answers().len());
    let accuracy = ledger::Figures::of(ledger.answers().iter()).accuracy.unwrap();
    assert!(accuracy > 0.0 && accuracy < 0.5, "the label is 3 for about one image in ten: {accuracy}");
    let (opened, sent) = (connections.load(Ordering::Relaxed), ledger.answers().len());
    assert!(opened >= sent / 10 && opened < sent, "{opened} connections for {sent} requests");
}

#[tokio::test]
async fn a_server_that_closes_connections_politely_costs_no_request() {
    let (address, _) = serve(3, usize::MAX).await;
    let ledger = load_of(address, 200).await;
    assert_eq!(ledger.failed_but_for(None), 0, "{}", ledger.explain());
}

/// Answers over HTTP/2, and says goodbye on each connection after some answers.
async fn serve_http2_with_goodbyes() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let opened = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            opened.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let answered = Arc::new(AtomicUsize::new(0));
                let counted = answered.clone();
                let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let counted = counted.clone();
                    async move {
                        request.into_body().collect().await.unwrap();
                        counted.fetch_add(1, Ordering::Relaxed);
                        let output = json!({"name": "label", "datatype": "INT64", "shape": [1], "data": [3]});
                        let body = Bytes::from(json!({"outputs": [output]}).to_string());
                        Ok::<_, Infallible>(Response::new(Full::new(body)))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let (stream, owner) = linger::lend(stream);
                let mut connection = Box::pin(builder.serve_connection(TokioIo::new(stream), answer));
                let enough = async {
                    while answered.load(Ordering::Relaxed) < 3 {
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                };
                tokio::select! {
                    ended = connection.as_mut() => return ended.unwrap_or(()),
                    () = enough => connection.as_mut().graceful_shutdown(),
                }
                connection.as_mut().await.unwrap_or(());
                // As every listener of Stoker does.
                drop(connection);
                owner.linger().await;
            });
        }
    });
    (address, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodbyes_over_http2_cost_no_request() {
    let (address, connections) = serve_http2_with_goodbyes().await;
    let load = Load::start(Plan { http2_every: 1, ..Plan::of(address, "test", "digits", 500) }).unwrap();
    load.ended(1_000).await;
    let ledger = load.finish().await.unwrap();
    assert_eq!(ledger.failed_but_for(None), 0, "{}", ledger.explain());
    assert!(connections.load(Ordering::Relaxed) > 10, "{connections:?} connections");
}

#[tokio::test]
async fn errors_are_counted_and_never_sent_again() {
    let (address, _) = serve(usize::MAX, 10).await;
    let ledger = load_of(address, 200).await;
    let (failed, sent) = (ledger.failed_but_for(None), ledger.answers().len());
    assert_eq!(failed, sent / 10, "{}", ledger.explain());
    assert_eq!(ledger.failed_but_for(Some("digits-a")), 0);
    assert!(ledger.explain().contains("500 from digits-a"), "{}", ledger.explain());
}

#[tokio::test]
async fn nobody_at_the_address_is_a_failure_and_no_hang() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let ledger = load_of(address, 20).await;
    assert_eq!(ledger.failed_but_for(None), ledger.answers().len());
    assert!(ledger.explain().contains("no answer from no revision"), "{}", ledger.explain());
}
