//! What a request does: the steps of a graph, with values resolved to slots.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::RunError;
use crate::fuse::Role;
use crate::held::Held;
use crate::memory::Ledger;
use crate::network::Form;
use crate::ops::{Context, Inputs, Operator, Outputs};
use crate::tensor::{Fault, Tensor};

/// Where a value is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The node leaves this input out.
    Absent,
    /// Known since the load.
    Constant(usize),
    /// Computed by the request.
    Slot {
        /// The position among the slots.
        index: usize,
        /// Nobody reads the slot after this: the tensor is handed over and may be changed in place.
        last: bool,
    },
}

impl Source {
    /// A slot that is read again.
    pub(crate) fn slot(index: usize) -> Self {
        Self::Slot { index, last: false }
    }
}

/// One node of the graph.
pub(crate) struct Step {
    /// The node's name, for errors.
    pub(crate) name: String,
    /// The operator's name, for errors.
    pub(crate) op_type: String,
    /// What to do.
    pub(crate) operator: Box<dyn Operator>,
    /// What it is for the passes that put steps together.
    pub(crate) role: Role,
    /// The operator computes half precision in single precision.
    pub(crate) widens: bool,
    /// The operator runs a graph of its own.
    pub(crate) nests: bool,
    /// Where the inputs are.
    pub(crate) inputs: Vec<Source>,
    /// Where the outputs go; `None` for one that nobody reads.
    pub(crate) outputs: Vec<Option<usize>>,
    /// What a network does instead on its backend, where the node reads numbers that are there.
    pub(crate) form: Option<Box<Form>>,
}

/// The steps in order, and everything that they share.
pub(crate) struct Plan {
    pub(crate) constants: Vec<Tensor>,
    pub(crate) slots: usize,
    pub(crate) inputs: Vec<usize>,
    /// What is given after the inputs, by a graph around this one that holds it too.
    captured: Vec<usize>,
    pub(crate) steps: Vec<Step>,
    pub(crate) outputs: Vec<Source>,
    /// The most inputs that a step has.
    widest: usize,
}

impl Plan {
    /// Leaves out steps that no output needs, and constants that no step reads, and marks the last use of
    /// each slot.
    pub(crate) fn new(
        mut constants: Vec<Tensor>,
        slots: usize,
        inputs: Vec<usize>,
        captured: Vec<usize>,
        mut steps: Vec<Step>,
        mut outputs: Vec<Source>,
    ) -> Self {
        let mut needed = vec![false; slots];
        // Backwards: the first reader met is the last to run.
        mark_last(&mut outputs, &mut needed);
        let mut kept = Vec::with_capacity(steps.len());
        while let Some(mut step) = steps.pop() {
            for output in &mut step.outputs {
                *output = output.filter(|&slot| needed[slot]);
            }
            if step.outputs.iter().any(Option::is_some) {
                mark_last(&mut step.inputs, &mut needed);
                kept.push(step);
            }
        }
        kept.reverse();
        keep_read(&mut constants, kept.iter_mut().flat_map(|step| &mut step.inputs).chain(&mut outputs));
        let widest = kept.iter().map(|step| step.inputs.len()).max().unwrap_or(0);
        Self { constants, slots, inputs, captured, steps: kept, outputs, widest }
    }

    /// The names of the steps' nodes and operators.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().map(|step| (step.name.as_str(), step.op_type.as_str()))
    }

    /// Answers a request. `inputs` are in the order of the graph's declaration.
    pub(crate) fn run(&self, inputs: Vec<Option<Held>>, context: Context<'_>) -> Result<Vec<Held>, RunError> {
        let current = Cell::new(None);
        // Operators check what they are given, but burn asserts on shapes and indices in many places,
        // and a request must never take the process down. Nothing is left half-done by an unwinding:
        // all values belong to this call, the plan is only read.
        let result = catch_unwind(AssertUnwindSafe(|| self.run_steps(inputs, context, &current)));
        let fault = match result {
            Ok(Ok(held)) => return Ok(held),
            Ok(Err(fault)) => fault.0,
            Err(panic) => panic_text(panic.as_ref()),
        };
        if context.stop.is_some_and(|stop| stop()) {
            return Err(RunError::Stopped);
        }
        let step = current.get().and_then(|position: usize| self.steps.get(position));
        Err(RunError::Node {
            node: step.map_or_else(|| "outputs".to_owned(), |step| step.name.clone()),
            op: step.map_or_else(String::new, |step| step.op_type.clone()),
            reason: fault,
        })
    }

    /// Runs a graph inside of an operator; the fault names the node in it.
    pub(crate) fn run_nested(
        &self,
        inputs: Vec<Option<Held>>,
        context: Context<'_>,
    ) -> Result<Vec<Held>, Fault> {
        let current = Cell::new(None);
        let context = Context { begins: None, ..context };
        self.run_steps(inputs, context, &current).map_err(|fault| {
            let step = current.get().and_then(|position: usize| self.steps.get(position));
            let Some(Step { name, op_type, .. }) = step else { return fault };
            Fault(format!("at node `{name}` ({op_type}) inside of it: {}", fault.0))
        })
    }

    fn run_steps(
        &self,
        inputs: Vec<Option<Held>>,
        context: Context<'_>,
        current: &Cell<Option<usize>>,
    ) -> Result<Vec<Held>, Fault> {
        let mut slots: Vec<Option<Held>> = vec![None; self.slots];
        let mut ledger = Ledger::new(context.memory);
        let mut too_much = false;
        for (position, (&slot, held)) in self.inputs.iter().chain(&self.captured).zip(inputs).enumerate() {
            too_much |= position < self.inputs.len() && held.as_ref().is_some_and(|held| ledger.add(held));
            slots[slot] = held;
        }
        let mut arguments = Vec::with_capacity(self.widest);
        for (position, step) in self.steps.iter().enumerate() {
            current.set(Some(position));
            if context.stop.is_some_and(|stop| stop()) {
                return Err(Fault("the request was stopped".to_owned()));
            }
            if let Some(begins) = context.begins {
                begins(position);
            }
            // A graph inside of the step has to know what is left for it.
            if std::mem::take(&mut too_much) || (step.nests && ledger.is_rough()) {
                self.count(&mut ledger, &slots)?;
            }
            arguments.clear();
            arguments.extend(step.inputs.iter().map(|&source| self.fetch(source, &mut slots)));
            match step.operator.run(&mut Inputs::new(&mut arguments, context))? {
                Outputs::One(tensor) => {
                    if let Some(&Some(slot)) = step.outputs.first() {
                        let held = tensor.into();
                        too_much |= ledger.add(&held);
                        slots[slot] = Some(held);
                    }
                }
                outputs => {
                    for (&output, held) in step.outputs.iter().zip(outputs.into_vec()) {
                        if let Some(slot) = output {
                            too_much |= ledger.add(&held);
                            slots[slot] = Some(held);
                        }
                    }
                }
            }
            if std::mem::take(&mut too_much) {
                self.count(&mut ledger, &slots)?;
            }
        }
        current.set(None);
        let output = |&source: &Source| {
            self.fetch(source, &mut slots).ok_or_else(|| Fault("an output was not computed".to_owned()))
        };
        self.outputs.iter().map(output).collect()
    }

    /// Counts what the slots hold, but for those that a graph around this one holds.
    fn count(&self, ledger: &mut Ledger<'_>, slots: &[Option<Held>]) -> Result<(), Fault> {
        let mut own = vec![true; slots.len()];
        for &slot in &self.captured {
            own[slot] = false;
        }
        let values = slots.iter().zip(own).filter(|(_, own)| *own).filter_map(|(held, _)| held.as_ref());
        ledger.count(values, &self.constants)
    }

    fn fetch(&self, source: Source, slots: &mut [Option<Held>]) -> Option<Held> {
        match source {
            Source::Absent => None,
            Source::Constant(index) => self.constants.get(index).cloned().map(Held::Tensor),
            Source::Slot { index, last: true } => slots[index].take(),
            Source::Slot { index, last: false } => slots[index].clone(),
        }
    }
}

/// Marks the reads of slots that are not needed later, and that they are needed before.
fn mark_last(sources: &mut [Source], needed: &mut [bool]) {
    for source in sources.iter_mut().rev() {
        if let Source::Slot { index, last } = source {
            *last = !needed[*index];
            needed[*index] = true;
        }
    }
}

/// Leaves out the constants that no source names, and gives the sources the new numbers of the others.
fn keep_read<'a>(constants: &mut Vec<Tensor>, sources: impl Iterator<Item = &'a mut Source>) {
    let mut all: Vec<Option<Tensor>> = std::mem::take(constants).into_iter().map(Some).collect();
    let mut numbers = vec![None; all.len()];
    for source in sources {
        let Source::Constant(index) = source else { continue };
        if let Some(tensor) = all[*index].take() {
            numbers[*index] = Some(constants.len());
            constants.push(tensor);
        }
        if let Some(number) = numbers[*index] {
            *index = number;
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the operator gave up: {}", text.unwrap_or("no reason was given"))
}
