//! `stoker-graph inspect FILE`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use stoker_graph::{Declared, Model};

use crate::show;

/// What is in a file, one fact a line.
pub fn inspect(file: &Path) -> Result<String> {
    let model = Model::from_file(file)?;
    let mut report = String::new();
    describe(&model, &mut report)?;
    Ok(report)
}

fn describe(model: &Model, report: &mut String) -> Result<()> {
    let producer = match (model.producer(), model.producer_version()) {
        ("", _) => "not given".to_owned(),
        (name, version) => show::text(format!("{name} {version}").trim()),
    };
    writeln!(report, "producer    {producer}")?;
    let format = model.format_version().map_or_else(|| "not given".to_owned(), |version| version.to_string());
    writeln!(report, "format      {format}")?;
    writeln!(report, "graph       {}", show::text(model.name()))?;
    let opsets: Vec<String> =
        model.opsets().iter().map(|(domain, version)| format!("{} {version}", show::text(domain))).collect();
    writeln!(report, "opsets      {}", opsets.join(", "))?;
    values("inputs", &model.inputs(), report)?;
    values("outputs", &model.outputs(), report)?;
    let operators = model.operators();
    let nodes: usize = operators.iter().map(|operator| operator.nodes).sum();
    writeln!(report, "nodes       {nodes}")?;
    for operator in operators {
        let (domain, name) = (show::text(&operator.domain), show::text(&operator.name));
        writeln!(report, "  {:>8}  {domain}::{name}", operator.nodes)?;
    }
    let functions = model.functions();
    if !functions.is_empty() {
        writeln!(report, "functions")?;
        for function in functions {
            let (domain, name) = (show::text(&function.domain), show::text(&function.name));
            writeln!(report, "  {domain}::{name}, {} node(s)", function.nodes)?;
        }
    }
    let weights = model.weights();
    let (tensors, parameters, bytes) = (weights.tensors, weights.parameters, weights.bytes);
    writeln!(report, "parameters  {parameters} in {tensors} tensor(s), {bytes} bytes")?;
    if !weights.files.is_empty() {
        writeln!(report, "other files")?;
        for (name, bytes) in weights.files {
            writeln!(report, "  {}, {bytes} bytes of it", show::text(&name))?;
        }
    }
    Ok(())
}

fn values(title: &str, values: &[Declared], report: &mut String) -> Result<()> {
    writeln!(report, "{title}")?;
    for value in values {
        let shape = value.shape.as_ref().map_or_else(
            || "of any shape".to_owned(),
            |shape| format!("[{}]", show::text(&shape.join(", "))),
        );
        let facts = [show::text(&value.kind), value.dtype.clone(), shape];
        let facts: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
        writeln!(report, "  {}: {}", show::text(&value.name), facts.join(" "))?;
    }
    Ok(())
}
