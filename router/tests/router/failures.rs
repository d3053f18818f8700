//! Pods that die, connections that break, routers that leave: no request fails that could be served.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stoker_router::forward::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::world::{Pod, World, closed_port, eventually, http, settings, table};

/// Clients that ask without pause until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(u64, Vec<String>)>>,
    done: Arc<AtomicU64>,
}

impl Load {
    fn start(world: &Arc<World>, clients: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients).map(|_| {
            let (world, stop, done) = (Arc::clone(world), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let client = http();
                let (mut good, mut bad) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match world.infer(&client, "{}").await {
                        Some(got) if got.status == 200 => good += 1,
                        Some(got) => {
                            bad.push(format!("{}: {}", got.status, String::from_utf8_lossy(&got.body)));
                        }
                        // The client's own pool met a connection that is closing; a new one must do.
                        None if world.infer(&http(), "{}").await.is_some_and(|got| got.status == 200) => {
                            good += 1;
                        }
                        None => bad.push("no answer".into()),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                (good, bad)
            })
        });
        let clients = clients.collect();
        Self { stop, clients, done }
    }

    async fn after(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        eventually("more requests", || self.done.load(Ordering::Relaxed) >= goal).await;
    }

    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for client in self.clients {
            let (good, bad) = client.await.unwrap();
            assert!(bad.is_empty(), "{} requests failed: {:?}", bad.len(), &bad[..bad.len().min(5)]);
            total += good;
        }
        total
    }
}

fn patient() -> Settings {
    Settings { hold: Duration::from_secs(5), ..settings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_dies_under_load_fails_no_request() {
    let (first, second) = (Pod::good().await, Pod::good().await);
    let world = Arc::new(World::with_pods(patient(), &[first.address, second.address]).await);
    let load = Load::start(&world, 8);
    load.after(200).await;
    let address = second.address;
    first.kill().await;
    load.after(500).await;
    world.pods(&[("digits-a", &[address])]);
    load.after(200).await;
    load.finish().await;
    let (attempts, errors) = world.counted(1, 0, "digits-a");
    assert!(errors > 0 && attempts > errors, "{errors} of {attempts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_revisions_under_load_fails_no_request() {
    let (old, new) = (Pod::good().await, Pod::good().await);
    let world = Arc::new(World::with_pods(patient(), &[old.address]).await);
    let load = Load::start(&world, 8);
    let both: &[(&str, &[_])] = &[("digits-a", &[old.address]), ("digits-b", &[new.address])];
    world.pods(both);
    for (generation, ppm) in (2..).zip([100_000, 500_000, 1_000_000]) {
        load.after(100).await;
        let step = u32::try_from(generation).unwrap();
        world.serve(table(
            "digits",
            generation,
            (2, step),
            &[("digits-a", 1_000_000 - ppm, None), ("digits-b", ppm, Some("digits-a"))],
        ));
    }
    world.serve(table("digits", 9, (2, 9), &[("digits-b", 1_000_000, None)]));
    eventually("the old revision is idle", || world.in_flight("digits-a").is_none()).await;
    // Only now does it go, and nothing may reach for it.
    old.kill().await;
    world.pods(&[("digits-b", &[new.address])]);
    load.after(300).await;
    load.finish().await;
    for arm in world.router.plane.ledger.read("digits") {
        assert_eq!(arm.errors, 0, "{arm:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_drains_fails_no_request() {
    let pod = Pod::good().await;
    let leaving = Arc::new(World::with_pods(patient(), &[pod.address]).await);
    let load = Load::start(&leaving, 8);
    load.after(200).await;
    leaving.drain.leave();
    // Still served, each on a connection that closes.
    load.after(300).await;
    let got = leaving.infer(&http(), "{}").await.unwrap();
    assert_eq!((got.status, got.headers["connection"].to_str().unwrap()), (200, "close"));
    // Everyone else has noticed: the clients stop, and the port closes.
    load.finish().await;
    leaving.drain.close();
    eventually("the router has ended", || leaving.task.is_finished()).await;
}

#[tokio::test]
async fn a_failed_candidate_is_an_error_of_the_candidate_and_served_by_its_fallback() {
    let stable = Pod::good().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[closed_port().await])]);
    world.serve(table(
        "digits",
        1,
        (3, 1),
        &[("digits-a", 0, None), ("digits-b", 1_000_000, Some("digits-a"))],
    ));
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!((got.status, got.revision()), (200, "digits-a"));
    assert_eq!(world.counted(3, 1, "digits-b"), (1, 1));
    assert_eq!(world.counted(3, 1, "digits-a"), (1, 0));
}

#[tokio::test]
async fn nobody_left_is_a_bad_gateway_that_names_no_pod() {
    let dead = closed_port().await;
    let mut hasty = settings();
    hasty.hold = Duration::from_millis(50);
    let world = World::with_pods(hasty, &[dead]).await;
    let got = world.infer(&http(), "{}").await.unwrap();
    assert_eq!(got.status, 502);
    assert!(
        !got.error().contains("127.0.0.1") && !got.error().contains(&dead.port().to_string()),
        "{}",
        got.error()
    );
    assert_eq!(world.counted(1, 0, "digits-a"), (2, 2));
}

/// A pod that serves `each` requests on a connection and then closes it without a word; counts its connections.
async fn closing_pod(each: usize) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for _ in 0..each {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                }
                // Takes the next request and hangs up: what a race with an idle timeout looks like.
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_kept_connection_that_the_pod_closes_is_no_harm() {
    let (pod, connections) = closing_pod(1).await;
    let world = World::with_pods(settings(), &[pod]).await;
    let client = http();
    for _ in 0..20 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    assert_eq!(world.counted(1, 0, "digits-a"), (20, 0));
    assert_eq!(world.router.counts.races.get(), 19);
    assert_eq!(connections.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn a_pod_that_drops_every_request_is_harm() {
    let (pod, _) = closing_pod(0).await;
    let mut hasty = settings();
    hasty.hold = Duration::from_millis(50);
    let world = World::with_pods(hasty, &[pod]).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 502);
    assert_eq!(world.counted(1, 0, "digits-a"), (2, 2));
    assert_eq!(world.router.counts.races.get(), 0);
}

#[tokio::test]
async fn connections_to_pods_are_kept() {
    let (pod, connections) = closing_pod(1000).await;
    let world = World::with_pods(settings(), &[pod]).await;
    let client = http();
    for _ in 0..100 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        }
    });
    let world = World::with_pods(settings(), &[pod]).await;
    assert!(world.infer(&http(), "{}").await.is_none(), "a broken answer must not look whole");
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
    assert_eq!(world.in_flight("digits-a"), Some(0));
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_an_error_and_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"220 smtp.example.com ESMTP\r\n\r\n").await;
        }
    });
    let world = World::with_pods(settings(), &[pod]).await;
    assert_eq!(world.infer(&http(), "{}").await.unwrap().status, 502);
    assert_eq!(world.counted(1, 0, "digits-a"), (1, 1));
}

#[tokio::test]
async fn a_pod_that_answers_and_closes_is_served_by_the_next_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}")))) });
            let mut http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.keep_alive(false).serve_connection(TokioIo::new(stream), service));
        }
    });
    let world = World::with_pods(settings(), &[pod]).await;
    let client = http();
    for _ in 0..10 {
        assert_eq!(world.infer(&client, "{}").await.unwrap().status, 200);
    }
    assert_eq!((world.counted(1, 0, "digits-a"), world.router.counts.races.get()), ((10, 0), 0));
}
