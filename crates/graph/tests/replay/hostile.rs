//! A file from a stranger, loaded and run: what the fuzz target `load` does with each, and the test
//! `findings` with those that were found.

use std::sync::atomic::{AtomicU32, Ordering};

use half::{bf16, f16};
use stoker_graph::{AnyValue, DType, Data, Graph, Kind, Limits, Model, Value, ValueInfo};

use crate::dice::Dice;

/// How often the bodies of loops may run together.
const ROUNDS: u64 = 32;
/// After how many questions a request is stopped: one for each node and each round.
const QUESTIONS: u32 = 200;
/// The most elements of one input, and the most inputs: what a file declares may be of any size.
const MOST_ELEMENTS: usize = 4096;
const MOST_INPUTS: usize = 64;

/// What came of a file.
#[derive(Debug)]
pub enum Outcome {
    /// It was refused at load, with this message.
    Refused(String),
    /// It was loaded. A request was answered, or refused with this message.
    Loaded(Option<String>),
}

/// Loads a file, looks at all that the crate tells of it, and runs it with small inputs.
pub fn check(bytes: &[u8]) -> Outcome {
    let model = match Model::from_bytes(bytes) {
        Ok(model) => model,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let told = (model.opsets(), model.inputs(), model.outputs(), model.operators(), model.functions());
    drop((told, model.weights(), format!("{model:?}")));
    match model.graph() {
        Ok(graph) => {
            let mix = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            Outcome::Loaded(run(&graph, &mut Dice::new(bytes.iter().fold(0, mix))))
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// The message with which the request was refused.
fn run(graph: &Graph, dice: &mut Dice) -> Option<String> {
    if graph.inputs().len() > MOST_INPUTS {
        return None;
    }
    // Free dimensions are the same everywhere: most graphs mean one batch by them.
    let free = [2, 1, 3, 0][dice.below(4)];
    let mut given = Vec::new();
    for declared in graph.inputs() {
        given.push((declared.name.clone(), input(declared, free, dice)?));
    }
    let asked = AtomicU32::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) >= QUESTIONS;
    let mut limits = Limits { stop: Some(&stop), ..Limits::default() };
    limits.rounds = ROUNDS;
    graph.run_any(given, limits).err().map(|error| error.to_string())
}

/// A small value of the declared kind; `None` where the declaration wants a large one.
fn input(declared: &ValueInfo, free: usize, dice: &mut Dice) -> Option<AnyValue> {
    let optional = matches!(declared.kind, Kind::OptionalTensor | Kind::OptionalSequence);
    if optional && dice.once_in(2) {
        return Some(AnyValue::Nothing);
    }
    let shape: Vec<usize> = if declared.ranked {
        declared.shape.iter().map(|length| length.unwrap_or(free)).collect()
    } else {
        vec![free.max(1); dice.below(5)]
    };
    match declared.kind {
        Kind::Sequence | Kind::OptionalSequence => {
            let items: Option<Vec<Value>> =
                (0..dice.below(4)).map(|_| value(declared.dtype, &shape, dice)).collect();
            Some(AnyValue::Sequence(declared.dtype, items?))
        }
        _ => value(declared.dtype, &shape, dice).map(AnyValue::Tensor),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "any element will do"
)]
fn value(dtype: DType, shape: &[usize], dice: &mut Dice) -> Option<Value> {
    let count = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    let count = count.filter(|&count| count <= MOST_ELEMENTS)?;
    // Small whole numbers are sizes, axes and indices that fit.
    let whole: Vec<i64> = (0..count).map(|at| [1, 0, 2, 3, -1, at as i64][dice.below(6)]).collect();
    let odd = [f64::NAN, f64::INFINITY, 1e30];
    let half = |&whole: &i64| if dice.once_in(20) { odd[dice.below(3)] } else { whole as f64 / 2.0 };
    let floats: Vec<f64> = whole.iter().map(half).collect();
    let data = match dtype {
        DType::Bool => Data::Bool(whole.iter().map(|&item| item > 0).collect()),
        DType::U8 => Data::U8(whole.iter().map(|&item| item as u8).collect()),
        DType::U16 => Data::U16(whole.iter().map(|&item| item as u16).collect()),
        DType::U32 => Data::U32(whole.iter().map(|&item| item as u32).collect()),
        DType::U64 => Data::U64(whole.iter().map(|&item| item as u64).collect()),
        DType::I8 => Data::I8(whole.iter().map(|&item| item as i8).collect()),
        DType::I16 => Data::I16(whole.iter().map(|&item| item as i16).collect()),
        DType::I32 => Data::I32(whole.iter().map(|&item| item as i32).collect()),
        DType::I64 => Data::I64(whole),
        DType::F16 => Data::F16(floats.iter().map(|&item| f16::from_f64(item)).collect()),
        DType::BF16 => Data::BF16(floats.iter().map(|&item| bf16::from_f64(item)).collect()),
        DType::F32 => Data::F32(floats.iter().map(|&item| item as f32).collect()),
        DType::F64 => Data::F64(floats),
        DType::String => Data::String(whole.iter().map(|item| format!("t {item}")).collect()),
        small => {
            let mask = ((1u16 << small.bits()) - 1) as u8;
            Data::Small(small, whole.iter().map(|&item| item as u8 & mask).collect())
        }
    };
    Value::new(shape.to_vec(), data).ok()
}
