//! The crash sweep on a local cluster: see `e2e/faults`. The last line is the count; the exit status is not 0 when anything
//! diverged or nothing was hit.
#![expect(clippy::print_stdout, reason = "the report goes there")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use stoker_e2e::proxy::Fault;
use stoker_e2e::sweep::ground::Ground;
use stoker_e2e::sweep::scenario::Scenario;
use stoker_e2e::sweep::{Extent, Sweep};
use tokio::signal::unix::{SignalKind, signal};

/// Disturbs the operator at each write of each story.
#[derive(Debug, Parser)]
#[command(name = "stoker-faults")]
struct Args {
    /// Runs side by side.
    #[arg(long, default_value_t = 24)]
    parallel: usize,
    /// Only these stories: create, promote, cut, guard, abort, undo, supersede, delete.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only these faults: killed-before, killed-after, reply-lost, 409, 429, 500, watches-dropped, 410-in-stream,
    /// 410-as-status.
    #[arg(long)]
    fault: Vec<String>,
    /// A few points of each story.
    #[arg(long)]
    short: bool,
    /// Where logs of runs that diverged stay.
    #[arg(long, default_value = "target/faults")]
    logs: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The ones that are named, or all.
fn chosen<T: Copy>(all: &[T], names: &[String], name: impl Fn(&T) -> &'static str) -> Result<Vec<T>> {
    if let Some(unknown) = names.iter().find(|wanted| !all.iter().any(|one| name(one) == wanted.as_str())) {
        bail!("there is no {unknown}; there are: {}", all.iter().map(name).collect::<Vec<_>>().join(", "));
    }
    Ok(all
        .iter()
        .copied()
        .filter(|one| names.is_empty() || names.iter().any(|wanted| name(one) == wanted))
        .collect())
}

async fn run(args: &Args) -> Result<bool> {
    let scenarios = chosen(&Scenario::ALL, &args.scenario, |one| one.name())?;
    let faults = chosen(&Fault::ALL, &args.fault, |one| one.0)?;
    let extent = if args.short { Extent::Short } else { Extent::Full };
    let mut asked = signal(SignalKind::terminate())?;
    let ground = Ground::enter(&args.logs).await?;
    let sweep = Sweep::new(&ground, args.parallel)?;
    let report = tokio::select! {
        report = sweep.sweep(&scenarios, extent, &faults, |line| println!("{line}")) => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = asked.recv() => Err(anyhow::anyhow!("asked to end")),
    };
    ground.leave().await?;
    let report = report?;
    println!("{report}");
    Ok(report.divergences() == 0 && report.kill_points() > 0)
}
