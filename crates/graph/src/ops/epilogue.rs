//! What finishes a result in one pass over it: a bias is added, and an activation applied.

use burn::backend::flex::FlexTensor;
use num_traits::Float;

use super::activation::{hard_swish, map, of};
use super::arithmetic::add;
use super::gated::swish;
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, contiguous, fault, for_integers, items, items_mut, native_type, type_of,
};
use crate::value::DType;

/// A function of one number that costs less than a pass over memory. Each gives exactly what the operator of
/// its name does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    Relu,
    LeakyRelu {
        slope: f32,
    },
    Sigmoid,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Swish {
        alpha: f32,
    },
    /// Between two bounds, of which each may be missing.
    Clip {
        low: Option<f64>,
        high: Option<f64>,
    },
    /// A number times its `Sigmoid`.
    Silu,
    /// A number times its `HardSigmoid`.
    HardSilu {
        alpha: f32,
        beta: f32,
    },
}

impl Activation {
    /// The activation that a node of the ONNX domain is, and the type of bounds that are inputs.
    pub(crate) fn of(operator: &str, node: &Node<'_>) -> Option<(Self, Option<DType>)> {
        let activation = match operator {
            "Relu" => Self::Relu,
            "LeakyRelu" => Self::LeakyRelu { slope: node.float("alpha", 0.01) },
            "Sigmoid" => Self::Sigmoid,
            "HardSigmoid" => {
                Self::HardSigmoid { alpha: node.float("alpha", 0.2), beta: node.float("beta", 0.5) }
            }
            "HardSwish" => Self::HardSwish,
            "Swish" => Self::Swish { alpha: node.float("alpha", 1.0) },
            "Clip" if node.opset() < 11 => {
                let bound = |name: &str| node.has(name).then(|| f64::from(node.float(name, 0.0)));
                Self::Clip { low: bound("min"), high: bound("max") }
            }
            "Clip" => return clip(node),
            _ => return None,
        };
        Some((activation, None))
    }

    /// The bounds that it puts a number between, where that is all it does.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the type of the tensor, as the operator does"
    )]
    pub(super) fn bounds(self) -> Option<(f32, f32)> {
        match self {
            Self::Relu => Some((0.0, f32::INFINITY)),
            // Without a bound infinity becomes the greatest number of the type, as the operator has it.
            Self::Clip { low, high } => {
                Some((low.map_or(f32::MIN, |low| low as f32), high.map_or(f32::MAX, |high| high as f32)))
            }
            _ => None,
        }
    }

    /// The function of each element, in place where the tensor is not shared.
    pub(super) fn apply(self, x: FlexTensor) -> Result<FlexTensor, Fault> {
        match (type_of(&x), self) {
            (DType::F32, _) => Ok(finished_as::<f32>(x, None, 1, Some(self))),
            (DType::F64, _) => Ok(finished_as::<f64>(x, None, 1, Some(self))),
            (dtype, Self::Relu) => for_integers!(dtype, E => Ok(map(x, |x: E| if x > 0 { x } else { 0 })),
                other => fault!("numbers are needed, not {other}")),
            (dtype, _) => fault!("a floating-point tensor is needed, not {dtype}"),
        }
    }
}

/// Bounds that are known, and of one floating-point type.
fn clip(node: &Node<'_>) -> Option<(Activation, Option<DType>)> {
    let mut dtype = None;
    let mut bounds = [None; 2];
    for (index, bound) in bounds.iter_mut().enumerate() {
        if !node.has_input(index + 1) {
            continue;
        }
        let tensor = node.constant(index + 1).filter(|tensor| tensor.len() == 1)?;
        if *dtype.get_or_insert(tensor.dtype()) != tensor.dtype() {
            return None;
        }
        *bound = Some(*tensor.to_f64s().ok()?.first()?);
    }
    let [low, high] = bounds;
    let float = |dtype: DType| matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    dtype.is_none_or(float).then_some((Activation::Clip { low, high }, dtype))
}

/// `activation(x + bias)` of floating-point numbers, in place where `x` is not shared. The bias is repeated
/// over `x` as often as it fits, each of its elements for `inner` elements of `x` side by side.
pub(super) fn finished(
    x: FlexTensor,
    bias: Option<&FlexTensor>,
    inner: usize,
    activation: Option<Activation>,
) -> Result<FlexTensor, Fault> {
    if let Some(bias) = bias.filter(|bias| type_of(bias) != type_of(&x)) {
        fault!("both inputs must have one type, not {} and {}", type_of(&x), type_of(bias));
    }
    match type_of(&x) {
        DType::F32 => Ok(finished_as::<f32>(x, bias, inner, activation)),
        DType::F64 => Ok(finished_as::<f64>(x, bias, inner, activation)),
        dtype => fault!("a floating-point tensor is needed, not {dtype}"),
    }
}

/// A matrix product with what is added to it: a row for all rows, or any tensor that goes with it.
pub(super) fn finished_product(
    product: FlexTensor,
    bias: Option<FlexTensor>,
    activation: Option<Activation>,
) -> Result<FlexTensor, Fault> {
    let Some(bias) = bias else { return activated(product, activation) };
    let (shape, row) = (product.layout().shape(), bias.layout().shape());
    // A row may have dimensions of length 1 before it, as many as the product has.
    let is_row = row.len() <= shape.len()
        && row
            .last()
            .is_some_and(|length| shape.last() == Some(length) && bias.layout().num_elements() == *length);
    if is_row && matches!(type_of(&product), DType::F32 | DType::F64) {
        return finished(product, Some(&contiguous(&bias)), 1, activation);
    }
    activated(add(product, bias)?, activation)
}

fn activated(x: FlexTensor, activation: Option<Activation>) -> Result<FlexTensor, Fault> {
    match activation {
        Some(activation) => activation.apply(x),
        None => Ok(x),
    }
}

/// `activation(left + right)`: in one pass where the shapes are the same.
pub(super) fn finished_sum(
    left: FlexTensor,
    right: FlexTensor,
    activation: Activation,
) -> Result<FlexTensor, Fault> {
    let float = matches!(type_of(&left), DType::F32 | DType::F64);
    if !float || left.layout().shape() != right.layout().shape() {
        return activation.apply(add(left, right)?);
    }
    // Whichever may be changed in place.
    let (x, other) = if left.is_unique() || !right.is_unique() { (left, right) } else { (right, left) };
    finished(x, Some(&contiguous(&other)), 1, Some(activation))
}

fn finished_as<F: Item + Float>(
    x: FlexTensor,
    bias: Option<&FlexTensor>,
    inner: usize,
    activation: Option<Activation>,
) -> FlexTensor {
    let mut x = owned::<F>(x);
    if let Some(all) = items_mut::<F>(&mut x).filter(|all| !all.is_empty()) {
        Pass { all, bias: bias.map(items::<F>), inner: inner.max(1) }.run(activation);
    }
    x
}

/// The tensor with elements side by side that nobody else reads.
pub(super) fn owned<F: Item>(mut x: FlexTensor) -> FlexTensor {
    if items_mut::<F>(&mut x).is_some() {
        return x;
    }
    let source = contiguous(&x);
    match Tensor::of_type(native_type::<F>(), source.layout().shape(), items::<F>(&source).to_vec()) {
        Tensor::Dense(dense) => dense,
        Tensor::Small(..) | Tensor::Text(_) => source,
    }
}

/// One pass over the elements.
struct Pass<'a, F> {
    all: &'a mut [F],
    bias: Option<&'a [F]>,
    inner: usize,
}

impl<F: Float> Pass<'_, F> {
    /// Each activation has a loop of its own, in which nothing is decided.
    fn run(self, activation: Option<Activation>) {
        match activation {
            None => self.each(|x| x),
            Some(Activation::Relu) => self.each(|x| if x.is_nan() || x > F::zero() { x } else { F::zero() }),
            Some(Activation::LeakyRelu { slope }) => {
                let slope = of::<F>(slope);
                self.each(|x| if x >= F::zero() { x } else { slope * x });
            }
            Some(Activation::Sigmoid) => self.each(sigmoid),
            Some(Activation::HardSigmoid { alpha, beta }) => self.each(hard_sigmoid(alpha, beta)),
            Some(Activation::HardSwish) => self.each(hard_swish),
            Some(Activation::Swish { alpha }) => self.each(|x| swish(x, alpha)),
            Some(Activation::Silu) => self.each(|x| x * sigmoid(x)),
            Some(Activation::HardSilu { alpha, beta }) => {
                let gate = hard_sigmoid(alpha, beta);
                self.each(|x| x * gate(x));
            }
            Some(Activation::Clip { low, high }) => {
                let bound = |bound: Option<f64>| bound.and_then(<F as num_traits::NumCast>::from);
                // Without a bound infinity becomes the greatest number of the type, as the operator has it.
                let low = bound(low).unwrap_or_else(F::min_value);
                let high = bound(high).unwrap_or_else(F::max_value);
                self.each(|x| {
                    let x = if x < low { low } else { x };
                    if x > high { high } else { x }
                });
            }
        }
    }

    fn each(self, function: impl Fn(F) -> F) {
        match self.bias {
            None => self.all.iter_mut().for_each(|x| *x = function(*x)),
            Some([]) => {}
            Some(bias) if self.inner == 1 => {
                for row in self.all.chunks_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(x, &bias)| *x = function(*x + bias));
                }
            }
            Some(bias) => {
                for (plane, &bias) in self.all.chunks_mut(self.inner).zip(bias.iter().cycle()) {
                    for x in plane {
                        *x = function(*x + bias);
                    }
                }
            }
        }
    }
}

/// In the form that does not overflow, as burn's kernel has it.
fn sigmoid<F: Float>(x: F) -> F {
    if x >= F::zero() {
        F::one() / (F::one() + (-x).exp())
    } else {
        let e = x.exp();
        e / (F::one() + e)
    }
}

fn hard_sigmoid<F: Float>(alpha: f32, beta: f32) -> impl Fn(F) -> F {
    let (alpha, beta) = (of::<F>(alpha), of::<F>(beta));
    // Not `min` and `max`, which pass over what is no number.
    move |x| {
        let line = alpha * x + beta;
        if line < F::zero() {
            F::zero()
        } else if line > F::one() {
            F::one()
        } else {
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::flex::Flex;
    use burn::backend::ops::ActivationOps;

    use super::*;

    const NUMBERS: [f32; 9] = [-1e30, -100.0, -1.5, -0.0, 0.0, 0.3, 2.0, 90.0, f32::INFINITY];

    fn tensor(shape: &[usize], numbers: &[f32]) -> FlexTensor {
        Tensor::from_items(shape, numbers.to_vec()).dense().expect("numbers")
    }

    fn bits(x: &FlexTensor) -> Vec<u32> {
        items::<f32>(x).iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn activations_are_those_of_the_kernels() {
        let numbers = [&NUMBERS[..], &[f32::NAN]].concat();
        let x = || tensor(&[10], &numbers);
        let applied = |activation: Activation| bits(&activation.apply(x()).expect("numbers"));
        assert_eq!(applied(Activation::Relu), bits(&Flex::relu(x())));
        assert_eq!(applied(Activation::Sigmoid), bits(&Flex::sigmoid(x())));
        let slope = 0.1;
        assert_eq!(applied(Activation::LeakyRelu { slope }), bits(&Flex::leaky_relu(x(), slope.into())));
        let (alpha, beta) = (0.2, 0.5);
        assert_eq!(
            applied(Activation::HardSigmoid { alpha, beta }),
            bits(&Flex::hard_sigmoid(x(), alpha.into(), beta.into()))
        );
    }

    #[test]
    fn a_bias_goes_along_rows_planes_or_all_of_it() {
        let x = || tensor(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 7.0, -8.0]);
        let bias = tensor(&[2], &[10.0, 1.0]);
        let rows = finished(x(), Some(&bias), 1, None).expect("numbers");
        assert_eq!(items::<f32>(&rows), [11.0, 3.0, 13.0, 5.0, 5.0, 7.0, 17.0, -7.0]);
        let planes = finished(x(), Some(&bias), 2, Some(Activation::Relu)).expect("numbers");
        assert_eq!(items::<f32>(&planes), [11.0, 12.0, 4.0, 5.0, 5.0, 16.0, 8.0, 0.0]);
        let shared = x();
        let sum = finished_sum(shared.clone(), shared.clone(), Activation::Relu).expect("numbers");
        assert_eq!(items::<f32>(&sum), [2.0, 4.0, 6.0, 8.0, 0.0, 12.0, 14.0, 0.0]);
        assert_eq!(bits(&shared), bits(&x()), "what is shared stays");
    }

    #[test]
    fn a_bias_that_is_no_row_is_added_as_any_tensor() {
        let product = || tensor(&[2, 1], &[1.0, -2.0]);
        let sum = |bias: FlexTensor| finished_product(product(), Some(bias), Some(Activation::Relu));
        let wide = sum(tensor(&[3], &[0.0, 1.0, 2.0])).expect("they go together");
        assert_eq!(
            (&wide.layout().shape()[..], items::<f32>(&wide)),
            (&[2, 3][..], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0][..])
        );
        let raised = sum(tensor(&[1, 1, 1], &[1.0])).expect("they go together");
        assert_eq!(raised.layout().shape()[..], [1, 2, 1]);
    }
}
