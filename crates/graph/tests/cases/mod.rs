//! Golden cases as `e2e/models/golden_cases.py` writes them.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "what a helper of a test cannot do is a failed test"
)]

use serde_json::Value as Json;
use stoker_graph::{DType, Data, Value};

/// True where all elements are near each other.
pub fn close(actual: &Data, expected: &Data, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance + tolerance * b.abs()
    };
    match (actual, expected) {
        (Data::F32(a), Data::F32(b)) => a.iter().zip(b).all(|(&a, &b)| near(a.into(), b.into())),
        (Data::F64(a), Data::F64(b)) => a.iter().zip(b).all(|(&a, &b)| near(a, b)),
        _ => actual == expected,
    }
}

/// The tensors of a case, with their names.
pub fn tensors(list: &Json) -> Vec<(String, Value)> {
    list.as_array().unwrap().iter().map(tensor).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the file holds numbers of the declared type")]
fn tensor(json: &Json) -> (String, Value) {
    let items = json["data"].as_array().unwrap();
    let float = |x: &Json| match x {
        Json::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    };
    let whole = |x: &Json| x.as_i64().unwrap();
    let data = match DType::from_oip_name(json["dtype"].as_str().unwrap()).unwrap() {
        DType::Bool => Data::Bool(items.iter().map(|x| x.as_bool().unwrap()).collect()),
        DType::U8 => Data::U8(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I8 => Data::I8(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I32 => Data::I32(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I64 => Data::I64(items.iter().map(whole).collect()),
        DType::F32 => Data::F32(items.iter().map(|x| float(x) as f32).collect()),
        DType::F64 => Data::F64(items.iter().map(float).collect()),
        DType::String => Data::String(items.iter().map(|x| x.as_str().unwrap().to_owned()).collect()),
        other => unreachable!("no fixture holds {other}"),
    };
    let shape = json["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap().try_into().unwrap());
    (json["name"].as_str().unwrap().to_owned(), Value::new(shape.collect(), data).unwrap())
}
