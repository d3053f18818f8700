use super::*;
use crate::harm::{ALARM_LOG10, Block, TOLERANCE};

const MINUTE: Duration = Duration::from_secs(60);

fn counts(attempts: u64, errors: u64, millis: u64) -> Counts {
    let mut counts = Counts { attempts, errors, ..Counts::default() };
    for _ in errors..attempts {
        counts.latency.record(Duration::from_millis(millis));
    }
    counts
}

fn difference(candidate_bad: u64, stable_bad: u64) -> Difference {
    let mut difference = Difference::default();
    for _ in 0..10 {
        difference.add(Block { candidate: 100, candidate_bad, stable: 900, stable_bad });
    }
    difference
}

/// A look at a candidate with whom all is well, with one change.
fn verdict(change: impl FnOnce(&mut Evidence<'_>)) -> Verdict {
    let (candidate, stable) = (counts(1000, 10, 5), counts(9000, 90, 5));
    let mut evidence = Evidence {
        candidate: &candidate,
        stable: &stable,
        candidate_in_step: 100,
        stable_in_step: 900,
        wanted: 50,
        stable_wanted: 50,
        controlled: true,
        baseline: 0.02,
        harm_log10: 0.0,
        alarm_log10: ALARM_LOG10,
        tolerance: TOLERANCE,
        difference: difference(1, 9),
        slow_above: Some(Duration::from_millis(100)),
        silent: Duration::ZERO,
        stable_silent: Duration::ZERO,
        in_step: Duration::from_secs(10),
        unreadable: None,
    };
    change(&mut evidence);
    judge(&evidence)
}

#[test]
fn truth_table() {
    let word = |change: fn(&mut Evidence<'_>)| verdict(change).word();
    assert_eq!(word(|_| ()), "Pass");
    assert_eq!(word(|e| e.harm_log10 = 6.0), "Fail");
    assert_eq!(word(|e| e.unreadable = Some("no router answers")), "Error");
    assert_eq!(
        word(|e| {
            e.harm_log10 = 7.0;
            e.unreadable = Some("no router answers");
        }),
        "Fail"
    );
    assert_eq!(
        word(|e| {
            e.harm_log10 = 6.1;
            e.alarm_log10 = 6.2;
        }),
        "Inconclusive"
    );
    assert_eq!(word(|e| e.candidate_in_step = 49), "Inconclusive");
    assert_eq!(word(|e| e.stable_in_step = 0), "Inconclusive");
    assert_eq!(
        word(|e| {
            e.stable_in_step = 0;
            e.controlled = false;
        }),
        "Pass"
    );
    assert_eq!(word(|e| e.slow_above = None), "Inconclusive");
    assert_eq!(word(|e| e.silent = Duration::from_secs(9)), "Inconclusive");
    assert_eq!(word(|e| e.stable_silent = Duration::from_secs(9)), "Inconclusive");
    // 4 points worse, where 2 are tolerated, and too many requests for chance.
    assert_eq!(word(|e| e.difference = difference(5, 9)), "Inconclusive");
    // 2 points worse: tolerated.
    assert_eq!(word(|e| e.difference = difference(3, 9)), "Pass");
    assert_eq!(word(|e| e.difference = Difference::default()), "Pass");
}

#[test]
fn signs_of_harm_are_said_first_and_are_not_mere_lack_of_evidence() {
    let doubtful = verdict(|e| {
        e.harm_log10 = 2.1;
        e.candidate_in_step = 3;
        e.silent = Duration::from_secs(99);
    });
    assert!(matches!(&doubtful, Verdict::Doubtful(why) if why.contains("10^2.1")), "{doubtful:?}");
    let worse = verdict(|e| e.difference = difference(5, 9));
    assert!(matches!(&worse, Verdict::Doubtful(why) if why.contains("worse by")), "{worse:?}");
    let lacking = verdict(|e| e.candidate_in_step = 3);
    assert!(matches!(lacking, Verdict::Inconclusive(_)), "{lacking:?}");
}

#[test]
fn silence_is_judged_by_the_pace_of_each_arm() {
    // One request a minute: five minutes without one are no silence.
    let calm = verdict(|e| {
        e.in_step = 100 * MINUTE;
        e.silent = 5 * MINUTE;
    });
    assert_eq!(calm.word(), "Pass");
    let stable = verdict(|e| {
        e.in_step = 100 * MINUTE;
        e.stable_silent = 5 * MINUTE;
    });
    assert_eq!(stable.word(), "Inconclusive");
    assert!(stable.because().contains("reached stable for 300 s"), "{}", stable.because());
}

#[test]
fn the_measure_of_latency_is_the_target_or_frozen_from_stable() {
    let target = Some(Duration::from_millis(80));
    let stable = counts(200, 0, 5);
    assert_eq!(slow_above(target, None, &stable), target);
    assert_eq!(slow_above(None, None, &counts(20, 0, 5)), None);
    let learned = slow_above(None, None, &stable);
    // Twice the upper bound of the bucket that holds 5 ms.
    assert!((Duration::from_millis(10)..Duration::from_millis(11)).contains(&learned.unwrap()));
    assert_eq!(slow_above(None, learned, &counts(200, 0, 50)), learned);
}

#[test]
fn what_is_needed_is_told_with_the_time_that_it_takes() {
    let told = |seen, wanted, in_step, silent| {
        verdict(|e| {
            (e.candidate_in_step, e.wanted, e.in_step, e.silent) = (seen, wanted, in_step, silent);
        })
        .because()
        .to_owned()
    };
    let second = Duration::from_secs(1);
    assert_eq!(
        told(20, 500, 2000 * second, second),
        "the candidate has answered 20 of the 500 requests that this step needs: needs 480 more; at 0.010/s that takes about 13 h"
    );
    for (seen, wanted, in_step, end) in [
        (10, 40, 10 * second, "at 1.0/s that takes about 30 s"),
        (1000, 13_000, 10 * second, "at 100/s that takes about 120 s"),
        (30, 330, 60 * second, "at 0.50/s that takes about 10 min"),
        (1, 1000, 3600 * second, "at 0.00028/s that takes about 42 days"),
        (0, 50, 3 * second, "needs 50 more"),
    ] {
        let text = told(seen, wanted, in_step, Duration::ZERO);
        let end = end.replace("120 s", "2 min");
        assert!(text.ends_with(&end), "{text}");
    }
    let silent = told(20, 500, MINUTE, 50 * second);
    assert!(silent.ends_with("and none has reached it for 50 s"), "{silent}");
}

#[test]
fn a_step_without_control_says_so() {
    for harm_log10 in [0.0, 9.0] {
        let verdict = verdict(|e| (e.controlled, e.harm_log10) = (false, harm_log10));
        assert!(verdict.because().contains("uncontrolled: "), "{}", verdict.because());
        assert!(verdict.because().contains("at most 2.0 %"), "{}", verdict.because());
    }
}

#[test]
fn the_sentence_holds_the_figures() {
    let harm = verdict(|e| e.harm_log10 = 6.4);
    let start =
        "candidate failed 10 of 1000 requests, stable 90 of 9000; slower than 100 ms: 0 and 0; p99 5.";
    assert!(harm.because().starts_with(start), "{}", harm.because());
    assert!(harm.because().ends_with("(evidence 10^6.4, alarm at 10^6.0)"), "{}", harm.because());
    let doubt = verdict(|e| e.difference = difference(5, 9));
    assert!(
        doubt.because().contains("worse by 4.0 points, give or take 0.4, where 2.0 are tolerated"),
        "{}",
        doubt.because()
    );
}

#[test]
fn the_wait_for_a_verdict_ends_as_the_user_said() {
    let (deadline, second) = (MINUTE, Duration::from_secs(1));
    let inconclusive = Verdict::Inconclusive("too few".into());
    let error = Verdict::Error("no router answers".into());
    let fail = Verdict::Fail("harm".into());
    let pass = Verdict::Pass("fine".into());
    let back = Patience { on_inconclusive: OnInconclusive::Rollback, deadline };
    let hold = Patience { on_inconclusive: OnInconclusive::Hold, deadline };
    for (patience, waited, verdict, ends) in [
        (back, 59 * second, Some(&inconclusive), false),
        (back, 60 * second, Some(&inconclusive), true),
        (back, 60 * second, Some(&error), true),
        (back, 60 * second, None, true),
        (back, 60 * second, Some(&pass), false),
        (back, 60 * second, Some(&fail), false),
        (hold, 6000 * second, Some(&inconclusive), false),
        (hold, Duration::MAX, Some(&error), false),
        (Patience { deadline: Duration::ZERO, ..back }, Duration::ZERO, Some(&error), false),
    ] {
        assert_eq!(
            patience.exhausted(waited, verdict).is_some(),
            ends,
            "{patience:?}, {waited:?}, {verdict:?}"
        );
    }
    assert_eq!(
        back.exhausted(61 * second, Some(&error)).unwrap(),
        "Error for 61 s, which is longer than the deadline of 60 s: no router answers"
    );
    assert_eq!(hold.outlook(MINUTE), "");
    assert_eq!(back.outlook(50 * second), "; goes back in 10 s unless that changes");
}

#[test]
fn only_a_stretch_without_a_pass_counts_and_only_after_the_steps_own_time() {
    let second = Duration::from_secs(1);
    let inconclusive = Verdict::Inconclusive(String::new());
    let mut waited = Duration::ZERO;
    for (verdict, over, expected) in [
        (Some(&inconclusive), false, 0),
        (Some(&inconclusive), true, 1),
        (None, true, 2),
        (Some(&Verdict::Error(String::new())), true, 3),
        (Some(&Verdict::Pass(String::new())), true, 0),
        (Some(&inconclusive), true, 1),
        (Some(&inconclusive), false, 0),
    ] {
        waited = unsettled(waited, verdict, over, second);
        assert_eq!(waited, expected * second);
    }
    assert_eq!(unsettled(Duration::MAX, None, true, second), Duration::MAX);
}
