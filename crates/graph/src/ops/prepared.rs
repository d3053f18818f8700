//! Weights of bytes and their zero point, made ready for use: at load where both are known, else by each request.

use std::borrow::Cow;

use super::Inputs;
use crate::load::Node;
use crate::tensor::{Fault, Tensor};

/// Makes weights (the first argument) and their zero point ready.
type Prepare<T> = fn(Tensor, Option<Tensor>) -> Result<T, Fault>;

/// Weights that are ready, or where each request finds them.
pub(super) struct Prepared<T: Clone> {
    /// Known at load.
    known: Option<T>,
    prepare: Prepare<T>,
    weights: usize,
    zero: usize,
}

impl<T: Clone> Prepared<T> {
    /// Of the inputs `weights` and `zero` of a node. `elements` is how much memory those that are ready take.
    pub(super) fn new(
        node: &Node<'_>,
        [weights, zero]: [usize; 2],
        prepare: Prepare<T>,
        elements: impl Fn(&T) -> usize,
    ) -> Self {
        let open = node.has_input(zero) && node.constant(zero).is_none();
        let bytes = node.constant(weights).filter(|_| !open);
        // What is wrong with them is the fault of each request.
        let known = bytes.and_then(|bytes| prepare(bytes.clone(), node.constant(zero).cloned()).ok());
        let known = known.filter(|known| node.keep(&[weights, zero], elements(known)));
        Self { known, prepare, weights, zero }
    }

    /// Those of a request.
    pub(super) fn get(&self, inputs: &mut Inputs<'_>) -> Result<Cow<'_, T>, Fault> {
        match &self.known {
            Some(known) => Ok(Cow::Borrowed(known)),
            None => (self.prepare)(inputs.take(self.weights)?, inputs.optional(self.zero)).map(Cow::Owned),
        }
    }
}
