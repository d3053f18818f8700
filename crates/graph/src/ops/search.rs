//! Operators that order elements.

use super::{Built, Entry, NUMBERS, Outputs, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Item, Tensor, contiguous, fault, for_storage, items, resolve_axis, to_i64};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("TopK", 1, NUMBERS, top_k)];

/// The number of elements is an attribute below opset 10 and an input from there on.
fn top_k(node: &Node<'_>) -> Built {
    let k = if node.opset() < 10 { Ints::Fixed(vec![node.int("k", 0)]) } else { Ints::input(node, 1)? };
    let axis = node.int("axis", -1);
    let largest = node.flag("largest", true);
    operator(move |inputs| {
        let k = k.get(inputs)?.and_then(|k| k.first().copied()).and_then(|k| usize::try_from(k).ok());
        let x = inputs.dense(0)?;
        let rank = x.layout().num_dims();
        let axis = resolve_axis(axis, rank)?;
        let width = x.layout().shape()[axis];
        let Some(k) = k.filter(|&k| k <= width) else {
            fault!("a length of {width} has not as many elements")
        };
        // The axis goes to the end, and back to its place after.
        let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
        order.push(axis);
        let moved = contiguous(&x.permute(&order));
        let mut shape = moved.layout().shape().to_vec();
        shape[rank - 1] = k;
        let mut back = vec![0; rank];
        for (position, &axis) in order.iter().enumerate() {
            back[axis] = position;
        }
        let dtype = crate::tensor::type_of(&x);
        let (values, positions) = for_storage!(dtype, E => {
            let (values, positions) = best::<E>(items::<E>(&moved), width, k, largest);
            (Tensor::of_type::<E>(dtype, &shape, values), positions)
        }, text => fault!("strings are not ordered"));
        let in_place = |tensor: Tensor| Ok::<Tensor, Fault>(tensor.dense()?.permute(&back).into());
        Ok(Outputs::Many(vec![in_place(values)?, in_place(Tensor::from_items(&shape, positions))?]))
    })
}

/// The best of each row, in order; of equal ones the first comes first.
fn best<E: Item>(all: &[E], width: usize, k: usize, largest: bool) -> (Vec<E>, Vec<i64>) {
    let (mut values, mut positions) = (Vec::new(), Vec::new());
    for row in all.chunks_exact(width.max(1)) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| {
            // What is not a number is larger than all numbers, as in NumPy.
            let not_a_number = |x: E| x.partial_cmp(&x).is_none();
            let ascending = row[a]
                .partial_cmp(&row[b])
                .unwrap_or_else(|| not_a_number(row[a]).cmp(&not_a_number(row[b])));
            if largest { ascending.reverse() } else { ascending }
        });
        values.extend(order[..k].iter().map(|&at| row[at]));
        positions.extend(order[..k].iter().map(|&at| to_i64(at)));
    }
    (values, positions)
}
