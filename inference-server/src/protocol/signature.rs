//! What a model declares: its inputs and outputs, and whether requests can be joined.

use stoker_graph::{Graph, ValueInfo};

/// The inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What a request must give.
    pub inputs: Vec<ValueInfo>,
    /// What an answer can hold, in the order of the graph.
    pub outputs: Vec<ValueInfo>,
    /// True when axis 0 of every input and output is the batch, as far as the declaration says.
    pub batch_axis: bool,
}

impl Signature {
    /// What `graph` declares.
    pub fn of(graph: &Graph) -> Self {
        Self {
            inputs: graph.inputs().to_vec(),
            outputs: graph.outputs().to_vec(),
            batch_axis: graph.batch_axis() && !graph.inputs().is_empty(),
        }
    }
}

/// A declared shape as the protocol writes it: `[-1, 64]`, where -1 is a dimension that the request decides.
pub fn shape_text(shape: &[Option<usize>]) -> String {
    let lengths: Vec<_> = shape
        .iter()
        .map(|length| length.map_or_else(|| "-1".to_owned(), |length| length.to_string()))
        .collect();
    format!("[{}]", lengths.join(", "))
}

/// True when `shape` has the declared rank and every fixed dimension its declared length.
pub fn admits(declared: &[Option<usize>], shape: &[usize]) -> bool {
    declared.len() == shape.len()
        && declared.iter().zip(shape).all(|(want, have)| want.is_none_or(|want| want == *have))
}
