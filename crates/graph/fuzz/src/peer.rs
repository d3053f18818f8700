//! ONNX Runtime, in a Python process beside this one: `peer.py`.
//!
//! Frames go both ways: four bytes of length, then what `peer.py` describes. The process is started when it
//! is first asked, and again when it is gone: a graph that takes ONNX Runtime down is no finding about ours.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use half::f16;
use stoker_graph::{DType, Data, Value};

/// The Python that has `onnxruntime`, in the environment.
const PYTHON: &str = "STOKER_FUZZ_PYTHON";
/// The longest answer that is read: the graphs are small.
const LONGEST: usize = 16 << 20;

/// What the other runtime says.
#[derive(Debug)]
pub enum Answer {
    /// The outputs, in the order of the graph.
    Outputs(Vec<Value>),
    /// Why it does not run the graph.
    Refused(String),
    /// Its process ended, or it took too long and was ended.
    Gone,
}

/// The process, once there is one.
#[derive(Debug, Default)]
pub struct Peer {
    running: Option<(Child, ChildStdin, ChildStdout)>,
}

impl Peer {
    /// The answer to one request. With a path, the case is written there as well, for the tests of the crate.
    pub fn run(&mut self, model: &[u8], inputs: &[(String, Value)], keep: Option<&Path>) -> Answer {
        let request = request(model, inputs, keep);
        match self.exchange(&request) {
            Ok(answer) => answer,
            Err(_) => {
                if let Some((mut child, ..)) = self.running.take() {
                    // It is gone already, or about to be.
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Answer::Gone
            }
        }
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        let (_, stdin, stdout) = match &mut self.running {
            Some(running) => running,
            none => none.insert(start()),
        };
        stdin.write_all(&(request.len() as u32).to_le_bytes())?;
        stdin.write_all(request)?;
        stdin.flush()?;
        let mut length = [0; 4];
        stdout.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(std::io::Error::other("the answer is too long"));
        }
        let mut bytes = vec![0; length];
        stdout.read_exact(&mut bytes)?;
        answer(&bytes).ok_or_else(|| std::io::Error::other("the answer cannot be read"))
    }
}

/// The process.
///
/// # Panics
/// Where there is no Python, or it cannot be started: nothing can be compared then.
fn start() -> (Child, ChildStdin, ChildStdout) {
    let python = std::env::var_os(PYTHON).map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer.py");
    let mut command = Command::new(&python);
    command.arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{} cannot be started: {error}", python.display()));
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    (child, stdin.expect("a pipe was asked for"), stdout.expect("a pipe was asked for"))
}

fn request(model: &[u8], inputs: &[(String, Value)], keep: Option<&Path>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, keep.map_or(&[][..], |path| path.as_os_str().as_encoded_bytes()));
    put(&mut bytes, model);
    bytes.extend((inputs.len() as u32).to_le_bytes());
    for (name, value) in inputs {
        put(&mut bytes, name.as_bytes());
        bytes.push(value.dtype().onnx_number() as u8);
        bytes.push(value.shape().len() as u8);
        for &length in value.shape() {
            bytes.extend((length as u32).to_le_bytes());
        }
        put(&mut bytes, &raw(value.data()));
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u32).to_le_bytes());
    bytes.extend(part);
}

/// The elements as little-endian bytes.
///
/// # Panics
/// For types that the random graphs do not use.
pub fn raw(data: &Data) -> Vec<u8> {
    macro_rules! bytes {
        ($items:expr) => {
            $items.iter().flat_map(|item| item.to_le_bytes()).collect()
        };
    }
    match data {
        Data::Bool(items) => items.iter().map(|&item| item.into()).collect(),
        Data::U8(items) => items.clone(),
        Data::U16(items) => bytes!(items),
        Data::U32(items) => bytes!(items),
        Data::U64(items) => bytes!(items),
        Data::I8(items) => bytes!(items),
        Data::I16(items) => bytes!(items),
        Data::I32(items) => bytes!(items),
        Data::I64(items) => bytes!(items),
        Data::F16(items) => bytes!(items),
        Data::F32(items) => bytes!(items),
        Data::F64(items) => bytes!(items),
        other => panic!("no random graph has {}", other.dtype()),
    }
}

/// The inverse of [`raw`].
fn elements(dtype: DType, raw: &[u8]) -> Option<Data> {
    macro_rules! items {
        ($variant:ident, $E:ty) => {{
            let (chunks, rest) = raw.as_chunks::<{ size_of::<$E>() }>();
            if !rest.is_empty() {
                return None;
            }
            Data::$variant(chunks.iter().map(|&chunk| <$E>::from_le_bytes(chunk)).collect())
        }};
    }
    Some(match dtype {
        DType::Bool => Data::Bool(raw.iter().map(|&item| item != 0).collect()),
        DType::U8 => Data::U8(raw.to_vec()),
        DType::U16 => items!(U16, u16),
        DType::U32 => items!(U32, u32),
        DType::U64 => items!(U64, u64),
        DType::I8 => items!(I8, i8),
        DType::I16 => items!(I16, i16),
        DType::I32 => items!(I32, i32),
        DType::I64 => items!(I64, i64),
        DType::F16 => items!(F16, f16),
        DType::F32 => items!(F32, f32),
        DType::F64 => items!(F64, f64),
        _ => return None,
    })
}

fn answer(mut rest: &[u8]) -> Option<Answer> {
    let refused = byte(&mut rest)? != 0;
    if refused {
        return Some(Answer::Refused(String::from_utf8_lossy(rest).into_owned()));
    }
    let count = length(&mut rest)?;
    let outputs: Option<Vec<Value>> = (0..count).map(|_| tensor(&mut rest)).collect();
    outputs.map(Answer::Outputs)
}

fn tensor(rest: &mut &[u8]) -> Option<Value> {
    let dtype = DType::from_onnx(byte(rest)?.into())?;
    let rank = byte(rest)?;
    let shape: Option<Vec<usize>> = (0..rank).map(|_| length(rest)).collect();
    let bytes = length(rest)?;
    let (raw, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Value::new(shape?, elements(dtype, raw)?).ok()
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, after) = rest.split_first()?;
    *rest = after;
    Some(byte)
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes) as usize)
}
