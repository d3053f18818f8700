//! What a step of a network gets and gives: tensors on the backend, or values on the host.

use std::sync::OnceLock;

use burn::backend::Backend;

use super::real::Real;
use crate::held::Held;
use crate::ops::{Context, Inputs};
use crate::plan::Step;
use crate::tensor::{Fault, Tensor, fault};

/// What an edge of a network carries.
#[derive(Clone, Debug)]
pub(super) enum Carried<B: Backend> {
    /// Floating-point numbers on the backend, which gradients go through.
    Real(Real<B>),
    /// Anything else, on the host.
    Held(Held),
}

impl<B: Backend> From<Real<B>> for Carried<B> {
    fn from(real: Real<B>) -> Self {
        Self::Real(real)
    }
}

/// A tensor that is known since the load, and its copy on the device once a request has needed it.
pub(super) struct Constant<B: Backend> {
    tensor: Tensor,
    real: OnceLock<Real<B>>,
}

impl<B: Backend> Constant<B> {
    pub(super) fn new(tensor: Tensor) -> Self {
        Self { tensor, real: OnceLock::new() }
    }

    /// The tensor on the host.
    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn real(&self, device: &B::Device) -> Result<Real<B>, Fault> {
        if let Some(real) = self.real.get() {
            return Ok(real.clone());
        }
        let real = Real::from_host(&self.tensor, device)?;
        Ok(self.real.get_or_init(|| real).clone())
    }
}

/// An input of a step.
pub(super) enum Input<'a, B: Backend> {
    /// Computed by the request.
    Carried(Carried<B>),
    /// Known since the load.
    Constant(&'a Constant<B>),
}

/// The inputs of a step, of which each is taken at most once.
pub(super) struct Arguments<'a, B: Backend> {
    pub(super) inputs: Vec<Option<Input<'a, B>>>,
    pub(super) step: &'a Step,
    pub(super) device: &'a B::Device,
    pub(super) context: Context<'a>,
}

impl<B: Backend> Arguments<'_, B> {
    /// How many inputs the node declares.
    pub(super) fn count(&self) -> usize {
        self.inputs.len()
    }

    /// True when input `index` is given.
    pub(super) fn has(&self, index: usize) -> bool {
        self.inputs.get(index).is_some_and(Option::is_some)
    }

    /// True when input `index` is on the backend.
    pub(super) fn is_real(&self, index: usize) -> bool {
        matches!(self.inputs.get(index), Some(Some(Input::Carried(Carried::Real(_)))))
    }

    /// Input `index` as numbers on the backend; a fault when the file leaves it out, and for other numbers.
    pub(super) fn real(&mut self, index: usize) -> Result<Real<B>, Fault> {
        match self.inputs.get_mut(index).and_then(Option::take) {
            Some(Input::Carried(Carried::Real(real))) => Ok(real),
            Some(Input::Carried(Carried::Held(held))) => Real::from_host(&held.tensor()?, self.device),
            Some(Input::Constant(constant)) => constant.real(self.device),
            None => fault!("input {index} is missing"),
        }
    }

    /// The same, if there is one.
    pub(super) fn optional(&mut self, index: usize) -> Result<Option<Real<B>>, Fault> {
        if self.has(index) { self.real(index).map(Some) } else { Ok(None) }
    }

    /// All inputs as numbers on the backend.
    pub(super) fn reals(&mut self) -> Result<Vec<Real<B>>, Fault> {
        (0..self.count()).map(|index| self.real(index)).collect()
    }

    /// Input `index` on the host, if there is one.
    pub(super) fn held(&mut self, index: usize) -> Result<Option<Held>, Fault> {
        Ok(match self.inputs.get_mut(index).and_then(Option::take) {
            Some(Input::Carried(Carried::Real(real))) => Some(real.to_host()?.into()),
            Some(Input::Carried(Carried::Held(held))) => Some(held),
            Some(Input::Constant(constant)) => Some(constant.tensor().clone().into()),
            None => None,
        })
    }

    /// Input `index`, a tensor, on the host; a fault when the file leaves it out.
    pub(super) fn host(&mut self, index: usize) -> Result<Tensor, Fault> {
        self.held(index)?.ok_or_else(|| Fault(format!("input {index} is missing")))?.tensor()
    }

    /// Runs the operator of the host on given inputs.
    pub(super) fn operate(&self, mut held: Vec<Option<Held>>) -> Result<Vec<Held>, Fault> {
        let mut inputs = Inputs::new(&mut held, self.context);
        Ok(self.step.operator.run(&mut inputs)?.into_vec())
    }

    /// Runs the operator of the host with another tensor in the place of input 0, the others as they are.
    /// Gives its first output.
    pub(super) fn operate_on(&mut self, first: Tensor) -> Result<Tensor, Fault> {
        let mut held = vec![Some(first.into())];
        for index in 1..self.count() {
            held.push(self.held(index)?);
        }
        let outputs = self.operate(held)?;
        let first = outputs.into_iter().next().ok_or_else(|| Fault("nothing was computed".to_owned()))?;
        first.tensor()
    }
}
