//! Arithmetic of two or more tensors, with broadcasting.
//!
//! Floating-point sums and products are burn's. Integers wrap around, as in ONNX; a division of
//! integers by zero is a fault.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::{Float, PrimInt, WrappingAdd, WrappingMul, WrappingSub};

use super::activation::map;
use super::epilogue::finished_sum;
use super::{Activation, Built, Entry, Inputs, NUMBERS, Operator, Outputs, operator};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, broadcast_shape, check_size, contiguous, fault, for_integers, items, native_type,
    resolve_axis, type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("Add", 1, NUMBERS, |node| aligned(node, Ok(Box::new(Sum { activation: None })))),
    Entry::widening("Sub", 1, NUMBERS, |node| binary(node, Kind::Sub)),
    Entry::widening("Mul", 1, NUMBERS, |node| binary(node, Kind::Mul)),
    Entry::widening("Div", 1, NUMBERS, |node| binary(node, Kind::Div)),
    Entry::widening("Min", 1, NUMBERS, |_| variadic(Kind::Min)),
    Entry::widening("Max", 1, NUMBERS, |_| variadic(Kind::Max)),
    Entry::widening("Sum", 1, NUMBERS, |_| variadic(Kind::Add)),
    Entry::widening("Mean", 1, NUMBERS, mean),
    Entry::widening("Pow", 1, NUMBERS, |node| aligned(node, operator(pow))),
    Entry::widening("Mod", 10, NUMBERS, modulo),
];

/// What two elements become.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

fn binary(node: &Node<'_>, kind: Kind) -> Built {
    let combined = operator(move |inputs| {
        let (left, right) = (inputs.dense(0)?, inputs.dense(1)?);
        Ok(combine(kind, left, right)?.into())
    });
    aligned(node, combined)
}

/// A sum, and what may be done to it in the same pass.
struct Sum {
    activation: Option<Activation>,
}

impl Operator for Sum {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (left, right) = (inputs.dense(0)?, inputs.dense(1)?);
        let Some(activation) = self.activation else { return Ok(add(left, right)?.into()) };
        common_type(&left, &right)?;
        Ok(finished_sum(left, right, activation)?.into())
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.activation.replace(activation).is_none()
    }
}

/// Below opset 7 an operator of two inputs says at which dimension of the first the second begins.
pub(super) fn aligned(node: &Node<'_>, built: Built) -> Built {
    if node.opset() >= 7 || !node.flag("broadcast", false) || !node.has("axis") {
        return built;
    }
    let (axis, inner) = (node.int("axis", 0), built?);
    operator(move |inputs| {
        let rank = inputs.peek(0).map_or(0, Tensor::rank);
        let right = inputs.take(1)?;
        let end = resolve_axis(axis, rank)? + right.rank();
        let Some(missing) = rank.checked_sub(end) else {
            fault!("{} does not fit {rank} dimensions from dimension {axis} on", right.describe());
        };
        let shape = [right.shape(), &vec![1; missing]].concat();
        if let Some(held) = inputs.all_mut().get_mut(1) {
            *held = Some(right.reshape(&shape)?.into());
        }
        inner.run(inputs)
    })
}

fn variadic(kind: Kind) -> Built {
    operator(move |inputs| Ok(fold(kind, inputs)?.into()))
}

/// All inputs combined from left to right.
fn fold(kind: Kind, inputs: &mut Inputs<'_>) -> Result<FlexTensor, Fault> {
    let mut total = inputs.dense(0)?;
    for index in 1..inputs.count() {
        total = combine(kind, total, inputs.dense(index)?)?;
    }
    Ok(total)
}

fn mean(_node: &Node<'_>) -> Built {
    operator(|inputs| {
        let count = u16::try_from(inputs.count()).map_err(|_| Fault("too many inputs".to_owned()))?;
        let total = fold(Kind::Add, inputs)?;
        Ok(match type_of(&total) {
            DType::F32 => map(total, |x: f32| x / f32::from(count)),
            DType::F64 => map(total, |x: f64| x / f64::from(count)),
            other => fault!("floating-point tensors are needed, not {other}"),
        }
        .into())
    })
}

/// The type of both tensors, after checks that burn would assert on.
fn common_type(left: &FlexTensor, right: &FlexTensor) -> Result<DType, Fault> {
    let dtype = type_of(left);
    if dtype != type_of(right) {
        fault!("both inputs must have one type, not {dtype} and {}", type_of(right));
    }
    if left.layout().shape() != right.layout().shape() {
        check_size(&broadcast_shape(left.layout().shape(), right.layout().shape())?)?;
    }
    Ok(dtype)
}

/// The sum of two tensors.
pub(super) fn add(left: FlexTensor, right: FlexTensor) -> Result<FlexTensor, Fault> {
    combine(Kind::Add, left, right)
}

/// The product of two tensors.
pub(super) fn multiply(left: FlexTensor, right: FlexTensor) -> Result<FlexTensor, Fault> {
    combine(Kind::Mul, left, right)
}

/// The difference of two tensors.
pub(super) fn subtract(left: FlexTensor, right: FlexTensor) -> Result<FlexTensor, Fault> {
    combine(Kind::Sub, left, right)
}

/// The quotient of two tensors.
pub(super) fn divide(left: FlexTensor, right: FlexTensor) -> Result<FlexTensor, Fault> {
    combine(Kind::Div, left, right)
}

fn combine(kind: Kind, left: FlexTensor, right: FlexTensor) -> Result<FlexTensor, Fault> {
    match common_type(&left, &right)? {
        DType::F32 => combine_floats::<f32>(kind, left, right),
        DType::F64 => combine_floats::<f64>(kind, left, right),
        dtype => for_integers!(dtype, E => combine_integers::<E>(kind, &left, &right),
            other => fault!("numbers are needed, not {other}")),
    }
}

fn combine_floats<F: Item + Float>(
    kind: Kind,
    left: FlexTensor,
    right: FlexTensor,
) -> Result<FlexTensor, Fault> {
    // A result that is not a number stays so: `f32::min` would drop it.
    let not_a_number = |a: F, b: F| if a.is_nan() { a } else { b };
    match kind {
        Kind::Add => Ok(Flex::float_add(left, right)),
        Kind::Sub => Ok(Flex::float_sub(left, right)),
        Kind::Mul => Ok(Flex::float_mul(left, right)),
        Kind::Div => Ok(Flex::float_div(left, right)),
        Kind::Min => zip(&left, &right, |a: F, b| {
            if a.is_nan() || b.is_nan() {
                not_a_number(a, b)
            } else if b < a {
                b
            } else {
                a
            }
        }),
        Kind::Max => zip(&left, &right, |a: F, b| {
            if a.is_nan() || b.is_nan() {
                not_a_number(a, b)
            } else if b > a {
                b
            } else {
                a
            }
        }),
    }
}

fn combine_integers<E>(kind: Kind, left: &FlexTensor, right: &FlexTensor) -> Result<FlexTensor, Fault>
where
    E: Item + PrimInt + WrappingAdd + WrappingSub + WrappingMul,
{
    match kind {
        Kind::Add => zip(left, right, |a: E, b| a.wrapping_add(&b)),
        Kind::Sub => zip(left, right, |a: E, b| a.wrapping_sub(&b)),
        Kind::Mul => zip(left, right, |a: E, b| a.wrapping_mul(&b)),
        Kind::Div => {
            no_zeros::<E>(right)?;
            // The smallest number divided by -1 does not fit and wraps around to itself.
            zip(left, right, |a: E, b| a.checked_div(&b).unwrap_or(a))
        }
        Kind::Min => zip(left, right, |a: E, b| a.min(b)),
        Kind::Max => zip(left, right, |a: E, b| a.max(b)),
    }
}

fn no_zeros<E: Item + PrimInt>(divisor: &FlexTensor) -> Result<(), Fault> {
    if items::<E>(&contiguous(divisor)).iter().any(|x| *x == E::zero()) {
        fault!("division of an integer by zero");
    }
    Ok(())
}

/// Combines two tensors of the same type element by element.
fn zip<E: Item>(
    left: &FlexTensor,
    right: &FlexTensor,
    function: impl Fn(E, E) -> E,
) -> Result<FlexTensor, Fault> {
    let (shape, combined) = zip_with(left, right, function)?;
    Tensor::of_type(native_type::<E>(), &shape, combined).dense()
}

/// Combines two tensors of the same type element by element, into any element type.
pub(super) fn zip_with<E: Item, R>(
    left: &FlexTensor,
    right: &FlexTensor,
    function: impl Fn(E, E) -> R,
) -> Result<(Vec<usize>, Vec<R>), Fault> {
    let (left_shape, right_shape) = (left.layout().shape(), right.layout().shape());
    let shape = broadcast_shape(left_shape, right_shape)?;
    let count = check_size(&shape)?;
    let (a, b) = (contiguous(left), contiguous(right));
    let (a_items, b_items) = (items::<E>(&a), items::<E>(&b));
    let combined = match (a_items, b_items) {
        (all, &[one]) if all.len() == count => all.iter().map(|&a| function(a, one)).collect(),
        (&[one], all) if all.len() == count => all.iter().map(|&b| function(one, b)).collect(),
        _ if left_shape[..] == right_shape[..] => {
            a_items.iter().zip(b_items).map(|(&a, &b)| function(a, b)).collect()
        }
        _ => {
            let a = contiguous(&Tensor::Dense(a).broadcast_to(&shape)?.dense()?);
            let b = contiguous(&Tensor::Dense(b).broadcast_to(&shape)?.dense()?);
            items::<E>(&a).iter().zip(items::<E>(&b)).map(|(&a, &b)| function(a, b)).collect()
        }
    };
    Ok((shape, combined))
}

/// The result has the type of the base, whatever the type of the exponent.
fn pow(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let base = inputs.dense(0)?;
    let exponent = inputs.take(1)?;
    let shape = broadcast_shape(base.layout().shape(), exponent.shape())?;
    check_size(&shape)?;
    let dtype = type_of(&base);
    let exponents = exponent.to_f64s()?;
    match (dtype, exponents.as_slice()) {
        // Squares are what exporters write powers for, and need no logarithm.
        (DType::F32, &[2.0]) if exponent.rank() <= base.layout().num_dims() => {
            Ok(map(base, |x: f32| x * x).into())
        }
        (DType::F32, &[power]) if exponent.rank() <= base.layout().num_dims() => {
            #[expect(clippy::cast_possible_truncation, reason = "the result has the width of the base")]
            let power = power as f32;
            Ok(map(base, |x: f32| x.powf(power)).into())
        }
        (DType::F32 | DType::F64, _) => {
            let exponent =
                super::cast::cast(Tensor::from_items(exponent.shape(), exponents), dtype)?.dense()?;
            Ok(match dtype {
                DType::F32 => zip(&base, &exponent, f32::powf)?,
                _ => zip(&base, &exponent, f64::powf)?,
            }
            .into())
        }
        (DType::I64 | DType::I32, _) if exponent.dtype().is_integer() => {
            let base = super::cast::cast(base.into(), DType::I64)?.dense()?;
            let exponent = super::cast::cast(exponent, DType::I64)?.dense()?;
            Ok(super::cast::cast(zip(&base, &exponent, integer_power)?.into(), dtype)?.into())
        }
        (DType::I64 | DType::I32, _) => {
            let base = super::cast::cast(base.into(), DType::F64)?.dense()?;
            let exponent = super::cast::cast(exponent, DType::F64)?.dense()?;
            Ok(super::cast::cast(zip(&base, &exponent, f64::powf)?.into(), dtype)?.into())
        }
        (other, _) => fault!("a power of {other} is not defined"),
    }
}

/// A power of whole numbers, which wraps around; one below 1 is cut to a whole number.
fn integer_power(base: i64, exponent: i64) -> i64 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => 1 - 2 * (exponent & 1),
            _ => 0,
        };
    }
    let (mut power, mut square, mut rest) = (1i64, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            power = power.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        rest >>= 1;
    }
    power
}

/// With `fmod` the sign is that of the dividend, as in C; else that of the divisor, as in Python.
fn modulo(node: &Node<'_>) -> Built {
    let like_c = node.flag("fmod", false);
    operator(move |inputs| {
        let (left, right) = (inputs.dense(0)?, inputs.dense(1)?);
        let dtype = common_type(&left, &right)?;
        Ok(match dtype {
            DType::F32 if like_c => zip(&left, &right, |a: f32, b| a % b)?,
            DType::F64 if like_c => zip(&left, &right, |a: f64, b| a % b)?,
            DType::F32 => zip(&left, &right, floored_remainder::<f32>)?,
            DType::F64 => zip(&left, &right, floored_remainder::<f64>)?,
            dtype => for_integers!(dtype, E => remainder::<E>(&left, &right, like_c)?,
                other => fault!("numbers are needed, not {other}")),
        }
        .into())
    })
}

/// What is left of a division whose quotient is rounded down: it has the sign of the divisor, also where it
/// is zero, and a finite number divided by an infinity of the other sign leaves that infinity.
fn floored_remainder<F: Float>(a: F, b: F) -> F {
    let rest = a % b;
    if rest.is_zero() {
        F::zero().copysign(b)
    } else if (rest < F::zero()) != (b < F::zero()) {
        rest + b
    } else {
        rest
    }
}

fn remainder<E: Item + PrimInt>(
    left: &FlexTensor,
    right: &FlexTensor,
    like_c: bool,
) -> Result<FlexTensor, Fault> {
    no_zeros::<E>(right)?;
    zip(left, right, |a: E, b| {
        // A division by -1 leaves nothing, and of the smallest number it does not fit.
        let rest = if a.checked_div(&b).is_none() { E::zero() } else { a % b };
        let other_sign = (rest < E::zero()) != (b < E::zero());
        if !like_c && rest != E::zero() && other_sign { rest + b } else { rest }
    })
}

/// A number with sums and products of its own type: those of integers wrap around.
pub(super) trait Ring: Item {
    /// Changes no sum.
    const ZERO: Self;
    /// Changes no product.
    const ONE: Self;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The product.
    fn times(self, other: Self) -> Self;
}

macro_rules! ring {
    ($($type:ty, $zero:expr, $one:expr, $plus:expr, $times:expr;)*) => {$(
        impl Ring for $type {
            const ZERO: Self = $zero;
            const ONE: Self = $one;

            fn plus(self, other: Self) -> Self {
                $plus(self, other)
            }

            fn times(self, other: Self) -> Self {
                $times(self, other)
            }
        }
    )*};
}

ring! {
    f32, 0.0, 1.0, std::ops::Add::add, std::ops::Mul::mul;
    f64, 0.0, 1.0, std::ops::Add::add, std::ops::Mul::mul;
    half::f16, half::f16::ZERO, half::f16::ONE, std::ops::Add::add, std::ops::Mul::mul;
    half::bf16, half::bf16::ZERO, half::bf16::ONE, std::ops::Add::add, std::ops::Mul::mul;
    i64, 0, 1, i64::wrapping_add, i64::wrapping_mul;
    i32, 0, 1, i32::wrapping_add, i32::wrapping_mul;
    i16, 0, 1, i16::wrapping_add, i16::wrapping_mul;
    i8, 0, 1, i8::wrapping_add, i8::wrapping_mul;
    u64, 0, 1, u64::wrapping_add, u64::wrapping_mul;
    u32, 0, 1, u32::wrapping_add, u32::wrapping_mul;
    u16, 0, 1, u16::wrapping_add, u16::wrapping_mul;
    u8, 0, 1, u8::wrapping_add, u8::wrapping_mul;
}
