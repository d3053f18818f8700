//! The public face of a loaded graph.

use std::path::Path;

use crate::error::{LoadError, RunError};
use crate::load::{Loaded, load};
use crate::plan::Plan;
use crate::tensor::Tensor;
use crate::value::{Value, ValueInfo};

/// A loaded ONNX graph. It never changes, so one copy behind an `Arc` serves any number of threads.
pub struct Graph {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    plan: Plan,
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
    /// Loads an ONNX model from memory. Nothing outside of `bytes` is read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        let Loaded { inputs, outputs, plan } = load(bytes)?;
        Ok(Self { inputs, outputs, plan })
    }

    /// Loads an ONNX model from a file. Weights in other files are not followed.
    pub fn from_file(path: &Path) -> Result<Self, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
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

    /// Answers one request: inputs by name in any order, all outputs in the order of the graph.
    ///
    /// An error is that of this request only: the graph stays as it is.
    pub fn run(&self, inputs: Vec<(String, Value)>) -> Result<Vec<(String, Value)>, RunError> {
        let mut given: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        for (name, value) in inputs {
            let Some(position) = self.inputs.iter().position(|input| input.name == name) else {
                let known = self.inputs.iter().map(|input| input.name.clone()).collect();
                return Err(RunError::UnknownInput { name, known });
            };
            check_input(&self.inputs[position], &value)?;
            if given[position].replace(value.into()).is_some() {
                return Err(RunError::DuplicateInput { name });
            }
        }
        let missing = |(tensor, input): (Option<Tensor>, &ValueInfo)| {
            tensor.ok_or_else(|| RunError::MissingInput { name: input.name.clone() })
        };
        let tensors: Result<Vec<Tensor>, RunError> =
            given.into_iter().zip(&self.inputs).map(missing).collect();
        let values = self.plan.run(tensors?)?;
        Ok(self.outputs.iter().map(|output| output.name.clone()).zip(values).collect())
    }

    /// True when the first dimension of every input and output is free, so that requests can be
    /// joined along axis 0 with [`Value::concat`] and their answers divided with [`Value::split`].
    ///
    /// This is what the file declares. A graph may declare it and still mix rows (a mean over axis 0)
    /// or give another number of rows; [`Value::split`] notices the second.
    pub fn batch_axis(&self) -> bool {
        let free_first = |value: &ValueInfo| value.shape.first() == Some(&None);
        !self.inputs.is_empty() && self.inputs.iter().chain(&self.outputs).all(free_first)
    }
}

/// Compares a value with what the graph declares.
fn check_input(declared: &ValueInfo, value: &Value) -> Result<(), RunError> {
    if declared.dtype != value.dtype() {
        return Err(RunError::WrongType {
            name: declared.name.clone(),
            expected: declared.dtype,
            actual: value.dtype(),
        });
    }
    let admits = |(wanted, actual): (&Option<usize>, &usize)| wanted.is_none_or(|wanted| wanted == *actual);
    let fits =
        declared.shape.len() == value.shape().len() && declared.shape.iter().zip(value.shape()).all(admits);
    if fits {
        return Ok(());
    }
    Err(RunError::WrongShape {
        name: declared.name.clone(),
        expected: declared.shape.clone(),
        actual: value.shape().to_vec(),
    })
}
