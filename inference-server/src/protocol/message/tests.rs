//! Messages that are taken and those that are refused, with the words of the refusal; answers in both forms.

use std::time::Duration;

use half::f16;

use super::*;
use crate::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

fn info(name: &str, dtype: DType, shape: &[Option<usize>]) -> ValueInfo {
    ValueInfo::tensor(name, dtype, shape.to_vec())
}

fn signature(dtype: DType) -> Signature {
    Signature {
        inputs: vec![info("x", dtype, &[None, Some(2)])],
        outputs: vec![info("y", DType::F32, &[None]), info("z", DType::I64, &[None])],
        batch_axis: true,
    }
}

fn tensor(name: &str, datatype: &str, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        contents: Some(contents),
        ..InferInputTensor::default()
    }
}

fn request(input: InferInputTensor) -> ModelInferRequest {
    ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }
}

fn raw_request(datatype: &str, shape: &[i64], bytes: Vec<u8>) -> ModelInferRequest {
    let mut input = tensor("x", datatype, shape, InferTensorContents::default());
    input.contents = None;
    ModelInferRequest { raw_input_contents: vec![bytes.into()], ..request(input) }
}

#[test]
fn typed_and_raw_tensors_of_every_type_are_read_as_the_same_values() {
    let all = [
        Data::Bool(vec![true, false]),
        Data::U8(vec![0, 255]),
        Data::U16(vec![1, u16::MAX]),
        Data::U32(vec![1, u32::MAX]),
        Data::U64(vec![1, u64::MAX]),
        Data::I8(vec![-128, 127]),
        Data::I16(vec![i16::MIN, 5]),
        Data::I32(vec![i32::MIN, 5]),
        Data::I64(vec![i64::MIN, 5]),
        Data::F32(vec![0.1, f32::INFINITY]),
        Data::F64(vec![0.1, f64::MIN]),
        Data::String(vec!["ä\n".to_owned(), String::new()]),
    ];
    for data in all {
        let (dtype, name) = (data.dtype(), data.dtype().oip_name());
        let message = request(tensor("x", name, &[1, 2], contents(&data).unwrap()));
        let typed = read(message, &signature(dtype)).unwrap();
        let bytes = raw::write(&data).unwrap();
        let raw = read(raw_request(name, &[1, 2], bytes), &signature(dtype)).unwrap();
        assert_eq!(typed, raw);
        assert_eq!(typed.inputs, [Value::new(vec![1, 2], data).unwrap()]);
    }
    let halves = Data::F16(vec![f16::from_f32(1.5), f16::INFINITY]);
    let bytes = raw::write(&halves).unwrap();
    let raw = read(raw_request("FP16", &[1, 2], bytes), &signature(DType::F16)).unwrap();
    assert_eq!(raw.inputs, [Value::new(vec![1, 2], halves).unwrap()]);
}

#[test]
fn id_outputs_priority_and_timeout_are_kept() {
    let fp32_contents = vec![1.0, 2.0];
    let mut message =
        request(tensor("x", "FP32", &[1, 2], InferTensorContents { fp32_contents, ..Default::default() }));
    assert_eq!(read(message.clone(), &signature(DType::F32)).unwrap().outputs, [0, 1]);
    message.id = "a-1".to_owned();
    let output =
        |name: &str| InferRequestedOutputTensor { name: name.to_owned(), parameters: HashMap::new() };
    message.outputs = vec![output("z"), output("y")];
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    message.parameters.insert("priority".to_owned(), parameter(ParameterChoice::Uint64Param(2)));
    message.parameters.insert("timeout".to_owned(), parameter(ParameterChoice::Int64Param(1500)));
    message.parameters.insert("other".to_owned(), parameter(ParameterChoice::BoolParam(true)));
    let asked = read(message.clone(), &signature(DType::F32)).unwrap();
    assert_eq!((asked.id.as_deref(), asked.outputs), (Some("a-1"), vec![1, 0]));
    assert_eq!((asked.priority, asked.timeout), (2, Some(Duration::from_micros(1500))));
    message.parameters.insert("timeout".to_owned(), parameter(ParameterChoice::Int64Param(0)));
    assert_eq!(read(message, &signature(DType::F32)).unwrap().timeout, None);
}

#[test]
fn refusals_say_what_came_and_what_was_expected() {
    let four = || InferTensorContents { fp32_contents: vec![1.0; 4], ..Default::default() };
    let fp32 = |shape: &[i64]| request(tensor("x", "FP32", shape, four()));
    let mut mixed = fp32(&[2, 2]);
    mixed.raw_input_contents = vec![vec![0; 16].into()];
    let mut few = raw_request("FP32", &[2, 2], vec![0; 16]);
    few.raw_input_contents.push(vec![].into());
    let mut twice = fp32(&[2, 2]);
    twice.inputs.push(twice.inputs[0].clone());
    let mut output = fp32(&[2, 2]);
    output.outputs = vec![InferRequestedOutputTensor { name: "q".to_owned(), ..Default::default() }];
    let mut urgent = fp32(&[2, 2]);
    let choice = Some(ParameterChoice::StringParam("high".to_owned()));
    urgent.parameters.insert("priority".to_owned(), InferParameter { parameter_choice: choice });
    let mut elsewhere = four();
    elsewhere.fp64_contents.push(1.0);
    let cases = [
        (ModelInferRequest::default(), "input `x` (FP32 [-1, 2]) is missing"),
        (request(tensor("w", "FP32", &[2, 2], four())), "the model has no input `w`; its inputs are `x`"),
        (request(tensor("x", "INT64", &[2, 2], four())), "must have the datatype FP32, but has INT64"),
        (fp32(&[4]), "input `x` must have the shape [-1, 2], but has [4]"),
        (fp32(&[-2, 2]), "a shape has the length -2"),
        (fp32(&[3, 2]), "input `x` has the shape [3, 2], which takes 6 elements, but `data` has 4"),
        (fp32(&[i64::MAX, 2]), "takes 18446744073709551614 elements, but `data` has 4"),
        (twice, "`x` is given more than once"),
        (output, "`outputs` asks for `q`"),
        (urgent, "the parameter `priority` must be an integer from 0 to 4294967295, but is a string"),
        (request(tensor("x", "FP32", &[2, 2], elsewhere)), "outside of `fp32_contents`, which FP32 has"),
        (mixed, "in `contents` and in `raw_input_contents`"),
        (few, "`raw_input_contents` has 2 entries for 1 inputs"),
        (raw_request("FP32", &[2, 2], vec![0; 15]), "input `x` has 15 raw bytes, but FP32 of the shape"),
    ];
    for (message, part) in cases {
        let text = read(message, &signature(DType::F32)).unwrap_err().to_string();
        assert!(text.contains(part), "{text}\n  want: {part}");
    }

    let bytes = InferTensorContents { int_contents: vec![1, 128], ..Default::default() };
    let text = read(request(tensor("x", "INT8", &[1, 2], bytes)), &signature(DType::I8)).unwrap_err();
    assert!(text.to_string().contains("element 1 is 128, which no INT8 is"), "{text}");
    let texts = InferTensorContents { bytes_contents: vec![vec![], vec![0xff]], ..Default::default() };
    let text = read(request(tensor("x", "BYTES", &[1, 2], texts)), &signature(DType::String)).unwrap_err();
    assert!(text.to_string().contains("element 1 of its BYTES is not UTF-8"), "{text}");
    let halves = request(tensor("x", "FP16", &[1, 2], four()));
    let text = read(halves, &signature(DType::F16)).unwrap_err().to_string();
    assert!(text.contains("FP16 has no field in `contents`; send `raw_input_contents`"), "{text}");
}

#[test]
fn answers_are_typed_or_raw_and_never_both() {
    let (y, z) = (info("y", DType::F32, &[None]), info("z", DType::F16, &[None]));
    let floats = Value::new(vec![2], Data::F32(vec![f32::NAN, 2.0])).unwrap();
    let typed = write("m", "v", Some("i".to_owned()), &[(&y, floats.clone())], false);
    assert_eq!((typed.model_name.as_str(), typed.model_version.as_str(), typed.id.as_str()), ("m", "v", "i"));
    let output = &typed.outputs[0];
    assert_eq!(
        (output.name.as_str(), output.datatype.as_str(), output.shape.as_slice()),
        ("y", "FP32", &[2][..])
    );
    let numbers = &output.contents.as_ref().unwrap().fp32_contents;
    assert!(numbers[0].is_nan() && numbers[1..] == [2.0] && typed.raw_output_contents.is_empty());

    let halves = Value::new(vec![1], Data::F16(vec![f16::from_f32(1.0)])).unwrap();
    let outputs = [(&y, floats), (&z, halves)];
    for as_raw in [true, false] {
        let raw = write("m", "v", None, &outputs, as_raw);
        assert!(raw.outputs.iter().all(|output| output.contents.is_none()), "FP16 has no field");
        let bytes: Vec<_> = raw.raw_output_contents.iter().map(|bytes| bytes.to_vec()).collect();
        assert_eq!(bytes, [[f32::NAN.to_le_bytes(), 2_f32.to_le_bytes()].concat(), vec![0x00, 0x3c]]);
    }
}
