//! Products of matrices, and sums of products by Einstein's convention.

use std::collections::BTreeMap;

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, one};
use super::real::Real;
use crate::ops::einsum::{Assignment, Equation, Label, Meeting};
use crate::ops::matmul::without_added;
use crate::tensor::{Fault, broadcast_shape, check_size, fault};

/// Which product.
pub(crate) enum Product {
    /// By NumPy's rules for vectors and stacks of matrices.
    Stacked,
    /// alpha * A * B + beta * C, of matrices that may be transposed.
    General { alpha: f64, beta: f64, transposed: [bool; 2] },
    /// By an equation.
    Einsum(Equation),
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("MatMul", |_, _| Ok(Form::Product(Product::Stacked))),
    Entry::new("Gemm", |node, _| {
        Ok(Form::Product(Product::General {
            alpha: node.float("alpha", 1.0).into(),
            beta: node.float("beta", 1.0).into(),
            transposed: [node.flag("transA", false), node.flag("transB", false)],
        }))
    }),
    Entry::new("Einsum", |node, _| Ok(Form::Product(Product::Einsum(Equation::read(node)?)))),
];

impl Product {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        Ok(one(match self {
            Self::Stacked => {
                let left = arguments.real(0)?;
                stacked(left, arguments.real(1)?)?
            }
            Self::General { alpha, beta, transposed } => {
                let mut matrix = |index: usize| {
                    let matrix = arguments.real(index)?;
                    if matrix.rank() != 2 {
                        fault!("two matrices are needed, not {}", matrix.describe());
                    }
                    if transposed[index] { matrix.swapped(0, 1) } else { Ok(matrix) }
                };
                let (left, right) = (matrix(0)?, matrix(1)?);
                let product = scaled(left.product(right)?, *alpha);
                let Some(bias) = arguments.optional(2)? else { return Ok(one(product)) };
                let shape = product.shape().to_vec();
                if broadcast_shape(&shape, bias.shape())? != shape {
                    fault!("a bias of {} does not fit a product of {shape:?}", bias.describe());
                }
                product.add(scaled(bias, *beta))?
            }
            Self::Einsum(equation) => einsum(equation, arguments.reals()?)?,
        }))
    }
}

/// The tensor times a number, which is 1 in nearly all files.
#[expect(clippy::float_cmp, reason = "exactly one changes nothing")]
fn scaled<B: Backend>(x: Real<B>, factor: f64) -> Real<B> {
    if factor == 1.0 { x } else { x.times(factor) }
}

/// A vector is a row on the left and a column on the right; the added dimension is taken away after.
fn stacked<B: Backend>(left: Real<B>, right: Real<B>) -> Result<Real<B>, Fault> {
    let (left_rank, right_rank) = (left.rank(), right.rank());
    if left_rank == 0 || right_rank == 0 {
        fault!("a scalar has no matrix product");
    }
    let (rows, columns) = (left.len(), right.len());
    let left = if left_rank == 1 { left.reshape(&[1, rows])? } else { left };
    let right = if right_rank == 1 { right.reshape(&[columns, 1])? } else { right };
    let product = left.product(right)?;
    let shape = without_added(product.shape(), left_rank, right_rank);
    product.reshape(&shape)
}

/// A tensor whose dimensions have different labels.
struct Labelled<B: Backend> {
    tensor: Real<B>,
    labels: Vec<Label>,
}

/// The operands are joined from left to right, as the operator of the host does it.
fn einsum<B: Backend>(equation: &Equation, tensors: Vec<Real<B>>) -> Result<Real<B>, Fault> {
    let shapes: Vec<&[usize]> = tensors.iter().map(Real::shape).collect();
    let Assignment { operands, lengths, result } = equation.assign(&shapes)?;
    let operands = tensors.into_iter().zip(operands).rev();
    let mut waiting = operands
        .map(|(tensor, labels)| Labelled::new(tensor, labels, &lengths))
        .collect::<Result<Vec<_>, Fault>>()?;
    let Some(mut joined) = waiting.pop() else { fault!("there is nothing to sum") };
    while let Some(next) = waiting.pop() {
        let later: Vec<Label> = waiting.iter().flat_map(|operand| operand.labels.clone()).collect();
        joined = joined.joined(next, |label| result.contains(&label) || later.contains(&label))?;
    }
    let joined = joined.summed(|label| result.contains(&label))?;
    let order = joined.places(&result)?;
    joined.tensor.permute(&order)
}

impl<B: Backend> Labelled<B> {
    /// Takes the diagonal of labels that come more than once, and leaves out dimensions that are repeated to
    /// the length that other operands have.
    fn new(tensor: Real<B>, labels: Vec<Label>, lengths: &BTreeMap<Label, usize>) -> Result<Self, Fault> {
        let own = |(axis, label): (usize, &Label)| lengths.get(label) == tensor.shape().get(axis);
        let kept: Vec<bool> = labels.iter().enumerate().map(own).collect();
        let shape: Vec<usize> =
            tensor.shape().iter().zip(&kept).filter(|(_, kept)| **kept).map(|(&length, _)| length).collect();
        let mut labels: Vec<Label> =
            labels.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(label, _)| label).collect();
        let mut tensor = tensor.reshape(&shape)?;
        let twice = |labels: &[Label]| {
            (0..labels.len()).find_map(|at| {
                labels[..at].iter().position(|label| *label == labels[at]).map(|one| (one, at))
            })
        };
        while let Some((one, other)) = twice(&labels) {
            let length = tensor.length(one)?;
            let mut order: Vec<usize> =
                (0..labels.len()).filter(|&axis| axis != one && axis != other).collect();
            let mut rest: Vec<usize> = order.iter().map(|&axis| tensor.shape()[axis]).collect();
            labels = order.iter().map(|&axis| labels[axis]).chain([labels[one]]).collect();
            order.extend([one, other]);
            rest.push(length * length);
            let diagonal: Vec<usize> = (0..length).map(|at| at * (length + 1)).collect();
            tensor = tensor.permute(&order)?.reshape(&rest)?.select(rest.len() - 1, &diagonal)?;
        }
        Ok(Self { tensor, labels })
    }

    fn length(&self, label: Label) -> Option<usize> {
        let at = self.labels.iter().position(|&own| own == label)?;
        self.tensor.shape().get(at).copied()
    }

    /// Where the labels are among its own.
    fn places(&self, labels: &[Label]) -> Result<Vec<usize>, Fault> {
        let place = |label: &Label| self.labels.iter().position(|own| own == label);
        let places: Option<Vec<usize>> = labels.iter().map(place).collect();
        places.ok_or_else(|| Fault("a label is missing".to_owned()))
    }

    /// Sums over the labels that are not needed.
    fn summed(self, needed: impl Fn(Label) -> bool) -> Result<Self, Fault> {
        let (kept, gone): (Vec<usize>, Vec<usize>) =
            (0..self.labels.len()).partition(|&at| needed(self.labels[at]));
        let shape: Vec<usize> = kept.iter().map(|&at| self.tensor.shape()[at]).collect();
        let labels = kept.iter().map(|&at| self.labels[at]).collect();
        Ok(Self { tensor: self.tensor.sum(&gone)?.reshape(&shape)?, labels })
    }

    /// The dimensions in the order of the labels, which are all its own, as a stack of matrices.
    fn arranged(&self, parts: [&[Label]; 3]) -> Result<Real<B>, Fault> {
        let order = self.places(&parts.concat())?;
        let length = |part: &[Label]| part.iter().filter_map(|&label| self.length(label)).product();
        self.tensor.clone().permute(&order)?.reshape(&parts.map(length))
    }

    /// The product with another tensor, summed over the labels that are not needed after.
    fn joined(self, other: Self, needed: impl Fn(Label) -> bool) -> Result<Self, Fault> {
        let (here, there) = (self.labels.clone(), other.labels.clone());
        let one = self.summed(|label| needed(label) || there.contains(&label))?;
        let two = other.summed(|label| needed(label) || here.contains(&label))?;
        let meeting = Meeting::new(&one.labels, &two.labels, needed);
        let left = one.arranged([&meeting.batch, &meeting.own, &meeting.inner])?;
        let right = two.arranged([&meeting.batch, &meeting.inner, &meeting.added])?;
        let labels = meeting.labels();
        let shape: Vec<usize> =
            labels.iter().filter_map(|&label| one.length(label).or_else(|| two.length(label))).collect();
        check_size(&shape)?;
        Ok(Self { tensor: left.product(right)?.reshape(&shape)?, labels })
    }
}
