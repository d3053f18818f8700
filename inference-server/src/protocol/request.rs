//! Reads the body of an infer request and checks it against what the model declares.
//!
//! Members may come in any order and unknown ones are ignored, as the protocol says. Messages name the input, what
//! was expected and what came.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use stoker_graph::{DType, Data, Value, ValueInfo};

use super::data::{Elements, Nesting};
use super::signature::{Signature, admits, has_json, shape_text};
use crate::cache::Directives;

/// The longest part of a stranger's name that a message repeats.
const NAME_IN_MESSAGES: usize = 80;

/// An infer request that fits the model.
#[derive(Debug, Default, PartialEq)]
pub struct InferRequest {
    /// Echoed in the answer.
    pub id: Option<String>,
    /// One value for each input of the signature, in its order.
    pub inputs: Vec<Value>,
    /// Positions in the signature of the outputs that the client wants, in the client's order.
    pub outputs: Vec<usize>,
    /// How it is served when others wait: 1 first, then 2, and so on. 0 is as if it said nothing.
    pub priority: u32,
    /// How long its client waits for the answer, where it says so.
    pub timeout: Option<Duration>,
    /// What it lets the cache do. Headers say it, and not the body.
    pub cache: Directives,
}

/// Why a body is not a request that the model can answer. All of them are the client's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON, or not of the protocol's form.
    #[error("the body is not an infer request: {reason}{hint}")]
    Malformed {
        /// What the parser said, with line and column.
        reason: String,
        /// What to do about it, where that is known; else empty.
        hint: &'static str,
    },
    /// The model has no such input.
    #[error("the model has no input `{name}`; its inputs are {known}")]
    UnknownInput {
        /// What came.
        name: String,
        /// What there is.
        known: String,
    },
    /// An input came twice.
    #[error("input `{name}` is given more than once")]
    DuplicateInput {
        /// The input.
        name: String,
    },
    /// An input is not there.
    #[error("input `{name}` ({datatype} {shape}) is missing")]
    MissingInput {
        /// The input.
        name: String,
        /// Its declared datatype.
        datatype: DType,
        /// Its declared shape.
        shape: String,
    },
    /// An input has another datatype than the model declares.
    #[error("input `{name}` must have the datatype {expected}, but has {actual}")]
    Datatype {
        /// The input.
        name: String,
        /// The declared datatype.
        expected: DType,
        /// What came.
        actual: String,
    },
    /// An input has a shape that the model does not take.
    #[error("input `{name}` must have the shape {expected}, but has {actual}")]
    Shape {
        /// The input.
        name: String,
        /// The declared shape; -1 is free.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The elements of an input cannot be read.
    #[error("input `{name}`: {reason}")]
    Elements {
        /// The input.
        name: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The shape and the number or nesting of the elements differ.
    #[error("input `{name}` has the shape {shape}, which takes {expected}, but `data` has {actual}")]
    Count {
        /// The input.
        name: String,
        /// The shape that the request gives.
        shape: String,
        /// What that shape needs.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The model has no such output, or it is asked for twice.
    #[error("`outputs` asks for `{name}`, which is {problem}; the model's outputs are {known}")]
    Output {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What there is.
        known: String,
    },
}

/// Reads a request.
pub fn parse(body: &[u8], signature: &Signature) -> Result<InferRequest, RequestError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let raw = Body
        .deserialize(&mut deserializer)
        .and_then(|raw| deserializer.end().map(|()| raw))
        .map_err(|error| malformed(body, &error))?;
    Ok(InferRequest {
        inputs: match_inputs(raw.inputs, signature)?,
        outputs: select_outputs(raw.outputs, signature)?,
        id: raw.id,
        priority: 0,
        timeout: None,
        cache: Directives::default(),
    })
}

/// One value for each declared input, in the declared order.
fn match_inputs(tensors: Vec<RawTensor<'_>>, signature: &Signature) -> Result<Vec<Value>, RequestError> {
    let declared = &signature.inputs;
    let mut values: Vec<Option<Value>> = declared.iter().map(|_| None).collect();
    for tensor in tensors {
        let Some(position) = declared.iter().position(|info| info.name == tensor.name) else {
            return Err(RequestError::UnknownInput { name: shortened(&tensor.name), known: names(declared) });
        };
        if values[position].is_some() {
            return Err(RequestError::DuplicateInput { name: shortened(&tensor.name) });
        }
        values[position] = Some(check_tensor(tensor, &declared[position])?);
    }
    let missing = |info: &ValueInfo| RequestError::MissingInput {
        name: info.name.clone(),
        datatype: info.dtype,
        shape: shape_text(&info.shape),
    };
    values.into_iter().zip(declared).map(|(value, info)| value.ok_or_else(|| missing(info))).collect()
}

/// Positions of the outputs that are wanted; all of them when the request names none.
fn select_outputs(wanted: Option<Vec<RawOutput>>, signature: &Signature) -> Result<Vec<usize>, RequestError> {
    let known = &signature.outputs;
    let wanted = wanted.unwrap_or_default();
    if wanted.is_empty() {
        return Ok((0..known.len()).collect());
    }
    let mut positions = Vec::with_capacity(known.len());
    for output in wanted {
        let error =
            |problem| RequestError::Output { name: shortened(&output.name), problem, known: names(known) };
        let position =
            known.iter().position(|info| info.name == output.name).ok_or_else(|| error("not one of them"))?;
        if positions.contains(&position) {
            return Err(error("asked for twice"));
        }
        positions.push(position);
    }
    Ok(positions)
}

/// A tensor as a value, when datatype, shape and elements agree with each other and with the declaration.
fn check_tensor(tensor: RawTensor<'_>, info: &ValueInfo) -> Result<Value, RequestError> {
    let name = || info.name.clone();
    if tensor.datatype != info.dtype.oip_name() {
        let actual = shortened(&tensor.datatype);
        return Err(RequestError::Datatype { name: name(), expected: info.dtype, actual });
    }
    if !admits(&info.shape, &tensor.shape) {
        return Err(RequestError::Shape {
            name: name(),
            expected: shape_text(&info.shape),
            actual: lengths_text(&tensor.shape),
        });
    }
    let (data, nesting) = match tensor.data {
        RawData::Read(data, nesting) => (data, nesting),
        RawData::Text(text) => Elements(info.dtype).deserialize(text).map_err(|error| {
            RequestError::Elements { name: name(), reason: format!("{error} of its data") }
        })?,
    };
    let nested = nesting.shape();
    let count = |expected: String, actual: String| RequestError::Count {
        name: name(),
        shape: lengths_text(&tensor.shape),
        expected,
        actual,
    };
    if nested.len() > 1 && nested != tensor.shape {
        return Err(count("as many arrays".to_owned(), format!("the nesting {}", lengths_text(&nested))));
    }
    let actual = data.len();
    // The only ways to fail are a product that does not fit and one that differs from the number of elements.
    let expected = tensor.shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    Value::new(tensor.shape.clone(), data).map_err(|_| {
        let expected = expected.map_or_else(|| "too many elements".to_owned(), |n| format!("{n} elements"));
        count(expected, actual.to_string())
    })
}

/// `a` and `b` in backticks, for messages.
fn names(infos: &[ValueInfo]) -> String {
    let names: Vec<_> = infos.iter().map(|info| format!("`{}`", info.name)).collect();
    names.join(", ")
}

/// A stranger's text, cut to what a message can bear.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_IN_MESSAGES) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

/// A shape that a request gives, cut to what a message can bear.
fn lengths_text(shape: &[usize]) -> String {
    const SHOWN: usize = 12;
    if shape.len() <= SHOWN {
        return format!("{shape:?}");
    }
    format!("{} dimensions", shape.len())
}

/// What the parser said, and a hint where the text at the place of the error is one of the usual suspects.
fn malformed(body: &[u8], error: &serde_json::Error) -> RequestError {
    let line_start = body
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    let place = line_start + error.column();
    // The parser stops at the first or second letter of a token that it does not know.
    let around = &body[place.saturating_sub(3).min(body.len())..(place + 9).min(body.len())];
    let around = String::from_utf8_lossy(around).to_ascii_lowercase();
    let not_a_number =
        (error.is_syntax() || error.is_eof()) && (around.contains("nan") || around.contains("inf"));
    let hint = if body.is_empty() {
        "; the body is empty"
    } else if not_a_number {
        "; JSON has no NaN and no infinity: replace them before you send"
    } else {
        ""
    };
    RequestError::Malformed { reason: error.to_string(), hint }
}

/// A request as it stands in the body.
struct RawBody<'de> {
    id: Option<String>,
    inputs: Vec<RawTensor<'de>>,
    outputs: Option<Vec<RawOutput>>,
}

/// One entry of `inputs`.
struct RawTensor<'de> {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: RawData<'de>,
}

/// The elements: read already, or left as text because `data` came before `datatype`.
enum RawData<'de> {
    Read(Data, Nesting),
    Text(&'de RawValue),
}

/// One entry of `outputs`. Its parameters are tolerated.
#[derive(Deserialize)]
struct RawOutput {
    name: String,
}

/// Reads the outer object.
struct Body;

impl<'de> DeserializeSeed<'de> for Body {
    type Value = RawBody<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body {
    type Value = RawBody<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut id, mut inputs, mut outputs) = (None, None, None);
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Id => id = map.next_value()?,
                Key::Inputs => inputs = Some(map.next_value_seed(Tensors)?),
                Key::Outputs => outputs = map.next_value()?,
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let inputs = inputs.ok_or_else(|| A::Error::missing_field("inputs"))?;
        Ok(RawBody { id, inputs, outputs })
    }
}

/// The members of the outer object that matter here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Id,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

/// Reads `inputs`.
struct Tensors;

impl<'de> DeserializeSeed<'de> for Tensors {
    type Value = Vec<RawTensor<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Tensors {
    type Value = Vec<RawTensor<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(tensor) = entries.next_element_seed(Tensor)? {
            tensors.push(tensor);
        }
        Ok(tensors)
    }
}

/// Reads one tensor.
struct Tensor;

impl<'de> DeserializeSeed<'de> for Tensor {
    type Value = RawTensor<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// The members of a tensor that matter here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TensorKey {
    Name,
    Datatype,
    Shape,
    Data,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for Tensor {
    type Value = RawTensor<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a tensor: an object with `name`, `shape`, `datatype` and `data`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut name, mut datatype, mut shape, mut data) = (None, None::<String>, None, None);
        while let Some(key) = map.next_key::<TensorKey>()? {
            match key {
                TensorKey::Name => name = Some(map.next_value::<String>()?),
                TensorKey::Datatype => datatype = Some(map.next_value()?),
                TensorKey::Shape => shape = Some(map.next_value()?),
                TensorKey::Data => {
                    // A datatype that is not known, or that JSON has no form for, is refused later, by name, against
                    // what the model declares.
                    let known = datatype.as_deref().and_then(DType::from_oip_name);
                    data = Some(match known.filter(|&dtype| has_json(dtype)) {
                        Some(dtype) => {
                            let (data, nesting) = map.next_value_seed(Elements(dtype))?;
                            RawData::Read(data, nesting)
                        }
                        None => RawData::Text(map.next_value()?),
                    });
                }
                TensorKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let missing = A::Error::missing_field;
        Ok(RawTensor {
            name: name.ok_or_else(|| missing("name"))?,
            datatype: datatype.ok_or_else(|| missing("datatype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            data: data.ok_or_else(|| missing("data"))?,
        })
    }
}

#[cfg(test)]
#[path = "request/tests.rs"]
mod tests;
