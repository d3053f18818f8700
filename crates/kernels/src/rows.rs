//! What is done to each row of a matrix by its own numbers: softmax, and normalisation.

use crate::compiled::for_each_isa;
use crate::vector::{exp, fused};

/// So many sums are under way at a time: as many as make vectors that do not wait for each other.
const LANES: usize = 16;

for_each_isa! {
    /// The softmax of each row of `width` numbers times `factor`, in place. The factor is positive. A row that has what is no
    /// number, or whose largest number is infinite, becomes one without numbers.
    pub fn softmax(items: &mut [f32], width: usize, factor: f32) = softmax_rows
}

#[inline(always)]
fn softmax_rows<const FMA: bool>(items: &mut [f32], width: usize, factor: f32) {
    for row in items.chunks_exact_mut(width.max(1)) {
        let largest = largest(row);
        let each = |x: f32| exp::<FMA>((x - largest) * factor);
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        let mut sums = [0.0; LANES];
        for chunk in chunks {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = each(*x);
                *sum += *x;
            }
        }
        let mut sum: f32 = total(sums);
        for x in rest {
            *x = each(*x);
            sum += *x;
        }
        let share = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= share;
        }
    }
}

/// The largest number; what is none is passed over.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (&x, best) in chunk.iter().zip(&mut best) {
            *best = if x > *best { x } else { *best };
        }
    }
    let larger = |best: f32, &x: &f32| if x > best { x } else { best };
    best.iter().chain(rest).fold(f32::NEG_INFINITY, larger)
}

/// The sum of partial sums, two by two.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for at in 0..half {
            sums[at] += sums[at + half];
        }
        half /= 2;
    }
    sums[0]
}

/// How rows are normalised: `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Normal<'a> {
    /// Without it the mean stays, and the variance is the mean of the squares.
    pub centred: bool,
    /// What keeps the divisor away from zero.
    pub epsilon: f32,
    /// A factor for each number of a row.
    pub scale: Option<&'a [f32]>,
    /// A summand for each number of a row.
    pub bias: Option<&'a [f32]>,
}

for_each_isa! {
    /// Normalises each row of `width` numbers in place. Scale and bias, where they are given, have `width` numbers.
    pub fn normalise(items: &mut [f32], width: usize, normal: Normal<'_>) = normalise_rows
}

#[inline(always)]
fn normalise_rows<const FMA: bool>(items: &mut [f32], width: usize, normal: Normal<'_>) {
    let Normal { centred, epsilon, scale, bias } = normal;
    let fits = |numbers: Option<&[f32]>| numbers.is_none_or(|numbers| numbers.len() == width);
    assert!(fits(scale) && fits(bias), "a scale and a bias for each number of a row");
    let count = width as f32;
    for row in items.chunks_exact_mut(width.max(1)) {
        let mean = if centred { sum(row, |x| x) / count } else { 0.0 };
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        let factor = 1.0 / (variance + epsilon).sqrt();
        match (scale, bias) {
            (Some(scale), Some(bias)) => {
                for ((x, scale), bias) in row.iter_mut().zip(scale).zip(bias) {
                    *x = fused::<FMA>((*x - mean) * factor, *scale, *bias);
                }
            }
            (Some(scale), None) => {
                row.iter_mut().zip(scale).for_each(|(x, scale)| *x = (*x - mean) * factor * scale);
            }
            (None, Some(bias)) => {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x = fused::<FMA>(*x - mean, factor, *bias));
            }
            (None, None) => row.iter_mut().for_each(|x| *x = (*x - mean) * factor),
        }
    }
}

/// The sum of a function of each number.
#[inline(always)]
fn sum(row: &[f32], function: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (&x, sum) in chunk.iter().zip(&mut sums) {
            *sum += function(x);
        }
    }
    rest.iter().fold(total(sums), |sum, &x| sum + function(x))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Isa;

    fn softmax_of(row: &[f32], factor: f64) -> Vec<f64> {
        let wide = |x: &f32| f64::from(*x) * factor;
        let largest = row.iter().map(wide).fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = row.iter().map(|x| (wide(x) - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    fn normal_of(row: &[f32], normal: Normal<'_>) -> Vec<f64> {
        let wide: Vec<f64> = row.iter().map(|&x| x.into()).collect();
        let count = wide.len() as f64;
        let mean = if normal.centred { wide.iter().sum::<f64>() / count } else { 0.0 };
        let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let factor = 1.0 / (variance + f64::from(normal.epsilon)).sqrt();
        let at = |numbers: Option<&[f32]>, at: usize, none: f64| numbers.map_or(none, |all| all[at].into());
        let each = |(place, x): (usize, &f64)| {
            (x - mean) * factor * at(normal.scale, place, 1.0) + at(normal.bias, place, 0.0)
        };
        wide.iter().enumerate().map(each).collect()
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_formulas(
            items in prop::collection::vec(-20f32..20.0, 1..200),
            rows in 1usize..4,
            factor in 0.01f32..2.0,
            (centred, scaled, shifted) in any::<(bool, bool, bool)>(),
        ) {
            let width = items.len().div_ceil(rows);
            let items: Vec<f32> = items.iter().copied().cycle().take(width * rows).collect();
            let scale: Vec<f32> = (0..width).map(|at| 0.5 + (at % 7) as f32).collect();
            let normal = Normal {
                centred,
                epsilon: 1e-5,
                scale: scaled.then_some(&scale[..]),
                bias: shifted.then_some(&scale[..]),
            };
            for isa in Isa::available() {
                let (mut soft, mut normalised) = (items.clone(), items.clone());
                softmax(isa, &mut soft, width, factor);
                normalise(isa, &mut normalised, width, normal);
                for (row, given) in items.chunks(width).enumerate() {
                    let own = row * width..(row + 1) * width;
                    for (found, wanted) in soft[own.clone()].iter().zip(softmax_of(given, factor.into())) {
                        prop_assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} {wanted}");
                    }
                    for (found, wanted) in normalised[own].iter().zip(normal_of(given, normal)) {
                        let apart = (f64::from(*found) - wanted).abs() / wanted.abs().max(1.0);
                        prop_assert!(apart < 2e-5, "{found} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_masked_is_nothing_and_what_is_no_number_stays() {
        for isa in Isa::available() {
            let mut row = [vec![f32::NEG_INFINITY; 19], vec![1.0, 1.0, -1e9]].concat();
            softmax(isa, &mut row, 22, 1.0);
            assert_eq!(row, [vec![0.0; 19], vec![0.5, 0.5, 0.0]].concat());
            for none in [f32::NAN, f32::INFINITY] {
                let mut row = [vec![1.0; 20], vec![none]].concat();
                softmax(isa, &mut row, 21, 1.0);
                assert!(row.iter().all(|x| x.is_nan() || (none > 0.0 && *x == 0.0)), "{row:?}");
                assert!(row[20].is_nan());
            }
            let mut none = [f32::NEG_INFINITY; 3];
            softmax(isa, &mut none, 3, 1.0);
            assert!(none.iter().all(|x| x.is_nan()));
            softmax(isa, &mut [], 0, 1.0);
            normalise(isa, &mut [], 0, Normal::default());
        }
    }
}
