//! The operators: what each one is called, how it is built from a node, and how it runs.
//!
//! A node of the file becomes an [`Operator`] at load: attributes are read, defaults of the node's
//! opset applied and constants kept, so that a request only does arithmetic. One file per family.

mod activation;
mod arithmetic;
mod cast;
mod compare;
mod convolution;
mod index;
mod matmul;
mod ml_encode;
mod ml_linear;
mod ml_tree;
mod normalise;
mod pool;
mod reduce;
mod search;
mod shape;
mod slice;

use burn::backend::flex::FlexTensor;

use crate::load::Node;
use crate::tensor::{Fault, Tensor};

/// A node that is ready to run.
pub(crate) trait Operator: Send + Sync {
    /// Computes the outputs, in the order of the node's declaration.
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault>;
}

impl<F> Operator for F
where
    F: Fn(&mut Inputs<'_>) -> Result<Outputs, Fault> + Send + Sync,
{
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        self(inputs)
    }
}

/// Why a node cannot become an operator.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The file is right, but this crate does not run the node.
    Unsupported(String),
    /// The file is wrong.
    Invalid(String),
}

/// What building a node gives.
pub(crate) type Built = Result<Box<dyn Operator>, Refusal>;

/// Makes an operator of a node.
pub(crate) type Builder = fn(&Node<'_>) -> Built;

/// The tensors that a node gets. An operator takes each at most once; one that is taken and used
/// nowhere else may be changed in place.
pub(crate) struct Inputs<'a> {
    tensors: &'a mut [Option<Tensor>],
}

impl<'a> Inputs<'a> {
    /// The inputs in the order of the node's declaration; `None` where the file leaves one out.
    pub(crate) fn new(tensors: &'a mut [Option<Tensor>]) -> Self {
        Self { tensors }
    }

    /// Input `index`; a fault when the file leaves it out.
    pub(crate) fn take(&mut self, index: usize) -> Result<Tensor, Fault> {
        self.optional(index).ok_or_else(|| Fault(format!("input {index} is missing")))
    }

    /// Input `index`, if there is one.
    pub(crate) fn optional(&mut self, index: usize) -> Option<Tensor> {
        self.tensors.get_mut(index).and_then(Option::take)
    }

    /// Input `index` without taking it.
    pub(crate) fn peek(&self, index: usize) -> Option<&Tensor> {
        self.tensors.get(index).and_then(Option::as_ref)
    }

    /// Input `index` as numbers or truth values.
    pub(crate) fn dense(&mut self, index: usize) -> Result<FlexTensor, Fault> {
        self.take(index)?.dense()
    }

    /// Input `index` as floating-point numbers.
    pub(crate) fn float(&mut self, index: usize) -> Result<FlexTensor, Fault> {
        self.take(index)?.float()
    }

    /// How many inputs the node declares.
    pub(crate) fn count(&self) -> usize {
        self.tensors.len()
    }
}

/// What a node gives. Most give one tensor, which needs no vector.
pub(crate) enum Outputs {
    /// The only output.
    One(Tensor),
    /// Any number of outputs.
    Many(Vec<Tensor>),
}

impl From<Tensor> for Outputs {
    fn from(tensor: Tensor) -> Self {
        Self::One(tensor)
    }
}

impl From<FlexTensor> for Outputs {
    fn from(dense: FlexTensor) -> Self {
        Self::One(Tensor::Dense(dense))
    }
}

/// Boxes a closure as an operator.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of nearly every builder")]
pub(crate) fn operator<F>(run: F) -> Built
where
    F: Fn(&mut Inputs<'_>) -> Result<Outputs, Fault> + Send + Sync + 'static,
{
    Ok(Box::new(run))
}

/// The builder of an operator, or `None` when this crate does not know it. The ONNX domain is `""`.
pub(crate) fn find(domain: &str, operator: &str) -> Option<Builder> {
    match domain {
        "" => FAMILIES.iter().find_map(|family| family(operator)),
        "ai.onnx.ml" => ML_FAMILIES.iter().find_map(|family| family(operator)),
        _ => None,
    }
}

/// Each family knows its own operators.
type Family = fn(&str) -> Option<Builder>;

const FAMILIES: &[Family] = &[
    activation::find,
    arithmetic::find,
    cast::find,
    compare::find,
    convolution::find,
    index::find,
    matmul::find,
    normalise::find,
    pool::find,
    reduce::find,
    search::find,
    shape::find,
    slice::find,
];

const ML_FAMILIES: &[Family] = &[ml_encode::find, ml_linear::find, ml_tree::find];
