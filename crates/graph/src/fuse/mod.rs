//! Steps put together at load: fewer passes over memory, fewer tensors, fewer steps.
//!
//! What is looked at are the steps of a plan, not the nodes of a file: functions are in the places of their
//! calls, constants are computed, and what a graph inside of a node reads is among that node's inputs. A value
//! is done away with only where one step reads it, which is put together with the step that makes it. Results
//! differ by rounding at the most.
//!
//! Constants are never changed, as others may read them: what is folded into weights makes new ones.

mod affine;
mod epilogue;
mod layout;
mod parts;
mod role;
mod separable;
mod widen;

pub(crate) use role::Role;

use crate::plan::{Source, Step};
use crate::tensor::Tensor;
use crate::value::DType;

/// Puts steps together. What is left of one that went into another has no outputs.
///
/// `spare` is how many elements copies of constants may still take: a file could ask for any number of copies
/// of what it stores once.
pub(crate) fn fuse(
    steps: &mut [Step],
    constants: &mut Vec<Tensor>,
    slots: usize,
    outputs: &[Source],
    spare: &mut usize,
) {
    let mut flow = Flow::new(steps, constants, slots, outputs, spare);
    // In their order: a chain grows step by step.
    for at in 0..flow.steps.len() {
        parts::join(&mut flow, at);
        affine::fold(&mut flow, at);
        epilogue::append(&mut flow, at);
    }
    widen::widen(&mut flow, outputs);
    layout::lay_out(&mut flow);
    separable::join(&mut flow);
}

/// The steps of a graph, who makes what, and how often it is read.
struct Flow<'a> {
    steps: &'a mut [Step],
    constants: &'a mut Vec<Tensor>,
    /// By slot: the step that fills it.
    makers: Vec<Option<usize>>,
    /// By slot: how many inputs of steps and outputs of the graph it is.
    reads: Vec<usize>,
    /// The same by constant.
    constant_reads: Vec<usize>,
    spare: &'a mut usize,
}

impl<'a> Flow<'a> {
    fn new(
        steps: &'a mut [Step],
        constants: &'a mut Vec<Tensor>,
        slots: usize,
        outputs: &[Source],
        spare: &'a mut usize,
    ) -> Self {
        let mut makers = vec![None; slots];
        for (at, step) in steps.iter().enumerate() {
            for &slot in step.outputs.iter().flatten() {
                makers[slot] = Some(at);
            }
        }
        let (reads, constant_reads) = (vec![0; slots], vec![0; constants.len()]);
        let mut flow = Self { steps, constants, makers, reads, constant_reads, spare };
        for at in 0..flow.steps.len() {
            for index in 0..flow.steps[at].inputs.len() {
                flow.read(flow.steps[at].inputs[index]);
            }
        }
        for &output in outputs {
            flow.read(output);
        }
        flow
    }

    /// Notes a reader.
    fn read(&mut self, source: Source) {
        match source {
            Source::Slot { index, .. } => self.reads[index] += 1,
            Source::Constant(index) => self.constant_reads[index] += 1,
            Source::Absent => {}
        }
    }

    /// Notes that there is a reader less. A constant without any is dropped: there is no need for weights as they
    /// were before and as they are now at the same time.
    fn leave(&mut self, source: Source) {
        match source {
            Source::Slot { index, .. } => self.reads[index] = self.reads[index].saturating_sub(1),
            Source::Constant(index) => {
                self.constant_reads[index] = self.constant_reads[index].saturating_sub(1);
                if self.constant_reads[index] == 0 {
                    let nothing = Tensor::from_items::<f32>(&[0], Vec::new());
                    let dropped = std::mem::replace(&mut self.constants[index], nothing);
                    // What nobody shares makes room for others.
                    if dropped.is_unique() {
                        *self.spare = self.spare.saturating_add(dropped.len());
                    }
                }
            }
            Source::Absent => {}
        }
    }

    fn role(&self, at: usize) -> &Role {
        &self.steps[at].role
    }

    /// Input `index` of a step; absent where it has none.
    fn input(&self, at: usize, index: usize) -> Source {
        self.steps[at].inputs.get(index).copied().unwrap_or(Source::Absent)
    }

    /// The tensor of a constant.
    fn constant(&self, source: Source) -> Option<&Tensor> {
        match source {
            Source::Constant(index) => self.constants.get(index),
            Source::Absent | Source::Slot { .. } => None,
        }
    }

    /// A constant of floating-point numbers.
    fn floats(&self, source: Source) -> Option<&Tensor> {
        let float = |dtype| matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        self.constant(source).filter(|tensor| float(tensor.dtype()))
    }

    /// The only number of a constant scalar.
    fn scalar(&self, source: Source) -> Option<f64> {
        let tensor = self.floats(source).filter(|tensor| tensor.rank() == 0)?;
        tensor.to_f64s().ok()?.first().copied()
    }

    /// True where a constant scalar is as near to `number` as its type can be.
    fn is_number(&self, source: Source, number: f64) -> bool {
        let precision = match self.floats(source).map(Tensor::dtype) {
            Some(DType::BF16) => 1e-2,
            Some(DType::F16) => 1e-3,
            _ => 1e-6,
        };
        self.scalar(source).is_some_and(|x| (x - number).abs() <= precision * number.abs())
    }

    /// The step whose first output is a value that is read `reads` times.
    fn maker(&self, source: Source, reads: usize) -> Option<usize> {
        let Source::Slot { index, .. } = source else { return None };
        let at = self.makers[index].filter(|_| self.reads[index] == reads)?;
        (self.steps[at].outputs.first() == Some(&Some(index))).then_some(at)
    }

    /// The step whose first output is a value that is read once, where it has this role.
    fn only(&self, source: Source, role: &Role) -> Option<usize> {
        self.maker(source, 1).filter(|&at| self.role(at) == role)
    }

    /// The two inputs of a step of two, if one is what `picked` says: it is given first.
    fn pair<T>(&self, at: usize, picked: impl Fn(Source) -> Option<T>) -> Option<(T, Source)> {
        let &[left, right] = &self.steps[at].inputs[..] else { return None };
        picked(left).map(|left| (left, right)).or_else(|| picked(right).map(|right| (right, left)))
    }

    /// Takes so many elements for copies of constants; `None` where there are not so many left.
    fn spend(&mut self, elements: usize) -> Option<()> {
        *self.spare = self.spare.checked_sub(elements)?;
        Some(())
    }

    fn add_constant(&mut self, tensor: Tensor) -> Source {
        self.constants.push(tensor);
        self.constant_reads.push(0);
        Source::Constant(self.constants.len() - 1)
    }

    /// Gives a step other inputs.
    fn set_inputs(&mut self, at: usize, inputs: Vec<Source>) {
        for &source in &inputs {
            self.read(source);
        }
        for source in std::mem::replace(&mut self.steps[at].inputs, inputs) {
            self.leave(source);
        }
    }

    /// Gives a step another input `index`.
    fn set_input(&mut self, at: usize, index: usize, source: Source) {
        let mut inputs = self.steps[at].inputs.clone();
        inputs.resize(inputs.len().max(index + 1), Source::Absent);
        inputs[index] = source;
        self.set_inputs(at, inputs);
    }

    /// Takes a step away.
    fn remove(&mut self, at: usize) {
        self.set_inputs(at, Vec::new());
        self.steps[at].outputs.clear();
        self.steps[at].role = Role::Other;
    }

    /// Takes a step away whose work another one, which makes its input, does from now on.
    fn absorb(&mut self, first: usize, second: usize) {
        let output = self.steps[second].outputs.first().copied().flatten();
        if let Some(slot) = output {
            self.makers[slot] = Some(first);
        }
        let name = format!("{}+{}", self.steps[first].op_type, self.steps[second].op_type);
        self.steps[first].outputs = vec![output];
        self.steps[first].op_type = name;
        self.remove(second);
    }
}

#[cfg(test)]
mod tests;
