//! The e-variable of one block, and the rate at which evidence grows.

use super::{BEYOND_TOLERANCE, Block, EFFECTS, Increment, bounded};

/// Rates of alternatives stay inside these, so that one attempt never decides alone: the most that it can add is a
/// factor of 1 / [`LOWEST`].
pub(super) const LOWEST: f64 = 0.001;
/// Highest rate of stable in an alternative.
const HIGHEST_STABLE: f64 = 0.9;
/// Highest rate of the candidate in an alternative.
const HIGHEST_CANDIDATE: f64 = 0.98;

/// The most that may be tolerated: above it no alternative is left to look for.
pub(super) const LARGEST_TOLERANCE: f64 = 0.9;

/// The alternative for each effect: stable's rate and the candidate's. `None` where the effect has no room below 1.
pub(super) fn alternatives(p_stable: f64, tolerance: f64) -> (f64, [Option<f64>; EFFECTS]) {
    let p_stable = p_stable.clamp(LOWEST, HIGHEST_STABLE);
    let candidate = BEYOND_TOLERANCE.map(|beyond| {
        let p_candidate = (p_stable + tolerance + beyond).min(HIGHEST_CANDIDATE);
        // Less than a tenth of a point beyond the tolerance says nothing in any time that matters.
        (p_candidate - p_stable - tolerance > 0.001).then_some(p_candidate)
    });
    (p_stable, candidate)
}

/// Logarithm of the e-variable of a block of both arms, for each effect: the likelihood under the alternative over that under
/// the closest pair without harm.
pub(super) fn controlled(block: Block, p_stable: f64, tolerance: f64) -> Increment {
    let (p_stable, candidates) = alternatives(p_stable, tolerance);
    let (n_stable, n_candidate) = (block.stable as f64, block.candidate as f64);
    Increment(candidates.map(|p_candidate| {
        let Some(p_candidate) = p_candidate else { return 0.0 };
        let q = closest_null(p_stable, p_candidate, n_stable, n_candidate, tolerance);
        bounded(
            log_ratio(block.stable_bad, block.stable, p_stable, q)
                + log_ratio(block.candidate_bad, block.candidate, p_candidate, q + tolerance),
        )
    }))
}

/// The same against a rate that is known: the null is `p_candidate <= limit`.
pub(super) fn against(limit: f64, block: Block) -> Increment {
    Increment(BEYOND_TOLERANCE.map(|beyond| {
        let p_candidate = (limit + beyond).min(HIGHEST_CANDIDATE);
        if p_candidate - limit <= 0.001 {
            return 0.0;
        }
        bounded(log_ratio(block.candidate_bad, block.candidate, p_candidate, limit))
    }))
}

/// Logarithm of the likelihood ratio of `bad` out of `all`, under rate `p` against rate `q`.
fn log_ratio(bad: u64, all: u64, p: f64, q: f64) -> f64 {
    let bad = bad.min(all);
    let good = all - bad;
    bad as f64 * (p / q).ln() + good as f64 * ((1.0 - p) / (1.0 - q)).ln()
}

/// Stable's rate in the closest pair without harm, `(q, q + tolerance)`: the minimum over q of
/// `n_stable KL(p_stable, q) + n_candidate KL(p_candidate, q + tolerance)`.
///
/// The sum is convex, and its derivative `n_stable (q - p_stable) / (q (1 - q)) + n_candidate (r - p_candidate) / (r (1 - r))`
/// with `r = q + tolerance` changes its sign between `p_stable` and `p_candidate - tolerance`: a root, found by Newton's method
/// kept inside the bracket.
pub(super) fn closest_null(
    p_stable: f64,
    p_candidate: f64,
    n_stable: f64,
    n_candidate: f64,
    tolerance: f64,
) -> f64 {
    let (mut low, mut high) = (p_stable, p_candidate - tolerance);
    // A share, so that counts of any size give numbers of moderate size.
    let share = n_stable / (n_stable + n_candidate);
    let part = |n: f64, p: f64, q: f64| {
        let variance = q * (1.0 - q);
        let slope = n * (q - p) / variance;
        (slope, n / variance - slope * (1.0 - 2.0 * q) / variance)
    };
    let mut q = low + (1.0 - share) * (high - low);
    for _ in 0..60 {
        let (stable, stable_bend) = part(share, p_stable, q);
        let (candidate, candidate_bend) = part(1.0 - share, p_candidate, q + tolerance);
        let slope = stable + candidate;
        if slope > 0.0 {
            high = q;
        } else {
            low = q;
        }
        let newton = q - slope / (stable_bend + candidate_bend);
        let next = if newton > low && newton < high { newton } else { f64::midpoint(low, high) };
        if (next - q).abs() <= 1e-15 {
            return next;
        }
        q = next;
    }
    q
}

/// Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), for q inside (0, 1).
pub(super) fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    part(p, q) + part(1.0 - p, 1.0 - q)
}
