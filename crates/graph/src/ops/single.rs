//! Kernels of single precision, over the elements of tensors.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::{ActivationOps, FloatTensorOps};
use stoker_kernels::{Isa, Normal, share};

use super::epilogue::owned;
use super::laid::Stack;
use crate::tensor::{Fault, Tensor, contiguous, items, items_mut, type_of};
use crate::value::DType;

/// A thread is given so many elements at least: below, waking it takes longer than they do.
const SHARE: usize = 1 << 15;

/// A kernel that changes each element of a slice.
type Kernel = fn(Isa, &mut [f32]);

/// Changes each element of an `FP32` tensor, in place where it is not shared.
fn each(x: FlexTensor, kernel: Kernel) -> FlexTensor {
    changed(x, 1, |part| kernel(Isa::best(), part))
}

/// The softmax of the last dimension of an `FP32` tensor times a positive factor.
pub(super) fn softmax(x: FlexTensor, factor: f32) -> FlexTensor {
    let width = x.layout().shape().last().copied().unwrap_or(1);
    changed(x, width, |rows| stoker_kernels::softmax(Isa::best(), rows, width, factor))
}

/// Gelu by the error function, of any floating-point tensor.
pub(super) fn gelu(x: FlexTensor) -> FlexTensor {
    if type_of(&x) == DType::F32 { each(x, stoker_kernels::gelus) } else { Flex::gelu(x) }
}

/// The error function, of any floating-point tensor.
pub(super) fn erf(x: FlexTensor) -> FlexTensor {
    if type_of(&x) == DType::F32 { each(x, stoker_kernels::erfs) } else { Flex::float_erf(x) }
}

/// Normalises the rows of a tensor, whose last dimensions are `row`. The tensor as it was where it is not `FP32`, or where
/// scale or bias are not one `FP32` number for each element of a row; they may have dimensions of length 1 before those.
pub(super) fn normalise(
    x: FlexTensor,
    row: &[usize],
    (centred, epsilon): (bool, f32),
    scale: Option<&FlexTensor>,
    bias: Option<&FlexTensor>,
) -> Result<FlexTensor, FlexTensor> {
    let fits = |parameter: &FlexTensor| {
        let own = parameter.layout().shape();
        let (leading, rest) = own.split_at(own.len().saturating_sub(row.len()));
        type_of(parameter) == DType::F32 && rest == row && leading.iter().all(|&one| one == 1)
    };
    if type_of(&x) != DType::F32 || !scale.iter().chain(&bias).all(|parameter| fits(parameter)) {
        return Err(x);
    }
    let width = row.iter().product();
    let (scale, bias) = (scale.map(contiguous), bias.map(contiguous));
    let normal = Normal {
        centred,
        epsilon,
        scale: scale.as_ref().map(items::<f32>),
        bias: bias.as_ref().map(items::<f32>),
    };
    Ok(changed(x, width, |rows| stoker_kernels::normalise(Isa::best(), rows, width, normal)))
}

/// What queries make of values: `softmax(queries * keys * factor) * values`, for stacks of one shape of `FP32` matrices that
/// meet, given by `spread`. `shape` is that of the result.
pub(super) fn attention(sides: [&FlexTensor; 3], shape: &[usize], factor: f32) -> Result<FlexTensor, Fault> {
    let stack = &shape[..shape.len() - 2];
    let [queries, keys, values] = sides.map(Stack::new);
    let views = |at: usize| [queries.view(at, stack), keys.view(at, stack), values.view(at, stack)];
    let result = stoker_kernels::attention(Isa::best(), stack.iter().product(), &views, factor);
    Tensor::from_items(shape, result).dense()
}

/// Changes an `FP32` tensor part by part, in place where it is not shared; a part is whole rows of `unit` elements.
fn changed(x: FlexTensor, unit: usize, work: impl Fn(&mut [f32]) + Sync) -> FlexTensor {
    let mut x = owned::<f32>(x);
    if let Some(all) = items_mut::<f32>(&mut x) {
        share(all, unit, SHARE, |_, part| work(part));
    }
    x
}
