//! A graph while it is being walked over: its values by name, and the steps made so far.

use std::collections::{HashMap, HashSet};

use super::invalid;
use crate::error::LoadError;
use crate::fuse::fuse;
use crate::plan::{Plan, Source, Step};
use crate::proto::{GraphProto, NodeProto};
use crate::tensor::Tensor;

/// The names that nodes can read.
pub(super) struct Scope {
    values: HashMap<String, Source>,
    /// Names that a node or an output reads.
    read: HashSet<String>,
    /// The body of a function: names of what is around it are not visible in it.
    closed: bool,
}

impl Scope {
    /// The names of a graph.
    pub(super) fn of_graph(graph: &GraphProto) -> Self {
        let outputs = graph.output.iter().map(|output| output.name.clone());
        Self::new(graph.node.iter(), outputs, false)
    }

    /// The names of a part of the file's graph.
    pub(super) fn of_part<'n>(nodes: impl Iterator<Item = &'n NodeProto>, outputs: &[&str]) -> Self {
        Self::new(nodes, outputs.iter().map(|&output| output.to_owned()), false)
    }

    /// The names in the body of a function.
    pub(super) fn of_function(nodes: &[NodeProto], outputs: &[String]) -> Self {
        Self::new(nodes.iter(), outputs.iter().cloned(), true)
    }

    fn new<'n>(
        nodes: impl Iterator<Item = &'n NodeProto>,
        outputs: impl Iterator<Item = String>,
        closed: bool,
    ) -> Self {
        let mut read: HashSet<String> = outputs.collect();
        nodes.for_each(|node| note_reads(node, &mut read));
        Self { values: HashMap::new(), read, closed }
    }
}

/// Names that a node reads, and those that graphs inside of it read: some of these are from outside.
fn note_reads(node: &NodeProto, read: &mut HashSet<String>) {
    // An empty name is an input that is left out.
    read.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        graph.node.iter().for_each(|node| note_reads(node, read));
        read.extend(graph.output.iter().map(|output| output.name.clone()));
    }
}

/// Where a name was found.
pub(super) enum Found {
    /// In this graph.
    Here(Source),
    /// Not in this graph, but perhaps in the one around it.
    Outside,
    /// Not where it is allowed to be.
    Nowhere,
}

/// A plan under construction.
pub(super) struct Frame {
    /// The graph's own names, and inside of them those of functions that are being put in.
    scopes: Vec<Scope>,
    constants: Vec<Tensor>,
    slots: usize,
    inputs: Vec<usize>,
    pub(super) steps: Vec<Step>,
    /// What is read from the graph around this one: where it is there.
    pub(super) captures: Vec<Source>,
    captured_slots: Vec<usize>,
}

impl Frame {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scopes: vec![scope],
            constants: Vec::new(),
            slots: 0,
            inputs: Vec::new(),
            steps: Vec::new(),
            captures: Vec::new(),
            captured_slots: Vec::new(),
        }
    }

    #[expect(clippy::expect_used, reason = "the scope of the graph stays")]
    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("the scope of the graph")
    }

    /// Begins the body of a function.
    pub(super) fn enter(&mut self, scope: Scope) {
        self.scopes.push(scope);
    }

    /// Ends the body of a function.
    pub(super) fn leave(&mut self) {
        if self.scopes.len() > 1 {
            self.scopes.pop();
        }
    }

    pub(super) fn look_up(&self, name: &str) -> Found {
        let Some(scope) = self.scopes.last() else { return Found::Nowhere };
        match scope.values.get(name) {
            Some(&source) => Found::Here(source),
            None if scope.closed => Found::Nowhere,
            None => Found::Outside,
        }
    }

    /// The source of an output.
    pub(super) fn found(&self, name: &str) -> Result<Source, LoadError> {
        match self.look_up(name) {
            Found::Here(source) => Ok(source),
            _ => Err(invalid(name, "no node computes this output")),
        }
    }

    /// True when this graph has the name already.
    pub(super) fn knows(&self, name: &str) -> bool {
        matches!(self.look_up(name), Found::Here(_))
    }

    /// True when somebody reads the name.
    pub(super) fn uses(&self, name: &str) -> bool {
        !name.is_empty() && self.scopes.last().is_some_and(|scope| scope.read.contains(name))
    }

    pub(super) fn define(&mut self, name: &str, source: Source) -> Result<(), LoadError> {
        match self.scope().values.insert(name.to_owned(), source) {
            None => Ok(()),
            Some(_) => Err(invalid(name, "two values have this name")),
        }
    }

    pub(super) fn define_constant(&mut self, name: &str, tensor: Tensor) -> Result<(), LoadError> {
        let source = self.add_constant(tensor);
        self.define(name, source)
    }

    fn add_constant(&mut self, tensor: Tensor) -> Source {
        self.constants.push(tensor);
        Source::Constant(self.constants.len() - 1)
    }

    pub(super) fn define_slot(&mut self, name: &str) -> Result<usize, LoadError> {
        let slot = self.slots;
        self.slots += 1;
        self.define(name, Source::slot(slot))?;
        Ok(slot)
    }

    pub(super) fn define_input(&mut self, name: &str) -> Result<usize, LoadError> {
        let slot = self.define_slot(name)?;
        self.inputs.push(slot);
        Ok(slot)
    }

    /// Makes a value of the graph around this one known here. Constants are shared.
    pub(super) fn capture(&mut self, name: &str, outer: &Self, source: Source) -> Source {
        let source = if let Some(constant) = outer.constant(source) {
            self.add_constant(constant)
        } else {
            let slot = self.slots;
            self.slots += 1;
            self.captures.push(source);
            self.captured_slots.push(slot);
            Source::slot(slot)
        };
        self.scope().values.insert(name.to_owned(), source);
        source
    }

    pub(super) fn constant(&self, source: Source) -> Option<Tensor> {
        match source {
            Source::Constant(index) => self.constants.get(index).cloned(),
            Source::Absent | Source::Slot { .. } => None,
        }
    }

    /// Puts steps together, which is no more than a saving. `spare` is how many elements of constants may be
    /// copied for it.
    pub(super) fn fuse(&mut self, outputs: &[Source], spare: &mut usize) {
        fuse(&mut self.steps, &mut self.constants, self.slots, outputs, spare);
    }

    /// The plan whose inputs are the declared ones and then what is captured.
    pub(super) fn into_plan(self, outputs: Vec<Source>) -> Plan {
        Plan::new(self.constants, self.slots, self.inputs, self.captured_slots, self.steps, outputs)
    }
}
