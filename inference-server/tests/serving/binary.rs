//! Tensors as raw bytes, in and out: every type, beside JSON, and with lengths that lie.

use half::{bf16, f16};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::started::{Started, digits, labels, request};

/// The header of the extension.
pub const LENGTH: &str = "Inference-Header-Content-Length";

/// A model that gives back what it gets, with an input of two columns for each type.
pub fn identity() -> String {
    concat!("file://", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/identity.onnx").to_owned()
}

/// A tensor in both forms. JSON has none for half precision.
pub struct Tensor {
    pub name: &'static str,
    pub datatype: &'static str,
    json: Option<Value>,
    pub raw: Vec<u8>,
}

/// Two rows for each input of [`identity`], with the ends of each type's range.
pub fn all_types() -> Vec<Tensor> {
    macro_rules! numbers {
        ($name:literal, $datatype:literal, $type:ty, $items:expr) => {{
            let items: [$type; 4] = $items;
            let raw = items.iter().flat_map(|item| item.to_le_bytes()).collect();
            Tensor { name: $name, datatype: $datatype, json: Some(json!(items)), raw }
        }};
    }
    let half = |name, datatype, raw: [[u8; 2]; 4]| Tensor { name, datatype, json: None, raw: raw.concat() };
    let texts = ["", "ä\n", "\"x\"", "text"];
    let raw = texts.iter().flat_map(|text| {
        let length = u32::try_from(text.len()).unwrap();
        [&length.to_le_bytes(), text.as_bytes()].concat()
    });
    vec![
        Tensor {
            name: "bool",
            datatype: "BOOL",
            json: Some(json!([true, false, false, true])),
            raw: vec![1, 0, 0, 1],
        },
        numbers!("uint8", "UINT8", u8, [0, 1, 254, u8::MAX]),
        numbers!("uint16", "UINT16", u16, [0, 1, 258, u16::MAX]),
        numbers!("uint32", "UINT32", u32, [0, 1, 258, u32::MAX]),
        numbers!("uint64", "UINT64", u64, [0, 1, 258, u64::MAX]),
        numbers!("int8", "INT8", i8, [i8::MIN, -1, 2, i8::MAX]),
        numbers!("int16", "INT16", i16, [i16::MIN, -1, 258, i16::MAX]),
        numbers!("int32", "INT32", i32, [i32::MIN, -1, 258, i32::MAX]),
        numbers!("int64", "INT64", i64, [i64::MIN, -1, 258, i64::MAX]),
        half("float16", "FP16", [1.0, -0.5, 65504.0, 6e-8].map(|item| f16::from_f32(item).to_le_bytes())),
        half("bfloat16", "BF16", [1.0, -0.5, 3e38, 1e-38].map(|item| bf16::from_f32(item).to_le_bytes())),
        numbers!("float", "FP32", f32, [0.1, -3.5, f32::MAX, f32::MIN_POSITIVE]),
        numbers!("double", "FP64", f64, [0.1, -3.5, f64::MAX, f64::MIN_POSITIVE]),
        Tensor { name: "string", datatype: "BYTES", json: Some(json!(texts)), raw: raw.collect() },
    ]
}

/// A request: JSON with `more` members, then the bytes of those tensors that are `raw`. With the length of its JSON.
fn body(tensors: &[Tensor], raw: impl Fn(&Tensor) -> bool, mut more: Value) -> (Vec<u8>, usize) {
    let mut tail = Vec::new();
    let inputs = tensors.iter().map(|tensor| {
        let mut input = json!({"name": tensor.name, "datatype": tensor.datatype, "shape": [2, 2]});
        if raw(tensor) {
            input["parameters"] = json!({"binary_data_size": tensor.raw.len()});
            tail.extend_from_slice(&tensor.raw);
        } else {
            input["data"] = tensor.json.clone().unwrap();
        }
        input
    });
    more["inputs"] = inputs.collect();
    let json = more.to_string();
    let length = json.len();
    ([json.into_bytes(), tail].concat(), length)
}

/// An answer: its status, its JSON, and the bytes behind it.
struct Answer {
    status: StatusCode,
    json: Value,
    tail: Vec<u8>,
}

impl Answer {
    /// The raw bytes of an output.
    fn raw(&self, name: &str) -> Option<&[u8]> {
        let mut at = 0;
        for output in self.json["outputs"].as_array().unwrap() {
            let Some(size) = output["parameters"]["binary_data_size"].as_u64() else { continue };
            let size = usize::try_from(size).unwrap();
            if output["name"] == name {
                return Some(&self.tail[at..at + size]);
            }
            at += size;
        }
        None
    }

    /// The output of a name.
    fn output(&self, name: &str) -> &Value {
        self.json["outputs"].as_array().unwrap().iter().find(|output| output["name"] == name).unwrap()
    }

    /// The message of a refusal.
    fn message(&self) -> &str {
        self.json["error"].as_str().unwrap_or_else(|| panic!("{}", self.json))
    }
}

/// Asks with a header that says `length`.
async fn ask(server: &Started, body: Vec<u8>, length: impl ToString) -> Answer {
    let request =
        server.client.post(server.url("/v2/models/digits/infer")).header(LENGTH, length.to_string());
    let answer = request.body(body).send().await.unwrap();
    let status = answer.status();
    let length =
        answer.headers().get(LENGTH).map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, if length.is_some() { "application/octet-stream" } else { "application/json" });
    let bytes = answer.bytes().await.unwrap();
    let (json, tail) = bytes.split_at(length.unwrap_or(bytes.len()));
    let json: Value = serde_json::from_slice(json).unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
    Answer { status, json, tail: tail.to_vec() }
}

#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let server = Started::ready(&identity(), &[]).await;
    let tensors = all_types();
    let (bytes, length) =
        body(&tensors, |_| true, json!({"id": "b-1", "parameters": {"binary_data_output": true}}));
    let answer = ask(&server, bytes, length).await;
    assert_eq!((answer.status, &answer.json["id"]), (StatusCode::OK, &json!("b-1")), "{}", answer.json);
    for tensor in &tensors {
        let name = format!("same_{}", tensor.name);
        assert_eq!(answer.raw(&name), Some(&tensor.raw[..]), "{name}");
        let output = answer.output(&name);
        assert_eq!((&output["datatype"], &output["shape"]), (&json!(tensor.datatype), &json!([2, 2])));
        assert!(output.get("data").is_none(), "{name}");
    }
    assert_eq!(answer.tail.len(), tensors.iter().map(|tensor| tensor.raw.len()).sum::<usize>());
    server.end().await;
}

#[tokio::test]
async fn json_and_raw_bytes_stand_side_by_side_and_mean_the_same() {
    let server = Started::ready(&identity(), &[]).await;
    let tensors = all_types();
    // One request with as much JSON as there can be, and one with its JSON and raw bytes swapped.
    let outputs = |json: &dyn Fn(usize, &Tensor) -> bool| -> Value {
        let output = |(number, tensor): (usize, &Tensor)| json!({"name": format!("same_{}", tensor.name), "parameters": {"binary_data": !json(number, tensor)}});
        json!({"outputs": tensors.iter().enumerate().map(output).collect::<Vec<_>>()})
    };
    let every_other = |number: usize, tensor: &Tensor| number.is_multiple_of(2) && tensor.json.is_some();
    let (bytes, length) =
        body(&tensors, |tensor| tensor.json.is_none(), outputs(&|_, tensor| tensor.json.is_some()));
    let most_json = ask(&server, bytes, length).await;
    let number = |tensor: &Tensor| tensors.iter().position(|other| other.name == tensor.name).unwrap();
    let (bytes, length) =
        body(&tensors, |tensor| !every_other(number(tensor), tensor), outputs(&every_other));
    let mixed = ask(&server, bytes, length).await;
    for (position, tensor) in tensors.iter().enumerate() {
        let name = format!("same_{}", tensor.name);
        for (answer, as_json) in
            [(&most_json, tensor.json.is_some()), (&mixed, every_other(position, tensor))]
        {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
            let data = answer.output(&name).get("data");
            if as_json {
                // The text of a number must read back as the same number of its type, so both are compared as that.
                let (data, wanted) = (data.unwrap(), tensor.json.as_ref().unwrap());
                let narrow = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
                if tensor.datatype == "FP32" {
                    assert_eq!(narrow(data), narrow(wanted));
                } else {
                    assert_eq!(data, wanted, "{name}");
                }
                assert_eq!(answer.raw(&name), None);
            } else {
                assert_eq!((data, answer.raw(&name)), (None, Some(&tensor.raw[..])), "{name}");
            }
        }
    }
    server.end().await;
}

/// Images as raw FP32.
fn raw_images(images: &[Vec<f64>]) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "what the server does with JSON too")]
    images.iter().flatten().flat_map(|pixel| (*pixel as f32).to_le_bytes()).collect()
}

/// A request for images as raw bytes, all outputs as raw bytes.
pub fn raw_request(images: &[Vec<f64>]) -> (Vec<u8>, usize) {
    let raw = raw_images(images);
    let json = json!({"parameters": {"binary_data_output": true}, "inputs": [{"name": "input", "datatype": "FP32",
        "shape": [images.len(), 64], "parameters": {"binary_data_size": raw.len()}}]});
    let json = json.to_string();
    let length = json.len();
    ([json.into_bytes(), raw].concat(), length)
}

#[tokio::test]
async fn the_answers_are_those_over_json() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    // Then as many that both are read and written on threads of their own.
    let many: Vec<_> = std::iter::repeat_n(&digits.images, 40).flatten().cloned().collect();
    for images in [&digits.images[..3], &many] {
        let (status, json) = server.infer(request(images).to_string()).await;
        assert_eq!(status, StatusCode::OK);
        let (bytes, length) = raw_request(images);
        let answer = ask(&server, bytes, length).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
        let raw_labels =
            answer.raw("label").unwrap().as_chunks::<8>().0.iter().map(|label| i64::from_le_bytes(*label));
        assert_eq!(labels(&json), raw_labels.collect::<Vec<_>>());
        let scores: Vec<f32> = serde_json::from_value(json["outputs"][1]["data"].clone()).unwrap();
        let name = json["outputs"][1]["name"].as_str().unwrap();
        let raw_scores =
            answer.raw(name).unwrap().as_chunks::<4>().0.iter().map(|score| f32::from_le_bytes(*score));
        assert_eq!(scores, raw_scores.collect::<Vec<_>>());
    }
    server.end().await;
}

#[tokio::test]
async fn what_json_has_no_number_for_is_carried_as_raw_bytes() {
    let server = Started::ready(&identity(), &[]).await;
    let mut tensors = all_types();
    for (name, raw) in [
        ("float", [f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY].map(f32::to_le_bytes).concat()),
        ("double", [f64::NAN, f64::INFINITY, -0.0, f64::NEG_INFINITY].map(f64::to_le_bytes).concat()),
        ("float16", [f16::NAN, f16::INFINITY, f16::NEG_ZERO, f16::MIN].map(f16::to_le_bytes).concat()),
    ] {
        tensors.iter_mut().find(|tensor| tensor.name == name).unwrap().raw = raw;
    }
    let (bytes, length) = body(&tensors, |_| true, json!({"parameters": {"binary_data_output": true}}));
    let answer = ask(&server, bytes, length).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
    for name in ["float", "double", "float16"] {
        let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(answer.raw(&format!("same_{name}")), Some(&tensor.raw[..]), "{name}");
    }
    let (bytes, length) = body(&tensors, |_| true, json!({"outputs": [{"name": "same_float"}]}));
    let answer = ask(&server, bytes, length).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.message().contains("output `same_float` has NaN at element 0"), "{}", answer.message());
    server.end().await;
}

#[tokio::test]
async fn lengths_that_do_not_fit_are_refused_and_harm_nothing() {
    let server = Started::ready(&identity(), &[]).await;
    let tensors = all_types();
    let binary = json!({"parameters": {"binary_data_output": true}});
    let (good, length) = body(&tensors, |_| true, binary.clone());
    let tail = good.len() - length;
    let json = String::from_utf8(good[..length].to_vec()).unwrap();
    let lying = |from: &str, to: &str| {
        assert!(json.contains(from), "{from} is not in {json}");
        let json = json.replacen(from, to, 1);
        ([json.as_bytes(), &good[length..]].concat(), json.len())
    };
    let (large, large_length) = lying(r#""binary_data_size":4}"#, r#""binary_data_size":9007199254740993}"#);
    let (small, small_length) = lying(r#""binary_data_size":4}"#, r#""binary_data_size":3}"#);
    let cases = [
        (good.clone(), "0".to_owned(), "is 0: a body without JSON".to_owned()),
        (good.clone(), "1e3".to_owned(), "must be the length of the JSON".to_owned()),
        (good.clone(), (good.len() + 1).to_string(), format!("but the body has {}", good.len())),
        (good.clone(), (length - 1).to_string(), "is not an infer request".to_owned()),
        (good.clone(), (length + 1).to_string(), "is not an infer request".to_owned()),
        (good[..good.len() - 1].to_vec(), length.to_string(), "bytes are left behind the JSON".to_owned()),
        (good[..length].to_vec(), length.to_string(), "but 0 bytes are left behind the JSON".to_owned()),
        ([&good[..], b"x"].concat(), length.to_string(), format!("{} bytes follow the JSON", tail + 1)),
        (large, large_length.to_string(), format!("9007199254740993, but {tail} bytes are left")),
        (small, small_length.to_string(), "has 3 raw bytes, but BOOL of the shape [2, 2] takes 4".to_owned()),
    ];
    for (body, length, part) in cases {
        let answer = ask(&server, body, &length).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{length}: {}", answer.json);
        assert!(answer.message().contains(&part), "{length} gave: {}\n  want: {part}", answer.message());
    }
    let two = server.client.post(server.url("/v2/models/digits/infer")).header(LENGTH, length);
    let two = two.header(LENGTH, length).body(good.clone()).send().await.unwrap();
    assert_eq!(two.status(), StatusCode::BAD_REQUEST);
    assert!(two.text().await.unwrap().contains("is there more than once"));
    // Without the header all of it is JSON, and is refused as such.
    assert!(server.refused(StatusCode::BAD_REQUEST, good.clone()).await.contains("not an infer request"));
    assert_eq!(ask(&server, good, length).await.status, StatusCode::OK);
    server.end().await;
}

#[tokio::test]
async fn half_precision_is_refused_as_json_with_what_to_do() {
    let server = Started::ready(&identity(), &[]).await;
    let tensors = all_types();
    let wanted = |name: &str| json!({"outputs": [{"name": name}]});
    let (bytes, length) = body(&tensors, |tensor| tensor.json.is_none(), wanted("same_bfloat16"));
    let answer = ask(&server, bytes, length).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    for part in ["output `same_bfloat16` is BF16", "`binary_data`", "`binary_data_output`"] {
        assert!(answer.message().contains(part), "{}", answer.message());
    }
    let mut as_json = all_types();
    for tensor in as_json.iter_mut().filter(|tensor| tensor.json.is_none()) {
        tensor.json = Some(json!([1, 2, 3, 4]));
    }
    let (bytes, _) = body(&as_json, |_| false, wanted("same_int8"));
    let message = server.refused(StatusCode::BAD_REQUEST, bytes).await;
    assert!(message.contains("input `float16`: FP16 has no form in JSON: send its raw bytes"), "{message}");
    server.end().await;
}
