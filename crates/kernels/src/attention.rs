//! Attention: what queries make of values, head by head.

#![allow(unsafe_code)]

use crate::isa::Isa;
use crate::matrix::{Matrix, View};
use crate::rows::softmax;
use crate::threads::{divide, filled, threads};
use crate::tile::Finish;

/// `softmax(queries * keys * factor) * values`, for `count` heads one after the other: `sides` gives the three of each, the
/// keys with a column for each. The factor is positive.
///
/// The scores of a head stay in the cache, as no other head's are made before they are used.
///
/// # Panics
/// Where heads differ in size, or matrices do not meet.
pub fn attention<'a>(
    isa: Isa,
    count: usize,
    sides: &(impl Fn(usize) -> [View<'a>; 3] + Sync),
    factor: f32,
) -> Vec<f32> {
    if count == 0 {
        return Vec::new();
    }
    let lengths = |[queries, keys, values]: &[View<'_>; 3]| {
        [queries.rows, queries.columns, keys.rows, keys.columns, values.rows, values.columns]
    };
    let all = lengths(&sides(0));
    let [rows, _, depth, columns, _, width] = all;
    let length = rows * width;
    // SAFETY: each head writes all of its own result.
    unsafe {
        filled(count * length, |to| {
            divide(threads(count * rows * columns * (depth + width)), count, &|at| {
                let own = sides(at);
                assert_eq!(lengths(&own), all, "heads of one size");
                let [queries, keys, values] = own;
                let mut scores = Matrix::new(isa, keys).product_alone(queries);
                softmax(isa, &mut scores, columns, factor);
                let values = Matrix::new(isa, values);
                assert_eq!(values.rows(), columns, "a value for each key");
                values.fill(View::new(&scores, rows, columns), Finish::default(), to, at * length, 1);
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::numbers;

    #[test]
    fn heads_are_what_the_formula_says() {
        for isa in Isa::available() {
            for (count, rows, depth, columns, width) in
                [(0, 1, 1, 1, 1), (1, 5, 3, 7, 2), (6, 40, 64, 33, 16), (3, 1, 2, 9, 5)]
            {
                let q = numbers(count * rows * depth, 1);
                let (k, v) = (numbers(count * columns * depth, 2), numbers(count * columns * width, 3));
                let found = attention(
                    isa,
                    count,
                    &|at| {
                        [
                            View::new(&q[at * rows * depth..][..rows * depth], rows, depth),
                            View::new(&k[at * columns * depth..][..columns * depth], columns, depth)
                                .transposed(),
                            View::new(&v[at * columns * width..][..columns * width], columns, width),
                        ]
                    },
                    0.5,
                );
                for (place, found) in found.iter().enumerate() {
                    let (at, row, column) = (place / width / rows, place / width % rows, place % width);
                    let score = |key: usize| {
                        let pairs = (0..depth)
                            .map(|i| q[(at * rows + row) * depth + i] * k[(at * columns + key) * depth + i]);
                        f64::from(pairs.sum::<f32>()) * 0.5
                    };
                    let powers: Vec<f64> = (0..columns).map(|key| score(key).exp()).collect();
                    let value = |key: usize| f64::from(v[(at * columns + key) * width + column]);
                    let wanted =
                        powers.iter().enumerate().map(|(key, power)| power * value(key)).sum::<f64>()
                            / powers.iter().sum::<f64>();
                    assert!((f64::from(*found) - wanted).abs() < 1e-4, "{isa:?}: {found}, not {wanted}");
                }
                assert_eq!(found.len(), count * rows * width);
            }
        }
    }
}
