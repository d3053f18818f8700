//! The gates of a recurrent network.

use crate::compiled::for_each_isa;
use crate::vector::{fused, sigmoid, tanh};

/// What a step of an LSTM changes, of one row of a batch. All have one length.
#[derive(Debug)]
pub struct Gates<'a> {
    /// What goes into the gates: input, output, forget and cell, one after the other.
    pub sums: [&'a [f32]; 4],
    /// The memory.
    pub memory: &'a mut [f32],
    /// The state, which is the output of the step.
    pub state: &'a mut [f32],
}

for_each_isa! {
    /// The gates of an LSTM: `C = s(f) C + s(i) t(c)`, `H = s(o) t(C)`, with the sigmoid s and the hyperbolic tangent t.
    pub fn lstm_gates(gates: Gates<'_>) = gate
}

#[inline(always)]
fn gate<const FMA: bool>(gates: Gates<'_>) {
    let Gates { sums: [input, output, forget, cell], memory, state } = gates;
    let sums = input.iter().zip(output).zip(forget.iter().zip(cell));
    for ((memory, state), ((input, output), (forget, cell))) in memory.iter_mut().zip(state).zip(sums) {
        let kept = sigmoid::<FMA>(*forget) * *memory;
        *memory = fused::<FMA>(sigmoid::<FMA>(*input), tanh::<FMA>(*cell), kept);
        *state = sigmoid::<FMA>(*output) * tanh::<FMA>(*memory);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Isa;

    proptest! {
        #[test]
        fn gates_are_those_of_the_formulas(numbers in prop::collection::vec(-8f32..8.0, 0..40)) {
            let turned: Vec<f32> = numbers.iter().map(|x| 0.3 * x).rev().collect();
            for isa in Isa::available() {
                let (mut memory, mut state) = (turned.clone(), vec![9.0; numbers.len()]);
                let sums = [&numbers[..], &turned[..], &turned[..], &numbers[..]];
                lstm_gates(isa, Gates { sums, memory: &mut memory, state: &mut state });
                for at in 0..numbers.len() {
                    let s = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
                    let cell = s(turned[at]) * f64::from(turned[at]) + s(numbers[at]) * f64::from(numbers[at]).tanh();
                    prop_assert!((f64::from(memory[at]) - cell).abs() < 2e-6);
                    prop_assert!((f64::from(state[at]) - s(turned[at]) * cell.tanh()).abs() < 2e-6);
                }
            }
        }
    }
}
