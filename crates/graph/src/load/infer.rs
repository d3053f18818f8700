//! The element type of a value that the file declares nothing of, as far as it follows from the nodes.

use super::cut::Values;
use super::domain_key;
use crate::proto::NodeProto;
use crate::value::DType;

/// Operators whose first output has the type of their first input.
const KEEPING: &str = "Abs Acos Acosh Add Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Compress \
    Concat Conv ConvTranspose Cos Cosh CumSum DepthToSpace Div Dropout Einsum Elu Erf Exp Expand Flatten Floor GRU \
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish \
    Hardmax Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool \
    MatMul Max MaxPool Mean Min Mish Mod Mul Neg PRelu Pad Pow RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSum \
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round \
    ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt \
    Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Upsample";
/// Those of them all of whose outputs have it.
const KEEPING_ALL: [&str; 4] = ["GRU", "LSTM", "RNN", "Split"];

/// What a node says of the type of an output.
enum Rule<'a> {
    Is(DType),
    /// That of a value.
    As(&'a str),
}

/// The element type of a tensor; `None` where it does not follow.
pub(super) fn element_type(values: &Values<'_>, name: &str) -> Option<DType> {
    let mut name = name;
    // No chain of nodes is longer, unless it is a circle.
    for _ in 0..=values.nodes.len() {
        if let Some(dtype) = values.stated(name) {
            return Some(dtype);
        }
        match rule(values.maker(name)?, name)? {
            Rule::Is(dtype) => return Some(dtype),
            Rule::As(other) => name = other,
        }
    }
    None
}

fn rule<'n>(node: &'n NodeProto, output: &str) -> Option<Rule<'n>> {
    if !domain_key(&node.domain).is_empty() {
        return None;
    }
    let operator = node.op_type.as_str();
    let first = node.output.first().is_some_and(|first| first == output);
    if !first && !KEEPING_ALL.contains(&operator) {
        return None;
    }
    let input = |index: usize| node.input.get(index).map(|name| Rule::As(name));
    let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let value = || attribute("value").and_then(|value| DType::from_onnx(value.t.as_ref()?.data_type));
    match operator {
        _ if KEEPING.split_ascii_whitespace().any(|keeping| keeping == operator) => input(0),
        "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" => Some(Rule::Is(DType::I64)),
        "And" | "Or" | "Not" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual"
        | "IsInf" | "IsNaN" => Some(Rule::Is(DType::Bool)),
        "MatMulInteger" | "ConvInteger" => Some(Rule::Is(DType::I32)),
        "CastLike" | "Where" => input(1),
        "DequantizeLinear" if attribute("output_dtype").is_none() => input(1),
        "QuantizeLinear" if attribute("output_dtype").is_none() => input(2),
        "QLinearConv" | "QLinearMatMul" => input(7),
        "Cast" => {
            let number = i32::try_from(attribute("to")?.i?).ok()?;
            DType::from_onnx(number).map(Rule::Is)
        }
        "ConstantOfShape" if attribute("value").is_none() => Some(Rule::Is(DType::F32)),
        "Constant" | "ConstantOfShape" => value().map(Rule::Is),
        _ => None,
    }
}
