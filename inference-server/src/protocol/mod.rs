//! The Open Inference Protocol v2 as JSON: requests become typed values, values become answers.
//!
//! Pure: bytes in, bytes out. `request`, `parameters` and `data` read, `answer` writes, `raw` is tensors as bytes and
//! `binary` where they stand behind JSON, `path` says what a URL means, `deadline` and `trace` read headers, `signature`
//! is what the model declares.

pub mod answer;
pub mod binary;
pub mod data;
pub mod deadline;
pub mod parameters;
pub mod path;
pub mod raw;
pub mod request;
pub mod signature;
pub mod trace;

pub use request::{Asked, InferRequest, RequestError};
pub use signature::{NotServable, Signature};
