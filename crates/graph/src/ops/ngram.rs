//! Counts of n-grams: `TfIdfVectorizer`.

use std::collections::HashMap;

use super::{Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, check_work, fault};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("TfIdfVectorizer", 9, "INT64 INT32 text", build)];

/// What becomes of a count.
#[derive(Clone, Copy)]
enum Mode {
    Count,
    Presence,
    Weighted,
}

/// The tokens of the file: numbers or words, each with a number of its own.
enum Tokens {
    Ints(HashMap<i64, usize>),
    Words(HashMap<String, usize>),
}

/// N-grams as paths of tokens from a root, node 0.
struct Vectorizer {
    tokens: Tokens,
    /// Node and token to node.
    steps: HashMap<(usize, usize), usize>,
    /// The column of the n-gram that ends at a node.
    columns: Vec<Option<usize>>,
    width: usize,
    shortest: usize,
    longest: usize,
    /// How far apart the tokens of an n-gram may be at most: 1 is side by side.
    distance: usize,
    mode: Mode,
    /// The weight of each column; empty where all are 1.
    weights: Vec<f32>,
}

fn invalid<T>(reason: &str) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason.to_owned()))
}

fn build(node: &Node<'_>) -> Built {
    let vectorizer = Vectorizer::read(node)?;
    operator(move |inputs| vectorizer.run(inputs))
}

/// Numbers the different items in the order in which they come. Gives the number of each item.
fn numbered<T: std::hash::Hash + Eq>(pool: Vec<T>) -> (HashMap<T, usize>, Vec<usize>) {
    let mut known = HashMap::new();
    let numbers = pool
        .into_iter()
        .map(|item| {
            let next = known.len();
            *known.entry(item).or_insert(next)
        })
        .collect();
    (known, numbers)
}

impl Vectorizer {
    fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let mode = match node.string("mode", "")?.as_str() {
            "TF" => Mode::Count,
            "IDF" => Mode::Presence,
            "TFIDF" => Mode::Weighted,
            other => return Err(Refusal::Invalid(format!("`mode` cannot be `{other}`"))),
        };
        let length = |name: &str| usize::try_from(node.int(name, 0)).ok().filter(|&length| length > 0);
        let (Some(shortest), Some(longest)) = (length("min_gram_length"), length("max_gram_length")) else {
            return invalid("the lengths of n-grams must be positive");
        };
        let Ok(skipped) = usize::try_from(node.int("max_skip_count", 0)) else {
            return invalid("`max_skip_count` is negative");
        };
        let Ok(starts) = super::shape::lengths(&node.ints("ngram_counts").unwrap_or_default()) else {
            return invalid("`ngram_counts` is negative");
        };
        if shortest > longest || longest > starts.len() {
            return invalid("the lengths of n-grams are out of range");
        }
        let words = node.strings("pool_strings")?;
        let (tokens, pool) = if words.is_empty() {
            let (known, numbers) = numbered(node.ints("pool_int64s").unwrap_or_default());
            (Tokens::Ints(known), numbers)
        } else {
            let (known, numbers) = numbered(words);
            (Tokens::Words(known), numbers)
        };
        let Ok(indexes) = super::shape::lengths(&node.ints("ngram_indexes").unwrap_or_default()) else {
            return invalid("`ngram_indexes` is negative");
        };
        let Some(width) = indexes.iter().max().and_then(|last| last.checked_add(1)) else {
            return invalid("`ngram_indexes` is empty");
        };
        check_size(&[width]).map_err(|fault| Refusal::Invalid(fault.0))?;
        let mut all = Self {
            tokens,
            steps: HashMap::new(),
            columns: vec![None],
            width,
            shortest,
            longest,
            distance: skipped.saturating_add(1),
            mode,
            weights: Vec::new(),
        };
        all.read_pool(&pool, &starts, &indexes)?;
        let weights = node.floats("weights");
        if !weights.is_empty() {
            if weights.len() != indexes.len() || weights.len() < width {
                return invalid("`weights` do not fit `ngram_indexes`");
            }
            // ONNX's text has them in the order of the pool; its reference and ONNX Runtime take them in
            // the order of the columns, and exporters write them so.
            all.weights = weights;
        }
        Ok(all)
    }

    /// Adds the n-grams of the file, of which those of one length stand together.
    fn read_pool(&mut self, pool: &[usize], starts: &[usize], indexes: &[usize]) -> Result<(), Refusal> {
        let mut indexes = indexes.iter();
        for (place, &start) in starts.iter().enumerate() {
            let length = place + 1;
            let end = starts.get(length).copied().unwrap_or(pool.len());
            let Some(part) = pool.get(start..end).filter(|part| part.len().is_multiple_of(length)) else {
                return invalid("`ngram_counts` does not fit the pool");
            };
            for gram in part.chunks_exact(length) {
                let Some(&column) = indexes.next() else {
                    return invalid("there are more n-grams than `ngram_indexes`");
                };
                if !(self.shortest..=self.longest).contains(&length) {
                    continue;
                }
                let mut at = 0;
                for &token in gram {
                    let next = self.columns.len();
                    at = *self.steps.entry((at, token)).or_insert(next);
                    if at == next {
                        self.columns.push(None);
                    }
                }
                if self.columns[at].replace(column).is_some() {
                    return invalid("an n-gram is in the pool twice");
                }
            }
        }
        Ok(())
    }

    /// The tokens of an input by number; `None` for one that no n-gram has.
    fn tokens(&self, x: &Tensor) -> Result<Vec<Option<usize>>, Fault> {
        match (&self.tokens, x) {
            (Tokens::Words(known), Tensor::Text(text)) => {
                Ok(text.items().iter().map(|word| known.get(word).copied()).collect())
            }
            (Tokens::Ints(known), Tensor::Dense(_)) => {
                Ok(x.to_i64s()?.iter().map(|number| known.get(number).copied()).collect())
            }
            _ => fault!("the n-grams have another type than {}", x.describe()),
        }
    }

    fn run(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let x = inputs.take(0)?;
        let (rows, length, shape) = match *x.shape() {
            [] => (1, 1, vec![self.width]),
            [length] => (1, length, vec![self.width]),
            [rows, length] => (rows, length, vec![rows, self.width]),
            _ => fault!("rows of tokens are needed, not {}", x.describe()),
        };
        check_work(&[rows, length, self.distance.min(length), self.longest.min(length)])?;
        let tokens = self.tokens(&x)?;
        let mut counts = vec![0f32; check_size(&shape)?];
        for row in 0..rows {
            let tokens = &tokens[row * length..(row + 1) * length];
            let counts = &mut counts[row * self.width..(row + 1) * self.width];
            self.count(tokens, counts, inputs)?;
            self.weigh(counts);
        }
        Ok(Tensor::from_items(&shape, counts).into())
    }

    /// Counts the n-grams of a row for each distance between their tokens. A single token has no distance:
    /// it is counted once.
    fn count(&self, tokens: &[Option<usize>], counts: &mut [f32], inputs: &Inputs<'_>) -> Result<(), Fault> {
        let mut shortest = self.shortest;
        for distance in 1..=self.distance {
            // Of two tokens or more, none fits any more.
            if shortest > self.longest || distance.saturating_mul(shortest - 1) >= tokens.len().max(1) {
                break;
            }
            if inputs.context.stop.is_some_and(|stop| stop()) {
                fault!("the request was stopped");
            }
            for start in 0..tokens.len() {
                let (mut node, mut place) = (0, start);
                for length in 1..=self.longest {
                    let step = tokens.get(place).copied().flatten().map(|token| (node, token));
                    let Some(&next) = step.and_then(|step| self.steps.get(&step)) else { break };
                    if let Some(column) = self.columns[next].filter(|_| length >= shortest) {
                        counts[column] += 1.0;
                    }
                    node = next;
                    place = place.saturating_add(distance);
                }
            }
            shortest = shortest.max(2);
        }
        Ok(())
    }

    fn weigh(&self, counts: &mut [f32]) {
        let weight = |column: usize| self.weights.get(column).copied().unwrap_or(1.0);
        match self.mode {
            Mode::Count => {}
            Mode::Presence => {
                for (column, count) in counts.iter_mut().enumerate() {
                    *count = if *count > 0.0 { weight(column) } else { 0.0 };
                }
            }
            Mode::Weighted => {
                for (column, count) in counts.iter_mut().enumerate() {
                    *count *= weight(column);
                }
            }
        }
    }
}
