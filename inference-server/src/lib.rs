//! The inference server: ONNX models on burn behind the Open Inference Protocol v2.
//!
//! - [`config`]: the command line; [`alone`] its short form.
//! - [`artifact`]: where the model comes from, fetched with bounds and checked.
//! - [`protocol`]: JSON and messages to typed values and back; pure.
//! - [`proto`]: the messages and services of gRPC.
//! - [`device`]: where the model runs: the processor or a GPU.
//! - [`batch`]: the queue, the rule that joins requests, the threads that run them, warm-up.
//! - [`cache`]: answers that are given again without a run.
//! - [`health`]: how sure the model is of what it predicts.
//! - [`service`]: answers requests.
//! - [`memory`]: how much of it a run may take.
//! - [`metrics`]: what is counted.
//! - [`statistics`]: what is counted for the statistics extension.
//! - [`serve`]: puts them together and runs them to the end.

pub mod alone;
pub mod artifact;
pub mod batch;
pub mod cache;
pub mod config;
pub mod device;
pub mod health;
pub mod memory;
pub mod metrics;
pub mod proto;
pub mod protocol;
pub mod serve;
pub mod service;
pub mod statistics;
