//! Actions: what came of them, in a line.

use super::text::{Ink, Line, Page};
use crate::act::{Outcome, Result};

/// The line of an action.
pub fn done(outcome: &Outcome) -> Page {
    let ink = match outcome.result {
        Result::Done => Ink::Good,
        Result::Asked => Ink::Warn,
        Result::Refused => Ink::Bad,
    };
    let place = format!("{}/{}", outcome.namespace, outcome.name);
    vec![Line::of(Ink::Bold, place).then(ink, ": ").then(Ink::Plain, &outcome.message)]
}
