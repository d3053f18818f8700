//! `status`: one line.

use super::text::{Ink, Line, Page};
use crate::settled::Standing;

/// The line of `status`.
pub fn status(standing: &Standing) -> Page {
    let Standing { name, namespace, phase, generation, observed_generation, message, hold, .. } = standing;
    let (phase, ink) = match standing.exit_code {
        0 => (phase.as_str(), Ink::Good),
        1 => (phase.as_str(), Ink::Bad),
        _ if observed_generation < generation => ("Progressing", Ink::Warn),
        _ => (phase.as_str(), Ink::Warn),
    };
    // A message of an earlier generation would be taken for an answer.
    let behind = observed_generation < generation;
    let said = hold.as_ref().filter(|_| behind).map_or(message.as_str(), |hold| hold.what.as_str());
    let line = Line::of(Ink::Bold, format!("{namespace}/{name}"))
        .then(Ink::Plain, " ")
        .then(ink, phase)
        .then(Ink::Dim, format!(" (generation {generation})"))
        .then(Ink::Plain, format!(": {said}"));
    vec![line]
}
