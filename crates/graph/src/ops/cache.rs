//! Operators of language models that place tokens: rotation by position, and writes into a cache.

use num_traits::Float;

use super::attention::heads_attribute;
use super::cast::numbers;
use super::{ALL, Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{
    Fault, Item, Tensor, check_size, contiguous, fault, for_storage, into_vec, items, resolve_axis, shown,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::widening("RotaryEmbedding", 23, FLOATS, rotary),
    Entry::new("TensorScatter", 24, ALL, tensor_scatter),
];

/// How pairs of features are turned.
struct Rotation {
    /// The heads that are packed into the last of three dimensions.
    heads: Option<usize>,
    /// How many features of a head are turned; 0 means all.
    turned: usize,
    /// A pair is side by side; else its parts are half of the turned features apart.
    interleaved: bool,
}

fn rotary(node: &Node<'_>) -> Built {
    let turned = usize::try_from(node.int("rotary_embedding_dim", 0))
        .map_err(|_| Refusal::Invalid("`rotary_embedding_dim` is negative".to_owned()))?;
    // Zero says that it is not given.
    let heads = if node.int("num_heads", 0) == 0 { None } else { heads_attribute(node, "num_heads")? };
    let rotation = Rotation { heads, turned, interleaved: node.flag("interleaved", false) };
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => rotation.run::<f64>(inputs),
        _ => rotation.run::<f32>(inputs),
    })
}

impl Rotation {
    /// A pair (a, b) becomes (a cos - b sin, a sin + b cos).
    fn run<F: Item + Float>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        // The place of a head's features: batch, then head and position in either order.
        let (batch, heads, positions, size) = match (&shape[..], self.heads) {
            (&[batch, heads, positions, size], _) => (batch, heads, positions, size),
            (&[batch, positions, width], Some(heads)) if width.is_multiple_of(heads) => {
                (batch, heads, positions, width / heads)
            }
            _ => fault!("{} cannot be divided into heads", x.describe()),
        };
        let turned = if self.turned == 0 { size } else { self.turned };
        if turned > size || turned % 2 == 1 {
            fault!("{turned} of {size} features cannot be turned in pairs");
        }
        let half = turned / 2;
        let (cos, sin, ids) = (inputs.take(1)?, inputs.take(2)?, inputs.optional(3));
        let lines = lines(cos.shape(), ids, [batch, positions], half)?;
        if sin.shape() != cos.shape() {
            fault!("the tables of sines and cosines differ in shape");
        }
        let (cos, sin) = (numbers::<F>(cos)?, numbers::<F>(sin)?);
        let mut result = numbers::<F>(x)?;
        let packed = shape.len() == 3;
        for (at, features) in result.chunks_exact_mut(size.max(1)).enumerate() {
            let position =
                if packed { at / heads } else { at / (heads * positions) * positions + at % positions };
            let line = lines[position] * half;
            for pair in 0..half {
                let (first, second) =
                    if self.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, half + pair) };
                let (a, b) = (features[first], features[second]);
                let (cos, sin) = (cos[line + pair], sin[line + pair]);
                features[first] = cos * a - sin * b;
                features[second] = sin * a + cos * b;
            }
        }
        Ok(Tensor::from_items(&shape, result).into())
    }
}

/// Which line of the tables belongs to each token. With ids a table has a line per id, else one per token.
fn lines(
    table: &[usize],
    ids: Option<Tensor>,
    [batch, positions]: [usize; 2],
    half: usize,
) -> Result<Vec<usize>, Fault> {
    let unfit = || {
        Fault(format!("a table of {table:?} does not fit {batch} times {positions} tokens with {half} pairs"))
    };
    // A tensor without elements may be said to have any number of tokens.
    check_size(&[batch, positions])?;
    match (table, ids) {
        (&[count, width], Some(ids)) if width == half && ids.shape() == [batch, positions] => {
            let line = |id: i64| usize::try_from(id).ok().filter(|&id| id < count);
            let lines: Option<Vec<usize>> = ids.to_i64s()?.into_iter().map(line).collect();
            lines.ok_or_else(|| Fault(format!("a position is out of range for a table of {count}")))
        }
        (&[rows, count, width], None)
            if width == half && count == positions && (rows == batch || rows == 1) =>
        {
            Ok((0..batch * positions)
                .map(|token| if rows == 1 { token % positions } else { token })
                .collect())
        }
        _ => Err(unfit()),
    }
}

/// Where the tokens of each row of a batch go.
struct Writes {
    /// The first place of each row.
    first: Vec<usize>,
    /// How many tokens there are.
    count: usize,
    /// How many places there are.
    places: usize,
    /// How many lines of places a row has, and how many elements a place.
    lines: usize,
    width: usize,
}

fn tensor_scatter(node: &Node<'_>) -> Built {
    let axis = node.int("axis", -2);
    let circular = match node.string("mode", "linear")?.as_str() {
        "linear" => false,
        "circular" => true,
        other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
    };
    operator(move |inputs| {
        let (cache, update) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, dtype) = (cache.shape().to_vec(), cache.dtype());
        let axis = resolve_axis(axis, shape.len())?;
        let count = update.shape().get(axis).copied().unwrap_or(0);
        let mut expected = shape.clone();
        expected[axis] = count;
        if axis == 0 || update.shape() != expected || update.dtype() != dtype || count > shape[axis] {
            fault!("{} cannot be written into {} along axis {axis}", update.describe(), cache.describe());
        }
        if update.len() == 0 {
            return Ok(cache.into());
        }
        let first = match inputs.optional(2) {
            Some(first) => first.to_i64s()?,
            None => vec![0; shape[0]],
        };
        if first.len() != shape[0] {
            fault!("{} places are given for {} rows", first.len(), shape[0]);
        }
        let places = shape[axis];
        let place = |at: i64| {
            let length = crate::tensor::to_i64(places);
            let at = if circular && length > 0 { at.rem_euclid(length) } else { at };
            let at = usize::try_from(at).ok()?;
            (circular || at.checked_add(count)? <= places).then_some(at)
        };
        let Some(first) = first.iter().map(|&at| place(at)).collect::<Option<Vec<usize>>>() else {
            fault!("{count} elements do not fit into {places} places from {} on", shown(&first))
        };
        let writes = Writes {
            first,
            count,
            places,
            lines: shape[1..axis].iter().product(),
            width: shape[axis + 1..].iter().product(),
        };
        for_storage!(dtype, E => {
            let update = contiguous(&update.storage()?);
            let mut all: Vec<E> = into_vec(cache.storage()?)?;
            writes.apply(&mut all, items::<E>(&update));
            Ok(Tensor::of_type::<E>(dtype, &shape, all).into())
        }, text => match (&cache, &update) {
            (Tensor::Text(cache), Tensor::Text(update)) => {
                let mut all = cache.items().to_vec();
                writes.apply(&mut all, update.items());
                Ok(Tensor::from_text(&shape, all).into())
            }
            _ => fault!("strings are needed"),
        })
    })
}

impl Writes {
    /// A write that reaches the end of the places goes on at their start.
    fn apply<E: Clone>(&self, all: &mut [E], update: &[E]) {
        for (line, tokens) in update.chunks_exact((self.count * self.width).max(1)).enumerate() {
            let first = self.first[line / self.lines.max(1)];
            for (token, from) in tokens.chunks_exact(self.width.max(1)).enumerate() {
                let place = (first + token) % self.places.max(1);
                let start = (line * self.places + place) * self.width;
                all[start..start + self.width].clone_from_slice(from);
            }
        }
    }
}
