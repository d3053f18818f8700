//! The ledger of a load: every answer, and what is to be told from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// Messages that are kept word for word, of each kind of failure: the many of a harmful candidate leave room for the one that
/// nobody expected.
const MESSAGES: usize = 5;

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// From when it was due until the last byte of the answer: waiting for a connection counts.
    pub latency: Duration,
    /// The status; none when no whole answer came.
    pub status: Option<u16>,
    /// The revision that answered, as an index into the ledger's revisions.
    revision: Option<u16>,
    /// Whether the label was right; none where no label was answered.
    pub right: Option<bool>,
}

impl Answer {
    /// Answered with success and a label.
    pub fn succeeded(&self) -> bool {
        self.status == Some(200) && self.right.is_some()
    }
}

/// What a request ended with, before it is written down.
#[derive(Debug)]
pub struct Outcome {
    /// The status and the value of `stoker-revision`, when an answer came.
    pub answer: Option<(u16, Option<String>)>,
    /// Whether the label was right.
    pub right: Option<bool>,
    /// What was wrong, when it failed.
    pub message: Option<String>,
}

/// All answers of a load, in the order in which they ended.
#[derive(Debug, Default)]
pub struct Ledger {
    answers: Vec<Answer>,
    revisions: Vec<String>,
    /// By kind of failure.
    messages: BTreeMap<String, Vec<String>>,
    /// Requests that had to look for another connection, because theirs was closed before a byte of them was written.
    pub moved: u64,
}

/// Figures of a set of answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests.
    pub requests: usize,
    /// Of these, not answered with success.
    pub failed: usize,
    /// 99th percentile of the latency of those with success, in milliseconds.
    pub p99_ms: f64,
    /// Share of right labels among those with success.
    pub accuracy: Option<f64>,
}

impl Ledger {
    /// Writes one request down.
    pub fn record(&mut self, due: Duration, latency: Duration, outcome: Outcome) {
        let (status, revision) = outcome.answer.map_or((None, None), |(status, name)| (Some(status), name));
        let answer = Answer {
            due,
            latency,
            status,
            revision: revision.map(|name| self.index(name)),
            right: outcome.right,
        };
        if let Some(message) = outcome.message {
            let kept = self.messages.entry(self.kind(&answer)).or_default();
            if kept.len() < MESSAGES {
                kept.push(format!("{:.3} s: {message}", due.as_secs_f64()));
            }
        }
        self.answers.push(answer);
    }

    fn index(&mut self, name: String) -> u16 {
        let known = self.revisions.iter().position(|revision| *revision == name);
        let index = known.unwrap_or_else(|| {
            self.revisions.push(name);
            self.revisions.len() - 1
        });
        // There are a handful of revisions; a server that makes them up is not counted apart.
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// All answers so far.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// The revision that gave an answer.
    pub fn revision(&self, answer: &Answer) -> Option<&str> {
        self.revisions.get(usize::from(answer.revision?)).map(String::as_str)
    }

    /// How a request that failed is counted and told.
    fn kind(&self, answer: &Answer) -> String {
        let status = answer.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        format!("{status} from {}", self.revision(answer).unwrap_or("no revision"))
    }

    /// The answers that a revision gave.
    pub fn of<'a>(&'a self, revision: &'a str) -> impl Iterator<Item = &'a Answer> {
        self.answers.iter().filter(move |answer| self.revision(answer) == Some(revision))
    }

    /// Requests that failed, without the model errors of `harmful`: answers with 500 that carry its revision header. Any other
    /// failure is Stoker's, whatever the model does.
    pub fn failed_but_for(&self, harmful: Option<&str>) -> usize {
        self.failed_but_for_all(&harmful.into_iter().collect())
    }

    /// As [`Ledger::failed_but_for`], for several harmful revisions.
    pub fn failed_but_for_all(&self, harmful: &BTreeSet<&str>) -> usize {
        let excused = |answer: &Answer| {
            answer.status == Some(500)
                && self.revision(answer).is_some_and(|revision| harmful.contains(revision))
        };
        self.answers.iter().filter(|answer| !answer.succeeded() && !excused(answer)).count()
    }

    /// Figures for each revision that answered, over the answers that were due in the last `window`.
    pub fn lately(&self, now: Duration, window: Duration) -> BTreeMap<&str, Figures> {
        let since = now.saturating_sub(window);
        let mut by_revision: BTreeMap<&str, Vec<&Answer>> = BTreeMap::new();
        for answer in self.answers.iter().rev().take_while(|answer| answer.due + answer.latency >= since) {
            by_revision.entry(self.revision(answer).unwrap_or("none")).or_default().push(answer);
        }
        by_revision.into_iter().map(|(name, answers)| (name, Figures::of(answers.into_iter()))).collect()
    }

    /// What failed, in words: counts by kind, and the first messages of each.
    pub fn explain(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for answer in self.answers.iter().filter(|answer| !answer.succeeded()) {
            *counts.entry(self.kind(answer)).or_default() += 1;
        }
        let mut text = format!("{} requests", self.answers.len());
        for (kind, count) in counts {
            let _ = write!(text, "; {count} {kind}");
        }
        for (kind, messages) in &self.messages {
            for message in messages {
                let _ = write!(text, "\n  {kind}, {message}");
            }
        }
        text
    }
}

impl Figures {
    /// Figures of some answers.
    pub fn of<'a>(answers: impl Iterator<Item = &'a Answer>) -> Self {
        let (mut figures, mut right, mut latencies) = (Self::default(), 0_usize, Vec::new());
        for answer in answers {
            figures.requests += 1;
            if answer.succeeded() {
                latencies.push(answer.latency);
                right += usize::from(answer.right == Some(true));
            } else {
                figures.failed += 1;
            }
        }
        latencies.sort_unstable();
        // The smallest latency that at least 99 % of the answers do not exceed.
        let rank = (latencies.len() * 99).div_ceil(100);
        let p99 = rank.checked_sub(1).map_or(Duration::ZERO, |index| latencies[index]);
        figures.p99_ms = p99.as_secs_f64() * 1e3;
        figures.accuracy = (!latencies.is_empty()).then(|| right as f64 / latencies.len() as f64);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<u16>, revision: &str, right: Option<bool>) -> Outcome {
        let answer = status.map(|status| (status, Some(revision.to_owned())));
        let message = (status != Some(200)).then(|| "boom".to_owned());
        Outcome { answer, right, message }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let ms = Duration::from_millis;
        ledger.record(ms(0), ms(1), ended(Some(200), "a", Some(true)));
        ledger.record(ms(10), ms(3), ended(Some(200), "a", Some(false)));
        ledger.record(ms(20), ms(2), ended(Some(500), "b", None));
        ledger.record(ms(5_000), ms(9), ended(None, "", None));
        ledger
    }

    #[test]
    fn only_the_model_errors_of_the_harmful_revision_are_excused() {
        let ledger = ledger();
        assert_eq!(ledger.failed_but_for(None), 2);
        assert_eq!(ledger.failed_but_for(Some("b")), 1);
        assert_eq!(ledger.failed_but_for(Some("a")), 2);
        // A connection that broke carries no header: it is never excused.
        assert!(ledger.explain().contains("1 no answer from no revision"), "{}", ledger.explain());
    }

    #[test]
    fn other_failures_of_the_harmful_revision_are_not_excused() {
        let mut ledger = ledger();
        for (number, status) in [503, 504, 400].into_iter().enumerate() {
            let failed = ended(Some(status), "b", None);
            ledger.record(Duration::from_secs(6), Duration::from_millis(1), failed);
            assert_eq!(ledger.failed_but_for(Some("b")), number + 2, "{status}");
        }
        // A 200 without a label is no model error either.
        ledger.record(Duration::from_secs(7), Duration::from_millis(1), ended(Some(200), "b", None));
        assert_eq!(ledger.failed_but_for(Some("b")), 5);
    }

    #[test]
    fn each_kind_of_failure_is_told() {
        let mut ledger = Ledger::default();
        for _ in 0..1_000 {
            ledger.record(Duration::ZERO, Duration::ZERO, ended(Some(500), "b", None));
        }
        let lost = Outcome { message: Some("the connection broke".to_owned()), ..ended(None, "", None) };
        ledger.record(Duration::ZERO, Duration::ZERO, lost);
        let told = ledger.explain();
        assert!(told.contains("1000 500 from b") && told.contains("the connection broke"), "{told}");
        assert_eq!(told.matches("boom").count(), MESSAGES, "{told}");
    }

    #[test]
    fn figures_count_what_succeeded() {
        let ledger = ledger();
        let figures = Figures::of(ledger.of("a"));
        assert_eq!((figures.requests, figures.failed, figures.accuracy), (2, 0, Some(0.5)));
        assert!((figures.p99_ms - 3.0).abs() < 1e-9, "{figures:?}");
        assert_eq!(Figures::of(ledger.of("c")), Figures::default());
        let lately = ledger.lately(Duration::from_secs(5), Duration::from_secs(1));
        assert_eq!(lately.keys().collect::<Vec<_>>(), [&"none"]);
    }
}
