//! Every golden case: the answers must be those of ONNX Runtime, and what it refuses must be refused.
//!
//! The cases are written by `e2e/models/make_models.py`; see `golden_cases.py` for their form.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "what a helper of a test cannot do is a failed test"
)]

use base64::Engine;
use serde_json::Value as Json;
use stoker_graph::{DType, Data, Graph, RunError, Value};

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

fn close(actual: &Data, expected: &Data, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance + tolerance * b.abs()
    };
    match (actual, expected) {
        (Data::F32(a), Data::F32(b)) => a.iter().zip(b).all(|(&a, &b)| near(a.into(), b.into())),
        (Data::F64(a), Data::F64(b)) => a.iter().zip(b).all(|(&a, &b)| near(a, b)),
        _ => actual == expected,
    }
}

fn tensors(list: &Json) -> Vec<(String, Value)> {
    list.as_array().unwrap().iter().map(tensor).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the file holds numbers of the declared type")]
fn tensor(json: &Json) -> (String, Value) {
    let items = json["data"].as_array().unwrap();
    let float = |x: &Json| match x {
        Json::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    };
    let whole = |x: &Json| x.as_i64().unwrap();
    let data = match DType::from_oip_name(json["dtype"].as_str().unwrap()).unwrap() {
        DType::Bool => Data::Bool(items.iter().map(|x| x.as_bool().unwrap()).collect()),
        DType::U8 => Data::U8(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I8 => Data::I8(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I32 => Data::I32(items.iter().map(|x| whole(x).try_into().unwrap()).collect()),
        DType::I64 => Data::I64(items.iter().map(whole).collect()),
        DType::F32 => Data::F32(items.iter().map(|x| float(x) as f32).collect()),
        DType::F64 => Data::F64(items.iter().map(float).collect()),
        DType::String => Data::String(items.iter().map(|x| x.as_str().unwrap().to_owned()).collect()),
        other => unreachable!("no fixture holds {other}"),
    };
    let shape = json["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap().try_into().unwrap());
    (json["name"].as_str().unwrap().to_owned(), Value::new(shape.collect(), data).unwrap())
}
