//! How many requests a second one pod can carry within the latency target: learned from what was seen, never configured.
//!
//! Latency against load is flat and then a wall, so that a ratio rule on latency has the wrong gain at both ends. Here latency
//! only teaches where the wall is, and replicas follow demand over capacity:
//!
//! - The first guess is from the mean latency `W`: one request at a time, busy for 70 % of the time, `0.7 / W`. It is low for a
//!   server that works on several at once, never high for one that waits in line.
//! - While the percentile keeps well below the target (70 %) at the rate that is believed in, belief grows: the more, the
//!   further below. So it settles before the wall and need not run into it.
//! - Where the percentile does not hold, belief falls below the rate that was seen to fail, and growth keeps away from
//!   that rate for ten minutes, and for twice as long each time that it fails again: a pod may have had a noisy neighbour.
//!
//! The scheme of estimating a sustainable rate is that of llm-d's queueing model and of `MArk`; the growth rule is our own.

use std::time::Duration;

use super::Aim;
use super::load::Sum;

/// Share of the time that one executor is believed to be busy at most, before anything is known.
const FIRST: f64 = 0.7;
/// Answers that a first guess needs.
const FIRST_ANSWERS: u64 = 20;
/// Between two lessons.
const LESSON: Duration = Duration::from_secs(10);
/// Growth of one lesson where latency is nothing beside the target.
const GROWTH: f64 = 0.05;
/// Share of the target at which growth ends.
const CALM: f64 = 0.7;
/// Share of the believed rate that must be there for a lesson about it.
const NEAR: f64 = 0.8;
/// What is left of a rate that failed.
const BACK_OFF: f64 = 0.9;
/// How far above what was carried belief may be: latency says little of rates that were not tried.
const BEYOND: f64 = 0.25;
/// By so much the lowest mean latency is forgotten with each lesson: models and machines change.
const FORGOTTEN: f64 = 1.001;
/// Share of a strained rate that growth keeps below.
const BELOW_STRAIN: f64 = 0.95;
/// For how long a rate that failed is kept away from: twice as long each time that it fails again, up to the longest.
const STRAIN_LASTS: Duration = Duration::from_mins(10);
const STRAIN_LONGEST: Duration = Duration::from_hours(6);
/// Rates that differ by less than this share failed for the same reason.
const SAME_STRAIN: f64 = 0.3;
/// Requests at a pod on average below which waiting in line explains no latency.
const QUIET: f64 = 0.3;
/// Requests have waited where they take so many times what they take alone.
const WAITED: f64 = 1.5;
/// A percentile is that of the model itself up to this multiple of what nearly idle pods have.
const ALIKE: f64 = 1.5;

/// What is believed of the pods of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Requests per second and pod that keep the percentile within the target.
    per_pod: Option<f64>,
    /// It was seen, not only guessed.
    proven: bool,
    /// Where the percentile did not hold.
    strain: Option<Strain>,
    /// The percentile of nearly idle pods, where it is above the target.
    too_slow: Option<Duration>,
    /// The mean latency where nobody waits, in seconds: the lowest that was seen.
    alone: Option<f64>,
    /// When the last lesson was.
    learned: Option<Duration>,
}

/// A rate per pod at which the percentile did not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Strain {
    rate: f64,
    when: Duration,
    /// How often it failed before.
    again: u32,
}

impl Strain {
    /// Whether it is still kept away from.
    fn holds(&self, now: Duration) -> bool {
        let lasts = STRAIN_LASTS.saturating_mul(2_u32.saturating_pow(self.again)).min(STRAIN_LONGEST);
        now.saturating_sub(self.when) < lasts
    }

    /// Whether it belongs to the failure of now.
    fn is_recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.when) < STRAIN_LASTS / 2
    }
}

impl Capacity {
    /// What was believed of it while another revision was the measure.
    pub fn inherit(&mut self, believed: Option<f64>) {
        if self.strain.is_none() {
            self.per_pod = self.per_pod.into_iter().chain(believed).reduce(f64::max);
        }
    }

    /// What an earlier process had learned.
    pub fn known(per_pod: f64) -> Self {
        let known = per_pod.is_finite() && per_pod > 0.0;
        Self { per_pod: known.then_some(per_pod), proven: known, ..Self::default() }
    }

    /// Requests per second and pod; none while nothing is known.
    pub fn per_pod(&self) -> Option<f64> {
        self.per_pod
    }

    /// Whether it was seen and not only guessed.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether a rate was seen to fail.
    pub fn is_strained(&self) -> bool {
        self.strain.is_some()
    }

    /// Whether one failed within the time before `now`.
    pub fn failed_within(&self, now: Duration, time: Duration) -> bool {
        self.strain.is_some_and(|strain| now.saturating_sub(strain.when) < time)
    }

    /// The percentile of nearly idle pods, where it is above the target: no number of pods can keep it.
    pub fn too_slow(&self) -> Option<Duration> {
        self.too_slow
    }

    /// Takes a lesson, at most each [`LESSON`], from a minute and from five with the pods of now. A failure teaches only where
    /// both missed the target, and `settled`: while pods start or queues are worked off, what is late came before.
    pub fn learn(&mut self, now: Duration, near: &Sum, far: &Sum, aim: Aim, settled: bool) {
        if self.learned.is_some_and(|last| now.saturating_sub(last) < LESSON) {
            return;
        }
        let enough = aim.enough();
        let shown = if near.total() >= enough { near } else { far };
        let rate = shown.per_pod();
        if self.per_pod.is_none() {
            self.guess(far, aim);
        }
        if shown.total() < enough || rate <= 0.0 {
            return;
        }
        self.learned = Some(now);
        let mean = shown.mean().unwrap_or(0.0);
        let alone = self.alone.map_or(mean, |alone| mean.min(alone * FORGOTTEN));
        self.alone = Some(alone);
        let Some(before) = self.per_pod else { return };
        match (aim.is_missed(shown), aim.is_missed(far)) {
            (true, true) if settled => return self.fail(now, shown, before, aim),
            (true, _) | (_, true) => return,
            (false, false) => {}
        }
        self.too_slow = None;
        let mut believed = before.max(rate);
        self.proven |= rate >= NEAR * before;
        let share =
            |sum: &Sum| Some(sum.latency.quantile(aim.quantile)?.as_secs_f64() / aim.target.as_secs_f64());
        let used = share(shown).unwrap_or(1.0).max(share(far).unwrap_or(1.0));
        // Where requests wait already, the wall is near however far the target is.
        let waits = if mean > 0.0 { (alone / mean).powi(2) } else { 1.0 };
        let free = (1.0 - used / CALM).max(0.0) * waits;
        if free > 0.0 {
            let most = rate * BEYOND.mul_add(free, 1.0);
            believed = (believed * GROWTH.mul_add(free, 1.0)).min(most).max(believed);
        }
        if self.strain.is_some_and(|strain| rate > strain.rate) {
            self.strain = None;
        }
        if let Some(strain) = self.strain.filter(|strain| strain.holds(now)) {
            believed = believed.min((BELOW_STRAIN * strain.rate).max(before));
        }
        self.per_pod = Some(believed);
    }

    fn guess(&mut self, seen: &Sum, aim: Aim) {
        if seen.latency.count() < FIRST_ANSWERS {
            return;
        }
        // In overload the mean is that of the queue; what is done is then what can be done.
        let done = if aim.is_missed(seen) { BACK_OFF * seen.per_pod() } else { seen.per_pod() };
        let alone = seen.mean().filter(|mean| *mean > 0.0).map_or(0.0, |mean| FIRST / mean);
        self.per_pod = Some(alone.max(done)).filter(|guess| *guess > 0.0);
    }

    /// The percentile did not hold at the rate that is `shown`.
    fn fail(&mut self, now: Duration, shown: &Sum, before: f64, aim: Aim) {
        let mean = shown.mean().unwrap_or(0.0);
        let seen = shown.latency.quantile(aim.quantile);
        let is_quiet = shown.per_pod() * mean < QUIET;
        let as_before = seen.zip(self.too_slow).is_some_and(|(seen, quiet)| seen <= quiet.mul_f64(ALIKE));
        if shown.overloaded == 0 && (is_quiet || as_before) {
            // Nobody waits in line: the model itself takes so long.
            self.too_slow = if is_quiet { seen } else { self.too_slow };
            return;
        }
        // In overload those that are answered have waited. Refusals beside quick answers have another cause: something that the
        // model depends on, or clients that give it too little time. More pods would not help.
        let near_target = seen.is_some_and(|seen| seen.as_secs_f64() >= CALM * aim.target.as_secs_f64());
        let has_waited = self.alone.is_some_and(|alone| mean >= WAITED * alone);
        if !near_target && !has_waited {
            return;
        }
        // What is answered while more waits is all that a pod can do.
        let rate = shown.per_pod();
        let known = self.strain.filter(|strain| (rate / strain.rate - 1.0).abs() < SAME_STRAIN);
        // One failure is several lessons.
        let again = known.map_or(0, |strain| strain.again + u32::from(!strain.is_recent(now)));
        let rate = known.map_or(rate, |strain| rate.min(strain.rate));
        self.strain = Some(Strain { rate, when: now, again });
        self.per_pod = Some(before.min(BACK_OFF * rate));
        self.proven = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIM: Aim = Aim { quantile: 0.99, target: Duration::from_millis(100) };

    /// A minute of one pod: so many answers a second, of which one in `late_of` takes 200 ms and the others `millis`.
    fn minute(rate: u64, millis: u64, late_of: Option<u64>) -> Sum {
        let mut sum =
            Sum { seconds: 60.0, pod_seconds: 60.0, looks: 60, answered: rate * 60, ..Sum::default() };
        for number in 0..rate * 60 {
            let late = late_of.is_some_and(|of| number % of == 0);
            sum.latency.record(Duration::from_millis(if late { 200 } else { millis }));
        }
        sum
    }

    fn after(lessons: &[Sum]) -> Capacity {
        let mut capacity = Capacity::default();
        for (number, sum) in lessons.iter().enumerate() {
            capacity.learn(LESSON * u32::try_from(number).unwrap(), sum, sum, AIM, true);
        }
        capacity
    }

    #[test]
    fn the_first_guess_is_one_request_at_a_time() {
        // 10 ms each: 70 a second. The histogram's mean is exact.
        assert!((after(&[minute(1, 10, None)]).per_pod().unwrap() - 70.0).abs() < 1e-6);
        assert_eq!(after(&[Sum::default()]).per_pod(), None);
    }

    #[test]
    fn belief_grows_where_it_is_tried_and_latency_is_low() {
        // Few requests say nothing of many.
        assert!(after(&vec![minute(20, 10, None); 50]).per_pod().unwrap() < 71.0);
        // At what is believed it grows, and stays when latency comes near the target.
        assert!(after(&vec![minute(70, 10, None); 50]).per_pod().unwrap() > 75.0);
        let settled = after(&vec![minute(70, 72, None); 50]);
        assert!((settled.per_pod().unwrap() - 70.0).abs() < 1e-6 && settled.is_proven());
        // What is carried is proven, whatever was guessed.
        assert!(after(&vec![minute(300, 10, None); 2]).per_pod().unwrap() >= 300.0);
    }

    #[test]
    fn a_rate_that_failed_is_kept_away_from() {
        let mut capacity = after(&vec![minute(100, 10, None); 3]);
        let mut now = Duration::from_secs(100);
        capacity.learn(now, &minute(120, 50, Some(20)), &minute(120, 50, Some(20)), AIM, true);
        let fallen = capacity.per_pod().unwrap();
        assert!(fallen < 0.91 * 120.0 && fallen > 0.8 * 120.0, "{fallen}");
        for _ in 0..40 {
            now += LESSON;
            let carried = minute(113, 10, None);
            capacity.learn(now, &carried, &carried, AIM, true);
        }
        assert!(capacity.per_pod().unwrap() <= 0.95 * 120.0);
    }

    #[test]
    fn a_rate_that_failed_is_tried_again_and_less_often_each_time() {
        let mut capacity = after(&[minute(100, 10, None)]);
        let (bad, good) = (minute(120, 50, Some(20)), minute(114, 10, None));
        let mut now = Duration::ZERO;
        let mut tries = Vec::new();
        for _ in 0..3 {
            // A failure lasts for some lessons.
            for _ in 0..5 {
                now += LESSON;
                capacity.learn(now, &bad, &bad, AIM, true);
            }
            let failed = now;
            while capacity.per_pod().unwrap() < 118.0 {
                now += LESSON;
                capacity.learn(now, &good, &good, AIM, true);
            }
            tries.push(now.saturating_sub(failed).as_secs() / 60);
        }
        assert_eq!(tries, [10, 20, 40]);
    }

    #[test]
    fn a_model_that_is_slower_than_the_target_is_no_overload() {
        let few = after(&[minute(1, 150, None), minute(2, 150, None)]);
        assert_eq!(few.too_slow(), None, "120 answers say nothing of a p99");
        let busy = after(&[minute(5, 150, None), minute(1, 150, None)]);
        assert_eq!(busy.too_slow(), None, "0.75 requests at a time wait in line");
        // The same requests on four pods: nobody waits.
        let mut quiet = minute(4, 120, None);
        quiet.pod_seconds *= 4.0;
        let slow = after(&[quiet.clone(), quiet]);
        assert!(slow.too_slow().is_some_and(|seen| seen >= Duration::from_millis(120)), "{slow:?}");
        assert!(!slow.is_strained());
    }
}
