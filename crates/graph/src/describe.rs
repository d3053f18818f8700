//! What is in a model, whether or not it runs: for people who look at a file.

use std::collections::BTreeMap;

use crate::load::element_type_name;
use crate::model::Model;
use crate::proto::{
    DimensionValue, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorTypeProto, TypeProto,
    TypeValue, ValueInfoProto,
};
use crate::value::DType;

/// What a file declares of an input or output. Types that this crate does not run are named too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// `tensor`, `sequence`, `map`, `sparse tensor`, `optional tensor`, `optional sequence`, ...
    pub kind: String,
    /// The element type: `FP32`, or `INT64 to FP32` for a map; empty where nothing is declared.
    pub dtype: String,
    /// A length, a name or `?` for each dimension; `None` where no shape is declared.
    pub shape: Option<Vec<String>>,
}

/// How often a model uses an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorUse {
    /// The operator's domain; the ONNX domain is written `ai.onnx`.
    pub domain: String,
    /// Its name.
    pub name: String,
    /// The number of its nodes: those inside of other nodes and of functions are counted once each.
    pub nodes: usize,
}

/// An operator that the file defines by others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionInfo {
    /// Its domain.
    pub domain: String,
    /// Its name.
    pub name: String,
    /// The number of nodes that it is made of.
    pub nodes: usize,
}

/// The tensors that are stored with a model: initialisers, and tensors that nodes hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Weights {
    /// How many there are.
    pub tensors: usize,
    /// Their elements together.
    pub parameters: u64,
    /// The bytes of their elements, wherever they are stored. A text counts as long as it is.
    pub bytes: u64,
    /// Other files that hold some of them, and how many bytes of each are used.
    pub files: BTreeMap<String, u64>,
}

impl Model {
    /// The program that wrote the file.
    pub fn producer(&self) -> &str {
        &self.proto.producer_name
    }

    /// The version of the program that wrote the file.
    pub fn producer_version(&self) -> &str {
        &self.proto.producer_version
    }

    /// The version of ONNX's file format; `None` where the file does not say.
    pub fn format_version(&self) -> Option<i64> {
        self.proto.ir_version
    }

    /// The name of the graph.
    pub fn name(&self) -> &str {
        self.proto.graph.as_ref().map_or("", |graph| graph.name.as_str())
    }

    /// The version of each domain that the file imports; the ONNX domain is written `ai.onnx`.
    pub fn opsets(&self) -> Vec<(&str, i64)> {
        self.proto.opset_import.iter().map(|import| (domain_name(&import.domain), import.version)).collect()
    }

    /// The inputs that are not initialisers.
    pub fn inputs(&self) -> Vec<Declared> {
        let Some(graph) = &self.proto.graph else { return Vec::new() };
        // Files of the first versions of the format list their weights among the inputs.
        let stored: std::collections::HashSet<&str> =
            graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        graph.input.iter().filter(|input| !stored.contains(input.name.as_str())).map(declared).collect()
    }

    /// The outputs.
    pub fn outputs(&self) -> Vec<Declared> {
        self.proto.graph.iter().flat_map(|graph| &graph.output).map(declared).collect()
    }

    /// The operators that the file uses, by domain and name.
    pub fn operators(&self) -> Vec<OperatorUse> {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        self.visit(&mut |part| {
            if let Part::Node(node) = part {
                *counts.entry((domain_name(&node.domain), &node.op_type)).or_default() += 1;
            }
        });
        let described = |((domain, name), nodes): ((&str, &str), usize)| OperatorUse {
            domain: domain.to_owned(),
            name: name.to_owned(),
            nodes,
        };
        counts.into_iter().map(described).collect()
    }

    /// The operators that the file defines by others.
    pub fn functions(&self) -> Vec<FunctionInfo> {
        let described = |function: &crate::proto::FunctionProto| FunctionInfo {
            domain: domain_name(&function.domain).to_owned(),
            name: function.name.clone(),
            nodes: function.node.len(),
        };
        self.proto.functions.iter().map(described).collect()
    }

    /// The tensors that are stored with the model. Their elements are not read.
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        self.visit(&mut |part| {
            if let Part::Tensor(tensor) = part {
                weights.add(tensor);
            }
        });
        weights
    }

    /// Calls `seen` for every node and stored tensor of the file. How deep graphs stand inside of each other
    /// was bounded when the file was parsed.
    fn visit<'a>(&'a self, seen: &mut dyn FnMut(Part<'a>)) {
        if let Some(graph) = &self.proto.graph {
            visit_graph(graph, seen);
        }
        visit_nodes(self.proto.functions.iter().flat_map(|function| &function.node), seen);
    }
}

impl Weights {
    fn add(&mut self, tensor: &TensorProto) {
        // The file may say anything here: a count that no memory holds is as good as the largest one.
        let length = |&length: &i64| u64::try_from(length).unwrap_or(0);
        let elements = tensor.dims.iter().map(length).fold(1, u64::saturating_mul);
        let bits = DType::from_onnx(tensor.data_type).map_or(0, DType::bits) as u64;
        let text: usize = tensor.string_data.iter().map(Vec::len).sum();
        let bytes = elements.saturating_mul(bits).div_ceil(8).saturating_add(text as u64);
        self.tensors += 1;
        self.parameters = self.parameters.saturating_add(elements);
        self.bytes = self.bytes.saturating_add(bytes);
        let location = |entry: &&StringStringEntryProto| entry.key == "location";
        if let Some(entry) = tensor.external_data.iter().find(location) {
            let used = self.files.entry(entry.value.clone()).or_default();
            *used = used.saturating_add(bytes);
        }
    }
}

/// What a model is made of.
enum Part<'a> {
    Node(&'a NodeProto),
    Tensor(&'a TensorProto),
}

fn visit_graph<'a>(graph: &'a GraphProto, seen: &mut dyn FnMut(Part<'a>)) {
    let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_deref());
    graph.initializer.iter().chain(sparse).for_each(|tensor| seen(Part::Tensor(tensor)));
    visit_nodes(graph.node.iter(), seen);
}

fn visit_nodes<'a>(nodes: impl Iterator<Item = &'a NodeProto>, seen: &mut dyn FnMut(Part<'a>)) {
    for node in nodes {
        seen(Part::Node(node));
        for attribute in &node.attribute {
            let sparse = attribute.sparse_tensor.iter().filter_map(|tensor| tensor.values.as_deref());
            let tensors = attribute.t.as_deref().into_iter().chain(&attribute.tensors).chain(sparse);
            tensors.for_each(|tensor| seen(Part::Tensor(tensor)));
            attribute
                .g
                .as_deref()
                .into_iter()
                .chain(&attribute.graphs)
                .for_each(|graph| visit_graph(graph, seen));
        }
    }
}

/// A domain as people write it.
fn domain_name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

fn declared(info: &ValueInfoProto) -> Declared {
    let (kind, dtype, shape) = type_in_words(info.r#type.as_ref());
    Declared { name: info.name.clone(), kind, dtype, shape }
}

/// Kind, element type and shape of a declared type.
fn type_in_words(declared: Option<&TypeProto>) -> (String, String, Option<Vec<String>>) {
    let tensor = |kind: &str, tensor: &TensorTypeProto| {
        let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| length(dim.value.as_ref())));
        (kind.to_owned(), element_type(tensor.elem_type), shape.map(Iterator::collect))
    };
    match declared.and_then(|declared| declared.value.as_ref()) {
        None => ("of no declared type".to_owned(), String::new(), None),
        Some(TypeValue::Tensor(inner)) => tensor("tensor", inner),
        Some(TypeValue::SparseTensor(inner)) => tensor("sparse tensor", inner),
        Some(TypeValue::Sequence(list)) => {
            let (kind, dtype, shape) = type_in_words(list.elem_type.as_deref());
            let kind = if kind == "tensor" { "sequence".to_owned() } else { format!("sequence of {kind}") };
            (kind, dtype, shape)
        }
        Some(TypeValue::Optional(inner)) => {
            let (kind, dtype, shape) = type_in_words(inner.elem_type.as_deref());
            (format!("optional {kind}"), dtype, shape)
        }
        Some(TypeValue::Map(map)) => {
            let (_, dtype, shape) = type_in_words(map.value_type.as_deref());
            ("map".to_owned(), format!("{} to {dtype}", element_type(map.key_type)), shape)
        }
    }
}

fn element_type(number: i32) -> String {
    DType::from_onnx(number).map_or_else(|| element_type_name(number), |dtype| dtype.oip_name().to_owned())
}

/// A dimension in words.
fn length(value: Option<&DimensionValue>) -> String {
    match value {
        Some(DimensionValue::Length(length)) => length.to_string(),
        Some(DimensionValue::Name(name)) if !name.is_empty() => name.clone(),
        Some(DimensionValue::Name(_)) | None => "?".to_owned(),
    }
}
