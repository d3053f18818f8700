//! The verdict on a candidate at one look: Pass, Fail, Inconclusive or Error, each with the sentence that says why.
//!
//! No data is never Pass. Pass is: so many requests that harm of the declared size would have been found, of both arms, of late;
//! a measure for slowness; and no sign of harm.

use std::fmt;
use std::time::Duration;

use crate::evidence::Counts;
use crate::harm::Difference;

mod pace;
mod patience;

pub use patience::{OnInconclusive, Patience, unsettled};

/// Answers of stable that are needed before its p99 can serve as the candidate's measure.
pub const BASELINE_ANSWERS: u64 = 100;

/// How much slower than stable's p99 an answer may be where the user gave no target.
const SLOWER_THAN_STABLE: u32 = 2;

/// Evidence of 100 to 1 is no alarm, and too much to promote on.
const DOUBT_LOG10: f64 = 2.0;

/// A candidate that looks worse than is tolerated by more than this many standard errors is held: more requests will tell. A
/// healthy one is better than that by the whole tolerance, so that it is held less than once in a hundred times even after
/// the few requests of a first step.
const DOUBT_ERRORS: f64 = 2.0;

/// What the evidence says about the candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough evidence, and none of harm.
    Pass(String),
    /// The candidate does harm.
    Fail(String),
    /// Not enough evidence yet, or too close to call.
    Inconclusive(String),
    /// Inconclusive for signs of harm that are no alarm yet: nothing ends well on this.
    Doubtful(String),
    /// The evidence could not be read.
    Error(String),
}

impl Verdict {
    /// The word, as in the status and in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass(_) => "Pass",
            Self::Fail(_) => "Fail",
            Self::Inconclusive(_) | Self::Doubtful(_) => "Inconclusive",
            Self::Error(_) => "Error",
        }
    }

    /// The sentence.
    pub fn because(&self) -> &str {
        match self {
            Self::Pass(text)
            | Self::Fail(text)
            | Self::Inconclusive(text)
            | Self::Doubtful(text)
            | Self::Error(text) => text,
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
    /// Attempts that the candidate must have in this step.
    pub wanted: u64,
    /// Attempts that stable must have in this step, to compare with.
    pub stable_wanted: u64,
    /// False in a step that leaves stable no traffic.
    pub controlled: bool,
    /// Stable's highest rate that is possible by what was seen while it had traffic: the measure of a step without control.
    pub baseline: f64,
    /// Evidence of harm, from the detector.
    pub harm_log10: f64,
    /// At this evidence the candidate does harm.
    pub alarm_log10: f64,
    /// How much worse the candidate may be, as a difference of rates.
    pub tolerance: f64,
    /// How much worse it looks.
    pub difference: Difference,
    /// Above this an answer counts against its arm.
    pub slow_above: Option<Duration>,
    /// Time since the candidate's last attempt in this step.
    pub silent: Duration,
    /// Time since stable's last attempt in this step.
    pub stable_silent: Duration,
    /// Time spent in this step.
    pub in_step: Duration,
    /// Why the routers' counts could not be read or believed, when they could not.
    pub unreadable: Option<&'a str>,
}

/// The verdict at one look.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let figures = figures_of(evidence);
    // Harm that was seen stays seen, whoever cannot be read now.
    if evidence.harm_log10 >= evidence.alarm_log10 {
        return Verdict::Fail(format!(
            "{figures} (evidence 10^{:.1}, alarm at 10^{:.1})",
            evidence.harm_log10, evidence.alarm_log10
        ));
    }
    if let Some(why) = evidence.unreadable {
        return Verdict::Error(format!("the routers' counts cannot be used: {why}"));
    }
    // Signs of harm are said before anything else that is lacking.
    if evidence.harm_log10 >= DOUBT_LOG10 {
        return Verdict::Doubtful(format!(
            "{figures}; evidence of harm is at 10^{:.1}, below the alarm at 10^{:.1} and too much to go on",
            evidence.harm_log10, evidence.alarm_log10
        ));
    }
    if let Some(why) = lacking(evidence).or_else(|| silence(evidence)) {
        return Verdict::Inconclusive(why);
    }
    match looks_worse(evidence) {
        Some(why) => Verdict::Doubtful(format!("{figures}; {why}")),
        None => Verdict::Pass(figures),
    }
}

/// The verdict on a candidate that has no traffic at all: no count can be waited for, so that metrics and alerts alone decide. Signs of
/// harm from earlier steps stay.
pub fn of_an_idle(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Inconclusive(_) | Verdict::Pass(_) => Verdict::Pass(
            "the candidate answers none of the model's users, so there are no counts; metrics and alerts alone decide".to_owned(),
        ),
        Verdict::Fail(_) | Verdict::Doubtful(_) | Verdict::Error(_) => verdict,
    }
}

/// What a Pass still needs, if anything.
fn lacking(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { wanted, stable_wanted, .. } = *evidence;
    let seen = evidence.candidate_in_step;
    if seen < wanted {
        return Some(format!(
            "the candidate has answered {seen} of the {wanted} requests that this step needs{}",
            pace::outlook(wanted - seen, evidence)
        ));
    }
    let seen = evidence.stable_in_step;
    if evidence.controlled && seen < stable_wanted {
        return Some(format!(
            "stable has answered {seen} of the {stable_wanted} requests that this step needs to compare with"
        ));
    }
    if evidence.slow_above.is_none() {
        let seen = evidence.stable.latency.count().min(BASELINE_ANSWERS);
        return Some(format!(
            "nothing says yet which answers are slow: stable has given {seen} of the {BASELINE_ANSWERS} answers from which its p99 is \
             taken; with a target in spec.slo.latency none are needed"
        ));
    }
    None
}

/// An arm that went silent, if one did.
fn silence(evidence: &Evidence<'_>) -> Option<String> {
    if let Some(silent) = pace::silent(evidence.silent, evidence.candidate_in_step, evidence.in_step) {
        return Some(format!(
            "no request has reached the candidate for {silent} s; a rollout without traffic is not promoted"
        ));
    }
    if !evidence.controlled {
        return None;
    }
    let silent = pace::silent(evidence.stable_silent, evidence.stable_in_step, evidence.in_step)?;
    Some(format!(
        "no request has reached stable for {silent} s; there is nothing to compare the candidate with"
    ))
}

/// How much worse the candidate looks, where that is too much for chance.
fn looks_worse(evidence: &Evidence<'_>) -> Option<String> {
    let (worse, error) = (evidence.difference.estimate()?, evidence.difference.error()?);
    (worse - DOUBT_ERRORS * error > evidence.tolerance).then(|| {
        format!(
            "worse by {:.1} points, give or take {:.1}, where {:.1} are tolerated; more requests will show whether that is chance",
            worse * 100.0,
            error * 100.0,
            evidence.tolerance * 100.0
        )
    })
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

/// Both arms side by side, and what stands in for stable where it has no traffic.
fn figures_of(evidence: &Evidence<'_>) -> String {
    let uncontrolled = (!evidence.controlled).then_some(evidence.baseline);
    figures(evidence.candidate, evidence.stable, evidence.slow_above, uncontrolled)
}

/// Both arms side by side, in words.
///
/// `uncontrolled`: stable has no traffic now, and this rate of before stands in for it.
pub fn figures(
    candidate: &Counts,
    stable: &Counts,
    slow_above: Option<Duration>,
    uncontrolled: Option<f64>,
) -> String {
    let errors = format!(
        "candidate failed {} of {} requests, stable {} of {}",
        candidate.errors, candidate.attempts, stable.errors, stable.attempts
    );
    let late = slow_above.map(|limit| {
        format!(
            "; slower than {} ms: {} and {}; p99 {} and {}",
            limit.as_millis(),
            candidate.slow(slow_above),
            stable.slow(slow_above),
            Millis(candidate.latency.quantile(0.99)),
            Millis(stable.latency.quantile(0.99)),
        )
    });
    let alone = uncontrolled.map(|baseline| {
        format!(
            "; uncontrolled: stable has no traffic now, and its rate from before, at most {:.1} %, stands in for it",
            baseline * 100.0
        )
    });
    [Some(errors), late, alone].into_iter().flatten().collect()
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
mod tests;
