//! Strangers who mean harm, or have bad networks: whatever they do, the process takes no more memory, threads or
//! descriptors than before, and other clients are answered.
//!
//! Each test has a server of its own, as a process, so that what it takes can be read from the operating system.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the settings for tests do not reach the functions beside them"
)]

mod http1;
mod http2;
mod process;
