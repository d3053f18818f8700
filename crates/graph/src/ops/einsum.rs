//! Sums of products by Einstein's convention.
//!
//! Each dimension has a label. Operands are joined from left to right: labels that only one of the two has
//! and that nobody needs later are summed at once, and those that both have become the inner dimension of
//! a stack of matrix products. No intermediate result is larger than a tensor may be, so that the work is
//! that of matrix products.

use std::collections::BTreeMap;

use burn::backend::flex::{FlexTensor, Layout};

use super::matmul::product;
use super::reduce::total;
use super::{Built, Entry, NUMBERS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, shape_of, to_i64};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::widening("Einsum", 12, NUMBERS, einsum)];

/// The most operands: each is compared with all that come after it.
const MAX_OPERANDS: usize = 64;

/// A dimension: a letter of the equation, or one of those that dots stand for, counted from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    Dots(usize),
    Letter(char),
}

/// The labels of an operand as the equation has them: `None` for the dots.
type Term = Vec<Option<char>>;

/// What is left and right of the arrow.
pub(crate) struct Equation {
    operands: Vec<Term>,
    /// `None` where the equation has no arrow.
    result: Option<Term>,
}

/// What an equation says of operands of certain shapes.
pub(crate) struct Assignment {
    /// The labels of each operand.
    pub(crate) operands: Vec<Vec<Label>>,
    /// The length of each label.
    pub(crate) lengths: BTreeMap<Label, usize>,
    /// The labels of the result.
    pub(crate) result: Vec<Label>,
}

impl Equation {
    /// The equation of a node, which must have an operand for each input.
    pub(crate) fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let equation = Self::parse(&node.string("equation", "")?)?;
        if equation.operands.len() != node.input_count() {
            return Err(Refusal::Invalid(format!("the equation has {} operands", equation.operands.len())));
        }
        Ok(equation)
    }

    /// Gives each dimension of the operands its label.
    pub(crate) fn assign(&self, shapes: &[&[usize]]) -> Result<Assignment, Fault> {
        let mut operands = Vec::with_capacity(shapes.len());
        let mut lengths: BTreeMap<Label, usize> = BTreeMap::new();
        let mut uses: BTreeMap<Label, usize> = BTreeMap::new();
        for (term, shape) in self.operands.iter().zip(shapes) {
            let labels = labels(term, shape.len())?;
            for (&label, &length) in labels.iter().zip(*shape) {
                *uses.entry(label).or_default() += 1;
                let known = lengths.entry(label).or_insert(length);
                if *known == 1 {
                    *known = length;
                } else if length != *known && length != 1 {
                    fault!("a dimension cannot have the lengths {known} and {length}");
                }
            }
            operands.push(labels);
        }
        let dots = lengths.keys().filter(|label| matches!(label, Label::Dots(_))).count();
        let result: Vec<Label> = if let Some(result) = &self.result {
            labels(result, dots + result.iter().flatten().count())?
        } else {
            // All that come once, in the order of the alphabet, dots before.
            let once = uses.iter().filter(|&(label, &uses)| matches!(label, Label::Letter(_)) && uses == 1);
            (0..dots).rev().map(Label::Dots).chain(once.map(|(&label, _)| label)).collect()
        };
        Ok(Assignment { operands, lengths, result })
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text, None),
        };
        let operands: Vec<Term> = left.split(',').map(term).collect::<Result<_, _>>()?;
        if operands.len() > MAX_OPERANDS {
            let reason = format!("{} operands of one sum are more than {MAX_OPERANDS}", operands.len());
            return Err(Refusal::Unsupported(reason));
        }
        let result = right.map(term).transpose()?;
        if let Some(result) = &result {
            for (at, label) in result.iter().enumerate() {
                let known = operands.iter().any(|operand| operand.contains(label));
                // Dots may stand for nothing.
                if (!known && label.is_some()) || result[..at].contains(label) {
                    return Err(Refusal::Invalid(format!("the result of `{text}` is not defined")));
                }
            }
            if !result.contains(&None) && operands.iter().any(|operand| operand.contains(&None)) {
                return Err(Refusal::Unsupported(format!("the result of `{text}` leaves out the dots")));
            }
        }
        Ok(Self { operands, result })
    }
}

fn term(text: &str) -> Result<Term, Refusal> {
    let refused = || Refusal::Invalid(format!("`{text}` is not a term of an equation"));
    let mut labels = Term::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            if labels.contains(&None) {
                return Err(refused());
            }
            labels.push(None);
            rest = after;
        } else if first.is_ascii_alphabetic() {
            labels.push(Some(first));
            rest = &rest[1..];
        } else if first == ' ' {
            rest = &rest[1..];
        } else {
            return Err(refused());
        }
    }
    Ok(labels)
}

/// The labels of a tensor of `rank` dimensions, dots included.
fn labels(term: &[Option<char>], rank: usize) -> Result<Vec<Label>, Fault> {
    let letters = term.iter().flatten().count();
    let dots = rank.checked_sub(letters).filter(|&dots| dots == 0 || term.contains(&None));
    let Some(dots) = dots else { fault!("{letters} labels are given for {rank} dimensions") };
    Ok(term
        .iter()
        .flat_map(|label| match label {
            Some(letter) => vec![Label::Letter(*letter)],
            None => (0..dots).rev().map(Label::Dots).collect(),
        })
        .collect())
}

/// The labels of two operands whose product is taken, by what is done with them: a stack of matrix products.
pub(crate) struct Meeting {
    /// Of both, and needed after: the stack.
    pub(crate) batch: Vec<Label>,
    /// Of the first alone: the rows.
    pub(crate) own: Vec<Label>,
    /// Of both, and not needed after: what is summed over.
    pub(crate) inner: Vec<Label>,
    /// Of the second alone: the columns.
    pub(crate) added: Vec<Label>,
}

impl Meeting {
    pub(crate) fn new(one: &[Label], two: &[Label], needed: impl Fn(Label) -> bool) -> Self {
        let (shared, own): (Vec<Label>, Vec<Label>) = one.iter().partition(|label| two.contains(label));
        let (batch, inner) = shared.iter().partition(|&&label| needed(label));
        let added = two.iter().copied().filter(|label| !shared.contains(label)).collect();
        Self { batch, own, inner, added }
    }

    /// The labels of the product, in its order.
    pub(crate) fn labels(self) -> Vec<Label> {
        [self.batch, self.own, self.added].concat()
    }
}

/// A tensor whose dimensions have different labels.
struct Labelled {
    tensor: FlexTensor,
    labels: Vec<Label>,
}

impl Labelled {
    fn length(&self, label: Label) -> Option<usize> {
        let at = self.labels.iter().position(|&own| own == label)?;
        Some(self.tensor.layout().shape()[at])
    }

    /// Takes the diagonal of labels that come more than once, and leaves out dimensions that are repeated to
    /// the length that other operands have.
    fn new(tensor: &FlexTensor, labels: &[Label], lengths: &BTreeMap<Label, usize>) -> Self {
        let layout = tensor.layout();
        let (mut kept, mut shape, mut strides): (Vec<Label>, Vec<usize>, Vec<isize>) = Default::default();
        for ((&label, &length), &stride) in labels.iter().zip(&layout.shape()[..]).zip(layout.strides()) {
            if lengths.get(&label) != Some(&length) {
                continue;
            }
            if let Some(at) = kept.iter().position(|&earlier| earlier == label) {
                strides[at] += stride;
            } else {
                kept.push(label);
                shape.push(length);
                strides.push(stride);
            }
        }
        let layout = Layout::new(shape_of(&shape), strides, layout.start_offset());
        let view = FlexTensor::from_arc(tensor.data_arc(), layout, tensor.dtype());
        Self { tensor: view, labels: kept }
    }

    /// With its elements side by side. Any number of operands may be views of a few elements, so that this
    /// waits until it is an operand's turn.
    fn laid_out(self) -> Self {
        Self { tensor: contiguous(&self.tensor), ..self }
    }

    /// Sums over the labels that are not needed.
    fn summed(self, needed: impl Fn(Label) -> bool) -> Result<Self, Fault> {
        let gone: Vec<i64> =
            (0..self.labels.len()).filter(|&at| !needed(self.labels[at])).map(to_i64).collect();
        let labels = self.labels.into_iter().filter(|&label| needed(label)).collect();
        Ok(Self { tensor: total(&self.tensor, &gone)?.dense()?, labels })
    }

    /// The dimensions in the order of the labels, which are all its own, as a stack of matrices.
    fn arranged(&self, parts: [&[Label]; 3]) -> Result<FlexTensor, Fault> {
        let place = |label: &Label| self.labels.iter().position(|own| own == label);
        let order: Option<Vec<usize>> = parts.iter().flat_map(|part| part.iter()).map(place).collect();
        let order = order.ok_or_else(|| Fault("a label is missing".to_owned()))?;
        let length = |part: &[Label]| part.iter().filter_map(|&label| self.length(label)).product();
        let shape = parts.map(length);
        Tensor::Dense(contiguous(&self.tensor.permute(&order))).reshape(&shape)?.dense()
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
        let tensor = Tensor::Dense(product(&left, &right)?).reshape(&shape)?.dense()?;
        Ok(Self { tensor, labels })
    }
}

fn einsum(node: &Node<'_>) -> Built {
    let equation = Equation::read(node)?;
    operator(move |inputs| {
        let tensors: Vec<FlexTensor> =
            (0..equation.operands.len()).map(|index| inputs.dense(index)).collect::<Result<_, _>>()?;
        let shapes: Vec<&[usize]> = tensors.iter().map(|tensor| &tensor.layout().shape()[..]).collect();
        let Assignment { operands, lengths, result } = equation.assign(&shapes)?;
        // The first operand is the last of those that wait.
        let operands = tensors.iter().zip(&operands).rev();
        let mut waiting: Vec<Labelled> =
            operands.map(|(tensor, labels)| Labelled::new(tensor, labels, &lengths)).collect();
        let Some(mut joined) = waiting.pop().map(Labelled::laid_out) else {
            fault!("there is nothing to sum")
        };
        while let Some(next) = waiting.pop().map(Labelled::laid_out) {
            let later: Vec<Label> = waiting.iter().flat_map(|operand| operand.labels.clone()).collect();
            joined = joined.joined(next, |label| result.contains(&label) || later.contains(&label))?;
        }
        let joined = joined.summed(|label| result.contains(&label))?;
        let place = |label: &Label| joined.labels.iter().position(|own| own == label);
        let order: Option<Vec<usize>> = result.iter().map(place).collect();
        let Some(order) = order else { fault!("a label of the result is in no operand") };
        Ok(joined.tensor.permute(&order).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_read_with_spaces_and_dots() {
        let equation = Equation::parse("...ij, jk -> ...ik").unwrap();
        assert_eq!(equation.operands, [vec![None, Some('i'), Some('j')], vec![Some('j'), Some('k')]]);
        assert_eq!(equation.result, Some(vec![None, Some('i'), Some('k')]));
        assert!(Equation::parse("ij->ii").is_err());
        assert!(Equation::parse("ij->k").is_err());
        assert!(Equation::parse("i1->i").is_err());
        assert!(Equation::parse("...i...").is_err());
        assert_eq!(
            labels(&[None, Some('i')], 3).unwrap(),
            [Label::Dots(1), Label::Dots(0), Label::Letter('i')]
        );
        assert!(labels(&[Some('i')], 2).is_err());
    }
}
