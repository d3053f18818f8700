//! `Tokenizer` of the domain `com.microsoft`, which scikit-learn's exporter puts in front of n-grams.
//!
//! The forms that it writes run: tokens by a pattern, and tokens of one character.

use super::{Built, Entry, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Tensor, TextBudget, check_size, fault};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("Tokenizer", 1, "text", build)];

/// The characters that stand before and after the tokens of a string, where marks are asked for.
const MARKS: [&str; 2] = ["\u{2}", "\u{3}"];

/// One more dimension that holds the tokens of each string, filled up with `pad_value`.
fn build(node: &Node<'_>) -> Built {
    let marked = node.flag("mark", false);
    let pad = node.string("pad_value", "")?;
    let least = usize::try_from(node.int("mincharnum", 1)).unwrap_or(0).max(1);
    let pattern = node.string("tokenexp", "")?;
    let separators = node.strings("separators")?;
    let pattern = match (pattern.as_str(), &separators[..]) {
        // The longest match counts, of which the crate knows nothing: without a choice it is the first.
        (pattern, _)
            if pattern.contains('|')
                || ["??", "*?", "+?", "}?"].iter().any(|lazy| pattern.contains(lazy)) =>
        {
            return Err(Refusal::Unsupported(
                "a pattern of tokens with a choice is not supported".to_owned(),
            ));
        }
        ("", [one]) if one.is_empty() => None,
        ("", _) => return Err(Refusal::Unsupported("separators of tokens are not supported".to_owned())),
        (pattern, _) => Some(super::pattern::finder(pattern)?),
    };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let Tensor::Text(text) = &x else { fault!("strings are needed, not {}", x.describe()) };
        let long = |token: &&str| !token.is_empty() && token.chars().nth(least - 1).is_some();
        let mut budget = TextBudget::default();
        let rows: Vec<Vec<&str>> = text
            .items()
            .iter()
            .map(|text| {
                if let Some(pattern) = &pattern {
                    return budget.pieces(pattern.find_iter(text).map(|found| found.as_str()).filter(long));
                }
                let letters = text.char_indices().map(|(at, letter)| &text[at..at + letter.len_utf8()]);
                budget.pieces(letters.filter(long))
            })
            .collect::<Result<_, _>>()?;
        let most = rows.iter().map(Vec::len).max().unwrap_or(0);
        // Without any token there are no marks either.
        let width = if marked && most > 0 { most + 2 } else { most };
        let shape = [x.shape(), &[width]].concat();
        let mut budget = TextBudget::default();
        let mut cells = Vec::with_capacity(budget.cells(check_size(&shape)?)?);
        for row in &rows {
            let (before, after) = if width > most { (&MARKS[..1], &MARKS[1..]) } else { (&[][..], &[][..]) };
            let pads = std::iter::repeat_n(pad.as_str(), most - row.len());
            for cell in before.iter().chain(row).copied().chain(pads).chain(after.iter().copied()) {
                budget.take(cell.len())?;
                cells.push(cell.to_owned());
            }
        }
        Ok(Tensor::from_text(&shape, cells).into())
    })
}
