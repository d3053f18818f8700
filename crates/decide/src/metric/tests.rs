use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rule() -> Rule {
    Rule {
        min: Some(0.02),
        max: Some(0.5),
        regression: None,
        failures: 2,
        max_age: 60 * SECOND,
        lasts: 60 * SECOND,
    }
}

fn against_stable(higher_is_worse: bool, percent: f64) -> Rule {
    let regression = Some(Regression { higher_is_worse, percent });
    Rule { min: None, max: None, regression, failures: 1, ..rule() }
}

fn value(value: f64) -> Reading {
    Reading::Value { value, age: Some(SECOND) }
}

fn measured(candidate: Reading) -> Measurement {
    Measurement { candidate, stable: None }
}

/// The verdict after one measurement.
fn once(rule: &Rule, measurement: &Measurement) -> Verdict {
    let mut course = Course::default();
    course.note(rule, measurement);
    course.verdict(rule, Some(Duration::ZERO))
}

#[test]
fn what_is_no_number_is_never_pass_and_never_fail() {
    let stale = Reading::Value { value: 0.1, age: Some(61 * SECOND) };
    let cases = [
        (value(f64::NAN), "Inconclusive", "is NaN, which is no number"),
        (value(f64::INFINITY), "Inconclusive", "is inf, which is no number"),
        (stale, "Inconclusive", "its newest sample is 61 s old, 60 s are allowed"),
        (Reading::Nothing, "Inconclusive", "has no data: the query gives no series"),
        (Reading::Several(3), "Error", "has 3 series where one is wanted"),
        (Reading::Broken("no answer within 5 s".into()), "Error", "cannot be measured: no answer within 5 s"),
    ];
    for (reading, word, sentence) in cases {
        let rule = Rule { failures: 1, ..rule() };
        let verdict = once(&rule, &measured(reading.clone()));
        assert_eq!(verdict.word(), word, "{reading:?}");
        assert!(verdict.because().contains(sentence), "{}", verdict.because());
        // The same of stable, where it is compared with.
        let both = Measurement { candidate: value(1.0), stable: Some(reading) };
        let verdict = once(&against_stable(true, 10.0), &both);
        assert_eq!(verdict.word(), word);
        assert!(verdict.because().contains("for stable"), "{}", verdict.because());
    }
}

#[test]
fn bounds_hold_as_they_are_written() {
    let cases = [(0.02, true), (0.5, true), (0.1, true), (0.0199, false), (0.501, false), (-1.0, false)];
    for (number, passes) in cases {
        let verdict = once(&Rule { failures: 1, ..rule() }, &measured(value(number)));
        assert_eq!(verdict.word(), if passes { "Pass" } else { "Fail" }, "{number}: {}", verdict.because());
    }
}

#[test]
fn the_candidate_may_be_worse_than_stable_by_so_many_percent() {
    let cases = [
        // (higher is worse, percent, candidate, stable, passes)
        (true, 10.0, 1.1, 1.0, true),
        (true, 10.0, 1.11, 1.0, false),
        (true, 10.0, 0.0, 1.0, true),
        (false, 10.0, 0.9, 1.0, true),
        (false, 10.0, 0.89, 1.0, false),
        (false, 10.0, 9.0, 1.0, true),
        (true, 0.0, 0.0, 0.0, true),
        // A value below nothing gets worse upwards as well.
        (true, 10.0, -0.95, -1.0, true),
        (true, 10.0, -0.85, -1.0, false),
    ];
    for (higher_is_worse, percent, candidate, stable, passes) in cases {
        let measurement = Measurement { candidate: value(candidate), stable: Some(value(stable)) };
        let verdict = once(&against_stable(higher_is_worse, percent), &measurement);
        let word = if passes { "Pass" } else { "Fail" };
        assert_eq!(verdict.word(), word, "{candidate} against {stable}: {}", verdict.because());
    }
    let of_nothing = Measurement { candidate: value(0.001), stable: Some(value(0.0)) };
    let verdict = once(&against_stable(true, 50.0), &of_nothing);
    assert!(
        verdict.word() == "Inconclusive" && verdict.because().contains("percent of nothing"),
        "{}",
        verdict.because()
    );
    let bounded = Rule { max: Some(0.01), ..against_stable(true, 50.0) };
    assert_eq!(once(&bounded, &of_nothing).word(), "Pass");
    let alone = once(&against_stable(true, 10.0), &measured(value(1.0)));
    assert_eq!(alone, Verdict::Error("was not measured for stable".into()));
}

#[test]
fn only_breaches_in_a_row_fail_and_a_failure_stays() {
    let (rule, good, bad) = (rule(), measured(value(0.1)), measured(value(0.9)));
    let mut course = Course::default();
    let told = |course: &Course| course.verdict(&rule, Some(SECOND));
    assert_eq!(told(&course).because(), "was not measured in this step yet");
    course.note(&rule, &bad);
    assert_eq!(told(&course).because(), "is 0.9, above 0.5, 1 of the 2 times in a row that take it back");
    assert_eq!(told(&course).word(), "Inconclusive");
    course.note(&rule, &good);
    assert_eq!(told(&course), Verdict::Pass("is 0.1".into()));
    course.note(&rule, &bad);
    // No data between two breaches is no good measurement.
    course.note(&rule, &measured(Reading::Nothing));
    assert_eq!(told(&course).word(), "Inconclusive");
    // Nor is the next step.
    course.turn();
    course.note(&rule, &bad);
    let failed = Verdict::Fail("is 0.9, above 0.5, 2 times in a row".into());
    assert_eq!(told(&course), failed);
    course.note(&rule, &good);
    course.turn();
    assert_eq!(told(&course), failed);
}

#[test]
fn a_pass_is_of_this_step_and_not_old() {
    let (rule, mut course) = (rule(), Course::default());
    course.note(&rule, &measured(value(0.1)));
    assert_eq!(course.verdict(&rule, Some(60 * SECOND)).word(), "Pass");
    assert_eq!(course.verdict(&rule, Some(61 * SECOND)).because(), "was last measured 61 s ago");
    course.turn();
    assert_eq!(course.verdict(&rule, Some(SECOND)).word(), "Inconclusive");
}

#[test]
fn a_pass_needs_all_and_harm_needs_one() {
    let metric = |name: &str, verdict| (name.to_owned(), verdict);
    let pass = || Verdict::Pass("fine".into());
    let all = [
        metric("a", pass()),
        metric("b", Verdict::Inconclusive("has no data".into())),
        metric("c", Verdict::Error("is broken".into())),
        metric("d", Verdict::Doubtful("is high".into())),
        metric("e", Verdict::Fail("is too high".into())),
    ];
    let joined = |counts: &Verdict, of: &[(String, Verdict)]| {
        let verdict = join(counts, of);
        (verdict.word(), verdict.because().to_owned())
    };
    assert_eq!(joined(&pass(), &[]), ("Pass", "fine".into()));
    assert_eq!(joined(&pass(), &all[..1]), ("Pass", "fine; metric a fine".into()));
    assert_eq!(joined(&pass(), &all[..2]), ("Inconclusive", "metric b has no data".into()));
    assert_eq!(joined(&pass(), &all[..3]), ("Error", "metric c is broken".into()));
    assert_eq!(joined(&pass(), &all[..4]), ("Inconclusive", "metric d is high".into()));
    assert_eq!(join(&pass(), &all[..4]), Verdict::Doubtful("metric d is high".into()));
    assert_eq!(joined(&pass(), &all), ("Fail", "metric e is too high".into()));
    let few = Verdict::Inconclusive("too few requests".into());
    assert_eq!(joined(&few, &all), ("Fail", "metric e is too high".into()));
    assert_eq!(joined(&few, &all[..3]), ("Inconclusive", "too few requests".into()));
    assert_eq!(join(&few, &all[..4]), Verdict::Doubtful("metric d is high".into()));
    let harm = Verdict::Fail("it fails".into());
    assert_eq!(joined(&harm, &all), ("Fail", "it fails".into()));
}

#[test]
fn figures_are_for_people() {
    let cases = [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.025_000_1, "0.025"),
        (0.001_234_567, "0.001235"),
        (1.0, "1"),
        (12.345_67, "12.346"),
        (1234.56, "1234.6"),
        (1_000_000.0, "1000000"),
        (1e12, "1000000000000"),
        (1e18, "1.000e18"),
        (-0.000_001, "-0.000001000000"),
        (100.0, "100"),
    ];
    for (number, text) in cases {
        assert_eq!(Figure(number).to_string(), text);
    }
}

proptest! {
    /// Whatever is measured: a Pass has seen a number within its bounds, and a Fail one beyond them.
    #[test]
    fn verdicts_follow_from_numbers_alone(numbers in proptest::collection::vec(proptest::option::of(-1.0f64..1.0), 1..20), failures in 1u32..4) {
        let rule = Rule { failures, ..rule() };
        let mut course = Course::default();
        let (mut in_a_row, mut failed) = (0, false);
        for number in numbers {
            let reading = number.map_or(Reading::Nothing, value);
            course.note(&rule, &measured(reading));
            let good = number.map(|number| (0.02..=0.5).contains(&number));
            in_a_row = match good { Some(true) => 0, Some(false) => in_a_row + 1, None => in_a_row };
            failed |= in_a_row >= failures;
            let verdict = course.verdict(&rule, Some(Duration::ZERO));
            prop_assert_eq!(verdict.word() == "Fail", failed);
            prop_assert_eq!(verdict.word() == "Pass", !failed && good == Some(true));
        }
    }
}
