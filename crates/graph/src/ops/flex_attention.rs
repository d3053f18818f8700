//! `FlexAttention`: attention whose scores and probabilities go through graphs of the file.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ActivationOps, FloatTensorOps};

use super::attention::{grouped, precision, root_of_scale, scaled};
use super::cast::cast;
use super::control::{call, captured};
use super::widen::{Wide, narrow};
use super::{Built, Entry, FLOATS, Inputs, Outputs, operator};
use crate::held::Held;
use crate::load::{Nested, Node};
use crate::tensor::{Fault, Tensor, contiguous, fault, native_type};
use crate::value::DType;

/// The operators of this family, in the domain of previews.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("FlexAttention", 1, FLOATS, build)];

struct FlexAttention {
    scale: Option<f32>,
    precision: Option<DType>,
    change_scores: Option<Nested>,
    change_probabilities: Option<Nested>,
}

fn build(node: &Node<'_>) -> Built {
    let graph = |name: &str| node.has(name).then(|| node.graph(name)).transpose();
    let attention = FlexAttention {
        scale: node.has("scale").then(|| node.float("scale", 1.0)),
        precision: precision(node)?,
        change_scores: graph("score_mod")?,
        change_probabilities: graph("prob_mod")?,
    };
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => attention.run::<f64>(inputs),
        Some(DType::F32 | DType::F16 | DType::BF16) => attention.run::<f32>(inputs),
        Some(other) => fault!("floating-point tensors are needed, not {other}"),
        None => fault!("the queries are missing"),
    })
}

impl FlexAttention {
    fn run<F: Wide>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (query, key, value) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let (dtype, value_type) = (query.dtype(), value.dtype());
        if [&query, &key, &value].iter().any(|x| x.rank() != 4) {
            fault!("queries, keys and values need four dimensions each");
        }
        // The type of scores and probabilities, and one in which burn computes them.
        let precision = self.precision.unwrap_or(native_type::<F>());
        let wide = if precision == DType::F64 { DType::F64 } else { DType::F32 };
        let factor = root_of_scale(self.scale, query.shape()[3]);
        let narrow = narrow::<F>(dtype);
        let query = scaled::<F>(cast(query, native_type::<F>())?.dense()?, factor, narrow);
        let key = scaled::<F>(cast(key, native_type::<F>())?.dense()?, factor, narrow);
        let scores = grouped(&query, &Flex::float_swap_dims(key, 2, 3))?;
        let scores = cast(cast(Tensor::Dense(contiguous(&scores)), dtype)?, precision)?;
        let scores = changed(self.change_scores.as_ref(), scores, inputs)?;
        let probabilities = softmax(cast(scores, wide)?.dense()?);
        let probabilities = cast(Tensor::Dense(probabilities), precision)?;
        let probabilities = changed(self.change_probabilities.as_ref(), probabilities, inputs)?;
        let value = cast(cast(value, precision)?, wide)?.dense()?;
        let result = grouped(&cast(probabilities, wide)?.dense()?, &value)?;
        Ok(cast(cast(Tensor::Dense(result), precision)?, value_type)?.into())
    }
}

/// burn's softmax of the last dimension; it needs an element.
fn softmax(x: FlexTensor) -> FlexTensor {
    if x.layout().num_elements() == 0 { x } else { Flex::softmax(x, 3) }
}

/// What a graph makes of a tensor: one of the same type and shape.
fn changed(graph: Option<&Nested>, x: Tensor, inputs: &mut Inputs<'_>) -> Result<Tensor, Fault> {
    let Some(graph) = graph else { return Ok(x) };
    let (dtype, shape) = (x.dtype(), x.shape().to_vec());
    let captured = captured(graph, inputs);
    let outputs = call(graph, vec![Some(Held::Tensor(x))], &captured, inputs.context)?;
    let Some(output) = outputs.into_iter().next() else { fault!("a graph gives no output") };
    let output = output.tensor()?;
    if output.dtype() != dtype || output.shape() != shape {
        fault!("a graph makes {} of {dtype} {shape:?}", output.describe());
    }
    Ok(output)
}
