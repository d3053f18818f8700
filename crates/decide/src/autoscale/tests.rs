//! The rules one by one, and what must hold for any history.

use proptest::prelude::*;

use super::*;

const AIM: Aim = Aim { quantile: 0.99, target: Duration::from_millis(100) };
const BOUNDS: Bounds = Bounds { min: 1, max: 20, zero_after: None, down_window: Duration::from_mins(5) };

/// A revision `a` whose pods are ready after so many looks, and what it is asked.
struct Story {
    scaler: Scaler,
    now: Duration,
    /// By revision: the wanted sizes of the last looks, newest last.
    sizes: BTreeMap<String, VecDeque<u32>>,
    start: usize,
    bounds: Bounds,
    latency: Duration,
    in_run: bool,
    wake: bool,
}

impl Story {
    fn new(pods: u32) -> Self {
        Self::known(&[("a", pods, Some(100.0))])
    }

    fn known(revisions: &[(&str, u32, Option<f64>)]) -> Self {
        let resumed = revisions.iter().map(|(name, pods, capacity)| ((*name).to_owned(), *pods, *capacity));
        let sizes = revisions.iter().map(|(name, pods, _)| ((*name).to_owned(), VecDeque::from([*pods])));
        Self {
            scaler: Scaler::resume(resumed, false),
            now: Duration::ZERO,
            sizes: sizes.collect(),
            start: 5,
            bounds: BOUNDS,
            latency: Duration::from_millis(20),
            in_run: false,
            wake: false,
        }
    }

    fn pods(&self) -> BTreeMap<String, Pods> {
        let of = |sizes: &VecDeque<u32>| {
            let started = sizes.iter().rev().take(self.start + 1).min().copied().unwrap_or(0);
            Pods { wanted: sizes.back().copied().unwrap_or(0), ready: started }
        };
        self.sizes.iter().map(|(name, sizes)| (name.clone(), of(sizes))).collect()
    }

    /// One second in which so many requests came, shared evenly by the revisions. A pod answers 110, and refuses the others.
    fn interval(&self, offered: u64) -> Interval {
        let share = offered / self.sizes.len() as u64;
        let pods = self.pods();
        let revision = |name: &String| {
            let answered = share.min(u64::from(pods[name].ready) * 110);
            let mut counted = Counted { answered, overloaded: share - answered, ..Counted::default() };
            for _ in 0..answered {
                counted.latency.record(self.latency);
            }
            counted.in_flight = answered * u64::try_from(self.latency.as_millis()).unwrap() / 1000;
            counted
        };
        let revisions = self.sizes.keys().map(|name| (name.clone(), revision(name)));
        let revisions = revisions.collect();
        Interval { took: Duration::from_secs(1), offered, revisions, ..Interval::default() }
    }

    fn look(&mut self, counted: Result<&Interval, &str>) -> Decision {
        self.now += Duration::from_secs(1);
        let pods = self.pods();
        let look =
            Look { now: self.now, counted, pods: &pods, main: "a", in_run: self.in_run, wake: self.wake };
        let decision = self.scaler.look(&look, AIM, self.bounds);
        for (name, size) in self.scaler.sizes() {
            if let Some(sizes) = self.sizes.get_mut(&name) {
                sizes.push_back(size);
            }
        }
        decision
    }

    /// So many seconds at a rate. What changed.
    fn seconds(&mut self, seconds: u32, rate: u64) -> Vec<Change> {
        let look = |story: &mut Self| {
            let interval = story.interval(rate);
            story.look(Ok(&interval)).changes
        };
        (0..seconds).flat_map(|_| look(self)).collect()
    }

    fn size(&self) -> u32 {
        self.scaler.sizes()["a"]
    }
}

#[test]
fn pods_follow_demand_up_at_once_and_down_after_the_window() {
    let mut story = Story::new(2);
    assert!(story.seconds(400, 180).is_empty());
    let up = story.seconds(60, 550);
    assert_eq!((up[0].from, up[0].rule), (2, Rule::Demand));
    assert!((5..=6).contains(&story.size()), "{}", story.size());
    let quiet = story.seconds(299, 150);
    assert!(quiet.is_empty(), "{quiet:?}");
    let down = story.seconds(100, 150);
    assert!(down.iter().all(|change| change.rule == Rule::Quiet && change.to < change.from), "{down:?}");
    assert_eq!(story.size(), 2);
}

#[test]
fn a_sway_around_a_whole_number_of_pods_moves_nothing() {
    let mut story = Story::new(3);
    let mut changes = Vec::new();
    for second in 0..1200_u64 {
        changes.extend(story.seconds(1, if second % 60 < 30 { 290 } else { 310 }));
    }
    assert!(changes.len() <= 1, "{changes:?}");
}

#[test]
fn what_is_not_known_changes_nothing() {
    let mut story = Story::new(4);
    story.seconds(60, 390);
    for _ in 0..1000 {
        let decision = story.look(Err("router x: no answer within 1 s"));
        assert_eq!(
            decision,
            Decision { changes: vec![], holds: Some("router x: no answer within 1 s".into()) }
        );
    }
    // Nor is the gap a time without demand.
    assert!(story.seconds(60, 390).is_empty());
}

#[test]
fn figures_that_contradict_each_other_change_nothing() {
    let mut story = Story::new(8);
    // 400 a second at 20 ms make 8 under way, not 1.
    let mut interval = story.interval(400);
    interval.revisions.get_mut("a").unwrap().in_flight = 1;
    let decisions: Vec<_> = (0..600).map(|_| story.look(Ok(&interval))).collect();
    assert!(decisions.iter().all(|decision| decision.changes.is_empty()));
    let said = decisions.last().unwrap().holds.clone().unwrap();
    assert!(said.contains("1.0 requests are under way, and rate times latency makes 8.0"), "{said}");
}

#[test]
fn a_restart_goes_on_from_what_is_there() {
    let mut story = Story::known(&[("a", 7, None)]);
    assert!(story.seconds(299, 10).is_empty());
    // With what was learned before, the first burst is met at once.
    let mut story = Story::known(&[("a", 2, Some(50.0))]);
    story.seconds(10, 400);
    assert_eq!(story.size(), 8);
}

#[test]
fn pods_that_start_count_and_keep_pods_from_going() {
    let mut story = Story::new(2);
    story.start = 60;
    let changes = story.seconds(50, 400);
    assert_eq!(story.size(), changes.last().unwrap().to);
    // Nobody asks again for what is on its way.
    assert!(story.seconds(9, 400).is_empty());
    story.bounds.down_window = Duration::from_secs(10);
    story.start = 200;
    story.seconds(1, 900);
    let (before, after) = (story.size(), story.seconds(100, 100));
    assert!(before > 4 && after.iter().all(|change| change.to > change.from), "{after:?}");
}

#[test]
fn a_missed_percentile_brings_pods() {
    let mut story = Story::new(4);
    // It is missed for a moment.
    story.seconds(290, 300);
    story.latency = Duration::from_millis(150);
    assert!(story.seconds(2, 300).is_empty());
    story.latency = Duration::from_millis(20);
    assert!(story.seconds(60, 300).is_empty());
    story.latency = Duration::from_millis(150);
    let changes = story.seconds(120, 300);
    assert!(!changes.is_empty() && changes.iter().all(|change| change.rule == Rule::Latency), "{changes:?}");
    assert!(story.size() > 4 && changes.iter().all(|change| change.to > change.from));
}

#[test]
fn a_model_that_is_slower_than_its_target_is_told_and_gets_no_more_pods() {
    let mut story = Story::new(4);
    story.latency = Duration::from_millis(150);
    let changes = story.seconds(900, 4);
    assert!(changes.iter().all(|change| change.rule == Rule::Quiet), "{changes:?}");
    let (_, figures) = story.scaler.figures().next().unwrap();
    assert!(figures.too_slow.is_some_and(|seen| seen >= Duration::from_millis(150)), "{figures:?}");
}

#[test]
fn without_requests_there_are_no_pods_and_the_first_one_brings_them_back() {
    let mut story = Story::new(3);
    story.bounds.zero_after = Some(Duration::from_mins(1));
    story.seconds(30, 200);
    let changes = story.seconds(59, 0);
    assert!(changes.is_empty() && !story.scaler.is_asleep(), "{changes:?}");
    let changes = story.seconds(2, 0);
    assert_eq!((changes[0].to, changes[0].rule), (0, Rule::Idle));
    assert!(story.seconds(100, 0).is_empty() && story.scaler.is_asleep());
    // Routers that cannot be asked are no reason to go on sleeping when one of them calls.
    story.wake = true;
    let woken = story.look(Err("nobody answers")).changes;
    assert_eq!((woken[0].from, woken[0].to, woken[0].rule), (0, 1, Rule::Wake));
    story.wake = false;
    // Not to zero while the pod starts: the time without requests counts from when it is ready.
    story.start = 90;
    assert!(story.seconds(145, 0).is_empty());
    assert_eq!(story.seconds(10, 0)[0].rule, Rule::Idle);
    // A held request wakes as well, and so does a run.
    let held = Interval { took: Duration::from_secs(1), held: 1, ..Interval::default() };
    assert_eq!(story.look(Ok(&held)).changes[0].rule, Rule::Wake);
    story.start = 1;
    story.seconds(70, 0);
    assert!(story.scaler.is_asleep());
    story.in_run = true;
    assert_eq!(story.seconds(1, 0)[0].rule, Rule::Wake);
    assert!(story.seconds(500, 0).is_empty());
}

#[test]
fn other_revisions_are_taken_to_be_like_the_main_one_until_they_were_seen() {
    let mut story = Story::known(&[("a", 5, Some(100.0)), ("b", 5, None)]);
    story.seconds(30, 900);
    assert_eq!(story.scaler.sizes()["b"], 9);
    // One that takes four times as long carries a quarter, or what it was seen to carry: 40 a pod.
    let mut story = Story::known(&[("a", 5, Some(100.0)), ("b", 5, None)]);
    for _ in 0..60 {
        let mut interval = story.interval(400);
        let slow = interval.revisions.get_mut("b").unwrap();
        slow.latency = crate::histogram::Histogram::default();
        for _ in 0..slow.answered {
            slow.latency.record(Duration::from_millis(80));
        }
        slow.in_flight = 16;
        story.look(Ok(&interval));
    }
    let sizes = story.scaler.sizes();
    assert!(sizes["a"] <= 5 && sizes["b"] == 10, "{sizes:?}");
}

#[test]
fn other_bounds_hold_at_once() {
    let mut story = Story::new(6);
    story.seconds(20, 550);
    story.bounds.max = 3;
    let change = story.look(Err("nobody answers")).changes.remove(0);
    assert_eq!((change.to, change.rule), (3, Rule::Bounds));
    story.bounds = Bounds { min: 5, max: 9, ..BOUNDS };
    story.seconds(1, 0);
    assert_eq!(story.size(), 5);
}

/// What a second may bring: requests, and whether routers answer.
fn second() -> impl Strategy<Value = (u64, bool)> {
    (prop_oneof![Just(0), 0_u64..50, 50_u64..3000], prop::bool::weighted(0.9))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sizes_stay_within_bounds_and_nobody_goes_down_within_the_window(
        seconds in prop::collection::vec((second(), 1_u32..30), 1..30),
        min in 1_u32..5,
        more in 0_u32..20,
        latency in 1_u64..300,
    ) {
        let mut story = Story::new(min);
        story.bounds = Bounds { min, max: min + more, ..BOUNDS };
        story.latency = Duration::from_millis(latency);
        let mut grew: Option<Duration> = None;
        for ((rate, known), times) in seconds {
            for _ in 0..times {
                let before = story.size();
                let interval = story.interval(rate);
                let decision = story.look(if known { Ok(&interval) } else { Err("unknown") });
                let now = story.size();
                prop_assert!(now >= min && now <= min + more);
                prop_assert!(known || decision.changes.is_empty());
                if now > before {
                    grew = Some(story.now);
                }
                if now < before {
                    let since = grew.map(|grew| story.now.saturating_sub(grew));
                    prop_assert!(since.is_none_or(|since| since >= BOUNDS.down_window), "{since:?}");
                }
            }
        }
    }

    #[test]
    fn more_demand_never_means_fewer_pods(
        history in prop::collection::vec((second(), 1_u32..30), 1..15),
        rate in 0_u64..2000,
        more in 0_u64..2000,
    ) {
        let mut story = Story::new(3);
        for ((rate, known), times) in history {
            for _ in 0..times {
                let interval = story.interval(rate);
                story.look(if known { Ok(&interval) } else { Err("unknown") });
            }
        }
        let sizes = [rate, rate + more].map(|offered| {
            // What was answered is the same: only what came differs.
            let interval = Interval { offered, ..story.interval(rate) };
            let pods = story.pods();
            let now = story.now + Duration::from_secs(1);
            let look = Look { now, counted: Ok(&interval), pods: &pods, main: "a", in_run: false, wake: false };
            let mut scaler = story.scaler.clone();
            scaler.look(&look, AIM, BOUNDS);
            scaler.sizes()["a"]
        });
        prop_assert!(sizes[0] <= sizes[1], "{sizes:?}");
    }
}
