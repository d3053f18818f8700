//! What a recurrent network does in one step, for all rows of a batch.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::Float;

use super::Refusal;
use super::activation::{of, softplus};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, contiguous, items};

/// Which network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The plain one.
    Rnn,
    /// Gated; the reset may come after the product with the recurrence.
    Gru { reset_after: bool },
    /// With a memory; the forget gate may be one less the input gate.
    Lstm { coupled: bool },
}

impl Kind {
    /// How many gates the weights hold: one; update, reset, hidden; input, output, forget, cell.
    pub(crate) fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru { .. } => &["Sigmoid", "Tanh"],
            Self::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Softsign,
    Softplus,
    Affine(f32, f32),
    LeakyRelu(f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
    Elu(f32),
}

impl Activation {
    /// Takes the numbers that this function needs from the lists, in the order of the functions.
    fn read(
        name: &str,
        alphas: &mut impl Iterator<Item = f32>,
        betas: &mut impl Iterator<Item = f32>,
    ) -> Option<Self> {
        let mut alpha = |default: f32| alphas.next().unwrap_or(default);
        let mut beta = |default: f32| betas.next().unwrap_or(default);
        Some(match name.to_ascii_lowercase().as_str() {
            "relu" => Self::Relu,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "softsign" => Self::Softsign,
            "softplus" => Self::Softplus,
            "affine" => Self::Affine(alpha(1.0), beta(0.0)),
            "leakyrelu" => Self::LeakyRelu(alpha(0.01)),
            "thresholdedrelu" => Self::ThresholdedRelu(alpha(1.0)),
            "scaledtanh" => Self::ScaledTanh(alpha(1.0), beta(1.0)),
            "hardsigmoid" => Self::HardSigmoid(alpha(0.2), beta(0.5)),
            "elu" => Self::Elu(alpha(1.0)),
            _ => return None,
        })
    }

    fn apply<F: Float>(self, x: F) -> F {
        let (zero, one) = (F::zero(), F::one());
        match self {
            Self::Relu => x.max(zero),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => one / (one + (-x).exp()),
            Self::Softsign => x / (one + x.abs()),
            Self::Softplus => softplus(x),
            Self::Affine(alpha, beta) => of::<F>(alpha) * x + of(beta),
            Self::LeakyRelu(alpha) => {
                if x >= zero {
                    x
                } else {
                    of::<F>(alpha) * x
                }
            }
            Self::ThresholdedRelu(alpha) => {
                if x >= of(alpha) {
                    x
                } else {
                    zero
                }
            }
            Self::ScaledTanh(alpha, beta) => of::<F>(alpha) * (of::<F>(beta) * x).tanh(),
            Self::HardSigmoid(alpha, beta) => (of::<F>(alpha) * x + of(beta)).max(zero).min(one),
            Self::Elu(alpha) => {
                if x >= zero {
                    x
                } else {
                    of::<F>(alpha) * x.exp_m1()
                }
            }
        }
    }
}

/// The functions of one direction.
pub(crate) struct Cell {
    pub(crate) activations: Vec<Activation>,
    /// The sums that functions are given are kept within this distance of zero.
    pub(crate) clip: Option<f32>,
}

impl Cell {
    /// The functions of each direction.
    pub(super) fn read(node: &Node<'_>, kind: Kind, directions: usize) -> Result<Vec<Self>, Refusal> {
        let defaults = kind.activations();
        let mut names = node.strings("activations")?;
        if names.is_empty() {
            names = defaults.repeat(directions).into_iter().map(str::to_owned).collect();
        }
        if names.len() != defaults.len() * directions {
            return Err(Refusal::Invalid(format!(
                "{names:?} are not the functions of {directions} directions"
            )));
        }
        let clip = node.has("clip").then(|| node.float("clip", 0.0));
        if clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
            return Err(Refusal::Invalid("`clip` must not be negative".to_owned()));
        }
        let mut alphas = node.floats("activation_alpha").into_iter();
        let mut betas = node.floats("activation_beta").into_iter();
        let mut activations = Vec::with_capacity(names.len());
        for name in &names {
            let activation = Activation::read(name, &mut alphas, &mut betas);
            activations
                .push(activation.ok_or_else(|| Refusal::Invalid(format!("`{name}` is not an activation")))?);
        }
        let of_direction = |activations: &[Activation]| Self { activations: activations.to_vec(), clip };
        Ok(activations.chunks(defaults.len()).map(of_direction).collect())
    }
}

/// What one direction keeps for all its steps.
pub(super) struct Past<F> {
    /// The matrix that the state is multiplied by, [hidden, gates * hidden].
    pub(super) recurrence: FlexTensor,
    /// Biases of the input's gates, then of the state's.
    pub(super) bias: Option<Vec<F>>,
    /// Weights of the memory in the input, output and forget gates.
    pub(super) peepholes: Option<Vec<F>>,
    pub(super) kind: Kind,
    pub(super) batch: usize,
    pub(super) hidden: usize,
}

/// One step: the projected inputs [batch, gates * hidden], and the states that change.
pub(super) struct Step<'a, F> {
    pub(super) inputs: &'a [F],
    /// The rows of the batch whose sequence has this step.
    pub(super) active: &'a [bool],
    pub(super) hidden: &'a mut [F],
    /// The memory, of a network that has one.
    pub(super) cell: &'a mut [F],
}

impl<F: Item + Float> Past<F> {
    /// Rows of the state's size times columns of the recurrence.
    fn product(&self, rows: &[F], columns: &FlexTensor) -> Result<FlexTensor, Fault> {
        let rows = Tensor::from_items(&[self.batch, self.hidden], rows.to_vec()).dense()?;
        Ok(contiguous(&Flex::float_matmul(rows, columns.clone())))
    }

    /// The bias of the input's part of a gate, and of the state's part.
    fn biases(&self, gate: usize, unit: usize) -> (F, F) {
        let Some(bias) = &self.bias else { return (F::zero(), F::zero()) };
        let own = gate * self.hidden + unit;
        (bias[own], bias[self.kind.gates() * self.hidden + own])
    }

    /// What a gate sees of the memory: nothing without peepholes, also where the memory is infinite.
    fn peephole(&self, gate: usize, unit: usize, memory: F) -> F {
        self.peepholes.as_ref().map_or(F::zero(), |all| all[gate * self.hidden + unit] * memory)
    }
}

impl Cell {
    /// A function of the direction, of a number that is clipped before.
    fn apply<F: Float>(&self, function: usize, x: F) -> F {
        let x = match self.clip {
            Some(clip) => x.max(-of::<F>(clip)).min(of(clip)),
            None => x,
        };
        self.activations[function].apply(x)
    }

    /// Changes the states of the active rows.
    pub(super) fn step<F: Item + Float>(&self, past: &Past<F>, step: &mut Step<'_, F>) -> Result<(), Fault> {
        match past.kind {
            Kind::Rnn => self.plain(past, step),
            Kind::Gru { reset_after: true } => self.gated_reset_after(past, step),
            Kind::Gru { reset_after: false } => self.gated(past, step),
            Kind::Lstm { coupled } => self.with_memory(past, step, coupled),
        }
    }

    /// H = f(x W + H R + b).
    fn plain<F: Item + Float>(&self, past: &Past<F>, step: &mut Step<'_, F>) -> Result<(), Fault> {
        let recurrent = past.product(step.hidden, &past.recurrence)?;
        let recurrent = items::<F>(&recurrent);
        let rows = step.hidden.chunks_exact_mut(past.hidden).enumerate();
        for (row, state) in rows.filter(|(row, _)| step.active[*row]) {
            for (unit, state) in state.iter_mut().enumerate() {
                let at = row * past.hidden + unit;
                let (first, second) = past.biases(0, unit);
                *state = self.apply(0, step.inputs[at] + recurrent[at] + first + second);
            }
        }
        Ok(())
    }

    /// z = f(..), r = f(..), h = g(x W + r (H R + b) + b), H = (1 - z) h + z H: one product per step.
    fn gated_reset_after<F: Item + Float>(
        &self,
        past: &Past<F>,
        step: &mut Step<'_, F>,
    ) -> Result<(), Fault> {
        let recurrent = past.product(step.hidden, &past.recurrence)?;
        let recurrent = items::<F>(&recurrent);
        let rows = step.hidden.chunks_exact_mut(past.hidden).enumerate();
        for (row, state) in rows.filter(|(row, _)| step.active[*row]) {
            for (unit, state) in state.iter_mut().enumerate() {
                let gate = |gate: usize| {
                    let at = (row * 3 + gate) * past.hidden + unit;
                    let (first, second) = past.biases(gate, unit);
                    (step.inputs[at] + first, recurrent[at] + second)
                };
                let [update, reset] =
                    [gate(0), gate(1)].map(|(input, recurrent)| self.apply(0, input + recurrent));
                let (input, recurrent) = gate(2);
                let candidate = self.apply(1, input + reset * recurrent);
                *state = (F::one() - update) * candidate + update * *state;
            }
        }
        Ok(())
    }

    /// The same with h = g(x W + (r H) R + b): the reset comes between two products.
    fn gated<F: Item + Float>(&self, past: &Past<F>, step: &mut Step<'_, F>) -> Result<(), Fault> {
        let width = past.hidden;
        let columns = |start: usize, count: usize| {
            super::slice::part(Tensor::Dense(past.recurrence.clone()), 1, start, count)?.dense()
        };
        let recurrent = past.product(step.hidden, &columns(0, 2 * width)?)?;
        let recurrent = items::<F>(&recurrent);
        let gate = |gate: usize, row: usize, unit: usize| {
            let (first, second) = past.biases(gate, unit);
            let (input, state) =
                (step.inputs[(row * 3 + gate) * width + unit], (row * 2 + gate) * width + unit);
            self.apply(0, input + recurrent[state] + first + second)
        };
        let mut kept = step.hidden.to_vec();
        for (row, kept) in kept.chunks_exact_mut(width).enumerate() {
            for (unit, kept) in kept.iter_mut().enumerate() {
                *kept = *kept * gate(1, row, unit);
            }
        }
        let candidates = past.product(&kept, &columns(2 * width, width)?)?;
        let candidates = items::<F>(&candidates);
        let rows = step.hidden.chunks_exact_mut(width).enumerate();
        for (row, state) in rows.filter(|(row, _)| step.active[*row]) {
            for (unit, state) in state.iter_mut().enumerate() {
                let (first, second) = past.biases(2, unit);
                let input = step.inputs[(row * 3 + 2) * width + unit];
                let candidate = self.apply(1, input + candidates[row * width + unit] + first + second);
                let update = gate(0, row, unit);
                *state = (F::one() - update) * candidate + update * *state;
            }
        }
        Ok(())
    }

    /// i = f(.. + p C), f = f(.. + p C), c = g(..), C = f C + i c, o = f(.. + p C), H = o h(C).
    fn with_memory<F: Item + Float>(
        &self,
        past: &Past<F>,
        step: &mut Step<'_, F>,
        coupled: bool,
    ) -> Result<(), Fault> {
        let recurrent = past.product(step.hidden, &past.recurrence)?;
        let recurrent = items::<F>(&recurrent);
        let states = step.hidden.chunks_exact_mut(past.hidden).zip(step.cell.chunks_exact_mut(past.hidden));
        for (row, (state, memory)) in states.enumerate().filter(|(row, _)| step.active[*row]) {
            for (unit, (state, memory)) in state.iter_mut().zip(memory).enumerate() {
                let sum = |gate: usize| {
                    let at = (row * 4 + gate) * past.hidden + unit;
                    let (first, second) = past.biases(gate, unit);
                    step.inputs[at] + recurrent[at] + first + second
                };
                let input = self.apply(0, sum(0) + past.peephole(0, unit, *memory));
                let forget = if coupled {
                    F::one() - input
                } else {
                    self.apply(0, sum(2) + past.peephole(2, unit, *memory))
                };
                *memory = forget * *memory + input * self.apply(1, sum(3));
                let output = self.apply(0, sum(1) + past.peephole(1, unit, *memory));
                // The memory is the only input of a function that is not clipped: ONNX's text does not say so, but
                // ONNX Runtime, with which files are made, has it so.
                *state = output * self.activations[2].apply(*memory);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_to_the_functions_that_take_them() {
        let (mut alphas, mut betas) = ([2.0, 3.0].into_iter(), [4.0].into_iter());
        let mut read = |name| Activation::read(name, &mut alphas, &mut betas);
        assert_eq!(read("Tanh"), Some(Activation::Tanh));
        assert_eq!(read("LeakyRelu"), Some(Activation::LeakyRelu(2.0)));
        assert_eq!(read("HardSigmoid"), Some(Activation::HardSigmoid(3.0, 4.0)));
        assert_eq!(read("Elu"), Some(Activation::Elu(1.0)));
        assert_eq!(read("Sine"), None);
    }
}
