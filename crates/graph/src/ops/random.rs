//! Random numbers.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood 2014): small, of even distribution, and not for
//! secrets. With a seed in the file every request gets the same numbers; without one, each gets others.

use std::hash::{BuildHasher, RandomState};

use super::cast::cast;
use super::matrix::type_attribute;
use super::shape::lengths;
use super::{Built, Entry, FLOATS, NUMBERS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("RandomUniform", 1, FLOATS, |node| of_shape(node, Distribution::uniform(node))).random(),
    Entry::new("RandomNormal", 1, FLOATS, |node| of_shape(node, Distribution::normal(node))).random(),
    Entry::new("RandomUniformLike", 1, NUMBERS, |node| like(node, Distribution::uniform(node))).random(),
    Entry::new("RandomNormalLike", 1, NUMBERS, |node| like(node, Distribution::normal(node))).random(),
    Entry::new("Bernoulli", 15, FLOATS, bernoulli).random(),
    Entry::new("Multinomial", 7, FLOATS, multinomial).random(),
];

/// Where the numbers of each request begin.
#[derive(Clone, Copy)]
struct Seed(Option<f32>);

impl Seed {
    fn read(node: &Node<'_>) -> Self {
        Self(node.has("seed").then(|| node.float("seed", 0.0)))
    }

    fn start(self) -> Generator {
        // The keys of a hasher are the randomness that the standard library has.
        let state = self.0.map_or_else(|| RandomState::new().hash_one(0u8), |seed| u64::from(seed.to_bits()));
        Generator { state }
    }
}

/// SplitMix64.
struct Generator {
    state: u64,
}

impl Generator {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 to 1, 1 not included.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the standard normal distribution, by the method of Box and Muller (1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[derive(Clone, Copy)]
enum Distribution {
    Uniform { low: f64, high: f64 },
    Normal { mean: f64, scale: f64 },
}

impl Distribution {
    fn uniform(node: &Node<'_>) -> Self {
        Self::Uniform { low: node.float("low", 0.0).into(), high: node.float("high", 1.0).into() }
    }

    fn normal(node: &Node<'_>) -> Self {
        Self::Normal { mean: node.float("mean", 0.0).into(), scale: node.float("scale", 1.0).into() }
    }

    /// A tensor of independent numbers.
    fn draw(self, seed: Seed, shape: &[usize], dtype: DType) -> Result<Tensor, Fault> {
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            fault!("random numbers are floating-point numbers, not {dtype}");
        }
        let mut generator = seed.start();
        let number = |_| match self {
            Self::Uniform { low, high } => low + (high - low) * generator.unit(),
            Self::Normal { mean, scale } => mean + scale * generator.normal(),
        };
        let numbers = (0..check_size(shape)?).map(number).collect();
        cast(Tensor::from_items(shape, numbers), dtype)
    }
}

fn of_shape(node: &Node<'_>, distribution: Distribution) -> Built {
    let seed = Seed::read(node);
    let dtype = type_attribute(node, "dtype")?.unwrap_or(DType::F32);
    let shape = node.ints("shape").ok_or_else(|| Refusal::Invalid("the shape is missing".to_owned()))?;
    let shape = lengths(&shape).map_err(|fault| Refusal::Invalid(fault.0))?;
    operator(move |_| Ok(distribution.draw(seed, &shape, dtype)?.into()))
}

fn like(node: &Node<'_>, distribution: Distribution) -> Built {
    let seed = Seed::read(node);
    let dtype = type_attribute(node, "dtype")?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        Ok(distribution.draw(seed, x.shape(), dtype.unwrap_or(x.dtype()))?.into())
    })
}

/// 1 with the probability that an element is, else 0.
fn bernoulli(node: &Node<'_>) -> Built {
    let seed = Seed::read(node);
    let dtype = type_attribute(node, "dtype")?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let mut generator = seed.start();
        let drawn = x.to_f64s()?.into_iter().map(|p| u8::from(generator.unit() < p)).collect();
        Ok(cast(Tensor::from_items(x.shape(), drawn), dtype.unwrap_or(x.dtype()))?.into())
    })
}

/// Classes by the logarithms of their probabilities, which need not add up to 1.
fn multinomial(node: &Node<'_>) -> Built {
    let seed = Seed::read(node);
    let dtype = type_attribute(node, "dtype")?.unwrap_or(DType::I32);
    let Ok(samples) = usize::try_from(node.int("sample_size", 1)) else {
        return Err(Refusal::Invalid("`sample_size` is negative".to_owned()));
    };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let &[rows, classes] = x.shape() else { fault!("a matrix is needed, not {}", x.describe()) };
        let shape = [rows, samples];
        let mut drawn = Vec::with_capacity(check_size(&shape)?);
        let mut generator = seed.start();
        if classes == 0 && rows > 0 {
            fault!("there is no class to draw");
        }
        for row in x.to_f64s()?.chunks_exact(classes.max(1)) {
            // Relative to the largest, so that no power overflows.
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut total = 0.0;
            let sums: Vec<f64> = row
                .iter()
                .map(|&x| {
                    total += (x - largest).exp();
                    total
                })
                .collect();
            if !total.is_finite() {
                fault!("the logarithms of probabilities must be numbers, of which one is finite");
            }
            for _ in 0..samples {
                let at = generator.unit() * total;
                drawn.push(crate::tensor::to_i64(sums.partition_point(|&sum| sum <= at).min(classes - 1)));
            }
        }
        Ok(cast(Tensor::from_items(&shape, drawn), dtype)?.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_distribution_that_is_asked_for() {
        let mut generator = Seed(Some(3.0)).start();
        let normal: Vec<f64> = (0..100_000).map(|_| generator.normal()).collect();
        let mean = normal.iter().sum::<f64>() / 1e5;
        let variance = normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let unit = (0..100_000).map(|_| generator.unit()).sum::<f64>() / 1e5;
        assert!((unit - 0.5).abs() < 0.01, "{unit}");
    }

    #[test]
    fn a_seed_repeats_and_none_does_not() {
        let first = |seed: Seed| seed.start().next();
        assert_eq!(first(Seed(Some(1.0))), first(Seed(Some(1.0))));
        assert_ne!(first(Seed(Some(1.0))), first(Seed(Some(2.0))));
        assert_ne!(first(Seed(None)), first(Seed(None)));
    }
}
