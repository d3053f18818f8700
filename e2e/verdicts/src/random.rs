//! Numbers from a seed, and counts drawn exactly from their distributions.

/// A generator whose numbers are the same on every machine: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Streams of different numbers for each pair of seed and index.
    pub fn new(seed: u64, index: u64) -> Self {
        let mut mixed = Self(seed);
        let offset = mixed.next();
        Self(offset ^ index.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in the open interval (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.uniform() * (high - low)
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }

    /// Normal with mean 0 and variance 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// How many of `n` independent attempts come out, each with probability `p`.
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if n == 0 || p <= 0.0 {
            0
        } else if p >= 1.0 {
            n
        } else if p > 0.5 {
            n - self.binomial(n, 1.0 - p)
        } else if n > 64 {
            // By halves, so that the probability of none never underflows.
            self.binomial(n / 2, p) + self.binomial(n - n / 2, p)
        } else {
            let odds = p / (1.0 - p);
            let none = (n as f64 * (-p).ln_1p()).exp();
            self.inverted(n, none, |k| (n - k) as f64 / (k + 1) as f64 * odds)
        }
    }

    /// A Poisson count with this mean.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            0
        } else if mean > 30.0 {
            self.poisson(mean / 2.0) + self.poisson(mean / 2.0)
        } else {
            self.inverted(1000, (-mean).exp(), |k| mean / (k + 1) as f64)
        }
    }

    /// Inverts the distribution function from 0 on: `first` is P(0), `ratio(k)` is P(k + 1) / P(k).
    fn inverted(&mut self, most: u64, first: f64, ratio: impl Fn(u64) -> f64) -> u64 {
        let mut left = self.uniform();
        let (mut k, mut p) = (0, first);
        while left > p && k < most {
            left -= p;
            p *= ratio(k);
            k += 1;
        }
        k
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_mean_and_variance_of_their_distribution() {
        let mut random = Random::new(1, 1);
        let mut check = |draw: &mut dyn FnMut(&mut Random) -> u64, mean: f64, variance: f64| {
            let draws: Vec<f64> = (0..40_000).map(|_| draw(&mut random) as f64).collect();
            let found = draws.iter().sum::<f64>() / 40_000.0;
            let spread = draws.iter().map(|x| (x - found) * (x - found)).sum::<f64>() / 40_000.0;
            // Five standard errors of a mean, and a twentieth for a variance.
            assert!((found - mean).abs() < 5.0 * (variance / 40_000.0).sqrt(), "mean {found}, not {mean}");
            assert!((spread / variance - 1.0).abs() < 0.05, "variance {spread}, not {variance}");
        };
        check(&mut |random| random.binomial(10, 0.3), 3.0, 2.1);
        check(&mut |random| random.binomial(900, 0.01), 9.0, 8.91);
        check(&mut |random| random.binomial(100, 0.9), 90.0, 9.0);
        check(&mut |random| random.poisson(0.1), 0.1, 0.1);
        check(&mut |random| random.poisson(250.0), 250.0, 250.0);
    }

    #[test]
    fn the_numbers_are_the_same_on_every_machine() {
        let mut random = Random::new(7, 3);
        let draws: Vec<u64> = (0..6).map(|_| random.binomial(100, 0.2)).collect();
        assert_eq!(draws, GOLDEN);
    }
    const GOLDEN: [u64; 6] = [0; 6];
}
