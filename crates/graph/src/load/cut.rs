//! A part of the file's graph, between values that are given and values that are asked for.

use std::collections::{HashMap, HashSet};

use super::frame::{Frame, Scope};
use super::infer::element_type;
use super::{Loaded, Loader, declare, unsupported};
use crate::error::LoadError;
use crate::proto::{GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeValue, ValueInfoProto};
use crate::value::{DType, Kind, ValueInfo};

/// What the main graph of a file has, by name.
pub(super) struct Values<'g> {
    pub(super) nodes: &'g [NodeProto],
    makers: HashMap<&'g str, usize>,
    stored: HashMap<&'g str, &'g TensorProto>,
    sparse: HashMap<&'g str, &'g SparseTensorProto>,
    inputs: HashSet<&'g str>,
    declared: HashMap<&'g str, &'g ValueInfoProto>,
}

impl<'g> Values<'g> {
    fn new(graph: &'g GraphProto) -> Self {
        let outputs = graph.node.iter().enumerate().flat_map(|(position, node)| {
            node.output.iter().filter(|name| !name.is_empty()).map(move |name| (name.as_str(), position))
        });
        let named = |info: &'g ValueInfoProto| (info.name.as_str(), info);
        let sparse = graph
            .sparse_initializer
            .iter()
            .filter_map(|tensor| tensor.values.as_ref().map(|values| (values.name.as_str(), tensor)));
        let all = graph.value_info.iter().chain(&graph.input).chain(&graph.output);
        Self {
            nodes: &graph.node,
            makers: outputs.collect(),
            stored: graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
            sparse: sparse.collect(),
            inputs: graph.input.iter().map(|input| input.name.as_str()).collect(),
            declared: all.map(named).collect(),
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.makers.contains_key(name)
            || self.stored.contains_key(name)
            || self.sparse.contains_key(name)
            || self.inputs.contains(name)
    }

    /// The node that computes a value.
    pub(super) fn maker(&self, name: &str) -> Option<&'g NodeProto> {
        self.nodes.get(*self.makers.get(name)?)
    }

    /// The element type that the file says a tensor has.
    pub(super) fn stated(&self, name: &str) -> Option<DType> {
        if let Some(tensor) = self.stored.get(name) {
            return DType::from_onnx(tensor.data_type);
        }
        match self.declared.get(name)?.r#type.as_ref()?.value.as_ref()? {
            TypeValue::Tensor(tensor) => DType::from_onnx(tensor.elem_type),
            _ => None,
        }
    }

    /// What is known of a value of which the file declares nothing: a tensor of any shape.
    fn inferred(&self, name: &str) -> Result<ValueInfo, LoadError> {
        let Some(dtype) = element_type(self, name) else {
            return Err(LoadError::UnknownType { name: name.to_owned() });
        };
        Ok(ValueInfo { name: name.to_owned(), kind: Kind::Tensor, dtype, shape: vec![None], ranked: false })
    }

    /// True where the file says more of a value than its name.
    fn declares(&self, name: &str) -> Option<&'g ValueInfoProto> {
        let declared = self.declared.get(name).copied()?;
        declared.r#type.as_ref()?.value.as_ref().map(|_| declared)
    }
}

/// A part of the file's graph.
pub(super) struct Cut<'g> {
    values: Values<'g>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<&'g str>,
    /// The nodes that the outputs need, with their positions.
    nodes: Vec<usize>,
    /// The stored tensors that they need.
    stored: Vec<&'g TensorProto>,
    sparse: Vec<&'g SparseTensorProto>,
}

impl<'g> Cut<'g> {
    /// What computes `outputs` from `inputs`, which may be any values of the graph.
    pub(super) fn new(
        graph: &'g GraphProto,
        inputs: &[&str],
        outputs: &[&'g str],
    ) -> Result<Self, LoadError> {
        let values = Values::new(graph);
        if let Some(name) = inputs.iter().chain(outputs).find(|name| !values.knows(name)) {
            return Err(LoadError::UnknownValue { name: (*name).to_owned() });
        }
        // A name that is given twice is one input.
        let mut given: HashSet<&str> = HashSet::new();
        let inputs: Vec<&str> = inputs.iter().copied().filter(|name| given.insert(name)).collect();
        let mut needed = vec![false; graph.node.len()];
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = outputs.to_vec();
        while let Some(name) = open.pop() {
            if given.contains(name) || !seen.insert(name) {
                continue;
            }
            if let Some(&position) = values.makers.get(name)
                && !std::mem::replace(&mut needed[position], true)
            {
                reads(&graph.node[position], &mut HashMap::new(), &mut open);
            }
        }
        let asked = |name: &str| seen.contains(name);
        // An input with a stored tensor of its name is that tensor.
        let is_stored = |name: &str| values.stored.contains_key(name) || values.sparse.contains_key(name);
        let open = graph.input.iter().map(|input| input.name.as_str());
        let missing: Vec<String> =
            open.filter(|name| asked(name) && !is_stored(name)).map(str::to_owned).collect();
        if !missing.is_empty() {
            let outputs = outputs.iter().map(|&output| output.to_owned()).collect();
            return Err(LoadError::NotComputed { outputs, missing });
        }
        let info = |&name: &&str| match values.declares(name) {
            Some(declared) => declare::value_info(declared)?
                .ok_or_else(|| unsupported(name, "it is neither a tensor nor a list of them")),
            None => values.inferred(name),
        };
        let stored = graph.initializer.iter().filter(|tensor| asked(&tensor.name)).collect();
        let sparse = graph.sparse_initializer.iter();
        let sparse = sparse.filter(|tensor| tensor.values.as_ref().is_some_and(|values| asked(&values.name)));
        let sparse = sparse.collect();
        Ok(Self {
            inputs: inputs.iter().map(info).collect::<Result<_, _>>()?,
            outputs: outputs.to_vec(),
            nodes: (0..graph.node.len()).filter(|&position| needed[position]).collect(),
            stored,
            sparse,
            values,
        })
    }
}

/// The values that a node reads, and that graphs inside of it read from outside.
///
/// `inside` is how many of the graphs around the node have a value of a name.
fn reads<'g>(node: &'g NodeProto, inside: &mut HashMap<&'g str, usize>, open: &mut Vec<&'g str>) {
    fn is_inside(inside: &HashMap<&str, usize>, name: &str) -> bool {
        inside.get(name).is_some_and(|&graphs| graphs > 0)
    }
    let outside = node.input.iter().map(String::as_str);
    open.extend(outside.filter(|name| !name.is_empty() && !is_inside(inside, name)));
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
        let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
        let own = graph.input.iter().map(|input| input.name.as_str());
        let own = own.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        let own = own.chain(sparse.map(|values| values.name.as_str()));
        let computed = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
        own.clone().for_each(|name| *inside.entry(name).or_default() += 1);
        for node in &graph.node {
            reads(node, inside, open);
            node.output.iter().for_each(|name| *inside.entry(name).or_default() += 1);
        }
        // A graph may give what it only reads.
        let given = graph.output.iter().map(|output| output.name.as_str());
        open.extend(given.filter(|name| !is_inside(inside, name)));
        own.chain(computed).for_each(|name| *inside.entry(name).or_default() -= 1);
    }
}

impl Loader<'_> {
    /// Loads a part of the file's graph, and nothing besides.
    pub(super) fn load_cut(mut self, cut: &Cut<'_>) -> Result<Loaded, LoadError> {
        let values = &cut.values;
        let nodes = || cut.nodes.iter().filter_map(|&position| values.nodes.get(position));
        self.frames.push(Frame::new(Scope::of_part(nodes(), &cut.outputs)));
        for proto in &cut.sparse {
            self.store_sparse(proto)?;
        }
        for proto in &cut.stored {
            self.store(proto)?;
        }
        for input in &cut.inputs {
            self.frame().define_input(&input.name)?;
        }
        for (&position, node) in cut.nodes.iter().zip(nodes()) {
            self.read_part(position, node, &cut.inputs)?;
        }
        if !self.unsupported.is_empty() {
            return Err(LoadError::Unsupported { operators: self.unsupported });
        }
        let output = |&name: &&str| match values.declares(name) {
            Some(declared) => self.output_info(declared),
            None => values.inferred(name),
        };
        let outputs = cut.outputs.iter().map(output).collect::<Result<_, _>>()?;
        self.finish(cut.inputs.clone(), outputs)
    }

    /// A node that also computes what is given has no say in that.
    fn read_part(&mut self, position: usize, node: &NodeProto, given: &[ValueInfo]) -> Result<(), LoadError> {
        let is_given = |name: &String| given.iter().any(|input| input.name == *name);
        if !node.output.iter().any(is_given) {
            return self.read_node(position, node);
        }
        let outputs =
            node.output.iter().map(|name| if is_given(name) { String::new() } else { name.clone() });
        let node = NodeProto { output: outputs.collect(), ..node.clone() };
        self.read_node(position, &node)
    }
}

#[cfg(test)]
mod tests;
