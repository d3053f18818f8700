//! Operators that surround tensors, and take their edges away.

use super::{ALL, Built, Entry, Refusal, operator};
use crate::load::{Ints, Node};
use crate::tensor::{
    Fault, Tensor, check_size, contiguous, fault, for_storage, items, resolve_axis, shown, to_i64,
};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] =
    &[Entry::new("Pad", 1, ALL, pad), Entry::new("CenterCropPad", 18, ALL, centre)];

/// What stands around a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One element.
    Constant,
    /// The tensor, mirrored at its first and last element.
    Reflect,
    /// The first and last element.
    Edge,
    /// The tensor again.
    Wrap,
}

/// Pads are an attribute below opset 11, and inputs from there on.
fn pad(node: &Node<'_>) -> Built {
    let mode = match node.string("mode", "constant")?.as_str() {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        "wrap" => Mode::Wrap,
        other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    };
    let name = if node.opset() < 2 { "paddings" } else { "pads" };
    let pads = Ints::attribute_or_input(node, name, 1, 11)?;
    let axes = Ints::attribute_or_input(node, "axes", 3, 11)?;
    let fixed = (node.opset() < 11).then(|| Tensor::from_items(&[], vec![node.float("value", 0.0)]));
    operator(move |inputs| {
        let pads = pads.get(inputs)?.ok_or_else(|| Fault("the pads are missing".to_owned()))?.into_owned();
        let axes = axes.get(inputs)?.map(std::borrow::Cow::into_owned);
        let value = fixed.clone().or_else(|| inputs.optional(2));
        let x = inputs.take(0)?;
        let axes = axes.unwrap_or_else(|| (0..).take(x.rank()).collect());
        if pads.len() != 2 * axes.len() {
            fault!("{} pads are given for {} dimensions", pads.len(), axes.len());
        }
        let mut around = vec![(0i64, 0i64); x.rank()];
        for (index, &axis) in axes.iter().enumerate() {
            around[resolve_axis(axis, x.rank())?] = (pads[index], pads[index + axes.len()]);
        }
        Ok(surround(x, &around, mode, value)?.into())
    })
}

/// Crops what is too long and pads what is too short with zeros, on both sides. Of an odd number the larger
/// part is at the end.
fn centre(node: &Node<'_>) -> Built {
    let axes = node.ints("axes");
    let target = Ints::input(node, 1)?;
    operator(move |inputs| {
        let target =
            target.get(inputs)?.ok_or_else(|| Fault("the shape is missing".to_owned()))?.into_owned();
        let x = inputs.take(0)?;
        let axes = axes.clone().unwrap_or_else(|| (0..).take(x.rank()).collect());
        if target.len() != axes.len() || target.iter().any(|&length| length < 0) {
            fault!("{} are not the lengths of {} dimensions", shown(&target), axes.len());
        }
        let mut around = vec![(0i64, 0i64); x.rank()];
        for (&axis, &length) in axes.iter().zip(&target) {
            let place = resolve_axis(axis, x.rank())?;
            let missing = length - to_i64(x.shape()[place]);
            around[place] = (missing / 2, missing - missing / 2);
        }
        Ok(surround(x, &around, Mode::Constant, None)?.into())
    })
}

/// Adds elements before and after each dimension; a negative number takes them away first.
fn surround(x: Tensor, around: &[(i64, i64)], mode: Mode, value: Option<Tensor>) -> Result<Tensor, Fault> {
    let dtype = x.dtype();
    if value.as_ref().is_some_and(|value| value.len() != 1) {
        fault!("the padding must be one element");
    }
    let shape = x.shape().to_vec();
    let sources: Vec<Source> = shape
        .iter()
        .zip(around)
        .map(|(&length, &around)| Source::new(length, around, mode))
        .collect::<Result<_, _>>()?;
    let target: Vec<usize> = sources.iter().map(|source| source.target).collect();
    check_size(&target)?;
    for_storage!(dtype, E => {
        let value = value.unwrap_or_else(|| Tensor::from_items(&[1], vec![0f32]));
        let value = contiguous(&super::cast::cast(value, dtype)?.storage()?);
        let x = contiguous(&x.storage()?);
        Ok(Tensor::of_type::<E>(dtype, &target, rows(items::<E>(&x), &shape, &sources, &items::<E>(&value)[0])))
    }, text => {
        let (Tensor::Text(text), value) = (x, value) else { fault!("strings are needed") };
        let value = match &value {
            Some(Tensor::Text(value)) => value.items().first().cloned().unwrap_or_default(),
            Some(other) => fault!("strings cannot be padded with {}", other.describe()),
            None => String::new(),
        };
        let items: Vec<&String> = text.items().iter().collect();
        Tensor::copied_text(&target, rows(&items, &shape, &sources, &&value).into_iter())
    })
}

/// Where the elements of a padded dimension come from.
#[derive(Clone, Copy, Debug)]
struct Source {
    mode: Mode,
    /// How many elements the result has.
    target: usize,
    /// Before the elements of the tensor.
    before: usize,
    /// The first element of the tensor that is kept, and how many.
    first: usize,
    kept: usize,
}

impl Source {
    fn new(length: usize, (before, after): (i64, i64), mode: Mode) -> Result<Self, Fault> {
        let cut = |pad: i64| usize::try_from(pad.saturating_neg()).unwrap_or(0);
        let added = |pad: i64| usize::try_from(pad).unwrap_or(0);
        let kept = length.checked_sub(cut(before)).and_then(|left| left.checked_sub(cut(after)));
        let target = kept.and_then(|kept| kept.checked_add(added(before))?.checked_add(added(after)));
        let (Some(kept), Some(target)) = (kept, target) else {
            fault!("the pads {before} and {after} do not go with a length of {length}");
        };
        if kept == 0 && target > 0 && mode != Mode::Constant {
            fault!("there is nothing to repeat in an empty dimension");
        }
        Ok(Self { mode, target, before: added(before), first: cut(before), kept })
    }

    /// The element of the tensor at `at` of the result; `None` for the padding.
    fn element(&self, at: usize) -> Option<usize> {
        if let Some(own) = at.checked_sub(self.before).filter(|&own| own < self.kept) {
            return Some(self.first + own);
        }
        let (at, kept) = (to_i64(at) - to_i64(self.before), to_i64(self.kept));
        let own = match self.mode {
            Mode::Constant => return None,
            Mode::Edge => at.clamp(0, kept - 1),
            Mode::Wrap => at.rem_euclid(kept),
            Mode::Reflect => {
                let period = (2 * (kept - 1)).max(1);
                let at = at.rem_euclid(period);
                at.min(period - at).min(kept - 1)
            }
        };
        usize::try_from(own).ok().map(|own| self.first + own)
    }
}

/// The padded elements, row by row of the last dimension.
fn rows<T: Clone>(x: &[T], shape: &[usize], sources: &[Source], value: &T) -> Vec<T> {
    let count = sources.iter().map(|source| source.target).product();
    let Some((last, outer)) = sources.split_last().filter(|_| count > 0) else { return x[..count].to_vec() };
    let width = shape[outer.len()];
    let strides = super::window::strides(&shape[..outer.len()]);
    let lengths: Vec<usize> = outer.iter().map(|source| source.target).collect();
    let mut at = vec![0; outer.len()];
    let mut result = Vec::with_capacity(count);
    loop {
        let row = (0..outer.len()).map(|axis| Some(outer[axis].element(at[axis])? * strides[axis])).sum();
        match row {
            None => result.extend(std::iter::repeat_n(value.clone(), last.target)),
            Some(row) => {
                let row: usize = row;
                let row = &x[row * width..][..width];
                let edge = |at| last.element(at).map_or_else(|| value.clone(), |at| row[at].clone());
                result.extend((0..last.before).map(edge));
                result.extend_from_slice(&row[last.first..][..last.kept]);
                result.extend((last.before + last.kept..last.target).map(edge));
            }
        }
        if !super::window::advance(&mut at, &lengths) {
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(length: usize, around: (i64, i64), mode: Mode) -> Vec<Option<usize>> {
        let source = Source::new(length, around, mode).expect("a padded dimension");
        (0..source.target).map(|at| source.element(at)).collect()
    }

    #[test]
    fn each_mode_says_what_is_outside() {
        let wanted = |elements: [usize; 8]| elements.map(Some).to_vec();
        assert_eq!(padded(3, (2, 3), Mode::Edge), wanted([0, 0, 0, 1, 2, 2, 2, 2]));
        assert_eq!(padded(3, (2, 3), Mode::Wrap), wanted([1, 2, 0, 1, 2, 0, 1, 2]));
        assert_eq!(padded(3, (2, 3), Mode::Reflect), wanted([2, 1, 0, 1, 2, 1, 0, 1]));
        assert_eq!(padded(2, (1, 1), Mode::Constant), [None, Some(0), Some(1), None]);
    }

    #[test]
    fn what_is_cut_is_not_mirrored() {
        assert_eq!(padded(4, (-1, 2), Mode::Reflect), [1, 2, 3, 2, 1].map(Some));
        assert_eq!(padded(4, (-1, 3), Mode::Wrap), [1, 2, 3, 1, 2, 3].map(Some));
        assert_eq!(padded(1, (1, 2), Mode::Reflect), [0; 4].map(Some));
        assert!(Source::new(2, (-2, -1), Mode::Constant).is_err());
        assert!(Source::new(2, (-2, 1), Mode::Edge).is_err());
    }
}
