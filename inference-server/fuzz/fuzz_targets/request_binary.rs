//! Any bytes as a header, and a body of JSON and raw bytes: see `tests/replay/requests.rs`.
#![no_main]

#[path = "../../tests/replay/requests.rs"]
mod requests;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| requests::raw(bytes));
