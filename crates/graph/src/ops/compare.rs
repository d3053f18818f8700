//! Comparisons, logic and choice.

use super::arithmetic::{aligned, zip_with};
use super::{ALL, Built, Entry, Inputs, NUMBERS, Outputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, broadcast_shape, check_size, contiguous, fault, for_storage, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Equal", 1, "floats, integers, BOOL, BYTES", |node| comparison(node, Relation::Equal)),
    Entry::new("Greater", 1, NUMBERS, |node| comparison(node, Relation::Greater)),
    Entry::new("GreaterOrEqual", 12, NUMBERS, |node| comparison(node, Relation::GreaterOrEqual)),
    Entry::new("Less", 1, NUMBERS, |node| comparison(node, Relation::Less)),
    Entry::new("LessOrEqual", 12, NUMBERS, |node| comparison(node, Relation::LessOrEqual)),
    Entry::new("And", 1, "BOOL", |node| logic(node, |a, b| a & b)),
    Entry::new("Or", 1, "BOOL", |node| logic(node, |a, b| a | b)),
    Entry::new("Xor", 1, "BOOL", |node| logic(node, |a, b| a ^ b)),
    Entry::new("Where", 9, ALL, |_| operator(choose)),
];

#[derive(Clone, Copy)]
enum Relation {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Relation {
    fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
        }
    }
}

fn comparison(node: &Node<'_>, relation: Relation) -> Built {
    let compared = operator(move |inputs| {
        let (left, right) = (inputs.take(0)?, inputs.take(1)?);
        let dtype = left.dtype();
        if dtype != right.dtype() {
            fault!("both inputs must have one type, not {dtype} and {}", right.dtype());
        }
        let (shape, truths) = for_storage!(dtype, E => {
            zip_with::<E, u8>(&left.dense()?, &right.dense()?, |a, b| u8::from(relation.holds(&a, &b)))?
        }, text => compare_text(relation, left, right)?);
        Ok(Tensor::from_bools(&shape, truths).into())
    });
    aligned(node, compared)
}

fn compare_text(relation: Relation, left: Tensor, right: Tensor) -> Result<(Vec<usize>, Vec<u8>), Fault> {
    let shape = broadcast_shape(left.shape(), right.shape())?;
    check_size(&shape)?;
    let (left, right) = (left.broadcast_to(&shape)?, right.broadcast_to(&shape)?);
    match (&left, &right) {
        (Tensor::Text(left), Tensor::Text(right)) => {
            let pairs = left.items().iter().zip(right.items());
            Ok((shape, pairs.map(|(a, b)| u8::from(relation.holds(a, b))).collect()))
        }
        _ => fault!("strings can be compared with strings only"),
    }
}

fn logic(node: &Node<'_>, function: fn(u8, u8) -> u8) -> Built {
    let truth = operator(move |inputs| {
        let (left, right) = (inputs.take(0)?, inputs.take(1)?);
        if left.dtype() != DType::Bool || right.dtype() != DType::Bool {
            fault!("truth values are needed, not {} and {}", left.dtype(), right.dtype());
        }
        let (shape, truths) = zip_with(&left.dense()?, &right.dense()?, function)?;
        Ok(Tensor::from_bools(&shape, truths).into())
    });
    aligned(node, truth)
}

/// `Where`: from the second input where the first is true, else from the third.
fn choose(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (condition, yes, no) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
    let dtype = yes.dtype();
    if condition.dtype() != DType::Bool || dtype != no.dtype() {
        fault!(
            "truth values and two tensors of one type are needed, not {}, {dtype} and {}",
            condition.dtype(),
            no.dtype()
        );
    }
    let shape = broadcast_shape(&broadcast_shape(condition.shape(), yes.shape())?, no.shape())?;
    check_size(&shape)?;
    let condition = contiguous(&condition.broadcast_to(&shape)?.dense()?);
    let truths = items::<u8>(&condition).iter().map(|&truth| truth != 0);
    let (yes, no) = (yes.broadcast_to(&shape)?, no.broadcast_to(&shape)?);
    Ok(for_storage!(dtype, E => {
        let (yes, no) = (contiguous(&yes.storage()?), contiguous(&no.storage()?));
        let pairs = items::<E>(&yes).iter().zip(items::<E>(&no));
        let chosen = truths.zip(pairs).map(|(truth, (&yes, &no))| if truth { yes } else { no }).collect();
        Tensor::of_type::<E>(dtype, &shape, chosen)
    }, text => match (&yes, &no) {
        (Tensor::Text(yes), Tensor::Text(no)) => {
            let pairs = yes.items().iter().zip(no.items());
            let chosen = truths.zip(pairs).map(|(truth, (yes, no))| if truth { yes } else { no }.clone());
            Tensor::from_text(&shape, chosen.collect())
        }
        _ => fault!("strings go with strings only"),
    })
    .into())
}
