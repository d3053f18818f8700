//! Regions of interest: parts of an image, pooled to one size.

use burn::backend::flex::FlexTensor;
use num_traits::Float;

use super::window::wide;
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, check_work, contiguous, fault, items, type_of};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("MaxRoiPool", 1, FLOATS, max_roi_pool),
    Entry::widening("RoiAlign", 10, FLOATS, roi_align),
];

/// The most samples along one side of a region.
const MAX_SAMPLES: usize = 1 << 16;

/// A length that is an attribute.
fn length(number: i64, name: &str) -> Result<usize, Refusal> {
    let length = usize::try_from(number).ok().filter(|&length| length > 0);
    length.ok_or_else(|| Refusal::Invalid(format!("`{name}` must be positive, not {number}")))
}

/// Images of the shape `[images, channels, height, width]`.
struct Images {
    count: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl Images {
    fn new(shape: &[usize]) -> Result<Self, Fault> {
        match *shape {
            [count, channels, height, width] if height > 0 && width > 0 => {
                Ok(Self { count, channels, height, width })
            }
            _ => fault!("images are needed, not {shape:?}"),
        }
    }

    /// The elements of one channel.
    fn plane<'a, T>(&self, x: &'a [T], image: usize, channel: usize) -> &'a [T] {
        let size = self.height * self.width;
        &x[(image * self.channels + channel) * size..][..size]
    }

    /// An image's number, checked.
    fn image(&self, number: f64) -> Result<usize, Fault> {
        let image = num_traits::ToPrimitive::to_usize(&number).filter(|&image| image < self.count);
        image
            .ok_or_else(|| Fault(format!("a region is of image {number}, of which there are {}", self.count)))
    }
}

/// The maximum of each bin of each region, as in "Fast R-CNN" (Girshick 2015). A region is
/// `[image, x1, y1, x2, y2]`, both corners included.
fn max_roi_pool(node: &Node<'_>) -> Built {
    let shape = node.ints("pooled_shape").unwrap_or_default();
    let &[height, width] = shape.as_slice() else {
        return Err(Refusal::Invalid("`pooled_shape` must be height and width".to_owned()));
    };
    let size = (length(height, "pooled_shape")?, length(width, "pooled_shape")?);
    let scale = f64::from(node.float("spatial_scale", 1.0));
    operator(move |inputs| {
        let (x, regions) = (inputs.float(0)?, inputs.take(1)?);
        let images = Images::new(x.layout().shape())?;
        let &[count, 5] = regions.shape() else {
            fault!("regions of 5 numbers are needed, not {:?}", regions.shape());
        };
        check_size(&[count, images.channels, size.0, size.1])?;
        // A region looks at no more than the image, and at one pixel for each bin.
        let (rows, columns) = (size.0.saturating_add(images.height), size.1.saturating_add(images.width));
        check_work(&[count, images.channels, rows, columns])?;
        let (x, regions) = (contiguous(&x), regions.to_f64s()?);
        match type_of(&x) {
            DType::F64 => max_of_regions::<f64>(&x, &images, &regions, scale, size),
            _ => max_of_regions::<f32>(&x, &images, &regions, scale, size),
        }
        .map(Into::into)
    })
}

fn max_of_regions<F: Item + Float>(
    x: &FlexTensor,
    images: &Images,
    regions: &[f64],
    scale: f64,
    (height, width): (usize, usize),
) -> Result<Tensor, Fault> {
    let x = items::<F>(x);
    let count = regions.len() / 5;
    let mut pooled = Vec::with_capacity(count * images.channels * height * width);
    for region in regions.chunks_exact(5) {
        let image = images.image(region[0])?;
        let rows = bins(region[2] * scale, region[4] * scale, height, images.height);
        let columns = bins(region[1] * scale, region[3] * scale, width, images.width);
        for channel in 0..images.channels {
            let plane = images.plane(x, image, channel);
            for rows in &rows {
                for columns in &columns {
                    let mut best: Option<F> = None;
                    for row in rows.clone() {
                        for &pixel in &plane[row * images.width..][columns.clone()] {
                            if best.is_none_or(|best| pixel > best) {
                                best = Some(pixel);
                            }
                        }
                    }
                    pooled.push(best.unwrap_or_else(F::zero));
                }
            }
        }
    }
    Ok(Tensor::from_items(&[count, images.channels, height, width], pooled))
}

/// The pixels of each of `count` bins between two corners, within `0..length`.
fn bins(start: f64, end: f64, count: usize, length: usize) -> Vec<std::ops::Range<usize>> {
    let (start, end) = (start.round(), end.round());
    let size = (end - start + 1.0).max(1.0) / count as f64;
    let pixel = |at: f64| {
        let at = (at + start).clamp(0.0, length as f64);
        num_traits::ToPrimitive::to_usize(&at).unwrap_or(0)
    };
    let bin = |bin: usize| {
        let from = pixel((bin as f64 * size).floor());
        from..pixel(((bin + 1) as f64 * size).ceil()).max(from)
    };
    (0..count).map(bin).collect()
}

/// How samples are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Average,
    Max,
}

/// The attributes of `RoiAlign`.
struct Align {
    mode: Mode,
    size: (usize, usize),
    /// Samples along each side of a bin; 0 for as many as there are pixels.
    samples: usize,
    scale: f64,
    /// What is taken off coordinates, so that pixels are named by their centres.
    offset: f64,
}

fn roi_align(node: &Node<'_>) -> Built {
    let mode = match node.string("mode", "avg")?.as_str() {
        "avg" => Mode::Average,
        "max" => Mode::Max,
        other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    };
    let default = if node.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let offset = match node.string("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => 0.5,
        "output_half_pixel" => 0.0,
        other => {
            return Err(Refusal::Invalid(format!("`coordinate_transformation_mode` cannot be `{other}`")));
        }
    };
    let height = length(node.int("output_height", 1), "output_height")?;
    let width = length(node.int("output_width", 1), "output_width")?;
    let samples = usize::try_from(node.int("sampling_ratio", 0));
    let align = Align {
        mode,
        size: (height, width),
        samples: samples.map_err(|_| Refusal::Invalid("`sampling_ratio` is negative".to_owned()))?,
        scale: f64::from(node.float("spatial_scale", 1.0)),
        offset,
    };
    operator(move |inputs| {
        let (x, regions, numbers) = (inputs.float(0)?, inputs.take(1)?, inputs.take(2)?.to_i64s()?);
        let images = Images::new(x.layout().shape())?;
        if regions.shape() != [numbers.len(), 4] {
            fault!("{} regions of 4 numbers are needed, not {:?}", numbers.len(), regions.shape());
        }
        check_size(&[numbers.len(), images.channels, height, width])?;
        let (x, regions) = (contiguous(&x), regions.to_f64s()?);
        match type_of(&x) {
            DType::F64 => align.regions::<f64>(&x, &images, &regions, &numbers),
            _ => align.regions::<f32>(&x, &images, &regions, &numbers),
        }
        .map(Into::into)
    })
}

/// A sample along one side: two neighbours and their weights, which are zero outside of the image.
#[derive(Clone, Copy, Default)]
struct Sample {
    at: [usize; 2],
    weights: [f64; 2],
}

impl Align {
    fn regions<F: Item + Float>(
        &self,
        x: &FlexTensor,
        images: &Images,
        regions: &[f64],
        numbers: &[i64],
    ) -> Result<Tensor, Fault> {
        let x = items::<F>(x);
        let (height, width) = self.size;
        let mut pooled = Vec::with_capacity(numbers.len() * images.channels * height * width);
        for (region, &number) in regions.chunks_exact(4).zip(numbers) {
            let image = images.image(number as f64)?;
            let rows = self.samples(region[1], region[3], height, images.height)?;
            let columns = self.samples(region[0], region[2], width, images.width)?;
            let along = |side: &[Vec<Sample>]| side.iter().map(Vec::len).sum::<usize>();
            // Where there is no channel, the samples have been made all the same.
            check_work(&[
                numbers.len(),
                images.channels.max(1),
                along(&rows).max(1),
                along(&columns).max(1),
            ])?;
            for channel in 0..images.channels {
                let plane = images.plane(x, image, channel);
                for rows in &rows {
                    for columns in &columns {
                        let number = bin(self.mode, plane, images.width, rows, columns);
                        pooled.push(F::from(number).unwrap_or_else(F::nan));
                    }
                }
            }
        }
        Ok(Tensor::from_items(&[numbers.len(), images.channels, height, width], pooled))
    }

    /// The samples of each bin along a side of a region that goes from `start` to `end`.
    fn samples(&self, start: f64, end: f64, bins: usize, length: usize) -> Result<Vec<Vec<Sample>>, Fault> {
        let (start, end) = (start * self.scale - self.offset, end * self.scale - self.offset);
        // The old form has no region smaller than a pixel.
        let side = if self.offset == 0.0 { (end - start).max(1.0) } else { end - start };
        let bin = side / bins as f64;
        let count = match self.samples {
            0 => num_traits::ToPrimitive::to_usize(&bin.ceil().max(0.0)).unwrap_or(usize::MAX),
            count => count,
        };
        if count.saturating_mul(bins) > MAX_SAMPLES {
            fault!("a region with a side of {side} is too large");
        }
        let sample = |at: usize, step: usize| {
            sample(start + at as f64 * bin + (step as f64 + 0.5) * bin / count as f64, length)
        };
        Ok((0..bins).map(|at| (0..count).map(|step| sample(at, step)).collect()).collect())
    }
}

/// A coordinate between pixels; one that is more than a pixel outside has no weight.
fn sample(at: f64, length: usize) -> Sample {
    if !(-1.0..=length as f64).contains(&at) {
        return Sample::default();
    }
    let at = at.max(0.0);
    let low = num_traits::ToPrimitive::to_usize(&at).unwrap_or(0);
    if low + 1 >= length {
        return Sample { at: [length - 1; 2], weights: [1.0, 0.0] };
    }
    let part = at - low as f64;
    Sample { at: [low, low + 1], weights: [1.0 - part, part] }
}

/// The mean of all samples of a bin, or the largest of their weighted neighbours.
fn bin<F: Float>(mode: Mode, plane: &[F], width: usize, rows: &[Sample], columns: &[Sample]) -> f64 {
    let (mut sum, mut best) = (0.0, None);
    for row in rows {
        for column in columns {
            for (y, row_weight) in row.at.into_iter().zip(row.weights) {
                for (x, column_weight) in column.at.into_iter().zip(column.weights) {
                    let part = row_weight * column_weight * wide(plane[y * width + x]);
                    sum += part;
                    best = Some(best.map_or(part, |best: f64| best.max(part)));
                }
            }
        }
    }
    match mode {
        Mode::Average => sum / (rows.len() * columns.len()).max(1) as f64,
        Mode::Max => best.unwrap_or(0.0),
    }
}
