//! An ONNX graph executed on burn tensors at run time.
//!
//! burn imports ONNX by generating code when a program is built. This crate reads the file when the
//! program runs: a [`Graph`] is loaded once, is checked then, and answers requests from any thread.
//! It knows nothing of Stoker and can be used alone.
//!
//! ```
//! use stoker_graph::{Data, Graph, Value};
//!
//! let model = include_bytes!("../tests/fixtures/perceptron.onnx");
//! let graph = Graph::from_bytes(model)?;
//! assert_eq!(graph.inputs()[0].shape, [None, None]);
//!
//! let rows = Value::new(vec![2, 64], Data::F32(vec![0.5; 128]))?;
//! let answer = graph.run(vec![("x".to_owned(), rows)])?;
//! let (name, probabilities) = &answer[1];
//! assert_eq!((name.as_str(), probabilities.shape()), ("probabilities", &[2, 10][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//! - **A file is checked when it is loaded.** Operators that are not supported are named all at once,
//!   with node, domain and opset. Nothing outside of the file is read but weights in the folder that the
//!   caller names, and sizes, depth and the rounds of loops are bounded.
//! - **A request never takes the process down.** An index that is out of range, or shapes that do not
//!   fit, are a [`RunError`] of that request; the graph is as before.
//! - **What can be decided at load is decided there.** Values are numbered, constants are tensors that
//!   all requests share, nodes of constants are computed once, chains of operators are put together where
//!   that saves a pass over memory, and a tensor that is read for the last time is handed over, so that
//!   burn may work in place.
//!
//! # What it runs
//! Tensors of all of ONNX's element types but complex numbers and 6-bit floating point, lists and
//! optionals, graphs inside of nodes, functions of the file, and the operators that [`operators`] lists.
//! Half precision is computed in single precision and rounded once.
//!
//! # Training
//! A [`Network`] is the same model on any backend of burn, with parameters that can be read, changed, trained
//! where the backend records gradients, and written back into the model.
//!
//! # Threads
//! burn uses rayon's global pool for large matrix products and convolutions; small ones stay on the
//! caller's thread. A program that wants one thread per request builds that pool with one thread.

mod describe;
mod error;
mod exchange;
mod fuse;
mod graph;
mod held;
mod load;
mod memory;
mod model;
mod network;
mod operators;
mod ops;
mod plan;
mod proto;
mod storage;
mod stream;
mod survey;
mod tensor;
mod value;

pub use describe::{Declared, FunctionInfo, OperatorUse, Weights};
pub use error::{LoadError, ParameterError, RunError, ShapeError, UnsupportedOperator};
pub use graph::{Graph, Limits};
pub use model::Model;
pub use network::{Argument, Gradients, Network, ParameterInfo};
pub use operators::{OperatorInfo, operators};
pub use value::{AnyValue, DType, Data, Kind, Value, ValueInfo};
