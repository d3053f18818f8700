//! What was found by fuzzing and by reading, played again: see the crate's README.
//!
//! - `findings/load`: files that did harm once, or that ask for it. Each must be refused, or run, without a
//!   panic, within bounds of time and memory that the operating system enforces: a process of its own plays
//!   them, as one that runs out of memory cannot report it.
//! - `findings/differential`: graphs for which the answers were not those of ONNX Runtime, which are in the
//!   file beside the inputs.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

#[path = "replay/agreement.rs"]
mod agreement;
#[path = "replay/dice.rs"]
mod dice;
#[path = "replay/hostile.rs"]
mod hostile;
#[path = "cases/tensors.rs"]
mod tensors;

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use hostile::Outcome;
use serde_json::Value as Json;
use stoker_graph::{Graph, Value};
use tensors::tensors;

/// The files of a folder, by name. An empty folder is a mistake: nothing would be tested.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// What one process may take, of all files together: kilobytes of addresses, and seconds of a processor.
/// A tensor may have 1 GiB, and an operator has several at a time.
const KILOBYTES: u32 = 8 << 20;
const SECONDS: u32 = 120;
/// Set in the process that plays the files.
const CHILD: &str = "STOKER_FINDINGS_CHILD";

#[test]
fn files_that_did_harm_are_refused_or_run() {
    if std::env::var_os(CHILD).is_some() {
        return play();
    }
    let limited = format!("ulimit -v {KILOBYTES} && ulimit -t {SECONDS} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "files_that_did_harm_are_refused_or_run", "--nocapture"])
        .env(CHILD, "1")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // The name of a file is said before it is played: the last one is that at which the process ended.
    let count = said.lines().filter(|line| line.starts_with("file ")).count();
    assert!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(count, files("load").len(), "{said}");
}

/// Plays all files in this process.
#[expect(clippy::print_stdout, reason = "read by the test that started this process")]
fn play() {
    let mut failures = Vec::new();
    for path in files("load") {
        println!("\nfile {}", path.display());
        let outcome = hostile::check(&std::fs::read(&path).unwrap());
        println!("{outcome:?}");
        // A panic is caught by the crate, and its message says so.
        let (Outcome::Refused(message) | Outcome::Loaded(Some(message))) = outcome else { continue };
        if message.contains("gave up") {
            failures.push(format!("{}: {message}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn answers_that_differed_are_those_of_onnx_runtime() {
    let failures: Vec<String> =
        files("differential").iter().filter_map(|path| Some((path, compare(path)?))).map(shown).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn shown((path, reason): (&PathBuf, String)) -> String {
    format!("{}: {reason}", path.display())
}

/// What is different from the answers in the file.
fn compare(path: &Path) -> Option<String> {
    let case: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let model = base64::engine::general_purpose::STANDARD.decode(case["model"].as_str().unwrap()).unwrap();
    let graph = match Graph::from_bytes(&model) {
        Ok(graph) => graph,
        Err(error) => return Some(error.to_string()),
    };
    let answer = match graph.run(tensors(&case["inputs"])) {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    let expected = tensors(&case["outputs"]);
    if answer.len() != expected.len() {
        return Some(format!("{} outputs instead of {}", answer.len(), expected.len()));
    }
    let differs = |((name, one), (expected, other)): (&(String, Value), &(String, Value))| {
        if name != expected {
            return Some(format!("output `{name}` instead of `{expected}`"));
        }
        Some(format!("{name}: {}", agreement::difference(one, other)?))
    };
    answer.iter().zip(&expected).find_map(differs)
}
