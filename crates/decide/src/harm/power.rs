//! How many requests it takes to find harm of a given size: the evidence that a promotion needs.
//!
//! With the truth `(base, base + harm)` each candidate request, with the stable ones that come with it, adds to the log-evidence
//! of an effect on average `mu`, with variance `s2`: both are sums over the arms of Bernoulli moments. The sum over n requests is
//! nearly normal, so it is above the alarm `a` with probability `power` when `n mu - z sqrt(n s2) = a`. The best of the
//! effects counts; it carries the mean over effects alone, which costs `ln(EFFECTS)`.
//! Source of the approximation: Wald, "Sequential Analysis" (1947), section 3.5; checked by simulation of the detector.

use std::time::Duration;

use super::e_variable::{alternatives, closest_null};
use super::{EFFECTS, TOLERANCE};

/// Harm that a promotion would have found, where the user declares none: 25 points. With the default steps (10 % and 50 %, a minute
/// each) a candidate has the evidence in time from about 10 requests a second on.
pub const HARM: f64 = 0.25;

/// The probability of finding it.
pub const POWER: f64 = 0.9;

/// Candidate requests after which harm of `harm` (a difference of rates) would have been found with probability `power`
/// (0.5..=0.999), when stable's rate is `base_rate`, the alarm `alarm_log10` and the candidate's share of the traffic `share`. In
/// a step without stable (a share of 1) the rate is taken as known.
///
/// `u64::MAX` for harm that is not above the tolerance, or too little above it to be found at all.
pub fn wanted_requests(base_rate: f64, harm: f64, power: f64, alarm_log10: f64, share: f64) -> u64 {
    let base = base_rate.clamp(0.0, 1.0);
    let bad = (base + harm).clamp(0.0, 1.0);
    let share = share.clamp(1e-6, 1.0);
    let stable_for_each = if share < 1.0 { (1.0 - share) / share } else { 1e6 };
    let alarm = alarm_log10 * std::f64::consts::LN_10 + (EFFECTS as f64).ln();
    let z = normal_quantile(power.clamp(0.5, 0.999));
    let (p_stable, candidates) = alternatives(base, TOLERANCE);
    let needed = candidates.into_iter().flatten().filter_map(|p_candidate| {
        let q = closest_null(p_stable, p_candidate, stable_for_each, 1.0, TOLERANCE);
        let (stable_mean, stable_variance) = moments(base, p_stable, q);
        let (mean, variance) = moments(bad, p_candidate, q + TOLERANCE);
        let mu = mean + stable_for_each * stable_mean;
        let spread = z * (variance + stable_for_each * stable_variance).sqrt();
        let root = (spread + (spread * spread + 4.0 * alarm * mu).sqrt()) / (2.0 * mu);
        (mu > 0.0).then_some(root * root)
    });
    let fewest = needed.fold(f64::INFINITY, f64::min).ceil();
    if fewest < 1e15 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number in 1..1e15"
        )]
        let fewest = fewest as u64;
        fewest
    } else {
        u64::MAX
    }
}

/// The part of the run's evidence that a step has to bring, 0..=1, for steps of (candidate's share, duration): in proportion to the
/// candidate's requests at a steady rate. So a plan is stretched when traffic is low, and keeps its shape.
pub fn part(steps: &[(f64, Duration)], step: usize) -> f64 {
    let requests = |(share, duration): &(f64, Duration)| share.clamp(0.0, 1.0) * duration.as_secs_f64();
    let all: f64 = steps.iter().map(requests).sum();
    steps.get(step).map_or(0.0, |of| if all > 0.0 { requests(of) / all } else { 1.0 })
}

/// Mean and variance of the log-likelihood ratio of `p` against `q` for one attempt that is bad with probability `truth`.
fn moments(truth: f64, p: f64, q: f64) -> (f64, f64) {
    let (bad, good) = ((p / q).ln(), ((1.0 - p) / (1.0 - q)).ln());
    (truth * bad + (1.0 - truth) * good, truth * (1.0 - truth) * (bad - good) * (bad - good))
}

/// The standard normal quantile of `p` in 0.5..1, to 4.5e-4: Abramowitz and Stegun, formula 26.2.23.
fn normal_quantile(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - above / below
}
