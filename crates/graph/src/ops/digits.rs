//! Numbers as text and back, in NumPy's manner.

use half::{bf16, f16};

use crate::tensor::Fault;

/// A number that can be written.
pub(super) trait Written: Copy {
    /// What NumPy makes of the number when it becomes a string.
    fn text(self) -> String;
}

macro_rules! whole {
    ($($E:ty)*) => {
        $(impl Written for $E {
            fn text(self) -> String {
                self.to_string()
            }
        })*
    };
}
whole!(i64 i32 i16 i8 u64 u32 u16 u8);

impl Written for f64 {
    fn text(self) -> String {
        real(self.is_nan(), self.is_infinite(), &format!("{self:e}"))
    }
}

impl Written for f32 {
    fn text(self) -> String {
        real(self.is_nan(), self.is_infinite(), &format!("{self:e}"))
    }
}

impl Written for f16 {
    fn text(self) -> String {
        shortest(self.to_f32(), |number| f16::from_f32(number) == self)
    }
}

impl Written for bf16 {
    fn text(self) -> String {
        shortest(self.to_f32(), |number| bf16::from_f32(number) == self)
    }
}

/// The fewest digits that mean the same half.
fn shortest(wide: f32, same: impl Fn(f32) -> bool) -> String {
    let text = (0..9).map(|digits| format!("{wide:.digits$e}"));
    let text = text.into_iter().find(|text| text.parse().is_ok_and(&same));
    real(wide.is_nan(), wide.is_infinite(), &text.unwrap_or_else(|| format!("{wide:e}")))
}

/// The layout of a number that is given as digits, `e` and exponent. Between 1e-4 and 1e16 it is plain,
/// with a digit after the point; beyond, the exponent has two digits at least.
fn real(nan: bool, infinite: bool, scientific: &str) -> String {
    let (sign, number) = scientific.strip_prefix('-').map_or(("", scientific), |number| ("-", number));
    if nan {
        return "nan".to_owned();
    }
    if infinite {
        return format!("{sign}inf");
    }
    let (digits, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = digits.replace('.', "");
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    if digits != "0" && !(-4..16).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let minus = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{minus}{:02}", exponent.abs());
    }
    if exponent < 0 {
        format!("{sign}0.{}{digits}", zeros(-exponent - 1))
    } else if count <= exponent + 1 {
        format!("{sign}{digits}{}.0", zeros(exponent + 1 - count))
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(exponent + 1).unwrap_or(0));
        format!("{sign}{whole}.{fraction}")
    }
}

/// Reads text as a number of the type: plain or scientific, or infinity and NaN in any case.
pub(super) fn parse_real<F: std::str::FromStr>(text: &str) -> Result<F, Fault> {
    text.trim().parse().map_err(|_| not_a_number(text))
}

/// Reads text as a whole number, which keeps all its digits. A fraction is cut off.
pub(super) fn parse_whole(text: &str) -> Result<i128, Fault> {
    if let Ok(whole) = text.trim().parse() {
        return Ok(whole);
    }
    let real: f64 = parse_real(text)?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and what is not finite is refused")]
    if real.is_finite() { Ok(real as i128) } else { Err(not_a_number(text)) }
}

/// Reads text as a truth value: its name, or a number.
pub(super) fn parse_truth(text: &str) -> Result<bool, Fault> {
    match text.trim() {
        name if name.eq_ignore_ascii_case("true") => Ok(true),
        name if name.eq_ignore_ascii_case("false") => Ok(false),
        number => Ok(parse_real::<f64>(number)? != 0.0),
    }
}

fn not_a_number(text: &str) -> Fault {
    Fault(format!("`{text}` is not a number of that type"))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{Written, parse_truth, parse_whole};

    #[test]
    fn numbers_are_written_as_numpy_writes_them() {
        let pairs = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-123.456, "-123.456"),
            (100.0, "100.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (number, text) in pairs {
            assert_eq!(number.text(), text);
        }
        assert_eq!(0.1f32.text(), "0.1");
        assert_eq!(16_777_216f32.text(), "16777216.0");
        assert_eq!(f16::from_f32(0.1).text(), "0.1");
        assert_eq!(f16::MAX.text(), "65500.0");
        assert_eq!(bf16::from_f32(2.72).text(), "2.72");
        assert_eq!((-7i8).text(), "-7");
    }

    #[test]
    fn whole_numbers_keep_their_digits() {
        assert_eq!(parse_whole(" 9223372036854775807 ").ok(), Some(i128::from(i64::MAX)));
        assert_eq!(parse_whole("-2.9e1").ok(), Some(-29));
        assert!(parse_whole("nan").is_err() && parse_whole("one").is_err());
        assert_eq!(parse_truth("True").ok(), Some(true));
    }
}
