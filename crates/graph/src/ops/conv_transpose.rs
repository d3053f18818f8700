//! Transposed convolutions, and columns put back into an image: what a window takes apart, backwards.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ConvTransposeOptions, ModuleOps};

use super::convolution::{Term, check_bias, group};
use super::window::{Meetings, Span, Window, lengths, reach};
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{
    Fault, Tensor, check_products, check_size, check_work, contiguous, fault, items, type_of,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("ConvTranspose", 1, FLOATS, conv_transpose),
    Entry::widening("Col2Im", 18, FLOATS, col2im),
];

/// The attributes of a transposed convolution.
pub(crate) struct Transposed {
    window: Window,
    pub(crate) group: usize,
    /// What is added to the end of each dimension; empty for nothing.
    added: Vec<usize>,
    /// The spatial dimensions of the result, where the file says them.
    output: Vec<usize>,
}

fn conv_transpose(node: &Node<'_>) -> Built {
    let transposed = Transposed::read(node)?;
    operator(move |inputs| {
        let (x, weights) = (inputs.float(0)?, inputs.float(1)?);
        let bias = inputs.optional(2).map(Tensor::float).transpose()?;
        transposed.run(x, weights, bias).map(Into::into)
    })
}

impl Transposed {
    /// Reads the attributes.
    pub(crate) fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let added = node.ints("output_padding").unwrap_or_default();
        let added: Option<Vec<usize>> = added.iter().map(|&length| usize::try_from(length).ok()).collect();
        let Some(added) = added else {
            return Err(Refusal::Invalid("`output_padding` must not be negative".to_owned()));
        };
        let output = lengths(node, "output_shape")?;
        Ok(Self { window: Window::read(node)?, group: group(node)?, added, output })
    }

    fn run(&self, x: FlexTensor, weights: FlexTensor, bias: Option<FlexTensor>) -> Result<Tensor, Fault> {
        let (x_shape, weights_shape) = (x.layout().shape().to_vec(), weights.layout().shape().to_vec());
        let rank = x_shape.len();
        if rank < 3 || weights_shape.len() != rank {
            fault!("a transposed convolution of {x_shape:?} by {weights_shape:?} is not possible");
        }
        if weights_shape[0] != x_shape[1] || !x_shape[1].is_multiple_of(self.group) {
            fault!("weights of {weights_shape:?} in {} groups do not fit {x_shape:?}", self.group);
        }
        let outputs = weights_shape[1].checked_mul(self.group);
        let outputs = outputs.ok_or_else(|| Fault("the result would be too large".to_owned()))?;
        let dtype = type_of(&x);
        check_bias(dtype, type_of(&weights), bias.as_ref(), outputs)?;
        let (spans, lengths) = self.spans(&x_shape[2..], &weights_shape[2..])?;
        let shape: Vec<usize> = [x_shape[0], outputs].into_iter().chain(lengths.iter().copied()).collect();
        let count = check_size(&shape)?;
        // The kernels make all of it, of which the padding takes away the edges.
        let whole: Vec<usize> = shape[..2]
            .iter()
            .copied()
            .chain(spans.iter().zip(&lengths).map(|(s, l)| l + s.pad.0 + s.pad.1))
            .collect();
        check_size(&whole)?;
        if count == 0 {
            return super::cast::cast(Tensor::from_items(&shape, Vec::<f32>::new()), dtype);
        }
        if x_shape.contains(&0) {
            fault!("a transposed convolution of {x_shape:?} to {shape:?} is not possible");
        }
        // Each element of the input is spread over a window for each channel of the result in its group.
        let work: Vec<usize> = x_shape.iter().chain(&weights_shape[1..]).copied().collect();
        if rank > 5 {
            check_work(&work)?;
        }
        check_products(&work)?;
        let size = |pick: fn(&Span) -> usize| spans.iter().map(pick).collect::<Vec<_>>();
        let (strides, dilations) = (size(|span| span.stride), size(|span| span.dilation));
        let full = |axis: usize| {
            (x_shape[axis + 2] - 1) * strides[axis] + (spans[axis].kernel - 1) * dilations[axis] + 1
        };
        let extra: Vec<usize> =
            (0..rank - 2).map(|axis| whole[axis + 2].saturating_sub(full(axis))).collect();
        let group = self.group;
        let mut result: Tensor = match (strides.as_slice(), extra.as_slice(), dilations.as_slice()) {
            (&[s], &[e], &[d]) => {
                let options = ConvTransposeOptions::new([s], [0], [e], [d], group);
                Flex::conv_transpose1d(x, weights, bias, options).into()
            }
            (&[s0, s1], &[e0, e1], &[d0, d1]) => {
                let options = ConvTransposeOptions::new([s0, s1], [0, 0], [e0, e1], [d0, d1], group);
                Flex::conv_transpose2d(x, weights, bias, options).into()
            }
            (&[s0, s1, s2], &[e0, e1, e2], &[d0, d1, d2]) => {
                let options =
                    ConvTransposeOptions::new([s0, s1, s2], [0, 0, 0], [e0, e1, e2], [d0, d1, d2], group);
                Flex::conv_transpose3d(x, weights, bias, options).into()
            }
            _ if dtype == DType::F64 => {
                return Ok(plainly::<f64>(&x, &weights, bias.as_ref(), &shape, &spans, group));
            }
            _ => return Ok(plainly::<f32>(&x, &weights, bias.as_ref(), &shape, &spans, group)),
        };
        for (axis, span) in spans.iter().enumerate() {
            result = super::slice::part(result, axis + 2, span.pad.0, lengths[axis])?;
        }
        Ok(result)
    }

    /// The window that moves over the result, and the result's spatial dimensions.
    pub(crate) fn spans(&self, x: &[usize], kernel: &[usize]) -> Result<(Vec<Span>, Vec<usize>), Fault> {
        let rank = x.len();
        self.window.check(kernel)?;
        let fits = |list: &[usize]| list.is_empty() || list.len() == rank;
        if !fits(&self.added) || !fits(&self.output) {
            fault!("`output_padding` or `output_shape` are not for {rank} spatial dimensions");
        }
        let mut spans = Vec::with_capacity(rank);
        let mut lengths = Vec::with_capacity(rank);
        for axis in 0..rank {
            let (span, length) = self.span(axis, x[axis], kernel[axis], rank)?;
            spans.push(span);
            lengths.push(length);
        }
        Ok((spans, lengths))
    }

    fn span(&self, axis: usize, x: usize, kernel: usize, rank: usize) -> Result<(Span, usize), Fault> {
        let stride = self.window.strides.get(axis).copied().unwrap_or(1);
        // One step has no distance to the next.
        let dilation = if kernel == 1 { 1 } else { self.window.dilations.get(axis).copied().unwrap_or(1) };
        let added = self.added.get(axis).copied().unwrap_or(0);
        let reach = reach(kernel, dilation)?;
        let too_large = || Fault("the result would be too large".to_owned());
        let all = x.saturating_sub(1).checked_mul(stride);
        let all = all.and_then(|all| all.checked_add(reach)?.checked_add(added)).ok_or_else(too_large)?;
        let same = self.window.auto_pad.is_same();
        let (pad, length) = match self.output.get(axis) {
            // What is asked for beyond that is added to the end.
            Some(&length) => (self.window.auto_pad.share(all.saturating_sub(length)), length),
            None if same => {
                let length = x.checked_mul(stride).ok_or_else(too_large)?;
                let Some(total) = all.checked_sub(length) else {
                    fault!("a length of {length} is more than the {all} that there are");
                };
                (self.window.auto_pad.share(total), length)
            }
            None => {
                let pad = self.window.pad(axis, rank);
                let length = all.checked_sub(pad.0).and_then(|left| left.checked_sub(pad.1));
                let Some(length) = length else { fault!("padding of {pad:?} takes more than {all}") };
                (pad, length)
            }
        };
        Ok((Span { kernel, stride, dilation, pad, output: x }, length))
    }
}

/// For any number of dimensions: each element of the input is spread over the window.
fn plainly<F: Term>(
    x: &FlexTensor,
    weights: &FlexTensor,
    bias: Option<&FlexTensor>,
    shape: &[usize],
    spans: &[Span],
    group: usize,
) -> Tensor {
    let (inputs, each) = (x.layout().shape()[1], weights.layout().shape()[1]);
    let kernel_size: usize = weights.layout().shape()[2..].iter().product();
    let (x, weights, bias) = (contiguous(x), contiguous(weights), bias.map(contiguous));
    let (x, weights) = (items::<F>(&x), items::<F>(&weights));
    let bias = bias.as_ref().map(|bias| items::<F>(bias));
    let meetings = Meetings::new(&shape[2..], spans);
    let source_size: usize = spans.iter().map(|span| span.output).product();
    let area: usize = shape[2..].iter().product();
    let outputs = shape[1];
    let channels = inputs / group;
    let mut result = Vec::with_capacity(shape.iter().product());
    for image in 0..shape[0] {
        for output in 0..outputs {
            let mut plane = vec![bias.map_or(F::zero(), |bias| bias[output]); area];
            for channel in (output / each) * channels..(output / each + 1) * channels {
                let source = &x[(image * inputs + channel) * source_size..][..source_size];
                let kernel = &weights[(channel * each + output % each) * kernel_size..][..kernel_size];
                meetings.rows(|element, to, from| {
                    for index in 0..from.count {
                        let sum = &mut plane[to.start + index * to.step];
                        *sum = sum.plus_product(kernel[element], source[from.start + index * from.step]);
                    }
                });
            }
            result.extend_from_slice(&plane);
        }
    }
    Tensor::from_items(shape, result)
}

fn col2im(node: &Node<'_>) -> Built {
    let window = Window::read(node)?;
    let (image, block) = (Ints::input(node, 1)?, Ints::input(node, 2)?);
    operator(move |inputs| {
        let missing = || Fault("the shapes of image and blocks are missing".to_owned());
        let image = super::shape::lengths(&image.get(inputs)?.ok_or_else(missing)?)?;
        let block = super::shape::lengths(&block.get(inputs)?.ok_or_else(missing)?)?;
        let x = inputs.float(0)?;
        let spans = window.spans(&image, &block)?;
        let elements = check_size(&block)?;
        let places = spans.iter().try_fold(1usize, |product, span| product.checked_mul(span.output));
        let shape = x.layout().shape();
        if shape.len() != 3
            || !shape[1].is_multiple_of(elements)
            || Some(shape[2]) != places
            || spans.is_empty()
        {
            fault!("columns of {shape:?} are not those of blocks of {block:?} in an image of {image:?}");
        }
        let output: Vec<usize> = [shape[0], shape[1] / elements].into_iter().chain(image).collect();
        check_size(&output)?;
        let x = contiguous(&x);
        Ok(match type_of(&x) {
            DType::F64 => gather_columns::<f64>(&x, &output, &spans),
            _ => gather_columns::<f32>(&x, &output, &spans),
        }
        .into())
    })
}

/// The sum of all columns at the places that they come from.
fn gather_columns<F: Term>(x: &FlexTensor, output: &[usize], spans: &[Span]) -> Tensor {
    let area: usize = output[2..].iter().product();
    let places: usize = spans.iter().map(|span| span.output).product();
    let elements: usize = spans.iter().map(|span| span.kernel).product();
    let mut result = vec![F::zero(); output.iter().product()];
    if !result.is_empty() {
        let meetings = Meetings::new(&output[2..], spans);
        let columns = items::<F>(x).chunks_exact((elements * places).max(1));
        for (plane, columns) in result.chunks_exact_mut(area).zip(columns) {
            meetings.rows(|element, to, from| {
                let column = &columns[element * places..][..places];
                for index in 0..from.count {
                    let sum = &mut plane[to.start + index * to.step];
                    *sum = *sum + column[from.start + index * from.step];
                }
            });
        }
    }
    Tensor::from_items(output, result)
}
