//! Parts of graphs: what they compute, what they load, and what cannot be.

use prost::Message;

use crate::load::tests::{attribute, model, node, tensor_info};
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use crate::{AnyValue, DType, Data, Graph, Limits, LoadError, Model, Value};

/// `x` doubled, halved again by an operator that nobody knows, and both summed; `c` is stored.
fn file(nodes: Vec<NodeProto>) -> Model {
    let mut model = model(nodes, "x", "out");
    let graph = model.graph.as_mut().unwrap();
    let stored = |name: &str, float_data: Vec<f32>| TensorProto {
        name: name.to_owned(),
        data_type: 1,
        dims: vec![1],
        float_data,
        ..TensorProto::default()
    };
    graph.initializer.extend([stored("c", vec![10.0]), stored("broken", vec![])]);
    graph.input.push(tensor_info("second", 1, 1));
    Model::from_bytes(&model.encode_to_vec()).unwrap()
}

fn chain() -> Vec<NodeProto> {
    vec![
        node("", "Add", &["x", "x"], &["double"]),
        node("com.example", "Half", &["double"], &["half"]),
        node("", "Mul", &["double", "c"], &["scaled"]),
        node("", "Sub", &["broken", "half"], &["less"]),
        node("", "Add", &["scaled", "less"], &["sum"]),
        node("", "Add", &["sum", "second"], &["out"]),
    ]
}

fn run(graph: &Graph, inputs: &[(&str, f32)]) -> Vec<(String, Vec<f32>)> {
    let given = inputs
        .iter()
        .map(|&(name, number)| (name.to_owned(), Value::new(vec![1], Data::F32(vec![number])).unwrap()));
    let answer = graph.run(given.collect()).unwrap().into_iter();
    answer
        .map(|(name, value)| match value.into_parts().1 {
            Data::F32(numbers) => (name, numbers),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn named(name: &str, number: f32) -> (String, Vec<f32>) {
    (name.to_owned(), vec![number])
}

#[test]
fn only_what_the_outputs_need_is_loaded() {
    let file = file(chain());
    // The whole file has an operator that is not known, and a tensor that is cut short.
    assert!(file.graph().is_err());
    let part = file.subgraph(&["x"], &["scaled", "double"]).unwrap();
    assert_eq!(run(&part, &[("x", 3.0)]), [named("scaled", 60.0), named("double", 6.0)]);
    let between = file.subgraph(&["second", "scaled", "less"], &["out"]).unwrap();
    assert_eq!(run(&between, &[("less", 1.0), ("scaled", 2.0), ("second", 4.0)]), [named("out", 7.0)]);
    // What is stored may be given, and what is given or stored may be asked for.
    let other = file.subgraph(&["double", "c"], &["scaled", "c", "double"]).unwrap();
    let expected = [named("scaled", 6.0), named("c", 2.0), named("double", 3.0)];
    assert_eq!(run(&other, &[("double", 3.0), ("c", 2.0)]), expected);
    assert_eq!(run(&file.subgraph(&[], &["c"]).unwrap(), &[]), [named("c", 10.0)]);
    // One that is not needed is given all the same, and one that is named twice is one.
    let idle = file.subgraph(&["x", "second", "x"], &["double"]).unwrap();
    assert_eq!(run(&idle, &[("x", 1.0), ("second", 0.0)]), [named("double", 2.0)]);
}

#[test]
fn names_that_are_wrong_or_missing_are_said() {
    let file = file(chain());
    let refused = |inputs: &[&str], outputs: &[&str]| file.subgraph(inputs, outputs).unwrap_err();
    for (inputs, outputs) in [(&["x", "ghost"][..], &["double"][..]), (&["x"], &["ghost"])] {
        let error = refused(inputs, outputs);
        assert!(matches!(&error, LoadError::UnknownValue { name } if name == "ghost"), "{error}");
    }
    let error = refused(&["half", "broken"], &["double", "out"]);
    assert!(
        matches!(&error, LoadError::NotComputed { missing, .. } if *missing == ["x", "second"]),
        "{error}"
    );
    assert!(error.to_string().contains("`x`, `second` are needed too"), "{error}");
    assert!(matches!(refused(&["x", "second"], &["less"]), LoadError::Invalid { .. }));
}

#[test]
fn a_type_is_what_the_file_says_or_what_follows() {
    let mut nodes = chain();
    nodes.extend([
        node("", "Shape", &["half"], &["shape"]),
        node("", "Neg", &["half"], &["negative"]),
        node("", "Greater", &["x", "c"], &["larger"]),
        node("", "Where", &["larger", "sum", "c"], &["chosen"]),
        node("", "Split", &["chosen"], &["left", "right"]),
    ]);
    let file = file(nodes);
    let dtype = |name: &str| {
        let given = ["half", "sum", "x", "second"];
        file.subgraph(&given, &[name]).map(|graph| graph.outputs()[0].dtype)
    };
    // Each of these has its rule.
    let typed =
        |file: &Model, name: &str| file.subgraph(&[name], &[name]).map(|graph| graph.inputs()[0].clone());
    for (name, expected) in [
        ("scaled", DType::F32),
        ("shape", DType::I64),
        ("larger", DType::Bool),
        ("right", DType::F32),
        ("out", DType::F32),
    ] {
        assert_eq!(typed(&file, name).unwrap().dtype, expected, "{name}");
    }
    assert!(!typed(&file, "scaled").unwrap().ranked, "any shape is taken");
    let unknown = typed(&file, "negative").unwrap_err();
    assert!(matches!(&unknown, LoadError::UnknownType { name } if name == "negative"), "{unknown}");
    assert!(matches!(dtype("shape").unwrap_err(), LoadError::UnknownType { name } if name == "half"));
    // With a declaration it has a type, and a shape to keep to.
    let mut proto = ModelProto::clone(&file.proto);
    proto.graph.as_mut().unwrap().value_info.push(tensor_info("half", 11, 2));
    let declared = Model::from_bytes(&proto.encode_to_vec()).unwrap();
    let half = typed(&declared, "half").unwrap();
    assert_eq!((half.dtype, half.shape.len(), half.ranked), (DType::F64, 2, true));
    assert_eq!(typed(&declared, "negative").unwrap().dtype, DType::F64);
}

#[test]
fn what_graphs_inside_of_nodes_read_is_needed() {
    let branch = |nodes: Vec<NodeProto>| GraphProto {
        node: nodes,
        output: vec![tensor_info("y", 1, 1)],
        ..GraphProto::default()
    };
    let graph =
        |name: &str, graph: GraphProto| AttributeProto { g: Some(Box::new(graph)), ..attribute(name) };
    let mut choice = node("", "If", &["yes"], &["chosen"]);
    choice.attribute = vec![
        // `second` is here the name of a value inside.
        graph(
            "then_branch",
            branch(vec![
                node("", "Add", &["double", "c"], &["second"]),
                node("", "Neg", &["second"], &["y"]),
            ]),
        ),
        graph("else_branch", branch(vec![node("", "Neg", &["double"], &["y"])])),
    ];
    let nodes = vec![
        node("", "Add", &["x", "x"], &["double"]),
        node("", "Greater", &["x", "c"], &["yes"]),
        choice,
        node("", "Add", &["chosen", "second"], &["out"]),
    ];
    let file = file(nodes);
    let part = file.subgraph(&["x"], &["chosen"]);
    // The type of what an `If` gives does not follow.
    assert!(matches!(part.unwrap_err(), LoadError::UnknownType { .. }));
    let mut proto = ModelProto::clone(&file.proto);
    proto.graph.as_mut().unwrap().value_info.push(tensor_info("chosen", 1, 1));
    let file = Model::from_bytes(&proto.encode_to_vec()).unwrap();
    let part = file.subgraph(&["x"], &["chosen"]).unwrap();
    assert_eq!(run(&part, &[("x", 20.0)]), [named("chosen", -50.0)]);
    assert_eq!(run(&part, &[("x", 2.0)]), [named("chosen", -4.0)]);
    let part = file.subgraph(&["double", "yes"], &["chosen"]).unwrap();
    assert_eq!(part.inputs()[1].dtype, DType::Bool);
}

#[test]
fn a_node_may_give_what_is_given_too() {
    let mut split = node("", "Split", &["x"], &["left", "right"]);
    split.attribute.push(AttributeProto { i: Some(2), ..attribute("num_outputs") });
    let nodes = vec![
        split,
        node("", "Mul", &["left", "right"], &["product"]),
        node("", "Add", &["product", "second"], &["out"]),
    ];
    let part = file(nodes).subgraph(&["x", "left"], &["product"]).unwrap();
    let pair = Value::new(vec![2], Data::F32(vec![5.0, 7.0])).unwrap();
    let left = Value::new(vec![1], Data::F32(vec![2.0])).unwrap();
    let given = [("x", pair), ("left", left)].map(|(name, value)| (name.to_owned(), value));
    let answer = part.run(given.into()).unwrap();
    assert_eq!(answer[0].1.data(), &Data::F32(vec![14.0]));
}

#[test]
fn a_model_that_is_given_away_loads_as_one_that_is_kept() {
    let nodes =
        vec![node("", "Mul", &["x", "c"], &["scaled"]), node("", "Add", &["scaled", "second"], &["out"])];
    let mut proto = ModelProto::clone(&file(nodes).proto);
    proto.graph.as_mut().unwrap().initializer.pop();
    let bytes = proto.encode_to_vec();
    let given = [("x", 2.0), ("second", 1.0)];
    let kept = Model::from_bytes(&bytes).unwrap();
    assert_eq!(run(&kept.graph().unwrap(), &given), [named("out", 21.0)]);
    assert_eq!(kept.weights().tensors, 1, "it stays as it is");
    assert_eq!(run(&kept.into_graph().unwrap(), &given), [named("out", 21.0)]);
    assert_eq!(run(&Graph::from_bytes(&bytes).unwrap(), &given), [named("out", 21.0)]);
    let stored = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(stored.path(), &bytes).unwrap();
    assert_eq!(run(&Graph::from_file(stored.path()).unwrap(), &given), [named("out", 21.0)]);
    std::fs::write(stored.path(), &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(Graph::from_file(stored.path()).unwrap_err(), LoadError::NotOnnx { .. }));
}

#[test]
fn a_request_that_takes_too_much_memory_is_refused() {
    let grow = vec![
        node("", "Expand", &["x", "size"], &["wide"]),
        node("", "Neg", &["wide"], &["a"]),
        node("", "Exp", &["a"], &["b"]),
        node("", "Add", &["a", "b"], &["c1"]),
        node("", "Add", &["c1", "second"], &["out"]),
    ];
    let mut proto = ModelProto::clone(&file(grow).proto);
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.clear();
    graph.input.push(tensor_info("size", 7, 1));
    let graph = Graph::from_bytes(&proto.encode_to_vec()).unwrap();
    let run = |memory: u64| {
        let float = |number: f32| AnyValue::Tensor(Value::new(vec![1], Data::F32(vec![number])).unwrap());
        let size = AnyValue::Tensor(Value::new(vec![1], Data::I64(vec![1000])).unwrap());
        let given = [("x", float(1.0)), ("second", float(2.0)), ("size", size)];
        let given = given.map(|(name, value)| (name.to_owned(), value));
        graph.run_any(given.into(), Limits { memory, ..Limits::default() })
    };
    // The inputs, and two tensors of 1000 elements at a time.
    run(8100).unwrap();
    let error = run(7900).unwrap_err();
    assert!(error.to_string().contains("more than the 7900 allowed"), "{error}");
    assert!(matches!(error, crate::RunError::Node { op, .. } if op == "Exp"));
}
