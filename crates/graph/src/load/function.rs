//! Functions of a file, put in the place of their calls.

use super::frame::Scope;
use super::{Loader, Opsets, domain_key, invalid};
use crate::error::LoadError;
use crate::plan::Source;
use crate::proto::{AttributeProto, FunctionProto, NodeProto};

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
        let sources = self.sources(name, call)?;
        let nodes: Vec<NodeProto> =
            function.node.iter().map(|node| with_attributes(node, call, function)).collect();
        let mut opsets: Opsets = self.opsets.last().cloned().unwrap_or_default();
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
}

/// Names the call in an error about the function's body.
fn inside(call: &str, error: LoadError) -> LoadError {
    match error {
        LoadError::Invalid { node, reason } => LoadError::Invalid { node: format!("{call}/{node}"), reason },
        other => other,
    }
}

/// A node of a function's body with the attributes of the call in the places that refer to them.
fn with_attributes(node: &NodeProto, call: &NodeProto, function: &FunctionProto) -> NodeProto {
    let mut node = node.clone();
    node.attribute =
        node.attribute.iter().filter_map(|attribute| filled(attribute, call, function)).collect();
    node
}

/// An attribute as the call wants it; `None` where it has no value, so that the operator's default holds.
fn filled(attribute: &AttributeProto, call: &NodeProto, function: &FunctionProto) -> Option<AttributeProto> {
    if !attribute.ref_attr_name.is_empty() {
        let named = |given: &&AttributeProto| given.name == attribute.ref_attr_name;
        let given =
            call.attribute.iter().find(named).or_else(|| function.attribute_proto.iter().find(named))?;
        return Some(AttributeProto { name: attribute.name.clone(), ..given.clone() });
    }
    let mut attribute = attribute.clone();
    if let Some(graph) = attribute.g.as_mut() {
        graph.node = graph.node.iter().map(|node| with_attributes(node, call, function)).collect();
    }
    Some(attribute)
}
