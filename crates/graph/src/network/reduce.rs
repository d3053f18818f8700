//! Reductions over dimensions, cumulative sums, and the softmax along a dimension.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read, one};
use super::real::Real;
use crate::load::{Ints, Node};
use crate::ops::reduce::Kind;
use crate::tensor::{Fault, Tensor, fault, resolve_axis};

/// What becomes of the elements along some dimensions.
pub(crate) enum Reduce {
    /// One number.
    Over { kind: Kind, axes: Ints, keep: bool, nothing_if_empty: bool },
    /// The largest or the mean of all dimensions after the channels.
    Global { kind: Kind },
    /// Shares that add up to one, or their logarithms. In old files all dimensions from `axis` on are one.
    Softmax { axis: i64, as_matrix: bool, logarithm: bool },
    /// The sums of all elements up to each one.
    Cumulative { reverse: bool, exclusive: bool },
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("ReduceSum", |node, _| over(node, Kind::Sum, 13)),
    Entry::new("ReduceMean", |node, _| over(node, Kind::Mean, 18)),
    Entry::new("ReduceMax", |node, _| over(node, Kind::Max, 18)),
    Entry::new("ReduceMin", |node, _| over(node, Kind::Min, 18)),
    Entry::new("ReduceProd", |node, _| over(node, Kind::Prod, 18)),
    Entry::new("ReduceL1", |node, _| over(node, Kind::L1, 18)),
    Entry::new("ReduceL2", |node, _| over(node, Kind::L2, 18)),
    Entry::new("ReduceSumSquare", |node, _| over(node, Kind::SumSquare, 18)),
    Entry::new("ReduceLogSum", |node, _| over(node, Kind::LogSum, 18)),
    Entry::new("ReduceLogSumExp", |node, _| over(node, Kind::LogSumExp, 18)),
    Entry::new("GlobalAveragePool", |_, _| Ok(Form::Reduce(Reduce::Global { kind: Kind::Mean }))),
    Entry::new("GlobalMaxPool", |_, _| Ok(Form::Reduce(Reduce::Global { kind: Kind::Max }))),
    Entry::new("Softmax", |node, _| Ok(softmax(node, false))),
    Entry::new("LogSoftmax", |node, _| Ok(softmax(node, true))),
    Entry::new("CumSum", |node, _| {
        let (reverse, exclusive) = (node.flag("reverse", false), node.flag("exclusive", false));
        Ok(Form::Reduce(Reduce::Cumulative { reverse, exclusive }))
    }),
];

/// The axes are an attribute before opset `since` and an input from there on.
fn over(node: &Node<'_>, kind: Kind, since: i64) -> Read {
    let axes = Ints::attribute_or_input(node, "axes", 1, since)?;
    let (keep, nothing_if_empty) = (node.flag("keepdims", true), node.flag("noop_with_empty_axes", false));
    Ok(Form::Reduce(Reduce::Over { kind, axes, keep, nothing_if_empty }))
}

fn softmax(node: &Node<'_>, logarithm: bool) -> Form {
    let as_matrix = node.opset() < 13;
    let axis = node.int("axis", if as_matrix { 1 } else { -1 });
    Form::Reduce(Reduce::Softmax { axis, as_matrix, logarithm })
}

impl Reduce {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        let x = arguments.real(0)?;
        Ok(one(match self {
            Self::Over { kind, axes, keep, nothing_if_empty } => {
                let axes = match axes {
                    Ints::Fixed(axes) => axes.clone(),
                    Ints::Input(index) => arguments.host(*index)?.to_i64s()?,
                    Ints::Absent => Vec::new(),
                };
                let all = axes.is_empty() && !nothing_if_empty;
                let mut reduced = vec![all; x.rank()];
                for axis in axes {
                    reduced[resolve_axis(axis, x.rank())?] = true;
                }
                over_axes(*kind, x, &reduced, *keep)?
            }
            Self::Global { kind } => {
                if x.rank() < 2 {
                    fault!("{} has no channels", x.describe());
                }
                let reduced: Vec<bool> = (0..x.rank()).map(|axis| axis >= 2).collect();
                over_axes(*kind, x, &reduced, true)?
            }
            Self::Softmax { axis, as_matrix, logarithm } => {
                let shape = x.shape().to_vec();
                if x.len() == 0 {
                    return Ok(one(x));
                }
                if shape.is_empty() {
                    return Ok(one(share(x.reshape(&[1])?, 0, *logarithm)?.scalar()?));
                }
                let axis = resolve_axis(*axis, shape.len())?;
                if *as_matrix {
                    let table = [shape[..axis].iter().product(), shape[axis..].iter().product()];
                    share(x.reshape(&table)?, 1, *logarithm)?.reshape(&shape)?
                } else {
                    share(x, axis, *logarithm)?
                }
            }
            Self::Cumulative { reverse, exclusive } => {
                cumulative(x, &arguments.host(1)?, *reverse, *exclusive)?
            }
        }))
    }
}

/// Shares along a dimension, or their logarithms.
pub(super) fn share<B: Backend>(x: Real<B>, axis: usize, logarithm: bool) -> Result<Real<B>, Fault> {
    // The result does not depend on what is taken away: no gradient goes through it.
    let largest = x.clone().constant().largest(axis)?;
    let shifted = x.subtract(largest)?;
    let powers = shifted.clone().map(B::float_exp);
    let sum = powers.clone().sum(&[axis])?;
    if logarithm { shifted.subtract(sum.map(B::float_log)) } else { powers.divide(sum) }
}

/// Reduces some dimensions, which stay with the length 1 or go.
fn over_axes<B: Backend>(kind: Kind, x: Real<B>, reduced: &[bool], keep: bool) -> Result<Real<B>, Fault> {
    let shape = x.shape().to_vec();
    let rank = shape.len();
    let axes: Vec<usize> = (0..rank).filter(|&axis| reduced[axis]).collect();
    let kept: Vec<usize> = (0..rank).filter(|&axis| !reduced[axis]).map(|axis| shape[axis]).collect();
    let result: Vec<usize> = if keep {
        (0..rank).map(|axis| if reduced[axis] { 1 } else { shape[axis] }).collect()
    } else {
        kept.clone()
    };
    let total = |x: Real<B>| x.sum(&axes);
    let reduced_x = match kind {
        Kind::Sum => total(x)?,
        Kind::Mean => x.mean(&axes)?,
        Kind::L1 => total(x.map(B::float_abs))?,
        Kind::SumSquare => total(x.squared())?,
        Kind::L2 => root(total(x.squared())?),
        Kind::LogSum => total(x)?.map(B::float_log),
        Kind::Max | Kind::Min | Kind::Prod | Kind::LogSumExp => {
            let order: Vec<usize> =
                (0..rank).filter(|&axis| !reduced[axis]).chain(axes.iter().copied()).collect();
            let width: usize = axes.iter().map(|&axis| shape[axis]).product();
            let rows = x.permute(&order)?.reshape(&[kept.iter().product(), width])?;
            rows_over(kind, rows)?
        }
    };
    reduced_x.reshape(&result)
}

/// The root, whose derivative at zero is taken to be zero.
pub(super) fn root<B: Backend>(x: Real<B>) -> Real<B> {
    let zero = x.equals(0.0);
    x.fill(zero.clone(), 1.0).map(B::float_sqrt).fill(zero, 0.0)
}

/// One number of each row of a table.
fn rows_over<B: Backend>(kind: Kind, rows: Real<B>) -> Result<Real<B>, Fault> {
    match kind {
        Kind::Max => rows.largest(1),
        Kind::Min => Ok(rows.negated().largest(1)?.negated()),
        Kind::LogSumExp => {
            let largest = rows.clone().constant().largest(1)?;
            // An infinity less itself is no number.
            let largest = largest.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
            let sum = rows.subtract(largest.clone())?.map(B::float_exp).sum(&[1])?;
            sum.map(B::float_log).add(largest)
        }
        _ => multiplied(rows),
    }
}

/// The product of each row, of halves until one column is left: its derivative holds at zero too.
fn multiplied<B: Backend>(rows: Real<B>) -> Result<Real<B>, Fault> {
    let mut rows = rows;
    let mut width = rows.length(1)?;
    if width == 0 {
        let count = rows.length(0)?;
        return rows.full(&[count, 1], 1.0);
    }
    while width > 1 {
        let half = width / 2;
        let product = rows.clone().part(1, 0, half)?.multiply(rows.clone().part(1, half, half)?)?;
        rows = if width.is_multiple_of(2) {
            product
        } else {
            Real::join(vec![product, rows.part(1, width - 1, 1)?], 1)?
        };
        width = half + width % 2;
    }
    Ok(rows)
}

fn cumulative<B: Backend>(
    x: Real<B>,
    axis: &Tensor,
    reverse: bool,
    exclusive: bool,
) -> Result<Real<B>, Fault> {
    let Some(axis) = axis.to_i64s()?.first().copied() else { fault!("the axis is missing") };
    let axis = resolve_axis(axis, x.rank())?;
    if x.len() == 0 {
        return Ok(x);
    }
    let turned = |x: Real<B>| if reverse { x.map(|x| B::float_flip(x, &[axis])) } else { x };
    let sums = turned(turned(x.clone()).map(|x| B::float_cumsum(x, axis)));
    if exclusive { sums.subtract(x) } else { Ok(sums) }
}
