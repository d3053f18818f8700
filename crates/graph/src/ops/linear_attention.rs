//! Attention without a softmax: what the keys have written is one matrix per head, carried from token to token.

use num_traits::Float;

use super::attention::heads_attribute;
use super::cast::{cast, numbers};
use super::{Built, Entry, FLOATS, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("LinearAttention", 27, FLOATS, build)];

struct LinearAttention {
    query_heads: usize,
    key_heads: usize,
    /// One over the root of the key's size where it is zero.
    scale: f32,
    /// The state fades: the rule takes a decay.
    fades: bool,
    /// Only what the state does not know yet is written: the rule takes a rate.
    corrects: bool,
}

fn build(node: &Node<'_>) -> Built {
    let (fades, corrects) = match node.string("update_rule", "gated_delta")?.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(Refusal::Invalid(format!("`update_rule` cannot be `{other}`"))),
    };
    let heads = |name: &str| {
        heads_attribute(node, name)?.ok_or_else(|| Refusal::Invalid(format!("`{name}` is missing")))
    };
    let (query_heads, key_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    if !query_heads.is_multiple_of(key_heads) {
        return Err(Refusal::Invalid(format!(
            "{key_heads} heads of keys cannot serve {query_heads} of queries"
        )));
    }
    if node.has_input(4) != fades || node.has_input(5) != corrects {
        return Err(Refusal::Invalid(
            "`update_rule` and the inputs `decay` and `beta` do not go together".to_owned(),
        ));
    }
    let scale = node.float("scale", 0.0);
    let attention = LinearAttention { query_heads, key_heads, scale, fades, corrects };
    operator(move |inputs| match inputs.peek(0).map(Tensor::dtype) {
        Some(DType::F64) => attention.run::<f64>(inputs),
        _ => attention.run::<f32>(inputs),
    })
}

/// What one head of keys works on, for one row of the batch.
struct Sizes {
    batch: usize,
    tokens: usize,
    /// The length of a key.
    key: usize,
    /// The length of a value.
    value: usize,
    /// How many decays a head has: one, or one per element of a key.
    decays: usize,
    /// How many rates a token has: one, or one per head.
    rates: usize,
}

/// All inputs, row-major.
struct Given<F> {
    queries: Vec<F>,
    keys: Vec<F>,
    values: Vec<F>,
    decays: Vec<F>,
    rates: Vec<F>,
}

impl LinearAttention {
    fn run<F: Item + Float>(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let (query, key, value) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let (past, decay, rate) = (inputs.optional(3), inputs.optional(4), inputs.optional(5));
        let dtype = query.dtype();
        let sizes = self.sizes([&query, &key, &value], decay.as_ref(), rate.as_ref())?;
        let state_shape = [sizes.batch, self.key_heads, sizes.key, sizes.value];
        let state_size = check_size(&state_shape)?;
        let state_type = past.as_ref().map_or(dtype, Tensor::dtype);
        let mut state = match past {
            Some(past) if past.shape() == state_shape => numbers::<F>(past)?,
            Some(past) => fault!("a state of {} is not {state_shape:?}", past.describe()),
            None => vec![F::zero(); state_size],
        };
        let given = Given {
            queries: numbers::<F>(query)?,
            keys: numbers::<F>(key)?,
            values: numbers::<F>(value)?,
            decays: decay.map(numbers::<F>).transpose()?.unwrap_or_default(),
            rates: rate.map(numbers::<F>).transpose()?.unwrap_or_default(),
        };
        let shape = [sizes.batch, sizes.tokens, self.query_heads * sizes.value];
        let mut result = vec![F::zero(); check_size(&shape)?];
        if state_size > 0 {
            for (at, state) in state.chunks_exact_mut(sizes.key * sizes.value).enumerate() {
                self.head(&given, &sizes, [at / self.key_heads, at % self.key_heads], state, &mut result);
            }
        }
        Ok(Outputs::Many(vec![
            cast(Tensor::from_items(&shape, result), dtype)?,
            cast(Tensor::from_items(&state_shape, state), state_type)?,
        ]))
    }

    /// Checks all shapes against each other.
    fn sizes(
        &self,
        given: [&Tensor; 3],
        decay: Option<&Tensor>,
        rate: Option<&Tensor>,
    ) -> Result<Sizes, Fault> {
        let [query, key, value] = given;
        let &[batch, tokens, width] = query.shape() else {
            fault!("queries need three dimensions, not {}", query.describe())
        };
        let per_head = |x: &Tensor, heads: usize| match x.shape() {
            &[b, t, width] if b == batch && t == tokens && width.is_multiple_of(heads) => Ok(width / heads),
            _ => Err(Fault(format!("{} does not fit queries of {:?}", x.describe(), query.shape()))),
        };
        let (length, value_length) = (per_head(key, self.key_heads)?, per_head(value, self.key_heads)?);
        if Some(width) != length.checked_mul(self.query_heads) {
            fault!("queries have {width} features, and keys have {length} per head");
        }
        let decays = decay.map_or(Ok(1), |decay| per_head(decay, self.key_heads))?;
        let rates = rate.map_or(Ok(1), |rate| per_head(rate, 1))?;
        if (decays != 1 && decays != length) || (rates != 1 && rates != self.key_heads) {
            fault!("decays or rates do not fit the heads");
        }
        Ok(Sizes { batch, tokens, key: length, value: value_length, decays, rates })
    }

    /// All tokens of one head of keys: writes them into the state, and reads it for each head of queries.
    fn head<F: Float>(
        &self,
        given: &Given<F>,
        sizes: &Sizes,
        [row, head]: [usize; 2],
        state: &mut [F],
        result: &mut [F],
    ) {
        let given_scale = f64::from(self.scale);
        let scale = if given_scale == 0.0 { 1.0 / (sizes.key as f64).sqrt() } else { given_scale };
        let scale = <F as num_traits::NumCast>::from(scale).unwrap_or_else(F::nan);
        let group = self.query_heads / self.key_heads;
        let mut written = vec![F::zero(); sizes.value];
        for token in row * sizes.tokens..(row + 1) * sizes.tokens {
            let part = |heads: usize, head: usize, width: usize| {
                let start = (token * heads + head) * width;
                start..start + width
            };
            let key = &given.keys[part(self.key_heads, head, sizes.key)];
            written.copy_from_slice(&given.values[part(self.key_heads, head, sizes.value)]);
            if self.fades {
                let decays = &given.decays[part(self.key_heads, head, sizes.decays)];
                for (at, line) in state.chunks_exact_mut(sizes.value).enumerate() {
                    let factor = decays[at % sizes.decays].exp();
                    for x in line {
                        *x = *x * factor;
                    }
                }
            }
            if self.corrects {
                for (line, &k) in state.chunks_exact(sizes.value).zip(key) {
                    written.iter_mut().zip(line).for_each(|(w, &s)| *w = *w - s * k);
                }
                let rate = given.rates[token * sizes.rates + head % sizes.rates];
                for written in &mut written {
                    *written = *written * rate;
                }
            }
            for (line, &k) in state.chunks_exact_mut(sizes.value).zip(key) {
                line.iter_mut().zip(&written).for_each(|(s, &w)| *s = *s + k * w);
            }
            for reader in head * group..(head + 1) * group {
                let query = &given.queries[part(self.query_heads, reader, sizes.key)];
                let out = &mut result[part(self.query_heads, reader, sizes.value)];
                for (line, &q) in state.chunks_exact(sizes.value).zip(query) {
                    out.iter_mut().zip(line).for_each(|(o, &s)| *o = *o + q * s);
                }
                for out in out {
                    *out = *out * scale;
                }
            }
        }
    }
}
