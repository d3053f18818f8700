//! Each limit, met by a client that goes beyond it.

use std::time::Duration;

use stoker_edge::listen::Limits;

use crate::server::{Server, eventually};

/// Short enough for a test, and in an order that shows which one it was.
fn short() -> Limits {
    Limits {
        header_time: Duration::from_millis(200),
        idle_time: Duration::from_millis(600),
        write_time: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let server = Server::new(Limits { header_bytes: 8 << 10, ..Limits::default() }).await;
    for header in [format!("x: {}\r\n", "a".repeat(9 << 10)), "x: 1\r\n".repeat(150)] {
        let mut client = server.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\n{header}\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let mut client = server.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(7 << 10))).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_comes_slowly_is_cut_though_bytes_keep_coming() {
    let server = Server::new(Limits { idle_time: Duration::from_mins(5), ..short() }).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\n").await;
    let dripped = tokio::spawn(async move {
        let mut drops = 0;
        // Far more time than a head may take, in pauses far below it.
        while drops < 1000 {
            if tokio::io::AsyncWriteExt::write_all(&mut client.0, b"x: 1\r\n").await.is_err() {
                break;
            }
            drops += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drops
    });
    assert!(dripped.await.unwrap() < 1000, "the connection was never cut");
    eventually("the connection is gone", || server.stats.open.get() == 0).await;
}

#[tokio::test]
async fn a_second_head_has_the_same_time_as_the_first() {
    let server = Server::new(Limits { idle_time: Duration::from_mins(5), ..short() }).await;
    let mut client = server.connect().await;
    assert!(client.ask("/").await.starts_with("HTTP/1.1 200"));
    client.send("GET / HT").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = Server::new(short()).await;
    let mut idle = server.connect().await;
    assert_eq!(idle.rest().await, "");
    // An answer that takes longer than a head may take is no slow head.
    let mut busy = server.connect().await;
    for _ in 0..4 {
        assert!(busy.ask("/wait").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn the_time_to_idle_begins_after_the_answer() {
    let server = Server::new(Limits { idle_time: Duration::from_secs(1), ..Limits::default() }).await;
    let mut client = server.connect().await;
    assert!(client.ask("/doze").await.starts_with("HTTP/1.1 200"));
    assert!(client.ask("/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_that_came_during_a_slow_answer_is_answered() {
    let server = Server::new(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(&"GET /late HTTP/1.1\r\nhost: x\r\n\r\n".repeat(3)).await;
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(10), client.answer()).await;
        assert!(answer.expect("it hangs").starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let server = Server::new(Limits { idle_time: Duration::from_mins(5), ..short() }).await;
    let mut client = server.connect().await;
    client.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    eventually("it is served", || server.stats.open.get() == 1).await;
    eventually("it is cut", || server.stats.open.get() == 0).await;
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so() {
    let server = Server::new(Limits { connections: 2, ..Limits::default() }).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    assert!(first.ask("/").await.starts_with("HTTP/1.1 200"));
    assert!(second.ask("/").await.starts_with("HTTP/1.1 200"));
    let mut third = server.connect().await;
    third.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = third.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("\"too many connections\"}\n"),
        "{answer}"
    );
    assert_eq!(server.stats.refused.get(), 1);
    drop(first);
    eventually("there is room", || server.stats.open.get() == 1).await;
    assert!(server.connect().await.ask("/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_panic_is_answered_and_ends_nothing() {
    let server = Server::new(Limits::default()).await;
    let mut other = server.connect().await;
    assert!(other.ask("/").await.starts_with("HTTP/1.1 200"));
    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("internal error"), "{answer}");
    assert!(!answer.contains("asked to"), "{answer}");
    assert!(other.ask("/").await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.stats.panics.get(), 1);
}

#[tokio::test]
async fn requests_in_one_packet_are_all_answered() {
    let server = Server::new(short()).await;
    let mut client = server.connect().await;
    client.send(&"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(5)).await;
    for _ in 0..5 {
        assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    }
}
