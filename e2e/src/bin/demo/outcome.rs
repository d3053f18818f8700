//! What came of the demo: the JSON of its last line, and what in it is not as it should be.

use std::time::Duration;

use serde_json::{Value, json};
use stoker_e2e::load::ledger::{Answer, Figures, Ledger};

/// How the rollout of a version ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was never tried.
    NotTried,
    /// It became stable.
    Promoted,
    /// It was taken out of traffic.
    RolledBack,
    /// Something else; in words.
    Other(String),
}

impl End {
    fn as_str(&self) -> &str {
        match self {
            Self::NotTried => "not tried",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Other(words) => words,
        }
    }
}

/// A version of the model, as far as the demo went with it.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// `v1` to `v4`.
    pub(crate) name: &'static str,
    /// The revision that it became; empty until it is known.
    pub(crate) revision: String,
    /// How its rollout ended.
    pub(crate) end: End,
}

/// All that the last line is made from.
pub(crate) struct Outcome {
    /// The four versions in order.
    pub(crate) versions: Vec<Version>,
    /// Every answer.
    pub(crate) ledger: Ledger,
    /// Requests a second that were meant.
    pub(crate) rate: u32,
    /// Answers of v2 to copies that were compared with those of v1, and how many agreed.
    pub(crate) pairs: (u64, u64),
    /// Whether the guard returned to v2 when v3 began to fail after its promotion.
    pub(crate) returned: bool,
}

/// Answers of a version that are further apart belong to different runs.
const GAP: Duration = Duration::from_secs(3);

impl Outcome {
    fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    fn revision(&self, name: &str) -> &str {
        self.version(name).map_or("", |version| version.revision.as_str())
    }

    fn end(&self, name: &str) -> &End {
        self.version(name).map_or(&End::NotTried, |version| &version.end)
    }

    fn figures(&self, name: &str) -> Figures {
        Figures::of(self.ledger.of(self.revision(name)))
    }

    /// Requests that failed; a model error of the version that is made to fail is its own affair.
    fn failed(&self) -> usize {
        self.ledger.failed_but_for(Some(self.revision("v3")).filter(|revision| !revision.is_empty()))
    }

    /// From the first to the last answer of a version in each of its runs, as clients saw them: how long it had traffic. A gap
    /// of some seconds parts the runs.
    fn seconds_in_traffic(&self, name: &str) -> Vec<f64> {
        let mut due: Vec<Duration> =
            self.ledger.of(self.revision(name)).map(|answer: &Answer| answer.due).collect();
        due.sort_unstable();
        let runs = due.chunk_by(|one, next| next.saturating_sub(*one) < GAP);
        let length = |run: &[Duration]| {
            run.last().zip(run.first()).map_or(0.0, |(last, first)| last.saturating_sub(*first).as_secs_f64())
        };
        runs.map(|run| (length(run) * 10.0).round() / 10.0).collect()
    }

    /// The last line.
    pub(crate) fn json(&self) -> Value {
        let accuracy = |name| self.figures(name).accuracy.map(|share| (share * 1e4).round() / 1e4);
        json!({
            "requests": self.ledger.answers().len(),
            "failed_requests": self.failed(),
            "accuracy": {"v1": accuracy("v1"), "v2": accuracy("v2")},
            "v2": self.end("v2").as_str(),
            "v3": self.end("v3").as_str(),
            "v4": self.end("v4").as_str(),
            "v2_compared_with_v1": {"answers": self.pairs.0, "agree": self.pairs.1},
            "v3_after_promotion": if self.returned { "returned to v2 by the guard" } else { "not returned" },
            "seconds_in_traffic": {"v3": self.seconds_in_traffic("v3"), "v4": self.seconds_in_traffic("v4")},
            "requests_to_v3": self.figures("v3").requests,
            "requests_to_v4": self.figures("v4").requests,
            "model_errors_of_v3": self.figures("v3").failed,
            "p99_ms": {"v1": round(&self.figures("v1")), "v2": round(&self.figures("v2"))},
        })
    }

    /// What is not as it should be, a line each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, end) in [("v2", End::Promoted), ("v3", End::RolledBack), ("v4", End::RolledBack)] {
            if *self.end(name) != end {
                wrong.push(format!("{name} should be {} and is: {}", end.as_str(), self.end(name).as_str()));
            }
        }
        if self.pairs.0 == 0 || self.pairs.1 * 10 < self.pairs.0 * 8 {
            wrong.push(format!("of v2's answers to copies {:?} were compared and agreed", self.pairs));
        }
        if !self.returned {
            wrong.push("the guard should have returned to v2 when v3 began to fail".to_owned());
        }
        if self.failed() > 0 || self.ledger.answers().is_empty() {
            wrong.push(format!("requests failed: {}", self.ledger.explain()));
        }
        if self.figures("v2").accuracy <= self.figures("v1").accuracy {
            wrong.push("v2 should be more accurate than v1".to_owned());
        }
        let lasted = self.ledger.answers().iter().map(|answer| answer.due).max().unwrap_or_default();
        let sent = self.ledger.answers().len() as f64 / lasted.as_secs_f64().max(1.0);
        if sent < f64::from(self.rate) * 0.95 {
            wrong.push(format!("{sent:.0} requests a second were sent, {} were meant", self.rate));
        }
        wrong
    }
}

fn round(figures: &Figures) -> f64 {
    (figures.p99_ms * 10.0).round() / 10.0
}
