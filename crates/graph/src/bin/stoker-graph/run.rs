//! `stoker-graph run FILE INPUT...`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use stoker_graph::{AnyValue, Graph, Kind, Limits, LoadError, Model, ValueInfo};

use crate::{json, npy, show};

#[derive(clap::Args)]
pub struct Arguments {
    /// The ONNX file.
    file: PathBuf,
    /// Inputs, each a file: one ONNX message (.pb), a NumPy array (.npy), or a tensor of the Open Inference
    /// Protocol (.json: {"shape": [2], "datatype": "FP32", "data": [1, 2]}). NAME=FILE says which input it
    /// is; those without a name are the others, in the order of the graph.
    #[arg(value_name = "[NAME=]INPUT")]
    inputs: Vec<String>,
    /// A value of the graph that is given instead of computed, such as the output of a node. NAME ends at the first
    /// `=`. Nodes that only it needs do not run. Inputs of the file that are needed all the same are given as ever.
    #[arg(long = "input", value_name = "NAME=FILE")]
    between: Vec<String>,
    /// A value of the graph that is computed instead of the outputs of the file, any number of times. Nodes that none
    /// of them needs do not run.
    #[arg(long = "output", value_name = "NAME")]
    asked: Vec<String>,
    /// Writes each output as output_N into this folder, which is made if need be.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How outputs are written. A list as .npy is one file for each tensor: output_N_I.npy.
    #[arg(long, requires = "out", default_value = "pb")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// One ONNX message.
    Pb,
    /// A NumPy array.
    Npy,
}

/// Runs a file once. Prints its outputs, or writes them and prints what was written.
pub fn run(arguments: &Arguments) -> Result<String> {
    let graph = load(arguments)?;
    let inputs = given(&graph, &[&arguments.between[..], &arguments.inputs].concat())?;
    let outputs = graph.run_any(inputs, Limits::default())?;
    match &arguments.out {
        Some(folder) => write_outputs(&graph, &outputs, folder, arguments.format),
        None => Ok(outputs.iter().map(|(name, value)| show::value(name, value)).collect()),
    }
}

/// Reads the inputs of a graph from their files.
pub fn given(graph: &Graph, inputs: &[String]) -> Result<Vec<(String, AnyValue)>> {
    let mut given = Vec::new();
    for (info, path) in assign(graph.inputs(), inputs)? {
        let value =
            read(info, path).with_context(|| format!("input `{}` in {}", info.name, path.display()))?;
        given.push((info.name.clone(), value));
    }
    Ok(given)
}

/// Writes each output as output_N into a folder, which is made if need be. Gives the names of the files, for people.
pub fn write_outputs(
    graph: &Graph,
    outputs: &[(String, AnyValue)],
    folder: &Path,
    format: Format,
) -> Result<String> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut report = String::new();
    for (position, (name, value)) in outputs.iter().enumerate() {
        let kind = graph.outputs().get(position).map_or(Kind::Tensor, |info| info.kind);
        for (file, bytes) in files(position, kind, name, value, format)? {
            let path = folder.join(file);
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            let _ = writeln!(report, "{}: {}", show::text(name), show::text(&path.to_string_lossy()));
        }
    }
    Ok(report)
}

/// The graph of the file, or what is asked for of it.
fn load(arguments: &Arguments) -> Result<Graph> {
    if arguments.between.is_empty() && arguments.asked.is_empty() {
        return Ok(Graph::from_file(&arguments.file)?);
    }
    let name = |input: &String| match input.split_once('=') {
        Some((name, _)) => Ok(name.to_owned()),
        None => bail!("`--input {input}` does not say which value that is; give NAME=FILE"),
    };
    let mut inputs: Vec<String> = arguments.between.iter().map(name).collect::<Result<_>>()?;
    let model = Model::from_file(&arguments.file)?;
    let outputs = match arguments.asked.as_slice() {
        [] => model.outputs().into_iter().map(|output| output.name).collect(),
        asked => asked.to_vec(),
    };
    let part = |inputs: &[String]| model.subgraph(&names(inputs), &names(&outputs));
    match part(&inputs) {
        Err(LoadError::NotComputed { missing, .. }) => {
            inputs.extend(missing);
            Ok(part(&inputs)?)
        }
        other => Ok(other?),
    }
}

fn names(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// Which file is which input.
fn assign<'a>(infos: &'a [ValueInfo], inputs: &'a [String]) -> Result<Vec<(&'a ValueInfo, &'a Path)>> {
    let named = |input: &'a String| {
        let follows = |info: &'a ValueInfo| {
            Some((info, Path::new(input.strip_prefix(info.name.as_str())?.strip_prefix('=')?)))
        };
        // Names may hold the sign too: the longest that fits is meant.
        infos.iter().filter_map(follows).max_by_key(|(info, _)| info.name.len())
    };
    let taken: HashSet<&str> = inputs.iter().filter_map(named).map(|(info, _)| info.name.as_str()).collect();
    let mut others = infos.iter().filter(|info| !taken.contains(info.name.as_str()));
    let all = || infos.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join("`, `");
    let mut assigned = Vec::with_capacity(inputs.len());
    for input in inputs {
        assigned.push(match named(input) {
            Some(pair) => pair,
            None => match (input.split_once('='), others.next()) {
                (Some((name, _)), _) if !Path::new(input).exists() => {
                    bail!("the graph has no input `{name}`; its inputs are `{}`", all())
                }
                (_, Some(info)) => (info, Path::new(input)),
                (_, None) => bail!(
                    "{} inputs are given, the graph takes {}: `{}`; leave {input} away",
                    inputs.len(),
                    infos.len(),
                    all()
                ),
            },
        });
    }
    Ok(assigned)
}

/// Reads an input by the ending of its file's name.
fn read(info: &ValueInfo, path: &Path) -> Result<AnyValue> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let list = matches!(info.kind, Kind::Sequence | Kind::OptionalSequence);
    if list && matches!(ending, "npy" | "json") {
        bail!("the input is a list of tensors; give it as one SequenceProto in a .pb file");
    }
    let bytes = || std::fs::read(path).context("cannot read the file");
    Ok(match ending {
        "pb" => AnyValue::from_message(info.kind, info.dtype, &bytes()?)?.1,
        "npy" => AnyValue::Tensor(npy::read(&bytes()?, info.dtype)?),
        "json" => AnyValue::Tensor(json::read(&bytes()?)?),
        _ => bail!("the ending of the file's name says what it holds; use .pb, .npy or .json"),
    })
}

/// An output as files: their names and contents.
fn files(
    position: usize,
    kind: Kind,
    name: &str,
    value: &AnyValue,
    format: Format,
) -> Result<Vec<(String, Vec<u8>)>> {
    Ok(match (format, value) {
        (Format::Pb, value) => vec![(format!("output_{position}.pb"), value.to_message(kind, name))],
        (Format::Npy, AnyValue::Nothing) => Vec::new(),
        (Format::Npy, AnyValue::Tensor(tensor)) => {
            vec![(format!("output_{position}.npy"), npy::write(tensor)?)]
        }
        (Format::Npy, AnyValue::Sequence(_, list)) => {
            let file = |(at, tensor)| Ok((format!("output_{position}_{at}.npy"), npy::write(tensor)?));
            list.iter().enumerate().map(file).collect::<Result<_>>()?
        }
    })
}
