//! The verdict on a candidate at one look: Pass, Fail, Inconclusive or Error, each with the sentence that says why.
//!
//! No data is never Pass.

use std::fmt;
use std::time::Duration;

use crate::evidence::Counts;
use crate::harm::{ALARM_LOG10, TOLERANCE};

/// Answers of stable that are needed before its p99 can serve as the candidate's measure.
pub const BASELINE_ANSWERS: u64 = 100;

/// How much slower than stable's p99 an answer may be where the user gave no target.
const SLOWER_THAN_STABLE: u32 = 2;

/// What the evidence says about the candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough evidence, and none of harm.
    Pass(String),
    /// The candidate does harm.
    Fail(String),
    /// Not enough evidence yet, or too close to call.
    Inconclusive(String),
    /// The evidence could not be read.
    Error(String),
}

impl Verdict {
    /// The word, as in the status and in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass(_) => "Pass",
            Self::Fail(_) => "Fail",
            Self::Inconclusive(_) => "Inconclusive",
            Self::Error(_) => "Error",
        }
    }

    /// The sentence.
    pub fn because(&self) -> &str {
        match self {
            Self::Pass(text) | Self::Fail(text) | Self::Inconclusive(text) | Self::Error(text) => text,
        }
    }
}

/// Everything that a verdict is made from.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The candidate's counts over the run.
    pub candidate: &'a Counts,
    /// Stable's counts over the same time.
    pub stable: &'a Counts,
    /// Attempts of the candidate in this step.
    pub candidate_in_step: u64,
    /// Attempts of stable in this step.
    pub stable_in_step: u64,
    /// Attempts that each arm must have in a step.
    pub wanted: u64,
    /// False in a step that leaves stable no traffic.
    pub controlled: bool,
    /// Evidence of harm, from the detector.
    pub harm_log10: f64,
    /// Above this an answer counts against its arm.
    pub slow_above: Option<Duration>,
    /// Time since the candidate's last attempt in this step.
    pub silent: Duration,
    /// Time spent in this step.
    pub in_step: Duration,
    /// Why routers could not be read, when they could not.
    pub unreadable: Option<&'a str>,
}

/// The verdict at one look.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let figures = figures(evidence.candidate, evidence.stable, evidence.slow_above);
    // Harm that was seen stays seen, whoever cannot be read now.
    if evidence.harm_log10 >= ALARM_LOG10 {
        return Verdict::Fail(format!(
            "{figures} (evidence 10^{:.1}, alarm at 10^{ALARM_LOG10:.0})",
            evidence.harm_log10
        ));
    }
    if let Some(why) = evidence.unreadable {
        return Verdict::Error(format!("the routers' counts cannot be read: {why}"));
    }
    let wanted = evidence.wanted;
    if evidence.candidate_in_step < wanted {
        let seen = evidence.candidate_in_step;
        return Verdict::Inconclusive(format!(
            "the candidate has answered {seen} of the {wanted} requests that this step needs{}",
            quiet(evidence)
        ));
    }
    if evidence.controlled && evidence.stable_in_step < wanted {
        let seen = evidence.stable_in_step;
        return Verdict::Inconclusive(format!(
            "stable has answered {seen} of the {wanted} requests that this step needs to compare with"
        ));
    }
    if evidence.silent > silence_allowed(evidence) {
        return Verdict::Inconclusive(format!(
            "no request has reached the candidate for {} s; a rollout without traffic is not promoted",
            evidence.silent.as_secs()
        ));
    }
    if rate(evidence.candidate, evidence.slow_above) > rate(evidence.stable, evidence.slow_above) + TOLERANCE
    {
        return Verdict::Inconclusive(format!("{figures}; more requests will show whether that is chance"));
    }
    Verdict::Pass(figures)
}

/// The latency above which an answer counts against its arm: the user's target, or twice stable's p99 once stable has
/// answered enough in this run. It is fixed from then on, so that it does not follow what it judges.
pub fn slow_above(target: Option<Duration>, known: Option<Duration>, stable: &Counts) -> Option<Duration> {
    if target.is_some() || known.is_some() {
        return target.or(known);
    }
    if stable.latency.count() < BASELINE_ANSWERS {
        return None;
    }
    stable.latency.quantile(0.99).map(|p99| p99 * SLOWER_THAN_STABLE)
}

/// Silence is judged by the candidate's own pace: ten times the mean gap between its requests, and 5 s.
fn silence_allowed(evidence: &Evidence<'_>) -> Duration {
    let attempts = u32::try_from(evidence.candidate_in_step.max(1)).unwrap_or(u32::MAX);
    Duration::from_secs(5) + evidence.in_step.saturating_sub(evidence.silent) / attempts * 10
}

/// Says so when the traffic has stopped altogether.
fn quiet(evidence: &Evidence<'_>) -> String {
    if evidence.silent > silence_allowed(evidence) {
        format!(", and none has reached it for {} s", evidence.silent.as_secs())
    } else {
        String::new()
    }
}

/// Share of attempts that count against the arm.
fn rate(counts: &Counts, slow_above: Option<Duration>) -> f64 {
    if counts.attempts == 0 { 0.0 } else { counts.bad(slow_above) as f64 / counts.attempts as f64 }
}

/// Both arms side by side, in words.
pub fn figures(candidate: &Counts, stable: &Counts, slow_above: Option<Duration>) -> String {
    let text = format!(
        "candidate failed {} of {} requests, stable {} of {}",
        candidate.errors, candidate.attempts, stable.errors, stable.attempts
    );
    let Some(limit) = slow_above else { return text };
    format!(
        "{text}; slower than {} ms: {} and {}; p99 {} and {}",
        limit.as_millis(),
        candidate.slow(slow_above),
        stable.slow(slow_above),
        Millis(candidate.latency.quantile(0.99)),
        Millis(stable.latency.quantile(0.99)),
    )
}

/// A latency for people; `-` where nothing was measured.
struct Millis(Option<Duration>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("-"),
            Some(latency) if latency < Duration::from_millis(10) => {
                write!(f, "{:.1} ms", latency.as_secs_f64() * 1e3)
            }
            Some(latency) => write!(f, "{} ms", latency.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(attempts: u64, errors: u64, millis: u64) -> Counts {
        let mut counts = Counts { attempts, errors, ..Counts::default() };
        for _ in errors..attempts {
            counts.latency.record(Duration::from_millis(millis));
        }
        counts
    }

    fn verdict(change: impl FnOnce(&mut Evidence<'_>)) -> &'static str {
        verdict_on(&counts(100, 0, 5), change)
    }

    fn verdict_on(candidate: &Counts, change: impl FnOnce(&mut Evidence<'_>)) -> &'static str {
        let stable = counts(900, 1, 5);
        let mut evidence = Evidence {
            candidate,
            stable: &stable,
            candidate_in_step: 100,
            stable_in_step: 900,
            wanted: 50,
            controlled: true,
            harm_log10: 0.0,
            slow_above: None,
            silent: Duration::ZERO,
            in_step: Duration::from_secs(10),
            unreadable: None,
        };
        change(&mut evidence);
        judge(&evidence).word()
    }

    #[test]
    fn truth_table() {
        let bad = counts(100, 4, 5);
        let slow = counts(100, 0, 500);
        assert_eq!(verdict(|_| ()), "Pass");
        assert_eq!(verdict(|e| e.harm_log10 = 6.0), "Fail");
        assert_eq!(verdict(|e| e.unreadable = Some("no router answers")), "Error");
        assert_eq!(
            verdict(|e| {
                e.harm_log10 = 7.0;
                e.unreadable = Some("no router answers");
            }),
            "Fail"
        );
        assert_eq!(verdict(|e| e.candidate_in_step = 49), "Inconclusive");
        assert_eq!(verdict(|e| e.stable_in_step = 0), "Inconclusive");
        assert_eq!(
            verdict(|e| {
                e.stable_in_step = 0;
                e.controlled = false;
            }),
            "Pass"
        );
        assert_eq!(verdict(|e| e.silent = Duration::from_secs(9)), "Inconclusive");
        assert_eq!(verdict_on(&bad, |_| ()), "Inconclusive");
        assert_eq!(verdict_on(&slow, |e| e.slow_above = Some(Duration::from_millis(100))), "Inconclusive");
    }

    #[test]
    fn silence_is_judged_by_the_pace_of_the_candidate() {
        // One request a minute: five minutes without one are no silence.
        let slow_pace = |e: &mut Evidence<'_>| {
            e.in_step = Duration::from_secs(6000);
            e.silent = Duration::from_secs(300);
        };
        assert_eq!(verdict(slow_pace), "Pass");
    }

    #[test]
    fn the_measure_of_latency_is_the_target_or_frozen_from_stable() {
        let target = Some(Duration::from_millis(80));
        let stable = counts(200, 0, 5);
        assert_eq!(slow_above(target, None, &stable), target);
        assert_eq!(slow_above(None, None, &counts(20, 0, 5)), None);
        let learned = slow_above(None, None, &stable);
        // Twice the upper bound of the bucket that holds 5 ms.
        assert!((Duration::from_millis(10)..Duration::from_millis(11)).contains(&learned.unwrap()));
        assert_eq!(slow_above(None, learned, &counts(200, 0, 50)), learned);
    }

    #[test]
    fn the_sentence_holds_the_figures() {
        let (candidate, stable) = (counts(40, 12, 5), counts(360, 0, 5));
        let verdict = judge(&Evidence {
            candidate: &candidate,
            stable: &stable,
            candidate_in_step: 40,
            stable_in_step: 360,
            wanted: 50,
            controlled: true,
            harm_log10: 6.4,
            slow_above: Some(Duration::from_millis(100)),
            silent: Duration::ZERO,
            in_step: Duration::from_secs(4),
            unreadable: None,
        });
        let sentence = verdict.because();
        assert!(sentence.starts_with("candidate failed 12 of 40 requests, stable 0 of 360"), "{sentence}");
    }
}
