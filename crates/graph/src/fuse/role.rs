//! What a step is, as far as it can be put together with others.

use crate::load::{Ints, Node};
use crate::ops::Activation;
use crate::value::DType;

/// What the passes know of a step. Most operators are [`Role::Other`] and stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    /// Nothing is known.
    Other,
    /// A convolution: input, weights, bias.
    Conv,
    /// A transposed convolution of channels in groups: input, weights, bias.
    ConvTranspose { group: usize },
    /// A matrix product: left, right, and once it was put together with a sum, what is added.
    MatMul,
    /// A matrix product and a sum, without factors and with the left matrix as it is.
    Gemm { transposed: bool },
    /// One of these three to which a tensor is added: no other summand or factor may follow.
    Summed,
    /// `BatchNormalization` at inference, of channels.
    BatchNormalization { epsilon: f64 },
    /// A sum of two tensors.
    Add,
    /// A difference.
    Sub,
    /// A product, element by element.
    Mul,
    /// A quotient.
    Div,
    /// Each element times itself.
    Square,
    /// Square roots.
    Sqrt,
    /// The error function.
    Erf,
    /// The mean of so many dimensions at the end, which stay with the length 1.
    MeanOfLast(usize),
    /// So many dimensions at the end with mean 0 and variance 1: input, scale, bias.
    Standardised(usize),
    /// The softmax of the last dimension, of all elements times a positive factor.
    SoftmaxOfLast { factor: f64 },
    /// A function of one number, and the type that its bounds have where they are inputs.
    Activation(Activation, Option<DType>),
}

impl Role {
    /// The role of a node of the ONNX domain.
    pub(crate) fn of(operator: &str, node: &Node<'_>) -> Self {
        if let Some((activation, bounds)) = Activation::of(operator, node) {
            return Self::Activation(activation, bounds);
        }
        match operator {
            "Conv" => Self::Conv,
            "ConvTranspose" => match usize::try_from(node.int("group", 1)) {
                Ok(group) if group > 0 => Self::ConvTranspose { group },
                _ => Self::Other,
            },
            "MatMul" => Self::MatMul,
            "Gemm" if is_plain(node) => Self::Gemm { transposed: node.flag("transB", false) },
            "BatchNormalization" => Self::normalisation(node),
            "Sqrt" => Self::Sqrt,
            "Erf" => Self::Erf,
            "ReduceMean" => Self::mean(node),
            "Softmax" if node.opset() >= 13 && node.int("axis", -1) == -1 => {
                Self::SoftmaxOfLast { factor: 1.0 }
            }
            // Below opset 7 these may say at which dimension the second input begins.
            _ if node.opset() < 7 && node.has("axis") => Self::Other,
            "Add" => Self::Add,
            "Sub" => Self::Sub,
            "Mul" => Self::Mul,
            "Div" => Self::Div,
            "Pow" if is_two(node) => Self::Square,
            _ => Self::Other,
        }
    }

    fn normalisation(node: &Node<'_>) -> Self {
        let opset = node.opset();
        let trains = match opset {
            ..7 => !node.flag("is_test", false),
            7..14 => (1..node.output_count()).any(|output| node.has_output(output)),
            _ => node.flag("training_mode", false),
        };
        let per_channel = opset >= 9 || node.flag("spatial", true);
        if trains || !per_channel {
            return Self::Other;
        }
        Self::BatchNormalization { epsilon: node.float("epsilon", 1e-5).into() }
    }

    fn mean(node: &Node<'_>) -> Self {
        let Ok(Ints::Fixed(mut axes)) = Ints::attribute_or_input(node, "axes", 1, 18) else {
            return Self::Other;
        };
        axes.sort_unstable();
        // Which dimensions the positive ones are is not known before a request.
        let from_end = (1..).map(|axis: i64| -axis).take(axes.len());
        let last = axes.iter().rev().copied().eq(from_end);
        if axes.is_empty() || !last || !node.flag("keepdims", true) {
            return Self::Other;
        }
        Self::MeanOfLast(axes.len())
    }
}

#[expect(clippy::float_cmp, reason = "exactly one changes nothing")]
fn is_plain(node: &Node<'_>) -> bool {
    node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0 && !node.flag("transA", false)
}

/// True where the exponent is the number 2, whatever its shape: a scalar, or as good as one.
fn is_two(node: &Node<'_>) -> bool {
    // An exponent of more dimensions than the base would add some.
    let exponent = node.constant(1).filter(|exponent| exponent.rank() == 0);
    exponent.and_then(|exponent| exponent.to_f64s().ok()).is_some_and(|numbers| numbers == [2.0])
}
