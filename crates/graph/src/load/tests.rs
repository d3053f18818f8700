//! What a file from a stranger can do at load: be refused, with a message that says why. Never more.

use proptest::prelude::*;
use prost::Message;

use super::{MAX_DEPTH, MAX_NODES};
use crate::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    SparseTensorProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    TypeValue, ValueInfoProto,
};
use crate::{AnyValue, Data, Graph, Limits, LoadError, Model, RunError, Value};

/// A node with names for its inputs and outputs.
pub(crate) fn node(domain: &str, operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        domain: domain.to_owned(),
        op_type: operator.to_owned(),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

/// A tensor with the element type of this number and one free dimension.
pub(crate) fn tensor_info(name: &str, elem_type: i32, rank: usize) -> ValueInfoProto {
    let shape = Some(TensorShapeProto { dim: vec![DimensionProto::default(); rank] });
    let value = Some(TypeValue::Tensor(TensorTypeProto { elem_type, shape }));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.to_owned(), r#type, ..ValueInfoProto::default() }
}

pub(crate) fn model(nodes: Vec<NodeProto>, input: &str, output: &str) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
    ModelProto {
        opset_import: vec![import("", 21), import("com.example", 1)],
        graph: Some(GraphProto {
            node: nodes,
            input: vec![tensor_info(input, 1, 1)],
            output: vec![tensor_info(output, 1, 1)],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// A graph of one chain: each operator reads the output of the one before.
fn chain_model(operators: &[(&str, &str)]) -> ModelProto {
    let nodes = operators.iter().enumerate().map(|(position, (domain, operator))| NodeProto {
        name: format!("node {position}"),
        ..node(domain, operator, &[&format!("v{position}")], &[&format!("v{}", position + 1)])
    });
    model(nodes.collect(), "v0", &format!("v{}", operators.len()))
}

fn chain(operators: &[(&str, &str)]) -> Vec<u8> {
    chain_model(operators).encode_to_vec()
}

/// The chain of one `Relu` with an initialiser beside it.
fn with_weights(weights: TensorProto) -> Vec<u8> {
    let mut model = chain_model(&[("", "Relu")]);
    model.graph.as_mut().unwrap().initializer.push(TensorProto { name: "weights".to_owned(), ..weights });
    model.encode_to_vec()
}

fn refusal(bytes: &[u8]) -> LoadError {
    Graph::from_bytes(bytes).expect_err("the file must be refused")
}

#[test]
fn a_chain_of_known_operators_loads() {
    let graph = Graph::from_bytes(&chain(&[("", "Relu"), ("", "Exp")])).unwrap();
    assert_eq!(graph.inputs()[0].name, "v0");
    assert_eq!(graph.outputs()[0].shape, [None]);
    assert!(graph.batch_axis());
}

#[test]
fn all_unsupported_operators_are_named_at_once() {
    let error =
        refusal(&chain(&[("", "Relu"), ("", "ImageDecoder"), ("com.example", "Magic"), ("", "Unheard")]));
    let LoadError::Unsupported { operators } = &error else { panic!("{error}") };
    let named: Vec<_> = operators.iter().map(|o| (&*o.node, &*o.operator, &*o.domain, o.opset)).collect();
    assert_eq!(
        named,
        [
            ("node 1", "ImageDecoder", "ai.onnx", 21),
            ("node 2", "Magic", "com.example", 1),
            ("node 3", "Unheard", "ai.onnx", 21),
        ]
    );
    let text = error.to_string();
    for word in ["3 operator(s)", "ImageDecoder", "com.example::Magic (opset 1) at node `node 2`", "Unheard"]
    {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

#[test]
fn a_domain_that_is_not_imported_is_named_too() {
    let LoadError::Unsupported { operators } = refusal(&chain(&[("org.other", "X")])) else { panic!() };
    assert_eq!((&*operators[0].domain, operators[0].opset), ("org.other", 0));
}

#[test]
fn files_that_are_not_onnx_are_refused() {
    assert!(matches!(refusal(b""), LoadError::NotOnnx { reason } if reason.contains("empty")));
    assert!(matches!(refusal(b"hello, I am not a model"), LoadError::NotOnnx { .. }));
    assert!(matches!(refusal(&[0xff; 64]), LoadError::NotOnnx { .. }));
    // A message with other fields only is valid protobuf, but holds no graph.
    assert!(matches!(refusal(&[0x08, 0x07]), LoadError::NotOnnx { reason } if reason.contains("no graph")));
    let missing = Graph::from_file("no/such/file.onnx".as_ref()).unwrap_err();
    assert!(missing.to_string().contains("no/such/file.onnx"), "{missing}");
}

#[test]
fn a_node_that_draws_makes_the_graph_random_wherever_it_stands() {
    let deterministic = |bytes: &[u8]| Graph::from_bytes(bytes).unwrap().is_deterministic();
    assert!(deterministic(&chain(&[("", "Relu"), ("", "Exp")])));
    // Without a mask and without a switch it does nothing.
    assert!(deterministic(&chain(&[("", "Dropout"), ("", "Exp")])));
    for operator in ["RandomNormalLike", "RandomUniformLike", "Bernoulli"] {
        assert!(!deterministic(&chain(&[("", "Relu"), ("", operator)])), "{operator}");
    }
    let mut seeded = chain_model(&[("", "Bernoulli")]);
    let seed = AttributeProto { f: Some(1.0), ..attribute("seed") };
    seeded.graph.as_mut().unwrap().node[0].attribute.push(seed);
    assert!(!deterministic(&seeded.encode_to_vec()));

    let within = |operator: &str| {
        let branch = |operator: &str| GraphProto {
            node: vec![node("", operator, &["x"], &["inner"])],
            output: vec![tensor_info("inner", 1, 1)],
            ..GraphProto::default()
        };
        let mut choice = node("", "If", &["yes"], &["y"]);
        for (name, operator) in [("then_branch", operator), ("else_branch", "Relu")] {
            choice.attribute.push(AttributeProto { g: Some(Box::new(branch(operator))), ..attribute(name) });
        }
        let mut model = model(vec![choice], "x", "y");
        model.graph.as_mut().unwrap().input.push(tensor_info("yes", 9, 0));
        model.encode_to_vec()
    };
    assert!(deterministic(&within("Exp")));
    assert!(!deterministic(&within("Bernoulli")));
}

#[test]
fn a_graph_that_reads_what_nobody_gives_is_invalid() {
    let mut model = chain_model(&[("", "Relu"), ("", "Exp")]);
    model.graph.as_mut().unwrap().node[1].input[0] = "ghost".to_owned();
    let error = refusal(&model.encode_to_vec());
    assert!(
        matches!(&error, LoadError::Invalid { node, reason } if node == "node 1" && reason.contains("ghost")),
        "{error}"
    );
    let mut twice = chain_model(&[("", "Relu"), ("", "Exp")]);
    twice.graph.as_mut().unwrap().node[1].output[0] = "v1".to_owned();
    assert!(matches!(refusal(&twice.encode_to_vec()), LoadError::Invalid { .. }));
}

/// One number in another file.
fn outside(location: &str) -> TensorProto {
    let location = StringStringEntryProto { key: "location".to_owned(), value: location.to_owned() };
    let (dims, external_data) = (vec![1], vec![location]);
    TensorProto { data_type: 1, dims, external_data, data_location: Some(1), ..TensorProto::default() }
}

#[test]
fn weights_outside_of_the_file_are_not_followed_without_a_folder() {
    let error = refusal(&with_weights(outside("/etc/hostname")));
    assert!(matches!(&error, LoadError::UnsupportedValue { name, .. } if name == "weights"), "{error}");
}

#[test]
fn weights_are_read_from_the_folder_of_the_model_and_from_nowhere_else() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("weights.bin"), 1.5f32.to_le_bytes()).unwrap();
    std::fs::write(folder.join("short.bin"), [0; 3]).unwrap();
    std::fs::write(around.path().join("secret.bin"), [0; 4]).unwrap();
    std::os::unix::fs::symlink("../secret.bin", folder.join("link.bin")).unwrap();
    let load =
        |location: &str| Model::from_bytes_in(&with_weights(outside(location)), &folder).unwrap().graph();
    load("weights.bin").unwrap();
    load("./weights.bin").unwrap();
    for location in ["../secret.bin", "link.bin", "/etc/hostname", "", ".", "gone.bin", "short.bin"] {
        let error = load(location).expect_err(location);
        assert!(
            matches!(&error, LoadError::Invalid { node, .. } if node == "weights"),
            "{location}: {error}"
        );
    }
}

#[test]
fn weights_that_are_cut_short_are_invalid() {
    let dims = vec![1 << 40, 1 << 40];
    let weights = TensorProto { data_type: 1, dims, ..TensorProto::default() };
    assert!(matches!(refusal(&with_weights(weights)), LoadError::Invalid { .. }));
}

#[test]
fn elements_of_less_than_a_byte_must_fill_their_bytes() {
    let stored = |bytes: usize| {
        let raw_data = Some(vec![0x21; bytes]);
        // 22 is a signed number of 4 bits: three of them take two bytes.
        with_weights(TensorProto { data_type: 22, dims: vec![3], raw_data, ..TensorProto::default() })
    };
    Graph::from_bytes(&stored(2)).unwrap();
    for bytes in [0, 1, 3] {
        assert!(matches!(refusal(&stored(bytes)), LoadError::Invalid { .. }), "{bytes}");
    }
}

pub(crate) fn attribute(name: &str) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ..AttributeProto::default() }
}

/// A loop of `rounds` rounds that doubles its input and collects it when `collects`.
fn doubling(rounds: i64, collects: bool) -> Vec<u8> {
    let mut body = GraphProto {
        node: vec![node("", "Add", &["x", "x"], &["y"]), node("", "Identity", &["go"], &["on"])],
        input: vec![tensor_info("i", 7, 0), tensor_info("go", 9, 0), tensor_info("x", 1, 1)],
        output: vec![tensor_info("on", 9, 0), tensor_info("y", 1, 1)],
        ..GraphProto::default()
    };
    let mut repeat = node("", "Loop", &["rounds", "", "v0"], &["v1"]);
    if collects {
        body.output.push(tensor_info("y", 1, 1));
        repeat.output.push("all".to_owned());
    }
    repeat.attribute.push(AttributeProto { g: Some(Box::new(body)), ..attribute("body") });
    let mut model = model(vec![repeat], "v0", "v1");
    let graph = model.graph.as_mut().unwrap();
    graph.initializer.push(TensorProto {
        name: "rounds".to_owned(),
        data_type: 7,
        int64_data: vec![rounds],
        ..TensorProto::default()
    });
    if collects {
        graph.output.push(tensor_info("all", 1, 2));
    }
    model.encode_to_vec()
}

fn one_number() -> Vec<(String, AnyValue)> {
    vec![("v0".to_owned(), AnyValue::Tensor(Value::new(vec![1], Data::F32(vec![1.0])).unwrap()))]
}

#[test]
fn a_loop_runs_as_often_as_it_says() {
    let graph = Graph::from_bytes(&doubling(3, true)).unwrap();
    let answer = graph.run_any(one_number(), Limits::default()).unwrap();
    let numbers = |at: usize| match &answer[at].1 {
        AnyValue::Tensor(value) => (value.shape().to_vec(), value.data().clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(numbers(0), (vec![1], Data::F32(vec![8.0])));
    assert_eq!(numbers(1), (vec![3, 1], Data::F32(vec![2.0, 4.0, 8.0])));
}

#[test]
fn a_loop_without_end_is_ended_and_so_is_one_that_collects_too_much() {
    for collects in [false, true] {
        let graph = Graph::from_bytes(&doubling(1 << 60, collects)).unwrap();
        let error = graph.run_any(one_number(), Limits { rounds: 1000, ..Limits::default() }).unwrap_err();
        assert!(
            matches!(&error, RunError::Node { op, reason, .. } if op == "Loop" && reason.contains("any more often")),
            "{error}"
        );
    }
    let graph = Graph::from_bytes(&doubling(1 << 60, false)).unwrap();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 10;
    let limits = Limits { stop: Some(&stop), ..Limits::default() };
    assert_eq!(graph.run_any(one_number(), limits).unwrap_err(), RunError::Stopped);
}

#[test]
fn what_a_loop_collects_is_counted() {
    let graph = Graph::from_bytes(&doubling(1000, true)).unwrap();
    let run = |memory: u64| graph.run_any(one_number(), Limits { memory, ..Limits::default() });
    // A thousand tensors of four bytes, and what stands beside them.
    run(20_000).unwrap();
    let error = run(2000).unwrap_err();
    assert!(
        matches!(&error, RunError::Node { op, reason, .. } if op == "Loop" && reason.contains("the 2000 allowed")),
        "{error}"
    );
}

#[test]
fn graphs_inside_of_graphs_are_followed_to_a_depth() {
    let nested = |depth: usize| {
        let mut inner = node("", "Relu", &["v0"], &["y"]);
        for _ in 0..depth {
            let branch = GraphProto {
                node: vec![inner],
                output: vec![tensor_info("y", 1, 1)],
                ..GraphProto::default()
            };
            let other = GraphProto { node: vec![node("", "Relu", &["v0"], &["y"])], ..branch.clone() };
            let mut outer = node("", "If", &["yes"], &["y"]);
            for (name, graph) in [("then_branch", branch), ("else_branch", other)] {
                outer.attribute.push(AttributeProto { g: Some(Box::new(graph)), ..attribute(name) });
            }
            inner = outer;
        }
        let mut model = model(vec![inner], "v0", "y");
        model.graph.as_mut().unwrap().initializer.push(TensorProto {
            name: "yes".to_owned(),
            data_type: 9,
            int32_data: vec![1],
            ..TensorProto::default()
        });
        model.encode_to_vec()
    };
    let graph = Graph::from_bytes(&nested(3)).unwrap();
    graph.run_any(one_number(), Limits::default()).unwrap();
    let refused = refusal(&nested(30)).to_string();
    assert!(
        refused.contains("depth") || refused.contains("nodes") || refused.contains("recursion"),
        "{refused}"
    );
}

/// A function that calls another one twice, and so on.
fn doubling_functions(depth: usize) -> Vec<u8> {
    let import = || vec![OperatorSetIdProto { domain: "f".to_owned(), version: 1 }];
    let function = |level: usize| {
        let called = format!("f{}", level + 1);
        let last = level + 1 == depth;
        let call = |input: &str, output: &str| {
            if last { node("", "Relu", &[input], &[output]) } else { node("f", &called, &[input], &[output]) }
        };
        FunctionProto {
            name: format!("f{level}"),
            domain: "f".to_owned(),
            input: vec!["x".to_owned()],
            output: vec!["y".to_owned()],
            node: vec![call("x", "t"), call("t", "y")],
            opset_import: import(),
            ..FunctionProto::default()
        }
    };
    let mut model = model(vec![node("f", "f0", &["v0"], &["v1"])], "v0", "v1");
    model.functions = (0..depth).map(function).collect();
    model.opset_import.extend(import());
    model.encode_to_vec()
}

#[test]
fn functions_are_put_in_and_those_that_grow_too_large_are_refused() {
    let graph = Graph::from_bytes(&doubling_functions(3)).unwrap();
    graph.run_any(one_number(), Limits::default()).unwrap();
    for depth in [18, MAX_DEPTH + 1] {
        let error = refusal(&doubling_functions(depth));
        assert!(matches!(&error, LoadError::TooLarge { .. }), "{depth}: {error}");
    }
    // One that calls itself is as deep as it may be.
    let mut own = ModelProto::decode(&*doubling_functions(1)).unwrap();
    own.functions[0].node[0] = node("f", "f0", &["x"], &["t"]);
    assert!(matches!(refusal(&own.encode_to_vec()), LoadError::TooLarge { .. }));
}

#[test]
fn what_functions_copy_is_bounded() {
    let holder = AttributeProto { ref_attr_name: "big".to_owned(), ..attribute("value") };
    let constant = |at: usize| NodeProto {
        attribute: vec![holder.clone()],
        ..node("", "Constant", &[], &[&format!("c{at}")])
    };
    let mut nodes: Vec<NodeProto> = (0..1000).map(constant).collect();
    nodes.push(node("", "Relu", &["x"], &["y"]));
    let raw_data = Some(vec![0; 1 << 20]);
    let big = TensorProto { data_type: 2, dims: vec![1 << 20], raw_data, ..TensorProto::default() };
    let call = NodeProto {
        attribute: vec![AttributeProto { t: Some(Box::new(big)), ..attribute("big") }],
        ..node("f", "many", &["v0"], &["v1"])
    };
    let mut model = model(vec![call], "v0", "v1");
    model.functions = vec![FunctionProto {
        name: "many".to_owned(),
        domain: "f".to_owned(),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        attribute: vec!["big".to_owned()],
        node: nodes,
        ..FunctionProto::default()
    }];
    assert!(matches!(refusal(&model.encode_to_vec()), LoadError::TooLarge { .. }));
}

#[test]
fn zeros_that_a_sparse_tensor_leaves_out_are_counted() {
    let stored = |dims: Vec<i64>| {
        let numbers =
            TensorProto { name: "zeros".to_owned(), data_type: 1, dims: vec![0], ..TensorProto::default() };
        let places = TensorProto { data_type: 7, dims: vec![0], ..TensorProto::default() };
        let (values, indices) = (Some(Box::new(numbers)), Some(Box::new(places)));
        let mut model = chain_model(&[("", "Relu")]);
        let sparse = SparseTensorProto { values, indices, dims };
        model.graph.as_mut().unwrap().sparse_initializer.push(sparse);
        model.encode_to_vec()
    };
    Graph::from_bytes(&stored(vec![10, 10])).unwrap();
    assert!(matches!(refusal(&stored(vec![1 << 27])), LoadError::TooLarge { .. }));
}

#[test]
fn an_attribute_without_a_number_is_zero_and_not_the_default() {
    let mut model = chain_model(&[("", "Flatten")]);
    let graph = model.graph.as_mut().unwrap();
    // 2 is the type of one integer. The default of this axis is 1.
    graph.node[0].attribute.push(AttributeProto { r#type: 2, ..attribute("axis") });
    graph.output[0] = tensor_info("v1", 1, 2);
    let graph = Graph::from_bytes(&model.encode_to_vec()).unwrap();
    let row = Value::new(vec![3], Data::F32(vec![0.0; 3])).unwrap();
    assert_eq!(graph.run(vec![("v0".to_owned(), row)]).unwrap()[0].1.shape(), [1, 3]);
}

#[test]
fn a_file_of_too_many_nodes_is_refused() {
    let error = refusal(&chain(&vec![("", "Relu"); MAX_NODES + 1]));
    assert!(matches!(&error, LoadError::TooLarge { what, .. } if what.contains("nodes")), "{error}");
}

#[test]
fn a_circle_of_nodes_is_refused() {
    let circle = vec![node("", "Add", &["v0", "b"], &["a"]), node("", "Relu", &["a"], &["b"])];
    let error = refusal(&model(circle, "v0", "b").encode_to_vec());
    assert!(matches!(&error, LoadError::Invalid { reason, .. } if reason.contains("`b`")), "{error}");
}

/// A regressor of one tree: each entry is the children of a node; a leaf has none.
fn tree(children: &[Option<(i64, i64)>]) -> Vec<u8> {
    let mut model = chain_model(&[("ai.onnx.ml", "TreeEnsembleRegressor")]);
    let node = &mut model.graph.as_mut().unwrap().node[0];
    let ids: Vec<i64> = (0..).take(children.len()).collect();
    let zeros = vec![0; children.len()];
    let pick =
        |side: fn((i64, i64)) -> i64| children.iter().map(|pair| pair.map_or(0, side)).collect::<Vec<_>>();
    for (name, ints) in [
        ("nodes_treeids", zeros.clone()),
        ("nodes_nodeids", ids),
        ("nodes_featureids", zeros.clone()),
        ("nodes_truenodeids", pick(|pair| pair.0)),
        ("nodes_falsenodeids", pick(|pair| pair.1)),
    ] {
        node.attribute.push(AttributeProto { ints, ..attribute(name) });
    }
    let floats = vec![0.5; children.len()];
    node.attribute.push(AttributeProto { floats, ..attribute("nodes_values") });
    let mode = |pair: &Option<(i64, i64)>| if pair.is_some() { "BRANCH_LEQ" } else { "LEAF" };
    let strings = children.iter().map(|pair| mode(pair).as_bytes().to_vec()).collect();
    node.attribute.push(AttributeProto { strings, ..attribute("nodes_modes") });
    model.encode_to_vec()
}

#[test]
fn trees_in_which_a_walk_would_never_end_are_invalid() {
    assert!(Graph::from_bytes(&tree(&[Some((1, 2)), None, None])).is_ok());
    // Children may be listed before their parents.
    assert!(Graph::from_bytes(&tree(&[None, None, Some((0, 1))])).is_ok());
    for circle in [
        tree(&[Some((0, 1)), None]),
        tree(&[Some((1, 2)), Some((0, 3)), None, None]),
        tree(&[Some((1, 2)), Some((2, 2)), None]),
        tree(&[Some((1, 9)), None]),
    ] {
        let error = refusal(&circle);
        assert!(matches!(&error, LoadError::Invalid { node, .. } if node == "node 0"), "{error}");
    }
}

const PERCEPTRON: &[u8] = include_bytes!("../../tests/fixtures/perceptron.onnx");

#[test]
fn every_truncation_of_a_model_is_refused_or_loads() {
    // Protobuf has no end mark: a cut between two fields can leave a smaller valid file.
    for length in (0..PERCEPTRON.len()).step_by(7) {
        let _ = Graph::from_bytes(&PERCEPTRON[..length]);
    }
    assert!(Graph::from_bytes(&PERCEPTRON[..PERCEPTRON.len() / 2]).is_err());
}

proptest! {
    #[test]
    fn a_damaged_model_never_panics(at in 0..PERCEPTRON.len(), byte: u8) {
        let mut damaged = PERCEPTRON.to_vec();
        damaged[at] = byte;
        // Whatever it is now, loading ends, and so does a request.
        if let Ok(graph) = Graph::from_bytes(&damaged) {
            let _ = graph.run(Vec::new());
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Graph::from_bytes(&bytes);
    }
}
