//! Scaled dot-product attention (Vaswani et al. 2017), with shared key and value heads, masks and caches.
//!
//! The two matrix products are burn's, in `FP32` or `FP64`. What lies between them (cap, bias, softmax) is
//! one walk over the rows of scores. The operator is defined as a chain of operators in the type of the
//! queries, so that for `FP16` and `BF16` the result of each link is rounded to that type.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::{AsPrimitive, Float};

use super::attention_bias::{Bias, Mask};
use super::cast::{cast, numbers};
use super::matmul::product;
use super::softmax::softmax_of_row;
use super::widen::{Narrow, Wide, narrow};
use super::{Built, Entry, FLOATS, Inputs, Outputs, Refusal, join, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, contiguous, fault, into_vec, native_type};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("Attention", 23, FLOATS, build)];

/// Which step's result is the fourth output.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Product,
    Cap,
    Bias,
    Softmax,
}

/// What the attributes say.
struct Attention {
    /// The heads of queries that are packed into the last dimension.
    query_heads: Option<usize>,
    /// The same of keys and values.
    key_heads: Option<usize>,
    scale: Option<f32>,
    cap: f32,
    /// The type of the softmax; that of the queries where none is given.
    precision: Option<DType>,
    causal: bool,
    /// How many keys before and after its own position a query sees.
    window: [Option<i64>; 2],
    /// A mask that is too short is filled up; before opset 24 it is an error.
    pads_mask: bool,
    shown: Option<Step>,
}

fn build(node: &Node<'_>) -> Built {
    let shown = match node.int("qk_matmul_output_mode", 0) {
        0 => Step::Product,
        1 => Step::Cap,
        2 => Step::Bias,
        3 => Step::Softmax,
        other => return Err(Refusal::Invalid(format!("`qk_matmul_output_mode` cannot be {other}"))),
    };
    let side = |name: &str| match node.int(name, -1) {
        -1 => Ok(None),
        width if width >= 0 => Ok(Some(width)),
        width => Err(Refusal::Invalid(format!("`{name}` cannot be {width}"))),
    };
    let attention = Attention {
        query_heads: heads_attribute(node, "q_num_heads")?,
        key_heads: heads_attribute(node, "kv_num_heads")?,
        scale: node.has("scale").then(|| node.float("scale", 1.0)),
        cap: node.float("softcap", 0.0),
        precision: precision(node)?,
        causal: node.flag("is_causal", false),
        window: [side("left_window_size")?, side("right_window_size")?],
        pads_mask: node.opset() >= 24,
        shown: node.output_used(3).then_some(shown),
    };
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => attention.run::<f64>(inputs),
        Some(DType::F32 | DType::F16 | DType::BF16) => attention.run::<f32>(inputs),
        Some(other) => fault!("floating-point tensors are needed, not {other}"),
        None => fault!("the queries are missing"),
    })
}

/// A number of heads, where the file gives one.
pub(crate) fn heads_attribute(node: &Node<'_>, name: &str) -> Result<Option<usize>, Refusal> {
    if !node.has(name) {
        return Ok(None);
    }
    match usize::try_from(node.int(name, 0)) {
        Ok(heads) if heads > 0 => Ok(Some(heads)),
        _ => Err(Refusal::Invalid(format!("`{name}` must be positive"))),
    }
}

/// The element type in `softmax_precision`.
pub(super) fn precision(node: &Node<'_>) -> Result<Option<DType>, Refusal> {
    if !node.has("softmax_precision") {
        return Ok(None);
    }
    let number = node.int("softmax_precision", 0);
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    match dtype {
        Some(DType::F32 | DType::F64 | DType::F16 | DType::BF16) => Ok(dtype),
        _ => Err(Refusal::Invalid(format!("`softmax_precision` cannot be {number}"))),
    }
}

impl Attention {
    fn run<F: Wide>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (query, key, value) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let dtype = query.dtype();
        let packed = query.rank() == 3;
        if key.rank() != query.rank() || value.rank() != query.rank() {
            fault!("queries, keys and values differ in rank");
        }
        let query = unpacked(query, self.query_heads)?;
        let (key, value) = (unpacked(key, self.key_heads)?, unpacked(value, self.key_heads)?);
        let fresh = key.shape()[2];
        let (key, value) = match (inputs.optional(4), inputs.optional(5)) {
            (Some(past_key), Some(past_value)) => {
                (join(vec![past_key, key], 2)?, join(vec![past_value, value], 2)?)
            }
            (None, None) => (key, value),
            _ => fault!("past keys and past values are needed together"),
        };
        let (batch, heads, rows) = (query.shape()[0], query.shape()[1], query.shape()[2]);
        let keys = key.shape()[2];
        if value.shape()[2] != keys {
            fault!("there are {keys} keys and {} values", value.shape()[2]);
        }
        let narrow = narrow::<F>(dtype);
        let bias = Bias {
            mask: inputs
                .optional(3)
                .map(|mask| self.mask(mask, narrow, [batch, heads, rows, keys]))
                .transpose()?,
            first: keys - fresh,
            filled: inputs.optional(6).map(|counts| counts.to_i64s()).transpose()?,
            causal: self.causal,
            window: self.window,
            keys,
            queries: rows,
        };
        // Counts of keys are for a cache that is kept outside.
        if let Some(filled) = bias.filled.as_ref().filter(|filled| filled.len() != batch || keys != fresh) {
            fault!("{} counts of keys do not fit {batch} rows with {} past keys", filled.len(), keys - fresh);
        }
        let scores = self.scores::<F>(query, key.clone(), narrow)?;
        let (probabilities, shown) = self.weigh(scores, &bias, [batch, heads, rows, keys], narrow)?;
        let value_wide = cast(value.clone(), native_type::<F>())?.dense()?;
        let mut result = grouped(&probabilities, &value_wide)?;
        if packed {
            result = result.permute(&[0, 2, 1, 3]);
        }
        let mut result = cast(Tensor::Dense(contiguous(&result)), dtype)?;
        if packed {
            let width = result.shape()[2] * result.shape()[3];
            result = result.reshape(&[batch, rows, width])?;
        }
        let mut outputs = vec![result, key, value];
        if let Some(shown) = shown {
            outputs.push(cast(Tensor::from_items(&[batch, heads, rows, keys], shown), dtype)?);
        }
        Ok(Outputs::Many(outputs))
    }

    fn mask<F: Wide>(
        &self,
        mask: Tensor,
        narrow: Option<Narrow<F>>,
        shape: [usize; 4],
    ) -> Result<Mask<F>, Fault> {
        let truths = mask.dtype() == DType::Bool;
        let own = mask.shape().to_vec();
        let mask = if truths { cast(mask, native_type::<F>())? } else { mask };
        let mut items: Vec<F> = numbers(mask)?;
        for item in &mut items {
            *item = match (truths, narrow) {
                (true, _) if *item == F::zero() => F::neg_infinity(),
                (true, _) => F::zero(),
                (false, Some(narrow)) => narrow(*item),
                (false, None) => *item,
            };
        }
        Mask::new(items, &own, shape, self.pads_mask)
    }

    /// Queries times keys, both scaled by the root of the scale so that neither grows large.
    fn scores<F: Wide>(
        &self,
        query: Tensor,
        key: Tensor,
        narrow: Option<Narrow<F>>,
    ) -> Result<FlexTensor, Fault> {
        let dtype = native_type::<F>();
        let factor = root_of_scale(self.scale, query.shape()[3]);
        let query = scaled::<F>(cast(query, dtype)?.dense()?, factor, narrow);
        let key = scaled::<F>(cast(key, dtype)?.dense()?, factor, narrow);
        grouped(&query, &Flex::float_swap_dims(key, 2, 3))
    }

    /// Cap, bias and softmax of all rows, and a copy of the step that is asked for.
    fn weigh<F: Wide>(
        &self,
        scores: FlexTensor,
        bias: &Bias<F>,
        shape: [usize; 4],
        narrow: Option<Narrow<F>>,
    ) -> Result<(FlexTensor, Option<Vec<F>>), Fault> {
        let mut scores: Vec<F> = into_vec(scores)?;
        let mut shown = self.shown.map(|step| (step, Vec::with_capacity(scores.len())));
        let mut show = |step: Step, row: &[F]| {
            if let Some((_, copy)) = shown.as_mut().filter(|(wanted, _)| *wanted == step) {
                copy.extend_from_slice(row);
            }
        };
        let [_, heads, rows, keys] = shape;
        let cap = self.cap();
        let round = |row: &mut [F]| {
            if let Some(narrow) = narrow {
                for x in row.iter_mut() {
                    *x = narrow(*x);
                }
            }
        };
        let mut added = vec![F::zero(); if scores.is_empty() { 0 } else { keys }];
        for (position, row) in scores.chunks_exact_mut(keys.max(1)).enumerate() {
            round(row);
            show(Step::Product, row);
            if let Some(cap) = cap {
                cap_row(row, cap, narrow);
            }
            show(Step::Cap, row);
            let mut masked = false;
            if !bias.is_empty() {
                bias.row(position / (heads * rows), position / rows % heads, position % rows, &mut added);
                masked = added.iter().all(|&bias| bias == F::neg_infinity());
                row.iter_mut().zip(&added).for_each(|(score, &bias)| *score = *score + bias);
                round(row);
            }
            show(Step::Bias, row);
            if masked {
                // Nothing to attend to: the scores may be anything, the result is zero.
                row.fill(F::zero());
            } else {
                softmax_in(row, self.precision, narrow);
                round(row);
            }
            show(Step::Softmax, row);
        }
        let probabilities = Tensor::from_items(&shape, scores).dense()?;
        Ok((probabilities, shown.map(|(_, copy)| copy)))
    }

    fn cap(&self) -> Option<f32> {
        (self.cap > 0.0).then_some(self.cap)
    }
}

/// The root of the scale; one over the root of the head's size where none is given.
pub(crate) fn root_of_scale(scale: Option<f32>, size: usize) -> f64 {
    scale.map_or_else(|| 1.0 / (size as f64).sqrt(), f64::from).sqrt()
}

/// The tensor times a number, rounded.
pub(super) fn scaled<F: Wide>(x: FlexTensor, factor: f64, narrow: Option<Narrow<F>>) -> FlexTensor {
    let factor = <F as num_traits::NumCast>::from(factor).unwrap_or_else(F::nan);
    let Some(narrow) = narrow else { return super::activation::map(x, |x: F| x * factor) };
    let factor = narrow(factor);
    super::activation::map(x, |x: F| narrow(x * factor))
}

/// cap * tanh(x / cap), rounded after each of the three.
fn cap_row<F: Wide>(row: &mut [F], cap: f32, narrow: Option<Narrow<F>>) {
    let cap = super::activation::of::<F>(cap);
    let cap = narrow.map_or(cap, |narrow| narrow(cap));
    for x in row {
        *x = match narrow {
            Some(narrow) => narrow(narrow(narrow(*x / cap).tanh()) * cap),
            None => (*x / cap).tanh() * cap,
        };
    }
}

/// The softmax of a row, in another type where one is given.
fn softmax_in<F: Wide>(row: &mut [F], precision: Option<DType>, own: Option<Narrow<F>>) {
    match precision {
        None => softmax(row, own),
        Some(DType::F64) if native_type::<F>() == DType::F32 => through::<F, f64>(row),
        Some(DType::F32) if native_type::<F>() == DType::F64 => through::<F, f32>(row),
        Some(dtype) => softmax(row, narrow::<F>(dtype)),
    }
}

fn through<F: Wide + AsPrimitive<C>, C: Wide>(row: &mut [F]) {
    let mut other: Vec<C> = row.iter().map(|x| AsPrimitive::<C>::as_(*x)).collect();
    softmax(&mut other, None);
    for (x, other) in row.iter_mut().zip(other) {
        *x = <F as num_traits::NumCast>::from(other).unwrap_or_else(F::nan);
    }
}

/// The softmax of a row that is rounded to its type; zeros where all of it is negative infinity.
fn softmax<F: Float>(row: &mut [F], narrow: Option<Narrow<F>>) {
    if let Some(narrow) = narrow {
        for x in row.iter_mut() {
            *x = narrow(*x);
        }
    }
    if row.iter().all(|&x| x == F::neg_infinity()) {
        row.fill(F::zero());
    } else {
        softmax_of_row(row, narrow);
    }
}

/// Four dimensions: batch, head, position, feature. Three have the heads packed into the last.
fn unpacked(x: Tensor, heads: Option<usize>) -> Result<Tensor, Fault> {
    match (x.rank(), heads) {
        (4, _) => Ok(x),
        (3, Some(heads)) => split_heads(x, heads),
        (3, None) => fault!("the numbers of heads are needed for three dimensions"),
        _ => fault!("three or four dimensions are needed, not {}", x.describe()),
    }
}

/// [batch, position, head * feature] as [batch, head, position, feature].
pub(super) fn split_heads(x: Tensor, heads: usize) -> Result<Tensor, Fault> {
    let &[batch, positions, width] = x.shape() else {
        fault!("three dimensions are needed, not {}", x.describe())
    };
    if heads == 0 || !width.is_multiple_of(heads) {
        fault!("{width} features cannot be divided among {heads} heads");
    }
    let split = x.reshape(&[batch, positions, heads, width / heads])?.dense()?;
    Ok(Tensor::Dense(split.permute(&[0, 2, 1, 3])))
}

/// Products of matrices per head, [b, h, m, k] by [b, g, k, n]. Where h is a multiple of g, consecutive heads
/// on the left share one on the right: they are one product of a taller matrix.
pub(super) fn grouped(left: &FlexTensor, right: &FlexTensor) -> Result<FlexTensor, Fault> {
    let (left_shape, right_shape) = (&left.layout().shape()[..], &right.layout().shape()[..]);
    let (&[batch, heads, rows, inner], &[other, shared, _, columns]) = (left_shape, right_shape) else {
        fault!("four dimensions are needed, not {left_shape:?} and {right_shape:?}")
    };
    if batch != other || (heads != shared && (shared == 0 || !heads.is_multiple_of(shared))) {
        fault!("{left_shape:?} and {right_shape:?} do not go together");
    }
    if heads == shared {
        return product(left, right);
    }
    let tall = [batch, shared, heads / shared * rows, inner];
    let tall = Tensor::Dense(left.clone()).reshape(&tall)?.dense()?;
    Tensor::Dense(product(&tall, right)?).reshape(&[batch, heads, rows, columns])?.dense()
}
