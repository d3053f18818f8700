//! Operators on the bits of elements.

use num_traits::{AsPrimitive, PrimInt};

use super::activation::map;
use super::arithmetic::zip_with;
use super::{ALL, Built, Entry, INTEGERS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Item, Tensor, contiguous, fault, for_integers, for_storage, items, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("BitShift", 11, INTEGERS, shift),
    Entry::new("BitwiseAnd", 18, INTEGERS, |_| bitwise(|a, b| a & b)),
    Entry::new("BitwiseOr", 18, INTEGERS, |_| bitwise(|a, b| a | b)),
    Entry::new("BitwiseXor", 18, INTEGERS, |_| bitwise(|a, b| a ^ b)),
    Entry::new("BitwiseNot", 18, INTEGERS, |_| {
        operator(|inputs| {
            let x = inputs.dense(0)?;
            Ok(for_integers!(type_of(&x), E => map(x, |x: E| !x),
                other => fault!("integers are needed, not {other}"))
            .into())
        })
    }),
    Entry::new("BitCast", 26, ALL, bit_cast),
];

/// A function of the bits of two integers of one type. Wider than all of them, `i128` keeps the bits of each.
fn bitwise(function: fn(i128, i128) -> i128) -> Built {
    combined(move |a, b, _| function(a, b))
}

/// An operator of two tensors of one integer type; the function is given how many bits it has.
fn combined(function: impl Fn(i128, i128, i128) -> i128 + Send + Sync + 'static) -> Built {
    fn wide<E: Item + PrimInt + AsPrimitive<i128>>(x: E) -> i128 {
        x.as_()
    }
    operator(move |inputs| {
        let (left, right) = (inputs.dense(0)?, inputs.dense(1)?);
        let dtype = type_of(&left);
        if dtype != type_of(&right) {
            fault!("both inputs must have one type, not {dtype} and {}", type_of(&right));
        }
        let bits = dtype.bits() as i128;
        Ok(for_integers!(dtype, E => {
            let (shape, elements) = zip_with(&left, &right, |a: E, b: E| {
                AsPrimitive::<E>::as_(function(wide(a), wide(b), bits))
            })?;
            Tensor::from_items(&shape, elements)
        }, other => fault!("integers are needed, not {other}"))
        .into())
    })
}

/// A right shift of a negative number fills with its sign. A shift by a negative number, or by all bits and
/// more, leaves only that fill.
fn shift(node: &Node<'_>) -> Built {
    let left = match node.string("direction", "")?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(Refusal::Invalid(format!("`direction` cannot be `{other}`"))),
    };
    combined(move |x, by, bits| {
        let inside = (0..bits).contains(&by);
        match (left, inside) {
            // Fewer than 64 places: what leaves the type is cut off after.
            (true, true) => x << by,
            (false, true) => x >> by,
            (true, false) => 0,
            (false, false) => -i128::from(x < 0),
        }
    })
}

/// The same bits as a type of the same width.
fn bit_cast(node: &Node<'_>) -> Built {
    let number = node.int("to", 0);
    let to = i32::try_from(number).ok().and_then(DType::from_onnx).filter(|&to| to != DType::String);
    let Some(to) = to else {
        return Err(Refusal::Unsupported(format!("bits of element type {number} are not supported")));
    };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let from = x.dtype();
        if from.bits() != to.bits() {
            fault!("{from} and {to} differ in width");
        }
        let shape = x.shape().to_vec();
        let bytes = for_storage!(from, E => {
            let dense = contiguous(&x.storage()?);
            bytemuck::cast_slice::<E, u8>(items::<E>(&dense)).to_vec()
        }, text => fault!("strings have no bits"));
        if to == DType::Bool {
            return Ok(Tensor::from_bools(
                &shape,
                bytes.into_iter().map(|byte| u8::from(byte != 0)).collect(),
            )
            .into());
        }
        Ok(for_storage!(to, E => {
            Tensor::of_type::<E>(to, &shape, bytemuck::pod_collect_to_vec::<u8, E>(&bytes))
        }, text => fault!("strings have no bits"))
        .into())
    })
}
