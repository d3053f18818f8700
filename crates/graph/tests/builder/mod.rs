//! Small ONNX files of FP64 numbers, made in a test. The numbers of fields are those of ONNX's format.

#![expect(clippy::expect_used, reason = "what a helper of a test cannot do is a failed test")]

/// A setting of a node.
#[derive(Clone, Copy)]
pub enum Setting<'a> {
    Float(f32),
    Int(i64),
    Text(&'a str),
    Ints(&'a [i64]),
    Texts(&'a [&'a str]),
}

/// A file under construction.
#[derive(Clone)]
pub struct Builder {
    opset: i64,
    graph: Vec<u8>,
    /// Names and shapes of the inputs.
    pub inputs: Vec<(String, Vec<usize>)>,
    seed: u64,
}

const FP64: i64 = 11;
const INT64: i64 = 7;
const BOOL: i64 = 9;

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
}

fn int(bytes: &mut Vec<u8>, field: u64, number: i64) {
    varint(bytes, field << 3);
    varint(bytes, number.cast_unsigned());
}

fn message(bytes: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(bytes, field << 3 | 2);
    varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// Numbers between -1 and 1 that look like chance and are always the same.
pub fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    next();
    (0..count).map(|_| next()).collect()
}

impl Builder {
    pub fn new(opset: i64) -> Self {
        let mut graph = Vec::new();
        message(&mut graph, 2, b"test");
        Self { opset, graph, inputs: Vec::new(), seed: 0 }
    }

    /// An input of FP64 numbers.
    pub fn input(mut self, name: &str, shape: &[usize]) -> Self {
        let declared = declared(name, Some(shape));
        message(&mut self.graph, 11, &declared);
        self.inputs.push((name.to_owned(), shape.to_vec()));
        self
    }

    fn tensor(mut self, name: &str, dtype: i64, shape: &[usize], raw: &[u8]) -> Self {
        let mut tensor = Vec::new();
        for &length in shape {
            int(&mut tensor, 1, i64::try_from(length).expect("a short dimension"));
        }
        int(&mut tensor, 2, dtype);
        message(&mut tensor, 8, name.as_bytes());
        message(&mut tensor, 9, raw);
        message(&mut self.graph, 5, &tensor);
        self
    }

    /// A parameter with the given numbers.
    pub fn weights(self, name: &str, shape: &[usize], numbers: &[f64]) -> Self {
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.tensor(name, FP64, shape, &raw)
    }

    /// A parameter with numbers between -1 and 1.
    pub fn weight(mut self, name: &str, shape: &[usize]) -> Self {
        self.seed += 1;
        let numbers = numbers(self.seed, shape.iter().product());
        self.weights(name, shape, &numbers)
    }

    /// Constant integers.
    pub fn ints(self, name: &str, shape: &[usize], numbers: &[i64]) -> Self {
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.tensor(name, INT64, shape, &raw)
    }

    /// Constant integers of 32 bits.
    pub fn short_ints(self, name: &str, shape: &[usize], numbers: &[i32]) -> Self {
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.tensor(name, 6, shape, &raw)
    }

    /// Constant truth values.
    pub fn truths(self, name: &str, shape: &[usize], truths: &[bool]) -> Self {
        let raw: Vec<u8> = truths.iter().map(|&truth| u8::from(truth)).collect();
        self.tensor(name, BOOL, shape, &raw)
    }

    /// A node.
    pub fn node(
        mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        settings: &[(&str, Setting<'_>)],
    ) -> Self {
        let mut node = Vec::new();
        for name in inputs {
            message(&mut node, 1, name.as_bytes());
        }
        for name in outputs {
            message(&mut node, 2, name.as_bytes());
        }
        message(&mut node, 3, format!("{operator} of {}", outputs[0]).as_bytes());
        message(&mut node, 4, operator.as_bytes());
        for (name, setting) in settings {
            let mut attribute = Vec::new();
            message(&mut attribute, 1, name.as_bytes());
            let kind = match setting {
                Setting::Float(number) => {
                    varint(&mut attribute, 2 << 3 | 5);
                    attribute.extend_from_slice(&number.to_le_bytes());
                    1
                }
                Setting::Int(number) => {
                    int(&mut attribute, 3, *number);
                    2
                }
                Setting::Text(text) => {
                    message(&mut attribute, 4, text.as_bytes());
                    3
                }
                Setting::Ints(numbers) => {
                    numbers.iter().for_each(|&number| int(&mut attribute, 8, number));
                    7
                }
                Setting::Texts(texts) => {
                    texts.iter().for_each(|text| message(&mut attribute, 9, text.as_bytes()));
                    8
                }
            };
            int(&mut attribute, 20, kind);
            message(&mut node, 5, &attribute);
        }
        message(&mut self.graph, 1, &node);
        self
    }

    /// The file, which gives `output`: FP64 numbers of any shape.
    pub fn bytes(&self, output: &str) -> Vec<u8> {
        let mut graph = self.graph.clone();
        message(&mut graph, 12, &declared(output, None));
        let mut opset = Vec::new();
        message(&mut opset, 1, b"");
        int(&mut opset, 2, self.opset);
        let mut model = Vec::new();
        int(&mut model, 1, 10);
        message(&mut model, 7, &graph);
        message(&mut model, 8, &opset);
        model
    }
}

/// A declaration of FP64 numbers.
fn declared(name: &str, shape: Option<&[usize]>) -> Vec<u8> {
    let mut tensor = Vec::new();
    int(&mut tensor, 1, FP64);
    if let Some(shape) = shape {
        let mut dimensions = Vec::new();
        for &length in shape {
            let mut dimension = Vec::new();
            int(&mut dimension, 1, i64::try_from(length).expect("a short dimension"));
            message(&mut dimensions, 1, &dimension);
        }
        message(&mut tensor, 2, &dimensions);
    }
    let mut kind = Vec::new();
    message(&mut kind, 1, &tensor);
    let mut declared = Vec::new();
    message(&mut declared, 1, name.as_bytes());
    message(&mut declared, 2, &kind);
    declared
}
