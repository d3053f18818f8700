//! The public face of a loaded graph.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

use crate::error::{LoadError, RunError};
use crate::held::Held;
use crate::load::Loaded;
use crate::memory::Memory;
use crate::model::Model;
use crate::ops::Context;
use crate::plan::Plan;
use crate::tensor::{Fault, MAX_TENSOR_BYTES, Tensor, fault};
use crate::value::{AnyValue, DType, Kind, Value, ValueInfo};

/// How often the bodies of all loops of a request may run together, unless [`Limits`] says otherwise.
const ROUNDS: u64 = 1 << 20;
/// How many bytes all tensors of a request may take together, unless [`Limits`] says otherwise.
const MEMORY: u64 = 8 << 30;

/// What one request may use.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// How often the bodies of all loops may run together. The default is 1,048,576.
    pub rounds: u64,
    /// How many bytes all tensors that are alive at a time may take together, those of inputs and outputs
    /// included. It is checked after each node, which may itself take some more while it works. The default is
    /// 8 GiB.
    pub memory: u64,
    /// Asked before each node; true ends the request with [`RunError::Stopped`].
    pub stop: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Told as each of [`Graph::steps`] begins, by its position; those of graphs inside of a node are its own. A
    /// [`Network`](crate::Network) tells nothing.
    pub begins: Option<&'a (dyn Fn(usize) + Sync)>,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Self { rounds: ROUNDS, memory: MEMORY, stop: None, begins: None }
    }
}

impl std::fmt::Debug for Limits<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Limits")
            .field("rounds", &self.rounds)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// A loaded ONNX graph. It never changes, so one copy behind an `Arc` serves any number of threads.
pub struct Graph {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    /// Where an input is among them, by its name.
    positions: HashMap<String, usize>,
    plan: Plan,
    random: bool,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Graph")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

impl Graph {
    pub(crate) fn new(loaded: Loaded) -> Self {
        let Loaded { inputs, outputs, plan, random, .. } = loaded;
        let positions =
            inputs.iter().enumerate().map(|(position, input)| (input.name.clone(), position)).collect();
        Self { inputs, outputs, positions, plan, random }
    }

    /// Loads an ONNX model from memory. Nothing outside of `bytes` is read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Model::from_bytes(bytes)?.into_graph()
    }

    /// Loads an ONNX model from a file. Its weights may be in files beside it.
    pub fn from_file(path: &Path) -> Result<Self, LoadError> {
        Model::from_file(path)?.into_graph()
    }

    /// The inputs that a request must give: those of the graph without its initialisers.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// The outputs, in the order of the graph. An output whose shape the file does not declare is
    /// listed with one free dimension.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// Answers one request of tensors: inputs by name in any order, all outputs in the order of the graph.
    ///
    /// An error is that of this request only: the graph stays as it is.
    pub fn run(&self, inputs: Vec<(String, Value)>) -> Result<Vec<(String, Value)>, RunError> {
        self.run_within(inputs, Limits::default())
    }

    /// As [`Graph::run`], within limits of the caller's.
    pub fn run_within(
        &self,
        inputs: Vec<(String, Value)>,
        limits: Limits<'_>,
    ) -> Result<Vec<(String, Value)>, RunError> {
        let inputs = inputs.into_iter().map(|(name, value)| (name, AnyValue::Tensor(value))).collect();
        let tensor = |(name, value)| match value {
            AnyValue::Tensor(value) => Ok((name, value)),
            AnyValue::Sequence(..) | AnyValue::Nothing => Err(RunError::NotTensor { name }),
        };
        self.run_any(inputs, limits)?.into_iter().map(tensor).collect()
    }

    /// Answers one request of any kind of values: inputs by name in any order, all outputs in the order of
    /// the graph. An optional input that is left out is empty.
    pub fn run_any(
        &self,
        inputs: Vec<(String, AnyValue)>,
        limits: Limits<'_>,
    ) -> Result<Vec<(String, AnyValue)>, RunError> {
        let mut given: Vec<Option<Held>> = vec![None; self.inputs.len()];
        for (name, value) in inputs {
            let Some(&position) = self.positions.get(&name) else {
                let known = self.inputs.iter().map(|input| input.name.clone()).collect();
                return Err(RunError::UnknownInput { name, known });
            };
            check_input(&self.inputs[position], &value)?;
            let held = Held::try_from(value).map_err(|fault| at_edge(&name, fault.0))?;
            if given[position].replace(held).is_some() {
                return Err(RunError::DuplicateInput { name });
            }
        }
        for (held, input) in given.iter_mut().zip(&self.inputs) {
            if held.is_none() {
                match input.kind {
                    Kind::OptionalTensor | Kind::OptionalSequence => *held = Some(Held::Nothing),
                    Kind::Tensor | Kind::Sequence => {
                        return Err(RunError::MissingInput { name: input.name.clone() });
                    }
                }
            }
        }
        let (rounds, memory) = (Cell::new(limits.rounds), Memory::new(limits.memory));
        let Limits { stop, begins, .. } = limits;
        let context = Context { stop, begins, rounds: Some(&rounds), memory: Some(&memory) };
        let held = self.plan.run(given, context)?;
        check_answer(&held).map_err(|fault| at_edge("outputs", fault.0))?;
        let give = |(output, held): (&ValueInfo, Held)| {
            let value = AnyValue::try_from(held).map_err(|fault| at_edge(&output.name, fault.0))?;
            Ok((output.name.clone(), value))
        };
        self.outputs.iter().zip(held).map(give).collect()
    }

    /// The steps that a request takes, in their order: the name of a node and that of what is done there, which may stand for
    /// several nodes of the file.
    pub fn steps(&self) -> impl Iterator<Item = (&str, &str)> {
        self.plan.steps()
    }

    /// The operators of the steps that a request takes.
    #[cfg(test)]
    pub(crate) fn operators(&self) -> Vec<&str> {
        self.steps().map(|(_, operator)| operator).collect()
    }

    /// How many constants are stored that requests read.
    #[cfg(test)]
    pub(crate) fn constants(&self) -> usize {
        self.plan.constants.len()
    }

    /// True when the first dimension of every input and output is free, so that requests can be
    /// joined along axis 0 with [`Value::concat`] and their answers divided with [`Value::split`].
    ///
    /// This is what the file declares. A graph may declare it and still mix rows (a mean over axis 0)
    /// or give another number of rows; [`Value::split`] notices the second.
    pub fn batch_axis(&self) -> bool {
        batch_axis(&self.inputs, &self.outputs)
    }

    /// True when no node draws random numbers, so that equal inputs have equal answers.
    ///
    /// A seed in the file does not count: with it the numbers depend on the rows that a request is joined with.
    /// Neither does what inputs and constants say: a dropout whose third input may switch it on draws.
    pub fn is_deterministic(&self) -> bool {
        !self.random
    }
}

/// True when the first dimension of all that goes in and comes out is free.
pub(crate) fn batch_axis(inputs: &[ValueInfo], outputs: &[ValueInfo]) -> bool {
    let free_first = |value: &ValueInfo| value.kind == Kind::Tensor && value.shape.first() == Some(&None);
    !inputs.is_empty() && inputs.iter().chain(outputs).all(free_first)
}

/// The most elements that all outputs may have together.
const MAX_ANSWER: usize = MAX_TENSOR_BYTES;

/// A fault where the outputs are too large as values of their own: any number of them may be views of the same
/// elements.
pub(crate) fn check_answer(outputs: &[Held]) -> Result<(), Fault> {
    let weight = |held: &Held| match held {
        Held::Tensor(tensor) => tensor.weight(),
        Held::Sequence(sequence) => sequence.items.iter().map(Tensor::weight).sum(),
        Held::Nothing => 0,
    };
    let elements = outputs.iter().map(weight).fold(0, usize::saturating_add);
    if elements > MAX_ANSWER {
        fault!("outputs of {elements} elements together are more than {MAX_ANSWER}");
    }
    Ok(())
}

pub(crate) fn at_edge(name: &str, reason: String) -> RunError {
    RunError::Node { node: name.to_owned(), op: String::new(), reason }
}

/// Compares a value with what the graph declares.
pub(crate) fn check_input(declared: &ValueInfo, value: &AnyValue) -> Result<(), RunError> {
    let wrong_kind = || RunError::WrongKind { name: declared.name.clone(), expected: declared.kind };
    let wrong_type =
        |actual: DType| RunError::WrongType { name: declared.name.clone(), expected: declared.dtype, actual };
    let optional = matches!(declared.kind, Kind::OptionalTensor | Kind::OptionalSequence);
    match (declared.kind, value) {
        (Kind::Tensor | Kind::OptionalTensor, AnyValue::Tensor(value)) => {
            if declared.dtype != value.dtype() {
                return Err(wrong_type(value.dtype()));
            }
            check_shape(declared, value.shape())
        }
        (Kind::Sequence | Kind::OptionalSequence, AnyValue::Sequence(dtype, _)) => {
            if declared.dtype == *dtype { Ok(()) } else { Err(wrong_type(*dtype)) }
        }
        (_, AnyValue::Nothing) if optional => Ok(()),
        _ => Err(wrong_kind()),
    }
}

/// Compares a shape with what the graph declares.
pub(crate) fn check_shape(declared: &ValueInfo, shape: &[usize]) -> Result<(), RunError> {
    let admits = |(wanted, actual): (&Option<usize>, &usize)| wanted.is_none_or(|wanted| wanted == *actual);
    let fits = declared.shape.len() == shape.len() && declared.shape.iter().zip(shape).all(admits);
    if fits || !declared.ranked {
        return Ok(());
    }
    Err(RunError::WrongShape {
        name: declared.name.clone(),
        expected: declared.shape.clone(),
        actual: shape.to_vec(),
    })
}
