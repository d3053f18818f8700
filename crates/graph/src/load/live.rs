//! What the loader does for a network: parameters stay values that can change, and nodes that read them, or
//! floating-point inputs, get a form that runs on a backend.

use std::collections::HashSet;

use super::{Loader, Node, domain_key};
use crate::error::LoadError;
use crate::network::{self, Form};
use crate::ops::Refusal;
use crate::plan::Source;
use crate::proto::{GraphProto, NodeProto, ValueInfoProto};
use crate::tensor::Tensor;
use crate::value::{DType, Kind, ValueInfo};

/// Inputs that only say what is to be done: numbers for them are constants, though they are floating-point.
const STEERING: &[(&str, &[usize])] = &[
    ("DequantizeLinear", &[1]),
    ("Dropout", &[1]),
    ("NonMaxSuppression", &[3, 4]),
    ("OneHot", &[1]),
    ("QuantizeLinear", &[1]),
    ("Range", &[0, 1, 2]),
    ("Resize", &[1, 2]),
    ("Upsample", &[1]),
];

/// A floating-point initialiser of the graph.
pub(crate) struct Parameter {
    /// Its name.
    pub(crate) name: String,
    /// Where nodes find it.
    pub(crate) slot: usize,
    /// The elements that the file has.
    pub(crate) tensor: Tensor,
    /// Statistics, which are gathered and not learned.
    pub(crate) gathered: bool,
}

/// What is kept apart.
pub(super) struct Live {
    parameters: Vec<Parameter>,
    /// The slots of the graph of the file whose values are on the backend.
    real: HashSet<usize>,
    /// Initialisers that are read as [`STEERING`] only.
    steering: HashSet<String>,
}

/// True for an input whose values are on the backend.
pub(crate) fn is_real(declared: &ValueInfo) -> bool {
    declared.kind == Kind::Tensor && matches!(declared.dtype, DType::F32 | DType::F64)
}

impl Live {
    pub(super) fn new(graph: &GraphProto) -> Self {
        let (mut steering, mut other) = (HashSet::new(), HashSet::new());
        note_uses(&graph.node, &mut steering, &mut other);
        other.extend(graph.output.iter().map(|output| output.name.clone()));
        steering.retain(|name| !other.contains(name));
        Self { parameters: Vec::new(), real: HashSet::new(), steering }
    }

    pub(super) fn into_parameters(self) -> Vec<Parameter> {
        self.parameters
    }
}

fn note_uses(nodes: &[NodeProto], steering: &mut HashSet<String>, other: &mut HashSet<String>) {
    for node in nodes {
        let steers = STEERING.iter().find(|(name, _)| *name == node.op_type);
        for (index, name) in node.input.iter().enumerate() {
            let steers = steers.is_some_and(|(_, inputs)| inputs.contains(&index));
            if steers {
                steering.insert(name.clone())
            } else {
                other.insert(name.clone())
            };
        }
        for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            note_uses(&graph.node, steering, other);
        }
    }
}

impl Loader<'_> {
    /// What is kept apart, while the graph of the file itself is being walked over.
    fn live_here(&mut self) -> Option<&mut Live> {
        if self.frames.len() == 1 { self.live.as_mut() } else { None }
    }

    /// Makes an initialiser a parameter, or a constant.
    pub(super) fn define_initializer(&mut self, name: &str, tensor: Tensor) -> Result<(), LoadError> {
        let float = matches!(tensor.dtype(), DType::F32 | DType::F64);
        let parameter = float && self.live_here().is_some_and(|live| !live.steering.contains(name));
        if !parameter {
            return self.define_constant(name, tensor);
        }
        let slot = self.frame().define_slot(name)?;
        if let Some(live) = self.live_here() {
            live.real.insert(slot);
            live.parameters.push(Parameter { name: name.to_owned(), slot, tensor, gathered: false });
        }
        Ok(())
    }

    /// Notes an input whose values are on the backend.
    pub(super) fn note_input(&mut self, input: &ValueInfoProto, slot: usize) {
        let declared = super::declare::value_info(input).ok().flatten();
        if declared.is_some_and(|declared| is_real(&declared))
            && let Some(live) = self.live_here()
        {
            live.real.insert(slot);
        }
    }

    /// Which of the sources are on the backend.
    pub(super) fn real_inputs(&mut self, sources: &[Source]) -> Vec<bool> {
        let Some(live) = self.live_here() else { return Vec::new() };
        let real =
            |source: &Source| matches!(source, Source::Slot { index, .. } if live.real.contains(index));
        sources.iter().map(real).collect()
    }

    /// What a node does on the backend; `None` where it reads nothing from there.
    pub(super) fn form(
        &mut self,
        proto: &NodeProto,
        node: &Node<'_>,
        real: &[bool],
        sources: &[Source],
    ) -> Result<Option<Box<Form>>, Refusal> {
        if !real.contains(&true) {
            return Ok(None);
        }
        let form = network::read(domain_key(&proto.domain), &proto.op_type, node, real)?;
        if proto.op_type == "BatchNormalization"
            && let Some(live) = self.live_here()
        {
            let gathered = |slot: usize| {
                let statistics = sources.get(3..5).unwrap_or_default();
                statistics.iter().any(|source| matches!(source, Source::Slot { index, .. } if *index == slot))
            };
            for parameter in &mut live.parameters {
                parameter.gathered |= gathered(parameter.slot);
            }
        }
        Ok(Some(Box::new(form)))
    }

    /// Notes the outputs that a form puts on the backend.
    pub(super) fn note_outputs(&mut self, form: Option<&Form>, outputs: &[Option<usize>]) {
        let (Some(form), Some(live)) = (form, self.live_here()) else { return };
        for (index, slot) in outputs.iter().enumerate() {
            if form.gives_real(index) {
                live.real.extend(*slot);
            }
        }
    }
}
