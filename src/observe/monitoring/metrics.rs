//! Metrics of the user's own: which are due, what was measured, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoker_api::deployment::Metric;
use stoker_decide::metric::{Course, Figure, Measurement, Reading, Rule};
use stoker_decide::rollout::Watched;
use stoker_query::{Bound, Fill, Query, prepare};

use super::provider::{Provider, Questions};
use super::{About, Measured};

/// After this time nobody waits for an answer any more: each question has a deadline far below it.
const LOST: Duration = Duration::from_mins(10);

/// The metrics of all rollouts, by uid of the ModelDeployment.
#[derive(Default)]
pub struct Courses(Mutex<BTreeMap<String, Rollout>>);

/// The metrics of one rollout.
struct Rollout {
    run: u64,
    step: usize,
    compared: Watched,
    metrics: BTreeMap<String, Entry>,
}

/// One metric.
struct Entry {
    /// As it was declared: another query starts anew.
    declared: Metric,
    course: Course,
    asked_at: Option<Instant>,
    in_flight: bool,
    measured_at: Option<Instant>,
    last: Option<Measurement>,
    prepared: Option<(Text, Prepared)>,
}

/// What was asked: an answer counts only while the same would be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    uid: String,
    run: u64,
    step: usize,
    compared: Watched,
    metric: Metric,
}

/// What is asked for one measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queries {
    candidate: Query,
    stable: Option<Query>,
}

/// What queries are made from. While it is the same, they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    query: String,
    revision: String,
    stable: String,
    name: String,
    namespace: String,
    label: Option<String>,
    compares: bool,
}

/// Queries that were made, or what is wrong with their text.
type Prepared = Result<Arc<Queries>, String>;

impl Courses {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Rollout>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a rollout.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    /// Forgets all rollouts but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.all().retain(|uid, _| uids.contains(uid));
    }

    /// Begins a run, or a step of it: what was measured before a run is gone, what was measured before a step lets none pass.
    pub fn turn_to(&self, about: About<'_>, metrics: &[Metric]) {
        let mut all = self.all();
        let new = || Rollout {
            run: about.run,
            step: about.step,
            compared: about.compared.clone(),
            metrics: BTreeMap::new(),
        };
        let rollout = all.entry(about.uid.to_owned()).or_insert_with(new);
        if (rollout.run, &rollout.compared) != (about.run, about.compared) {
            *rollout = new();
        }
        if rollout.step != about.step {
            rollout.step = about.step;
            for entry in rollout.metrics.values_mut() {
                entry.course.turn();
                (entry.asked_at, entry.in_flight, entry.measured_at) = (None, false, None);
            }
        }
        rollout.metrics.retain(|_, entry| metrics.contains(&entry.declared));
    }

    /// What is to be asked for a metric now, if anything: it counts as asked from then on.
    pub fn due(&self, about: About<'_>, metric: &Metric, now: Instant) -> Option<Asked> {
        let mut all = self.all();
        let rollout = all.get_mut(about.uid)?;
        let entry = rollout.metrics.entry(metric.name.clone()).or_insert_with(|| Entry {
            declared: metric.clone(),
            course: Course::default(),
            asked_at: None,
            in_flight: false,
            measured_at: None,
            last: None,
            prepared: None,
        });
        let waits = entry.asked_at.is_some_and(|at| now.duration_since(at) < metric.interval());
        // One that never ended would be waited for without an end.
        let lost = entry.asked_at.is_some_and(|at| now.duration_since(at) > LOST);
        if (entry.in_flight && !lost) || waits {
            return None;
        }
        (entry.in_flight, entry.asked_at) = (true, Some(now));
        Some(Asked {
            uid: about.uid.to_owned(),
            run: rollout.run,
            step: rollout.step,
            compared: rollout.compared.clone(),
            metric: metric.clone(),
        })
    }

    /// The queries of a text: those of before, or made by a thread that may take its time.
    pub async fn prepared(&self, asked: &Asked, text: Text) -> Prepared {
        let known = self.entry(asked, |entry| {
            entry.prepared.as_ref().filter(|(known, _)| *known == text).map(|(_, made)| made.clone())
        });
        if let Some(made) = known.flatten() {
            return made;
        }
        let (made, text) = tokio::task::spawn_blocking(move || (text.queries().map(Arc::new), text))
            .await
            .map_err(|error| format!("its query cannot be read: {error}"))?;
        self.entry(asked, |entry| entry.prepared = Some((text, made.clone())));
        made
    }

    /// What is known of a metric, as long as the same would be asked.
    fn entry<T>(&self, asked: &Asked, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut all = self.all();
        let rollout = all.get_mut(&asked.uid)?;
        if (rollout.run, rollout.step, &rollout.compared) != (asked.run, asked.step, &asked.compared) {
            return None;
        }
        let entry = rollout.metrics.get_mut(&asked.metric.name)?;
        (entry.declared == asked.metric).then(|| look(entry))
    }

    /// Takes in what was measured, unless it was asked for something that is over.
    pub fn note(&self, asked: &Asked, rule: &Rule, measurement: Measurement, now: Instant) {
        self.entry(asked, |entry| {
            entry.in_flight = false;
            entry.course.note(rule, &measurement);
            (entry.measured_at, entry.last) = (Some(now), Some(measurement));
        });
    }

    /// What all metrics of a rollout say by now, in the order in which they are declared.
    pub fn told(&self, uid: &str, metrics: &[Metric], now: Instant) -> Vec<Measured> {
        let all = self.all();
        let Some(rollout) = all.get(uid) else { return Vec::new() };
        let told = |metric: &Metric| {
            let entry = rollout.metrics.get(&metric.name)?;
            let since = entry.measured_at.map(|at| now.duration_since(at));
            let last = entry.last.as_ref();
            Some(Measured {
                name: metric.name.clone(),
                verdict: entry.course.verdict(&metric.rule(), since),
                value: last.and_then(|last| figure(&last.candidate)),
                against: last.and_then(|last| figure(last.stable.as_ref()?)),
                dry_run: metric.dry_run,
            })
        };
        metrics.iter().filter_map(told).collect()
    }
}

fn figure(reading: &Reading) -> Option<Figure> {
    match reading {
        Reading::Value { value, .. } => Some(Figure(*value)),
        _ => None,
    }
}

impl Text {
    /// Of a metric; `label` is that of the provider with the namespace in it.
    pub fn of(metric: &Metric, about: About<'_>, label: Option<String>) -> Self {
        Self {
            query: metric.query.clone(),
            revision: about.compared.revision.clone(),
            stable: about.compared.control.clone(),
            name: about.name.to_owned(),
            namespace: about.namespace.to_owned(),
            label,
            compares: metric.regression.is_some(),
        }
    }

    /// The queries, or what is wrong with the text.
    pub fn queries(&self) -> Result<Queries, String> {
        let label = self.label.as_deref().unwrap_or("namespace");
        let bound = (!label.is_empty()).then_some(Bound { label, value: &self.namespace });
        let prepared = |revision| {
            let fill = Fill { revision, stable: &self.stable, name: &self.name, namespace: &self.namespace };
            let wrong = |error| format!("its query: {error}; change rollout.analysis.metrics");
            prepare(&self.query, &fill, bound).map_err(wrong)
        };
        let stable = self.compares.then(|| prepared(&self.stable)).transpose()?;
        Ok(Queries { candidate: prepared(&self.revision)?, stable })
    }
}

/// A measurement that could not be made.
pub fn broken(why: &str) -> Measurement {
    Measurement { candidate: Reading::Broken(why.to_owned()), stable: None }
}

/// Asks for a measurement.
pub async fn measure(
    provider: &Provider,
    namespace: &str,
    queries: &Queries,
    questions: &Questions,
) -> Measurement {
    let candidate = read(provider, namespace, &queries.candidate, questions).await;
    let stable = match &queries.stable {
        Some(query) => Some(read(provider, namespace, query, questions).await),
        None => None,
    };
    Measurement { candidate, stable }
}

async fn read(provider: &Provider, namespace: &str, query: &Query, questions: &Questions) -> Reading {
    let found = match provider.values(namespace, &query.value, questions).await {
        Ok(found) => found,
        Err(why) => return Reading::Broken(why),
    };
    let value = match found.as_slice() {
        [] => return Reading::Nothing,
        [one] => *one,
        more => return Reading::Several(more.len()),
    };
    let Some(age) = &query.age else { return Reading::Value { value, age: None } };
    match provider.values(namespace, age, questions).await {
        Ok(found) => {
            // No series at all, and yet a value: whoever wrote `or vector(0)` wants it so.
            let seconds = found.first().map(|seconds| seconds.max(0.0));
            let age = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Reading::Value { value, age }
        }
        Err(why) => Reading::Broken(why),
    }
}

#[cfg(test)]
mod tests;
