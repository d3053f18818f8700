//! The proxy between a real client and a small server that plays the API server.

#![expect(clippy::similar_names, reason = "writes and watches are what is told apart here")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, PostParams, WatchParams};
use kube::core::WatchEvent;
use tokio::time::timeout;

use super::*;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A server that takes every write, and whose watches send one event and then nothing. It counts what reaches it.
struct Server {
    client: Client,
    written: Arc<AtomicUsize>,
    watched: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (written, watched) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (writes, watches) = (Arc::clone(&written), Arc::clone(&watched));
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (writes, watches) = (Arc::clone(&writes), Arc::clone(&watches));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (writes, watches) = (Arc::clone(&writes), Arc::clone(&watches));
                    async move {
                        let object = config_map("seen").to_string();
                        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                            watches.fetch_add(1, Ordering::SeqCst);
                            let event = json!({"type": "ADDED", "object": config_map("seen")});
                            let first = Bytes::from(format!("{event}\n"));
                            let events = futures::stream::iter([Ok::<_, Error>(Frame::data(first))]);
                            let events = events.chain(futures::stream::pending());
                            return Ok::<_, Infallible>(Response::new(UnsyncBoxBody::new(StreamBody::new(
                                events,
                            ))));
                        }
                        if request.method() != Method::GET {
                            writes.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(Response::new(whole(Bytes::from(object))))
                    }
                });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let client = client(&format!("http://{address}"));
        Self { client, written, watched, serving }
    }

    fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn client(url: &str) -> Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config = kube::Config::new(url.parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a", "resourceVersion": "1"}})
}

struct World {
    server: Server,
    proxy: Proxy,
    maps: Api<ConfigMap>,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let proxy = Proxy::start(server.client.clone()).await.unwrap();
        let maps = Api::namespaced(client(&format!("http://{}", proxy.address)), "a");
        Self { server, proxy, maps }
    }

    async fn write(&self) -> Result<(), kube::Error> {
        let map: ConfigMap = serde_json::from_value(config_map("mine")).unwrap();
        timeout(LONG, self.maps.create(&PostParams::default(), &map)).await.unwrap().map(drop)
    }
}

fn code(result: Result<(), kube::Error>) -> Option<u16> {
    match result {
        Err(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

#[tokio::test]
async fn writes_are_counted_and_passed_on_and_reads_are_not_counted() {
    let world = World::new().await;
    world.proxy.arm(None);
    world.write().await.unwrap();
    world.maps.get("seen").await.unwrap();
    world.write().await.unwrap();
    let writes = world.proxy.writes();
    assert_eq!(writes.len(), 2);
    assert!(writes.iter().all(Write::was_accepted), "{writes:?}");
    assert_eq!(writes[0].what, "POST configmaps: mine");
    assert!(world.server.written() == 2 && world.proxy.struck().is_empty());
}

#[tokio::test]
async fn an_answer_of_its_own_hits_the_one_write_and_does_not_reach_the_server() {
    for status in [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR] {
        let world = World::new().await;
        world.proxy.arm(Some(Disturbance::once(Fault::Answer(status), 2)));
        world.write().await.unwrap();
        assert_eq!(code(world.write().await), Some(status.as_u16()));
        world.write().await.unwrap();
        assert_eq!(world.server.written(), 2);
        let writes = world.proxy.writes();
        assert!(!writes[1].was_accepted() && writes[1].status.is_none(), "{writes:?}");
        assert_eq!(world.proxy.struck(), ["POST configmaps: mine"]);
    }
}

#[tokio::test]
async fn what_happens_again_and_again_happens_to_each_kind_of_write_once() {
    let world = World::new().await;
    let fault = Fault::Answer(StatusCode::CONFLICT);
    world.proxy.arm(Some(Disturbance { fault, from: 1, every: Some(1) }));
    assert_eq!(code(world.write().await), Some(409));
    world.write().await.unwrap();
    world.maps.delete("mine", &DeleteParams::default()).await.unwrap_err();
    world.maps.delete("mine", &DeleteParams::default()).await.unwrap();
    assert_eq!(world.server.written(), 2);
}

#[tokio::test]
async fn a_lost_reply_is_a_write_that_was_done() {
    let world = World::new().await;
    world.proxy.arm(Some(Disturbance::once(Fault::LoseReply, 1)));
    let error = world.write().await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "an answer came: {error}");
    assert_eq!(world.server.written(), 1);
    assert!(world.proxy.writes()[0].was_accepted());
}

#[tokio::test]
async fn a_kill_comes_before_the_write_or_after_it_and_there_is_no_answer() {
    for (fault, written) in [(Fault::KillBefore, 0), (Fault::KillAfter, 1)] {
        let world = World::new().await;
        let (killed, at) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&world.server.written));
        let seen = Arc::clone(&killed);
        world.proxy.set_victim(Arc::new(move || {
            // What the server had when the operator died, and one for the death itself.
            seen.fetch_add(10 + at.load(Ordering::SeqCst), Ordering::SeqCst);
            Box::pin(async {})
        }));
        world.proxy.arm(Some(Disturbance::once(fault, 1)));
        assert_eq!(code(world.write().await), None);
        assert_eq!(killed.load(Ordering::SeqCst), 10 + written, "{fault:?}");
        assert_eq!(world.server.written(), written, "{fault:?}");
        world.write().await.unwrap();
    }
}

#[tokio::test]
async fn watches_are_cut_by_a_broken_connection_or_by_410() {
    for (fault, expired) in [(Fault::DropWatches, false), (Fault::ExpireWatches, true)] {
        let world = World::new().await;
        let mut events = world.maps.watch(&WatchParams::default(), "1").await.unwrap().boxed();
        let first = timeout(LONG, events.next()).await.unwrap();
        assert!(matches!(first, Some(Ok(WatchEvent::Added(_)))), "{first:?}");
        world.proxy.arm(Some(Disturbance::once(fault, 1)));
        world.write().await.unwrap();
        let last = timeout(LONG, events.next()).await.unwrap();
        let by_410 = matches!(&last, Some(Ok(WatchEvent::Error(status))) if status.code == 410);
        assert_eq!(by_410, expired, "{last:?}");
        assert!(by_410 || !matches!(last, Some(Ok(_))), "{last:?}");
    }
}

#[tokio::test]
async fn refused_watches_are_answered_with_410_once() {
    let world = World::new().await;
    world.proxy.arm(Some(Disturbance::once(Fault::RefuseWatches, 1)));
    world.write().await.unwrap();
    let refused = world.maps.watch(&WatchParams::default(), "1").await;
    assert_eq!(code(refused.map(drop)), Some(410));
    assert_eq!(world.server.watched.load(Ordering::SeqCst), 0);
    let mut events = world.maps.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    assert!(matches!(timeout(LONG, events.next()).await.unwrap(), Some(Ok(WatchEvent::Added(_)))));
}

#[tokio::test]
async fn its_kubeconfig_leads_to_it() {
    let world = World::new().await;
    let kubeconfig: kube::config::Kubeconfig = serde_yaml::from_str(&world.proxy.kubeconfig()).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
    assert_eq!(config.unwrap().cluster_url.to_string(), format!("http://{}/", world.proxy.address));
}
