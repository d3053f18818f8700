//! Requests that fuzzing and reading found, played again: each must be refused, or fit the model, without a panic. See
//! `replay/requests.rs`.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

#[path = "replay/requests.rs"]
mod requests;

use std::path::Path;

/// Plays the files of a folder. An empty folder is a mistake: nothing would be tested.
fn play(folder: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings").join(folder);
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{}", path.display());
        played += 1;
    }
    assert!(played > 0, "{} is empty", folder.display());
}

#[test]
fn json() {
    play("request_json", requests::json);
}

#[test]
fn binary() {
    play("request_binary", requests::raw);
}

#[test]
fn grpc() {
    play("request_grpc", requests::grpc);
}
