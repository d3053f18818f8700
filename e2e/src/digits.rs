//! The handwritten digits of scikit-learn: test images with their true labels, and the four models of the demo.
//!
//! All of it is made by `e2e/models/make_models.py` and compiled in, so a test needs no files beside it.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

/// Pixels of an image.
pub const PIXELS: usize = 64;

/// A good model: logistic regression.
pub const V1: &[u8] = include_bytes!("../models/fixtures/digits-v1.onnx");
/// A better one: a multi-layer perceptron.
pub const V2: &[u8] = include_bytes!("../models/fixtures/digits-v2.onnx");
/// A harmful one: its graph fails on about 30 % of the images.
pub const V3: &[u8] = include_bytes!("../models/fixtures/digits-v3.onnx");
/// A slow one.
pub const V4: &[u8] = include_bytes!("../models/fixtures/digits-v4.onnx");

/// Images that no model was trained on, each ready to be sent.
#[derive(Debug)]
pub struct Digits {
    requests: Vec<(Bytes, u8)>,
    /// Those with the least ink, for which [`V3`] does not fail.
    bright: Vec<usize>,
}

/// Percent of the images that counts as bright. V3 fails on the darkest 30 %.
const BRIGHT: usize = 60;

#[derive(Deserialize)]
struct File {
    labels: Vec<u8>,
    images: Vec<Vec<f32>>,
}

impl Digits {
    /// Reads the images that are compiled in.
    pub fn load() -> Result<Self> {
        let text = include_str!("../models/fixtures/digits-test.json");
        let file: File = serde_json::from_str(text).context("e2e/models/fixtures/digits-test.json")?;
        ensure!(
            !file.images.is_empty() && file.images.len() == file.labels.len(),
            "as many labels as images"
        );
        let requests = file.images.iter().zip(file.labels).map(|(image, label)| (infer_body(image), label));
        let mut bright: Vec<usize> = (0..file.images.len()).collect();
        let ink = |index: &usize| file.images[*index].iter().sum::<f32>();
        bright.sort_by(|one, other| ink(one).total_cmp(&ink(other)));
        bright.truncate(bright.len() * BRIGHT / 100);
        Ok(Self { requests: requests.collect(), bright })
    }

    /// As [`Digits::request`], of bright images alone.
    pub fn bright_request(&self, index: usize) -> (Bytes, u8) {
        self.request(self.bright[index % self.bright.len()])
    }

    /// The body of an infer request and the label that the image has in truth, for the `index`-th request of an endless row.
    pub fn request(&self, index: usize) -> (Bytes, u8) {
        self.requests[index % self.requests.len()].clone()
    }
}

/// The Open Inference Protocol's form of one image.
fn infer_body(image: &[f32]) -> Bytes {
    let input = json!({"name": "input", "datatype": "FP32", "shape": [1, image.len()], "data": image});
    Bytes::from(json!({ "inputs": [input] }).to_string())
}

/// The label that a model answered, from an infer response of one image.
pub fn predicted(answer: &[u8]) -> Option<u8> {
    #[derive(Deserialize)]
    struct Answer {
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        name: String,
        data: Vec<f64>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let label = answer.outputs.iter().find(|output| output.name == "label")?.data.first().copied()?;
    (0..10).find(|digit| (f64::from(*digit) - label).abs() < 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_label_and_64_pixels() {
        let digits = Digits::load().unwrap();
        assert!(digits.requests.len() > 100);
        for (body, label) in &digits.requests {
            assert!(*label < 10);
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(body["inputs"][0]["data"].as_array().unwrap().len(), PIXELS);
        }
    }

    #[test]
    fn the_label_is_found_among_the_outputs() {
        let probabilities =
            json!({"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.5]});
        let label = json!({"name": "label", "datatype": "INT64", "shape": [1], "data": [7]});
        let answer = json!({"model_name": "digits", "outputs": [probabilities, label]}).to_string();
        assert_eq!(predicted(answer.as_bytes()), Some(7));
        for bad in ["", "{}", r#"{"outputs":[]}"#, r#"{"outputs":[{"name":"label","data":[11]}]}"#] {
            assert_eq!(predicted(bad.as_bytes()), None, "{bad}");
        }
    }
}
