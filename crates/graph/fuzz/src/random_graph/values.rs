//! Shapes and elements of the values that a random graph begins with.

use half::f16;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::{DType, Data, Value};

use crate::dice::Dice;

/// What the elements of a new value are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Style {
    /// Quarters from -3 to 3, or whole numbers from -5 to 5; where there is no sign, from 0 on. Sums and
    /// products of few of them are exact, so that both runtimes must give the same bits.
    Plain,
    /// The same, and some of the numbers that are none.
    Special,
    /// From 1 on.
    Positive,
    /// Whole numbers from `-count` to `count - 1`: what may point into a dimension.
    Index(usize),
    /// Whole numbers from 0 to `most`.
    UpTo(i64),
}

/// A shape with a rank from `least` to `most`.
pub fn shape(random: &mut Unstructured<'_>, least: usize, most: usize) -> Result<Vec<usize>> {
    let rank = random.int_in_range(least..=most)?;
    (0..rank).map(|_| length(random)).collect()
}

/// The length of a dimension: mostly short, seldom 0.
pub fn length(random: &mut Unstructured<'_>) -> Result<usize> {
    Ok([2, 3, 1, 4, 2, 3, 1, 5, 2, 4, 3, 0][random.int_in_range(0..=11)?])
}

/// A value of this type and shape.
pub fn value(random: &mut Unstructured<'_>, dtype: DType, shape: &[usize], style: Style) -> Result<Value> {
    // One number for all elements: what the fuzzer changes is the graph above all.
    let mut dice = Dice::new(random.arbitrary::<u16>()?.into());
    let count = shape.iter().product();
    let signed = !matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool);
    let whole: Vec<i64> = (0..count)
        .map(|_| match style {
            Style::Plain | Style::Special if signed => dice.below(11) as i64 - 5,
            Style::Plain | Style::Special => dice.below(10) as i64,
            Style::Positive => 1 + dice.below(5) as i64,
            Style::Index(count) => dice.below(2 * count) as i64 - count as i64,
            Style::UpTo(most) => dice.below(most as usize + 1) as i64,
        })
        .collect();
    let mut float = |whole: &i64| match style {
        Style::Special if dice.once_in(4) => {
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0][dice.below(5)]
        }
        Style::Plain | Style::Special => (dice.below(25) as f64 - 12.0) / 4.0,
        Style::Positive => (1 + dice.below(12)) as f64 / 4.0,
        Style::Index(_) | Style::UpTo(_) => *whole as f64,
    };
    let data = match dtype {
        DType::Bool => Data::Bool(whole.iter().map(|item| item % 2 != 0).collect()),
        DType::U8 => Data::U8(whole.iter().map(|&item| item as u8).collect()),
        DType::U16 => Data::U16(whole.iter().map(|&item| item as u16).collect()),
        DType::U32 => Data::U32(whole.iter().map(|&item| item as u32).collect()),
        DType::U64 => Data::U64(whole.iter().map(|&item| item as u64).collect()),
        DType::I8 => Data::I8(whole.iter().map(|&item| item as i8).collect()),
        DType::I16 => Data::I16(whole.iter().map(|&item| item as i16).collect()),
        DType::I32 => Data::I32(whole.iter().map(|&item| item as i32).collect()),
        DType::F16 => Data::F16(whole.iter().map(|item| f16::from_f64(float(item))).collect()),
        DType::F32 => Data::F32(whole.iter().map(|item| float(item) as f32).collect()),
        DType::F64 => Data::F64(whole.iter().map(&mut float).collect()),
        _ => Data::I64(whole),
    };
    Ok(Value::new(shape.to_vec(), data).expect("as many elements as the shape says"))
}

/// The elements as doubles.
pub fn floats(value: &Value) -> Vec<f64> {
    match value.data() {
        Data::Bool(items) => items.iter().map(|&item| f64::from(u8::from(item))).collect(),
        Data::U8(items) => items.iter().map(|&item| item.into()).collect(),
        Data::U16(items) => items.iter().map(|&item| item.into()).collect(),
        Data::U32(items) => items.iter().map(|&item| item.into()).collect(),
        Data::U64(items) => items.iter().map(|&item| item as f64).collect(),
        Data::I8(items) => items.iter().map(|&item| item.into()).collect(),
        Data::I16(items) => items.iter().map(|&item| item.into()).collect(),
        Data::I32(items) => items.iter().map(|&item| item.into()).collect(),
        Data::I64(items) => items.iter().map(|&item| item as f64).collect(),
        Data::F16(items) => items.iter().map(|&item| item.to_f64()).collect(),
        Data::F32(items) => items.iter().map(|&item| item.into()).collect(),
        Data::F64(items) => items.clone(),
        _ => Vec::new(),
    }
}
