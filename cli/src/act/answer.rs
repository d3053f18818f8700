//! Which Event answers a request. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;
use stoker_api::names::reasons;

use super::Verb;

/// The version of an Event that was there before.
pub type Known = String;

/// What the operator says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// It was not done.
    pub refused: bool,
    /// The sentence.
    pub message: String,
}

/// The Events that were there before a request, by uid. An Event that is published again has another version.
pub fn known(events: &[Event]) -> BTreeMap<String, Known> {
    events.iter().map(|event| (uid(event), version(event))).collect()
}

/// The Event that answers a request: one that is new, and of a reason that such a request has.
pub fn answer(verb: Verb, before: &BTreeMap<String, Known>, events: &[Event]) -> Option<Answer> {
    let fresh: Vec<_> =
        events.iter().filter(|event| before.get(&uid(event)) != Some(&version(event))).collect();
    let of = |wanted: &[&str]| {
        fresh.iter().find(|event| event.reason.as_deref().is_some_and(|reason| wanted.contains(&reason)))
    };
    let message = |event: &&Event| event.message.clone().unwrap_or_default();
    if let Some(event) = of(&[reasons::REQUEST_REFUSED]) {
        return Some(Answer { refused: true, message: message(event) });
    }
    of(done(verb)).map(|event| Answer { refused: false, message: message(event) })
}

/// Reasons of the Events that say that a request was carried out.
fn done(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Promote | Verb::PromoteFull => &[reasons::PROMOTE_REQUESTED],
        Verb::Approve => &[reasons::APPROVED],
        Verb::Pause => &[reasons::PAUSED],
        Verb::Resume => &[reasons::RESUMED],
        Verb::Abort => &[reasons::ABORTED],
        Verb::Retry => &[reasons::RETRIED],
        // In mid-run it ends the run.
        Verb::Undo => &[reasons::UNDONE, reasons::ABORTED],
        Verb::Repin => &[reasons::REPINNED],
    }
}

fn uid(event: &Event) -> String {
    event.metadata.uid.clone().or_else(|| event.metadata.name.clone()).unwrap_or_default()
}

fn version(event: &Event) -> Known {
    event.metadata.resource_version.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(uid: &str, version: &str, reason: &str) -> Event {
        let event = json!({
            "metadata": {"name": uid, "uid": uid, "resourceVersion": version},
            "involvedObject": {}, "reason": reason, "message": format!("{reason} of {uid}"),
        });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn only_what_is_new_answers() {
        let before = vec![event("a", "1", "RequestRefused"), event("b", "2", "Aborted")];
        let known = known(&before);
        assert_eq!(answer(Verb::Abort, &known, &before), None);
        let with = |more: Event| [before.clone(), vec![more]].concat();
        let refused = answer(Verb::Abort, &known, &with(event("c", "3", "RequestRefused"))).unwrap();
        assert!(refused.refused);
        assert_eq!(refused.message, "RequestRefused of c");
        let done = answer(Verb::Abort, &known, &with(event("c", "3", "Aborted"))).unwrap();
        assert!(!done.refused);
        // Something else that happens at the same time is no answer.
        assert_eq!(answer(Verb::Abort, &known, &with(event("c", "3", "StepStarted"))), None);
    }

    #[test]
    fn an_event_that_is_published_again_is_new() {
        let known = known(&[event("a", "1", "RequestRefused")]);
        assert!(answer(Verb::Retry, &known, &[event("a", "7", "RequestRefused")]).unwrap().refused);
    }
}
