//! Discrete Fourier transforms, of whole signals and of windows that slide over them.
//!
//! All are computed in `FP64`. A length that is a power of two is transformed by halving (Cooley and Tukey
//! 1965); any other as a convolution of such a length (Bluestein 1970), so that the work stays within
//! `n log n` for every length.

use std::f64::consts::{PI, TAU};

use super::cast::cast;
use super::{Built, Entry, FLOATS, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{Fault, Tensor, check_size, fault, resolve_axis, shown};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] =
    &[Entry::widening("DFT", 17, FLOATS, transform), Entry::widening("STFT", 17, FLOATS, short_time)];

/// The longest transform: its working memory is many times its length.
const MAX_LENGTH: usize = if cfg!(fuzzing) { 1 << 12 } else { 1 << 23 };

/// Real and imaginary part.
type Complex = (f64, f64);

fn times((a, b): Complex, (c, d): Complex) -> Complex {
    (a * c - b * d, a * d + b * c)
}

/// A number of length 1, by its angle.
fn turned(angle: f64) -> Complex {
    (angle.cos(), angle.sin())
}

/// A transform of one length, prepared once for all signals.
struct Fourier {
    length: usize,
    /// The angle of one step, as a part of the whole turn: -1 forwards, 1 for the inverse.
    sign: f64,
    /// For a length that is no power of two.
    chirp: Option<Chirp>,
    /// The roots of unity of the power of two at hand, forwards.
    roots: Vec<Complex>,
}

/// Bluestein's convolution.
struct Chirp {
    /// The signal is multiplied by these before and after.
    factors: Vec<Complex>,
    /// The transform of their conjugates, which the signal is convolved with.
    kernel: Vec<Complex>,
}

impl Fourier {
    fn new(length: usize, inverse: bool) -> Result<Self, Fault> {
        if length == 0 || length > MAX_LENGTH {
            fault!("a transform of length {length} is not within 1 and {MAX_LENGTH}");
        }
        let sign = if inverse { 1.0 } else { -1.0 };
        if length.is_power_of_two() {
            return Ok(Self { length, sign, chirp: None, roots: roots(length) });
        }
        let size = (2 * length - 1).next_power_of_two();
        let roots = roots(size);
        // The square is taken within twice the length, so that its angle stays exact.
        let factor = |at: usize| turned(sign * PI * (at * at % (2 * length)) as f64 / length as f64);
        let factors: Vec<Complex> = (0..length).map(factor).collect();
        let mut kernel = vec![(0.0, 0.0); size];
        for (at, &(re, im)) in factors.iter().enumerate() {
            kernel[at] = (re, -im);
            kernel[(size - at) % size] = (re, -im);
        }
        halving(&mut kernel, &roots, -1.0);
        Ok(Self { length, sign, chirp: Some(Chirp { factors, kernel }), roots })
    }

    /// Transforms a signal of the length, without a scale.
    fn run(&self, signal: &mut [Complex]) {
        let Some(chirp) = &self.chirp else {
            halving(signal, &self.roots, self.sign);
            return;
        };
        let size = chirp.kernel.len();
        let mut wide = vec![(0.0, 0.0); size];
        for ((into, &x), &factor) in wide.iter_mut().zip(signal.iter()).zip(&chirp.factors) {
            *into = times(x, factor);
        }
        halving(&mut wide, &self.roots, -1.0);
        for (x, &factor) in wide.iter_mut().zip(&chirp.kernel) {
            *x = times(*x, factor);
        }
        halving(&mut wide, &self.roots, 1.0);
        let scale = size as f64;
        for ((into, &(re, im)), &factor) in signal.iter_mut().zip(&wide).zip(&chirp.factors) {
            *into = times((re / scale, im / scale), factor);
        }
    }
}

/// The first half of the roots of unity, clockwise.
fn roots(size: usize) -> Vec<Complex> {
    (0..size / 2).map(|at| turned(-TAU * at as f64 / size as f64)).collect()
}

/// Transforms a signal of a power of two in place. The sign is -1 forwards and 1 backwards.
fn halving(signal: &mut [Complex], roots: &[Complex], sign: f64) {
    let size = signal.len();
    if size < 2 {
        return;
    }
    // Elements go to the place of their number with its bits in reverse.
    let unused = usize::BITS - size.trailing_zeros();
    for at in 0..size {
        let other = at.reverse_bits() >> unused;
        if other > at {
            signal.swap(at, other);
        }
    }
    let mut half = 1;
    while half < size {
        let stride = size / (2 * half);
        for block in signal.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (at, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let (re, im) = roots[at * stride];
                let turned = times(*b, (re, if sign < 0.0 { im } else { -im }));
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
            }
        }
        half *= 2;
    }
}

/// How a signal is transformed.
#[derive(Clone, Copy)]
struct Form {
    inverse: bool,
    /// Forwards, only the frequencies up to the middle are given; backwards, only those are taken, and the
    /// signal is real.
    onesided: bool,
}

impl Form {
    /// Frequencies that are given of a signal of `length`, or its length for an inverse.
    fn given(self, length: usize) -> usize {
        if self.onesided && !self.inverse { length / 2 + 1 } else { length }
    }

    /// How many numbers each element of the result has.
    fn parts(self) -> usize {
        if self.onesided && self.inverse { 1 } else { 2 }
    }

    /// Transforms `signal` into `result`, both as numbers side by side. `line` is working memory.
    fn apply(self, fourier: &Fourier, line: &mut [Complex], mut result: impl FnMut(usize, usize, f64)) {
        let length = fourier.length;
        if self.inverse && self.onesided {
            // The other half is the mirror image, and what stands in the middle is real.
            line[0].1 = 0.0;
            if length.is_multiple_of(2) {
                line[length / 2].1 = 0.0;
            }
            for at in 1..length.div_ceil(2) {
                line[length - at] = (line[at].0, -line[at].1);
            }
        }
        fourier.run(line);
        let scale = if self.inverse { length as f64 } else { 1.0 };
        for (at, &(re, im)) in line.iter().take(self.given(length)).enumerate() {
            result(at, 0, re / scale);
            if self.parts() == 2 {
                result(at, 1, im / scale);
            }
        }
    }
}

/// The only number of an input, if it is given.
fn number(ints: &Ints, inputs: &super::Inputs<'_>) -> Result<Option<i64>, Fault> {
    match ints.get(inputs)?.as_deref() {
        Some(&[number]) => Ok(Some(number)),
        Some(other) => Err(Fault(format!("one number is needed, not {}", shown(other)))),
        None => Ok(None),
    }
}

/// A length; a fault where it is negative.
fn length_of(number: i64) -> Result<usize, Fault> {
    usize::try_from(number).map_err(|_| Fault(format!("{number} is not a length")))
}

/// How many numbers each element of a signal has: the last dimension of a tensor of at least two.
fn parts_of(x: &Tensor) -> Result<usize, Fault> {
    match x.shape() {
        &[_, .., parts @ (1 | 2)] => Ok(parts),
        _ => Err(Fault(format!("a signal whose last dimension is 1 or 2 is needed, not {}", x.describe()))),
    }
}

/// The axis is an attribute below opset 20, and an input from there on.
fn transform(node: &Node<'_>) -> Built {
    let form = Form { inverse: node.flag("inverse", false), onesided: node.flag("onesided", false) };
    let wanted = Ints::input(node, 1)?;
    let (axis, fallback) = if node.opset() < 20 {
        (Ints::Fixed(vec![node.int("axis", 1)]), 1)
    } else {
        (Ints::input(node, 2)?, -2)
    };
    operator(move |inputs| {
        let (wanted, axis) = (number(&wanted, inputs)?, number(&axis, inputs)?.unwrap_or(fallback));
        let x = inputs.take(0)?;
        let parts = parts_of(&x)?;
        let axis = resolve_axis(axis, x.rank())?;
        if axis == x.rank() - 1 {
            fault!("the last dimension holds the parts of numbers, not a signal");
        }
        if form.onesided && !form.inverse && parts == 2 {
            fault!("only a real signal has a spectrum of one side");
        }
        let taken = x.shape()[axis];
        let length = match wanted {
            Some(wanted) => length_of(wanted)?,
            // From half a spectrum an even length is made.
            None if form.inverse && form.onesided => taken.saturating_sub(1) * 2,
            None => taken,
        };
        let fourier = Fourier::new(length, form.inverse)?;
        let given = form.given(length);
        let mut shape = x.shape().to_vec();
        let last = shape.len() - 1;
        (shape[axis], shape[last]) = (given, form.parts());
        let mut result = vec![0.0; check_size(&shape)?];
        let stride: usize = x.shape()[axis + 1..last].iter().product();
        let lines: usize = x.shape()[..axis].iter().product::<usize>() * stride;
        let numbers = x.to_f64s()?;
        // Of half a spectrum, what is beyond the middle is not taken.
        let read = taken.min(if form.inverse && form.onesided { length / 2 + 1 } else { length });
        let mut line = vec![(0.0, 0.0); length];
        for index in 0..lines {
            let (block, offset) = (index / stride, index % stride);
            line.fill((0.0, 0.0));
            for (at, element) in line.iter_mut().take(read).enumerate() {
                let start = ((block * taken + at) * stride + offset) * parts;
                *element = (numbers[start], if parts == 2 { numbers[start + 1] } else { 0.0 });
            }
            form.apply(&fourier, &mut line, |at, part, number| {
                result[((block * given + at) * stride + offset) * form.parts() + part] = number;
            });
        }
        Ok(cast(Tensor::from_items(&shape, result), x.dtype())?.into())
    })
}

fn short_time(node: &Node<'_>) -> Built {
    let form = Form { inverse: false, onesided: node.flag("onesided", true) };
    let (step, wanted) = (Ints::input(node, 1)?, Ints::input(node, 3)?);
    if !node.has_input(1) {
        return Err(Refusal::Invalid("the step is missing".to_owned()));
    }
    operator(move |inputs| {
        let step = length_of(number(&step, inputs)?.unwrap_or(0))?;
        let wanted = number(&wanted, inputs)?.map(length_of).transpose()?;
        let x = inputs.take(0)?;
        let window = inputs.optional(2);
        let parts = parts_of(&x)?;
        let &[batch, signal, _] = x.shape() else {
            fault!("a batch of signals is needed, not {}", x.describe())
        };
        if form.onesided && parts == 2 {
            fault!("only a real signal has a spectrum of one side");
        }
        let window = match window {
            Some(window) if window.rank() == 1 && window.dtype() != DType::String => Some(window.to_f64s()?),
            Some(window) => fault!("the window must be a list of numbers, not {}", window.describe()),
            None => None,
        };
        let length = wanted.or(window.as_ref().map(Vec::len)).unwrap_or(signal);
        if step == 0 || length > signal || window.as_ref().is_some_and(|window| window.len() != length) {
            fault!("frames of {length} every {step} do not fit a signal of {signal} and its window");
        }
        let frames = (signal - length) / step + 1;
        let fourier = Fourier::new(length, false)?;
        let given = form.given(length);
        let shape = [batch, frames, given, 2];
        let mut result = Vec::with_capacity(check_size(&shape)?);
        let numbers = x.to_f64s()?;
        let mut line = vec![(0.0, 0.0); length];
        for frame in 0..batch * frames {
            let start = (frame / frames * signal + frame % frames * step) * parts;
            for (at, element) in line.iter_mut().enumerate() {
                let weight = window.as_ref().map_or(1.0, |window| window[at]);
                let at = start + at * parts;
                let imaginary = if parts == 2 { numbers[at + 1] } else { 0.0 };
                *element = (numbers[at] * weight, imaginary * weight);
            }
            form.apply(&fourier, &mut line, |_, _, number| result.push(number));
        }
        Ok(cast(Tensor::from_items(&shape, result), x.dtype())?.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition.
    fn slow(signal: &[Complex], sign: f64) -> Vec<Complex> {
        let length = signal.len() as f64;
        let term =
            |k: usize, (n, &x): (usize, &Complex)| times(x, turned(sign * TAU * (k * n) as f64 / length));
        let sum = |(a, b): Complex, (c, d): Complex| (a + c, b + d);
        (0..signal.len())
            .map(|k| signal.iter().enumerate().map(|x| term(k, x)).fold((0.0, 0.0), sum))
            .collect()
    }

    #[test]
    fn transforms_of_all_lengths_follow_the_definition() {
        for length in 1..40 {
            let signal: Vec<Complex> =
                (0..length).map(|at| ((at as f64).sin() + 0.1, (at * at % 7) as f64)).collect();
            for (inverse, sign) in [(false, -1.0), (true, 1.0)] {
                let mut fast = signal.clone();
                Fourier::new(length, inverse).unwrap().run(&mut fast);
                for (a, b) in fast.iter().zip(slow(&signal, sign)) {
                    assert!((a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9, "{length}: {a:?} {b:?}");
                }
            }
        }
    }
}
