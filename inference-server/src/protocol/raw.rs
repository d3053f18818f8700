//! Tensors as raw bytes: little-endian elements in row-major order, as the binary tensor extension and gRPC's
//! `raw_input_contents` have them. BOOL is one byte for each element; BYTES is a 32-bit length before each element.

use half::{bf16, f16};
use stoker_graph::{DType, Data, Value};

/// Why bytes are not a tensor of the given type and shape. The messages begin after "input `x`".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The length is not that of the shape.
    #[error("has {actual} raw bytes, but {dtype} of the shape {shape:?} takes {expected}")]
    Length {
        /// The type.
        dtype: DType,
        /// The shape.
        shape: Vec<usize>,
        /// What that takes.
        expected: String,
        /// What came.
        actual: usize,
    },
    /// An element of BYTES is cut off.
    #[error("element {element} of its raw BYTES ends after the tensor's last byte")]
    Torn {
        /// Which element.
        element: usize,
    },
    /// An element of BYTES is no text, which ONNX's strings must be.
    #[error("element {element} of its raw BYTES is not UTF-8")]
    NotText {
        /// Which element.
        element: usize,
    },
    /// A BOOL that is neither 0 nor 1.
    #[error("element {element} of its raw BOOL is {byte}, and must be 0 or 1")]
    NotBool {
        /// Which element.
        element: usize,
        /// What came.
        byte: u8,
    },
    /// The type has no raw form.
    #[error("is {0}, which has no raw form")]
    NoForm(DType),
}

/// A value from its raw bytes.
pub fn read(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Value, RawError> {
    let count = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    let length = |shape: &[usize], expected: String| RawError::Length {
        dtype,
        shape: shape.to_vec(),
        expected,
        actual: bytes.len(),
    };
    let Some(count) = count else { return Err(length(&shape, "more than there can be".to_owned())) };
    if let Some(size) = size(dtype)
        && count.checked_mul(size) != Some(bytes.len())
    {
        let expected =
            count.checked_mul(size).map_or_else(|| "more than there can be".to_owned(), |n| n.to_string());
        return Err(length(&shape, expected));
    }
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            let (chunks, _) = bytes.as_chunks();
            Data::$variant(chunks.iter().map(|chunk| <$type>::from_le_bytes(*chunk)).collect())
        }};
    }
    let data = match dtype {
        DType::Bool => {
            if let Some(element) = bytes.iter().position(|byte| *byte > 1) {
                return Err(RawError::NotBool { element, byte: bytes[element] });
            }
            Data::Bool(bytes.iter().map(|byte| *byte == 1).collect())
        }
        DType::U8 => Data::U8(bytes.to_vec()),
        DType::U16 => numbers!(U16, u16),
        DType::U32 => numbers!(U32, u32),
        DType::U64 => numbers!(U64, u64),
        DType::I8 => numbers!(I8, i8),
        DType::I16 => numbers!(I16, i16),
        DType::I32 => numbers!(I32, i32),
        DType::I64 => numbers!(I64, i64),
        DType::F16 => numbers!(F16, f16),
        DType::BF16 => numbers!(BF16, bf16),
        DType::F32 => numbers!(F32, f32),
        DType::F64 => numbers!(F64, f64),
        DType::String => Data::String(texts(bytes, count, || length(&shape, format!("{count} elements")))?),
        other => return Err(RawError::NoForm(other)),
    };
    let declared = shape.clone();
    Value::new(shape, data).map_err(|_| length(&declared, format!("{count} elements")))
}

/// The elements of BYTES. What is reserved is bounded by the bytes that came.
fn texts(bytes: &[u8], count: usize, wrong: impl Fn() -> RawError) -> Result<Vec<String>, RawError> {
    let mut items = Vec::with_capacity(count.min(bytes.len() / 4));
    let mut rest = bytes;
    while !rest.is_empty() {
        let element = items.len();
        if element == count {
            return Err(wrong());
        }
        let torn = RawError::Torn { element };
        let Some((head, tail)) = rest.split_first_chunk::<4>() else { return Err(torn) };
        let Some((text, tail)) =
            usize::try_from(u32::from_le_bytes(*head)).ok().and_then(|length| tail.split_at_checked(length))
        else {
            return Err(torn);
        };
        let text = std::str::from_utf8(text).map_err(|_| RawError::NotText { element })?;
        items.push(text.to_owned());
        rest = tail;
    }
    if items.len() == count { Ok(items) } else { Err(wrong()) }
}

/// The raw bytes of elements. `None` where they have no raw form.
pub fn write(data: &Data) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length(data)?);
    append(data, &mut bytes);
    Some(bytes)
}

/// How many raw bytes elements take. `None` where they have no raw form: types of less than a byte, and a text of more
/// than 4 GiB.
pub fn length(data: &Data) -> Option<usize> {
    match data {
        Data::String(items) => {
            items.iter().map(|item| u32::try_from(item.len()).is_ok().then_some(item.len() + 4)).sum()
        }
        other => other.len().checked_mul(size(other.dtype())?),
    }
}

/// Writes the raw bytes of elements behind what is there: as many as [`length`] says, and nothing where that is `None`.
pub fn append(data: &Data, bytes: &mut Vec<u8>) {
    let Some(length) = length(data) else { return };
    bytes.reserve(length);
    // The room is made first and filled then: what the compiler makes of that moves many bytes at a time, and what it
    // makes of a chain of single bytes does not.
    macro_rules! numbers {
        ($items:expr, $size:literal) => {{
            let start = bytes.len();
            bytes.resize(start + $items.len() * $size, 0);
            let (chunks, _) = bytes[start..].as_chunks_mut::<$size>();
            for (chunk, item) in chunks.iter_mut().zip($items) {
                *chunk = item.to_le_bytes();
            }
        }};
    }
    match data {
        Data::Bool(items) => bytes.extend(items.iter().map(|item| u8::from(*item))),
        Data::U8(items) => bytes.extend_from_slice(items),
        Data::U16(items) => numbers!(items, 2),
        Data::U32(items) => numbers!(items, 4),
        Data::U64(items) => numbers!(items, 8),
        Data::I8(items) => numbers!(items, 1),
        Data::I16(items) => numbers!(items, 2),
        Data::I32(items) => numbers!(items, 4),
        Data::I64(items) => numbers!(items, 8),
        Data::F16(items) => numbers!(items, 2),
        Data::BF16(items) => numbers!(items, 2),
        Data::F32(items) => numbers!(items, 4),
        Data::F64(items) => numbers!(items, 8),
        Data::String(items) => {
            for item in items {
                if let Ok(length) = u32::try_from(item.len()) {
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(item.as_bytes());
                }
            }
        }
        _ => {}
    }
}

/// Bytes of an element; none where elements differ in length or have no raw form.
fn size(dtype: DType) -> Option<usize> {
    match dtype {
        DType::Bool | DType::U8 | DType::I8 => Some(1),
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => Some(2),
        DType::U32 | DType::I32 | DType::F32 => Some(4),
        DType::U64 | DType::I64 | DType::F64 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back_as_it_was_written() {
        let all = [
            Data::Bool(vec![true, false]),
            Data::U8(vec![0, 255]),
            Data::U16(vec![1, u16::MAX]),
            Data::U32(vec![1, u32::MAX]),
            Data::U64(vec![1, u64::MAX]),
            Data::I8(vec![-128, 127]),
            Data::I16(vec![i16::MIN, 5]),
            Data::I32(vec![i32::MIN, 5]),
            Data::I64(vec![i64::MIN, 5]),
            Data::F16(vec![f16::from_f32(1.5), f16::INFINITY]),
            Data::BF16(vec![bf16::from_f32(-1.5), bf16::NEG_INFINITY]),
            Data::F32(vec![0.1, f32::MIN]),
            Data::F64(vec![0.1, f64::MIN]),
            Data::String(vec!["ä\n".to_owned(), String::new()]),
        ];
        for data in all {
            let value = Value::new(vec![2], data).unwrap();
            let bytes = write(value.data()).unwrap();
            assert_eq!(length(value.data()), Some(bytes.len()));
            assert_eq!(read(value.dtype(), vec![2], &bytes), Ok(value));
        }
    }

    #[test]
    fn numbers_are_little_endian_and_texts_have_their_length_before_them() {
        assert_eq!(write(&Data::I32(vec![1, -2])).unwrap(), [1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(write(&Data::F16(vec![f16::from_f32(1.0)])).unwrap(), [0x00, 0x3c]);
        assert_eq!(write(&Data::String(vec!["ab".to_owned()])).unwrap(), [2, 0, 0, 0, b'a', b'b']);
        let mut behind = vec![7];
        append(&Data::U16(vec![0x0102]), &mut behind);
        assert_eq!(behind, [7, 2, 1]);
        assert_eq!(write(&Data::Small(DType::U4, vec![1])), None);
    }

    #[test]
    fn bytes_that_are_no_such_tensor_are_refused_with_the_reason() {
        let cases: [(DType, Vec<usize>, &[u8], &str); 8] = [
            (DType::F32, vec![2], &[0; 7], "has 7 raw bytes, but FP32 of the shape [2] takes 8"),
            (DType::F32, vec![usize::MAX, 2], &[0; 8], "takes more than there can be"),
            (DType::F64, vec![usize::MAX], &[], "takes more than there can be"),
            (DType::Bool, vec![2], &[1, 2], "element 1 of its raw BOOL is 2"),
            (DType::String, vec![1], &[9, 0, 0, 0, b'a'], "element 0 of its raw BYTES ends after"),
            (DType::String, vec![1], &[1, 0], "element 0 of its raw BYTES ends after"),
            (DType::String, vec![1], &[1, 0, 0, 0, 0xff], "is not UTF-8"),
            (DType::String, vec![2], &[0, 0, 0, 0], "takes 2 elements"),
        ];
        for (dtype, shape, bytes, part) in cases {
            let message = read(dtype, shape, bytes).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(read(DType::String, vec![1], &[0; 8]).is_err(), "more elements than the shape has");
    }
}
