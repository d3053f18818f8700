//! Prints how long a model takes for one request, at the batch sizes 1 and 32.
//!
//! `cargo run --release -p stoker-graph --example time_model -- FILE...`
//!
//! The inputs are a fixed sequence of numbers between 0 and 16 (the digits' pixels); free dimensions
//! other than the first are 1. Times are of [`Graph::run`] alone, on one thread.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use stoker_graph::{DType, Data, Graph, Value, ValueInfo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let started = Instant::now();
        let graph = Graph::from_file(path.as_ref())?;
        println!("{path}: loaded in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        for batch in [1, 32] {
            match time(&graph, batch) {
                Ok((runs, median, p99)) => {
                    println!("  batch {batch:>2}: median {median:>9.1} us, p99 {p99:>9.1} us ({runs} runs)");
                }
                Err(error) => println!("  batch {batch:>2}: {error}"),
            }
        }
    }
    Ok(())
}

/// How often the model ran, and the median and 99th percentile in microseconds.
fn time(graph: &Graph, batch: usize) -> Result<(usize, f64, f64), Box<dyn std::error::Error>> {
    let request = || -> Result<Vec<(String, Value)>, Box<dyn std::error::Error>> {
        graph.inputs().iter().map(|input| Ok((input.name.clone(), sample(input, batch)?))).collect()
    };
    graph.run(request()?)?;
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed().as_secs() < 2 && times.len() < 100_000 {
        let inputs = request()?;
        let run = Instant::now();
        graph.run(inputs)?;
        times.push(run.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok((times.len(), times[times.len() / 2], times[times.len() * 99 / 100]))
}

fn sample(input: &ValueInfo, batch: usize) -> Result<Value, Box<dyn std::error::Error>> {
    let length =
        |(axis, length): (usize, &Option<usize>)| length.unwrap_or(if axis == 0 { batch } else { 1 });
    let shape: Vec<usize> = input.shape.iter().enumerate().map(length).collect();
    let count: usize = shape.iter().product();
    let numbers = (0u8..17).cycle().take(count);
    let data = match input.dtype {
        DType::Bool => Data::Bool(numbers.map(|x| x > 8).collect()),
        DType::U8 => Data::U8(numbers.collect()),
        DType::I8 => Data::I8(numbers.map(u8::cast_signed).collect()),
        DType::I32 => Data::I32(numbers.map(i32::from).collect()),
        DType::I64 => Data::I64(numbers.map(i64::from).collect()),
        DType::F32 => Data::F32(numbers.map(f32::from).collect()),
        DType::F64 => Data::F64(numbers.map(f64::from).collect()),
        DType::String => Data::String(numbers.map(|x| x.to_string()).collect()),
        other => return Err(format!("this example makes no {other}").into()),
    };
    Ok(Value::new(shape, data)?)
}
