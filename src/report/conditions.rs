//! Conditions: pure, transition times kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use stoker_decide::text::cut;

/// Longest message, in bytes: all of them together stay far below what the API server stores.
const LONGEST: usize = 1024;

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// One of `names::conditions`.
    pub type_: &'static str,
    /// True, False, or Unknown (none).
    pub status: Option<bool>,
    /// One of `names::reasons`.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// The conditions after an update: the time of the last transition changes only with the status of a condition.
pub fn update(old: &[Condition], wanted: Vec<Wanted>, generation: i64, now: &Time) -> Vec<Condition> {
    let mut conditions = Vec::with_capacity(wanted.len());
    for Wanted { type_, status, reason, message } in wanted {
        let status = match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let before = old.iter().find(|condition| condition.type_ == type_);
        let since = before
            .filter(|before| before.status == status)
            .map_or(now, |before| &before.last_transition_time);
        conditions.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: cut(&message, LONGEST).to_owned(),
            observed_generation: Some(generation),
            last_transition_time: since.clone(),
        });
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(status: bool, message: &str) -> Vec<Wanted> {
        vec![Wanted { type_: "Ready", status: Some(status), reason: "Converged", message: message.into() }]
    }

    #[test]
    fn the_time_of_transition_changes_only_with_the_status() {
        let at = |second: i64| Time(jiff::Timestamp::from_second(second).unwrap());
        let first = update(&[], wanted(true, "a"), 1, &at(10));
        let same = update(&first, wanted(true, "b"), 2, &at(20));
        let other = update(&same, wanted(false, "c"), 3, &at(30));
        assert_eq!(same[0].last_transition_time, at(10));
        assert_eq!((same[0].message.as_str(), same[0].observed_generation), ("b", Some(2)));
        assert_eq!(other[0].last_transition_time, at(30));
    }
}
