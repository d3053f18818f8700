//! Leaving: who is still served, and when the listener ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stoker_edge::drain::Phase;
use stoker_edge::listen::{Finished, Limits};

use crate::server::{Server, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_under_load_fails_no_request() {
    let server = Arc::new(Server::new(Limits::default()).await);
    let answers = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (server, answers) = (Arc::clone(&server), Arc::clone(&answers));
            tokio::spawn(async move {
                // A well-behaved client: it keeps its connection until it is asked to close, and does not come back
                // once the process is closing.
                let mut client = server.connect().await;
                while server.drain.phase() < Phase::Closing {
                    let answer = client.ask("/").await;
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                    answers.fetch_add(1, Ordering::Relaxed);
                    if answer.contains("connection: close") {
                        assert_eq!(client.rest().await, "");
                        if answers.load(Ordering::Relaxed) > 1000 {
                            return;
                        }
                        client = server.connect().await;
                    }
                }
            })
        })
        .collect();
    eventually("load", || answers.load(Ordering::Relaxed) > 200).await;
    server.drain.leave();
    for client in clients {
        client.await.unwrap();
    }
    server.drain.close();
    eventually("the listener has ended", || server.task.is_finished()).await;
}

#[tokio::test]
async fn requests_under_way_finish_and_idle_connections_close() {
    let mut server = Server::new(Limits::default()).await;
    let (mut busy, mut idle, mut fresh) =
        (server.connect().await, server.connect().await, server.connect().await);
    assert!(idle.ask("/").await.starts_with("HTTP/1.1 200"));
    busy.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    eventually("all are open", || server.stats.open.get() == 3).await;
    server.drain.leave();
    server.drain.close();
    assert_eq!(idle.rest().await, "");
    assert_eq!(fresh.rest().await, "");
    let answer = busy.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!((&mut server.task).await.unwrap(), Finished { cut: 0 });
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_is_cut() {
    let mut server = Server::new(Limits::default()).await;
    let mut stuck = server.connect().await;
    stuck.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    eventually("it is open", || server.stats.open.get() == 1).await;
    server.drain.close();
    assert_eq!((&mut server.task).await.unwrap(), Finished { cut: 1 });
    assert_eq!(stuck.rest().await, "");
}
