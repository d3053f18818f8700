//! Images sampled at given positions, and the positions of an affine map.

use burn::backend::flex::FlexTensor;
use num_traits::{Float, ToPrimitive};

use super::cast::cast;
use super::window::{advance, strides, wide};
use super::{ALL, Built, Entry, FLOATS, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Item, Tensor, check_size, contiguous, fault, for_storage, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] =
    &[Entry::new("GridSample", 16, ALL, grid_sample), Entry::widening("AffineGrid", 20, FLOATS, affine_grid)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// What there is outside of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outside {
    /// Zeros.
    Zeros,
    /// The element at the border.
    Border,
    /// The image, mirrored at its borders.
    Reflection,
}

/// The most dimensions between whose positions something is computed.
pub(super) const MAX_BLENDED: usize = 6;

fn grid_sample(node: &Node<'_>) -> Built {
    let mode = match node.string("mode", "linear")?.as_str() {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    };
    let outside = match node.string("padding_mode", "zeros")?.as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(Refusal::Invalid(format!("`padding_mode` cannot be `{other}`"))),
    };
    let align_corners = node.flag("align_corners", false);
    operator(move |inputs| {
        let (x, grid) = (inputs.take(0)?, inputs.take(1)?);
        let rank = x.rank();
        let fits = rank >= 3
            && grid.rank() == rank
            && grid.shape()[0] == x.shape()[0]
            && grid.shape()[rank - 1] == rank - 2;
        if !fits {
            fault!("a grid of {:?} does not fit images of {:?}", grid.shape(), x.shape());
        }
        let lengths = x.shape()[2..].to_vec();
        // Each dimension doubles the neighbours of a position, or takes four times as many.
        if mode != Mode::Nearest && lengths.len() > MAX_BLENDED {
            fault!("between positions of {} dimensions nothing is computed", lengths.len());
        }
        let shape = [&x.shape()[..2], &grid.shape()[1..rank - 1]].concat();
        if check_size(&shape)? == 0 {
            return cast(Tensor::from_items(&shape, Vec::<f32>::new()), x.dtype()).map(Into::into);
        }
        if lengths.contains(&0) {
            fault!("the images are empty");
        }
        let sampler = Sampler { lengths, outside, align_corners };
        let positions = sampler.positions(&grid)?;
        sample(&sampler, mode, x, &positions, &shape).map(Into::into)
    })
}

/// One image's dimensions, and how positions in it are meant.
struct Sampler {
    lengths: Vec<usize>,
    outside: Outside,
    align_corners: bool,
}

impl Sampler {
    /// The positions of a grid, in elements; the last dimension in the order of the image's dimensions.
    fn positions(&self, grid: &Tensor) -> Result<Vec<f64>, Fault> {
        let single = grid.dtype() == DType::F32;
        let rank = self.lengths.len();
        let mut positions = grid.to_f64s()?;
        for position in positions.chunks_exact_mut(rank) {
            // The grid begins with the last dimension.
            position.reverse();
            for (x, &length) in position.iter_mut().zip(&self.lengths) {
                let length = length as f64;
                let at = if self.align_corners {
                    f64::midpoint(*x, 1.0) * (length - 1.0)
                } else {
                    ((*x + 1.0) * length - 1.0) / 2.0
                };
                // In the precision of the grid, whose errors would else decide which element is the nearest.
                #[expect(clippy::cast_possible_truncation, reason = "meant to lose precision")]
                let at = if single { f64::from(at as f32) } else { at };
                *x = at;
            }
        }
        Ok(positions)
    }

    /// Moves a position into the image, unless zeros are outside.
    fn moved(&self, at: f64, length: usize) -> f64 {
        match self.outside {
            Outside::Zeros => at,
            Outside::Border => at.clamp(0.0, length as f64 - 1.0),
            Outside::Reflection => {
                let (low, high) = self.borders(length);
                if (low..=high).contains(&at) { at } else { reflect(at, low, high) }
            }
        }
    }

    /// Where images are mirrored.
    fn borders(&self, length: usize) -> (f64, f64) {
        if self.align_corners { (0.0, length as f64 - 1.0) } else { (-0.5, length as f64 - 0.5) }
    }

    /// The element at a whole position; `None` for a zero.
    fn element(&self, at: f64, length: usize) -> Option<usize> {
        let last = length as f64 - 1.0;
        if (0.0..=last).contains(&at) {
            return at.to_usize();
        }
        match self.outside {
            Outside::Zeros => None,
            Outside::Border => at.clamp(0.0, last).to_usize(),
            Outside::Reflection => {
                let (low, high) = self.borders(length);
                reflect(at, low, high).clamp(0.0, last).to_usize()
            }
        }
    }

    /// Neighbours along one dimension, and their weights. A neighbour that is a zero is left out.
    fn neighbours(&self, mode: Mode, at: f64, length: usize) -> Vec<(usize, f64)> {
        // As in PyTorch, the four neighbours of the cubic mode are each moved, not the position between them.
        let at = if mode == Mode::Cubic { at } else { self.moved(at, length) };
        let low = at.floor();
        let part = at - low;
        let one = |(step, weight): (f64, f64)| Some((self.element(low + step, length)?, weight));
        match mode {
            Mode::Nearest => {
                self.element(at.round_ties_even(), length).map(|at| (at, 1.0)).into_iter().collect()
            }
            Mode::Linear => [(0.0, 1.0 - part), (1.0, part)].into_iter().filter_map(one).collect(),
            Mode::Cubic => [
                (-1.0, cubic(1.0 + part)),
                (0.0, cubic(part)),
                (1.0, cubic(1.0 - part)),
                (2.0, cubic(2.0 - part)),
            ]
            .into_iter()
            .filter_map(one)
            .collect(),
        }
    }
}

/// A position outside of a mirrored image, moved into it.
fn reflect(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let distance = (at - low).rem_euclid(2.0 * range);
    low + if distance > range { 2.0 * range - distance } else { distance }
}

/// The weight of a neighbour at a distance, by the polynomials of Keys (1981) with a = -0.75.
fn cubic(distance: f64) -> f64 {
    let a = -0.75;
    if distance <= 1.0 {
        ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
    } else {
        ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
    }
}

fn sample(
    sampler: &Sampler,
    mode: Mode,
    x: Tensor,
    positions: &[f64],
    shape: &[usize],
) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    if mode != Mode::Nearest {
        return match dtype {
            DType::F32 => Ok(mixed::<f32>(sampler, mode, &x.dense()?, positions, shape)),
            DType::F64 => Ok(mixed::<f64>(sampler, mode, &x.dense()?, positions, shape)),
            // Not by the wrapper for halves: the grid may be of another type than the image.
            DType::F16 | DType::BF16 => {
                let wide = cast(x, DType::F32)?.dense()?;
                cast(mixed::<f32>(sampler, mode, &wide, positions, shape), dtype)
            }
            other => fault!("{other} is sampled in the nearest mode only"),
        };
    }
    let places: usize = shape[2..].iter().product();
    let rank = sampler.lengths.len();
    let scales = strides(&sampler.lengths);
    let element = |position: &[f64]| {
        let one = |axis: usize| {
            let length = sampler.lengths[axis];
            let at = sampler.moved(position[axis].round_ties_even(), length).trunc();
            sampler.element(at, length).map(|at| at * scales[axis])
        };
        (0..rank).map(one).sum::<Option<usize>>()
    };
    let chosen: Vec<Option<usize>> = positions.chunks_exact(rank).map(element).collect();
    let (channels, size) = (shape[1], sampler.lengths.iter().product::<usize>());
    for_storage!(dtype, E => {
        let x = contiguous(&x.storage()?);
        let x = items::<E>(&x);
        let mut result = Vec::with_capacity(shape.iter().product());
        for plane in 0..shape[0] * channels {
            let image = &x[plane * size..][..size];
            let chosen = &chosen[plane / channels * places..][..places];
            result.extend(chosen.iter().map(|at| at.map_or(<E as bytemuck::Zeroable>::zeroed(), |at| image[at])));
        }
        Ok(Tensor::of_type::<E>(dtype, shape, result))
    }, text => fault!("strings are not sampled"))
}

/// Weighted sums of the neighbours of each position.
fn mixed<F: Item + Float>(
    sampler: &Sampler,
    mode: Mode,
    x: &FlexTensor,
    positions: &[f64],
    shape: &[usize],
) -> Tensor {
    let x = contiguous(x);
    let x = items::<F>(&x);
    let rank = sampler.lengths.len();
    let (channels, size) = (shape[1], sampler.lengths.iter().product::<usize>());
    let places: usize = shape[2..].iter().product();
    let mut result = vec![F::zero(); shape.iter().product()];
    let scales = strides(&sampler.lengths);
    for (index, position) in positions.chunks_exact(rank).enumerate() {
        let (image, place) = (index / places.max(1), index % places.max(1));
        let axes: Vec<Vec<(usize, f64)>> = (0..rank)
            .map(|axis| {
                let along = sampler.neighbours(mode, position[axis], sampler.lengths[axis]);
                along.into_iter().map(|(at, weight)| (at * scales[axis], weight)).collect()
            })
            .collect();
        let corners = corners(&axes);
        for channel in 0..channels {
            let channel = image * channels + channel;
            let source = &x[channel * size..][..size];
            let sum: f64 = corners.iter().map(|&(at, weight)| weight * wide(source[at])).sum();
            result[channel * places + place] = F::from(sum).unwrap_or_else(F::nan);
        }
    }
    Tensor::from_items(shape, result)
}

/// Every combination of one neighbour per dimension: positions added, weights multiplied.
pub(super) fn corners(axes: &[Vec<(usize, f64)>]) -> Vec<(usize, f64)> {
    axes.iter().fold(vec![(0, 1.0)], |corners, axis| {
        let combine =
            |(at, weight): (usize, f64)| axis.iter().map(move |&(more, by)| (at + more, weight * by));
        corners.into_iter().flat_map(combine).collect()
    })
}

/// The positions `theta * (x, y, .., 1)` of a regular grid over -1 to 1.
fn affine_grid(node: &Node<'_>) -> Built {
    let size = Ints::input(node, 1)?;
    let align_corners = node.flag("align_corners", false);
    operator(move |inputs| {
        let size = size.get(inputs)?.ok_or_else(|| Fault("the size is missing".to_owned()))?;
        let size = super::shape::lengths(&size)?;
        let theta = inputs.take(0)?;
        let Some(lengths) = size.get(2..).filter(|lengths| (2..=3).contains(&lengths.len())) else {
            fault!("a grid has two or three dimensions, not {}", size.len().saturating_sub(2));
        };
        let rank = lengths.len();
        if theta.shape() != [size[0], rank, rank + 1] {
            fault!("matrices of {:?} do not fit the size {size:?}", theta.shape());
        }
        let shape = [&size[..1], lengths, &[rank]].concat();
        let count = check_size(&shape)?;
        let dtype = theta.dtype();
        let numbers = theta.to_f64s()?;
        let mut positions: Vec<f64> = Vec::with_capacity(count);
        let mut at = vec![0; rank];
        for matrix in numbers.chunks_exact(rank * (rank + 1)) {
            if count == 0 {
                break;
            }
            loop {
                for row in matrix.chunks_exact(rank + 1) {
                    // The first column belongs to the last dimension.
                    let along = (0..rank).rev().map(|axis| along(at[axis], lengths[axis], align_corners));
                    let sum: f64 = row.iter().zip(along).map(|(factor, x)| factor * x).sum();
                    positions.push(sum + row[rank]);
                }
                if !advance(&mut at, lengths) {
                    break;
                }
            }
        }
        Ok(cast(Tensor::from_items(&shape, positions), dtype)?.into())
    })
}

/// Where an element is, on a line from -1 to 1 that goes through the centres of the outer elements, or along
/// their outer edges. A single element is in the middle.
fn along(at: usize, length: usize, align_corners: bool) -> f64 {
    let (at, length) = (at as f64, length as f64);
    if !align_corners {
        (2.0 * at + 1.0) / length - 1.0
    } else if length > 1.0 {
        2.0 * at / (length - 1.0) - 1.0
    } else {
        0.0
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn mirrors_stand_at_the_borders() {
        let at: Vec<f64> = [-0.7, 2.6, 5.6, -3.0].iter().map(|&at| reflect(at, -0.5, 2.5)).collect();
        for (at, wanted) in at.iter().zip([-0.3, 2.4, -0.4, 2.0]) {
            assert!((at - wanted).abs() < 1e-9, "{at} is not {wanted}");
        }
        assert_eq!(reflect(f64::MAX, 0.0, 0.0), 0.0);
    }

    #[test]
    fn no_position_leaves_the_image() {
        for outside in [Outside::Zeros, Outside::Border, Outside::Reflection] {
            for align_corners in [false, true] {
                let sampler = Sampler { lengths: vec![3], outside, align_corners };
                for at in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, 2.5, -0.5] {
                    for mode in [Mode::Nearest, Mode::Linear, Mode::Cubic] {
                        assert!(sampler.neighbours(mode, at, 3).iter().all(|&(at, _)| at < 3), "{at}");
                    }
                }
            }
        }
    }
}
