//! The partial inverse of a maximum pool.

use super::window::{Window, strides};
use super::{Built, Entry, FLOATS, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, for_storage, items};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("MaxUnpool", 9, FLOATS, max_unpool)];

/// Each element goes to its index in the tensor that the window's attributes say; the rest is zero. Where a
/// larger shape is asked for, that tensor is its beginning along each dimension.
fn max_unpool(node: &Node<'_>) -> Built {
    let window = Window::read_with_kernel(node)?;
    let wanted = Ints::input(node, 2)?;
    operator(move |inputs| {
        let wanted = wanted.get(inputs)?.map(|wanted| super::shape::lengths(&wanted)).transpose()?;
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        if indices.shape() != x.shape() || x.rank() < 3 {
            fault!("indices of {:?} do not belong to {}", indices.shape(), x.describe());
        }
        let own = unpooled(x.shape(), &window)?;
        let shape = wanted.unwrap_or_else(|| own.clone());
        if shape.len() != own.len() || shape.iter().zip(&own).any(|(wanted, own)| wanted < own) {
            fault!("{} cannot be unpooled to {shape:?}", x.describe());
        }
        let (count, own_count) = (check_size(&shape)?, check_size(&own)?);
        let indices = indices.to_i64s()?;
        let dtype = x.dtype();
        let x = contiguous(&x.dense()?);
        Ok(for_storage!(dtype, E => {
            let mut result = vec![<E as bytemuck::Zeroable>::zeroed(); count];
            for (&element, &index) in items::<E>(&x).iter().zip(&indices) {
                let Some(at) = usize::try_from(index).ok().filter(|&at| at < own_count) else {
                    fault!("the index {index} is not below {own_count}");
                };
                let at = if own == shape { at } else { moved(at, &own, &shape) };
                if let Some(place) = result.get_mut(at) {
                    *place = element;
                }
            }
            Tensor::of_type::<E>(dtype, &shape, result)
        }, text => fault!("strings are not pooled"))
        .into())
    })
}

/// The shape of what was pooled: `(x - 1) * stride + kernel - pads`.
fn unpooled(x: &[usize], window: &Window) -> Result<Vec<usize>, Fault> {
    let rank = x.len() - 2;
    if window.kernel.len() != rank {
        fault!("a window of {} dimensions cannot move over {rank}", window.kernel.len());
    }
    window.check(&window.kernel)?;
    let mut shape = x[..2].to_vec();
    for axis in 0..rank {
        let stride = window.strides.get(axis).copied().unwrap_or(1);
        let pad = window.pad(axis, rank);
        let all = x[axis + 2].checked_sub(1).and_then(|steps| steps.checked_mul(stride));
        let length =
            all.and_then(|all| all.checked_add(window.kernel[axis])?.checked_sub(pad.0)?.checked_sub(pad.1));
        let Some(length) = length else { fault!("{x:?} cannot be unpooled with padding {pad:?}") };
        shape.push(length);
    }
    Ok(shape)
}

/// The position in a tensor of shape `shape` of what is at position `at` in its beginning of shape `own`.
fn moved(at: usize, own: &[usize], shape: &[usize]) -> usize {
    let (from, to) = (strides(own), strides(shape));
    (0..own.len()).map(|axis| at / from[axis].max(1) % own[axis].max(1) * to[axis]).sum()
}
