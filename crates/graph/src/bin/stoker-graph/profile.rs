//! `stoker-graph profile FILE INPUT...`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use stoker_graph::{AnyValue, Graph, Limits};

use crate::run::given;
use crate::show;

/// Runs before those that count: they fill caches.
const WARM: usize = 2;

#[derive(clap::Args)]
pub struct Arguments {
    /// The ONNX file.
    file: PathBuf,
    /// Inputs, each a file, as for `run`.
    #[arg(value_name = "[NAME=]INPUT")]
    inputs: Vec<String>,
    /// How many runs; a step's time is the median of them.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    runs: u16,
}

/// Runs a file some times, and tells how long each of its steps took: the slowest first, then the sums by operator. A step is a
/// node of the file, or several that are done in one.
pub fn profile(arguments: &Arguments) -> Result<String> {
    let graph = Graph::from_file(&arguments.file)?;
    let inputs = given(&graph, &arguments.inputs)?;
    let steps: Vec<(&str, &str)> = graph.steps().collect();
    let mut times = vec![Vec::new(); steps.len()];
    for run in 0..WARM + usize::from(arguments.runs) {
        let taken = once(&graph, inputs.clone())?;
        if run >= WARM {
            taken.into_iter().zip(&mut times).for_each(|(taken, times)| times.push(taken));
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let mut rows: Vec<_> = times.into_iter().map(median).zip(steps).collect();
    rows.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let all: Duration = rows.iter().map(|(time, _)| *time).sum();

    let mut by_operator: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    let mut text = String::new();
    writeln!(text, "{:>10} {:>6}  {:<24} node", "ms", "share", "operator")?;
    for (time, (name, operator)) in &rows {
        let (count, sum) = by_operator.entry(operator).or_default();
        (*count, *sum) = (*count + 1, *sum + *time);
        writeln!(text, "{} {}  {}", figures(*time, all), padded(operator), show::text(name))?;
    }
    let mut by_operator: Vec<_> = by_operator.into_iter().collect();
    by_operator.sort_by_key(|(_, (_, sum))| std::cmp::Reverse(*sum));
    writeln!(text, "\n{:>10} {:>6}  {:<24} steps", "ms", "share", "operator")?;
    for (operator, (count, sum)) in by_operator {
        writeln!(text, "{} {}  {count}", figures(sum, all), padded(operator))?;
    }
    writeln!(text, "{:>10.3} {:>5}%  all", milliseconds(all), 100)?;
    Ok(text)
}

/// How long each step took in one run.
fn once(graph: &Graph, inputs: Vec<(String, AnyValue)>) -> Result<Vec<Duration>> {
    let begun = Mutex::new(Vec::new());
    let begins = |_| begun.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Instant::now());
    drop(graph.run_any(inputs, Limits { begins: Some(&begins), ..Limits::default() })?);
    let end = Instant::now();
    let begun = begun.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ends = begun.iter().copied().skip(1).chain([end]);
    Ok(begun.iter().zip(ends).map(|(begin, end)| end - *begin).collect())
}

fn figures(time: Duration, all: Duration) -> String {
    let share = 100.0 * time.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
    format!("{:>10.3} {share:>5.1}%", milliseconds(time))
}

fn padded(operator: &str) -> String {
    format!("{:<24}", show::text(operator))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
