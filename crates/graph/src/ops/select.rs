//! Operators that choose elements or slices by what they hold.

use std::cmp::Ordering;

use bytemuck::Zeroable;

use super::index::{pick, slices};
use super::{ALL, Built, Entry, Inputs, Outputs, operator};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, check_size, contiguous, fault, for_storage, items, resolve_axis, to_i64,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("NonZero", 9, ALL, |_| operator(non_zero)),
    Entry::new("Compress", 9, ALL, compress),
    Entry::new("Unique", 11, ALL, unique),
];

/// The coordinates of all elements that are not zero or empty, one row per dimension.
#[expect(clippy::float_cmp, reason = "exactly zero is meant")]
fn non_zero(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.take(0)?;
    let shape = x.shape().to_vec();
    if x.dtype().is_small() {
        fault!("the operator does not take {}", x.dtype());
    }
    let places: Vec<usize> = for_storage!(x.dtype(), E => {
        let dense = contiguous(&x.dense()?);
        let all = items::<E>(&dense).iter().enumerate();
        all.filter(|(_, element)| **element != E::zeroed()).map(|(place, _)| place).collect()
    }, text => match &x {
        Tensor::Text(text) => (0..text.items().len()).filter(|&at| !text.items()[at].is_empty()).collect(),
        Tensor::Dense(_) | Tensor::Small(..) => Vec::new(),
    });
    let found = [shape.len(), places.len()];
    let mut coordinates = vec![0i64; check_size(&found)?];
    for (index, &place) in places.iter().enumerate() {
        let mut rest = place;
        for axis in (0..shape.len()).rev() {
            coordinates[axis * places.len() + index] = to_i64(rest % shape[axis]);
            rest /= shape[axis];
        }
    }
    Ok(Tensor::from_items(&found, coordinates).into())
}

/// The axis of an attribute, or `None` where all elements are taken as one line.
fn axis_of(node: &Node<'_>) -> Option<i64> {
    node.has("axis").then(|| node.int("axis", 0))
}

/// The slices along a dimension for which a truth value says so; without it the elements.
fn compress(node: &Node<'_>) -> Built {
    let axis = axis_of(node);
    operator(move |inputs| {
        let (x, condition) = (inputs.take(0)?, inputs.take(1)?);
        if condition.dtype() != DType::Bool || condition.rank() != 1 {
            fault!("a list of truth values is needed, not {}", condition.describe());
        }
        let (x, axis) = in_line(x, axis)?;
        let length = x.shape()[axis];
        let condition = contiguous(&condition.dense()?);
        let truths = items::<u8>(&condition).iter().enumerate();
        let rows: Vec<usize> = truths.filter(|(_, truth)| **truth != 0).map(|(row, _)| row).collect();
        if rows.last().is_some_and(|&last| last >= length) {
            fault!("a dimension of length {length} has no element {:?}", rows.last());
        }
        Ok(slices(x, axis, &rows, &[rows.len()])?.into())
    })
}

/// The tensor and the dimension of its slices: without an axis, it is one line of elements.
fn in_line(x: Tensor, axis: Option<i64>) -> Result<(Tensor, usize), Fault> {
    if let Some(axis) = axis {
        let axis = resolve_axis(axis, x.rank())?;
        return Ok((x, axis));
    }
    let count = x.len();
    Ok((x.reshape(&[count])?, 0))
}

/// Equal slices in groups, in order.
struct Groups {
    /// The first slice of each.
    firsts: Vec<usize>,
    /// The group of each slice.
    group_of: Vec<usize>,
    /// How many slices each has.
    counts: Vec<i64>,
}

/// Each different slice once, where it is first, to which group each slice belongs, and how large they are.
fn unique(node: &Node<'_>) -> Built {
    let axis = axis_of(node);
    let sorted = node.flag("sorted", true);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let (x, axis) = in_line(x, axis)?;
        if x.dtype().is_small() {
            fault!("the operator does not take {}", x.dtype());
        }
        let count = x.shape()[axis];
        // The slices as rows of a table: where the dimension is the first, they are so already.
        let after: usize = x.shape()[axis + 1..].iter().product();
        let before: usize = x.shape()[..axis].iter().product();
        let width = before * after;
        let table = if before == 1 {
            x.clone()
        } else {
            let place = |row: usize, column: usize| (column / after * count + row) * after + column % after;
            let positions: Vec<usize> =
                (0..count).flat_map(|row| (0..width).map(move |column| place(row, column))).collect();
            pick(&x, &[count, width], &positions)?
        };
        let groups = for_storage!(x.dtype(), E => {
            let dense = contiguous(&table.dense()?);
            group(items::<E>(&dense), width, count, sorted, order::<E>)
        }, text => match &table {
            Tensor::Text(text) => group(text.items(), width, count, sorted, String::cmp),
            Tensor::Dense(_) | Tensor::Small(..) => fault!("strings are needed"),
        });
        let found = groups.firsts.len();
        let numbers = |positions: &[usize]| positions.iter().map(|&at| to_i64(at)).collect::<Vec<i64>>();
        Ok(Outputs::Many(vec![
            slices(x, axis, &groups.firsts, &[found])?,
            Tensor::from_items(&[found], numbers(&groups.firsts)),
            Tensor::from_items(&[count], numbers(&groups.group_of)),
            Tensor::from_items(&[found], groups.counts),
        ]))
    })
}

/// What is not a number comes after all numbers, and equals itself.
fn order<E: Item>(a: &E, b: &E) -> Ordering {
    let not_a_number = |x: &E| x.partial_cmp(x).is_none();
    a.partial_cmp(b).unwrap_or_else(|| not_a_number(a).cmp(&not_a_number(b)))
}

/// Puts `count` rows of equal elements into groups, in the order of what they hold or of where they begin.
fn group<T>(
    all: &[T],
    width: usize,
    count: usize,
    sorted: bool,
    order: impl Fn(&T, &T) -> Ordering,
) -> Groups {
    let compare = |&a: &usize, &b: &usize| {
        let pairs = all[a * width..][..width].iter().zip(&all[b * width..][..width]);
        pairs.map(|(a, b)| order(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut rows: Vec<usize> = (0..count).collect();
    // Equal rows stay in their order: the first of a group is the first of all.
    rows.sort_by(compare);
    let mut members: Vec<&[usize]> = rows.chunk_by(|a, b| compare(a, b).is_eq()).collect();
    if !sorted {
        members.sort_by_key(|members| members.first().copied());
    }
    let mut group_of = vec![0; count];
    for (group, members) in members.iter().enumerate() {
        for &row in *members {
            group_of[row] = group;
        }
    }
    Groups {
        firsts: members.iter().filter_map(|members| members.first().copied()).collect(),
        group_of,
        counts: members.iter().map(|members| to_i64(members.len())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_sorted_or_in_the_order_of_their_first_rows() {
        let all = [2.0f32, 1.0, 1.0, f32::NAN, 4.0, f32::NAN];
        let groups = group(&all, 1, 6, true, order::<f32>);
        assert_eq!(groups.firsts, [1, 0, 4, 3]);
        assert_eq!(groups.group_of, [1, 0, 0, 3, 2, 3]);
        assert_eq!(groups.counts, [2, 1, 1, 2]);
        assert_eq!(group(&all, 1, 6, false, order::<f32>).firsts, [0, 1, 3, 4]);
        // Rows of two.
        assert_eq!(group(&all, 2, 3, true, order::<f32>).firsts, [1, 0, 2]);
    }
}
