//! gRPC through the router: what passes, what is counted, and what the router says by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedSender;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::calls::{Called, GrpcPod, Http2, answer, message, piecewise, post, reply, trailers, whole};
use crate::world::{Pod, World, closed_port, eventually, settings, table};

type Frames = fn() -> Vec<Frame<Bytes>>;

/// A pod that answers each call with these frames.
async fn pod_with(frames: Frames) -> GrpcPod {
    GrpcPod::with(move |request| async move {
        drop(request.into_body().collect().await);
        reply(frames())
    })
    .await
}

/// A pod whose stream answers each message by itself, and counts the streams that the router broke off.
async fn stream_pod() -> (GrpcPod, Arc<AtomicU64>) {
    let broken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&broken);
    let pod = GrpcPod::with(move |request| {
        let broken = Arc::clone(&counted);
        async move {
            let (sender, body) = piecewise();
            let mut messages = request.into_body().into_data_stream();
            tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    let Ok(message) = message else {
                        broken.fetch_add(1, Ordering::Relaxed);
                        return;
                    };
                    let _ = sender.unbounded_send(Ok(Frame::data(message)));
                }
                let _ = sender.unbounded_send(Ok(Frame::trailers(trailers(&[("grpc-status", "0")]))));
            });
            answer(body)
        }
    })
    .await;
    (pod, broken)
}

#[tokio::test]
async fn a_call_passes_with_its_trailers() {
    let pod = GrpcPod::echo().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let fields = [("grpc-timeout", "5S"), ("x-kept", "1"), ("stoker-model", "digits")];
    let got = client.call("ModelInfer", &fields, message("hello")).await;
    assert_eq!((got.http, got.status(), &got.body), (200, 0, &message("hello")));
    assert_eq!(got.headers["stoker-revision"], "digits-a");
    assert_eq!(got.trailers(), [("grpc-status".into(), "0".into()), ("x-cost".into(), "3".into())]);
    let seen = pod.seen.lock().unwrap().clone();
    assert_eq!(
        (&seen["x-authority"], &seen["te"], &seen["x-kept"]),
        (&"digits".parse().unwrap(), &"trailers".parse().unwrap(), &"1".parse().unwrap())
    );
    assert!(!seen.contains_key("stoker-model") && !seen.contains_key("host"), "{seen:?}");
    let left = seen["grpc-timeout"].to_str().unwrap();
    let left: u64 = left.strip_suffix('u').unwrap().parse().unwrap();
    assert!((1..5_000_000).contains(&left), "{left}");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 0));

    // Another host, and a header that names the model.
    let mut request = post(
        "/inference.GRPCInferenceService/ServerReady",
        &[("content-type", "application/grpc+proto"), ("stoker-model", "digits")],
        whole(message("")),
    );
    *request.uri_mut() = "http://127.0.0.1:8080/inference.GRPCInferenceService/ServerReady".parse().unwrap();
    let got = Called::read(client.send(request).await.unwrap()).await;
    assert_eq!(got.status(), 0);
}

#[tokio::test]
async fn the_status_in_the_trailers_decides() {
    let failing: [(Frames, i32); 4] = [
        (|| vec![Frame::data(message("x")), Frame::trailers(trailers(&[("grpc-status", "5")]))], 5),
        (|| vec![Frame::trailers(trailers(&[("grpc-status", "14"), ("grpc-message", "busy")]))], 14),
        (|| vec![Frame::data(message("x")), Frame::trailers(trailers(&[("x-cost", "1")]))], 2),
        (|| vec![Frame::data(message("x"))], 2),
    ];
    for (frames, status) in failing {
        let pod = pod_with(frames).await;
        let world = World::with_pods(settings(), &[pod.address]).await;
        let got = Http2::connect(world.address).await.call("ModelInfer", &[], message("x")).await;
        assert_eq!((got.http, got.status()), (200, status), "{got:?}");
        assert_eq!(world.counted(1, 0, "digits-a"), (1, 1), "{status}");
        assert_eq!(world.in_flight("digits-a"), Some(0));
    }
}

#[tokio::test]
async fn the_status_in_the_headers_of_an_answer_without_body_counts_too() {
    for (status, errors) in [("0", 0), ("3", 1)] {
        let pod = GrpcPod::with(move |_| async move {
            let mut answer = answer(whole(""));
            answer.headers_mut().insert("grpc-status", status.parse().unwrap());
            answer
        })
        .await;
        let world = World::with_pods(settings(), &[pod.address]).await;
        let got = Http2::connect(world.address).await.call("ModelInfer", &[], message("x")).await;
        assert_eq!((got.status().to_string(), got.trailers), (status.to_owned(), None));
        assert_eq!(world.counted(1, 0, "digits-a"), (1, errors));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_a_status_and_is_an_error() {
    let pod = GrpcPod::with(|_| async {
        let (sender, body) = piecewise();
        sender.unbounded_send(Ok(Frame::data(message("half")))).unwrap();
        // Held open until the pod dies.
        tokio::spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        answer(body)
    })
    .await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let answer = client.open("ModelInfer", &[], whole(message("x"))).await;
    pod.kill().await;
    let got = Called::read(answer).await;
    assert_eq!((got.status(), &got.body), (14, &message("half")), "{got:?}");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
}

#[tokio::test]
async fn streams_pass_message_by_message() {
    let (pod, broken) = stream_pod().await;
    let mut small = settings();
    // Neither kept nor bounded: a stream has no length.
    (small.buffer_limit, small.max_body) = (8, 16);
    let world = World::with_pods(small, &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let (sender, body) = piecewise();
    sender.unbounded_send(Ok(Frame::data(message("first")))).unwrap();
    let mut answers = client.open("ModelStreamInfer", &[], body).await.into_body();
    for text in ["first", "second, which is longer", "third"] {
        if text != "first" {
            sender.unbounded_send(Ok(Frame::data(message(text)))).unwrap();
        }
        let got = answers.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(got, message(text));
    }
    assert_eq!(world.in_flight("digits-a"), Some(1));
    drop(sender);
    let end = answers.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(end["grpc-status"], "0");
    eventually("it is counted", || world.counted(1, 0, "digits-a") == (1, 0)).await;
    assert_eq!((broken.load(Ordering::Relaxed), world.in_flight("digits-a")), (0, Some(0)));
}

#[tokio::test]
async fn open_streams_of_a_revision_can_be_ended() {
    let (pod, broken) = stream_pod().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (sender, body) = piecewise();
        sender.unbounded_send(Ok(Frame::data(message("x")))).unwrap();
        let mut answers = client.open("ModelStreamInfer", &[], body).await.into_body();
        assert_eq!(answers.frame().await.unwrap().unwrap().into_data().unwrap(), message("x"));
        streams.push((sender, answers));
    }
    let revisions = world.router.plane.revisions().clone();
    let revision = &revisions[&("digits".to_owned(), "digits-a".to_owned())];
    assert_eq!(revision.in_flight(), 3);
    revision.end_streams();
    for (_sender, answers) in &mut streams {
        let end = answers.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(end["grpc-status"], "14");
        assert!(end["grpc-message"].to_str().unwrap().contains("taken out of service"), "{end:?}");
    }
    // The pod is told, though the clients have not ended their side; nobody is blamed.
    eventually("the pod sees the end", || broken.load(Ordering::Relaxed) == 3).await;
    eventually("nothing is in flight", || revision.in_flight() == 0).await;
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));
    assert_eq!(world.router.counts.ended.get(), 3);
    // What opens later is another matter, and so is a call with one answer.
    let got = client.call("ModelStreamInfer", &[], message("again")).await;
    assert_eq!((got.status(), got.body), (0, message("again")));
}

#[tokio::test]
async fn a_stream_that_waits_for_its_first_answer_can_be_ended() {
    let pod = GrpcPod::with(|_| std::future::pending()).await;
    let world = Arc::new(World::with_pods(settings(), &[pod.address]).await);
    let client = Http2::connect(world.address).await;
    let waiting = tokio::spawn(async move { client.call("ModelStreamInfer", &[], message("x")).await });
    eventually("the pod has it", || pod.hits() == 1).await;
    let revisions = world.router.plane.revisions().clone();
    for revision in revisions.values() {
        revision.end_streams();
    }
    let got = waiting.await.unwrap();
    assert_eq!((got.status(), &got.headers["grpc-retry-pushback-ms"]), (14, &"1000".parse().unwrap()));
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));
    assert_eq!(world.in_flight("digits-a"), Some(0));
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere() {
    let (dead, good) = (closed_port().await, GrpcPod::echo().await);
    let world = World::with_pods(settings(), &[dead, good.address]).await;
    let client = Http2::connect(world.address).await;
    for _ in 0..10 {
        assert_eq!(client.call("ModelInfer", &[], message("x")).await.status(), 0);
    }
    let (attempts, errors) = world.counted(1, 0, "digits-a");
    assert_eq!((attempts - errors, errors), (10, world.router.counts.retries.get()));
    assert!(errors >= 1, "the dead pod was never tried");
}

#[tokio::test]
async fn a_stream_whose_pod_refuses_is_served_by_the_fallback() {
    let (stable, _) = stream_pod().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[closed_port().await])]);
    world.serve(table(
        "digits",
        1,
        (3, 1),
        &[("digits-a", 0, None), ("digits-b", 1_000_000, Some("digits-a"))],
    ));
    let got = Http2::connect(world.address).await.call("ModelStreamInfer", &[], message("x")).await;
    assert_eq!(
        (got.status(), got.body, &got.headers["stoker-revision"]),
        (0, message("x"), &"digits-a".parse().unwrap())
    );
    assert_eq!((world.counted(3, 1, "digits-b"), world.counted(3, 1, "digits-a")), ((1, 1), (1, 0)));
}

#[tokio::test]
async fn the_router_refuses_in_the_words_of_grpc() {
    let pod = GrpcPod::echo().await;
    let mut hasty = settings();
    (hasty.hold, hasty.max_body) = (Duration::from_millis(50), 1000);
    let world = World::with_pods(hasty, &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let got = client.call("RepositoryModelLoad", &[], message("x")).await;
    assert_eq!(
        (got.http, got.status(), &got.headers["content-type"]),
        (200, 12, &"application/grpc".parse().unwrap())
    );
    assert!(got.message().contains("ModelInfer") && got.trailers.is_none(), "{got:?}");
    assert_eq!(client.call("ModelInfer", &[("grpc-timeout", "soon")], message("x")).await.status(), 3);
    let got = client.call("ModelInfer", &[], vec![0; 1001]).await;
    assert_eq!((got.status(), got.message()), (8, "the body is longer than the limit of 1000 bytes"));
    assert_eq!((pod.hits(), world.counted(1, 0, "digits-a")), (0, (0, 0)));
    world.pods(&[]);
    let got = client.call("ModelInfer", &[], message("x")).await;
    assert_eq!((got.status(), &got.headers["grpc-retry-pushback-ms"]), (14, &"1000".parse().unwrap()));
    world.router.keeper.listed(Vec::<stoker_api::ModelRoute>::new());
    let got = client.call("ModelInfer", &[], message("x")).await;
    assert_eq!(got.status(), 5, "{got:?}");
}

#[tokio::test]
async fn the_clients_deadline_is_kept() {
    let pod = GrpcPod::with(|_| std::future::pending()).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let got = client.call("ModelInfer", &[("grpc-timeout", "100m")], message("x")).await;
    assert_eq!(got.status(), 4, "{got:?}");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
    // Also once the answer has begun.
    let (pod, broken) = stream_pod().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    let (_sender, body) = piecewise();
    let got = Called::read(client.open("ModelStreamInfer", &[("grpc-timeout", "100m")], body).await).await;
    assert_eq!((got.status(), got.trailers.is_some()), (4, true), "{got:?}");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
    eventually("the pod is told", || broken.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_error_and_the_pod_is_told() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let answering = Arc::clone(&open);
    let pod = GrpcPod::with(move |_| {
        let (sender, body) = piecewise();
        sender.unbounded_send(Ok(Frame::data(message("first")))).unwrap();
        answering.lock().unwrap().push(sender);
        async move { answer(body) }
    })
    .await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    for method in ["ModelStreamInfer", "ModelInfer"] {
        let mut answers = client.open(method, &[], whole(message("x"))).await.into_body();
        assert_eq!(answers.frame().await.unwrap().unwrap().into_data().unwrap(), message("first"));
        assert_eq!(world.in_flight("digits-a"), Some(1));
        drop(answers);
        eventually("nothing is in flight", || world.in_flight("digits-a") == Some(0)).await;
    }
    eventually("the pod is told", || open.lock().unwrap().iter().all(UnboundedSender::is_closed)).await;
    assert_eq!(
        (pod.hits(), world.counted(1, 0, "digits-a"), world.router.counts.aborted.get()),
        (2, (0, 0), 2)
    );
}

#[tokio::test]
async fn a_pod_that_leaves_politely_is_no_harm() {
    // Alone every call goes to it; beside another one, as its answers are awaited.
    for staying in 0..=1 {
        let leaving = GrpcPod::echo().await;
        let mut pods = vec![leaving.address];
        let other = GrpcPod::echo().await;
        pods.extend((0..staying).map(|_| other.address));
        let world = World::with_pods(settings(), &pods).await;
        let client = Http2::connect(world.address).await;
        for call in 0..200 {
            if call % 50 == 25 {
                leaving.leave();
            }
            assert_eq!(client.call("ModelInfer", &[], message("x")).await.status(), 0, "call {call}");
        }
        assert_eq!(world.counted(1, 0, "digits-a"), (200, 0));
        // It is connected to anew after each time that it left.
        let opened = leaving.opened.load(Ordering::Relaxed);
        let expected = if staying == 0 { 5..=5 } else { 0..=5 };
        assert!(expected.contains(&opened), "{opened} connections beside {staying} others");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_dies_under_load_fails_only_calls_whose_answer_had_begun() {
    let (first, second) = (GrpcPod::echo().await, GrpcPod::echo().await);
    let mut patient = settings();
    patient.hold = Duration::from_secs(5);
    let world = World::with_pods(patient, &[first.address, second.address]).await;
    let done = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (client, done) = (Http2::connect(world.address).await, Arc::clone(&done));
        callers.spawn(async move {
            let mut broken = 0;
            for call in 0..150 {
                let got = client.call("ModelInfer", &[], message("x")).await;
                // What the client has a part of cannot be asked for again.
                let begun = got.trailers.as_ref().and_then(|trailers| trailers.get("grpc-message"));
                if begun.is_some_and(|message| message == "the pod broke its answer off") {
                    broken += 1;
                } else {
                    assert_eq!(got.status(), 0, "call {call}: {got:?}");
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            broken
        });
    }
    eventually("load", || done.load(Ordering::Relaxed) > 200).await;
    first.kill().await;
    let mut broken = 0;
    while let Some(caller) = callers.join_next().await {
        broken += caller.unwrap();
    }
    // Each caller has one call at a time, and the pod died once.
    assert!(broken <= 8, "{broken}");
    let (attempts, errors) = world.counted(1, 0, "digits-a");
    assert_eq!(attempts - errors, 1200 - broken);
}

#[tokio::test]
async fn connections_to_pods_are_shared_and_end_with_the_pod() {
    let pod = GrpcPod::echo().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = Http2::connect(world.address).await;
    for _ in 0..3 {
        let calls = (0..90).map(|_| client.call("ModelInfer", &[], message("x")));
        for got in futures::future::join_all(calls).await {
            assert_eq!(got.status(), 0);
        }
    }
    assert_eq!((pod.hits(), pod.opened.load(Ordering::Relaxed), pod.open()), (270, 1, 1));
    world.pods(&[("digits-a", &[])]);
    eventually("the connection is closed", || pod.open() == 0).await;
}

#[tokio::test]
async fn a_pod_without_http2_is_said_to_have_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let world = World::with_pods(settings(), &[address]).await;
    let got = Http2::connect(world.address).await.call("ModelInfer", &[], message("x")).await;
    assert_eq!(got.status(), 12, "{got:?}");
    assert!(got.message().contains("does not speak gRPC"), "{got:?}");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));

    // One that hangs up instead may be a pod that is starting.
    let mut hasty = settings();
    hasty.hold = Duration::from_millis(50);
    let pod = Pod::good().await;
    let world = World::with_pods(hasty, &[pod.address]).await;
    let got = Http2::connect(world.address).await.call("ModelInfer", &[], message("x")).await;
    assert_eq!((got.status(), pod.hits()), (14, 0), "{got:?}");
}
