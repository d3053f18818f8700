//! Actions: a request by annotation, and what came of it.
//!
//! A request names the revision that was looked at where it is about one, carries the name that the API server knows the caller by,
//! and is written only to the state that was looked at. Then the operator's answer is waited for: `status.handledRequest` echoes the
//! request, and an Event says what was done or why not.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use stoker_api::ModelDeployment;
use stoker_api::names::annotations;
pub use stoker_decide::rollout::Verb;
use tokio::time::{Instant, sleep};

use crate::args::Waiting;
use crate::cluster::Cluster;
use crate::exit::Exit;
use crate::picture::{Gates, read, request, written};
use crate::trouble::Trouble;
use answer::{Known, answer, known};

/// Between two looks at whether a request was handled.
const PERIOD: Duration = Duration::from_millis(500);
/// How long the Event may take that follows the status.
const EVENTS: Duration = Duration::from_secs(5);
/// How often a write is tried again when only figures of the status have changed meanwhile.
const TRIES: usize = 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which action.
    pub verb: Verb,
    /// The revision to return to.
    pub to: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What came of it; its serialised form is the stable JSON of actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The name of the ModelDeployment.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The value of `stoker.dev/request`.
    pub request: String,
    /// Who asked.
    pub requested_by: String,
    /// Done, Refused, or Asked where nobody waited for the answer.
    pub result: Result,
    /// In a sentence.
    pub message: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Result {
    /// The operator did it.
    Done,
    /// The operator says why not.
    Refused,
    /// It was written down, and nobody waited.
    Asked,
}

impl Outcome {
    /// The code that the process ends with.
    pub fn exit(&self) -> Exit {
        if self.result == Result::Refused { Exit::Unwell } else { Exit::Well }
    }
}

/// What a caller saw when it decided to act. Where it differs at the time of the write, the decision was about something else.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    target: Option<String>,
    stable: Option<String>,
    candidate: Option<String>,
    run: Option<(u64, u32)>,
    awaits: Option<String>,
    generation: Option<i64>,
}

impl Sight {
    fn of(object: &Value, md: &ModelDeployment) -> Self {
        let status = md.status.as_ref();
        Self {
            target: status.and_then(|status| status.target.clone()),
            stable: status.and_then(|status| status.stable.clone()),
            candidate: status.and_then(|status| status.candidate.clone()),
            run: status.and_then(|status| status.run.as_ref()).map(|run| (run.number, run.step)),
            awaits: Gates::of(object).awaits,
            generation: md.metadata.generation,
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "stable {}", or_none(&self.stable))?;
        match (&self.candidate, self.run) {
            (Some(candidate), Some((run, step))) => write!(f, ", run {run} at step {step} with {candidate}"),
            _ => write!(f, ", no run, the spec wants {}", or_none(&self.target)),
        }
    }
}

/// Asks, and waits for what comes of it.
pub async fn act(
    cluster: &Cluster,
    name: &str,
    ask: &Ask,
    waiting: &Waiting,
) -> std::result::Result<Outcome, Trouble> {
    let by = cluster.whoami().await?;
    let object = written(&cluster.get(name).await?);
    let md = read(&object)?;
    if let Some(earlier) = request(&md).filter(|earlier| !earlier.handled && !waiting.replace) {
        return Err(Trouble::Unfit(format!(
            "request {:?} by {} is not handled yet, and this one would take its place; wait, or give --replace",
            earlier.value,
            earlier.by.as_deref().unwrap_or("somebody")
        )));
    }
    // Whoever may act may not always list Events.
    let before = cluster.events(name).await.ok().map(|events| known(&events));
    let value = value(ask, &md, Timestamp::now());
    write(cluster, name, &object, &md, ask, &value, &by).await?;
    let outcome = |result, message: String| Outcome {
        name: name.to_owned(),
        namespace: cluster.namespace().to_owned(),
        request: value.clone(),
        requested_by: by.clone(),
        result,
        message,
    };
    if waiting.no_wait {
        return Ok(outcome(Result::Asked, "asked; the operator's answer is not waited for".to_owned()));
    }
    let after = handled(cluster, name, &value, waiting.timeout).await?;
    let (result, message) = told(cluster, name, ask.verb, before.as_ref(), &md, &after).await?;
    Ok(outcome(result, message))
}

/// The annotation: verb, the revision that it is about, and something that was not used before.
fn value(ask: &Ask, md: &ModelDeployment, now: Timestamp) -> String {
    let status = md.status.as_ref();
    let candidate = || status.and_then(|status| status.candidate.clone());
    let about = match ask.verb {
        // The candidate may be another one when the operator reads this: then it refuses.
        Verb::Promote | Verb::PromoteFull | Verb::Approve | Verb::Pause | Verb::Abort => candidate(),
        Verb::Retry => status.and_then(|status| status.target.clone()),
        Verb::Undo => ask.to.clone(),
        Verb::Resume | Verb::Repin => None,
    };
    let about = about.map(|revision| format!("/{revision}")).unwrap_or_default();
    format!("{}{about} {now}", ask.verb)
}

/// Writes the annotations, to the state that was looked at.
async fn write(
    cluster: &Cluster,
    name: &str,
    seen: &Value,
    md: &ModelDeployment,
    ask: &Ask,
    value: &str,
    by: &str,
) -> std::result::Result<(), Trouble> {
    let sight = Sight::of(seen, md);
    let mut version = md.metadata.resource_version.clone();
    for _ in 0..TRIES {
        let body = json!({"metadata": {
            "resourceVersion": version,
            "annotations": {
                annotations::REQUEST: value,
                annotations::REQUESTED_BY: by,
                // One of an earlier approval would be taken for this request's.
                annotations::REASON: ask.reason,
            },
        }});
        if cluster.patch(name, &body).await?.is_some() {
            return Ok(());
        }
        let object = written(&cluster.get(name).await?);
        let md = read(&object)?;
        let now = Sight::of(&object, &md);
        if now != sight {
            return Err(Trouble::Unfit(format!(
                "nothing was asked for: it was {sight}, and is {now} by now; look again"
            )));
        }
        version = md.metadata.resource_version;
    }
    Err(Trouble::Late(format!(
        "ModelDeployment {name} changes all the time: the request could not be written; try again"
    )))
}

/// Waits until the operator has handled the request.
async fn handled(
    cluster: &Cluster,
    name: &str,
    value: &str,
    patience: Duration,
) -> std::result::Result<Value, Trouble> {
    let started = Instant::now();
    loop {
        match cluster.get(name).await {
            Ok(object) => {
                let object = written(&object);
                let md = read(&object)?;
                let status = md.status.as_ref();
                if status.and_then(|status| status.handled_request.as_deref()) == Some(value) {
                    return Ok(object);
                }
                let other = request(&md).filter(|request| request.value != value);
                if let Some(other) = other {
                    return Err(Trouble::Unfit(format!(
                        "{} asked for {:?} before this request was handled; whether it was is not known: look again",
                        other.by.as_deref().unwrap_or("somebody"),
                        other.value
                    )));
                }
            }
            Err(passing) if passing.passes() => {}
            Err(lasting) => return Err(lasting),
        }
        if started.elapsed() >= patience {
            return Err(Trouble::Late(format!(
                "the operator has not handled {value:?} within {} s; it will when it runs: kubectl get pods -A -l stoker.dev/part=operator",
                patience.as_secs()
            )));
        }
        sleep(PERIOD).await;
    }
}

/// What the operator says of a request that it has handled: by an Event, or, where those cannot be read, by what has changed.
async fn told(
    cluster: &Cluster,
    name: &str,
    verb: Verb,
    before: Option<&BTreeMap<String, Known>>,
    seen: &ModelDeployment,
    after: &Value,
) -> std::result::Result<(Result, String), Trouble> {
    let now = read(after)?;
    let started = Instant::now();
    while let Some(before) = before {
        let events = cluster.events(name).await.unwrap_or_default();
        if let Some(answer) = answer(verb, before, &events) {
            let result = if answer.refused { Result::Refused } else { Result::Done };
            return Ok((result, answer.message));
        }
        if started.elapsed() >= EVENTS {
            break;
        }
        sleep(PERIOD).await;
    }
    let sight =
        |md: &ModelDeployment, object: &Value| (Sight::of(object, md), md.status.clone().unwrap_or_default());
    let (old, new) = (serde_json::to_value(seen).unwrap_or_default(), after);
    let changed = sight(seen, &old).0 != sight(&now, new).0;
    let message = now.status.map(|status| status.message).unwrap_or_default();
    if changed {
        return Ok((Result::Done, message));
    }
    Err(Trouble::Unfit(format!(
        "{verb} was handled, and no Event that can be read says with what result; now: {message}"
    )))
}
