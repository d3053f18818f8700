//! Requests that a pod turns away before it begins with them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};

use crate::calls::{GrpcPod, Http2, answer, message, whole};
use crate::world::{Behaviour, Pod, World, http, settings, table};

/// A behaviour: answers with a status, and says that nothing was begun.
fn turns_away(status: StatusCode) -> Behaviour {
    Arc::new(move |request| {
        Box::pin(async move {
            drop(request.into_body().collect().await);
            let mut answer = Response::new(Full::new(Bytes::from_static(b"busy")));
            *answer.status_mut() = status;
            answer.headers_mut().insert("stoker-untouched", "deadline".parse().unwrap());
            answer.headers_mut().insert("retry-after", "7".parse().unwrap());
            answer
        })
    })
}

async fn busy() -> Pod {
    Pod::with(turns_away(StatusCode::SERVICE_UNAVAILABLE)).await
}

#[tokio::test]
async fn another_pod_takes_them_and_the_one_that_is_busy_is_not_ejected() {
    let (full, good) = (busy().await, Pod::good().await);
    let world = World::with_pods(settings(), &[full.address, good.address]).await;
    let client = http();
    for _ in 0..200 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    let counts = &world.router.counts;
    // It answers quickly, and does not look quick for that.
    assert!((1..100).contains(&full.hits()), "{}", full.hits());
    assert_eq!(good.hits(), 200);
    // In its arm it is a failure all the same: somebody had to do its work.
    assert_eq!(world.counted(1, 0, "digits-a"), (200 + full.hits(), full.hits()));
    assert_eq!((counts.elsewhere.get(), counts.retries.get()), (full.hits(), 0), "out of no budget");
    let revision = world.router.plane.revisions().values().next().cloned().unwrap();
    assert_eq!((revision.ejections(), revision.in_flight()), (0, 0));
}

#[tokio::test]
async fn a_candidate_that_turns_all_away_is_stood_in_for_by_stable() {
    let (stable, candidate) = (Pod::good().await, busy().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(table(
        "digits",
        1,
        (3, 1),
        &[("digits-a", 0, None), ("digits-b", 1_000_000, Some("digits-a"))],
    ));
    let client = http();
    // More than a budget of a fifth would allow.
    for _ in 0..200 {
        let got = world.infer(&client, "{}").await.unwrap();
        assert_eq!((got.status, got.revision()), (200, "digits-a"));
    }
    assert_eq!((world.counted(3, 1, "digits-b"), world.counted(3, 1, "digits-a")), ((200, 200), (200, 0)));
}

#[tokio::test]
async fn when_all_are_busy_the_refusal_is_passed_on_and_few_are_asked_twice() {
    let (one, other) = (busy().await, busy().await);
    let world = World::with_pods(settings(), &[one.address, other.address]).await;
    let client = http();
    for _ in 0..400 {
        let got = world.infer(&client, "{}").await.unwrap();
        assert_eq!((got.status, &got.body[..]), (503, &b"busy"[..]));
        assert_eq!(got.headers["retry-after"], "7");
        assert!(!got.headers.contains_key("stoker-untouched"), "it is not for clients");
    }
    let twice = world.router.counts.elsewhere.get();
    assert!((20..80).contains(&twice), "{twice}");
    assert_eq!(one.hits() + other.hits(), 400 + twice);
    // There is nobody else to ask.
    let single = busy().await;
    world.pods(&[("digits-a", &[single.address])]);
    assert_eq!(world.infer(&client, "{}").await.unwrap().status, 503);
    assert_eq!((single.hits(), world.router.counts.held.get()), (1, 0));
}

#[tokio::test]
async fn what_was_begun_or_answered_is_not_sent_again() {
    for behaviour in [crate::world::answer(StatusCode::SERVICE_UNAVAILABLE), turns_away(StatusCode::OK)] {
        let (pod, other) = (Pod::with(Arc::clone(&behaviour)).await, Pod::with(behaviour).await);
        let world = World::with_pods(settings(), &[pod.address, other.address]).await;
        for _ in 0..4 {
            world.infer(&http(), "{}").await.unwrap();
        }
        assert_eq!((pod.hits() + other.hits(), world.router.counts.elsewhere.get()), (4, 0));
    }
    // Nor what cannot be: the body is too long to be kept.
    let (full, good) = (busy().await, busy().await);
    let world = World::with_pods(settings(), &[full.address, good.address]).await;
    let got = world.infer(&http(), vec![b'x'; 2 << 20]).await.unwrap();
    assert_eq!((got.status, full.hits() + good.hits()), (503, 1));
}

#[tokio::test]
async fn calls_go_elsewhere_too() {
    let full = GrpcPod::with(|_| async {
        let mut answer = answer(whole(""));
        answer.headers_mut().insert("grpc-status", "14".parse().unwrap());
        answer.headers_mut().insert("stoker-untouched", "queue".parse().unwrap());
        answer
    })
    .await;
    let good = GrpcPod::echo().await;
    let world = World::with_pods(settings(), &[full.address, good.address]).await;
    let client = Http2::connect(world.address).await;
    for _ in 0..100 {
        assert_eq!(client.call("ModelInfer", &[], message("x")).await.status(), 0);
    }
    assert!(full.hits() >= 1, "it was never asked");
    assert_eq!((good.hits(), world.router.counts.elsewhere.get()), (100, full.hits()));
    assert_eq!(world.counted(1, 0, "digits-a"), (100 + full.hits(), full.hits()));
    assert_eq!(world.in_flight("digits-a"), Some(0));
    // Of both alone the client is told.
    world.pods(&[("digits-a", &[full.address])]);
    let got = client.call("ModelInfer", &[], message("x")).await;
    assert_eq!((got.status(), got.headers.contains_key("stoker-untouched")), (14, false));
}
