//! Depthwise separable convolutions, which stand for several nodes of a file: see `crate::fuse`.

use burn::backend::flex::FlexTensor;
use stoker_kernels::{Finish, Layer, Separable};

use super::convolution::{Convolution, Sizes};
use super::laid::{LaidFilters, span};
use super::{Activation, Inputs, Operator, Outputs};
use crate::tensor::{Fault, Tensor, contiguous, items};
use crate::value::DType;

/// What a convolution over two dimensions can be in a separable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A window of one element, which sees all channels.
    Pointwise {
        /// Channels that it sees.
        inputs: usize,
        /// Channels that it gives.
        outputs: usize,
    },
    /// A window for each channel.
    Depthwise {
        /// How many there are.
        channels: usize,
    },
}

impl Convolution {
    /// What it can be, where its weights are laid out and what follows it is done by the kernel.
    pub(crate) fn part(&self) -> Option<Part> {
        if self.activation.is_some_and(|activation| activation.bounds().is_none()) {
            return None;
        }
        match (self.group, self.laid.as_ref()?.shape()) {
            (1, &[outputs, inputs, 1, 1]) => Some(Part::Pointwise { inputs, outputs }),
            (group, &[channels, 1, _, _]) if group == channels => Some(Part::Depthwise { channels }),
            _ => None,
        }
    }
}

/// Convolutions that follow each other, of which each is a [`Part`]: a pointwise one or none, a depthwise one, and a pointwise one. Inputs are that of
/// the first one, the bias of each, and what is added to the last one's result.
pub(crate) fn separable(layers: Vec<Box<dyn Operator>>) -> Box<dyn Operator> {
    Box::new(Layers(layers))
}

struct Layers(Vec<Box<dyn Operator>>);

impl Operator for Layers {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        match self.together(inputs)? {
            Some(result) => Ok(result.into()),
            None => self.apart(inputs),
        }
    }
}

impl Layers {
    /// The result, where all inputs are as the kernel takes them.
    fn together(&self, inputs: &Inputs<'_>) -> Result<Option<Tensor>, Fault> {
        let Some(x) = single(inputs.peek(0)).filter(|x| x.layout().num_dims() == 4) else { return Ok(None) };
        let mut layers = Vec::with_capacity(self.0.len());
        let mut shape = x.layout().shape().to_vec();
        for (at, layer) in self.0.iter().enumerate() {
            let Some(laid) = LaidLayer::new(layer.as_ref(), &shape, inputs.peek(at + 1))? else {
                return Ok(None);
            };
            shape.clone_from(&laid.sizes.output);
            layers.push(laid);
        }
        let (widen, windows, narrow) = match &layers[..] {
            [windows, narrow] => (None, windows, narrow),
            [widen, windows, narrow] => (Some(widen), windows, narrow),
            _ => return Ok(None),
        };
        let mut addend = None;
        if inputs.has(self.0.len() + 1) {
            addend = single(inputs.peek(self.0.len() + 1))
                .filter(|addend| addend.layout().shape()[..] == shape[..]);
            if addend.is_none() {
                return Ok(None);
            }
        }
        if !widen.into_iter().chain([narrow]).all(LaidLayer::stays) {
            return Ok(None);
        }
        let block = Separable {
            widen: widen.map(|widen| widen.layer(None)),
            depthwise: windows.layer(None),
            narrow: narrow.layer(addend.as_ref()),
        };
        let result = block.convolve(items(&x), &span(&windows.sizes)?);
        Ok(Some(Tensor::from_items(&shape, result)))
    }

    /// The result, one layer after the other.
    fn apart(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let context = inputs.context;
        let all = inputs.all_mut();
        let mut take = |at: usize| all.get_mut(at).and_then(Option::take);
        let mut x = take(0);
        for (at, layer) in self.0.iter().enumerate() {
            let last = at + 1 == self.0.len();
            let addend = if last { take(at + 2) } else { None };
            let mut own = [x, None, take(at + 1), addend];
            let outputs = layer.run(&mut Inputs::new(&mut own, context))?;
            if last {
                return Ok(outputs);
            }
            x = outputs.into_vec().pop();
        }
        Err(Fault("there is no convolution".to_owned()))
    }
}

/// A layer with weights that are laid out, and what a request gives.
struct LaidLayer<'a> {
    laid: &'a LaidFilters,
    activation: Option<Activation>,
    bias: Option<FlexTensor>,
    sizes: Sizes,
}

impl<'a> LaidLayer<'a> {
    /// For an input of that shape; `None` where the bias is not what the kernel takes. A fault where the convolution alone has one.
    fn new(layer: &'a dyn Operator, shape: &[usize], bias: Option<&Tensor>) -> Result<Option<Self>, Fault> {
        let Some(convolution) = layer.convolution() else { return Ok(None) };
        let Some(laid) = &convolution.laid else { return Ok(None) };
        let sizes = convolution.laid_sizes(shape, laid)?;
        let is_given = bias.is_some();
        let bias = single(bias).filter(|bias| bias.layout().shape()[..] == [sizes.output[1]]);
        let known = bias.is_some() == is_given;
        Ok(known.then_some(Self { laid, activation: convolution.activation, bias, sizes }))
    }

    /// True where the window stands on each element.
    fn stays(&self) -> bool {
        self.sizes.input[2..] == self.sizes.output[2..]
            && self.sizes.spans.iter().all(|span| span.stride == 1 && span.pad == (0, 0))
    }

    fn layer<'b>(&'b self, addend: Option<&'b FlexTensor>) -> Layer<'b> {
        let finish = Finish {
            bias: self.bias.as_ref().map(items),
            addend: addend.map(items),
            bounds: self.activation.and_then(Activation::bounds),
        };
        Layer { filters: self.laid.filters(), finish }
    }
}

/// A tensor of single precision, its elements side by side.
fn single(tensor: Option<&Tensor>) -> Option<FlexTensor> {
    let dense = tensor.filter(|tensor| tensor.dtype() == DType::F32)?.clone().dense().ok()?;
    Some(contiguous(&dense))
}
