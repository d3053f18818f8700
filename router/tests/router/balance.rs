//! Pods that fail, stall or have just come: who is asked, how often again, and what is counted.

use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpListener;

use crate::world::{Pod, World, answer, closed_port, http, settings, table};

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_and_counted() {
    let (dead, good) = (closed_port().await, Pod::good().await);
    let world = World::with_pods(settings(), &[dead, good.address]).await;
    let client = http();
    for _ in 0..40 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    let (attempts, errors) = world.counted(1, 0, "digits-a");
    assert_eq!((attempts - errors, errors), (40, world.router.counts.retries.get()));
    // A failure makes it look slow, and five in a row end it.
    assert!((1..=5).contains(&errors), "{errors}");
}

#[tokio::test]
async fn a_pod_that_fails_each_time_is_ejected_and_its_failures_are_counted() {
    let broken = Pod::with(answer(StatusCode::INTERNAL_SERVER_ERROR)).await;
    let good = Pod::good().await;
    let world = World::with_pods(settings(), &[broken.address]).await;
    let client = http();
    // An answer is an answer: it is passed on, not tried elsewhere. Alone, the pod is used whatever it does.
    for _ in 0..10 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 500);
    }
    assert_eq!((world.counted(1, 0, "digits-a"), world.router.counts.retries.get()), ((10, 10), 0));
    world.pods(&[("digits-a", &[broken.address, good.address])]);
    for _ in 0..50 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    assert_eq!((broken.hits(), good.hits()), (10, 50));
    assert_eq!(world.counted(1, 0, "digits-a"), (60, 10));
}

#[tokio::test]
async fn a_pod_that_accepts_and_never_answers_holds_up_few_requests() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Pod::good().await;
    let mut hasty = settings();
    hasty.request_timeout = Duration::from_millis(200);
    let world = World::with_pods(hasty, &[silent.local_addr().unwrap(), good.address]).await;
    let client = http();
    let mut late = 0;
    for _ in 0..100 {
        match world.infer(&client, "{}").await.unwrap().status {
            200 => {}
            504 => late += 1,
            other => panic!("{other}"),
        }
    }
    assert!((1..=5).contains(&late), "{late}");
    assert_eq!(world.counted(1, 0, "digits-a"), (100, late));
}

#[tokio::test]
async fn impatient_clients_do_not_make_a_silent_pod_look_idle() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Pod::good().await;
    let world = World::with_pods(settings(), &[silent.local_addr().unwrap(), good.address]).await;
    let client = http();
    let mut gone = 0;
    for _ in 0..100 {
        let answer = tokio::time::timeout(Duration::from_millis(300), world.infer(&client, "{}")).await;
        gone += u32::from(answer.is_err());
    }
    assert!((1..=5).contains(&gone), "{gone}");
}

#[tokio::test]
async fn when_all_pods_are_gone_only_the_budget_is_tried_again() {
    let (one, other) = (closed_port().await, closed_port().await);
    let world = World::with_pods(settings(), &[one, other]).await;
    let client = http();
    for _ in 0..100 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 502);
    }
    let counts = &world.router.counts;
    // 3 a second are always allowed; a fifth of 100 is less.
    assert_eq!(counts.retries.get(), 30);
    assert_eq!(counts.retries.get() + counts.retries_denied.get(), 100);
    // Both are used although both should be out, and every attempt counts.
    let attempts = 100 + counts.retries.get();
    assert_eq!(world.counted(1, 0, "digits-a"), (attempts, attempts));
}

#[tokio::test]
async fn the_next_table_goes_on_with_the_budget() {
    let (one, other) = (closed_port().await, closed_port().await);
    let world = World::with_pods(settings(), &[one, other]).await;
    let client = http();
    for generation in 2..52 {
        world.infer(&client, "{}").await.unwrap();
        world.serve(table("digits", generation, (1, 0), &[("digits-a", 1_000_000, None)]));
    }
    assert!(world.router.counts.retries_denied.get() > 0);
}

#[tokio::test]
async fn a_new_pod_is_warmed_by_few_requests_and_not_judged_by_its_speed() {
    let (old, new) = (Pod::good().await, Pod::good().await);
    let world = World::with_pods(settings(), &[old.address]).await;
    let client = http();
    // Alone in its revision a pod has all requests, and is judged by them.
    world.infer(&client, "{}").await.unwrap();
    assert_eq!(world.router.plane.ledger.read("digits")[0].latency.count(), 1);
    tokio::time::sleep(stoker_decide::balance::ramp::WINDOW).await;

    world.pods(&[("digits-a", &[old.address, new.address])]);
    for _ in 0..400 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    // A tenth of its half at first, and some more while the seconds pass.
    assert!((1..=140).contains(&new.hits()), "{}", new.hits());
    let arm = &world.router.plane.ledger.read("digits")[0];
    // What it does meanwhile is no evidence.
    assert_eq!((arm.attempts, arm.errors), (old.hits(), 0));
    assert_eq!(arm.latency.count(), old.hits());
    assert_eq!(world.router.plane.ledger.totals("digits")["digits-a"].attempts, 401);
}
