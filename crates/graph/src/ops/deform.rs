//! Convolutions whose window is bent by offsets: "Deformable Convolutional Networks" (Dai et al. 2017), with
//! the mask of "Deformable ConvNets v2" (Zhu et al. 2018).

use num_traits::{Float, ToPrimitive};

use super::convolution::{Sizes, check_bias, group};
use super::grid::{MAX_BLENDED, corners};
use super::window::{Window, advance, strides, wide};
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, check_work, contiguous, fault, items, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::widening("DeformConv", 19, FLOATS, deform_conv)];

fn deform_conv(node: &Node<'_>) -> Built {
    let window = Window::read(node)?;
    let group = group(node)?;
    let offset_groups = usize::try_from(node.int("offset_group", 1)).ok().filter(|&groups| groups > 0);
    let Some(offset_groups) = offset_groups else {
        return Err(Refusal::Invalid("`offset_group` must be positive".to_owned()));
    };
    operator(move |inputs| {
        let (x, weights, offsets) = (inputs.float(0)?, inputs.float(1)?, inputs.float(2)?);
        let bias = inputs.optional(3).map(Tensor::float).transpose()?;
        let mask = inputs.optional(4).map(Tensor::float).transpose()?;
        let sizes = Sizes::new(&window, group, x.layout().shape(), weights.layout().shape())?;
        let dtype = type_of(&x);
        check_bias(dtype, type_of(&weights), bias.as_ref(), sizes.output[1])?;
        let bent = Bent::new(sizes, offset_groups, offsets.layout().shape())?;
        if mask.as_ref().is_some_and(|mask| mask.layout().shape()[..] != bent.mask_shape()[..]) {
            fault!("the mask must have the shape {:?}", bent.mask_shape());
        }
        if type_of(&offsets) != dtype || mask.as_ref().is_some_and(|mask| type_of(mask) != dtype) {
            fault!("input, offsets and mask must have one type");
        }
        let [x, weights, offsets] = [x, weights, offsets].map(|tensor| contiguous(&tensor));
        let (bias, mask) = (bias.as_ref().map(contiguous), mask.as_ref().map(contiguous));
        Ok(match dtype {
            DType::F64 => bent.run::<f64>(&Given {
                x: items(&x),
                weights: items(&weights),
                offsets: items(&offsets),
                bias: bias.as_ref().map(items),
                mask: mask.as_ref().map(items),
            }),
            _ => bent.run::<f32>(&Given {
                x: items(&x),
                weights: items(&weights),
                offsets: items(&offsets),
                bias: bias.as_ref().map(items),
                mask: mask.as_ref().map(items),
            }),
        }
        .into())
    })
}

/// The elements that a request gives.
struct Given<'a, F> {
    x: &'a [F],
    weights: &'a [F],
    offsets: &'a [F],
    bias: Option<&'a [F]>,
    mask: Option<&'a [F]>,
}

/// A convolution whose window is bent by as many offsets as there are groups of channels for them.
struct Bent {
    sizes: Sizes,
    groups: usize,
    /// The elements of the window, and the places that it takes.
    elements: usize,
    places: usize,
}

impl Bent {
    fn new(sizes: Sizes, groups: usize, offsets: &[usize]) -> Result<Self, Fault> {
        let rank = sizes.spans.len();
        if rank > MAX_BLENDED {
            fault!("between positions of {rank} dimensions nothing is computed");
        }
        let elements = check_size(&sizes.weights[2..])?;
        let per_place = elements.checked_mul(rank).and_then(|count| count.checked_mul(groups));
        let fits = offsets.len() == rank + 2
            && offsets[0] == sizes.input[0]
            && Some(offsets[1]) == per_place
            && offsets[2..] == sizes.output[2..];
        if !fits || !sizes.input[1].is_multiple_of(groups) {
            fault!("offsets of {offsets:?} in {groups} groups do not fit a result of {:?}", sizes.output);
        }
        // The columns of one place.
        check_size(&[sizes.input[1], elements])?;
        let places = sizes.output[2..].iter().product();
        check_work(&sizes.work())?;
        check_work(&[sizes.input[0], places, sizes.input[1], elements, 1 << rank])?;
        Ok(Self { sizes, groups, elements, places })
    }

    fn mask_shape(&self) -> Vec<usize> {
        let mut shape = vec![self.sizes.input[0], self.groups * self.elements];
        shape.extend_from_slice(&self.sizes.output[2..]);
        shape
    }

    fn run<F: Item + Float>(&self, given: &Given<'_, F>) -> Tensor {
        let (outputs, channels) = (self.sizes.output[1], self.sizes.input[1]);
        let mut result = vec![F::zero(); self.sizes.output.iter().product()];
        if result.is_empty() {
            return Tensor::from_items(&self.sizes.output, result);
        }
        let per_group = self.sizes.weights[1] * self.elements;
        let mut columns = vec![0.0f64; channels * self.elements];
        let mut at = vec![0; self.sizes.spans.len()];
        for image in 0..self.sizes.output[0] {
            for place in 0..self.places {
                self.fill(&mut columns, given, image, place, &at);
                for output in 0..outputs {
                    let group = output / (outputs / self.sizes.group);
                    let columns = columns[group * per_group..][..per_group].iter();
                    let weights = given.weights[output * per_group..][..per_group].iter();
                    let sum: f64 = weights.zip(columns).map(|(weight, x)| wide(*weight) * x).sum();
                    let sum = sum + given.bias.map_or(0.0, |bias| wide(bias[output]));
                    result[(image * outputs + output) * self.places + place] =
                        F::from(sum).unwrap_or_else(F::nan);
                }
                advance(&mut at, &self.sizes.output[2..]);
            }
        }
        Tensor::from_items(&self.sizes.output, result)
    }

    /// What the window sees at a place: for each channel its elements.
    fn fill<F: Item + Float>(
        &self,
        columns: &mut [f64],
        given: &Given<'_, F>,
        image: usize,
        place: usize,
        at: &[usize],
    ) {
        let spans = &self.sizes.spans;
        let (rank, channels) = (spans.len(), self.sizes.input[1]);
        let lengths = &self.sizes.input[2..];
        let size: usize = lengths.iter().product();
        let scales = strides(lengths);
        let each = channels / self.groups;
        let mut step = vec![0; rank];
        for group in 0..self.groups {
            for element in 0..self.elements {
                let number = (image * self.groups + group) * self.elements + element;
                let mask = given.mask.map_or(1.0, |mask| wide(mask[number * self.places + place]));
                let axes: Vec<Vec<(usize, f64)>> = (0..rank)
                    .map(|axis| {
                        let span = &spans[axis];
                        let offset = wide(given.offsets[(number * rank + axis) * self.places + place]);
                        let regular = (at[axis] * span.stride + step[axis] * span.dilation) as f64;
                        neighbours(regular - span.pad.0 as f64 + offset, lengths[axis], scales[axis])
                    })
                    .collect();
                let corners = corners(&axes);
                for channel in group * each..(group + 1) * each {
                    let source = &given.x[(image * channels + channel) * size..][..size];
                    let sum: f64 = corners.iter().map(|&(at, weight)| weight * wide(source[at])).sum();
                    columns[channel * self.elements + element] = sum * mask;
                }
                advance(&mut step, &self.sizes.weights[2..]);
            }
        }
    }
}

/// The elements on both sides of a position and their weights; outside of the image are zeros.
fn neighbours(at: f64, length: usize, scale: usize) -> Vec<(usize, f64)> {
    let low = at.floor();
    let part = at - low;
    [(low, 1.0 - part), (low + 1.0, part)]
        .into_iter()
        .filter(|&(at, _)| at >= 0.0 && at < length as f64)
        .filter_map(|(at, weight)| Some((at.to_usize()? * scale, weight)))
        .collect()
}
