//! A request: the steps of a network in their order.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::Network;
use super::arguments::{Arguments, Carried, Input};
use super::real::Real;
use crate::error::RunError;
use crate::graph::{Limits, at_edge, check_answer, check_input, check_shape};
use crate::held::Held;
use crate::load::is_real;
use crate::ops::Context;
use crate::plan::{Source, panic_text};
use crate::tensor::{Fault, fault};
use crate::value::{AnyValue, Kind, Value, ValueInfo};

/// An input or output of a network.
pub enum Argument<B: Backend> {
    /// Numbers on the backend; a scalar has the shape `[1]`.
    Float(FloatTensor<B>),
    /// Anything on the host.
    Value(AnyValue),
}

impl<B: Backend> Clone for Argument<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Float(tensor) => Self::Float(tensor.clone()),
            Self::Value(value) => Self::Value(value.clone()),
        }
    }
}

impl<B: Backend> std::fmt::Debug for Argument<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(tensor) => formatter.debug_tuple("Float").field(tensor).finish(),
            Self::Value(value) => formatter.debug_tuple("Value").field(value).finish(),
        }
    }
}

impl<B: Backend> From<Value> for Argument<B> {
    fn from(value: Value) -> Self {
        Self::Value(AnyValue::Tensor(value))
    }
}

impl<B: Backend> Network<B> {
    /// Answers one request: inputs by name in any order, all outputs in the order of the graph.
    ///
    /// Floating-point inputs may be given as tensors of the backend, through which gradients go, or as values
    /// of the host. Outputs that depend on them or on a parameter are tensors of the backend. An error is that
    /// of this request only.
    pub fn run(&self, inputs: Vec<(String, Argument<B>)>) -> Result<Vec<(String, Argument<B>)>, RunError> {
        let carried = self.answer(inputs, Limits::default())?;
        let give = |(output, carried): (&ValueInfo, Carried<B>)| {
            let argument = match carried {
                Carried::Real(real) => Argument::Float(real.into_primitive()),
                Carried::Held(held) => {
                    Argument::Value(held.try_into().map_err(|fault: Fault| at_edge(&output.name, fault.0))?)
                }
            };
            Ok((output.name.clone(), argument))
        };
        self.outputs.iter().zip(carried).map(give).collect()
    }

    /// Answers one request of tensors on the host, all of whose outputs are brought back to it, as
    /// [`Graph::run_within`](crate::Graph::run_within) does.
    ///
    /// [`Limits::memory`] bounds nothing here: what a backend takes cannot be counted. [`Limits::stop`] is asked
    /// before each node. A device may be behind: what it was told to compute it computes, and a fault of it may
    /// show only where an output is read.
    pub fn run_within(
        &self,
        inputs: Vec<(String, Value)>,
        limits: Limits<'_>,
    ) -> Result<Vec<(String, Value)>, RunError> {
        let inputs = inputs.into_iter().map(|(name, value)| (name, value.into())).collect();
        let carried = self.answer(inputs, limits)?;
        let bring = |(output, carried): (&ValueInfo, Carried<B>)| match carried {
            Carried::Held(held) => Ok(held),
            Carried::Real(real) => {
                let brought = guarded(|_| real.to_host())?;
                brought.map(Held::from).map_err(|fault| at_edge(&output.name, fault.0))
            }
        };
        let held = self.outputs.iter().zip(carried).map(bring).collect::<Result<Vec<_>, RunError>>()?;
        check_answer(&held).map_err(|fault| at_edge("outputs", fault.0))?;
        let give = |(output, held): (&ValueInfo, Held)| {
            let name = output.name.clone();
            match AnyValue::try_from(held).map_err(|fault| at_edge(&name, fault.0))? {
                AnyValue::Tensor(value) => Ok((name, value)),
                AnyValue::Sequence(..) | AnyValue::Nothing => Err(RunError::NotTensor { name }),
            }
        };
        self.outputs.iter().zip(held).map(give).collect()
    }

    /// The outputs of a request, wherever they are.
    fn answer(
        &self,
        inputs: Vec<(String, Argument<B>)>,
        limits: Limits<'_>,
    ) -> Result<Vec<Carried<B>>, RunError> {
        let given = guarded(|_| self.given(inputs))??;
        let rounds = Cell::new(limits.rounds);
        // What is on the backend cannot be counted: no bound would hold.
        let context = Context { stop: limits.stop, begins: None, rounds: Some(&rounds), memory: None };
        let carried = guarded(|current| {
            self.run_steps(given, context, current).map_err(|fault| self.failed(current.get(), fault.0))
        });
        let carried = carried.unwrap_or_else(|gave_up| Err(self.failed(gave_up.position, gave_up.reason)));
        carried
            .map_err(|error| if limits.stop.is_some_and(|stop| stop()) { RunError::Stopped } else { error })
    }

    /// Brings a value of `FP32` or `FP64` numbers to the device.
    pub fn tensor(&self, value: Value) -> Result<FloatTensor<B>, RunError> {
        let brought = guarded(|_| Real::<B>::from_host(&value.into(), &self.device))?;
        brought.map(Real::into_primitive).map_err(|fault| at_edge("tensor", fault.0))
    }

    /// Brings a tensor of the backend to the host.
    pub fn value(&self, tensor: FloatTensor<B>) -> Result<Value, RunError> {
        let brought = guarded(|_| -> Result<Value, Fault> { Real::<B>::new(tensor)?.to_host()?.try_into() })?;
        brought.map_err(|fault| at_edge("tensor", fault.0))
    }

    /// The inputs in the order of the graph, after a comparison with what it declares.
    fn given(&self, inputs: Vec<(String, Argument<B>)>) -> Result<Vec<Option<Carried<B>>>, RunError> {
        let mut given: Vec<Option<Carried<B>>> = vec![None; self.inputs.len()];
        for (name, argument) in inputs {
            let Some(position) = self.inputs.iter().position(|input| input.name == name) else {
                let known = self.inputs.iter().map(|input| input.name.clone()).collect();
                return Err(RunError::UnknownInput { name, known });
            };
            let carried = self.carried(&self.inputs[position], argument)?;
            if given[position].replace(carried).is_some() {
                return Err(RunError::DuplicateInput { name });
            }
        }
        for (carried, input) in given.iter_mut().zip(&self.inputs) {
            if carried.is_none() {
                match input.kind {
                    Kind::OptionalTensor | Kind::OptionalSequence => {
                        *carried = Some(Carried::Held(Held::Nothing));
                    }
                    Kind::Tensor | Kind::Sequence => {
                        return Err(RunError::MissingInput { name: input.name.clone() });
                    }
                }
            }
        }
        Ok(given)
    }

    fn carried(&self, declared: &ValueInfo, argument: Argument<B>) -> Result<Carried<B>, RunError> {
        let edge = |fault: Fault| at_edge(&declared.name, fault.0);
        match argument {
            Argument::Float(tensor) => {
                let real = Real::<B>::new(tensor).map_err(edge)?;
                if !is_real(declared) || real.dtype() != declared.dtype {
                    let (name, expected, actual) = (declared.name.clone(), declared.dtype, real.dtype());
                    return Err(RunError::WrongType { name, expected, actual });
                }
                let scalar = declared.ranked && declared.shape.is_empty() && real.len() == 1;
                let real = if scalar { real.scalar().map_err(edge)? } else { real };
                check_shape(declared, real.shape())?;
                Ok(Carried::Real(real))
            }
            Argument::Value(value) => {
                check_input(declared, &value)?;
                let held = Held::try_from(value).map_err(edge)?;
                if !is_real(declared) {
                    return Ok(Carried::Held(held));
                }
                let real = held.tensor().and_then(|tensor| Real::from_host(&tensor, &self.device));
                real.map(Carried::Real).map_err(edge)
            }
        }
    }

    fn run_steps(
        &self,
        inputs: Vec<Option<Carried<B>>>,
        context: Context<'_>,
        current: &Cell<Option<usize>>,
    ) -> Result<Vec<Carried<B>>, Fault> {
        let mut slots: Vec<Option<Carried<B>>> = vec![None; self.plan.slots];
        for (&slot, carried) in self.plan.inputs.iter().zip(inputs) {
            slots[slot] = carried;
        }
        for parameter in &self.parameters {
            slots[parameter.slot] = Some(Carried::Real(parameter.real()?));
        }
        for (position, step) in self.plan.steps.iter().enumerate() {
            current.set(Some(position));
            if context.stop.is_some_and(|stop| stop()) {
                fault!("the request was stopped");
            }
            let inputs = step.inputs.iter().map(|&source| self.fetch(source, &mut slots)).collect();
            let mut arguments = Arguments { inputs, step, device: &self.device, context };
            let outputs = if let Some(form) = &step.form {
                form.run(&mut arguments)?
            } else {
                let held = (0..arguments.count()).map(|index| arguments.held(index));
                let held = held.collect::<Result<_, _>>()?;
                arguments.operate(held)?.into_iter().map(Carried::Held).collect()
            };
            for (&output, carried) in step.outputs.iter().zip(outputs) {
                if let Some(slot) = output {
                    slots[slot] = Some(carried);
                }
            }
        }
        current.set(None);
        let output = |&source: &Source| match self.fetch(source, &mut slots) {
            Some(Input::Carried(carried)) => Ok(carried),
            Some(Input::Constant(constant)) => Ok(Carried::Held(constant.tensor().clone().into())),
            None => fault!("an output was not computed"),
        };
        self.plan.outputs.iter().map(output).collect()
    }

    fn fetch(&self, source: Source, slots: &mut [Option<Carried<B>>]) -> Option<Input<'_, B>> {
        match source {
            Source::Absent => None,
            Source::Constant(index) => self.constants.get(index).map(Input::Constant),
            Source::Slot { index, last: true } => slots[index].take().map(Input::Carried),
            Source::Slot { index, last: false } => slots[index].clone().map(Input::Carried),
        }
    }

    /// The error of a step.
    fn failed(&self, position: Option<usize>, reason: String) -> RunError {
        let step = position.and_then(|position| self.plan.steps.get(position));
        RunError::Node {
            node: step.map_or_else(|| "outputs".to_owned(), |step| step.name.clone()),
            op: step.map_or_else(String::new, |step| step.op_type.clone()),
            reason,
        }
    }
}

/// Code of a backend that panicked.
pub(super) struct GaveUp {
    /// The step that it was computing.
    position: Option<usize>,
    /// What it said.
    pub(super) reason: String,
}

impl From<GaveUp> for RunError {
    fn from(gave_up: GaveUp) -> Self {
        at_edge("network", gave_up.reason)
    }
}

/// Runs code of a backend, which may give up: a request must never take the process down. Nothing is left
/// half-done by an unwinding, as all values belong to the call. The code may note which step it computes.
pub(super) fn guarded<T>(run: impl FnOnce(&Cell<Option<usize>>) -> T) -> Result<T, GaveUp> {
    let current = Cell::new(None);
    catch_unwind(AssertUnwindSafe(|| run(&current)))
        .map_err(|panic| GaveUp { position: current.get(), reason: panic_text(panic.as_ref()) })
}
