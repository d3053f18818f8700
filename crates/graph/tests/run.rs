//! What a request can do: be answered, or be refused with an error that leaves the graph as it was.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a helper of a test cannot do is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;

use stoker_graph::{DType, Data, Graph, RunError, Value};

fn digits(version: &str) -> Graph {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../../e2e/models/fixtures", &format!("digits-{version}.onnx")]
            .iter()
            .collect();
    Graph::from_file(&path).unwrap()
}

/// The held-out images and their labels.
fn test_images() -> (Vec<Vec<f32>>, Vec<i64>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/models/fixtures/digits-test.json");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    (
        serde_json::from_value(json["images"].clone()).unwrap(),
        serde_json::from_value(json["labels"].clone()).unwrap(),
    )
}

fn request(rows: &[Vec<f32>]) -> Vec<(String, Value)> {
    let value = Value::new(vec![rows.len(), 64], Data::F32(rows.concat())).unwrap();
    vec![("input".to_owned(), value)]
}

fn labels(graph: &Graph, rows: &[Vec<f32>]) -> Result<Vec<i64>, RunError> {
    let answer = graph.run(request(rows))?;
    assert_eq!(answer[0].0, "label");
    assert_eq!(answer[1].1.shape(), [rows.len(), 10]);
    match answer[0].1.data() {
        Data::I64(labels) => Ok(labels.clone()),
        other => panic!("labels must be INT64, not {}", other.dtype()),
    }
}

fn accuracy(version: &str) -> f64 {
    let (images, truth) = test_images();
    let answers = labels(&digits(version), &images).unwrap();
    answers.iter().zip(&truth).filter(|(a, b)| a == b).count() as f64 / truth.len() as f64
}

#[test]
fn the_digits_models_declare_what_the_demo_needs() {
    for version in ["v1", "v2", "v3", "v4"] {
        let graph = digits(version);
        assert_eq!((&*graph.inputs()[0].name, graph.inputs()[0].dtype), ("input", DType::F32));
        assert_eq!(graph.inputs()[0].shape, [None, Some(64)]);
        let outputs: Vec<_> = graph.outputs().iter().map(|o| (&*o.name, o.dtype, o.shape.clone())).collect();
        assert_eq!(
            outputs,
            [("label", DType::I64, vec![None]), ("probabilities", DType::F32, vec![None, Some(10)])]
        );
        assert!(graph.batch_axis());
    }
}

#[test]
fn the_good_models_are_as_accurate_as_under_onnx_runtime() {
    let (first, second) = (accuracy("v1"), accuracy("v2"));
    assert!((0.90..=0.95).contains(&first), "{first}");
    assert!(second > 0.97, "{second}");
}

#[test]
fn the_harmful_model_fails_on_some_images_at_its_gather_and_stays_usable() {
    let (images, truth) = test_images();
    let (harmful, good) = (digits("v3"), digits("v2"));
    let mut failed = 0;
    for image in &images {
        let rows = std::slice::from_ref(image);
        match labels(&harmful, rows) {
            Ok(answer) => assert_eq!(answer, labels(&good, rows).unwrap()),
            Err(RunError::Node { node, op, reason }) => {
                assert_eq!((&*node, &*op), ("gain_lookup", "Gather"));
                assert!(reason.contains("out of range"), "{reason}");
                failed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let share = f64::from(failed) / truth.len() as f64;
    assert!((0.25..0.35).contains(&share), "{share} of the images fail");
}

#[test]
fn the_slow_model_answers_as_the_better_one() {
    let (images, _) = test_images();
    assert_eq!(labels(&digits("v4"), &images[..2]).unwrap(), labels(&digits("v2"), &images[..2]).unwrap());
}

#[test]
fn a_batch_gives_each_row_the_answer_that_it_gets_alone() {
    let (images, _) = test_images();
    let graph = digits("v2");
    let values: Vec<Value> =
        images[..5].iter().map(|row| request(std::slice::from_ref(row)).remove(0).1).collect();
    let joined = Value::concat(&values.iter().collect::<Vec<_>>()).unwrap();
    let answer = graph.run(vec![("input".to_owned(), joined)]).unwrap();
    for (_, output) in answer {
        let parts = output.split(&[2, 1, 2]).unwrap();
        assert_eq!(parts.iter().map(|part| part.shape()[0]).collect::<Vec<_>>(), [2, 1, 2]);
    }
    let together = labels(&graph, &images[..5]).unwrap();
    for (row, label) in images[..5].iter().zip(together) {
        assert_eq!(labels(&graph, std::slice::from_ref(row)).unwrap(), [label]);
    }
}

#[test]
fn requests_that_do_not_fit_the_declaration_are_refused_before_any_node_runs() {
    let graph = digits("v1");
    let good = || request(&[vec![0.0; 64]]).remove(0).1;
    let named = |name: &str, value: Value| graph.run(vec![(name.to_owned(), value)]);
    assert!(matches!(named("x", good()), Err(RunError::UnknownInput { known, .. }) if known == ["input"]));
    assert!(matches!(graph.run(Vec::new()), Err(RunError::MissingInput { name }) if name == "input"));
    let twice = vec![("input".to_owned(), good()), ("input".to_owned(), good())];
    assert!(matches!(graph.run(twice), Err(RunError::DuplicateInput { .. })));
    let wide = Value::new(vec![1, 64], Data::F64(vec![0.0; 64])).unwrap();
    assert!(matches!(
        named("input", wide),
        Err(RunError::WrongType { expected: DType::F32, actual: DType::F64, .. })
    ));
    for shape in [vec![64], vec![1, 63], vec![1, 64, 1], vec![]] {
        let count = shape.iter().product();
        let value = Value::new(shape.clone(), Data::F32(vec![0.0; count])).unwrap();
        let error = named("input", value).unwrap_err();
        assert!(matches!(&error, RunError::WrongShape { actual, .. } if *actual == shape), "{error}");
        assert!(error.to_string().contains("[-1, 64]"), "{error}");
    }
    assert!(named("input", good()).is_ok());
}

#[test]
fn no_rows_give_no_answers() {
    let graph = digits("v2");
    assert_eq!(labels(&graph, &[]).unwrap(), Vec::<i64>::new());
}

#[test]
fn numbers_that_are_not_finite_are_answered() {
    for version in ["v1", "v2"] {
        for number in [f32::NAN, f32::INFINITY, f32::MAX] {
            assert_eq!(labels(&digits(version), &[vec![number; 64]]).unwrap().len(), 1);
        }
    }
}

#[test]
fn one_graph_serves_many_threads() {
    let graph = Arc::new(digits("v2"));
    let (images, _) = test_images();
    let expected = labels(&graph, &images[..50]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (image, label) in images[..50].iter().zip(&expected) {
                    assert_eq!(labels(&graph, std::slice::from_ref(image)).unwrap(), [*label]);
                }
            });
        }
    });
}
