//! Operators that give the elements another shape, or put tensors side by side: the backend's own kernels.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, one};
use super::real::Real;
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault, resolve_axis};

/// What becomes of the dimensions.
pub(crate) enum Shapes {
    /// The elements stay in their order.
    Reshaped,
    /// Dimensions of length 1 are repeated.
    Expanded,
    Transposed {
        order: Option<Vec<i64>>,
    },
    Joined {
        axis: i64,
    },
    Divided {
        axis: i64,
    },
    /// Slices at positions of a dimension.
    Gathered {
        axis: i64,
    },
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("Reshape", |_, _| Ok(Form::Shapes(Shapes::Reshaped))),
    Entry::new("Flatten", |_, _| Ok(Form::Shapes(Shapes::Reshaped))),
    Entry::new("Squeeze", |_, _| Ok(Form::Shapes(Shapes::Reshaped))),
    Entry::new("Unsqueeze", |_, _| Ok(Form::Shapes(Shapes::Reshaped))),
    Entry::new("Identity", |_, _| Ok(Form::Shapes(Shapes::Reshaped))),
    Entry::new("Expand", |_, _| Ok(Form::Shapes(Shapes::Expanded))),
    Entry::new("Transpose", |node, _| Ok(Form::Shapes(Shapes::Transposed { order: node.ints("perm") }))),
    Entry::new("Concat", |node, _| Ok(along(node, 1, |axis| Shapes::Joined { axis }))),
    Entry::new("Split", |node, _| Ok(along(node, 0, |axis| Shapes::Divided { axis }))),
    Entry::new("Gather", |node, _| Ok(along(node, 0, |axis| Shapes::Gathered { axis }))),
];

fn along(node: &Node<'_>, default: i64, make: fn(i64) -> Shapes) -> Form {
    Form::Shapes(make(node.int("axis", default)))
}

impl Shapes {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        Ok(one(match self {
            Self::Reshaped => {
                let x = arguments.real(0)?;
                let shape = arguments.operate_on(stand_in(&x)?)?.shape().to_vec();
                x.reshape(&shape)?
            }
            Self::Expanded => {
                let x = arguments.real(0)?;
                let shape = arguments.operate_on(stand_in(&x)?)?.shape().to_vec();
                x.expand(&shape)?
            }
            Self::Transposed { order } => {
                let x = arguments.real(0)?;
                let order: Vec<usize> = match order {
                    Some(order) => {
                        order.iter().map(|&axis| resolve_axis(axis, x.rank())).collect::<Result<_, _>>()?
                    }
                    None => (0..x.rank()).rev().collect(),
                };
                x.permute(&order)?
            }
            Self::Joined { axis } => {
                let parts = arguments.reals()?;
                let axis = resolve_axis(*axis, parts.first().map_or(0, Real::rank))?;
                Real::join(parts, axis)?
            }
            Self::Divided { axis } => return divided(arguments, *axis),
            Self::Gathered { axis } => {
                let x = arguments.real(0)?;
                let axis = resolve_axis(*axis, x.rank())?;
                gathered(x, axis, &arguments.host(1)?)?
            }
        }))
    }
}

/// A host tensor of the same shape, of which the memory is one byte. The operator of the host says what it
/// makes of the shape.
fn stand_in<B: Backend>(x: &Real<B>) -> Result<Tensor, Fault> {
    check_size(x.shape())?;
    Tensor::from_items(&vec![1; x.rank()], vec![0u8]).broadcast_to(x.shape())
}

fn divided<B: Backend>(arguments: &mut Arguments<'_, B>, axis: i64) -> Result<Vec<Carried<B>>, Fault> {
    let x = arguments.real(0)?;
    let axis = resolve_axis(axis, x.rank())?;
    let mut held = vec![Some(stand_in(&x)?.into())];
    for index in 1..arguments.count() {
        held.push(arguments.held(index)?);
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for part in arguments.operate(held)? {
        let part = part.tensor()?;
        let Some(&length) = part.shape().get(axis) else { fault!("a part has no dimension {axis}") };
        parts.push(Carried::Real(x.clone().part(axis, start, length)?));
        start += length;
    }
    Ok(parts)
}

/// The dimensions of the positions come in the place of the dimension.
fn gathered<B: Backend>(x: Real<B>, axis: usize, positions: &Tensor) -> Result<Real<B>, Fault> {
    let length = x.length(axis)?;
    let rows = positions.to_i64s()?.into_iter().map(|position| resolve_position(position, length));
    let rows = rows.collect::<Result<Vec<usize>, Fault>>()?;
    let shape = [&x.shape()[..axis], positions.shape(), &x.shape()[axis + 1..]].concat();
    x.select(axis, &rows)?.reshape(&shape)
}

/// A position that may be counted from the end.
pub(super) fn resolve_position(position: i64, length: usize) -> Result<usize, Fault> {
    resolve_axis(position, length)
        .map_err(|_| Fault(format!("index {position} is out of range for a length of {length}")))
}
