//! How much a file asks a parser to make, before it is parsed.
//!
//! An empty message takes two bytes of a file and hundreds in memory, so that a file of some megabytes
//! could ask for many times the memory that there is. This walk over the format counts, and makes nothing.

use std::fs::File;
use std::io::{BufReader, Read};

use crate::error::LoadError;

/// The most messages (nodes, attributes, tensors, dimensions ...) in a file.
const MAX_MESSAGES: u64 = 1 << 22;
/// The most texts and byte strings in a file.
const MAX_TEXTS: u64 = 1 << 26;
/// How deep messages may stand inside of each other: more than the parser allows.
const MAX_DEPTH: usize = 128;

/// The messages of an ONNX file that hold others.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Element,
    Map,
    Function,
    /// One that holds no other.
    Leaf,
}

/// The message in a field, by the numbers of `proto.rs`; `None` for text and bytes.
fn inside(message: Message, field: u64) -> Option<Message> {
    Some(match (message, field) {
        (Message::Model, 7) | (Message::Attribute, 6 | 11) => Message::Graph,
        (Message::Model, 25) => Message::Function,
        (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
        (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::Sparse, 1 | 2) => Message::Tensor,
        (Message::Graph, 11..=13) | (Message::Function, 12) => Message::ValueInfo,
        (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Message::Sparse,
        (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
        (Message::ValueInfo | Message::Map, 2) | (Message::Attribute, 14 | 15) | (Message::Element, 1) => {
            Message::Type
        }
        (Message::Type, 1 | 8) => Message::TensorType,
        (Message::Type, 4 | 9) => Message::Element,
        (Message::Type, 5) => Message::Map,
        (Message::TensorType, 2) => Message::Shape,
        (Message::Model, 8 | 14)
        | (Message::Graph, 16)
        | (Message::Node, 9)
        | (Message::Tensor, 13 | 16)
        | (Message::ValueInfo, 4)
        | (Message::Shape, 1)
        | (Message::Function, 9 | 14) => Message::Leaf,
        _ => return None,
    })
}

/// Bytes that are walked over.
pub(crate) trait Input {
    /// The next byte; `None` at the end, and where it cannot be read.
    fn next(&mut self) -> Option<u8>;
    /// Goes on after so many bytes.
    fn skip(&mut self, count: u64) -> Option<()>;
}

impl Input for &[u8] {
    fn next(&mut self) -> Option<u8> {
        let (&byte, after) = self.split_first()?;
        *self = after;
        Some(byte)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        *self = self.get(usize::try_from(count).ok()?..)?;
        Some(())
    }
}

impl Input for BufReader<&File> {
    fn next(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte).ok()?;
        Some(byte[0])
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.seek_relative(i64::try_from(count).ok()?).ok()
    }
}

/// Refuses a file that asks for too much. What is malformed is left to the parser, which says what is wrong.
pub(crate) fn check(mut bytes: impl Input, length: usize) -> Result<(), LoadError> {
    let mut counted = Counted::default();
    // Malformed: see above.
    let _ = counted.walk(&mut bytes, length as u64, Message::Model, 0);
    let too_large = |what, actual, limit| Err(LoadError::TooLarge { what, actual, limit });
    if counted.messages > MAX_MESSAGES {
        return too_large("number of messages", counted.messages, MAX_MESSAGES);
    }
    if counted.texts > MAX_TEXTS {
        return too_large("number of texts", counted.texts, MAX_TEXTS);
    }
    Ok(())
}

/// Goes on after `count` of the `left` bytes of a message.
fn skip(bytes: &mut impl Input, left: &mut u64, count: u64) -> Option<()> {
    *left = left.checked_sub(count)?;
    bytes.skip(count)
}

#[derive(Default)]
struct Counted {
    messages: u64,
    texts: u64,
}

impl Counted {
    /// Walks over the fields of a message of `left` bytes. `None` where they are malformed, or where enough was
    /// seen.
    fn walk(&mut self, bytes: &mut impl Input, mut left: u64, message: Message, depth: usize) -> Option<()> {
        while left > 0 {
            let key = varint(bytes, &mut left)?;
            match key & 7 {
                0 => {
                    varint(bytes, &mut left)?;
                }
                1 => skip(bytes, &mut left, 8)?,
                2 => {
                    let length = varint(bytes, &mut left)?;
                    match inside(message, key >> 3) {
                        Some(_) if depth >= MAX_DEPTH => return None,
                        Some(message) => {
                            left = left.checked_sub(length)?;
                            self.messages += 1;
                            self.walk(bytes, length, message, depth + 1)?;
                        }
                        None => {
                            skip(bytes, &mut left, length)?;
                            self.texts += 1;
                        }
                    }
                    if self.messages > MAX_MESSAGES || self.texts > MAX_TEXTS {
                        return None;
                    }
                }
                5 => skip(bytes, &mut left, 4)?,
                _ => return None,
            }
        }
        Some(())
    }
}

/// A number of seven bits in each byte, the lowest first.
fn varint(bytes: &mut impl Input, left: &mut u64) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        *left = left.checked_sub(1)?;
        let byte = bytes.next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_empty_messages_are_refused_before_they_are_made() {
        // A graph of nodes without anything: two bytes each.
        let nodes = [0x0a, 0x00].repeat(usize::try_from(MAX_MESSAGES).unwrap() + 1);
        let mut file = vec![0x3a];
        let mut length = nodes.len();
        while length >= 0x80 {
            file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        file.push(u8::try_from(length).unwrap());
        file.extend(nodes);
        assert!(matches!(check(&file[..], file.len()), Err(LoadError::TooLarge { .. })));
        let mut stored = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut stored, &file).unwrap();
        std::io::Seek::rewind(&mut stored).unwrap();
        assert!(matches!(check(BufReader::new(&stored), file.len()), Err(LoadError::TooLarge { .. })));
    }

    #[test]
    fn a_real_model_and_malformed_bytes_pass() {
        let check_bytes = |bytes: &[u8]| check(bytes, bytes.len());
        check_bytes(include_bytes!("../tests/fixtures/perceptron.onnx")).unwrap();
        check_bytes(&[0xff; 100]).unwrap();
        check_bytes(&[0x3a, 0x80]).unwrap();
    }
}
