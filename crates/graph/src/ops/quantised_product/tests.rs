//! Products of bytes: exact, and the same whether the weights are known at load or given by a request.

use prost::Message;

use super::*;
use crate::load::tests::{model, node, tensor_info};
use crate::load::write_tensor;
use crate::tensor::into_vec;
use crate::{Model, Value};

/// Bytes that look random, the extremes among them.
fn bytes(count: usize, state: u32) -> Vec<u8> {
    let mut state = state;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 28 {
            0 => 0,
            1..4 => 255,
            _ => state.to_le_bytes()[2],
        }
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn long_sums_are_exact() {
    for inner in [1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
        let wide =
            |bytes: Vec<u8>, less: f32| bytes.into_iter().map(|x| f32::from(x) - less).collect::<Vec<_>>();
        let (a, b) = (wide(bytes(6 * inner, 1), 0.0), wide(bytes(inner * 2, 2), 255.0));
        let left = Tensor::from_items(&[2, 3, inner], a.clone());
        let right = Tensor::from_items(&[inner, 2], b.clone());
        let product = exact(left, right).unwrap();
        assert_eq!(product.shape(), [2, 3, 2]);
        let sums = into_vec::<i64>(product.dense().unwrap()).unwrap();
        for (at, sum) in sums.into_iter().enumerate() {
            let term = |k: usize| f64::from(a[at / 2 * inner + k]) * f64::from(b[k * 2 + at % 2]);
            assert!((sum as f64 - (0..inner).map(term).sum::<f64>()).abs() < 0.5, "{inner} {at}");
        }
    }
}

#[test]
fn vectors_and_matrices_that_do_not_fit_are_those_of_a_product() {
    let ones = |shape: &[usize]| Tensor::from_items(shape, vec![1f32; shape.iter().product()]);
    assert_eq!(exact(ones(&[300]), ones(&[300])).unwrap().to_i64s().unwrap(), [300]);
    assert_eq!(exact(ones(&[300]), ones(&[300, 2])).unwrap().shape(), [2]);
    assert_eq!(exact(ones(&[2, 300]), ones(&[300])).unwrap().shape(), [2]);
    assert!(exact(ones(&[2, 300]), ones(&[301, 2])).is_err());
    assert!(exact(ones(&[]), ones(&[3, 2])).is_err());
}

#[test]
fn known_weights_give_what_given_ones_do() {
    let byte = |shape: &[usize], state: u32| Tensor::from_items(shape, bytes(shape.iter().product(), state));
    let one = |x: u8| Tensor::from_items(&[], vec![x]);
    let scale = |x: f32| Tensor::from_items(&[], vec![x]);
    let (flat, images) = (vec![4, 300], vec![1, 2, 5, 5]);
    let kernel = || byte(&[3, 2, 3, 3], 4);
    // The operator, its inputs after the first, and the shape of the first.
    let cases: [(&str, Vec<Tensor>, &[usize]); 6] = [
        ("MatMulInteger", vec![byte(&[300, 3], 2), one(9), byte(&[3], 3)], &flat),
        ("MatMulInteger", vec![byte(&[300, 3], 2)], &flat),
        (
            "QLinearMatMul",
            vec![scale(0.02), one(7), byte(&[300, 3], 5), scale(0.01), one(120), scale(0.5), one(128)],
            &flat,
        ),
        ("ConvInteger", vec![kernel(), one(3), byte(&[3], 6)], &images),
        ("ConvInteger", vec![kernel()], &images),
        (
            "QLinearConv",
            vec![scale(0.02), one(7), kernel(), scale(0.01), byte(&[3], 8), scale(0.4), one(100)],
            &images,
        ),
    ];
    for (operator, parameters, shape) in cases {
        let names: Vec<String> = (1..=parameters.len()).map(|at| format!("p{at}")).collect();
        let inputs: Vec<&str> = std::iter::once("x").chain(names.iter().map(String::as_str)).collect();
        let mut proto = model(vec![node("", operator, &inputs, &["y"])], "x", "y");
        let graph = proto.graph.as_mut().unwrap();
        // 2 is the number of bytes, and 6 that of sums.
        graph.input[0] = tensor_info("x", 2, shape.len());
        graph.output[0] = tensor_info("y", if operator.ends_with("Integer") { 6 } else { 2 }, shape.len());
        graph.initializer =
            names.iter().zip(&parameters).map(|(name, tensor)| write_tensor(tensor, name)).collect();
        let model = Model::from_bytes(&proto.encode_to_vec()).unwrap();
        let value = |tensor: Tensor| Value::try_from(tensor).unwrap();
        let x = ("x".to_owned(), value(byte(shape, 1)));
        let known = model.graph().unwrap().run(vec![x.clone()]).unwrap();
        let mut given = vec![x];
        given.extend(names.iter().cloned().zip(parameters.into_iter().map(value)));
        let all = model.subgraph(&inputs, &["y"]).unwrap().run(given).unwrap();
        assert_eq!(known, all, "{operator}");
    }
}
