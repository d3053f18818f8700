//! A node of the file, as the builders of operators see it: attributes by name, constants by position.

use std::collections::HashMap;

use super::external::Folder;
use super::initializer;
use crate::ops::Refusal;
use crate::plan::Plan;
use crate::proto::{AttributeProto, NodeProto};
use crate::tensor::Tensor;

/// A graph inside of a node, ready to run: its inputs are those it declares, and after them what it
/// reads from outside.
pub(crate) struct Nested {
    /// What to do.
    pub(crate) plan: Plan,
    /// The positions of what it reads from outside among the inputs of the node's step.
    pub(crate) captured: Vec<usize>,
    /// How many inputs it declares.
    pub(crate) inputs: usize,
    /// What it declares of its outputs; `None` where it declares nothing.
    pub(crate) outputs: Vec<Option<crate::value::ValueInfo>>,
}

/// A node under construction.
pub(crate) struct Node<'a> {
    /// The message of the file.
    pub(super) proto: &'a NodeProto,
    /// The version of the node's domain.
    pub(super) opset: i64,
    /// Which inputs are given: in the body of a function one with a name may be left out by the call.
    pub(super) given: Vec<bool>,
    /// The inputs that are known at load.
    pub(super) constants: Vec<Option<Tensor>>,
    /// Which outputs somebody reads.
    pub(super) used_outputs: Vec<bool>,
    /// The graphs inside of the node, by the name of the attribute.
    pub(super) nested: std::cell::RefCell<HashMap<String, Nested>>,
    /// Where tensors outside of the file may be.
    pub(super) folder: Option<&'a Folder>,
    /// How many elements copies of constants may still take.
    pub(super) spare: std::cell::Cell<usize>,
    /// The inputs that the operator keeps itself.
    pub(super) kept: std::cell::RefCell<Vec<usize>>,
}

impl Node<'_> {
    /// The version of the node's domain that the file imports.
    pub(crate) fn opset(&self) -> i64 {
        self.opset
    }

    /// How many inputs the node declares, not counting what graphs inside of it read.
    pub(crate) fn input_count(&self) -> usize {
        self.proto.input.len()
    }

    /// The graph of an attribute, which can be taken once.
    pub(crate) fn graph(&self, name: &str) -> Result<Nested, Refusal> {
        let nested = self.nested.borrow_mut().remove(name);
        nested.ok_or_else(|| Refusal::Invalid(format!("the graph `{name}` is missing")))
    }

    /// How many outputs the node declares.
    pub(crate) fn output_count(&self) -> usize {
        self.proto.output.len()
    }

    /// True when output `index` is declared.
    pub(crate) fn has_output(&self, index: usize) -> bool {
        self.proto.output.get(index).is_some_and(|name| !name.is_empty())
    }

    /// True when output `index` is declared and somebody reads it.
    pub(crate) fn output_used(&self, index: usize) -> bool {
        self.used_outputs.get(index).copied().unwrap_or(false)
    }

    /// True when input `index` is given.
    pub(crate) fn has_input(&self, index: usize) -> bool {
        self.given.get(index).copied().unwrap_or(false)
    }

    /// Input `index`, when it is known at load.
    pub(crate) fn constant(&self, index: usize) -> Option<&Tensor> {
        self.constants.get(index).and_then(Option::as_ref)
    }

    /// Tells that the operator keeps `elements` of its own, made of constant inputs that its step then is not
    /// given. False where copies of constants may not take so much any more: then it must not keep them.
    pub(crate) fn keep(&self, inputs: &[usize], elements: usize) -> bool {
        let Some(left) = self.spare.get().checked_sub(elements) else { return false };
        self.spare.set(left);
        self.kept.borrow_mut().extend(inputs);
        true
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// True when the file sets the attribute.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// An integer, or its default.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i.unwrap_or_default())
    }

    /// An integer that is 0 or 1, or its default.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, i64::from(default)) != 0
    }

    /// A number, or its default.
    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f.unwrap_or_default())
    }

    /// A string, or its default.
    pub(crate) fn string(&self, name: &str, default: &str) -> Result<String, Refusal> {
        // Writers of the format leave out zeros: an attribute without a number is 0, not the default.
        let bytes = self.attribute(name).map(|attribute| attribute.s.as_deref().unwrap_or_default());
        bytes.map_or_else(|| Ok(default.to_owned()), |bytes| text(name, bytes))
    }

    /// A list of integers, or `None` when the file does not set it.
    pub(crate) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    /// A list of numbers; empty when the file does not set it.
    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.attribute(name).map_or_else(Vec::new, |attribute| attribute.floats.clone())
    }

    /// A list of strings; empty when the file does not set it.
    pub(crate) fn strings(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let Some(attribute) = self.attribute(name) else { return Ok(Vec::new()) };
        attribute.strings.iter().map(|bytes| text(name, bytes)).collect()
    }

    /// A tensor, or `None` when the file does not set it.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<Tensor>, Refusal> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        let Some(proto) = attribute.t.as_ref() else { return Ok(None) };
        initializer::read(proto, self.folder).map(Some)
    }

    /// A sparse tensor with its zeros, or `None` when the file does not set it.
    pub(crate) fn sparse_tensor(&self, name: &str) -> Result<Option<Tensor>, Refusal> {
        let sparse = self.attribute(name).and_then(|attribute| attribute.sparse_tensor.as_deref());
        sparse.map(initializer::read_sparse).transpose()
    }
}

fn text(name: &str, bytes: &[u8]) -> Result<String, Refusal> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Refusal::Invalid(format!("attribute `{name}` is not UTF-8 text")))
}

/// Integers that a node takes as an attribute in old opsets and as an input in new ones.
pub(crate) enum Ints {
    /// Known at load.
    Fixed(Vec<i64>),
    /// The input that holds them.
    Input(usize),
    /// Neither is given.
    Absent,
}

impl Ints {
    /// Reads the attribute `name` below opset `since`, and input `index` from there on.
    pub(crate) fn attribute_or_input(
        node: &Node<'_>,
        name: &str,
        index: usize,
        since: i64,
    ) -> Result<Self, Refusal> {
        if node.opset() < since {
            return Ok(node.ints(name).map_or(Self::Absent, Self::Fixed));
        }
        Self::input(node, index)
    }

    /// Reads input `index`.
    pub(crate) fn input(node: &Node<'_>, index: usize) -> Result<Self, Refusal> {
        if let Some(tensor) = node.constant(index) {
            return Ok(Self::Fixed(tensor.to_i64s().map_err(|fault| Refusal::Invalid(fault.0))?));
        }
        Ok(if node.has_input(index) { Self::Input(index) } else { Self::Absent })
    }

    /// The integers for this request; `None` when the node has none.
    pub(crate) fn get<'a>(
        &'a self,
        inputs: &crate::ops::Inputs<'_>,
    ) -> Result<Option<std::borrow::Cow<'a, [i64]>>, crate::tensor::Fault> {
        match self {
            Self::Fixed(fixed) => Ok(Some(fixed.into())),
            Self::Input(index) => {
                inputs.peek(*index).map(|tensor| tensor.to_i64s().map(Into::into)).transpose()
            }
            Self::Absent => Ok(None),
        }
    }
}
