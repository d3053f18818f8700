//! The operators: what each one is called, how it is built from a node, and how it runs.
//!
//! A node of the file becomes an [`Operator`] at load: attributes are read, defaults of the node's
//! opset applied and constants kept, so that a request only does arithmetic. One file per family.

mod activation;
pub(crate) mod arithmetic;
pub(crate) mod attention;
mod attention_bias;
mod batch;
mod bits;
mod blocks;
mod cache;
pub(crate) mod cast;
mod causal_convolution;
mod compare;
mod control;
mod conv_integer;
pub(crate) mod conv_transpose;
mod convolution;
mod cumulative;
mod deform;
mod digits;
mod dropout;
pub(crate) mod einsum;
mod epilogue;
mod filter;
mod flex_attention;
mod fourier;
mod fused;
mod gated;
mod grid;
mod index;
mod laid;
mod laid_lstm;
mod linear_attention;
pub(crate) mod loss;
pub(crate) mod matmul;
mod matrix;
mod ml_encode;
mod ml_forest;
mod ml_full;
mod ml_linear;
mod ml_svm;
mod ml_tree;
mod ml_walk;
mod ngram;
mod normalise;
mod optimiser;
mod optional;
mod pad;
mod pattern;
mod pool;
mod prepared;
mod quantise;
mod quantised_product;
mod random;
pub(crate) mod recurrent;
pub(crate) mod recurrent_cell;
pub(crate) mod reduce;
mod resize;
mod roi;
mod search;
mod select;
mod separable;
mod sequence;
mod shape;
mod signal_window;
mod single;
mod slice;
mod small;
mod softmax;
mod special;
mod suppress;
mod text;
mod tokenizer;
mod unpool;
mod widen;
pub(crate) mod window;

use std::cell::Cell;

use burn::backend::flex::FlexTensor;

use crate::held::{Held, Sequence};
use crate::load::Node;
use crate::memory::Memory;
use crate::tensor::{Fault, Tensor};
use crate::value::DType;

pub(crate) use batch::channel_factors;
pub(crate) use convolution::Convolution;
pub(crate) use epilogue::Activation;
pub(crate) use fused::{activated, attended, gelu, softmax_of, standardised};
pub(crate) use index::pick;
pub(crate) use laid::ADDEND;
pub(crate) use separable::{Part, separable};
pub(crate) use slice::join;

/// A node that is ready to run.
pub(crate) trait Operator: Send + Sync {
    /// Computes the outputs, in the order of the node's declaration.
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault>;

    /// Takes an activation, to apply it in the pass that finishes its result. False where there is no such
    /// pass: then the activation stays a step of its own.
    fn follow(&mut self, _activation: Activation) -> bool {
        false
    }

    /// Given at load what is known of `input`, to lay it out once as its kernel reads it. True where it did: then
    /// requests do not give it. What is laid out is taken from `spare`, the elements that copies may still take.
    fn lay_out(&mut self, _input: usize, _constant: &Tensor, _spare: &mut usize) -> bool {
        false
    }

    /// Told at load that the constant `input` was of type `from` before it was widened.
    fn widened(&mut self, _input: usize, _from: DType) {}

    /// The convolution that it is, if it is one.
    fn convolution(&self) -> Option<&Convolution> {
        None
    }
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

/// What a request has besides its tensors.
#[derive(Clone, Copy, Default)]
pub(crate) struct Context<'a> {
    /// Asked before each node: true ends the request.
    pub(crate) stop: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Told the position of each step as it begins.
    pub(crate) begins: Option<&'a (dyn Fn(usize) + Sync)>,
    /// How often the bodies of loops may still run.
    pub(crate) rounds: Option<&'a Cell<u64>>,
    /// What all tensors may take together.
    pub(crate) memory: Option<&'a Memory>,
}

/// What a node gets. An operator takes each input at most once; a tensor that is taken and used nowhere
/// else may be changed in place.
pub(crate) struct Inputs<'a> {
    held: &'a mut [Option<Held>],
    /// For operators that run a graph of their own.
    pub(crate) context: Context<'a>,
}

impl<'a> Inputs<'a> {
    /// The inputs in the order of the node's declaration; `None` where the file leaves one out.
    pub(crate) fn new(held: &'a mut [Option<Held>], context: Context<'a>) -> Self {
        Self { held, context }
    }

    /// Input `index`, whatever it is; a fault when the file leaves it out.
    pub(crate) fn take_any(&mut self, index: usize) -> Result<Held, Fault> {
        let held = self.held.get_mut(index).and_then(Option::take);
        held.ok_or_else(|| Fault(format!("input {index} is missing")))
    }

    /// Input `index`, a tensor; a fault when the file leaves it out.
    pub(crate) fn take(&mut self, index: usize) -> Result<Tensor, Fault> {
        self.take_any(index)?.tensor()
    }

    /// Input `index`, a list of tensors; a fault when the file leaves it out.
    pub(crate) fn sequence(&mut self, index: usize) -> Result<Sequence, Fault> {
        self.take_any(index)?.sequence()
    }

    /// Input `index`, if there is one and it is a tensor.
    pub(crate) fn optional(&mut self, index: usize) -> Option<Tensor> {
        self.held.get_mut(index).and_then(Option::take).and_then(|held| held.tensor().ok())
    }

    /// Input `index` without taking it, if there is one and it is a tensor.
    pub(crate) fn peek(&self, index: usize) -> Option<&Tensor> {
        match self.held.get(index) {
            Some(Some(Held::Tensor(tensor))) => Some(tensor),
            _ => None,
        }
    }

    /// True when input `index` is given.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.held.get(index).is_some_and(Option::is_some)
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
        self.held.len()
    }

    /// All inputs for change.
    pub(crate) fn all_mut(&mut self) -> &mut [Option<Held>] {
        self.held
    }
}

/// What a node gives. Most give one tensor, which needs no vector.
pub(crate) enum Outputs {
    /// The only output.
    One(Tensor),
    /// Any number of tensors.
    Many(Vec<Tensor>),
    /// Any number of outputs that need not be tensors.
    Held(Vec<Held>),
}

impl Outputs {
    /// The outputs in their order.
    pub(crate) fn into_vec(self) -> Vec<Held> {
        match self {
            Self::One(tensor) => vec![tensor.into()],
            Self::Many(tensors) => tensors.into_iter().map(Held::from).collect(),
            Self::Held(held) => held,
        }
    }
}

impl From<Tensor> for Outputs {
    fn from(tensor: Tensor) -> Self {
        Self::One(tensor)
    }
}

impl From<Held> for Outputs {
    fn from(held: Held) -> Self {
        Self::Held(vec![held])
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

/// An operator that this crate runs: the row of the table from which nodes are built and the list of
/// operators is written.
pub(crate) struct Entry {
    /// The operator's name.
    pub(crate) name: &'static str,
    /// The oldest version of the operator's domain whose form of it runs. All later ones do.
    pub(crate) since: u8,
    /// The element types of its main input, in words.
    pub(crate) types: &'static str,
    /// Computes in `FP32` what is given in `FP16` or `BF16`.
    pub(crate) widens: bool,
    /// Gives another result each time, so that it is never computed at load.
    pub(crate) random: bool,
    /// Makes the operator of a node.
    pub(crate) build: Builder,
}

/// Floating-point numbers.
pub(crate) const FLOATS: &str = "FP16 BF16 FP32 FP64";
/// Floating-point numbers and integers of whole bytes.
pub(crate) const NUMBERS: &str = "floats, integers";
/// Integers of whole bytes.
pub(crate) const INTEGERS: &str = "integers";
/// Everything that is stored: numbers, truth values, small types and text.
pub(crate) const ALL: &str = "all";

impl Entry {
    /// An operator that takes its types as they are.
    pub(crate) const fn new(name: &'static str, since: u8, types: &'static str, build: Builder) -> Self {
        Self { name, since, types, widens: false, random: false, build }
    }

    /// An operator that computes `FP16` and `BF16` in `FP32`, and gives its results in the type it was given.
    pub(crate) const fn widening(name: &'static str, since: u8, types: &'static str, build: Builder) -> Self {
        Self { name, since, types, widens: true, random: false, build }
    }

    /// The same, of an operator that gives another result each time.
    pub(crate) const fn random(mut self) -> Self {
        self.random = true;
        self
    }

    /// Makes the operator of a node.
    pub(crate) fn operator(&self, node: &Node<'_>) -> Built {
        let built = (self.build)(node)?;
        Ok(if self.widens { Box::new(widen::Widened::new(built)) } else { built })
    }
}

/// The row of an operator, or `None` when this crate does not know it. The ONNX domain is `""`.
pub(crate) fn find(domain: &str, operator: &str) -> Option<&'static Entry> {
    let families = DOMAINS.iter().find(|(name, _)| *name == domain)?.1;
    families.iter().flat_map(|family| family.iter()).find(|entry| entry.name == operator)
}

/// Each family has the rows of its own operators.
pub(crate) type Family = &'static [Entry];

/// The families of each domain.
pub(crate) const DOMAINS: &[(&str, &[Family])] = &[
    (
        "",
        &[
            activation::OPERATORS,
            arithmetic::OPERATORS,
            attention::OPERATORS,
            batch::OPERATORS,
            bits::OPERATORS,
            blocks::OPERATORS,
            cache::OPERATORS,
            cast::OPERATORS,
            causal_convolution::OPERATORS,
            compare::OPERATORS,
            control::OPERATORS,
            conv_integer::OPERATORS,
            conv_transpose::OPERATORS,
            convolution::OPERATORS,
            cumulative::OPERATORS,
            deform::OPERATORS,
            dropout::OPERATORS,
            einsum::OPERATORS,
            fourier::OPERATORS,
            gated::OPERATORS,
            grid::OPERATORS,
            index::OPERATORS,
            linear_attention::OPERATORS,
            loss::OPERATORS,
            matmul::OPERATORS,
            matrix::OPERATORS,
            ngram::OPERATORS,
            normalise::OPERATORS,
            optional::OPERATORS,
            pad::OPERATORS,
            pool::OPERATORS,
            quantise::OPERATORS,
            quantised_product::OPERATORS,
            random::OPERATORS,
            recurrent::OPERATORS,
            reduce::OPERATORS,
            resize::OPERATORS,
            roi::OPERATORS,
            search::OPERATORS,
            select::OPERATORS,
            sequence::OPERATORS,
            shape::OPERATORS,
            signal_window::OPERATORS,
            slice::OPERATORS,
            softmax::OPERATORS,
            special::OPERATORS,
            suppress::OPERATORS,
            text::OPERATORS,
            unpool::OPERATORS,
        ],
    ),
    (
        "ai.onnx.ml",
        &[
            ml_encode::OPERATORS,
            ml_forest::OPERATORS,
            ml_linear::OPERATORS,
            ml_svm::OPERATORS,
            ml_tree::OPERATORS,
        ],
    ),
    ("ai.onnx.preview", &[flex_attention::OPERATORS]),
    ("ai.onnx.preview.training", &[optimiser::OPERATORS]),
    ("com.microsoft", &[tokenizer::OPERATORS]),
];
