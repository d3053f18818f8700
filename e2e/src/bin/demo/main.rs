//! The demo: a real rollout on a real cluster, told as it happens.
//!
//! Version 1 of a digits model is served, real images come at a steady rate; version 2 is better and is promoted in steps;
//! version 3 fails on some images and version 4 is slow, and both are rolled back by themselves. The last line is one JSON
//! object with the outcome; the exit status is 1 when something is not as it should be. `e2e/demo` starts it on a cluster.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the demo talks to a person")]

mod outcome;
mod screen;
mod snapshots;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Serves digits, promotes a better version and rolls two bad ones back, under real load.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Settings {
    /// Requests a second.
    #[arg(long, default_value_t = 120)]
    rate: u32,
    /// Saves `kubectl get md`, `kubectl describe md` and the Events at five moments into this folder.
    #[arg(long, value_name = "DIR")]
    snapshots: Option<PathBuf>,
    /// What to type before kubectl, for the hints at the end: `e2e/cluster/exec demo`.
    #[arg(long, default_value = "")]
    prefix: String,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let outcome = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let told = runtime.block_on(story::tell(&settings));
        // Tasks that hold connections are not waited for.
        runtime.shutdown_background();
        told
    });
    match outcome {
        Ok(outcome) => {
            let wrong = outcome.wrong();
            for line in &wrong {
                eprintln!("not as it should be: {line}");
            }
            println!("{}", outcome.json());
            if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the demo ended early: {error:#}");
            ExitCode::FAILURE
        }
    }
}
