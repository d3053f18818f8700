//! Tensors as the Open Inference Protocol writes them: `{"shape": [2], "datatype": "FP32", "data": [1, 2]}`.

use anyhow::{Context, Result, bail};
use half::{bf16, f16};
use serde_json::Value as Json;
use stoker_graph::{DType, Data, Value};

/// Reads a tensor. Its data may be flat, or nested as the shape says.
pub fn read(bytes: &[u8]) -> Result<Value> {
    let json: Json = serde_json::from_slice(bytes).context("it is not JSON")?;
    let field = |name: &str| json.get(name).with_context(|| format!("the field `{name}` is missing"));
    let shape = field("shape")?.as_array().context("`shape` is no list")?;
    let length = |item: &Json| {
        item.as_u64()
            .and_then(|length| usize::try_from(length).ok())
            .with_context(|| format!("`shape` has {item}"))
    };
    let shape: Vec<usize> = shape.iter().map(length).collect::<Result<_>>()?;
    let name = field("datatype")?.as_str().context("`datatype` is no text")?;
    let dtype = DType::from_oip_name(name).with_context(|| format!("there is no datatype `{name}`"))?;
    let mut items = Vec::new();
    flatten(field("data")?, &mut items);
    Ok(Value::new(shape, data(dtype, &items)?)?)
}

/// The elements in their order, whatever lists they are in. The parser bounds how deep they are.
fn flatten<'a>(json: &'a Json, items: &mut Vec<&'a Json>) {
    match json {
        Json::Array(list) => list.iter().for_each(|item| flatten(item, items)),
        item => items.push(item),
    }
}

fn data(dtype: DType, items: &[&Json]) -> Result<Data> {
    Ok(match dtype {
        DType::Bool => Data::Bool(each(items, "a truth value", Json::as_bool)?),
        DType::U8 => Data::U8(each(items, "an integer of 8 bits", unsigned)?),
        DType::U16 => Data::U16(each(items, "an integer of 16 bits", unsigned)?),
        DType::U32 => Data::U32(each(items, "an integer of 32 bits", unsigned)?),
        DType::U64 => Data::U64(each(items, "an integer of 64 bits", unsigned)?),
        DType::I8 => Data::I8(each(items, "an integer of 8 bits", signed)?),
        DType::I16 => Data::I16(each(items, "an integer of 16 bits", signed)?),
        DType::I32 => Data::I32(each(items, "an integer of 32 bits", signed)?),
        DType::I64 => Data::I64(each(items, "an integer of 64 bits", signed)?),
        DType::F16 => Data::F16(each(items, "a number", |item| number(item).map(f16::from_f64))?),
        DType::BF16 => Data::BF16(each(items, "a number", |item| number(item).map(bf16::from_f64))?),
        DType::F32 => Data::F32(each(items, "a number", |item| number(item).map(narrow))?),
        DType::F64 => Data::F64(each(items, "a number", number)?),
        DType::String => Data::String(each(items, "a text", |item| item.as_str().map(str::to_owned))?),
        other => bail!("{other} cannot be read from JSON; give a .npy or .pb file"),
    })
}

/// Each element as `convert` reads it; the error names the first that is not `what`.
fn each<T>(items: &[&Json], what: &str, convert: impl Fn(&Json) -> Option<T>) -> Result<Vec<T>> {
    let one = |(at, &item): (usize, &&Json)| {
        convert(item).with_context(|| format!("element {at} is {item}, where {what} is needed"))
    };
    items.iter().enumerate().map(one).collect()
}

fn unsigned<T: TryFrom<u64>>(item: &Json) -> Option<T> {
    T::try_from(item.as_u64()?).ok()
}

fn signed<T: TryFrom<i64>>(item: &Json) -> Option<T> {
    T::try_from(item.as_i64()?).ok()
}

/// A number. JSON has none for infinities and NaN: they are written as text.
fn number(item: &Json) -> Option<f64> {
    match item.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => item.as_f64(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a number is rounded to the type that the file declares")]
fn narrow(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_may_be_flat_or_nested() {
        let flat =
            read(br#"{"shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, "NaN", "-Infinity"]}"#).unwrap();
        let Data::F32(items) = flat.data() else { panic!("{flat:?}") };
        assert_eq!((items[1], items[2].is_nan(), items[3]), (2.5, true, f32::NEG_INFINITY));
        let nested = read(br#"{"shape": [2, 1], "datatype": "BYTES", "data": [["a"], ["b"]]}"#).unwrap();
        assert_eq!(nested.data(), &Data::String(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn errors_say_which_element_is_wrong() {
        let error = |text: &str| format!("{:#}", read(text.as_bytes()).unwrap_err());
        assert!(
            error(r#"{"shape": [2], "datatype": "UINT8", "data": [1, 256]}"#).contains("element 1 is 256")
        );
        assert!(error(r#"{"shape": [2], "datatype": "UINT8", "data": [1]}"#).contains("needs 2 elements"));
        assert!(error(r#"{"shape": [-1], "datatype": "UINT8", "data": []}"#).contains("`shape` has -1"));
        assert!(error(r#"{"shape": [1], "datatype": "INT", "data": [1]}"#).contains("no datatype `INT`"));
        assert!(error(r#"{"shape": [1], "data": [1]}"#).contains("`datatype` is missing"));
    }
}
