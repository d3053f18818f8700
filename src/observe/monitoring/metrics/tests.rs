use stoker_decide::verdict::Verdict;

use super::*;

fn metric(query: &str) -> Metric {
    let json = serde_json::json!({"name": "conversion", "query": query, "max": 0.5, "interval": "10s", "failures": 1});
    serde_json::from_value(json).unwrap()
}

fn watched() -> Watched {
    Watched { revision: "digits-b".into(), control: "digits-a".into() }
}

fn about(watched: &Watched, run: u64, step: usize) -> About<'_> {
    About { uid: "u", namespace: "team-a", name: "digits", run, step, compared: watched }
}

fn value(value: f64) -> Measurement {
    Measurement { candidate: Reading::Value { value, age: None }, stable: None }
}

fn word(courses: &Courses, metric: &Metric, now: Instant) -> String {
    let told = courses.told("u", std::slice::from_ref(metric), now);
    told.first().map_or_else(|| "-".into(), |told| told.verdict.word().to_owned())
}

#[test]
fn a_metric_is_asked_for_once_in_its_interval() {
    let (courses, metric, watched, now) = (Courses::default(), metric("x"), watched(), Instant::now());
    let about = about(&watched, 1, 1);
    courses.turn_to(about, std::slice::from_ref(&metric));
    let asked = courses.due(about, &metric, now).unwrap();
    let later = now + Duration::from_secs(60);
    assert_eq!(courses.due(about, &metric, later), None, "the answer is not there yet");
    courses.note(&asked, &metric.rule(), value(0.1), now);
    assert_eq!(word(&courses, &metric, now), "Pass");
    assert_eq!(courses.due(about, &metric, now + Duration::from_secs(9)), None);
    assert!(courses.due(about, &metric, now + Duration::from_secs(10)).is_some());
}

#[test]
fn an_answer_counts_only_for_what_it_was_asked_for() {
    let (courses, metric, watched, now) = (Courses::default(), metric("x"), watched(), Instant::now());
    let one = std::slice::from_ref(&metric);
    courses.turn_to(about(&watched, 1, 1), one);
    let asked = courses.due(about(&watched, 1, 1), &metric, now).unwrap();
    // The next step began meanwhile: it asks at once.
    courses.turn_to(about(&watched, 1, 2), one);
    courses.note(&asked, &metric.rule(), value(0.1), now);
    let again = courses.due(about(&watched, 1, 2), &metric, now).unwrap();
    assert_eq!(word(&courses, &metric, now), "Inconclusive");
    courses.note(&again, &metric.rule(), value(0.9), now);
    assert_eq!(word(&courses, &metric, now), "Fail");
    // Another run knows nothing of it, and neither does another query of the same name.
    courses.turn_to(about(&watched, 2, 1), one);
    assert_eq!(courses.told("u", one, now), []);
    let asked = courses.due(about(&watched, 2, 1), &metric, now).unwrap();
    let changed = self::metric("y");
    courses.turn_to(about(&watched, 2, 1), std::slice::from_ref(&changed));
    assert!(courses.due(about(&watched, 2, 1), &changed, now).is_some());
    courses.note(&asked, &metric.rule(), value(0.9), now);
    assert_eq!(word(&courses, &changed, now), "Inconclusive");
}

#[test]
fn queries_are_filled_in_for_both_revisions_and_bound() {
    let json = serde_json::json!({"name": "errors", "query": "sum(x{r=\"$revision\"})", "regression": {"worse": "Higher", "percent": 5}});
    let metric: Metric = serde_json::from_value(json).unwrap();
    let watched = watched();
    let made = Text::of(&metric, about(&watched, 1, 1), None).queries().unwrap();
    assert_eq!(made.candidate.value, r#"sum(x{namespace="team-a",r="digits-b"})"#);
    assert_eq!(made.stable.unwrap().value, r#"sum(x{namespace="team-a",r="digits-a"})"#);
    let team = Text::of(&self::metric("up"), about(&watched, 1, 1), Some("team".into()));
    assert_eq!(team.queries().unwrap().candidate.value, r#"up{team="team-a"}"#);
    let all = Text::of(&self::metric("up"), about(&watched, 1, 1), Some(String::new()));
    assert_eq!(all.queries().unwrap().candidate.value, "up");
    let why = Text::of(&self::metric("sum("), about(&watched, 1, 1), None).queries().unwrap_err();
    assert!(
        why.starts_with("its query: it is not PromQL") && why.ends_with("change rollout.analysis.metrics"),
        "{why}"
    );
    let verdict = |why: &str| {
        let mut course = Course::default();
        course.note(&metric.rule(), &broken(why));
        course.verdict(&metric.rule(), None)
    };
    assert_eq!(verdict("so"), Verdict::Error("cannot be measured: so".into()));
}
