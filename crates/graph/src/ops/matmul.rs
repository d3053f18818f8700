//! Matrix products.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::{AsPrimitive, PrimInt, WrappingAdd, WrappingMul};
use stoker_kernels::Isa;

use super::activation::map;
use super::laid::{LaidMatrix, Rest, Stack, spread};
use super::{Activation, Built, Entry, Inputs, NUMBERS, Operator, Outputs};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, broadcast_shape, check_size, contiguous, fault, for_integers, items, native_type,
    type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("MatMul", 1, NUMBERS, |_| Ok(Box::new(MatMul { laid: None, activation: None }))),
    Entry::widening("Gemm", 1, NUMBERS, gemm),
];

/// A product, to which a load may append sums (inputs 2 and 3) and an activation.
struct MatMul {
    /// The right side, where it is known at load.
    laid: Option<LaidMatrix>,
    activation: Option<Activation>,
}

impl Operator for MatMul {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let rest = Rest::take(inputs, self.activation)?;
        if let Some(laid) = &self.laid {
            return Ok(laid.product(&inputs.dense(0)?, rest)?.into());
        }
        let (left, right) = (inputs.take(0)?, inputs.take(1)?);
        Ok(rest.finish(stacked(left, right)?.dense()?)?.into())
    }

    fn lay_out(&mut self, _input: usize, constant: &Tensor, spare: &mut usize) -> bool {
        self.laid = LaidMatrix::new(constant, false, 1.0, spare);
        self.laid.is_some()
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
        DType::F32 if left_matrix[0] >= FEW_ROWS => single(left, right, &shape),
        DType::F32 | DType::F64 => Ok(Flex::float_matmul(left.clone(), right.clone())),
        dtype => for_integers!(dtype, E => whole_product::<E>(left, right, &shape),
            other => fault!("a matrix product of {other} is not supported")),
    }
}

/// Fewer rows do not pay for laying the right side out.
const FEW_ROWS: usize = 4;

/// The products of stacks of matrices of single precision.
fn single(left: &FlexTensor, right: &FlexTensor, shape: &[usize]) -> Result<FlexTensor, Fault> {
    let (stack, matrix) = shape.split_at(shape.len() - 2);
    let inner = left.layout().shape()[left.layout().num_dims() - 1];
    let side = |tensor: &FlexTensor, matrix: [usize; 2]| {
        Tensor::Dense(tensor.clone())
            .broadcast_to(&[stack, &matrix[..]].concat())?
            .dense()
            .map(|all| spread(&all))
    };
    let (left, right) = (side(left, [matrix[0], inner])?, side(right, [inner, matrix[1]])?);
    let (left, right) = (Stack::new(&left), Stack::new(&right));
    let count = stack.iter().product();
    let product =
        stoker_kernels::products(Isa::best(), count, &|at| (left.view(at, stack), right.view(at, stack)));
    Tensor::from_items(shape, product).dense()
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
    /// The right side times `alpha`, where it is known at load.
    laid: Option<LaidMatrix>,
    activation: Option<Activation>,
}

#[expect(clippy::unnecessary_wraps, reason = "as all builders")]
fn gemm(node: &Node<'_>) -> Built {
    Ok(Box::new(Gemm {
        alpha: node.float("alpha", 1.0),
        beta: node.float("beta", 1.0),
        transpose_left: node.flag("transA", false),
        transpose_right: node.flag("transB", false),
        laid: None,
        activation: None,
    }))
}

impl Operator for Gemm {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let mut rest = Rest::take(inputs, self.activation)?;
        let left = inputs.dense(0)?;
        if let Some(laid) = &self.laid {
            let &[rows, columns] = &left.layout().shape()[..] else { fault!("two matrices are needed") };
            let left = if self.transpose_left { left.transpose(0, 1) } else { left };
            let rows = if self.transpose_left { columns } else { rows };
            self.check_bias(&mut rest, [rows, laid.columns()], DType::F32)?;
            return Ok(laid.product(&left, rest)?.into());
        }
        let right = inputs.dense(1)?;
        if left.layout().num_dims() != 2 || right.layout().num_dims() != 2 {
            fault!("two matrices are needed");
        }
        let left = if self.transpose_left { left.transpose(0, 1) } else { left };
        let right = if self.transpose_right { right.transpose(0, 1) } else { right };
        let product = scaled(product(&left, &right)?, self.alpha)?;
        let shape = product.layout().shape();
        self.check_bias(&mut rest, [shape[0], shape[1]], type_of(&product))?;
        rest.finish(product).map(Into::into)
    }

    fn lay_out(&mut self, _input: usize, constant: &Tensor, spare: &mut usize) -> bool {
        self.laid = LaidMatrix::new(constant, self.transpose_right, self.alpha, spare);
        self.laid.is_some()
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.activation.replace(activation).is_none()
    }
}

impl Gemm {
    /// Makes the bias ready for a product of that shape and type.
    fn check_bias(&self, rest: &mut Rest, shape: [usize; 2], dtype: DType) -> Result<(), Fault> {
        let Some(bias) = rest.take_bias() else { return Ok(()) };
        if broadcast_shape(&shape, bias.layout().shape())? != shape {
            fault!("a bias of {:?} does not fit a product of {:?}", bias.layout().shape(), shape);
        }
        if type_of(&bias) != dtype {
            fault!("the bias must have the type of the matrices");
        }
        *rest.bias_mut() = Some(scaled(bias, self.beta)?);
        Ok(())
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
