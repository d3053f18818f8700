//! Every golden case: the answers must be those of ONNX Runtime, and what it refuses must be refused.
//!
//! The cases are written by `e2e/models/make_models.py`; see `golden_cases.py` for their form.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

mod cases;

use base64::Engine;
use cases::{close, tensors};
use serde_json::Value as Json;
use stoker_graph::{Graph, RunError};

#[test]
fn elementwise() {
    check_family("elementwise");
}

#[test]
fn cast() {
    check_family("cast");
}

#[test]
fn arithmetic() {
    check_family("arithmetic");
}

#[test]
fn compare() {
    check_family("compare");
}

#[test]
fn shape() {
    check_family("shape");
}

#[test]
fn slice() {
    check_family("slice");
}

#[test]
fn index() {
    check_family("index");
}

#[test]
fn reduce() {
    check_family("reduce");
}

#[test]
fn matmul() {
    check_family("matmul");
}

#[test]
fn window() {
    check_family("window");
}

#[test]
fn norm() {
    check_family("norm");
}

#[test]
fn network() {
    check_family("network");
}

#[test]
fn sklearn() {
    check_family("sklearn");
}

/// Checks all cases of a file and reports all that fail, not only the first.
fn check_family(family: &str) {
    let path = format!("{}/tests/fixtures/{family}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(&path).unwrap();
    let failures: Vec<String> = lines.lines().filter_map(|line| check_case(line).err()).collect();
    assert!(lines.lines().count() > 2, "{path} holds too few cases");
    assert!(failures.is_empty(), "{} cases of {family} fail:\n{}", failures.len(), failures.join("\n"));
}

fn check_case(line: &str) -> Result<(), String> {
    let case: Json = serde_json::from_str(line).unwrap();
    let name = case["name"].as_str().unwrap();
    let model = base64::engine::general_purpose::STANDARD.decode(case["model"].as_str().unwrap()).unwrap();
    let graph = Graph::from_bytes(&model).map_err(|error| format!("{name}: {error}"))?;
    let tolerance = case["tolerance"].as_f64().unwrap();
    for (index, run) in case["runs"].as_array().unwrap().iter().enumerate() {
        check_run(&graph, run, tolerance).map_err(|reason| format!("{name}, run {index}: {reason}"))?;
    }
    Ok(())
}

fn check_run(graph: &Graph, run: &Json, tolerance: f64) -> Result<(), String> {
    let answer = graph.run(tensors(&run["inputs"]));
    if run["fails"] == Json::Bool(true) {
        return match answer {
            Err(RunError::Node { node, op, reason }) => {
                assert!(!node.is_empty() && !op.is_empty() && !reason.is_empty());
                // Faults are found by checks; a panic inside of burn would say so.
                if reason.contains("gave up") { Err(format!("panicked: {reason}")) } else { Ok(()) }
            }
            other => Err(format!("should fail at a node, but gives {other:?}")),
        };
    }
    let answer = answer.map_err(|error| error.to_string())?;
    let expected = tensors(&run["outputs"]);
    if answer.len() != expected.len() {
        return Err(format!("{} outputs instead of {}", answer.len(), expected.len()));
    }
    for ((name, actual), (expected_name, expected)) in answer.iter().zip(&expected) {
        if name != expected_name || actual.shape() != expected.shape() || actual.dtype() != expected.dtype() {
            return Err(format!(
                "{name} {} {:?} instead of {expected_name} {} {:?}",
                actual.dtype(),
                actual.shape(),
                expected.dtype(),
                expected.shape()
            ));
        }
        if !close(actual.data(), expected.data(), tolerance) {
            return Err(format!("{name}: {:?} instead of {:?}", actual.data(), expected.data()));
        }
    }
    Ok(())
}
