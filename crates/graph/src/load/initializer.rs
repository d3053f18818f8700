//! Tensors stored in the file, or beside it.

use half::{bf16, f16};

use super::declare::element_type_name;
use super::external::Folder;
use crate::ops::Refusal;
use crate::proto::{SparseTensorProto, TensorProto};
use crate::tensor::{Item, Tensor, check_size, contiguous, for_storage, items};
use crate::value::{DType, element_count};

/// Reads a stored tensor. Its size is bounded by the file's: data and dimensions must agree.
pub(crate) fn read(proto: &TensorProto, folder: Option<&Folder>) -> Result<Tensor, Refusal> {
    let Some(dtype) = DType::from_onnx(proto.data_type) else {
        let name = element_type_name(proto.data_type);
        return Err(Refusal::Unsupported(format!("its element type is {name}")));
    };
    let shape: Option<Vec<usize>> = proto.dims.iter().map(|&length| usize::try_from(length).ok()).collect();
    let Some((shape, count)) = shape.and_then(|shape| element_count(&shape).map(|count| (shape, count)))
    else {
        return Err(Refusal::Invalid(format!("the dimensions {:?} cannot be", proto.dims)));
    };
    let outside;
    let raw = if proto.data_location.unwrap_or(0) != 0 || !proto.external_data.is_empty() {
        let Some(folder) = folder else {
            return Err(Refusal::Unsupported(
                "its data is outside of the file; load the model from its folder".to_owned(),
            ));
        };
        outside = folder.read(&proto.external_data, dtype, count)?;
        Some(outside.as_slice())
    } else {
        // Some writers leave the bytes empty and use the typed field.
        proto.raw_data.as_deref().filter(|raw| !raw.is_empty())
    };
    let typed = &proto.int32_data;
    match dtype {
        DType::F32 => numbers(&shape, count, raw, f32::from_le_bytes, || Ok(proto.float_data.clone())),
        DType::F64 => numbers(&shape, count, raw, f64::from_le_bytes, || Ok(proto.double_data.clone())),
        DType::I64 => numbers(&shape, count, raw, i64::from_le_bytes, || Ok(proto.int64_data.clone())),
        DType::U64 => numbers(&shape, count, raw, u64::from_le_bytes, || Ok(proto.uint64_data.clone())),
        DType::U32 => numbers(&shape, count, raw, u32::from_le_bytes, || narrowed(&proto.uint64_data)),
        DType::I32 => numbers(&shape, count, raw, i32::from_le_bytes, || Ok(typed.clone())),
        DType::I16 => numbers(&shape, count, raw, i16::from_le_bytes, || narrowed(typed)),
        DType::U16 => numbers(&shape, count, raw, u16::from_le_bytes, || narrowed(typed)),
        DType::I8 => numbers(&shape, count, raw, i8::from_le_bytes, || narrowed(typed)),
        DType::U8 => numbers(&shape, count, raw, u8::from_le_bytes, || narrowed(typed)),
        DType::F16 => numbers(&shape, count, raw, f16::from_le_bytes, || {
            Ok(narrowed(typed)?.into_iter().map(f16::from_bits).collect())
        }),
        DType::BF16 => numbers(&shape, count, raw, bf16::from_le_bytes, || {
            Ok(narrowed(typed)?.into_iter().map(bf16::from_bits).collect())
        }),
        DType::Bool => {
            let truths: Vec<u8> = match raw {
                Some(raw) => raw.iter().map(|&truth| u8::from(truth != 0)).collect(),
                None => typed.iter().map(|&truth| u8::from(truth != 0)).collect(),
            };
            check_count(count, truths.len())?;
            Ok(Tensor::from_bools(&shape, truths))
        }
        DType::String => {
            check_count(count, proto.string_data.len())?;
            let strings: Result<Vec<String>, _> =
                proto.string_data.iter().map(|bytes| String::from_utf8(bytes.clone())).collect();
            let strings = strings.map_err(|_| Refusal::Invalid("a string is not UTF-8 text".to_owned()))?;
            Ok(Tensor::from_text(&shape, strings))
        }
        // In the typed field, each number holds the bits of one byte of a file.
        small => {
            let bytes = match raw {
                Some(raw) => raw.to_vec(),
                #[expect(
                    clippy::cast_sign_loss,
                    clippy::cast_possible_truncation,
                    reason = "the low byte is meant"
                )]
                None => typed.iter().map(|&byte| byte as u8).collect(),
            };
            let bits = unpack(&bytes, small.bits(), count)?;
            Ok(Tensor::of_type(small, &shape, bits))
        }
    }
}

/// Elements of less than a byte, the first at the low end, one byte for each.
fn unpack(bytes: &[u8], bits: usize, count: usize) -> Result<Vec<u8>, Refusal> {
    if bits == 8 {
        check_count(count, bytes.len())?;
        return Ok(bytes.to_vec());
    }
    let each = 8 / bits;
    check_count(count.div_ceil(each), bytes.len())?;
    let mask = (1u8 << bits) - 1;
    let parts = bytes.iter().flat_map(|&byte| (0..each).map(move |part| (byte >> (part * bits)) & mask));
    Ok(parts.take(count).collect())
}

/// Numbers from little-endian bytes, or from the typed field where there are no bytes.
fn numbers<E: Item, const WIDTH: usize>(
    shape: &[usize],
    count: usize,
    raw: Option<&[u8]>,
    decode: fn([u8; WIDTH]) -> E,
    typed: impl FnOnce() -> Result<Vec<E>, Refusal>,
) -> Result<Tensor, Refusal> {
    let numbers: Vec<E> = match raw {
        None | Some([]) => typed()?,
        Some(raw) => {
            let (chunks, rest) = raw.as_chunks::<WIDTH>();
            if !rest.is_empty() {
                return Err(Refusal::Invalid(format!("{} bytes are not whole elements", raw.len())));
            }
            chunks.iter().map(|&chunk| decode(chunk)).collect()
        }
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

/// ONNX stores small integers in wide ones.
fn narrowed<W: Copy, E: TryFrom<W>>(wide: &[W]) -> Result<Vec<E>, Refusal> {
    let narrow: Option<Vec<E>> = wide.iter().map(|&number| E::try_from(number).ok()).collect();
    narrow.ok_or_else(|| Refusal::Invalid("a stored number does not fit its element type".to_owned()))
}

/// Reads a tensor of which the file stores only what is not zero, and where.
pub(crate) fn read_sparse(proto: &SparseTensorProto) -> Result<Tensor, Refusal> {
    let wrong = |reason: &str| Refusal::Invalid(reason.to_owned());
    let (Some(values), Some(indices)) = (&proto.values, &proto.indices) else {
        return Err(wrong("a sparse tensor needs values and indices"));
    };
    let (values, indices) = (read(values, None)?, read(indices, None)?);
    let shape: Option<Vec<usize>> = proto.dims.iter().map(|&length| usize::try_from(length).ok()).collect();
    let shape =
        shape.ok_or_else(|| Refusal::Invalid(format!("the dimensions {:?} cannot be", proto.dims)))?;
    let fault = |fault: crate::tensor::Fault| Refusal::Invalid(fault.0);
    let count = check_size(&shape).map_err(fault)?;
    let places = indices.to_i64s().map_err(fault)?;
    let width = if indices.rank() == 2 { indices.shape()[1] } else { 1 };
    if places.len() != values.len() * width || (width != 1 && width != shape.len()) {
        return Err(wrong("values and indices of a sparse tensor do not go together"));
    }
    // Row by row a position for each dimension, or one position among all elements.
    let lengths = if width == 1 { vec![count] } else { shape.clone() };
    let mut from = vec![0usize; count];
    for (value, place) in places.chunks_exact(width.max(1)).enumerate() {
        let mut at = 0;
        for (&index, &length) in place.iter().zip(&lengths) {
            let index = usize::try_from(index).ok().filter(|&index| index < length);
            at = at * length + index.ok_or_else(|| wrong("an index of a sparse tensor is out of range"))?;
        }
        // 0 is the zero that is joined before the values.
        from[at] = value + 1;
    }
    let zero = crate::ops::cast::cast(Tensor::from_items(&[1], vec![0u8]), values.dtype()).map_err(fault)?;
    let flat = values.clone().reshape(&[values.len()]).map_err(fault)?;
    let all = crate::ops::join(vec![zero, flat], 0).map_err(fault)?;
    crate::ops::pick(&all, &shape, &from).map_err(fault)
}

/// Stores a tensor, its elements as little-endian bytes.
pub(crate) fn write(tensor: &Tensor, name: &str) -> TensorProto {
    let dtype = tensor.dtype();
    let mut proto = TensorProto {
        dims: tensor.shape().iter().map(|&length| crate::tensor::to_i64(length)).collect(),
        data_type: dtype.onnx_number(),
        name: name.to_owned(),
        ..TensorProto::default()
    };
    match tensor {
        Tensor::Text(text) => {
            proto.string_data = text.items().iter().map(|item| item.clone().into_bytes()).collect();
        }
        Tensor::Dense(storage) | Tensor::Small(_, storage) => {
            let storage = contiguous(storage);
            let bytes: Vec<u8> = for_storage!(dtype, E => {
                items::<E>(&storage).iter().flat_map(|item| item.to_le_bytes()).collect()
            }, text => Vec::new());
            proto.raw_data = Some(if dtype.bits() < 8 { pack(&bytes, dtype.bits()) } else { bytes });
        }
    }
    proto
}

/// The inverse of [`unpack`].
fn pack(elements: &[u8], bits: usize) -> Vec<u8> {
    let together = |part: &[u8]| part.iter().rev().fold(0u8, |byte, &element| (byte << bits) | element);
    elements.chunks(8 / bits).map(together).collect()
}
