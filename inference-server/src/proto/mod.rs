//! The messages and services of gRPC, made from `proto` by the build script, and how their bytes are read.

mod codec;

pub use codec::{Codec, read};

/// The Open Inference Protocol v2 over gRPC.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "made by a program, whose code has the comments of the .proto file and a style of its own"
)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// gRPC's health checks.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "made by a program, whose code has the comments of the .proto file and a style of its own"
)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
