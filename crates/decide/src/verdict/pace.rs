//! The pace of requests: when an arm has gone silent, and how long the requests that are missing will take.

use std::time::Duration;

use super::Evidence;

/// Seconds of silence, if an arm has been silent for longer than its own pace explains: ten times the mean gap between its
/// requests, and 5 s.
pub(super) fn silent(silent: Duration, attempts: u64, in_step: Duration) -> Option<u64> {
    let attempts = u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
    let allowed = Duration::from_secs(5) + in_step.saturating_sub(silent) / attempts * 10;
    (silent > allowed).then_some(silent.as_secs())
}

/// How the candidate comes by the `missing` requests, as the end of a sentence.
pub(super) fn outlook(missing: u64, evidence: &Evidence<'_>) -> String {
    let (seen, time) = (evidence.candidate_in_step, evidence.in_step);
    if let Some(silent) = silent(evidence.silent, seen, time) {
        return format!(", and none has reached it for {silent} s");
    }
    if seen == 0 || time.is_zero() {
        return format!(": needs {missing} more");
    }
    let rate = seen as f64 / time.as_secs_f64();
    format!(": needs {missing} more; at {}/s that takes about {}", Figure(rate), Span(missing as f64 / rate))
}

/// A number with two digits that count.
struct Figure(f64);

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.0;
        let places = if number >= 10.0 {
            0
        } else if number >= 1.0 {
            1
        } else if number >= 0.1 {
            2
        } else if number >= 0.01 {
            3
        } else {
            5
        };
        write!(f, "{number:.places$}")
    }
}

/// A span of seconds for people, in the largest unit that gives two digits.
struct Span(f64);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0;
        if seconds < 90.0 {
            write!(f, "{:.0} s", seconds.ceil())
        } else if seconds < 90.0 * 60.0 {
            write!(f, "{:.0} min", seconds / 60.0)
        } else if seconds < 48.0 * 3600.0 {
            write!(f, "{:.0} h", seconds / 3600.0)
        } else {
            write!(f, "{:.0} days", seconds / 86_400.0)
        }
    }
}
