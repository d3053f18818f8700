//! Tensors stored in the file.

use onnx_ir::TensorProto;

use crate::ops::Refusal;
use crate::tensor::{Item, Tensor};
use crate::value::{DType, element_count};

/// The element type with this number in ONNX's `TensorProto.DataType`, if it is one of ours.
pub(crate) fn element_type(number: i32) -> Option<DType> {
    Some(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::String,
        9 => DType::Bool,
        11 => DType::F64,
        _ => return None,
    })
}

/// ONNX's name of an element type, for messages about those that are not ours.
pub(crate) fn element_type_name(number: i32) -> String {
    let names = [
        (4, "UINT16"),
        (5, "INT16"),
        (10, "FLOAT16"),
        (12, "UINT32"),
        (13, "UINT64"),
        (14, "COMPLEX64"),
        (15, "COMPLEX128"),
        (16, "BFLOAT16"),
    ];
    names
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
}

/// Reads a stored tensor. Its size is bounded by the file's: data and dimensions must agree.
pub(crate) fn read(proto: &TensorProto) -> Result<Tensor, Refusal> {
    let Some(dtype) = element_type(proto.data_type) else {
        let name = element_type_name(proto.data_type);
        return Err(Refusal::Unsupported(format!("its element type is {name}")));
    };
    // A path in a file from a stranger is not followed.
    if proto.data_location.value() != 0 || !proto.external_data.is_empty() {
        return Err(Refusal::Unsupported("its data is outside of the file, which is not read".to_owned()));
    }
    let shape: Option<Vec<usize>> = proto.dims.iter().map(|&length| usize::try_from(length).ok()).collect();
    let Some((shape, count)) = shape.and_then(|shape| element_count(&shape).map(|count| (shape, count)))
    else {
        return Err(Refusal::Invalid(format!("the dimensions {:?} cannot be", proto.dims)));
    };
    let raw = &proto.raw_data;
    match dtype {
        DType::F32 => numbers(&shape, count, raw, f32::from_le_bytes, || proto.float_data.clone()),
        DType::F64 => numbers(&shape, count, raw, f64::from_le_bytes, || proto.double_data.clone()),
        DType::I64 => numbers(&shape, count, raw, i64::from_le_bytes, || proto.int64_data.clone()),
        DType::I32 => numbers(&shape, count, raw, i32::from_le_bytes, || proto.int32_data.clone()),
        DType::I8 => {
            let typed = narrowed(&proto.int32_data)?;
            numbers(&shape, count, raw, i8::from_le_bytes, || typed)
        }
        DType::U8 => {
            let typed = narrowed(&proto.int32_data)?;
            numbers(&shape, count, raw, u8::from_le_bytes, || typed)
        }
        DType::Bool => {
            let bytes = if raw.is_empty() {
                proto.int32_data.iter().map(|&truth| u8::from(truth != 0)).collect()
            } else {
                raw.iter().map(|&truth| u8::from(truth != 0)).collect::<Vec<_>>()
            };
            check_count(count, bytes.len())?;
            Ok(Tensor::from_bools(&shape, bytes))
        }
        DType::String => {
            check_count(count, proto.string_data.len())?;
            let strings: Result<Vec<String>, _> =
                proto.string_data.iter().map(|bytes| String::from_utf8(bytes.to_vec())).collect();
            let strings = strings.map_err(|_| Refusal::Invalid("a string is not UTF-8 text".to_owned()))?;
            Ok(Tensor::from_text(&shape, strings))
        }
    }
}

/// Numbers from little-endian bytes, or from the typed field where there are no bytes.
fn numbers<E: Item, const WIDTH: usize>(
    shape: &[usize],
    count: usize,
    raw: &[u8],
    decode: fn([u8; WIDTH]) -> E,
    typed: impl FnOnce() -> Vec<E>,
) -> Result<Tensor, Refusal> {
    let numbers: Vec<E> = if raw.is_empty() {
        typed()
    } else {
        let (chunks, rest) = raw.as_chunks::<WIDTH>();
        if !rest.is_empty() {
            return Err(Refusal::Invalid(format!("{} bytes are not whole elements", raw.len())));
        }
        chunks.iter().map(|&chunk| decode(chunk)).collect()
    };
    check_count(count, numbers.len())?;
    Ok(Tensor::from_items(shape, numbers))
}

fn check_count(expected: usize, actual: usize) -> Result<(), Refusal> {
    if expected == actual {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("the dimensions need {expected} elements, but {actual} are stored")))
}

/// ONNX stores small integers in 32 bits.
fn narrowed<E: TryFrom<i32>>(wide: &[i32]) -> Result<Vec<E>, Refusal> {
    let narrow: Option<Vec<E>> = wide.iter().map(|&number| E::try_from(number).ok()).collect();
    narrow.ok_or_else(|| Refusal::Invalid("a stored number does not fit its element type".to_owned()))
}
