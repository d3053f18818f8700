//! What a file declares of its inputs and outputs.

use crate::error::LoadError;
use crate::proto::{DimensionValue, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto};
use crate::value::{DType, Kind, ValueInfo};

/// ONNX's name of an element type that is not among ours, for messages.
pub(crate) fn element_type_name(number: i32) -> String {
    let names =
        [(0, "undefined"), (14, "COMPLEX64"), (15, "COMPLEX128"), (27, "FLOAT6E2M3"), (28, "FLOAT6E3M2")];
    names
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
}

/// Name, kind, type and shape of an input or output; `None` where the file declares no type, or a map.
pub(super) fn value_info(proto: &ValueInfoProto) -> Result<Option<ValueInfo>, LoadError> {
    let Some(value) = proto.r#type.as_ref().and_then(|declared| declared.value.as_ref()) else {
        return Ok(None);
    };
    let optional = |kind| if kind == Kind::Sequence { Kind::OptionalSequence } else { Kind::OptionalTensor };
    Ok(match value {
        TypeValue::Tensor(tensor) => Some(info(proto, Kind::Tensor, tensor)?),
        TypeValue::Sequence(list) => match element(list.elem_type.as_deref()) {
            Some((Kind::Tensor, tensor)) => Some(info(proto, Kind::Sequence, tensor)?),
            _ => None,
        },
        TypeValue::Optional(inner) => match element(inner.elem_type.as_deref()) {
            Some((kind, tensor)) => Some(info(proto, optional(kind), tensor)?),
            None => None,
        },
        TypeValue::Map(_) | TypeValue::SparseTensor(_) => None,
    })
}

/// The tensor type inside of a list or an optional.
fn element(declared: Option<&TypeProto>) -> Option<(Kind, &TensorTypeProto)> {
    match declared?.value.as_ref()? {
        TypeValue::Tensor(tensor) => Some((Kind::Tensor, tensor)),
        TypeValue::Sequence(list) => match list.elem_type.as_ref()?.value.as_ref()? {
            TypeValue::Tensor(tensor) => Some((Kind::Sequence, tensor)),
            _ => None,
        },
        _ => None,
    }
}

fn info(proto: &ValueInfoProto, kind: Kind, tensor: &TensorTypeProto) -> Result<ValueInfo, LoadError> {
    let Some(dtype) = DType::from_onnx(tensor.elem_type) else {
        let name = element_type_name(tensor.elem_type);
        return Err(super::unsupported(&proto.name, &format!("its element type is {name}")));
    };
    let Some(shape) = tensor.shape.as_ref() else {
        // Nothing is declared: one free dimension is the least that a batch has.
        return Ok(ValueInfo { name: proto.name.clone(), kind, dtype, shape: vec![None], ranked: false });
    };
    let length = |value: Option<&DimensionValue>| match value {
        // Some exporters write 0 or -1 for a dimension that is free.
        Some(&DimensionValue::Length(length)) => usize::try_from(length).ok().filter(|&length| length > 0),
        Some(DimensionValue::Name(_)) | None => None,
    };
    let shape = shape.dim.iter().map(|dim| length(dim.value.as_ref())).collect();
    Ok(ValueInfo { name: proto.name.clone(), kind, dtype, shape, ranked: true })
}
