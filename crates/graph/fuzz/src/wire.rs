//! Messages of the protobuf format as trees of fields, to write ONNX files and to change them in place.
//!
//! The crate's own messages know what they hold. These do not: a field that no message has, a number where
//! a text belongs, or a message cut short are what a hostile file is made of.

/// The messages of an ONNX file that hold others, and those that hold none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The file.
    Model,
    /// A graph.
    Graph,
    /// A node.
    Node,
    /// An attribute of a node.
    Attribute,
    /// A stored tensor.
    Tensor,
    /// A stored tensor without its zeros.
    Sparse,
    /// What is declared of a value.
    ValueInfo,
    /// A type.
    Type,
    /// The type of a tensor.
    TensorType,
    /// The dimensions of a tensor's type.
    Shape,
    /// What a list or an optional holds.
    Element,
    /// The types of a map.
    Map,
    /// A function of the file.
    Function,
    /// A message that holds no other.
    Leaf,
}

impl Kind {
    /// The message in a field, by the numbers of `onnx.proto`; `None` for text and bytes.
    fn inside(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 11..=13) | (Self::Function, 12) => Self::ValueInfo,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::ValueInfo | Self::Map, 2) | (Self::Attribute, 14 | 15) | (Self::Element, 1) => Self::Type,
            (Self::Type, 1 | 8) => Self::TensorType,
            (Self::Type, 4 | 9) => Self::Element,
            (Self::Type, 5) => Self::Map,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Model, 8)
            | (Self::Model | Self::Function, 14)
            | (Self::Graph, 16)
            | (Self::Node | Self::Function, 9)
            | (Self::Tensor, 13 | 16)
            | (Self::ValueInfo, 4)
            | (Self::Shape, 1) => Self::Leaf,
            _ => return None,
        })
    }

    /// Whether the field holds many numbers without their keys.
    fn packs(self, field: u64) -> bool {
        matches!((self, field), (Self::Tensor, 5 | 7 | 11))
    }
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// A number.
    Number(u64),
    /// Eight bytes.
    Wide([u8; 8]),
    /// Four bytes.
    Narrow([u8; 4]),
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// Numbers one after the other.
    Packed(Vec<u64>),
    /// A message.
    Message(Kind, Vec<Field>),
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its number in the message.
    pub number: u64,
    /// What it holds.
    pub payload: Payload,
}

/// How deep messages are taken apart; what is deeper stays bytes.
const MAX_DEPTH: usize = 60;

/// The fields of a message; `None` where the bytes are none.
pub fn parse(bytes: &[u8], kind: Kind) -> Option<Vec<Field>> {
    parse_at(bytes, kind, 0)
}

fn parse_at(mut rest: &[u8], kind: Kind, depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = take_number(&mut rest)?;
        let number = key >> 3;
        let payload = match key & 7 {
            0 => Payload::Number(take_number(&mut rest)?),
            1 => Payload::Wide(take(&mut rest, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(take_number(&mut rest)?).ok()?;
                let field = take(&mut rest, length)?;
                let inside = kind.inside(number).filter(|_| depth < MAX_DEPTH);
                let message =
                    inside.and_then(|kind| Some(Payload::Message(kind, parse_at(field, kind, depth + 1)?)));
                let packed = || numbers(field).filter(|_| kind.packs(number)).map(Payload::Packed);
                message.or_else(packed).unwrap_or_else(|| Payload::Bytes(field.to_vec()))
            }
            5 => Payload::Narrow(take(&mut rest, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number, payload });
    }
    Some(fields)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn numbers(mut rest: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        numbers.push(take_number(&mut rest)?);
    }
    Some(numbers)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The bytes of a message.
pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let (wire, inner) = match &field.payload {
            Payload::Number(number) => {
                put_number(&mut bytes, field.number << 3);
                put_number(&mut bytes, *number);
                continue;
            }
            Payload::Wide(wide) => (1, wide.to_vec()),
            Payload::Narrow(narrow) => (5, narrow.to_vec()),
            Payload::Bytes(inner) => (2, inner.clone()),
            Payload::Packed(numbers) => {
                let mut inner = Vec::new();
                numbers.iter().for_each(|&number| put_number(&mut inner, number));
                (2, inner)
            }
            Payload::Message(_, fields) => (2, encode(fields)),
        };
        put_number(&mut bytes, field.number << 3 | wire);
        if wire == 2 {
            put_number(&mut bytes, inner.len() as u64);
        }
        bytes.extend(inner);
    }
    bytes
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A field with a number; negative ones as the format has them.
pub fn number(field: u64, number: i64) -> Field {
    Field { number: field, payload: Payload::Number(number as u64) }
}

/// A field with a single-precision number.
pub fn float(field: u64, number: f32) -> Field {
    Field { number: field, payload: Payload::Narrow(number.to_le_bytes()) }
}

/// A field with text.
pub fn text(field: u64, text: &str) -> Field {
    bytes(field, text.as_bytes().to_vec())
}

/// A field with bytes.
pub fn bytes(field: u64, bytes: Vec<u8>) -> Field {
    Field { number: field, payload: Payload::Bytes(bytes) }
}

/// A field with a message.
pub fn message(field: u64, kind: Kind, fields: Vec<Field>) -> Field {
    Field { number: field, payload: Payload::Message(kind, fields) }
}

/// A tensor message: name, ONNX's number of its type, dimensions, and its elements as little-endian bytes.
pub fn tensor(name: &str, dtype: i32, shape: &[usize], raw: Vec<u8>) -> Vec<Field> {
    let mut fields: Vec<Field> = shape.iter().map(|&length| number(1, length as i64)).collect();
    fields.extend([number(2, dtype.into()), text(8, name), bytes(9, raw)]);
    fields
}

/// A message that declares a tensor; without a shape, only its type.
pub fn declared(name: &str, dtype: i32, shape: Option<&[usize]>) -> Vec<Field> {
    let mut tensor_type = vec![number(1, dtype.into())];
    if let Some(shape) = shape {
        let dims = shape.iter().map(|&length| message(1, Kind::Leaf, vec![number(1, length as i64)]));
        tensor_type.push(message(2, Kind::Shape, dims.collect()));
    }
    let declared = vec![message(1, Kind::TensorType, tensor_type)];
    vec![text(1, name), message(2, Kind::Type, declared)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_being_taken_apart() {
        let file = include_bytes!("../../tests/fixtures/perceptron.onnx");
        let fields = parse(file, Kind::Model).unwrap();
        assert!(fields.iter().any(|field| matches!(field.payload, Payload::Message(Kind::Graph, _))));
        assert_eq!(encode(&fields), file);
    }

    #[test]
    fn bytes_that_are_no_messages_are_told_apart() {
        assert_eq!(parse(&[0xff; 12], Kind::Model), None);
        assert_eq!(parse(&[0x3a, 0x05, 0x01], Kind::Model), None);
    }
}
