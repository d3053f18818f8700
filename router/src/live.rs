//! Revisions and their pods as they are by now: who is ready, who is busy, who failed last.
//!
//! These objects outlive tables: a revision that left the table is kept while requests to it are under way, and a pod
//! keeps its open connections when the table changes.

pub mod demand;
pub mod endpoint;
pub mod retries;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use stoker_decide::balance::choose;
use tokio::sync::watch;

pub use crate::live::endpoint::{Address, Busy, Endpoint, Outcome, clock};
use crate::shadow::lane::Lane;

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
    ejections: AtomicU64,
    failed_open: AtomicU64,
    answers: [AtomicU64; CLASSES.len()],
    /// Copies that it gets as a shadow.
    pub lane: Lane,
    cut: AtomicBool,
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
            ejections: AtomicU64::new(0),
            failed_open: AtomicU64::new(0),
            answers: Default::default(),
            cut: AtomicBool::new(false),
            streams: watch::channel(()).0,
            lane: Lane::default(),
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

    /// The ready pod from which an answer is expected soonest; `not` does not come at all. The rule, with ejection and
    /// slow start, is in [`stoker_decide::balance`].
    pub fn pick(&self, not: Option<&Endpoint>) -> Option<Busy> {
        self.pick_from(&self.endpoints.load().ready, not, clock())
    }

    /// The same among pods that are terminating and still serve.
    pub fn pick_leaving(&self, not: Option<&Endpoint>) -> Option<Busy> {
        self.pick_from(&self.endpoints.load().leaving, not, clock())
    }

    fn pick_from(&self, list: &[Arc<Endpoint>], not: Option<&Endpoint>, now: Duration) -> Option<Busy> {
        let is_not =
            |endpoint: &Arc<Endpoint>| not.is_some_and(|not| std::ptr::eq(not, Arc::as_ptr(endpoint)));
        loop {
            let pods = list.iter().map(|endpoint| endpoint.pod(is_not(endpoint)));
            let choice = choose(pods, now, rand::random())?;
            let endpoint = list.get(choice.index)?;
            if choice.trial && !endpoint.begin_trial(now) {
                // Another request began it just now, so it is not due any more.
                continue;
            }
            if choice.fail_open {
                self.failed_open.fetch_add(1, Ordering::Relaxed);
            }
            return Some(Busy::new(endpoint, choice, now));
        }
    }

    /// An attempt at a pod of this revision ended after `took`.
    pub fn ended(&self, busy: &mut Busy, outcome: Outcome, took: Duration) {
        self.ended_at(busy, outcome, took, clock());
    }

    fn ended_at(&self, busy: &mut Busy, outcome: Outcome, took: Duration, now: Duration) {
        busy.has_ended = true;
        let (endpoint, ahead, is_trial) = (busy.endpoint(), busy.ahead, busy.is_trial);
        if outcome == Outcome::Succeeded {
            endpoint.sample(|service| service.answered(took, ahead, now));
        } else {
            // Whatever fails quickly must not look quick.
            let endpoints = self.endpoints.load();
            let seconds = endpoints.ready.iter().filter_map(|known| known.service().seconds());
            let best = seconds.min_by(f32::total_cmp);
            endpoint.sample(|service| service.failed(took, ahead, best, now));
        }
        if outcome != Outcome::Failed {
            if endpoint
                .heal(stoker_decide::balance::outlier::Health::succeeded)
                .is_some_and(|(was, _)| was.is_ejected())
            {
                tracing::info!(revision = self.name, pod = %endpoint.address.socket, "pod answers again");
            }
            return;
        }
        let change = endpoint.heal(|health| Some(health.failed(is_trial, now)));
        if change.is_some_and(|(was, is)| was.is_ejected_by(is)) {
            self.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(revision = self.name, pod = %endpoint.address.socket, "pod ejected: it failed too often in a row");
        }
    }

    /// How often a pod was ejected.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Requests for which ejected pods were used, because more than half of the pods were ejected.
    pub fn failed_open(&self) -> u64 {
        self.failed_open.load(Ordering::Relaxed)
    }

    /// How many of the ready pods are ejected.
    pub fn ejected_endpoints(&self) -> u32 {
        let endpoints = self.endpoints.load();
        let ejected = endpoints.ready.iter().filter(|endpoint| endpoint.health().is_ejected());
        u32::try_from(ejected.count()).unwrap_or(u32::MAX)
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

    /// Whether it is cut: nothing more may be sent to it, also of what was assigned to it already.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Says whether it is cut. Gives what was said before.
    pub fn set_cut(&self, cut: bool) -> bool {
        self.cut.swap(cut, Ordering::SeqCst)
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
    fn the_least_loaded_pod_is_taken() {
        let revision = revision(&[1, 2, 3]);
        let held: Vec<_> = (0..6).map(|_| revision.pick(None).unwrap()).collect();
        for wanted in 1..=3 {
            assert_eq!(held.iter().filter(|busy| port(busy) == wanted).count(), 2);
        }
        // Free one pod: it is next. Its requests were given up at once, which says nothing about it.
        let kept: Vec<_> = held.into_iter().filter(|busy| port(busy) != 2).collect();
        assert_eq!(port(&revision.pick(None).unwrap()), 2);
        drop(kept);
    }

    /// One request, which ends as told.
    fn attempt(revision: &Revision, outcome: Outcome, not: Option<&Endpoint>, now: Duration) -> u16 {
        let mut busy = revision.pick_from(&revision.endpoints.load().ready, not, now).unwrap();
        revision.ended_at(&mut busy, outcome, Duration::from_millis(5), now);
        port(&busy)
    }

    #[test]
    fn a_pod_that_keeps_failing_is_ejected_and_comes_back_by_a_trial() {
        let revision = revision(&[1, 2]);
        let endpoints = revision.endpoints.load_full();
        let [bad, good] = &endpoints.ready[..] else { unreachable!() };
        let now = clock();
        for _ in 0..5 {
            assert_eq!(attempt(&revision, Outcome::Failed, Some(good), now), 1);
        }
        assert_eq!((revision.ejections(), revision.ejected_endpoints()), (1, 1));
        for _ in 0..100 {
            assert_eq!(attempt(&revision, Outcome::Succeeded, None, now), 2);
        }
        // A request that failed at the other one still gets it: there is no third.
        assert_eq!(attempt(&revision, Outcome::Failed, Some(good), now), 1);

        let later = now + Duration::from_secs(30);
        let trial = revision.pick_from(&endpoints.ready, None, later).unwrap();
        assert_eq!(port(&trial), 1);
        assert_eq!(attempt(&revision, Outcome::Succeeded, None, later), 2);
        // Its client went away: the next request is the trial, and the next ejection is longer.
        drop(trial);
        assert_eq!(attempt(&revision, Outcome::Failed, None, later), 1);
        assert_eq!((revision.ejections(), revision.ejected_endpoints()), (2, 1));
        let after = later + Duration::from_secs(59);
        assert_eq!(attempt(&revision, Outcome::Succeeded, None, after), 2);
        assert_eq!(attempt(&revision, Outcome::Refused, None, after + Duration::from_secs(1)), 1);
        assert_eq!(revision.ejected_endpoints(), 0);
        assert!(!bad.health().is_ejected());
    }

    #[test]
    fn when_most_pods_fail_none_is_left_out() {
        let revision = revision(&[1, 2, 3]);
        let now = clock();
        while revision.ejected_endpoints() < 2 {
            attempt(&revision, Outcome::Failed, None, now);
        }
        assert_eq!(revision.failed_open(), 0);
        let turns: Vec<_> = (0..100).map(|_| attempt(&revision, Outcome::Failed, None, now)).collect();
        assert!([1, 2, 3].iter().all(|port| turns.contains(port)), "{turns:?}");
        assert_eq!(revision.failed_open(), 100);
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
