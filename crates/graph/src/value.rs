//! A tensor on the host: what goes into a graph and what comes out of it.
//!
//! [`Value`] owns a shape and row-major data of one of the types of [`DType`]. It knows how to
//! join and divide along axis 0, which is all that request batching needs.

use crate::error::ShapeError;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// One truth value per element.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// UTF-8 text.
    String,
}

impl DType {
    /// All element types, in the order of the declaration.
    pub const ALL: [Self; 8] =
        [Self::Bool, Self::U8, Self::I8, Self::I32, Self::I64, Self::F32, Self::F64, Self::String];

    /// The name of the type in the Open Inference Protocol v2 (`FP32`, `INT64`, `BYTES`, ...).
    pub fn oip_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::String => "BYTES",
        }
    }

    /// The type that the Open Inference Protocol calls `name`; `None` for a name that no type here has.
    pub fn from_oip_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.oip_name() == name)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.oip_name())
    }
}

/// Name, type and shape of a graph's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name in the graph; requests and answers use it.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// One entry per dimension; `None` is a dimension that the request decides.
    pub shape: Vec<Option<usize>>,
}

/// The elements of a [`Value`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements of [`DType::Bool`].
    Bool(Vec<bool>),
    /// Elements of [`DType::U8`].
    U8(Vec<u8>),
    /// Elements of [`DType::I8`].
    I8(Vec<i8>),
    /// Elements of [`DType::I32`].
    I32(Vec<i32>),
    /// Elements of [`DType::I64`].
    I64(Vec<i64>),
    /// Elements of [`DType::F32`].
    F32(Vec<f32>),
    /// Elements of [`DType::F64`].
    F64(Vec<f64>),
    /// Elements of [`DType::String`].
    String(Vec<String>),
}

/// Runs `$body` with `$items` bound to the vector inside, whatever its type.
macro_rules! with_items {
    ($data:expr, $items:ident => $body:expr) => {
        match $data {
            Data::Bool($items) => $body,
            Data::U8($items) => $body,
            Data::I8($items) => $body,
            Data::I32($items) => $body,
            Data::I64($items) => $body,
            Data::F32($items) => $body,
            Data::F64($items) => $body,
            Data::String($items) => $body,
        }
    };
}

impl Data {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Bool(_) => DType::Bool,
            Self::U8(_) => DType::U8,
            Self::I8(_) => DType::I8,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::String(_) => DType::String,
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
            (Self::I8(into), Self::I8(from)) => into.extend_from_slice(from),
            (Self::I32(into), Self::I32(from)) => into.extend_from_slice(from),
            (Self::I64(into), Self::I64(from)) => into.extend_from_slice(from),
            (Self::F32(into), Self::F32(from)) => into.extend_from_slice(from),
            (Self::F64(into), Self::F64(from)) => into.extend_from_slice(from),
            (Self::String(into), Self::String(from)) => into.extend_from_slice(from),
            _ => return false,
        }
        true
    }

    /// An empty vector of the same type with room for `capacity` elements.
    fn empty_like(&self, capacity: usize) -> Self {
        match self {
            Self::Bool(_) => Self::Bool(Vec::with_capacity(capacity)),
            Self::U8(_) => Self::U8(Vec::with_capacity(capacity)),
            Self::I8(_) => Self::I8(Vec::with_capacity(capacity)),
            Self::I32(_) => Self::I32(Vec::with_capacity(capacity)),
            Self::I64(_) => Self::I64(Vec::with_capacity(capacity)),
            Self::F32(_) => Self::F32(Vec::with_capacity(capacity)),
            Self::F64(_) => Self::F64(Vec::with_capacity(capacity)),
            Self::String(_) => Self::String(Vec::with_capacity(capacity)),
        }
    }

    /// Removes the first `count` elements and returns them; `count` is at most the length.
    fn take_front(&mut self, count: usize) -> Self {
        macro_rules! take {
            ($items:ident, $variant:ident) => {{
                let rest = $items.split_off(count);
                Self::$variant(std::mem::replace($items, rest))
            }};
        }
        match self {
            Self::Bool(items) => take!(items, Bool),
            Self::U8(items) => take!(items, U8),
            Self::I8(items) => take!(items, I8),
            Self::I32(items) => take!(items, I32),
            Self::I64(items) => take!(items, I64),
            Self::F32(items) => take!(items, F32),
            Self::F64(items) => take!(items, F64),
            Self::String(items) => take!(items, String),
        }
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

/// The product of the dimensions, or `None` when it does not fit.
///
/// Dimensions that are 0 are left out of the overflow test on purpose: the product of the others
/// must fit too, because strides are computed from them.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let bound = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { bound })
}
