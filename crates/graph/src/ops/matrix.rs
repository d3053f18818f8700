//! Operators on single matrices and stacks of them.

use bytemuck::Zeroable;

use super::cast::cast;
use super::{ALL, Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, for_storage, items, to_i64};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("EyeLike", 9, "numbers, BOOL", eye_like),
    Entry::new("Trilu", 14, ALL, triangle),
    Entry::widening("Det", 11, FLOATS, |_| operator(determinants)),
];

/// The element type of an attribute, or `None` when the file does not set it.
pub(super) fn type_attribute(node: &Node<'_>, name: &str) -> Result<Option<DType>, Refusal> {
    let number = node.int(name, 0);
    if number == 0 {
        return Ok(None);
    }
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    match dtype.filter(|&dtype| dtype != DType::String) {
        Some(dtype) => Ok(Some(dtype)),
        None => Err(Refusal::Unsupported(format!("element type {number} is not supported as `{name}`"))),
    }
}

/// Ones on the diagonal that lies `k` above the main one.
fn eye_like(node: &Node<'_>) -> Built {
    let k = node.int("k", 0);
    let dtype = type_attribute(node, "dtype")?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let &[rows, columns] = x.shape() else { fault!("a matrix is needed, not {}", x.describe()) };
        let mut ones = vec![0u8; check_size(x.shape())?];
        for row in 0..rows {
            let column = usize::try_from(to_i64(row).saturating_add(k)).ok();
            if let Some(column) = column.filter(|&column| column < columns) {
                ones[row * columns + column] = 1;
            }
        }
        Ok(cast(Tensor::from_items(x.shape(), ones), dtype.unwrap_or(x.dtype()))?.into())
    })
}

/// What is below (or above) the diagonal that lies `k` above the main one becomes zero.
fn triangle(node: &Node<'_>) -> Built {
    let upper = node.flag("upper", true);
    let k = Ints::input(node, 1)?;
    operator(move |inputs| {
        let k = k.get(inputs)?.and_then(|k| k.first().copied()).unwrap_or(0);
        let x = inputs.take(0)?;
        let &[.., rows, columns] = x.shape() else { fault!("a matrix is needed, not {}", x.describe()) };
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        Ok(for_storage!(dtype, E => {
            let dense = contiguous(&x.storage()?);
            let mut all = items::<E>(&dense).to_vec();
            for (position, element) in all.iter_mut().enumerate() {
                let (row, column) = (position / columns % rows, position % columns);
                let diagonal = to_i64(row).saturating_add(k);
                if if upper { to_i64(column) < diagonal } else { to_i64(column) > diagonal } {
                    *element = E::zeroed();
                }
            }
            Tensor::of_type::<E>(dtype, &shape, all)
        }, text => fault!("strings have no zero"))
        .into())
    })
}

fn determinants(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let x = inputs.take(0)?;
    let (&[.., rows, columns], DType::F32 | DType::F64) = (x.shape(), x.dtype()) else {
        fault!("floating-point matrices are needed, not {}", x.describe());
    };
    if rows != columns {
        fault!("a matrix of {rows} rows and {columns} columns has no determinant");
    }
    let stack = &x.shape()[..x.rank() - 2];
    let count = check_size(stack)?;
    let mut all = x.to_f64s()?;
    let size = rows * rows;
    let found = if size == 0 {
        vec![1.0; count]
    } else {
        all.chunks_exact_mut(size).map(|matrix| determinant(matrix, rows)).collect()
    };
    Ok(cast(Tensor::from_items(stack, found), x.dtype())?.into())
}

/// Gauss's elimination with the largest pivot of each column.
fn determinant(matrix: &mut [f64], size: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..size {
        let size_at = |row: &usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|a, b| size_at(a).total_cmp(&size_at(b))).unwrap_or(column);
        if pivot != column {
            for at in column..size {
                matrix.swap(pivot * size + at, column * size + at);
            }
            product = -product;
        }
        let divisor = matrix[column * size + column];
        product *= divisor;
        if divisor == 0.0 {
            return product;
        }
        let (done, below) = matrix.split_at_mut((column + 1) * size);
        let pivot_row = &done[column * size..];
        for row in below.chunks_exact_mut(size) {
            let factor = row[column] / divisor;
            for (element, &above) in row[column..].iter_mut().zip(&pivot_row[column..]) {
                *element -= factor * above;
            }
        }
    }
    product
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::determinant;

    #[test]
    fn determinants_are_those_of_known_matrices() {
        assert!((determinant(&mut [1.0, 2.0, 3.0, 4.0], 2) + 2.0).abs() < 1e-12);
        assert!((determinant(&mut [0.0, 2.0, 1.0, 0.0], 2) + 2.0).abs() < 1e-12);
        assert_eq!(determinant(&mut [1.0, 2.0, 2.0, 4.0], 2).abs(), 0.0);
        let mut matrix = [2.0, 0.0, 1.0, 1.0, 3.0, 2.0, 1.0, 1.0, 4.0];
        assert!((determinant(&mut matrix, 3) - 18.0).abs() < 1e-12);
    }
}
