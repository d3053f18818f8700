//! Goes on with the training of a model of digits, and writes what it has become.
//!
//! `cargo run --release -p stoker-graph --example fine_tune -- MODEL DIGITS FOLDER`
//!
//! The model takes `input` FP32 [batch, 64] and gives `label` and `probabilities`; DIGITS holds images and
//! their labels, as `e2e/models/fixtures/digits-test.json` does. The first half of them is learned, and the
//! second half tells how well. FOLDER gets `tuned.onnx`, and `answers.json` with what the network gives for
//! all images.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::path::Path;

use burn::backend::Flex;
use burn_autodiff::Autodiff;
use serde_json::{Value as Json, json};
use stoker_graph::{AnyValue, Argument, Data, Model, Network, Value};

type Backend = Autodiff<Flex>;

const EPOCHS: usize = 20;
const BATCH: usize = 25;
const LEARNING_RATE: f64 = 0.01;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, digits, folder] = &arguments[..] else {
        return Err("three arguments are needed: MODEL DIGITS FOLDER".into());
    };
    let model = Model::from_file(model.as_ref())?;
    let digits = Digits::read(digits.as_ref())?;
    let (learned, held_back) = digits.halves();

    let mut network = Network::<Backend>::new(&model, &burn::backend::FlexDevice)?;
    for parameter in network.parameters() {
        println!("{} {:?} trainable: {}", parameter.name, parameter.shape, parameter.trainable);
    }
    println!("before: {} right", share(&network, held_back)?);
    for epoch in 0..EPOCHS {
        let mut total = 0.0;
        for (images, labels) in learned.0.chunks(BATCH).zip(learned.1.chunks(BATCH)) {
            let (_, probabilities) = answer(&network, images)?;
            let loss = network.cross_entropy_of_probabilities(probabilities, labels)?;
            total += floats(network.value(loss.clone())?)?.iter().sum::<f32>();
            let gradients = network.gradients(loss)?;
            network.step(&gradients, LEARNING_RATE)?;
        }
        println!("epoch {epoch}: loss {:.6}", total / learned.0.chunks(BATCH).count() as f32);
    }
    println!("after: {} right", share(&network, held_back)?);

    let folder: &Path = folder.as_ref();
    std::fs::write(folder.join("tuned.onnx"), network.write_back(&model)?.to_bytes()?)?;
    let (labels, probabilities) = answer(&network, &digits.images)?;
    let probabilities = floats(network.value(probabilities)?)?;
    let rows: Vec<&[f32]> = probabilities.chunks(10).collect();
    let answers = json!({ "label": labels, "probabilities": rows });
    std::fs::write(folder.join("answers.json"), answers.to_string())?;
    Ok(())
}

type Examples<'a> = (&'a [Vec<f32>], &'a [i64]);

struct Digits {
    images: Vec<Vec<f32>>,
    labels: Vec<i64>,
}

impl Digits {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let json: Json = serde_json::from_slice(&std::fs::read(path)?)?;
        let images = serde_json::from_value(json["images"].clone())?;
        Ok(Self { images, labels: serde_json::from_value(json["labels"].clone())? })
    }

    fn halves(&self) -> (Examples<'_>, Examples<'_>) {
        let half = self.labels.len() / 2;
        let ((a, b), (c, d)) = (self.images.split_at(half), self.labels.split_at(half));
        ((a, c), (b, d))
    }
}

/// What the network takes the images for, and its probabilities, on the backend.
fn answer(
    network: &Network<Backend>,
    images: &[Vec<f32>],
) -> Result<(Vec<i64>, burn::backend::tensor::FloatTensor<Backend>), Box<dyn Error>> {
    let input = Value::new(vec![images.len(), 64], Data::F32(images.concat()))?;
    let mut labels = None;
    let mut probabilities = None;
    for (name, argument) in network.run(vec![("input".to_owned(), input.into())])? {
        match (name.as_str(), argument) {
            ("probabilities", Argument::Float(tensor)) => probabilities = Some(tensor),
            ("label", Argument::Value(AnyValue::Tensor(value))) => {
                let (_, Data::I64(all)) = value.into_parts() else { return Err("labels are INT64".into()) };
                labels = Some(all);
            }
            _ => {}
        }
    }
    Ok((labels.ok_or("no labels")?, probabilities.ok_or("no probabilities")?))
}

fn floats(value: Value) -> Result<Vec<f32>, Box<dyn Error>> {
    match value.into_parts().1 {
        Data::F32(all) => Ok(all),
        other => Err(format!("{} instead of FP32", other.dtype()).into()),
    }
}

/// How many of the examples are named rightly.
fn share(network: &Network<Backend>, (images, labels): Examples<'_>) -> Result<String, Box<dyn Error>> {
    let (named, _) = answer(network, images)?;
    let right = named.iter().zip(labels).filter(|(named, label)| named == label).count();
    Ok(format!("{right} of {}", labels.len()))
}
