//! Windows of signal processing, and the weights of the mel scale.

use std::f64::consts::TAU;

use super::cast::cast;
use super::matrix::type_attribute;
use super::{Built, Entry, Inputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault, shown};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("HannWindow", 17, "INT32 INT64", |node| window(node, [0.5, 0.5, 0.0])),
    Entry::new("HammingWindow", 17, "INT32 INT64", |node| window(node, [25.0 / 46.0, 21.0 / 46.0, 0.0])),
    Entry::new("BlackmanWindow", 17, "INT32 INT64", |node| window(node, [0.42, 0.5, 0.08])),
    Entry::new("MelWeightMatrix", 17, "INT32 INT64", mel_weights),
];

/// A sum of cosines: `a - b cos(x) + c cos(2x)`, where `x` goes round once over the window.
fn window(node: &Node<'_>, [a, b, c]: [f64; 3]) -> Built {
    let periodic = node.flag("periodic", true);
    let dtype = type_attribute(node, "output_datatype")?.unwrap_or(DType::F32);
    operator(move |inputs| {
        let size = whole(inputs, 0)?;
        check_size(&[size])?;
        let period = if periodic { size } else { size.saturating_sub(1) };
        let element = |at: usize| {
            // A symmetric window of one element is its middle.
            let x = if period == 0 { TAU / 2.0 } else { TAU * at as f64 / period as f64 };
            a - b * x.cos() + c * (2.0 * x).cos()
        };
        Ok(cast(Tensor::from_items(&[size], (0..size).map(element).collect()), dtype)?.into())
    })
}

/// The only element of an input: a whole number that is not negative.
fn whole(inputs: &mut Inputs<'_>, index: usize) -> Result<usize, Fault> {
    let numbers = inputs.take(index)?.to_i64s()?;
    match numbers.as_slice() {
        &[number] if number >= 0 => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        _ => fault!("input {index} must be one number that is not negative, not {}", shown(&numbers)),
    }
}

/// Triangles on the mel scale, which is `2595 log10(1 + f / 700)`: one column for each, one row for each
/// frequency of a one-sided spectrum.
fn mel_weights(node: &Node<'_>) -> Built {
    let dtype = type_attribute(node, "output_datatype")?.unwrap_or(DType::F32);
    operator(move |inputs| {
        let bands = whole(inputs, 0)?;
        let (length, rate) = (whole(inputs, 1)?, whole(inputs, 2)?);
        let mut edge = |index| {
            let numbers = inputs.take(index)?.to_f64s()?;
            match numbers.as_slice() {
                &[number] if number >= 0.0 && number.is_finite() => Ok(number),
                _ => fault!("input {index} must be one frequency that is not negative"),
            }
        };
        let (low, high) = (edge(3)?, edge(4)?);
        let shape = [length / 2 + 1, bands];
        let mut weights = vec![0.0; check_size(&shape)?];
        let corners = corners(bands, length, rate, low, high)?;
        for (band, corner) in corners.windows(3).enumerate() {
            let &[from, peak, to] = corner else { continue };
            if from > peak || peak > to || to > shape[0] || peak >= shape[0] {
                fault!("the frequencies {from}, {peak} and {to} do not rise within {}", shape[0]);
            }
            for row in from..peak {
                weights[row * bands + band] = (row - from) as f64 / (peak - from) as f64;
            }
            weights[peak * bands + band] = 1.0;
            for row in peak..to {
                weights[row * bands + band] = (to - row) as f64 / (to - peak) as f64;
            }
        }
        Ok(cast(Tensor::from_items(&shape, weights), dtype)?.into())
    })
}

/// The rows at which the triangles begin, peak and end.
fn corners(bands: usize, length: usize, rate: usize, low: f64, high: f64) -> Result<Vec<usize>, Fault> {
    if rate == 0 {
        fault!("the rate of the samples is zero");
    }
    let count = bands.saturating_add(2);
    check_size(&[count])?;
    let mel = |frequency: f64| 2595.0 * (frequency / 700.0).ln_1p() / std::f64::consts::LN_10;
    let (low, step) = (mel(low), (mel(high) - mel(low)) / count as f64);
    let corner = |at: usize| {
        let frequency = 700.0 * ((low + at as f64 * step) / 2595.0 * std::f64::consts::LN_10).exp_m1();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is checked"
        )]
        let row = ((length as f64 + 1.0) * frequency / rate as f64).floor() as usize;
        row
    };
    Ok((0..count).map(corner).collect())
}
