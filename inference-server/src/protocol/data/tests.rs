//! Tables of what each type takes, and properties of nested and flat arrays.

use proptest::prelude::*;

use super::*;

/// By the general parser. Where the quick one has an answer it is the same, to the bit.
fn read(dtype: DType, text: &str) -> Result<(Data, Vec<usize>), String> {
    let general = || {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let (data, nesting) = Elements(dtype).deserialize(&mut deserializer).map_err(|e| e.to_string())?;
        deserializer.end().map_err(|e| e.to_string())?;
        Ok((data, nesting.shape()))
    };
    let general = general();
    if let Some((data, nesting, length)) = numbers(dtype, text.as_bytes(), 1)
        && text.get(length..).unwrap().trim_ascii().is_empty()
    {
        let quick: Result<_, String> = Ok((data, nesting.shape()));
        // Minus zero is equal to zero; its text is not.
        assert_eq!(format!("{quick:?}"), format!("{general:?}"), "{dtype} {text}");
    }
    general
}

#[test]
fn elements_take_no_more_room_than_they_need_whatever_is_expected() {
    for (text, room) in [("[]", 0), ("[1]", 2), ("[1,2,3]", 6)] {
        let (Data::F64(items), ..) = numbers(DType::F64, text.as_bytes(), usize::MAX).unwrap() else {
            panic!()
        };
        assert!(items.capacity() <= room, "{text}: {}", items.capacity());
    }
}

/// Where the quick parser must have an answer: else it would be of no use.
#[test]
fn plain_numbers_are_read_quickly_whatever_their_form() {
    for text in [
        "[0,-1,0.1,3.4028235e38,1e-45,-0.0,0.5e0]",
        " [ [ 13.0 , 2e1 ] , [ 2E+1 , 2e-1 ] ]\n",
        "[0.30000001192092896, 5e-324, 123456789.87654321, 1.7976931348623157e308, 9007199254740993.0]",
        "[0.00000000000000000000000000000000000123456789]",
        "[18014398509481985, 9223372036854775807, -9223372036854775808]",
        "[]",
    ] {
        assert!(numbers(DType::F64, text.as_bytes(), 3).is_some(), "{text}");
        read(DType::F64, text).unwrap();
        read(DType::F32, text).ok();
    }
    assert!(numbers(DType::I8, b"[-128, 127]", 2).is_some());
    for text in [
        "[-0]",
        "[1.0]",
        "[128]",
        "[true]",
        "[null]",
        "1",
        "[1 2]",
        "[1,]",
        "[01]",
        "[,1]",
        "[-]",
        &"[".repeat(40),
    ] {
        assert!(numbers(DType::I8, text.as_bytes(), 2).is_none(), "{text}");
    }
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
    fn both_parsers_read_the_same_numbers(
        parts in prop::collection::vec(("-?(0|[1-9][0-9]{0,24})([.][0-9]{1,30})?([eE][-+]?[0-9]{1,3})?", " {0,2}"), 0..6),
    ) {
        let texts: Vec<_> = parts.iter().map(|(number, space)| format!("{space}{number}")).collect();
        let text = format!("[{}]", texts.join(","));
        for dtype in [DType::F32, DType::F64, DType::I64, DType::U64, DType::U8] {
            let _ = read(dtype, &text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\],0-9a-z\"\\\\. {}:-]{0,60}") {
        for dtype in DType::ALL {
            let _ = read(dtype, &text);
        }
    }
}
