//! Sums and products of all elements up to each one.

use super::arithmetic::Ring;
use super::{Built, Entry, NUMBERS, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Tensor, contiguous, fault, for_integers, items, resolve_axis, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("CumSum", 11, NUMBERS, |node| cumulative(node, false)),
    Entry::widening("CumProd", 26, NUMBERS, |node| cumulative(node, true)),
];

/// How elements of one line are gathered.
#[derive(Clone, Copy)]
struct Way {
    product: bool,
    /// From the last element to the first.
    reverse: bool,
    /// Each element is left out of its own result.
    exclusive: bool,
}

fn cumulative(node: &Node<'_>, product: bool) -> Built {
    let way = Way { product, reverse: node.flag("reverse", false), exclusive: node.flag("exclusive", false) };
    let axis = Ints::input(node, 1)?;
    operator(move |inputs| {
        let axis = axis.get(inputs)?.and_then(|axis| axis.first().copied());
        let axis = axis.ok_or_else(|| Fault("the axis is missing".to_owned()))?;
        let x = inputs.dense(0)?;
        let shape = x.layout().shape().to_vec();
        let axis = resolve_axis(axis, shape.len())?;
        let (length, stride) = (shape[axis], shape[axis + 1..].iter().product());
        let x = contiguous(&x);
        let gathered = match type_of(&x) {
            DType::F32 => Tensor::from_items(&shape, gather::<f32>(items(&x), length, stride, way)),
            DType::F64 => Tensor::from_items(&shape, gather::<f64>(items(&x), length, stride, way)),
            dtype => for_integers!(dtype, E => {
                Tensor::from_items(&shape, gather::<E>(items(&x), length, stride, way))
            }, other => fault!("numbers are needed, not {other}")),
        };
        Ok(gathered.into())
    })
}

/// Goes along each line of `length` elements that lie `stride` apart.
fn gather<E: Ring>(all: &[E], length: usize, stride: usize, way: Way) -> Vec<E> {
    let mut gathered = all.to_vec();
    let block = length * stride;
    for start in (0..all.len()).step_by(block.max(1)) {
        for line in start..start + stride {
            let mut total = if way.product { E::ONE } else { E::ZERO };
            for step in 0..length {
                let at = line + stride * if way.reverse { length - 1 - step } else { step };
                let next = if way.product { total.times(all[at]) } else { total.plus(all[at]) };
                gathered[at] = if way.exclusive { total } else { next };
                total = next;
            }
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_dimension_are_followed_both_ways() {
        let way = Way { product: false, reverse: false, exclusive: false };
        // Two rows of three.
        let all = [1, 2, 3, 4, 5, 6];
        assert_eq!(gather(&all, 3, 1, way), [1, 3, 6, 4, 9, 15]);
        assert_eq!(gather(&all, 2, 3, way), [1, 2, 3, 5, 7, 9]);
        let way = Way { product: true, reverse: true, exclusive: true };
        assert_eq!(gather(&all, 3, 1, way), [6, 3, 1, 30, 6, 1]);
    }
}
