//! What can go wrong: making a value, loading a graph, running it.

use std::path::PathBuf;

use crate::value::{DType, Kind};

/// Why a [`Value`](crate::Value) cannot be made, joined or divided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The number of elements is not the product of the dimensions.
    #[error("shape {shape:?} needs {expected} elements, but there are {actual}")]
    Elements {
        /// The shape that was given.
        shape: Vec<usize>,
        /// The product of its dimensions.
        expected: usize,
        /// The number of elements that were given.
        actual: usize,
    },
    /// The product of the dimensions does not fit in the address space, or they are more than 64. Where one
    /// is 0, the product of the others is bounded too.
    #[error("shape {shape:?} has more elements than can be addressed, or more than 64 dimensions")]
    TooLarge {
        /// The shape that was given.
        shape: Vec<usize>,
    },
    /// Values that are joined differ in type, in rank or in a dimension after the first.
    #[error("cannot join {first} and {other} along axis 0: type and all other dimensions must be the same")]
    Concat {
        /// Type and shape of the first value.
        first: String,
        /// Type and shape of the value that does not fit.
        other: String,
    },
    /// No value was given to join.
    #[error("there is nothing to join: give at least one value")]
    NothingToConcat,
    /// A scalar has no axis 0.
    #[error("a scalar has no axis 0 to join or divide along")]
    Scalar,
    /// The parts that were asked for do not add up to the rows that there are.
    #[error("cannot divide {actual} rows into parts of {rows:?} rows")]
    Rows {
        /// The rows of each part.
        rows: Vec<usize>,
        /// The first dimension of the value.
        actual: usize,
    },
}

/// An operator of the file that this crate does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOperator {
    /// The name of the node; where the file has none, `#` and its position in the graph.
    pub node: String,
    /// The operator, such as `LSTM`.
    pub operator: String,
    /// Its domain; the ONNX domain is written `ai.onnx`.
    pub domain: String,
    /// The version of the domain that the file imports; 0 when it imports none.
    pub opset: i64,
    /// What about it is not supported.
    pub reason: String,
}

impl std::fmt::Display for UnsupportedOperator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, operator, domain, opset, reason } = self;
        write!(formatter, "{domain}::{operator} (opset {opset}) at node `{node}`: {reason}")
    }
}

/// Why a file cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the model file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes are not an ONNX model, or not all of one.
    #[error("not an ONNX model: {reason}; export the model again and check that the file was copied whole")]
    NotOnnx {
        /// What the parser said.
        reason: String,
    },
    /// Something in the file is larger than what is accepted from a stranger.
    #[error("the model's {what} is {actual}, the limit is {limit}; split or shrink the model")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        actual: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// Operators of the file that this crate does not run: all of them, not only the first.
    #[error(
        "the model needs {count} operator(s) that are not supported; export it without them:\n{list}",
        count = operators.len(),
        list = list_lines(operators)
    )]
    Unsupported {
        /// One entry per node.
        operators: Vec<UnsupportedOperator>,
    },
    /// An input, output or initialiser is of a kind that this crate does not take, such as half precision.
    #[error("`{name}` is not supported: {reason}; export the model without it")]
    UnsupportedValue {
        /// The input, output or initialiser.
        name: String,
        /// What about it is not supported.
        reason: String,
    },
    /// A value that was asked for is not in the main graph of the file.
    #[error(
        "the model's graph has no value `{name}`; give the name of an input, an initialiser or a node's output"
    )]
    UnknownValue {
        /// The name that was given.
        name: String,
    },
    /// Outputs of a part of a graph need inputs of the graph that are not among those given.
    #[error(
        "`{}` cannot be computed from what is given: `{}` are needed too; name them, or values between, as inputs",
        outputs.join("`, `"),
        missing.join("`, `")
    )]
    NotComputed {
        /// The outputs that were asked for.
        outputs: Vec<String>,
        /// The inputs of the graph that are missing, in its order.
        missing: Vec<String>,
    },
    /// Neither the file nor the operators around it say which type a value has.
    #[error(
        "the model does not say which type `{name}` has; let onnx.shape_inference write it into the file"
    )]
    UnknownType {
        /// The input or output that was asked for.
        name: String,
    },
    /// The file is ONNX, but what it says cannot be true.
    #[error("the model is invalid at `{node}`: {reason}; check it with onnx.checker and export it again")]
    Invalid {
        /// The node, input, output or initialiser.
        node: String,
        /// What is wrong there.
        reason: String,
    },
}

/// One line per operator.
fn list_lines(operators: &[UnsupportedOperator]) -> String {
    operators.iter().map(|operator| format!("  {operator}")).collect::<Vec<_>>().join("\n")
}

/// Why a request cannot be answered. The graph stays usable after any of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The graph has no input of this name.
    #[error("the graph has no input `{name}`; its inputs are {known:?}")]
    UnknownInput {
        /// The name that was given.
        name: String,
        /// The names of the graph's inputs.
        known: Vec<String>,
    },
    /// An input of the graph was not given.
    #[error("input `{name}` is missing")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// An input was given more than once.
    #[error("input `{name}` was given more than once")]
    DuplicateInput {
        /// The input.
        name: String,
    },
    /// An input has another element type than the graph declares.
    #[error("input `{name}` must be {expected}, but is {actual}")]
    WrongType {
        /// The input.
        name: String,
        /// The declared type.
        expected: DType,
        /// The type that was given.
        actual: DType,
    },
    /// An input has a shape that the graph's declaration does not admit.
    #[error("input `{name}` must have the shape {}, but has {actual:?}", shape_text(expected))]
    WrongShape {
        /// The input.
        name: String,
        /// The declared shape; `None` is free.
        expected: Vec<Option<usize>>,
        /// The shape that was given.
        actual: Vec<usize>,
    },
    /// The one who asked no longer wants the answer.
    #[error("the request was stopped before its answer was computed")]
    Stopped,
    /// An input is a list where the graph takes a tensor, or the other way round.
    #[error("input `{name}` must be {expected:?}")]
    WrongKind {
        /// The input.
        name: String,
        /// What the graph declares.
        expected: Kind,
    },
    /// An output is a list or nothing, where tensors were asked for.
    #[error("output `{name}` is no tensor; ask for all kinds of values with `run_any`")]
    NotTensor {
        /// The output.
        name: String,
    },
    /// The graph has no output of this name.
    #[error("the graph has no output `{name}`; its outputs are {known:?}")]
    UnknownOutput {
        /// The name that was given.
        name: String,
        /// The names of the graph's outputs.
        known: Vec<String>,
    },
    /// A node failed on this input, for example at an index that is out of range.
    #[error("node `{node}` ({op}) failed: {reason}")]
    Node {
        /// The name of the node; where the file has none, `#` and its position in the graph.
        node: String,
        /// The operator, such as `Gather`.
        op: String,
        /// What went wrong.
        reason: String,
    },
}

/// Why a parameter of a network cannot be read, changed or written back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// The network has no parameter of this name.
    #[error("the network has no parameter `{name}`; its parameters are {known:?}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names of the network's parameters.
        known: Vec<String>,
    },
    /// A tensor has another shape than the parameter.
    #[error("parameter `{name}` must have the shape {expected:?}, but the tensor has {actual:?}")]
    WrongShape {
        /// The parameter.
        name: String,
        /// Its shape on the backend.
        expected: Vec<usize>,
        /// The shape that was given.
        actual: Vec<usize>,
    },
    /// A tensor has another element type than the parameter.
    #[error("parameter `{name}` must be {expected}, but the tensor is {actual}")]
    WrongType {
        /// The parameter.
        name: String,
        /// Its type.
        expected: DType,
        /// The type that was given.
        actual: String,
    },
    /// The model is not the one that the network was made of.
    #[error(
        "the model has no initialiser `{name}` of this type and shape; write back to the network's own model"
    )]
    OtherModel {
        /// The parameter.
        name: String,
    },
    /// The backend failed.
    #[error("the backend failed at parameter `{name}`: {reason}")]
    Backend {
        /// The parameter.
        name: String,
        /// What it said.
        reason: String,
    },
}

/// `[-1, 64]`: free dimensions are -1, as in the Open Inference Protocol.
fn shape_text(shape: &[Option<usize>]) -> String {
    let dimensions: Vec<_> = shape
        .iter()
        .map(|length| length.map_or_else(|| "-1".to_owned(), |length| length.to_string()))
        .collect();
    format!("[{}]", dimensions.join(", "))
}
