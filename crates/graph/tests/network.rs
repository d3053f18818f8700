//! A model on a backend: the same answers as those of the executor, and parameters that can change.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a helper of a test cannot do is a failed test")]

mod cases;

use std::collections::BTreeSet;

use base64::Engine;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, FlexDevice};
use burn_autodiff::Autodiff;
use cases::{close, tensors};
use serde_json::Value as Json;
use stoker_graph::{
    AnyValue, Argument, Data, Graph, Limits, LoadError, Model, Network, ParameterError, RunError, Value,
};

type Recording = Autodiff<Flex>;

const PERCEPTRON: &[u8] = include_bytes!("fixtures/perceptron.onnx");

/// A tensor of an answer, wherever it is.
fn value<B: Backend>(network: &Network<B>, argument: Argument<B>) -> Value {
    match argument {
        Argument::Float(tensor) => network.value(tensor).unwrap(),
        Argument::Value(AnyValue::Tensor(value)) => value,
        Argument::Value(other) => panic!("no tensor: {other:?}"),
    }
}

fn given<B: Backend>(inputs: Vec<(String, Value)>) -> Vec<(String, Argument<B>)> {
    inputs.into_iter().map(|(name, value)| (name, value.into())).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let Data::F32(items) = value.data() else { panic!("{} instead of FP32", value.dtype()) };
    items.clone()
}

/// How many cases of a family ran. What no gradient goes through is added to `refused`.
fn check_family<B: Backend>(family: &str, refused: &mut BTreeSet<String>) -> usize {
    let path = format!("{}/tests/fixtures/{family}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let (mut ran, mut failures) = (0, Vec::new());
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap();
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(case["model"].as_str().unwrap()).unwrap();
        let model = Model::from_bytes(&bytes).unwrap();
        match Network::<B>::new(&model, &B::Device::default()) {
            Ok(network) => {
                ran += 1;
                let graph = model.graph().unwrap();
                for (index, run) in case["runs"].as_array().unwrap().iter().enumerate() {
                    if let Err(reason) = check_run(&graph, &network, run, case["tolerance"].as_f64().unwrap())
                    {
                        failures.push(format!("{name}, run {index}: {reason}"));
                    }
                }
            }
            Err(LoadError::Unsupported { operators }) => {
                refused.extend(operators.into_iter().map(|operator| operator.operator));
            }
            Err(other) => failures.push(format!("{name}: {other}")),
        }
    }
    assert!(failures.is_empty(), "{} runs of {family} fail:\n{}", failures.len(), failures.join("\n"));
    ran
}

fn check_run<B: Backend>(
    graph: &Graph,
    network: &Network<B>,
    run: &Json,
    tolerance: f64,
) -> Result<(), String> {
    let inputs = tensors(&run["inputs"]);
    let answer = network.run(given(inputs.clone()));
    let hosted = network.run_within(inputs.clone(), Limits::default());
    let wanted = match graph.run(inputs) {
        Ok(wanted) => wanted,
        Err(error) => {
            return match answer {
                Err(RunError::Node { reason, .. }) if reason.contains("gave up") => {
                    Err(format!("panicked: {reason}"))
                }
                Err(other) if hosted.as_ref().err() != Some(&other) => {
                    Err(format!("on the host {hosted:?} instead of {other}"))
                }
                Err(_) => Ok(()),
                Ok(_) => Err(format!("should fail as the graph does: {error}")),
            };
        }
    };
    let (answer, hosted) =
        (answer.map_err(|error| error.to_string())?, hosted.map_err(|error| error.to_string())?);
    for ((name, actual), (wanted_name, wanted)) in hosted.iter().zip(&wanted) {
        let alike = name == wanted_name && actual.shape() == wanted.shape();
        if !alike || !close(actual.data(), wanted.data(), tolerance) {
            return Err(format!("on the host {name} {actual:?} instead of {wanted_name} {wanted:?}"));
        }
    }
    for ((name, actual), (wanted_name, wanted)) in answer.into_iter().zip(wanted) {
        let actual = value(network, actual);
        // A scalar has one dimension on the backend.
        let scalar = wanted.shape().is_empty() && actual.shape() == [1];
        let same = scalar || actual.shape() == wanted.shape();
        if name != wanted_name || !same || actual.dtype() != wanted.dtype() {
            return Err(format!("{name} {actual:?} instead of {wanted_name} {wanted:?}"));
        }
        if !close(actual.data(), wanted.data(), tolerance) {
            return Err(format!("{name}: {:?} instead of {:?}", actual.data(), wanted.data()));
        }
    }
    Ok(())
}

/// Runs all families on a backend.
fn check_all<B: Backend>() {
    let families = [
        "elementwise",
        "arithmetic",
        "cast",
        "compare",
        "shape",
        "slice",
        "index",
        "reduce",
        "matmul",
        "window",
        "norm",
        "network",
        "sklearn",
    ];
    let mut refused = BTreeSet::new();
    let ran: usize = families.iter().map(|family| check_family::<B>(family, &mut refused)).sum();
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    let known = [
        "ArrayFeatureExtractor",
        "CastLike",
        "Imputer",
        "LabelEncoder",
        "LinearClassifier",
        "LinearRegressor",
        "Mod",
        "Normalizer",
        "Pad",
        "Range",
        "ScatterElements",
    ];
    assert_eq!(refused, known, "operators that no gradient goes through, in some form at least");
    assert!(ran > 390, "{ran} cases run");
}

#[test]
fn answers_are_those_of_the_executor() {
    check_all::<Flex>();
}

#[test]
fn answers_are_the_same_where_gradients_are_recorded() {
    check_all::<Recording>();
}

#[test]
fn every_node_without_a_derivative_is_named() {
    // A logistic regression of scikit-learn: its weights are attributes.
    let model = include_bytes!("../../../e2e/models/fixtures/digits-v1.onnx");
    let model = Model::from_bytes(model).unwrap();
    let Err(LoadError::Unsupported { operators }) = Network::<Flex>::new(&model, &FlexDevice) else {
        panic!("no gradient goes through a LinearClassifier")
    };
    let names: Vec<&str> = operators.iter().map(|operator| operator.operator.as_str()).collect();
    assert_eq!(names, ["LinearClassifier"]);
    assert!(operators[0].reason.contains("gradient"), "{}", operators[0].reason);
}

fn perceptron<B: Backend>() -> Network<B> {
    Network::new(&Model::from_bytes(PERCEPTRON).unwrap(), &B::Device::default()).unwrap()
}

fn rows(seed: usize) -> Value {
    let pixels = (0..3 * 64).map(|at| ((at * 37 + seed * 11) % 17) as f32 / 4.0 - 2.0).collect();
    Value::new(vec![3, 64], Data::F32(pixels)).unwrap()
}

/// The probabilities that the perceptron gives.
fn probabilities<B: Backend>(network: &Network<B>) -> FloatTensor<B> {
    let mut answer = network.run(given(vec![("x".to_owned(), rows(0))])).unwrap();
    let (name, Argument::Float(tensor)) = answer.remove(1) else { panic!("numbers on the backend") };
    assert_eq!(name, "probabilities");
    tensor
}

#[test]
fn parameters_are_listed_frozen_and_changed() {
    let mut network = perceptron::<Recording>();
    let names: Vec<String> = network.parameters().map(|info| info.name.clone()).collect();
    assert!(names.len() >= 4, "{names:?}");
    assert!(network.parameters().all(|info| info.trainable && !info.shape.is_empty()));
    network.freeze(&names[0]).unwrap();

    let before = network.value(probabilities(&network)).unwrap();
    let loss = network.cross_entropy_of_probabilities(probabilities(&network), &[1, 2, 3]).unwrap();
    let gradients = network.gradients(loss).unwrap();
    assert!(gradients.get(&names[0]).is_none(), "a frozen parameter has no gradient");
    assert!(gradients.get(&names[1]).is_some());
    assert_eq!(gradients.iter().count(), names.len() - 1);

    let old: Vec<Value> =
        names.iter().map(|name| network.value(network.parameter(name).unwrap().clone()).unwrap()).collect();
    network.step(&gradients, 0.5).unwrap();
    for (name, old) in names.iter().zip(&old) {
        let new = network.value(network.parameter(name).unwrap().clone()).unwrap();
        assert_eq!(new == *old, name == &names[0], "{name}");
    }
    assert_ne!(network.value(probabilities(&network)).unwrap(), before);

    for (name, old) in names.iter().zip(old) {
        let tensor = network.tensor(old).unwrap();
        network.set_parameter(name, tensor).unwrap();
    }
    assert_eq!(network.value(probabilities(&network)).unwrap(), before);

    network.unfreeze(&names[0]).unwrap();
    let loss = network.cross_entropy_of_probabilities(probabilities(&network), &[1, 2, 3]).unwrap();
    assert_eq!(network.gradients(loss).unwrap().iter().count(), names.len());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut network = perceptron::<Recording>();
    let name = network.parameters().next().unwrap().name.clone();
    assert!(matches!(network.freeze("none"), Err(ParameterError::Unknown { .. })));
    assert!(matches!(network.parameter("none"), Err(ParameterError::Unknown { .. })));
    let small = network.tensor(Value::new(vec![1, 2], Data::F32(vec![0.0; 2])).unwrap()).unwrap();
    let refused = network.set_parameter(&name, small.clone());
    assert!(matches!(refused, Err(ParameterError::WrongShape { actual, .. }) if actual == [1, 2]));
    let shape = network.parameters().next().unwrap().shape.clone();
    let wide = Value::new(shape.clone(), Data::F64(vec![0.0; shape.iter().product()])).unwrap();
    let wide = network.tensor(wide).unwrap();
    assert!(matches!(network.set_parameter(&name, wide), Err(ParameterError::WrongType { .. })));

    assert!(matches!(network.run(Vec::new()), Err(RunError::MissingInput { .. })));
    let request = vec![("z".to_owned(), Argument::Float(small.clone()))];
    assert!(matches!(network.run(request), Err(RunError::UnknownInput { .. })));
    let request = vec![("x".to_owned(), Argument::Float(small.clone()))];
    // The file leaves the width free: the first product finds that it does not fit.
    assert!(matches!(network.run(request), Err(RunError::Node { .. } | RunError::WrongShape { .. })));
    let request = given(vec![("x".to_owned(), Value::new(vec![1, 64], Data::I64(vec![0; 64])).unwrap())]);
    assert!(matches!(network.run(request), Err(RunError::WrongType { .. })));
    let twice = [rows(0), rows(1)].map(|rows| ("x".to_owned(), rows)).to_vec();
    assert!(matches!(network.run(given(twice)), Err(RunError::DuplicateInput { .. })));

    assert!(network.cross_entropy(small.clone(), &[2]).is_err(), "class 2 of two");
    assert!(network.cross_entropy(small.clone(), &[0, 0]).is_err(), "two classes for one row");
    let loss = network.value(network.cross_entropy(small, &[1]).unwrap()).unwrap();
    assert!((floats(&loss)[0] - 2f32.ln()).abs() < 1e-6, "two equal scores");

    let other = include_bytes!("../../../e2e/models/fixtures/digits-v1.onnx");
    let other = Model::from_bytes(other).unwrap();
    assert!(matches!(network.write_back(&other), Err(ParameterError::OtherModel { .. })));
}

#[test]
fn weights_in_other_files_are_written_into_the_model() {
    // The perceptron with one weight in a file beside it.
    let folder = tempfile::tempdir().unwrap();
    let network = perceptron::<Flex>();
    let info = network.parameters().next().unwrap().clone();
    let weights = floats(&network.value(network.parameter(&info.name).unwrap().clone()).unwrap());
    let raw: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes = moved_out(PERCEPTRON, &raw, "weights.bin");
    std::fs::write(folder.path().join("weights.bin"), &raw).unwrap();
    std::fs::write(folder.path().join("model.onnx"), bytes).unwrap();
    let model = Model::from_file(&folder.path().join("model.onnx")).unwrap();
    assert!(
        Model::from_bytes(&std::fs::read(folder.path().join("model.onnx")).unwrap())
            .unwrap()
            .graph()
            .is_err()
    );

    let network = Network::<Flex>::new(&model, &FlexDevice).unwrap();
    let written = network.write_back(&model).unwrap().to_bytes().unwrap();
    drop(folder);
    let answer = Graph::from_bytes(&written).unwrap().run(vec![("x".to_owned(), rows(0))]).unwrap();
    let wanted = Graph::from_bytes(PERCEPTRON).unwrap().run(vec![("x".to_owned(), rows(0))]).unwrap();
    assert_eq!(answer, wanted);
}

/// A model in which the elements of one initialiser are in another file.
fn moved_out(model: &[u8], raw: &[u8], file: &str) -> Vec<u8> {
    // All of it is rewritten field by field: lengths of messages around the initialiser change.
    fn varint(bytes: &mut Vec<u8>, mut number: usize) {
        while number >= 0x80 {
            bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
    }
    fn read(rest: &mut &[u8]) -> usize {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (&byte, after) = rest.split_first().unwrap();
            *rest = after;
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }
    /// Copies a message; `path` is the way of fields to the message whose bytes in `raw` are replaced.
    fn copy(mut rest: &[u8], path: &[usize], raw: &[u8], file: &str) -> Vec<u8> {
        let mut copied = Vec::new();
        while !rest.is_empty() {
            let key = read(&mut rest);
            let (field, kind) = (key >> 3, key & 7);
            if kind == 0 {
                varint(&mut copied, key);
                varint(&mut copied, read(&mut rest));
                continue;
            }
            assert_eq!(kind, 2, "the fixture has no other fields here");
            let length = read(&mut rest);
            let (content, after) = rest.split_at(length);
            rest = after;
            let content = match path.split_first() {
                Some((&next, path)) if next == field => copy(content, path, raw, file),
                None if field == 9 && content == raw => {
                    let mut entry = vec![0x0a, 8];
                    entry.extend(b"location");
                    entry.push(0x12);
                    varint(&mut entry, file.len());
                    entry.extend(file.as_bytes());
                    varint(&mut copied, 13 << 3 | 2);
                    varint(&mut copied, entry.len());
                    copied.extend(entry);
                    varint(&mut copied, 14 << 3);
                    varint(&mut copied, 1);
                    continue;
                }
                _ => content.to_vec(),
            };
            varint(&mut copied, key);
            varint(&mut copied, content.len());
            copied.extend(content);
        }
        copied
    }
    copy(model, &[7, 5], raw, file)
}

/// Images of digits that the model was not trained on, and what they show.
fn digits() -> (Vec<Vec<f32>>, Vec<i64>) {
    let text = include_str!("../../../e2e/models/fixtures/digits-test.json");
    let json: Json = serde_json::from_str(text).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "pixels of 0 to 16")]
    let pixels =
        |image: &Json| image.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    let images = json["images"].as_array().unwrap().iter().map(pixels).collect();
    (images, json["labels"].as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect())
}

#[test]
fn a_model_of_digits_is_tuned_and_written_back() {
    let model = include_bytes!("../../../e2e/models/fixtures/digits-v2.onnx");
    let model = Model::from_bytes(model).unwrap();
    let mut network = Network::<Recording>::new(&model, &FlexDevice).unwrap();
    let (images, labels) = digits();
    let count = 64;
    let pixels = images[..count].concat();
    let batch = Value::new(vec![count, 64], Data::F32(pixels)).unwrap();
    // Digits under a new name: the model has to learn it.
    let classes: Vec<i64> = labels[..count].iter().map(|label| (label + 1) % 10).collect();

    let mut losses = Vec::new();
    for _ in 0..30 {
        let answer = network.run(given(vec![("input".to_owned(), batch.clone())])).unwrap();
        let (_, Argument::Float(probabilities)) = answer[1].clone() else { panic!("numbers") };
        let loss = network.cross_entropy_of_probabilities(probabilities, &classes).unwrap();
        losses.push(floats(&network.value(loss.clone()).unwrap())[0]);
        let gradients = network.gradients(loss).unwrap();
        network.step(&gradients, 0.02).unwrap();
    }
    assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");

    let written = network.write_back(&model).unwrap().to_bytes().unwrap();
    let graph = Graph::from_bytes(&written).unwrap();
    let wanted = graph.run(vec![("input".to_owned(), batch.clone())]).unwrap();
    let answer = network.run(given(vec![("input".to_owned(), batch.clone())])).unwrap();
    let mut answer = answer.into_iter().map(|(_, argument)| value(&network, argument));
    assert_eq!(answer.next().unwrap(), wanted[0].1, "labels");
    assert!(close(answer.next().unwrap().data(), wanted[1].1.data(), 1e-6), "probabilities");
    let before = model.graph().unwrap().run(vec![("input".to_owned(), batch)]).unwrap();
    assert!(!close(before[1].1.data(), wanted[1].1.data(), 1e-2), "training has changed the answers");
}

#[test]
fn a_network_goes_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<Network<Flex>>();
    shared::<Network<Recording>>();
}

#[test]
fn a_gradient_goes_to_the_input() {
    let network = perceptron::<Recording>();
    let input = network.tensor(rows(2)).unwrap();
    let input = Recording::float_set_require_grad(input, true);
    let answer = network.run(vec![("x".to_owned(), Argument::Float(input.clone()))]).unwrap();
    let (_, Argument::Float(probabilities)) = answer[1].clone() else { panic!("numbers") };
    let loss = network.cross_entropy_of_probabilities(probabilities, &[0, 1, 2]).unwrap();
    let gradients = network.gradients(loss).unwrap();
    let gradient = gradients.of(&input).expect("the input requires gradients");
    let plain = perceptron::<Flex>();
    let gradient = plain.value(gradient).unwrap();
    assert_eq!(gradient.shape(), [3, 64]);
    assert!(floats(&gradient).iter().any(|&x| x != 0.0));
}
