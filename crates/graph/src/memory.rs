//! The memory that the tensors of one request take together.
//!
//! Counted are the stores of elements that values of running graphs keep alive, each once, however many views of
//! it there are. To count all of them after each node would take longer than small nodes do: what nodes give is
//! added up, as if nothing was ever freed, and only where that is too much it is counted what there is.

use std::cell::Cell;
use std::collections::HashSet;

use crate::held::Held;
use crate::tensor::{Fault, Tensor};

/// A graph inside of another may find this part of the limit taken by values that are gone.
const ROUGHLY: u64 = 8;

/// The bound of a request, and what it holds.
pub(crate) struct Memory {
    limit: u64,
    /// What the graphs around the one that is running hold.
    held: Cell<u64>,
}

impl Memory {
    /// Nothing is held yet.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, held: Cell::new(0) }
    }

    /// Counts what an operator keeps of the graph that it runs, until the operator ends.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), Fault> {
        let held = self.held.get().saturating_add(bytes as u64);
        self.held.set(held);
        if held > self.limit { Err(self.fault(held)) } else { Ok(()) }
    }

    fn fault(&self, held: u64) -> Fault {
        let limit = self.limit;
        Fault(format!("the tensors of the request take {held} bytes together, more than the {limit} allowed"))
    }
}

/// What one running graph holds.
pub(crate) struct Ledger<'a> {
    memory: Option<&'a Memory>,
    /// What was held when it began.
    around: u64,
    /// What was added since the last count.
    added: u64,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(memory: Option<&'a Memory>) -> Self {
        Self { memory, around: memory.map_or(0, |memory| memory.held.get()), added: 0 }
    }

    /// Adds a value that the graph holds from now on. True when it has to be counted what there is.
    pub(crate) fn add(&mut self, held: &Held) -> bool {
        let Some(memory) = self.memory else { return false };
        let mut bytes = 0u64;
        visit(held, &mut |tensor| bytes = bytes.saturating_add(tensor.place().1 as u64));
        self.added = self.added.saturating_add(bytes);
        let all = self.around.saturating_add(self.added);
        memory.held.set(all);
        all > memory.limit
    }

    /// True where what was added up is so much that it matters how much of it is still there.
    pub(crate) fn is_rough(&self) -> bool {
        self.memory.is_some_and(|memory| self.added > memory.limit / ROUGHLY)
    }

    /// Counts the values that are there; a fault when they are too much. What constants share is not the request's.
    pub(crate) fn count<'v>(
        &mut self,
        values: impl Iterator<Item = &'v Held>,
        constants: &[Tensor],
    ) -> Result<(), Fault> {
        let Some(memory) = self.memory else { return Ok(()) };
        let mut seen: HashSet<usize> = constants.iter().map(|constant| constant.place().0).collect();
        let mut bytes = 0u64;
        for held in values {
            visit(held, &mut |tensor| {
                let (place, size) = tensor.place();
                if seen.insert(place) {
                    bytes = bytes.saturating_add(size as u64);
                }
            });
        }
        self.added = bytes;
        let all = self.around.saturating_add(bytes);
        memory.held.set(all);
        if all > memory.limit { Err(memory.fault(all)) } else { Ok(()) }
    }
}

impl Drop for Ledger<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory {
            memory.held.set(self.around);
        }
    }
}

fn visit(held: &Held, seen: &mut dyn FnMut(&Tensor)) {
    match held {
        Held::Tensor(tensor) => seen(tensor),
        Held::Sequence(sequence) => sequence.items.iter().for_each(seen),
        Held::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Held {
        Tensor::from_items(&[count, 2], vec![0f32; 2 * count]).into()
    }

    #[test]
    fn views_of_one_store_are_counted_once() {
        let memory = Memory::new(100);
        let mut ledger = Ledger::new(Some(&memory));
        let ten = rows(10);
        assert!(!ledger.add(&ten), "80 bytes");
        assert!(ledger.add(&ten.clone()), "160 bytes, if they were two");
        let values = [ten.clone(), ten];
        ledger.count(values.iter(), &[]).expect("80 bytes");
        assert_eq!(memory.held.get(), 80);
        assert!(ledger.count(values.iter().chain([&rows(3)]), &[]).is_err());
        drop(ledger);
        assert_eq!(memory.held.get(), 0);
    }

    #[test]
    fn what_belongs_to_the_graph_is_not_the_requests() {
        let memory = Memory::new(10);
        let constant = Tensor::from_items(&[100], vec![0u8; 100]);
        let value = Held::Tensor(constant.clone());
        Ledger::new(Some(&memory)).count([&value].into_iter(), &[constant]).expect("nothing of its own");
    }

    #[test]
    fn a_graph_inside_of_another_has_what_that_leaves() {
        let memory = Memory::new(100);
        let mut outer = Ledger::new(Some(&memory));
        outer.add(&rows(10));
        let mut inner = Ledger::new(Some(&memory));
        assert!(inner.add(&rows(4)), "32 bytes beside 80");
        assert!(inner.count([&rows(4)].into_iter(), &[]).is_err());
        drop(inner);
        memory.hold(20).expect("100 bytes");
        assert!(memory.hold(1).is_err());
    }
}
