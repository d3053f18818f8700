//! Writes the answers of the protocol: inference, metadata, errors.

use serde::{Serialize, Serializer};
use stoker_graph::{Data, Value, ValueInfo};

use super::signature::Signature;

/// The name of this program, in metadata.
pub const SERVER_NAME: &str = "stoker-server";
/// Its version.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The format of the model and what runs it.
pub const PLATFORM: &str = "onnx_burn";

/// An output that JSON cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "output `{name}` has {what} at element {element}, and JSON has no such number; the model computed it from this \
     request's inputs"
)]
pub struct NotFinite {
    name: String,
    what: &'static str,
    element: usize,
}

/// Writes the answer to an infer request.
///
/// `outputs` pairs the declared output with its value. Fails when a value holds NaN or an infinity.
pub fn infer(
    model_name: &str,
    model_version: &str,
    id: Option<&str>,
    outputs: &[(&ValueInfo, Value)],
) -> Result<Vec<u8>, NotFinite> {
    #[derive(Serialize)]
    struct Answer<'a> {
        model_name: &'a str,
        model_version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        outputs: Vec<Tensor<'a>>,
    }
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: &'a [usize],
        data: Elements<'a>,
    }

    let mut room = 128;
    for (info, value) in outputs {
        check_finite(info, value.data())?;
        // Most numbers take fewer than 12 characters; a longer answer grows the buffer.
        room += 64 + info.name.len() + value.data().len() * 12;
    }
    let outputs = outputs
        .iter()
        .map(|(info, value)| Tensor {
            name: &info.name,
            datatype: value.dtype().oip_name(),
            shape: value.shape(),
            data: Elements(value.data()),
        })
        .collect();
    Ok(to_json(&Answer { model_name, model_version, id, outputs }, room))
}

/// Writes `{"error": message}`.
pub fn error(message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Problem<'a> {
        error: &'a str,
    }
    to_json(&Problem { error: message }, message.len() + 16)
}

/// Writes the metadata of the server.
pub fn server_metadata() -> Vec<u8> {
    #[derive(Serialize)]
    struct Metadata {
        name: &'static str,
        version: &'static str,
        extensions: [&'static str; 0],
    }
    to_json(&Metadata { name: SERVER_NAME, version: SERVER_VERSION, extensions: [] }, 128)
}

/// Writes the metadata of the model.
pub fn model_metadata(name: &str, version: &str, signature: &Signature) -> Vec<u8> {
    #[derive(Serialize)]
    struct Metadata<'a> {
        name: &'a str,
        versions: [&'a str; 1],
        platform: &'static str,
        inputs: Vec<Tensor<'a>>,
        outputs: Vec<Tensor<'a>>,
    }
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: Vec<i64>,
    }
    fn tensors(infos: &[ValueInfo]) -> Vec<Tensor<'_>> {
        let length =
            |length: &Option<usize>| length.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX));
        infos
            .iter()
            .map(|info| Tensor {
                name: &info.name,
                datatype: info.dtype.oip_name(),
                shape: info.shape.iter().map(length).collect(),
            })
            .collect()
    }
    let metadata = Metadata {
        name,
        versions: [version],
        platform: PLATFORM,
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    };
    to_json(&metadata, 512)
}

/// Writes readiness of the model.
pub fn model_ready(name: &str, ready: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Ready<'a> {
        name: &'a str,
        ready: bool,
    }
    to_json(&Ready { name, ready }, 64)
}

/// The first number that JSON cannot carry, as an error.
fn check_finite(info: &ValueInfo, data: &Data) -> Result<(), NotFinite> {
    let found = match data {
        Data::F32(items) => items.iter().position(|item| !item.is_finite()).map(|i| (i, items[i].is_nan())),
        Data::F64(items) => items.iter().position(|item| !item.is_finite()).map(|i| (i, items[i].is_nan())),
        _ => None,
    };
    match found {
        None => Ok(()),
        Some((element, nan)) => {
            let what = if nan { "NaN" } else { "an infinity" };
            Err(NotFinite { name: info.name.clone(), what, element })
        }
    }
}

/// Elements as a flat JSON array.
struct Elements<'a>(&'a Data);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Data::Bool(items) => items.serialize(serializer),
            Data::U8(items) => items.serialize(serializer),
            Data::U16(items) => items.serialize(serializer),
            Data::U32(items) => items.serialize(serializer),
            Data::U64(items) => items.serialize(serializer),
            Data::I8(items) => items.serialize(serializer),
            Data::I16(items) => items.serialize(serializer),
            Data::I32(items) => items.serialize(serializer),
            Data::I64(items) => items.serialize(serializer),
            Data::F32(items) => items.serialize(serializer),
            Data::F64(items) => items.serialize(serializer),
            Data::String(items) => items.serialize(serializer),
            // A model with such an output is refused when it is loaded.
            other => Err(serde::ser::Error::custom(format!("{} cannot be sent as JSON", other.dtype()))),
        }
    }
}

/// JSON text. The types above have string keys only and write to memory, so it cannot fail; were it to, the client
/// would read an error and not a torn object.
fn to_json(value: &impl Serialize, room: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(room);
    match serde_json::to_writer(&mut text, value) {
        Ok(()) => text,
        Err(_) => br#"{"error":"the answer could not be written"}"#.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use stoker_graph::DType;

    use super::*;

    fn info(name: &str, dtype: DType) -> ValueInfo {
        ValueInfo::tensor(name, dtype, vec![None])
    }

    fn written(id: Option<&str>, outputs: &[(&ValueInfo, Value)]) -> Result<serde_json::Value, NotFinite> {
        infer("m", "0123", id, outputs).map(|text| serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn answers_have_the_form_of_the_protocol() {
        let label = info("label", DType::I64);
        let value = Value::new(vec![2], Data::I64(vec![3, -4])).unwrap();
        let wanted = serde_json::json!({"model_name": "m", "model_version": "0123", "id": "a\"b", "outputs":
            [{"name": "label", "datatype": "INT64", "shape": [2], "data": [3, -4]}]});
        assert_eq!(written(Some("a\"b"), &[(&label, value)]), Ok(wanted));
        assert_eq!(written(None, &[]).unwrap().get("id"), None);
    }

    #[test]
    fn every_type_is_written() {
        let cases = [
            (Data::Bool(vec![true, false]), "[true,false]"),
            (Data::U8(vec![255]), "[255]"),
            (Data::I8(vec![-128]), "[-128]"),
            (Data::I32(vec![i32::MIN]), "[-2147483648]"),
            (Data::I64(vec![i64::MAX]), "[9223372036854775807]"),
            (Data::F64(vec![0.1, 1e300]), "[0.1,1e+300]"),
            (Data::String(vec!["a\n".to_owned()]), r#"["a\n"]"#),
        ];
        for (data, text) in cases {
            assert_eq!(serde_json::to_string(&Elements(&data)).unwrap(), text);
        }
        // The shortest text that reads back as the same FP32, not as FP64.
        assert_eq!(serde_json::to_string(&Elements(&Data::F32(vec![0.1]))).unwrap(), "[0.1]");
    }

    #[test]
    fn numbers_that_json_cannot_carry_are_an_error_that_names_the_output() {
        let output = info("scores", DType::F32);
        for (bad, part) in
            [(f32::NAN, "`scores` has NaN at element 1"), (f32::INFINITY, "`scores` has an infinity")]
        {
            let value = Value::new(vec![2], Data::F32(vec![0.0, bad])).unwrap();
            let message = written(None, &[(&output, value)]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn errors_are_escaped() {
        assert_eq!(error("no \"x\"\n"), br#"{"error":"no \"x\"\n"}"#);
    }

    #[test]
    fn metadata_writes_free_dimensions_as_minus_one() {
        let input = ValueInfo::tensor("x", DType::F32, vec![None, Some(64)]);
        let signature = Signature { inputs: vec![input], outputs: vec![], batch_axis: true };
        let text: serde_json::Value = serde_json::from_slice(&model_metadata("m", "v", &signature)).unwrap();
        let wanted = serde_json::json!({"name": "m", "versions": ["v"], "platform": "onnx_burn", "outputs": [],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]});
        assert_eq!(text, wanted);
    }
}
