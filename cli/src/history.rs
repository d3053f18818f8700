//! `history`: how runs ended, and which revisions one can return to. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde::Serialize;
use serde_json::Value;
use stoker_api::ModelDeployment;

/// The answer of `history`; its serialised form is the stable JSON of `history -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The name of the ModelDeployment.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How runs ended, newest first.
    pub runs: Vec<Ended>,
    /// Revisions that are kept, newest first.
    pub revisions: Vec<Kept>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Its number.
    pub run: u64,
    /// The candidate.
    pub revision: String,
    /// Promoted, RolledBack, Aborted or Superseded.
    pub outcome: String,
    /// The sentence.
    pub message: String,
    /// When, on the operator's wall clock.
    pub at: Timestamp,
}

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Its number: revisions of one ModelDeployment are counted.
    pub number: i64,
    /// Where its model came from.
    pub uri: Option<String>,
    /// What its model is.
    pub digest: Option<String>,
    /// For how many seconds it has been there.
    pub age_seconds: Option<i64>,
    /// Whether `undo --to` can return to it.
    pub undo: bool,
    /// What it is, or what one should know of it.
    pub note: String,
}

/// Puts the history together.
pub fn history(md: &ModelDeployment, revisions: &[ControllerRevision], now: Timestamp) -> History {
    let status = md.status.clone().unwrap_or_default();
    let runs = status.history.iter().map(|one| Ended {
        run: one.run,
        revision: one.revision.clone(),
        outcome: one.outcome.clone(),
        message: one.message.clone(),
        at: one.at.0,
    });
    let kept = |one: &ControllerRevision| {
        let name = one.metadata.name.clone().unwrap_or_default();
        let data = one.data.as_ref().map_or(&Value::Null, |data| &data.0);
        let text = |path: &str| data.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let is = |other: Option<&String>| other == Some(&name);
        let previous = status.previous.as_ref().filter(|previous| previous.revision == name);
        let rejected = status.rejected.iter().find(|rejected| rejected.revision == name);
        let stable = is(status.stable.as_ref());
        let note = if stable {
            "stable".to_owned()
        } else if is(status.candidate.as_ref()) {
            "candidate".to_owned()
        } else if previous.is_some() {
            "previous: its pods are warm, to return is one change of weights".to_owned()
        } else if let Some(rejected) = rejected {
            format!("taken back: {}", rejected.because)
        } else {
            String::new()
        };
        let created = one.metadata.creation_timestamp.as_ref();
        Kept {
            number: one.revision,
            uri: text("/model/uri"),
            digest: text("/digest"),
            age_seconds: created.map(|since| now.as_second() - since.0.as_second()),
            // In a run, to stable as well: it ends the run.
            undo: md.may_return_to(&name) && (!stable || status.run.is_some()),
            note,
            name,
        }
    };
    let mut revisions: Vec<_> = revisions.iter().map(kept).collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    History {
        name: md.metadata.name.clone().unwrap_or_default(),
        namespace: md.metadata.namespace.clone().unwrap_or_default(),
        runs: runs.collect(),
        revisions,
    }
}
