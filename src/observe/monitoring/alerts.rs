//! Alerts that fire, by provider: one question for all rollouts, every two seconds while one of them wants to know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stoker_decide::alert::{self, Concern, Firing, Rule};

use super::About;
use super::provider::{Provider, Questions};
use super::silence::Silence;

/// All alerts that fire.
const FIRING: &str = "ALERTS{alertstate=\"firing\"}";
/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(2);
/// What is older is not known any more.
const OLD: Duration = Duration::from_secs(15);
/// For how long silences go on that an Alertmanager told of before it stopped answering.
const SILENCES_LAST: Duration = Duration::from_mins(5);
/// After this time nobody waits for an answer any more: each question has a deadline far below it.
const LOST: Duration = Duration::from_mins(5);

/// Labels of one alert.
type Labels = BTreeMap<String, String>;
/// Alerts that fire, by the namespace that they are about.
type Firings = BTreeMap<String, Vec<Firing>>;

/// What is known, by provider.
#[derive(Default)]
pub struct Boards(Mutex<BTreeMap<String, Board>>);

#[derive(Default)]
struct Board {
    asked_at: Option<Instant>,
    in_flight: bool,
    /// What fires, and when that was said.
    firing: Option<(Instant, Arc<Firings>)>,
    /// What is silenced, and when that was said.
    silences: Option<(Instant, Vec<Silence>)>,
    /// Why the last question had no answer, if so.
    trouble: Option<String>,
}

/// What a provider said.
pub struct Found {
    firing: Result<Vec<Labels>, String>,
    silences: Result<Option<Vec<Silence>>, String>,
}

/// Asks a provider, and its Alertmanager.
pub async fn read(provider: &Provider, questions: &Questions) -> Found {
    let (firing, silences) = tokio::join!(provider.labels(FIRING, questions), provider.silences(questions));
    let own = |mut all: Vec<Labels>| {
        for labels in &mut all {
            labels.retain(|label, _| label != "__name__" && label != "alertstate");
        }
        // Not every Prometheus has an order of its own.
        all.sort();
        all
    };
    Found { firing: firing.map(own), silences }
}

/// The label that tells whose an alert is. A provider without one is one team's: there it is the usual one.
fn label(provider: &Provider) -> &str {
    let label = provider.settings.namespace_label.as_str();
    if label.is_empty() { "namespace" } else { label }
}

/// With what silences them, by namespace. Done once for all rollouts.
fn firings(all: Vec<Labels>, silences: &[Silence], label: &str) -> Firings {
    let mut firings = Firings::new();
    for labels in all {
        let Some(namespace) = labels.get(label).cloned() else { continue };
        let by = silences.iter().find(|silence| silence.holds(&labels)).map(|silence| silence.why.clone());
        firings.entry(namespace).or_default().push(Firing { labels, silenced: by });
    }
    firings
}

impl Boards {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Board>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a provider is to be asked now: it counts as asked from then on.
    pub fn begin(&self, name: &str, now: Instant) -> bool {
        let mut all = self.all();
        let board = all.entry(name.to_owned()).or_default();
        let since = board.asked_at.map(|at| now.duration_since(at));
        let lost = since.is_some_and(|since| since > LOST);
        if (board.in_flight && !lost) || since.is_some_and(|since| since < INTERVAL) {
            return false;
        }
        (board.in_flight, board.asked_at) = (true, Some(now));
        true
    }

    /// Takes in what a provider said.
    pub fn note(&self, name: &str, provider: &Provider, found: Found, now: Instant) {
        let known = self.all().get(name).and_then(|board| board.silences.clone());
        let silences = match found.silences {
            Ok(silences) => silences.map(|silences| (now, silences)),
            Err(why) => {
                tracing::debug!(provider = name, why, "silences");
                known.filter(|(at, _)| now.duration_since(*at) <= SILENCES_LAST)
            }
        };
        let held = silences.as_ref().map(|(_, silences)| silences.as_slice()).unwrap_or_default();
        // Outside of the lock: it may take a moment.
        let firing = found.firing.map(|all| Arc::new(firings(all, held, label(provider))));
        let mut all = self.all();
        let board = all.entry(name.to_owned()).or_default();
        (board.in_flight, board.silences) = (false, silences);
        match firing {
            Ok(firing) => (board.firing, board.trouble) = (Some((now, firing)), None),
            Err(why) => board.trouble = Some(why),
        }
    }

    /// The alerts that concern a rollout, or why they are not known.
    pub fn concerns(
        &self,
        name: &str,
        rules: &[Rule],
        provider: &Provider,
        about: About<'_>,
    ) -> Result<Vec<Concern>, String> {
        let old = OLD.max(3 * provider.timeout());
        let firing = {
            let all = self.all();
            let asked = || "it was asked just now, and has not answered yet".to_owned();
            let board = all.get(name).ok_or_else(asked)?;
            let known = board.firing.as_ref().filter(|(at, _)| at.elapsed() <= old);
            let Some((_, firing)) = known else {
                return Err(board.trouble.clone().unwrap_or_else(asked));
            };
            Arc::clone(firing)
        };
        let ours = firing.get(about.namespace).map(Vec::as_slice).unwrap_or_default();
        let about = alert::About {
            namespace_label: label(provider),
            namespace: about.namespace,
            revision: Some(&about.compared.revision),
        };
        Ok(alert::concerns(rules, ours, about))
    }
}

#[cfg(test)]
mod tests;
