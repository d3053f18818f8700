//! Tensors as `e2e/models/golden_cases.py` and `fuzz/peer.py` write them.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

use half::f16;
use serde_json::Value as Json;
use stoker_graph::{DType, Data, Value};

/// The tensors of a list, with their names.
pub fn tensors(list: &Json) -> Vec<(String, Value)> {
    list.as_array().unwrap().iter().map(tensor).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the file holds numbers of the declared type")]
fn tensor(json: &Json) -> (String, Value) {
    let items = json["data"].as_array().unwrap();
    // JSON has no number for what is not finite.
    let float = |x: &Json| match x {
        Json::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    };
    let whole = |x: &Json| x.as_i64().map(i128::from).or(x.as_u64().map(i128::from)).unwrap();
    macro_rules! whole {
        ($variant:ident) => {
            Data::$variant(items.iter().map(|x| whole(x).try_into().unwrap()).collect())
        };
    }
    let data = match DType::from_oip_name(json["dtype"].as_str().unwrap()).unwrap() {
        DType::Bool => Data::Bool(items.iter().map(|x| x.as_bool().unwrap()).collect()),
        DType::U8 => whole!(U8),
        DType::U16 => whole!(U16),
        DType::U32 => whole!(U32),
        DType::U64 => whole!(U64),
        DType::I8 => whole!(I8),
        DType::I16 => whole!(I16),
        DType::I32 => whole!(I32),
        DType::I64 => whole!(I64),
        DType::F16 => Data::F16(items.iter().map(|x| f16::from_f64(float(x))).collect()),
        DType::F32 => Data::F32(items.iter().map(|x| float(x) as f32).collect()),
        DType::F64 => Data::F64(items.iter().map(float).collect()),
        DType::String => Data::String(items.iter().map(|x| x.as_str().unwrap().to_owned()).collect()),
        other => unreachable!("no case holds {other}"),
    };
    let shape = json["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap().try_into().unwrap());
    (json["name"].as_str().unwrap().to_owned(), Value::new(shape.collect(), data).unwrap())
}
