//! Small graphs from random bytes: one to eight nodes, with inputs that they mostly take.
//!
//! A graph grows node by node, and each node is run alone by ours as soon as it is there: shapes, types and
//! sizes of its outputs are then known without a second set of rules. What another runtime may rightly
//! answer differently is not made:
//! - **Rounding.** Sums are added up in an order of their own, and `Exp` has no exact answer. A value that
//!   comes of such a node is [`ROUNDED`]: what follows may move it or scale it, but not compare it, round it,
//!   subtract it or feed it to a function that is steep, where a last bit becomes a whole.
//! - **What ONNX leaves open.** Division of whole numbers by 0, casts to a type that has no such number,
//!   indices that are written twice, the greatest of no numbers. See the operators.

mod elementwise;
mod matrix;
mod movement;
mod pick;
mod reduce;
mod values;
mod window;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::{DType, Data, Graph, Value};

use crate::wire::{Field, Kind, bytes, declared, encode, float, message, number, tensor, text};
use values::Style;

/// The version of ONNX's operators in all graphs.
const OPSET: i64 = 21;
/// The version of the format that goes with it.
const FORMAT: i64 = 10;
/// The most nodes.
const MOST_NODES: u8 = 8;
/// The most elements of a value.
const MOST_ELEMENTS: usize = 2048;
/// Both runtimes must give the same bits.
const EXACT: u8 = 0;
/// The last bits may differ.
const ROUNDED: u8 = 1;
/// Sizes beyond this, squared and added up, leave little of single precision.
const LARGE: f64 = 1e4;
/// The same for half precision.
const LARGE_HALF: f64 = 64.0;
/// Whole numbers beyond this overflow before long, which is left open.
const LARGE_WHOLE: f64 = 1e6;

/// Adds a node to a graph; does nothing where there is nothing for it to take.
type Maker = fn(&mut Builder, &mut Unstructured<'_>, &'static str) -> Result<()>;

/// A graph with inputs.
#[derive(Debug)]
pub struct Case {
    /// The file.
    pub model: Vec<u8>,
    /// A value for each input.
    pub inputs: Vec<(String, Value)>,
    /// The operators in it. The node at a position has the name `n` and that position.
    pub operators: Vec<&'static str>,
    /// Why ours does not run the last node.
    pub refused: Option<String>,
}

/// A graph from random bytes; `None` where no node came of them.
pub fn make(random: &mut Unstructured<'_>) -> Result<Option<Case>> {
    let all: Vec<(&'static str, Maker)> = [
        elementwise::OPERATORS,
        movement::OPERATORS,
        pick::OPERATORS,
        reduce::OPERATORS,
        matrix::OPERATORS,
        window::OPERATORS,
    ]
    .concat();
    let mut builder = Builder::default();
    for _ in 0..random.int_in_range(1..=MOST_NODES)? {
        let (name, maker) = *random.choose(&all)?;
        maker(&mut builder, random, name)?;
        // Without bytes, each choice is the first.
        if builder.refused.is_some() || random.is_empty() {
            break;
        }
    }
    // Where all values are outputs, no memory can be used again; where only the last ones are, errors in
    // between may not show.
    let all_outputs = random.ratio(1, 2)?;
    Ok(builder.finish(all_outputs))
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    Input,
    Stored,
    Node,
}

/// A value in the graph.
#[derive(Debug)]
struct Edge {
    name: String,
    value: Value,
    /// [`EXACT`], [`ROUNDED`], or more.
    rounding: u8,
    origin: Origin,
    read: bool,
}

/// A graph under construction.
#[derive(Debug, Default)]
struct Builder {
    edges: Vec<Edge>,
    nodes: Vec<Vec<Field>>,
    operators: Vec<&'static str>,
    /// Outputs of the node that ours does not run.
    unknown: Vec<String>,
    refused: Option<String>,
}

/// What an input of a node must be.
struct Want<'a> {
    dtypes: &'a [DType],
    least: usize,
    most: usize,
    rounding: u8,
}

impl<'a> Want<'a> {
    /// A tensor of one of these types with a rank in this range, of which each bit is known.
    fn exact(dtypes: &'a [DType], least: usize, most: usize) -> Self {
        Self { dtypes, least, most, rounding: EXACT }
    }

    /// The same; the last bits need not be known.
    fn any(dtypes: &'a [DType], least: usize, most: usize) -> Self {
        Self { dtypes, least, most, rounding: u8::MAX }
    }
}

/// Floating-point types, the most used more often.
const FLOATS: &[DType] = &[DType::F32, DType::F32, DType::F32, DType::F64, DType::F16];
/// Those in which sums are compared: in half precision runtimes add up in half or in single precision.
const WIDE_FLOATS: &[DType] = &[DType::F32, DType::F32, DType::F64];
const NUMBERS: &[DType] = &[
    DType::F32,
    DType::F32,
    DType::F32,
    DType::F64,
    DType::F16,
    DType::I64,
    DType::I64,
    DType::I32,
    DType::U8,
    DType::I8,
    DType::U32,
    DType::U64,
    DType::I16,
    DType::U16,
];
const INTEGERS: &[DType] =
    &[DType::I64, DType::I32, DType::U8, DType::I8, DType::U32, DType::U64, DType::I16, DType::U16];
const SIGNED: &[DType] = &[DType::F32, DType::F32, DType::F64, DType::F16, DType::I64, DType::I32, DType::I8];
const ANY: &[DType] = &[
    DType::F32,
    DType::F32,
    DType::I64,
    DType::Bool,
    DType::I32,
    DType::F64,
    DType::F16,
    DType::U8,
    DType::I8,
    DType::U16,
];

impl Builder {
    /// A value that a node can take: one that is there, or a new one.
    fn take(&mut self, random: &mut Unstructured<'_>, want: &Want<'_>) -> Result<usize> {
        let fits = |edge: &Edge| {
            let rank = edge.value.shape().len();
            edge.rounding <= want.rounding
                && (want.least..=want.most).contains(&rank)
                && want.dtypes.contains(&edge.value.dtype())
        };
        let found: Vec<usize> = (0..self.edges.len()).filter(|&at| fits(&self.edges[at])).collect();
        // The newest first: chains of nodes are worth more than many beside each other.
        match found.last() {
            Some(&newest) if random.ratio(1, 2)? => Ok(newest),
            Some(_) if random.ratio(1, 2)? => random.choose(&found).copied(),
            _ => {
                let dtype = *random.choose(want.dtypes)?;
                let shape = values::shape(random, want.least, want.most)?;
                let special = want.rounding > EXACT && random.ratio(1, 30)?;
                self.leaf(random, dtype, &shape, if special { Style::Special } else { Style::Plain })
            }
        }
    }

    /// A new input, or a stored tensor.
    fn leaf(
        &mut self,
        random: &mut Unstructured<'_>,
        dtype: DType,
        shape: &[usize],
        style: Style,
    ) -> Result<usize> {
        let origin = if random.ratio(1, 3)? { Origin::Stored } else { Origin::Input };
        let value = values::value(random, dtype, shape, style)?;
        Ok(self.add(value, origin))
    }

    /// New whole numbers that say how: sizes, axes, indices. Mostly stored, as exporters do.
    fn ints(&mut self, random: &mut Unstructured<'_>, shape: &[usize], ints: Vec<i64>) -> Result<usize> {
        let origin = if random.ratio(1, 4)? { Origin::Input } else { Origin::Stored };
        let value = Value::new(shape.to_vec(), Data::I64(ints)).expect("as many as the shape says");
        Ok(self.add(value, origin))
    }

    /// A list of whole numbers.
    fn list(&mut self, random: &mut Unstructured<'_>, ints: Vec<i64>) -> Result<usize> {
        self.ints(random, &[ints.len()], ints)
    }

    fn add(&mut self, value: Value, origin: Origin) -> usize {
        let name = format!("x{}", self.edges.len());
        let rounding = least_rounding(&value);
        self.edges.push(Edge { name, value, rounding, origin, read: false });
        self.edges.len() - 1
    }

    fn shape(&self, edge: usize) -> Vec<usize> {
        self.edges[edge].value.shape().to_vec()
    }

    fn dtype(&self, edge: usize) -> DType {
        self.edges[edge].value.dtype()
    }

    /// The value as doubles.
    fn floats(&self, edge: usize) -> Vec<f64> {
        values::floats(&self.edges[edge].value)
    }

    /// True where all elements are finite.
    fn is_plain(&self, edge: usize) -> bool {
        self.floats(edge).iter().all(|item| item.is_finite())
    }

    /// Adds a node that loses nothing: its outputs are as exact as its inputs.
    fn moves(&mut self, operator: &'static str, inputs: &[usize], attributes: Vec<Field>) {
        let inputs: Vec<Option<usize>> = inputs.iter().copied().map(Some).collect();
        self.node(operator, &inputs, 1, attributes, EXACT);
    }

    /// Adds a node whose outputs have `rounding` more than its inputs.
    fn node(
        &mut self,
        operator: &'static str,
        inputs: &[Option<usize>],
        outputs: usize,
        attributes: Vec<Field>,
        rounding: u8,
    ) {
        let position = self.nodes.len();
        let names: Vec<String> = (0..outputs).map(|at| format!("v{position}_{at}")).collect();
        let mut node: Vec<Field> = inputs
            .iter()
            .map(|input| text(1, input.map_or("", |edge| self.edges[edge].name.as_str())))
            .collect();
        node.extend(names.iter().map(|name| text(2, name)));
        node.extend([text(3, &format!("n{position}")), text(4, operator)]);
        node.extend(attributes);
        let mut used: Vec<usize> = inputs.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        match self.alone(&node, &used, &names) {
            Ok(values) => {
                if values.iter().any(|value| value.data().len() > MOST_ELEMENTS) {
                    return;
                }
                let worst = used.iter().map(|&edge| self.edges[edge].rounding).max().unwrap_or(EXACT);
                for (name, value) in names.into_iter().zip(values) {
                    let rounding = worst.saturating_add(rounding).max(least_rounding(&value));
                    self.edges.push(Edge { name, value, rounding, origin: Origin::Node, read: false });
                }
            }
            Err(reason) => {
                self.unknown = names;
                self.refused = Some(reason);
            }
        }
        for edge in used {
            self.edges[edge].read = true;
        }
        self.operators.push(operator);
        self.nodes.push(node);
    }

    /// What ours answers for a node alone.
    fn alone(
        &self,
        node: &[Field],
        used: &[usize],
        names: &[String],
    ) -> std::result::Result<Vec<Value>, String> {
        let mut graph = vec![message(1, Kind::Node, node.to_vec())];
        let mut inputs = Vec::new();
        for &edge in used {
            let Edge { name, value, .. } = &self.edges[edge];
            graph.push(message(11, Kind::ValueInfo, declare(name, value)));
            inputs.push((name.clone(), value.clone()));
        }
        // What is declared of outputs is for the one who asks; ours does not compute by it.
        graph.extend(names.iter().map(|name| message(12, Kind::ValueInfo, declared(name, 1, None))));
        let graph = Graph::from_bytes(&file(graph)).map_err(|error| error.to_string())?;
        let answer = graph.run(inputs).map_err(|error| error.to_string())?;
        Ok(answer.into_iter().map(|(_, value)| value).collect())
    }

    fn finish(self, all_outputs: bool) -> Option<Case> {
        if self.nodes.is_empty() {
            return None;
        }
        let mut graph: Vec<Field> = self.nodes.into_iter().map(|node| message(1, Kind::Node, node)).collect();
        graph.push(text(2, "random"));
        let mut inputs = Vec::new();
        for Edge { name, value, origin, read, .. } in self.edges {
            let number = value.dtype().onnx_number();
            match origin {
                Origin::Stored if read => {
                    let stored = tensor(&name, number, value.shape(), crate::peer::raw(value.data()));
                    graph.push(message(5, Kind::Tensor, stored));
                }
                Origin::Input if read => {
                    graph.push(message(11, Kind::ValueInfo, declare(&name, &value)));
                    inputs.push((name, value));
                }
                Origin::Node if all_outputs || !read => {
                    graph.push(message(12, Kind::ValueInfo, declared(&name, number, None)));
                }
                _ => {}
            }
        }
        // The other runtime finds out about their types.
        graph.extend(self.unknown.iter().map(|name| message(12, Kind::ValueInfo, vec![text(1, name)])));
        Some(Case { model: file(graph), inputs, operators: self.operators, refused: self.refused })
    }
}

/// Large numbers are no good start for what must be exact.
fn least_rounding(value: &Value) -> u8 {
    let large = match value.dtype() {
        DType::F16 => LARGE_HALF,
        DType::F32 | DType::F64 => LARGE,
        _ => LARGE_WHOLE,
    };
    let is_large = values::floats(value).iter().any(|item| item.is_finite() && item.abs() > large);
    if is_large { ROUNDED + 1 } else { EXACT }
}

/// What a file declares of a value: its rank and type. Lengths are left open.
fn declare(name: &str, value: &Value) -> Vec<Field> {
    let dims = value.shape().iter().map(|_| message(1, Kind::Leaf, Vec::new())).collect();
    let tensor_type = vec![number(1, value.dtype().onnx_number().into()), message(2, Kind::Shape, dims)];
    vec![text(1, name), message(2, Kind::Type, vec![message(1, Kind::TensorType, tensor_type)])]
}

/// A file of one graph.
fn file(graph: Vec<Field>) -> Vec<u8> {
    let opset = message(8, Kind::Leaf, vec![text(1, ""), number(2, OPSET)]);
    encode(&[number(1, FORMAT), text(2, "stoker-graph-fuzz"), message(7, Kind::Graph, graph), opset])
}

/// An attribute with a whole number.
fn int(name: &str, value: i64) -> Field {
    message(5, Kind::Attribute, vec![text(1, name), number(3, value), number(20, 2)])
}

/// An attribute with a number.
fn real(name: &str, value: f32) -> Field {
    message(5, Kind::Attribute, vec![text(1, name), float(2, value), number(20, 1)])
}

/// An attribute with a text.
fn word(name: &str, value: &str) -> Field {
    message(5, Kind::Attribute, vec![text(1, name), bytes(4, value.into()), number(20, 3)])
}

/// An attribute with whole numbers.
fn ints(name: &str, values: &[i64]) -> Field {
    let mut fields = vec![text(1, name)];
    fields.extend(values.iter().map(|&value| number(8, value)));
    fields.push(number(20, 7));
    message(5, Kind::Attribute, fields)
}

/// An attribute with a tensor.
fn stored(name: &str, value: &Value) -> Field {
    let raw = crate::peer::raw(value.data());
    let stored = tensor("", value.dtype().onnx_number(), value.shape(), raw);
    message(5, Kind::Attribute, vec![text(1, name), message(5, Kind::Tensor, stored), number(20, 4)])
}

/// An axis of a tensor, from its start or from its end.
fn axis(random: &mut Unstructured<'_>, rank: usize) -> Result<i64> {
    let rank = rank as i64;
    random.int_in_range(-rank..=rank - 1)
}

/// The same as a position.
fn position(axis: i64, rank: usize) -> usize {
    if axis < 0 { (axis + rank as i64) as usize } else { axis as usize }
}

/// Some axes of a tensor, each at most once.
fn axes(random: &mut Unstructured<'_>, rank: usize) -> Result<Vec<i64>> {
    let mut chosen = Vec::new();
    for axis in 0..rank as i64 {
        if random.ratio(1, 2)? {
            chosen.push(if random.ratio(1, 3)? { axis - rank as i64 } else { axis });
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    #[test]
    fn random_bytes_make_graphs_that_ours_runs() {
        let mut ran = 0;
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let random: Vec<u8> = (0..400).map(|_| dice.any() as u8).collect();
            let Some(case) = make(&mut Unstructured::new(&random)).unwrap() else { continue };
            assert!(case.operators.len() <= MOST_NODES.into());
            if case.refused.is_none() {
                Graph::from_bytes(&case.model).unwrap().run(case.inputs).unwrap();
                ran += 1;
            }
        }
        assert!(ran > 150, "{ran} graphs ran");
    }
}
