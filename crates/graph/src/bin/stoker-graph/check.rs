//! `stoker-graph check FILE`.

use std::path::Path;

use anyhow::Result;
use stoker_graph::{Graph, Model};

use crate::show;

/// Loads a file; the error names everything that does not run.
pub fn check(file: &Path) -> Result<String> {
    let model = Model::from_file(file)?;
    let graph: Graph = model.graph()?;
    let nodes: usize = model.operators().iter().map(|operator| operator.nodes).sum();
    let (inputs, outputs) = (graph.inputs().len(), graph.outputs().len());
    let joined = if graph.batch_axis() { "requests can be joined" } else { "requests cannot be joined" };
    let file = show::text(&file.to_string_lossy());
    Ok(format!("{file} runs: {nodes} node(s), {inputs} input(s), {outputs} output(s), {joined}\n"))
}
