//! From the messages of a file to a [`Plan`].
//!
//! The graph is walked once, in the order of its nodes, which must be one in which they can run. Values
//! get numbers, nodes become operators, and nodes of constants are computed. A graph inside of a node
//! (`If`, `Loop`, `Scan`) becomes a plan of its own: what it reads from outside is added to the node's
//! inputs. A function of the file is put in the place of its call.
//!
//! A file comes from a stranger: sizes are limited before work is done, and nothing outside of the
//! file is read but weights in the folder that the caller names.

mod cut;
mod declare;
mod embed;
mod external;
mod fold;
mod frame;
mod function;
mod infer;
mod initializer;
mod live;
mod node;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use declare::element_type_name;
pub(crate) use embed::embed;
pub(crate) use external::Folder;
pub(crate) use initializer::{read as read_tensor, write as write_tensor};
pub(crate) use live::{Parameter, is_real};
pub(crate) use node::{Ints, Nested, Node};

use crate::error::{LoadError, UnsupportedOperator};
use crate::fuse::Role;
use crate::ops::{self, Refusal};
use crate::plan::{Plan, Source, Step};
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::tensor::Tensor;
use crate::value::{Kind, ValueInfo};
use cut::Cut;
use fold::MAX_FOLDED_TOTAL;
use frame::{Frame, Scope};
use live::Live;

/// The most nodes in a file, those of inner graphs and of each call of a function included.
const MAX_NODES: usize = 100_000;
/// The most attributes of a node, each of which is found by its name.
const MAX_ATTRIBUTES: usize = 1024;
/// How deep graphs and calls of functions may stand inside of each other.
const MAX_DEPTH: usize = 24;
/// How many elements copies of constants may take for each one that is stored: what is stored once may be read
/// by any number of nodes, each of which would have its own copy.
const COPIES: usize = 2;
/// The most bytes that functions may be copied to the places of their calls with.
const MAX_COPIED: usize = 1 << 28;
/// A graph that is ready to run, and what it declares.
pub(crate) struct Loaded {
    /// The inputs that are not initialisers.
    pub(crate) inputs: Vec<ValueInfo>,
    /// The outputs.
    pub(crate) outputs: Vec<ValueInfo>,
    /// What to do.
    pub(crate) plan: Plan,
    /// The floating-point initialisers of the graph, where they were not taken for constants.
    pub(crate) parameters: Vec<Parameter>,
    /// A node draws random numbers, or may.
    pub(crate) random: bool,
}

/// Makes a plan of a model.
pub(crate) fn load(model: &ModelProto, folder: Option<&Folder>) -> Result<Loaded, LoadError> {
    let graph = main_graph(model)?;
    guarded(model, folder, |loader| loader.load(graph, Vec::new()))
}

/// The same of a model that nobody keeps: its tensors are dropped one by one as they are read.
pub(crate) fn load_owned(mut model: ModelProto, folder: Option<&Folder>) -> Result<Loaded, LoadError> {
    let stored = model.graph.as_mut().map(|graph| std::mem::take(&mut graph.initializer));
    let graph = main_graph(&model)?;
    guarded(&model, folder, |loader| loader.load(graph, stored.unwrap_or_default()))
}

/// Makes a plan of a part of a model.
pub(crate) fn load_cut(
    model: &ModelProto,
    folder: Option<&Folder>,
    inputs: &[&str],
    outputs: &[&str],
) -> Result<Loaded, LoadError> {
    let cut = Cut::new(main_graph(model)?, inputs, outputs)?;
    guarded(model, folder, |loader| loader.load_cut(&cut))
}

/// Makes a plan of a model whose parameters can change, and whose floating-point numbers are on a backend.
pub(crate) fn load_live(model: &ModelProto, folder: Option<&Folder>) -> Result<Loaded, LoadError> {
    let graph = main_graph(model)?;
    let live = Some(Live::new(graph));
    guarded(model, folder, |loader| Loader { live, ..loader }.load(graph, Vec::new()))
}

fn main_graph(model: &ModelProto) -> Result<&GraphProto, LoadError> {
    model.graph.as_ref().ok_or_else(|| LoadError::NotOnnx { reason: "it holds no graph".to_owned() })
}

/// burn is other people's code, and a file is a stranger's: where constants that are computed at load make it
/// panic, the file is refused and the process goes on. All that was being built is dropped.
fn guarded(
    model: &ModelProto,
    folder: Option<&Folder>,
    load: impl FnOnce(Loader<'_>) -> Result<Loaded, LoadError>,
) -> Result<Loaded, LoadError> {
    let folder = folder.map(Folder::again);
    catch_unwind(AssertUnwindSafe(|| load(Loader::new(model, folder.as_ref()))))
        .unwrap_or_else(|_| Err(LoadError::NotOnnx { reason: "the loader gave up on it".to_owned() }))
}

fn too_large(what: &'static str, actual: usize, limit: usize) -> LoadError {
    LoadError::TooLarge { what, actual: actual as u64, limit: limit as u64 }
}

fn check_attributes(attributes: &[AttributeProto]) -> Result<(), LoadError> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(too_large("number of attributes of one node", attributes.len(), MAX_ATTRIBUTES));
    }
    Ok(())
}

/// The ONNX domain has two names; `""` is used inside.
fn domain_key(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The version of each domain that a file or function imports.
type Opsets = HashMap<String, i64>;

/// What the loader knows while it walks over the nodes.
struct Loader<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    folder: Option<&'a Folder>,
    /// The graph of the file, and those inside of it that are being walked over: the innermost is last.
    frames: Vec<Frame>,
    /// The imports of the file, and of functions that are being put in.
    opsets: Vec<Opsets>,
    unsupported: Vec<UnsupportedOperator>,
    nodes: usize,
    folded_elements: usize,
    folded_reads: usize,
    copied: usize,
    /// How many elements copies of constants may still take.
    spare: usize,
    /// Class counts of the maps that were taken away, by the name of the output.
    unzipped: HashMap<String, usize>,
    /// A node draws random numbers, or may: one of the graph, of graphs inside of it, or of functions that it calls.
    random: bool,
    /// What is kept apart for a network; `None` where all initialisers are constants.
    live: Option<Live>,
}

impl<'a> Loader<'a> {
    fn new(model: &'a ModelProto, folder: Option<&'a Folder>) -> Self {
        let key = |function: &'a FunctionProto| {
            (domain_key(&function.domain), function.name.as_str(), function.overload.as_str())
        };
        let import = |import: &crate::proto::OperatorSetIdProto| {
            (domain_key(&import.domain).to_owned(), import.version)
        };
        Self {
            functions: model.functions.iter().map(|function| (key(function), function)).collect(),
            folder,
            frames: Vec::new(),
            opsets: vec![model.opset_import.iter().map(import).collect()],
            unsupported: Vec::new(),
            nodes: 0,
            folded_elements: 0,
            folded_reads: 0,
            copied: 0,
            spare: 0,
            unzipped: HashMap::new(),
            random: false,
            live: None,
        }
    }

    /// Loads the graph of the file. `stored` are tensors that were taken out of it.
    fn load(mut self, graph: &GraphProto, stored: Vec<TensorProto>) -> Result<Loaded, LoadError> {
        self.frames.push(Frame::new(Scope::of_graph(graph)));
        for tensor in stored {
            self.store(&tensor)?;
        }
        let inputs = self.walk(graph)?;
        if !self.unsupported.is_empty() {
            return Err(LoadError::Unsupported { operators: self.unsupported });
        }
        let outputs = graph.output.iter().map(|output| self.output_info(output)).collect::<Result<_, _>>()?;
        let inputs = inputs
            .into_iter()
            .map(|input| {
                let declared = declare::value_info(input)?;
                declared.ok_or_else(|| unsupported(&input.name, "it is neither a tensor nor a list of them"))
            })
            .collect::<Result<_, _>>()?;
        self.finish(inputs, outputs)
    }

    /// The plan of what was walked over.
    fn finish(mut self, inputs: Vec<ValueInfo>, outputs: Vec<ValueInfo>) -> Result<Loaded, LoadError> {
        let mut frame = self.frames.pop().ok_or_else(|| invalid("", "it holds no graph"))?;
        let sources =
            outputs.iter().map(|output| frame.found(&output.name)).collect::<Result<Vec<_>, _>>()?;
        let parameters = if let Some(live) = self.live.take() {
            // What parameters may become is not known, and a gradient goes through each step by itself.
            live.into_parameters()
        } else {
            frame.fuse(&sources, &mut self.spare);
            Vec::new()
        };
        Ok(Loaded { inputs, outputs, plan: frame.into_plan(sources), parameters, random: self.random })
    }

    /// Reads a stored tensor.
    fn store(&mut self, proto: &TensorProto) -> Result<(), LoadError> {
        let tensor =
            initializer::read(proto, self.folder).map_err(|refusal| refused(&proto.name, refusal))?;
        self.define_initializer(&proto.name, tensor)
    }

    fn store_sparse(&mut self, proto: &SparseTensorProto) -> Result<(), LoadError> {
        self.charge_sparse(proto)?;
        let name = proto.values.as_ref().map_or("", |values| values.name.as_str());
        let tensor = initializer::read_sparse(proto).map_err(|refusal| refused(name, refusal))?;
        self.define_constant(name, tensor)
    }

    fn define_constant(&mut self, name: &str, tensor: Tensor) -> Result<(), LoadError> {
        self.spare = self.spare.saturating_add(COPIES.saturating_mul(tensor.len()));
        self.frame().define_constant(name, tensor)
    }

    /// Walks over a graph in the innermost frame. Gives the inputs that are not initialisers.
    fn walk<'g>(
        &mut self,
        graph: &'g GraphProto,
    ) -> Result<Vec<&'g crate::proto::ValueInfoProto>, LoadError> {
        for proto in &graph.sparse_initializer {
            self.store_sparse(proto)?;
        }
        for proto in &graph.initializer {
            self.store(proto)?;
        }
        let mut inputs = Vec::new();
        for input in &graph.input {
            // Before version 4 of the format, initialisers were listed among the inputs.
            if !self.frame().knows(&input.name) {
                let slot = self.frame().define_input(&input.name)?;
                self.note_input(input, slot);
                inputs.push(input);
            }
        }
        for (position, node) in graph.node.iter().enumerate() {
            self.read_node(position, node)?;
        }
        Ok(inputs)
    }

    /// The graph that is being walked over.
    #[expect(clippy::expect_used, reason = "there is one from the start of a load to its end")]
    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a frame for the graph of the file")
    }

    fn opset(&self, domain: &str) -> Option<i64> {
        self.opsets.last().and_then(|opsets| opsets.get(domain)).copied()
    }

    /// Where a name is found. One that an outer graph knows is made known to all graphs in between.
    fn resolve(&mut self, name: &str) -> Option<Source> {
        let mut level = self.frames.len().checked_sub(1)?;
        loop {
            match self.frames[level].look_up(name) {
                frame::Found::Here(_) => break,
                frame::Found::Nowhere => return None,
                frame::Found::Outside => level = level.checked_sub(1)?,
            }
        }
        let frame::Found::Here(mut source) = self.frames[level].look_up(name) else { return None };
        for inner in level + 1..self.frames.len() {
            let (outer, inner) = self.frames.split_at_mut(inner);
            let (outer, inner) = (outer.last()?, inner.first_mut()?);
            source = inner.capture(name, outer, source);
        }
        Some(source)
    }

    fn sources(&mut self, node: &str, proto: &NodeProto) -> Result<Vec<Source>, LoadError> {
        let mut sources = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            sources.push(match input.as_str() {
                "" => Source::Absent,
                name => self
                    .resolve(name)
                    .ok_or_else(|| invalid(node, &format!("no input or earlier node gives `{name}`")))?,
            });
        }
        Ok(sources)
    }

    fn read_node(&mut self, position: usize, proto: &NodeProto) -> Result<(), LoadError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(too_large("number of nodes", self.nodes, MAX_NODES));
        }
        check_attributes(&proto.attribute)?;
        let name = if proto.name.is_empty() { format!("#{position}") } else { proto.name.clone() };
        let domain = domain_key(&proto.domain).to_owned();
        // A file that imports no version of a domain means the first one.
        let imported = self.opset(&domain);
        let entry = ops::find(&domain, &proto.op_type);
        let function =
            self.functions.get(&(domain.as_str(), proto.op_type.as_str(), proto.overload.as_str()));
        let function = function.copied();
        let refused = match (entry, function) {
            (Some(entry), _) => match self.build_node(&name, proto, entry, imported.unwrap_or(1))? {
                None => return Ok(()),
                Some(reason) => reason,
            },
            (None, Some(_)) => String::new(),
            (None, None) => "the operator is not known".to_owned(),
        };
        if let Some(function) = function {
            return self.put_in(&name, proto, function);
        }
        self.unsupported.push(UnsupportedOperator {
            node: name,
            operator: proto.op_type.clone(),
            domain: if domain.is_empty() { "ai.onnx".to_owned() } else { domain },
            opset: imported.unwrap_or(0),
            reason: refused,
        });
        // After a node that is refused the walk goes on, to name all others that are.
        for output in proto.output.iter().filter(|output| !output.is_empty()) {
            self.frame().define_slot(output)?;
        }
        Ok(())
    }

    /// Makes a step of a node, or computes it. Gives the reason where the node is not supported.
    fn build_node(
        &mut self,
        name: &str,
        proto: &NodeProto,
        entry: &'static ops::Entry,
        opset: i64,
    ) -> Result<Option<String>, LoadError> {
        let mut sources = self.sources(name, proto)?;
        if let Some(source) = self.pass_through(proto, &sources) {
            if proto.op_type == "ZipMap" {
                self.note_classes(proto);
            }
            self.frame().define(&proto.output[0], source)?;
            return Ok(None);
        }
        for sparse in proto.attribute.iter().filter_map(|attribute| attribute.sparse_tensor.as_deref()) {
            self.charge_sparse(sparse)?;
        }
        let nested = self.nested_graphs(name, proto, &mut sources)?;
        let (nests, spare) = (!nested.is_empty(), self.spare);
        let frame = self.frame();
        let node = Node {
            proto,
            opset,
            given: sources[..proto.input.len()].iter().map(|source| *source != Source::Absent).collect(),
            constants: sources.iter().map(|&source| frame.constant(source)).collect(),
            used_outputs: proto.output.iter().map(|output| frame.uses(output)).collect(),
            nested: nested.into(),
            folder: self.folder,
            spare: spare.into(),
            kept: Vec::new().into(),
        };
        let operator = match entry.operator(&node) {
            Ok(operator) => operator,
            Err(Refusal::Unsupported(reason)) => return Ok(Some(reason)),
            Err(Refusal::Invalid(reason)) => return Err(invalid(name, &reason)),
        };
        let real = self.real_inputs(&sources);
        let form = match self.form(proto, &node, &real, &sources) {
            Ok(form) => form,
            Err(Refusal::Unsupported(reason)) => return Ok(Some(reason)),
            Err(Refusal::Invalid(reason)) => return Err(invalid(name, &reason)),
        };
        self.random |= entry.random;
        if !entry.random && self.fold(proto, &sources, operator.as_ref())? {
            return Ok(None);
        }
        let own = domain_key(&proto.domain).is_empty();
        let role = if own { Role::of(&proto.op_type, &node) } else { Role::Other };
        self.spare = node.spare.get();
        for &input in node.kept.borrow().iter() {
            // One that the node leaves out has no source.
            if let Some(source) = sources.get_mut(input) {
                *source = Source::Absent;
            }
        }
        let frame = self.frame();
        let mut outputs = Vec::new();
        for output in &proto.output {
            outputs.push(if frame.uses(output) { Some(frame.define_slot(output)?) } else { None });
        }
        self.note_outputs(form.as_deref(), &outputs);
        let step = Step {
            name: name.to_owned(),
            op_type: proto.op_type.clone(),
            operator,
            role,
            widens: entry.widens,
            nests,
            inputs: sources,
            outputs,
            form,
        };
        self.frame().steps.push(step);
        Ok(None)
    }

    /// The graphs inside of a node as plans. What they read from outside is added to the node's sources.
    fn nested_graphs(
        &mut self,
        name: &str,
        proto: &NodeProto,
        sources: &mut Vec<Source>,
    ) -> Result<HashMap<String, Nested>, LoadError> {
        let mut all = HashMap::new();
        let graphs = |attribute: &'_ AttributeProto| attribute.g.is_some();
        for attribute in proto.attribute.iter().filter(|attribute| graphs(attribute)) {
            let Some(graph) = &attribute.g else { continue };
            self.check_depth()?;
            self.frames.push(Frame::new(Scope::of_graph(graph)));
            let inputs = self.walk(graph)?.len();
            let mut outputs = Vec::with_capacity(graph.output.len());
            for output in &graph.output {
                // A graph may give what it only reads.
                outputs.push(self.resolve(&output.name).ok_or_else(|| {
                    invalid(
                        name,
                        &format!("the graph `{}` does not compute `{}`", attribute.name, output.name),
                    )
                })?);
            }
            let Some(mut frame) = self.frames.pop() else { continue };
            frame.fuse(&outputs, &mut self.spare);
            let from_outside = std::mem::take(&mut frame.captures);
            let captured = (sources.len()..sources.len() + from_outside.len()).collect();
            sources.extend(from_outside);
            let plan = frame.into_plan(outputs);
            let outputs =
                graph.output.iter().map(|output| declare::value_info(output).ok().flatten()).collect();
            all.insert(attribute.name.clone(), Nested { plan, captured, inputs, outputs });
        }
        Ok(all)
    }

    /// A sparse tensor takes memory for its zeros, of which the file has none.
    fn charge_sparse(&mut self, proto: &SparseTensorProto) -> Result<(), LoadError> {
        let length = |&length: &i64| usize::try_from(length).unwrap_or(usize::MAX);
        let elements = proto.dims.iter().map(length).fold(1, usize::saturating_mul);
        self.folded_elements = self.folded_elements.saturating_add(elements);
        if self.folded_elements > MAX_FOLDED_TOTAL {
            return Err(too_large(
                "number of elements of sparse tensors",
                self.folded_elements,
                MAX_FOLDED_TOTAL,
            ));
        }
        Ok(())
    }

    fn check_depth(&self) -> Result<(), LoadError> {
        let depth = self.frames.len() + self.opsets.len();
        if depth > MAX_DEPTH {
            Err(too_large("depth of graphs and functions", depth, MAX_DEPTH))
        } else {
            Ok(())
        }
    }

    /// The source behind a node that gives its input unchanged: such a node needs no step.
    fn pass_through(&mut self, proto: &NodeProto, sources: &[Source]) -> Option<Source> {
        let plain = match proto.op_type.as_str() {
            "Identity" | "ZipMap" => true,
            // Without the mask and outside of training, dropout does nothing.
            "Dropout" => {
                let mask_used = proto.output.get(1).is_some_and(|mask| self.frame().uses(mask));
                sources.get(2).is_none_or(|mode| *mode == Source::Absent) && !mask_used
            }
            _ => false,
        };
        let source = sources.first().copied().filter(|source| *source != Source::Absent);
        if plain && proto.output.first().is_some_and(|output| !output.is_empty()) { source } else { None }
    }

    fn note_classes(&mut self, proto: &NodeProto) {
        let labels = |attribute: &AttributeProto| attribute.ints.len().max(attribute.strings.len());
        let classes = proto.attribute.iter().map(labels).max().unwrap_or(0);
        self.unzipped.insert(proto.output[0].clone(), classes);
    }

    fn output_info(&self, output: &crate::proto::ValueInfoProto) -> Result<ValueInfo, LoadError> {
        if let Some(info) = declare::value_info(output)? {
            return Ok(info);
        }
        // `ZipMap` makes a list of maps from class to probability; the table it was made of is served.
        let Some(&classes) = self.unzipped.get(output.name.as_str()) else {
            return Err(unsupported(&output.name, "it is neither a tensor nor a list of them"));
        };
        let (name, kind, dtype) = (output.name.clone(), Kind::Tensor, crate::value::DType::F32);
        Ok(ValueInfo { name, kind, dtype, shape: vec![None, Some(classes)], ranked: true })
    }
}

fn unsupported(name: &str, reason: &str) -> LoadError {
    LoadError::UnsupportedValue { name: name.to_owned(), reason: reason.to_owned() }
}

fn refused(name: &str, refusal: Refusal) -> LoadError {
    match refusal {
        Refusal::Unsupported(reason) => unsupported(name, &reason),
        Refusal::Invalid(reason) => invalid(name, &reason),
    }
}

fn invalid(node: &str, reason: &str) -> LoadError {
    LoadError::Invalid { node: node.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests;
