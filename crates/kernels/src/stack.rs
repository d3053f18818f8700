//! Products of two matrices that are both given by a request, any number of them.

#![allow(unsafe_code)]

use crate::isa::Isa;
use crate::matrix::{Matrix, View};
use crate::threads::{divide, filled, threads};
use crate::tile::Finish;

/// The products of `count` pairs of matrices, one after the other: `sides` gives the left and the right one of each. All
/// left ones, and all right ones, must have the same size; panics where they have not, or do not meet.
pub fn products<'a>(
    isa: Isa,
    count: usize,
    sides: &(impl Fn(usize) -> (View<'a>, View<'a>) + Sync),
) -> Vec<f32> {
    if count == 0 {
        return Vec::new();
    }
    let (left, right) = sides(0);
    let (rows, depth, columns) = (left.rows, left.columns, right.columns);
    let threads = threads(count * rows * depth * columns);
    let same = |at: usize| {
        let (left, right) = sides(at);
        assert_eq!((left.rows, left.columns), (rows, depth), "left sides of one size");
        assert_eq!(
            (right.rows, right.columns),
            (depth, columns),
            "right sides of one size, which meet the left ones"
        );
        (left, right)
    };
    let finish = Finish::default();
    // SAFETY: each product writes all of its own result.
    unsafe {
        filled(count * rows * columns, |to| {
            // As long as there is one for each thread, a product is one thread's work.
            let (tasks, alone) = if count >= 2 * threads { (threads, true) } else { (1, false) };
            divide(tasks, count, &|at| {
                let (left, right) = same(at);
                let matrix = Matrix::new(isa, right);
                matrix.fill(left, finish, to, at * rows * columns, if alone { 1 } else { threads });
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::numbers;

    #[test]
    fn each_pair_has_its_product() {
        for isa in Isa::available() {
            for (count, rows, depth, columns) in
                [(0, 1, 1, 1), (1, 30, 200, 50), (12, 128, 64, 100), (3, 4, 0, 5)]
            {
                let (a, b) = (numbers(count * rows * depth, 1), numbers(count * depth * columns, 2));
                let sides = |at: usize| {
                    let left = View::new(&a[at * rows * depth..][..rows * depth], rows, depth);
                    let right = View::new(&b[at * depth * columns..][..depth * columns], columns, depth);
                    (left, right.transposed())
                };
                let all = products(isa, count, &sides);
                assert_eq!(all.len(), count * rows * columns);
                for (at, product) in all.chunks(rows * columns).enumerate() {
                    let (left, right) = sides(at);
                    let one = Matrix::new(Isa::plain(), right).product(left, Finish::default());
                    assert!(one == product, "{isa:?}");
                }
            }
        }
    }
}
