//! How sure a classifier is of its answers: top score, margin and entropy of each row, and the classes that it names.
//!
//! All counts are over fixed edges, so that those of many pods add exactly.

use std::collections::BTreeMap;

/// Upper bounds of the buckets of [`Distribution`]. Closer towards 0 and 1, where confidences of trained classifiers lie.
pub const EDGES: [f64; 15] =
    [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// How far a probability may be outside of 0 to 1, and how far the sum of a row may be from 1: half precision rounds
/// each of ten probabilities by up to 2^-12.
const TOLERANCE: f64 = 4e-3;
/// Rows after which it is said which output holds probabilities.
const ENOUGH_ROWS: u64 = 16;
/// Classes that are counted by name; the rest is one count.
pub const MOST_CLASSES: usize = 100;

/// How sure a classifier is of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// The largest probability, 0 to 1.
    pub top: f64,
    /// The largest less the second largest, 0 to 1.
    pub margin: f64,
    /// Shannon's entropy over that of the even distribution, `-sum(p ln p) / ln k`: 0 is sure, 1 knows nothing.
    pub entropy: f64,
    /// Position of the largest probability; the first of equal ones.
    pub class: usize,
}

impl Confidence {
    /// The confidence of a row, or `None` where it is not one of probabilities: fewer than two elements, one that is no
    /// number from 0 to 1, or another sum than 1, within a tolerance.
    pub fn of(row: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut top, mut second, mut class) = (f64::NEG_INFINITY, f64::NEG_INFINITY, 0);
        let (mut sum, mut entropy, mut count) = (0.0, 0.0, 0_usize);
        for probability in row {
            if !(-TOLERANCE..=1.0 + TOLERANCE).contains(&probability) {
                return None;
            }
            let probability = probability.clamp(0.0, 1.0);
            if probability > top {
                (second, top, class) = (top, probability, count);
            } else if probability > second {
                second = probability;
            }
            if probability > 0.0 {
                entropy -= probability * probability.ln();
            }
            sum += probability;
            count += 1;
        }
        if count < 2 || (sum - 1.0).abs() > TOLERANCE {
            return None;
        }
        let entropy = (entropy / (count as f64).ln()).clamp(0.0, 1.0);
        Some(Self { top, margin: top - second, entropy, class })
    }
}

/// Counts of numbers from 0 to 1 over [`EDGES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distribution {
    counts: [u64; EDGES.len()],
    sum: f64,
}

impl Distribution {
    /// Counts a number; one outside of 0 to 1 as the nearer end, and NaN not at all.
    pub fn record(&mut self, number: f64) {
        if number.is_nan() {
            return;
        }
        let number = number.clamp(0.0, 1.0);
        let bucket = EDGES.partition_point(|edge| *edge < number);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
            self.sum += number;
        }
    }

    /// Adds all counts of `other`. Exact: the result is what one would hold that had seen both.
    pub fn merge(&mut self, other: &Self) {
        for (count, added) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(added);
        }
        self.sum += other.sum;
    }

    /// Each upper bound with the numbers in its bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        EDGES.into_iter().zip(self.counts)
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// How often each class was named. At most [`MOST_CLASSES`] are told apart: those that came first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    counts: BTreeMap<i64, u64>,
    other: u64,
}

impl Classes {
    /// Counts a class. True when it is told apart from others.
    pub fn record(&mut self, class: i64) -> bool {
        self.add(class, 1)
    }

    /// Adds the counts of `other`. Exact as long as both together name no more classes than are told apart.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.counts {
            self.add(*class, *count);
        }
        self.other = self.other.saturating_add(other.other);
    }

    /// The classes that are told apart, in order, with their counts.
    pub fn named(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.counts.iter().map(|(class, count)| (*class, *count))
    }

    /// How often another class was named.
    pub fn other(&self) -> u64 {
        self.other
    }

    fn add(&mut self, class: i64, count: u64) -> bool {
        let named = self.counts.len() < MOST_CLASSES || self.counts.contains_key(&class);
        let slot = if named { self.counts.entry(class).or_default() } else { &mut self.other };
        *slot = slot.saturating_add(count);
        named
    }
}

/// Which output holds probabilities: seen from the first rows, because a model does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chooser(Vec<Candidate>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Candidate {
    rows: u64,
    /// A row was none of probabilities.
    out: bool,
}

/// What is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Too few rows were seen.
    Open,
    /// This candidate, by its position.
    Candidate(usize),
    /// None of them.
    Nothing,
}

impl Chooser {
    /// For so many candidates, the likeliest first.
    pub fn new(candidates: usize) -> Self {
        Self(vec![Candidate::default(); candidates])
    }

    /// Notes that of `rows` rows of a candidate `fit` are probabilities.
    pub fn see(&mut self, candidate: usize, rows: u64, fit: u64) {
        if let Some(candidate) = self.0.get_mut(candidate) {
            candidate.rows = candidate.rows.saturating_add(rows);
            candidate.out |= fit < rows;
        }
    }

    /// The first candidate of which enough rows were seen, all of them probabilities.
    pub fn choice(&self) -> Choice {
        let mut still = self.0.iter().enumerate().filter(|(_, candidate)| !candidate.out).peekable();
        if still.peek().is_none() {
            return Choice::Nothing;
        }
        still
            .find(|(_, candidate)| candidate.rows >= ENOUGH_ROWS)
            .map_or(Choice::Open, |(position, _)| Choice::Candidate(position))
    }
}

#[cfg(test)]
#[path = "confidence/tests.rs"]
mod tests;
