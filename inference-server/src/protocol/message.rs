//! Requests and answers as messages of gRPC: elements typed in `contents`, or raw for all tensors of the message.
//!
//! Names, datatypes and shapes are checked by the code that checks JSON's.

use std::collections::HashMap;

use stoker_graph::{DType, Data, Value, ValueInfo};

use super::answer::PLATFORM;
use super::parameters::{InputParameters, OutputParameters, Parameter, Parameters, RequestParameters};
use super::raw;
use super::request::{InferRequest, Inputs, RequestError, outputs_named, with_elements};
use super::signature::{Signature, declared};
use crate::proto::inference::infer_parameter::ParameterChoice;
use crate::proto::inference::model_infer_response::InferOutputTensor;
use crate::proto::inference::{
    DataType, InferParameter, InferTensorContents, ModelConfig, ModelInferRequest, ModelInferResponse,
    ModelInput, ModelOutput,
};

/// Reads a request.
pub fn read(message: ModelInferRequest, signature: &Signature) -> Result<InferRequest, RequestError> {
    let raws = message.raw_input_contents;
    if !raws.is_empty() {
        if message
            .inputs
            .iter()
            .any(|input| input.contents.as_ref().is_some_and(|contents| count(contents) > 0))
        {
            return Err(malformed(
                "elements are in `contents` and in `raw_input_contents`; send those of all inputs in one of the two"
                    .to_owned(),
            ));
        }
        if raws.len() != message.inputs.len() {
            return Err(malformed(format!(
                "`raw_input_contents` has {} entries for {} inputs; send one for each, in their order",
                raws.len(),
                message.inputs.len()
            )));
        }
    }
    let asked: RequestParameters = parameters(&message.parameters)?;
    for output in &message.outputs {
        let _: OutputParameters = parameters(&output.parameters)?;
    }
    let is_raw = !raws.is_empty();
    let mut raws = raws.into_iter();
    let mut inputs = Inputs::new(signature);
    for input in message.inputs {
        let _: InputParameters = parameters(&input.parameters)?;
        let shape = lengths(&input.shape)?;
        let bytes = if is_raw { raws.next() } else { None };
        inputs.add(&input.name, &input.datatype, &shape, |info, shape| match bytes {
            Some(bytes) => raw::read(info.dtype, shape, &bytes)
                .map_err(|error| RequestError::Raw { name: info.name.clone(), error }),
            None => with_elements(info, shape, typed(info, input.contents.unwrap_or_default())?),
        })?;
    }
    Ok(InferRequest {
        inputs: inputs.finish()?,
        outputs: outputs_named(message.outputs.iter().map(|output| output.name.as_str()), signature)?,
        id: (!message.id.is_empty()).then_some(message.id),
        priority: asked.priority,
        timeout: asked.timeout,
        ..InferRequest::default()
    })
}

/// Writes the answer. `outputs` pairs the declared output with its value. It is raw when `as_raw` says so, and when an
/// output has a type that `contents` has no field for.
pub fn write(
    model_name: &str,
    model_version: &str,
    id: Option<String>,
    outputs: &[(&ValueInfo, Value)],
    as_raw: bool,
) -> ModelInferResponse {
    // All of them or none: raw and typed tensors are never mixed.
    let mut typed: Option<Vec<_>> =
        if as_raw { None } else { outputs.iter().map(|(_, value)| contents(value.data())).collect() };
    let raw_output_contents = match typed {
        Some(_) => Vec::new(),
        // A model with an output that has no raw form is refused when it is loaded.
        None => {
            outputs.iter().map(|(_, value)| raw::write(value.data()).unwrap_or_default().into()).collect()
        }
    };
    let mut typed = typed.iter_mut().flat_map(|all| all.drain(..));
    let tensors = outputs.iter().map(|(info, value)| InferOutputTensor {
        name: info.name.clone(),
        datatype: value.dtype().oip_name().to_owned(),
        shape: value.shape().iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX)).collect(),
        parameters: HashMap::new(),
        contents: typed.next(),
    });
    ModelInferResponse {
        model_name: model_name.to_owned(),
        model_version: model_version.to_owned(),
        id: id.unwrap_or_default(),
        parameters: HashMap::new(),
        outputs: tensors.collect(),
        raw_output_contents,
    }
}

/// What is to be known of a model of this name, as Triton's configuration has it.
pub fn config(name: &str, signature: &Signature) -> ModelConfig {
    let input = |info: &ValueInfo| ModelInput {
        name: info.name.clone(),
        data_type: data_type(info.dtype).into(),
        dims: declared(&info.shape),
    };
    let output = |info: &ValueInfo| ModelOutput {
        name: info.name.clone(),
        data_type: data_type(info.dtype).into(),
        dims: declared(&info.shape),
    };
    ModelConfig {
        name: name.to_owned(),
        platform: PLATFORM.to_owned(),
        max_batch_size: 0,
        input: signature.inputs.iter().map(input).collect(),
        output: signature.outputs.iter().map(output).collect(),
        backend: "burn".to_owned(),
    }
}

/// A type, as Triton's configuration names it.
fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::U16 => DataType::TypeUint16,
        DType::U32 => DataType::TypeUint32,
        DType::U64 => DataType::TypeUint64,
        DType::I8 => DataType::TypeInt8,
        DType::I16 => DataType::TypeInt16,
        DType::I32 => DataType::TypeInt32,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
        DType::String => DataType::TypeString,
        DType::BF16 => DataType::TypeBf16,
        // A model with such an input or output is refused when it is loaded.
        _ => DataType::TypeInvalid,
    }
}

fn malformed(reason: String) -> RequestError {
    RequestError::Malformed { reason, hint: "" }
}

/// A shape that a request gives.
fn lengths(shape: &[i64]) -> Result<Vec<usize>, RequestError> {
    let length = |length: &i64| {
        usize::try_from(*length)
            .map_err(|_| malformed(format!("a shape has the length {length}, and none can be negative")))
    };
    shape.iter().map(length).collect()
}

/// What parameters say. Those that are not known are tolerated, as the protocol says.
fn parameters<P: Parameters>(all: &HashMap<String, InferParameter>) -> Result<P, RequestError> {
    let mut known = P::default();
    for (name, parameter) in all {
        let value = match &parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(*value),
            Some(ParameterChoice::Int64Param(value)) => Parameter::Integer((*value).into()),
            Some(ParameterChoice::Uint64Param(value)) => Parameter::Integer((*value).into()),
            Some(ParameterChoice::DoubleParam(value)) => Parameter::Float(*value),
            Some(ParameterChoice::StringParam(value)) => Parameter::Text(value.clone()),
            // As if it were not there.
            None => continue,
        };
        known.set(name, &value).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(known)
}

/// The elements in all fields.
fn count(contents: &InferTensorContents) -> usize {
    contents.bool_contents.len()
        + contents.int_contents.len()
        + contents.int64_contents.len()
        + contents.uint_contents.len()
        + contents.uint64_contents.len()
        + contents.fp32_contents.len()
        + contents.fp64_contents.len()
        + contents.bytes_contents.len()
}

/// The elements of an input, from the field of its type.
fn typed(info: &ValueInfo, contents: InferTensorContents) -> Result<Data, RequestError> {
    let all = count(&contents);
    let wrong = |reason: String| RequestError::Elements { name: info.name.clone(), reason };
    macro_rules! narrow {
        ($variant:ident, $type:ty, $items:expr) => {{
            let items = $items.into_iter().enumerate().map(|(element, item)| {
                <$type>::try_from(item).map_err(|_| {
                    wrong(format!("element {element} is {item}, which no {} is", info.dtype.oip_name()))
                })
            });
            Data::$variant(items.collect::<Result<_, RequestError>>()?)
        }};
    }
    let (data, field) = match info.dtype {
        DType::Bool => (Data::Bool(contents.bool_contents), "bool_contents"),
        DType::I8 => (narrow!(I8, i8, contents.int_contents), "int_contents"),
        DType::I16 => (narrow!(I16, i16, contents.int_contents), "int_contents"),
        DType::I32 => (Data::I32(contents.int_contents), "int_contents"),
        DType::I64 => (Data::I64(contents.int64_contents), "int64_contents"),
        DType::U8 => (narrow!(U8, u8, contents.uint_contents), "uint_contents"),
        DType::U16 => (narrow!(U16, u16, contents.uint_contents), "uint_contents"),
        DType::U32 => (Data::U32(contents.uint_contents), "uint_contents"),
        DType::U64 => (Data::U64(contents.uint64_contents), "uint64_contents"),
        DType::F32 => (Data::F32(contents.fp32_contents), "fp32_contents"),
        DType::F64 => (Data::F64(contents.fp64_contents), "fp64_contents"),
        DType::String => {
            let texts = contents.bytes_contents.into_iter().enumerate().map(|(element, bytes)| {
                String::from_utf8(bytes)
                    .map_err(|_| wrong(format!("element {element} of its BYTES is not UTF-8")))
            });
            (Data::String(texts.collect::<Result<_, RequestError>>()?), "bytes_contents")
        }
        other => {
            let reason =
                format!("{} has no field in `contents`; send `raw_input_contents`", other.oip_name());
            return Err(wrong(reason));
        }
    };
    if data.len() < all {
        let reason =
            format!("its `contents` have elements outside of `{field}`, which {} has", info.dtype.oip_name());
        return Err(wrong(reason));
    }
    Ok(data)
}

/// Elements in the field of their type; `None` for a type that has no field.
fn contents(data: &Data) -> Option<InferTensorContents> {
    let mut contents = InferTensorContents::default();
    match data {
        Data::Bool(items) => contents.bool_contents.clone_from(items),
        Data::I8(items) => contents.int_contents = items.iter().map(|item| i32::from(*item)).collect(),
        Data::I16(items) => contents.int_contents = items.iter().map(|item| i32::from(*item)).collect(),
        Data::I32(items) => contents.int_contents.clone_from(items),
        Data::I64(items) => contents.int64_contents.clone_from(items),
        Data::U8(items) => contents.uint_contents = items.iter().map(|item| u32::from(*item)).collect(),
        Data::U16(items) => contents.uint_contents = items.iter().map(|item| u32::from(*item)).collect(),
        Data::U32(items) => contents.uint_contents.clone_from(items),
        Data::U64(items) => contents.uint64_contents.clone_from(items),
        Data::F32(items) => contents.fp32_contents.clone_from(items),
        Data::F64(items) => contents.fp64_contents.clone_from(items),
        Data::String(items) => {
            contents.bytes_contents = items.iter().map(|item| item.clone().into_bytes()).collect();
        }
        _ => return None,
    }
    Some(contents)
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
