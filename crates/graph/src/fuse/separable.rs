//! Depthwise separable convolutions: a window for each channel, before it perhaps a convolution of one element that makes the channels, and
//! after it one that makes few of them. One step does them, so that what is between them need not be in memory.

use super::Flow;
use crate::ops::{self, ADDEND, Part};
use crate::plan::Source;

/// The input of a convolution that is its bias.
const BIAS: usize = 2;

/// Puts convolutions together whose weights are laid out.
pub(super) fn join(flow: &mut Flow<'_>) {
    for at in 0..flow.steps.len() {
        let _ = separable(flow, at);
    }
}

/// The convolutions that end at a step.
fn separable(flow: &mut Flow<'_>, at: usize) -> Option<()> {
    let Part::Pointwise { inputs: channels, .. } = part(flow, at)? else { return None };
    let windows = before(flow, at)?;
    if part(flow, windows)? != (Part::Depthwise { channels }) {
        return None;
    }
    let makes = |&step: &usize| matches!(part(flow, step), Some(Part::Pointwise { outputs, .. }) if outputs == channels);
    let widen = before(flow, windows).filter(makes);
    let steps: Vec<usize> = widen.into_iter().chain([windows, at]).collect();

    let mut inputs = vec![flow.input(steps[0], 0)];
    inputs.extend(steps.iter().map(|&step| flow.input(step, BIAS)));
    inputs.push(flow.input(at, ADDEND));
    let names: Vec<&str> = steps.iter().map(|&step| flow.steps[step].op_type.as_str()).collect();
    let name = names.join("+");
    // What a step is that has no work left is never asked.
    let mut taken =
        |step: usize| std::mem::replace(&mut flow.steps[step].operator, ops::separable(Vec::new()));
    let operator = ops::separable(steps.iter().map(|&step| taken(step)).collect());
    flow.set_inputs(at, inputs);
    (flow.steps[at].operator, flow.steps[at].op_type) = (operator, name);
    steps.iter().filter(|&&step| step != at).for_each(|&step| flow.remove(step));
    Some(())
}

/// The part that a step can be.
fn part(flow: &Flow<'_>, at: usize) -> Option<Part> {
    flow.steps[at].operator.convolution()?.part()
}

/// The step that makes the input of another one, for it alone, and adds nothing to it but a bias.
fn before(flow: &Flow<'_>, at: usize) -> Option<usize> {
    flow.maker(flow.input(at, 0), 1).filter(|&step| flow.input(step, ADDEND) == Source::Absent)
}
