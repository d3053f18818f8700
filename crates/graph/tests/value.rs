//! Values: what may be made, joined and divided.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

use proptest::prelude::*;
use stoker_graph::{DType, Data, ShapeError, Value};

/// Data of any type with this many elements.
fn data(count: usize) -> impl Strategy<Value = Data> {
    use proptest::collection::vec;
    prop_oneof![
        vec(any::<bool>(), count).prop_map(Data::Bool),
        vec(any::<u8>(), count).prop_map(Data::U8),
        vec(any::<i8>(), count).prop_map(Data::I8),
        vec(any::<i32>(), count).prop_map(Data::I32),
        vec(any::<i64>(), count).prop_map(Data::I64),
        vec(-1e6f32..1e6, count).prop_map(Data::F32),
        vec(-1e6f64..1e6, count).prop_map(Data::F64),
        vec("[a-z]{0,3}", count).prop_map(Data::String),
    ]
}

/// A value and a division of its rows.
fn divided() -> impl Strategy<Value = (Value, Vec<usize>)> {
    (proptest::collection::vec(0usize..4, 1..5), proptest::collection::vec(0usize..4, 0..3)).prop_flat_map(
        |(rows, row_shape)| {
            let shape: Vec<usize> = [&[rows.iter().sum()], row_shape.as_slice()].concat();
            let count = shape.iter().product();
            (data(count).prop_map(move |data| Value::new(shape.clone(), data).unwrap()), Just(rows))
        },
    )
}

proptest! {
    #[test]
    fn concat_undoes_split((value, rows) in divided()) {
        let parts = value.clone().split(&rows).unwrap();
        prop_assert_eq!(parts.len(), rows.len());
        for (part, count) in parts.iter().zip(&rows) {
            prop_assert_eq!(part.shape()[0], *count);
            prop_assert_eq!(part.dtype(), value.dtype());
        }
        let joined = Value::concat(&parts.iter().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(joined, value);
    }

    #[test]
    fn a_split_into_other_rows_is_refused((value, rows) in divided(), more in 1usize..5) {
        let mut wrong = rows.clone();
        wrong.push(more);
        prop_assert!(matches!(value.split(&wrong), Err(ShapeError::Rows { .. })), "rows {:?}", wrong);
    }
}

#[test]
fn the_number_of_elements_must_be_that_of_the_shape() {
    let error = Value::new(vec![2, 3], Data::F32(vec![0.0; 5])).unwrap_err();
    assert_eq!(error, ShapeError::Elements { shape: vec![2, 3], expected: 6, actual: 5 });
    assert!(Value::new(vec![], Data::I64(vec![7])).is_ok());
    assert!(Value::new(vec![0, 9], Data::I64(vec![])).is_ok());
    let huge = Value::new(vec![0, usize::MAX, 3], Data::I64(vec![]));
    assert!(matches!(huge, Err(ShapeError::TooLarge { .. })));
}

#[test]
fn values_that_do_not_fit_are_not_joined() {
    let row = |width: usize| Value::new(vec![1, width], Data::F32(vec![0.0; width])).unwrap();
    assert!(matches!(Value::concat(&[&row(2), &row(3)]), Err(ShapeError::Concat { .. })));
    let whole = Value::new(vec![1, 2], Data::I64(vec![0, 1])).unwrap();
    assert!(matches!(Value::concat(&[&row(2), &whole]), Err(ShapeError::Concat { .. })));
    assert!(matches!(Value::concat(&[]), Err(ShapeError::NothingToConcat)));
    let scalar = Value::new(vec![], Data::F32(vec![1.0])).unwrap();
    assert!(matches!(Value::concat(&[&scalar]), Err(ShapeError::Scalar)));
    assert!(matches!(scalar.split(&[1]), Err(ShapeError::Scalar)));
}

#[test]
fn types_have_the_names_of_the_open_inference_protocol() {
    let named: Vec<&str> =
        DType::ALL.into_iter().filter(|dtype| !dtype.is_small()).map(DType::oip_name).collect();
    assert_eq!(
        named,
        [
            "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16",
            "FP32", "FP64", "BYTES",
        ]
    );
    for dtype in DType::ALL {
        assert_eq!(DType::from_oip_name(dtype.oip_name()), Some(dtype));
        assert_eq!(DType::from_onnx(dtype.onnx_number()), Some(dtype));
    }
    assert_eq!(DType::from_oip_name("FP24"), None);
    // Complex numbers, and no type at all.
    assert_eq!((DType::from_onnx(14), DType::from_onnx(0)), (None, None));
}

#[test]
fn shapes_are_bounded_also_where_nothing_is_in_them() {
    let empty = |shape: Vec<usize>| Value::new(shape, Data::F32(Vec::new()));
    assert!(empty(vec![0, 1 << 20]).is_ok());
    assert!(matches!(empty(vec![0, 1 << 40]), Err(ShapeError::TooLarge { .. })));
    assert!(matches!(empty(vec![0; 65]), Err(ShapeError::TooLarge { .. })));
}
