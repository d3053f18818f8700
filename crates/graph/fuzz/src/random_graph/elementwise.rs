//! Operators that compute each element from those at its place.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::DType;

use super::values::Style;
use super::{
    ANY, Builder, EXACT, FLOATS, INTEGERS, Maker, NUMBERS, Origin, ROUNDED, SIGNED, Want, int, real, word,
};

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("Abs", scale),
    ("Neg", scale),
    ("Relu", scale),
    ("Identity", scale),
    ("LeakyRelu", scale),
    ("Sign", step),
    ("Floor", step),
    ("Ceil", step),
    ("Round", step),
    ("IsNaN", step),
    ("IsInf", step),
    ("ThresholdedRelu", step),
    ("Exp", curve),
    ("Log", curve),
    ("Sqrt", curve),
    ("Reciprocal", curve),
    ("Sin", curve),
    ("Cos", curve),
    ("Tan", curve),
    ("Asin", curve),
    ("Acos", curve),
    ("Atan", curve),
    ("Sinh", curve),
    ("Cosh", curve),
    ("Tanh", curve),
    ("Asinh", curve),
    ("Acosh", curve),
    ("Atanh", curve),
    ("Erf", curve),
    ("Sigmoid", curve),
    ("HardSigmoid", curve),
    ("HardSwish", curve),
    ("Softplus", curve),
    ("Softsign", curve),
    ("Mish", curve),
    ("Elu", curve),
    ("Selu", curve),
    ("Celu", curve),
    ("Gelu", curve),
    ("Add", pair),
    ("Sub", pair),
    ("Mul", pair),
    ("Div", divide),
    ("Mod", divide),
    ("Pow", power),
    ("Max", many),
    ("Min", many),
    ("Sum", many),
    ("Mean", many),
    ("And", logic),
    ("Or", logic),
    ("Xor", logic),
    ("Not", logic),
    ("Equal", compare),
    ("Less", compare),
    ("Greater", compare),
    ("LessOrEqual", compare),
    ("GreaterOrEqual", compare),
    ("BitwiseAnd", bits),
    ("BitwiseOr", bits),
    ("BitwiseXor", bits),
    ("BitwiseNot", bits),
    ("BitShift", shift),
    ("Where", choose),
    ("PRelu", slope),
    ("Clip", clip),
    ("Cast", cast),
    ("CastLike", cast),
];

/// Functions that take what is nearly the same to what is nearly the same.
fn scale(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = match name {
        "Identity" => ANY,
        "LeakyRelu" => FLOATS,
        "Relu" => SIGNED,
        _ => SIGNED,
    };
    let x = builder.take(random, &Want::any(types, 0, 4))?;
    // A slope that is a power of two rounds nothing.
    let attributes = if name == "LeakyRelu" { vec![real("alpha", 0.25)] } else { Vec::new() };
    builder.moves(name, &[x], attributes);
    Ok(())
}

/// Functions with steps.
fn step(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = if name == "Sign" { NUMBERS } else { FLOATS };
    let x = builder.take(random, &Want::exact(types, 0, 4))?;
    let attributes = match name {
        "ThresholdedRelu" => vec![real("alpha", 0.5)],
        "IsInf" if random.ratio(1, 2)? => vec![int("detect_negative", 0)],
        _ => Vec::new(),
    };
    builder.moves(name, &[x], attributes);
    Ok(())
}

/// Functions without an exact answer.
fn curve(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(FLOATS, 0, 4))?;
    let attributes = match name {
        "HardSigmoid" => vec![real("alpha", 0.25), real("beta", 0.5)],
        "Elu" | "Celu" if random.ratio(1, 2)? => vec![real("alpha", 0.5)],
        "Gelu" if random.ratio(1, 2)? => vec![word("approximate", "tanh")],
        _ => Vec::new(),
    };
    builder.node(name, &[Some(x)], 1, attributes, ROUNDED);
    Ok(())
}

/// A value that goes together with `x`: one that is there, or a new one with dimensions left out or of 1.
fn partner(builder: &mut Builder, random: &mut Unstructured<'_>, x: usize, style: Style) -> Result<usize> {
    let (dtype, shape) = (builder.dtype(x), builder.shape(x));
    let fits = |other: &[usize]| {
        let pairs = shape.iter().rev().zip(other.iter().rev());
        pairs.into_iter().all(|(&one, &two)| one == two || one == 1 || two == 1)
    };
    let found: Vec<usize> = (0..builder.edges.len())
        .filter(|&at| {
            let edge = &builder.edges[at];
            edge.value.dtype() == dtype && edge.rounding == EXACT && fits(edge.value.shape())
        })
        .collect();
    if style == Style::Plain && !found.is_empty() && random.ratio(1, 3)? {
        return random.choose(&found).copied();
    }
    let mut own = shape.clone();
    for length in &mut own {
        if random.ratio(1, 4)? {
            *length = 1;
        }
    }
    let left_out = random.int_in_range(0..=own.len())?;
    if random.ratio(1, 2)? {
        own.drain(..left_out);
    } else if random.ratio(1, 4)? && own.len() < 4 {
        own.insert(0, 2);
    }
    builder.leaf(random, dtype, &own, style)
}

/// Two values in any order.
fn either(random: &mut Unstructured<'_>, one: usize, two: usize) -> Result<[usize; 2]> {
    Ok(if random.ratio(1, 2)? { [one, two] } else { [two, one] })
}

/// Exact arithmetic of exact numbers. What is rounded may cancel itself out, so only `Mul` takes it.
fn pair(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let want = if name == "Mul" { Want::any(NUMBERS, 0, 4) } else { Want::exact(NUMBERS, 0, 4) };
    let x = builder.take(random, &want)?;
    let y = partner(builder, random, x, Style::Plain)?;
    builder.moves(name, &either(random, x, y)?, Vec::new());
    Ok(())
}

/// Quotients and remainders. Whole numbers are not divided by 0, which ONNX leaves open.
fn divide(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(NUMBERS, 0, 4))?;
    let is_float = FLOATS.contains(&builder.dtype(x));
    let style = if is_float && name == "Div" { Style::Plain } else { Style::Positive };
    let y = partner(builder, random, x, style)?;
    let attributes =
        if name == "Mod" && (is_float || random.ratio(1, 2)?) { vec![int("fmod", 1)] } else { Vec::new() };
    builder.moves(name, &[x, y], attributes);
    Ok(())
}

/// Powers. Those of whole numbers to a negative one have no answer, and those that are too large none either.
fn power(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder
        .take(random, &Want::exact(&[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32], 0, 3))?;
    let style = if FLOATS.contains(&builder.dtype(x)) { Style::Plain } else { Style::UpTo(3) };
    let y = partner(builder, random, x, style)?;
    let whole = style != Style::Plain;
    if whole
        && (builder.floats(y).iter().any(|&exponent| exponent < 0.0)
            || builder.floats(x).iter().any(|base| base.abs() > 1000.0))
    {
        return Ok(());
    }
    builder.node(name, &[Some(x), Some(y)], 1, Vec::new(), if whole { EXACT } else { ROUNDED });
    Ok(())
}

/// One to four values.
fn many(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = if matches!(name, "Sum" | "Mean") { FLOATS } else { NUMBERS };
    let x = builder.take(random, &Want::exact(types, 0, 4))?;
    let mut inputs = vec![Some(x)];
    for _ in 0..random.int_in_range(0..=3)? {
        inputs.push(Some(partner(builder, random, x, Style::Plain)?));
    }
    builder.node(name, &inputs, 1, Vec::new(), if name == "Mean" { ROUNDED } else { EXACT });
    Ok(())
}

fn logic(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::Bool], 0, 4))?;
    if name == "Not" {
        builder.moves(name, &[x], Vec::new());
    } else {
        let y = partner(builder, random, x, Style::Plain)?;
        builder.moves(name, &either(random, x, y)?, Vec::new());
    }
    Ok(())
}

fn compare(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = if name == "Equal" { ANY } else { NUMBERS };
    let x = builder.take(random, &Want::exact(types, 0, 4))?;
    let y = partner(builder, random, x, Style::Plain)?;
    builder.moves(name, &either(random, x, y)?, Vec::new());
    Ok(())
}

fn bits(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(INTEGERS, 0, 4))?;
    if name == "BitwiseNot" {
        builder.moves(name, &[x], Vec::new());
    } else {
        let y = partner(builder, random, x, Style::Plain)?;
        builder.moves(name, &either(random, x, y)?, Vec::new());
    }
    Ok(())
}

/// Shifts by less than the width of the type: those by more are left open.
fn shift(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let types = [DType::U8, DType::U16, DType::U32, DType::U64];
    let x = builder.take(random, &Want::exact(&types, 0, 4))?;
    let y = partner(builder, random, x, Style::UpTo(7))?;
    let direction = if random.ratio(1, 2)? { "LEFT" } else { "RIGHT" };
    builder.moves(name, &[x, y], vec![word("direction", direction)]);
    Ok(())
}

fn choose(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let condition = builder.take(random, &Want::exact(&[DType::Bool], 0, 3))?;
    let mut shape = builder.shape(condition);
    let dtype = *random.choose(ANY)?;
    let x = builder.leaf(random, dtype, &shape, Style::Plain)?;
    for length in &mut shape {
        if random.ratio(1, 3)? {
            *length = 1;
        }
    }
    let y = builder.leaf(random, dtype, &shape, Style::Plain)?;
    let [x, y] = either(random, x, y)?;
    builder.moves(name, &[condition, x, y], Vec::new());
    Ok(())
}

/// The slope is repeated to the shape of `x`, never the other way round.
fn slope(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(&[DType::F32, DType::F64, DType::F16], 1, 4))?;
    let mut shape = builder.shape(x);
    for length in &mut shape {
        if random.ratio(1, 3)? {
            *length = 1;
        }
    }
    shape.drain(..random.int_in_range(0..=shape.len())?);
    let slope = builder.leaf(random, builder.dtype(x), &shape, Style::Plain)?;
    builder.moves(name, &[x, slope], Vec::new());
    Ok(())
}

fn clip(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::any(NUMBERS, 0, 4))?;
    let dtype = builder.dtype(x);
    let mut bound = |builder: &mut Builder, style| -> Result<Option<usize>> {
        Ok(if random.ratio(3, 4)? { Some(builder.leaf(random, dtype, &[], style)?) } else { None })
    };
    // The lower bound is at most 0, the upper one at least that: what holds where they cross is left open.
    let (low, high) = (bound(builder, Style::UpTo(0))?, bound(builder, Style::Positive)?);
    builder.node(name, &[Some(x), low, high], 1, Vec::new(), EXACT);
    Ok(())
}

/// Casts to a type that has the numbers: others are left open.
fn cast(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(ANY, 0, 4))?;
    let to = *random.choose(NUMBERS)?;
    let to = if random.ratio(1, 6)? { DType::Bool } else { to };
    let range = match to {
        DType::U8 => 0.0..=255.0,
        DType::U16 => 0.0..=65_535.0,
        DType::U32 | DType::U64 => 0.0..=4e9,
        DType::I8 => -128.0..=127.0,
        DType::I16 => -32_768.0..=32_767.0,
        DType::I32 | DType::I64 => -2e9..=2e9,
        _ => f64::NEG_INFINITY..=f64::INFINITY,
    };
    let whole = !FLOATS.contains(&to);
    let fits = |item: &f64| range.contains(item) || (item.is_nan() && !whole);
    if !builder.floats(x).iter().all(fits) {
        return Ok(());
    }
    if name == "Cast" {
        builder.moves(name, &[x], vec![int("to", to.onnx_number().into())]);
    } else {
        let like = super::values::value(random, to, &[1], Style::Plain)?;
        let like = builder.add(like, Origin::Input);
        builder.moves(name, &[x, like], Vec::new());
    }
    Ok(())
}
