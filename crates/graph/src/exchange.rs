//! Values as messages of their own, in which ONNX's tools and test data exchange them.

use prost::Message;

use crate::error::LoadError;
use crate::held::Held;
use crate::load::{read_tensor, write_tensor};
use crate::ops::Refusal;
use crate::proto::{OptionalProto, SequenceProto, TensorProto};
use crate::tensor::Tensor;
use crate::value::{AnyValue, DType, Kind, Value};

/// The number that both messages have for a tensor.
const TENSOR: i32 = 1;
/// The number that `OptionalProto` has for a list.
const SEQUENCE: i32 = 3;

impl AnyValue {
    /// Reads a `TensorProto`, `SequenceProto` or `OptionalProto`, whichever `kind` says. An empty list has
    /// the element type `dtype`. Gives the value with its name in the message.
    pub fn from_message(kind: Kind, dtype: DType, bytes: &[u8]) -> Result<(String, Self), LoadError> {
        let parse = |error: prost::DecodeError| LoadError::NotOnnx { reason: error.to_string() };
        match kind {
            Kind::Tensor => {
                let proto = TensorProto::decode(bytes).map_err(parse)?;
                Ok((proto.name.clone(), Self::Tensor(value(&proto)?)))
            }
            Kind::Sequence => {
                let proto = SequenceProto::decode(bytes).map_err(parse)?;
                Ok((proto.name.clone(), sequence(&proto, dtype)?))
            }
            Kind::OptionalTensor | Kind::OptionalSequence => {
                let proto = OptionalProto::decode(bytes).map_err(parse)?;
                let value = match (&proto.tensor_value, &proto.sequence_value) {
                    (Some(tensor), _) => Self::Tensor(value(tensor)?),
                    (None, Some(list)) => sequence(list, dtype)?,
                    (None, None) => Self::Nothing,
                };
                Ok((proto.name, value))
            }
        }
    }

    /// Writes the message that [`AnyValue::from_message`] reads for `kind`.
    pub fn to_message(&self, kind: Kind, name: &str) -> Vec<u8> {
        let optional = matches!(kind, Kind::OptionalTensor | Kind::OptionalSequence);
        let tensor = |value: &Value| write_tensor(&Tensor::from(value.clone()), name);
        let list = |values: &[Value]| SequenceProto {
            name: name.to_owned(),
            elem_type: TENSOR,
            tensor_values: values.iter().map(tensor).collect(),
        };
        let nothing = OptionalProto { name: name.to_owned(), ..OptionalProto::default() };
        match self {
            Self::Tensor(value) if optional => {
                OptionalProto { elem_type: TENSOR, tensor_value: Some(tensor(value)), ..nothing }
                    .encode_to_vec()
            }
            Self::Sequence(_, values) if optional => {
                OptionalProto { elem_type: SEQUENCE, sequence_value: Some(list(values)), ..nothing }
                    .encode_to_vec()
            }
            Self::Tensor(value) => tensor(value).encode_to_vec(),
            Self::Sequence(_, values) => list(values).encode_to_vec(),
            Self::Nothing => nothing.encode_to_vec(),
        }
    }
}

fn value(proto: &TensorProto) -> Result<Value, LoadError> {
    let tensor = read_tensor(proto, None).map_err(|refusal| match refusal {
        Refusal::Unsupported(reason) => LoadError::UnsupportedValue { name: proto.name.clone(), reason },
        Refusal::Invalid(reason) => LoadError::Invalid { node: proto.name.clone(), reason },
    })?;
    tensor.try_into().map_err(|fault: crate::tensor::Fault| LoadError::Invalid {
        node: proto.name.clone(),
        reason: fault.0,
    })
}

fn sequence(proto: &SequenceProto, dtype: DType) -> Result<AnyValue, LoadError> {
    let values: Vec<Value> = proto.tensor_values.iter().map(value).collect::<Result<_, _>>()?;
    let dtype = values.first().map_or(dtype, Value::dtype);
    let list = AnyValue::Sequence(dtype, values);
    // The checks of a list are those of a running graph.
    Held::try_from(list.clone())
        .map_err(|fault| LoadError::Invalid { node: proto.name.clone(), reason: fault.0 })?;
    Ok(list)
}
