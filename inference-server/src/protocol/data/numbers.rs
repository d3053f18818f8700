//! Arrays of numbers straight from their text: what most bodies consist of.
//!
//! A general parser spends most of its time on what a tensor does not have. This one knows arrays and numbers only, and gives up
//! (`None`) on everything else, also on what is wrong: the general one then reads it, or says what is wrong and where. Both give the
//! same elements, to the bit.

use serde::de::value::Error;

use super::{Element, Nesting};

/// Arrays in arrays in arrays: deeper ones are left to the parser that bounds them.
const DEEPEST: usize = 32;
/// Room that is made for elements before they are there, at most. A request may say of its shape what it likes.
const ROOM: usize = 4096;
/// Most digits that fit into 64 bits, whatever they are.
const DIGITS: usize = 19;
/// Whole numbers below this are exact as FP64.
const EXACT: u64 = 1 << 53;
/// Powers of ten that are exact as FP64. A product or quotient of two exact numbers is rounded once, which is what "correctly
/// rounded" means (Clinger, PLDI 1990).
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The numbers of the array that a text begins with, flat or nested, their nesting, and the length of their text. `expected` is how many
/// there may be.
pub(super) fn read<T: Element>(text: &[u8], expected: usize) -> Option<(Vec<T>, Nesting, usize)> {
    let mut items = Vec::with_capacity(expected.min(ROOM));
    let mut nesting = Nesting::default();
    // How many entries each array has so far that is not closed yet.
    let mut open: Vec<usize> = Vec::with_capacity(4);
    // The next entry may be missing: an array has just begun.
    let mut begins = false;
    let mut at = 0;
    loop {
        at = behind_space(text, at);
        match text.get(at)? {
            b'[' if open.len() < DEEPEST => {
                nesting.open::<Error>(open.len()).ok()?;
                open.push(0);
                begins = true;
                at += 1;
                continue;
            }
            b']' if begins => {}
            _ => {
                let (item, length) = number(text.get(at..)?)?;
                nesting.element::<Error>(open.len()).ok()?;
                *open.last_mut()? += 1;
                items.push(item);
                at += length;
            }
        }
        begins = false;
        loop {
            at = behind_space(text, at);
            let next = *text.get(at)?;
            at += 1;
            match next {
                b',' => break,
                b']' => {
                    let length = open.pop()?;
                    nesting.close::<Error>(open.len(), length).ok()?;
                    let Some(count) = open.last_mut() else {
                        // Not more than its text takes, whatever was expected.
                        if items.capacity() > 2 * items.len() {
                            items.shrink_to_fit();
                        }
                        return Some((items, nesting, at));
                    };
                    *count += 1;
                }
                _ => return None,
            }
        }
    }
}

/// The place of the next byte that is no space.
pub(in crate::protocol) fn behind_space(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let space = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'));
    from + space.count()
}

/// The number that a text begins with, and its length.
fn number<T: Element>(text: &[u8]) -> Option<(T, usize)> {
    let is_negative = text.first() == Some(&b'-');
    let from = usize::from(is_negative);
    let (whole, mut at) = digits(text, from, 0)?;
    if at - from > 1 && text.get(from) == Some(&b'0') {
        return None;
    }
    if !matches!(text.get(at), Some(b'.' | b'e' | b'E')) {
        if at - from > DIGITS {
            return None;
        }
        let item = match (is_negative, whole) {
            (false, value) => T::from_unsigned(value),
            // Minus zero is not a whole number.
            (true, 0) => None,
            (true, value) => T::from_signed(0_i64.checked_sub_unsigned(value)?),
        };
        return Some((item?, at));
    }
    let (mut value, mut exponent, mut count) = (whole, 0_i32, at - from);
    if text.get(at) == Some(&b'.') {
        let point = at + 1;
        (value, at) = digits(text, point, value)?;
        count += at - point;
        exponent = -i32::try_from(at - point).ok()?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let (ten, end) = power(text, at + 1)?;
        (exponent, at) = (exponent.checked_add(ten)?, end);
    }
    let ten = TENS.get(usize::try_from(exponent.unsigned_abs()).ok()?);
    let is_exact = count <= DIGITS && value < EXACT;
    let magnitude = match ten {
        Some(ten) if is_exact && exponent < 0 => value as f64 / ten,
        Some(ten) if is_exact => value as f64 * ten,
        _ => std::str::from_utf8(text.get(from..at)?).ok()?.parse().ok()?,
    };
    Some((T::from_float(if is_negative { -magnitude } else { magnitude })?, at))
}

/// The digits from a place on, of which there must be one, behind those that make `value`, and where they end. The value is wrong
/// where there are more than [`DIGITS`] in all.
fn digits(text: &[u8], from: usize, mut value: u64) -> Option<(u64, usize)> {
    let mut at = from;
    while let Some(byte) = text.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (at > from).then_some((value, at))
}

/// The power of ten that an exponent says, from behind its letter, and where it ends.
fn power(text: &[u8], from: usize) -> Option<(i32, usize)> {
    let sign = text.get(from);
    let first = from + usize::from(matches!(sign, Some(b'-' | b'+')));
    let (value, end) = digits(text, first, 0)?;
    let value = i32::try_from(value).ok().filter(|_| end - first <= DIGITS)?;
    Some((if sign == Some(&b'-') { -value } else { value }, end))
}
