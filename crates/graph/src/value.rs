//! A tensor on the host: what goes into a graph and what comes out of it.
//!
//! [`Value`] owns a shape and row-major data of one of the types of [`DType`]. It knows how to
//! join and divide along axis 0, which is all that request batching needs.

use crate::error::ShapeError;
use crate::tensor::MAX_TENSOR_BYTES;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// One truth value per element.
    Bool,
    /// Unsigned 2-bit integer.
    U2,
    /// Unsigned 4-bit integer.
    U4,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 2-bit integer.
    I2,
    /// Signed 4-bit integer.
    I4,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// 4-bit floating point: two bits of exponent, one of fraction; no infinity, no NaN.
    F4E2M1,
    /// 8-bit floating point: four bits of exponent, three of fraction; NaN, no infinity.
    F8E4M3FN,
    /// As [`DType::F8E4M3FN`], with one zero and one NaN, and a bias that is one larger.
    F8E4M3FNUZ,
    /// 8-bit floating point: five bits of exponent, two of fraction; infinities and NaN.
    F8E5M2,
    /// As [`DType::F8E5M2`], with one zero and one NaN, no infinity, and a bias that is one larger.
    F8E5M2FNUZ,
    /// A power of two as 8 bits of exponent; NaN, no zero. It scales blocks of smaller types.
    F8E8M0,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of IEEE 754 binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// UTF-8 text.
    String,
}

impl DType {
    /// All element types, in the order of the declaration.
    pub const ALL: [Self; 24] = [
        Self::Bool,
        Self::U2,
        Self::U4,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I2,
        Self::I4,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F4E2M1,
        Self::F8E4M3FN,
        Self::F8E4M3FNUZ,
        Self::F8E5M2,
        Self::F8E5M2FNUZ,
        Self::F8E8M0,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
        Self::String,
    ];

    /// The name of the type in the Open Inference Protocol v2 (`FP32`, `INT64`, `BYTES`, ...). Types
    /// that the protocol has no name for are named in the same manner.
    pub fn oip_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U2 => "UINT2",
            Self::U4 => "UINT4",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I2 => "INT2",
            Self::I4 => "INT4",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F4E2M1 => "FP4E2M1",
            Self::F8E4M3FN => "FP8E4M3FN",
            Self::F8E4M3FNUZ => "FP8E4M3FNUZ",
            Self::F8E5M2 => "FP8E5M2",
            Self::F8E5M2FNUZ => "FP8E5M2FNUZ",
            Self::F8E8M0 => "FP8E8M0",
            Self::F16 => "FP16",
            Self::BF16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::String => "BYTES",
        }
    }

    /// The type that the Open Inference Protocol calls `name`; `None` for a name that no type here has.
    pub fn from_oip_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.oip_name() == name)
    }

    /// The element type with this number in ONNX's `TensorProto.DataType`; `None` for complex numbers,
    /// 6-bit floating point, and numbers that ONNX has not given.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.onnx_number() == number)
    }

    /// The number of the element type in ONNX's `TensorProto.DataType`.
    pub fn onnx_number(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::U16 => 4,
            Self::I16 => 5,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::String => 8,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::U32 => 12,
            Self::U64 => 13,
            Self::BF16 => 16,
            Self::F8E4M3FN => 17,
            Self::F8E4M3FNUZ => 18,
            Self::F8E5M2 => 19,
            Self::F8E5M2FNUZ => 20,
            Self::U4 => 21,
            Self::I4 => 22,
            Self::F4E2M1 => 23,
            Self::F8E8M0 => 24,
            Self::U2 => 25,
            Self::I2 => 26,
        }
    }

    /// How many bits an element takes in a file; 0 for text.
    pub fn bits(self) -> usize {
        match self {
            Self::String => 0,
            Self::U2 | Self::I2 => 2,
            Self::U4 | Self::I4 | Self::F4E2M1 => 4,
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8E4M3FN
            | Self::F8E4M3FNUZ
            | Self::F8E5M2
            | Self::F8E5M2FNUZ
            | Self::F8E8M0 => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::U32 | Self::I32 | Self::F32 => 32,
            Self::U64 | Self::I64 | Self::F64 => 64,
        }
    }

    /// True for integers of whole bytes.
    pub(crate) fn is_integer(self) -> bool {
        matches!(
            self,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 | Self::I8 | Self::I16 | Self::I32 | Self::I64
        )
    }

    /// True for the types that are exchanged as bit patterns in [`Data::Small`].
    pub fn is_small(self) -> bool {
        self.bits() < 8 && self != Self::String
            || matches!(
                self,
                Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F8E8M0
            )
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.oip_name())
    }
}

/// What a graph's input or output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A tensor.
    Tensor,
    /// A list of tensors; [`ValueInfo`] tells of the elements.
    Sequence,
    /// A tensor, or nothing.
    OptionalTensor,
    /// A list of tensors, or nothing.
    OptionalSequence,
}

/// Name, type and shape of a graph's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name in the graph; requests and answers use it.
    pub name: String,
    /// Tensor, list, or either of them where it may be missing.
    pub kind: Kind,
    /// The element type.
    pub dtype: DType,
    /// One entry per dimension; `None` is a dimension that the request decides.
    pub shape: Vec<Option<usize>>,
    /// False when the file declares no shape at all: any shape is taken then, and `shape` is one free
    /// dimension.
    pub ranked: bool,
}

impl ValueInfo {
    /// A tensor whose rank is declared.
    pub fn tensor(name: impl Into<String>, dtype: DType, shape: Vec<Option<usize>>) -> Self {
        Self { name: name.into(), kind: Kind::Tensor, dtype, shape, ranked: true }
    }
}

/// What an input or output of a graph can be: mostly a tensor, in some graphs a list, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyValue {
    /// A tensor.
    Tensor(Value),
    /// A list of tensors of one element type.
    Sequence(DType, Vec<Value>),
    /// An optional value that is not there.
    Nothing,
}

/// The elements of a [`Value`], row-major.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Data {
    /// Elements of [`DType::Bool`].
    Bool(Vec<bool>),
    /// Elements of [`DType::U8`].
    U8(Vec<u8>),
    /// Elements of [`DType::U16`].
    U16(Vec<u16>),
    /// Elements of [`DType::U32`].
    U32(Vec<u32>),
    /// Elements of [`DType::U64`].
    U64(Vec<u64>),
    /// Elements of [`DType::I8`].
    I8(Vec<i8>),
    /// Elements of [`DType::I16`].
    I16(Vec<i16>),
    /// Elements of [`DType::I32`].
    I32(Vec<i32>),
    /// Elements of [`DType::I64`].
    I64(Vec<i64>),
    /// Elements of [`DType::F16`].
    F16(Vec<half::f16>),
    /// Elements of [`DType::BF16`].
    BF16(Vec<half::bf16>),
    /// Elements of [`DType::F32`].
    F32(Vec<f32>),
    /// Elements of [`DType::F64`].
    F64(Vec<f64>),
    /// Elements of [`DType::String`].
    String(Vec<String>),
    /// Elements of a type for which [`DType::is_small`] holds: one byte for each, with the element's
    /// bits at the low end and zeros above.
    Small(DType, Vec<u8>),
}

/// Runs `$body` with `$items` bound to the vector inside, whatever its type.
macro_rules! with_items {
    ($data:expr, $items:ident => $body:expr) => {
        match $data {
            Data::Bool($items) => $body,
            Data::U8($items) => $body,
            Data::U16($items) => $body,
            Data::U32($items) => $body,
            Data::U64($items) => $body,
            Data::I8($items) => $body,
            Data::I16($items) => $body,
            Data::I32($items) => $body,
            Data::I64($items) => $body,
            Data::F16($items) => $body,
            Data::BF16($items) => $body,
            Data::F32($items) => $body,
            Data::F64($items) => $body,
            Data::String($items) => $body,
            Data::Small(_, $items) => $body,
        }
    };
}

/// The variant that `$data` is, made of what `$body` gives for its vector `$items`.
macro_rules! same_variant {
    ($data:expr, $items:ident => $body:expr) => {
        match $data {
            Data::Bool($items) => Data::Bool($body),
            Data::U8($items) => Data::U8($body),
            Data::U16($items) => Data::U16($body),
            Data::U32($items) => Data::U32($body),
            Data::U64($items) => Data::U64($body),
            Data::I8($items) => Data::I8($body),
            Data::I16($items) => Data::I16($body),
            Data::I32($items) => Data::I32($body),
            Data::I64($items) => Data::I64($body),
            Data::F16($items) => Data::F16($body),
            Data::BF16($items) => Data::BF16($body),
            Data::F32($items) => Data::F32($body),
            Data::F64($items) => Data::F64($body),
            Data::String($items) => Data::String($body),
            Data::Small(dtype, $items) => Data::Small(*dtype, $body),
        }
    };
}

impl Data {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Bool(_) => DType::Bool,
            Self::U8(_) => DType::U8,
            Self::U16(_) => DType::U16,
            Self::U32(_) => DType::U32,
            Self::U64(_) => DType::U64,
            Self::I8(_) => DType::I8,
            Self::I16(_) => DType::I16,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::String(_) => DType::String,
            Self::Small(dtype, _) => *dtype,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        with_items!(self, items => items.len())
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the elements of `other`; false, and nothing done, when the types differ.
    fn append(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(into), Self::Bool(from)) => into.extend_from_slice(from),
            (Self::U8(into), Self::U8(from)) => into.extend_from_slice(from),
            (Self::U16(into), Self::U16(from)) => into.extend_from_slice(from),
            (Self::U32(into), Self::U32(from)) => into.extend_from_slice(from),
            (Self::U64(into), Self::U64(from)) => into.extend_from_slice(from),
            (Self::I8(into), Self::I8(from)) => into.extend_from_slice(from),
            (Self::I16(into), Self::I16(from)) => into.extend_from_slice(from),
            (Self::I32(into), Self::I32(from)) => into.extend_from_slice(from),
            (Self::I64(into), Self::I64(from)) => into.extend_from_slice(from),
            (Self::F16(into), Self::F16(from)) => into.extend_from_slice(from),
            (Self::BF16(into), Self::BF16(from)) => into.extend_from_slice(from),
            (Self::F32(into), Self::F32(from)) => into.extend_from_slice(from),
            (Self::F64(into), Self::F64(from)) => into.extend_from_slice(from),
            (Self::String(into), Self::String(from)) => into.extend_from_slice(from),
            (Self::Small(a, into), Self::Small(b, from)) if a == b => into.extend_from_slice(from),
            _ => return false,
        }
        true
    }

    /// An empty vector of the same type with room for `capacity` elements.
    fn empty_like(&self, capacity: usize) -> Self {
        same_variant!(self, _items => Vec::with_capacity(capacity))
    }

    /// Removes the first `count` elements and returns them; `count` is at most the length.
    fn take_front(&mut self, count: usize) -> Self {
        same_variant!(self, items => {
            let rest = items.split_off(count);
            std::mem::replace(items, rest)
        })
    }
}

/// A tensor on the host: a shape and as many elements as the shape says, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    shape: Vec<usize>,
    data: Data,
}

impl Value {
    /// Joins a shape with its elements. A scalar has the shape `[]` and one element.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Self, ShapeError> {
        let elements = element_count(&shape).ok_or_else(|| ShapeError::TooLarge { shape: shape.clone() })?;
        if elements != data.len() {
            return Err(ShapeError::Elements { shape, expected: elements, actual: data.len() });
        }
        Ok(Self { shape, data })
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Shape and elements, without a copy.
    pub fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape, self.data)
    }

    /// Joins values along axis 0. All must have the same type and the same dimensions after the first.
    pub fn concat(values: &[&Self]) -> Result<Self, ShapeError> {
        let [first, rest @ ..] = values else { return Err(ShapeError::NothingToConcat) };
        if first.shape.is_empty() {
            return Err(ShapeError::Scalar);
        }
        let elements = values.iter().map(|value| value.data.len()).sum();
        let mut data = first.data.empty_like(elements);
        data.append(&first.data);
        let mut shape = first.shape.clone();
        for value in rest {
            let same_rows = value.shape.len() == shape.len() && value.shape[1..] == shape[1..];
            if !same_rows || !data.append(&value.data) {
                return Err(ShapeError::Concat { first: first.describe(), other: value.describe() });
            }
            shape[0] += value.shape[0];
        }
        Ok(Self { shape, data })
    }

    /// Divides along axis 0 into values of `rows[0]`, `rows[1]`, ... rows: the inverse of
    /// [`Value::concat`]. The rows must add up to the first dimension.
    pub fn split(self, rows: &[usize]) -> Result<Vec<Self>, ShapeError> {
        let Some((&total, row_shape)) = self.shape.split_first() else { return Err(ShapeError::Scalar) };
        let wanted = rows.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
        if wanted != Some(total) {
            return Err(ShapeError::Rows { rows: rows.to_vec(), actual: total });
        }
        // Sound even where a dimension is 0: then every part has no element.
        let row_elements: usize = row_shape.iter().product();
        let part_shape = |count: usize| [&[count], row_shape].concat();
        if let [count] = rows {
            return Ok(vec![Self { shape: part_shape(*count), data: self.data }]);
        }
        let mut data = self.data;
        Ok(rows
            .iter()
            .map(|&count| Self { shape: part_shape(count), data: data.take_front(count * row_elements) })
            .collect())
    }

    /// Type and shape in words, for messages.
    fn describe(&self) -> String {
        format!("{} {:?}", self.dtype(), self.shape)
    }
}

/// The most dimensions of a tensor: code that walks over them may go one call deeper for each.
const MAX_RANK: usize = 64;

/// The product of the dimensions, or `None` when it does not fit.
///
/// Where a dimension is 0 the others are bounded as if it were 1: strides are computed from them, and
/// many operators walk along a dimension whether there is anything in it or not.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let bound = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length.max(1)))?;
    if shape.len() > MAX_RANK {
        return None;
    }
    if shape.contains(&0) { (bound <= MAX_TENSOR_BYTES / 8).then_some(0) } else { Some(bound) }
}
