//! What Prometheus and Alertmanager say (client required, and not that of Kubernetes): metrics of the user's own, and alerts.
//!
//! A reconcile never waits for them. It says what it wants to know and takes what is known by then; questions are asked in the
//! background, so many at a time, each with a deadline. All of it may be lost: it is measured again.
//!
//! Addresses come from the operator's configuration, by name: the operator calls none that a namespaced object holds.

mod alerts;
pub mod config;
mod metrics;
mod provider;
mod silence;
mod turns;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use stoker_api::deployment::{AlertRule, Metric};
use stoker_decide::alert::Alerts;
use stoker_decide::metric::Figure;
use stoker_decide::rollout::Watched;
use stoker_decide::verdict::Verdict;

use alerts::Boards;
use config::{Configuration, ConfigurationError, Settings};
use metrics::{Asked, Courses};
use provider::Provider;
pub use provider::Questions;

/// Between two looks at the file with the providers.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// Whose rollout is asked about, and what is compared in it.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The ModelDeployment.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The run.
    pub run: u64,
    /// The step of it.
    pub step: usize,
    /// The revision that is judged, and the one that it is compared with.
    pub compared: &'a Watched,
}

/// What a metric says by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The candidate's last value.
    pub value: Option<Figure>,
    /// Stable's, where they are compared.
    pub against: Option<Figure>,
    /// It decides nothing.
    pub dry_run: bool,
}

/// All that is known of and asked from monitoring systems.
pub struct Monitoring {
    path: Option<PathBuf>,
    read: Mutex<Read>,
    courses: Courses,
    boards: Boards,
    questions: Questions,
}

/// The configuration as it was read last.
#[derive(Default)]
struct Read {
    at: Option<Instant>,
    configuration: Configuration<Result<Arc<Provider>, String>>,
    /// Why the file cannot be used now; what it said before goes on.
    trouble: Option<String>,
}

impl Monitoring {
    /// With the providers of a file, which is read again when it changes. None: there are no providers.
    pub fn new(path: Option<PathBuf>, registry: &mut Registry) -> Arc<Self> {
        let questions = Questions::default();
        questions.register(registry);
        Arc::new(Self {
            path,
            read: Mutex::default(),
            courses: Courses::default(),
            boards: Boards::default(),
            questions,
        })
    }

    /// Counts something, for the reference of metrics.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        self.questions.count("prometheus".to_owned(), "ok", Duration::ZERO);
    }

    /// What the metrics of a rollout say by now. Those that are due are asked for.
    pub fn measured(self: &Arc<Self>, metrics: &[Metric], about: About<'_>) -> Vec<Measured> {
        let now = Instant::now();
        if metrics.is_empty() {
            self.courses.forget(about.uid);
            return Vec::new();
        }
        self.courses.turn_to(about, metrics);
        for metric in metrics {
            if let Some(asked) = self.courses.due(about, metric, now) {
                self.ask(metric, asked, about);
            }
        }
        self.courses.told(about.uid, metrics, now)
    }

    fn ask(self: &Arc<Self>, metric: &Metric, asked: Asked, about: About<'_>) {
        let provider = self.provider(metric.provider());
        let label = provider.as_ref().ok().map(|provider| provider.settings.namespace_label.clone());
        let wanted = metrics::Text::of(metric, about, label);
        let (this, rule) = (Arc::clone(self), metric.rule());
        let namespace = about.namespace.to_owned();
        tokio::spawn(async move {
            let measurement = match provider {
                Ok(provider) => {
                    let queries = this.courses.prepared(&asked, wanted).await;
                    match queries {
                        Ok(queries) => {
                            metrics::measure(&provider, &namespace, &queries, &this.questions).await
                        }
                        Err(why) => metrics::broken(&why),
                    }
                }
                Err(why) => metrics::broken(&why),
            };
            this.courses.note(&asked, &rule, measurement, Instant::now());
        });
    }

    /// Which of the declared alerts fire by now; none where none are declared.
    pub fn alerts(self: &Arc<Self>, rules: &[AlertRule], about: About<'_>) -> Option<Alerts> {
        if rules.is_empty() {
            return None;
        }
        let mut all = Alerts::default();
        let names: BTreeSet<&str> = rules.iter().map(AlertRule::provider).collect();
        for name in names {
            let found = self.provider(name).and_then(|provider| {
                self.look(name, &provider);
                let of_it: Vec<_> = rules
                    .iter()
                    .filter(|rule| rule.provider() == name)
                    .map(|rule| rule.rule(about.name))
                    .collect();
                self.boards.concerns(name, &of_it, &provider, about)
            });
            match found {
                Ok(concerns) => all.firing.extend(concerns),
                Err(why) => all.unreadable = Some(why),
            }
        }
        Some(all)
    }

    /// Asks a provider for all that fires, unless that was just done.
    fn look(self: &Arc<Self>, name: &str, provider: &Arc<Provider>) {
        if self.boards.begin(name, Instant::now()) {
            let (this, provider, name) = (Arc::clone(self), Arc::clone(provider), name.to_owned());
            tokio::spawn(async move {
                let found = alerts::read(&provider, &this.questions).await;
                this.boards.note(&name, &provider, found, Instant::now());
            });
        }
    }

    /// Forgets a ModelDeployment that is gone, or whose rollout is over.
    pub fn forget(&self, uid: &str) {
        self.courses.forget(uid);
    }

    /// Forgets all ModelDeployments but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.courses.keep(uids);
    }

    /// A provider by its name, or why there is none.
    fn provider(&self, name: &str) -> Result<Arc<Provider>, String> {
        let read = self.configuration();
        let trouble = || {
            let trouble = read.trouble.as_ref();
            trouble.map(|why| format!("; its file cannot be used: {why}")).unwrap_or_default()
        };
        read.configuration.get(name).cloned().unwrap_or_else(|| {
            let known = read.configuration.names();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(format!(
                "the operator's configuration has no provider {name} (there are: {known}){}",
                trouble()
            ))
        })
    }

    /// The configuration, read again now and then.
    fn configuration(&self) -> MutexGuard<'_, Read> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if read.at.is_some_and(|at| now.duration_since(at) < READ_AGAIN) {
            return read;
        }
        read.at = Some(now);
        let Some(path) = &self.path else { return read };
        let found = match std::fs::read_to_string(path) {
            // Nobody made it: there are no providers.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Configuration::default()),
            Err(error) => Err(ConfigurationError::Unreadable(error.to_string())),
            Ok(text) => Configuration::read(&text),
        };
        let made = found.map(|settings| {
            let before = &read.configuration;
            // One that cannot be used is no reason to do without the others.
            settings.make(|settings: Settings| Provider::keep_or_make(settings, before))
        });
        match made {
            Ok(configuration) => {
                read.configuration = configuration;
                read.trouble = None;
            }
            Err(error) => {
                let why = format!("{}: {error}", path.display());
                if read.trouble.as_ref() != Some(&why) {
                    tracing::error!("{why}; what it said before goes on");
                }
                read.trouble = Some(why);
            }
        }
        read
    }
}
