//! Values and names as text for a terminal.

use std::fmt::Write as _;
use stoker_graph::{AnyValue, DType, Data, Value};

/// How many elements of a tensor are shown.
const SHOWN: usize = 16;

/// A name from a file as one line without control characters: a file must not steer a terminal.
pub fn text(name: &str) -> String {
    name.chars()
        .flat_map(|letter| {
            let steers = letter.is_control();
            let (escaped, plain) = (steers.then(|| letter.escape_debug()), (!steers).then_some(letter));
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// The same for text of several lines, which stay.
pub fn lines(report: &str) -> String {
    report.split('\n').map(text).collect::<Vec<_>>().join("\n")
}

/// A named value: type, shape and the first elements.
pub fn value(name: &str, value: &AnyValue) -> String {
    let name = text(name);
    match value {
        AnyValue::Nothing => format!("{name}: nothing\n"),
        AnyValue::Tensor(tensor) => format!("{name}: {}\n  {}\n", heading(tensor), elements(tensor.data())),
        AnyValue::Sequence(dtype, list) => {
            let mut report = format!("{name}: {} tensor(s) of {dtype}\n", list.len());
            for (at, tensor) in list.iter().enumerate().take(SHOWN) {
                let _ = writeln!(report, "  {at}: {}\n     {}", heading(tensor), elements(tensor.data()));
            }
            if list.len() > SHOWN {
                report += "  ...\n";
            }
            report
        }
    }
}

/// Type and shape.
pub fn heading(tensor: &Value) -> String {
    format!("{} {:?}", tensor.dtype(), tensor.shape())
}

fn elements(data: &Data) -> String {
    fn first<T>(items: &[T], shown: impl Fn(&T) -> String) -> String {
        let all: Vec<String> = items.iter().take(SHOWN).map(shown).collect();
        let more = if items.len() > SHOWN { ", ..." } else { "" };
        format!("{}{more}", all.join(", "))
    }
    match data {
        Data::Bool(items) => first(items, ToString::to_string),
        Data::U8(items) => first(items, ToString::to_string),
        Data::U16(items) => first(items, ToString::to_string),
        Data::U32(items) => first(items, ToString::to_string),
        Data::U64(items) => first(items, ToString::to_string),
        Data::I8(items) => first(items, ToString::to_string),
        Data::I16(items) => first(items, ToString::to_string),
        Data::I32(items) => first(items, ToString::to_string),
        Data::I64(items) => first(items, ToString::to_string),
        Data::F16(items) => first(items, |item| format!("{item:?}")),
        Data::BF16(items) => first(items, |item| format!("{item:?}")),
        Data::F32(items) => first(items, |item| format!("{item:?}")),
        Data::F64(items) => first(items, |item| format!("{item:?}")),
        Data::String(items) => first(items, |item| format!("{item:?}")),
        Data::Small(dtype, items) => first(items, |&bits| small(*dtype, bits)),
        _ => format!("elements of {}", data.dtype()),
    }
}

/// An element of a small type: integers as numbers, the others as bits.
fn small(dtype: DType, bits: u8) -> String {
    match dtype {
        DType::U2 | DType::U4 => bits.to_string(),
        DType::I2 => (bits.wrapping_shl(6).cast_signed() >> 6).to_string(),
        DType::I4 => (bits.wrapping_shl(4).cast_signed() >> 4).to_string(),
        _ => format!("0x{bits:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_steer_the_terminal() {
        assert_eq!(text("a\u{1b}[2J\nb ü"), "a\\u{1b}[2J\\nb ü");
        assert_eq!(lines("a\nb\tc"), "a\nb\\tc");
    }

    #[test]
    fn small_integers_are_shown_as_numbers() {
        assert_eq!(small(DType::I4, 0xf), "-1");
        assert_eq!(small(DType::I2, 0b10), "-2");
        assert_eq!(small(DType::U4, 0xf), "15");
        assert_eq!(small(DType::F8E5M2, 0x3c), "0x3c");
    }
}
