//! Operators that work on each element by itself: functions of one number, arithmetic with broadcasting,
//! choices and changes of type.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read, one};
use super::real::{Real, truths};
use super::unary::Unary;
use crate::load::Node;
use crate::ops::Refusal;
use crate::ops::arithmetic::Kind;
use crate::tensor::{Fault, Tensor, broadcast_shape, check_size, fault, resolve_axis};
use crate::value::DType;

/// What becomes of each element.
pub(crate) enum Elementwise {
    Unary(Unary),
    /// `aligned` is the dimension of the first input at which the second begins, in old files.
    Binary {
        kind: Kind,
        aligned: Option<i64>,
    },
    Variadic {
        kind: Kind,
        mean: bool,
    },
    Power {
        aligned: Option<i64>,
    },
    /// Bounds that are attributes; `None` where they are inputs.
    Clip {
        fixed: Option<[Option<f64>; 2]>,
    },
    Where,
    Cast(DType),
    CastLike,
    Slope {
        per_channel: bool,
    },
    SwiGlu {
        alpha: f64,
    },
    Dropout,
    Scaler {
        offset: Vec<f64>,
        scale: Vec<f64>,
    },
}

/// The forms of this family that are no functions of one number.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("Add", |node, _| Ok(binary(node, Kind::Add))),
    Entry::new("Sub", |node, _| Ok(binary(node, Kind::Sub))),
    Entry::new("Mul", |node, _| Ok(binary(node, Kind::Mul))),
    Entry::new("Div", |node, _| Ok(binary(node, Kind::Div))),
    Entry::new("Min", |_, _| Ok(variadic(Kind::Min, false))),
    Entry::new("Max", |_, _| Ok(variadic(Kind::Max, false))),
    Entry::new("Sum", |_, _| Ok(variadic(Kind::Add, false))),
    Entry::new("Mean", |_, _| Ok(variadic(Kind::Add, true))),
    Entry::new("Pow", |node, _| Ok(Form::Elementwise(Elementwise::Power { aligned: aligned(node) }))),
    Entry::new("Clip", |node, _| Ok(clip(node))),
    Entry::new("Where", |_, _| Ok(Form::Elementwise(Elementwise::Where))),
    Entry::new("Cast", cast),
    Entry::new("CastLike", cast_like),
    Entry::new("PRelu", |node, _| {
        Ok(Form::Elementwise(Elementwise::Slope { per_channel: node.opset() < 7 }))
    }),
    Entry::new("SwiGLU", |node, _| {
        Ok(Form::Elementwise(Elementwise::SwiGlu { alpha: node.float("alpha", 1.0).into() }))
    }),
    Entry::new("Dropout", |_, _| Ok(Form::Elementwise(Elementwise::Dropout))),
];

/// The forms of scikit-learn's operators.
pub(super) const ML_FORMS: &[Entry] = &[Entry::new("Scaler", |node, _| {
    let wide = |name: &str| node.floats(name).into_iter().map(f64::from).collect();
    Ok(Form::Elementwise(Elementwise::Scaler { offset: wide("offset"), scale: wide("scale") }))
})];

fn aligned(node: &Node<'_>) -> Option<i64> {
    let old = node.opset() < 7 && node.flag("broadcast", false) && node.has("axis");
    old.then(|| node.int("axis", 0))
}

fn binary(node: &Node<'_>, kind: Kind) -> Form {
    Form::Elementwise(Elementwise::Binary { kind, aligned: aligned(node) })
}

fn variadic(kind: Kind, mean: bool) -> Form {
    Form::Elementwise(Elementwise::Variadic { kind, mean })
}

fn clip(node: &Node<'_>) -> Form {
    let bound = |name: &str| node.has(name).then(|| node.float(name, 0.0).into());
    let fixed = (node.opset() < 11).then(|| [bound("min"), bound("max")]);
    Form::Elementwise(Elementwise::Clip { fixed })
}

/// Integers and truth values are no real numbers any more, and half precision is not computed with.
fn cast(node: &Node<'_>, _: &[bool]) -> Read {
    let number = i32::try_from(node.int("to", 0)).ok().and_then(DType::from_onnx);
    // Before opset 6 the type was a name.
    let dtype = match node.string("to", "")?.as_str() {
        "FLOAT" => Some(DType::F32),
        "DOUBLE" => Some(DType::F64),
        _ => number,
    };
    match dtype {
        Some(dtype @ (DType::F32 | DType::F64)) => Ok(Form::Elementwise(Elementwise::Cast(dtype))),
        Some(dtype) if !dtype.is_integer() && !matches!(dtype, DType::Bool | DType::String) => {
            Err(Refusal::Unsupported(format!("no gradient goes through a cast to {dtype}")))
        }
        _ => Ok(Form::Detached),
    }
}

fn cast_like(_: &Node<'_>, real: &[bool]) -> Read {
    if real.get(1) == Some(&true) {
        return Ok(Form::Elementwise(Elementwise::CastLike));
    }
    Err(Refusal::Unsupported("the type of its result is known for each request only".to_owned()))
}

impl Elementwise {
    pub(super) fn gives_real(&self, index: usize) -> bool {
        // The second output of dropout is the mask.
        index == 0 || !matches!(self, Self::Dropout)
    }

    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        if matches!(self, Self::Dropout) {
            return dropout(arguments);
        }
        Ok(one(match self {
            Self::Unary(function) => function.apply(arguments.real(0)?)?,
            Self::Binary { kind, aligned } => {
                let (left, right) = (arguments.real(0)?, arguments.real(1)?);
                let right = moved_to(right, left.rank(), *aligned)?;
                combine(*kind, left, right)?
            }
            Self::Variadic { kind, mean } => {
                let count = arguments.count();
                let mut all = arguments.reals()?.into_iter();
                let Some(mut total) = all.next() else { fault!("an input is needed") };
                for next in all {
                    total = combine(*kind, total, next)?;
                }
                if *mean { total.times(1.0 / count as f64) } else { total }
            }
            Self::Power { aligned } => power(arguments, *aligned)?,
            Self::Clip { fixed: Some([low, high]) } => {
                arguments.real(0)?.clamp(low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN))
            }
            Self::Clip { fixed: None } => {
                let x = arguments.real(0)?;
                let (low, high) = (arguments.optional(1)?, arguments.optional(2)?);
                bounded(x, low, high)?
            }
            Self::Where => choose(arguments)?,
            Self::Cast(dtype) => arguments.real(0)?.cast(*dtype),
            Self::CastLike => {
                let x = arguments.real(0)?;
                x.cast(arguments.real(1)?.dtype())
            }
            Self::Slope { per_channel } => {
                let (x, slope) = (arguments.real(0)?, arguments.real(1)?);
                let slope = match slope.shape() {
                    &[count] if *per_channel && count > 1 && x.rank() > 1 => {
                        let mut along = vec![1; x.rank()];
                        along[1] = count;
                        slope.reshape(&along)?
                    }
                    _ => slope,
                };
                let negative = x.less(0.0);
                let slope = slope.expand(x.shape())?;
                x.clone().choose(negative, x.multiply(slope)?)?
            }
            Self::SwiGlu { alpha } => {
                let (a, b) = (arguments.real(0)?, arguments.real(1)?);
                if a.shape() != b.shape() {
                    fault!("{} and {} must be alike", a.describe(), b.describe());
                }
                Unary::Swish { alpha: *alpha }.apply(a)?.multiply(b)?
            }
            Self::Scaler { offset, scale } => scaled(arguments.real(0)?, offset, scale)?,
            Self::Dropout => return dropout(arguments),
        }))
    }
}

/// The second input with the dimensions behind it that it has in old files.
fn moved_to<B: Backend>(right: Real<B>, rank: usize, aligned: Option<i64>) -> Result<Real<B>, Fault> {
    let Some(axis) = aligned else { return Ok(right) };
    let end = resolve_axis(axis, rank)? + right.rank();
    let Some(missing) = rank.checked_sub(end) else {
        fault!("{} does not fit {rank} dimensions from dimension {axis} on", right.describe());
    };
    let shape = [right.shape(), &vec![1; missing]].concat();
    right.reshape(&shape)
}

fn combine<B: Backend>(kind: Kind, left: Real<B>, right: Real<B>) -> Result<Real<B>, Fault> {
    match kind {
        Kind::Add => left.add(right),
        Kind::Sub => left.subtract(right),
        Kind::Mul => left.multiply(right),
        Kind::Div => left.divide(right),
        // Of equal elements the gradient goes to the first.
        Kind::Max => {
            let (left, right) = alike(left, right)?;
            let exceeded = left.exceeded_by(&right)?;
            left.choose(exceeded, right)
        }
        Kind::Min => {
            let (left, right) = alike(left, right)?;
            let exceeded = left.clone().negated().exceeded_by(&right.clone().negated())?;
            left.choose(exceeded, right)
        }
    }
}

/// Both repeated to the shape that they take together.
fn alike<B: Backend>(left: Real<B>, right: Real<B>) -> Result<(Real<B>, Real<B>), Fault> {
    let shape = broadcast_shape(left.shape(), right.shape())?;
    Ok((left.expand(&shape)?, right.expand(&shape)?))
}

/// The result has the type of the base, whatever the type of the exponent.
fn power<B: Backend>(arguments: &mut Arguments<'_, B>, aligned: Option<i64>) -> Result<Real<B>, Fault> {
    let base = arguments.real(0)?;
    if arguments.is_real(1) {
        let exponent = arguments.real(1)?.cast(base.dtype());
        let exponent = moved_to(exponent, base.rank(), aligned)?;
        return base.power(exponent);
    }
    let exponent = arguments.host(1)?;
    let powers = exponent.to_f64s()?;
    match powers[..] {
        // Whole numbers are multiplied, and need no logarithm of a base that may be negative.
        [power] if exponent.rank() <= base.rank() => Ok(base.map(|x| B::float_powf_scalar(x, power.into()))),
        _ => {
            let exponent = base.numbers(exponent.shape(), powers)?;
            let exponent = moved_to(exponent, base.rank(), aligned)?;
            base.power(exponent)
        }
    }
}

fn bounded<B: Backend>(x: Real<B>, low: Option<Real<B>>, high: Option<Real<B>>) -> Result<Real<B>, Fault> {
    let bound = |bound: Real<B>, shape: &[usize]| {
        if bound.len() != 1 {
            fault!("a bound must be one number, not {}", bound.describe());
        }
        bound.scalar()?.expand(shape)
    };
    let mut x = x;
    if let Some(low) = low {
        let low = bound(low, x.shape())?;
        x = x.clone().choose(x.less_than(&low)?, low)?;
    }
    if let Some(high) = high {
        let high = bound(high, x.shape())?;
        x = x.clone().choose(high.less_than(&x)?, high)?;
    }
    Ok(x)
}

/// From the second input where the first is true, else from the third.
fn choose<B: Backend>(arguments: &mut Arguments<'_, B>) -> Result<Real<B>, Fault> {
    let condition = arguments.host(0)?;
    let (yes, no) = (arguments.real(1)?, arguments.real(2)?);
    let shape = broadcast_shape(&broadcast_shape(condition.shape(), yes.shape())?, no.shape())?;
    check_size(&shape)?;
    let (yes, no) = (yes.expand(&shape)?, no.expand(&shape)?);
    let mask = no.mask(truths(condition.broadcast_to(&shape)?)?)?;
    no.choose(mask, yes)
}

/// What the operator of the host makes of ones is what each element is multiplied by: nothing, or more than
/// one in training.
fn dropout<B: Backend>(arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
    let x = arguments.real(0)?;
    let ones = Tensor::from_items(x.shape(), vec![1f64; check_size(x.shape())?]);
    let mut held = vec![Some(crate::ops::cast::cast(ones, x.dtype())?.into())];
    for index in 1..arguments.count() {
        held.push(arguments.held(index)?);
    }
    let mut outputs = arguments.operate(held)?.into_iter();
    let Some(factors) = outputs.next() else { fault!("nothing was computed") };
    let factors = Real::from_host(&factors.tensor()?, arguments.device)?;
    let dropped = x.multiply(factors)?;
    Ok(std::iter::once(Carried::Real(dropped)).chain(outputs.map(Carried::Held)).collect())
}

/// (x - offset) * scale, with one number for all columns or one for each. The result is FP32.
fn scaled<B: Backend>(x: Real<B>, offset: &[f64], scale: &[f64]) -> Result<Real<B>, Fault> {
    let width = x.shape().last().copied().unwrap_or(1);
    if [offset, scale].iter().any(|list| list.len() != 1 && list.len() != width) {
        fault!("{} offsets and {} scales are given for {width} features", offset.len(), scale.len());
    }
    let shape = x.shape().to_vec();
    let row = |numbers: &[f64]| x.numbers(&[numbers.len()], numbers.to_vec());
    let (offset, scale) = (row(offset)?, row(scale)?);
    x.subtract(offset)?.multiply(scale)?.reshape(&shape).map(|x| x.cast(DType::F32))
}
