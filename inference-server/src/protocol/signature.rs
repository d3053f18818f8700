//! What a model declares: its inputs and outputs, and whether requests can be joined.

use stoker_graph::{DType, Kind, ValueInfo};

use crate::device::Model;

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
    /// What `model` declares; an error for an input or output that requests and answers cannot carry.
    pub fn of(model: &dyn Model) -> Result<Self, NotServable> {
        if let Some(info) = model.inputs().iter().chain(model.outputs()).find(|info| !servable(info)) {
            let what =
                if info.kind == Kind::Tensor { info.dtype.to_string() } else { "no tensor".to_owned() };
            return Err(NotServable { name: info.name.clone(), what });
        }
        Ok(Self {
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            batch_axis: model.batch_axis() && !model.inputs().is_empty(),
        })
    }
}

/// The model has an input or output that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{name}` is {what}, which requests and answers cannot carry; cast it inside of the model, to FP32 for example"
)]
pub struct NotServable {
    name: String,
    what: String,
}

/// True for inputs and outputs that requests and answers can carry, as JSON or as raw bytes.
fn servable(info: &ValueInfo) -> bool {
    info.kind == Kind::Tensor && !info.dtype.is_small()
}

/// True for the types that JSON has a form for. FP16 and BF16 are carried as raw bytes only.
pub fn has_json(dtype: DType) -> bool {
    !matches!(dtype, DType::F16 | DType::BF16) && !dtype.is_small()
}

/// A declared shape as the protocol writes it: `[-1, 64]`, where -1 is a dimension that the request decides.
pub fn shape_text(shape: &[Option<usize>]) -> String {
    let lengths: Vec<_> = shape
        .iter()
        .map(|length| length.map_or_else(|| "-1".to_owned(), |length| length.to_string()))
        .collect();
    format!("[{}]", lengths.join(", "))
}

/// A declared shape as metadata have it: -1 is a length that the request decides.
pub fn declared(shape: &[Option<usize>]) -> Vec<i64> {
    shape.iter().map(|length| length.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX))).collect()
}

/// True when `shape` has the declared rank and every fixed dimension its declared length.
pub fn admits(declared: &[Option<usize>], shape: &[usize]) -> bool {
    declared.len() == shape.len()
        && declared.iter().zip(shape).all(|(want, have)| want.is_none_or(|want| want == *have))
}
