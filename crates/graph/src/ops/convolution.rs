//! Convolutions over any number of spatial dimensions.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ConvOptions, ModuleOps};

use super::epilogue::finished;
use super::laid::{LaidFilters, Rest};
use super::window::{Meetings, Span, Window};
use super::{Activation, Built, Entry, FLOATS, Inputs, Operator, Outputs, Refusal};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, check_products, check_size, check_work, contiguous, fault, items, type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::widening("Conv", 1, FLOATS, build)];

fn build(node: &Node<'_>) -> Built {
    let (window, group) = (Window::read(node)?, group(node)?);
    Ok(Box::new(Convolution { window, group, laid: None, activation: None }))
}

/// A convolution, and what a load appends to it.
pub(crate) struct Convolution {
    window: Window,
    pub(super) group: usize,
    /// The weights, where they are known at load.
    pub(super) laid: Option<LaidFilters>,
    pub(super) activation: Option<Activation>,
}

impl Operator for Convolution {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let rest = Rest::take(inputs, self.activation)?;
        let x = inputs.float(0)?;
        match &self.laid {
            Some(laid) => self.convolve_laid(&x, laid, rest),
            None => self.convolve(x, inputs.float(1)?, rest),
        }
        .map(Into::into)
    }

    fn lay_out(&mut self, _input: usize, constant: &Tensor, spare: &mut usize) -> bool {
        self.laid = LaidFilters::new(constant, self.group, spare);
        self.laid.is_some()
    }

    fn follow(&mut self, activation: Activation) -> bool {
        self.activation.replace(activation).is_none()
    }

    fn convolution(&self) -> Option<&Convolution> {
        Some(self)
    }
}

impl Convolution {
    fn convolve(&self, x: FlexTensor, weights: FlexTensor, mut rest: Rest) -> Result<FlexTensor, Fault> {
        let sizes = Sizes::new(&self.window, self.group, x.layout().shape(), weights.layout().shape())?;
        let dtype = type_of(&x);
        check_bias(dtype, type_of(&weights), rest.bias(), sizes.output[1])?;
        if sizes.output.contains(&0) {
            let empty =
                super::cast::cast(Tensor::from_items(&sizes.output, Vec::<f32>::new()), dtype)?.dense()?;
            rest.take_bias();
            return rest.finish(empty);
        }
        let bias = rest.take_bias();
        if !rest.is_activation() {
            return rest.finish(convolve(&sizes, x, weights, bias)?);
        }
        // burn adds a bias in a pass of its own.
        let sums = convolve(&sizes, x, weights, None)?;
        let area = sizes.output[2..].iter().product();
        finished(sums, bias.as_ref().map(contiguous).as_ref(), area, self.activation)
    }

    fn convolve_laid(&self, x: &FlexTensor, laid: &LaidFilters, rest: Rest) -> Result<FlexTensor, Fault> {
        let sizes = self.laid_sizes(x.layout().shape(), laid)?;
        check_bias(type_of(x), DType::F32, rest.bias(), sizes.output[1])?;
        laid.convolve(&sizes, x, rest)
    }

    /// The sizes for an input of that shape, where it is not too much work.
    pub(super) fn laid_sizes(&self, x: &[usize], laid: &LaidFilters) -> Result<Sizes, Fault> {
        let sizes = Sizes::new(&self.window, self.group, x, laid.shape())?;
        check_products(&sizes.work())?;
        Ok(sizes)
    }
}

/// Into how many groups the channels are divided.
pub(super) fn group(node: &Node<'_>) -> Result<usize, Refusal> {
    let group = usize::try_from(node.int("group", 1)).ok().filter(|&group| group > 0);
    group.ok_or_else(|| Refusal::Invalid("`group` must be positive".to_owned()))
}

/// The sizes of a convolution, checked against each other.
pub(super) struct Sizes {
    pub(super) group: usize,
    /// Of the input: images, all channels, spatial dimensions.
    pub(super) input: Vec<usize>,
    /// Of the weights: all channels of the result, channels of the input in a group, window.
    pub(super) weights: Vec<usize>,
    /// The window along each spatial dimension.
    pub(super) spans: Vec<Span>,
    /// Of the result.
    pub(super) output: Vec<usize>,
}

impl Sizes {
    /// Of an input of shape `x` and weights of shape `weights`.
    pub(super) fn new(window: &Window, group: usize, x: &[usize], weights: &[usize]) -> Result<Self, Fault> {
        let rank = x.len();
        if rank < 3 || weights.len() != rank {
            fault!("a convolution of {x:?} by {weights:?} is not possible");
        }
        if weights[1].checked_mul(group) != Some(x[1]) || !weights[0].is_multiple_of(group) {
            fault!("weights of {weights:?} in {group} groups do not fit an input of {x:?}");
        }
        let spans = window.spans(&x[2..], &weights[2..])?;
        let mut output = vec![x[0], weights[0]];
        output.extend(spans.iter().map(|span| span.output));
        check_size(&output)?;
        let padded = x[2..].iter().zip(&spans).map(|(length, span)| length + span.pad.0 + span.pad.1);
        check_size(&x[..2].iter().copied().chain(padded).collect::<Vec<_>>())?;
        Ok(Self { group, input: x.to_vec(), weights: weights.to_vec(), spans, output })
    }

    /// How many results there are, and how many products each of them adds up.
    pub(super) fn work(&self) -> [usize; 2] {
        [self.output.iter().product(), self.weights[1..].iter().fold(1, |all, &one| all.saturating_mul(one))]
    }
}

/// The most elements that burn may lay out for each thread: a thousand times what large models need.
const MAX_COLUMNS: usize = 1 << 25;

/// A convolution that has a result.
fn convolve(
    sizes: &Sizes,
    x: FlexTensor,
    weights: FlexTensor,
    bias: Option<FlexTensor>,
) -> Result<FlexTensor, Fault> {
    let (dtype, group) = (type_of(&x), sizes.group);
    // burn lays out the window at up to 512 places side by side, for each thread; it also walks over the
    // padding of an input that has no element.
    let columns: usize = sizes.weights[1..].iter().product();
    let places: usize = sizes.output[2..].iter().product();
    let plain = sizes.input.contains(&0) || columns.saturating_mul(places.min(512)) > MAX_COLUMNS;
    if plain || sizes.spans.len() > 3 {
        check_work(&sizes.work())?;
    }
    check_products(&sizes.work())?;
    Ok(match sizes.spans.as_slice() {
        _ if plain && dtype == DType::F64 => plainly::<f64>(sizes, &x, &weights, bias.as_ref()).dense()?,
        _ if plain => plainly::<f32>(sizes, &x, &weights, bias.as_ref()).dense()?,
        [a] => {
            let options = ConvOptions::new_with_padding([a.stride], [a.pad], [a.dilation], group);
            Flex::conv1d(x, weights, bias, options)
        }
        [a, b] => {
            let options = ConvOptions::new_with_padding(
                [a.stride, b.stride],
                [a.pad, b.pad],
                [a.dilation, b.dilation],
                group,
            );
            Flex::conv2d(x, weights, bias, options)
        }
        [a, b, c] => {
            let options = ConvOptions::new_with_padding(
                [a.stride, b.stride, c.stride],
                [a.pad, b.pad, c.pad],
                [a.dilation, b.dilation, c.dilation],
                group,
            );
            Flex::conv3d(x, weights, bias, options)
        }
        _ if dtype == DType::F64 => plainly::<f64>(sizes, &x, &weights, bias.as_ref()).dense()?,
        _ => plainly::<f32>(sizes, &x, &weights, bias.as_ref()).dense()?,
    })
}

/// A fault where the types differ, or where the bias is not for `outputs` channels.
pub(super) fn check_bias(
    dtype: DType,
    weights: DType,
    bias: Option<&FlexTensor>,
    outputs: usize,
) -> Result<(), Fault> {
    if dtype != weights || bias.is_some_and(|bias| type_of(bias) != dtype) {
        fault!("input, weights and bias must have one type");
    }
    if bias.is_some_and(|bias| bias.layout().shape()[..] != [outputs]) {
        fault!("the bias must have {outputs} elements");
    }
    Ok(())
}

fn plainly<F: Term>(
    sizes: &Sizes,
    x: &FlexTensor,
    weights: &FlexTensor,
    bias: Option<&FlexTensor>,
) -> Tensor {
    let (x, weights, bias) = (contiguous(x), contiguous(weights), bias.map(contiguous));
    let mut result = direct(sizes, items::<F>(&x), items::<F>(&weights));
    let area: usize = sizes.output[2..].iter().product();
    if let Some(bias) = &bias {
        let bias = items::<F>(bias).iter().cycle();
        for (plane, &bias) in result.chunks_exact_mut(area).zip(bias) {
            for sum in plane {
                *sum = *sum + bias;
            }
        }
    }
    Tensor::from_items(&sizes.output, result)
}

/// A number of which sums of products are made; integers wrap.
pub(super) trait Term: Item + num_traits::Zero {
    /// `self + a * b`.
    fn plus_product(self, a: Self, b: Self) -> Self;
}

impl Term for f32 {
    fn plus_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

impl Term for f64 {
    fn plus_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

impl Term for i32 {
    fn plus_product(self, a: Self, b: Self) -> Self {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// The sums of a convolution without bias, for any number of dimensions. Each element of the window adds
/// to whole rows of the result, which the compiler can do many at a time.
pub(super) fn direct<T: Term>(sizes: &Sizes, x: &[T], weights: &[T]) -> Vec<T> {
    let meetings = Meetings::new(&sizes.input[2..], &sizes.spans);
    let image_size: usize = sizes.input[2..].iter().product();
    let area: usize = sizes.output[2..].iter().product();
    let channels = sizes.weights[1];
    let kernel_size: usize = sizes.weights[2..].iter().product();
    let outputs = sizes.output[1];
    let mut result = vec![T::zero(); sizes.output.iter().product()];
    if area == 0 {
        return result;
    }
    for (index, plane) in result.chunks_exact_mut(area).enumerate() {
        let (image, output) = (index / outputs, index % outputs);
        let group = output / (outputs / sizes.group);
        for channel in 0..channels {
            let source = image * sizes.input[1] + group * channels + channel;
            let source = &x[source * image_size..][..image_size];
            let kernel = &weights[(output * channels + channel) * kernel_size..][..kernel_size];
            meetings.rows(|element, from, to| {
                let weight = kernel[element];
                let sums = &mut plane[to.start..][..to.count];
                if from.step == 1 {
                    for (sum, &x) in sums.iter_mut().zip(&source[from.start..][..from.count]) {
                        *sum = sum.plus_product(weight, x);
                    }
                } else {
                    for (index, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.plus_product(weight, source[from.start + index * from.step]);
                    }
                }
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_convolution_is_that_of_the_kernels() {
        let window = Window {
            kernel: vec![],
            strides: vec![2, 1],
            dilations: vec![1, 2],
            pads: vec![1, 0, 2, 1],
            auto_pad: super::super::window::AutoPad::Explicit,
            ceil: false,
        };
        let (x_shape, weights_shape) = ([2, 4, 5, 6], [6, 2, 3, 2]);
        let numbers = |count: usize| (0..count).map(|at| ((at * 37) % 19) as f32 - 9.0).collect::<Vec<_>>();
        let tensor = |shape: &[usize]| {
            Tensor::from_items(shape, numbers(shape.iter().product())).dense().expect("numbers")
        };
        let (x, weights) = (tensor(&x_shape), tensor(&weights_shape));
        let sizes = Sizes::new(&window, 2, &x_shape, &weights_shape).expect("the sizes fit");
        let plain = plainly::<f32>(&sizes, &x, &weights, None);
        let kernels = convolve(&sizes, x, weights, None).expect("a convolution");
        assert_eq!(plain.shape(), &kernels.layout().shape()[..]);
        assert_eq!(
            items::<f32>(&plain.dense().expect("numbers")),
            items::<f32>(&contiguous(&kernels)),
            "whole numbers have no rounding"
        );
    }
}
