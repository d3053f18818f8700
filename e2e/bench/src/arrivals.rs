//! Times between requests of an open loop.

use std::time::Duration;

/// Exponential gaps: a Poisson process of a given rate, the same for the same seed.
#[derive(Debug)]
pub struct Poisson {
    rate: f64,
    random: Random,
}

impl Poisson {
    /// `rate` is in requests per second.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self { rate: rate.max(f64::MIN_POSITIVE), random: Random(seed) }
    }

    /// The time until the next request.
    pub fn gap(&mut self) -> Duration {
        // The logarithm of 0 is not a time.
        let uniform = self.random.uniform();
        Duration::try_from_secs_f64(-uniform.ln() / self.rate).unwrap_or(Duration::MAX)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to space requests and to draw which of them fail.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number in (0, 1].
    pub fn uniform(&mut self) -> f64 {
        (((self.next() >> 11) + 1) as f64) / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_a_poisson_process() {
        let mut arrivals = Poisson::new(1000.0, 7);
        let gaps: Vec<f64> = (0..100_000).map(|_| arrivals.gap().as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Mean and standard deviation of an exponential are equal; five standard errors of 100 000 draws are 1.6 %.
        assert!((mean * 1000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() * 1000.0 - 1.0).abs() < 0.04, "{variance}");
    }

    #[test]
    fn splitmix_gives_its_reference_values() {
        // First outputs for seed 1234567, as published with the reference code by Vigna.
        let mut random = Random(1_234_567);
        let wanted = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423_u64];
        assert_eq!([random.next(), random.next(), random.next()], wanted);
    }
}
