//! Operators that pick elements by number, and put them at places by number.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::DType;

use super::values::Style;
use super::{ANY, Builder, EXACT, Maker, Want, axis, int, position, word};

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("OneHot", one_hot),
    ("NonZero", non_zero),
    ("Compress", compress),
    ("Unique", unique),
    ("Range", range),
    ("TopK", top),
];

const INDICES: [DType; 3] = [DType::I64, DType::I64, DType::I32];

fn gather(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let shape = builder.shape(x);
    let along = axis(random, shape.len())?;
    let length = shape[position(along, shape.len())];
    // There is nothing to pick from an empty dimension.
    let mut wanted = super::values::shape(random, 0, 2)?;
    if length == 0 {
        wanted.push(0);
    }
    let dtype = *random.choose(&INDICES)?;
    let indices = builder.leaf(random, dtype, &wanted, Style::Index(length))?;
    builder.moves(name, &[x, indices], vec![int("axis", along)]);
    Ok(())
}

fn gather_elements(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let mut shape = builder.shape(x);
    let along = axis(random, shape.len())?;
    let at = position(along, shape.len());
    let length = shape[at];
    if length == 0 {
        return Ok(());
    }
    shape[at] = random.int_in_range(1..=4)?;
    let dtype = *random.choose(&INDICES)?;
    let indices = builder.leaf(random, dtype, &shape, Style::Index(length))?;
    builder.moves(name, &[x, indices], vec![int("axis", along)]);
    Ok(())
}

fn gather_nd(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let shape = builder.shape(x);
    let shortest = shape.iter().copied().min().unwrap_or(0);
    if shortest == 0 {
        return Ok(());
    }
    let batch = random.int_in_range(0..=(shape.len() - 1).min(1))?;
    let width = random.int_in_range(1..=shape.len() - batch)?;
    let mut wanted = shape[..batch].to_vec();
    wanted.extend(super::values::shape(random, 0, 1)?);
    wanted.push(width);
    let indices = builder.leaf(random, DType::I64, &wanted, Style::Index(shortest))?;
    builder.moves(name, &[x, indices], vec![int("batch_dims", batch as i64)]);
    Ok(())
}

/// A reduction for the writers, and whether each place may be written more than once. Sums of what is written
/// to one place are exact for the numbers that are made.
///
/// Not the largest and the smallest of floating-point numbers: of a NaN and a number ONNX Runtime takes the number, where ONNX's
/// reference and ours have the NaN.
fn reduction(random: &mut Unstructured<'_>, dtype: DType) -> Result<&'static str> {
    let all = ["none", "none", "add", "mul", "max", "min"];
    let float = matches!(dtype, DType::F32 | DType::F64);
    random.choose(if float { &all[..4] } else { &all }).copied()
}

fn scatter_elements(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::I64, DType::I32, DType::F64];
    let x = builder.take(random, &Want::exact(&types, 1, 3))?;
    let shape = builder.shape(x);
    let along = axis(random, shape.len())?;
    let at = position(along, shape.len());
    if shape.contains(&0) {
        return Ok(());
    }
    let reduction = reduction(random, builder.dtype(x))?;
    // Which of two writes to one place holds is left open: with one index along the axis there is one write.
    let mut wanted = shape.clone();
    wanted[at] = if reduction == "none" { 1 } else { random.int_in_range(1..=4)? };
    let dtype = *random.choose(&INDICES)?;
    let indices = builder.leaf(random, dtype, &wanted, Style::Index(shape[at]))?;
    let updates = builder.leaf(random, builder.dtype(x), &wanted, Style::Plain)?;
    let attributes = vec![int("axis", along), word("reduction", reduction)];
    builder.moves(name, &[x, indices, updates], attributes);
    Ok(())
}

fn scatter_nd(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::I64, DType::I32, DType::F64];
    let x = builder.take(random, &Want::exact(&types, 1, 3))?;
    let shape = builder.shape(x);
    let shortest = shape.iter().copied().min().unwrap_or(0);
    if shortest == 0 {
        return Ok(());
    }
    let reduction = reduction(random, builder.dtype(x))?;
    let width = random.int_in_range(1..=shape.len())?;
    // As above: one row of indices where nothing says how two writes are put together.
    let rows = if reduction == "none" { 1 } else { random.int_in_range(1..=4)? };
    let indices = builder.leaf(random, DType::I64, &[rows, width], Style::Index(shortest))?;
    let mut wanted = vec![rows];
    wanted.extend(&shape[width..]);
    let updates = builder.leaf(random, builder.dtype(x), &wanted, Style::Plain)?;
    builder.moves(name, &[x, indices, updates], vec![word("reduction", reduction)]);
    Ok(())
}

fn one_hot(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let depth = random.int_in_range(1..=5)?;
    let wanted = super::values::shape(random, 0, 3)?;
    // Numbers out of range are rows of nothing but the first value.
    let indices = builder.leaf(random, DType::I64, &wanted, Style::Index(depth as usize + 2))?;
    let depth = builder.ints(random, &[], vec![depth])?;
    let dtype = *random.choose(&[DType::F32, DType::I64])?;
    let pair = builder.leaf(random, dtype, &[2], Style::Plain)?;
    let along = axis(random, wanted.len() + 1)?;
    builder.moves(name, &[indices, depth, pair], vec![int("axis", along)]);
    Ok(())
}

fn non_zero(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::I64, DType::I32, DType::Bool, DType::U8];
    let x = builder.take(random, &Want::exact(&types, 1, 4))?;
    builder.moves(name, &[x], Vec::new());
    Ok(())
}

fn compress(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let shape = builder.shape(x);
    let along = axis(random, shape.len())?;
    let flat = random.ratio(1, 3)?;
    let length = if flat { shape.iter().product() } else { shape[position(along, shape.len())] };
    // It may be shorter than what it chooses from.
    let length = random.int_in_range(0..=length.min(64))?;
    let condition = builder.leaf(random, DType::Bool, &[length], Style::Plain)?;
    builder.moves(name, &[x, condition], if flat { Vec::new() } else { vec![int("axis", along)] });
    Ok(())
}

/// Sorted, or in the order in which they come.
fn unique(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::F32, DType::I64, DType::I8, DType::F64], 1, 3))?;
    let shape = builder.shape(x);
    // Whether not-a-number is the same as itself is left open, and what there is of nothing.
    if !builder.is_plain(x) || shape.contains(&0) {
        return Ok(());
    }
    let mut attributes = vec![int("sorted", random.int_in_range(0..=1)?)];
    if random.ratio(1, 2)? {
        attributes.push(int("axis", axis(random, shape.len())?));
    }
    builder.node(name, &[Some(x)], 4, attributes, EXACT);
    Ok(())
}

fn range(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let dtype = *random.choose(&[DType::I64, DType::I32, DType::F32, DType::F64])?;
    let start = builder.leaf(random, dtype, &[], Style::Plain)?;
    let end = builder.leaf(random, dtype, &[], Style::Plain)?;
    let step = builder.leaf(random, dtype, &[], Style::Plain)?;
    if builder.floats(step) == [0.0] {
        return Ok(());
    }
    builder.moves(name, &[start, end, step], Vec::new());
    Ok(())
}

/// The order of not-a-number is left open.
fn top(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder
        .take(random, &Want::exact(&[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32], 1, 4))?;
    let shape = builder.shape(x);
    if !builder.is_plain(x) {
        return Ok(());
    }
    let along = axis(random, shape.len())?;
    let k = random.int_in_range(0..=shape[position(along, shape.len())] as i64)?;
    let k = builder.list(random, vec![k])?;
    let attributes = vec![int("axis", along), int("largest", random.int_in_range(0..=1)?)];
    builder.node(name, &[Some(x), Some(k)], 2, attributes, EXACT);
    Ok(())
}
