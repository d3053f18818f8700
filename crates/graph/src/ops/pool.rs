//! Pools: the maximum or mean of a window that moves over the spatial dimensions.
//!
//! One loop serves one and two dimensions, padding on either side and dilation, because burn's pools
//! take the same padding before and after.

use burn::backend::flex::FlexTensor;
use num_traits::Float;

use super::convolution::{Span, Window};
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, contiguous, fault, items, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("MaxPool", 1, FLOATS, max_pool),
    Entry::widening("AveragePool", 1, FLOATS, average_pool),
    Entry::widening("GlobalAveragePool", 1, FLOATS, |_| global(Kind::Average { count_padding: false })),
    Entry::widening("GlobalMaxPool", 1, FLOATS, |_| global(Kind::Max)),
];

#[derive(Clone, Copy)]
enum Kind {
    Max,
    Average {
        /// The mean is over the whole window, padding included.
        count_padding: bool,
    },
}

fn max_pool(node: &Node<'_>) -> Built {
    if node.output_used(1) {
        return Err(Refusal::Unsupported("the indices of the maxima are not supported".to_owned()));
    }
    windowed(node, Kind::Max)
}

fn average_pool(node: &Node<'_>) -> Built {
    windowed(node, Kind::Average { count_padding: node.flag("count_include_pad", false) })
}

fn windowed(node: &Node<'_>, kind: Kind) -> Built {
    let window = Window::read(node)?;
    if window.kernel.is_empty() {
        return Err(Refusal::Invalid("`kernel_shape` is missing".to_owned()));
    }
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let Some(lengths) = x.layout().shape().get(2..) else { fault!("the input has no spatial dimension") };
        let spans = window.spans(lengths, &window.kernel)?;
        pool(kind, &x, &spans).map(Into::into)
    })
}

/// A pool whose window is the whole image, whatever its rank.
fn global(kind: Kind) -> Built {
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        let Some((&[batch, channels], lengths)) = shape.split_first_chunk::<2>() else {
            fault!("the input has no channels");
        };
        let length = lengths.iter().product::<usize>();
        if length == 0 {
            fault!("the image is empty");
        }
        let flat = x.reshape(&[batch, channels, length])?.float()?;
        let span = Span { kernel: length, stride: 1, dilation: 1, pad: (0, 0), output: 1 };
        let pooled = pool(kind, &flat, &[span])?;
        let pooled_shape: Vec<usize> = shape[..2].iter().copied().chain(lengths.iter().map(|_| 1)).collect();
        Ok(Tensor::Dense(pooled).reshape(&pooled_shape)?.into())
    })
}

fn pool(kind: Kind, x: &FlexTensor, spans: &[Span]) -> Result<FlexTensor, Fault> {
    let shape = x.layout().shape();
    // One dimension is an image of one row.
    let single = Span { kernel: 1, stride: 1, dilation: 1, pad: (0, 0), output: 1 };
    let (rows, columns, height, width) = match (spans, &shape[2..]) {
        ([columns], &[width]) => (single, *columns, 1, width),
        ([rows, columns], &[height, width]) => (*rows, *columns, height, width),
        _ => fault!("pools of {} dimensions are not supported", shape.len().saturating_sub(2)),
    };
    let mut output: Vec<usize> = shape[..2].to_vec();
    output.extend(spans.iter().map(|span| span.output));
    check_size(&output)?;
    let x = contiguous(x);
    if height * width == 0 {
        fault!("the image is empty");
    }
    match type_of(&x) {
        DType::F64 => planes::<f64>(kind, &x, (height, width), rows, columns, &output),
        _ => planes::<f32>(kind, &x, (height, width), rows, columns, &output),
    }
    .dense()
}

fn planes<F: Item + Float>(
    kind: Kind,
    x: &FlexTensor,
    (height, width): (usize, usize),
    rows: Span,
    columns: Span,
    output: &[usize],
) -> Tensor {
    let mut pooled = Vec::with_capacity(output.iter().product());
    for image in items::<F>(x).chunks_exact(height * width) {
        for row in 0..rows.output {
            for column in 0..columns.output {
                pooled.push(window(kind, image, (height, width), (rows, row), (columns, column)));
            }
        }
    }
    Tensor::from_items(output, pooled)
}

/// The positions of a window inside of an image, and how many lie in image and padding together.
fn positions(span: Span, index: usize, length: usize) -> (impl Iterator<Item = usize> + Clone, usize) {
    let start = index * span.stride;
    let padded = span.pad.0 + length + span.pad.1;
    let all = (0..span.kernel).map(move |step| start + step * span.dilation);
    let counted = all.clone().filter(|&at| at < padded).count();
    let inside = all.filter_map(move |at| at.checked_sub(span.pad.0).filter(|&at| at < length));
    (inside, counted)
}

fn window<F: Float>(
    kind: Kind,
    image: &[F],
    (height, width): (usize, usize),
    (rows, row): (Span, usize),
    (columns, column): (Span, usize),
) -> F {
    let (inner_rows, row_count) = positions(rows, row, height);
    let (inner_columns, column_count) = positions(columns, column, width);
    let pixels = inner_rows.flat_map(|y| inner_columns.clone().map(move |x| image[y * width + x]));
    match kind {
        Kind::Max => pixels
            .fold(F::neg_infinity(), |best, pixel| if pixel > best || pixel.is_nan() { pixel } else { best }),
        Kind::Average { count_padding } => {
            let (sum, inside) =
                pixels.fold((F::zero(), 0usize), |(sum, count), pixel| (sum + pixel, count + 1));
            let count = if count_padding { row_count * column_count } else { inside };
            F::from(count).map_or_else(F::nan, |count| sum / count)
        }
    }
}
