//! Products of matrices, and numbers of fewer bits that stand for others.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::DType;

use super::values::Style;
use super::{Builder, EXACT, Maker, ROUNDED, WIDE_FLOATS, Want, axis, int, position, real, word};

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("MatMul", product),
    ("Gemm", gemm),
    ("Einsum", einsum),
    ("MatMulInteger", whole_product),
    ("QuantizeLinear", quantise),
    ("DequantizeLinear", dequantise),
    ("DynamicQuantizeLinear", measure),
];

fn product(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::F32, DType::F32, DType::F32, DType::F64, DType::I32, DType::I64];
    let x = builder.take(random, &Want::exact(&types, 1, 4))?;
    let (shape, dtype) = (builder.shape(x), builder.dtype(x));
    if !builder.is_plain(x) {
        return Ok(());
    }
    let inner = shape[shape.len() - 1];
    let mut other = Vec::new();
    if random.ratio(1, 3)? {
        // Products of stacks: as many matrices, or one for all.
        let stack = &shape[..shape.len().saturating_sub(2)];
        other.extend(stack.iter().copied());
        for length in &mut other {
            if random.ratio(1, 3)? {
                *length = 1;
            }
        }
    }
    other.push(inner);
    if random.ratio(4, 5)? || other.len() > 1 {
        other.push(super::values::length(random)?);
    }
    let y = builder.leaf(random, dtype, &other, Style::Plain)?;
    builder.node(name, &[Some(x), Some(y)], 1, Vec::new(), ROUNDED);
    Ok(())
}

/// ONNX Runtime leaves `beta` out where there is nothing to sum.
fn gemm(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let a = builder.take(random, &Want::exact(&[DType::F32, DType::F32, DType::F64], 2, 2))?;
    let (shape, dtype) = (builder.shape(a), builder.dtype(a));
    if !builder.is_plain(a) {
        return Ok(());
    }
    let turned = random.ratio(1, 3)?;
    let (rows, inner) = if turned { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let columns = super::values::length(random)?;
    let turned_too = random.ratio(1, 3)?;
    let other = if turned_too { [columns, inner] } else { [inner, columns] };
    let b = builder.leaf(random, dtype, &other, Style::Plain)?;
    let mut inputs = vec![Some(a), Some(b)];
    if random.ratio(2, 3)? {
        let shapes = [vec![rows, columns], vec![columns], vec![1, columns], vec![rows, 1], vec![], vec![1]];
        let own = random.choose(&shapes)?.clone();
        inputs.push(Some(builder.leaf(random, dtype, &own, Style::Plain)?));
    }
    let mut attributes = vec![int("transA", turned.into()), int("transB", turned_too.into())];
    if random.ratio(1, 3)? {
        attributes.push(real("alpha", 0.5));
    }
    if inner > 0 && random.ratio(1, 3)? {
        attributes.push(real("beta", [0.0, 2.0][random.int_in_range(0..=1)?]));
    }
    builder.node(name, &inputs, 1, attributes, ROUNDED);
    Ok(())
}

/// Equations, with the letters of each input.
const EQUATIONS: [(&str, &[&str]); 12] = [
    ("ij,jk->ik", &["ij", "jk"]),
    ("ij,jk", &["ij", "jk"]),
    ("bij,bjk->bik", &["bij", "bjk"]),
    ("i,j->ij", &["i", "j"]),
    ("ij->ji", &["ij"]),
    ("ij->i", &["ij"]),
    ("ij->", &["ij"]),
    ("ii->i", &["ii"]),
    ("ii", &["ii"]),
    ("i,i->", &["i", "i"]),
    ("bij,ij,b->j", &["bij", "ij", "b"]),
    (" ij , kj -> ik ", &["ij", "kj"]),
];

fn einsum(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let (equation, inputs) = *random.choose(&EQUATIONS)?;
    let lengths = [random.int_in_range(1..=4)?, random.int_in_range(1..=4)?, random.int_in_range(1..=3)?];
    let length = |letter: char| lengths["ijkb".find(letter).unwrap_or(0) % lengths.len()];
    let dtype = *random.choose(WIDE_FLOATS)?;
    let mut taken = Vec::new();
    for letters in inputs {
        let shape: Vec<usize> = letters.chars().map(length).collect();
        taken.push(Some(builder.leaf(random, dtype, &shape, Style::Plain)?));
    }
    builder.node(name, &taken, 1, vec![word("equation", equation)], ROUNDED);
    Ok(())
}

fn whole_product(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let [rows, inner, columns] =
        [random.int_in_range(1..=4)?, random.int_in_range(1..=4)?, random.int_in_range(1..=4)?];
    let types = [DType::U8, DType::I8];
    let (one, other) = (*random.choose(&types)?, *random.choose(&types)?);
    let a = builder.leaf(random, one, &[rows, inner], Style::Plain)?;
    let b = builder.leaf(random, other, &[inner, columns], Style::Plain)?;
    let mut inputs = vec![Some(a), Some(b)];
    if random.ratio(1, 2)? {
        inputs.push(Some(builder.leaf(random, one, &[], Style::Plain)?));
        if random.ratio(1, 2)? {
            inputs.push(Some(builder.leaf(random, other, &[], Style::Plain)?));
        }
    }
    builder.node(name, &inputs, 1, Vec::new(), EXACT);
    Ok(())
}

/// A scale for all elements, or one for each along an axis: powers of two, so that quotients are exact.
fn scales(
    builder: &mut Builder,
    random: &mut Unstructured<'_>,
    shape: &[usize],
) -> Result<(usize, Vec<usize>, Option<i64>)> {
    let along = if shape.is_empty() || random.ratio(1, 2)? { None } else { Some(axis(random, shape.len())?) };
    let own = along.map_or_else(Vec::new, |along| vec![shape[position(along, shape.len())]]);
    let powers = (0..own.iter().product::<usize>())
        .map(|_| Ok([0.25, 0.5, 1.0, 2.0][random.int_in_range(0..=3)?]))
        .collect::<Result<_>>()?;
    let scale = stoker_graph::Value::new(own.clone(), stoker_graph::Data::F32(powers));
    let scale = builder.add(scale.expect("as many as the shape says"), super::Origin::Stored);
    Ok((scale, own, along))
}

fn quantise(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::F32], 0, 4))?;
    // What not-a-number stands for is left open.
    if !builder.is_plain(x) {
        return Ok(());
    }
    let (scale, own, along) = scales(builder, random, &builder.shape(x))?;
    let mut inputs = vec![Some(x), Some(scale)];
    let mut attributes: Vec<_> = along.map(|along| int("axis", along)).into_iter().collect();
    if random.ratio(2, 3)? {
        let dtype = *random.choose(&[DType::U8, DType::I8, DType::U16, DType::I16])?;
        inputs.push(Some(builder.leaf(random, dtype, &own, Style::Plain)?));
    } else if random.ratio(1, 2)? {
        attributes.push(int("output_dtype", DType::I8.onnx_number().into()));
    }
    builder.node(name, &inputs, 1, attributes, EXACT);
    Ok(())
}

fn dequantise(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::U8, DType::I8, DType::U16, DType::I16], 0, 4))?;
    let (scale, own, along) = scales(builder, random, &builder.shape(x))?;
    let mut inputs = vec![Some(x), Some(scale)];
    if random.ratio(2, 3)? {
        inputs.push(Some(builder.leaf(random, builder.dtype(x), &own, Style::Plain)?));
    }
    let attributes = along.map(|along| int("axis", along)).into_iter().collect();
    builder.node(name, &inputs, 1, attributes, EXACT);
    Ok(())
}

/// The scale is rounded, and a number half-way between two may go either way: whole numbers up to 255 with 0
/// among them have a scale that is exact.
fn measure(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let shape = super::values::shape(random, 1, 3)?;
    let mut whole: Vec<f32> = Vec::new();
    for _ in 0..shape.iter().product::<usize>() {
        whole.push(random.int_in_range(0..=4u8)?.into());
    }
    let (Some(first), true) = (whole.first_mut(), shape.iter().product::<usize>() < 100) else {
        return Ok(());
    };
    *first = 255.0;
    let x = stoker_graph::Value::new(shape, stoker_graph::Data::F32(whole));
    let x = builder.add(x.expect("as many as the shape says"), super::Origin::Input);
    builder.node(name, &[Some(x)], 3, Vec::new(), EXACT);
    Ok(())
}
