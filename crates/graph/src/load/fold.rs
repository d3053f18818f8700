//! Nodes whose inputs are all known, computed once and for all.

use super::{Loader, domain_key};
use crate::error::LoadError;
use crate::ops::{Context, Inputs, Operator};
use crate::plan::Source;
use crate::proto::NodeProto;
use crate::tensor::Tensor;

/// The most elements that one node computed at load may give.
const MAX_FOLDED_ELEMENTS: usize = 1 << 20;
/// The most elements that all nodes computed at load may give together: it bounds the time of a load.
pub(super) const MAX_FOLDED_TOTAL: usize = if cfg!(fuzzing) { 1 << 20 } else { 1 << 26 };
/// The most elements that all nodes computed at load may read together.
const MAX_FOLDED_READS: usize = if cfg!(fuzzing) { 1 << 24 } else { 1 << 30 };
/// Operators whose work is not bounded by the size of their output are not computed at load.
const NEVER_FOLDED: [&str; 31] = [
    "Attention",
    "AveragePool",
    "CausalConvWithState",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DFT",
    "DeformConv",
    "Det",
    "Einsum",
    "FlexAttention",
    "GRU",
    "Gemm",
    "If",
    "LRN",
    "LSTM",
    "LinearAttention",
    "Loop",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "MaxPool",
    "MaxRoiPool",
    "NonMaxSuppression",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "RoiAlign",
    "STFT",
    "Scan",
    "TfIdfVectorizer",
];

impl Loader<'_> {
    /// Computes a node whose inputs are all known, once and for all. False when it must run per request.
    pub(super) fn fold(
        &mut self,
        proto: &NodeProto,
        sources: &[Source],
        operator: &dyn Operator,
    ) -> Result<bool, LoadError> {
        let known = sources.iter().all(|source| !matches!(source, Source::Slot { .. }));
        let own = domain_key(&proto.domain).is_empty() && !NEVER_FOLDED.contains(&proto.op_type.as_str());
        if !known || !own || self.folded_elements >= MAX_FOLDED_TOTAL {
            return Ok(false);
        }
        let frame = self.frame();
        let constants: Vec<Option<Tensor>> = sources.iter().map(|&source| frame.constant(source)).collect();
        let read: usize = constants.iter().flatten().map(Tensor::weight).sum();
        if self.folded_reads.saturating_add(read) > MAX_FOLDED_READS {
            return Ok(false);
        }
        self.folded_reads += read;
        let mut held: Vec<_> = constants.into_iter().map(|constant| constant.map(Into::into)).collect();
        // A node that fails on its constants fails each request, where the error names it.
        let Ok(outputs) = operator.run(&mut Inputs::new(&mut held, Context::default())) else {
            return Ok(false);
        };
        let outputs: Option<Vec<Tensor>> =
            outputs.into_vec().into_iter().map(|held| held.tensor().ok()).collect();
        // Lists are made anew by each request.
        let Some(outputs) = outputs else { return Ok(false) };
        let elements: usize = outputs.iter().map(Tensor::weight).sum();
        // What a node only stores takes no more memory as a constant.
        let stored = proto.op_type == "Constant";
        self.folded_elements += if stored { 0 } else { elements };
        if (elements > MAX_FOLDED_ELEMENTS && !stored) || outputs.len() < proto.output.len() {
            return Ok(false);
        }
        for (output, tensor) in proto.output.iter().zip(outputs) {
            if !output.is_empty() {
                self.define_constant(output, tensor)?;
            }
        }
        Ok(true)
    }
}
