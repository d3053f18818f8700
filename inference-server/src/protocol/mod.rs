//! The Open Inference Protocol v2 as JSON: requests become typed values, values become answers.
//!
//! Pure: bytes in, bytes out. `request` and `data` read, `answer` writes, `raw` is tensors as bytes, `message` is gRPC, `path` says what a URL means, `signature`
//! is what the model declares.

pub mod answer;
pub mod data;
pub mod message;
pub mod path;
pub mod raw;
pub mod request;
pub mod signature;

pub use request::{InferRequest, RequestError};
pub use signature::{NotServable, Signature};
