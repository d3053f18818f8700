//! What is done to a result in the pass that finishes it: a bias of a matrix product, a second summand, and activations.

use super::{Flow, Role};
use crate::ops::{ADDEND, Activation};
use crate::plan::Source;

/// Appends a step to the one that makes its input.
pub(super) fn append(flow: &mut Flow<'_>, at: usize) {
    let _ = match flow.role(at) {
        Role::Add => bias(flow, at).or_else(|| addend(flow, at)),
        Role::Activation(..) => activation(flow, at),
        _ => None,
    };
}

/// A constant that is added to a matrix product.
fn bias(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let (bias, product) = flow.pair(at, |source| flow.constant(source).map(|_| source))?;
    let product = flow.only(product, &Role::MatMul).filter(|&step| flow.steps[step].inputs.len() == 2)?;
    // Whatever its shape is: one that is not a row is added as any two tensors are.
    flow.set_input(product, 2, bias);
    flow.absorb(product, at);
    Some(())
}

/// Another tensor that is added to a product or a convolution: the end of a residual block.
fn addend(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let &[left, right] = &flow.steps[at].inputs[..] else { return None };
    let product = |source| {
        let step = flow.maker(source, 1)?;
        let role = flow.role(step);
        matches!(role, Role::Conv | Role::MatMul | Role::Gemm { .. }).then_some(step)
    };
    // Of two the later one: what it adds must be there when it runs.
    let (first, other) = match (product(left), product(right)) {
        (Some(one), Some(two)) if one < two => (two, left),
        (Some(one), _) => (one, right),
        (None, Some(two)) => (two, left),
        (None, None) => return None,
    };
    let Source::Slot { index, .. } = other else { return None };
    if flow.makers[index].is_some_and(|maker| maker > first) {
        return None;
    }
    flow.set_input(first, ADDEND, other);
    flow.absorb(first, at);
    flow.steps[first].role = Role::Summed;
    Some(())
}

fn activation(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let &Role::Activation(activation, bounds) = flow.role(at) else { return None };
    let first = flow.maker(flow.input(at, 0), 1)?;
    if !matches!(flow.role(first), Role::Conv | Role::MatMul | Role::Gemm { .. } | Role::Summed | Role::Add) {
        return None;
    }
    // Bounds must have the type of what they bound, which the weights say. Those that are attributes are for
    // integers too.
    if matches!(activation, Activation::Clip { .. }) {
        let weights = flow.floats(flow.input(first, 1))?;
        bounds.is_none_or(|bounds| bounds == weights.dtype()).then_some(())?;
    }
    if !flow.steps[first].operator.follow(activation) {
        return None;
    }
    flow.absorb(first, at);
    flow.steps[first].role = Role::Other;
    Some(())
}
