//! Reads the body of an infer request and checks it against what the model declares.
//!
//! Members may come in any order and unknown ones are ignored, as the protocol says. Messages name the input, what
//! was expected and what came.

mod body;
mod plain;

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::de::DeserializeSeed;
use stoker_graph::{DType, Data, Value, ValueInfo};

use super::binary::Tail;
use super::data::{Elements, numbers};
use super::parameters::{Object, ParameterError};
use super::raw::{self, RawError};
use super::signature::{Signature, admits, has_json, shape_text};
use crate::batch::Held;
use crate::cache::Directives;
use body::{RawBody, RawData, RawOutput, RawTensor};

/// The longest part of a stranger's name that a message repeats.
const NAME_IN_MESSAGES: usize = 80;
/// Most names of a model that a message lists.
const NAMES_IN_MESSAGES: usize = 12;
/// The longest part of what a parser said that a message repeats, in bytes: it quotes the request.
const REASON_IN_MESSAGES: usize = 300;

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
    /// What lives for as long as it is in work.
    pub held: Held,
}

/// A request over HTTP: what it asks, and in which form it wants the answer.
#[derive(Debug, PartialEq)]
pub struct Asked {
    /// What it asks.
    pub request: InferRequest,
    /// For each output of the signature, in its order: true when it is wanted as raw bytes.
    pub binary: Vec<bool>,
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
    /// A parameter is wrong, or asks for what is not served.
    #[error("{place}{error}")]
    Parameter {
        /// What it is a parameter of, with what joins that to the rest; empty for the request itself.
        place: String,
        /// Which parameter, and what is wrong with it.
        error: ParameterError,
    },
    /// The raw bytes of an input are not a tensor of its type and shape.
    #[error("input `{name}` {error}")]
    Raw {
        /// The input.
        name: String,
        /// What is wrong with them.
        error: RawError,
    },
    /// JSON and raw bytes do not fit together.
    #[error("{reason}")]
    Binary {
        /// What does not fit, and what to do.
        reason: String,
    },
    /// JSON has no form for an output.
    #[error(
        "output `{name}` is {datatype}, which JSON has no form for: ask for it as raw bytes, with the parameter \
         `binary_data` of the output or `binary_data_output` of the request"
    )]
    OutputForm {
        /// The output.
        name: String,
        /// Its datatype.
        datatype: DType,
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

/// Reads a request: its JSON, and the raw bytes that came behind it.
pub fn parse(json: &[u8], tail: &[u8], signature: &Signature) -> Result<Asked, RequestError> {
    let raw = match plain::read(json) {
        Some(raw) => raw,
        None => body::read(json).map_err(|error| malformed(json, &error))?,
    };
    asked(raw, tail, signature)
}

/// What a request means.
fn asked(raw: RawBody<'_>, tail: &[u8], signature: &Signature) -> Result<Asked, RequestError> {
    let parameters = of_place(raw.parameters, String::new)?;
    let (outputs, binary) =
        select_outputs(raw.outputs.unwrap_or_default(), parameters.binary_data_output, signature)?;
    let request = InferRequest {
        inputs: match_inputs(raw.inputs, tail, signature)?,
        outputs,
        id: raw.id,
        priority: parameters.priority,
        timeout: parameters.timeout,
        cache: Directives::default(),
        held: Held::default(),
    };
    Ok(Asked { request, binary })
}

/// The parameters of a place, which messages name.
fn of_place<P>(parameters: Object<P>, place: impl Fn() -> String) -> Result<P, RequestError> {
    parameters.0.map_err(|error| RequestError::Parameter { place: place(), error })
}

/// One value for each declared input, in the declared order.
fn match_inputs(
    tensors: Vec<RawTensor<'_>>,
    tail: &[u8],
    signature: &Signature,
) -> Result<Vec<Value>, RequestError> {
    let mut tail = Tail::new(tail);
    let mut inputs = Inputs::new(signature);
    for RawTensor { name, datatype, shape, parameters, data } in tensors {
        inputs.add(&name, &datatype, &shape, |info, shape| {
            let parameters = of_place(parameters, || format!("input `{}`: ", info.name))?;
            value_of(info, shape, data, tail.take(&info.name, &parameters)?)
        })?;
    }
    tail.finish()?;
    inputs.finish()
}

/// The inputs of a request, of whatever transport: checked against the signature as they come, and put in its order.
pub struct Inputs<'a> {
    declared: &'a [ValueInfo],
    values: Vec<Option<Value>>,
}

impl<'a> Inputs<'a> {
    /// None of the inputs yet.
    pub fn new(signature: &'a Signature) -> Self {
        Self { declared: &signature.inputs, values: signature.inputs.iter().map(|_| None).collect() }
    }

    /// Adds a tensor, when its name, datatype and shape are those of an input that has not come yet. `read` makes the
    /// value: it is given what is declared and the shape, and called for such a tensor only.
    pub fn add(
        &mut self,
        name: &str,
        datatype: &str,
        shape: &[usize],
        read: impl FnOnce(&ValueInfo, &[usize]) -> Result<Value, RequestError>,
    ) -> Result<(), RequestError> {
        let mut slots = self.declared.iter().zip(&mut self.values);
        let Some((info, slot)) = slots.find(|(info, _)| info.name == name) else {
            return Err(RequestError::UnknownInput { name: shortened(name), known: names(self.declared) });
        };
        if slot.is_some() {
            return Err(RequestError::DuplicateInput { name: shortened(name) });
        }
        if datatype != info.dtype.oip_name() {
            let actual = shortened(datatype);
            return Err(RequestError::Datatype { name: info.name.clone(), expected: info.dtype, actual });
        }
        if !admits(&info.shape, shape) {
            return Err(RequestError::Shape {
                name: info.name.clone(),
                expected: shape_text(&info.shape),
                actual: lengths_text(shape),
            });
        }
        *slot = Some(read(info, shape)?);
        Ok(())
    }

    /// One value for each declared input, in the declared order.
    pub fn finish(self) -> Result<Vec<Value>, RequestError> {
        let missing = |info: &ValueInfo| RequestError::MissingInput {
            name: info.name.clone(),
            datatype: info.dtype,
            shape: shape_text(&info.shape),
        };
        self.values
            .into_iter()
            .zip(self.declared)
            .map(|(value, info)| value.ok_or_else(|| missing(info)))
            .collect()
    }
}

/// Positions of the outputs that are wanted; all of them when the request names none. And for each output of the
/// signature whether it is wanted as raw bytes: as it says itself, else as the request does.
fn select_outputs(
    wanted: Vec<RawOutput>,
    binary_by_default: bool,
    signature: &Signature,
) -> Result<(Vec<usize>, Vec<bool>), RequestError> {
    let known = &signature.outputs;
    let positions = outputs_named(wanted.iter().map(|output| output.name.as_str()), signature)?;
    let mut binary = vec![binary_by_default; known.len()];
    for (output, position) in wanted.into_iter().zip(&positions) {
        let parameters = of_place(output.parameters, || format!("output `{}`: ", known[*position].name))?;
        if let Some(own) = parameters.binary_data {
            binary[*position] = own;
        }
    }
    match positions
        .iter()
        .map(|position| (&known[*position], binary[*position]))
        .find(|(info, binary)| !binary && !has_json(info.dtype))
    {
        Some((info, _)) => Err(RequestError::OutputForm { name: info.name.clone(), datatype: info.dtype }),
        None => Ok((positions, binary)),
    }
}

/// Positions of the outputs of these names; of all outputs when there is no name.
pub fn outputs_named<'a>(
    wanted: impl Iterator<Item = &'a str>,
    signature: &Signature,
) -> Result<Vec<usize>, RequestError> {
    let known = &signature.outputs;
    let mut positions = Vec::with_capacity(known.len());
    for name in wanted {
        let error = |problem| RequestError::Output { name: shortened(name), problem, known: names(known) };
        let position =
            known.iter().position(|info| info.name == name).ok_or_else(|| error("not one of them"))?;
        if positions.contains(&position) {
            return Err(error("asked for twice"));
        }
        positions.push(position);
    }
    if positions.is_empty() {
        positions.extend(0..known.len());
    }
    Ok(positions)
}

/// The value of an input over HTTP: its elements are the `raw` bytes where it has some.
fn value_of(
    info: &ValueInfo,
    shape: &[usize],
    data: Option<RawData<'_>>,
    raw: Option<&[u8]>,
) -> Result<Value, RequestError> {
    let name = || info.name.clone();
    let elements = |reason: String| RequestError::Elements { name: name(), reason };
    let data = match (raw, data) {
        (Some(bytes), None) => {
            return raw::read(info.dtype, shape, bytes)
                .map_err(|error| RequestError::Raw { name: name(), error });
        }
        (None, Some(data)) => data,
        // That neither is there was refused when the JSON was read.
        (_, _) => {
            return Err(elements("has both `data` and `binary_data_size`; send one of them".to_owned()));
        }
    };
    if !has_json(info.dtype) {
        let reason = format!(
            "{} has no form in JSON: send its raw bytes behind the JSON, with the parameter `binary_data_size`",
            info.dtype
        );
        return Err(elements(reason));
    }
    let (data, nesting) = match data {
        RawData::Read(data, nesting) => (data, nesting),
        RawData::Text(text) => match numbers(info.dtype, text.get().as_bytes(), 0) {
            Some((data, nesting, _)) => (data, nesting),
            None => Elements(info.dtype).deserialize(text).map_err(|error| RequestError::Elements {
                name: name(),
                reason: format!("{} of its data", told(&error)),
            })?,
        },
    };
    let nested = nesting.shape();
    if nested.len() > 1 && nested != shape {
        return Err(RequestError::Count {
            name: name(),
            shape: lengths_text(shape),
            expected: "as many arrays".to_owned(),
            actual: format!("the nesting {}", lengths_text(&nested)),
        });
    }
    with_elements(info, shape, data)
}

/// The value of an input of this shape and these elements, when there are as many as the shape takes.
pub fn with_elements(info: &ValueInfo, shape: &[usize], data: Data) -> Result<Value, RequestError> {
    // The only ways to fail are a product that does not fit and one that differs from the number of elements.
    let expected = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    let actual = data.len();
    Value::new(shape.to_vec(), data).map_err(|_| RequestError::Count {
        name: info.name.clone(),
        shape: lengths_text(shape),
        expected: expected.map_or_else(|| "too many elements".to_owned(), |n| format!("{n} elements")),
        actual: actual.to_string(),
    })
}

/// `a` and `b` in backticks, for messages: not all of many.
fn names(infos: &[ValueInfo]) -> String {
    let shown = infos.iter().take(NAMES_IN_MESSAGES);
    let names: Vec<_> = shown.map(|info| format!("`{}`", shortened(&info.name))).collect();
    let names = names.join(", ");
    match infos.len().saturating_sub(NAMES_IN_MESSAGES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
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

/// What the parser said, cut to what a message can bear. The place stays.
fn told(error: &serde_json::Error) -> String {
    let mut told = Bounded(String::new());
    // Fails at the bound, so that nothing is made of what is cut off.
    if write!(told, "{error}").is_err() {
        told.0.push_str("...");
        if error.line() > 0 {
            let _ = write!(told.0, " at line {} column {}", error.line(), error.column());
        }
    }
    told.0
}

/// A text that takes no more than a message can bear.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = REASON_IN_MESSAGES.saturating_sub(self.0.len());
        let part = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.0.push_str(part);
        if part.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
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
    RequestError::Malformed { reason: told(error), hint }
}

#[cfg(test)]
#[path = "request/tests.rs"]
mod tests;
