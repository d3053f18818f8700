//! Tables of what each type takes, and properties of nested and flat arrays.

use proptest::prelude::*;

use super::*;

fn read(dtype: DType, text: &str) -> Result<(Data, Vec<usize>), String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let (data, nesting) = Elements(dtype).deserialize(&mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok((data, nesting.shape()))
}

#[test]
fn every_type_takes_its_values() {
    let cases = [
        (DType::Bool, "[true,false]", Data::Bool(vec![true, false])),
        (DType::U8, "[0,255]", Data::U8(vec![0, 255])),
        (DType::I8, "[-128,127]", Data::I8(vec![-128, 127])),
        (DType::I32, "[-2147483648,2147483647]", Data::I32(vec![i32::MIN, i32::MAX])),
        (DType::I64, "[-9223372036854775808,9223372036854775807]", Data::I64(vec![i64::MIN, i64::MAX])),
        (DType::F32, "[0, -1, 0.1, 3.4028235e38, 1e-45]", Data::F32(vec![0.0, -1.0, 0.1, f32::MAX, 1e-45])),
        (DType::F64, "[0.1, 1e308, -7]", Data::F64(vec![0.1, 1e308, -7.0])),
        (DType::String, r#"["","a\n\u00e9"]"#, Data::String(vec![String::new(), "a\né".to_owned()])),
    ];
    for (dtype, text, data) in cases {
        let count = data.len();
        assert_eq!(read(dtype, text), Ok((data, vec![count])), "{dtype} {text}");
    }
}

#[test]
fn values_of_another_type_or_out_of_range_are_refused_by_name() {
    let cases = [
        (DType::Bool, "[1]", "BOOL"),
        (DType::U8, "[256]", "UINT8 (an integer from 0 to 255)"),
        (DType::U8, "[-1]", "UINT8"),
        (DType::I8, "[128]", "INT8"),
        (DType::I32, "[2147483648]", "INT32"),
        (DType::I64, "[9223372036854775808]", "INT64"),
        (DType::I64, "[1.0]", "INT64"),
        (DType::I64, "[\"1\"]", "a string"),
        (DType::F32, "[3.5e38]", "FP32"),
        (DType::F32, "[true]", "FP32"),
        (DType::F32, "[{}]", "FP32"),
        (DType::F64, "[1e999]", "number out of range"),
        (DType::F32, "[null]", "JSON has no NaN"),
        (DType::String, "[1]", "BYTES"),
        (DType::F32, "1", "must be an array"),
        (DType::F32, "[1", "EOF"),
        (DType::F32, "[1,]", "trailing comma"),
    ];
    for (dtype, text, part) in cases {
        let message = read(dtype, text).expect_err(text);
        assert!(message.contains(part), "{dtype} {text}: {message}");
    }
}

#[test]
fn nesting_gives_the_shape_and_must_be_even() {
    assert_eq!(read(DType::I64, "[[1,2,3],[4,5,6]]").map(|read| read.1), Ok(vec![2, 3]));
    assert_eq!(read(DType::I64, "[[],[]]").map(|read| read.1), Ok(vec![2, 0]));
    assert_eq!(read(DType::I64, "[]").map(|read| read.1), Ok(vec![0]));
    for (text, part) in [
        ("[[1,2],[3]]", "ragged"),
        ("[[1],[[2]]]", "mixes"),
        ("[1,[2]]", "mixes"),
        ("[[1],2]", "mixes"),
        ("[[],[[]]]", "ragged"),
        ("[[],1]", "mixes"),
    ] {
        let message = read(DType::I64, text).expect_err(text);
        assert!(message.contains(part), "{text}: {message}");
    }
    // serde_json bounds the recursion.
    assert!(read(DType::I64, &"[".repeat(100_000)).is_err());
}

/// The values as JSON, nested as the shape says.
fn nested(values: &[f32], shape: &[usize]) -> String {
    match shape {
        [] => serde_json::to_string(&values[0]).unwrap(),
        [first, rest @ ..] => {
            let step: usize = rest.iter().product();
            let parts: Vec<_> = (0..*first).map(|i| nested(&values[i * step..][..step], rest)).collect();
            format!("[{}]", parts.join(" , "))
        }
    }
}

proptest! {
    #[test]
    fn nested_and_flat_arrays_hold_the_same_elements(shape in prop::collection::vec(1_usize..5, 1..5), seed in any::<u32>()) {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0_u32..).take(count).map(|i| f32::from_bits(seed.rotate_left(i % 32) ^ i))
            .map(|v| if v.is_finite() { v } else { 0.5 }).collect();
        let flat = read(DType::F32, &nested(&values, &[count])).unwrap();
        let deep = read(DType::F32, &nested(&values, &shape)).unwrap();
        prop_assert_eq!(&flat.0, &Data::F32(values));
        prop_assert_eq!(&flat.0, &deep.0);
        prop_assert_eq!(deep.1, shape);
    }

    #[test]
    fn integers_survive(values in prop::collection::vec(any::<i64>(), 0..50)) {
        let text = serde_json::to_string(&values).unwrap();
        prop_assert_eq!(read(DType::I64, &text).unwrap().0, Data::I64(values));
    }

    #[test]
    fn doubles_survive(values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 0..50)) {
        let text = serde_json::to_string(&values).unwrap();
        prop_assert_eq!(read(DType::F64, &text).unwrap().0, Data::F64(values));
    }

    #[test]
    fn strings_survive(values in prop::collection::vec(any::<String>(), 0..20)) {
        let text = serde_json::to_string(&values).unwrap();
        prop_assert_eq!(read(DType::String, &text).unwrap().0, Data::String(values));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\],0-9a-z\"\\\\. {}:-]{0,60}") {
        for dtype in DType::ALL {
            let _ = read(dtype, &text);
        }
    }
}
