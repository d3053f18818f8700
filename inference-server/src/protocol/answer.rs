//! Writes the answers of the protocol: inference, metadata, errors.

use serde::{Serialize, Serializer};
use stoker_graph::{Data, Value, ValueInfo};

use super::raw;
use super::signature::{Signature, declared};
use crate::proto::inference::ModelConfig;
use crate::statistics::Snapshot;

/// The extensions of the protocol that are served, by the names that Triton gave them.
pub const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "model_configuration", "statistics"];

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
     request's inputs; as raw bytes (`binary_data`) it can be sent"
)]
pub struct NotFinite {
    name: String,
    what: &'static str,
    element: usize,
}

/// An output in an answer.
#[derive(Debug)]
pub struct Output<'a> {
    /// What the model declares.
    pub info: &'a ValueInfo,
    /// What it gave.
    pub value: Value,
    /// True when it goes out as raw bytes behind the JSON.
    pub binary: bool,
}

/// An answer to an infer request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The JSON, and the raw bytes behind it.
    pub bytes: Vec<u8>,
    /// The length of the JSON where raw bytes may follow.
    pub json_length: Option<usize>,
}

/// Writes the answer to an infer request. Fails when a value that goes out as JSON holds NaN or an infinity.
pub fn infer(
    model_name: &str,
    model_version: &str,
    id: Option<&str>,
    outputs: &[Output<'_>],
) -> Result<Answer, NotFinite> {
    #[derive(Serialize)]
    struct Json<'a> {
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
        #[serde(skip_serializing_if = "Option::is_none")]
        parameters: Option<Parameters>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Elements<'a>>,
    }
    #[derive(Serialize)]
    struct Parameters {
        binary_data_size: usize,
    }

    let (mut room, mut tail) = (128, 0);
    for Output { info, value, binary } in outputs {
        room += 128 + info.name.len();
        if *binary {
            tail += raw::length(value.data()).unwrap_or(0);
        } else {
            check_finite(info, value.data())?;
            // Most numbers take fewer than 12 characters; a longer answer grows the buffer.
            room += value.data().len() * 12;
        }
    }
    let tensors = outputs
        .iter()
        .map(|Output { info, value, binary }| {
            let size = if *binary { raw::length(value.data()) } else { None };
            Tensor {
                name: &info.name,
                datatype: value.dtype().oip_name(),
                shape: value.shape(),
                parameters: size.map(|binary_data_size| Parameters { binary_data_size }),
                data: size.is_none().then_some(Elements(value.data())),
            }
        })
        .collect();
    let mut bytes = to_json(&Json { model_name, model_version, id, outputs: tensors }, room + tail);
    let json_length = outputs.iter().any(|output| output.binary).then_some(bytes.len());
    for Output { value, .. } in outputs.iter().filter(|output| output.binary) {
        raw::append(value.data(), &mut bytes);
    }
    Ok(Answer { bytes, json_length })
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
        extensions: [&'static str; EXTENSIONS.len()],
    }
    to_json(&Metadata { name: SERVER_NAME, version: SERVER_VERSION, extensions: EXTENSIONS }, 128)
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
        infos
            .iter()
            .map(|info| Tensor {
                name: &info.name,
                datatype: info.dtype.oip_name(),
                shape: declared(&info.shape),
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

/// Writes the configuration of the model.
pub fn model_config(config: &ModelConfig) -> Vec<u8> {
    #[derive(Serialize)]
    struct Config<'a> {
        name: &'a str,
        platform: &'a str,
        backend: &'a str,
        max_batch_size: i32,
        input: Vec<Tensor<'a>>,
        output: Vec<Tensor<'a>>,
    }
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        data_type: &'static str,
        dims: &'a [i64],
    }
    let input = config.input.iter().map(|tensor| Tensor {
        name: &tensor.name,
        data_type: tensor.data_type().as_str_name(),
        dims: &tensor.dims,
    });
    let output = config.output.iter().map(|tensor| Tensor {
        name: &tensor.name,
        data_type: tensor.data_type().as_str_name(),
        dims: &tensor.dims,
    });
    let written = Config {
        name: &config.name,
        platform: &config.platform,
        backend: &config.backend,
        max_batch_size: config.max_batch_size,
        input: input.collect(),
        output: output.collect(),
    };
    to_json(&written, 512)
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

/// The counts of a model.
#[derive(Debug, Serialize)]
pub struct Counted<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What was counted of it.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

/// Writes the counts of models, as the statistics extension has them.
pub fn statistics(models: Vec<Counted<'_>>) -> Vec<u8> {
    #[derive(Serialize)]
    struct All<'a> {
        model_stats: Vec<Counted<'a>>,
    }
    to_json(&All { model_stats: models }, 1024)
}

/// The state of a model in the index of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is served.
    Ready,
    /// It is fetched, loaded or warmed.
    Loading,
    /// It is not served any more.
    Unavailable,
}

impl State {
    /// The extension's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Loading => "LOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A model in the index of the repository.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Its version, as soon as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// How it is.
    pub state: State,
    /// Why it is not ready.
    pub reason: String,
}

/// Writes the index of the repository.
pub fn repository_index(models: &[Entry<'_>]) -> Vec<u8> {
    to_json(&models, 256)
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
            // A request for such an output as JSON is refused when it is read.
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

    fn output(info: &ValueInfo, value: Value, binary: bool) -> Output<'_> {
        Output { info, value, binary }
    }

    /// An answer without raw bytes.
    fn written(id: Option<&str>, outputs: &[Output<'_>]) -> Result<serde_json::Value, NotFinite> {
        infer("m", "0123", id, outputs).map(|answer| {
            assert_eq!(answer.json_length, None);
            serde_json::from_slice(&answer.bytes).unwrap()
        })
    }

    #[test]
    fn answers_have_the_form_of_the_protocol() {
        let label = info("label", DType::I64);
        let value = Value::new(vec![2], Data::I64(vec![3, -4])).unwrap();
        let wanted = serde_json::json!({"model_name": "m", "model_version": "0123", "id": "a\"b", "outputs":
            [{"name": "label", "datatype": "INT64", "shape": [2], "data": [3, -4]}]});
        assert_eq!(written(Some("a\"b"), &[output(&label, value, false)]), Ok(wanted));
        assert_eq!(written(None, &[]).unwrap().get("id"), None);
    }

    #[test]
    fn raw_bytes_stand_behind_the_json_in_the_order_of_the_outputs() {
        let (label, score, text) =
            (info("label", DType::I32), info("score", DType::F32), info("text", DType::String));
        let value = |data| Value::new(vec![1], data).unwrap();
        let outputs = [
            output(&text, value(Data::String(vec!["a".to_owned()])), true),
            output(&label, value(Data::I32(vec![-2])), false),
            // What JSON has no number for is carried.
            output(&score, value(Data::F32(vec![f32::NEG_INFINITY])), true),
        ];
        let answer = infer("m", "0123", None, &outputs).unwrap();
        let (json, tail) = answer.bytes.split_at(answer.json_length.unwrap());
        let wanted = serde_json::json!({"model_name": "m", "model_version": "0123", "outputs": [
            {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
            {"name": "label", "datatype": "INT32", "shape": [1], "data": [-2]},
            {"name": "score", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(json).unwrap(), wanted);
        assert_eq!(tail, [1, 0, 0, 0, b'a', 0, 0, 0x80, 0xff]);
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
        let scores = info("scores", DType::F32);
        for (bad, part) in
            [(f32::NAN, "`scores` has NaN at element 1"), (f32::INFINITY, "`scores` has an infinity")]
        {
            let value = Value::new(vec![2], Data::F32(vec![0.0, bad])).unwrap();
            let message = written(None, &[output(&scores, value, false)]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_index_lists_models_with_their_states() {
        let entry = |name, version, state| Entry { name, version, state, reason: "why".to_owned() };
        let index = |entries: &[Entry<'_>]| -> serde_json::Value {
            serde_json::from_slice(&repository_index(entries)).unwrap()
        };
        let ready = serde_json::json!({"name": "m", "version": "v", "state": "READY", "reason": "why"});
        let loading = serde_json::json!({"name": "n", "state": "LOADING", "reason": "why"});
        let both = [entry("m", Some("v"), State::Ready), entry("n", None, State::Loading)];
        assert_eq!(index(&both), serde_json::json!([ready, loading]));
        assert_eq!(index(&[]), serde_json::json!([]));
        assert_eq!(index(&[entry("m", None, State::Unavailable)])[0]["state"], "UNAVAILABLE");
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
