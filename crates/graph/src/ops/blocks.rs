//! Channels that become blocks of an image, and back.

use super::{Built, Entry, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault, shape_of};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("DepthToSpace", 1, "all but text", depth_to_space),
    Entry::new("SpaceToDepth", 1, "all but text", space_to_depth),
];

/// The side of a block, and whether the channels of a block stand outside (`DCR`: the place in the block
/// first, then the channel) or inside (`CRD`).
fn attributes(node: &Node<'_>) -> Result<(usize, bool), Refusal> {
    let side = node.int("blocksize", 0);
    let side = usize::try_from(side).ok().filter(|&side| side > 0);
    let side = side.ok_or_else(|| Refusal::Invalid("`blocksize` must be positive".to_owned()))?;
    match node.string("mode", "DCR")?.as_str() {
        "DCR" => Ok((side, true)),
        "CRD" => Ok((side, false)),
        other => Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    }
}

fn images(x: &Tensor) -> Result<[usize; 4], Fault> {
    <[usize; 4]>::try_from(x.shape()).map_err(|_| Fault(format!("images are needed, not {}", x.describe())))
}

/// `x` as `parts`, in another order, as `shape`.
fn rearranged(x: Tensor, parts: &[usize], order: &[usize], shape: &[usize]) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    check_size(parts)?;
    let parts = x.storage()?.reshape(shape_of(parts)).permute(order).reshape(shape_of(shape));
    Ok(Tensor::stored(dtype, parts))
}

fn depth_to_space(node: &Node<'_>) -> Built {
    let (side, place_first) = attributes(node)?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let [count, channels, height, width] = images(&x)?;
        let area = side.checked_mul(side).filter(|&area| channels.is_multiple_of(area));
        let Some(area) = area else { fault!("{channels} channels do not fill blocks of {side} x {side}") };
        let depth = channels / area;
        let (parts, order) = if place_first {
            ([count, side, side, depth, height, width], [0, 3, 4, 1, 5, 2])
        } else {
            ([count, depth, side, side, height, width], [0, 1, 4, 2, 5, 3])
        };
        let (Some(tall), Some(wide)) = (height.checked_mul(side), width.checked_mul(side)) else {
            fault!("the result would be too large");
        };
        check_size(&[count, depth, tall, wide])?;
        Ok(rearranged(x, &parts, &order, &[count, depth, tall, wide])?.into())
    })
}

fn space_to_depth(node: &Node<'_>) -> Built {
    let (side, place_first) = attributes(node)?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let [count, channels, height, width] = images(&x)?;
        if !height.is_multiple_of(side) || !width.is_multiple_of(side) {
            fault!("{} is not made of blocks of {side} x {side}", x.describe());
        }
        let (rows, columns) = (height / side, width / side);
        let depth = side.checked_mul(side).and_then(|area| area.checked_mul(channels));
        let Some(depth) = depth else { fault!("the result would be too large") };
        check_size(&[count, depth, rows, columns])?;
        let order = if place_first { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] };
        let parts = [count, channels, rows, side, columns, side];
        Ok(rearranged(x, &parts, &order, &[count, depth, rows, columns])?.into())
    })
}
