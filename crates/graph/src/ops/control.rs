//! Operators that run a graph of their own: branches, loops, scans, and maps over lists.

use super::slice::part;
use super::{ALL, Built, Context, Entry, Inputs, Outputs, Refusal, join, operator};
use crate::held::{Held, Sequence};
use crate::load::{Nested, Node};
use crate::tensor::{Fault, Tensor, check_size, fault, resolve_axis, to_i64};
use crate::value::{DType, ValueInfo};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("If", 1, "BOOL", branch),
    Entry::new("Loop", 1, ALL, repeat),
    Entry::new("Scan", 8, ALL, scan),
    Entry::new("SequenceMap", 17, ALL, map_sequence),
];

/// Runs a graph with its declared inputs and what it reads from outside.
pub(super) fn call(
    nested: &Nested,
    declared: Vec<Option<Held>>,
    captured: &[Option<Held>],
    context: Context<'_>,
) -> Result<Vec<Held>, Fault> {
    if declared.len() != nested.inputs {
        fault!("its graph declares {} inputs, and {} are there", nested.inputs, declared.len());
    }
    let inputs = declared.into_iter().chain(captured.iter().cloned()).collect();
    nested.plan.run_nested(inputs, context)
}

/// What a graph reads from outside.
pub(super) fn captured(nested: &Nested, inputs: &mut Inputs<'_>) -> Vec<Option<Held>> {
    nested.captured.iter().map(|&position| inputs.take_any(position).ok()).collect()
}

/// Counts one more run of a body; a fault when the request has had its share, or is stopped. A body without
/// nodes has nobody else who asks.
fn count_round(context: Context<'_>) -> Result<(), Fault> {
    if context.stop.is_some_and(|stop| stop()) {
        fault!("the request was stopped");
    }
    let Some(rounds) = context.rounds else { return Ok(()) };
    match rounds.get().checked_sub(1) {
        Some(left) => rounds.set(left),
        None => fault!("the loops of one request may not run any more often"),
    }
    Ok(())
}

/// The only element of a truth value.
fn truth(tensor: &Tensor) -> Result<bool, Fault> {
    match (tensor.dtype(), tensor.len()) {
        (DType::Bool, 1) => Ok(tensor.to_f64s()?.first() != Some(&0.0)),
        _ => Err(Fault(format!("one truth value is needed, not {}", tensor.describe()))),
    }
}

fn branch(node: &Node<'_>) -> Built {
    let (yes, no) = (node.graph("then_branch")?, node.graph("else_branch")?);
    operator(move |inputs| {
        let nested = if truth(&inputs.take(0)?)? { &yes } else { &no };
        let captured = captured(nested, inputs);
        Ok(Outputs::Held(call(nested, Vec::new(), &captured, inputs.context)?))
    })
}

fn repeat(node: &Node<'_>) -> Built {
    let body = node.graph("body")?;
    let given = node.input_count();
    let carried = given.saturating_sub(2);
    let Some(scanned) = body.outputs.len().checked_sub(carried + 1) else {
        return Err(Refusal::Invalid(format!("its body gives fewer than {} outputs", carried + 1)));
    };
    operator(move |inputs| {
        let limit = match inputs.optional(0) {
            Some(limit) => Some(*limit.to_i64s()?.first().ok_or_else(|| Fault("no trip count".to_owned()))?),
            None => None,
        };
        let mut go_on = inputs.optional(1).map(|tensor| truth(&tensor)).transpose()?.unwrap_or(true);
        let mut state: Vec<Held> =
            (2..given).map(|index| inputs.take_any(index)).collect::<Result<_, _>>()?;
        let captured = captured(&body, inputs);
        let mut scans: Vec<Vec<Tensor>> = vec![Vec::new(); scanned];
        let mut round = 0i64;
        while go_on && limit.is_none_or(|limit| round < limit) {
            count_round(inputs.context)?;
            let counters = [
                Some(Tensor::from_items(&[], vec![round]).into()),
                Some(Tensor::from_bools(&[], vec![1]).into()),
            ];
            let declared = counters.into_iter().chain(state.into_iter().map(Some)).collect();
            let mut outputs = call(&body, declared, &captured, inputs.context)?.into_iter();
            go_on = truth(&outputs.next().ok_or_else(|| Fault("no condition".to_owned()))?.tensor()?)?;
            state = outputs.by_ref().take(carried).collect();
            for (scan, output) in scans.iter_mut().zip(outputs) {
                push(scan, output.tensor()?, inputs.context)?;
            }
            round += 1;
        }
        let declared = &body.outputs[carried + 1..];
        let scans = scans.into_iter().zip(declared).map(|(scan, declared)| match declared {
            Some(info) if scan.is_empty() => nothing(info),
            _ => stack(scan, 0),
        });
        state.extend(scans.map(|scan| scan.map(Held::Tensor)).collect::<Result<Vec<_>, _>>()?);
        Ok(Outputs::Held(state))
    })
}

/// A stack of no tensors. Lengths that the file leaves open are 0.
fn nothing(declared: &ValueInfo) -> Result<Tensor, Fault> {
    let lengths: &[Option<usize>] = if declared.ranked { &declared.shape } else { &[] };
    let shape: Vec<usize> =
        std::iter::once(0).chain(lengths.iter().map(|length| length.unwrap_or(0))).collect();
    check_size(&shape)?;
    super::cast::cast(Tensor::from_items::<f32>(&shape, Vec::new()), declared.dtype)
}

/// Adds a tensor to those that will be stacked: all have one shape, and one tensor must hold them.
fn push(scan: &mut Vec<Tensor>, tensor: Tensor, context: Context<'_>) -> Result<(), Fault> {
    if let Some(first) = scan.first().filter(|first| first.shape() != tensor.shape()) {
        fault!("{} follows {}, and they cannot be stacked", tensor.describe(), first.describe());
    }
    let count = scan.len() + 1;
    Sequence::check(count, check_size(&[count, tensor.weight()])?)?;
    scan.push(kept(tensor, context)?);
    Ok(())
}

/// A tensor that is kept while the graph that gave it runs again: what it takes is counted, and a small view
/// of a large tensor does not keep all of that alive.
fn kept(tensor: Tensor, context: Context<'_>) -> Result<Tensor, Fault> {
    let tensor = tensor.compact();
    if let Some(memory) = context.memory {
        memory.hold(tensor.place().1)?;
    }
    Ok(tensor)
}

/// Tensors of one shape along a new dimension.
pub(super) fn stack(tensors: Vec<Tensor>, axis: i64) -> Result<Tensor, Fault> {
    let Some(first) = tensors.first() else { fault!("there is nothing to stack") };
    let axis = resolve_axis(axis, first.rank() + 1)?;
    let raised: Vec<Tensor> = tensors
        .into_iter()
        .map(|tensor| {
            let mut shape = tensor.shape().to_vec();
            shape.insert(axis.min(shape.len()), 1);
            tensor.reshape(&shape)
        })
        .collect::<Result<_, _>>()?;
    join(raised, to_i64(axis))
}

/// The slice at a position of a dimension, without that dimension.
pub(super) fn select(x: &Tensor, axis: usize, at: usize) -> Result<Tensor, Fault> {
    let mut shape = x.shape().to_vec();
    let slice = part(x.clone(), axis, at, 1)?;
    shape.remove(axis);
    slice.reshape(&shape)
}

/// The axes and directions of what a scan reads or gives.
struct Ways {
    axes: Vec<i64>,
    backwards: Vec<bool>,
}

impl Ways {
    fn read(node: &Node<'_>, kind: &str) -> Self {
        let list = |name: &str| node.ints(&format!("scan_{kind}_{name}")).unwrap_or_default();
        Self { axes: list("axes"), backwards: list("directions").iter().map(|&way| way != 0).collect() }
    }

    fn axis(&self, index: usize, rank: usize) -> Result<usize, Fault> {
        resolve_axis(self.axes.get(index).copied().unwrap_or(0), rank)
    }

    fn backwards(&self, index: usize) -> bool {
        self.backwards.get(index).copied().unwrap_or(false)
    }
}

/// `Scan`: the body for each slice of the inputs, with a state that goes from one to the next.
struct Scan {
    body: Nested,
    /// How many inputs are state.
    states: usize,
    /// How many inputs are scanned.
    scanned: usize,
    read: Ways,
    give: Ways,
}

fn scan(node: &Node<'_>) -> Built {
    let body = node.graph("body")?;
    let Some(scanned) = usize::try_from(node.int("num_scan_inputs", 0)).ok().filter(|&count| count > 0)
    else {
        return Err(Refusal::Invalid("`num_scan_inputs` must be positive".to_owned()));
    };
    let Some(states) = body.inputs.checked_sub(scanned).filter(|&states| states <= body.outputs.len()) else {
        return Err(Refusal::Invalid(format!("its body does not take {scanned} scanned inputs")));
    };
    let (mut read, give) = (Ways::read(node, "input"), Ways::read(node, "output"));
    let batched = node.opset() < 9;
    if batched {
        read.backwards = node.ints("directions").unwrap_or_default().iter().map(|&way| way != 0).collect();
    }
    let scan = Scan { body, states, scanned, read, give };
    operator(move |inputs| if batched { scan.each_row(inputs) } else { scan.once(inputs) })
}

impl Scan {
    fn once(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let state = (0..self.states).map(|index| inputs.take_any(index)).collect::<Result<_, _>>()?;
        let scanned = self.states..self.states + self.scanned;
        let scanned: Vec<Tensor> = scanned.map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
        let captured = captured(&self.body, inputs);
        Ok(Outputs::Held(self.run(state, &scanned, None, &captured, inputs.context)?))
    }

    /// The first form has a batch in front of everything, and a length for each of its rows.
    fn each_row(&self, inputs: &mut Inputs<'_>) -> Result<Outputs, Fault> {
        let lengths = inputs.optional(0).map(|lengths| lengths.to_i64s()).transpose()?;
        let all = 1..1 + self.states + self.scanned;
        let all: Vec<Tensor> = all.map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
        let captured = captured(&self.body, inputs);
        let rows = all.first().and_then(|first| first.shape().first()).copied().unwrap_or(0);
        let mut results: Vec<Vec<Tensor>> = Vec::new();
        for row in 0..rows {
            count_round(inputs.context)?;
            let mut slices: Vec<Tensor> =
                all.iter().map(|tensor| select(tensor, 0, row)).collect::<Result<_, _>>()?;
            let scanned = slices.split_off(self.states);
            let count = lengths.as_ref().and_then(|lengths| lengths.get(row).copied());
            let count = count.and_then(|count| usize::try_from(count).ok());
            let state = slices.into_iter().map(Held::from).collect();
            let outputs = self.run(state, &scanned, count, &captured, inputs.context)?;
            results.resize(outputs.len(), Vec::new());
            for (result, output) in results.iter_mut().zip(outputs) {
                push(result, output.tensor()?, inputs.context)?;
            }
        }
        Ok(Outputs::Many(results.into_iter().map(|rows| stack(rows, 0)).collect::<Result<_, _>>()?))
    }

    /// One scan over `count` slices, or all.
    fn run(
        &self,
        mut state: Vec<Held>,
        inputs: &[Tensor],
        count: Option<usize>,
        captured: &[Option<Held>],
        context: Context<'_>,
    ) -> Result<Vec<Held>, Fault> {
        let axes: Vec<usize> = inputs
            .iter()
            .enumerate()
            .map(|(index, input)| self.read.axis(index, input.rank()))
            .collect::<Result<_, _>>()?;
        let length = inputs[0].shape()[axes[0]];
        if inputs.iter().zip(&axes).any(|(input, &axis)| input.shape()[axis] != length) {
            fault!("the scanned inputs differ in length");
        }
        let steps = count.unwrap_or(length).min(length);
        let mut scans: Vec<Vec<Tensor>> = vec![Vec::new(); self.body.outputs.len() - self.states];
        for step in 0..steps {
            count_round(context)?;
            let mut declared: Vec<Option<Held>> = state.into_iter().map(Some).collect();
            for (index, (input, &axis)) in inputs.iter().zip(&axes).enumerate() {
                let at = if self.read.backwards(index) { steps - 1 - step } else { step };
                declared.push(Some(select(input, axis, at)?.into()));
            }
            let mut outputs = call(&self.body, declared, captured, context)?.into_iter();
            state = outputs.by_ref().take(self.states).collect();
            for (scan, output) in scans.iter_mut().zip(outputs) {
                push(scan, output.tensor()?, context)?;
            }
        }
        for (index, mut scan) in scans.into_iter().enumerate() {
            if self.give.backwards(index) {
                scan.reverse();
            }
            if let Some(first) = scan.first().filter(|_| steps < length) {
                // A row that ends early is filled up with zeros.
                let zeros = vec![0f32; first.len()];
                let zeros = super::cast::cast(Tensor::from_items(first.shape(), zeros), first.dtype())?;
                Sequence::check(length, check_size(&[length, zeros.len()])?)?;
                scan.resize(length, zeros);
            }
            let along = self.give.axes.get(index).copied().unwrap_or(0);
            state.push(match &self.body.outputs[self.states + index] {
                Some(info) if scan.is_empty() => nothing(info)?.into(),
                _ => stack(scan, along)?.into(),
            });
        }
        Ok(state)
    }
}

fn map_sequence(node: &Node<'_>) -> Built {
    let body = node.graph("body")?;
    let given = node.input_count();
    operator(move |inputs| {
        let arguments: Vec<Held> =
            (0..given).map(|index| inputs.take_any(index)).collect::<Result<_, _>>()?;
        let captured = captured(&body, inputs);
        let Some(Held::Sequence(first)) = arguments.first() else { fault!("a list of tensors is needed") };
        let count = first.items.len();
        let mut results: Vec<Vec<Tensor>> = vec![Vec::new(); body.outputs.len()];
        let mut elements = 0usize;
        for at in 0..count {
            count_round(inputs.context)?;
            let declared = arguments.iter().map(|argument| match argument {
                Held::Sequence(sequence) => sequence.items.get(at).cloned().map(Held::Tensor),
                other => Some(other.clone()),
            });
            let outputs = call(&body, declared.collect(), &captured, inputs.context)?;
            for (result, output) in results.iter_mut().zip(outputs) {
                let output = output.tensor()?;
                elements += output.len();
                Sequence::check(count, elements)?;
                result.push(kept(output, inputs.context)?);
            }
        }
        let lists = results.into_iter().zip(&body.outputs).map(|(result, declared)| {
            let dtype = result.first().map(Tensor::dtype).or(declared.as_ref().map(|info| info.dtype));
            Sequence::new(dtype.unwrap_or(DType::F32), result).map(Held::Sequence)
        });
        Ok(Outputs::Held(lists.collect::<Result<_, _>>()?))
    })
}
