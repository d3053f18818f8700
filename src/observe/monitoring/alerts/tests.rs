use std::sync::Arc;

use stoker_decide::alert::Action;
use stoker_decide::rollout::Watched;

use super::super::config::Configuration;
use super::*;

fn provider() -> Arc<Provider> {
    let text = "providers: [{name: p, prometheus: {address: 'http://127.0.0.1:1'}}]";
    let settings = Configuration::read(text).unwrap().get("p").unwrap().clone();
    Provider::keep_or_make(settings, &Configuration::default()).unwrap()
}

fn labels(name: &str) -> BTreeMap<String, String> {
    [("alertname", name), ("namespace", "team-a"), ("model_deployment", "digits")]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into()
}

fn found(names: &[&str], silences: Result<Option<Vec<Silence>>, String>) -> Found {
    Found { firing: Ok(names.iter().map(|name| labels(name)).collect()), silences }
}

fn silence(name: &str) -> Silence {
    let told = serde_json::json!({
        "matchers": [{"name": "alertname", "value": name}], "status": {"state": "active"}, "createdBy": "ann", "comment": "known",
    });
    Silence::active(serde_json::from_value(told).unwrap()).unwrap()
}

fn concerns(boards: &Boards) -> Result<Vec<(String, Option<Action>)>, String> {
    let watched = Watched { revision: "digits-b".into(), control: "digits-a".into() };
    let about = About { uid: "u", namespace: "team-a", name: "digits", run: 1, step: 1, compared: &watched };
    let own = [("model_deployment".to_owned(), "digits".to_owned())];
    let rule = Rule { alert: None, labels: own.into(), action: Action::Rollback };
    let all = boards.concerns("p", &[rule], &provider(), about)?;
    Ok(all.into_iter().map(|concern| (concern.alert, concern.action)).collect())
}

#[test]
fn a_provider_is_asked_every_two_seconds_for_all() {
    let (boards, now) = (Boards::default(), Instant::now());
    assert!(boards.begin("p", now));
    assert!(!boards.begin("p", now + INTERVAL), "the answer is not there yet");
    boards.note("p", &provider(), found(&[], Ok(None)), now);
    assert!(!boards.begin("p", now + INTERVAL / 2));
    assert!(boards.begin("p", now + INTERVAL));
}

#[test]
fn what_is_not_known_is_said_and_not_taken_for_silence() {
    let boards = Boards::default();
    assert!(concerns(&boards).unwrap_err().contains("asked just now"));
    let down = || Found { firing: Err("provider p: no answer within 5 s".into()), silences: Ok(None) };
    boards.note("p", &provider(), down(), Instant::now());
    assert_eq!(concerns(&boards).unwrap_err(), "provider p: no answer within 5 s");
    boards.note("p", &provider(), found(&["Wrong"], Ok(None)), Instant::now());
    assert_eq!(concerns(&boards), Ok(vec![("Wrong".into(), Some(Action::Rollback))]));
    // One question without an answer makes nobody forget what fires; it is old after a while.
    boards.note("p", &provider(), down(), Instant::now());
    assert_eq!(concerns(&boards).unwrap().len(), 1);
    if let Some((at, _)) = &mut boards.all().get_mut("p").unwrap().firing {
        *at = at.checked_sub(OLD + Duration::from_secs(1)).unwrap();
    }
    assert_eq!(concerns(&boards).unwrap_err(), "provider p: no answer within 5 s");
}

#[test]
fn a_silence_holds_while_its_alertmanager_is_away_for_a_moment() {
    let boards = Boards::default();
    boards.note(
        "p",
        &provider(),
        found(&["Wrong", "Other"], Ok(Some(vec![silence("Wrong")]))),
        Instant::now(),
    );
    let silenced = || Ok(vec![("Wrong".into(), None), ("Other".into(), Some(Action::Rollback))]);
    assert_eq!(concerns(&boards), silenced());
    let away = || found(&["Wrong", "Other"], Err("no answer".into()));
    boards.note("p", &provider(), away(), Instant::now());
    assert_eq!(concerns(&boards), silenced());
    boards.note("p", &provider(), away(), Instant::now() + SILENCES_LAST + Duration::from_secs(1));
    assert_eq!(concerns(&boards).unwrap()[0].1, Some(Action::Rollback));
    boards.note("p", &provider(), found(&["Wrong"], Ok(Some(Vec::new()))), Instant::now());
    assert_eq!(concerns(&boards).unwrap()[0].1, Some(Action::Rollback), "the silence is over");
}
