//! A tiny writer of ONNX files, for models that no exporter would make.
//!
//! Field numbers are those of `onnx.proto3`. A message is a row of (field number, wire type) and content.

/// A field that holds bytes, text or a message (wire type 2).
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(varint(content.len()));
    bytes.extend(content);
    bytes
}

/// A field that holds a number (wire type 0).
fn number(number: u8, value: usize) -> Vec<u8> {
    let mut bytes = vec![number << 3];
    bytes.extend(varint(value));
    bytes
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// `ValueInfoProto`: a float tensor of this name and shape [1, 64].
fn tensor(name: &str) -> Vec<u8> {
    let dimension = |size| field(1, &number(1, size));
    let shape = [dimension(1), dimension(64)].concat();
    let float = 1;
    let tensor = [number(1, float), field(2, &shape)].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

/// A model of one node that applies `operator` to its input.
pub(crate) fn model_of(operator: &str) -> Vec<u8> {
    let node =
        [field(1, b"input"), field(2, b"output"), field(3, b"only_node"), field(4, operator.as_bytes())];
    let graph = [
        field(1, &node.concat()),
        field(2, b"graph"),
        field(11, &tensor("input")),
        field(12, &tensor("output")),
    ];
    let opset = number(2, 21);
    let ir_version = number(1, 10);
    [ir_version, field(7, &graph.concat()), field(8, &opset)].concat()
}
