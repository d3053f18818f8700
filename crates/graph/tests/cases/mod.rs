//! Golden cases as `e2e/models/golden_cases.py` writes them.

#![expect(clippy::float_cmp, reason = "infinity less itself is no number")]

mod tensors;

use stoker_graph::Data;
pub use tensors::tensors;

/// True where all elements are near each other.
pub fn close(actual: &Data, expected: &Data, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance + tolerance * b.abs()
    };
    match (actual, expected) {
        (Data::F32(a), Data::F32(b)) => a.iter().zip(b).all(|(&a, &b)| near(a.into(), b.into())),
        (Data::F64(a), Data::F64(b)) => a.iter().zip(b).all(|(&a, &b)| near(a, b)),
        _ => actual == expected,
    }
}
