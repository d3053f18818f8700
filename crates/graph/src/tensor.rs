//! A tensor while a graph runs: burn's Flex primitive, or text.
//!
//! A [`FlexTensor`] knows its rank and element type at run time only, which is what an executor of
//! files needs. Text has no place in burn, so labels that are strings live beside it. Everything that
//! touches burn's storage directly is in this file.

use std::sync::Arc;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{BoolStore, Bytes, DType as BurnType, Element, Shape};
use half::{bf16, f16};

use crate::value::{DType, Data, Value, element_count};

/// The most memory that one tensor of a running graph may take. A file of a few bytes can ask for any
/// size (`Expand`, `ConstantOfShape`, `Tile`), and an allocation that fails would end the process.
///
/// Under a fuzzer, which needs thousands of files each second, all limits of size and work are smaller: an
/// operator that goes beyond the one goes beyond the other.
pub(crate) const MAX_TENSOR_BYTES: usize = if cfg!(fuzzing) { 1 << 22 } else { 1 << 30 };

/// The most steps that a node may take where attributes multiply its work: minutes of one core.
const MAX_WORK: usize = if cfg!(fuzzing) { 1 << 22 } else { 1 << 38 };

/// The most products that a convolution may add up by burn's kernels, which take many at a time: minutes of
/// one core.
const MAX_PRODUCTS: usize = if cfg!(fuzzing) { 1 << 26 } else { 1 << 43 };

/// Why a node could not do its work, in words.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) String);

/// Returns a [`Fault`] with a formatted message.
macro_rules! fault {
    ($($message:tt)*) => {
        return Err($crate::tensor::Fault(format!($($message)*)))
    };
}
pub(crate) use fault;

pub(crate) use crate::storage::{for_integers, for_storage};

/// An element type that burn stores as it is.
pub(crate) trait Item: Element + bytemuck::Pod + PartialOrd + Send + Sync {}

impl Item for f32 {}
impl Item for f64 {}
impl Item for f16 {}
impl Item for bf16 {}
impl Item for i64 {}
impl Item for i32 {}
impl Item for i16 {}
impl Item for i8 {}
impl Item for u64 {}
impl Item for u32 {}
impl Item for u16 {}
impl Item for u8 {}

/// How much text a tensor about to be made may still hold: the length of a string is not in its shape.
pub(crate) struct TextBudget {
    bytes: usize,
}

impl Default for TextBudget {
    fn default() -> Self {
        Self { bytes: MAX_TENSOR_BYTES }
    }
}

impl TextBudget {
    /// Takes a string of `length` bytes; a fault when all together would be too large.
    pub(crate) fn take(&mut self, length: usize) -> Result<(), Fault> {
        match self.bytes.checked_sub(length.saturating_add(size_of::<String>())) {
            Some(left) => self.bytes = left,
            None => fault!("a tensor of strings would be larger than {MAX_TENSOR_BYTES} bytes"),
        }
        Ok(())
    }

    /// Pieces of a text; a fault as soon as they are too many.
    pub(crate) fn pieces<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<&'a str>, Fault> {
        pieces.map(|piece| self.take(0).map(|()| piece)).collect()
    }

    /// The given number of strings; a fault when they would be too many even if all were empty.
    pub(crate) fn cells(&self, count: usize) -> Result<usize, Fault> {
        if count > self.bytes / size_of::<String>() {
            fault!("a tensor of {count} strings would be larger than {MAX_TENSOR_BYTES} bytes");
        }
        Ok(count)
    }
}

/// Text elements, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    shape: Shape,
    items: Arc<Vec<String>>,
}

impl Text {
    /// The elements.
    pub(crate) fn items(&self) -> &[String] {
        &self.items
    }
}

/// A tensor of any type, rank and size. A clone shares the elements.
#[derive(Clone, Debug)]
pub(crate) enum Tensor {
    /// Numbers and truth values.
    Dense(FlexTensor),
    /// Elements of a type that burn does not know, as bytes with the element's bits at the low end.
    Small(DType, FlexTensor),
    /// Strings.
    Text(Text),
}

impl Tensor {
    /// A tensor from row-major elements. The caller has computed both from the same sizes.
    pub(crate) fn from_items<E: Item>(shape: &[usize], items: Vec<E>) -> Self {
        Self::from_storage(burn_type(native_type::<E>()), shape, items)
    }

    /// A tensor of truth values, each stored as 0 or 1.
    pub(crate) fn from_bools(shape: &[usize], items: Vec<u8>) -> Self {
        Self::from_storage(burn_type(DType::Bool), shape, items)
    }

    /// A tensor of `dtype` whose storage type is `E`.
    pub(crate) fn of_type<E: Item>(dtype: DType, shape: &[usize], items: Vec<E>) -> Self {
        Self::stored(dtype, Self::flex(burn_type(dtype), shape, items))
    }

    /// The tensor of `dtype` with these elements: the inverse of [`Tensor::storage`].
    pub(crate) fn stored(dtype: DType, storage: FlexTensor) -> Self {
        if dtype.is_small() { Self::Small(dtype, storage) } else { Self::Dense(storage) }
    }

    /// A tensor of copies of strings; a fault when it would be too large.
    pub(crate) fn copied_text<'a>(
        shape: &[usize],
        strings: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<Self, Fault> {
        let mut budget = TextBudget::default();
        let mut copies = Vec::with_capacity(budget.cells(strings.len())?);
        for string in strings {
            budget.take(string.len())?;
            copies.push(string.clone());
        }
        Ok(Self::from_text(shape, copies))
    }

    /// A tensor of strings.
    pub(crate) fn from_text(shape: &[usize], items: Vec<String>) -> Self {
        Self::Text(Text { shape: Shape::from(shape.to_vec()), items: Arc::new(items) })
    }

    fn from_storage<E: Item>(dtype: BurnType, shape: &[usize], items: Vec<E>) -> Self {
        Self::Dense(Self::flex(dtype, shape, items))
    }

    fn flex<E: Item>(dtype: BurnType, shape: &[usize], items: Vec<E>) -> FlexTensor {
        debug_assert_eq!(element_count(shape), Some(items.len()), "shape {shape:?}");
        let layout = Layout::contiguous(shape_of(shape));
        FlexTensor::new(Bytes::from_elems(items), layout, dtype)
    }

    /// The length of each dimension.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(dense) | Self::Small(_, dense) => dense.layout().shape(),
            Self::Text(text) => &text.shape,
        }
    }

    /// The number of dimensions.
    pub(crate) fn rank(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// How much it counts towards a limit in elements: a string counts by its bytes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Dense(_) | Self::Small(..) => self.len(),
            Self::Text(text) => {
                text.items.iter().map(|item| (item.len() + size_of::<String>()) / 8).sum::<usize>()
            }
        }
    }

    /// Where the elements are stored, and the bytes of that store. Views of one store are at one place.
    pub(crate) fn place(&self) -> (usize, usize) {
        match self {
            Self::Dense(dense) | Self::Small(_, dense) => {
                (dense.bytes().as_ptr().addr(), dense.bytes().len())
            }
            Self::Text(text) => (Arc::as_ptr(&text.items).addr(), self.weight().saturating_mul(8)),
        }
    }

    /// The element type.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Dense(dense) => type_of(dense),
            Self::Small(dtype, _) => *dtype,
            Self::Text(_) => DType::String,
        }
    }

    /// True where no other tensor shares the elements.
    pub(crate) fn is_unique(&self) -> bool {
        match self {
            Self::Dense(dense) | Self::Small(_, dense) => dense.is_unique(),
            Self::Text(text) => Arc::strong_count(&text.items) == 1,
        }
    }

    /// Type and shape in words, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} {:?}", self.dtype(), self.shape())
    }

    /// burn's primitive of numbers or truth values; a fault for text and for types burn does not know.
    pub(crate) fn dense(self) -> Result<FlexTensor, Fault> {
        match self {
            Self::Dense(dense) => Ok(dense),
            Self::Small(dtype, _) => Err(Fault(format!("the operator does not take {dtype}"))),
            Self::Text(_) => Err(Fault("the operator does not take strings".to_owned())),
        }
    }

    /// The elements as they are stored, for operators that only move them: for a type that burn does not
    /// know its bits as `u8`. A fault for text.
    pub(crate) fn storage(self) -> Result<FlexTensor, Fault> {
        match self {
            Self::Dense(dense) | Self::Small(_, dense) => Ok(dense),
            Self::Text(_) => Err(Fault("the operator does not take strings".to_owned())),
        }
    }

    /// burn's primitive of a floating-point tensor; a fault for any other type.
    pub(crate) fn float(self) -> Result<FlexTensor, Fault> {
        match self {
            Self::Dense(dense) if matches!(type_of(&dense), DType::F32 | DType::F64) => Ok(dense),
            other => Err(Fault(format!("a floating-point tensor is needed, not {}", other.describe()))),
        }
    }

    /// All elements as `i64`; a fault for other than integers.
    pub(crate) fn to_i64s(&self) -> Result<Vec<i64>, Fault> {
        if let Self::Dense(dense) = self {
            let dense = contiguous(dense);
            match type_of(&dense) {
                DType::I64 => return Ok(items::<i64>(&dense).to_vec()),
                DType::I32 => return Ok(items::<i32>(&dense).iter().map(|&i| i.into()).collect()),
                DType::I16 => return Ok(items::<i16>(&dense).iter().map(|&i| i.into()).collect()),
                DType::I8 => return Ok(items::<i8>(&dense).iter().map(|&i| i.into()).collect()),
                DType::U32 => return Ok(items::<u32>(&dense).iter().map(|&i| i.into()).collect()),
                DType::U16 => return Ok(items::<u16>(&dense).iter().map(|&i| i.into()).collect()),
                DType::U8 => return Ok(items::<u8>(&dense).iter().map(|&i| i.into()).collect()),
                DType::U64 => {
                    let wide = items::<u64>(&dense).iter().map(|&i| i64::try_from(i).unwrap_or(i64::MAX));
                    return Ok(wide.collect());
                }
                _ => {}
            }
        }
        Err(Fault(format!("an integer tensor is needed, not {}", self.describe())))
    }

    /// All elements as `f64`, truth as 0 and 1; a fault for text.
    pub(crate) fn to_f64s(&self) -> Result<Vec<f64>, Fault> {
        match crate::ops::cast::cast(self.clone(), DType::F64)? {
            Self::Dense(dense) if !matches!(self, Self::Text(_)) => {
                Ok(items::<f64>(&contiguous(&dense)).to_vec())
            }
            _ => Err(Fault("numbers are needed, not strings".to_owned())),
        }
    }

    /// The same elements under another shape of the same size.
    pub(crate) fn reshape(self, shape: &[usize]) -> Result<Self, Fault> {
        if element_count(shape) != Some(self.len()) {
            fault!("{} cannot take the shape {shape:?}", self.describe());
        }
        Ok(match self {
            Self::Dense(dense) => Self::Dense(dense.reshape(shape_of(shape))),
            Self::Small(dtype, dense) => Self::Small(dtype, dense.reshape(shape_of(shape))),
            Self::Text(text) => Self::Text(Text { shape: shape_of(shape), items: text.items }),
        })
    }

    /// The same tensor; a view that is small beside what is stored becomes a copy of its elements.
    pub(crate) fn compact(self) -> Self {
        let small = |dense: &FlexTensor| {
            dense.bytes().len() / 2 > dense.layout().num_elements() * dense.dtype().size()
        };
        match self {
            Self::Dense(dense) if small(&dense) => Self::Dense(dense.to_contiguous()),
            Self::Small(dtype, dense) if small(&dense) => Self::Small(dtype, dense.to_contiguous()),
            other => other,
        }
    }

    /// A view that repeats dimensions of length 1, as in NumPy's broadcasting; text is copied.
    pub(crate) fn broadcast_to(self, shape: &[usize]) -> Result<Self, Fault> {
        if self.shape() == shape {
            return Ok(self);
        }
        if broadcast_shape(self.shape(), shape)? != shape {
            fault!("{} cannot be repeated to the shape {shape:?}", self.describe());
        }
        Ok(match self {
            Self::Dense(dense) => Self::Dense(expand(&dense, shape)),
            Self::Small(dtype, dense) => Self::Small(dtype, expand(&dense, shape)),
            Self::Text(text) => {
                // The strides of a numeric view say which string goes where.
                let positions: Vec<i64> = (0..).take(text.items.len()).collect();
                let view = Self::from_items(&text.shape, positions).broadcast_to(shape)?;
                let positions = view.to_i64s()?;
                let pick = |&at: &i64| &text.items[usize::try_from(at).unwrap_or(0)];
                Self::copied_text(shape, positions.iter().map(pick))?
            }
        })
    }
}

impl From<FlexTensor> for Tensor {
    fn from(dense: FlexTensor) -> Self {
        Self::Dense(dense)
    }
}

impl From<Value> for Tensor {
    fn from(value: Value) -> Self {
        let (shape, data) = value.into_parts();
        match data {
            Data::Bool(items) => Self::from_bools(&shape, items.into_iter().map(u8::from).collect()),
            Data::U8(items) => Self::from_items(&shape, items),
            Data::U16(items) => Self::from_items(&shape, items),
            Data::U32(items) => Self::from_items(&shape, items),
            Data::U64(items) => Self::from_items(&shape, items),
            Data::I8(items) => Self::from_items(&shape, items),
            Data::I16(items) => Self::from_items(&shape, items),
            Data::F16(items) => Self::from_items(&shape, items),
            Data::BF16(items) => Self::from_items(&shape, items),
            Data::Small(dtype, items) => Self::of_type(dtype, &shape, items),
            Data::I32(items) => Self::from_items(&shape, items),
            Data::I64(items) => Self::from_items(&shape, items),
            Data::F32(items) => Self::from_items(&shape, items),
            Data::F64(items) => Self::from_items(&shape, items),
            Data::String(items) => Self::from_text(&shape, items),
        }
    }
}

impl TryFrom<Tensor> for Value {
    type Error = Fault;

    fn try_from(tensor: Tensor) -> Result<Self, Fault> {
        let shape = tensor.shape().to_vec();
        check_size(&shape)?;
        let dtype = tensor.dtype();
        let data = match tensor {
            Tensor::Text(text) => Data::String(Arc::unwrap_or_clone(text.items)),
            Tensor::Dense(dense) => match dtype {
                DType::Bool => {
                    Data::Bool(into_vec::<u8>(dense)?.into_iter().map(|truth| truth != 0).collect())
                }
                DType::U8 => Data::U8(into_vec(dense)?),
                DType::U16 => Data::U16(into_vec(dense)?),
                DType::U32 => Data::U32(into_vec(dense)?),
                DType::U64 => Data::U64(into_vec(dense)?),
                DType::I8 => Data::I8(into_vec(dense)?),
                DType::I16 => Data::I16(into_vec(dense)?),
                DType::I32 => Data::I32(into_vec(dense)?),
                DType::I64 => Data::I64(into_vec(dense)?),
                DType::F16 => Data::F16(into_vec(dense)?),
                DType::BF16 => Data::BF16(into_vec(dense)?),
                DType::F64 => Data::F64(into_vec(dense)?),
                _ => Data::F32(into_vec(dense)?),
            },
            Tensor::Small(dtype, bits) => Data::Small(dtype, into_vec(bits)?),
        };
        Self::new(shape, data).map_err(|error| Fault(error.to_string()))
    }
}

/// burn's shape of a slice of lengths.
pub(crate) fn shape_of(shape: &[usize]) -> Shape {
    Shape::from(shape.to_vec())
}

/// The element type of a primitive.
pub(crate) fn type_of(dense: &FlexTensor) -> DType {
    from_burn(dense.dtype())
}

fn from_burn(dtype: BurnType) -> DType {
    match dtype {
        BurnType::F64 => DType::F64,
        BurnType::F16 => DType::F16,
        BurnType::BF16 => DType::BF16,
        BurnType::I64 => DType::I64,
        BurnType::I32 => DType::I32,
        BurnType::I16 => DType::I16,
        BurnType::I8 => DType::I8,
        BurnType::U64 => DType::U64,
        BurnType::U32 => DType::U32,
        BurnType::U16 => DType::U16,
        BurnType::U8 => DType::U8,
        BurnType::Bool(_) => DType::Bool,
        // No other type is ever made here.
        BurnType::F32 | BurnType::Flex32 | BurnType::QFloat(_) => DType::F32,
    }
}

/// burn's name of the type in which elements are stored; text has none and never gets here.
fn burn_type(dtype: DType) -> BurnType {
    match dtype {
        DType::F32 => BurnType::F32,
        DType::F64 => BurnType::F64,
        DType::F16 => BurnType::F16,
        DType::BF16 => BurnType::BF16,
        DType::I64 => BurnType::I64,
        DType::I32 => BurnType::I32,
        DType::I16 => BurnType::I16,
        DType::I8 => BurnType::I8,
        DType::U64 => BurnType::U64,
        DType::U32 => BurnType::U32,
        DType::U16 => BurnType::U16,
        DType::Bool => BurnType::Bool(BoolStore::Native),
        _ => BurnType::U8,
    }
}

/// The element type whose storage is `E`.
pub(crate) fn native_type<E: Item>() -> DType {
    from_burn(E::dtype())
}

/// The same tensor with row-major elements side by side; no copy when it is so already.
pub(crate) fn contiguous(dense: &FlexTensor) -> FlexTensor {
    if dense.is_contiguous() { dense.clone() } else { dense.to_contiguous() }
}

/// The elements of a tensor that is [`contiguous`], row-major.
pub(crate) fn items<E: Item>(dense: &FlexTensor) -> &[E] {
    let start = dense.layout().start_offset();
    let count = dense.layout().num_elements();
    &dense.storage::<E>()[start..start + count]
}

/// The elements for change in place, or `None` when they are shared or not side by side.
pub(crate) fn items_mut<E: Item>(dense: &mut FlexTensor) -> Option<&mut [E]> {
    let (start, end) = dense.layout().contiguous_offsets()?;
    dense.try_storage_mut::<E>()?.get_mut(start..end)
}

/// The elements as a vector, without a copy where the tensor alone owns them.
pub(crate) fn into_vec<E: Item>(dense: FlexTensor) -> Result<Vec<E>, Fault> {
    if native_type::<E>() != type_of(&dense) {
        // Truth values: burn hands out `bool` only, the storage is bytes.
        return Ok(items::<E>(&contiguous(&dense)).to_vec());
    }
    dense
        .into_data()
        .try_into_vec::<E>()
        .map_err(|error| Fault(format!("burn cannot give the elements: {error}")))
}

/// A view in which dimensions of length 1 are repeated; the caller has checked that the shape fits.
fn expand(dense: &FlexTensor, shape: &[usize]) -> FlexTensor {
    let layout = dense.layout();
    let added = shape.len() - layout.num_dims();
    let strides = (0..shape.len())
        .map(|axis| match axis.checked_sub(added) {
            Some(own) if layout.shape()[own] == shape[axis] => layout.strides()[own],
            _ => 0,
        })
        .collect();
    let view = Layout::new(shape_of(shape), strides, layout.start_offset());
    FlexTensor::from_arc(dense.data_arc(), view, dense.dtype())
}

/// The shape that two tensors take together, by NumPy's rules.
pub(crate) fn broadcast_shape(left: &[usize], right: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = left.len().max(right.len());
    let length = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(own) => shape[own],
        None => 1,
    };
    (0..rank)
        .map(|axis| match (length(left, axis), length(right, axis)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(Fault(format!("the shapes {left:?} and {right:?} do not go together"))),
        })
        .collect()
}

/// The number of elements of a tensor about to be made; a fault when it would be too large.
pub(crate) fn check_size(shape: &[usize]) -> Result<usize, Fault> {
    // The largest element is 8 bytes: one limit for all types keeps the rule simple.
    match element_count(shape) {
        Some(count) if count <= MAX_TENSOR_BYTES / 8 => Ok(count),
        _ => Err(Fault(format!(
            "a tensor of the shape {shape:?} would be larger than {} elements",
            MAX_TENSOR_BYTES / 8
        ))),
    }
}

/// Numbers for a message, of which there may be any number: the first of them.
pub(crate) fn shown(numbers: &[i64]) -> String {
    match numbers.get(..16) {
        Some(first) if numbers.len() > 16 => format!("{first:?} and {} more", numbers.len() - 16),
        _ => format!("{numbers:?}"),
    }
}

/// A fault where the steps that a node would take are too many: their number is that product. Sizes bound
/// what a node stores; an attribute can ask for more work than that.
pub(crate) fn check_work(factors: &[usize]) -> Result<(), Fault> {
    check_steps(factors, MAX_WORK)
}

/// The same for products that one of burn's kernels adds up.
pub(crate) fn check_products(factors: &[usize]) -> Result<(), Fault> {
    check_steps(factors, MAX_PRODUCTS)
}

fn check_steps(factors: &[usize], most: usize) -> Result<(), Fault> {
    let steps = factors.iter().fold(1usize, |product, &factor| product.saturating_mul(factor));
    if steps > most {
        fault!("{steps} steps of work for one node are more than {most}");
    }
    Ok(())
}

/// The position of `axis` in a tensor of `rank` dimensions, where negative counts from the end.
pub(crate) fn resolve_axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let signed_rank = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_start = if axis < 0 { axis.saturating_add(signed_rank) } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| Fault(format!("axis {axis} is out of range for {rank} dimensions")))
}

/// A length as ONNX writes it.
pub(crate) fn to_i64(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
