//! Recurrent networks: `RNN`, `GRU` and `LSTM`.
//!
//! The inputs of all steps are projected by one matrix product, and each step is one more for all gates. A
//! sequence that is shorter than the longest one stands still after its end: its state is kept, and its
//! outputs there are zero.

use burn::backend::flex::FlexTensor;
use num_traits::Float;

use super::cast::numbers;
use super::laid_lstm::LaidLstm;
use super::matmul::product;
use super::recurrent_cell::{Cell, Kind, Past, Step};
use super::{Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, contiguous, fault, into_vec};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("RNN", 1, FLOATS, |node| build(node, Kind::Rnn)),
    Entry::widening("GRU", 1, FLOATS, |node| build(node, gru(node))),
    Entry::widening("LSTM", 1, FLOATS, |node| build(node, lstm(node))),
];

/// The kind of a `GRU`.
pub(crate) fn gru(node: &Node<'_>) -> Kind {
    Kind::Gru { reset_after: node.flag("linear_before_reset", false) }
}

/// The kind of an `LSTM`.
pub(crate) fn lstm(node: &Node<'_>) -> Kind {
    Kind::Lstm { coupled: node.flag("input_forget", false) }
}

/// A layer of one direction or two.
pub(crate) struct Layer {
    pub(crate) kind: Kind,
    /// A cell per direction, and whether it goes backwards.
    pub(crate) directions: Vec<(bool, Cell)>,
    /// The size of the state, where the file says it.
    pub(super) hidden: Option<usize>,
    /// The batch comes before the steps in inputs and outputs.
    pub(crate) batch_first: bool,
}

fn build(node: &Node<'_>, kind: Kind) -> Built {
    let layer = Layer::read(node, kind)?;
    if let Some(laid) = LaidLstm::new(node, &layer) {
        return operator(move |inputs| laid.run(&layer, inputs));
    }
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => layer.run::<f64>(inputs),
        _ => layer.run::<f32>(inputs),
    })
}

/// From so many products of a state on, threads of the pool do the steps, and each of two directions is on one of its own.
const APART: usize = 1 << 20;

/// The lengths of a layer's dimensions.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) directions: usize,
}

/// What a layer gives, row-major: outputs [step, direction, batch, hidden], states [direction, batch, hidden]; or what
/// one direction of it gives.
struct Results<F> {
    outputs: Vec<F>,
    hidden: Vec<F>,
    cell: Vec<F>,
}

impl Layer {
    /// Reads the attributes.
    pub(crate) fn read(node: &Node<'_>, kind: Kind) -> Result<Self, Refusal> {
        let directions: &[bool] = match node.string("direction", "forward")?.as_str() {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => return Err(Refusal::Invalid(format!("`direction` cannot be `{other}`"))),
        };
        let batch_first = match node.int("layout", 0) {
            0 => false,
            1 => true,
            other => return Err(Refusal::Invalid(format!("`layout` cannot be {other}"))),
        };
        let hidden = match node.has("hidden_size").then(|| usize::try_from(node.int("hidden_size", 0))) {
            None => None,
            Some(Ok(hidden)) if hidden > 0 => Some(hidden),
            Some(_) => return Err(Refusal::Invalid("`hidden_size` must be positive".to_owned())),
        };
        let cells = Cell::read(node, kind, directions.len())?;
        let directions = directions.iter().copied().zip(cells).collect();
        Ok(Self { kind, directions, hidden, batch_first })
    }

    fn run<F: Item + Float>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let x = self.steps_first(inputs.take(0)?)?;
        let (weights, recurrence) = (inputs.take(1)?, inputs.take(2)?);
        let sizes = self.sizes(&x, &weights, &recurrence)?;
        let (batch, hidden, gates) = (sizes.batch, sizes.hidden, self.kind.gates());
        let bias = optional::<F>(inputs, 3, &[sizes.directions, 2 * gates * hidden])?;
        let request = self.request::<F>(inputs, sizes)?;
        let has_cell = matches!(self.kind, Kind::Lstm { .. });
        let peepholes =
            if has_cell { optional::<F>(inputs, 7, &[sizes.directions, 3 * hidden])? } else { None };
        let x = x.reshape(&[sizes.steps * batch, sizes.input])?.dense()?;
        let own = |vector: &Option<Vec<F>>, direction: usize, width: usize| {
            vector.as_ref().map(|all| all[direction * width..(direction + 1) * width].to_vec())
        };
        self.go(&request, |direction| {
            let weights = matrix(&weights, direction)?;
            let projected = into_vec(product(&x, &weights.transpose(0, 1))?)?;
            let past = Past {
                recurrence: matrix(&recurrence, direction)?.transpose(0, 1),
                bias: own(&bias, direction, 2 * gates * hidden),
                peepholes: own(&peepholes, direction, 3 * hidden),
                kind: self.kind,
                batch,
                hidden,
            };
            let cell = &self.directions[direction].1;
            Ok((projected, move |step: &mut Step<'_, F>| cell.step(&past, step)))
        })
    }

    /// Reads lengths and states.
    pub(super) fn request<'a, F: Item + Float>(
        &self,
        inputs: &mut Inputs<'a>,
        sizes: Sizes,
    ) -> Result<Request<'a, F>, Fault> {
        let Sizes { steps, batch, hidden, directions, .. } = sizes;
        let lengths = lengths(inputs.optional(4), sizes)?;
        let state_shape = [directions, batch, hidden];
        let state = |inputs: &mut Inputs<'_>, index: usize| match inputs.optional(index) {
            Some(state) => exactly::<F>(self.steps_first(state)?, &state_shape),
            None => Ok(vec![F::zero(); check_size(&state_shape)?]),
        };
        let has_cell = matches!(self.kind, Kind::Lstm { .. });
        check_size(&[steps, directions, batch, hidden])?;
        let hidden = state(inputs, 5)?;
        let cell = if has_cell { state(inputs, 6)? } else { Vec::new() };
        Ok(Request { sizes, lengths, hidden, cell, stop: inputs.context.stop })
    }

    /// Goes over the steps of all directions. `begin` gives the projected inputs of a direction, [step, batch, gates * hidden],
    /// and what does a step of it.
    pub(super) fn go<F, A>(
        &self,
        request: &Request<'_, F>,
        begin: impl Fn(usize) -> Result<(Vec<F>, A), Fault> + Sync,
    ) -> Result<Outputs, Fault>
    where
        F: Item + Float,
        A: FnMut(&mut Step<'_, F>) -> Result<(), Fault>,
    {
        let Sizes { steps, batch, hidden, directions, .. } = request.sizes;
        let run = |direction: usize| {
            let (projected, advance) = begin(direction)?;
            request.all(direction, self.directions[direction].0, &projected, advance)
        };
        let work =
            [steps, batch, self.kind.gates(), hidden, hidden].into_iter().fold(1, usize::saturating_mul);
        let results = match directions {
            // Steps wait for each other, directions do not.
            2 if work >= APART => {
                let (forwards, backwards) = stoker_kernels::join(|| run(0), || run(1));
                vec![forwards?, backwards?]
            }
            // In the pool once, and not anew for the product of each step.
            _ if work >= APART => rayon::scope(|_| (0..directions).map(run).collect::<Result<_, _>>())?,
            _ => (0..directions).map(run).collect::<Result<_, _>>()?,
        };
        self.outputs(together(results, request.sizes), request.sizes)
    }

    /// The first two dimensions in the order of the first layout.
    pub(super) fn steps_first(&self, x: Tensor) -> Result<Tensor, Fault> {
        if x.rank() != 3 {
            fault!("three dimensions are needed, not {}", x.describe());
        }
        if !self.batch_first {
            return Ok(x);
        }
        Ok(Tensor::Dense(contiguous(&x.dense()?.permute(&[1, 0, 2]))))
    }

    fn sizes(&self, x: &Tensor, weights: &Tensor, recurrence: &Tensor) -> Result<Sizes, Fault> {
        let (&[steps, batch, input], &[directions, rows, width], &[_, _, hidden]) =
            (x.shape(), weights.shape(), recurrence.shape())
        else {
            fault!("three dimensions are needed for input, weights and recurrence")
        };
        let gates = self.kind.gates();
        if directions != self.directions.len()
            || width != input
            || hidden == 0
            || Some(rows) != hidden.checked_mul(gates)
            || recurrence.shape() != [directions, rows, hidden]
            || self.hidden.is_some_and(|given| given != hidden)
        {
            fault!(
                "weights of {:?} and {:?} do not fit an input of {:?}",
                weights.shape(),
                recurrence.shape(),
                x.shape()
            );
        }
        if weights.dtype() != x.dtype() || recurrence.dtype() != x.dtype() {
            fault!("input and weights must have one type");
        }
        // A tensor without elements may be said to have any number of steps or rows.
        check_size(&[steps])?;
        check_size(&[directions, batch, hidden])?;
        Ok(Sizes { steps, batch, input, hidden, directions })
    }

    fn outputs<F: Item>(&self, results: Results<F>, sizes: Sizes) -> Result<Outputs, Fault> {
        let Sizes { steps, batch, hidden, directions, .. } = sizes;
        let mut outputs = vec![Tensor::from_items(&[steps, directions, batch, hidden], results.outputs)];
        outputs.push(Tensor::from_items(&[directions, batch, hidden], results.hidden));
        if matches!(self.kind, Kind::Lstm { .. }) {
            outputs.push(Tensor::from_items(&[directions, batch, hidden], results.cell));
        }
        if !self.batch_first {
            return Ok(Outputs::Many(outputs));
        }
        let moved = outputs.into_iter().map(|output| {
            let order: &[usize] = if output.rank() == 4 { &[2, 0, 1, 3] } else { &[1, 0, 2] };
            Ok(Tensor::Dense(contiguous(&output.dense()?.permute(order))))
        });
        Ok(Outputs::Many(moved.collect::<Result<_, Fault>>()?))
    }
}

/// The results of all directions as those of the layer.
fn together<F: Item + Float>(mut results: Vec<Results<F>>, sizes: Sizes) -> Results<F> {
    if results.len() == 1 {
        return results.swap_remove(0);
    }
    let size = (sizes.batch * sizes.hidden).max(1);
    let mut outputs = Vec::with_capacity(results.iter().map(|own| own.outputs.len()).sum());
    let mut steps: Vec<_> = results.iter().map(|own| own.outputs.chunks_exact(size)).collect();
    for _ in 0..sizes.steps {
        steps.iter_mut().filter_map(Iterator::next).for_each(|step| outputs.extend_from_slice(step));
    }
    let states = |of: fn(&Results<F>) -> &Vec<F>| results.iter().flat_map(of).copied().collect();
    Results { outputs, hidden: states(|own| &own.hidden), cell: states(|own| &own.cell) }
}

/// What a request gives besides its input.
pub(super) struct Request<'a, F> {
    sizes: Sizes,
    /// How many steps each row of the batch has.
    lengths: Vec<usize>,
    /// States before the first step, [direction, batch, hidden].
    hidden: Vec<F>,
    /// The same of the memory, where there is one.
    cell: Vec<F>,
    /// Says whether the request is to end.
    stop: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl<F: Item + Float> Request<'_, F> {
    /// The results of one direction.
    fn all(
        &self,
        direction: usize,
        backwards: bool,
        projected: &[F],
        mut advance: impl FnMut(&mut Step<'_, F>) -> Result<(), Fault>,
    ) -> Result<Results<F>, Fault> {
        let Sizes { steps, batch, hidden, .. } = self.sizes;
        let size = batch * hidden;
        let own = direction * size..(direction + 1) * size;
        let mut results = Results {
            outputs: vec![F::zero(); steps * size],
            hidden: self.hidden[own.clone()].to_vec(),
            cell: self.cell.get(own).map(<[F]>::to_vec).unwrap_or_default(),
        };
        let width = projected.len() / steps.max(1);
        let mut active = vec![true; batch];
        let rounds = if batch == 0 { 0 } else { steps };
        for round in 0..rounds {
            if self.stop.is_some_and(|stop| stop()) {
                fault!("the request was stopped");
            }
            let step = if backwards { steps - 1 - round } else { round };
            for (active, &length) in active.iter_mut().zip(&self.lengths) {
                *active = step < length;
            }
            let inputs = &projected[step * width..(step + 1) * width];
            let (state, memory) = (&mut results.hidden, &mut results.cell);
            advance(&mut Step { inputs, active: &active, hidden: state, cell: memory })?;
            let outputs = &mut results.outputs[step * size..(step + 1) * size];
            for (row, _) in active.iter().enumerate().filter(|(_, active)| **active) {
                let row = row * hidden..(row + 1) * hidden;
                outputs[row.clone()].copy_from_slice(&results.hidden[row]);
            }
        }
        Ok(results)
    }
}

/// The matrix of one direction.
pub(super) fn matrix(stack: &Tensor, direction: usize) -> Result<FlexTensor, Fault> {
    super::control::select(stack, 0, direction)?.dense()
}

/// How many steps each row of the batch has; all where nothing is given.
fn lengths(given: Option<Tensor>, sizes: Sizes) -> Result<Vec<usize>, Fault> {
    let Some(given) = given else { return Ok(vec![sizes.steps; sizes.batch]) };
    let length = |length: i64| usize::try_from(length).ok().filter(|&length| length <= sizes.steps);
    let lengths: Option<Vec<usize>> = given.to_i64s()?.into_iter().map(length).collect();
    lengths.filter(|lengths| lengths.len() == sizes.batch).ok_or_else(|| {
        Fault(format!("lengths for {} rows of at most {} steps are needed", sizes.batch, sizes.steps))
    })
}

/// An input of the given shape, if there is one.
fn optional<F: Item>(
    inputs: &mut Inputs<'_>,
    index: usize,
    shape: &[usize],
) -> Result<Option<Vec<F>>, Fault> {
    inputs.optional(index).map(|tensor| exactly(tensor, shape)).transpose()
}

fn exactly<F: Item>(tensor: Tensor, shape: &[usize]) -> Result<Vec<F>, Fault> {
    if tensor.shape() != shape {
        fault!("{} should have the shape {shape:?}", tensor.describe());
    }
    numbers(tensor)
}
