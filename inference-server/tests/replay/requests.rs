//! A request from a stranger, read: what the fuzz targets do with each, and the test `findings` with those that were found.
//!
//! It must be refused, or fit the model; and what it becomes may take only so many times the memory of its bytes. Messages
//! that refuse it are short, whatever it holds.

use std::sync::LazyLock;

use bytes::Bytes;
use stoker_graph::{DType, Data, ValueInfo};
use stoker_server::proto::{self, inference::ModelInferRequest};
use stoker_server::protocol::{InferRequest, RequestError, Signature, binary, message, request};

/// How many times its bytes a request may take as values: a text of no letters has 3 bytes in JSON and 24 in memory.
const GROWTH: usize = 16;
/// The longest message of a refusal, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Models with one input and with many, of every type, with fixed lengths and free ones.
static SIGNATURES: LazyLock<Vec<Signature>> = LazyLock::new(|| {
    use DType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, String, U8, U16, U32, U64};
    let row = ValueInfo::tensor("input", F32, vec![None, Some(4)]);
    let label = ValueInfo::tensor("label", I64, vec![None]);
    let every = [Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64, String];
    let each =
        every.iter().map(|dtype| ValueInfo::tensor(dtype.oip_name(), *dtype, vec![None, None])).collect();
    let scalar = ValueInfo::tensor("s", String, vec![]);
    vec![
        Signature { inputs: vec![row], outputs: vec![label.clone()], batch_axis: true },
        Signature { inputs: each, outputs: vec![label.clone()], batch_axis: true },
        Signature { inputs: vec![scalar], outputs: vec![label], batch_axis: false },
    ]
});

/// The body of a request in JSON.
pub fn json(bytes: &[u8]) {
    for signature in &*SIGNATURES {
        check(request::parse(bytes, &[], signature).map(|asked| asked.request), bytes.len(), signature);
    }
}

/// A header, a line end, and a body of JSON with raw bytes behind it.
pub fn raw(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    for signature in &*SIGNATURES {
        let read = binary::divide(body, Some(header))
            .and_then(|(json, tail)| request::parse(json, tail, signature))
            .map(|asked| asked.request);
        check(read, body.len(), signature);
    }
}

/// A message of gRPC.
pub fn grpc(bytes: &[u8]) {
    for signature in &*SIGNATURES {
        let Ok(read) = proto::read::<ModelInferRequest>(Bytes::copy_from_slice(bytes)) else { return };
        check(message::read(read, signature), bytes.len(), signature);
    }
}

/// What was read is what the model takes, and not much larger than what came.
fn check(read: Result<InferRequest, RequestError>, length: usize, signature: &Signature) {
    let request = match read {
        Ok(request) => request,
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() <= LONGEST_MESSAGE, "a message of {} bytes: {message:.200}", message.len());
            return;
        }
    };
    assert_eq!(request.inputs.len(), signature.inputs.len());
    let mut size = 0;
    for (value, info) in request.inputs.iter().zip(&signature.inputs) {
        assert_eq!(value.dtype(), info.dtype);
        assert_eq!(value.shape().len(), info.shape.len());
        assert_eq!(value.data().len(), value.shape().iter().product::<usize>());
        size += taken(value.data());
    }
    assert!(size <= GROWTH * length + 1024, "{size} bytes of values from {length}");
    assert!(request.outputs.iter().all(|position| *position < signature.outputs.len()));
}

/// Bytes of elements in memory.
fn taken(data: &Data) -> usize {
    match data {
        Data::String(items) => items.iter().map(|item| size_of::<String>() + item.len()).sum(),
        other => other.len() * other.dtype().bits().div_ceil(8),
    }
}
