//! Operators that move elements and change none.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::DType;

use super::values::{Style, length};
use super::{ANY, Builder, EXACT, Maker, NUMBERS, Origin, Want, axes, axis, int, ints, position, word};

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("Reshape", reshape),
    ("Transpose", transpose),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Flatten", flatten),
    ("Expand", expand),
    ("Tile", tile),
    ("Concat", concat),
    ("Split", split),
    ("Slice", slice),
    ("Pad", pad),
    ("DepthToSpace", blocks),
    ("SpaceToDepth", blocks),
    ("Trilu", trilu),
    ("CenterCropPad", center),
    ("ReverseSequence", reverse),
    ("Shape", sizes),
    ("Size", sizes),
    ("ConstantOfShape", filled),
    ("EyeLike", eye),
];

/// The same elements in two dimensions that are put together, or one that is taken apart.
fn reshape(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 4))?;
    let old = builder.shape(x);
    let mut shape: Vec<i64> = old.iter().map(|&length| length as i64).collect();
    match random.int_in_range(0..=4)? {
        0 if shape.len() > 1 => {
            let at = random.int_in_range(0..=shape.len() - 2)?;
            let length = shape.remove(at);
            shape[at] *= length;
        }
        1 => shape.insert(random.int_in_range(0..=shape.len())?, 1),
        2 => shape.reverse(),
        3 => shape = vec![shape.iter().product()],
        _ => {}
    }
    let empty = shape.contains(&0);
    // 0 stands for the length that was there; one length may be left to be computed.
    if !shape.is_empty() && !empty && random.ratio(1, 3)? {
        let at = random.int_in_range(0..=shape.len() - 1)?;
        shape[at] = -1;
    } else if !empty {
        for (at, length) in shape.iter_mut().enumerate() {
            if old.get(at).is_some_and(|&old| old as i64 == *length) && random.ratio(1, 4)? {
                *length = 0;
            }
        }
    }
    let attributes = if empty { vec![int("allowzero", 1)] } else { Vec::new() };
    let shape = builder.list(random, shape)?;
    builder.moves(name, &[x, shape], attributes);
    Ok(())
}

fn transpose(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 4))?;
    let rank = builder.shape(x).len();
    let mut left: Vec<i64> = (0..rank as i64).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.remove(random.int_in_range(0..=left.len() - 1)?));
    }
    let attributes = if rank == 0 || random.ratio(1, 4)? { Vec::new() } else { vec![ints("perm", &order)] };
    builder.moves(name, &[x], attributes);
    Ok(())
}

fn squeeze(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let shape = builder.shape(x);
    let ones = shape.iter().enumerate().filter(|&(_, &length)| length == 1).map(|(at, _)| at as i64);
    let ones: Vec<i64> = ones.collect();
    if ones.is_empty() || random.ratio(1, 3)? {
        builder.moves(name, &[x], Vec::new());
        return Ok(());
    }
    let mut chosen = Vec::new();
    // An empty list is left open: ONNX's reference takes it for no dimension, ONNX Runtime for all of them.
    let first = random.int_in_range(0..=ones.len() - 1)?;
    for &one in &ones[first..] {
        if chosen.is_empty() || random.ratio(2, 3)? {
            chosen.push(if random.ratio(1, 3)? { one - shape.len() as i64 } else { one });
        }
    }
    let chosen = builder.list(random, chosen)?;
    builder.moves(name, &[x, chosen], Vec::new());
    Ok(())
}

fn unsqueeze(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 3))?;
    let rank = builder.shape(x).len() + 1;
    let chosen = vec![axis(random, rank)?];
    let chosen = builder.list(random, chosen)?;
    builder.moves(name, &[x, chosen], Vec::new());
    Ok(())
}

fn flatten(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 4))?;
    let rank = builder.shape(x).len() as i64;
    let at = random.int_in_range(-rank..=rank)?;
    builder.moves(name, &[x], vec![int("axis", at)]);
    Ok(())
}

fn expand(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 3))?;
    let mut shape: Vec<i64> = builder.shape(x).iter().map(|&length| length as i64).collect();
    for length in &mut shape {
        match random.int_in_range(0..=3)? {
            0 if *length == 1 => *length = 3,
            1 => *length = 1,
            _ => {}
        }
    }
    if random.ratio(1, 3)? {
        shape.insert(0, length(random)? as i64);
    } else if random.ratio(1, 4)? && !shape.is_empty() {
        shape.remove(0);
    }
    let shape = builder.list(random, shape)?;
    builder.moves(name, &[x, shape], Vec::new());
    Ok(())
}

fn tile(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let mut repeats = Vec::new();
    for _ in builder.shape(x) {
        repeats.push([1, 2, 3, 0, 1, 1][random.int_in_range(0..=5)?]);
    }
    let repeats = builder.list(random, repeats)?;
    builder.moves(name, &[x, repeats], Vec::new());
    Ok(())
}

fn concat(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let (shape, dtype) = (builder.shape(x), builder.dtype(x));
    let along = axis(random, shape.len())?;
    let mut inputs = vec![x];
    for _ in 0..random.int_in_range(0..=3)? {
        if random.ratio(1, 4)? {
            inputs.push(x);
        } else {
            let mut own = shape.clone();
            own[position(along, shape.len())] = length(random)?;
            inputs.push(builder.leaf(random, dtype, &own, Style::Plain)?);
        }
    }
    builder.moves(name, &inputs, vec![int("axis", along)]);
    Ok(())
}

fn split(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let shape = builder.shape(x);
    let along = axis(random, shape.len())?;
    let mut left = shape[position(along, shape.len())];
    if random.ratio(1, 2)? {
        let count = random.int_in_range(1..=left.clamp(1, 4))?;
        let attributes = vec![int("axis", along), int("num_outputs", count as i64)];
        builder.node(name, &[Some(x)], count, attributes, EXACT);
        return Ok(());
    }
    let mut parts = Vec::new();
    while parts.len() < 3 {
        let part = random.int_in_range(0..=left)?;
        parts.push(part as i64);
        left -= part;
    }
    parts.push(left as i64);
    let count = parts.len();
    let parts = builder.list(random, parts)?;
    builder.node(name, &[Some(x), Some(parts)], count, vec![int("axis", along)], EXACT);
    Ok(())
}

/// Backwards, ONNX Runtime takes the largest number as an end for no end, which ONNX's text does not say.
fn slice(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 1, 4))?;
    let rank = builder.shape(x).len();
    let along = axes(random, rank)?;
    if along.is_empty() {
        return Ok(());
    }
    let (mut starts, mut ends, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for _ in &along {
        starts.push([0, 1, 2, -1, -2, 100, -100, 3][random.int_in_range(0..=7)?]);
        let step = [1, 2, -1, 3, -2, 1, i64::MAX, -100][random.int_in_range(0..=7)?];
        let last = if step > 0 { i64::MAX } else { i64::MIN };
        ends.push([last, 2, 3, 1, -1, 100, i64::MIN, 0][random.int_in_range(0..=7)?]);
        steps.push(step);
    }
    let mut inputs = vec![Some(x), Some(builder.list(random, starts)?), Some(builder.list(random, ends)?)];
    // Without axes, the slices are of the first dimensions.
    inputs.push(if random.ratio(1, 4)? { None } else { Some(builder.list(random, along)?) });
    if random.ratio(2, 3)? {
        inputs.push(Some(builder.list(random, steps)?));
    } else if inputs[3].is_none() {
        inputs.pop();
    }
    builder.node(name, &inputs, 1, Vec::new(), EXACT);
    Ok(())
}

/// Pads that reflect reach no further than the dimension: what is beyond is left open. Nor is a dimension of 0
/// filled with what it does not have.
fn pad(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let mode = *random.choose(&["constant", "constant", "reflect", "edge", "wrap"])?;
    let x = builder.take(
        random,
        &Want::any(
            &[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32, DType::U8, DType::Bool],
            1,
            4,
        ),
    )?;
    let shape = builder.shape(x);
    if mode != "constant" && shape.contains(&0) {
        return Ok(());
    }
    let mut pads = Vec::new();
    for &length in shape.iter().chain(&shape) {
        let most = if mode == "constant" { 2 } else { length as i64 - 1 };
        // What is cut off first cannot be reflected.
        let least = if mode == "constant" && random.ratio(1, 3)? { -1 } else { 0 };
        pads.push(random.int_in_range(least..=most.min(2).max(0))?);
    }
    let mut inputs = vec![Some(x), Some(builder.list(random, pads)?)];
    if mode == "constant" && random.ratio(1, 2)? {
        inputs.push(Some(builder.leaf(random, builder.dtype(x), &[], Style::Plain)?));
    }
    builder.node(name, &inputs, 1, vec![word("mode", mode)], EXACT);
    Ok(())
}

fn blocks(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let size = random.int_in_range(1..=2)?;
    let times = |length: usize| length * size;
    let (c, h, w) = (length(random)?, length(random)?, length(random)?);
    let (shape, attributes) = if name == "DepthToSpace" {
        let mode = if random.ratio(1, 2)? { "DCR" } else { "CRD" };
        (vec![2, times(times(c)), h, w], vec![int("blocksize", size as i64), word("mode", mode)])
    } else {
        (vec![1, c, times(h), times(w)], vec![int("blocksize", size as i64)])
    };
    let x = builder.leaf(random, DType::F32, &shape, Style::Plain)?;
    builder.moves(name, &[x], attributes);
    Ok(())
}

fn trilu(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::F64, DType::I64, DType::Bool];
    let x = builder.take(random, &Want::any(&types, 2, 4))?;
    let upper = int("upper", random.int_in_range(0..=1)?);
    let mut inputs = vec![Some(x)];
    if random.ratio(2, 3)? {
        let k = random.int_in_range(-5..=5)?;
        inputs.push(Some(builder.ints(random, &[], vec![k])?));
    }
    builder.node(name, &inputs, 1, vec![upper], EXACT);
    Ok(())
}

fn center(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(&[DType::F32, DType::I64], 1, 3))?;
    let rank = builder.shape(x).len();
    let along = axes(random, rank)?;
    if along.is_empty() {
        return Ok(());
    }
    let mut lengths = Vec::new();
    for _ in &along {
        lengths.push(random.int_in_range(1..=6)?);
    }
    let lengths = builder.list(random, lengths)?;
    builder.moves(name, &[x, lengths], vec![ints("axes", &along)]);
    Ok(())
}

fn reverse(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 2, 4))?;
    let shape = builder.shape(x);
    let batch: usize = random.int_in_range(0..=1)?;
    let mut lengths = Vec::new();
    for _ in 0..shape[batch] {
        lengths.push(random.int_in_range(0..=shape[1 - batch] as i64)?);
    }
    let lengths = builder.list(random, lengths)?;
    let attributes = vec![int("batch_axis", batch as i64), int("time_axis", 1 - batch as i64)];
    builder.moves(name, &[x, lengths], attributes);
    Ok(())
}

fn sizes(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(ANY, 0, 4))?;
    let mut attributes = Vec::new();
    if name == "Shape" && random.ratio(1, 2)? {
        attributes.push(int("start", random.int_in_range(-6..=6)?));
        if random.ratio(1, 2)? {
            attributes.push(int("end", random.int_in_range(-6..=6)?));
        }
    }
    // It tells of the shape only, which is exact.
    let (rounding, value) = (builder.edges[x].rounding, &mut builder.edges[x]);
    value.rounding = EXACT;
    builder.node(name, &[Some(x)], 1, attributes, EXACT);
    builder.edges[x].rounding = rounding;
    Ok(())
}

fn filled(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let shape = super::values::shape(random, 0, 4)?.into_iter().map(|length| length as i64).collect();
    let shape = builder.list(random, shape)?;
    let mut attributes = Vec::new();
    if random.ratio(2, 3)? {
        let dtype = *random.choose(NUMBERS)?;
        let value = super::values::value(random, dtype, &[1], Style::Plain)?;
        attributes.push(super::stored("value", &value));
    }
    builder.moves(name, &[shape], attributes);
    Ok(())
}

fn eye(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let dtype = *random.choose(&[DType::F32, DType::I64, DType::F64, DType::I32])?;
    let shape = super::values::shape(random, 2, 2)?;
    let like = super::values::value(random, dtype, &shape, Style::Plain)?;
    let like = builder.add(like, Origin::Input);
    let mut attributes = vec![int("k", random.int_in_range(-3..=3)?)];
    if random.ratio(1, 2)? {
        attributes.push(int("dtype", DType::F32.onnx_number().into()));
    }
    builder.moves(name, &[like], attributes);
    Ok(())
}
