//! Scaled dot-product attention, without caches of keys and values.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read};
use super::real::{Real, truths};
use crate::load::Node;
use crate::ops::Refusal;
use crate::ops::attention::{heads_attribute, root_of_scale};
use crate::tensor::{Fault, check_size, fault};
use crate::value::DType;

/// What the attributes say.
pub(crate) struct Attention {
    query_heads: Option<usize>,
    key_heads: Option<usize>,
    scale: Option<f32>,
    cap: f64,
    causal: bool,
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[Entry::new("Attention", read)];

fn read(node: &Node<'_>, _: &[bool]) -> Read {
    let unsupported = |reason: &str| Err(Refusal::Unsupported(format!("no gradient goes through {reason}")));
    if (4..7).any(|input| node.has_input(input)) {
        return unsupported("past keys and values");
    }
    if node.output_used(3) {
        return unsupported("the scores as an output");
    }
    if node.int("left_window_size", -1) != -1 || node.int("right_window_size", -1) != -1 {
        return unsupported("a window of keys");
    }
    Ok(Form::Attention(Attention {
        query_heads: heads_attribute(node, "q_num_heads")?,
        key_heads: heads_attribute(node, "kv_num_heads")?,
        scale: node.has("scale").then(|| node.float("scale", 1.0)),
        cap: node.float("softcap", 0.0).into(),
        causal: node.flag("is_causal", false),
    }))
}

impl Attention {
    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        let (query, key, value) = (arguments.real(0)?, arguments.real(1)?, arguments.real(2)?);
        let packed = query.rank() == 3;
        if key.rank() != query.rank() || value.rank() != query.rank() {
            fault!("queries, keys and values differ in rank");
        }
        let query = unpacked(query, self.query_heads)?;
        let (key, value) = (unpacked(key, self.key_heads)?, unpacked(value, self.key_heads)?);
        let (&[batch, heads, rows, size], &[_, _, keys, _]) = (query.shape(), key.shape()) else {
            fault!("four dimensions are needed")
        };
        if value.length(2)? != keys {
            fault!("there are {keys} keys and {} values", value.length(2)?);
        }
        let factor = root_of_scale(self.scale, size);
        let turned = key.clone().times(factor).swapped(2, 3)?;
        let mut scores = grouped(query.times(factor), turned)?;
        if self.cap > 0.0 {
            scores = scores.times(1.0 / self.cap).map(B::float_tanh).times(self.cap);
        }
        let shape = [batch, heads, rows, keys];
        check_size(&shape)?;
        scores = masked(scores, arguments, &shape)?;
        if self.causal {
            let future: Vec<bool> =
                (0..batch * heads * rows * keys).map(|at| at % keys > at / keys % rows).collect();
            let future = scores.mask(future)?;
            scores = scores.fill(future, f64::NEG_INFINITY);
        }
        let mut result = grouped(weights(scores)?, value.clone())?;
        if packed {
            let width = heads * value.length(3)?;
            result = result.swapped(1, 2)?.reshape(&[batch, rows, width])?;
        }
        Ok(vec![result.into(), key.into(), value.into()])
    }
}

/// Scores with a mask: numbers are added, and what is false is masked.
fn masked<B: Backend>(
    scores: Real<B>,
    arguments: &mut Arguments<'_, B>,
    shape: &[usize],
) -> Result<Real<B>, Fault> {
    if !arguments.has(3) {
        return Ok(scores);
    }
    if arguments.is_real(3) {
        let mask = arguments.real(3)?.expand(shape)?;
        return scores.add(mask);
    }
    let mask = arguments.host(3)?;
    if mask.dtype() != DType::Bool {
        let mask = scores.numbers(mask.shape(), mask.to_f64s()?)?.expand(shape)?;
        return scores.add(mask);
    }
    let hidden: Vec<bool> = truths(mask.broadcast_to(shape)?)?.into_iter().map(|seen| !seen).collect();
    let hidden = scores.mask(hidden)?;
    Ok(scores.fill(hidden, f64::NEG_INFINITY))
}

/// The softmax of each row; zeros where all of it is masked.
fn weights<B: Backend>(scores: Real<B>) -> Result<Real<B>, Fault> {
    if scores.len() == 0 {
        return Ok(scores);
    }
    let largest = scores.clone().constant().largest(3)?;
    let dead = largest.equals(f64::NEG_INFINITY);
    let powers = scores.subtract(largest.fill(dead, 0.0))?.map(B::float_exp);
    let sum = powers.clone().sum(&[3])?;
    let zero = sum.equals(0.0);
    powers.divide(sum.fill(zero, 1.0))
}

/// Four dimensions: batch, head, position, feature. Three have the heads packed into the last.
fn unpacked<B: Backend>(x: Real<B>, heads: Option<usize>) -> Result<Real<B>, Fault> {
    match (x.shape(), heads) {
        (&[_, _, _, _], _) => Ok(x),
        (&[batch, positions, width], Some(heads)) if width.is_multiple_of(heads) => {
            x.reshape(&[batch, positions, heads, width / heads])?.swapped(1, 2)
        }
        _ => fault!("heads cannot be made of {}", x.describe()),
    }
}

/// Products of matrices per head. Where there are more heads on the left, consecutive ones share one on the
/// right: they are one product of a taller matrix.
fn grouped<B: Backend>(left: Real<B>, right: Real<B>) -> Result<Real<B>, Fault> {
    let (&[batch, heads, rows, inner], &[other, shared, _, columns]) = (left.shape(), right.shape()) else {
        fault!("four dimensions are needed")
    };
    if batch != other || (heads != shared && (shared == 0 || !heads.is_multiple_of(shared))) {
        fault!("{} and {} do not go together", left.describe(), right.describe());
    }
    if heads == shared {
        return left.product(right);
    }
    let tall = left.reshape(&[batch, shared, heads / shared * rows, inner])?;
    tall.product(right)?.reshape(&[batch, heads, rows, columns])
}
