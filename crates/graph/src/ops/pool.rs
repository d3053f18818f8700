//! Pools: the maximum, mean or norm of a window that moves over the spatial dimensions.
//!
//! One loop serves any number of dimensions, padding on either side and dilation, because burn's pools
//! take the same padding before and after.

use burn::backend::flex::FlexTensor;
use num_traits::Float;
use stoker_kernels::Isa;

use super::window::{Run, Span, Window, advance, strides, visit, wide};
use super::{Built, Entry, FLOATS, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, check_work, contiguous, fault, items, to_i64, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("MaxPool", 1, "floats, INT8 UINT8", max_pool),
    Entry::widening("AveragePool", 1, FLOATS, |node| {
        windowed(node, Kind::Average { count_padding: node.flag("count_include_pad", false) })
    }),
    Entry::widening("LpPool", 1, FLOATS, |node| windowed(node, Kind::Norm { power: power(node)? })),
    Entry::widening("GlobalAveragePool", 1, FLOATS, |_| global(Kind::Average { count_padding: false })),
    Entry::widening("GlobalMaxPool", 1, FLOATS, |_| global(Kind::Max)),
    Entry::widening("GlobalLpPool", 1, FLOATS, |node| global(Kind::Norm { power: power(node)? })),
];

#[derive(Clone, Copy)]
enum Kind {
    Max,
    Average {
        /// The mean is over the whole window, padding included.
        count_padding: bool,
    },
    /// `(sum |x|^power)^(1 / power)`.
    Norm {
        power: f64,
    },
}

/// The power of a norm: a float in the first version, an integer later.
fn power(node: &Node<'_>) -> Result<f64, Refusal> {
    let power = if node.opset() < 2 { f64::from(node.float("p", 2.0)) } else { node.int("p", 2) as f64 };
    if power > 0.0 { Ok(power) } else { Err(Refusal::Invalid(format!("`p` must be positive, not {power}"))) }
}

fn windowed(node: &Node<'_>, kind: Kind) -> Built {
    let window = Window::read_with_kernel(node)?;
    operator(move |inputs| {
        let x = inputs.float(0)?;
        let plan = Places::new(x.layout().shape(), &window)?;
        Ok(pool(kind, &x, &plan).into())
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
        if type_of(&flat) == DType::F32 && matches!(kind, Kind::Average { .. }) {
            let pooled_shape: Vec<usize> =
                shape[..2].iter().copied().chain(lengths.iter().map(|_| 1)).collect();
            let means = stoker_kernels::means(Isa::best(), items(&contiguous(&flat)), length);
            return Ok(Tensor::from_items(&pooled_shape, means).into());
        }
        let span = Span { kernel: length, stride: 1, dilation: 1, pad: (0, 0), output: 1 };
        let pooled = pool(kind, &flat, &Places::of_spans(&[batch, channels, length], &[span])?);
        let pooled_shape: Vec<usize> = shape[..2].iter().copied().chain(lengths.iter().map(|_| 1)).collect();
        Ok(pooled.reshape(&pooled_shape)?.into())
    })
}

/// Where the window stands along one dimension.
#[derive(Clone, Copy)]
struct Place {
    /// The elements of the image under it.
    inside: Run,
    /// How many there are with those of the padding.
    padded: usize,
}

/// All places of a window over images of one shape.
struct Places {
    /// By dimension.
    along: Vec<Vec<Place>>,
    /// The elements of an image.
    size: usize,
    /// The shape of the result.
    output: Vec<usize>,
}

impl Places {
    fn new(shape: &[usize], window: &Window) -> Result<Self, Fault> {
        let Some(lengths) = shape.get(2..).filter(|lengths| !lengths.is_empty()) else {
            fault!("the input has no spatial dimension");
        };
        let spans = window.spans(lengths, &window.kernel)?;
        for (span, &length) in spans.iter().zip(lengths) {
            // ONNX's formula gives negative padding here, of which implementations make different things.
            let seen = (span.output - 1) * span.stride + (span.kernel - 1) * span.dilation + 1;
            if window.auto_pad.is_same() && length >= seen + 2 {
                fault!("a stride that leaves out elements is not supported where padding keeps the length");
            }
        }
        Self::of_spans(shape, &spans)
    }

    fn of_spans(shape: &[usize], spans: &[Span]) -> Result<Self, Fault> {
        let lengths = &shape[2..];
        let mut output: Vec<usize> = shape[..2].to_vec();
        output.extend(spans.iter().map(|span| span.output));
        let places = check_size(&output)?;
        let window = spans.iter().map(|span| span.kernel).fold(1, usize::saturating_mul);
        check_work(&[places, window])?;
        let size = lengths.iter().product();
        if size == 0 {
            fault!("the image is empty");
        }
        let scales = strides(lengths);
        let along = |axis: usize| {
            let (span, length, scale) = (&spans[axis], lengths[axis], scales[axis]);
            let place =
                |at| Place { inside: span.under(at, length, scale), padded: span.padded_steps(at, length) };
            (0..span.output).map(place).collect()
        };
        Ok(Self { along: (0..spans.len()).map(along).collect(), size, output })
    }

    /// Calls `make` with the window at each place of each image, in the order of the result.
    fn each<T, R>(&self, x: &[T], mut make: impl FnMut(usize, &[T], &[Run], usize) -> R) -> Vec<R> {
        let mut results = Vec::with_capacity(self.output.iter().product());
        let grid = &self.output[2..];
        let mut at = vec![0; grid.len()];
        let mut runs = Vec::with_capacity(grid.len());
        for (index, image) in x.chunks_exact(self.size).enumerate() {
            loop {
                runs.clear();
                let mut padded = 1;
                for (places, &at) in self.along.iter().zip(&at) {
                    runs.push(places[at].inside);
                    padded = usize::saturating_mul(padded, places[at].padded);
                }
                results.push(make(index, image, &runs, padded));
                if !advance(&mut at, grid) {
                    break;
                }
            }
        }
        results
    }
}

fn pool(kind: Kind, x: &FlexTensor, places: &Places) -> Tensor {
    let x = contiguous(x);
    match type_of(&x) {
        DType::F64 => Tensor::from_items(&places.output, pooled::<f64>(kind, items(&x), places)),
        _ => Tensor::from_items(&places.output, pooled::<f32>(kind, items(&x), places)),
    }
}

fn pooled<F: Item + Float>(kind: Kind, x: &[F], places: &Places) -> Vec<F> {
    match kind {
        Kind::Max => maxima(x, F::neg_infinity(), places),
        Kind::Average { count_padding } => places.each(x, |_, image, runs, padded| {
            let (mut sum, mut count) = (F::zero(), 0usize);
            visit(runs, 0, &mut |at| {
                sum = sum + image[at];
                count += 1;
            });
            F::from(if count_padding { padded } else { count }).map_or_else(F::nan, |count| sum / count)
        }),
        Kind::Norm { power } => places.each(x, |_, image, runs, _| {
            let square = (power - 2.0).abs() < f64::EPSILON;
            let mut sum = 0.0f64;
            visit(runs, 0, &mut |at| {
                let size = wide(image[at].abs());
                sum += if square { size * size } else { size.powf(power) };
            });
            F::from(sum.powf(power.recip())).unwrap_or_else(F::nan)
        }),
    }
}

/// The maxima of single precision of windows with one or two spatial dimensions; `None` for all else.
fn maxima_of_planes(x: &FlexTensor, window: &Window, places: &Places) -> Result<Option<Tensor>, Fault> {
    if type_of(x) != DType::F32 {
        return Ok(None);
    }
    let shape = x.layout().shape().to_vec();
    let spans = window.spans(&shape[2..], &window.kernel)?;
    let (down, across) = match &spans[..] {
        [across] => (None, across),
        [down, across] => (Some(down), across),
        _ => return Ok(None),
    };
    let both = |of: fn(&Span) -> usize, missing: usize| [down.map_or(missing, of), of(across)];
    let span = stoker_kernels::Span {
        images: shape[0] * shape[1],
        input: [if shape.len() > 3 { shape[2] } else { 1 }, shape[shape.len() - 1]],
        stride: both(|span| span.stride, 1),
        dilation: both(|span| span.dilation, 1),
        pad: both(|span| span.pad.0, 0),
        output: both(|span| span.output, 1),
    };
    let kernel = both(|span| span.kernel, 1);
    let maxima = stoker_kernels::maxima(Isa::best(), items(x), kernel, &span);
    Ok(Some(Tensor::from_items(&places.output, maxima)))
}

fn maxima<T: Item>(x: &[T], lowest: T, places: &Places) -> Vec<T> {
    places.each(x, |_, image, runs, _| {
        let mut best = lowest;
        visit(runs, 0, &mut |at| {
            if exceeds(image[at], best) {
                best = image[at];
            }
        });
        best
    })
}

/// NaN is the largest of all.
fn exceeds<T: PartialOrd + Copy>(x: T, best: T) -> bool {
    x > best || x.partial_cmp(&x).is_none()
}

fn max_pool(node: &Node<'_>) -> Built {
    let window = Window::read_with_kernel(node)?;
    let indices = node.output_used(1);
    let by_column = node.flag("storage_order", false);
    operator(move |inputs| {
        let x = inputs.dense(0)?;
        let shape = x.layout().shape().to_vec();
        let places = Places::new(&shape, &window)?;
        let x = contiguous(&x);
        if !indices {
            if let Some(maxima) = maxima_of_planes(&x, &window, &places)? {
                return Ok(maxima.into());
            }
            return Ok(match type_of(&x) {
                DType::F32 | DType::F64 => pool(Kind::Max, &x, &places).into(),
                DType::U8 => Tensor::from_items(&places.output, maxima::<u8>(items(&x), 0, &places)).into(),
                DType::I8 => {
                    Tensor::from_items(&places.output, maxima::<i8>(items(&x), i8::MIN, &places)).into()
                }
                other => fault!("the maximum of {other} is not supported"),
            });
        }
        Ok(match type_of(&x) {
            DType::F32 => with_indices::<f32>(&x, f32::NEG_INFINITY, &places, by_column),
            DType::F64 => with_indices::<f64>(&x, f64::NEG_INFINITY, &places, by_column),
            DType::U8 => with_indices::<u8>(&x, u8::MIN, &places, by_column),
            DType::I8 => with_indices::<i8>(&x, i8::MIN, &places, by_column),
            other => fault!("the maximum of {other} is not supported"),
        })
    })
}

/// The maxima, and where each one is: the position in the whole tensor, with the spatial dimensions
/// counted from the first one on when `by_column`. A window over padding alone has the position -1.
fn with_indices<T: Item>(x: &FlexTensor, lowest: T, places: &Places, by_column: bool) -> Outputs {
    let lengths = &x.layout().shape()[2..];
    let scales = strides(lengths);
    let reordered = |at: usize| {
        let mut scale = 1;
        let mut column = 0;
        for (&length, &own) in lengths.iter().zip(&scales) {
            column += at / own % length * scale;
            scale *= length;
        }
        column
    };
    let (best, positions): (Vec<T>, Vec<i64>) = places
        .each(items::<T>(x), |index, image: &[T], runs, _| {
            let mut best: Option<(T, usize)> = None;
            visit(runs, 0, &mut |at| {
                if best.is_none_or(|(best, _)| exceeds(image[at], best)) {
                    best = Some((image[at], at));
                }
            });
            best.map_or((lowest, -1), |(best, at)| {
                let at = if by_column { reordered(at) } else { at };
                (best, to_i64(index * places.size + at))
            })
        })
        .into_iter()
        .unzip();
    Outputs::Many(vec![
        Tensor::from_items(&places.output, best),
        Tensor::from_items(&places.output, positions),
    ])
}
