//! When two answers are the same: the rule of `e2e/conformance/judge.py`, which is that of ONNX's own runner
//! and one unit in the last place of the largest element beside it. Half precision has two units in its last
//! place, since ONNX Runtime rounds less often between nodes than there are nodes.

use stoker_graph::{DType, Data, Value};

/// How much an element may differ, relative to its size.
const RELATIVE: f64 = 1e-3;
/// How much an element of double precision may differ besides.
const ABSOLUTE: f64 = 1e-7;
/// How much one of single precision may, in which half precision is computed too: the numbers that are made are
/// of about one, and where two of them cancel, some units in their last place are left.
const ABSOLUTE_SINGLE: f64 = 1e-6;
/// Two units in the last place of FP16.
const RELATIVE_F16: f64 = 1.0 / 512.0;
/// Two units in the last place of bfloat16.
const RELATIVE_BF16: f64 = 1.0 / 64.0;

/// What is different, in words; `None` when the values are the same.
pub fn difference(actual: &Value, expected: &Value) -> Option<String> {
    if actual.dtype() != expected.dtype() {
        return Some(format!("type {} instead of {}", actual.dtype(), expected.dtype()));
    }
    if actual.shape() != expected.shape() {
        return Some(format!("shape {:?} instead of {:?}", actual.shape(), expected.shape()));
    }
    let (Some(ours), Some(theirs)) = (floats(actual.data()), floats(expected.data())) else {
        let shown = || format!("{:?} instead of {:?}", actual.data(), expected.data());
        return (actual.data() != expected.data()).then(shown);
    };
    let relative = match expected.dtype() {
        DType::F16 => RELATIVE_F16,
        DType::BF16 => RELATIVE_BF16,
        _ => RELATIVE,
    };
    let absolute =
        if expected.dtype() == DType::F64 { ABSOLUTE } else { ABSOLUTE_SINGLE.max(noise(&theirs)) };
    let same = |&(one, other): &(f64, f64)| {
        // Infinity less itself is no number: what is equal is asked first.
        one.total_cmp(&other).is_eq()
            || (one.is_nan() && other.is_nan())
            // Where one of them is infinite, so is the difference.
            || (other.is_finite() && (one - other).abs() <= absolute + relative * other.abs())
    };
    let pairs: Vec<(f64, f64)> = ours.into_iter().zip(theirs).collect();
    let different = pairs.iter().filter(|pair| !same(pair)).count();
    let first = pairs.iter().position(|pair| !same(pair))?;
    let (one, other) = pairs[first];
    Some(format!("{different} of {} differ, first at {first}: {one} instead of {other}", pairs.len()))
}

/// The elements where they are compared with a tolerance.
fn floats(data: &Data) -> Option<Vec<f64>> {
    Some(match data {
        Data::F16(items) => items.iter().map(|item| item.to_f64()).collect(),
        Data::BF16(items) => items.iter().map(|item| item.to_f64()).collect(),
        Data::F32(items) => items.iter().map(|&item| item.into()).collect(),
        Data::F64(items) => items.clone(),
        _ => return None,
    })
}

/// One unit in the last place of the largest element, in single precision.
fn noise(expected: &[f64]) -> f64 {
    let finite = expected.iter().filter(|item| item.is_finite());
    f64::from(f32::EPSILON) * finite.fold(0.0, |most, item| f64::max(most, item.abs()))
}
