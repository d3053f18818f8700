//! Tables of requests that are taken and of those that are refused, with the words of the refusal.

use proptest::prelude::*;
use stoker_graph::Data;

use super::*;

/// A request without raw bytes.
fn parse(json: &[u8], signature: &Signature) -> Result<InferRequest, RequestError> {
    super::parse(json, &[], signature).map(|asked| asked.request)
}

fn info(name: &str, dtype: DType, shape: &[Option<usize>]) -> ValueInfo {
    ValueInfo::tensor(name, dtype, shape.to_vec())
}

fn digits() -> Signature {
    Signature {
        inputs: vec![info("input", DType::F32, &[None, Some(2)])],
        outputs: vec![
            info("label", DType::I64, &[None]),
            info("probabilities", DType::F32, &[None, Some(10)]),
        ],
        batch_axis: true,
    }
}

fn two_inputs() -> Signature {
    let inputs = vec![info("a", DType::I64, &[None]), info("b", DType::String, &[None])];
    Signature { inputs, outputs: vec![], batch_axis: true }
}

fn value(shape: &[usize], data: Data) -> Value {
    Value::new(shape.to_vec(), data).unwrap()
}

#[test]
fn requests_are_read_in_any_form_that_the_protocol_allows() {
    let wanted = value(&[2, 2], Data::F32(vec![1.0, 2.5, -3.0, 4.0]));
    for body in [
        r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[2,2],"data":[1,2.5,-3,4]}]}"#,
        r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[2,2],"data":[[1,2.5],[-3,4]]}]}"#,
        // `data` before `datatype`.
        r#"{"inputs":[{"data":[[1,2.5],[-3,4]],"shape":[2,2],"name":"input","datatype":"FP32"}]}"#,
        // Parameters and unknown members.
        r#" {"parameters":{"a":1},"x":[{}], "inputs":[{"name":"input","parameters":{"b":true},"shape":[2,2],"datatype":"FP32","data":[1,2.5,-3,4],"y":null}],"outputs":[]} "#,
    ] {
        let request = parse(body.as_bytes(), &digits()).unwrap_or_else(|e| panic!("{body}: {e}"));
        assert_eq!(
            request,
            InferRequest {
                id: None,
                inputs: vec![wanted.clone()],
                outputs: vec![0, 1],
                ..InferRequest::default()
            },
            "{body}"
        );
    }
}

#[test]
fn id_and_outputs_are_kept_and_inputs_are_put_in_order() {
    let body = r#"{"id":"x-1","outputs":[{"name":"probabilities","parameters":{}},{"name":"label"}],
        "inputs":[{"name":"input","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;
    let request = parse(body.as_bytes(), &digits()).unwrap();
    assert_eq!((request.id.as_deref(), request.outputs), (Some("x-1"), vec![1, 0]));
    let body = r#"{"inputs":[{"name":"b","datatype":"BYTES","shape":[1],"data":["t"]},{"name":"a","datatype":"INT64","shape":[1],"data":[7]}]}"#;
    let request = parse(body.as_bytes(), &two_inputs()).unwrap();
    assert_eq!(
        request.inputs,
        [value(&[1], Data::I64(vec![7])), value(&[1], Data::String(vec!["t".to_owned()]))]
    );
}

#[test]
fn refusals_say_what_came_and_what_was_expected() {
    let tensor = |rest: &str| format!(r#"{{"inputs":[{{"name":"input",{rest}}}]}}"#);
    let cases = [
        (String::new(), "the body is empty"),
        ("nope".to_owned(), "expected ident at line 1 column 2"),
        ("[]".to_owned(), "expected an object with `inputs`"),
        ("{}".to_owned(), "missing field `inputs`"),
        (r#"{"inputs":[]}"#.to_owned(), "input `input` (FP32 [-1, 2]) is missing"),
        (r#"{"inputs":[]} x"#.to_owned(), "trailing characters"),
        (r#"{"inputs":{}}"#.to_owned(), "expected an array of tensors"),
        (tensor(r#""shape":[1,2],"data":[1,2]"#), "missing field `datatype`"),
        (tensor(r#""datatype":"FP32","shape":[1,2]"#), "missing field `data`"),
        (tensor(r#""datatype":"FP32","data":[1,2]"#), "missing field `shape`"),
        (
            tensor(r#""datatype":"INT64","shape":[1,2],"data":[1,2]"#),
            "input `input` must have the datatype FP32, but has INT64",
        ),
        (
            tensor(r#""datatype":"FP16","shape":[1,2],"data":[1,2]"#),
            "must have the datatype FP32, but has FP16",
        ),
        (
            tensor(r#""datatype":"FP32","shape":[1,3],"data":[1,2,3]"#),
            "input `input` must have the shape [-1, 2], but has [1, 3]",
        ),
        (tensor(r#""datatype":"FP32","shape":[2],"data":[1,2]"#), "must have the shape [-1, 2], but has [2]"),
        (tensor(r#""datatype":"FP32","shape":[-1,2],"data":[1,2]"#), "invalid value: integer `-1`"),
        (
            tensor(r#""datatype":"FP32","shape":[2,2],"data":[1,2,3]"#),
            "input `input` has the shape [2, 2], which takes 4 elements, but `data` has 3",
        ),
        (
            tensor(r#""datatype":"FP32","shape":[18446744073709551615,2],"data":[1]"#),
            "takes too many elements",
        ),
        (tensor(r#""datatype":"FP32","shape":[1,2],"data":[[1],[2]]"#), "but `data` has the nesting [2, 1]"),
        (tensor(r#""datatype":"FP32","shape":[2,2],"data":[[1,2],[3]]"#), "ragged"),
        (tensor(r#""datatype":"FP32","shape":[1,2],"data":["a",2]"#), "FP32"),
        (
            tensor(r#""data":["a",2],"datatype":"FP32","shape":[1,2]"#),
            "input `input`: invalid value: a string, expected FP32",
        ),
        (tensor(r#""datatype":"FP32","shape":[1,2],"data":[NaN,2]"#), "JSON has no NaN"),
        (tensor(r#""data":[NaN,2],"datatype":"FP32","shape":[1,2]"#), "JSON has no NaN"),
        (tensor("\n\n\"datatype\":\"FP32\",\"shape\":[1,2],\n\"data\":[1,-Infinity]"), "JSON has no NaN"),
        (tensor(r#""datatype":"FP32","shape":[1,2],"data":[null,2]"#), "JSON has no NaN"),
        (
            tensor(r#""datatype":"FP32","shape":[1,2],"data":[1,2]"#).replace("\"input\"", "\"x\""),
            "the model has no input `x`; its inputs are `input`",
        ),
        (r#"{"inputs":[{"name":"a","datatype":"INT64","shape":[1],"data":[1]"#.to_owned(), "EOF"),
    ];
    for (body, part) in cases {
        let message = parse(body.as_bytes(), &digits()).expect_err(&body).to_string();
        assert!(message.contains(part), "{body}\n  gave: {message}\n  want: {part}");
    }
}

#[test]
fn wrong_parameters_are_named_with_their_place() {
    let input = r#""name":"input","datatype":"FP32","shape":[1,2]"#;
    let cases = [
        (
            format!(
                r#"{{"parameters":{{"priority":-1,"timeout":"x"}},"inputs":[{{{input},"data":[1,2]}}]}}"#
            ),
            "the parameter `priority` must be an integer from 0 to 4294967295, but is -1",
        ),
        (
            format!(r#"{{"inputs":[{{{input},"parameters":{{"binary_data_size":"8"}}}}]}}"#),
            "input `input`: the parameter `binary_data_size` must be an integer from 0 to 18446744073709551615, \
             but is a string",
        ),
        (
            format!(
                r#"{{"inputs":[{{{input},"data":[1,2]}}],"outputs":[{{"name":"label","parameters":{{"binary_data":1}}}}]}}"#
            ),
            "output `label`: the parameter `binary_data` must be true or false, but is 1",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(parse(body.as_bytes(), &digits()).expect_err(&body).to_string(), message);
    }
}

#[test]
fn inputs_and_outputs_come_once() {
    let input = r#"{"name":"input","datatype":"FP32","shape":[1,2],"data":[1,2]}"#;
    let cases = [
        (format!(r#"{{"inputs":[{input},{input}]}}"#), "`input` is given more than once"),
        (
            format!(r#"{{"inputs":[{input}],"outputs":[{{"name":"label"}},{{"name":"label"}}]}}"#),
            "asked for twice",
        ),
        (
            format!(r#"{{"inputs":[{input}],"outputs":[{{"name":"y"}}]}}"#),
            "`outputs` asks for `y`, which is not one of them; the model's outputs are `label`, `probabilities`",
        ),
    ];
    for (body, part) in cases {
        let message = parse(body.as_bytes(), &digits()).expect_err(&body).to_string();
        assert!(message.contains(part), "{body}: {message}");
    }
}

#[test]
fn messages_do_not_repeat_long_names() {
    let name = "é".repeat(10_000);
    let body = format!(r#"{{"inputs":[{{"name":"{name}","datatype":"FP32","shape":[1,2],"data":[1,2]}}]}}"#);
    assert!(parse(body.as_bytes(), &digits()).unwrap_err().to_string().len() < 300);
}

#[test]
fn messages_do_not_repeat_long_texts() {
    // Written as an escape of 6 letters each.
    let text = "\u{7f}".repeat(1 << 20);
    for body in [
        format!(r#"{{"inputs":"{text}"}}"#),
        format!("\"{text}\""),
        format!(r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":"{text}","data":[1,2]}}]}}"#),
    ] {
        let message = parse(body.as_bytes(), &digits()).unwrap_err().to_string();
        assert!(message.len() < 400, "{} bytes", message.len());
        assert!(message.contains("invalid type: string") && message.contains("... at line 1 column "));
    }
    // Cut between letters.
    let message = parse(format!(r#"{{"inputs":"{}"}}"#, "é".repeat(1000)).as_bytes(), &digits());
    assert!(message.unwrap_err().to_string().contains("é... at line 1 column "));
}

#[test]
fn messages_do_not_list_many_names() {
    let known = |count| -> Vec<_> { (0..count).map(|n| info(&format!("i{n}"), DType::F32, &[])).collect() };
    assert_eq!(names(&known(2)), "`i0`, `i1`");
    assert!(names(&known(NAMES_IN_MESSAGES)).ends_with("`i11`"));
    assert!(names(&known(1000)).ends_with("`i11` and 988 more"));
}

/// Requests of many forms, from which the next test makes others.
const FORMS: [&str; 8] = [
    r#"{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -13.0]}]}"#,
    r#"{"id":"7","inputs":[{"name":"input","datatype":"FP32","shape":[2,2],"data":[[1,2.5],[-3e2,4]]}],"outputs":[{"name":"label"}]}"#,
    r#"{"parameters":{"priority":1,"timeout":9},"x":[{"y":"]}"}],"inputs":[{"name":"input","parameters":{"b":true},"shape":[1,2],"datatype":"FP32","data":[1,2],"y":null}]}"#,
    r#"{"inputs":[{"data":[1,2],"shape":[1,2],"name":"input","datatype":"FP32"}],"id":null,"outputs":null}"#,
    r#"{"inputs":[{"name":"a","shape":[3],"datatype":"INT64","data":[1,-9223372036854775808,0]},{"name":"b","shape":[1],"datatype":"BYTES","data":["\u0061"]}]}"#,
    r#"{"inputs":[{"name":"a","shape":[0],"datatype":"INT64","data":[]},{"name":"a","shape":[1],"datatype":"INT64","data":[7]}]}"#,
    r#"{"inputs":[{"name":"input","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#,
    r#"{"inputs":[],"inputs":[{"name":"input","shape":[1,2],"datatype":"FP32","data":[1,2],"data":[3,4]}]}"#,
];

/// What both parsers make of a body; `None` where the plain one leaves it to the other.
fn both(json: &[u8], signature: &Signature) -> Option<[String; 2]> {
    let plain = plain::read(json)?;
    let general = body::read(json).map_err(|error| malformed(json, &error));
    let general = general.and_then(|raw| asked(raw, &[], signature));
    Some([format!("{:?}", asked(plain, &[], signature)), format!("{general:?}")])
}

#[test]
fn the_plain_form_is_read_by_the_plain_parser() {
    let is_plain = FORMS.map(|form| both(form.as_bytes(), &digits()).is_some());
    assert_eq!(is_plain, [true, true, true, false, false, true, false, true]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn both_parsers_read_the_same_of_a_request(
        form in prop::sample::select(&FORMS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, prop::sample::select(&b"[]{}:,\"\\ \n-+.eE019azF\xff\0"[..])), 0..4),
    ) {
        let mut json = form.as_bytes().to_vec();
        for (place, how, byte) in changes {
            let place = place.index(json.len());
            match how {
                0 => json[place] = byte,
                1 => json.insert(place, byte),
                _ => drop(json.remove(place)),
            }
        }
        for signature in [digits(), two_inputs()] {
            if let Some([plain, general]) = both(&json, &signature) {
                prop_assert_eq!(plain, general, "{}", String::from_utf8_lossy(&json));
            }
        }
    }
}
