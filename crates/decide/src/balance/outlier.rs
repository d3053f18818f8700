//! Pods that fail again and again are ejected for a while (passive outlier detection).
//!
//! ```text
//! healthy ── FAILURES gateway failures in a row ──► ejected ── time is over ──► trial: one request
//!    ▲                                                 ▲                          │        │
//!    └───────────── it, or any other, succeeds ────────┼──────────────────────────┘        │
//!                                                      └──── it fails: longer next time ◄──┘
//! ```
//! A gateway failure is one of the pod as a whole: no connection, a reset, a 5xx, no answer by the deadline. How many pods
//! may be out at once is for [`super::choose`] to say. Ejection only steers: an attempt that failed counts in its arm all the
//! same, and so does the next one at an ejected pod.

use std::time::Duration;

/// So many failures in a row eject a pod. The default of Envoy's `consecutive_5xx`.
pub const FAILURES: u8 = 5;
/// How long the first ejection lasts; the n-th lasts n times as long. Envoy's `base_ejection_time`.
pub const BASE: Duration = Duration::from_secs(30);
/// The n that the time grows to, and so at most 5 minutes. Envoy's `max_ejection_time`.
const MOST_TIMES: u8 = 10;
/// An ejection that ended longer ago than this is forgotten.
const FORGET: Duration = Duration::from_secs(300);

/// Whether a pod is ejected, and what led to it. 8 bytes, so that it fits into one atomic: see [`Health::to_bits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Gateway failures in a row.
    failures: u8,
    /// Ejections that are not forgotten.
    times: u8,
    is_ejected: bool,
    /// A request is under way that decides whether it comes back.
    is_tried: bool,
    /// When the last ejection ends, in milliseconds.
    until_ms: u64,
}

impl Health {
    /// For an atomic. 0 is a pod that never failed.
    pub fn to_bits(self) -> u64 {
        let flags = u64::from(self.is_ejected) | (u64::from(self.is_tried) << 1);
        (self.until_ms << 18) | (u64::from(self.times) << 10) | (u64::from(self.failures) << 2) | flags
    }

    /// From what [`Health::to_bits`] gave.
    pub fn from_bits(bits: u64) -> Self {
        let byte = |shift: u32| u8::try_from((bits >> shift) & 0xff).unwrap_or(u8::MAX);
        Self {
            failures: byte(2),
            times: byte(10),
            is_ejected: bits & 1 != 0,
            is_tried: bits & 2 != 0,
            until_ms: bits >> 18,
        }
    }

    /// Whether others are to be preferred, until a request to it succeeds.
    pub fn is_ejected(self) -> bool {
        self.is_ejected
    }

    /// Whether its time is over and nobody tries it yet.
    pub fn is_trial_due(self, now: Duration) -> bool {
        self.is_ejected && !self.is_tried && millis(now) >= self.until_ms
    }

    /// Begins the trial. `None` when it is not due, because somebody else began it.
    pub fn begin_trial(self, now: Duration) -> Option<Self> {
        self.is_trial_due(now).then_some(Self { is_tried: true, ..self })
    }

    /// The trial ended without an answer for reasons of the client: the next request is the trial.
    #[must_use]
    pub fn abandon_trial(self) -> Self {
        Self { is_tried: false, ..self }
    }

    /// A request succeeded: whoever answers is not ejected. `None` when that changes nothing, as it is most of the time.
    pub fn succeeded(self) -> Option<Self> {
        let changes = self.failures > 0 || self.is_ejected;
        changes.then_some(Self { failures: 0, is_ejected: false, is_tried: false, ..self })
    }

    /// A gateway failure; of the trial, when `trial`. An ejected pod that is used although (fail open, or requests that were
    /// sent before) is not ejected for longer by it.
    #[must_use]
    pub fn failed(self, trial: bool, now: Duration) -> Self {
        let failures = self.failures.saturating_add(1);
        let is_due = if self.is_ejected { trial && self.is_tried } else { failures >= FAILURES };
        if !is_due {
            return Self { failures, ..self };
        }
        let is_forgotten = millis(now) > self.until_ms.saturating_add(millis(FORGET));
        let times = if is_forgotten { 1 } else { self.times.saturating_add(1).min(MOST_TIMES) };
        let until_ms = millis(now + BASE * u32::from(times));
        Self { failures, times, is_ejected: true, is_tried: false, until_ms }
    }

    /// Whether `next` is an ejection that this was not.
    pub fn is_ejected_by(self, next: Self) -> bool {
        next.is_ejected && (!self.is_ejected || next.times != self.times || next.until_ms != self.until_ms)
    }
}

/// Milliseconds that fit beside the rest: 2,000 years.
fn millis(time: Duration) -> u64 {
    const MOST: u64 = (1 << 46) - 1;
    u64::try_from(time.as_millis()).unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn ejected(now: Duration) -> Health {
        (0..FAILURES).fold(Health::default(), |health, _| health.failed(false, now))
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let mut health = Health::default();
        for _ in 0..100 {
            for _ in 1..FAILURES {
                health = health.failed(false, S(1));
            }
            assert!(!health.is_ejected());
            health = health.succeeded().unwrap();
        }
        assert_eq!(health.succeeded(), None);
        assert!(ejected(S(1)).is_ejected());
    }

    #[test]
    fn one_request_tries_a_pod_whose_time_is_over() {
        let health = ejected(S(100));
        assert!(!health.is_trial_due(S(129)) && health.is_trial_due(S(130)));
        let tried = health.begin_trial(S(130)).unwrap();
        assert_eq!(tried.begin_trial(S(130)), None);
        // Its client went away: the next one is the trial.
        assert!(tried.abandon_trial().is_trial_due(S(130)));
        let back = tried.succeeded().unwrap();
        assert!(!back.is_ejected());
        // A single failure later is no reason.
        assert!(!back.failed(false, S(140)).is_ejected());
    }

    #[test]
    fn each_further_ejection_is_longer_and_bounded_and_forgotten_in_the_end() {
        let (mut health, mut now) = (ejected(S(100)), S(100));
        for times in 1..=20 {
            let lasts = BASE * u32::from(MOST_TIMES).min(times);
            let before = lasts.saturating_sub(S(1));
            assert!(!health.is_trial_due(now + before) && health.is_trial_due(now + lasts), "{times}");
            now += lasts;
            health = health.begin_trial(now).unwrap().failed(true, now);
        }
        now += BASE * u32::from(MOST_TIMES) + FORGET + S(1);
        let health = (0..FAILURES).fold(health.succeeded().unwrap(), |health, _| health.failed(false, now));
        assert!(health.is_trial_due(now + BASE));
    }

    #[test]
    fn late_failures_of_earlier_requests_prolong_nothing() {
        let health = ejected(S(100));
        let later = (0..50).fold(health, |health, _| health.failed(false, S(120)));
        assert!(later.is_trial_due(S(130)));
        assert!(!health.is_ejected_by(later) && Health::default().is_ejected_by(health));
        // And during the trial, one of theirs does not decide it.
        let tried = later.begin_trial(S(130)).unwrap().failed(false, S(131));
        assert!(tried.is_ejected() && !tried.is_trial_due(S(131)));
        assert!(tried.succeeded().is_some_and(|health| !health.is_ejected()));
    }

    proptest! {
        #[test]
        fn whatever_happens_a_pod_comes_back(steps in prop::collection::vec((0..5_u8, 0..100_000_u64), 0..200)) {
            let (mut health, mut now) = (Health::default(), Duration::ZERO);
            for (step, pause) in steps {
                now += Duration::from_millis(pause);
                health = match step {
                    0 | 1 => health.failed(step == 1, now),
                    2 => health.succeeded().unwrap_or(health),
                    3 => health.begin_trial(now).unwrap_or(health),
                    _ => health.abandon_trial(),
                };
                prop_assert_eq!(Health::from_bits(health.to_bits()), health);
            }
            let later = now + BASE * u32::from(MOST_TIMES);
            let ended = health.abandon_trial();
            prop_assert!(!ended.is_ejected() || ended.is_trial_due(later));
        }
    }
}
