//! `stoker-graph inspect|run|check FILE`: what is in an ONNX file, will it run, what does it compute.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use stoker_graph::{AnyValue, Graph, Kind, Limits, Model};

/// Runs ONNX files on burn, and tells what is in them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether a file runs; names every operator that does not.
    Check {
        /// The ONNX file.
        file: PathBuf,
    },
    /// Computes the outputs of a file.
    Run {
        /// The ONNX file.
        file: PathBuf,
        /// Inputs in the order of the graph: files of one ONNX message each (`.pb`).
        inputs: Vec<PathBuf>,
        /// Writes each output as `output_N.pb` into this folder.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check { file } => check(&file),
        Command::Run { file, inputs, out } => run(&file, &inputs, out.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stoker-graph: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<()> {
    Model::from_file(file)?.graph()?;
    println!("{} runs", file.display());
    Ok(())
}

fn run(file: &Path, inputs: &[PathBuf], out: Option<&Path>) -> Result<()> {
    let graph = Graph::from_file(file)?;
    if inputs.len() != graph.inputs().len() {
        let names: Vec<&str> = graph.inputs().iter().map(|input| input.name.as_str()).collect();
        bail!("{} inputs are given, the graph takes {}: {}", inputs.len(), names.len(), names.join(", "));
    }
    let mut given = Vec::new();
    for (info, path) in graph.inputs().iter().zip(inputs) {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (_, value) = AnyValue::from_message(info.kind, info.dtype, &bytes)
            .with_context(|| format!("input `{}` in {}", info.name, path.display()))?;
        given.push((info.name.clone(), value));
    }
    for (index, (name, value)) in graph.run_any(given, Limits::default())?.into_iter().enumerate() {
        match out {
            None => println!("{name}: {value:?}"),
            Some(folder) => {
                let kind = graph.outputs().get(index).map_or(Kind::Tensor, |info| info.kind);
                std::fs::write(folder.join(format!("output_{index}.pb")), value.to_message(kind, &name))?;
            }
        }
    }
    Ok(())
}
