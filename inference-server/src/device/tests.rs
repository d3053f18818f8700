//! The way of a model to a device and back, on a backend that needs no GPU: burn's own for the processor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::backend::{Flex, FlexDevice};
use stoker_graph::{DType, Data};
use tokio::sync::oneshot;

use super::*;
use crate::batch::{
    Bounded, Done, Failure, Held, Job, Learned, Queue, Release, Rules, Telemetry, start, warm,
};
use crate::protocol::Signature;

/// Far from the time that anything here takes.
const LONG: Duration = Duration::from_hours(1);

fn fixture(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/models/fixtures/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

/// The demo's test images.
fn images() -> Vec<Vec<f32>> {
    let all: serde_json::Value = serde_json::from_slice(&fixture("digits-test.json")).unwrap();
    serde_json::from_value(all["images"].clone()).unwrap()
}

/// Rows of one request.
fn rows(images: &[Vec<f32>]) -> Value {
    Value::new(vec![images.len(), 64], Data::F32(images.concat())).unwrap()
}

#[derive(Clone)]
struct Silent;

impl Telemetry for Silent {
    fn ran(&self, _: usize, _: usize, _: Duration) {}
    fn released(&self, _: Release, _: &Learned) {}
    fn dropped(&self, _: usize, _: usize, _: usize) {}
    fn panicked(&self) {}
}

/// What executors give for requests of some rows each, which run in batches of up to 64, after a warm-up as the server's.
fn served(model: Box<dyn Model>, requests: &[Value]) -> Vec<Result<Vec<Value>, Failure>> {
    let signature = Arc::new(Signature::of(&*model).unwrap());
    let model = Arc::new(Bounded { model, memory: None });
    let warmth = warm(&*model, &signature, 64, LONG);
    assert!(warmth.joinable, "rows are independent");
    let rules = Rules { capacity: requests.len(), max_rows: 64, max_delay: Duration::ZERO, executors: 1 };
    let queue = Arc::new(Queue::new(rules, &warmth.times));
    let waiting: Vec<_> = requests
        .iter()
        .map(|value| {
            let (reply, answer) = oneshot::channel();
            let (queued, count) = (Instant::now(), value.shape()[0]);
            let job = Job {
                inputs: vec![value.clone()],
                rows: Some(count),
                cost: count,
                priority: 0,
                queued,
                deadline: queued + LONG,
                due: None,
                own: None,
                held: Held::default(),
                reply,
            };
            queue.push(job, None).unwrap();
            answer
        })
        .collect();
    queue.close();
    let (threads, answers) = start(&queue, &model, &signature, &Silent, 1, 1).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answers.deliver());
    let outputs = |done: Done| done.outputs;
    waiting.into_iter().map(|answer| answer.blocking_recv().unwrap().map(outputs)).collect()
}

/// How far two answers are apart at most; types, shapes and whole numbers must be the same.
fn distance(left: &Value, right: &Value) -> f32 {
    assert_eq!((left.shape(), left.dtype()), (right.shape(), right.dtype()));
    match (left.data(), right.data()) {
        (Data::F32(left), Data::F32(right)) => {
            left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
        }
        (left, right) => {
            assert_eq!(left, right);
            0.0
        }
    }
}

#[test]
fn executors_give_the_graph_s_answers_on_a_backend() {
    let requests: Vec<Value> = images().chunks(3).map(rows).collect();
    let bytes = fixture("digits-v2.onnx");
    let graph = Graph::from_bytes(&bytes).unwrap();
    let answers = served(load_on::<Flex>(&bytes, &FlexDevice).unwrap(), &requests);
    assert_eq!(answers.len(), 150);
    for (request, answer) in requests.into_iter().zip(answers) {
        let wanted = graph.run(vec![("input".to_owned(), request)]).unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.len(), wanted.len());
        for (answer, (name, wanted)) in answer.iter().zip(&wanted) {
            let apart = distance(answer, wanted);
            assert!(apart < 1e-5, "{name} is {apart} apart");
        }
    }
}

#[test]
fn a_request_that_fails_on_a_backend_fails_alone_and_at_the_graph_s_node() {
    let requests: Vec<Value> = images().chunks(1).take(100).map(rows).collect();
    let bytes = fixture("digits-v3.onnx");
    let graph = Graph::from_bytes(&bytes).unwrap();
    let answers = served(load_on::<Flex>(&bytes, &FlexDevice).unwrap(), &requests);
    let mut failed = 0;
    for (request, answer) in requests.into_iter().zip(answers) {
        match graph.run(vec![("input".to_owned(), request)]) {
            Ok(wanted) => assert!(distance(&answer.unwrap()[1], &wanted[1].1) < 1e-5),
            Err(RunError::Node { node: wanted, .. }) => {
                let Err(Failure::Model(RunError::Node { node, op, reason })) = &answer else {
                    panic!("{answer:?} instead of a failure at {wanted}")
                };
                assert_eq!((node.as_str(), op.as_str()), (wanted.as_str(), "Gather"));
                assert!(reason.contains("is out of range"), "{reason}");
                failed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!((10..60).contains(&failed), "about 30 of 100 images fail, not {failed}");
}

#[test]
fn a_run_that_nobody_waits_for_stops_on_a_backend() {
    let model = load_on::<Flex>(&fixture("digits-v2.onnx"), &FlexDevice).unwrap();
    let inputs = || vec![("input".to_owned(), rows(&images()[..1]))];
    let limits = Limits { stop: Some(&|| true), ..Limits::default() };
    assert_eq!(model.run_within(inputs(), limits).unwrap_err(), RunError::Stopped);
    assert!(model.run_within(inputs(), Limits::default()).is_ok());
}

#[test]
fn a_model_declares_the_same_on_every_device() {
    let bytes = fixture("digits-v2.onnx");
    let [graph, network] =
        [Device::Cpu.load(&bytes), load_on::<Flex>(&bytes, &FlexDevice)].map(Result::unwrap);
    let (wanted, signature) = (Signature::of(&*graph).unwrap(), Signature::of(&*network).unwrap());
    assert_eq!(signature, wanted);
    assert!(signature.batch_axis && network.is_deterministic());
    assert_eq!((signature.inputs[0].name.as_str(), signature.inputs[0].dtype), ("input", DType::F32));
}

#[test]
fn what_a_backend_does_not_run_is_named() {
    // A logistic regression of scikit-learn: its weights are attributes.
    let bytes = fixture("digits-v1.onnx");
    let Err(error) = load_on::<Flex>(&bytes, &FlexDevice) else { panic!("it has no such operator") };
    let text = error.to_string();
    assert!(text.contains("ai.onnx.ml::LinearClassifier") && text.contains("at node `"), "{text}");
    assert!(Device::Cpu.load(&bytes).is_ok() && !Device::Cpu.refuses(&error));
}

#[test]
fn devices_are_read_and_what_is_not_built_names_its_feature() {
    assert_eq!(Device::parse("cpu"), Ok(Device::Cpu));
    assert!(Device::Cpu.is_there());
    assert_eq!(Device::Cpu.executors(4), 4);
    for text in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:70000", "wgpu:0:1", "CUDA"] {
        let error = Device::parse(text).unwrap_err();
        assert!(error.starts_with("cpu, cuda, cuda:N"), "{text}: {error}");
    }
    let built = [("cuda", cfg!(feature = "cuda")), ("wgpu", cfg!(feature = "wgpu"))];
    for (name, is_built) in built {
        for text in [name.to_owned(), format!("{name}:1")] {
            match Device::parse(&text) {
                Ok(device) => {
                    assert!(is_built, "{text}");
                    assert!(device.to_string().starts_with(name));
                    assert_eq!(device.executors(4), 1);
                }
                Err(error) => {
                    assert!(!is_built && error.contains(&format!("--features {name}")), "{text}: {error}");
                }
            }
        }
    }
}
