//! Revisions and their pods as they are by now: who is ready, who is busy, who failed last.
//!
//! These objects outlive tables: a revision that left the table is kept while requests to it are under way, and a pod
//! keeps its open connections when the table changes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::forward::channel::Channels;
use crate::forward::pool::Pool;

/// A pod that refused a connection is avoided this long; each further failure doubles it.
const AVOID_FIRST: Duration = Duration::from_secs(1);
/// The longest time that a pod is avoided.
const AVOID_LONGEST: Duration = Duration::from_secs(10);

/// A pod of a revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Where it listens.
    pub socket: SocketAddr,
    /// uid of the pod, or nothing where the EndpointSlice names none: another pod may get the same address later.
    #[serde(default)]
    pub pod: String,
}

/// The pods of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Serving and not terminating.
    #[serde(default)]
    pub ready: Vec<Address>,
    /// Terminating and still serving: used only when there is nothing else at all.
    #[serde(default)]
    pub leaving: Vec<Address>,
}

/// A pod as the router knows it.
#[derive(Debug)]
pub struct Endpoint {
    /// Which pod it is.
    pub address: Address,
    /// Connections that wait for a request.
    pub pool: Pool,
    /// Connections that carry gRPC calls.
    pub channels: Channels,
    in_flight: AtomicU32,
    /// Connections that failed in a row.
    strikes: AtomicU32,
    /// Milliseconds on [`now_ms`] until which others are preferred.
    avoid_until: AtomicU64,
}

impl Endpoint {
    fn new(address: Address) -> Self {
        Self {
            address,
            pool: Pool::default(),
            channels: Channels::default(),
            in_flight: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            avoid_until: AtomicU64::new(0),
        }
    }

    /// A connection could not be opened.
    pub fn strike(&self) {
        let before = self.strikes.fetch_add(1, Ordering::Relaxed);
        let pause = AVOID_FIRST.saturating_mul(1 << before.min(8)).min(AVOID_LONGEST);
        self.avoid_until.store(now_ms() + u64::try_from(pause.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// A connection could be opened.
    pub fn absolve(&self) {
        self.strikes.store(0, Ordering::Relaxed);
    }

    fn is_avoided(&self) -> bool {
        self.strikes.load(Ordering::Relaxed) > 0 && now_ms() < self.avoid_until.load(Ordering::Relaxed)
    }
}

/// Counts a request at its pod for as long as it lives, however it ends.
#[derive(Debug)]
pub struct Busy(Arc<Endpoint>);

impl Busy {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    /// The pod.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Endpoints {
    ready: Vec<Arc<Endpoint>>,
    leaving: Vec<Arc<Endpoint>>,
}

/// Answers to clients by class: 1xx and 2xx, 3xx, 4xx, 5xx.
pub const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// A revision as the router knows it.
#[derive(Debug)]
pub struct Revision {
    /// Its name.
    pub name: String,
    /// Its name, as it stands in answers.
    pub header: HeaderValue,
    in_flight: AtomicU64,
    endpoints: ArcSwap<Endpoints>,
    rotation: AtomicUsize,
    answers: [AtomicU64; CLASSES.len()],
    /// Told when open streams are to end.
    streams: watch::Sender<()>,
}

/// The end of the streams of a revision, for a stream that is open now.
#[derive(Debug)]
pub struct Ending(watch::Receiver<()>);

impl Ending {
    /// Waits until the stream is to end.
    pub async fn ended(&mut self) {
        if self.0.changed().await.is_err() {
            // The revision is gone, and with it whoever could ask.
            std::future::pending::<()>().await;
        }
    }
}

impl Revision {
    /// A revision without pods.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            // A name that is no header value is refused by the API server; then the header is empty.
            header: HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("")),
            in_flight: AtomicU64::new(0),
            endpoints: ArcSwap::default(),
            rotation: AtomicUsize::new(0),
            answers: Default::default(),
            streams: watch::channel(()).0,
        }
    }

    /// Ends the gRPC streams that are open now, with UNAVAILABLE; calls with one answer end by themselves.
    pub fn end_streams(&self) {
        self.streams.send_replace(());
    }

    /// The end of streams, for one that opens now.
    pub fn ending(&self) -> Ending {
        Ending(self.streams.subscribe())
    }

    /// Sets which pods there are. Pods that stay keep their connections and counts.
    pub fn set_addresses(&self, addresses: &Addresses) {
        let before = self.endpoints.load();
        let keep = |address: &Address| {
            let known =
                before.ready.iter().chain(&before.leaving).find(|endpoint| endpoint.address == *address);
            known.map_or_else(|| Arc::new(Endpoint::new(address.clone())), Arc::clone)
        };
        let ready = addresses.ready.iter().map(keep).collect();
        let leaving = addresses.leaving.iter().map(keep).collect();
        self.endpoints.store(Arc::new(Endpoints { ready, leaving }));
    }

    /// The ready pod with the fewest requests; ties are broken in turn. A pod that failed just now comes last, and
    /// `not` does not come at all.
    pub fn pick(&self, not: Option<&Endpoint>) -> Option<Busy> {
        self.least(&self.endpoints.load().ready, not)
    }

    /// The same among pods that are terminating and still serve.
    pub fn pick_leaving(&self, not: Option<&Endpoint>) -> Option<Busy> {
        self.least(&self.endpoints.load().leaving, not)
    }

    fn least(&self, list: &[Arc<Endpoint>], not: Option<&Endpoint>) -> Option<Busy> {
        let start = match list.len() {
            0 => return None,
            1 => 0,
            several => self.rotation.fetch_add(1, Ordering::Relaxed) % several,
        };
        let (end, begin) = list.split_at(start);
        let best = begin
            .iter()
            .chain(end)
            .filter(|endpoint| not.is_none_or(|not| !std::ptr::eq(not, Arc::as_ptr(endpoint))))
            .min_by_key(|endpoint| (endpoint.is_avoided(), endpoint.in_flight.load(Ordering::Relaxed)));
        best.map(Busy::new)
    }

    /// How many pods are ready.
    pub fn ready_endpoints(&self) -> u32 {
        u32::try_from(self.endpoints.load().ready.len()).unwrap_or(u32::MAX)
    }

    /// Whether the pod may still be sent requests.
    pub fn is_listed(&self, endpoint: &Arc<Endpoint>) -> bool {
        let endpoints = self.endpoints.load();
        endpoints.ready.iter().chain(&endpoints.leaving).any(|known| Arc::ptr_eq(known, endpoint))
    }

    /// Closes connections that wait too long or were closed by the pod.
    pub fn sweep(&self) {
        let endpoints = self.endpoints.load();
        for endpoint in endpoints.ready.iter().chain(&endpoints.leaving) {
            endpoint.pool.sweep();
            endpoint.channels.sweep();
        }
    }

    /// Requests that are under way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// A request was assigned. Must be followed by [`Revision::left`].
    pub fn entered(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// A request has ended.
    pub fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Counts an answer that a client got.
    pub fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers by class, in the order of [`CLASSES`].
    pub fn answers(&self) -> [u64; CLASSES.len()] {
        self.answers.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Milliseconds on a clock that never jumps.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16, pod: &str) -> Address {
        Address { socket: ([127, 0, 0, 1], port).into(), pod: pod.into() }
    }

    fn revision(ports: &[u16]) -> Revision {
        let revision = Revision::new("digits-1");
        let ready = ports.iter().map(|port| address(*port, "")).collect();
        revision.set_addresses(&Addresses { ready, leaving: vec![] });
        revision
    }

    fn port(busy: &Busy) -> u16 {
        busy.endpoint().address.socket.port()
    }

    #[test]
    fn the_least_loaded_pod_is_taken_and_ties_rotate() {
        let revision = revision(&[1, 2, 3]);
        let held: Vec<_> = (0..6).map(|_| revision.pick(None).unwrap()).collect();
        for wanted in 1..=3 {
            assert_eq!(held.iter().filter(|busy| port(busy) == wanted).count(), 2);
        }
        // Free one pod: it is next, whatever the turn.
        let kept: Vec<_> = held.into_iter().filter(|busy| port(busy) != 2).collect();
        assert_eq!(port(&revision.pick(None).unwrap()), 2);
        drop(kept);
        // Without load all get their turn.
        let turns: Vec<_> = (0..3).map(|_| port(&revision.pick(None).unwrap())).collect();
        assert!([1, 2, 3].iter().all(|port| turns.contains(port)), "{turns:?}");
    }

    #[test]
    fn a_pod_that_failed_is_avoided_while_others_exist() {
        let revision = revision(&[1, 2]);
        let bad = Arc::clone(revision.pick(None).unwrap().endpoint());
        bad.strike();
        for _ in 0..4 {
            assert_ne!(revision.pick(None).unwrap().endpoint().address, bad.address);
        }
        let other = Arc::clone(revision.pick(None).unwrap().endpoint());
        assert_eq!(revision.pick(Some(&other)).unwrap().endpoint().address, bad.address);
        bad.absolve();
        let turns: Vec<_> = (0..2).map(|_| port(&revision.pick(None).unwrap())).collect();
        assert_eq!(turns.iter().sum::<u16>(), 3, "{turns:?}");
    }

    #[test]
    fn pods_keep_their_state_while_they_stay_and_lose_it_with_a_new_uid() {
        let revision = Revision::new("a");
        let set = |pod: &str| {
            revision.set_addresses(&Addresses { ready: vec![address(1, pod)], leaving: vec![] });
            revision.pick(None).unwrap()
        };
        let first = set("x");
        assert!(Arc::ptr_eq(first.endpoint(), set("x").endpoint()));
        assert!(!Arc::ptr_eq(first.endpoint(), set("y").endpoint()));
        assert!(!revision.is_listed(first.endpoint()));
    }

    #[test]
    fn terminating_pods_are_no_ready_ones_and_may_still_be_asked() {
        let revision = Revision::new("a");
        revision.set_addresses(&Addresses { ready: vec![], leaving: vec![address(1, "x")] });
        assert!(revision.pick(None).is_none());
        let leaving = revision.pick_leaving(None).unwrap();
        assert!(revision.is_listed(leaving.endpoint()));
        assert_eq!(revision.ready_endpoints(), 0);
    }

    #[test]
    fn answers_are_counted_by_class() {
        let revision = Revision::new("a");
        for code in [200, 204, 302, 404, 413, 500, 503] {
            revision.answered(StatusCode::from_u16(code).unwrap());
        }
        assert_eq!(revision.answers(), [2, 1, 2, 2]);
    }
}
