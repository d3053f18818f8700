//! Matrix products.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::{AsPrimitive, PrimInt, WrappingAdd, WrappingMul};

use super::activation::map;
use super::epilogue::finished_product;
use super::{Activation, Built, Entry, Inputs, NUMBERS, Operator, Outputs};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, broadcast_shape, check_size, contiguous, fault, for_integers, items, native_type,
    type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("MatMul", 1, NUMBERS, |_| Ok(Box::new(MatMul { activation: None }))),
    Entry::widening("Gemm", 1, NUMBERS, gemm),
];

/// A product, to which a load may append a sum (input 2) and an activation.
struct MatMul {
    activation: Option<Activation>,
}

impl Operator for MatMul {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (left, right) = (inputs.take(0)?, inputs.take(1)?);
        let bias = inputs.optional(2).map(Tensor::dense).transpose()?;
        Ok(finished_product(stacked(left, right)?.dense()?, bias, self.activation)?.into())
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.activation.replace(activation).is_none()
    }
}

/// The product by NumPy's rules for vectors and stacks of matrices.
pub(super) fn stacked(left: Tensor, right: Tensor) -> Result<Tensor, Fault> {
    let (left_rank, right_rank) = (left.rank(), right.rank());
    if left_rank == 0 || right_rank == 0 {
        fault!("a scalar has no matrix product");
    }
    // A vector is a row on the left and a column on the right; the added dimension is taken away after.
    let left = if left_rank == 1 { prefixed(left)? } else { left };
    let right = if right_rank == 1 { suffixed(right)? } else { right };
    let product = Tensor::Dense(product(&left.dense()?, &right.dense()?)?);
    if left_rank > 1 && right_rank > 1 {
        return Ok(product);
    }
    let shape = without_added(product.shape(), left_rank, right_rank);
    product.reshape(&shape)
}

/// The shape of a product without the dimensions that were added to vectors.
pub(crate) fn without_added(product: &[usize], left_rank: usize, right_rank: usize) -> Vec<usize> {
    let mut shape = product.to_vec();
    let columns = shape.pop().unwrap_or(1);
    if left_rank == 1 {
        shape.pop();
    }
    if right_rank > 1 {
        shape.push(columns);
    }
    shape
}

fn prefixed(vector: Tensor) -> Result<Tensor, Fault> {
    let length = vector.len();
    vector.reshape(&[1, length])
}

fn suffixed(vector: Tensor) -> Result<Tensor, Fault> {
    let length = vector.len();
    vector.reshape(&[length, 1])
}

/// The product of two tensors of at least two dimensions, after the checks that burn would assert on.
pub(super) fn product(left: &FlexTensor, right: &FlexTensor) -> Result<FlexTensor, Fault> {
    let (left_shape, right_shape) = (left.layout().shape(), right.layout().shape());
    let (left_stack, left_matrix) = left_shape.split_at(left_shape.len() - 2);
    let (right_stack, right_matrix) = right_shape.split_at(right_shape.len() - 2);
    let dtype = type_of(left);
    if dtype != type_of(right) {
        fault!("both inputs must have one type, not {dtype} and {}", type_of(right));
    }
    if left_matrix[1] != right_matrix[0] {
        fault!(
            "{left_shape:?} times {right_shape:?}: {} columns meet {} rows",
            left_matrix[1],
            right_matrix[0]
        );
    }
    let mut shape = broadcast_shape(left_stack, right_stack)?;
    shape.extend([left_matrix[0], right_matrix[1]]);
    let count = check_size(&shape)?;
    match dtype {
        DType::F32 | DType::F64 if count == 0 || left_matrix[1] == 0 => {
            super::cast::cast(Tensor::from_items(&shape, vec![0f32; count]), dtype)?.dense()
        }
        // A stack of rows against one matrix is one product of a taller matrix.
        DType::F32 | DType::F64 if right_stack.is_empty() && !left_stack.is_empty() => {
            let rows = left_stack.iter().product::<usize>() * left_matrix[0];
            let tall = Tensor::Dense(left.clone()).reshape(&[rows, left_matrix[1]])?.dense()?;
            Tensor::Dense(Flex::float_matmul(tall, right.clone())).reshape(&shape)?.dense()
        }
        DType::F32 | DType::F64 => Ok(Flex::float_matmul(left.clone(), right.clone())),
        dtype => for_integers!(dtype, E => whole_product::<E>(left, right, &shape),
            other => fault!("a matrix product of {other} is not supported")),
    }
}

/// The product of matrices of integers, which wrap around. Models use it for small shape arithmetic only.
fn whole_product<E>(left: &FlexTensor, right: &FlexTensor, shape: &[usize]) -> Result<FlexTensor, Fault>
where
    E: Item + PrimInt + WrappingAdd + WrappingMul,
{
    let (stack, matrix) = shape.split_at(shape.len() - 2);
    let (rows, columns) = (matrix[0], matrix[1]);
    let inner = left.layout().shape()[left.layout().num_dims() - 1];
    let full = |tensor: &FlexTensor, matrix: [usize; 2]| {
        let shape = [stack, &matrix[..]].concat();
        check_size(&shape)?;
        Ok::<_, Fault>(contiguous(&Tensor::Dense(tensor.clone()).broadcast_to(&shape)?.dense()?))
    };
    let (left, right) = (full(left, [rows, inner])?, full(right, [inner, columns])?);
    let (a, b) = (items::<E>(&left), items::<E>(&right));
    let mut product = vec![E::zero(); shape.iter().product()];
    for (position, cell) in product.iter_mut().enumerate() {
        let (row, column) = (position / columns, position % columns);
        let start = row / rows * inner * columns + column;
        *cell = (0..inner).fold(E::zero(), |sum, k| {
            sum.wrapping_add(&a[row * inner + k].wrapping_mul(&b[start + k * columns]))
        });
    }
    Tensor::of_type(native_type::<E>(), shape, product).dense()
}

/// `Gemm`: alpha * A * B + beta * C, and what a load appends to it.
struct Gemm {
    alpha: f32,
    beta: f32,
    transpose_left: bool,
    transpose_right: bool,
    activation: Option<Activation>,
}

#[expect(clippy::unnecessary_wraps, reason = "as all builders")]
fn gemm(node: &Node<'_>) -> Built {
    Ok(Box::new(Gemm {
        alpha: node.float("alpha", 1.0),
        beta: node.float("beta", 1.0),
        transpose_left: node.flag("transA", false),
        transpose_right: node.flag("transB", false),
        activation: None,
    }))
}

impl Operator for Gemm {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (left, right) = (inputs.dense(0)?, inputs.dense(1)?);
        if left.layout().num_dims() != 2 || right.layout().num_dims() != 2 {
            fault!("two matrices are needed");
        }
        let left = if self.transpose_left { left.transpose(0, 1) } else { left };
        let right = if self.transpose_right { right.transpose(0, 1) } else { right };
        let product = scaled(product(&left, &right)?, self.alpha)?;
        let Some(bias) = inputs.optional(2) else {
            return Ok(finished_product(product, None, self.activation)?.into());
        };
        let bias = bias.dense()?;
        let shape = product.layout().shape();
        if broadcast_shape(shape, bias.layout().shape())?[..] != shape[..] {
            fault!("a bias of {:?} does not fit a product of {:?}", bias.layout().shape(), shape);
        }
        if type_of(&bias) != type_of(&product) {
            fault!("the bias must have the type of the matrices");
        }
        finished_product(product, Some(scaled(bias, self.beta)?), self.activation).map(Into::into)
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.activation.replace(activation).is_none()
    }
}

/// The tensor times a number, which is 1 in nearly all files. Integers are scaled by whole numbers only.
#[expect(clippy::float_cmp, reason = "exactly one changes nothing")]
fn scaled(tensor: FlexTensor, factor: f32) -> Result<FlexTensor, Fault> {
    Ok(match type_of(&tensor) {
        _ if factor == 1.0 => tensor,
        DType::F32 => map(tensor, |x: f32| x * factor),
        DType::F64 => map(tensor, |x: f64| x * f64::from(factor)),
        dtype if factor.fract() != 0.0 => fault!("{dtype} cannot be scaled by {factor}"),
        dtype => for_integers!(dtype, E => {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number; larger ones saturate")]
            let factor: E = (factor as i64).as_();
            map(tensor, |x: E| x.wrapping_mul(factor))
        }, other => fault!("{other} cannot be scaled")),
    })
}
