//! Operators that put many elements into one, and those that walk along a dimension.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::DType;

use super::values::Style;
use super::{
    Builder, EXACT, FLOATS, LARGE, Maker, ROUNDED, WIDE_FLOATS, Want, axes, axis, int, position, real,
};

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("ReduceSum", reduce),
    ("ReduceMean", reduce),
    ("ReduceMax", reduce),
    ("ReduceMin", reduce),
    ("ReduceProd", reduce),
    ("ReduceL1", reduce),
    ("ReduceL2", reduce),
    ("ReduceLogSum", reduce),
    ("ReduceLogSumExp", reduce),
    ("ReduceSumSquare", reduce),
    ("ArgMax", find),
    ("ArgMin", find),
    ("CumSum", running),
    ("Softmax", softmax),
    ("LogSoftmax", softmax),
    ("Hardmax", softmax),
    ("LpNormalization", normalise),
    ("MeanVarianceNormalization", normalise),
    ("LayerNormalization", layer),
    ("BatchNormalization", batch),
    ("InstanceNormalization", instance),
    ("GroupNormalization", instance),
    ("LRN", response),
];

/// What there is of no elements is left open, as are products that are too large for their type, and whether whole numbers are cut off or rounded where they are
/// put together by a function that has no whole answer.
fn reduce(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = match name {
        "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" => {
            &[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32][..]
        }
        _ => WIDE_FLOATS,
    };
    let x = builder.take(random, &Want::exact(types, 0, 4))?;
    let shape = builder.shape(x);
    if shape.contains(&0) || !builder.is_plain(x) {
        return Ok(());
    }
    let product: f64 = builder.floats(x).iter().map(|number| number.abs().max(1.0)).product();
    if name == "ReduceProd" && product > LARGE {
        return Ok(());
    }
    let along = axes(random, shape.len())?;
    let mut attributes = vec![int("keepdims", random.int_in_range(0..=1)?)];
    let mut inputs = vec![Some(x)];
    if !along.is_empty() || random.ratio(1, 2)? {
        inputs.push(Some(builder.list(random, along)?));
    }
    if random.ratio(1, 3)? {
        attributes.push(int("noop_with_empty_axes", random.int_in_range(0..=1)?));
    }
    let exact = matches!(name, "ReduceMax" | "ReduceMin");
    builder.node(name, &inputs, 1, attributes, if exact { EXACT } else { ROUNDED });
    Ok(())
}

fn find(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::F64, DType::I32, DType::I64, DType::U8];
    let x = builder.take(random, &Want::exact(&types, 1, 4))?;
    let shape = builder.shape(x);
    if shape.contains(&0) || !builder.is_plain(x) {
        return Ok(());
    }
    let attributes = vec![
        int("axis", axis(random, shape.len())?),
        int("keepdims", random.int_in_range(0..=1)?),
        int("select_last_index", random.int_in_range(0..=1)?),
    ];
    builder.moves(name, &[x], attributes);
    Ok(())
}

fn running(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::F64, DType::I32, DType::I64];
    let x = builder.take(random, &Want::exact(&types, 1, 4))?;
    let rank = builder.shape(x).len();
    let along = axis(random, rank)?;
    let along = builder.ints(random, &[], vec![along])?;
    let attributes =
        vec![int("exclusive", random.int_in_range(0..=1)?), int("reverse", random.int_in_range(0..=1)?)];
    builder.node(name, &[Some(x), Some(along)], 1, attributes, ROUNDED);
    Ok(())
}

fn softmax(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(WIDE_FLOATS, 1, 4))?;
    // Not-a-number has no place in an order.
    if !builder.is_plain(x) {
        return Ok(());
    }
    let attributes = vec![int("axis", axis(random, builder.shape(x).len())?)];
    builder.node(name, &[Some(x)], 1, attributes, if name == "Hardmax" { EXACT } else { ROUNDED });
    Ok(())
}

/// Divides by how large a row is. A row of nothing but zeros is left open, and one of nothing but equal numbers,
/// where ONNX Runtime does not add the small number that ONNX's text adds to a deviation of 0.
fn normalise(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let along_all = name != "LpNormalization";
    let (least, most) = if along_all { (4, 4) } else { (1, 4) };
    let mut shape = super::values::shape(random, least, most)?;
    shape.iter_mut().for_each(|length| *length = (*length).max(1));
    let x = builder.leaf(random, DType::F32, &shape, Style::Positive)?;
    let numbers = builder.floats(x);
    // With a channel of its own, a mean is of all that the other dimensions hold.
    let rows: usize = shape.iter().skip(2).product();
    let equal = numbers.chunks(rows.max(1)).any(|row| row.iter().all(|number| *number == row[0]));
    if along_all && equal {
        return Ok(());
    }
    let attributes = if along_all {
        Vec::new()
    } else {
        vec![int("axis", axis(random, shape.len())?), int("p", random.int_in_range(1..=2)?)]
    };
    builder.node(name, &[Some(x)], 1, attributes, ROUNDED);
    Ok(())
}

/// A large share of variance in what is added to it keeps the quotient from being steep.
const EPSILON: f32 = 0.25;

fn layer(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::F32, DType::F64], 1, 4))?;
    let shape = builder.shape(x);
    if shape.contains(&0) || !builder.is_plain(x) {
        return Ok(());
    }
    let along = axis(random, shape.len())?;
    let own = &shape[position(along, shape.len())..];
    let scale = builder.leaf(random, builder.dtype(x), own, Style::Plain)?;
    let mut inputs = vec![Some(x), Some(scale)];
    if random.ratio(1, 2)? {
        inputs.push(Some(builder.leaf(random, builder.dtype(x), own, Style::Plain)?));
    }
    builder.node(name, &inputs, 1, vec![int("axis", along), real("epsilon", EPSILON)], ROUNDED);
    Ok(())
}

fn batch(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::F32, DType::F64], 2, 4))?;
    let (dtype, channels) = (builder.dtype(x), [builder.shape(x)[1]]);
    let mut inputs = vec![Some(x)];
    for style in [Style::Plain, Style::Plain, Style::Plain, Style::Positive] {
        inputs.push(Some(builder.leaf(random, dtype, &channels, style)?));
    }
    builder.node(name, &inputs, 1, vec![real("epsilon", EPSILON)], ROUNDED);
    Ok(())
}

fn instance(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let groups = random.int_in_range(1..=2)?;
    let channels = groups * random.int_in_range(1..=3)?;
    let mut shape = vec![random.int_in_range(1..=2)?, channels];
    for _ in 0..random.int_in_range(1..=2)? {
        shape.push(random.int_in_range(1..=4)?);
    }
    let x = builder.leaf(random, DType::F32, &shape, Style::Plain)?;
    let mut inputs = vec![Some(x)];
    for _ in 0..2 {
        inputs.push(Some(builder.leaf(random, DType::F32, &[channels], Style::Plain)?));
    }
    let mut attributes = vec![real("epsilon", EPSILON)];
    if name == "GroupNormalization" {
        attributes.push(int("num_groups", groups as i64));
    }
    builder.node(name, &inputs, 1, attributes, ROUNDED);
    Ok(())
}

fn response(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&FLOATS[..1], 4, 4))?;
    if !builder.is_plain(x) {
        return Ok(());
    }
    let size = [1, 3, 5][random.int_in_range(0..=2)?];
    builder.node(name, &[Some(x)], 1, vec![int("size", size), real("alpha", 0.5)], ROUNDED);
    Ok(())
}
