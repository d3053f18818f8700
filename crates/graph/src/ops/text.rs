//! Strings: joined, cut apart, brought to one form, and matched.

use std::collections::HashSet;

use super::{Built, Entry, Inputs, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, TextBudget, broadcast_shape, check_size, fault, to_i64};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("RegexFullMatch", 20, "text", full_match),
    Entry::new("StringConcat", 20, "text", |_| operator(concat)),
    Entry::new("StringNormalizer", 10, "text", normalise),
    Entry::new("StringSplit", 20, "text", split),
];

/// The strings of an input; a fault for numbers.
fn strings(tensor: &Tensor) -> Result<&[String], Fault> {
    match tensor {
        Tensor::Text(text) => Ok(text.items()),
        other => Err(Fault(format!("strings are needed, not {}", other.describe()))),
    }
}

/// Each string of the first with that of the second, by NumPy's rules of shapes.
fn concat(inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
    let (left, right) = (inputs.take(0)?, inputs.take(1)?);
    let shape = broadcast_shape(left.shape(), right.shape())?;
    check_size(&shape)?;
    let (left, right) = (left.broadcast_to(&shape)?, right.broadcast_to(&shape)?);
    let mut budget = TextBudget::default();
    let mut joined = Vec::with_capacity(left.len());
    for (left, right) in strings(&left)?.iter().zip(strings(&right)?) {
        budget.take(left.len().saturating_add(right.len()))?;
        joined.push([left.as_str(), right].concat());
    }
    Ok(Tensor::from_text(&shape, joined).into())
}

/// One more dimension that holds the pieces of each string, filled up with empty strings; and how many
/// pieces each has.
fn split(node: &Node<'_>) -> Built {
    let delimiter = node.string("delimiter", "")?;
    // A negative number is no limit.
    let most = usize::try_from(node.int("maxsplit", -1)).unwrap_or(usize::MAX);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let mut budget = TextBudget::default();
        let pieces: Vec<Vec<&str>> = strings(&x)?
            .iter()
            .map(|text| {
                if delimiter.is_empty() {
                    budget.pieces(words(text, most))
                } else {
                    budget.pieces(text.splitn(most.saturating_add(1), delimiter.as_str()))
                }
            })
            .collect::<Result<_, _>>()?;
        let width = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [x.shape(), &[width]].concat();
        let mut budget = TextBudget::default();
        let count = budget.cells(check_size(&shape)?)?;
        let mut cells = Vec::with_capacity(count);
        for row in &pieces {
            for at in 0..width {
                let piece = row.get(at).copied().unwrap_or_default();
                budget.take(piece.len())?;
                cells.push(piece.to_owned());
            }
        }
        let counts = pieces.iter().map(|row| to_i64(row.len())).collect();
        Ok(Outputs::Many(vec![Tensor::from_text(&shape, cells), Tensor::from_items(x.shape(), counts)]))
    })
}

/// Pieces between runs of whitespace, none of which is empty. After `most` cuts the rest is one piece.
fn words(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    let mut cuts = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if cuts == most { None } else { rest.find(char::is_whitespace) };
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
        cuts += 1;
        rest = after.trim_start();
        Some(piece)
    })
}

/// Upper or lower case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    /// Letter by letter, as ONNX Runtime does it: a letter whose other case is not one letter stays.
    fn change(self, text: &str) -> String {
        fn one(mut letters: impl Iterator<Item = char>, letter: char) -> char {
            match (letters.next(), letters.next()) {
                (Some(other), None) => other,
                _ => letter,
            }
        }
        text.chars()
            .map(|letter| match self {
                Self::Lower => one(letter.to_lowercase(), letter),
                Self::Upper => one(letter.to_uppercase(), letter),
            })
            .collect()
    }
}

/// Takes stop words out of a row of strings and changes the case of the others. The attribute `locale` is
/// not looked at: case is that of Unicode. A row of which nothing is left becomes one empty string.
fn normalise(node: &Node<'_>) -> Built {
    let action = match node.string("case_change_action", "NONE")?.as_str() {
        "NONE" => None,
        "LOWER" => Some(Case::Lower),
        "UPPER" => Some(Case::Upper),
        other => return Err(Refusal::Invalid(format!("`case_change_action` cannot be `{other}`"))),
    };
    // The case in which strings are compared with stop words.
    let compared = (!node.flag("is_case_sensitive", false)).then(|| action.unwrap_or(Case::Lower));
    let in_case = |case: Option<Case>, text: &str| match case {
        Some(case) => case.change(text),
        None => text.to_owned(),
    };
    let stop_words: HashSet<String> =
        node.strings("stopwords")?.iter().map(|word| in_case(compared, word)).collect();
    operator(move |inputs| {
        let x = inputs.take(0)?;
        if !matches!(x.shape(), [_] | [1, _]) {
            fault!("one row of strings is needed, not {}", x.describe());
        }
        let kept = strings(&x)?
            .iter()
            .filter(|text| stop_words.is_empty() || !stop_words.contains(&in_case(compared, text)));
        let mut row: Vec<String> = kept.map(|text| in_case(action, text)).collect();
        if row.is_empty() {
            row.push(String::new());
        }
        let shape = if x.rank() == 1 { vec![row.len()] } else { vec![1, row.len()] };
        Ok(Tensor::from_text(&shape, row).into())
    })
}

/// Truth for each string that the pattern matches from its beginning to its end.
fn full_match(node: &Node<'_>) -> Built {
    let pattern = super::pattern::compile(&node.string("pattern", "")?)?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let truths = strings(&x)?.iter().map(|text| u8::from(pattern.is_match(text))).collect();
        Ok(Tensor::from_bools(x.shape(), truths).into())
    })
}

#[cfg(test)]
mod tests {
    use super::{Case, words};

    #[test]
    fn the_rest_after_the_last_cut_has_no_space_around_it() {
        assert!(words("  a b\t c d  ", 2).eq(["a", "b", "c d"]));
        assert!(words("  a b ", 0).eq(["a b"]));
        assert_eq!(words(" \t", usize::MAX).next(), None);
    }

    #[test]
    fn a_letter_stays_one_letter() {
        assert_eq!(Case::Upper.change("straße é"), "STRAßE É");
        assert_eq!(Case::Lower.change("ÀÉI"), "àéi");
    }
}
