//! Any bytes as a message of gRPC: see `tests/replay/requests.rs`.
#![no_main]

#[path = "../../tests/replay/requests.rs"]
mod requests;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| requests::grpc(bytes));
