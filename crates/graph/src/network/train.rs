//! Losses, gradients, and a step down.

use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend};

use super::Network;
use super::loss::mean_of_classes;
use super::real::Real;
use super::reduce::share;
use super::run::guarded;
use crate::error::{ParameterError, RunError};
use crate::graph::at_edge;
use crate::tensor::Fault;

/// The gradients of a loss: those of parameters by name, and those of any tensor that asked for them.
pub struct Gradients<B: AutodiffBackend> {
    named: Vec<(String, FloatTensor<B::InnerBackend>)>,
    all: B::Gradients,
}

impl<B: AutodiffBackend> std::fmt::Debug for Gradients<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        formatter.debug_struct("Gradients").field("parameters", &names).finish_non_exhaustive()
    }
}

impl<B: AutodiffBackend> Gradients<B> {
    /// The gradient of a parameter; `None` for one that is frozen or that the loss does not depend on.
    pub fn get(&self, name: &str) -> Option<&FloatTensor<B::InnerBackend>> {
        self.named.iter().find(|(own, _)| own == name).map(|(_, gradient)| gradient)
    }

    /// The names and gradients of all parameters that have one, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &FloatTensor<B::InnerBackend>)> {
        self.named.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// The gradient of a tensor that requires gradients, such as an input of the request.
    pub fn of(&self, tensor: &FloatTensor<B>) -> Option<FloatTensor<B::InnerBackend>> {
        B::grad(tensor, &self.all)
    }
}

impl<B: Backend> Network<B> {
    /// The cross entropy of a table of scores, one row for each example and one column for each class, before
    /// any softmax: the mean over the rows of -ln(e^score of the row's class / sum of e^score), of shape `[1]`.
    pub fn cross_entropy(&self, scores: FloatTensor<B>, classes: &[i64]) -> Result<FloatTensor<B>, RunError> {
        loss(|| mean_of_classes(share(table::<B>(scores)?, 1, true)?, classes))
    }

    /// The cross entropy of a table of probabilities, as a softmax gives them: the mean over the rows of
    /// -ln(probability of the row's class), of shape `[1]`. It is less exact than [`Network::cross_entropy`]:
    /// a probability that is rounded to zero is taken for the smallest positive number of `FP32`, and has no
    /// gradient.
    pub fn cross_entropy_of_probabilities(
        &self,
        probabilities: FloatTensor<B>,
        classes: &[i64],
    ) -> Result<FloatTensor<B>, RunError> {
        loss(|| {
            let bounded = table::<B>(probabilities)?.clamp(f64::from(f32::MIN_POSITIVE), f64::INFINITY);
            mean_of_classes(bounded.map(B::float_log), classes)
        })
    }

    /// The mean of the squared differences of two tensors of one shape, of shape `[1]`.
    pub fn squared_error(
        &self,
        answer: FloatTensor<B>,
        wanted: FloatTensor<B>,
    ) -> Result<FloatTensor<B>, RunError> {
        loss(|| {
            let (answer, wanted) = (Real::<B>::new(answer)?, Real::<B>::new(wanted)?);
            if answer.shape() != wanted.shape() {
                return Err(Fault(format!("{} and {} must be alike", answer.describe(), wanted.describe())));
            }
            answer.subtract(wanted)?.squared().flat()?.mean(&[0])
        })
    }
}

fn table<B: Backend>(scores: FloatTensor<B>) -> Result<Real<B>, Fault> {
    let scores = Real::<B>::new(scores)?;
    if scores.rank() != 2 || scores.len() == 0 {
        return Err(Fault(format!(
            "a table with a row for each example is needed, not {}",
            scores.describe()
        )));
    }
    Ok(scores)
}

fn loss<B: Backend>(make: impl FnOnce() -> Result<Real<B>, Fault>) -> Result<FloatTensor<B>, RunError> {
    let computed = guarded(|_| make())?;
    computed.map(Real::into_primitive).map_err(|fault| at_edge("loss", fault.0))
}

impl<B: AutodiffBackend> Network<B> {
    /// The gradients of a loss that was computed of outputs of [`Network::run`]; of one with more than one
    /// element, those of their sum. What was recorded for it is used up.
    pub fn gradients(&self, loss: FloatTensor<B>) -> Result<Gradients<B>, RunError> {
        let all = guarded(|_| B::backward(loss))?;
        let mut named = Vec::new();
        for parameter in self.parameters.iter().filter(|parameter| parameter.info.trainable) {
            if let Some(gradient) = B::grad(&parameter.tensor, &all) {
                named.push((parameter.info.name.clone(), gradient));
            }
        }
        Ok(Gradients { named, all })
    }

    /// A step of gradient descent: each trainable parameter that has a gradient becomes itself less
    /// `learning_rate` times that gradient.
    pub fn step(&mut self, gradients: &Gradients<B>, learning_rate: f64) -> Result<(), ParameterError> {
        for (name, gradient) in gradients.iter() {
            let position = self.find(name)?;
            let parameter = &mut self.parameters[position];
            if !parameter.info.trainable {
                continue;
            }
            let tensor = B::inner(parameter.tensor.clone());
            let moved = guarded(|_| {
                let tensor = Real::<B::InnerBackend>::new(tensor)?;
                let gradient = Real::<B::InnerBackend>::new(gradient.clone())?;
                let shape = tensor.shape().to_vec();
                tensor.subtract(gradient.times(learning_rate))?.reshape(&shape)
            });
            let failed = |reason: String| ParameterError::Backend { name: name.to_owned(), reason };
            let moved = moved.map_err(|gave_up| failed(gave_up.reason))?.map_err(|fault| failed(fault.0))?;
            parameter.set(B::from_inner(moved.into_primitive()));
        }
        Ok(())
    }
}
