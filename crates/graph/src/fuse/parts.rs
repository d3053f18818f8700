//! Functions that exporters write in their parts: each becomes the one operator that it is.

use super::{Flow, Role};
use crate::ops::{self, Activation, Operator};
use crate::plan::Source;

/// Puts the parts together that end at a step.
pub(super) fn join(flow: &mut Flow<'_>, at: usize) {
    let _ = match flow.role(at) {
        Role::Div => standardised(flow, at),
        Role::Mul => gelu(flow, at).or_else(|| gated(flow, at)).or_else(|| scaled(flow, at, 1)),
        Role::Add => scaled(flow, at, 2),
        Role::SoftmaxOfLast { .. } => tempered(flow, at),
        Role::MatMul => attention(flow, at),
        _ => None,
    };
}

/// Makes a step another one, which has one input.
fn replace(flow: &mut Flow<'_>, at: usize, x: Source, operator: Box<dyn Operator>, role: Role, name: &str) {
    flow.set_inputs(at, vec![x]);
    let step = &mut flow.steps[at];
    (step.operator, step.role, step.widens) = (operator, role, true);
    name.clone_into(&mut step.op_type);
}

/// `(x - mean) / sqrt(mean of squares + epsilon)` over the last dimensions: `LayerNormalization` without scale
/// and bias.
fn standardised(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let &[centred, deviation] = &flow.steps[at].inputs[..] else { return None };
    let root = flow.only(deviation, &Role::Sqrt)?;
    let sum = flow.only(flow.input(root, 0), &Role::Add)?;
    let (epsilon, variance) = flow.pair(sum, |source| flow.scalar(source))?;
    let mean_of_squares = flow.maker(variance, 1)?;
    let &Role::MeanOfLast(last) = flow.role(mean_of_squares) else { return None };
    let square = flow.maker(flow.input(mean_of_squares, 0), 1)?;
    // The difference is read by the quotient, and by the square once or twice.
    let squared = match flow.role(square) {
        Role::Square => 1,
        Role::Mul if flow.input(square, 1) == centred => 2,
        _ => return None,
    };
    if flow.input(square, 0) != centred {
        return None;
    }
    let difference = flow.maker(centred, 1 + squared).filter(|&step| *flow.role(step) == Role::Sub)?;
    let &[x, mean] = &flow.steps[difference].inputs[..] else { return None };
    let mean = flow.only(mean, &Role::MeanOfLast(last))?;
    if flow.input(mean, 0) != x {
        return None;
    }
    replace(flow, at, x, ops::standardised(last, epsilon), Role::Standardised(last), "LayerNormalization");
    for part in [root, sum, mean_of_squares, square, difference, mean] {
        flow.remove(part);
    }
    Some(())
}

/// Takes a constant factor (input 1) or summand (input 2) into the normalisation before it.
fn scaled(flow: &mut Flow<'_>, at: usize, index: usize) -> Option<()> {
    let (parameter, x) = flow.pair(at, |source| flow.floats(source).map(|_| source))?;
    let first = flow.maker(x, 1)?;
    let &Role::Standardised(last) = flow.role(first) else { return None };
    // One of more dimensions would be another one in each row. After a summand there is no factor any more.
    if flow.floats(parameter)?.rank() > last || flow.steps[first].inputs.len() > index {
        return None;
    }
    flow.set_input(first, index, parameter);
    flow.absorb(first, at);
    "LayerNormalization".clone_into(&mut flow.steps[first].op_type);
    Some(())
}

/// `x * (1 + erf(x / sqrt(2))) * 0.5`, in any order: `Gelu`.
fn gelu(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    // One of the factors is a product of two that is read by nobody else.
    let (inner, third) = flow.pair(at, |source| flow.only(source, &Role::Mul))?;
    let &[first, second] = &flow.steps[inner].inputs[..] else { return None };
    let factors = [first, second, third];
    let half = factors.iter().position(|&factor| flow.is_number(factor, 0.5))?;
    let mut others =
        factors.iter().enumerate().filter(|&(place, _)| place != half).map(|(_, &factor)| factor);
    let (a, b) = (others.next()?, others.next()?);
    let (parts, x) = match one_plus_erf(flow, a, b) {
        Some(parts) => (parts, b),
        None => (one_plus_erf(flow, b, a)?, a),
    };
    let approximated = ops::gelu();
    replace(flow, at, x, approximated, Role::Other, "Gelu");
    flow.remove(inner);
    for part in parts {
        flow.remove(part);
    }
    Some(())
}

/// The steps of `1 + erf(x / sqrt(2))`.
fn one_plus_erf(flow: &Flow<'_>, sum: Source, x: Source) -> Option<[usize; 3]> {
    let sum = flow.only(sum, &Role::Add)?;
    let ((), error) = flow.pair(sum, |source| flow.is_number(source, 1.0).then_some(()))?;
    let error = flow.only(error, &Role::Erf)?;
    let scaled = flow.maker(flow.input(error, 0), 1)?;
    let fits = match flow.role(scaled) {
        Role::Div => {
            flow.input(scaled, 0) == x && flow.is_number(flow.input(scaled, 1), std::f64::consts::SQRT_2)
        }
        Role::Mul => {
            let factor = |source| flow.is_number(source, std::f64::consts::FRAC_1_SQRT_2).then_some(());
            flow.pair(scaled, factor).is_some_and(|((), other)| other == x)
        }
        _ => false,
    };
    fits.then_some([sum, error, scaled])
}

/// Takes a factor or divisor of all elements into the softmax after it, as attention has it.
fn tempered(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let before = flow.maker(flow.input(at, 0), 1)?;
    let (factor, x) = match flow.role(before) {
        Role::Mul => flow.pair(before, |source| flow.scalar(source))?,
        Role::Div => (1.0 / flow.scalar(flow.input(before, 1))?, flow.input(before, 0)),
        _ => return None,
    };
    // The largest element is the largest afterwards.
    (factor > 0.0 && factor.is_finite()).then_some(())?;
    replace(flow, at, x, ops::softmax_of(factor), Role::SoftmaxOfLast { factor }, "Softmax");
    flow.remove(before);
    Some(())
}

/// `softmax(queries * keys * factor) * values`: the scores of a head are used when they are made.
fn attention(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let &[shares, values] = &flow.steps[at].inputs[..] else { return None };
    let softmax = flow.maker(shares, 1)?;
    let &Role::SoftmaxOfLast { factor } = flow.role(softmax) else { return None };
    let scores = flow.only(flow.input(softmax, 0), &Role::MatMul)?;
    let &[queries, keys] = &flow.steps[scores].inputs[..] else { return None };
    // Constants would be laid out at load.
    let given = |source: &Source| matches!(source, Source::Slot { .. });
    [queries, keys, values].iter().all(given).then_some(())?;
    replace(flow, at, queries, ops::attended(factor), Role::Other, "Attention");
    flow.set_inputs(at, vec![queries, keys, values]);
    flow.remove(softmax);
    flow.remove(scores);
    Some(())
}

/// `x * sigmoid(x)`, and the same with the piecewise linear sigmoid.
fn gated(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let (gate, x) = flow.pair(at, |source| {
        let gate = flow.maker(source, 1)?;
        matches!(flow.role(gate), Role::Activation(..)).then_some(gate)
    })?;
    if flow.input(gate, 0) != x {
        return None;
    }
    let activation = match *flow.role(gate) {
        Role::Activation(Activation::Sigmoid, _) => Activation::Silu,
        Role::Activation(Activation::HardSigmoid { alpha, beta }, _) => Activation::HardSilu { alpha, beta },
        _ => return None,
    };
    replace(flow, at, x, ops::activated(activation), Role::Activation(activation, None), "Swish");
    flow.remove(gate);
    Some(())
}
