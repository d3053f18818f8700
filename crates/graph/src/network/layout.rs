//! Tensors on a backend under other shapes, in parts, and side by side.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Slice, TensorData, TensorMetadata, get_or_init_device_settings};

use super::real::{Real, stored_shape};
use crate::tensor::{Fault, broadcast_shape, check_size, fault, shape_of, to_i64};
use crate::value::element_count;

impl<B: Backend> Real<B> {
    /// The same elements under another shape of the same size.
    pub(super) fn reshape(self, shape: &[usize]) -> Result<Self, Fault> {
        if element_count(shape) != Some(self.len()) {
            fault!("{} cannot take the shape {shape:?}", self.describe());
        }
        if self.shape == shape {
            return Ok(self);
        }
        let stored = stored_shape(shape);
        let same = self.primitive.shape() == stored;
        let primitive = if same { self.primitive } else { B::float_reshape(self.primitive, stored) };
        Ok(Self { primitive, shape: shape.to_vec() })
    }

    /// One row of all elements.
    pub(super) fn flat(self) -> Result<Self, Fault> {
        let count = self.len();
        self.reshape(&[count])
    }

    /// Repeats dimensions of length 1, as in NumPy's broadcasting.
    pub(super) fn expand(self, shape: &[usize]) -> Result<Self, Fault> {
        if self.shape == shape {
            return Ok(self);
        }
        check_size(shape)?;
        if broadcast_shape(&self.shape, shape)? != shape {
            fault!("{} cannot be repeated to the shape {shape:?}", self.describe());
        }
        let primitive = B::float_expand(self.ranked(shape.len())?, stored_shape(shape));
        Ok(Self { primitive, shape: shape.to_vec() })
    }

    /// The dimensions in another order, which is one of all of them.
    pub(super) fn permute(self, order: &[usize]) -> Result<Self, Fault> {
        let mut seen = order.to_vec();
        seen.sort_unstable();
        if !seen.into_iter().eq(0..self.rank()) {
            fault!("{order:?} is not an order of {} dimensions", self.rank());
        }
        if order.iter().copied().eq(0..self.rank()) {
            return Ok(self);
        }
        let shape = order.iter().map(|&axis| self.shape[axis]).collect();
        Ok(Self { primitive: B::float_permute(self.primitive, order), shape })
    }

    /// Two dimensions in each other's place.
    pub(super) fn swapped(self, one: usize, other: usize) -> Result<Self, Fault> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        if one.max(other) >= order.len() {
            fault!("{} has no dimensions {one} and {other}", self.describe());
        }
        order.swap(one, other);
        self.permute(&order)
    }

    /// The length of a dimension; a fault where there is none.
    pub(super) fn length(&self, axis: usize) -> Result<usize, Fault> {
        let length = self.shape.get(axis).copied();
        length.ok_or_else(|| Fault(format!("{} has no dimension {axis}", self.describe())))
    }

    /// A part of a dimension.
    pub(super) fn part(self, axis: usize, start: usize, count: usize) -> Result<Self, Fault> {
        let length = self.length(axis)?;
        if start.checked_add(count).is_none_or(|end| end > length) {
            fault!("{} has no {count} elements from {start} on along dimension {axis}", self.describe());
        }
        if count == length {
            return Ok(self);
        }
        let mut shape = self.shape.clone();
        let cut = |at: usize, &length: &usize| {
            if at == axis { Slice::from(start..start + count) } else { Slice::from(0..length) }
        };
        let cuts: Vec<Slice> = shape.iter().enumerate().map(|(at, length)| cut(at, length)).collect();
        shape[axis] = count;
        if shape.contains(&0) {
            return self.full(&shape, 0.0);
        }
        Ok(Self { primitive: B::float_slice(self.primitive, &cuts), shape })
    }

    /// Tensors of one type, side by side along a dimension.
    pub(super) fn join(parts: Vec<Self>, axis: usize) -> Result<Self, Fault> {
        let Some(first) = parts.first().cloned() else { fault!("there is nothing to join") };
        first.length(axis)?;
        let mut shape = first.shape.clone();
        shape[axis] = 0;
        for part in &parts {
            let fits = part.rank() == first.rank()
                && part.dtype() == first.dtype()
                && (0..shape.len()).all(|at| at == axis || part.shape[at] == first.shape[at]);
            if !fits {
                fault!("{} and {} cannot be joined along axis {axis}", first.describe(), part.describe());
            }
            shape[axis] += part.shape[axis];
        }
        check_size(&shape)?;
        let mut parts: Vec<FloatTensor<B>> =
            parts.into_iter().filter(|part| part.len() > 0).map(|part| part.primitive).collect();
        let primitive = match parts.len() {
            0 => return first.full(&shape, 0.0),
            1 => parts.remove(0),
            _ => B::float_cat(parts, axis),
        };
        Ok(Self { primitive, shape })
    }

    /// A number before and after the elements of each dimension.
    pub(super) fn padded(self, pads: &[(usize, usize)], number: f64) -> Result<Self, Fault> {
        let mut padded = self;
        for (axis, &(before, after)) in pads.iter().enumerate() {
            let edge = |count: usize, like: &Self| {
                let mut shape = like.shape.clone();
                shape[axis] = count;
                like.full(&shape, number)
            };
            padded.length(axis)?;
            if before == 0 && after == 0 {
                continue;
            }
            let parts = vec![edge(before, &padded)?, padded.clone(), edge(after, &padded)?];
            padded = Self::join(parts, axis)?;
        }
        Ok(padded)
    }

    /// Whole slices at positions of a dimension, which must be in range.
    pub(super) fn select(self, axis: usize, positions: &[usize]) -> Result<Self, Fault> {
        let length = self.length(axis)?;
        if let Some(outside) = positions.iter().find(|&&position| position >= length) {
            fault!("position {outside} is out of range for a length of {length}");
        }
        let mut shape = self.shape.clone();
        shape[axis] = positions.len();
        check_size(&shape)?;
        if shape.contains(&0) {
            return self.full(&shape, 0.0);
        }
        let indices = self.indices(positions);
        Ok(Self { primitive: B::float_select(self.primitive, axis, indices), shape })
    }

    fn indices(&self, positions: &[usize]) -> IntTensor<B> {
        let device = self.device();
        let dtype = get_or_init_device_settings::<B>(&device).int_dtype;
        let positions: Vec<i64> = positions.iter().map(|&position| to_i64(position)).collect();
        let count = positions.len();
        let data = TensorData::new(positions, shape_of(&[count])).convert_dtype(dtype.into());
        B::int_from_data(data, &device)
    }
}
