use proptest::prelude::*;

use super::*;

/// Small whole numbers, so that sums have no rounding in any order.
pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 31 + seed * 17 + at / 7) % 13) as f32 - 6.0).collect()
}

/// The product, written plainly.
fn plainly(x: View<'_>, y: View<'_>, finish: Finish<'_>) -> Vec<f32> {
    let mut result = Vec::new();
    for row in 0..x.rows {
        for column in 0..y.columns {
            let at = |k: usize| {
                x.items[row * x.strides[0] + k * x.strides[1]]
                    * y.items[k * y.strides[0] + column * y.strides[1]]
            };
            let mut sum: f32 = (0..x.columns).map(at).sum();
            sum += finish.bias.map_or(0.0, |bias| bias[column]);
            sum += finish.addend.map_or(0.0, |addend| addend[row * y.columns + column]);
            result.push(finish.bounds.map_or(sum, |(low, high)| sum.clamp(low, high)));
        }
    }
    result
}

fn check(rows: usize, depth: usize, columns: usize, transposed: [bool; 2], finished: [bool; 3]) {
    let side = |rows: usize, columns: usize, transposed: bool, items| {
        if transposed {
            View::new(items, columns, rows).transposed()
        } else {
            View::new(items, rows, columns)
        }
    };
    let (x, y) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
    let (x, y) = (side(rows, depth, transposed[0], &x), side(depth, columns, transposed[1], &y));
    let (bias, addend) = (numbers(columns, 3), numbers(rows * columns, 4));
    let finish = Finish {
        bias: finished[0].then_some(&bias),
        addend: finished[1].then_some(&addend),
        bounds: finished[2].then_some((-5.0, 40.0)),
    };
    let plain = plainly(x, y, finish);
    for isa in Isa::available() {
        let product = Matrix::new(isa, y).product(x, finish);
        assert!(product == plain, "{isa:?}: {rows} x {depth} x {columns}, {transposed:?}, {finished:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn products_are_those_written_plainly(
        rows in 0usize..40,
        depth in 0usize..80,
        columns in 0usize..120,
        transposed in any::<[bool; 2]>(),
        finished in any::<[bool; 3]>(),
    ) {
        check(rows, depth, columns, transposed, finished);
    }
}

#[test]
fn large_products_are_divided_by_depth_rows_and_columns() {
    for (rows, depth, columns) in
        [(1, 3000, 500), (7, 1000, 301), (130, 700, 75), (600, 300, 49), (3000, 40, 20), (2, 70000, 3)]
    {
        for transposed in [[false, false], [true, true]] {
            check(rows, depth, columns, transposed, [true, true, true]);
        }
    }
}

#[test]
#[expect(clippy::float_cmp, reason = "whole numbers")]
fn what_is_no_number_stays_so() {
    for isa in Isa::available() {
        let matrix = Matrix::new(isa, View::new(&[1.0; 40], 1, 40));
        let bounds = Some((0.0, f32::INFINITY));
        let finish = Finish { bounds, ..Finish::default() };
        let product = matrix.product(View::new(&[f32::NAN, -1.0, 2.0], 3, 1), finish);
        assert!(product[..40].iter().all(|x| x.is_nan()), "{isa:?}");
        assert!(product[40..80].iter().all(|&x| x == 0.0) && product[80..].iter().all(|&x| x == 2.0));
    }
}

#[test]
#[should_panic(expected = "inside of its store")]
fn a_view_beyond_its_store_is_refused() {
    Matrix::new(Isa::plain(), View::new(&[0.0; 5], 2, 3));
}

#[test]
#[should_panic(expected = "columns meet rows")]
fn sides_that_do_not_meet_are_refused() {
    let matrix = Matrix::new(Isa::plain(), View::new(&[0.0; 6], 2, 3));
    matrix.product(View::new(&[0.0; 3], 1, 3), Finish::default());
}
