//! What an answer depends on, hashed and compared to the bit.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};
use stoker_graph::{Data, Value};

use crate::artifact::Digest;

/// What the allocator takes beside each block, about.
const BLOCK: usize = 16;

/// Hashes keys. It only finds: an answer is given when the keys are the same.
pub type Fingerprint = Box<dyn Fn(&Key) -> u128 + Send + Sync>;

/// All that the answer to a request depends on. Id, priority and time limits of a request are none of it.
#[derive(Debug)]
pub struct Key {
    model: Digest,
    inputs: Vec<Value>,
    outputs: Vec<usize>,
    bytes: usize,
}

impl Key {
    /// The inputs in the order of the model's signature, and the positions of the outputs in the client's order.
    pub fn new(model: Digest, inputs: Vec<Value>, outputs: Vec<usize>) -> Self {
        let bytes = size_of::<Self>()
            + BLOCK
            + inputs.capacity() * size_of::<Value>()
            + inputs.iter().map(bytes_of).sum::<usize>()
            + outputs.capacity() * size_of::<usize>()
            + 2 * BLOCK;
        Self { model, inputs, outputs, bytes }
    }

    /// The inputs.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// The positions of the outputs.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// Inputs and outputs, without a copy.
    pub fn into_parts(self) -> (Vec<Value>, Vec<usize>) {
        (self.inputs, self.outputs)
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when all of it is the same, numbers to the bit: 0.0 is not -0.0, and a NaN is itself.
    pub fn is_same(&self, other: &Self) -> bool {
        self.model == other.model
            && self.outputs == other.outputs
            && self.inputs.len() == other.inputs.len()
            && self
                .inputs
                .iter()
                .zip(&other.inputs)
                .all(|(a, b)| a.shape() == b.shape() && same(a.data(), b.data()))
    }

    /// Feeds all of it to a hasher, with lengths, so that no two keys feed the same.
    fn feed(&self, hasher: &mut impl Hasher) {
        hasher.write(self.model.version().as_bytes());
        hasher.write_usize(self.outputs.len());
        for position in &self.outputs {
            hasher.write_usize(*position);
        }
        for input in &self.inputs {
            hasher.write_i32(input.dtype().onnx_number());
            hasher.write_usize(input.shape().len());
            for length in input.shape() {
                hasher.write_usize(*length);
            }
            feed(input.data(), hasher);
        }
    }
}

/// SipHash-1-3 of 128 bits (Aumasson and Bernstein 2012) with a key of this process: a client cannot choose inputs that
/// collide.
pub fn keyed_fingerprint() -> Fingerprint {
    // The keys of a hasher are the randomness that the standard library has.
    let (first, second) = (RandomState::new().hash_one(0_u8), RandomState::new().hash_one(1_u8));
    Box::new(move |key| {
        let mut hasher = SipHasher13::new_with_keys(first, second);
        key.feed(&mut hasher);
        hasher.finish128().into()
    })
}

/// Bytes that a value takes beside its own struct.
pub fn bytes_of(value: &Value) -> usize {
    let elements = match value.data() {
        Data::Bool(items) => items.capacity(),
        Data::U8(items) | Data::Small(_, items) => items.capacity(),
        Data::I8(items) => items.capacity(),
        Data::U16(items) => items.capacity() * 2,
        Data::I16(items) => items.capacity() * 2,
        Data::F16(items) => items.capacity() * 2,
        Data::BF16(items) => items.capacity() * 2,
        Data::U32(items) => items.capacity() * 4,
        Data::I32(items) => items.capacity() * 4,
        Data::F32(items) => items.capacity() * 4,
        Data::U64(items) => items.capacity() * 8,
        Data::I64(items) => items.capacity() * 8,
        Data::F64(items) => items.capacity() * 8,
        Data::String(items) => {
            items.capacity() * size_of::<String>()
                + items.iter().map(|item| item.capacity() + BLOCK).sum::<usize>()
        }
        // A type that is not known is not served.
        _ => 0,
    };
    size_of_val(value.shape()) + elements + 2 * BLOCK
}

/// The elements as bytes; `None` for text.
fn plain(data: &Data) -> Option<&[u8]> {
    Some(match data {
        Data::Bool(items) => bytemuck::cast_slice(items),
        Data::U8(items) | Data::Small(_, items) => items,
        Data::I8(items) => bytemuck::cast_slice(items),
        Data::U16(items) => bytemuck::cast_slice(items),
        Data::I16(items) => bytemuck::cast_slice(items),
        Data::F16(items) => bytemuck::cast_slice(items),
        Data::BF16(items) => bytemuck::cast_slice(items),
        Data::U32(items) => bytemuck::cast_slice(items),
        Data::I32(items) => bytemuck::cast_slice(items),
        Data::F32(items) => bytemuck::cast_slice(items),
        Data::U64(items) => bytemuck::cast_slice(items),
        Data::I64(items) => bytemuck::cast_slice(items),
        Data::F64(items) => bytemuck::cast_slice(items),
        _ => return None,
    })
}

/// True when types and elements are the same, to the bit.
fn same(a: &Data, b: &Data) -> bool {
    a.dtype() == b.dtype()
        && match (plain(a), plain(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        }
}

fn feed(data: &Data, hasher: &mut impl Hasher) {
    if let Some(bytes) = plain(data) {
        hasher.write(bytes);
    } else if let Data::String(items) = data {
        for item in items {
            hasher.write_usize(item.len());
            hasher.write(item.as_bytes());
        }
    }
}
