//! HTTP/2 from clients: many requests over one connection, and leaving without losing one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::body::Frame;
use stoker_edge::listen::Finished;
use tokio::sync::Semaphore;

use crate::calls::{Called, GrpcPod, Http2, message, piecewise, post, whole};
use crate::traffic::gated;
use crate::world::{Pod, World, echo_headers, eventually, http, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_one_connection_and_one_port() {
    let (pod, calls) = (Pod::good().await, GrpcPod::echo().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[pod.address]), ("sums-a", &[calls.address])]);
    let one = |name: &str| crate::world::table(name, 1, (1, 0), &[(&format!("{name}-a"), 1_000_000, None)]);
    assert!(world.router.keeper.listed([one("digits"), one("sums")]).is_empty());
    let client = Http2::connect(world.address).await;
    let asked = (0..300_usize).map(|size| {
        let client = client.clone();
        async move {
            if size % 3 == 0 {
                let mut request = post(
                    "/inference.GRPCInferenceService/ModelInfer",
                    &[("content-type", "application/grpc")],
                    whole(message("x")),
                );
                *request.uri_mut() = "http://sums/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
                let got = Called::read(client.send(request).await.unwrap()).await;
                assert_eq!((got.status(), got.body), (0, message("x")));
            } else {
                let (status, body) = client.infer(vec![7; size * 100]).await.unwrap();
                assert_eq!((status, body), (200, (size * 100).to_string().into()));
            }
        }
    });
    futures::future::join_all(asked).await;
    assert_eq!((pod.hits(), calls.hits()), (200, 100));
    // HTTP/1.1 beside it.
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);
    assert_eq!(world.counted(1, 0, "digits-a"), (201, 0));
}

#[tokio::test]
async fn a_request_over_http2_reaches_the_pod_as_http1() {
    let pod = Pod::with(echo_headers()).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let fields = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-kept", "1"),
        ("stoker-model", "other"),
        ("host", "elsewhere"),
    ];
    let mut request = post("/v2", &fields, whole(""));
    *request.method_mut() = http::Method::GET;
    let answer = client.send(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["stoker-revision"]),
        (200, &"digits-a".parse().unwrap())
    );
    assert!(!answer.headers().contains_key("connection"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen, serde_json::json!({"cookie": "a=1; b=2", "host": "digits", "x-kept": "1"}));
}

#[tokio::test]
async fn refusals_over_http2_are_read_and_the_connection_stays() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let (status, body) = client.infer(vec![0; 40 << 20]).await.unwrap();
    assert_eq!(status, 413, "{body:?}");
    let answer = client.send(post("/v1/predict", &[], whole(vec![0; 1 << 20]))).await.unwrap();
    assert_eq!(answer.status(), 404);
    drop(answer);
    assert_eq!(client.infer("{}").await.unwrap().0, 200);
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 0));
}

#[tokio::test]
async fn a_client_that_resets_its_request_is_no_error() {
    let gate = Arc::new(Semaphore::new(0));
    let pod = Pod::with(gated(&gate)).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let mut sender = client.sender.clone();
    let asked = sender.send_request(post("/v2/models/digits/infer", &[], whole("{}")));
    eventually("the pod has it", || pod.hits() == 1).await;
    drop(asked);
    eventually("nothing is in flight", || world.in_flight("digits-a") == Some(0)).await;
    gate.add_permits(1);
    assert_eq!(client.infer("{}").await.unwrap().0, 200);
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 0));
}

#[tokio::test]
async fn a_request_that_is_cancelled_half_way_does_not_reach_the_pod() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    for _ in 0..20 {
        let (sender, body) = piecewise();
        sender.unbounded_send(Ok(Frame::data(vec![b'x'; 1000].into()))).unwrap();
        let asked = client.sender.clone().send_request(post("/v2/models/digits/infer", &[], body));
        assert_eq!(client.infer("{}").await.unwrap(), (200, "2".into()));
        drop(asked);
        assert_eq!(client.infer("{}").await.unwrap(), (200, "2".into()));
    }
    assert_eq!((pod.hits(), world.counted(1, 0, "digits-a")), (40, (40, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_drains_finishes_open_streams() {
    let gate = Arc::new(Semaphore::new(0));
    let pod = Pod::with(gated(&gate)).await;
    let mut world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        asked.spawn(async move { client.infer("{}").await.unwrap().0 });
    }
    eventually("all are at the pod", || pod.hits() == 50).await;
    world.drain.leave();
    // No new requests on this connection; another one is still served.
    let mut tries = 0;
    while client.send(post("/unknown", &[], whole(""))).await.is_ok() {
        tries += 1;
        assert!(tries < 10_000, "the client was never told");
    }
    let late = Http2::connect(world.address).await;
    let later = tokio::spawn(async move { late.infer("{}").await.unwrap().0 });
    eventually("it is at the pod", || pod.hits() == 51).await;
    world.drain.close();
    gate.add_permits(51);
    while let Some(status) = asked.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(later.await.unwrap(), 200);
    assert_eq!((&mut world.task).await.unwrap(), Finished { cut: 0 });
    assert_eq!(world.counted(1, 0, "digits-a"), (51, 0));
}

/// The router's GOAWAY named an earlier stream as its last: RFC 9113, 6.8 says that this one was not processed and may be sent again.
/// It happens where a client's answer to the router's PING overtakes a request that it has queued.
fn never_taken(why: &hyper::Error) -> bool {
    let source = std::error::Error::source(why).and_then(|source| source.downcast_ref::<h2::Error>());
    source
        .is_some_and(|end| end.is_go_away() && end.is_remote() && end.reason() == Some(h2::Reason::NO_ERROR))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_under_load_fails_no_request_over_http2() {
    let pod = Pod::good().await;
    let world = Arc::new(World::with_pods(settings(), &[pod.address]).await);
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        clients.spawn(async move {
            let mut client = Http2::connect(world.address).await;
            while done.fetch_add(1, Ordering::Relaxed) < 3000 {
                // A well-behaved client: told that there is an end, it opens another connection.
                if client.sender.is_closed() {
                    client = Http2::connect(world.address).await;
                }
                let request = post("/v2/models/digits/infer", &[], whole("{}"));
                let answer = match client.sender.clone().try_send_request(request).await {
                    Ok(answer) => answer,
                    Err(mut error) => {
                        // Told while it was about to send: nothing was sent. Or it was sent after all that the router still takes.
                        let unsent = error.take_message();
                        let why = error.into_error();
                        assert!(unsent.is_some() || never_taken(&why), "{why:?}");
                        client = Http2::connect(world.address).await;
                        let again = || post("/v2/models/digits/infer", &[], whole("{}"));
                        client.send(unsent.unwrap_or_else(again)).await.unwrap()
                    }
                };
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap();
            }
        });
    }
    eventually("load", || done.load(Ordering::Relaxed) > 500).await;
    world.drain.leave();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    world.drain.close();
    eventually("the router has ended", || world.task.is_finished()).await;
    assert_eq!(world.counted(1, 0, "digits-a").1, 0);
}
