//! Each chain once as it is, and once with all values between as outputs, which nothing may be put together of:
//! the answers must be the same.

mod net;

use proptest::prelude::*;

use self::net::{Net, float, graph_attribute, info, int, ints, net, node};
use crate::DType;
use crate::load::write_tensor;
use crate::ops::cast::cast;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use crate::tensor::Tensor;

/// What rounding may make of a few additions.
const SINGLE: f64 = 2e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn statistics_go_into_a_convolution(
        (group, inputs, outputs) in (1usize..4, 1usize..4, 1usize..4),
        kernel in 1usize..4,
        flat: bool,
        transposed: bool,
        bias: bool,
        state: u64,
    ) {
        let mut net = net(DType::F32, 17);
        net.state = state;
        let (from, to) = (group * inputs, group * outputs);
        let space = if flat { vec![kernel] } else { vec![kernel, kernel] };
        let channels = if transposed { [from, outputs] } else { [to, inputs] };
        net.weights("w", &[&channels[..], &space].concat());
        net.weights("b", &[to]);
        let operator = if transposed { "ConvTranspose" } else { "Conv" };
        let given = if bias { vec!["x", "w", "b"] } else { vec!["x", "w"] };
        net.add(operator, &given, "y", vec![int("group", i64::try_from(group).unwrap())]);
        net.normalise("y", "z", to);
        let shape = if flat { vec![2, from, 6] } else { vec![2, from, 5, 6] };
        prop_assert_eq!(net.same(&shape, SINGLE), [format!("{operator}+BatchNormalization")]);
    }

    #[test]
    fn factors_go_into_weights(transposed: bool, bias in 0usize..4, state: u64, operator in 0usize..4) {
        let mut net = net(DType::F32, 17);
        net.state = state;
        net.weights("w", if transposed { &[5, 3] } else { &[3, 5] });
        net.weights("row", &[1, 5]);
        net.weights("vector", &[5]);
        net.weights("one", &[1]);
        let given = [&["x", "w"][..], &["x", "w", "row"], &["x", "w", "vector"], &["x", "w", "one"]][bias];
        net.add("Gemm", given, "y", vec![int("transB", i64::from(transposed))]);
        let operator = ["Add", "Sub", "Mul", "Div"][operator];
        let factors = net.numbers(5, 0.5, 2.0);
        net.store("c", &[5], factors);
        net.add(operator, &["y", "c"], "z", vec![]);
        net.normalise("z", "n", 5);
        let steps = net.same(&[4, 3], 1e-4);
        prop_assert_eq!(steps, [format!("Gemm+{operator}+BatchNormalization")]);
    }
}

#[test]
fn constants_for_each_channel_go_into_a_convolution() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[3, 2, 1, 1]);
    net.weights("m", &[3, 1, 1]);
    net.weights("a", &[1, 3, 1, 1]);
    net.number("d", 3.0);
    net.add("Conv", &["x", "w"], "y0", vec![]);
    net.add("Mul", &["y0", "m"], "y1", vec![]);
    net.add("Add", &["a", "y1"], "y2", vec![]);
    net.add("Div", &["y2", "d"], "y3", vec![]);
    assert_eq!(net.same(&[2, 2, 3, 3], SINGLE), ["Conv+Mul+Add+Div"]);
    // One for each column, or for each image, is none for each channel.
    for shape in [&[3][..], &[2, 1, 1, 1], &[1, 1, 3, 1, 1]] {
        let mut other = self::net(DType::F32, 13);
        other.weights("w", &[3, 2, 1, 1]);
        other.weights("m", shape);
        other.add("Conv", &["x", "w"], "y", vec![]);
        other.add("Mul", &["y", "m"], "z", vec![]);
        assert_eq!(other.same(&[2, 2, 3, 3], SINGLE), ["Conv", "Mul"], "{shape:?}");
    }
}

#[test]
fn half_precision_stays_what_it_is() {
    for (dtype, precision) in [(DType::F16, 2e-2), (DType::BF16, 0.15), (DType::F64, 1e-12)] {
        let mut net = net(dtype, 17);
        net.weights("w", &[2, 3, 3, 3]);
        net.add("Conv", &["x", "w"], "y", vec![]);
        net.normalise("y", "z", 2);
        net.add("LeakyRelu", &["z"], "a", vec![]);
        assert_eq!(net.same(&[1, 3, 4, 4], precision), ["Conv+BatchNormalization+LeakyRelu"], "{dtype}");
    }
}

#[test]
fn constants_of_half_precision_are_widened_at_load() {
    for dtype in [DType::F16, DType::BF16] {
        let mut net = net(dtype, 17);
        // The first input is the constant, which says what type the result has.
        net.weights("c", &[3]);
        net.add("Mul", &["c", "x"], "y", vec![]);
        // The second constant is an output too, and stays.
        net.weights("k", &[3]);
        net.add("Sub", &["y", "k"], "z", vec![]);
        let graph = net.graph(&["z", "k"]);
        let (shape, given, numbers) = net.run(&graph, &[2, 3]);
        assert_eq!((shape, given), (vec![2, 3], dtype));
        let plain = net.graph(&["z", "y", "c", "k"]);
        assert_eq!(net.run(&plain, &[2, 3]).2, numbers);
    }
}

#[test]
fn a_product_takes_its_bias_and_what_follows() {
    let activations: [(&str, &[AttributeProto]); 6] = [
        ("Relu", &[]),
        ("LeakyRelu", &[float("alpha", 0.2)]),
        ("Sigmoid", &[]),
        ("HardSigmoid", &[float("alpha", 0.3)]),
        ("HardSwish", &[]),
        ("Swish", &[float("alpha", 2.0)]),
    ];
    for (operator, attributes) in activations {
        let mut net = net(DType::F32, 24);
        net.weights("w", &[4, 3]);
        net.weights("b", &[3]);
        net.add("MatMul", &["x", "w"], "y", vec![]);
        net.add("Add", &["b", "y"], "z", vec![]);
        net.add(operator, &["z"], "a", attributes.to_vec());
        for shape in [&[2, 5, 4][..], &[5, 4], &[4]] {
            assert_eq!(net.same(shape, SINGLE), [format!("MatMul+Add+{operator}")], "{shape:?}");
        }
    }
}

#[test]
fn a_summand_that_is_no_row_is_added_all_the_same() {
    for shape in [&[][..], &[1], &[3, 1], &[2, 1, 4]] {
        let mut net = net(DType::F32, 13);
        net.weights("w", &[4, 1]);
        net.weights("b", shape);
        net.add("MatMul", &["x", "w"], "y", vec![]);
        net.add("Add", &["y", "b"], "z", vec![]);
        assert_eq!(net.same(&[3, 4], SINGLE), ["MatMul+Add"], "{shape:?}");
    }
}

#[test]
fn bounds_are_attributes_or_constants() {
    for opset in [10, 13] {
        let mut net = net(DType::F32, opset);
        net.weights("w", &[2, 2, 1, 1]);
        net.number("six", 0.75);
        net.number("zero", -0.25);
        net.add("Conv", &["x", "w"], "y", vec![]);
        if opset < 11 {
            net.add("Clip", &["y"], "z", vec![float("min", -0.25), float("max", 0.75)]);
        } else {
            net.add("Clip", &["y", "zero", "six"], "z", vec![]);
        }
        net.add("Clip", &["z"], "a", vec![]);
        assert_eq!(net.same(&[1, 2, 3, 3], SINGLE), ["Conv+Clip", "Clip"], "{opset}");
    }
}

#[test]
fn a_sum_takes_an_activation() {
    let mut net = net(DType::F32, 13);
    net.add("Tanh", &["x"], "t", vec![]);
    net.add("Add", &["t", "x"], "y", vec![]);
    net.add("Relu", &["y"], "z", vec![]);
    assert_eq!(net.same(&[2, 3], SINGLE), ["Tanh", "Add+Relu"]);
    net.nodes[0] = node("ReduceMax", &["x"], "t", vec![ints("axes", &[1])]);
    assert_eq!(net.same(&[2, 3], SINGLE), ["ReduceMax", "Add+Relu"]);
}

#[test]
fn a_tensor_is_added_in_the_pass_of_a_convolution_or_a_product() {
    let convolution = |kernel: usize| {
        let mut net = net(DType::F32, 13);
        net.weights("w", &[8, 8, kernel, kernel]);
        net.weights("b", &[8]);
        net
    };
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let mut residual = convolution(3);
    residual.add("Tanh", &["x"], "t", vec![]);
    residual.add("Conv", &["x", "w", "b"], "y", pads());
    residual.add("Add", &["t", "y"], "z", vec![]);
    residual.add("Relu", &["z"], "a", vec![]);
    assert_eq!(residual.same(&[2, 8, 5, 6], SINGLE), ["Tanh", "Conv+Add+Relu"]);
    // An activation that is no bound, and a summand that is repeated.
    residual.nodes[3] = node("Sigmoid", &["z"], "a", vec![]);
    assert_eq!(residual.same(&[2, 8, 14, 14], SINGLE), ["Tanh", "Conv+Add+Sigmoid"]);
    residual.nodes[0] = node("GlobalMaxPool", &["x"], "t", vec![]);
    assert_eq!(residual.same(&[2, 8, 5, 6], SINGLE), ["GlobalMaxPool", "Conv+Add+Sigmoid"]);
    // A factor that comes after the sum is no factor of the weights.
    residual.nodes[3] = node("Mul", &["z", "b"], "a", vec![]);
    assert_eq!(residual.same(&[2, 8, 5, 8], SINGLE), ["GlobalMaxPool", "Conv+Add", "Mul"]);
    // Of two the later one adds, and what is not there yet cannot be added.
    let mut two = convolution(3);
    two.add("Conv", &["x", "w", "b"], "y", pads());
    two.add("Conv", &["x", "w"], "t", pads());
    two.add("Add", &["y", "t"], "z", vec![]);
    assert_eq!(two.same(&[1, 8, 5, 6], SINGLE), ["Conv", "Conv+Add"]);
    two.nodes[1] = node("Tanh", &["x"], "t", vec![]);
    assert_eq!(two.same(&[1, 8, 5, 6], SINGLE), ["Conv", "Tanh", "Add"]);
    let mut product = net(DType::F32, 13);
    product.weights("w", &[4, 4]);
    product.weights("b", &[4]);
    product.add("MatMul", &["x", "w"], "y", vec![]);
    product.add("Add", &["y", "b"], "z", vec![]);
    product.add("Add", &["x", "z"], "a", vec![]);
    assert_eq!(product.same(&[3, 2, 4], SINGLE), ["MatMul+Add+Add"]);
    assert_eq!(product.same(&[4], SINGLE), ["MatMul+Add+Add"]);
}

#[test]
fn weights_that_are_laid_out_are_not_kept_besides() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[16, 24]);
    net.add("MatMul", &["x", "w"], "y", vec![]);
    assert_eq!(net.graph(&["y"]).constants(), 0);
    // Another reader keeps them.
    net.add("Add", &["y", "w"], "z", vec![]);
    assert_eq!(net.graph(&["z"]).constants(), 1);
}

/// `LayerNormalization` in its parts, over the last dimensions.
fn layer(net: &mut Net, axes: &[i64], squared: bool) {
    net.number("two", 2.0);
    net.number("eps", 1e-5);
    net.add("ReduceMean", &["x"], "m", vec![ints("axes", axes)]);
    net.add("Sub", &["x", "m"], "d", vec![]);
    if squared {
        net.add("Mul", &["d", "d"], "s", vec![]);
    } else {
        net.add("Pow", &["d", "two"], "s", vec![]);
    }
    net.add("ReduceMean", &["s"], "v", vec![ints("axes", axes)]);
    net.add("Add", &["v", "eps"], "e", vec![]);
    net.add("Sqrt", &["e"], "r", vec![]);
    net.add("Div", &["d", "r"], "n", vec![]);
}

#[test]
fn a_normalisation_in_parts_is_one_step() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        let precision = if dtype == DType::F16 { 1e-2 } else { 1e-5 };
        for squared in [false, true] {
            let mut net = net(dtype, 13);
            layer(&mut net, &[-1], squared);
            assert_eq!(net.same(&[2, 3, 8], precision), ["LayerNormalization"]);
            net.weights("scale", &[8]);
            net.add("Mul", &["scale", "n"], "y", vec![]);
            assert_eq!(net.same(&[2, 3, 8], precision), ["LayerNormalization"]);
            net.weights("shift", &[8]);
            net.add("Add", &["y", "shift"], "z", vec![]);
            assert_eq!(net.same(&[2, 3, 8], precision), ["LayerNormalization"]);
            net.add("Mul", &["z", "scale"], "w", vec![]);
            assert_eq!(net.same(&[8], precision), ["LayerNormalization", "Mul"]);
        }
    }
    let mut net = net(DType::F32, 13);
    layer(&mut net, &[-1, -2], false);
    net.weights("shift", &[8]);
    net.add("Add", &["n", "shift"], "z", vec![]);
    assert_eq!(net.same(&[2, 3, 8], 1e-5), ["LayerNormalization"]);
}

#[test]
fn axes_may_be_an_input() {
    let mut net = net(DType::F32, 18);
    net.stored.push(write_tensor(&Tensor::from_items(&[1], vec![-1i64]), "axes"));
    layer(&mut net, &[-1], false);
    for mean in [0, 3] {
        net.nodes[mean].attribute.clear();
        net.nodes[mean].input.push("axes".to_owned());
    }
    assert_eq!(net.same(&[2, 3, 8], 1e-5), ["LayerNormalization"]);
    net.nodes[0].attribute.push(int("keepdims", 0));
    assert!(net.graph(&["n"]).operators().len() > 1);
}

#[test]
fn a_normalisation_over_other_dimensions_stays_in_parts() {
    for axes in [&[2][..], &[-2], &[0, -1]] {
        let mut net = net(DType::F32, 13);
        layer(&mut net, axes, false);
        assert_eq!(net.same(&[2, 3, 8], 1e-5).len(), 7, "{axes:?}");
    }
    // A scale of more dimensions is another one in each row.
    let mut net = net(DType::F32, 13);
    layer(&mut net, &[-1], false);
    net.weights("scale", &[3, 8]);
    net.add("Mul", &["scale", "n"], "y", vec![]);
    assert_eq!(net.same(&[2, 3, 8], 1e-5), ["LayerNormalization", "Mul"]);
}

#[test]
fn a_scale_may_repeat_what_is_normalised() {
    let mut net = net(DType::F32, 13);
    layer(&mut net, &[-1], false);
    net.weights("scale", &[4]);
    net.add("Mul", &["scale", "n"], "y", vec![]);
    assert_eq!(net.same(&[2, 1], 1e-5), ["LayerNormalization"]);
}

#[test]
fn gelu_in_parts_is_one_step_in_any_order() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        for order in 0..4 {
            let mut net = net(dtype, 13);
            net.number("root", if order == 1 { 0.5f64.sqrt() } else { 2f64.sqrt() });
            net.number("one", 1.0);
            net.number("half", 0.5);
            net.add(if order == 1 { "Mul" } else { "Div" }, &["x", "root"], "s", vec![]);
            net.add("Erf", &["s"], "e", vec![]);
            net.add("Add", &["e", "one"], "a", vec![]);
            let (first, second) = match order {
                0 | 1 => (["x", "a"], ["m", "half"]),
                2 => (["half", "x"], ["m", "a"]),
                _ => (["a", "half"], ["x", "m"]),
            };
            net.add("Mul", &first, "m", vec![]);
            net.add("Mul", &second, "y", vec![]);
            let precision = if dtype == DType::F16 { 4e-3 } else { 1e-6 };
            assert_eq!(net.same(&[3, 7], precision), ["Gelu"], "{dtype} {order}");
            // Another number than a half is not this function.
            net.stored[2] = write_tensor(&cast(Tensor::from_items(&[], vec![0.51]), dtype).unwrap(), "half");
            assert_eq!(net.same(&[3, 7], precision).len(), 5);
        }
    }
}

#[test]
fn a_factor_before_a_softmax_goes_into_it() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        for (operator, number) in [("Div", 8.0), ("Mul", 0.125)] {
            let mut net = net(dtype, 13);
            net.number("factor", number);
            net.add(operator, &["x", "factor"], "s", vec![]);
            net.add("Softmax", &["s"], "y", vec![int("axis", -1)]);
            let precision = if dtype == DType::F16 { 4e-3 } else { 1e-6 };
            assert_eq!(net.same(&[3, 7], precision), ["Softmax"], "{dtype} {operator}");
            assert_eq!(net.same(&[3, 0], precision), ["Softmax"]);
            // What turns the order around stays outside, and so does what is not the last dimension.
            net.stored[0] =
                write_tensor(&cast(Tensor::from_items(&[], vec![-2.0]), dtype).unwrap(), "factor");
            assert_eq!(net.same(&[3, 7], precision), [operator, "Softmax"]);
            net.number("factor", number);
            net.stored.swap_remove(0);
            net.nodes[1] = node("Softmax", &["s"], "y", vec![int("axis", 0)]);
            assert_eq!(net.same(&[3, 7], precision), [operator, "Softmax"]);
        }
    }
}

#[test]
fn attention_in_parts_is_one_step() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        let mut net = net(dtype, 13);
        net.number("factor", 2.0);
        net.add("Sigmoid", &["x"], "k", vec![]);
        net.add("Transpose", &["k"], "t", vec![ints("perm", &[0, 1, 3, 2])]);
        net.add("MatMul", &["x", "t"], "s", vec![]);
        net.add("Div", &["s", "factor"], "d", vec![]);
        net.add("Softmax", &["d"], "p", vec![int("axis", -1)]);
        net.add("MatMul", &["p", "x"], "y", vec![]);
        let precision = if dtype == DType::F16 { 1e-2 } else { 1e-5 };
        for shape in [[2, 3, 9, 5], [1, 1, 1, 1], [1, 2, 0, 3]] {
            assert_eq!(net.same(&shape, precision), ["Sigmoid", "Transpose", "Attention"], "{dtype}");
        }
        // Values of another stack are repeated, as in any product.
        net.add("ReduceMax", &["x"], "v", vec![ints("axes", &[0]), int("keepdims", 1)]);
        let last = net.nodes.len() - 1;
        net.nodes.swap(last, last - 1);
        net.nodes[last] = node("MatMul", &["p", "v"], "y", vec![]);
        let steps = ["Sigmoid", "Transpose", "ReduceMax", "Attention"];
        assert_eq!(net.same(&[2, 3, 9, 5], precision), steps, "{dtype}");
    }
}

#[test]
fn a_number_times_its_sigmoid_is_one_step() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[2, 2, 1, 1]);
    net.weights("b", &[2]);
    net.add("Conv", &["x", "w", "b"], "y", vec![]);
    net.add("Sigmoid", &["y"], "s", vec![]);
    net.add("Mul", &["y", "s"], "z", vec![]);
    assert_eq!(net.same(&[1, 2, 3, 3], SINGLE), ["Conv+Swish"]);
    net.nodes[1] = node("HardSigmoid", &["y"], "s", vec![float("alpha", 1.0 / 6.0)]);
    assert_eq!(net.same(&[1, 2, 3, 3], SINGLE), ["Conv+Swish"]);
    net.nodes[2] = node("Mul", &["x", "s"], "z", vec![]);
    assert_eq!(net.same(&[1, 2, 3, 3], SINGLE), ["Conv+HardSigmoid", "Mul"]);
}

/// An inverted residual block: channels are made, each has a window, few are left, and the input is added.
fn block(dtype: DType, widens: bool, stride: i64) -> Net {
    let mut net = net(dtype, 13);
    net.number("none", 0.0);
    net.number("six", 6.0);
    for (name, shape) in [("w", &[7, 3, 1, 1][..]), ("b", &[7]), ("d", &[7, 1, 3, 3]), ("n", &[3, 7, 1, 1])] {
        net.weights(name, shape);
    }
    if widens {
        net.add("Conv", &["x", "w", "b"], "wide", vec![]);
        net.add("Clip", &["wide", "none", "six"], "made", vec![]);
    }
    let window = vec![int("group", 7), ints("pads", &[1, 1, 1, 1]), ints("strides", &[stride, stride])];
    net.add("Conv", &[if widens { "made" } else { "x" }, "d", "b"], "deep", window);
    net.add("Clip", &["deep", "none", "six"], "seen", vec![]);
    net.add("Conv", &["seen", "n"], "y", vec![]);
    net
}

#[test]
fn depthwise_separable_convolutions_are_one_step() {
    for dtype in [DType::F32, DType::F16] {
        let precision = if dtype == DType::F16 { 2e-2 } else { SINGLE };
        for stride in [1, 2] {
            let mut all = block(dtype, true, stride);
            assert_eq!(all.same(&[2, 3, 9, 8], precision), ["Conv+Clip+Conv+Clip+Conv"], "{dtype}");
            let mut two = block(dtype, false, stride);
            assert_eq!(two.same(&[1, 7, 9, 8], precision), ["Conv+Clip+Conv"], "{dtype}");
        }
        let mut added = block(dtype, true, 1);
        added.add("Add", &["y", "x"], "z", vec![]);
        assert_eq!(added.same(&[2, 3, 9, 8], precision), ["Conv+Clip+Conv+Clip+Conv+Add"], "{dtype}");
        // What is added may be repeated over the result.
        added.add("ReduceMax", &["x"], "r", vec![ints("axes", &[2])]);
        let row = added.nodes.pop().unwrap();
        added.nodes.insert(0, row);
        added.nodes[6].input[1] = "r".to_owned();
        assert_eq!(added.same(&[2, 3, 9, 8], precision), ["ReduceMax", "Conv+Clip+Conv+Clip+Conv+Add"]);
    }
    // Large enough for strips.
    let mut large = block(DType::F32, true, 1);
    large.add("Add", &["y", "x"], "z", vec![]);
    assert_eq!(large.same(&[3, 3, 240, 250], SINGLE), ["Conv+Clip+Conv+Clip+Conv+Add"]);
}

#[test]
fn other_convolutions_stay_apart() {
    // Another activation than bounds between them, a window that moves, one with more elements, and a second reader.
    let steps = |change: fn(&mut Net)| {
        let mut net = block(DType::F32, true, 1);
        change(&mut net);
        net.same(&[1, 3, 9, 8], SINGLE)
    };
    let two = ["Conv+Sigmoid", "Conv+Clip+Conv"];
    assert_eq!(steps(|net| net.nodes[1] = node("Sigmoid", &["wide"], "made", vec![])), two);
    let apart = ["Conv+Clip", "Conv+Sigmoid", "Conv"];
    assert_eq!(steps(|net| net.nodes[3] = node("Sigmoid", &["deep"], "seen", vec![])), apart);
    assert_eq!(
        steps(|net| net.nodes[4].attribute.push(ints("strides", &[2, 2]))),
        ["Conv+Clip+Conv+Clip+Conv"]
    );
    assert_eq!(
        steps(|net| net.add("Concat", &["y", "seen"], "z", vec![int("axis", 1)])),
        ["Conv+Clip", "Conv+Clip", "Conv", "Concat"]
    );
    let wide = |net: &mut Net| {
        net.weights("m", &[3, 7, 2, 2]);
        net.nodes[4].input[1] = "m".to_owned();
    };
    assert_eq!(steps(wide), ["Conv+Clip", "Conv+Clip", "Conv"]);
}

#[test]
fn weights_that_others_read_stay_as_they_are() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[2, 2, 1, 1]);
    net.add("Conv", &["x", "w"], "y", vec![]);
    net.normalise("y", "n", 2);
    net.add("Conv", &["n", "w"], "z", vec![]);
    net.normalise("z", "m", 2);
    net.add("Conv", &["m", "w"], "a", vec![]);
    let expected = ["Conv+BatchNormalization", "Conv+BatchNormalization", "Conv"];
    assert_eq!(net.same(&[1, 2, 3, 3], SINGLE), expected);
}

#[test]
fn weights_are_copied_a_few_times_only() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[2, 2, 8, 8]);
    let mut last = "x".to_owned();
    for at in 0..8 {
        net.add("Conv", &[&last, "w"], &format!("y{at}"), vec![ints("pads", &[4, 4, 3, 3])]);
        net.normalise(&format!("y{at}"), &format!("n{at}"), 2);
        last = format!("n{at}");
    }
    let graph = net.graph(&[&last]);
    let folded = graph.operators().iter().filter(|operator| operator.contains('+')).count();
    assert!((1..=2).contains(&folded), "{folded}");
}

#[test]
fn what_else_reads_a_value_keeps_it() {
    let chain = || {
        let mut net = net(DType::F32, 13);
        net.weights("w", &[2, 2, 1, 1]);
        net.add("Conv", &["x", "w"], "y", vec![]);
        net.normalise("y", "n", 2);
        net
    };
    // A node, twice an input of one, and a graph inside of a node.
    let mut second = chain();
    second.add("Add", &["n", "y"], "z", vec![]);
    assert_eq!(second.same(&[1, 2, 2, 2], SINGLE), ["Conv", "BatchNormalization", "Add"]);
    let mut twice = chain();
    twice.nodes.pop();
    twice.add("Mul", &["y", "y"], "z", vec![]);
    assert_eq!(twice.same(&[1, 2, 2, 2], SINGLE), ["Conv", "Mul"]);
    let mut inner = chain();
    let yes = write_tensor(&Tensor::from_bools(&[], vec![1]), "yes");
    inner.stored.push(yes);
    let branch = |name: &str| GraphProto {
        node: vec![node("Add", &[name, "y"], "t", vec![]), node("Relu", &["t"], "u", vec![])],
        output: vec![info("u", DType::F32, None)],
        ..GraphProto::default()
    };
    let branches =
        vec![graph_attribute("then_branch", branch("n")), graph_attribute("else_branch", branch("y"))];
    inner.add("If", &["yes"], "z", branches);
    assert_eq!(inner.same(&[1, 2, 2, 2], SINGLE), ["Conv", "BatchNormalization", "If"]);
}

#[test]
fn bodies_of_functions_are_put_together_with_what_is_around_them() {
    let mut net = net(DType::F32, 13);
    net.functions.push(FunctionProto {
        name: "Block".to_owned(),
        domain: "f".to_owned(),
        input: vec!["x".to_owned(), "w".to_owned()],
        output: vec!["y".to_owned()],
        node: vec![node("Conv", &["x", "w"], "c", vec![]), node("Relu", &["c"], "y", vec![])],
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        ..FunctionProto::default()
    });
    net.weights("w", &[2, 2, 1, 1]);
    net.nodes.push(NodeProto { domain: "f".to_owned(), ..node("Block", &["x", "w"], "y", vec![]) });
    net.add("LeakyRelu", &["y"], "z", vec![]);
    assert_eq!(net.graph(&["z"]).operators(), ["Conv+Relu", "LeakyRelu"]);
}

#[test]
fn statistics_of_a_training_and_operators_with_an_axis_stay() {
    let mut trains = net(DType::F32, 6);
    trains.weights("w", &[2, 2, 1, 1]);
    trains.add("Conv", &["x", "w"], "y", vec![]);
    trains.normalise("y", "n", 2);
    assert_eq!(trains.graph(&["n"]).operators(), ["Conv", "BatchNormalization"]);
    trains.nodes[1].attribute.push(int("is_test", 1));
    assert_eq!(trains.graph(&["n"]).operators(), ["Conv+BatchNormalization"]);
    let mut old = net(DType::F32, 6);
    old.weights("w", &[3, 2]);
    old.weights("b", &[4]);
    old.add("MatMul", &["x", "w"], "y", vec![]);
    old.add("Add", &["y", "b"], "z", vec![int("broadcast", 1), int("axis", 0)]);
    assert_eq!(old.same(&[4, 3], SINGLE), ["MatMul", "Add"]);
}

#[test]
fn factors_that_are_no_numbers_are_left_where_they_are() {
    let mut net = net(DType::F32, 13);
    net.weights("w", &[3, 2]);
    net.store("c", &[2], vec![0.0, 1.0]);
    net.add("MatMul", &["x", "w"], "y", vec![]);
    net.add("Div", &["y", "c"], "z", vec![]);
    assert_eq!(net.graph(&["z"]).operators(), ["MatMul", "Div"]);
    net.stored.pop();
    net.store("c", &[2], vec![4.0, 2.0]);
    assert_eq!(net.same(&[5, 3], SINGLE), ["MatMul+Div"]);
}
