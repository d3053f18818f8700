//! Images of another size: nearest, linear and cubic interpolation along any dimensions.
//!
//! All modes are separable: each dimension is resized by itself, with the weights of [`super::filter`].

use num_traits::ToPrimitive;

use super::cast::cast;
use super::filter::{Coordinates, Filter, Line, Nearest, Scale, Taps};
use super::window::wide;
use super::{ALL, Built, Entry, Inputs, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{
    Fault, Item, Tensor, check_size, contiguous, fault, for_storage, items, resolve_axis, to_i64,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] =
    &[Entry::new("Resize", 10, ALL, resize), Entry::new("Upsample", 1, ALL, upsample)];

/// What to do where both dimensions ask for another scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Where the numbers of a request are, and what the attributes say.
struct Resize {
    filter: Filter,
    coordinates: Coordinates,
    exclude_outside: bool,
    extrapolation: f32,
    policy: Policy,
    axes: Option<Vec<i64>>,
    /// Scales that are attributes.
    fixed: Option<Vec<f32>>,
    /// The inputs that hold regions and scales.
    region_input: Option<usize>,
    scales_input: Option<usize>,
    sizes: Ints,
}

impl Resize {
    /// The form that had scales alone: coordinates are divided by them.
    fn simple(filter: Filter) -> Self {
        Self {
            filter,
            coordinates: Coordinates::Asymmetric,
            exclude_outside: false,
            extrapolation: 0.0,
            policy: Policy::Stretch,
            axes: None,
            fixed: None,
            region_input: None,
            scales_input: Some(1),
            sizes: Ints::Absent,
        }
    }

    fn operator(self) -> Built {
        operator(move |inputs| self.run(inputs).map(Into::into))
    }
}

fn unknown(attribute: &str, value: &str) -> Refusal {
    Refusal::Invalid(format!("`{attribute}` cannot be `{value}`"))
}

fn upsample(node: &Node<'_>) -> Built {
    let filter = match node.string("mode", "nearest")?.as_str() {
        "nearest" => Filter::Nearest(Nearest::Floor),
        "linear" | "bilinear" => Filter::Linear { antialias: false },
        other => return Err(unknown("mode", other)),
    };
    let mut upsample = Resize::simple(filter);
    if node.opset() < 7 {
        let scales = vec![1.0, 1.0, node.float("height_scale", 1.0), node.float("width_scale", 1.0)];
        upsample.fixed = Some(scales);
    } else if node.opset() < 9 {
        upsample.fixed = Some(node.floats("scales"));
    }
    upsample.operator()
}

fn resize(node: &Node<'_>) -> Built {
    let mode = node.string("mode", "nearest")?;
    if node.opset() < 11 {
        return Resize::simple(match mode.as_str() {
            "nearest" => Filter::Nearest(Nearest::Simple),
            "linear" => Filter::Linear { antialias: false },
            other => return Err(unknown("mode", other)),
        })
        .operator();
    }
    let antialias = node.flag("antialias", false);
    let filter = match mode.as_str() {
        "nearest" if antialias => {
            return Err(Refusal::Invalid("`antialias` does not go with the nearest mode".to_owned()));
        }
        "nearest" => Filter::Nearest(match node.string("nearest_mode", "round_prefer_floor")?.as_str() {
            "round_prefer_floor" => Nearest::PreferFloor,
            "round_prefer_ceil" => Nearest::PreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(unknown("nearest_mode", other)),
        }),
        "linear" => Filter::Linear { antialias },
        "cubic" => Filter::Cubic { a: node.float("cubic_coeff_a", -0.75).into(), antialias },
        other => return Err(unknown("mode", other)),
    };
    let coordinates = match node.string("coordinate_transformation_mode", "half_pixel")?.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::HalfPixelOrZero,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::HalfPixelUnshifted,
        "tf_crop_and_resize" => Coordinates::Crop,
        other => return Err(unknown("coordinate_transformation_mode", other)),
    };
    let policy = match node.string("keep_aspect_ratio_policy", "stretch")?.as_str() {
        "stretch" => Policy::Stretch,
        "not_larger" => Policy::NotLarger,
        "not_smaller" => Policy::NotSmaller,
        other => return Err(unknown("keep_aspect_ratio_policy", other)),
    };
    Resize {
        filter,
        coordinates,
        exclude_outside: node.flag("exclude_outside", false),
        extrapolation: node.float("extrapolation_value", 0.0),
        policy,
        axes: node.ints("axes"),
        fixed: None,
        region_input: (coordinates == Coordinates::Crop).then_some(1),
        scales_input: Some(2),
        sizes: Ints::input(node, 3)?,
    }
    .operator()
}

impl Resize {
    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Tensor, Fault> {
        let numbers = |index: Option<usize>| {
            let tensor = index.and_then(|index| inputs.peek(index)).filter(|tensor| tensor.len() > 0);
            tensor.map(Tensor::to_f64s).transpose()
        };
        let regions = numbers(self.region_input)?;
        let scales = match &self.fixed {
            Some(fixed) => Some(fixed.iter().map(|&scale| f64::from(scale)).collect()),
            None => numbers(self.scales_input)?,
        };
        let sizes = self.sizes.get(inputs)?.filter(|sizes| !sizes.is_empty());
        let sizes = sizes.map(|sizes| super::shape::lengths(&sizes)).transpose()?;
        let x = inputs.take(0)?;
        let rank = x.rank();
        let axes = match &self.axes {
            Some(axes) => axes.iter().map(|&axis| resolve_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).collect(),
        };
        if (1..axes.len()).any(|at| axes[..at].contains(&axes[at])) {
            fault!("{axes:?} names a dimension twice");
        }
        let lines = self.lines(x.shape(), &axes, scales, sizes.as_deref(), regions.as_deref())?;
        let mut shape = x.shape().to_vec();
        for (&axis, line) in axes.iter().zip(&lines) {
            shape[axis] = line.output;
        }
        check_size(&shape)?;
        let work = axes.into_iter().zip(lines).filter(|(_, line)| !line.is_identity());
        self.interpolate(x, &work.collect::<Vec<_>>())
    }

    /// What happens along each of the axes.
    fn lines(
        &self,
        shape: &[usize],
        axes: &[usize],
        scales: Option<Vec<f64>>,
        sizes: Option<&[usize]>,
        regions: Option<&[f64]>,
    ) -> Result<Vec<Line>, Fault> {
        let count = axes.len();
        if scales.as_ref().is_some_and(|scales| scales.len() != count)
            || sizes.is_some_and(|sizes| sizes.len() != count)
            || regions.is_some_and(|regions| regions.len() != 2 * count)
        {
            fault!("scales, sizes or regions are not for {count} dimensions");
        }
        if self.coordinates == Coordinates::Crop && regions.is_none() {
            fault!("the regions are missing");
        }
        let mut chosen: Vec<(Scale, usize)> = match (scales, sizes) {
            (Some(scales), None) => {
                let one = |(&axis, &scale): (&usize, &f64)| Scale::of_number(scale, shape[axis]);
                axes.iter().zip(&scales).map(one).collect::<Result<_, _>>()?
            }
            (None, Some(sizes)) => {
                let one =
                    |(&axis, &size): (&usize, &usize)| Ok((Scale::of_lengths(size, shape[axis])?, size));
                axes.iter().zip(sizes).map(one).collect::<Result<_, _>>()?
            }
            _ => fault!("either scales or sizes are needed"),
        };
        if sizes.is_some() && self.policy != Policy::Stretch {
            let ratios = chosen.iter().map(|&(scale, _)| scale);
            let common = if self.policy == Policy::NotLarger {
                ratios.min_by(|a, b| a.ratio().total_cmp(&b.ratio()))
            } else {
                ratios.max_by(|a, b| a.ratio().total_cmp(&b.ratio()))
            };
            if let Some(common) = common {
                for (&axis, chosen) in axes.iter().zip(&mut chosen) {
                    let length = (common.times(shape[axis]) + 0.5).floor().to_usize();
                    let length = length.ok_or_else(|| Fault("the result would be too large".to_owned()))?;
                    *chosen = (common, length);
                }
            }
        }
        let region =
            |index: usize| regions.map_or((0.0, 1.0), |regions| (regions[index], regions[index + count]));
        let line = |(index, (&axis, (scale, output)))| {
            let line = Line { input: shape[axis], output, scale, region: region(index) };
            if line.input == 0 && line.output > 0 {
                fault!("an empty dimension cannot become one of {output}");
            }
            Ok(line)
        };
        axes.iter().zip(chosen).enumerate().map(line).collect()
    }

    fn interpolate(&self, x: Tensor, work: &[(usize, Line)]) -> Result<Tensor, Fault> {
        let dtype = x.dtype();
        if let Filter::Nearest(nearest) = self.filter {
            return self.pick(x, nearest, work);
        }
        if work.is_empty() {
            return Ok(x);
        }
        match dtype {
            DType::F32 => self.mix::<f32>(x, work),
            DType::F64 => self.mix::<f64>(x, work),
            // Not by the wrapper for halves: the regions may be of another type than the image.
            DType::F16 | DType::BF16 => cast(self.mix::<f32>(cast(x, DType::F32)?, work)?, dtype),
            DType::String | DType::Bool => fault!("{dtype} has nothing between its elements"),
            integer if integer.is_small() => fault!("interpolation of {integer} is not supported"),
            _ => {
                let mixed = self.mix::<f64>(cast(x, DType::F64)?, work)?;
                // To the nearest integer of the type, whereas a cast would cut.
                let whole: Vec<f64> = mixed.to_f64s()?.into_iter().map(f64::round_ties_even).collect();
                cast(Tensor::from_items(mixed.shape(), whole), dtype)
            }
        }
    }

    /// Weighted sums along each axis in turn.
    fn mix<F: Item + num_traits::Float>(&self, x: Tensor, work: &[(usize, Line)]) -> Result<Tensor, Fault> {
        let mut shape = x.shape().to_vec();
        let mut current = items::<F>(&contiguous(&x.dense()?)).to_vec();
        let outside = F::from(self.extrapolation).unwrap_or_else(F::nan);
        for &(axis, line) in work {
            let taps = Taps::new(self.filter, self.coordinates, line, self.exclude_outside)?;
            let inner: usize = shape[axis + 1..].iter().product();
            shape[axis] = line.output;
            let count = check_size(&shape)?;
            let mut next = Vec::with_capacity(count);
            let row = line.input * inner;
            if count > 0 {
                let mut sums = vec![0.0f64; inner];
                for block in current.chunks_exact(row) {
                    for place in 0..line.output {
                        let Some(taps) = taps.at(place) else {
                            next.extend(std::iter::repeat_n(outside, inner));
                            continue;
                        };
                        sums.fill(0.0);
                        for (at, weight) in taps {
                            let source = &block[at * inner..][..inner];
                            for (sum, x) in sums.iter_mut().zip(source) {
                                *sum += weight * wide(*x);
                            }
                        }
                        next.extend(sums.iter().map(|&sum| F::from(sum).unwrap_or_else(F::nan)));
                    }
                }
            }
            current = next;
        }
        Ok(Tensor::from_items(&shape, current))
    }

    /// The nearest element along each axis in turn.
    fn pick(&self, x: Tensor, nearest: Nearest, work: &[(usize, Line)]) -> Result<Tensor, Fault> {
        let mut shape = x.shape().to_vec();
        let dtype = x.dtype();
        let indices: Vec<(usize, Vec<Option<usize>>)> =
            work.iter().map(|&(axis, line)| (axis, line.nearest(nearest, self.coordinates))).collect();
        for_storage!(dtype, E => {
            let outside = cast(Tensor::from_items(&[1], vec![self.extrapolation]), dtype)?.storage()?;
            let outside = items::<E>(&outside)[0];
            let mut current = items::<E>(&contiguous(&x.storage()?)).to_vec();
            for (axis, indices) in &indices {
                current = picked(&current, &mut shape, *axis, indices, &outside)?;
            }
            Ok(Tensor::of_type::<E>(dtype, &shape, current))
        }, text => {
            let Tensor::Text(text) = x else { fault!("strings are needed") };
            let outside = self.extrapolation.to_string();
            let mut current: Vec<&String> = text.items().iter().collect();
            for (axis, indices) in &indices {
                current = picked(&current, &mut shape, *axis, indices, &&outside)?;
            }
            Tensor::copied_text(&shape, current.into_iter())
        })
    }
}

/// Rows in the order of `indices` along an axis, with `outside` where there is none.
fn picked<T: Clone>(
    x: &[T],
    shape: &mut [usize],
    axis: usize,
    indices: &[Option<usize>],
    outside: &T,
) -> Result<Vec<T>, Fault> {
    let inner: usize = shape[axis + 1..].iter().product();
    let row = shape[axis] * inner;
    shape[axis] = indices.len();
    let mut result = Vec::with_capacity(check_size(shape)?);
    if row > 0 {
        for block in x.chunks_exact(row) {
            for index in indices {
                match index {
                    Some(at) => result.extend_from_slice(&block[at * inner..][..inner]),
                    None => result.extend(std::iter::repeat_n(outside.clone(), inner)),
                }
            }
        }
    }
    debug_assert_eq!(to_i64(result.len()), to_i64(shape.iter().product()), "{shape:?}");
    Ok(result)
}
