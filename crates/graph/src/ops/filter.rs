//! Where a resized element comes from, and with which weights: the formulas of ONNX's `Resize`, along one
//! dimension.

use num_traits::ToPrimitive;

use crate::tensor::{Fault, check_size, fault};

/// How the elements between two are found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter {
    /// One of them.
    Nearest(Nearest),
    /// The two neighbours, by distance.
    Linear {
        /// When the result is smaller, the filter is as wide as a resulting element.
        antialias: bool,
    },
    /// Four neighbours, by the polynomials of "Cubic Convolution Interpolation for Digital Image Processing"
    /// (Keys 1981).
    Cubic {
        /// The free parameter of the polynomials.
        a: f64,
        /// As for linear.
        antialias: bool,
    },
}

/// Which of two elements is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nearest {
    /// The nearer; the lower one halfway.
    PreferFloor,
    /// The nearer; the upper one halfway.
    PreferCeil,
    /// The lower.
    Floor,
    /// The upper.
    Ceil,
    /// Before opset 11, whose text does not say it: the lower, and the upper where the result is smaller.
    Simple,
}

/// How a coordinate of the result becomes one of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    /// `pytorch_half_pixel`.
    HalfPixelOrZero,
    /// `tf_half_pixel_for_nn`.
    HalfPixelUnshifted,
    AlignCorners,
    Asymmetric,
    /// `tf_crop_and_resize`.
    Crop,
}

/// How much longer a dimension becomes: a fraction, so that whole results stay whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    over: f64,
    under: f64,
    /// The file gives the scale in single precision. What is computed with it is rounded to that precision:
    /// 1 / 0.33333334 is meant to be 3.
    single: bool,
}

impl Scale {
    /// A scale that is given, and the length that one of `length` takes.
    pub(super) fn of_number(scale: f64, length: usize) -> Result<(Self, usize), Fault> {
        let over = scale.is_finite() && scale > 0.0;
        let scale = Self { over: scale, under: 1.0, single: true };
        let output = scale.times(length).floor().to_usize().filter(|_| over);
        output.map(|output| (scale, output)).ok_or_else(|| Fault(format!("a scale cannot be {}", scale.over)))
    }

    /// The scale between two lengths.
    pub(super) fn of_lengths(output: usize, input: usize) -> Result<Self, Fault> {
        if input == 0 && output > 0 {
            fault!("an empty dimension cannot become one of {output}");
        }
        if input == 0 {
            return Ok(Self { over: 1.0, under: 1.0, single: false });
        }
        Ok(Self { over: output as f64, under: input as f64, single: false })
    }

    /// The scale as one number.
    pub(super) fn ratio(self) -> f64 {
        self.over / self.under
    }

    fn round(self, x: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "meant to lose precision")]
        if self.single { f64::from(x as f32) } else { x }
    }

    /// A length, scaled.
    pub(super) fn times(self, length: usize) -> f64 {
        self.round(length as f64 * self.over / self.under)
    }

    /// A coordinate, scaled back.
    fn back(self, x: f64) -> f64 {
        self.round(x * self.under / self.over)
    }
}

/// One dimension that is resized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) scale: Scale,
    /// The part of the input, from 0 to 1, that is resized where coordinates are those of a crop.
    pub(super) region: (f64, f64),
}

impl Line {
    /// True when nothing changes.
    pub(super) fn is_identity(&self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9;
        self.input == self.output
            && near(self.scale.ratio(), 1.0)
            && near(self.region.0, 0.0)
            && near(self.region.1, 1.0)
    }

    /// The coordinate in the input of element `at` of the result; `None` outside of a crop.
    fn source(&self, coordinates: Coordinates, at: usize) -> Option<f64> {
        let x = at as f64;
        let last = self.input as f64 - 1.0;
        // The length that the result would have if lengths could be fractions.
        let width = self.scale.times(self.input);
        let single = width <= 1.0;
        Some(match coordinates {
            Coordinates::HalfPixelOrZero if self.output <= 1 => 0.0,
            Coordinates::HalfPixel | Coordinates::HalfPixelOrZero => self.scale.back(x + 0.5) - 0.5,
            Coordinates::HalfPixelUnshifted => self.scale.back(x + 0.5),
            Coordinates::HalfPixelSymmetric => {
                let shift = self.input as f64 / 2.0 * (1.0 - self.output as f64 / width);
                shift + self.scale.back(x + 0.5) - 0.5
            }
            Coordinates::AlignCorners if single => 0.0,
            Coordinates::AlignCorners => x * last / (width - 1.0),
            Coordinates::Asymmetric => self.scale.back(x),
            Coordinates::Crop => {
                let (start, end) = self.region;
                let source = if single {
                    (start + end) * last / 2.0
                } else {
                    start * last + x * (end - start) * last / (width - 1.0)
                };
                return (0.0..=last).contains(&source).then_some(source);
            }
        })
    }

    /// The element of the input for each of the result; `None` outside of a crop.
    pub(super) fn nearest(&self, nearest: Nearest, coordinates: Coordinates) -> Vec<Option<usize>> {
        let smaller = self.scale.ratio() < 1.0;
        let element = |at| {
            let source = self.source(coordinates, at)?;
            let whole = match nearest {
                Nearest::PreferFloor => (source - 0.5).ceil(),
                Nearest::PreferCeil => (source + 0.5).floor(),
                Nearest::Ceil => source.ceil(),
                Nearest::Simple if smaller => source.ceil(),
                Nearest::Floor | Nearest::Simple => source.floor(),
            };
            Some(clamp(whole, self.input))
        };
        (0..self.output).map(element).collect()
    }
}

/// A coordinate within a dimension.
fn clamp(at: f64, length: usize) -> usize {
    at.clamp(0.0, length.saturating_sub(1) as f64).to_usize().unwrap_or(0)
}

/// The weights of one dimension that is resized.
pub(super) struct Taps {
    /// For each element of the result where its neighbours begin; `None` outside of a crop.
    starts: Vec<Option<f64>>,
    /// So many weights for each element.
    weights: Vec<f64>,
    width: usize,
    input: usize,
}

impl Taps {
    /// Of a filter that is not [`Filter::Nearest`].
    pub(super) fn new(
        filter: Filter,
        coordinates: Coordinates,
        line: Line,
        exclude_outside: bool,
    ) -> Result<Self, Fault> {
        let (reach, antialias) = match filter {
            Filter::Nearest(_) => fault!("the nearest element has no weights"),
            Filter::Linear { antialias } => (1.0, antialias),
            Filter::Cubic { antialias, .. } => (2.0, antialias),
        };
        // A filter is only ever made wider.
        let narrow = if antialias { line.scale.ratio().min(1.0) } else { 1.0 };
        let first = (-reach / narrow).floor() + 1.0;
        let width = (2.0 - 2.0 * first).to_usize().unwrap_or(usize::MAX);
        let count = check_size(&[line.output, width])?;
        let mut taps = Self {
            starts: Vec::with_capacity(line.output),
            weights: Vec::with_capacity(count),
            width,
            input: line.input,
        };
        for at in 0..line.output {
            let Some(source) = line.source(coordinates, at) else {
                taps.starts.push(None);
                taps.weights.extend(std::iter::repeat_n(0.0, width));
                continue;
            };
            let start = source.floor() + first;
            let begin = taps.weights.len();
            taps.starts.push(Some(start));
            let mut sum = 0.0;
            for step in 0..width {
                let neighbour = start + step as f64;
                let outside = neighbour < 0.0 || neighbour >= line.input as f64;
                let distance = (neighbour - source).abs() * narrow;
                let weight = if outside && exclude_outside { 0.0 } else { weight(filter, distance) };
                sum += weight;
                taps.weights.push(weight);
            }
            if (exclude_outside || antialias) && sum != 0.0 {
                taps.weights[begin..].iter_mut().for_each(|weight| *weight /= sum);
            }
        }
        Ok(taps)
    }

    /// The elements of the input, and their weights, of which element `at` of the result is the sum. Beyond
    /// an end the last element is repeated.
    pub(super) fn at(&self, at: usize) -> Option<impl Iterator<Item = (usize, f64)>> {
        let start = (*self.starts.get(at)?)?;
        let weights = self.weights.get(at * self.width..)?.iter().take(self.width).copied();
        let steps = weights.enumerate().filter(|&(_, weight)| weight != 0.0);
        Some(steps.map(move |(step, weight)| (clamp(start + step as f64, self.input), weight)))
    }
}

/// The weight of a neighbour at a distance.
fn weight(filter: Filter, distance: f64) -> f64 {
    match filter {
        Filter::Cubic { a, .. } if distance <= 1.0 => {
            ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
        }
        Filter::Cubic { a, .. } if distance < 2.0 => {
            ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
        }
        Filter::Cubic { .. } => 0.0,
        Filter::Linear { .. } | Filter::Nearest(_) => (1.0 - distance).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: usize, output: usize, scale: Scale) -> Line {
        Line { input, output, scale, region: (0.0, 1.0) }
    }

    #[test]
    fn a_third_in_single_precision_is_a_third() {
        let (scale, output) = Scale::of_number(f64::from(1.0f32 / 3.0), 9).expect("a scale");
        assert_eq!(output, 3);
        let nearest = line(9, 3, scale).nearest(Nearest::Floor, Coordinates::Asymmetric);
        assert_eq!(nearest, [Some(0), Some(3), Some(6)]);
    }

    #[test]
    fn weights_add_up_to_one() {
        let scale = Scale::of_lengths(5, 12).expect("a scale");
        for filter in [Filter::Linear { antialias: true }, Filter::Cubic { a: -0.75, antialias: true }] {
            let taps = Taps::new(filter, Coordinates::HalfPixel, line(12, 5, scale), false).expect("weights");
            for at in 0..5 {
                let sum: f64 = taps.at(at).expect("an element").map(|(_, weight)| weight).sum();
                assert!((sum - 1.0).abs() < 1e-12, "{sum}");
            }
        }
    }

    #[test]
    fn no_scale_makes_a_length_that_is_none() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Scale::of_number(scale, 3).is_err(), "{scale}");
        }
        assert!(Scale::of_lengths(2, 0).is_err());
    }
}
