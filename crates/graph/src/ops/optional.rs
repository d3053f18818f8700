//! Values that may be missing.
//!
//! An optional value that is there is carried as the value itself, so that operators take it like any.

use super::{ALL, Entry, Outputs, operator};
use crate::held::Held;
use crate::tensor::{Tensor, fault};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Optional", 15, ALL, |node| {
        let given = node.has_input(0);
        operator(move |inputs| Ok(if given { inputs.take_any(0)? } else { Held::Nothing }.into()))
    }),
    Entry::new("OptionalGetElement", 15, ALL, |_| {
        operator(|inputs| match inputs.take_any(0)? {
            Held::Nothing => fault!("the optional is empty"),
            there => Ok(there.into()),
        })
    }),
    // From version 18 on tensors and lists are taken too, and the input may be left out.
    Entry::new("OptionalHasElement", 15, ALL, |_| {
        operator(|inputs| {
            let there = inputs.has(0) && !matches!(inputs.take_any(0)?, Held::Nothing);
            Ok(Outputs::One(Tensor::from_bools(&[], vec![u8::from(there)])))
        })
    }),
];
