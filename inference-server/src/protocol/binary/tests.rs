//! Tables of bodies with raw bytes that are taken and of those that are refused; and what chance makes of them.

use half::f16;
use proptest::prelude::*;
use stoker_graph::{DType, Data, Value, ValueInfo};

use super::*;
use crate::protocol::request::{Asked, parse};
use crate::protocol::{InferRequest, Signature};

fn signature() -> Signature {
    let info = |name: &str, dtype| ValueInfo::tensor(name, dtype, vec![None, Some(2)]);
    Signature {
        inputs: vec![info("half", DType::F16), info("count", DType::I32), info("text", DType::String)],
        outputs: vec![info("same", DType::F16), info("sum", DType::F32)],
        batch_axis: true,
    }
}

/// Reads a body as the server does.
fn read(body: &[u8], header: Option<&str>) -> Result<Asked, RequestError> {
    let (json, tail) = divide(body, header.map(str::as_bytes))?;
    parse(json, tail, &signature())
}

/// JSON and bytes as one body, with the header that fits.
fn joined(json: &str, tail: &[u8]) -> (Vec<u8>, String) {
    ([json.as_bytes(), tail].concat(), json.len().to_string())
}

const HALF: &str = r#"{"name":"half","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}}"#;
const TEXT: &str = r#"{"name":"text","datatype":"BYTES","shape":[1,2],"parameters":{"binary_data_size":10}}"#;
const COUNT: &str = r#"{"name":"count","datatype":"INT32","shape":[1,2],"data":[3,-4]}"#;
/// The bytes of HALF, then those of TEXT.
const TAIL: &[u8] = &[0x00, 0x3c, 0x00, 0xc0, 1, 0, 0, 0, b'a', 1, 0, 0, 0, b'b'];

#[test]
fn inputs_own_the_bytes_behind_the_json_in_their_order() {
    let json = format!(
        r#"{{"id":"1","parameters":{{"binary_data_output":true,"priority":2}},"inputs":[{HALF},{COUNT},{TEXT}]}}"#
    );
    let (body, header) = joined(&json, TAIL);
    let asked = read(&body, Some(&header)).unwrap();
    let value = |data| Value::new(vec![1, 2], data).unwrap();
    let inputs = vec![
        value(Data::F16(vec![f16::from_f32(1.0), f16::from_f32(-2.0)])),
        value(Data::I32(vec![3, -4])),
        value(Data::String(vec!["a".to_owned(), "b".to_owned()])),
    ];
    let request = InferRequest {
        id: Some("1".to_owned()),
        inputs,
        outputs: vec![0, 1],
        priority: 2,
        ..InferRequest::default()
    };
    assert_eq!(asked, Asked { request, binary: vec![true, true] });

    // The order of the inputs in the request, not the model's, is that of the bytes.
    let json = format!(r#"{{"inputs":[{TEXT},{COUNT},{HALF}],"outputs":[{{"name":"sum"}}]}}"#);
    let (body, header) = joined(&json, &[&TAIL[4..], &TAIL[..4]].concat());
    let swapped = read(&body, Some(&header)).unwrap();
    assert_eq!(swapped.request.inputs, asked.request.inputs);
    assert_eq!((swapped.request.outputs, swapped.binary), (vec![1], vec![false, false]));
}

#[test]
fn an_output_s_own_form_wins_over_that_of_the_request() {
    let asked = |rest: &str| {
        let (body, header) = joined(&format!(r#"{{"inputs":[{HALF},{COUNT},{TEXT}],{rest}}}"#), TAIL);
        read(&body, Some(&header)).map(|asked| asked.binary)
    };
    let same = r#"{"name":"same","parameters":{"binary_data":true}}"#;
    assert_eq!(asked(&format!(r#""outputs":[{same},{{"name":"sum"}}]"#)), Ok(vec![true, false]));
    let json = r#""outputs":[{"name":"same"},{"name":"sum","parameters":{"binary_data":false}}],
        "parameters":{"binary_data_output":true}"#;
    assert_eq!(asked(json), Ok(vec![true, false]));
    // JSON has no form for FP16, wanted by name or with all others.
    for rest in [r#""outputs":[{"name":"same"}]"#, r#""outputs":[]"#] {
        let message = asked(rest).unwrap_err().to_string();
        assert!(message.contains("output `same` is FP16, which JSON has no form for"), "{message}");
    }
}

#[test]
fn torn_and_lying_lengths_are_refused_with_what_does_not_fit() {
    let json = format!(r#"{{"inputs":[{HALF},{COUNT},{TEXT}],"parameters":{{"binary_data_output":true}}}}"#);
    let (body, header) = joined(&json, TAIL);
    let size = json.len();
    let cut = &body[..body.len() - 1];
    let long = [&body[..], b"x"].concat();
    let with = |from: &str, to: &str| {
        let json = json.replace(from, to);
        let (body, header) = joined(&json, TAIL);
        (body, Some(header))
    };
    let (huge, few, other_count, both, neither, as_json) = (
        with(r#"_size":4"#, r#"_size":18446744073709551615"#),
        with(r#"_size":4"#, r#"_size":2"#),
        with(r#""FP16","shape":[1,2]"#, r#""FP16","shape":[2,2]"#),
        with(r#""data":[3,-4]"#, r#""data":[3,-4],"parameters":{"binary_data_size":0}"#),
        with(r#""data":[3,-4]"#, r#""parameters":{}"#),
        with(r#""parameters":{"binary_data_size":4}"#, r#""data":[1,2]"#),
    );
    let longer = (body.len() + 1).to_string();
    let cases: [(&[u8], Option<&str>, String); 15] = [
        (&body, None, "the body is not an infer request: trailing characters".to_owned()),
        (json.as_bytes(), None, "`binary_data_size` 4, but 0 bytes are left".to_owned()),
        (&body, Some("0"), "is 0: a body without JSON is not read here".to_owned()),
        (&body, Some("-1"), "must be the length of the JSON in bytes".to_owned()),
        (&body, Some("+5"), "must be the length of the JSON in bytes".to_owned()),
        (&body, Some("99999999999999999999999"), "must be the length of the JSON in bytes".to_owned()),
        (&body, Some(&longer), format!("has {longer} bytes, but the body has {}", body.len())),
        (cut, Some(&header), "input `text` has the `binary_data_size` 10, but 9 bytes are left".to_owned()),
        (
            &long,
            Some(&header),
            "15 bytes follow the JSON, but the inputs' `binary_data_size` add up to 14".to_owned(),
        ),
        (&huge.0, huge.1.as_deref(), "`binary_data_size` 18446744073709551615, but 14 bytes".to_owned()),
        (
            &few.0,
            few.1.as_deref(),
            "input `half` has 2 raw bytes, but FP16 of the shape [1, 2] takes 4".to_owned(),
        ),
        (&other_count.0, other_count.1.as_deref(), "FP16 of the shape [2, 2] takes 8".to_owned()),
        (&both.0, both.1.as_deref(), "input `count`: has both `data` and `binary_data_size`".to_owned()),
        (&neither.0, neither.1.as_deref(), "missing field `data`".to_owned()),
        (
            &as_json.0,
            as_json.1.as_deref(),
            "input `half`: FP16 has no form in JSON: send its raw bytes".to_owned(),
        ),
    ];
    for (body, header, part) in cases {
        let message = read(body, header).unwrap_err().to_string();
        assert!(message.contains(&part), "{header:?} gave: {message}\n  want: {part}");
    }
    // One byte too few or too many for the JSON tears both.
    for wrong in [size - 1, size + 1] {
        let message = read(&body, Some(&wrong.to_string())).unwrap_err().to_string();
        assert!(message.contains("the body is not an infer request"), "{message}");
    }
    assert!(read(&body, Some(&header)).is_ok());
}

/// A piece of a request that is right, nearly right, or not at all.
fn tensor() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("half"), Just("count"), Just("text"), Just("other")];
    let datatype =
        prop_oneof![Just("FP16"), Just("INT32"), Just("BYTES"), Just("BOOL"), Just("INT4"), Just("?")];
    let length = prop_oneof![0_u64..4, any::<u64>()];
    let elements = prop_oneof![
        prop_oneof![0_u64..20, any::<u64>()]
            .prop_map(|size| format!(r#""parameters":{{"binary_data_size":{size}}}"#)),
        Just(r#""data":[1,2]"#.to_owned()),
        Just(r#""data":["a","b"]"#.to_owned()),
    ];
    (name, datatype, proptest::collection::vec(length, 0..4), elements).prop_map(
        |(name, datatype, shape, elements)| {
            format!(r#"{{"name":"{name}","datatype":"{datatype}","shape":{shape:?},{elements}}}"#)
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_and_no_header_make_the_reader_panic(
        tensors in proptest::collection::vec(tensor(), 0..4),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
        off in -2_i64..3,
        output in any::<bool>(),
    ) {
        let json = format!(
            r#"{{"parameters":{{"binary_data_output":{output}}},"inputs":[{}]}}"#, tensors.join(",")
        );
        let header = (i64::try_from(json.len()).unwrap() + off).to_string();
        let (body, _) = joined(&json, &tail);
        // What is taken is what was declared.
        if let Ok(asked) = read(&body, Some(&header)) {
            prop_assert_eq!(asked.request.inputs.len(), 3);
            prop_assert!(asked.request.inputs.iter().all(|value| value.shape().len() == 2));
        }
    }

    #[test]
    fn no_noise_makes_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200), header in "[0-9]{0,3}|.{0,8}") {
        prop_assert!(read(&body, Some(&header)).is_err());
        prop_assert!(read(&body, None).is_err());
    }

    #[test]
    fn raw_tensors_of_any_bytes_are_read_or_refused_and_never_changed(
        dtype in proptest::sample::select(DType::ALL.to_vec()),
        shape in proptest::collection::vec(prop_oneof![0_usize..4, any::<usize>()], 0..4),
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        if let Ok(value) = crate::protocol::raw::read(dtype, &shape, &bytes) {
            prop_assert_eq!(crate::protocol::raw::write(value.data()), Some(bytes));
        }
    }
}
