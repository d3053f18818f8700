//! From the bytes of a file to a [`Plan`].
//!
//! `onnx-ir` reads the protobuf. Its typed graph is not used: it renames every node and value, drops
//! the domain and name that an answer or an error must carry, types strings as numbers, and knows
//! neither the classical operators (`ai.onnx.ml`) nor values whose rank is not fixed. Here a tensor
//! carries its type and shape at run time, so the file's declarations are needed at its edges only.
//!
//! A file comes from a stranger: sizes are limited before work is done, and nothing outside of the
//! file is read.

mod initializer;
mod node;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use onnx_ir::{GraphProto, Message, ModelProto, NodeProto, TypeProto, ValueInfoProto};

pub(crate) use initializer::{element_type, element_type_name};
pub(crate) use node::{Ints, Node};

use crate::error::{LoadError, UnsupportedOperator};
use crate::ops::{self, Inputs, Operator, Outputs, Refusal};
use crate::plan::{Plan, Source, Step};
use crate::tensor::Tensor;
use crate::value::{DType, ValueInfo};

/// The largest file: the limit of the protobuf format.
const MAX_MODEL_BYTES: usize = (1 << 31) - 1;
/// The most nodes in a graph.
const MAX_NODES: usize = 100_000;
/// The most elements that one node computed at load may give.
const MAX_FOLDED_ELEMENTS: usize = 1 << 20;
/// The most elements that all nodes computed at load may give together: it bounds the time of a load.
const MAX_FOLDED_TOTAL: usize = 1 << 26;
/// Operators whose work is not bounded by the size of their output are not computed at load.
const NEVER_FOLDED: [&str; 3] = ["Conv", "Gemm", "MatMul"];

/// A graph that is ready to run, and what it declares.
pub(crate) struct Loaded {
    /// The inputs that are not initialisers.
    pub(crate) inputs: Vec<ValueInfo>,
    /// The outputs.
    pub(crate) outputs: Vec<ValueInfo>,
    /// What to do.
    pub(crate) plan: Plan,
}

/// Reads a model.
pub(crate) fn load(bytes: &[u8]) -> Result<Loaded, LoadError> {
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(too_large("file size in bytes", bytes.len(), MAX_MODEL_BYTES));
    }
    // The parser and burn are other people's code, and this file is a stranger's: where one of them
    // panics, that file is refused and the process goes on. All that was being built is dropped.
    catch_unwind(AssertUnwindSafe(|| parse(bytes)))
        .unwrap_or_else(|_| Err(LoadError::NotOnnx { reason: "the parser gave up on it".to_owned() }))
}

fn parse(bytes: &[u8]) -> Result<Loaded, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::NotOnnx { reason: "the file is empty".to_owned() });
    }
    let model = ModelProto::parse_from_bytes(bytes)
        .map_err(|error| LoadError::NotOnnx { reason: error.to_string() })?;
    let Some(graph) = model.graph.as_ref() else {
        return Err(LoadError::NotOnnx { reason: "it holds no graph".to_owned() });
    };
    if graph.node.len() > MAX_NODES {
        return Err(too_large("number of nodes", graph.node.len(), MAX_NODES));
    }
    let opsets =
        model.opset_import.iter().map(|import| (domain_key(&import.domain), import.version)).collect();
    Loader::new(graph, opsets).load()
}

fn too_large(what: &'static str, actual: usize, limit: usize) -> LoadError {
    LoadError::TooLarge { what, actual: actual as u64, limit: limit as u64 }
}

/// The ONNX domain has two names; `""` is used inside.
fn domain_key(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// What the loader knows while it walks over the nodes.
struct Loader<'a> {
    graph: &'a GraphProto,
    opsets: HashMap<&'a str, i64>,
    /// Where each value is found at run time.
    values: HashMap<&'a str, Source>,
    /// How many nodes and outputs read each value.
    uses: HashMap<&'a str, usize>,
    constants: Vec<Tensor>,
    slots: usize,
    steps: Vec<Step>,
    unsupported: Vec<UnsupportedOperator>,
    folded_elements: usize,
    /// Class counts of the maps that were taken away, by the name of the output.
    unzipped: HashMap<&'a str, usize>,
}

impl<'a> Loader<'a> {
    fn new(graph: &'a GraphProto, opsets: HashMap<&'a str, i64>) -> Self {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        let outputs = graph.output.iter().map(|output| &output.name);
        let read = graph.node.iter().flat_map(|node| &node.input).chain(outputs);
        // An empty name is an input that is left out.
        for name in read.filter(|name| !name.is_empty()) {
            *uses.entry(name).or_default() += 1;
        }
        Self {
            graph,
            opsets,
            values: HashMap::new(),
            uses,
            constants: Vec::new(),
            slots: 0,
            steps: Vec::new(),
            unsupported: Vec::new(),
            folded_elements: 0,
            unzipped: HashMap::new(),
        }
    }

    fn load(mut self) -> Result<Loaded, LoadError> {
        self.read_initializers()?;
        let (inputs, input_slots) = self.read_inputs()?;
        for (position, node) in self.graph.node.iter().enumerate() {
            self.read_node(position, node)?;
        }
        if !self.unsupported.is_empty() {
            return Err(LoadError::Unsupported { operators: self.unsupported });
        }
        let mut outputs = Vec::new();
        let mut output_sources = Vec::new();
        for output in &self.graph.output {
            let Some(&source) = self.values.get(output.name.as_str()) else {
                return Err(invalid(&output.name, "no node computes this output"));
            };
            outputs.push(self.output_info(output)?);
            output_sources.push(source);
        }
        let plan = Plan::new(self.constants, self.slots, input_slots, self.steps, output_sources);
        Ok(Loaded { inputs, outputs, plan })
    }

    fn read_initializers(&mut self) -> Result<(), LoadError> {
        if let Some(sparse) = self.graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            return Err(unsupported(name, "it is stored sparse"));
        }
        for proto in &self.graph.initializer {
            let tensor = initializer::read(proto).map_err(|refusal| match refusal {
                Refusal::Unsupported(reason) => unsupported(&proto.name, &reason),
                Refusal::Invalid(reason) => invalid(&proto.name, &reason),
            })?;
            self.define_constant(&proto.name, tensor)?;
        }
        Ok(())
    }

    fn read_inputs(&mut self) -> Result<(Vec<ValueInfo>, Vec<usize>), LoadError> {
        let mut inputs = Vec::new();
        let mut slots = Vec::new();
        for input in &self.graph.input {
            // Before version 4 of the format, initialisers were listed among the inputs.
            if self.values.contains_key(input.name.as_str()) {
                continue;
            }
            let info = tensor_info(input)?;
            let info = info.ok_or_else(|| unsupported(&input.name, "it is not a tensor"))?;
            slots.push(self.define_slot(&input.name)?);
            inputs.push(info);
        }
        Ok((inputs, slots))
    }

    fn define(&mut self, name: &'a str, source: Source) -> Result<(), LoadError> {
        match self.values.insert(name, source) {
            None => Ok(()),
            Some(_) => Err(invalid(name, "two values have this name")),
        }
    }

    fn define_constant(&mut self, name: &'a str, tensor: Tensor) -> Result<(), LoadError> {
        let index = self.constants.len();
        self.constants.push(tensor);
        self.define(name, Source::Constant(index))
    }

    fn define_slot(&mut self, name: &'a str) -> Result<usize, LoadError> {
        let slot = self.slots;
        self.slots += 1;
        self.define(name, Source::slot(slot))?;
        Ok(slot)
    }

    fn read_node(&mut self, position: usize, proto: &'a NodeProto) -> Result<(), LoadError> {
        let name = if proto.name.is_empty() { format!("#{position}") } else { proto.name.clone() };
        let domain = domain_key(&proto.domain);
        // A file that imports no version of a domain means the first one.
        let imported = self.opsets.get(domain).copied();
        let refuse = |reason: String| UnsupportedOperator {
            node: name.clone(),
            operator: proto.op_type.clone(),
            domain: if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() },
            opset: imported.unwrap_or(0),
            reason,
        };
        let Some(builder) = ops::find(domain, &proto.op_type) else {
            self.unsupported.push(refuse("the operator is not known".to_owned()));
            return self.define_unknown_outputs(proto);
        };
        let sources = self.sources(&name, proto)?;
        if let Some(source) = pass_through(proto, &sources, &self.uses) {
            if proto.op_type == "ZipMap" {
                self.note_classes(proto);
            }
            return self.define(&proto.output[0], source);
        }
        let node = Node {
            proto,
            opset: imported.unwrap_or(1),
            constants: sources.iter().map(|&source| self.constant(source)).collect(),
            used_outputs: proto.output.iter().map(|output| self.uses.contains_key(output.as_str())).collect(),
        };
        let operator = match builder(&node) {
            Ok(operator) => operator,
            Err(Refusal::Unsupported(reason)) => {
                self.unsupported.push(refuse(reason));
                return self.define_unknown_outputs(proto);
            }
            Err(Refusal::Invalid(reason)) => return Err(invalid(&name, &reason)),
        };
        if self.fold(proto, &sources, operator.as_ref())? {
            return Ok(());
        }
        let mut outputs = Vec::new();
        for output in &proto.output {
            let used = self.uses.contains_key(output.as_str());
            outputs.push(if used { Some(self.define_slot(output)?) } else { None });
        }
        self.steps.push(Step { name, op_type: proto.op_type.clone(), operator, inputs: sources, outputs });
        Ok(())
    }

    /// After a node that is refused the walk goes on, to name all others that are.
    fn define_unknown_outputs(&mut self, proto: &'a NodeProto) -> Result<(), LoadError> {
        for output in proto.output.iter().filter(|output| !output.is_empty()) {
            self.define_slot(output)?;
        }
        Ok(())
    }

    fn sources(&self, node: &str, proto: &NodeProto) -> Result<Vec<Source>, LoadError> {
        proto
            .input
            .iter()
            .map(|input| match self.values.get(input.as_str()) {
                _ if input.is_empty() => Ok(Source::Absent),
                Some(&source) => Ok(source),
                None => Err(invalid(node, &format!("no input or earlier node gives `{input}`"))),
            })
            .collect()
    }

    fn constant(&self, source: Source) -> Option<Tensor> {
        match source {
            Source::Constant(index) => self.constants.get(index).cloned(),
            Source::Absent | Source::Slot { .. } => None,
        }
    }

    /// Computes a node whose inputs are all known, once and for all. False when it must run per request.
    fn fold(
        &mut self,
        proto: &'a NodeProto,
        sources: &[Source],
        operator: &dyn Operator,
    ) -> Result<bool, LoadError> {
        let known = sources.iter().all(|source| !matches!(source, Source::Slot { .. }));
        let budget = self.folded_elements < MAX_FOLDED_TOTAL;
        if !known || !budget || NEVER_FOLDED.contains(&proto.op_type.as_str()) {
            return Ok(false);
        }
        let mut tensors: Vec<_> = sources.iter().map(|&source| self.constant(source)).collect();
        // A node that fails on its constants fails each request, where the error names it.
        let Ok(outputs) = operator.run(&mut Inputs::new(&mut tensors)) else { return Ok(false) };
        let outputs = match outputs {
            Outputs::One(tensor) => vec![tensor],
            Outputs::Many(tensors) => tensors,
        };
        let elements: usize = outputs.iter().map(Tensor::len).sum();
        self.folded_elements += elements;
        if elements > MAX_FOLDED_ELEMENTS || outputs.len() < proto.output.len() {
            return Ok(false);
        }
        for (output, tensor) in proto.output.iter().zip(outputs) {
            if !output.is_empty() {
                self.define_constant(output, tensor)?;
            }
        }
        Ok(true)
    }

    fn note_classes(&mut self, proto: &'a NodeProto) {
        let labels = |attribute: &onnx_ir::AttributeProto| attribute.ints.len().max(attribute.strings.len());
        let classes = proto.attribute.iter().map(labels).max().unwrap_or(0);
        self.unzipped.insert(&proto.output[0], classes);
    }

    fn output_info(&self, output: &ValueInfoProto) -> Result<ValueInfo, LoadError> {
        if let Some(info) = tensor_info(output)? {
            return Ok(info);
        }
        // `ZipMap` makes a list of maps from class to probability; the table it was made of is served.
        let Some(&classes) = self.unzipped.get(output.name.as_str()) else {
            return Err(unsupported(&output.name, "it is not a tensor"));
        };
        Ok(ValueInfo { name: output.name.clone(), dtype: DType::F32, shape: vec![None, Some(classes)] })
    }
}

/// The source behind a node that gives its input unchanged: such a node needs no step.
fn pass_through(proto: &NodeProto, sources: &[Source], uses: &HashMap<&str, usize>) -> Option<Source> {
    let plain = match proto.op_type.as_str() {
        "Identity" | "ZipMap" => true,
        // Without the mask and outside of training, dropout does nothing.
        "Dropout" => {
            let mask_used = proto.output.get(1).is_some_and(|mask| uses.contains_key(mask.as_str()));
            sources.get(2).is_none_or(|mode| *mode == Source::Absent) && !mask_used
        }
        _ => false,
    };
    let source = sources.first().copied().filter(|source| *source != Source::Absent);
    if plain && !proto.output.is_empty() { source } else { None }
}

/// Name, type and shape of a tensor; `None` for a list or a map.
fn tensor_info(proto: &ValueInfoProto) -> Result<Option<ValueInfo>, LoadError> {
    let Some(declared) = proto.type_.as_ref().filter(|declared| TypeProto::has_tensor_type(declared)) else {
        return Ok(None);
    };
    let tensor = declared.tensor_type();
    let Some(dtype) = element_type(tensor.elem_type) else {
        let name = element_type_name(tensor.elem_type);
        return Err(unsupported(&proto.name, &format!("its element type is {name}")));
    };
    let Some(shape) = tensor.shape.as_ref() else {
        // Nothing is declared: one free dimension is the least that a batch has.
        return Ok(Some(ValueInfo { name: proto.name.clone(), dtype, shape: vec![None] }));
    };
    // Some exporters write 0 or -1 for a dimension that is free.
    let length = |length: i64| usize::try_from(length).ok().filter(|&length| length > 0);
    let shape = shape.dim.iter().map(|dim| if dim.has_dim_value() { length(dim.dim_value()) } else { None });
    Ok(Some(ValueInfo { name: proto.name.clone(), dtype, shape: shape.collect() }))
}

fn unsupported(name: &str, reason: &str) -> LoadError {
    LoadError::UnsupportedValue { name: name.to_owned(), reason: reason.to_owned() }
}

fn invalid(node: &str, reason: &str) -> LoadError {
    LoadError::Invalid { node: node.to_owned(), reason: reason.to_owned() }
}
