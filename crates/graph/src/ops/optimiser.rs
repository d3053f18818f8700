//! One step of an optimiser: `Adagrad`, `Adam` and `Momentum` of the domain of training.
//!
//! A node has a rate, the number of the step, and then tensors to optimise, their gradients, and what the
//! optimiser remembers of each.

use super::cast::cast;
use super::{Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, fault};

/// The operators of this family, in the domain of training.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Adagrad", 1, "FP32 FP64", adagrad),
    Entry::new("Adam", 1, "FP32 FP64", adam),
    Entry::new("Momentum", 1, "FP32 FP64", momentum),
];

fn adagrad(node: &Node<'_>) -> Built {
    let number = |name: &str, default: f32| f64::from(node.float(name, default));
    let (decay, epsilon, norm) =
        (number("decay_factor", 0.0), number("epsilon", 1e-6), number("norm_coefficient", 0.0));
    step(move |rate, count, x, gradient, [squares]: [f64; 1]| {
        let gradient = norm * x + gradient;
        let squares = squares + gradient * gradient;
        let rate = rate / (1.0 + count * decay);
        (x - rate * gradient / (squares.sqrt() + epsilon), [squares])
    })
}

fn adam(node: &Node<'_>) -> Built {
    let number = |name: &str, default: f32| f64::from(node.float(name, default));
    let (alpha, beta, epsilon) = (number("alpha", 0.9), number("beta", 0.999), number("epsilon", 1e-6));
    let (norm, norm_after) = (number("norm_coefficient", 0.0), number("norm_coefficient_post", 0.0));
    step(move |rate, count, x, gradient, [mean, squares]: [f64; 2]| {
        let gradient = norm * x + gradient;
        let mean = alpha * mean + (1.0 - alpha) * gradient;
        let squares = beta * squares + (1.0 - beta) * gradient * gradient;
        // Both averages begin at zero, which is made up for.
        let rate = if count > 0.0 {
            rate * (1.0 - beta.powf(count)).sqrt() / (1.0 - alpha.powf(count))
        } else {
            rate
        };
        let x = x - rate * mean / (squares.sqrt() + epsilon);
        ((1.0 - norm_after) * x, [mean, squares])
    })
}

fn momentum(node: &Node<'_>) -> Built {
    let number = |name: &str| f64::from(node.float(name, 0.0));
    let (alpha, beta, norm) = (number("alpha"), number("beta"), number("norm_coefficient"));
    let ahead = match node.string("mode", "standard")?.as_str() {
        "standard" => false,
        "nesterov" => true,
        other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    };
    step(move |rate, count, x, gradient, [speed]: [f64; 1]| {
        let gradient = norm * x + gradient;
        let speed = alpha * speed + if count > 0.0 { beta } else { 1.0 } * gradient;
        let change = if ahead { gradient + alpha * speed } else { speed };
        (x - rate * change, [speed])
    })
}

/// An operator of a function of rate, number of the step, element, gradient, and what is remembered. It gives
/// the element and what is to be remembered.
fn step<const N: usize>(
    function: impl Fn(f64, f64, f64, f64, [f64; N]) -> (f64, [f64; N]) + Send + Sync + 'static,
) -> Built {
    operator(move |inputs| {
        let (rate, count) = (only(inputs, 0)?, only(inputs, 1)?);
        let tensors = inputs.count().saturating_sub(2);
        if !tensors.is_multiple_of(N + 2) {
            fault!("{tensors} tensors are not {} of each", N + 2);
        }
        let each = tensors / (N + 2);
        let mut outputs: Vec<Vec<Tensor>> = vec![Vec::new(); N + 1];
        for index in 0..each {
            let given: Vec<Tensor> =
                (0..N + 2).map(|kind| inputs.take(2 + kind * each + index)).collect::<Result<_, _>>()?;
            let (shape, dtype) = (given[0].shape().to_vec(), given[0].dtype());
            if given.iter().any(|other| other.shape() != shape) {
                fault!("a tensor of {shape:?} has a gradient or memory of another shape");
            }
            let given: Vec<Vec<f64>> = given.iter().map(Tensor::to_f64s).collect::<Result<_, _>>()?;
            let mut results: Vec<Vec<f64>> = vec![Vec::new(); N + 1];
            for (at, (&x, &gradient)) in given[0].iter().zip(&given[1]).enumerate() {
                let memory = std::array::from_fn(|kind| given[2 + kind][at]);
                let (x, memory) = function(rate, count, x, gradient, memory);
                results[0].push(x);
                for (result, memory) in results[1..].iter_mut().zip(memory) {
                    result.push(memory);
                }
            }
            for (output, result) in outputs.iter_mut().zip(results) {
                output.push(cast(Tensor::from_items(&shape, result), dtype)?);
            }
        }
        Ok(Outputs::Many(outputs.into_iter().flatten().collect()))
    })
}

/// The only number of an input.
fn only(inputs: &mut Inputs<'_>, index: usize) -> Result<f64, Fault> {
    match inputs.take(index)?.to_f64s()?[..] {
        [number] => Ok(number),
        ref other => Err(Fault(format!("one number is needed, not {}", other.len()))),
    }
}
