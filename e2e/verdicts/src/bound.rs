//! The exact upper bound of a probability from counts.

/// The highest probability at which `found` or fewer of `trials` still happen in 5 % of all repetitions: the one-sided 95 % bound of
/// Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (1934).
pub fn upper_bound(found: u64, trials: u64) -> f64 {
    if found >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (found as f64 / trials as f64, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(found, trials, middle) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// P(at most `found` of `trials`) at a probability of `p`, summed in logarithms.
fn at_most(found: u64, trials: u64, p: f64) -> f64 {
    let (log_p, log_q) = (p.ln(), (-p).ln_1p());
    let mut log_ways = 0.0;
    let mut sum = 0.0;
    for k in 0..=found {
        if k > 0 {
            log_ways += ((trials - k + 1) as f64).ln() - (k as f64).ln();
        }
        sum += (log_ways + k as f64 * log_p + (trials - k) as f64 * log_q).exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_scipy() {
        // scipy.stats.beta.ppf(0.95, x + 1, n - x)
        for (found, trials, expected) in [
            (0, 10, 0.258_865_582),
            (0, 1000, 0.002_991_250),
            (3, 500, 0.015_448_050),
            (40, 10_000, 0.005_213_230),
            (10, 10, 1.0),
        ] {
            let bound = upper_bound(found, trials);
            assert!((bound - expected).abs() < 1e-7, "{found} of {trials}: {bound}");
        }
    }
}
