//! Tests for what is not a finite number.

use super::{Built, Entry, FLOATS, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] =
    &[Entry::new("IsNaN", 9, FLOATS, |_| test(f64::is_nan)), Entry::new("IsInf", 10, FLOATS, is_inf)];

fn is_inf(node: &Node<'_>) -> Built {
    let (positive, negative) = (node.flag("detect_positive", true), node.flag("detect_negative", true));
    test(move |x| x.is_infinite() && if x > 0.0 { positive } else { negative })
}

/// A truth value for each floating-point number, those of 8 bits included.
fn test(truth: impl Fn(f64) -> bool + Send + Sync + 'static) -> Built {
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let truths = numbers(&x)?.into_iter().map(|x| u8::from(truth(x))).collect();
        Ok(Tensor::from_bools(x.shape(), truths).into())
    })
}

fn numbers(x: &Tensor) -> Result<Vec<f64>, Fault> {
    match x.dtype() {
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => x.to_f64s(),
        small if small.is_small() => x.to_f64s(),
        other => fault!("floating-point numbers are needed, not {other}"),
    }
}
