//! `stoker-graph time FILE INPUT...`.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stoker_graph::{AnyValue, Graph, Limits};

use crate::run::{Format, given, write_outputs};

/// A round ends after so many runs: the record of their times must not count in the memory of a small model.
const MOST_TIMES: usize = 50_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// The ONNX file.
    file: PathBuf,
    /// Inputs, each a file, as for `run`.
    #[arg(value_name = "[NAME=]INPUT")]
    inputs: Vec<String>,
    /// How many rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round goes on; the file runs at least once in it, and 50,000 times at most.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    seconds: f64,
    /// Waits for a line on the standard input before each round, and ends when there is none: for one that takes turns
    /// with another program. There are as many rounds as lines then.
    #[arg(long, conflicts_with = "rounds")]
    wait: bool,
    /// Writes the outputs of the first run as output_N.npy into this folder, which is made if need be.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs a file for some rounds. Each gives a line of JSON as soon as it is over: `runs`, how often it ran, `median` and
/// `fastest`, in seconds. Before the first is a line with `load`, the seconds until the file was ready, and `first`, those
/// of the first run, which no round counts.
pub fn time(arguments: &Arguments, report: &mut impl Write) -> Result<()> {
    ensure!(arguments.seconds >= 0.0 && arguments.seconds <= 3600.0, "a round may take an hour at most");
    let started = Instant::now();
    let graph = Graph::from_file(&arguments.file)?;
    let load = started.elapsed().as_secs_f64();
    let inputs = given(&graph, &arguments.inputs)?;
    let (outputs, first) = once(&graph, inputs.clone())?;
    if let Some(folder) = &arguments.out {
        write_outputs(&graph, &outputs, folder, Format::Npy)?;
    }
    drop(outputs);
    say(report, &json!({"load": load, "first": first.as_secs_f64()}))?;
    let mut lines = std::io::stdin().lock().lines();
    let mut left = arguments.rounds;
    loop {
        if arguments.wait {
            let Some(line) = lines.next() else { return Ok(()) };
            line.context("cannot read the standard input")?;
        } else if left == 0 {
            return Ok(());
        }
        left = left.saturating_sub(1);
        let mut times = round(&graph, &inputs, Duration::from_secs_f64(arguments.seconds))?;
        let runs = times.len();
        times.sort_unstable();
        let seconds = |at: usize| times.get(at).copied().unwrap_or_default().as_secs_f64();
        say(report, &json!({"runs": runs, "median": seconds(runs / 2), "fastest": seconds(0)}))?;
    }
}

/// How long each run of a round took. The copy of the inputs that a request takes is not in it.
fn round(graph: &Graph, inputs: &[(String, AnyValue)], length: Duration) -> Result<Vec<Duration>> {
    let started = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || (started.elapsed() < length && times.len() < MOST_TIMES) {
        times.push(once(graph, inputs.to_vec())?.1);
    }
    Ok(times)
}

/// The outputs of one run, and how long it took.
fn once(graph: &Graph, inputs: Vec<(String, AnyValue)>) -> Result<(Vec<(String, AnyValue)>, Duration)> {
    let started = Instant::now();
    let outputs = graph.run_any(inputs, Limits::default())?;
    Ok((outputs, started.elapsed()))
}

fn say(report: &mut impl Write, line: &serde_json::Value) -> Result<()> {
    writeln!(report, "{line}").and_then(|()| report.flush()).context("cannot write the report")
}
