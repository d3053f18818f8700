//! Losses of classification that stand in a graph.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read};
use super::real::Real;
use super::reduce::share;
use crate::load::Node;
use crate::ops::loss::{Loss, Pick, Reduction};
use crate::tensor::{Fault, Tensor, fault};

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("NegativeLogLikelihoodLoss", |node, _| read(node, false)),
    Entry::new("SoftmaxCrossEntropyLoss", |node, _| read(node, true)),
];

fn read(node: &Node<'_>, softmax: bool) -> Read {
    Ok(Form::Loss(Loss::read(node, softmax)?))
}

impl Loss {
    /// The loss on a backend; the target stays on the host.
    pub(super) fn run_on<B: Backend>(
        &self,
        arguments: &mut Arguments<'_, B>,
    ) -> Result<Vec<Carried<B>>, Fault> {
        let (x, target) = (arguments.real(0)?, arguments.host(1)?);
        let weights = arguments.optional(2)?;
        if x.rank() < 2 {
            fault!("{} has no classes", x.describe());
        }
        let logarithms = if self.softmax && x.len() > 0 { share(x, 1, true)? } else { x };
        let loss = self.loss(logarithms.clone(), &target, weights)?;
        let mut outputs = vec![Carried::Real(loss)];
        if self.softmax {
            outputs.push(Carried::Real(logarithms));
        }
        Ok(outputs)
    }

    fn loss<B: Backend>(
        &self,
        logarithms: Real<B>,
        target: &Tensor,
        weights: Option<Real<B>>,
    ) -> Result<Real<B>, Fault> {
        let shape = logarithms.shape().to_vec();
        let picks = self.picks(&shape, target)?;
        let classes = shape[1];
        let weights = match weights {
            Some(weights) if weights.shape() != [classes] => {
                fault!("weights of {} do not fit {classes} classes", weights.describe())
            }
            Some(weights) => weights,
            None => logarithms.full(&[classes], 1.0)?,
        };
        // Places that do not count take the element after the last, which is zero.
        let nothing = Pick { element: logarithms.len(), class: classes };
        let (own, class_of): (Vec<usize>, Vec<usize>) = picks
            .iter()
            .map(|pick| pick.as_ref().unwrap_or(&nothing))
            .map(|pick| (pick.element, pick.class))
            .unzip();
        let zero = logarithms.full(&[1], 0.0)?;
        let picked = Real::join(vec![logarithms.flat()?, zero.clone()], 0)?.select(0, &own)?;
        let weights = Real::join(vec![weights, zero], 0)?.select(0, &class_of)?;
        let losses = picked.negated().multiply(weights.clone())?;
        match self.reduction {
            Reduction::None => losses.reshape(target.shape()),
            Reduction::Sum => losses.sum(&[0])?.scalar(),
            Reduction::Mean => losses.sum(&[0])?.divide(weights.sum(&[0])?)?.scalar(),
        }
    }
}

/// The mean of the negative logarithms of what each row of a table says of its class.
pub(super) fn mean_of_classes<B: Backend>(logarithms: Real<B>, classes: &[i64]) -> Result<Real<B>, Fault> {
    let loss = Loss { reduction: Reduction::Mean, ignored: None, softmax: false };
    if logarithms.rank() != 2 {
        fault!("a table of a row for each example is needed, not {}", logarithms.describe());
    }
    loss.loss(logarithms, &Tensor::from_items(&[classes.len()], classes.to_vec()), None)
}
