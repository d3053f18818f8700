//! A model that tests write node by node.

use prost::Message;

use crate::load::write_tensor;
use crate::ops::cast::cast;
use crate::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto,
};
use crate::tensor::Tensor;
use crate::{DType, Graph, Value};

/// A graph that grows node by node. Its input is `x`.
pub(super) struct Net {
    pub(super) dtype: DType,
    pub(super) opset: i64,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) stored: Vec<TensorProto>,
    pub(super) functions: Vec<FunctionProto>,
    /// Numbers that look random, and are the same each time.
    pub(super) state: u64,
}

pub(super) fn net(dtype: DType, opset: i64) -> Net {
    Net { dtype, opset, nodes: Vec::new(), stored: Vec::new(), functions: Vec::new(), state: 1 }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: Some(i), ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ints: ints.to_vec(), ..AttributeProto::default() }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f: Some(f), ..AttributeProto::default() }
}

pub(super) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.to_owned(), g: Some(Box::new(graph)), ..AttributeProto::default() }
}

pub(super) fn node(
    operator: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

pub(super) fn info(name: &str, dtype: DType, rank: Option<usize>) -> ValueInfoProto {
    let shape = rank.map(|rank| TensorShapeProto { dim: vec![DimensionProto::default(); rank] });
    let value = Some(TypeValue::Tensor(TensorTypeProto { elem_type: dtype.onnx_number(), shape }));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.to_owned(), r#type, ..ValueInfoProto::default() }
}

impl Net {
    pub(super) fn add(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) {
        self.nodes.push(node(operator, inputs, output, attributes));
    }

    pub(super) fn store(&mut self, name: &str, shape: &[usize], numbers: Vec<f64>) {
        let tensor = cast(Tensor::from_items(shape, numbers), self.dtype).unwrap();
        self.stored.push(write_tensor(&tensor, name));
    }

    pub(super) fn number(&mut self, name: &str, number: f64) {
        self.store(name, &[], vec![number]);
    }

    /// A number between `low` and `low + width`, with few digits.
    pub(super) fn draw(&mut self, low: f64, width: f64) -> f64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + width * f64::from(u32::try_from(self.state >> 48).unwrap() % 256) / 256.0
    }

    pub(super) fn numbers(&mut self, count: usize, low: f64, width: f64) -> Vec<f64> {
        (0..count).map(|_| self.draw(low, width)).collect()
    }

    pub(super) fn weights(&mut self, name: &str, shape: &[usize]) {
        let numbers = self.numbers(shape.iter().product(), -1.0, 2.0);
        self.store(name, shape, numbers);
    }

    /// `BatchNormalization` of `channels` channels.
    pub(super) fn normalise(&mut self, input: &str, output: &str, channels: usize) {
        let names: Vec<String> =
            ["scale", "shift", "mean", "var"].map(|part| format!("{output}_{part}")).into();
        for name in &names[..3] {
            self.weights(name, &[channels]);
        }
        let variance = self.numbers(channels, 0.25, 2.0);
        self.store(&names[3], &[channels], variance);
        let inputs = [input, &names[0], &names[1], &names[2], &names[3]];
        self.add("BatchNormalization", &inputs, output, vec![float("epsilon", 1e-3)]);
    }

    pub(super) fn model(&self, outputs: &[&str]) -> Vec<u8> {
        let import = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let graph = GraphProto {
            node: self.nodes.clone(),
            initializer: self.stored.clone(),
            input: vec![info("x", self.dtype, None)],
            output: outputs.iter().map(|name| info(name, self.dtype, None)).collect(),
            ..GraphProto::default()
        };
        ModelProto {
            opset_import: vec![import("", self.opset), import("f", 1)],
            graph: Some(graph),
            functions: self.functions.clone(),
            ..ModelProto::default()
        }
        .encode_to_vec()
    }

    pub(super) fn graph(&self, outputs: &[&str]) -> Graph {
        Graph::from_bytes(&self.model(outputs)).unwrap()
    }

    pub(super) fn last(&self) -> &str {
        &self.nodes.last().unwrap().output[0]
    }

    /// The numbers of the first output, and its shape.
    pub(super) fn run(&mut self, graph: &Graph, shape: &[usize]) -> (Vec<usize>, DType, Vec<f64>) {
        self.state = 7;
        let numbers = self.numbers(shape.iter().product(), -2.0, 4.0);
        let x = cast(Tensor::from_items(shape, numbers), self.dtype).unwrap();
        let answer = graph.run(vec![("x".to_owned(), Value::try_from(x).unwrap())]).unwrap();
        let answer = Tensor::from(answer[0].1.clone());
        (answer.shape().to_vec(), answer.dtype(), answer.to_f64s().unwrap())
    }

    /// What the last node gives must be the same, put together or not. Gives the steps that are left.
    pub(super) fn same(&mut self, shape: &[usize], precision: f64) -> Vec<String> {
        let last = self.last().to_owned();
        let fused = self.graph(&[&last]);
        let mut outputs = vec![last.as_str()];
        let between = self.nodes.iter().flat_map(|node| &node.output).map(String::as_str);
        outputs.extend(between.filter(|name| !name.is_empty() && *name != last));
        let plain = self.graph(&outputs);
        let written: Vec<&str> = self.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(plain.operators(), written, "outputs stay as they are");
        let (fused_answer, plain_answer) = (self.run(&fused, shape), self.run(&plain, shape));
        assert_eq!((&fused_answer.0, fused_answer.1), (&plain_answer.0, plain_answer.1));
        for (a, b) in fused_answer.2.iter().zip(&plain_answer.2) {
            assert!((a - b).abs() <= precision * b.abs().max(1.0), "{a} instead of {b}");
        }
        fused.operators().into_iter().map(str::to_owned).collect()
    }
}
