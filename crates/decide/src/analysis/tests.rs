use super::*;
use crate::harm::{ALARM_LOG10, TOLERANCE};

fn report(step: u32, revision: &str, attempts: u64, errors: u64, millis: u64) -> Report {
    let mut counts = Counts { attempts, errors, ..Counts::default() };
    for _ in errors..attempts {
        counts.latency.record(Duration::from_millis(millis));
    }
    Report { process: "r1".into(), key: Key { run: 2, step, revision: revision.into() }, counts }
}

fn look(reports: &[Report]) -> Look<'_> {
    Look {
        run: 2,
        step: 1,
        stable: "a",
        candidate: "b",
        reports,
        unreadable: None,
        controlled: true,
        share: 0.1,
        target: None,
        wanted: Wanted::Requests(50),
        alarm_log10: ALARM_LOG10,
        tolerance: TOLERANCE,
        in_step: Duration::from_secs(10),
        elapsed: Duration::from_secs(1),
    }
}

#[test]
fn a_candidate_that_fails_is_found_and_the_totals_are_told() {
    let mut analysis = Analysis::default();
    let reports = [report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)];
    let finding = analysis.look(&look(&reports));
    assert_eq!(finding.verdict.word(), "Fail");
    assert_eq!((finding.candidate.errors, finding.stable.attempts), (30, 900));
}

#[test]
fn a_candidate_that_is_too_slow_is_found_against_what_stable_did_before() {
    let mut analysis = Analysis::default();
    let before = [report(0, "a", 500, 0, 5)];
    analysis.look(&Look { step: 0, ..look(&before) });
    let reports = [report(1, "a", 900, 0, 5), report(1, "b", 100, 0, 60)];
    assert_eq!(analysis.look(&look(&reports)).verdict.word(), "Fail");
}

#[test]
fn the_same_totals_twice_are_no_new_evidence() {
    let mut analysis = Analysis::default();
    let reports = [report(1, "a", 90, 0, 5), report(1, "b", 10, 1, 5)];
    let first = analysis.look(&look(&reports)).harm_log10;
    let second = analysis.look(&look(&reports)).harm_log10;
    assert!((first - second).abs() < 1e-9);
}

#[test]
fn traffic_that_stops_is_noticed() {
    let mut analysis = Analysis::default();
    let reports = [report(1, "a", 900, 0, 5), report(1, "b", 100, 0, 5)];
    assert_eq!(analysis.look(&look(&reports)).verdict.word(), "Pass");
    let later = analysis.look(&Look {
        elapsed: Duration::from_secs(20),
        in_step: Duration::from_secs(30),
        ..look(&reports)
    });
    assert_eq!(later.verdict.word(), "Inconclusive");
}

#[test]
fn a_restart_of_the_operator_finds_the_same_harm_in_the_totals() {
    let reports = [report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)];
    let mut resumed = Analysis::resume(2, None);
    assert_eq!(resumed.look(&look(&reports)).verdict.word(), "Fail");
}

#[test]
fn a_new_run_starts_without_evidence() {
    let mut analysis = Analysis::default();
    analysis.look(&look(&[report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)]));
    let finding = analysis.look(&Look { run: 3, step: 0, ..look(&[]) });
    assert!(finding.harm_log10 < 1.0 && finding.candidate.attempts == 0);
}

#[test]
fn an_incident_in_the_step_with_the_larger_share_is_no_harm() {
    // Over the run the candidate failed 17 % of its requests and stable 7 %: because it had more of them during the incident.
    let mut analysis = Analysis::default();
    let first = [report(1, "a", 5400, 0, 5), report(1, "b", 600, 0, 5)];
    analysis.look(&look(&first));
    let both = [
        report(1, "a", 5400, 0, 5),
        report(1, "b", 600, 0, 5),
        report(2, "a", 3000, 600, 5),
        report(2, "b", 3000, 600, 5),
    ];
    let second = Look { step: 2, share: 0.5, ..look(&both) };
    let finding = analysis.look(&second);
    assert_eq!(finding.verdict.word(), "Pass", "{}", finding.verdict.because());
    assert_eq!((finding.candidate.errors, finding.stable.errors), (600, 600));
    // The same totals after a restart, all at once.
    let finding = Analysis::resume(2, finding.slow_above).look(&second);
    assert_eq!(finding.verdict.word(), "Pass", "{}", finding.verdict.because());
    assert!(finding.harm_log10 < 1.0);
}

#[test]
fn a_stable_that_misses_the_target_itself_condemns_nobody() {
    // Half of all answers are too late in both arms; the candidate is slower by a little where both are in time.
    let target = Some(Duration::from_millis(40));
    let arm = |revision, attempts, millis| {
        let mut one = report(1, revision, attempts, 0, millis);
        one.counts.merge(&report(1, revision, attempts, 0, 60).counts);
        one
    };
    let reports = [arm("a", 450, 20), arm("b", 50, 25)];
    let finding = Analysis::default().look(&Look { target, ..look(&reports) });
    assert_eq!(finding.verdict.word(), "Pass", "{}", finding.verdict.because());
    assert_eq!((finding.candidate.slow(target), finding.stable.slow(target)), (50, 450));
    // Where every answer of the candidate is late it is found all the same.
    let reports = [arm("a", 450, 20), arm("b", 50, 60)];
    let finding = Analysis::default().look(&Look { target, ..look(&reports) });
    assert_eq!(finding.verdict.word(), "Fail", "{}", finding.verdict.because());
}

#[test]
fn harm_that_was_seen_stays_seen() {
    let mut analysis = Analysis::default();
    let reports = [report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)];
    assert_eq!(analysis.look(&look(&reports)).verdict.word(), "Fail");
    let better = [report(1, "a", 90_000, 1, 5), report(1, "b", 10_000, 30, 5)];
    assert_eq!(analysis.look(&Look { alarm_log10: 12.0, ..look(&better) }).verdict.word(), "Fail");
}

#[test]
fn without_a_number_of_the_user_the_evidence_follows_from_power() {
    let power = Wanted::Power { harm: power::HARM, power: power::POWER, part: 0.5 };
    let wanted = |reports: &[Report], share| {
        Analysis::default().look(&Look { wanted: power, share, ..look(reports) }).wanted
    };
    let clean = [report(0, "a", 9000, 0, 5), report(1, "a", 900, 0, 5), report(1, "b", 5, 0, 5)];
    let noisy = [report(0, "a", 9000, 900, 5), report(1, "a", 900, 90, 5), report(1, "b", 5, 0, 5)];
    let half = |base| power::wanted_requests(base, power::HARM, power::POWER, ALARM_LOG10, 0.1).div_ceil(2);
    assert!(wanted(&clean, 0.1).abs_diff(half(0.000_05)) <= 1);
    assert!(wanted(&noisy, 0.1).abs_diff(half(0.1)) <= 1);
    assert!(wanted(&clean, 0.5) > wanted(&clean, 0.1), "less of stable for each");
}

#[test]
fn a_step_needs_some_requests_of_its_own_whatever_the_plan() {
    let none = Wanted::Power { harm: 0.9, power: 0.5, part: 0.0 };
    let reports = [report(1, "a", 9000, 0, 5), report(1, "b", 9, 0, 5)];
    let finding = Analysis::default().look(&Look { wanted: none, ..look(&reports) });
    assert_eq!((finding.wanted, finding.verdict.word()), (10, "Inconclusive"));
}

#[test]
fn no_latency_without_a_measure_is_good() {
    // 50 requests of the candidate, all slow, and too few of stable to know what slow is.
    let reports = [report(1, "a", 60, 0, 5), report(1, "b", 50, 0, 500)];
    let finding = Analysis::default().look(&look(&reports));
    assert_eq!(finding.verdict.word(), "Inconclusive");
    assert!(finding.verdict.because().contains("60 of the 100"), "{}", finding.verdict.because());
    let target = Some(Duration::from_millis(100));
    assert_eq!(Analysis::default().look(&Look { target, ..look(&reports) }).verdict.word(), "Fail");
}
