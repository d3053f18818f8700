//! Operators that look at a window that moves over the dimensions, and those that change how many pixels
//! there are.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use stoker_graph::{DType, Data, Value};

use super::values::Style;
use super::{Builder, EXACT, Maker, Origin, ROUNDED, Want, int, ints, word};
use crate::wire::Field;

pub(super) const OPERATORS: &[(&str, Maker)] = &[
    ("Conv", convolve),
    ("ConvTranspose", spread),
    ("AveragePool", pool),
    ("MaxPool", pool),
    ("LpPool", pool),
    ("GlobalAveragePool", pool_all),
    ("GlobalMaxPool", pool_all),
    ("Resize", resize),
    ("GridSample", sample),
];

/// How a window moves.
struct Window {
    kernel: Vec<i64>,
    /// The padding follows from the lengths.
    keeps: bool,
    attributes: Vec<Field>,
}

/// A window over `spatial` dimensions with strides, dilations and pads; smaller than what it moves over.
///
/// Where a pool keeps the length, ONNX Runtime counts no dilation, which ONNX's formula does: it has none then.
/// Nor does one that has no padding round up, for which the two have different formulas.
fn window(random: &mut Unstructured<'_>, spatial: &[usize], pools: bool) -> Result<Window> {
    let keeps = random.ratio(1, 4)?;
    let dilates = !(pools && keeps);
    let mut kernel = Vec::new();
    let mut strides = Vec::new();
    let mut dilations = Vec::new();
    for _ in spatial {
        kernel.push(random.int_in_range(1..=3)?);
        strides.push(random.int_in_range(1..=3)?);
        dilations.push(if dilates { random.int_in_range(1..=2)? } else { 1 });
    }
    let mut attributes = vec![ints("strides", &strides)];
    if dilates {
        attributes.push(ints("dilations", &dilations));
    }
    match random.int_in_range(0..=2)? {
        _ if keeps => {
            let same = *random.choose(&["SAME_UPPER", "SAME_LOWER", "VALID"])?;
            attributes.push(word("auto_pad", same));
        }
        0 | 1 => {
            let mut pads = Vec::new();
            // Pads are smaller than the window: one that sees nothing but pads is left open.
            for &size in kernel.iter().chain(&kernel) {
                pads.push(random.int_in_range(0..=size - 1)?);
            }
            attributes.push(ints("pads", &pads));
        }
        _ => {}
    }
    Ok(Window { kernel, keeps, attributes })
}

/// Lengths of one to three spatial dimensions.
fn spatial(random: &mut Unstructured<'_>) -> Result<Vec<usize>> {
    let rank = [1, 2, 2, 3][random.int_in_range(0..=3)?];
    (0..rank).map(|_| random.int_in_range(3..=6)).collect()
}

fn convolve(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let spatial = spatial(random)?;
    let group = random.int_in_range(1..=2)?;
    let (each, made) = (random.int_in_range(1..=2)?, group * random.int_in_range(1..=2)?);
    let Window { kernel, mut attributes, .. } = window(random, &spatial, false)?;
    let kernel: Vec<usize> = kernel.iter().map(|&size| size as usize).collect();
    let shape = [&[random.int_in_range(1..=2)?, group * each], &spatial[..]].concat();
    let x = builder.leaf(random, DType::F32, &shape, Style::Plain)?;
    let weights = builder.leaf(random, DType::F32, &[&[made, each], &kernel[..]].concat(), Style::Plain)?;
    let mut inputs = vec![Some(x), Some(weights)];
    if random.ratio(1, 2)? {
        inputs.push(Some(builder.leaf(random, DType::F32, &[made], Style::Plain)?));
    }
    attributes.push(int("group", group as i64));
    builder.node(name, &inputs, 1, attributes, ROUNDED);
    Ok(())
}

fn spread(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let spatial = spatial(random)?;
    let group = random.int_in_range(1..=2)?;
    let (taken, each) = (group * random.int_in_range(1..=2)?, random.int_in_range(1..=2)?);
    let Window { kernel, mut attributes, .. } = window(random, &spatial, false)?;
    let kernel: Vec<usize> = kernel.iter().map(|&size| size as usize).collect();
    let x = builder.leaf(random, DType::F32, &[&[1, taken], &spatial[..]].concat(), Style::Plain)?;
    let weights = builder.leaf(random, DType::F32, &[&[taken, each], &kernel[..]].concat(), Style::Plain)?;
    let mut inputs = vec![Some(x), Some(weights)];
    if random.ratio(1, 2)? {
        inputs.push(Some(builder.leaf(random, DType::F32, &[group * each], Style::Plain)?));
    }
    attributes.push(int("group", group as i64));
    builder.node(name, &inputs, 1, attributes, ROUNDED);
    Ok(())
}

fn pool(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let spatial = spatial(random)?;
    let Window { kernel, keeps, mut attributes } = window(random, &spatial, true)?;
    let shape = [&[random.int_in_range(1..=2)?, random.int_in_range(1..=2)?], &spatial[..]].concat();
    let x = builder.leaf(random, DType::F32, &shape, Style::Plain)?;
    attributes.push(ints("kernel_shape", &kernel));
    attributes.push(int("ceil_mode", if keeps { 0 } else { random.int_in_range(0..=1)? }));
    let mut outputs = 1;
    match name {
        "AveragePool" => attributes.push(int("count_include_pad", random.int_in_range(0..=1)?)),
        "LpPool" => attributes.push(int("p", random.int_in_range(1..=3)?)),
        _ => {
            outputs = random.int_in_range(1..=2)?;
            if outputs == 2 {
                attributes.push(int("storage_order", random.int_in_range(0..=1)?));
            }
        }
    }
    builder.node(name, &[Some(x)], outputs, attributes, if name == "MaxPool" { EXACT } else { ROUNDED });
    Ok(())
}

fn pool_all(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let x = builder.take(random, &Want::exact(&[DType::F32], 3, 4))?;
    if builder.shape(x).contains(&0) || !builder.is_plain(x) {
        return Ok(());
    }
    builder.node(name, &[Some(x)], 1, Vec::new(), if name == "GlobalMaxPool" { EXACT } else { ROUNDED });
    Ok(())
}

/// Where the nearest pixel is wanted, scales are whole or a half: others fall half-way between two pixels, or
/// onto one, by the last bit of a quotient. What lies between pixels is wanted of positive ones, so that no
/// sum is next to nothing.
fn resize(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let lengths = [random.int_in_range(1..=4)?, random.int_in_range(1..=4)?];
    let shape = [1, random.int_in_range(1..=2)?, lengths[0], lengths[1]];
    let mode = *random.choose(&["nearest", "linear", "cubic"])?;
    let style = if mode == "nearest" { Style::Plain } else { Style::Positive };
    let x = builder.leaf(random, DType::F32, &shape, style)?;
    // The last one has a scale of its own.
    let places = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"];
    let places = if mode == "nearest" { &places[..3] } else { &places[..] };
    let mut attributes =
        vec![word("mode", mode), word("coordinate_transformation_mode", random.choose(places)?)];
    match mode {
        "nearest" => {
            let modes = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];
            attributes.push(word("nearest_mode", random.choose(&modes)?));
        }
        "cubic" => attributes.push(int("exclude_outside", random.int_in_range(0..=1)?)),
        _ => {}
    }
    let mut inputs = vec![Some(x), None];
    if random.ratio(1, 2)? {
        let mut scales = vec![1.0, 1.0];
        for _ in 0..2 {
            scales.push([1.0, 2.0, 0.5, 4.0][random.int_in_range(0..=3)?]);
        }
        let scales = Value::new(vec![4], Data::F32(scales)).expect("four of them");
        inputs.push(Some(builder.add(scales, Origin::Stored)));
    } else {
        let mut sizes = vec![shape[0] as i64, shape[1] as i64];
        for length in lengths {
            let times = random.int_in_range(1..=3)?;
            sizes.push(if mode == "nearest" { length as i64 * times } else { random.int_in_range(1..=6)? });
        }
        inputs.push(None);
        inputs.push(Some(builder.list(random, sizes)?));
    }
    builder.node(name, &inputs, 1, attributes, ROUNDED);
    Ok(())
}

fn sample(builder: &mut Builder, random: &mut Unstructured<'_>, name: &'static str) -> Result<()> {
    let lengths = [random.int_in_range(1..=4)?, random.int_in_range(1..=4)?];
    let x = builder.leaf(random, DType::F32, &[1, 2, lengths[0], lengths[1]], Style::Plain)?;
    let wanted = [1, random.int_in_range(1..=3)?, random.int_in_range(1..=3)?, 2];
    let grid = builder.leaf(random, DType::F32, &wanted, Style::Plain)?;
    // `nearest` falls half-way between two pixels, where the last bit of a quotient decides.
    let attributes = vec![
        word("mode", random.choose(&["linear", "cubic"])?),
        word("padding_mode", random.choose(&["zeros", "border", "reflection"])?),
        int("align_corners", random.int_in_range(0..=1)?),
    ];
    builder.node(name, &[Some(x), Some(grid)], 1, attributes, ROUNDED);
    Ok(())
}
