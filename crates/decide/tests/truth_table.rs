//! Evidence that is missing, stale, one-armed, absurd or a lie, against analysis, verdict and the machine of rollouts: none of it
//! promotes. The first rows are honest, so that the table can fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stoker_decide::analysis::{Analysis, Look, Report, Wanted};
use stoker_decide::evidence::{Counts, Key};
use stoker_decide::harm::{ALARM_LOG10, TOLERANCE, power};
use stoker_decide::histogram::Histogram;
use stoker_decide::rollout::{Kind, Plan, Pods, Reason, Run, Seen, State, Step, Trouble, Wish, decide};

const SECOND: Duration = Duration::from_secs(1);

/// What the operator sees at one look.
struct Sight {
    reports: Vec<Report>,
    unreadable: Option<&'static str>,
    unverified: Option<&'static str>,
    ready: u32,
    crashed: bool,
    elapsed: Duration,
}

/// A report of what one router counted of one arm.
fn report(process: &str, revision: &str, attempts: u64, errors: u64) -> Report {
    let mut counts = Counts { attempts, errors, ..Counts::default() };
    (errors..attempts).for_each(|_| counts.latency.record(Duration::from_millis(5)));
    Report { process: process.into(), key: Key { run: 1, step: 1, revision: revision.into() }, counts }
}

/// Two routers with steady traffic: 20 requests of stable and 5 of the candidate a second each.
fn honest(look: u64) -> Sight {
    let reports = ["r1", "r2"]
        .iter()
        .flat_map(|router| [report(router, "a", 20 * look, 0), report(router, "b", 5 * look, 0)])
        .collect();
    Sight { reports, unreadable: None, unverified: None, ready: 2, crashed: false, elapsed: SECOND }
}

/// Honest but for the reports that `change` does something to.
fn with(look: u64, change: impl Fn(&mut Report)) -> Sight {
    let mut sight = honest(look);
    sight.reports.iter_mut().for_each(change);
    sight
}

/// Honest but for the candidate's reports.
fn candidate(look: u64, change: impl Fn(&mut Counts)) -> Sight {
    with(look, |report| {
        if report.key.revision == "b" {
            change(&mut report.counts);
        }
    })
}

/// Without the arms of a revision.
fn without(look: u64, revision: &str) -> Sight {
    let mut sight = honest(look);
    sight.reports.retain(|report| report.key.revision != revision);
    sight
}

/// A histogram as a router would send it.
fn wire(text: &str) -> Histogram {
    serde_json::from_str(text).unwrap()
}

/// How a rollout of one step (40 s) ends within ten minutes, and the last verdict.
fn play(wanted: Wanted, see: fn(u64) -> Sight) -> (Option<Reason>, String) {
    let plan = Plan {
        steps: vec![Step::new(Kind::Weight(20), Some(40 * SECOND))],
        progress_deadline: 600 * SECOND,
        ..Plan::default()
    };
    let wish = Wish {
        plan: plan.clone(),
        keep_warm: SECOND,
        replicas: 2.into(),
        counted_elsewhere: false,
        enforce: true,
        known_good: None,
    };
    let run = Run { number: 1, candidate: "b".into(), step: 1, plan, ..Run::default() };
    let mut state = State { stable: Some("a".into()), runs: 1, run: Some(run), ..State::default() };
    let mut analysis = Analysis::default();
    let mut word = String::new();
    for look in 1..=600 {
        let Some(run) = state.run.clone() else { break };
        let sight = see(look);
        let finding = analysis.look(&Look {
            run: 1,
            step: 1,
            stable: "a",
            candidate: "b",
            reports: &sight.reports,
            unreadable: sight.unreadable,
            controlled: true,
            share: 0.2,
            target: Some(Duration::from_millis(100)),
            wanted,
            alarm_log10: ALARM_LOG10,
            tolerance: TOLERANCE,
            in_step: run.in_step,
            elapsed: sight.elapsed,
        });
        finding.verdict.word().clone_into(&mut word);
        assert!(finding.harm_log10.is_finite());
        let trouble = sight.crashed.then(|| Trouble {
            what: "pod b-0 was killed: out of memory".into(),
            permanent: false,
            crashed: true,
        });
        let pods = BTreeMap::from([
            ("a".to_owned(), Pods { wanted: 2, ready: 2, ..Pods::default() }),
            ("b".to_owned(), Pods { wanted: 2, ready: sight.ready, trouble, ..Pods::default() }),
        ]);
        let decision = decide(
            &wish,
            &state,
            &Seen {
                target: "b",
                target_waits: None,
                pods: &pods,
                revisions: &BTreeSet::from(["a".to_owned(), "b".to_owned()]),
                unverified: sight.unverified,
                unreachable: None,
                in_flight: &BTreeMap::new(),
                verdict: Some(&finding.verdict),
                bad_ppm: 0,
                cut: None,
                queued: None,
                frozen: None,
                alerts: None,
                request: None,
                elapsed: sight.elapsed,
            },
        );
        state = decision.state;
        if let Some(end) =
            decision.transitions.iter().map(|told| told.reason).find(|reason| reason.ends_run())
        {
            return (Some(end), word);
        }
    }
    (None, word)
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// It is promoted: the honest rows.
    Promoted,
    /// It is taken back.
    Back,
    /// It holds, with this verdict at the end.
    Holds(&'static str),
}

/// What the evidence is like, what is seen at each look, what becomes of it.
type Row = (&'static str, fn(u64) -> Sight, Then);

/// The rows.
const TABLE: &[Row] = &[
    ("honest", honest, Then::Promoted),
    (
        "honest, and harmful",
        |look| candidate(look, |counts| *counts = report("", "", 5 * look, 2 * look).counts),
        Then::Back,
    ),
    // Missing.
    ("nothing at all", |_| Sight { reports: Vec::new(), ..honest(1) }, Then::Holds("Inconclusive")),
    (
        "no router answers",
        |_| Sight { reports: Vec::new(), unreadable: Some("no router answers"), ..honest(1) },
        Then::Holds("Error"),
    ),
    (
        "one of two routers does not answer",
        |look| Sight { unreadable: Some("r2: refused"), ..honest(look) },
        Then::Holds("Error"),
    ),
    (
        "a router answers after the step's time",
        |look| Sight { unreadable: (look < 600).then_some("r2: refused"), ..without(look, "b") },
        Then::Holds("Inconclusive"),
    ),
    // One-armed.
    ("the candidate is absent", |look| without(look, "b"), Then::Holds("Inconclusive")),
    ("stable is absent", |look| without(look, "a"), Then::Holds("Inconclusive")),
    (
        "the candidate has another name",
        |look| with(look, |report| report.key.revision = report.key.revision.replace('b', "b2")),
        Then::Holds("Inconclusive"),
    ),
    (
        "the counts are of another run",
        |look| with(look, |report| report.key.run = 0),
        Then::Holds("Inconclusive"),
    ),
    (
        "the counts are of a later run",
        |look| with(look, |report| report.key.run = u64::MAX),
        Then::Holds("Inconclusive"),
    ),
    (
        "the counts are of another step",
        |look| with(look, |report| report.key.step = 2),
        Then::Holds("Inconclusive"),
    ),
    (
        "the counts are of before the step",
        |look| with(look, |report| report.key.step = 0),
        Then::Holds("Inconclusive"),
    ),
    // Too little.
    (
        "a request of the candidate a minute",
        |look| candidate(look, |counts| *counts = report("", "", look / 60, 0).counts),
        Then::Holds("Inconclusive"),
    ),
    (
        "a request of stable a minute",
        |look| {
            with(look, |report| {
                if report.key.revision == "a" {
                    report.counts = self::report("", "", look / 60, 0).counts;
                }
            })
        },
        Then::Holds("Inconclusive"),
    ),
    // Stale.
    ("both arms are frozen", |look| honest(look.min(10)), Then::Holds("Inconclusive")),
    (
        "the candidate is frozen",
        |look| candidate(look, |counts| *counts = report("", "", 5 * look.min(10), 0).counts),
        Then::Holds("Inconclusive"),
    ),
    (
        "stable is frozen",
        |look| {
            with(look, |report| {
                if report.key.revision == "a" {
                    report.counts = self::report("", "", 20 * look.min(10), 0).counts;
                }
            })
        },
        Then::Holds("Inconclusive"),
    ),
    ("all counts shrink", |look| honest(700 - look.max(10)), Then::Holds("Inconclusive")),
    (
        "the candidate's counts shrink",
        |look| candidate(look, |counts| *counts = report("", "", 5 * (700 - look.max(10)), 0).counts),
        Then::Holds("Inconclusive"),
    ),
    (
        "the counts jump to and fro",
        |look| honest(if look % 2 == 0 { 10 } else { 5 }),
        Then::Holds("Inconclusive"),
    ),
    ("time stands still", |look| Sight { elapsed: Duration::ZERO, ..honest(look) }, Then::Holds("Pass")),
    // Absurd.
    (
        "more attempts than can be",
        |look| candidate(look, |counts| counts.attempts = u64::MAX),
        Then::Holds("Error"),
    ),
    (
        "more attempts of stable than can be",
        |look| {
            with(look, |report| {
                if report.key.revision == "a" {
                    report.counts.attempts = u64::MAX;
                }
            })
        },
        Then::Holds("Error"),
    ),
    (
        "more errors than attempts",
        |look| candidate(look, |counts| counts.errors = counts.attempts + 1),
        Then::Holds("Error"),
    ),
    (
        "errors beyond counting",
        |look| candidate(look, |counts| counts.errors = u64::MAX),
        Then::Holds("Error"),
    ),
    (
        "more latencies than answers",
        |look| candidate(look, |counts| counts.latency.record(SECOND)),
        Then::Holds("Error"),
    ),
    (
        "buckets that overflow",
        |look| {
            candidate(look, |counts| {
                counts.latency =
                    wire("{\"buckets\":[[0,18446744073709551615],[1,18446744073709551615]],\"sum\":1}");
            })
        },
        Then::Holds("Error"),
    ),
    (
        "buckets out of range",
        |look| {
            candidate(look, |counts| {
                counts.latency = wire("{\"buckets\":[[-32768,9],[32767,99999]],\"sum\":1}");
            })
        },
        Then::Holds("Error"),
    ),
    (
        "all of it is u64::MAX",
        |look| {
            with(look, |report| {
                report.counts = Counts {
                    attempts: u64::MAX,
                    errors: u64::MAX,
                    latency: wire("{\"buckets\":[[0,18446744073709551615]],\"sum\":1e308}"),
                }
            })
        },
        Then::Holds("Error"),
    ),
    // Lies.
    (
        "answers without latencies, so that none is slow",
        |look| candidate(look, |counts| counts.latency = Histogram::default()),
        Then::Holds("Error"),
    ),
    (
        "two routers under one process id",
        |look| with(look, |report| report.process = "r1".into()),
        Then::Holds("Error"),
    ),
    ("good counts while pods crash", |look| Sight { crashed: true, ready: 1, ..honest(look) }, Then::Back),
    ("good counts while a pod is not ready", |look| Sight { ready: 1, ..honest(look) }, Then::Holds("Pass")),
    (
        "good counts of routers that serve another table",
        |look| Sight { unverified: Some("r2 serves generation 3"), ..honest(look) },
        Then::Holds("Pass"),
    ),
];

#[test]
fn nothing_but_honest_evidence_promotes() {
    let power = Wanted::Power { harm: power::HARM, power: power::POWER, part: 1.0 };
    for (name, see, then) in TABLE {
        for wanted in [Wanted::Requests(50), power] {
            let (end, word) = play(wanted, *see);
            let found = match end {
                Some(Reason::Promoted) => Then::Promoted,
                Some(_) => Then::Back,
                None => {
                    assert_eq!(
                        Then::Holds(
                            ["Pass", "Fail", "Inconclusive", "Error"]
                                .into_iter()
                                .find(|w| *w == word)
                                .unwrap()
                        ),
                        *then,
                        "{name}, {wanted:?}"
                    );
                    continue;
                }
            };
            assert_eq!(found, *then, "{name}, {wanted:?}: {end:?} after {word}");
        }
    }
    let promoted = TABLE.iter().filter(|(_, _, then)| *then == Then::Promoted).count();
    assert_eq!((TABLE.len(), promoted), (35, 1), "only the honest row is promoted");
}

#[test]
fn numbers_that_are_none_do_not_come_off_the_wire() {
    // JSON has no NaN and no infinity; what stands in for them is refused, and then the router counts as unreadable.
    for sum in ["null", "\"NaN\"", "NaN", "Infinity", "-Infinity", "1e999", "\"12\""] {
        let text = format!("{{\"buckets\":[[0,3]],\"sum\":{sum}}}");
        assert!(serde_json::from_str::<Histogram>(&text).is_err(), "{text}");
    }
    for count in ["-1", "1.5", "1e3", "18446744073709551616", "null", "\"3\""] {
        let text = format!("{{\"buckets\":[[0,{count}]],\"sum\":1}}");
        assert!(serde_json::from_str::<Histogram>(&text).is_err(), "{text}");
        let text = format!("{{\"attempts\":{count},\"errors\":0,\"latency\":{{}}}}");
        assert!(serde_json::from_str::<Counts>(&text).is_err(), "{text}");
    }
    // What is a number, however absurd, stays one when routers are added up.
    for sum in ["1e308", "-1e308", "-1"] {
        let mut histogram = wire(&format!("{{\"buckets\":[[0,3]],\"sum\":{sum}}}"));
        let other = histogram.clone();
        histogram.merge(&other);
        assert!(histogram.sum().is_finite(), "{sum}");
        assert!(serde_json::to_string(&histogram).unwrap().parse::<serde_json::Value>().is_ok());
    }
}
