//! Gradients of small graphs beside central differences, in FP64.
//!
//! The loss is a sum of all elements of the output, each times a number of its own, so that no two elements
//! can stand in for each other. Each graph is first computed by `Graph` too, which must agree.

#![expect(clippy::expect_used, clippy::panic, reason = "what a helper of a test cannot do is a failed test")]

mod builder;

use std::ops::Range;

use builder::Setting::{Float, Int, Ints, Text, Texts};
use builder::{Builder, numbers};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, FlexDevice, TensorMetadata};
use burn_autodiff::Autodiff;
use stoker_graph::{AnyValue, Argument, Data, Graph, Model, Network, Value};

type Recording = Autodiff<Flex>;

/// The distance of the two points of a difference. Its error is of the order of its square.
const DISTANCE: f64 = 1e-5;
/// How far a gradient may lie from the difference, relative to the gradient, or absolute below 1.
const TOLERANCE: f64 = 1e-6;

fn items(value: &Value) -> Vec<f64> {
    let Data::F64(items) = value.data() else { panic!("{} instead of FP64", value.dtype()) };
    items.clone()
}

/// The numbers of an answer that may be on the backend or on the host.
fn answer<B: Backend>(network: &Network<B>, argument: Argument<B>) -> Vec<f64> {
    match argument {
        Argument::Float(tensor) => items(&network.value(tensor).expect("FP64 numbers")),
        Argument::Value(AnyValue::Tensor(value)) => items(&value),
        Argument::Value(other) => panic!("no tensor: {other:?}"),
    }
}

/// What is computed of some numbers for inputs and parameters.
struct Case {
    plain: Network<Flex>,
    inputs: Vec<(String, Value)>,
    parameters: Vec<(String, Value)>,
}

impl Case {
    fn loss(&self) -> f64 {
        let inputs = self.inputs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let output = self.plain.run(inputs).expect("the graph runs").remove(0).1;
        weighted(&answer(&self.plain, output))
    }

    fn loss_at(&mut self, which: usize, at: usize, number: f64) -> f64 {
        let inputs = self.inputs.len();
        let changed = |value: &Value| {
            let mut all = items(value);
            all[at] = number;
            Value::new(value.shape().to_vec(), Data::F64(all)).expect("the same shape")
        };
        if which < inputs {
            let old = self.inputs[which].1.clone();
            self.inputs[which].1 = changed(&old);
            let loss = self.loss();
            self.inputs[which].1 = old;
            return loss;
        }
        let (name, old) = self.parameters[which - inputs].clone();
        self.set(&name, changed(&old));
        let loss = self.loss();
        self.set(&name, old);
        loss
    }

    fn set(&mut self, name: &str, value: Value) {
        let tensor = self.plain.tensor(value).expect("FP64 numbers");
        self.plain.set_parameter(name, tensor).expect("the same shape");
    }
}

fn weighted(output: &[f64]) -> f64 {
    output.iter().zip(numbers(99, output.len())).map(|(a, b)| a * b).sum()
}

/// Compares the gradients of all inputs and parameters, with input numbers in a range.
fn check(builder: &Builder, range: Range<f64>) {
    let model = Model::from_bytes(&builder.bytes("y")).expect("a model");
    let device = FlexDevice;
    let mut network = Network::<Recording>::new(&model, &device).expect("a network");
    let plain = Network::<Flex>::new(&model, &device).expect("a network");
    let names: Vec<String> = network.parameters().map(|info| info.name.clone()).collect();
    for name in &names {
        network.unfreeze(name).expect("a parameter");
    }
    let scaled = |x: f64| range.start + f64::midpoint(x, 1.0) * (range.end - range.start);
    let inputs: Vec<(String, Value)> = (50..)
        .zip(&builder.inputs)
        .map(|(seed, (name, shape))| {
            let all = numbers(seed, shape.iter().product()).into_iter().map(scaled).collect();
            (name.clone(), Value::new(shape.clone(), Data::F64(all)).expect("as many as the shape says"))
        })
        .collect();
    let parameters = names.iter().map(|name| {
        let tensor = plain.parameter(name).expect("a parameter").clone();
        (name.clone(), plain.value(tensor).expect("FP64 numbers"))
    });
    let parameters = parameters.collect();
    let mut case = Case { plain, inputs, parameters };

    // The same as the executor's.
    let graph = Graph::from_bytes(&builder.bytes("y")).expect("a graph");
    let wanted = graph.run(case.inputs.clone()).expect("the graph runs").remove(0).1;
    let loss = case.loss();
    assert!((loss - weighted(&items(&wanted))).abs() < 1e-9, "{loss}, and {wanted:?} by the graph");

    // What the backend records.
    let leaves: Vec<FloatTensor<Recording>> = case
        .inputs
        .iter()
        .map(|(_, value)| {
            let tensor = network.tensor(value.clone()).expect("FP64 numbers");
            Recording::float_set_require_grad(tensor, true)
        })
        .collect();
    let given = case.inputs.iter().zip(&leaves);
    let given = given.map(|((name, _), leaf)| (name.clone(), Argument::Float(leaf.clone()))).collect();
    let Argument::Float(output) = network.run(given).expect("the graph runs").remove(0).1 else {
        panic!("the output is not on the backend")
    };
    let count = output.shape().iter().product();
    let weights = Value::new(output.shape().iter().copied().collect(), Data::F64(numbers(99, count)));
    let weights = network.tensor(weights.expect("as many as the shape says")).expect("FP64 numbers");
    let loss = Recording::float_sum(Recording::float_mul(output, weights));
    let gradients = network.gradients(loss).expect("gradients");

    let of_inputs = case.inputs.iter().zip(&leaves);
    let of_inputs = of_inputs.map(|((name, value), leaf)| (name.clone(), value.clone(), gradients.of(leaf)));
    let of_parameters = case.parameters.iter();
    let of_parameters = of_parameters.map(|(name, value)| {
        let gradient = gradients.get(name).cloned();
        (name.clone(), value.clone(), gradient)
    });
    let all: Vec<(String, Value, Option<FloatTensor<Flex>>)> = of_inputs.chain(of_parameters).collect();
    let mut compared = 0;
    for (which, (name, value, gradient)) in all.into_iter().enumerate() {
        let all = items(&value);
        // Nothing depends on a number that is only compared with.
        let gradient = gradient.map_or_else(
            || vec![0.0; all.len()],
            |gradient| items(&case.plain.value(gradient).expect("FP64 numbers")),
        );
        assert_eq!(gradient.len(), all.len(), "{name}");
        for (at, (&number, &gradient)) in all.iter().zip(&gradient).enumerate() {
            let [above, below] = [DISTANCE, -DISTANCE].map(|by| case.loss_at(which, at, number + by));
            let difference = (above - below) / (2.0 * DISTANCE);
            let error = (gradient - difference).abs() / gradient.abs().max(1.0);
            assert!(error < TOLERANCE, "{name}[{at}]: {gradient} instead of {difference}");
            compared += usize::from(gradient != 0.0);
        }
    }
    assert!(compared > 0, "all gradients are zero");
}

macro_rules! graphs {
    ($($name:ident: $range:expr, $builder:expr;)*) => {$(
        #[test]
        fn $name() {
            check(&$builder, $range);
        }
    )*};
}

/// An input `x` of a shape.
fn of(shape: &[usize]) -> Builder {
    Builder::new(23).input("x", shape)
}

/// A chain of one node, of `x` alone.
fn unary(operator: &str, shape: &[usize], settings: &[(&str, builder::Setting<'_>)]) -> Builder {
    of(shape).node(operator, &["x"], &["y"], settings)
}

graphs! {
    perceptron: -1.0..1.0, of(&[3, 4])
        .weight("w1", &[5, 4]).weight("b1", &[5]).weight("w2", &[5, 3]).weight("b2", &[3])
        .node("Gemm", &["x", "w1", "b1"], &["h"], &[("transB", Int(1)), ("alpha", Float(0.5)), ("beta", Float(2.0))])
        .node("Relu", &["h"], &["r"], &[])
        .node("MatMul", &["r", "w2"], &["m"], &[])
        .node("Add", &["m", "b2"], &["s"], &[])
        .node("Softmax", &["s"], &["y"], &[]);
    broadcast_arithmetic: 0.5..2.0, of(&[2, 3])
        .weight("a", &[3]).weight("b", &[2, 1]).weight("c", &[]).weight("d", &[4, 1, 1])
        .node("Add", &["x", "a"], &["s"], &[])
        .node("Sub", &["s", "b"], &["t"], &[])
        .node("Mul", &["t", "c"], &["u"], &[])
        .node("Mul", &["u", "d"], &["v"], &[])
        .node("Div", &["v", "x"], &["y"], &[]);
    powers: 0.5..2.0, of(&[2, 3])
        .weight("p", &[3]).ints("three", &[], &[3]).weights("two", &[], &[2.0])
        .node("Pow", &["x", "p"], &["a"], &[])
        .node("Pow", &["x", "three"], &["b"], &[])
        .node("Pow", &["x", "two"], &["c"], &[])
        .node("Sum", &["a", "b", "c"], &["y"], &[]);
    extremes: -1.0..1.0, of(&[2, 3])
        .weight("a", &[3]).weight("b", &[2, 1]).weights("low", &[], &[-0.4]).weights("high", &[], &[0.3])
        .node("Max", &["x", "a"], &["m"], &[])
        .node("Min", &["m", "b", "x"], &["n"], &[])
        .node("Clip", &["x", "low", "high"], &["c"], &[])
        .node("Mean", &["m", "n", "c"], &["y"], &[]);
    smooth_functions: 0.1..0.9, {
        let names = ["Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Sin",
            "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Mish", "Gelu", "HardSwish"];
        let mut builder = of(&[2, 3]);
        let outputs: Vec<String> = names.iter().map(|name| format!("of {name}")).collect();
        for (name, output) in names.iter().zip(&outputs) {
            builder = builder.node(name, &["x"], &[output], &[]);
        }
        let parts: Vec<&str> = outputs.iter().map(String::as_str).collect();
        builder.node("Concat", &parts, &["y"], &[("axis", Int(0))])
    };
    functions_with_branches: -3.0..3.0, {
        let settings: &[(&str, &[(&str, builder::Setting<'_>)])] = &[
            ("Relu", &[]), ("Abs", &[]), ("Neg", &[]), ("LeakyRelu", &[("alpha", Float(0.25))]),
            ("Elu", &[("alpha", Float(0.5))]), ("Selu", &[]), ("Celu", &[("alpha", Float(2.0))]),
            ("HardSigmoid", &[]), ("HardSwish", &[]), ("Shrink", &[("bias", Float(0.25))]),
            ("ThresholdedRelu", &[("alpha", Float(0.5))]), ("Gelu", &[("approximate", Text("tanh"))]),
            ("Softplus", &[]), ("Sigmoid", &[]),
        ];
        let mut builder = of(&[4, 3]);
        let outputs: Vec<String> = settings.iter().map(|(name, _)| format!("of {name}")).collect();
        for ((name, settings), output) in settings.iter().zip(&outputs) {
            builder = builder.node(name, &["x"], &[output], settings);
        }
        let parts: Vec<&str> = outputs.iter().map(String::as_str).collect();
        builder.node("Concat", &parts, &["y"], &[("axis", Int(1))])
    };
    slopes: -1.0..1.0, of(&[2, 3, 4]).weight("slope", &[3, 1]).node("PRelu", &["x", "slope"], &["y"], &[]);
    swish: -2.0..2.0, Builder::new(24).input("x", &[2, 3]).node("Swish", &["x"], &["y"], &[("alpha", Float(1.5))]);
    convolution_in_groups: -1.0..1.0, of(&[2, 4, 6, 5])
        .weight("w", &[6, 2, 3, 2]).weight("b", &[6])
        .node("Conv", &["x", "w", "b"], &["y"], &[("group", Int(2)), ("strides", Ints(&[2, 1])),
            ("pads", Ints(&[1, 0, 2, 1])), ("dilations", Ints(&[1, 2]))]);
    convolution_with_a_stride_that_leaves_out: -1.0..1.0, of(&[1, 2, 6, 6])
        .weight("w", &[3, 2, 3, 3])
        .node("Conv", &["x", "w"], &["y"], &[("strides", Ints(&[2, 2])), ("pads", Ints(&[0, 1, 0, 1]))]);
    depthwise_convolution: -1.0..1.0, of(&[2, 3, 5, 5]).weight("w", &[3, 1, 3, 3]).weight("b", &[3])
        .node("Conv", &["x", "w", "b"], &["y"], &[("group", Int(3)), ("pads", Ints(&[1, 1, 1, 1]))]);
    convolution_of_a_line: -1.0..1.0, of(&[2, 2, 7]).weight("w", &[3, 2, 4]).weight("b", &[3])
        .node("Conv", &["x", "w", "b"], &["y"], &[("auto_pad", Text("SAME_UPPER")), ("strides", Ints(&[2]))]);
    convolution_of_a_volume: -1.0..1.0, of(&[1, 2, 4, 3, 4]).weight("w", &[2, 2, 2, 2, 3]).weight("b", &[2])
        .node("Conv", &["x", "w", "b"], &["y"], &[("pads", Ints(&[1, 0, 0, 0, 1, 1]))]);
    convolution_of_a_volume_with_strides: -1.0..1.0, of(&[1, 2, 4, 6, 5]).weight("w", &[2, 1, 2, 3, 2])
        .node("Conv", &["x", "w"], &["y"], &[("group", Int(2)), ("strides", Ints(&[2, 2, 1])),
            ("pads", Ints(&[0, 1, 1, 0, 1, 1])), ("dilations", Ints(&[1, 1, 2]))]);
    transposed_convolution: -1.0..1.0, of(&[1, 4, 3, 3]).weight("w", &[4, 2, 3, 3]).weight("b", &[4])
        .node("ConvTranspose", &["x", "w", "b"], &["y"], &[("group", Int(2)), ("strides", Ints(&[2, 3])),
            ("pads", Ints(&[1, 0, 0, 1])), ("output_padding", Ints(&[1, 2]))]);
    transposed_convolution_of_a_line: -1.0..1.0, of(&[2, 2, 4]).weight("w", &[2, 3, 3]).weight("b", &[3])
        .node("ConvTranspose", &["x", "w", "b"], &["y"], &[("strides", Ints(&[2])), ("dilations", Ints(&[2]))]);
    largest_of_windows: -1.0..1.0, unary("MaxPool", &[2, 2, 5, 6], &[("kernel_shape", Ints(&[3, 2])),
        ("strides", Ints(&[2, 2])), ("pads", Ints(&[1, 0, 1, 1])), ("ceil_mode", Int(1))]);
    largest_of_windows_over_a_volume: -1.0..1.0, unary("MaxPool", &[1, 2, 4, 4, 4],
        &[("kernel_shape", Ints(&[2, 3, 2])), ("strides", Ints(&[2, 1, 1])), ("dilations", Ints(&[1, 1, 2]))]);
    largest_of_windows_over_a_line: -1.0..1.0, unary("MaxPool", &[2, 2, 7],
        &[("kernel_shape", Ints(&[3])), ("strides", Ints(&[2])), ("pads", Ints(&[1, 1]))]);
    mean_of_windows: -1.0..1.0, unary("AveragePool", &[2, 2, 5, 6], &[("kernel_shape", Ints(&[3, 3])),
        ("strides", Ints(&[2, 2])), ("pads", Ints(&[1, 0, 1, 1])), ("ceil_mode", Int(1))]);
    mean_of_windows_and_padding: -1.0..1.0, unary("AveragePool", &[1, 2, 4, 5, 3],
        &[("kernel_shape", Ints(&[2, 3, 2])), ("pads", Ints(&[1, 1, 0, 0, 1, 1])), ("count_include_pad", Int(1))]);
    global_pools: -1.0..1.0, of(&[2, 3, 4, 4])
        .node("GlobalAveragePool", &["x"], &["a"], &[])
        .node("GlobalMaxPool", &["x"], &["m"], &[])
        .node("Mul", &["a", "m"], &["y"], &[]);
    batch_normalisation: -1.0..1.0, of(&[2, 3, 4]).weight("s", &[3]).weight("b", &[3]).weight("m", &[3])
        .weights("v", &[3], &[0.5, 1.5, 0.9])
        .node("BatchNormalization", &["x", "s", "b", "m", "v"], &["y"], &[]);
    batch_normalisation_in_training: -1.0..1.0, of(&[3, 2, 4]).weight("s", &[2]).weight("b", &[2]).weight("m", &[2])
        .weights("v", &[2], &[0.5, 1.5])
        .node("BatchNormalization", &["x", "s", "b", "m", "v"], &["n", "rm", "rv"], &[("training_mode", Int(1))])
        .node("Add", &["rm", "rv"], &["r"], &[])
        .node("Unsqueeze", &["r", "last"], &["column"], &[])
        .ints("last", &[1], &[1])
        .node("Add", &["n", "column"], &["y"], &[]);
    layer_normalisation: -1.0..1.0, of(&[2, 3, 4]).weight("s", &[4]).weight("b", &[4])
        .node("LayerNormalization", &["x", "s", "b"], &["y"], &[("epsilon", Float(0.01))]);
    root_mean_square_normalisation: -1.0..1.0, of(&[2, 3, 4]).weight("s", &[3, 4])
        .node("RMSNormalization", &["x", "s"], &["y"], &[("axis", Int(1))]);
    instance_normalisation: -1.0..1.0, of(&[2, 3, 2, 4]).weight("s", &[3]).weight("b", &[3])
        .node("InstanceNormalization", &["x", "s", "b"], &["y"], &[]);
    group_normalisation: -1.0..1.0, of(&[2, 4, 3]).weight("s", &[4]).weight("b", &[4])
        .node("GroupNormalization", &["x", "s", "b"], &["y"], &[("num_groups", Int(2))]);
    other_normalisations: -1.0..1.0, of(&[2, 3, 2, 2])
        .node("MeanVarianceNormalization", &["x"], &["m"], &[])
        .node("LpNormalization", &["x"], &["l2"], &[("axis", Int(1))])
        .node("LpNormalization", &["x"], &["l1"], &[("axis", Int(-1)), ("p", Int(1))])
        .node("LRN", &["x"], &["r"], &[("size", Int(3)), ("alpha", Float(0.5))])
        .node("Concat", &["m", "l2", "l1", "r"], &["y"], &[("axis", Int(0))]);
    attention_by_hand: -1.0..1.0, of(&[2, 3, 4])
        .weight("wq", &[4, 4]).weight("wk", &[4, 4]).weight("wv", &[4, 4]).weights("root", &[], &[2.0])
        .node("MatMul", &["x", "wq"], &["q"], &[])
        .node("MatMul", &["x", "wk"], &["k"], &[])
        .node("MatMul", &["x", "wv"], &["v"], &[])
        .node("Transpose", &["k"], &["kt"], &[("perm", Ints(&[0, 2, 1]))])
        .node("MatMul", &["q", "kt"], &["s"], &[])
        .node("Div", &["s", "root"], &["d"], &[])
        .node("Softmax", &["d"], &["p"], &[("axis", Int(-1))])
        .node("MatMul", &["p", "v"], &["y"], &[]);
    attention_with_shared_heads: -1.0..1.0, of(&[2, 3, 8]).input("k", &[2, 5, 4]).input("v", &[2, 5, 4])
        .weight("mask", &[3, 5])
        .node("Attention", &["x", "k", "v", "mask"], &["y"], &[("q_num_heads", Int(4)), ("kv_num_heads", Int(2)),
            ("is_causal", Int(1)), ("softcap", Float(1.5))]);
    attention_with_truths: -1.0..1.0, of(&[1, 2, 3, 4]).input("k", &[1, 2, 3, 4]).input("v", &[1, 2, 3, 2])
        .truths("mask", &[3, 3], &[true, true, false, false, false, false, false, true, true])
        .node("Attention", &["x", "k", "v", "mask"], &["y"], &[("scale", Float(0.7))]);
    lstm: -1.0..1.0, of(&[4, 2, 3])
        .weight("w", &[2, 8, 3]).weight("r", &[2, 8, 2]).weight("b", &[2, 16])
        .weight("h", &[2, 2, 2]).weight("c", &[2, 2, 2]).weight("p", &[2, 6])
        .short_ints("lengths", &[2], &[4, 2])
        .node("LSTM", &["x", "w", "r", "b", "lengths", "h", "c", "p"], &["all", "last", "memory"],
            &[("direction", Text("bidirectional")), ("hidden_size", Int(2))])
        .node("Add", &["last", "memory"], &["both"], &[])
        .node("Add", &["all", "both"], &["y"], &[]);
    gru: -1.0..1.0, of(&[3, 2, 3])
        .weight("w", &[1, 6, 3]).weight("r", &[1, 6, 2]).weight("b", &[1, 12])
        .node("GRU", &["x", "w", "r", "b"], &["y"], &[("hidden_size", Int(2))]);
    gru_with_a_late_reset: -1.0..1.0, of(&[2, 3, 3])
        .weight("w", &[1, 6, 3]).weight("r", &[1, 6, 2]).weight("b", &[1, 12])
        .node("GRU", &["x", "w", "r", "b"], &["", "y"], &[("hidden_size", Int(2)), ("linear_before_reset", Int(1)),
            ("layout", Int(1)), ("direction", Text("reverse"))]);
    plain_recurrence: -1.0..1.0, of(&[3, 2, 2]).weight("w", &[1, 2, 2]).weight("r", &[1, 2, 2])
        .node("RNN", &["x", "w", "r"], &["y"], &[("hidden_size", Int(2)), ("activations", Texts(&["Softsign"]))]);
    gathered: -1.0..1.0, of(&[2, 3]).weight("table", &[5, 3])
        .ints("rows", &[2, 2], &[4, 0, -1, 4]).ints("cells", &[2, 2], &[2, 0, 0, -2]).ints("pairs", &[2, 2], &[0, 1, 1, 1])
        .node("Gather", &["table", "rows"], &["g"], &[])
        .node("GatherElements", &["x", "cells"], &["e"], &[("axis", Int(1))])
        .node("GatherND", &["x", "pairs"], &["n"], &[])
        .node("Unsqueeze", &["e", "last"], &["e3"], &[]).ints("last", &[1], &[-1])
        .node("Mul", &["g", "e3"], &["p"], &[])
        .node("Reshape", &["n", "to"], &["n3"], &[]).ints("to", &[3], &[2, -1, 1])
        .node("Mul", &["p", "n3"], &["y"], &[]);
    moved: -1.0..1.0, of(&[2, 3, 4]).weight("fill", &[])
        .ints("starts", &[2], &[-1, 0]).ints("ends", &[2], &[-5, 3]).ints("axes", &[2], &[2, 1]).ints("steps", &[2], &[-2, 2])
        .node("Slice", &["x", "starts", "ends", "axes", "steps"], &["s"], &[])
        .ints("pads", &[6], &[1, 0, 0, 0, 1, 2])
        .node("Pad", &["s", "pads", "fill"], &["p"], &[])
        .ints("repeats", &[3], &[1, 2, 1])
        .node("Tile", &["p", "repeats"], &["t"], &[])
        .node("Transpose", &["t"], &["y"], &[]);
    mirrored: -1.0..1.0, of(&[3, 4]).ints("pads", &[4], &[1, 2, 0, 1])
        .node("Pad", &["x", "pads"], &["p"], &[("mode", Text("reflect"))])
        .node("Trilu", &["p"], &["y"], &[("upper", Int(0))]);
    divided_and_joined: -1.0..1.0, of(&[2, 5]).weight("w", &[2, 1]).ints("sizes", &[2], &[2, 3])
        .node("Split", &["x", "sizes"], &["a", "b"], &[("axis", Int(1))])
        .node("Concat", &["b", "w", "a", "b"], &["c"], &[("axis", Int(-1))])
        .node("Flatten", &["c"], &["f"], &[("axis", Int(0))])
        .node("Squeeze", &["f"], &["y"], &[]);
    chosen: -1.0..1.0, of(&[2, 3]).weight("w", &[3]).weights("zero", &[], &[0.0])
        .node("Greater", &["x", "zero"], &["positive"], &[])
        .node("Where", &["positive", "x", "w"], &["c"], &[])
        .ints("shape", &[3], &[2, 2, 3])
        .node("Expand", &["c", "shape"], &["y"], &[]);
    scattered: -1.0..1.0, of(&[3, 3]).weight("u", &[2, 2]).ints("at", &[2, 2], &[2, 0, 1, 1])
        .node("ScatterElements", &["x", "at", "u"], &["s"], &[])
        .ints("rows", &[1, 1], &[1]).weight("row", &[1, 3])
        .node("ScatterND", &["s", "rows", "row"], &["y"], &[]);
    blocks: -1.0..1.0, of(&[1, 4, 2, 3])
        .node("DepthToSpace", &["x"], &["d"], &[("blocksize", Int(2))])
        .ints("sizes", &[4], &[1, 1, 3, 9])
        .node("Resize", &["d", "", "", "sizes"], &["y"], &[("mode", Text("nearest"))]);
    best: -1.0..1.0, of(&[3, 5]).ints("k", &[1], &[2])
        .node("TopK", &["x", "k"], &["y", "where"], &[("axis", Int(1))]);
    reductions: 0.2..1.5, {
        let kinds = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"];
        let mut builder = of(&[2, 3, 4]).ints("axes", &[2], &[0, -1]);
        let outputs: Vec<String> = kinds.iter().map(|kind| format!("of {kind}")).collect();
        for (kind, output) in kinds.iter().zip(&outputs) {
            builder = builder.node(&format!("Reduce{kind}"), &["x", "axes"], &[output], &[("keepdims", Int(0))]);
        }
        let parts: Vec<&str> = outputs.iter().map(String::as_str).collect();
        builder.node("Concat", &parts, &["y"], &[("axis", Int(0))])
    };
    products_with_zeros: -1.0..1.0, of(&[2, 5]).weights("w", &[5], &[1.0, 0.0, 2.0, 0.0, 3.0]).weights("v", &[5], &[1.0, 0.0, 2.0, 3.0, 4.0])
        .ints("axes", &[1], &[0])
        .node("ReduceProd", &["w", "axes"], &["one"], &[])
        .node("ReduceProd", &["v", "axes"], &["two"], &[])
        .node("Add", &["one", "two"], &["w1"], &[])
        .node("Add", &["x", "w1"], &["y"], &[]);
    running_sums: -1.0..1.0, of(&[2, 4]).ints("axis", &[], &[1])
        .node("CumSum", &["x", "axis"], &["y"], &[("reverse", Int(1)), ("exclusive", Int(1))]);
    sums_by_equations: -1.0..1.0, of(&[2, 3, 3]).weight("w", &[4, 3]).weight("m", &[3, 3])
        .node("Einsum", &["x", "w"], &["p"], &[("equation", Text("bij,kj->bki"))])
        .node("Einsum", &["m"], &["d"], &[("equation", Text("ii->i"))])
        .node("Einsum", &["p", "d", "x"], &["y"], &[("equation", Text("bki,i,bij->kj"))]);
    logarithms_of_shares: -2.0..2.0, Builder::new(11).input("x", &[2, 3, 2])
        .node("LogSoftmax", &["x"], &["y"], &[("axis", Int(1))]);
    cross_entropy: -1.0..1.0, of(&[4, 3]).weight("w", &[3]).ints("classes", &[4], &[2, 0, 1, 2])
        .node("Abs", &["w"], &["positive"], &[])
        .node("SoftmaxCrossEntropyLoss", &["x", "classes", "positive"], &["y"], &[("ignore_index", Int(1))]);
    negative_likelihood: -1.0..1.0, of(&[2, 3, 2]).ints("classes", &[2, 2], &[2, 0, 1, 2])
        .node("NegativeLogLikelihoodLoss", &["x", "classes"], &["y"], &[("reduction", Text("none"))]);
    vectors_and_stacks: -1.0..1.0, of(&[2, 3, 4]).weight("v", &[4]).weight("u", &[2]).weight("s", &[5, 1, 4, 3])
        .node("MatMul", &["x", "v"], &["a"], &[])
        .node("MatMul", &["u", "a"], &["b"], &[])
        .node("MatMul", &["x", "s"], &["c"], &[])
        .node("Mul", &["b", "c"], &["y"], &[]);
    rounded_numbers_are_constants: 0.1..0.9, of(&[2, 3]).weights("ten", &[], &[10.0])
        .node("Mul", &["x", "ten"], &["m"], &[])
        .node("Floor", &["x"], &["f"], &[])
        .node("Shape", &["x"], &["shape"], &[])
        .node("Add", &["m", "f"], &["s"], &[])
        .node("Reshape", &["s", "shape"], &["y"], &[]);
}
