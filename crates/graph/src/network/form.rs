//! What a node does with floating-point numbers on a backend.
//!
//! A [`Form`] is read from a node at load and knows no backend. Each family of operators has a table of its
//! forms, as the operators of the host have.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::elementwise::Elementwise;
use super::unary::Unary;
use super::{attention, elementwise, loss, movement, normalise, product, recurrent, reduce, shapes, window};
use crate::load::Node;
use crate::ops::Refusal;
use crate::ops::loss::Loss;
use crate::tensor::Fault;

/// What a node does whose inputs are on the backend, at least some of them.
pub(crate) enum Form {
    /// Its derivative is zero, or there is none: the operator of the host computes it.
    Detached,
    Attention(attention::Attention),
    Elementwise(Elementwise),
    Loss(Loss),
    Movement(movement::Movement),
    Normalise(normalise::Normalise),
    Product(product::Product),
    Recurrent(recurrent::Layer),
    Reduce(reduce::Reduce),
    Shapes(shapes::Shapes),
    Window(window::Windowed),
}

/// What reading a node gives.
pub(super) type Read = Result<Form, Refusal>;

/// Reads a form from a node. The truth values say which inputs are on the backend.
pub(super) type Reader = fn(&Node<'_>, &[bool]) -> Read;

/// An operator that gradients go through.
pub(super) struct Entry {
    name: &'static str,
    read: Reader,
}

impl Entry {
    pub(super) const fn new(name: &'static str, read: Reader) -> Self {
        Self { name, read }
    }
}

/// The tables of ONNX's domain.
const FAMILIES: &[&[Entry]] = &[
    attention::FORMS,
    elementwise::FORMS,
    loss::FORMS,
    movement::FORMS,
    normalise::FORMS,
    product::FORMS,
    recurrent::FORMS,
    reduce::FORMS,
    shapes::FORMS,
    window::FORMS,
];

/// Operators whose derivative is zero wherever it is defined, or that give no real numbers.
const DETACHED: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "Ceil",
    "ConstantOfShape",
    "DynamicQuantizeLinear",
    "Equal",
    "EyeLike",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Multinomial",
    "NonMaxSuppression",
    "NonZero",
    "QuantizeLinear",
    "RandomNormalLike",
    "RandomUniformLike",
    "Round",
    "Shape",
    "Sign",
    "Size",
];

/// The same of scikit-learn's operators: trees are constant almost everywhere.
const DETACHED_ML: &[&str] =
    &["Binarizer", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"];

/// The form of a node that reads numbers from the backend: `real` says which of its inputs are there.
pub(crate) fn read(domain: &str, operator: &str, node: &Node<'_>, real: &[bool]) -> Read {
    let (detached, families): (&[&str], &[&[Entry]]) = match domain {
        "" => (DETACHED, FAMILIES),
        "ai.onnx.ml" => (DETACHED_ML, &[elementwise::ML_FORMS]),
        _ => (&[], &[]),
    };
    if detached.contains(&operator) {
        return Ok(Form::Detached);
    }
    if domain.is_empty()
        && let Some(function) = Unary::read(operator, node)?
    {
        return Ok(Form::Elementwise(Elementwise::Unary(function)));
    }
    match families.iter().flat_map(|family| family.iter()).find(|entry| entry.name == operator) {
        Some(entry) => (entry.read)(node, real),
        None => Err(Refusal::Unsupported(
            "no gradient goes through it, and it reads a parameter or an input of floating-point numbers"
                .to_owned(),
        )),
    }
}

impl Form {
    /// True when output `index` is on the backend.
    pub(crate) fn gives_real(&self, index: usize) -> bool {
        match self {
            Self::Detached => false,
            Self::Elementwise(form) => form.gives_real(index),
            Self::Movement(form) => form.gives_real(index),
            _ => true,
        }
    }

    /// Computes the outputs in the order of the node's declaration. Those after the last one that the form
    /// knows are left out.
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        match self {
            Self::Detached => {
                let held = (0..arguments.count()).map(|index| arguments.held(index));
                let held = held.collect::<Result<_, _>>()?;
                Ok(arguments.operate(held)?.into_iter().map(Carried::Held).collect())
            }
            Self::Attention(form) => form.run(arguments),
            Self::Elementwise(form) => form.run(arguments),
            Self::Loss(form) => form.run_on(arguments),
            Self::Movement(form) => form.run(arguments),
            Self::Normalise(form) => form.run(arguments),
            Self::Product(form) => form.run(arguments),
            Self::Recurrent(form) => form.run(arguments),
            Self::Reduce(form) => form.run(arguments),
            Self::Shapes(form) => form.run(arguments),
            Self::Window(form) => form.run(arguments),
        }
    }
}

/// The only output of a node.
pub(super) fn one<B: Backend>(real: super::real::Real<B>) -> Vec<Carried<B>> {
    vec![Carried::Real(real)]
}
