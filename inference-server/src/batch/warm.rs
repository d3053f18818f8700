//! Runs the model before the first request does: at every batch size that doubling reaches, so that kernels, caches and
//! the allocator are warm at all of them; and sees whether joining requests keeps their answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use stoker_graph::{DType, Data, Value, ValueInfo};

use super::executor::Runner;
use crate::protocol::Signature;

/// Dimensions that the request decides, other than the batch, are 1 in warm-up; fixed ones are as declared. A model that
/// declares more elements than this for one row is not warmed.
const MOST_ELEMENTS: usize = 1 << 28;
/// How far an answer in a batch may be from the same answer alone, absolute and relative: kernels of different sizes add
/// up in different orders.
const TOLERANCE: f64 = 1e-3;

/// What warm-up saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmth {
    /// Batch sizes that were run.
    pub sizes: Vec<usize>,
    /// How long the second run of each size took; of the last one the first, where the time was up.
    pub times: Vec<(usize, Duration)>,
    /// Why the model failed on zeros, where it did. A model may: zeros need not be a valid input.
    pub failure: Option<String>,
    /// False when two requests together got other answers than each alone: then they must not be joined.
    pub joinable: bool,
}

/// Runs the model twice at 1, 2, 4, ... `max_rows` rows of zeros, and compares a batch of two with its rows alone. The first
/// run of a size pays for what is made once, so the second one is timed.
///
/// A size is left out when it would end later than `patience` after the start, taken as twice the time of the size
/// before: a slow model has little to gain from warmth, and its clients wait for readiness.
pub fn warm(runner: &impl Runner, signature: &Signature, max_rows: usize, patience: Duration) -> Warmth {
    let begun = Instant::now();
    let mut last = Duration::ZERO;
    let mut warmth =
        Warmth { sizes: Vec::new(), times: Vec::new(), failure: None, joinable: signature.batch_axis };
    let largest = if signature.batch_axis { max_rows.max(1) } else { 1 };
    let doubling =
        std::iter::successors(Some(1_usize), |size| size.checked_mul(2)).take_while(|size| *size < largest);
    for rows in doubling.chain([largest]) {
        let so_far = begun.elapsed();
        if so_far + last * 2 > patience && rows > 1 {
            break;
        }
        let outcome = timed(runner, signature, rows).and_then(|first| {
            if begun.elapsed() + first > patience { Ok(first) } else { timed(runner, signature, rows) }
        });
        last = begun.elapsed().saturating_sub(so_far);
        match outcome {
            Ok(took) => {
                warmth.sizes.push(rows);
                warmth.times.push((rows, took));
            }
            Err(reason) => {
                warmth.failure = Some(format!("{rows} row(s) of zeros: {reason}"));
                break;
            }
        }
    }
    if signature.batch_axis && max_rows > 1 {
        warmth.joinable = rows_are_independent(runner, signature);
    }
    warmth
}

/// How long a run of `rows` rows of zeros takes, without making them.
fn timed(runner: &impl Runner, signature: &Signature, rows: usize) -> Result<Duration, String> {
    let inputs = inputs(signature, rows, |_, _| 0)?;
    let begun = Instant::now();
    run_once(runner, inputs).map(|_| begun.elapsed())
}

/// True unless two rows together were seen to get other answers than each alone. A failure proves nothing.
fn rows_are_independent(runner: &impl Runner, signature: &Signature) -> bool {
    // Two rows that differ, of small numbers that most models take.
    let item = |row: usize, element: usize| i8::try_from((element * 7 + row * 3 + 1) % 5).unwrap_or(0);
    let alone = |row: usize| run(runner, signature, 1, move |_, element| item(row, element));
    let (Ok(first), Ok(second), Ok(both)) = (alone(0), alone(1), run(runner, signature, 2, item)) else {
        return true;
    };
    both.into_iter().zip(first.iter().zip(&second)).all(|((_, both), ((_, first), (_, second)))| {
        both.split(&[1, 1]).is_ok_and(|parts| close(&parts[0], first) && close(&parts[1], second))
    })
}

/// Runs `rows` rows whose elements `item(row, element)` gives.
fn run(
    runner: &impl Runner,
    signature: &Signature,
    rows: usize,
    item: impl Fn(usize, usize) -> i8,
) -> Result<Vec<(String, Value)>, String> {
    run_once(runner, inputs(signature, rows, item)?)
}

/// Inputs of `rows` rows whose elements `item(row, element)` gives.
fn inputs(
    signature: &Signature,
    rows: usize,
    item: impl Fn(usize, usize) -> i8,
) -> Result<Vec<(String, Value)>, String> {
    let all = signature
        .inputs
        .iter()
        .map(|info| input(info, signature.batch_axis, rows, &item).map(|value| (info.name.clone(), value)))
        .collect::<Option<Vec<_>>>();
    all.ok_or_else(|| "one row has more elements than warm-up makes".to_owned())
}

fn run_once(runner: &impl Runner, inputs: Vec<(String, Value)>) -> Result<Vec<(String, Value)>, String> {
    match catch_unwind(AssertUnwindSafe(|| runner.run(inputs, &|| false))) {
        Ok(outputs) => outputs.map_err(|error| error.to_string()),
        Err(_) => Err("the model panicked".to_owned()),
    }
}

/// An input of the declared type and shape.
fn input(
    info: &ValueInfo,
    batch_axis: bool,
    rows: usize,
    item: &impl Fn(usize, usize) -> i8,
) -> Option<Value> {
    let mut shape: Vec<usize> = info.shape.iter().map(|length| length.unwrap_or(1)).collect();
    if batch_axis {
        *shape.first_mut()? = rows;
    }
    let count = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length))?;
    if count > MOST_ELEMENTS {
        return None;
    }
    let row_length = (count / shape.first().copied().unwrap_or(1).max(1)).max(1);
    let items = (0..count).map(|i| item(i / row_length, i % row_length));
    let data = match info.dtype {
        DType::Bool => Data::Bool(items.map(|i| i % 2 == 1).collect()),
        DType::U8 => Data::U8(items.map(i8::unsigned_abs).collect()),
        DType::U16 => Data::U16(items.map(|i| i.unsigned_abs().into()).collect()),
        DType::U32 => Data::U32(items.map(|i| i.unsigned_abs().into()).collect()),
        DType::U64 => Data::U64(items.map(|i| i.unsigned_abs().into()).collect()),
        DType::I8 => Data::I8(items.collect()),
        DType::I16 => Data::I16(items.map(i16::from).collect()),
        DType::I32 => Data::I32(items.map(i32::from).collect()),
        DType::I64 => Data::I64(items.map(i64::from).collect()),
        DType::F16 => Data::F16(items.map(half::f16::from).collect()),
        DType::BF16 => Data::BF16(items.map(half::bf16::from).collect()),
        DType::F32 => Data::F32(items.map(f32::from).collect()),
        DType::F64 => Data::F64(items.map(f64::from).collect()),
        DType::String => {
            Data::String(items.map(|i| if i == 0 { String::new() } else { i.to_string() }).collect())
        }
        // A model with such an input is refused when it is loaded.
        _ => return None,
    };
    Value::new(shape, data).ok()
}

/// True when two values are the same but for rounding. NaN is the same as NaN, an infinity the same as itself.
fn close(a: &Value, b: &Value) -> bool {
    let within = |a: f64, b: f64, tolerance: f64| {
        a.total_cmp(&b).is_eq() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * (1.0 + b.abs())
    };
    let near = |a: f64, b: f64| within(a, b, TOLERANCE);
    // Half precision is coarser than the tolerance: a few steps of its own, of 2^-10 and of 2^-7.
    let near_half = |a: half::f16, b: half::f16| within(a.into(), b.into(), 8.0 / 1024.0);
    let near_brain = |a: half::bf16, b: half::bf16| within(a.into(), b.into(), 8.0 / 128.0);
    a.shape() == b.shape()
        && match (a.data(), b.data()) {
            (Data::F16(a), Data::F16(b)) => a.iter().zip(b).all(|(a, b)| near_half(*a, *b)),
            (Data::BF16(a), Data::BF16(b)) => a.iter().zip(b).all(|(a, b)| near_brain(*a, *b)),
            (Data::F32(a), Data::F32(b)) => a.iter().zip(b).all(|(a, b)| near(f64::from(*a), f64::from(*b))),
            (Data::F64(a), Data::F64(b)) => a.iter().zip(b).all(|(a, b)| near(*a, *b)),
            (a, b) => a == b,
        }
}

#[cfg(test)]
#[path = "warm/tests.rs"]
mod tests;
