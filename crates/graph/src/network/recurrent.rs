//! Recurrent networks, step by step: `RNN`, `GRU` and `LSTM`.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read};
use super::real::Real;
use super::unary::Unary;
use crate::load::Node;
use crate::ops::recurrent::{self, gru, lstm};
use crate::ops::recurrent_cell::{Activation, Cell, Kind};
use crate::tensor::{Fault, check_size, fault};

/// A layer of one direction or two.
pub(crate) struct Layer(recurrent::Layer);

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("RNN", |node, _| layer(node, Kind::Rnn)),
    Entry::new("GRU", |node, _| layer(node, gru(node))),
    Entry::new("LSTM", |node, _| layer(node, lstm(node))),
];

fn layer(node: &Node<'_>, kind: Kind) -> Read {
    Ok(Form::Recurrent(Layer(recurrent::Layer::read(node, kind)?)))
}

/// The function of a gate.
fn function(activation: Activation) -> Unary {
    let wide = f64::from;
    match activation {
        Activation::Relu => Unary::Relu,
        Activation::Tanh => Unary::Tanh,
        Activation::Sigmoid => Unary::Sigmoid,
        Activation::Softsign => Unary::Softsign,
        Activation::Softplus => Unary::Softplus,
        Activation::Affine(alpha, beta) => Unary::Affine { alpha: wide(alpha), beta: wide(beta) },
        Activation::LeakyRelu(alpha) => Unary::LeakyRelu { alpha: wide(alpha) },
        Activation::ThresholdedRelu(alpha) => Unary::ThresholdedRelu { alpha: wide(alpha) },
        Activation::ScaledTanh(alpha, beta) => Unary::ScaledTanh { alpha: wide(alpha), beta: wide(beta) },
        Activation::HardSigmoid(alpha, beta) => Unary::HardSigmoid { alpha: wide(alpha), beta: wide(beta) },
        Activation::Elu(alpha) => Unary::Elu { alpha: wide(alpha), gamma: 1.0 },
    }
}

/// What a layer is given, in the order of the first layout.
struct Given<B: Backend> {
    x: Real<B>,
    weights: Real<B>,
    recurrence: Real<B>,
    bias: Option<Real<B>>,
    hidden: Option<Real<B>>,
    memory: Option<Real<B>>,
    peepholes: Option<Real<B>>,
    /// How many steps each row of the batch has, where they differ.
    lengths: Option<Vec<usize>>,
    sizes: Sizes,
}

#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    hidden: usize,
    gates: usize,
}

/// What one direction keeps for all its steps.
struct Past<'a, B: Backend> {
    cell: &'a Cell,
    kind: Kind,
    sizes: Sizes,
    /// The matrix that the state is multiplied by, [hidden, gates * hidden].
    recurrence: Real<B>,
    /// The bias of the state's part, [gates * hidden].
    bias: Option<Real<B>>,
    /// Weights of the memory in the input, output and forget gates, [3 * hidden].
    peepholes: Option<Real<B>>,
}

/// What one direction gives: the outputs of all steps in their order, and the last state and memory.
struct Passed<B: Backend> {
    outputs: Vec<Real<B>>,
    state: Real<B>,
    memory: Real<B>,
}

impl Layer {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        let given = self.given(arguments)?;
        let Sizes { steps, batch, hidden, .. } = given.sizes;
        let (mut outputs, mut states, mut memories) = (Vec::new(), Vec::new(), Vec::new());
        for (direction, (backwards, cell)) in self.0.directions.iter().enumerate() {
            let passed = self.direction(&given, direction, *backwards, cell, arguments)?;
            outputs.push(if steps == 0 {
                given.x.full(&[0, 1, batch, hidden], 0.0)?
            } else {
                Real::join(passed.outputs, 0)?.reshape(&[steps, 1, batch, hidden])?
            });
            states.push(passed.state.reshape(&[1, batch, hidden])?);
            memories.push(passed.memory.reshape(&[1, batch, hidden])?);
        }
        let mut results = vec![Real::join(outputs, 1)?, Real::join(states, 0)?];
        if matches!(self.0.kind, Kind::Lstm { .. }) {
            results.push(Real::join(memories, 0)?);
        }
        let placed = results.into_iter().map(|result| match (self.0.batch_first, result.rank()) {
            (false, _) => Ok(result),
            (true, 4) => result.permute(&[2, 0, 1, 3]),
            (true, _) => result.permute(&[1, 0, 2]),
        });
        placed.map(|result| result.map(Carried::Real)).collect()
    }

    fn given<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Given<B>, Fault> {
        let steps_first = |x: Real<B>| if self.0.batch_first { x.permute(&[1, 0, 2]) } else { Ok(x) };
        let x = steps_first(arguments.real(0)?)?;
        let (weights, recurrence) = (arguments.real(1)?, arguments.real(2)?);
        let (&[steps, batch, input], &[directions, rows, width], &[_, _, hidden]) =
            (x.shape(), weights.shape(), recurrence.shape())
        else {
            fault!("three dimensions are needed for input, weights and recurrence")
        };
        let gates = self.0.kind.gates();
        if directions != self.0.directions.len()
            || width != input
            || hidden == 0
            || Some(rows) != hidden.checked_mul(gates)
            || recurrence.shape() != [directions, rows, hidden]
        {
            fault!(
                "weights of {:?} and {:?} do not fit an input of {:?}",
                weights.shape(),
                recurrence.shape(),
                x.shape()
            );
        }
        check_size(&[steps, directions, batch, hidden])?;
        let bias = exactly(arguments.optional(3)?, &[directions, 2 * gates * hidden])?;
        let lengths = if arguments.has(4) { Some(arguments.host(4)?.to_i64s()?) } else { None };
        let length = |length: i64| usize::try_from(length).ok().filter(|&length| length <= steps);
        let lengths: Option<Vec<usize>> = match lengths {
            None => None,
            Some(all) => Some(
                all.into_iter()
                    .map(length)
                    .collect::<Option<Vec<usize>>>()
                    .filter(|all| all.len() == batch)
                    .ok_or_else(|| {
                        Fault(format!("lengths for {batch} rows of at most {steps} steps are needed"))
                    })?,
            ),
        };
        let state = |state: Option<Real<B>>| {
            exactly(state.map(steps_first).transpose()?, &[directions, batch, hidden])
        };
        Ok(Given {
            hidden: state(arguments.optional(5)?)?,
            memory: state(arguments.optional(6)?)?,
            peepholes: exactly(arguments.optional(7)?, &[directions, 3 * hidden])?,
            lengths: lengths.filter(|lengths| lengths.iter().any(|&length| length < steps)),
            sizes: Sizes { steps, batch, hidden, gates },
            x,
            weights,
            recurrence,
            bias,
        })
    }

    /// Goes over all steps.
    fn direction<B: Backend>(
        &self,
        given: &Given<B>,
        direction: usize,
        backwards: bool,
        cell: &Cell,
        arguments: &Arguments<'_, B>,
    ) -> Result<Passed<B>, Fault> {
        let Sizes { steps, batch, hidden, gates } = given.sizes;
        let width = gates * hidden;
        let own = |all: &Real<B>, shape: &[usize]| all.clone().part(0, direction, 1)?.reshape(shape);
        let input = given.x.length(2)?;
        let weights = own(&given.weights, &[width, input])?.swapped(0, 1)?;
        let mut projected = given.x.clone().reshape(&[steps * batch, input])?.product(weights)?;
        let mut state_bias = None;
        if let Some(bias) = &given.bias {
            let bias = own(bias, &[2 * width])?;
            projected = projected.add(bias.clone().part(0, 0, width)?)?;
            state_bias = Some(bias.part(0, width, width)?);
        }
        let projected = projected.reshape(&[steps, batch, width])?;
        let past = Past {
            cell,
            kind: self.0.kind,
            sizes: given.sizes,
            recurrence: own(&given.recurrence, &[width, hidden])?.swapped(0, 1)?,
            bias: state_bias,
            peepholes: given.peepholes.as_ref().map(|all| own(all, &[3 * hidden])).transpose()?,
        };
        let start = |state: &Option<Real<B>>| match state {
            Some(state) => own(state, &[batch, hidden]),
            None => given.x.full(&[batch, hidden], 0.0),
        };
        let (mut state, mut memory) = (start(&given.hidden)?, start(&given.memory)?);
        let mut outputs = Vec::with_capacity(steps);
        for round in 0..steps {
            if arguments.context.stop.is_some_and(|stop| stop()) {
                fault!("the request was stopped");
            }
            let step = if backwards { steps - 1 - round } else { round };
            let inputs = projected.clone().part(0, step, 1)?.reshape(&[batch, width])?;
            let (next, next_memory) = past.step(inputs, state.clone(), memory.clone())?;
            let output = if let Some(lengths) = &given.lengths {
                // A sequence that is over keeps its state, and its outputs are zero.
                let over: Vec<bool> =
                    lengths.iter().flat_map(|&length| vec![step >= length; hidden]).collect();
                let over = state.mask(over)?;
                state = next.clone().choose(over.clone(), state)?;
                memory = next_memory.choose(over.clone(), memory)?;
                next.fill(over, 0.0)
            } else {
                (state, memory) = (next.clone(), next_memory);
                next
            };
            outputs.push(output.reshape(&[1, batch, hidden])?);
        }
        if backwards {
            outputs.reverse();
        }
        Ok(Passed { outputs, state, memory })
    }
}

/// An input of the given shape, if there is one.
fn exactly<B: Backend>(real: Option<Real<B>>, shape: &[usize]) -> Result<Option<Real<B>>, Fault> {
    match real {
        Some(real) if real.shape() != shape => fault!("{} should have the shape {shape:?}", real.describe()),
        real => Ok(real),
    }
}

impl<B: Backend> Past<'_, B> {
    /// A function of the direction, of numbers that are clipped before.
    fn apply(&self, index: usize, x: Real<B>) -> Result<Real<B>, Fault> {
        let x = match self.cell.clip {
            Some(clip) => x.clamp(-f64::from(clip), f64::from(clip)),
            None => x,
        };
        self.bare(index, x)
    }

    fn bare(&self, index: usize, x: Real<B>) -> Result<Real<B>, Fault> {
        let activation = self.cell.activations.get(index).copied();
        function(activation.ok_or_else(|| Fault("a function is missing".to_owned()))?).apply(x)
    }

    fn gate(&self, sums: &Real<B>, gate: usize) -> Result<Real<B>, Fault> {
        sums.clone().part(sums.rank() - 1, gate * self.sizes.hidden, self.sizes.hidden)
    }

    /// The state times the recurrence of some gates, with its bias.
    fn recurrent(&self, state: Real<B>, gates: std::ops::Range<usize>) -> Result<Real<B>, Fault> {
        let hidden = self.sizes.hidden;
        let (start, count) = (gates.start * hidden, gates.len() * hidden);
        let product = state.product(self.recurrence.clone().part(1, start, count)?)?;
        match &self.bias {
            Some(bias) => product.add(bias.clone().part(0, start, count)?),
            None => Ok(product),
        }
    }

    /// The next state and memory.
    fn step(&self, inputs: Real<B>, state: Real<B>, memory: Real<B>) -> Result<(Real<B>, Real<B>), Fault> {
        match self.kind {
            Kind::Rnn => {
                let sums = inputs.add(self.recurrent(state, 0..1)?)?;
                Ok((self.apply(0, sums)?, memory))
            }
            Kind::Gru { reset_after } => Ok((self.gated(&inputs, state, reset_after)?, memory)),
            Kind::Lstm { coupled } => self.with_memory(inputs, state, memory, coupled),
        }
    }

    /// H = (1 - z) h + z H, where the reset r comes before or after the product of H with the recurrence.
    fn gated(&self, inputs: &Real<B>, state: Real<B>, reset_after: bool) -> Result<Real<B>, Fault> {
        let recurrent = self.recurrent(state.clone(), 0..2)?;
        let update = self.apply(0, self.gate(inputs, 0)?.add(self.gate(&recurrent, 0)?)?)?;
        let reset = self.apply(0, self.gate(inputs, 1)?.add(self.gate(&recurrent, 1)?)?)?;
        let past = if reset_after {
            reset.multiply(self.recurrent(state.clone(), 2..3)?)?
        } else {
            self.recurrent(reset.multiply(state.clone())?, 2..3)?
        };
        let candidate = self.apply(1, self.gate(inputs, 2)?.add(past)?)?;
        update.clone().complement().multiply(candidate)?.add(update.multiply(state)?)
    }

    /// C = f C + i c, H = o h(C): see the operator of the host.
    fn with_memory(
        &self,
        inputs: Real<B>,
        state: Real<B>,
        memory: Real<B>,
        coupled: bool,
    ) -> Result<(Real<B>, Real<B>), Fault> {
        let sums = inputs.add(self.recurrent(state, 0..4)?)?;
        let seen = |gate: usize, memory: &Real<B>| {
            let sum = self.gate(&sums, gate)?;
            match &self.peepholes {
                Some(all) => sum.add(self.gate(all, gate)?.multiply(memory.clone())?),
                None => Ok(sum),
            }
        };
        let input = self.apply(0, seen(0, &memory)?)?;
        let forget = if coupled { input.clone().complement() } else { self.apply(0, seen(2, &memory)?)? };
        let candidate = self.apply(1, self.gate(&sums, 3)?)?;
        let memory = forget.multiply(memory)?.add(input.multiply(candidate)?)?;
        let output = self.apply(0, seen(1, &memory)?)?;
        // As in the operator of the host, the memory is not clipped here.
        let state = output.multiply(self.bare(2, memory.clone())?)?;
        Ok((state, memory))
    }
}
