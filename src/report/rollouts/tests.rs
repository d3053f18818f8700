use prometheus_client::registry::Registry;
use serde_json::json;
use stoker_decide::analysis::Finding;
use stoker_decide::rollout::{Guard, Kind, Plan, Pods, Reason, Run, Step, Transition};
use stoker_decide::verdict::Verdict;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn md() -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "team", "uid": "uid-digits"},
        "spec": {
            "model": {"uri": "configmap://digits/m.onnx"},
            "slo": {"latency": {"target": "250ms", "percentile": "p95"}},
            "scaling": {"maxReplicas": 5},
        },
        "status": {"phase": "Progressing"},
    }))
    .unwrap()
}

/// `a` is stable, and `b` at a step of the plan 10 %, pause, 50 %.
fn trying(step: usize) -> State {
    let lasting = |kind| Step::new(kind, Some(MINUTE));
    let pause = Step::new(Kind::Pause, None);
    let plan =
        Plan { steps: vec![lasting(Kind::Weight(10)), pause, lasting(Kind::Weight(50))], ..Plan::default() };
    let run = Run { number: 7, candidate: "b".into(), step, plan, ..Run::default() };
    State { stable: Some("a".into()), runs: 7, run: Some(run), ..State::default() }
}

fn pods(ready: u32) -> BTreeMap<String, Pods> {
    let of = |ready| Pods { wanted: 2, ready, there: 2, ..Pods::default() };
    BTreeMap::from([("a".to_owned(), of(2)), ("b".to_owned(), of(ready))])
}

fn examined(verdict: Verdict) -> Examined {
    let counts = |attempts, errors| Counts { attempts, errors, ..Counts::default() };
    let (candidate, stable) = (counts(50, 5), counts(450, 3));
    let finding = Finding {
        verdict: verdict.clone(),
        candidate,
        stable,
        harm_log10: 1.5,
        slow_above: None,
        wanted: 80,
    };
    Examined { finding, agreement: None, verdict, alarm_log10: 4.25 }
}

/// Looks by hand: what differs between them is set, the rest is as in a run that goes well.
struct Looking {
    rollouts: Rollouts,
    registry: Registry,
    md: ModelDeployment,
    uid: &'static str,
    start: Instant,
    verified: bool,
    reachable: bool,
    frozen: bool,
    ready: u32,
    examined: Option<Examined>,
}

/// Counts something in each family, for the reference of metrics.
pub(crate) fn fill(rollouts: &Rollouts) {
    let mut looking = Looking::of(rollouts.clone(), Registry::default());
    let promoted = State {
        stable: Some("b".into()),
        guard: Some(Guard { lasts: MINUTE, ..Guard::default() }),
        ..State::default()
    };
    looking.look(MINUTE, &trying(3), promoted, Standing::Serving, &[Reason::Promoted]);
    // Another one, which stands still.
    looking.uid = "uid-irises";
    looking.stay(MINUTE, 2, Standing::Holding);
    rollouts.written(&trying(1), MINUTE);
}

impl Looking {
    fn new() -> Self {
        let (rollouts, mut registry) = (Rollouts::default(), Registry::default());
        rollouts.register(&mut registry);
        Self::of(rollouts, registry)
    }

    fn of(rollouts: Rollouts, registry: Registry) -> Self {
        let examined = Some(examined(Verdict::Pass("well".into())));
        // Far enough from the start of the machine's clock for runs that began before.
        let start = Instant::now() + MINUTE * 60;
        let (md, uid) = (md(), "uid-digits");
        Self {
            rollouts,
            registry,
            md,
            uid,
            start,
            verified: true,
            reachable: true,
            frozen: false,
            ready: 2,
            examined,
        }
    }

    fn look(&self, after: Duration, before: &State, after_it: State, standing: Standing, ends: &[Reason]) {
        let transition = |reason: &Reason| Transition {
            reason: *reason,
            run: before.runs,
            revision: "b".into(),
            message: String::new(),
        };
        let decision = Decision {
            state: after_it,
            transitions: ends.iter().map(transition).collect(),
            sentence: String::new(),
            standing,
        };
        let pods = pods(self.ready);
        let seen = Seen {
            target: "b",
            target_waits: None,
            pods: &pods,
            revisions: &BTreeSet::new(),
            unverified: (!self.verified).then_some("router r1 is behind"),
            unreachable: (!self.reachable).then_some("no router is running yet"),
            in_flight: &BTreeMap::new(),
            verdict: None,
            bad_ppm: 0,
            cut: None,
            queued: None,
            alerts: None,
            frozen: self.frozen.then_some("incident 4711"),
            request: None,
            elapsed: Duration::ZERO,
        };
        let look = Look {
            md: &self.md,
            before,
            decision: &decision,
            examined: self.examined.as_ref(),
            seen: &seen,
            replicas: &2.into(),
        };
        let began = self.start + after;
        self.rollouts.looked(self.uid, &look, began, began + Duration::from_millis(20));
    }

    /// A look at a run that stays where it is.
    fn stay(&self, after: Duration, step: usize, standing: Standing) {
        self.look(after, &trying(step), trying(step), standing, &[]);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The value of a series of `digits`, by what its labels have more.
    fn value(&self, name: &str, more: &str) -> Option<f64> {
        let more = if more.is_empty() { String::new() } else { format!(",{more}") };
        let series = format!(r#"{name}{{namespace="team",model_deployment="digits"{more}}} "#);
        self.text().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    }

    /// How many runs ended so, and how long they took together.
    fn ended(&self, outcome: Reason) -> Option<(f64, f64)> {
        let text = self.text();
        let value = |what| {
            let series = format!(r#"stoker_rollout_duration_seconds_{what}{{outcome="{}"}} "#, word(outcome));
            text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
        };
        Some((value("count")?, value("sum")?))
    }
}

#[test]
fn a_run_is_told_with_its_step_weights_evidence_and_pods() {
    let looking = Looking::new();
    looking.stay(MINUTE, 1, Standing::Moving);
    for (name, more, value) in [
        ("stoker_rollout_phase", r#"phase="Progressing""#, 1.0),
        ("stoker_rollout_step", "", 1.0),
        ("stoker_rollout_steps", "", 3.0),
        ("stoker_rollout_weight_wanted_ratio", r#"revision="a""#, 0.9),
        ("stoker_rollout_weight_wanted_ratio", r#"revision="b""#, 0.1),
        ("stoker_rollout_weight_verified_ratio", r#"revision="b""#, 0.1),
        ("stoker_rollout_table_verified", "", 1.0),
        ("stoker_rollout_reachable", "", 1.0),
        ("stoker_rollout_verdict", r#"verdict="Pass""#, 1.0),
        ("stoker_rollout_harm_log10", "", 1.5),
        ("stoker_rollout_alarm_log10", "", 4.25),
        ("stoker_rollout_attempts", r#"arm="candidate",revision="b""#, 50.0),
        ("stoker_rollout_errors", r#"arm="candidate",revision="b""#, 5.0),
        ("stoker_rollout_slow", r#"arm="stable",revision="a""#, 0.0),
        ("stoker_rollout_attempts", r#"arm="stable",revision="a""#, 450.0),
        ("stoker_rollout_attempts_wanted", "", 80.0),
        ("stoker_rollout_pods_ready", r#"revision="b""#, 2.0),
        ("stoker_rollout_pods_wanted", r#"revision="b""#, 2.0),
        ("stoker_rollout_latency_target_seconds", r#"percentile="p95""#, 0.25),
        ("stoker_scaling_replicas_limit", "", 5.0),
    ] {
        assert_eq!(looking.value(name, more), Some(value), "{name} {more} in:\n{}", looking.text());
    }
    assert!(looking.text().contains("\nstoker_rollouts_under_way 1"), "{}", looking.text());
}

#[test]
fn a_weight_is_verified_once_all_routers_serve_it() {
    let mut looking = Looking::new();
    let weights = |looking: &Looking| {
        let of = |kind| looking.value(&format!("stoker_rollout_weight_{kind}_ratio"), r#"revision="b""#);
        (of("wanted"), of("verified"))
    };
    looking.look(MINUTE, &trying(0), trying(1), Standing::Moving, &[]);
    assert_eq!(weights(&looking), (Some(0.1), Some(0.0)), "the table is being written");
    looking.verified = false;
    looking.stay(MINUTE, 1, Standing::Moving);
    assert_eq!(weights(&looking), (Some(0.1), Some(0.0)), "one router serves the table before it");
    assert_eq!(looking.value("stoker_rollout_table_verified", ""), Some(0.0));
    looking.verified = true;
    looking.stay(MINUTE, 1, Standing::Moving);
    assert_eq!(weights(&looking), (Some(0.1), Some(0.1)));
}

#[test]
fn before_a_first_look_at_routers_no_weight_is_verified() {
    let mut looking = Looking::new();
    looking.verified = false;
    looking.stay(MINUTE, 1, Standing::Moving);
    assert_eq!(looking.value("stoker_rollout_weight_verified_ratio", r#"revision="a""#), None);
}

#[test]
fn what_stands_still_says_why_and_for_how_long_it_has_for_this_reason() {
    let mut looking = Looking::new();
    let held = |looking: &Looking| {
        let known = looking.rollouts.known()["uid-digits"].clone();
        known.held.map(|held| (held.why, (held.since - looking.start).as_secs() / 60))
    };
    looking.stay(MINUTE, 1, Standing::Moving);
    assert_eq!(held(&looking), None);
    looking.stay(2 * MINUTE, 1, Standing::Holding);
    looking.stay(3 * MINUTE, 1, Standing::Holding);
    assert_eq!(held(&looking), Some(("Evidence", 2)));
    looking.frozen = true;
    looking.stay(4 * MINUTE, 1, Standing::Holding);
    assert_eq!(held(&looking), Some(("Frozen", 4)));
    looking.stay(5 * MINUTE, 2, Standing::Holding);
    assert_eq!(held(&looking), Some(("Paused", 5)), "the pause comes first");
    looking.ready = 1;
    looking.stay(6 * MINUTE, 2, Standing::Holding);
    assert_eq!(held(&looking), Some(("Pods", 6)));
    looking.examined = Some(examined(Verdict::Fail("worse".into())));
    looking.stay(7 * MINUTE, 2, Standing::Holding);
    assert_eq!(held(&looking), Some(("Harm", 7)));
    assert_eq!(looking.value("stoker_rollout_verdict", r#"verdict="Pass""#), None, "there is one verdict");
}

#[test]
fn a_run_takes_from_its_start_to_its_end_and_counts_once() {
    let looking = Looking::new();
    let stable = |revision: &str| State { stable: Some(revision.into()), runs: 7, ..State::default() };
    looking.look(MINUTE, &stable("a"), trying(0), Standing::Moving, &[Reason::RunStarted]);
    looking.stay(3 * MINUTE, 1, Standing::Moving);
    let promoted = State { guard: Some(Guard { lasts: MINUTE, ..Guard::default() }), ..stable("b") };
    looking.look(5 * MINUTE, &trying(3), promoted.clone(), Standing::Serving, &[Reason::Promoted]);
    assert_eq!(looking.ended(Reason::Promoted), Some((1.0, 240.0)));
    assert_eq!(looking.value("stoker_rollout_guard_remaining_seconds", ""), Some(60.0));
    // The way back in the guard ends no run: that one was promoted.
    looking.look(6 * MINUTE, &promoted, stable("a"), Standing::Serving, &[Reason::RolledBack]);
    assert_eq!(looking.ended(Reason::RolledBack), None);
    assert_eq!(looking.ended(Reason::Promoted), Some((1.0, 240.0)));
}

#[test]
fn a_run_that_an_earlier_operator_started_took_at_least_what_its_steps_did() {
    let looking = Looking::new();
    let mut late = trying(3);
    late.run.as_mut().unwrap().in_step = MINUTE * 2;
    let stable = State { stable: Some("a".into()), runs: 7, ..State::default() };
    looking.look(MINUTE, &late, stable, Standing::Serving, &[Reason::Aborted]);
    // A minute of the first step, none that is known of the pause, and two in the third.
    assert_eq!(looking.ended(Reason::Aborted), Some((1.0, 180.0)));
}

#[test]
fn a_decision_is_timed_while_there_is_somebody_to_watch() {
    let looking = Looking::new();
    let counted = |until: &str| {
        let series = format!(r#"stoker_rollout_decision_seconds_count{{until="{until}"}} "#);
        looking.text().lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
    };
    let idle = State { stable: Some("a".into()), ..State::default() };
    looking.look(MINUTE, &idle, idle.clone(), Standing::Serving, &[]);
    looking.rollouts.written(&idle, MINUTE);
    assert_eq!((counted("stored"), counted("written")), (None, None));
    looking.stay(MINUTE, 1, Standing::Moving);
    looking.rollouts.written(&trying(1), MINUTE);
    assert_eq!((counted("stored"), counted("written")), (Some(1), Some(1)));
}

#[test]
fn a_first_revision_is_no_rollout() {
    let looking = Looking::new();
    let first = |stable: Option<&str>| {
        let run = Run { number: 1, candidate: "a".into(), direct: true, ..Run::default() };
        State {
            stable: stable.map(str::to_owned),
            runs: 1,
            run: stable.is_none().then_some(run),
            ..State::default()
        }
    };
    looking.look(MINUTE, &first(None), first(None), Standing::Moving, &[]);
    assert!(looking.text().contains("\nstoker_rollouts_under_way 0"), "{}", looking.text());
    looking.look(2 * MINUTE, &first(None), first(Some("a")), Standing::Serving, &[Reason::Promoted]);
    assert_eq!(looking.ended(Reason::Promoted), None);
}

#[test]
fn what_sleeps_is_neither_reachable_nor_not() {
    let mut looking = Looking::new();
    looking.reachable = false;
    looking.stay(MINUTE, 1, Standing::Moving);
    assert_eq!(looking.value("stoker_rollout_reachable", ""), Some(0.0));
    let nobody = State::default();
    looking.look(MINUTE, &nobody, nobody.clone(), Standing::Moving, &[]);
    assert_eq!(looking.value("stoker_rollout_reachable", ""), None);
}

#[test]
fn series_end_with_their_object() {
    let looking = Looking::new();
    looking.stay(MINUTE, 1, Standing::Moving);
    let others = BTreeSet::from(["uid-digits".to_owned()]);
    looking.rollouts.keep(&others);
    assert!(looking.text().contains("model_deployment"));
    looking.rollouts.keep(&BTreeSet::new());
    assert!(!looking.text().contains("model_deployment"), "{}", looking.text());
    looking.stay(MINUTE, 1, Standing::Moving);
    looking.rollouts.forget("uid-digits");
    assert!(!looking.text().contains("model_deployment"), "{}", looking.text());
}
