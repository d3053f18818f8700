//! Reductions over dimensions, and the position of the largest or smallest element.

use burn::backend::flex::FlexTensor;
use num_traits::{AsPrimitive, Float, PrimInt, WrappingAdd, WrappingMul};

use super::cast::cast;
use super::{Built, Entry, Inputs, NUMBERS, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{
    Fault, Item, Tensor, check_size, contiguous, fault, for_integers, for_storage, items, resolve_axis,
    to_i64, type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("ReduceSum", 1, NUMBERS, |node| reduction(node, Kind::Sum, 13)),
    Entry::widening("ReduceMean", 1, NUMBERS, |node| reduction(node, Kind::Mean, 18)),
    Entry::widening("ReduceMax", 1, "floats, integers, BOOL", |node| reduction(node, Kind::Max, 18)),
    Entry::widening("ReduceMin", 1, "floats, integers, BOOL", |node| reduction(node, Kind::Min, 18)),
    Entry::widening("ReduceProd", 1, NUMBERS, |node| reduction(node, Kind::Prod, 18)),
    Entry::widening("ReduceL1", 1, NUMBERS, |node| reduction(node, Kind::L1, 18)),
    Entry::widening("ReduceL2", 1, NUMBERS, |node| reduction(node, Kind::L2, 18)),
    Entry::widening("ReduceSumSquare", 1, NUMBERS, |node| reduction(node, Kind::SumSquare, 18)),
    Entry::widening("ReduceLogSum", 1, NUMBERS, |node| reduction(node, Kind::LogSum, 18)),
    Entry::widening("ReduceLogSumExp", 1, NUMBERS, |node| reduction(node, Kind::LogSumExp, 18)),
    Entry::widening("ArgMax", 1, NUMBERS, |node| position(node, true)),
    Entry::widening("ArgMin", 1, NUMBERS, |node| position(node, false)),
];

/// What the elements of a set become.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// The axes are an attribute before opset `since` and an input from there on.
fn reduction(node: &Node<'_>, kind: Kind, since: i64) -> Built {
    let axes = Ints::attribute_or_input(node, "axes", 1, since)?;
    let keep = node.flag("keepdims", true);
    let nothing_if_empty = node.flag("noop_with_empty_axes", false);
    operator(move |inputs| {
        let axes = axes.get(inputs)?.unwrap_or_default().into_owned();
        let x = inputs.dense(0)?;
        // Without axes each element may be a set of its own: what is not a sum or a product of it stays.
        let table = if axes.is_empty() && nothing_if_empty {
            Table { width: 1, shape: x.layout().shape().to_vec(), tensor: contiguous(&x) }
        } else {
            table(&x, &axes, keep)?
        };
        reduce(kind, &table).map(Into::into)
    })
}

/// The sum over some dimensions, which are left out of the result.
pub(super) fn total(x: &FlexTensor, axes: &[i64]) -> Result<Tensor, Fault> {
    if axes.is_empty() {
        return Ok(x.clone().into());
    }
    reduce(Kind::Sum, &table(x, axes, false)?)
}

/// A tensor as a table of `rows` by what is reduced, and the shape of the result.
struct Table {
    tensor: FlexTensor,
    width: usize,
    shape: Vec<usize>,
}

/// Moves the reduced dimensions to the end. No axis means all.
fn table(x: &FlexTensor, axes: &[i64], keep: bool) -> Result<Table, Fault> {
    let shape = x.layout().shape();
    let rank = shape.len();
    let mut reduced = vec![axes.is_empty(); rank];
    for &axis in axes {
        reduced[resolve_axis(axis, rank)?] = true;
    }
    let order: Vec<usize> =
        (0..rank).filter(|&axis| !reduced[axis]).chain((0..rank).filter(|&axis| reduced[axis])).collect();
    let width = (0..rank).filter(|&axis| reduced[axis]).map(|axis| shape[axis]).product();
    let result = (0..rank)
        .filter(|&axis| keep || !reduced[axis])
        .map(|axis| if reduced[axis] { 1 } else { shape[axis] })
        .collect::<Vec<_>>();
    let in_order = order.iter().copied().eq(0..rank);
    let tensor = contiguous(&if in_order { x.clone() } else { x.permute(&order) });
    Ok(Table { tensor, width, shape: result })
}

fn reduce(kind: Kind, table: &Table) -> Result<Tensor, Fault> {
    let count = check_size(&table.shape)?;
    match (type_of(&table.tensor), kind) {
        (DType::F32, _) => Ok(float_rows::<f32>(kind, table, count)),
        (DType::F64, _) => Ok(float_rows::<f64>(kind, table, count)),
        (DType::Bool, Kind::Max | Kind::Min) => {
            let truth = |row: &[u8]| match kind {
                Kind::Max => row.iter().any(|&x| x != 0),
                _ => row.iter().all(|&x| x != 0),
            };
            let truths = rows::<u8>(table, count).map(|row| u8::from(truth(row))).collect();
            Ok(Tensor::from_bools(&table.shape, truths))
        }
        (dtype, Kind::LogSum | Kind::LogSumExp) if dtype.is_integer() => {
            let wide = Table {
                tensor: cast(table.tensor.clone().into(), DType::F64)?.dense()?,
                width: table.width,
                shape: table.shape.clone(),
            };
            cast(float_rows::<f64>(kind, &wide, count), dtype)
        }
        (dtype, _) => for_integers!(dtype, E => whole_rows::<E>(kind, table, count),
            other => fault!("{other} cannot be reduced")),
    }
}

/// The rows of a table: `count` of them, also where they are empty.
fn rows<E: Item>(table: &Table, count: usize) -> impl Iterator<Item = &[E]> {
    let all = items::<E>(&table.tensor);
    (0..count).map(move |row| &all[row * table.width..(row + 1) * table.width])
}

fn float_rows<F: Item + Float>(kind: Kind, table: &Table, count: usize) -> Tensor {
    let width = F::from(table.width).unwrap_or_else(F::nan);
    let row = |row: &[F]| match kind {
        Kind::Sum => sum(row, |x| x),
        Kind::Mean => sum(row, |x| x) / width,
        Kind::Max => {
            row.iter().fold(F::neg_infinity(), |best, &x| if x > best || x.is_nan() { x } else { best })
        }
        Kind::Min => row.iter().fold(F::infinity(), |best, &x| if x < best || x.is_nan() { x } else { best }),
        Kind::Prod => row.iter().fold(F::one(), |product, &x| product * x),
        Kind::L1 => sum(row, F::abs),
        Kind::L2 => sum(row, |x| x * x).sqrt(),
        Kind::SumSquare => sum(row, |x| x * x),
        Kind::LogSum => sum(row, |x| x).ln(),
        Kind::LogSumExp => {
            // Relative to the largest, so that no power overflows.
            let larger = |best: F, &x: &F| if x > best || x.is_nan() { x } else { best };
            let largest = row.iter().fold(F::neg_infinity(), larger);
            if largest.is_finite() { largest + sum(row, |x| (x - largest).exp()).ln() } else { largest }
        }
    };
    Tensor::from_items(&table.shape, rows::<F>(table, count).map(row).collect())
}

/// A sum in eight strands: faster than one, and the error grows more slowly.
pub(super) fn sum<F: Float>(row: &[F], term: impl Fn(F) -> F) -> F {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut strands = [F::zero(); 8];
    for chunk in chunks {
        for (strand, &x) in strands.iter_mut().zip(chunk) {
            *strand = *strand + term(x);
        }
    }
    strands.into_iter().chain(rest.iter().map(|&x| term(x))).fold(F::zero(), |sum, x| sum + x)
}

fn whole_rows<E>(kind: Kind, table: &Table, count: usize) -> Result<Tensor, Fault>
where
    E: Item + PrimInt + WrappingAdd + WrappingMul + AsPrimitive<i128>,
    i128: AsPrimitive<E>,
{
    if table.width == 0 && matches!(kind, Kind::Mean) {
        fault!("nothing has no mean");
    }
    let total = |row: &[E]| row.iter().fold(E::zero(), |sum, x| sum.wrapping_add(x));
    let square = |row: &[E]| row.iter().fold(E::zero(), |sum, x| sum.wrapping_add(&x.wrapping_mul(x)));
    let wide = |row: &[E]| row.iter().map(|&x| AsPrimitive::<i128>::as_(x)).sum::<i128>();
    let width = i128::from(to_i64(table.width));
    let row = |row: &[E]| match kind {
        Kind::Sum => Some(total(row)),
        Kind::Mean => Some((wide(row) / width).as_()),
        Kind::Max => Some(row.iter().copied().max().unwrap_or(E::min_value())),
        Kind::Min => Some(row.iter().copied().min().unwrap_or(E::max_value())),
        Kind::Prod => Some(row.iter().fold(E::one(), |product, x| product.wrapping_mul(x))),
        Kind::L1 => Some(row.iter().fold(E::zero(), |sum, &x| sum.wrapping_add(&absolute(x)))),
        Kind::SumSquare => Some(square(row)),
        Kind::L2 => num_traits::ToPrimitive::to_f64(&square(row)).and_then(|square| E::from(square.sqrt())),
        Kind::LogSum | Kind::LogSumExp => None,
    };
    let reduced: Option<Vec<E>> = rows::<E>(table, count).map(row).collect();
    let reduced = reduced.ok_or_else(|| Fault("this reduction is not for integers".to_owned()))?;
    Ok(Tensor::from_items(&table.shape, reduced))
}

/// The smallest number has no absolute value of its type and stays.
fn absolute<E: PrimInt>(x: E) -> E {
    if x < E::zero() { E::zero().checked_sub(&x).unwrap_or(x) } else { x }
}

fn position(node: &Node<'_>, largest: bool) -> Built {
    let axis = node.int("axis", 0);
    let keep = node.flag("keepdims", true);
    let last = node.flag("select_last_index", false);
    if node.output_count() != 1 {
        return Err(Refusal::Invalid("one output is needed".to_owned()));
    }
    operator(move |inputs: &mut Inputs<'_>| {
        let table = table(&inputs.dense(0)?, &[axis], keep)?;
        let count = check_size(&table.shape)?;
        if table.width == 0 {
            fault!("nothing has no largest or smallest element");
        }
        let found = for_storage!(type_of(&table.tensor), E => {
            rows::<E>(&table, count).map(|row| best(row, largest, last)).collect::<Vec<i64>>()
        }, text => Vec::new());
        Ok(Tensor::from_items(&table.shape, found).into())
    })
}

/// The position of the first, or last, best element.
fn best<E: Item>(row: &[E], largest: bool, last: bool) -> i64 {
    let mut at = 0;
    for (index, x) in row.iter().enumerate().skip(1) {
        let better = if largest { *x > row[at] } else { *x < row[at] };
        if better || (last && *x == row[at]) {
            at = index;
        }
    }
    to_i64(at)
}
