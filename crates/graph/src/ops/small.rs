//! Types of less than a byte and 8-bit floating point: bits to numbers and back.
//!
//! The forms are those of "FP8 Formats for Deep Learning" (Micikevicius et al. 2022), of "8-bit Numerical
//! Formats for Deep Neural Networks" (Noune et al. 2022, the `FNUZ` types), and of the OCP Microscaling
//! specification 1.0 (`F4E2M1`, `F8E8M0`), rounded to the nearest, ties to even, as ONNX casts.

use crate::value::DType;

/// How a number is taken that lies between powers of two, for [`DType::F8E8M0`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerRounding {
    /// The next larger power.
    Up,
    /// The next smaller power.
    Down,
    /// The nearest power.
    Nearest,
}

/// How numbers become small ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrowing {
    /// What is too large becomes the largest number; else infinity, or NaN where there is none.
    pub(crate) saturate: bool,
    /// Between powers of two.
    pub(crate) power: PowerRounding,
}

impl Default for Narrowing {
    fn default() -> Self {
        Self { saturate: true, power: PowerRounding::Up }
    }
}

/// What the bits of a floating-point type mean.
struct Form {
    /// Bits of the fraction.
    fraction: u32,
    /// All bits but the sign.
    magnitude: u32,
    bias: i32,
    /// The largest magnitude that is a number.
    largest: u8,
    /// The bits of NaN.
    nan: Option<u8>,
    /// The bits of infinity.
    infinity: Option<u8>,
    /// There is one zero: its negative means NaN.
    one_zero: bool,
}

fn form(dtype: DType) -> Option<Form> {
    let form = |fraction, magnitude, bias, largest| Form {
        fraction,
        magnitude,
        bias,
        largest,
        nan: None,
        infinity: None,
        one_zero: false,
    };
    Some(match dtype {
        DType::F4E2M1 => form(1, 3, 1, 0x07),
        DType::F8E4M3FN => Form { nan: Some(0x7f), ..form(3, 7, 7, 0x7e) },
        DType::F8E4M3FNUZ => Form { nan: Some(0x80), one_zero: true, ..form(3, 7, 8, 0x7f) },
        DType::F8E5M2 => Form { nan: Some(0x7f), infinity: Some(0x7c), ..form(2, 7, 15, 0x7b) },
        DType::F8E5M2FNUZ => Form { nan: Some(0x80), one_zero: true, ..form(2, 7, 16, 0x7f) },
        _ => return None,
    })
}

/// The number that an element's bits mean.
#[expect(clippy::cast_possible_truncation, reason = "the masks have eight bits at most")]
pub(crate) fn decode(dtype: DType, bits: u8) -> f32 {
    let sign_extended = |width: u32| f32::from((bits << (8 - width)).cast_signed() >> (8 - width));
    match dtype {
        DType::I2 => return sign_extended(2),
        DType::I4 => return sign_extended(4),
        DType::F8E8M0 => {
            return if bits == u8::MAX { f32::NAN } else { 2f32.powi(i32::from(bits) - 127) };
        }
        _ => {}
    }
    let Some(form) = form(dtype) else { return f32::from(bits) };
    let negative = bits >> form.magnitude & 1 == 1;
    let magnitude = bits & ((1u32 << form.magnitude) - 1) as u8;
    let number = if Some(bits) == form.nan || (!form.one_zero && Some(magnitude) == form.nan) {
        f32::NAN
    } else if Some(magnitude) == form.infinity {
        f32::INFINITY
    } else if form.infinity.is_some_and(|infinity| magnitude > infinity) {
        f32::NAN
    } else {
        let fraction = f32::from(magnitude & ((1u32 << form.fraction) - 1) as u8);
        let unit = 2f32.powi(-form.fraction.cast_signed());
        match i32::from(magnitude >> form.fraction) {
            0 => fraction * unit * 2f32.powi(1 - form.bias),
            exponent => (1.0 + fraction * unit) * 2f32.powi(exponent - form.bias),
        }
    };
    if negative && !number.is_nan() { -number } else { number }
}

/// The bits of the element that a number becomes. Whole numbers are cut to the width.
pub(crate) fn encode(dtype: DType, x: f32, how: Narrowing) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "a number out of range has no defined bits")]
    match (dtype, form(dtype)) {
        (DType::F8E8M0, _) => encode_power(x, how),
        (_, Some(form)) => encode_float(&form, x, how.saturate),
        (_, None) => low_bits(dtype, x as i64),
    }
}

/// The bits of an integer of less than a byte: those that do not fit are cut off.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low bits are meant")]
pub(super) fn low_bits(dtype: DType, x: i64) -> u8 {
    x as u8 & ((1u32 << dtype.bits().min(8)) - 1) as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the values are whole and in range where they are cut"
)]
fn encode_float(form: &Form, x: f32, saturate: bool) -> u8 {
    let sign = if x.is_sign_negative() { 1u8 << form.magnitude } else { 0 };
    // ONNX leaves open what NaN becomes in a type without it. Its reference gives a negative zero.
    let nan = form.nan.map_or(1 << form.magnitude, |nan| if form.one_zero { nan } else { nan | sign });
    if x.is_nan() {
        return nan;
    }
    let size = f64::from(x.abs());
    let too_large = match (saturate || (form.nan.is_none() && form.infinity.is_none()), form.infinity) {
        (true, _) => form.largest | sign,
        (false, Some(infinity)) => infinity | sign,
        (false, None) => nan,
    };
    if size.is_infinite() {
        return too_large;
    }
    // The exponent of the number, or of the smallest one that is not subnormal.
    let exponent = if size == 0.0 { 1 - form.bias } else { exponent_of(size).max(1 - form.bias) };
    let steps = (size / 2f64.powi(exponent - form.fraction.cast_signed())).round_ties_even();
    // A carry of the fraction goes on into the exponent.
    let code = i64::from(exponent + form.bias) * (1 << form.fraction) + steps as i64 - (1 << form.fraction);
    if code > i64::from(form.largest) {
        return too_large;
    }
    let code = code as u8;
    if code == 0 && form.one_zero { 0 } else { code | sign }
}

/// The power of two at or below a positive number.
fn exponent_of(size: f64) -> i32 {
    // Every `f32` is a normal `f64`.
    ((size.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

#[expect(clippy::cast_sign_loss, reason = "clamped to the range")]
fn encode_power(x: f32, how: Narrowing) -> u8 {
    if x.is_nan() {
        return u8::MAX;
    }
    let size = f64::from(x.abs());
    // Without saturation, what no power is near to is not a number.
    if size == 0.0 {
        return if how.saturate { 0 } else { u8::MAX };
    }
    if size.is_infinite() {
        return if how.saturate { 254 } else { u8::MAX };
    }
    let below = exponent_of(size);
    let part = size / 2f64.powi(below);
    let up = match how.power {
        PowerRounding::Up => part > 1.0,
        PowerRounding::Down => false,
        PowerRounding::Nearest => part >= 1.5,
    };
    let exponent = below + i32::from(up) + 127;
    if !how.saturate && !(0..=254).contains(&exponent) {
        return u8::MAX;
    }
    exponent.clamp(0, 254) as u8
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    const FLOATS: [DType; 6] =
        [DType::F4E2M1, DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F8E8M0];

    #[test]
    fn every_number_of_a_small_type_comes_back() {
        for dtype in FLOATS {
            for bits in 0..=u8::MAX >> (8 - dtype.bits()) {
                let number = decode(dtype, bits);
                if number.is_finite() {
                    assert_eq!(
                        encode(dtype, number, Narrowing::default()),
                        bits,
                        "{dtype} {bits:#x} {number}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_those_of_the_formats() {
        let largest = |dtype| decode(dtype, encode(dtype, 1e30, Narrowing::default()));
        assert_eq!(
            FLOATS[..5].iter().map(|&dtype| largest(dtype)).collect::<Vec<_>>(),
            [6.0, 448.0, 240.0, 57_344.0, 57_344.0]
        );
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let round = |x| decode(DType::F8E4M3FN, encode(DType::F8E4M3FN, x, Narrowing::default()));
        // Between 16 and 32 the step is 2.
        assert_eq!([17.0, 19.0, 17.1, 16.9].map(round), [16.0, 20.0, 18.0, 16.0]);
        // The smallest number is 2^-9; half of it is rounded to zero.
        assert_eq!([2f32.powi(-10), 1.5 * 2f32.powi(-9)].map(round), [0.0, 2f32.powi(-8)]);
    }

    #[test]
    fn without_saturation_large_numbers_leave_the_range() {
        let how = Narrowing { saturate: false, ..Narrowing::default() };
        assert!(decode(DType::F8E4M3FN, encode(DType::F8E4M3FN, 1e6, how)).is_nan());
        assert!(decode(DType::F8E4M3FNUZ, encode(DType::F8E4M3FNUZ, 1e6, how)).is_nan());
        assert_eq!(decode(DType::F8E5M2, encode(DType::F8E5M2, -1e6, how)), f32::NEG_INFINITY);
    }
}
