//! Losses of classification: `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss`.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::ActivationOps;
use num_traits::Float;

use super::cast::numbers;
use super::{Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("NegativeLogLikelihoodLoss", 12, FLOATS, |node| build(node, false)),
    Entry::widening("SoftmaxCrossEntropyLoss", 12, FLOATS, |node| build(node, true)),
];

/// What becomes of the losses of all places.
#[derive(Clone, Copy)]
pub(crate) enum Reduction {
    None,
    Sum,
    Mean,
}

/// One of the losses: its input is [batch, class, ..], the target [batch, ..], a weight belongs to each class.
pub(crate) struct Loss {
    pub(crate) reduction: Reduction,
    /// The class whose elements do not count.
    pub(crate) ignored: Option<i64>,
    /// The input is no logarithm of probabilities yet, and that is given out too.
    pub(crate) softmax: bool,
}

/// What the loss of a place is made of.
pub(crate) struct Pick {
    /// The element of the input, row-major.
    pub(crate) element: usize,
    pub(crate) class: usize,
}

fn build(node: &Node<'_>, softmax: bool) -> Built {
    let loss = Loss::read(node, softmax)?;
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => loss.run::<f64>(inputs),
        _ => loss.run::<f32>(inputs),
    })
}

impl Loss {
    /// The loss of a node.
    pub(crate) fn read(node: &Node<'_>, softmax: bool) -> Result<Self, Refusal> {
        let reduction = match node.string("reduction", "mean")?.as_str() {
            "none" => Reduction::None,
            "sum" => Reduction::Sum,
            "mean" => Reduction::Mean,
            other => return Err(Refusal::Invalid(format!("`reduction` cannot be `{other}`"))),
        };
        let ignored = node.has("ignore_index").then(|| node.int("ignore_index", 0));
        Ok(Self { reduction, ignored, softmax })
    }

    /// What each place of a target picks from an input of a shape; `None` where it does not count.
    pub(crate) fn picks(&self, shape: &[usize], target: &Tensor) -> Result<Vec<Option<Pick>>, Fault> {
        let &[batch, classes, ref rest @ ..] = shape else { fault!("{shape:?} has no classes") };
        if target.shape() != [&[batch], rest].concat() {
            fault!("a target of {} does not fit an input of {shape:?}", target.describe());
        }
        let pixels: usize = rest.iter().product();
        let pick = |(place, class): (usize, i64)| {
            if Some(class) == self.ignored {
                return Ok(None);
            }
            let Some(class) = usize::try_from(class).ok().filter(|&class| class < classes) else {
                fault!("class {class} is out of range for {classes} classes")
            };
            Ok(Some(Pick { element: (place / pixels * classes + class) * pixels + place % pixels, class }))
        };
        target.to_i64s()?.into_iter().enumerate().map(pick).collect()
    }

    fn run<F: Item + Float>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (x, target) = (inputs.float(0)?, inputs.take(1)?);
        let shape = x.layout().shape().to_vec();
        let picks = self.picks(&shape, &target)?;
        let classes = shape[1];
        let weights = match inputs.optional(2) {
            Some(weights) if weights.shape() == [classes] => Some(numbers::<F>(weights)?),
            Some(weights) => fault!("weights of {} do not fit {classes} classes", weights.describe()),
            None => None,
        };
        let log_probabilities = if self.softmax { log_softmax(x) } else { x };
        let all = numbers::<F>(Tensor::Dense(log_probabilities.clone()))?;
        let mut losses = Vec::with_capacity(target.len());
        let mut total = F::zero();
        for pick in picks {
            let Some(Pick { element, class }) = pick else {
                losses.push(F::zero());
                continue;
            };
            let weight = weights.as_ref().map_or(F::one(), |weights| weights[class]);
            losses.push(-all[element] * weight);
            total = total + weight;
        }
        let sum = || losses.iter().fold(F::zero(), |sum, &loss| sum + loss);
        let loss = match self.reduction {
            Reduction::Sum => Tensor::from_items(&[], vec![sum()]),
            Reduction::Mean => Tensor::from_items(&[], vec![sum() / total]),
            Reduction::None => Tensor::from_items(target.shape(), losses),
        };
        Ok(if self.softmax { Outputs::Many(vec![loss, log_probabilities.into()]) } else { loss.into() })
    }
}

/// burn's kernel; it needs an element.
fn log_softmax(x: FlexTensor) -> FlexTensor {
    if x.layout().num_elements() == 0 { x } else { Flex::log_softmax(x, 1) }
}
