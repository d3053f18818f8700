//! Functions of a file, put in the place of their calls.

use prost::Message;

use super::frame::Scope;
use super::{Loader, MAX_COPIED, Opsets, check_attributes, domain_key, invalid, too_large};
use crate::error::LoadError;
use crate::plan::Source;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// What a message takes in memory besides its texts and elements, at the most.
const MESSAGE: usize = 512;
/// What a name takes in a table besides its letters, at the most.
const NAME: usize = 128;

impl Loader<'_> {
    /// Walks over the body of a function in the place of a node that calls it.
    pub(super) fn put_in(
        &mut self,
        name: &str,
        call: &NodeProto,
        function: &FunctionProto,
    ) -> Result<(), LoadError> {
        self.check_depth()?;
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return Err(invalid(name, &format!("function `{}` has fewer inputs or outputs", function.name)));
        }
        check_attributes(&function.attribute_proto)?;
        let names = function.input.iter().chain(&function.output);
        self.charge(names.map(|name| name.len() + NAME).fold(0, usize::saturating_add))?;
        let sources = self.sources(name, call)?;
        let nodes: Vec<NodeProto> = function
            .node
            .iter()
            .map(|node| self.with_attributes(node, call, function))
            .collect::<Result<_, _>>()?;
        let mut opsets: Opsets = self.opsets.last().cloned().unwrap_or_default();
        self.charge(MESSAGE * opsets.len())?;
        let imports = function.opset_import.iter();
        opsets.extend(imports.map(|import| (domain_key(&import.domain).to_owned(), import.version)));
        self.opsets.push(opsets);
        self.frame().enter(Scope::of_function(&nodes, &function.output));
        for (position, input) in function.input.iter().enumerate() {
            // An input that the call leaves out is left out of the nodes that read it.
            let source = sources.get(position).copied().unwrap_or(Source::Absent);
            self.frame().define(input, source)?;
        }
        for (position, node) in nodes.iter().enumerate() {
            self.read_node(position, node).map_err(|error| inside(name, error))?;
        }
        let outputs: Vec<Source> = call
            .output
            .iter()
            .zip(&function.output)
            .map(|(_, output)| self.frame().found(output))
            .collect::<Result<_, _>>()?;
        self.frame().leave();
        self.opsets.pop();
        for (output, source) in call.output.iter().zip(outputs) {
            if !output.is_empty() {
                self.frame().define(output, source)?;
            }
        }
        Ok(())
    }

    /// Counts what is copied for a call: a small file could ask for any number of copies.
    fn charge(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > MAX_COPIED {
            return Err(too_large("size of functions in the places of their calls", self.copied, MAX_COPIED));
        }
        Ok(())
    }

    /// A node of a function's body with the attributes of the call in the places that refer to them.
    fn with_attributes(
        &mut self,
        node: &NodeProto,
        call: &NodeProto,
        function: &FunctionProto,
    ) -> Result<NodeProto, LoadError> {
        let names = node.input.iter().chain(&node.output);
        self.charge(MESSAGE + names.map(|name| name.len() + size_of::<String>()).sum::<usize>())?;
        let mut attributes = Vec::new();
        for attribute in &node.attribute {
            attributes.extend(self.filled(attribute, call, function)?);
        }
        Ok(NodeProto {
            input: node.input.clone(),
            output: node.output.clone(),
            name: node.name.clone(),
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            overload: node.overload.clone(),
            attribute: attributes,
            ..NodeProto::default()
        })
    }

    /// An attribute as the call wants it; `None` where it has no value, so that the operator's default holds.
    fn filled(
        &mut self,
        attribute: &AttributeProto,
        call: &NodeProto,
        function: &FunctionProto,
    ) -> Result<Option<AttributeProto>, LoadError> {
        if !attribute.ref_attr_name.is_empty() {
            // It is looked for, found or not.
            self.charge(MESSAGE)?;
            let named = |given: &&AttributeProto| given.name == attribute.ref_attr_name;
            let given = call.attribute.iter().find(named);
            let Some(given) = given.or_else(|| function.attribute_proto.iter().find(named)) else {
                return Ok(None);
            };
            self.charge(weight(given))?;
            return Ok(Some(AttributeProto { name: attribute.name.clone(), ..given.clone() }));
        }
        let Some(graph) = attribute.g.as_deref() else {
            self.charge(MESSAGE + attribute.encoded_len())?;
            return Ok(Some(attribute.clone()));
        };
        let mut nodes = Vec::new();
        for node in &graph.node {
            nodes.push(self.with_attributes(node, call, function)?);
        }
        let stored = graph.initializer.iter().map(TensorProto::encoded_len);
        let declared = graph.input.iter().chain(&graph.output).map(ValueInfoProto::encoded_len);
        let messages = graph.initializer.len() + graph.input.len() + graph.output.len();
        self.charge(MESSAGE * messages + stored.chain(declared).sum::<usize>())?;
        let graph = GraphProto {
            node: nodes,
            initializer: graph.initializer.clone(),
            sparse_initializer: graph.sparse_initializer.clone(),
            input: graph.input.clone(),
            output: graph.output.clone(),
            ..GraphProto::default()
        };
        Ok(Some(AttributeProto {
            name: attribute.name.clone(),
            r#type: attribute.r#type,
            g: Some(Box::new(graph)),
            ..AttributeProto::default()
        }))
    }
}

/// Names the call in an error about the function's body.
fn inside(call: &str, error: LoadError) -> LoadError {
    match error {
        LoadError::Invalid { node, reason } => LoadError::Invalid { node: format!("{call}/{node}"), reason },
        other => other,
    }
}

/// What an attribute takes in memory, at the most: one that holds a graph may be made of nothing but messages.
fn weight(attribute: &AttributeProto) -> usize {
    let length = attribute.encoded_len();
    let messages = if attribute.g.is_some() || !attribute.graphs.is_empty() { length / 2 } else { 1 };
    MESSAGE.saturating_mul(messages).saturating_add(length)
}
