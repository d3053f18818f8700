//! How long a pod takes for a request, by what it took so far.
//!
//! What a router sees is the *response* time: from the request sent to the end of its answer, and that contains the wait
//! for the requests before it. Multiplied by the queue it would count the queue twice. So each response time is divided by
//! the number of requests that the pod then had of this router, the measured one among them: for a pod that works on one
//! request after the other this is the service time, and for one that works on several at once (batches) it is the time
//! that each of them costs. Either way `seconds * (in_flight + 1)` is the response time of the next request. Queues of other
//! routers are seen as a longer service, which is right: they are waited for.
//!
//! The mean is exponential, by time and by count: a sample weighs at least [`LEAST_WEIGHT`] (so a busy pod is known within
//! some dozens of answers), and more when the last one was long ago.

use std::time::Duration;

/// Time after which an older sample weighs 1/e, in seconds, and with which a pod that was found slow becomes worth a try:
/// one that takes three times what the best takes after 9 s, any other after 14 s at most.
const TAU: f32 = 3.0;
/// A sample counts for at most so many times the mean, and a pod that is idle for at most so many times the best. A client
/// that sends or reads slowly is in the samples too, and must not drive a pod out.
const SLOWEST: f32 = 10.0;
/// The least weight of a sample: the mean is over the last 32 or so. With exponential service its own error is then 12 %.
const LEAST_WEIGHT: f32 = 1.0 / 32.0;
/// Seconds for a request where no pod has answered yet. Only differences between pods matter.
pub const UNKNOWN: f32 = 0.03;
/// A request that failed counts as one that took so many times what the best pod takes. By the mean, not at once: a pod
/// that fails 1 % looks 9 % slower, one that fails each time looks ten times slower, however quickly it fails.
const FAILED: f32 = 10.0;
/// The longest that a failure counts for where all pods fail, in seconds: else it would grow without end.
const FAILED_LONGEST: f32 = 10.0;
/// A pod with requests and without an answer for so many service times has stalled, and is as slow as it has been quiet.
/// Large, because a batch of a few dozen requests is one quiet time.
const STALLED: f32 = 32.0;

/// The mean service time of a pod. 8 bytes, so that it fits into one atomic: see [`ServiceTime::to_bits`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceTime {
    /// 0 before the first sample.
    seconds: f32,
    /// Whether there was an answer; else it is a guess from failures, which says nothing about other pods.
    is_measured: bool,
    /// When the last sample came, in milliseconds on a clock that wraps after 49 days.
    at_ms: u32,
}

impl ServiceTime {
    /// For an atomic. 0 is a pod without samples.
    pub fn to_bits(self) -> u64 {
        // The sign is free: no time is negative.
        let sign = u64::from(self.is_measured) << 63;
        sign | (u64::from(self.seconds.to_bits()) << 32) | u64::from(self.at_ms)
    }

    /// From what [`ServiceTime::to_bits`] gave.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is meant")]
    pub fn from_bits(bits: u64) -> Self {
        let seconds = f32::from_bits((bits >> 32) as u32).abs();
        Self { seconds, is_measured: bits >> 63 == 1, at_ms: bits as u32 }
    }

    /// The mean in seconds; `None` before the first answer.
    pub fn seconds(self) -> Option<f32> {
        self.is_measured.then_some(self.seconds)
    }

    /// An answer ended `response` after the request was sent, when the pod had `ahead` others.
    #[must_use]
    pub fn answered(self, response: Duration, ahead: u32, now: Duration) -> Self {
        // The first answer takes the place of what was guessed.
        let known = if self.is_measured { self } else { Self::default() };
        Self { is_measured: true, ..known.with(share(response, ahead), now) }
    }

    /// An attempt failed after `response`. `best` is the least mean among the pods of the revision, if there is one.
    #[must_use]
    pub fn failed(self, response: Duration, ahead: u32, best: Option<f32>, now: Duration) -> Self {
        let slow = (FAILED * best.unwrap_or(UNKNOWN)).min(FAILED_LONGEST);
        self.with(slow.max(share(response, ahead)), now)
    }

    /// Nobody waited for the answer any more: it takes `response` at least.
    #[must_use]
    pub fn abandoned(self, response: Duration, ahead: u32, now: Duration) -> Self {
        let at_least = share(response, ahead);
        let known = if self.seconds > 0.0 { self.seconds } else { UNKNOWN };
        if at_least > known { self.with(at_least, now) } else { self }
    }

    /// The response time to be expected of one more request, in seconds. `best` is the least mean of the revision's pods;
    /// a pod without samples is taken for as good. One that was found slow and is idle since comes nearer to the best with
    /// time, until it is tried again.
    pub fn expected(self, best: f32, in_flight: u32, busy_since: Duration, now: Duration) -> f32 {
        let age = self.age(now);
        let seconds = if self.seconds <= 0.0 {
            best
        } else if in_flight == 0 && self.seconds > best {
            best + (self.seconds.min(SLOWEST * best) - best) * (-age / TAU).exp()
        } else {
            self.seconds
        };
        let quiet = if in_flight == 0 {
            0.0
        } else {
            let busy = now.saturating_sub(busy_since).as_secs_f32();
            if self.seconds > 0.0 { busy.min(age) } else { busy }
        };
        let seconds = if quiet > STALLED * seconds { quiet } else { seconds };
        seconds * (in_flight as f32 + 1.0)
    }

    fn with(self, sample: f32, now: Duration) -> Self {
        let sample = sample.max(f32::MIN_POSITIVE);
        let seconds = if self.seconds > 0.0 {
            let weight = (1.0 - (-self.age(now) / TAU).exp()).max(LEAST_WEIGHT);
            self.seconds + (sample.min(SLOWEST * self.seconds) - self.seconds) * weight
        } else {
            sample
        };
        Self { seconds, at_ms: millis(now), ..self }
    }

    /// Seconds since the last sample.
    fn age(self, now: Duration) -> f32 {
        millis(now).wrapping_sub(self.at_ms) as f32 / 1000.0
    }
}

/// What one of the requests at the pod took of a response time, in seconds.
fn share(response: Duration, ahead: u32) -> f32 {
    response.as_secs_f32() / (ahead as f32 + 1.0)
}

#[expect(clippy::cast_possible_truncation, reason = "a clock that wraps; only differences are used")]
fn millis(now: Duration) -> u32 {
    now.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn near(value: f32, wanted: f32) {
        assert!((value / wanted - 1.0).abs() < 0.01, "{value} is not {wanted}");
    }

    fn steady(ms: u64) -> ServiceTime {
        (0..200).fold(ServiceTime::default(), |mean, i| mean.answered(MS(ms), 0, MS(1000 + i)))
    }

    #[test]
    fn bits_hold_the_whole_mean() {
        let mean = steady(7);
        assert_eq!(ServiceTime::from_bits(mean.to_bits()), mean);
        assert_eq!(ServiceTime::from_bits(0), ServiceTime::default());
        let guessed = ServiceTime::default().failed(MS(9), 0, None, MS(5));
        assert_eq!(ServiceTime::from_bits(guessed.to_bits()), guessed);
    }

    #[test]
    fn a_queue_is_not_counted_twice() {
        // One after the other, 10 ms each: the third waits for two.
        let mean = ServiceTime::default().answered(MS(30), 2, MS(100));
        near(mean.seconds().unwrap(), 0.010);
        near(mean.expected(0.010, 2, MS(100), MS(100)), 0.030);
    }

    #[test]
    fn a_pod_that_became_slow_is_known_within_some_dozens_of_answers() {
        let mean = (0..64).fold(steady(10), |mean, i| mean.answered(MS(30), 0, MS(1200 + i)));
        assert!(mean.seconds().unwrap() > 0.026, "{mean:?}");
        // With little traffic one answer tells nearly all.
        near(steady(10).answered(MS(30), 0, MS(31_200)).seconds().unwrap(), 0.030);
    }

    #[test]
    fn an_idle_pod_that_was_slow_becomes_worth_a_try() {
        let slow = steady(30);
        let at =
            |seconds: u64| slow.expected(0.010, 0, Duration::ZERO, MS(1200) + Duration::from_secs(seconds));
        near(at(0), 0.030);
        assert!(at(3) < 0.018 && at(3) > 0.017, "{}", at(3));
        assert!(at(9) < 0.011, "{}", at(9));
        let stuck = steady(2000).expected(0.010, 0, Duration::ZERO, MS(1200));
        near(stuck, 0.1);
        // While a try is under way there is no second one.
        near(slow.expected(0.010, 1, MS(21_000), MS(21_200)), 0.060);
    }

    #[test]
    fn failing_quickly_does_not_make_a_pod_quick() {
        let mut mean = steady(10);
        for i in 0..500 {
            mean = mean.failed(MS(1), 0, Some(0.010), MS(1200 + i));
        }
        near(mean.seconds().unwrap(), 0.1);
        // A pod alone fails, and its own mean is the best: bounded.
        for i in 0..5000 {
            mean = mean.failed(MS(1), 0, mean.seconds(), MS(1700 + i));
        }
        assert!(mean.seconds().unwrap() <= FAILED_LONGEST, "{mean:?}");
    }

    #[test]
    fn a_pod_that_is_given_up_is_not_taken_for_quick_and_learns_that_it_is_slow() {
        let mean = steady(10);
        assert_eq!(mean.abandoned(MS(2), 0, MS(1300)), mean);
        assert_eq!(ServiceTime::default().abandoned(MS(2), 0, MS(1300)), ServiceTime::default());
        // Five seconds count for ten times what it takes, and are most of the mean after so long a time.
        assert!(mean.abandoned(MS(5000), 0, MS(6300)).seconds() > Some(0.07));
    }

    #[test]
    fn a_guess_from_failures_is_no_measure_for_others_and_gives_way_to_the_first_answer() {
        let guessed = ServiceTime::default().abandoned(MS(300), 0, MS(1000));
        assert_eq!(guessed.seconds(), None);
        // One that nobody knows is tried before it is tried again.
        let unknown = ServiceTime::default().expected(UNKNOWN, 0, MS(0), MS(1000));
        assert!(guessed.expected(UNKNOWN, 0, MS(0), MS(1000)) > 2.0 * unknown);
        near(guessed.answered(MS(5), 0, MS(1001)).seconds().unwrap(), 0.005);
    }

    #[test]
    fn a_pod_that_stalls_is_as_slow_as_it_has_been_quiet() {
        let mean = steady(10);
        near(mean.expected(0.010, 1, MS(2000), MS(2200)), 0.020);
        near(mean.expected(0.010, 1, MS(2000), MS(5000)), 6.0);
    }

    #[test]
    fn the_clock_may_wrap() {
        let last = Duration::from_millis(u64::from(u32::MAX) - 10);
        let mean = steady(10).answered(MS(10), 0, last);
        near(mean.answered(MS(10), 0, last + MS(20)).expected(0.010, 0, last, last + MS(30)), 0.010);
        assert!((mean.age(last + MS(20)) - 0.02).abs() < 1e-6);
    }
}
