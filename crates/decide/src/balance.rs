//! Which pod of a revision takes a request, which pods are left out, and when a request may be sent a second time.
//!
//! - [`delay`]: how long a pod takes for a request, and so how long another one would take there.
//! - [`outlier`]: pods that fail again and again are ejected, and come back by a trial.
//! - [`ramp`]: a pod that has just become ready takes its share step by step.
//! - [`retry`]: the budget for second attempts.
//! - [`elsewhere`]: whether what one pod turned away is sent to another.
//!
//! [`choose`] puts the first three together. The rule is *least expected delay over all pods*: the least product of the
//! pod's service time and the requests that it would then have. What it was chosen from, at 70 % load on four pods of
//! which one is three times slower (p99 in mean service times; `cargo test -p stoker-decide balance::simulation -- --nocapture`
//! prints the table):
//!
//! | rule | one router | three routers | all alike (60 % load) | one fails 1 % (60 % load) |
//! |---|---|---|---|---|
//! | power of two choices, least requests | 16.4 | 22.6 | 6.5 | 6.5 |
//! | least requests of all | 12.7 | 17.2 | 5.7 | 5.7 |
//! | least expected delay, peak-sensitive mean | 8.2 | 9.1 | 5.8 | 5.9 |
//! | least expected delay, plain mean (this one) | 8.0 | 8.8 | 5.8 | 5.8 |
//!
//! With several routers each sees only its own requests at a pod. The queues of the others are then a part of the service
//! time that is seen, and near-ties are broken at random so that routers do not run after each other; the rule stays the
//! best of the four. A peak-sensitive mean (a sample above it takes over at once, and decays) is what others use there: it
//! notices a pod that stalls by its first slow answer, but then one slow request of many drives load to the others for
//! seconds. Here a stall shows in the requests that pile up, before there is an answer at all.

pub mod delay;
pub mod elsewhere;
pub mod outlier;
pub mod ramp;
pub mod retry;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use crate::balance::delay::ServiceTime;
use crate::balance::outlier::Health;

/// Pods whose expected delay is within this share of the least are as good as it. Estimates are no better than that, and
/// with little traffic all of these get their turn.
const NEAR: f32 = 0.1;

/// A pod, as the chooser sees it.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// How long it takes for a request.
    pub service: ServiceTime,
    /// Requests that this router sent and that are not answered.
    pub in_flight: u32,
    /// Since when it has had any, on the clock of `now`.
    pub busy_since: Duration,
    /// When it became ready, on the clock of `now`.
    pub ready_since: Duration,
    /// Whether it is ejected.
    pub health: Health,
    /// It failed this very request already.
    pub barred: bool,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Position of the pod.
    pub index: usize,
    /// The request is the trial of an ejected pod: the caller must begin it with [`Health::begin_trial`], and choose again
    /// when somebody else did.
    pub trial: bool,
    /// The pod is in slow start: its errors are errors, but how slow it is says nothing about its revision.
    pub warming: bool,
    /// More than half of the pods should be out, so none is.
    pub fail_open: bool,
}

/// Chooses the pod of a request. `None` only when there is no pod that is not barred. `random` breaks ties and must be
/// drawn anew for each call.
///
/// Ejected pods are left out while they are at most half of all, so half of the pods stay, and one in any case. When more
/// fail, the fault is hardly theirs (a partition, a bad revision): all are used. A request that has nowhere else to go is
/// sent to an ejected pod. Reads `pods` four times; takes no memory.
pub fn choose<I>(pods: I, now: Duration, random: u64) -> Option<Choice>
where
    I: Iterator<Item = Pod> + Clone,
{
    let (mut all, mut out) = (0_usize, 0_usize);
    let (mut any_healthy, mut any_barred, mut trial) = (false, false, None);
    for (index, pod) in pods.clone().enumerate() {
        let is_ejected = pod.health.is_ejected();
        all += 1;
        out += usize::from(is_ejected);
        any_barred |= pod.barred;
        any_healthy |= !is_ejected && !pod.barred;
        if is_ejected && pod.health.is_trial_due(now) {
            trial.get_or_insert(index);
        }
    }
    let fail_open = 2 * out > all;
    if let Some(index) = trial
        && !fail_open
        // A request that failed once is not risked again.
        && !any_barred
    {
        return Some(Choice { index, trial: true, warming: false, fail_open });
    }
    let use_ejected = fail_open || !any_healthy;
    let used = |(_, pod): &(usize, Pod)| !pod.barred && (use_ejected || !pod.health.is_ejected());
    let (index, warming) = least(pods.enumerate().filter(used), now, random)?;
    Some(Choice { index, trial: false, warming, fail_open })
}

/// The pod of least expected delay, by its position, and whether it is in slow start.
fn least<I>(pods: I, now: Duration, random: u64) -> Option<(usize, bool)>
where
    I: Iterator<Item = (usize, Pod)> + Clone,
{
    let (mut best, mut settled) = (None::<f32>, false);
    for (_, pod) in pods.clone() {
        settled |= !ramp::is_warming(pod.ready_since, now);
        if let Some(seconds) = pod.service.seconds() {
            best = Some(best.map_or(seconds, |best| best.min(seconds)));
        }
    }
    let best = best.unwrap_or(delay::UNKNOWN);
    // Where all pods are new there is nobody who could take the load meanwhile.
    let warming = |pod: &Pod| settled && ramp::is_warming(pod.ready_since, now);
    let candidates = pods.filter(|(index, pod)| {
        !warming(pod) || ramp::is_admitted(pod.ready_since, now, mix(random, !*index))
    });
    let expected = |pod: &Pod| pod.service.expected(best, pod.in_flight, pod.busy_since, now);
    let least = candidates.clone().map(|(_, pod)| expected(&pod)).min_by(f32::total_cmp)?;
    let near = candidates.filter(|(_, pod)| expected(pod) <= least * (1.0 + NEAR));
    let (index, pod) = near.min_by_key(|(index, _)| mix(random, *index))?;
    Some((index, warming(&pod)))
}

/// A number for each pod from one random number: the finisher of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(random: u64, index: usize) -> u64 {
    let mut z = random ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
