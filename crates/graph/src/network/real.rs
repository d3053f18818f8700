//! A floating-point tensor on a backend, and the arithmetic of it.
//!
//! burn's primitives have a rank that is known at run time only, and differ in what they check. Everything
//! here checks shapes and types first, so that what does not fit is a [`Fault`] and no panic inside of a
//! backend. Backends have no tensors without dimensions: a scalar is stored with one dimension of length 1.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{
    Backend, DType as BurnType, FloatDType, Shape, TensorData, TensorMetadata, get_or_init_device_settings,
    try_read_sync,
};

use crate::tensor::{
    Fault, Tensor, broadcast_shape, check_size, contiguous, fault, into_vec, items, shape_of,
};
use crate::value::{DType, element_count};

/// A tensor of `FP32` or `FP64` numbers on a backend. A clone shares the elements.
#[derive(Clone, Debug)]
pub(super) struct Real<B: Backend> {
    pub(super) primitive: FloatTensor<B>,
    pub(super) shape: Vec<usize>,
}

/// The shape in which a backend stores a tensor.
pub(super) fn stored_shape(shape: &[usize]) -> Shape {
    if shape.is_empty() { shape_of(&[1]) } else { shape_of(shape) }
}

/// The element type of numbers on a backend; a fault for what is neither `FP32` nor `FP64`.
fn dtype_of(dtype: BurnType) -> Result<DType, Fault> {
    match dtype {
        BurnType::F64 => Ok(DType::F64),
        BurnType::F32 | BurnType::Flex32 => Ok(DType::F32),
        other => Err(Fault(format!("FP32 or FP64 numbers are needed on the backend, not {other:?}"))),
    }
}

impl<B: Backend> Real<B> {
    /// Of a primitive as it is.
    pub(super) fn new(primitive: FloatTensor<B>) -> Result<Self, Fault> {
        dtype_of(primitive.dtype())?;
        let shape = primitive.shape().iter().copied().collect();
        Ok(Self { primitive, shape })
    }

    /// Of a primitive that holds one number, which stands for a scalar.
    pub(super) fn scalar(self) -> Result<Self, Fault> {
        self.reshape(&[])
    }

    /// Brings a host tensor to the device.
    pub(super) fn from_host(tensor: &Tensor, device: &B::Device) -> Result<Self, Fault> {
        let shape = tensor.shape().to_vec();
        check_size(&shape)?;
        let dense = contiguous(&tensor.clone().float()?);
        let data = match tensor.dtype() {
            DType::F64 => TensorData::new(items::<f64>(&dense).to_vec(), stored_shape(&shape)),
            _ => TensorData::new(items::<f32>(&dense).to_vec(), stored_shape(&shape)),
        };
        Ok(Self { primitive: B::float_from_data(data, device), shape })
    }

    /// A copy on the host.
    pub(super) fn to_host(&self) -> Result<Tensor, Fault> {
        let failed = |reason: String| Fault(format!("the backend cannot give the elements: {reason}"));
        let data = try_read_sync(B::float_into_data(self.primitive.clone()))
            .ok_or_else(|| failed("it cannot wait for them".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        let shape = &self.shape;
        if Some(data.num_elements()) != element_count(shape) {
            fault!("the backend gives {} elements of a tensor of {shape:?}", data.num_elements());
        }
        match self.dtype() {
            DType::F64 => data.try_into_vec_as::<f64>().map(|all| Tensor::from_items(shape, all)),
            _ => data.try_into_vec_as::<f32>().map(|all| Tensor::from_items(shape, all)),
        }
        .map_err(|error| failed(error.to_string()))
    }

    /// The primitive; a scalar's has one dimension.
    pub(super) fn into_primitive(self) -> FloatTensor<B> {
        self.primitive
    }

    /// The length of each dimension.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of dimensions.
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// `FP32` or `FP64`.
    pub(super) fn dtype(&self) -> DType {
        if self.primitive.dtype() == BurnType::F64 { DType::F64 } else { DType::F32 }
    }

    pub(super) fn device(&self) -> B::Device {
        self.primitive.device()
    }

    /// Type and shape in words, for messages.
    pub(super) fn describe(&self) -> String {
        format!("{} {:?}", self.dtype(), self.shape)
    }

    /// A function of each element.
    pub(super) fn map(self, function: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>) -> Self {
        Self { primitive: function(self.primitive), shape: self.shape }
    }

    /// The same numbers, through which no gradient goes.
    pub(super) fn constant(self) -> Self {
        self.map(|x| B::float_set_require_grad(x, false))
    }

    /// As many times the number as `shape` says, of this tensor's type and on its device.
    pub(super) fn full(&self, shape: &[usize], number: f64) -> Result<Self, Fault> {
        check_size(shape)?;
        let dtype = FloatDType::from(self.primitive.dtype());
        let primitive = B::float_full(stored_shape(shape), number.into(), &self.device(), dtype);
        Ok(Self { primitive, shape: shape.to_vec() })
    }

    /// Numbers of this tensor's type and on its device.
    pub(super) fn numbers(&self, shape: &[usize], numbers: Vec<f64>) -> Result<Self, Fault> {
        let tensor = crate::ops::cast::cast(Tensor::from_items(shape, numbers), self.dtype())?;
        Self::from_host(&tensor, &self.device())
    }

    /// The same numbers in another type, `FP32` or `FP64`.
    pub(super) fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        let wanted = if dtype == DType::F64 { FloatDType::F64 } else { FloatDType::F32 };
        self.map(|x| B::float_cast(x, wanted))
    }

    /// The sum with a number.
    pub(super) fn plus(self, number: f64) -> Self {
        self.map(|x| B::float_add_scalar(x, number.into()))
    }

    /// The product with a number.
    pub(super) fn times(self, number: f64) -> Self {
        self.map(|x| B::float_mul_scalar(x, number.into()))
    }

    /// One less the number.
    pub(super) fn complement(self) -> Self {
        self.negated().plus(1.0)
    }

    /// Minus the number.
    pub(super) fn negated(self) -> Self {
        self.map(B::float_neg)
    }

    /// The product with itself.
    pub(super) fn squared(self) -> Self {
        self.map(|x| B::float_mul(x.clone(), x))
    }

    /// 1 / (1 + e^-x).
    pub(super) fn sigmoid(self) -> Self {
        // burn's general kernel goes through FP32; its logarithm keeps the type.
        if self.dtype() == DType::F64 {
            self.map(|x| B::float_exp(B::log_sigmoid(x)))
        } else {
            self.map(B::sigmoid)
        }
    }

    /// ln(1 + e^x).
    pub(super) fn softplus(self) -> Self {
        self.map(|x| B::float_neg(B::log_sigmoid(B::float_neg(x))))
    }

    /// The primitive with dimensions of length 1 before its own.
    pub(super) fn ranked(self, rank: usize) -> Result<FloatTensor<B>, Fault> {
        let mut shape = vec![1; rank.saturating_sub(self.rank())];
        shape.extend_from_slice(&self.shape);
        Ok(self.reshape(&shape)?.primitive)
    }

    fn combine(
        self,
        other: Self,
        function: fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
    ) -> Result<Self, Fault> {
        if self.dtype() != other.dtype() {
            fault!("both inputs must have one type, not {} and {}", self.dtype(), other.dtype());
        }
        let shape = broadcast_shape(&self.shape, &other.shape)?;
        check_size(&shape)?;
        let (left, right) = (self.ranked(shape.len())?, other.ranked(shape.len())?);
        Ok(Self { primitive: function(left, right), shape })
    }

    /// The sum.
    pub(super) fn add(self, other: Self) -> Result<Self, Fault> {
        self.combine(other, B::float_add)
    }

    /// The difference.
    pub(super) fn subtract(self, other: Self) -> Result<Self, Fault> {
        self.combine(other, B::float_sub)
    }

    /// The product.
    pub(super) fn multiply(self, other: Self) -> Result<Self, Fault> {
        self.combine(other, B::float_mul)
    }

    /// The quotient.
    pub(super) fn divide(self, other: Self) -> Result<Self, Fault> {
        self.combine(other, B::float_div)
    }

    /// This to the power of the other.
    pub(super) fn power(self, other: Self) -> Result<Self, Fault> {
        let shape = broadcast_shape(&self.shape, &other.shape)?;
        self.expand(&shape)?.combine(other.expand(&shape)?, B::float_powf)
    }

    /// True where an element is greater than the number.
    pub(super) fn greater(&self, number: f64) -> BoolTensor<B> {
        B::float_greater_elem(self.primitive.clone(), number.into(), self.truth_type())
    }

    /// True where an element is less than the number.
    pub(super) fn less(&self, number: f64) -> BoolTensor<B> {
        B::float_lower_elem(self.primitive.clone(), number.into(), self.truth_type())
    }

    /// True where an element is the number.
    pub(super) fn equals(&self, number: f64) -> BoolTensor<B> {
        B::float_equal_elem(self.primitive.clone(), number.into(), self.truth_type())
    }

    /// True where an element is greater than that of another tensor of the same shape, or where that is none.
    pub(super) fn exceeded_by(&self, other: &Self) -> Result<BoolTensor<B>, Fault> {
        self.same_shape(other)?;
        let truth = self.truth_type();
        let greater = B::float_greater(other.primitive.clone(), self.primitive.clone(), truth);
        Ok(B::bool_or(greater, B::float_is_nan(other.primitive.clone(), truth)))
    }

    /// True where an element is less than that of another tensor of the same shape.
    pub(super) fn less_than(&self, other: &Self) -> Result<BoolTensor<B>, Fault> {
        self.same_shape(other)?;
        Ok(B::float_lower(self.primitive.clone(), other.primitive.clone(), self.truth_type()))
    }

    fn truth_type(&self) -> burn::backend::BoolDType {
        get_or_init_device_settings::<B>(&self.device()).bool_dtype
    }

    fn same_shape(&self, other: &Self) -> Result<(), Fault> {
        if self.shape != other.shape || self.dtype() != other.dtype() {
            fault!("{} and {} must be alike", self.describe(), other.describe());
        }
        Ok(())
    }

    /// The truth values, row-major and as many as this tensor's elements, for [`Real::choose`].
    pub(super) fn mask(&self, truths: Vec<bool>) -> Result<BoolTensor<B>, Fault> {
        if truths.len() != self.len() {
            fault!("{} truth values do not fit {}", truths.len(), self.describe());
        }
        let data = TensorData::new(truths, stored_shape(&self.shape));
        let data = data.convert_dtype(BurnType::Bool(self.truth_type()));
        Ok(B::bool_from_data(data, &self.device()))
    }

    /// The other tensor's elements where the mask is true. All have one shape.
    pub(super) fn choose(self, mask: BoolTensor<B>, other: Self) -> Result<Self, Fault> {
        self.same_shape(&other)?;
        Ok(Self { primitive: B::float_mask_where(self.primitive, mask, other.primitive), shape: self.shape })
    }

    /// The number where the mask is true.
    pub(super) fn fill(self, mask: BoolTensor<B>, number: f64) -> Self {
        self.map(|x| B::float_mask_fill(x, mask, number.into()))
    }

    /// The elements kept within bounds.
    pub(super) fn clamp(self, low: f64, high: f64) -> Self {
        let (below, above) = (self.less(low), self.greater(high));
        self.fill(below, low).fill(above, high)
    }

    /// The sum along dimensions, which stay with the length 1.
    pub(super) fn sum(self, axes: &[usize]) -> Result<Self, Fault> {
        let mut total = self;
        for &axis in axes {
            if total.length(axis)? != 1 {
                let mut shape = total.shape.clone();
                shape[axis] = 1;
                if total.len() == 0 {
                    total = total.full(&shape, 0.0)?;
                } else {
                    total = Self { primitive: B::float_sum_dim(total.primitive, axis), shape };
                }
            }
        }
        Ok(total)
    }

    /// The mean along dimensions, which stay with the length 1.
    pub(super) fn mean(self, axes: &[usize]) -> Result<Self, Fault> {
        let lengths: Result<Vec<usize>, Fault> = axes.iter().map(|&axis| self.length(axis)).collect();
        let count: usize = lengths?.into_iter().product();
        Ok(self.sum(axes)?.times(1.0 / count as f64))
    }

    /// The largest along a dimension, which stays with the length 1. A gradient goes to one of the largest.
    pub(super) fn largest(self, axis: usize) -> Result<Self, Fault> {
        if self.length(axis)? == 0 {
            fault!("{} has no largest element along dimension {axis}", self.describe());
        }
        let mut shape = self.shape.clone();
        shape[axis] = 1;
        Ok(Self { primitive: B::float_max_dim(self.primitive, axis), shape })
    }

    /// The product of stacks of matrices, the last two dimensions of at least two, by NumPy's rules.
    pub(super) fn product(self, other: Self) -> Result<Self, Fault> {
        let (rank, other_rank) = (self.rank(), other.rank());
        let (Some(split), Some(other_split)) = (rank.checked_sub(2), other_rank.checked_sub(2)) else {
            fault!("matrices are needed, not {} and {}", self.describe(), other.describe());
        };
        let ((stack, matrix), (other_stack, other_matrix)) =
            (self.shape.split_at(split), other.shape.split_at(other_split));
        if self.dtype() != other.dtype() || matrix[1] != other_matrix[0] {
            fault!("{} times {} is not possible", self.describe(), other.describe());
        }
        let (rows, inner, columns) = (matrix[0], matrix[1], other_matrix[1]);
        let common = broadcast_shape(stack, other_stack)?;
        let shape = [&common[..], &[rows, columns]].concat();
        if check_size(&shape)? == 0 || inner == 0 {
            return self.full(&shape, 0.0);
        }
        // A stack of rows against one matrix is one product of a taller matrix.
        if other_rank == 2 && rank > 2 {
            let tall = self.flat()?.reshape(&[shape.iter().product::<usize>() / columns, inner])?;
            let primitive = B::float_matmul(tall.primitive, other.primitive);
            return Self { primitive, shape: vec![shape.iter().product::<usize>() / columns, columns] }
                .reshape(&shape);
        }
        let left = self.expand(&[&common[..], &[rows, inner]].concat())?;
        let right = other.expand(&[&common[..], &[inner, columns]].concat())?;
        Ok(Self { primitive: B::float_matmul(left.primitive, right.primitive), shape })
    }

    /// The result of a kernel of burn whose shape is known; a fault where it gives another one.
    pub(super) fn made(primitive: FloatTensor<B>, shape: &[usize]) -> Result<Self, Fault> {
        let real = Self::new(primitive)?;
        if real.shape != shape {
            fault!("the backend gives the shape {:?} instead of {shape:?}", real.shape);
        }
        Ok(real)
    }
}

/// The elements of a host tensor as truth values.
pub(super) fn truths(tensor: Tensor) -> Result<Vec<bool>, Fault> {
    if tensor.dtype() != DType::Bool {
        fault!("truth values are needed, not {}", tensor.describe());
    }
    Ok(into_vec::<u8>(tensor.dense()?)?.into_iter().map(|truth| truth != 0).collect())
}
