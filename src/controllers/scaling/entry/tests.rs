//! What the routers say, second by second, and what comes of it.

use stoker_api::scrape::{ArmState, Demand, RevisionDemand};
use stoker_decide::histogram::Histogram;
use stoker_decide::rollout::Run;

use super::*;

/// A model whose one revision is asked by one router.
struct Story {
    entry: Entry,
    now: Instant,
    reply: ScrapeReply,
}

impl Story {
    fn new(pods: u32, zero_after: Option<Duration>) -> Self {
        let now = Instant::now();
        let bounds = Bounds { min: 1, max: 9, zero_after, down_window: Duration::from_mins(5) };
        let scaler = Scaler::resume([("digits-a".to_owned(), pods, Some(100.0))], false);
        let entry = Entry {
            namespace: "team".into(),
            name: "digits".into(),
            pods: unseen(&scaler),
            scaler,
            meter: Meter::default(),
            aim: Aim { quantile: 0.99, target: Duration::from_millis(100) },
            bounds,
            began: now,
            looked: None,
            frame: Some(Frame {
                wanted: [("digits-a".to_owned(), pods)].into(),
                main: "digits-a".into(),
                in_run: false,
            }),
            news: Vec::new(),
            told: ScalingStatus::default(),
            stored: None,
            holds: None,
            heard: 0,
            woken: None,
            pod_seconds: BTreeMap::new(),
            prices: BTreeMap::new(),
            costs: BTreeMap::new(),
        };
        let arm = ArmState { revision: "digits-a".into(), ready_endpoints: pods, in_flight: 0 };
        let reply = ScrapeReply { process: "p".into(), arms: vec![arm], ..ScrapeReply::default() };
        Self { entry, now, reply }
    }

    fn look(&mut self, reply: Result<ScrapeReply, String>) -> bool {
        self.now += Duration::from_secs(1);
        let view = RouterView { replies: vec![("router-x".into(), reply)] };
        self.entry.look(self.now, &view, &Time(jiff::Timestamp::UNIX_EPOCH))
    }

    /// Some seconds at a rate, all answered in 10 ms. How often a reconcile was due.
    fn seconds(&mut self, seconds: u32, rate: u64) -> usize {
        let due = (0..seconds).filter(|_| {
            let mut demand = self.reply.demand.take().unwrap_or_default();
            let before = demand.revisions.pop().unwrap_or_default();
            let mut latency: Histogram = before.latency;
            for _ in 0..rate {
                latency.record(Duration::from_millis(10));
            }
            let answered = before.answered + rate;
            let own = RevisionDemand { revision: "digits-a".into(), answered, overloaded: 0, latency };
            let offered = demand.offered + rate;
            self.reply.demand = Some(Demand { offered, held: 0, revisions: vec![own] });
            self.reply.arms.iter_mut().for_each(|arm| arm.in_flight = rate / 100);
            self.look(Ok(self.reply.clone()))
        });
        due.count()
    }

    /// The reconcile carried out what was decided.
    fn carried_out(&mut self) {
        let size = self.entry.scaler.sizes()["digits-a"];
        self.entry.frame.as_mut().unwrap().wanted.insert("digits-a".into(), size);
        self.reply.arms[0].ready_endpoints = size;
    }
}

#[test]
fn a_change_is_stored_with_its_figures_and_told_once() {
    let mut story = Story::new(2, None);
    story.entry.price([(&"digits-a".to_owned(), 3.6)].into_iter());
    story.seconds(30, 150);
    assert!((story.entry.costs["digits-a"] - 0.058).abs() < 1e-9, "{:?}", story.entry.costs);
    assert!(story.entry.news.is_empty(), "{:?}", story.entry.news);
    assert!(story.seconds(10, 600) > 0);
    let scale = story.entry.scale(1);
    let known = &scale.status.as_ref().unwrap().revisions[0];
    assert!(known.replicas > 2 && known.rule == "Demand" && known.since.is_some(), "{known:?}");
    assert!(known.capacity_per_pod.is_some() && known.utilisation.is_some(), "{known:?}");
    assert_eq!(scale.replicas.of("digits-a"), story.entry.scaler.sizes()["digits-a"]);
    // A revision that is new is taken to need as many.
    assert_eq!(scale.replicas.of("digits-b"), scale.replicas.of("digits-a"));
    let first = &story.entry.news[0];
    assert_eq!((first.reason, first.warning), (reasons::SCALED, false));
    assert!(
        first.message.starts_with("digits-a: 2 -> ") && first.message.contains("requests/s"),
        "{first:?}"
    );
    assert!(story.entry.pod_seconds["digits-a"] > 70.0);
}

#[test]
fn an_even_load_asks_for_no_reconcile_once_its_capacity_is_stored() {
    let mut story = Story::new(2, None);
    story.seconds(120, 150);
    assert_eq!(story.seconds(600, 150), 0);
}

#[test]
fn a_router_that_does_not_answer_holds_and_says_so_when_it_lasts() {
    let mut story = Story::new(2, None);
    story.seconds(120, 150);
    story.entry.news.clear();
    let silent = || Err("no answer within 1 s".to_owned());
    assert_eq!((0..10).filter(|_| story.look(silent())).count(), 0);
    assert_eq!((0..60).filter(|_| story.look(silent())).count(), 1);
    let said = story.entry.told.holds.clone().unwrap();
    assert!(said.contains("router router-x: no answer within 1 s"), "{said}");
    assert_eq!(story.entry.news.len(), 1);
    assert_eq!((story.entry.news[0].reason, story.entry.news[0].warning), (reasons::SCALING_HOLDS, true));
    assert!(story.seconds(3, 150) > 0);
    assert_eq!((story.entry.told.holds.clone(), story.entry.scaler.sizes()["digits-a"]), (None, 2));
}

#[test]
fn a_call_wakes_who_sleeps_and_the_cold_start_is_measured() {
    let mut story = Story::new(2, Some(Duration::from_secs(20)));
    story.seconds(10, 50);
    assert!(story.seconds(30, 0) > 0);
    story.carried_out();
    let asleep = story.entry.scale(1);
    assert!(asleep.replicas.asleep && asleep.replicas.of("digits-a") == 0);
    assert_eq!((asleep.calls, asleep.status.unwrap().sleeps), (Some(1), 1));
    // The call of an earlier sleep wakes nobody.
    story.entry.hear(0);
    assert!(story.entry.scaler.is_asleep());
    story.entry.hear(1);
    let woken = story.entry.scale(1);
    assert!(!woken.replicas.asleep && woken.replicas.of("digits-a") == 1);
    assert_eq!(woken.calls, Some(1), "requests are held until a pod is ready");
    assert_eq!(story.entry.news.last().unwrap().reason, reasons::WOKEN);
    story.entry.frame.as_mut().unwrap().wanted.insert("digits-a".into(), 1);
    story.now = Instant::now();
    assert_eq!(story.seconds(3, 0), 0);
    story.carried_out();
    assert_eq!(story.seconds(1, 0), 1);
    let ready = story.entry.scale(1);
    let cold = ready.status.unwrap().cold_start_seconds.unwrap();
    assert!(ready.calls.is_none() && (3.9..5.0).contains(&cold), "{cold}");
}

#[test]
fn a_held_request_wakes_although_no_call_was_written() {
    let mut story = Story::new(1, Some(Duration::from_secs(20)));
    story.seconds(5, 50);
    story.seconds(30, 0);
    story.carried_out();
    assert!(story.entry.scaler.is_asleep());
    let demand = story.reply.demand.as_mut().unwrap();
    (demand.offered, demand.held) = (demand.offered + 1, 1);
    let reply = story.reply.clone();
    assert!(story.look(Ok(reply)));
    assert_eq!(story.entry.scaler.sizes()["digits-a"], 1);
}

#[test]
fn a_router_of_an_older_release_is_no_lack_of_demand() {
    let mut story = Story::new(3, Some(Duration::from_secs(20)));
    story.seconds(5, 250);
    let old = ScrapeReply { demand: None, ..story.reply.clone() };
    for _ in 0..400 {
        story.look(Ok(old.clone()));
    }
    assert_eq!(story.entry.scaler.sizes()["digits-a"], 3);
    assert!(story.entry.told.holds.as_ref().is_some_and(|why| why.contains("older release")));
}

#[test]
fn what_is_stored_comes_back_from_the_api_server_as_it_was() {
    let mut story = Story::new(2, None);
    story.now += Duration::from_millis(123);
    let wall = Time("2026-11-29T12:00:00.987654321Z".parse().unwrap());
    story.seconds(20, 150);
    story.seconds(10, 600);
    story.entry.store(story.now, &wall, |_| true);
    let text = serde_json::to_string(&story.entry.told).unwrap();
    assert_eq!(serde_json::from_str::<ScalingStatus>(&text).unwrap(), story.entry.told);
}

#[test]
fn requests_are_held_until_every_router_sees_a_pod() {
    let mut story = Story::new(1, Some(Duration::from_secs(20)));
    story.seconds(5, 50);
    story.seconds(30, 0);
    story.carried_out();
    story.entry.hear(1);
    story.carried_out();
    let (mut sees, mut blind) = (story.reply.clone(), story.reply.clone());
    (sees.process, blind.process) = ("p".into(), "q".into());
    blind.arms[0].ready_endpoints = 0;
    let view = |replies: [&ScrapeReply; 2]| RouterView {
        replies: replies.iter().map(|reply| (reply.process.clone(), Ok((*reply).clone()))).collect(),
    };
    let wall = Time(jiff::Timestamp::UNIX_EPOCH);
    let now = Instant::now() + Duration::from_secs(120);
    story.entry.look(now, &view([&sees, &blind]), &wall);
    assert_eq!(story.entry.scale(1).calls, Some(1));
    blind.arms[0].ready_endpoints = 1;
    story.entry.look(now + Duration::from_secs(1), &view([&sees, &blind]), &wall);
    assert_eq!(story.entry.scale(1).calls, None);
}

#[test]
fn a_first_revision_that_starts_slowly_is_awake_when_it_begins_to_serve() {
    let mut story = Story::new(1, Some(Duration::from_secs(30)));
    let run = Run { candidate: "digits-a".into(), direct: true, ..Run::default() };
    let first = State { run: Some(run), ..State::default() };
    story.entry.frame = Frame::of(&first, &1.into());
    // Until its pods are ready the routers know nothing of it.
    let arm = story.reply.arms.pop();
    story.seconds(90, 0);
    assert!(!story.entry.scaler.is_asleep(), "{:?}", story.entry.news);
    let serves = State { stable: Some("digits-a".into()), ..State::default() };
    story.entry.frame = Frame::of(&serves, &1.into());
    story.reply.arms.extend(arm);
    story.seconds(29, 0);
    assert!(!story.entry.scaler.is_asleep(), "{:?}", story.entry.news);
    story.seconds(2, 0);
    assert!(story.entry.scaler.is_asleep());
}
