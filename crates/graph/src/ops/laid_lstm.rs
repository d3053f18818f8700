//! An `LSTM` of single precision whose weights are known at load, with the functions that nearly all of them have.
//!
//! Weights are laid out once. A step is one product of the state, to which the projected input is added as it is stored, and
//! one pass over the gates. `recurrent_cell` does the same plainly, for all networks; tests compare the two.

use burn::backend::flex::FlexTensor;
use stoker_kernels::{Finish, Gates, Isa, Matrix, View, lstm_gates};

use super::recurrent::{Layer, Sizes, matrix};
use super::recurrent_cell::{Activation, Cell, Kind, Step};
use super::{Inputs, Outputs};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, items};
use crate::value::DType;

/// The weights of a layer.
pub(super) struct LaidLstm {
    directions: Vec<Weights>,
    input: usize,
    hidden: usize,
}

/// Those of one direction.
struct Weights {
    /// [input, 4 * hidden].
    input: Matrix,
    /// [hidden, 4 * hidden].
    state: Matrix,
    /// What is added to the gates.
    bias: Vec<f32>,
}

impl LaidLstm {
    /// `None` where the node is another network, or where there is no room.
    pub(super) fn new(node: &Node<'_>, layer: &Layer) -> Option<Self> {
        let bias = if node.has_input(3) { Some(node.constant(3)?) } else { None };
        if layer.kind != (Kind::Lstm { coupled: false }) || node.has_input(7) {
            return None;
        }
        if !layer.directions.iter().all(|(_, cell)| is_usual(cell)) {
            return None;
        }
        let (weights, recurrence) = (node.constant(1)?, node.constant(2)?);
        let &[_, columns, input] = weights.shape() else { return None };
        let hidden = *recurrence.shape().last()?;
        let length = |rows: usize| Matrix::laid_len(Isa::best(), rows, columns);
        let elements = length(input)?.checked_add(length(hidden)?)?.checked_add(columns)?;
        if !fits(weights, recurrence, bias, layer) {
            return None;
        }
        let elements = elements.checked_mul(layer.directions.len())?;
        let kept: &[usize] = if bias.is_some() { &[1, 2, 3] } else { &[1, 2] };
        node.keep(kept, elements).then(|| Self::lay_out(weights, recurrence, bias, layer)).flatten()
    }

    fn lay_out(weights: &Tensor, recurrence: &Tensor, bias: Option<&Tensor>, layer: &Layer) -> Option<Self> {
        let laid = |dense: FlexTensor| {
            let dense = contiguous(&dense);
            let &[rows, columns] = &dense.layout().shape()[..] else { return None };
            Some(Matrix::new(Isa::best(), View::new(items(&dense), rows, columns).transposed()))
        };
        let bias = bias.map(|bias| Some(contiguous(&bias.clone().dense().ok()?)));
        let direction = |direction: usize| {
            let (input, state) =
                (laid(matrix(weights, direction).ok()?)?, laid(matrix(recurrence, direction).ok()?)?);
            let width = input.columns();
            let bias = match &bias {
                Some(bias) => {
                    // That of the input's part, and that of the state's.
                    let (one, other) =
                        items::<f32>(bias.as_ref()?).get(direction * 2 * width..)?.split_at(width);
                    one.iter().zip(other).map(|(one, other)| one + other).collect()
                }
                None => vec![0.0; width],
            };
            Some(Weights { input, state, bias })
        };
        let directions: Option<Vec<Weights>> = (0..layer.directions.len()).map(direction).collect();
        let (input, hidden) = (*weights.shape().last()?, *recurrence.shape().last()?);
        Some(Self { directions: directions?, input, hidden })
    }

    /// Answers a request, whose weights are here.
    pub(super) fn run(&self, layer: &Layer, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let x = layer.steps_first(inputs.take(0)?)?;
        let &[steps, batch, input] = x.shape() else { fault!("three dimensions are needed for the input") };
        if x.dtype() != DType::F32 || input != self.input {
            fault!("weights for {} features of FP32 do not fit {}", self.input, x.describe());
        }
        let sizes = Sizes { steps, batch, input, hidden: self.hidden, directions: self.directions.len() };
        check_size(&[steps, batch, 4, self.hidden])?;
        let request = layer.request::<f32>(inputs, sizes)?;
        let x = contiguous(&x.dense()?);
        layer.go(&request, |direction| {
            let weights = &self.directions[direction];
            let all = View::new(items::<f32>(&x), steps * batch, input);
            let finish = Finish { bias: Some(&weights.bias), ..Finish::default() };
            let projected = weights.input.product(all, finish);
            Ok((projected, |step: &mut Step<'_, f32>| {
                weights.step(step);
                Ok(())
            }))
        })
    }
}

impl Weights {
    /// One step of all rows of the batch.
    fn step(&self, step: &mut Step<'_, f32>) {
        let hidden = self.state.rows();
        let states = View::new(step.hidden, step.active.len(), hidden);
        let sums = self.state.product(states, Finish { addend: Some(step.inputs), ..Finish::default() });
        let states = step.hidden.chunks_exact_mut(hidden).zip(step.cell.chunks_exact_mut(hidden));
        for ((sums, (state, memory)), _) in
            sums.chunks_exact(4 * hidden).zip(states).zip(step.active).filter(|(_, active)| **active)
        {
            let gate = |gate: usize| &sums[gate * hidden..(gate + 1) * hidden];
            let sums = [gate(0), gate(1), gate(2), gate(3)];
            lstm_gates(Isa::best(), Gates { sums, memory, state });
        }
    }
}

/// True where a direction has the functions that nearly all have.
fn is_usual(cell: &Cell) -> bool {
    cell.clip.is_none() && cell.activations == [Activation::Sigmoid, Activation::Tanh, Activation::Tanh]
}

/// True where all are single precision and of the sizes that an LSTM has. What is not is the fault of a request.
fn fits(weights: &Tensor, recurrence: &Tensor, bias: Option<&Tensor>, layer: &Layer) -> bool {
    let single =
        [Some(weights), Some(recurrence), bias].iter().flatten().all(|tensor| tensor.dtype() == DType::F32);
    let (&[directions, columns, _], &[_, _, hidden]) = (weights.shape(), recurrence.shape()) else {
        return false;
    };
    single
        && hidden > 0
        && directions == layer.directions.len()
        && hidden.checked_mul(4) == Some(columns)
        && recurrence.shape() == [directions, columns, hidden]
        && bias.is_none_or(|bias| bias.shape() == [directions, 2 * columns])
        && layer.hidden.is_none_or(|given| given == hidden)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::recurrent_cell::Past;
    use super::*;

    /// Numbers between -1 and 1 that a seed decides.
    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 8) as f32 / (1u32 << 23) as f32 - 1.0)
        };
        (0..count).scan(seed, |state, _| next(state)).collect()
    }

    proptest! {
        #[test]
        fn steps_are_those_of_the_plain_network(
            (batch, hidden, backwards) in (1usize..7, 1usize..40, 0usize..2),
            seed in any::<u32>(),
            biased in any::<bool>(),
        ) {
            let (directions, columns, input) = (2, 4 * hidden, 3);
            let weights = Tensor::from_items(&[directions, columns, input], numbers(seed, directions * columns * input));
            let recurrence = numbers(seed ^ 1, directions * columns * hidden);
            let recurrence = Tensor::from_items(&[directions, columns, hidden], recurrence);
            let bias = numbers(seed ^ 2, directions * 2 * columns);
            let bias = biased.then(|| Tensor::from_items(&[directions, 2 * columns], bias));
            let usual = || Cell { activations: vec![Activation::Sigmoid, Activation::Tanh, Activation::Tanh], clip: None };
            let layer = Layer {
                kind: Kind::Lstm { coupled: false },
                directions: vec![(false, usual()), (true, usual())],
                hidden: None,
                batch_first: false,
            };
            prop_assert!(fits(&weights, &recurrence, bias.as_ref(), &layer));
            let laid = LaidLstm::lay_out(&weights, &recurrence, bias.as_ref(), &layer).expect("they fit");
            let bias = bias.map(|bias| items::<f32>(&bias.dense().expect("numbers"))[backwards * 2 * columns..][..2 * columns].to_vec());
            let past = Past {
                recurrence: matrix(&recurrence, backwards).expect("a direction").transpose(0, 1),
                bias,
                peepholes: None,
                kind: layer.kind,
                batch,
                hidden,
            };
            // What the projection gives has the bias in it already for the one, and not for the other.
            let plain = numbers(seed ^ 3, batch * columns);
            let own = &laid.directions[backwards].bias;
            let with_bias: Vec<f32> = plain.iter().zip(own.iter().cycle()).map(|(x, bias)| x + bias).collect();
            let active: Vec<bool> = (0..batch).map(|row| row % 3 != 1).collect();
            let start = (numbers(seed ^ 4, batch * hidden), numbers(seed ^ 5, batch * hidden));
            let (mut found, mut wanted) = (start.clone(), start);
            for _ in 0..3 {
                let (hidden, cell) = (&mut found.0, &mut found.1);
                laid.directions[backwards].step(&mut Step { inputs: &with_bias, active: &active, hidden, cell });
                let (hidden, cell) = (&mut wanted.0, &mut wanted.1);
                let mut step = Step { inputs: &plain, active: &active, hidden, cell };
                layer.directions[backwards].1.step(&past, &mut step).expect("they fit");
            }
            for (found, wanted) in found.0.iter().zip(&wanted.0).chain(found.1.iter().zip(&wanted.1)) {
                prop_assert!((found - wanted).abs() < 2e-5, "{found} {wanted}");
            }
        }
    }
}
