//! The server as its clients see it: over HTTP on loopback, with the demo's models; and as Kubernetes sees it: by its
//! exit code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the settings for tests do not reach the functions beside them"
)]

mod artifacts;
mod bad_artifacts;
mod binary;
mod caching;
mod calls;
mod draining;
mod grpc;
mod headers;
mod isolation;
mod latency;
mod object_stores;
mod process;
mod protocol;
mod raw;
mod reference;
mod refusals;
mod resumed;
mod several;
mod started;
mod statistics;
