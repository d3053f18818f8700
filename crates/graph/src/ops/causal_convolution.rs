//! `CausalConvWithState`: a convolution per channel that looks back only, and carries what it looks back at.

use super::cast::{cast, numbers};
use super::widen::{Wide, narrow};
use super::{Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, check_work, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("CausalConvWithState", 27, FLOATS, build)];

fn build(node: &Node<'_>) -> Built {
    let swish = match node.string("activation", "none")?.as_str() {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(Refusal::Invalid(format!("`activation` cannot be `{other}`"))),
    };
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => run::<f64>(inputs, swish),
        _ => run::<f32>(inputs, swish),
    })
}

/// The input is [batch, channel, position], the kernel [channel, 1, width], the state the `width - 1` elements
/// before the input, zeros where none is given.
fn run<F: Wide>(inputs: &mut Inputs<'_>, swish: bool) -> Result<Outputs, Fault> {
    let (x, kernel) = (inputs.take(0)?, inputs.take(1)?);
    let (bias, past) = (inputs.optional(2), inputs.optional(3));
    let dtype = x.dtype();
    let shape = x.shape().to_vec();
    let &[batch, channels, length] = &shape[..] else {
        fault!("three dimensions are needed, not {}", x.describe())
    };
    let width = match kernel.shape() {
        &[count, 1, width] if count == channels && width > 0 => width,
        other => fault!("a kernel of {other:?} does not fit {channels} channels"),
    };
    // A tensor without elements may be said to have any number of rows.
    check_size(&[batch, channels])?;
    check_work(&[batch, channels, length, width])?;
    let state_shape = [batch, channels, width - 1];
    let state_size = check_size(&state_shape)?;
    let past = match past {
        Some(past) if past.shape() == state_shape => numbers::<F>(past)?,
        Some(past) => fault!("a state of {} is not {state_shape:?}", past.describe()),
        None => vec![F::zero(); state_size],
    };
    let bias = match bias {
        Some(bias) if bias.shape() == [channels] => numbers::<F>(bias)?,
        Some(bias) => fault!("a bias of {} does not fit {channels} channels", bias.describe()),
        None => vec![F::zero(); channels],
    };
    let (x, kernel) = (numbers::<F>(x)?, numbers::<F>(kernel)?);
    // The convolution is defined in the type of the input, what follows it is not.
    let round = |x: F| narrow::<F>(dtype).map_or(x, |narrow| narrow(x));
    let mut result = Vec::with_capacity(x.len());
    let mut state = Vec::with_capacity(state_size);
    let mut padded: Vec<F> = Vec::with_capacity(length + width);
    for line in 0..batch * channels {
        let channel = line % channels;
        padded.clear();
        padded.extend_from_slice(&past[line * (width - 1)..(line + 1) * (width - 1)]);
        padded.extend_from_slice(&x[line * length..(line + 1) * length]);
        let weights = &kernel[channel * width..(channel + 1) * width];
        for seen in padded.windows(width) {
            let sum = seen.iter().zip(weights).fold(F::zero(), |sum, (&x, &weight)| sum + x * weight);
            let value = round(sum + bias[channel]);
            result.push(if swish { value / (F::one() + (-value).exp()) } else { value });
        }
        state.extend_from_slice(&padded[length..]);
    }
    Ok(Outputs::Many(vec![
        cast(Tensor::from_items(&shape, result), dtype)?,
        cast(Tensor::from_items(&state_shape, state), dtype)?,
    ]))
}
