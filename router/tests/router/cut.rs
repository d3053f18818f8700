//! The cut: no operator, no API server, no Prometheus; pods on loopback, routers with real mutual TLS between them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Response, StatusCode};
use http_body_util::Full;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use stoker_api::ModelRoute;
use stoker_api::exchange::KnownCut;
use stoker_api::names::{objects, router_identity};
use stoker_api::route::Cut;
use stoker_edge::listen::Stats;
use stoker_edge::tls::Tls;
use stoker_router::cut::Origin;
use stoker_router::cut::metrics::{Outcome, OutcomeLabel, WithheldLabel};
use stoker_router::cut::suspect::Withheld;
use stoker_router::forward::Settings;
use stoker_router::run::Router;
use stoker_router::table::disk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::authority::{self, write_router_files};
use crate::world::{Behaviour, Got, Pod, World, eventually, http, settings, slices, table};

/// A behaviour: of ten answers, `failing` are 500.
pub fn failing(failing: u64) -> Behaviour {
    let turn = Arc::new(AtomicU64::new(0));
    Arc::new(move |_| {
        let bad = turn.fetch_add(7, Ordering::Relaxed) % 10 < failing;
        Box::pin(async move {
            let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
            *answer.status_mut() = if bad { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            answer
        })
    })
}

/// A table of `digits` in a run: half of the traffic for the candidate, and a detector.
pub fn watched(generation: i64, (run, step): (u64, u32), observe: bool) -> ModelRoute {
    let arms = [("digits-a", 500_000, None), ("digits-b", 500_000, Some("digits-a"))];
    let mut table = table("digits", generation, (run, step), &arms);
    let detector =
        json!({"revision": "digits-b", "control": "digits-a", "alarmLog10": 6.0, "observe": observe});
    table.spec.detectors = vec![serde_json::from_value(detector).unwrap()];
    table
}

pub fn known_cut(run: u64, revision: &str) -> KnownCut {
    let cut = json!({"run": run, "revision": revision, "because": "it failed", "by": "another",
        "at": "2026-01-02T03:04:05Z"});
    KnownCut { uid: "uid-digits".into(), cut: serde_json::from_value::<Cut>(cut).unwrap() }
}

/// A router that looks for harm, with a stable pod and one of a candidate.
struct Watching {
    world: World,
    stable: Pod,
    candidate: Pod,
    task: JoinHandle<()>,
}

impl Watching {
    async fn new(stable: Behaviour, candidate: Behaviour, table: ModelRoute) -> Self {
        let (stable, candidate) = (Pod::with(stable).await, Pod::with(candidate).await);
        let world = World::new(settings()).await;
        let router = Arc::clone(&world.router);
        let task = tokio::spawn(async move { router.detect(None).await });
        let watching = Self { world, stable, candidate, task };
        watching.all_pods();
        watching.world.serve(table);
        watching
    }

    fn all_pods(&self) {
        self.world.pods(&[("digits-a", &[self.stable.address]), ("digits-b", &[self.candidate.address])]);
    }

    fn cuts(&self) -> Vec<Cut> {
        self.world.router.keeper.cuts("digits")
    }

    /// Sends requests until the router cuts, or so many of them.
    async fn load(&self, most: usize) -> bool {
        let client = http();
        for _ in 0..most {
            if !self.cuts().is_empty() {
                return true;
            }
            self.world.infer(&client, "{}").await.unwrap();
        }
        !self.cuts().is_empty()
    }

    /// Whether requests reach the candidate.
    async fn reaches_candidate(&self) -> bool {
        reaches(&self.world, &self.candidate).await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether any of fifty requests is answered by the pod. One that nobody answers for is a failure in itself.
async fn reaches(world: &World, pod: &Pod) -> bool {
    let (reached, answers) = fifty(world, pod).await;
    assert!(answers.iter().all(|got| got.status == 200 || got.revision() == "digits-b"), "{answers:?}");
    reached
}

/// Whether any of fifty requests gets to the pod, and their answers.
async fn fifty(world: &World, pod: &Pod) -> (bool, Vec<Got>) {
    let (client, before) = (http(), pod.hits());
    let mut answers = Vec::new();
    for _ in 0..50 {
        answers.push(world.infer(&client, "{}").await.unwrap());
    }
    (pod.hits() > before, answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_fails_is_cut_with_nobody_else_there() {
    let watching = Watching::new(failing(0), failing(3), watched(1, (1, 1), false)).await;
    assert!(watching.reaches_candidate().await);
    assert!(watching.load(20_000).await, "{:?}", watching.world.router.detectors.suspicions());
    assert!(!watching.reaches_candidate().await);
    let cuts = watching.cuts();
    assert_eq!(
        (cuts[0].run, cuts[0].revision.as_str(), cuts[0].by.as_str()),
        (1, "digits-b", "stoker-router")
    );
    let because = &cuts[0].because;
    assert!(because.starts_with("candidate failed ") && because.contains("stable 0 of "), "{because}");
    let suspicions = watching.world.router.detectors.suspicions();
    assert!(suspicions.len() == 1 && suspicions[0].1.alarm, "{suspicions:?}");
    // It still has its place in the table: its requests may be in flight.
    assert_eq!(watching.world.in_flight("digits-b"), Some(0));
}

#[tokio::test]
async fn a_cut_holds_for_its_run_through_later_tables_and_restarts() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let pods: &[(&str, &[SocketAddr])] =
        &[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])];
    let folder = tempfile::tempdir().unwrap();
    let first = World::new(settings()).await;
    let (router, path) = (Arc::clone(&first.router), folder.path().to_owned());
    let saving = tokio::spawn(async move { router.save(path).await });
    first.pods(pods);
    first.serve(watched(1, (4, 1), false));
    first.router.keeper.cut([known_cut(4, "digits-b")], Origin::Own);
    let on_disk =
        |folder: &Path| matches!(disk::load(folder, "team"), Ok(Some(saved)) if !saved.cuts.is_empty());
    eventually("the cut is on disk", || on_disk(folder.path())).await;
    saving.abort();
    drop(first);

    let router = Arc::new(Router::new("team", settings(), 100));
    router.restore(folder.path());
    let world = World::around(router).await;
    assert!(!reaches(&world, &candidate).await, "after a restart");
    // A later table of the run, without the detector and with all weight for it.
    let all = [("digits-b", 1_000_000, Some("digits-a")), ("digits-a", 0, None)];
    world.serve(table("digits", 2, (4, 2), &all));
    assert!(!reaches(&world, &candidate).await, "by a later table");
    // So does what the API server lists, restored or not.
    assert!(world.router.keeper.listed(vec![watched(3, (4, 3), false)]).is_empty());
    world.pods(pods);
    assert!(!reaches(&world, &candidate).await, "by a list");
    world.serve(watched(4, (5, 1), false));
    assert!(reaches(&world, &candidate).await, "in a new run");
    assert!(world.router.keeper.known_cuts().is_empty() && world.router.keeper.to_save().cuts.is_empty());
    // What comes late from the run before changes nothing.
    world.router.keeper.cut([known_cut(4, "digits-b")], Origin::Peer);
    assert!(world.router.keeper.known_cuts().is_empty());
}

#[tokio::test]
async fn a_cut_of_a_run_that_is_ahead_waits_for_its_table() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(watched(1, (1, 1), false));
    world.router.keeper.cut([known_cut(2, "digits-b")], Origin::Peer);
    assert!(reaches(&world, &candidate).await);
    assert!(world.router.keeper.cuts("digits").is_empty());
    world.serve(watched(2, (2, 1), false));
    assert!(!reaches(&world, &candidate).await);
}

#[tokio::test]
async fn a_cut_is_read_from_status_though_the_generation_is_the_same() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(watched(1, (1, 1), false));
    assert!(reaches(&world, &candidate).await);
    let mut told = serde_json::to_value(watched(1, (1, 1), false)).unwrap();
    told["status"] = json!({"cuts": [known_cut(1, "digits-b").cut]});
    let told: ModelRoute = serde_json::from_value(told).unwrap();
    world.router.keeper.offer(told, stoker_router::table::keeper::Origin::Watch);
    assert!(!reaches(&world, &candidate).await);
    assert!(world.router.keeper.unreported().is_empty(), "status says it already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observing_reports_and_cuts_nothing() {
    let watching = Watching::new(failing(0), failing(5), watched(1, (1, 1), true)).await;
    let alarm = || watching.world.router.detectors.suspicions().iter().any(|(_, known)| known.alarm);
    let client = http();
    for _ in 0..20_000 {
        if alarm() {
            break;
        }
        watching.world.infer(&client, "{}").await.unwrap();
    }
    assert!(alarm());
    assert!(watching.reaches_candidate().await && watching.cuts().is_empty());
    let withheld = &watching.world.router.counts.cut.withheld;
    let observed = withheld.get_or_create(&WithheldLabel { reason: Withheld::Observe }).clone();
    eventually("it was said", || observed.get() == 1).await;
}

#[tokio::test]
async fn a_cut_waits_for_a_control_with_pods() {
    // The evidence comes from another router, and ours has no pod of stable.
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(Settings { hold: Duration::from_millis(10), ..settings() }).await;
    world.pods(&[("digits-b", &[candidate.address])]);
    world.serve(watched(1, (1, 1), false));
    let logs = [20.0, 20.0, 20.0, 20.0, 20.0];
    let told: Value = json!({"process": "other", "number": 1,
        "sums": [{"uid": "uid-digits", "run": 1, "revision": "digits-b", "sum": logs}]});
    let detectors = &world.router.detectors;
    detectors.hear(serde_json::from_value(told).unwrap());
    detectors.look();
    assert!(detectors.suspicions()[0].1.alarm && world.router.keeper.cuts("digits").is_empty());
    // The other half waits for a pod of stable in vain.
    assert!(fifty(&world, &candidate).await.0);
    detectors.look();
    let withheld = &world.router.counts.cut.withheld;
    assert_eq!(withheld.get_or_create(&WithheldLabel { reason: Withheld::NoControl }).get(), 1);
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    detectors.look();
    assert_eq!(world.router.keeper.cuts("digits").len(), 1);
    assert!(!reaches(&world, &candidate).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_both_arms_fail_nothing_is_cut() {
    let watching = Watching::new(failing(4), failing(4), watched(1, (1, 1), false)).await;
    let client = http();
    for _ in 0..3_000 {
        watching.world.infer(&client, "{}").await.unwrap();
    }
    watching.world.router.detectors.look();
    assert_eq!(watching.cuts(), []);
    assert!(fifty(&watching.world, &watching.candidate).await.0);
}

#[tokio::test]
async fn without_a_detector_nothing_is_looked_at() {
    let watching =
        Watching::new(failing(0), failing(9), table("digits", 1, (1, 1), &[("digits-b", 1_000_000, None)]))
            .await;
    let client = http();
    for _ in 0..200 {
        watching.world.infer(&client, "{}").await.unwrap();
    }
    assert!(watching.world.router.detectors.suspicions().is_empty());
    assert!(watching.world.router.detectors.message().sums.is_empty());
}

#[tokio::test]
async fn a_request_that_is_held_for_a_revision_goes_elsewhere_when_that_is_cut() {
    let stable = Pod::good().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address])]);
    let mut table = watched(1, (1, 1), false);
    // Without a fallback: the request waits for the candidate's first pod.
    table.spec.rules[0].arms[0].ppm = 0;
    table.spec.rules[0].arms[1].ppm = 1_000_000;
    table.spec.rules[0].arms[1].fallback = None;
    world.serve(table);
    let client = http();
    let (answer, ()) = tokio::join!(world.infer(&client, "{}"), async {
        eventually("it is held", || world.router.counts.held.get() == 1).await;
        world.router.keeper.cut([known_cut(1, "digits-b")], Origin::Peer);
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.revision()), (200, "digits-a"));
}

#[tokio::test]
async fn a_request_that_is_sent_again_does_not_go_to_a_revision_that_was_cut_meanwhile() {
    // The candidate's pod answers once; at the next request on that connection it is cut, and the connection closed: that
    // is a race which the router repeats on a new connection.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stable, world) = (Pod::good().await, World::new(settings()).await);
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[address])]);
    let mut table = watched(1, (1, 1), false);
    table.spec.rules[0].arms[0].ppm = 0;
    table.spec.rules[0].arms[1].ppm = 1_000_000;
    world.serve(table);
    let router = Arc::clone(&world.router);
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        router.keeper.cut([known_cut(1, "digits-b")], Origin::Peer);
        drop(stream);
        // Connecting is allowed, since a connection may be on its way; sending is not.
        match tokio::time::timeout(Duration::from_millis(500), listener.accept()).await {
            Ok(Ok((mut stream, _))) => stream.read(&mut buffer).await.unwrap_or(0),
            _ => 0,
        }
    });
    let client = http();
    assert_eq!(world.infer(&client, "").await.unwrap().revision(), "digits-b");
    let answer = world.infer(&client, "").await.unwrap();
    assert_eq!((answer.status, answer.revision()), (200, "digits-a"));
    assert_eq!(world.counted(1, 1, "digits-b"), (1, 0), "the race is nobody's fault");
    assert_eq!(pod.await.unwrap(), 0, "the pod got bytes after the cut");
}

/// Routers of one namespace that know each other by the router Service's EndpointSlice.
struct Fleet {
    worlds: Vec<World>,
    stable: Pod,
    candidate: Pod,
    folder: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Fleet {
    async fn new(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority::new();
        write_router_files(folder.path(), &authority, &authority);
        let (stable, candidate) = (Pod::with(failing(0)).await, Pod::with(failing(3)).await);
        let (worlds, addresses, tasks) = (Vec::new(), Vec::new(), Vec::new());
        let mut fleet = Self { worlds, stable, candidate, folder, addresses, tasks };
        for number in 0..size {
            fleet.start(&format!("router-{number}")).await;
        }
        fleet
    }

    /// Starts one more router. It has certificates and no tables.
    async fn start(&mut self, name: &str) {
        let callers = [objects::OPERATOR_IDENTITY, &router_identity("team")];
        let tls = Tls::mutual(self.folder.path(), &callers).unwrap();
        let router = Arc::new(Router::new("team", settings(), 1000).named(name));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addresses.push(listener.local_addr().unwrap());
        let (serving, detecting, own) = (Arc::clone(&router), Arc::clone(&router), tls.clone());
        self.tasks.push(tokio::spawn(async move {
            let lookup: stoker_router::watch::Lookup = Arc::new(|_| async { Ok(None) }.boxed());
            serving.serve_admin(listener, tls, Stats::default(), lookup).await;
        }));
        self.tasks.push(tokio::spawn(async move { detecting.detect(Some(own)).await }));
        self.worlds.push(World::around(router).await);
    }

    /// Tells router `number` about pods and about the routers at `peers`.
    fn pods(&self, number: usize, peers: &[SocketAddr]) {
        let mut all =
            slices(&[("digits-a", &[self.stable.address]), ("digits-b", &[self.candidate.address])]);
        for peer in peers {
            all.push(router_slice(*peer));
        }
        self.worlds[number].router.keeper.slices_listed(&all);
    }

    fn is_cut(&self, number: usize) -> bool {
        !self.worlds[number].router.keeper.cuts("digits").is_empty()
    }

    fn exchanged(&self, number: usize, outcome: Outcome) -> u64 {
        let exchanges = &self.worlds[number].router.counts.cut.exchanges;
        exchanges.get_or_create(&OutcomeLabel { outcome }).get()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn router_slice(address: SocketAddr) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": format!("stoker-router-{}", address.port()),
            "labels": {"kubernetes.io/service-name": "stoker-router"}},
        "addressType": "IPv4",
        "ports": [{"name": "metrics", "port": 1}, {"name": "admin", "port": address.port()}],
        "endpoints": [{"addresses": [address.ip()], "targetRef": {"uid": format!("router-{}", address.port())}}],
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_that_see_a_part_each_reach_the_alarm_together_and_all_obey() {
    // Three that know each other, and one with a peer that accepts connections and says nothing.
    let fleet = Fleet::new(3).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peers = fleet.addresses.clone();
    peers.push(silent.local_addr().unwrap());
    for (number, world) in fleet.worlds.iter().enumerate() {
        fleet.pods(number, &peers);
        world.serve(watched(1, (1, 1), false));
    }
    let client = http();
    let mut sent = 0;
    // The third router sees nothing at all.
    while !(fleet.is_cut(0) && fleet.is_cut(1)) && sent < 20_000 {
        for world in &fleet.worlds[..2] {
            world.infer(&client, "{}").await.unwrap();
            sent += 1;
        }
    }
    eventually("all obey", || (0..3).all(|number| fleet.is_cut(number))).await;
    for world in &fleet.worlds {
        assert!(!reaches(world, &fleet.candidate).await);
    }
    let knows = |number: usize| {
        let known = fleet.worlds[number].router.detectors.suspicions();
        known.iter().any(|(_, known)| known.alarm)
    };
    eventually("all have the evidence", || (0..3).all(knows)).await;
    // Nobody tells itself, and one that says nothing holds up nobody.
    for (number, world) in fleet.worlds.iter().enumerate() {
        eventually("each knows the others", || world.router.counts.cut.peers.get() == 3).await;
        eventually("the silent one is given up", || fleet.exchanged(number, Outcome::TimedOut) > 0).await;
        assert_eq!(fleet.exchanged(number, Outcome::Failed), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_little_for_one_router_is_enough_for_three() {
    let fleet = Fleet::new(3).await;
    for (number, world) in fleet.worlds.iter().enumerate() {
        // Nobody knows anybody yet.
        fleet.pods(number, &[]);
        world.serve(watched(1, (1, 1), false));
    }
    let client = http();
    let own = |number: usize| fleet.worlds[number].router.detectors.suspicions()[0].1.harm_log10;
    for (number, world) in fleet.worlds.iter().enumerate() {
        // More than a third of an alarm, and less than a whole one.
        let mut sent = 0;
        loop {
            world.router.detectors.look();
            if own(number) > 3.0 {
                break;
            }
            world.infer(&client, "{}").await.unwrap();
            sent += 1;
            assert!(sent < 20_000, "{}", own(number));
        }
        assert!(!fleet.is_cut(number), "{}", own(number));
    }
    for number in 0..3 {
        fleet.pods(number, &fleet.addresses);
    }
    eventually("together they know", || (0..3).all(|number| fleet.is_cut(number))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_starts_later_learns_the_cut_from_the_others() {
    let mut fleet = Fleet::new(1).await;
    fleet.pods(0, &fleet.addresses);
    fleet.worlds[0].serve(watched(1, (1, 1), false));
    fleet.worlds[0].router.keeper.cut([known_cut(1, "digits-b")], Origin::Own);
    fleet.start("late").await;
    fleet.pods(1, &[]);
    fleet.worlds[1].serve(watched(1, (1, 1), false));
    fleet.pods(0, &fleet.addresses);
    eventually("it obeys", || fleet.is_cut(1)).await;
    assert!(!reaches(&fleet.worlds[1], &fleet.candidate).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_table_has_a_detector_nobody_is_told_anything() {
    let fleet = Fleet::new(2).await;
    for (number, world) in fleet.worlds.iter().enumerate() {
        fleet.pods(number, &fleet.addresses);
        world.serve(watched(1, (1, 1), false));
    }
    eventually("they talk", || (0..2).all(|number| fleet.exchanged(number, Outcome::Ok) > 0)).await;
    for world in &fleet.worlds {
        world.serve(table("digits", 2, (1, 2), &[("digits-a", 1_000_000, None)]));
    }
    eventually("they stop", || fleet.worlds.iter().all(|world| world.router.counts.cut.peers.get() == 0))
        .await;
    let told = || (0..2).map(|number| fleet.exchanged(number, Outcome::Ok)).sum::<u64>();
    let before = told();
    // Several times as long as between two messages.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told(), before);
}
