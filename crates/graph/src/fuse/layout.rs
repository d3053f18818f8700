//! Weights that kernels want in an order of their own, laid out once.

use super::Flow;

/// The input of products and convolutions that weights are.
const WEIGHTS: usize = 1;

/// Gives each step its weights where they are known. A constant that no other step reads is dropped then, so that weights
/// are in memory once.
pub(super) fn lay_out(flow: &mut Flow<'_>) {
    for at in 0..flow.steps.len() {
        let source = flow.input(at, WEIGHTS);
        let Some(weights) = flow.floats(source).cloned() else { continue };
        if flow.steps[at].operator.lay_out(WEIGHTS, &weights, flow.spare) {
            drop(weights);
            flow.set_input(at, WEIGHTS, crate::plan::Source::Absent);
        }
    }
}
