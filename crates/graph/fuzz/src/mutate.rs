//! Changes to ONNX files that leave them readable: a field here and there, not a byte.
//!
//! libFuzzer's own changes mostly break a length, and the parser refuses what comes after. These keep all
//! lengths right, so that what is behind the parser gets to see something.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::dice::Dice;
use crate::wire::{Field, Kind, Payload, encode, float, message, number, parse, tensor, text};

/// Numbers at which code that counts goes wrong.
const EDGES: [i64; 30] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    -1,
    -2,
    -3,
    16,
    64,
    65,
    100,
    127,
    128,
    255,
    256,
    1000,
    65_536,
    1 << 20,
    1 << 27,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 32,
    1 << 40,
    1 << 60,
    i64::MAX,
    i64::MIN,
];

/// The same for numbers that are not whole.
const FLOATS: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    1e-3,
    1e9,
    1e30,
    f32::MAX,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Texts that some operators look at: patterns, equations, modes.
const TEXTS: [&str; 24] = [
    "",
    "x",
    "(a*)*b",
    "a{1000}{1000}",
    "\\p{L}+",
    "(",
    "ij,jk->ik",
    "...ij,...jk->...ik",
    "iiii->i",
    "abcdefgh,ijklmnop->abcdefghijklmnop",
    "SAME_UPPER",
    "SAME_LOWER",
    "VALID",
    "linear",
    "cubic",
    "nearest",
    "reflect",
    "edge",
    "wrap",
    "constant",
    "add",
    "mul",
    "BRANCH_LEQ",
    "LEAF",
];

/// The operators that the crate runs: domain and name.
static OPERATORS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let domain = |domain: &'static str| if domain == "ai.onnx" { "" } else { domain };
    stoker_graph::operators().into_iter().map(|info| (domain(info.domain), info.name)).collect()
});

/// The file with some changes; `None` where it is no file, or would be longer than `longest`.
pub fn mutate(bytes: &[u8], longest: usize, seed: u32) -> Option<Vec<u8>> {
    let mut fields = parse(bytes, Kind::Model)?;
    let mut dice = Dice::new(seed.into());
    let names: Vec<Vec<u8>> = names(&fields).into_iter().collect();
    for _ in 0..1 + dice.below(4) {
        let count = count(&fields);
        let mut at = dice.below(count);
        visit(&mut fields, Kind::Model, &mut at, &mut |fields, index, kind| {
            change(fields, index, kind, &names, &mut dice);
        });
    }
    Some(encode(&fields)).filter(|bytes| bytes.len() <= longest)
}

/// A file with a part of another one in it; `None` where one of them is no file, or it would be too long.
pub fn cross(bytes: &[u8], other: &[u8], longest: usize, seed: u32) -> Option<Vec<u8>> {
    let (mut fields, mut other) = (parse(bytes, Kind::Model)?, parse(other, Kind::Model)?);
    let mut dice = Dice::new(seed.into());
    let mut given = None;
    let mut at = dice.below(count(&other));
    visit(&mut other, Kind::Model, &mut at, &mut |fields, index, kind| {
        given = Some((fields[index].clone(), kind));
    });
    let (given, kind) = given?;
    let mut at = dice.below(places(&fields, Kind::Model, kind));
    put(&mut fields, Kind::Model, kind, &mut at, &mut |fields| {
        let at = dice.below(fields.len() + 1);
        fields.insert(at, given.clone());
    });
    Some(encode(&fields)).filter(|bytes| bytes.len() <= longest)
}

/// How many fields there are, those inside of others included.
fn count(fields: &[Field]) -> usize {
    let inside = |field: &Field| match &field.payload {
        Payload::Message(_, fields) => 1 + count(fields),
        _ => 1,
    };
    fields.iter().map(inside).sum()
}

/// Goes to the field at a position, in the order of the file.
fn visit(
    fields: &mut Vec<Field>,
    kind: Kind,
    at: &mut usize,
    act: &mut impl FnMut(&mut Vec<Field>, usize, Kind),
) -> bool {
    for index in 0..fields.len() {
        if *at == 0 {
            act(fields, index, kind);
            return true;
        }
        *at -= 1;
        if let Payload::Message(kind, inner) = &mut fields[index].payload
            && visit(inner, *kind, at, act)
        {
            return true;
        }
    }
    false
}

/// How many messages of a kind there are.
fn places(fields: &[Field], own: Kind, wanted: Kind) -> usize {
    let inside = |field: &Field| match &field.payload {
        Payload::Message(kind, fields) => places(fields, *kind, wanted),
        _ => 0,
    };
    usize::from(own == wanted) + fields.iter().map(inside).sum::<usize>()
}

/// Goes to the message of a kind at a position.
fn put(
    fields: &mut Vec<Field>,
    own: Kind,
    wanted: Kind,
    at: &mut usize,
    act: &mut impl FnMut(&mut Vec<Field>),
) -> bool {
    if own == wanted {
        if *at == 0 {
            act(fields);
            return true;
        }
        *at -= 1;
    }
    fields.iter_mut().any(|field| match &mut field.payload {
        Payload::Message(kind, inner) => put(inner, *kind, wanted, at, act),
        _ => false,
    })
}

/// The names of values in the file.
fn names(fields: &[Field]) -> BTreeSet<Vec<u8>> {
    fn collect(fields: &[Field], own: Kind, names: &mut BTreeSet<Vec<u8>>) {
        for field in fields {
            match &field.payload {
                Payload::Message(kind, inner) => collect(inner, *kind, names),
                Payload::Bytes(name) => {
                    let names_value = match own {
                        Kind::Node => field.number <= 2,
                        Kind::ValueInfo => field.number == 1,
                        Kind::Tensor => field.number == 8,
                        _ => false,
                    };
                    if names_value {
                        names.insert(name.clone());
                    }
                }
                _ => {}
            }
        }
    }
    let mut names = BTreeSet::new();
    collect(fields, Kind::Model, &mut names);
    names
}

/// Changes one field, or what is beside it.
fn change(fields: &mut Vec<Field>, index: usize, kind: Kind, names: &[Vec<u8>], dice: &mut Dice) {
    if dice.once_in(8) {
        return move_around(fields, index, dice);
    }
    let number = fields[index].number;
    match &mut fields[index].payload {
        Payload::Number(number) => *number = edge(*number as i64, dice) as u64,
        Payload::Narrow(narrow) => *narrow = FLOATS[dice.below(FLOATS.len())].to_le_bytes(),
        Payload::Wide(wide) => *wide = f64::from(FLOATS[dice.below(FLOATS.len())]).to_le_bytes(),
        Payload::Packed(numbers) => {
            let at = dice.below(numbers.len());
            match numbers.get_mut(at) {
                Some(number) if !dice.once_in(4) => *number = edge(*number as i64, dice) as u64,
                _ => numbers.insert(at, edge(0, dice) as u64),
            }
        }
        Payload::Bytes(bytes) => match (kind, number) {
            (Kind::Node, 4 | 7) => return rename(fields, dice),
            (Kind::Node, 1 | 2) | (Kind::ValueInfo, 1) | (Kind::Tensor, 8) | (Kind::Function, 4 | 5) => {
                *bytes = if dice.once_in(6) {
                    Vec::new()
                } else {
                    names.get(dice.below(names.len())).cloned().unwrap_or_default()
                };
            }
            (Kind::Tensor, 9) => change_elements(bytes, dice),
            _ => *bytes = TEXTS[dice.below(TEXTS.len())].into(),
        },
        Payload::Message(inner, within) => match inner {
            // A tensor whose dimensions and elements agree.
            Kind::Tensor => *within = fresh_tensor(name_of(within), dice),
            Kind::Node => within.push(message(5, Kind::Attribute, fresh_attribute(dice))),
            Kind::Attribute => match dice.below(3) {
                0 => within.push(self::number(8, edge(1, dice))),
                1 => within.push(float(7, FLOATS[dice.below(FLOATS.len())])),
                _ => within.push(message(5, Kind::Tensor, fresh_tensor(Vec::new(), dice))),
            },
            Kind::Shape => within.push(message(1, Kind::Leaf, vec![self::number(1, edge(1, dice))])),
            _ => move_around(fields, index, dice),
        },
    }
}

/// Leaves a field out, doubles it, or moves it to another place.
fn move_around(fields: &mut Vec<Field>, index: usize, dice: &mut Dice) {
    match dice.below(3) {
        0 => {
            fields.remove(index);
        }
        1 => fields.insert(dice.below(fields.len() + 1), fields[index].clone()),
        _ => {
            let other = dice.below(fields.len());
            fields.swap(index, other);
        }
    }
}

/// A number near this one, or one at which something may go wrong.
fn edge(near: i64, dice: &mut Dice) -> i64 {
    match dice.below(4) {
        0 => near.wrapping_add(1),
        1 => near.wrapping_sub(1),
        _ => EDGES[dice.below(EDGES.len())],
    }
}

/// Makes another operator of a node: its attributes and inputs are then not those that it expects.
fn rename(node: &mut Vec<Field>, dice: &mut Dice) {
    let Some(&(domain, name)) = OPERATORS.get(dice.below(OPERATORS.len())) else { return };
    node.retain(|field| !matches!(field.number, 4 | 7));
    node.extend([text(4, name), text(7, domain)]);
}

/// Another number among the elements, or some more of them, or fewer.
fn change_elements(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let element = match dice.below(3) {
        0 => edge(1, dice).to_le_bytes().to_vec(),
        1 => FLOATS[dice.below(FLOATS.len())].to_le_bytes().to_vec(),
        _ => vec![dice.any() as u8],
    };
    let at = dice.below(bytes.len() / element.len()) * element.len();
    match bytes.get_mut(at..at + element.len()) {
        Some(place) => place.copy_from_slice(&element),
        None => bytes.extend(element),
    }
    if dice.once_in(10) {
        bytes.truncate(dice.below(bytes.len() + 1));
    }
}

fn name_of(tensor: &[Field]) -> Vec<u8> {
    let name = tensor.iter().find(|field| field.number == 8).map(|field| &field.payload);
    if let Some(Payload::Bytes(name)) = name { name.clone() } else { Vec::new() }
}

/// A tensor of few elements, all of them at an edge.
fn fresh_tensor(name: Vec<u8>, dice: &mut Dice) -> Vec<Field> {
    let shape: Vec<usize> = (0..dice.below(4)).map(|_| dice.below(4)).collect();
    let count = shape.iter().product();
    let (dtype, raw): (i32, Vec<u8>) = match dice.below(4) {
        0 => (1, (0..count).flat_map(|_| FLOATS[dice.below(FLOATS.len())].to_le_bytes()).collect()),
        1 => (9, (0..count).map(|_| dice.below(2) as u8).collect()),
        2 => (2, (0..count).map(|_| dice.any() as u8).collect()),
        _ => (7, (0..count).flat_map(|_| edge(1, dice).to_le_bytes()).collect()),
    };
    tensor(&String::from_utf8_lossy(&name), dtype, &shape, raw)
}

/// An attribute that some operator may have, with something in it.
fn fresh_attribute(dice: &mut Dice) -> Vec<Field> {
    const NAMES: [&str; 40] = [
        "axis",
        "axes",
        "perm",
        "to",
        "value",
        "value_int",
        "pads",
        "strides",
        "dilations",
        "kernel_shape",
        "group",
        "output_shape",
        "output_padding",
        "auto_pad",
        "ceil_mode",
        "mode",
        "blocksize",
        "keepdims",
        "num_outputs",
        "split",
        "batch_axis",
        "time_axis",
        "hidden_size",
        "direction",
        "num_heads",
        "equation",
        "pattern",
        "max_gram_length",
        "ngram_counts",
        "pool_int64s",
        "k",
        "largest",
        "to",
        "num_scan_inputs",
        "scan_input_axes",
        "output_height",
        "sampling_ratio",
        "block_size",
        "nodes_treeids",
        "epsilon",
    ];
    let name = text(1, NAMES[dice.below(NAMES.len())]);
    let mut fields = vec![name];
    match dice.below(5) {
        0 => fields.extend([number(3, edge(1, dice)), number(20, 2)]),
        1 => fields.extend([float(2, FLOATS[dice.below(FLOATS.len())]), number(20, 1)]),
        2 => fields.extend([text(4, TEXTS[dice.below(TEXTS.len())]), number(20, 3)]),
        3 => fields.extend([message(5, Kind::Tensor, fresh_tensor(Vec::new(), dice)), number(20, 4)]),
        _ => {
            fields.extend((0..dice.below(5)).map(|_| number(8, edge(1, dice))));
            fields.push(number(20, 7));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = include_bytes!("../../tests/fixtures/perceptron.onnx");

    #[test]
    fn changes_are_many_and_leave_a_file_readable() {
        let all: BTreeSet<Vec<u8>> = (0..200).filter_map(|seed| mutate(FILE, 1 << 16, seed)).collect();
        assert!(all.len() > 150, "{} different files", all.len());
        assert!(all.iter().all(|bytes| parse(bytes, Kind::Model).is_some()));
        assert!(all.iter().any(|bytes| stoker_graph::Graph::from_bytes(bytes).is_ok()));
    }

    #[test]
    fn a_seed_always_makes_the_same_change() {
        assert_eq!(mutate(FILE, 1 << 16, 7), mutate(FILE, 1 << 16, 7));
        assert_eq!(cross(FILE, FILE, 1 << 16, 7), cross(FILE, FILE, 1 << 16, 7));
        assert_eq!(mutate(b"no file", 1 << 16, 7), None);
    }
}
