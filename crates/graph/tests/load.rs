//! What a file from a stranger can do at load: be refused, with a message that says why. Never more.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::default_trait_access,
    reason = "what a helper of a test cannot do is a failed test; some of the protobuf's types have no public name"
)]

use onnx_ir::{Message, ModelProto};
use proptest::prelude::*;
use stoker_graph::{Graph, LoadError};

/// A graph of one chain: each operator reads the output of the one before.
fn chain(operators: &[(&str, &str)]) -> Vec<u8> {
    let mut model = ModelProto::new();
    for (domain, version) in [("", 21), ("com.example", 1)] {
        model.opset_import.push(Default::default());
        let import = model.opset_import.last_mut().unwrap();
        import.domain = String::from(domain);
        import.version = version;
    }
    let graph = model.graph.mut_or_insert_default();
    for (position, (domain, operator)) in operators.iter().enumerate() {
        graph.node.push(Default::default());
        let node = graph.node.last_mut().unwrap();
        node.name = format!("node {position}");
        node.domain = String::from(*domain);
        node.op_type = String::from(*operator);
        node.input.push(format!("v{position}"));
        node.output.push(format!("v{}", position + 1));
    }
    for (list, name) in
        [(&mut graph.input, "v0".to_owned()), (&mut graph.output, format!("v{}", operators.len()))]
    {
        list.push(Default::default());
        let value = list.last_mut().unwrap();
        value.name = name;
        let tensor = value.type_.mut_or_insert_default().mut_tensor_type();
        tensor.elem_type = 1;
        tensor.shape.mut_or_insert_default().dim.push(Default::default());
    }
    model.write_to_bytes().unwrap()
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
        refusal(&chain(&[("", "Relu"), ("", "LSTM"), ("com.example", "Magic"), ("", "NonMaxSuppression")]));
    let LoadError::Unsupported { operators } = &error else { panic!("{error}") };
    let named: Vec<_> = operators.iter().map(|o| (&*o.node, &*o.operator, &*o.domain, o.opset)).collect();
    assert_eq!(
        named,
        [
            ("node 1", "LSTM", "ai.onnx", 21),
            ("node 2", "Magic", "com.example", 1),
            ("node 3", "NonMaxSuppression", "ai.onnx", 21),
        ]
    );
    let text = error.to_string();
    for word in
        ["3 operator(s)", "LSTM", "com.example::Magic (opset 1) at node `node 2`", "NonMaxSuppression"]
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
fn a_graph_that_reads_what_nobody_gives_is_invalid() {
    let mut model = ModelProto::parse_from_bytes(&chain(&[("", "Relu"), ("", "Exp")])).unwrap();
    model.graph.mut_or_insert_default().node[1].input[0] = "ghost".to_owned();
    let error = refusal(&model.write_to_bytes().unwrap());
    assert!(
        matches!(&error, LoadError::Invalid { node, reason } if node == "node 1" && reason.contains("ghost")),
        "{error}"
    );
    let mut twice = ModelProto::parse_from_bytes(&chain(&[("", "Relu"), ("", "Exp")])).unwrap();
    twice.graph.mut_or_insert_default().node[1].output[0] = "v1".to_owned();
    assert!(matches!(refusal(&twice.write_to_bytes().unwrap()), LoadError::Invalid { .. }));
}

#[test]
fn weights_outside_of_the_file_are_not_followed() {
    let mut model = ModelProto::parse_from_bytes(&chain(&[("", "Relu")])).unwrap();
    let graph = model.graph.mut_or_insert_default();
    graph.initializer.push(Default::default());
    let weights = &mut graph.initializer[0];
    weights.name = "weights".to_owned();
    weights.data_type = 1;
    weights.dims.push(1);
    weights.external_data.push(Default::default());
    weights.external_data[0].key = "location".to_owned();
    weights.external_data[0].value = "/etc/hostname".to_owned();
    let error = refusal(&model.write_to_bytes().unwrap());
    assert!(matches!(&error, LoadError::UnsupportedValue { name, .. } if name == "weights"), "{error}");
}

#[test]
fn weights_that_are_cut_short_are_invalid() {
    let mut model = ModelProto::parse_from_bytes(&chain(&[("", "Relu")])).unwrap();
    let graph = model.graph.mut_or_insert_default();
    graph.initializer.push(Default::default());
    graph.initializer[0].name = "weights".to_owned();
    graph.initializer[0].data_type = 1;
    graph.initializer[0].dims.extend([1 << 40, 1 << 40]);
    assert!(matches!(refusal(&model.write_to_bytes().unwrap()), LoadError::Invalid { .. }));
}

/// A regressor of one tree: each entry is the children of a node; a leaf has none.
fn tree(children: &[Option<(i64, i64)>]) -> Vec<u8> {
    let mut model = ModelProto::parse_from_bytes(&chain(&[("ai.onnx.ml", "TreeEnsembleRegressor")])).unwrap();
    let node = &mut model.graph.mut_or_insert_default().node[0];
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
        node.attribute.push(Default::default());
        let attribute = node.attribute.last_mut().unwrap();
        attribute.name = String::from(name);
        attribute.ints = ints;
    }
    node.attribute.push(Default::default());
    let values = node.attribute.last_mut().unwrap();
    values.name = String::from("nodes_values");
    values.floats = vec![0.5; children.len()];
    node.attribute.push(Default::default());
    let kinds = node.attribute.last_mut().unwrap();
    kinds.name = String::from("nodes_modes");
    let mode = |pair: &Option<(i64, i64)>| if pair.is_some() { "BRANCH_LEQ" } else { "LEAF" };
    kinds.strings = children.iter().map(|pair| mode(pair).as_bytes().to_vec().into()).collect();
    model.write_to_bytes().unwrap()
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

const PERCEPTRON: &[u8] = include_bytes!("fixtures/perceptron.onnx");

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
