//! What strangers may take.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Behaviour, Pod, World, answer, eventually, http, settings};

#[tokio::test]
async fn a_body_of_100_mb_is_refused_with_a_message_and_the_router_lives() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let huge = Bytes::from(vec![0_u8; 100_000_000]);
    let got =
        world.infer(&http(), huge).await.expect("the refusal is read though the client is still sending");
    assert_eq!(got.status, 413);
    assert!(got.error().contains("33554432 bytes"), "{}", got.error());
    let huge = Bytes::from(vec![0_u8; 100_000_000]);
    let got = world.ask(&http(), Method::POST, "/v1/predict", &[("host", "digits")], huge).await;
    assert_eq!(got.expect("this refusal is read as well").status, 404);
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 200);
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 0));
}

#[tokio::test]
async fn a_chunked_body_that_grows_too_long_is_refused_and_not_counted() {
    let pod = Pod::good().await;
    let mut small = settings();
    (small.max_body, small.buffer_limit) = (2 << 20, 1 << 10);
    let world = World::with_pods(small, &[pod.address]).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream
        .write_all(
            b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move {
        let chunk = [b"10000\r\n", vec![b'x'; 0x10000].as_slice(), b"\r\n"].concat();
        for _ in 0..64 {
            if writer.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let _ = writer.write_all(b"0\r\n\r\n").await;
        writer
    });
    let mut head = vec![0; 12];
    reader.read_exact(&mut head).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&head), "HTTP/1.1 413");
    drop(sender.await.unwrap());
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));
    assert_eq!(world.in_flight("digits-a"), Some(0));
}

#[tokio::test]
async fn long_bodies_are_passed_on_whole() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let client = http();
    for size in [0, 1, 1 << 20, (1 << 20) + 1, 8 << 20] {
        let got = world.infer(&client, vec![1_u8; size]).await.unwrap();
        assert_eq!((got.status, got.body), (200, Bytes::from(size.to_string())));
    }
    assert_eq!(world.router.counts.unbuffered.get(), 2);
}

#[tokio::test]
async fn kept_bodies_share_a_budget() {
    let pod = Pod::good().await;
    let mut none = settings();
    none.buffer_total = 10;
    let world = World::with_pods(none, &[pod.address]).await;
    let got = world.infer(&http(), vec![1_u8; 11]).await.unwrap();
    assert_eq!((got.status, got.body), (200, Bytes::from("11")));
    assert_eq!(world.router.counts.unbuffered.get(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let pod = Pod::good().await;
    let mut hasty = settings();
    hasty.request_timeout = Duration::from_millis(200);
    let world = World::with_pods(hasty, &[pod.address]).await;
    let got = world
        .raw(b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\ncontent-length: 5\r\n\r\nab")
        .await;
    assert!(got.starts_with("HTTP/1.1 408"), "{got}");
    assert_eq!((pod.hits(), world.counted(1, 0, "digits-a")), (0, (0, 0)));
}

#[tokio::test]
async fn a_pod_that_does_not_answer_in_time_is_an_error_of_its_arm() {
    let never: Behaviour = Arc::new(|_| Box::pin(std::future::pending()));
    let pod = Pod::with(never).await;
    let mut hasty = settings();
    hasty.request_timeout = Duration::from_millis(200);
    let world = World::with_pods(hasty, &[pod.address]).await;
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!(got.status, 504);
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
    assert_eq!(world.in_flight("digits-a"), Some(0));
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_error_and_not_in_flight() {
    let never: Behaviour = Arc::new(|_| Box::pin(std::future::pending()));
    let pod = Pod::with(never).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream
        .write_all(b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\ncontent-length: 2\r\n\r\n{}")
        .await
        .unwrap();
    eventually("the pod has it", || pod.hits() == 1).await;
    assert_eq!(world.in_flight("digits-a"), Some(1));
    drop(stream);
    eventually("nothing is in flight", || world.in_flight("digits-a") == Some(0)).await;
    assert_eq!(world.counted(1, 0, "digits-a"), (0, 0));
}

#[tokio::test]
async fn older_clients_absolute_paths_and_upgrades_are_served_plainly() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let got = world.raw(b"GET /v2/models/digits HTTP/1.0\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.0 200") || got.starts_with("HTTP/1.1 200"), "{got}");
    let got = world.raw(b"GET http://digits/v2 HTTP/1.1\r\nhost: digits\r\nconnection: close\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    let upgrade =
        b"GET /v2 HTTP/1.1\r\nhost: digits\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n";
    let got = world.raw(upgrade).await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
}

#[tokio::test]
async fn expect_continue_is_answered_by_the_router() {
    let pod = Pod::good().await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\nexpect: 100-continue\r\nconnection: close\r\n";
    let got = world.raw(format!("{head}content-length: 2\r\n\r\n{{}}").as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 100") && got.contains("HTTP/1.1 200"), "{got}");
    let got = world.raw(format!("{head}content-length: 100000000\r\n\r\n").as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 413"), "{got}");
}

#[tokio::test]
async fn errors_of_pods_pass_unchanged() {
    let pod = Pod::with(answer(http::StatusCode::TOO_MANY_REQUESTS)).await;
    let world = World::with_pods(settings(), &[pod.address]).await;
    let got = world.ask(&http(), Method::GET, "/v2", &[("host", "digits")], "").await.unwrap();
    assert_eq!((got.status, got.revision()), (429, "digits-a"));
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
}
