//! Encodings and feature plumbing of `ai.onnx.ml`.

use std::collections::HashMap;

use super::index::pick;
use super::{Built, Entry, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("ArrayFeatureExtractor", 1, "numbers, text", |_| operator(extract)),
    Entry::new("CategoryMapper", 1, "INT64 text", category_mapper),
    Entry::new("FeatureVectorizer", 1, "numbers, text", |_| {
        operator(|inputs| {
            let parts: Vec<Tensor> = (0..inputs.count())
                .map(|index| super::cast::cast(inputs.take(index)?, DType::F32))
                .collect::<Result<_, Fault>>()?;
            Ok(super::slice::join(parts, -1)?.into())
        })
    }),
    Entry::new("LabelEncoder", 1, "numbers, text", label_encoder),
    Entry::new("OneHotEncoder", 1, "numbers, text", one_hot_encoder),
    Entry::new("ZipMap", 1, "numbers, text", |_| operator(|inputs| Ok(inputs.take(0)?.into()))),
];

/// Columns by position. A vector is one row.
fn extract(inputs: &mut super::Inputs<'_>) -> Result<super::Outputs, Fault> {
    let (x, columns) = (inputs.take(0)?, inputs.take(1)?.to_i64s()?);
    let Some(&width) = x.shape().last() else { fault!("a scalar has no columns") };
    let columns: Vec<usize> = columns
        .iter()
        .map(|&column| {
            usize::try_from(column)
                .ok()
                .filter(|&column| column < width)
                .ok_or_else(|| Fault(format!("column {column} is out of range for rows of {width}")))
        })
        .collect::<Result<_, _>>()?;
    let rows = x.len().checked_div(width).unwrap_or(0);
    let mut shape = if x.rank() == 1 { vec![1, width] } else { x.shape().to_vec() };
    if let Some(last) = shape.last_mut() {
        *last = columns.len();
    }
    check_size(&shape)?;
    let positions: Vec<usize> =
        (0..rows).flat_map(|row| columns.iter().map(move |column| row * width + column)).collect();
    Ok(pick(&x, &shape, &positions)?.into())
}

/// A key or value of an encoder. Numbers are compared by their bits, so that NaN is a key too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Int(i64),
    Real(u64),
    Text(String),
}

impl Key {
    fn real(number: f64) -> Self {
        // Both zeros are one key, and so are all NaN.
        let canonical = if number == 0.0 {
            0.0
        } else if number.is_nan() {
            f64::NAN
        } else {
            number
        };
        Self::Real(canonical.to_bits())
    }
}

fn is_whole(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::I64 | DType::I32 | DType::I16)
}

/// All elements as keys.
fn keys(tensor: &Tensor) -> Result<Vec<Key>, Fault> {
    Ok(match tensor {
        Tensor::Text(text) => text.items().iter().cloned().map(Key::Text).collect(),
        Tensor::Dense(_) if is_whole(tensor) => tensor.to_i64s()?.into_iter().map(Key::Int).collect(),
        Tensor::Dense(_) | Tensor::Small(..) => tensor.to_f64s()?.into_iter().map(Key::real).collect(),
    })
}

/// One of the lists of an encoder, whatever its type and whichever attribute holds it.
fn list(node: &Node<'_>, prefix: &str) -> Result<Option<Tensor>, Refusal> {
    if let Some(tensor) = node.tensor(&format!("{prefix}_tensor"))? {
        return Ok(Some(tensor));
    }
    let strings = node.strings(&format!("{prefix}_strings"))?;
    let ints = node.ints(&format!("{prefix}_int64s")).unwrap_or_default();
    let floats = node.floats(&format!("{prefix}_floats"));
    Ok(if !strings.is_empty() {
        Some(Tensor::from_text(&[strings.len()], strings))
    } else if !ints.is_empty() {
        Some(Tensor::from_items(&[ints.len()], ints))
    } else if !floats.is_empty() {
        Some(Tensor::from_items(&[floats.len()], floats))
    } else {
        None
    })
}

/// Below version 2 the only list is that of strings, numbered by position.
fn label_encoder(node: &Node<'_>) -> Built {
    if node.opset() < 2 {
        return label_encoder_by_position(node);
    }
    let (Some(from), Some(to)) = (list(node, "keys")?, list(node, "values")?) else {
        return Err(Refusal::Invalid("keys and values are needed".to_owned()));
    };
    if from.len() != to.len() {
        return Err(Refusal::Invalid(format!("{} keys are given for {} values", from.len(), to.len())));
    }
    let default = match node.tensor("default_tensor")? {
        Some(tensor) => tensor,
        None => match to.dtype() {
            DType::String => Tensor::from_text(&[1], vec![node.string("default_string", "_Unused")?]),
            DType::F32 | DType::F64 => Tensor::from_items(&[1], vec![node.float("default_float", -0.0)]),
            _ => Tensor::from_items(&[1], vec![node.int("default_int64", -1)]),
        },
    };
    let fits = |fault: Fault| Refusal::Invalid(fault.0);
    let default =
        super::cast::cast(default, to.dtype()).and_then(|tensor| tensor.reshape(&[1])).map_err(fits)?;
    let count = to.len();
    let flat = to.reshape(&[count]).map_err(fits)?;
    let last_counts = node.opset() >= 4;
    encoder(&from, super::slice::join(vec![flat, default], 0).map_err(fits)?, last_counts)
}

fn label_encoder_by_position(node: &Node<'_>) -> Built {
    let texts = node.strings("classes_strings")?;
    let numbers = (0..).take(texts.len()).collect();
    both_ways(node, texts, numbers)
}

fn category_mapper(node: &Node<'_>) -> Built {
    let (texts, numbers) = (node.strings("cats_strings")?, node.ints("cats_int64s").unwrap_or_default());
    if texts.len() != numbers.len() {
        let (texts, numbers) = (texts.len(), numbers.len());
        return Err(Refusal::Invalid(format!("{texts} strings are given for {numbers} numbers")));
    }
    both_ways(node, texts, numbers)
}

/// Strings to numbers, or numbers to strings: the type of the input says which way.
fn both_ways(node: &Node<'_>, texts: Vec<String>, numbers: Vec<i64>) -> Built {
    let count = texts.len();
    let other_number = node.int("default_int64", -1);
    let other_text = node.string("default_string", "_Unused")?;
    let with = |numbers: &[i64], other| [numbers, &[other][..]].concat();
    let to_number = encoder(
        &Tensor::from_text(&[count], texts.clone()),
        Tensor::from_items(&[count + 1], with(&numbers, other_number)),
        true,
    )?;
    let to_text = encoder(
        &Tensor::from_items(&[count], numbers),
        Tensor::from_text(&[count + 1], texts.into_iter().chain([other_text]).collect()),
        true,
    )?;
    operator(move |inputs| {
        let text = inputs.peek(0).is_some_and(|x| x.dtype() == DType::String);
        if text { to_number.run(inputs) } else { to_text.run(inputs) }
    })
}

/// Maps keys to the values at the same position; the last value is for all other keys. Of two equal keys
/// the last counts from version 4 on, and the first before, when what is not a number was no key: as in ONNX
/// Runtime.
fn encoder(from: &Tensor, to: Tensor, last_counts: bool) -> Built {
    let other = from.len();
    let mut places = HashMap::with_capacity(other);
    for (place, key) in keys(from).map_err(|fault| Refusal::Invalid(fault.0))?.into_iter().enumerate() {
        if last_counts {
            places.insert(key, place);
        } else if key != Key::real(f64::NAN) {
            places.entry(key).or_insert(place);
        }
    }
    let (text, whole) = (from.dtype() == DType::String, is_whole(from));
    operator(move |inputs| {
        let x = inputs.take(0)?;
        if (x.dtype() == DType::String) != text || is_whole(&x) != whole {
            fault!("the keys have another type than {}", x.describe());
        }
        let positions: Vec<usize> =
            keys(&x)?.iter().map(|key| places.get(key).copied().unwrap_or(other)).collect();
        Ok(pick(&to, x.shape(), &positions)?.into())
    })
}

/// One more dimension, with a 1 at the category of the element.
fn one_hot_encoder(node: &Node<'_>) -> Built {
    let ints = node.ints("cats_int64s").unwrap_or_default();
    let strings = node.strings("cats_strings")?;
    let zeros = node.flag("zeros", true);
    let categories: Vec<Key> = if strings.is_empty() {
        ints.into_iter().map(Key::Int).collect()
    } else {
        strings.into_iter().map(Key::Text).collect()
    };
    let width = categories.len();
    let places: HashMap<Key, usize> = categories.into_iter().zip(0..).collect();
    operator(move |inputs| {
        let x = inputs.take(0)?;
        // Categories that are numbers are whole, whatever type carries them.
        let x = if x.dtype() == DType::String { x } else { super::cast::cast(x, DType::I64)? };
        let shape = [x.shape(), &[width]].concat();
        let mut hot = vec![0f32; check_size(&shape)?];
        for (row, key) in keys(&x)?.iter().enumerate() {
            match places.get(key) {
                Some(place) => hot[row * width + place] = 1.0,
                None if zeros => {}
                None => fault!("{key:?} is not one of the categories"),
            }
        }
        Ok(Tensor::from_items(&shape, hot).into())
    })
}
