//! `stoker-graph inspect|check|run|time|profile|operators`: what is in an ONNX file, will it run, what does it compute, and how fast.
//!
//! Each command gives its report as text, and only `main` prints; `time` is given where to, as it goes on for a while.

#![expect(clippy::print_stderr, reason = "a command says what went wrong")]

mod check;
mod inspect;
mod json;
mod npy;
mod operators;
mod profile;
mod run;
mod show;
mod time;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stoker_graph::LoadError;

/// The exit status for a file that is right but needs what this crate does not run.
const UNSUPPORTED: u8 = 3;

/// Runs ONNX files on burn, and tells what is in them.
///
/// The exit status is 0 when all is well, 3 for a file that needs what is not supported, and 1 for every
/// other trouble (2 for arguments that are not understood).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tells what is in a file: inputs and outputs, operators, parameters. It need not run.
    Inspect {
        /// The ONNX file.
        file: PathBuf,
    },
    /// Says whether a file runs; names every operator that does not, and what is larger than a limit.
    Check {
        /// The ONNX file.
        file: PathBuf,
    },
    /// Computes the outputs of a file.
    Run(run::Arguments),
    /// Measures how long a file takes, and prints a line of JSON for each round.
    Time(time::Arguments),
    /// Tells how long each step of a file takes, the slowest first, and the sums by operator.
    Profile(profile::Arguments),
    /// Lists the operators that run.
    Operators {
        /// As JSON: a list of objects with domain, name, since and types.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    // As in the server, the thread that runs a file is one of those that share its work. Without, rayon makes a pool beside it.
    if let Err(error) = rayon::ThreadPoolBuilder::new().use_current_thread().build_global() {
        eprintln!("stoker-graph: runs on a pool of other threads: {error}");
    }
    let report = match Arguments::parse().command {
        Command::Inspect { file } => inspect::inspect(&file),
        Command::Check { file } => check::check(&file),
        Command::Run(arguments) => run::run(&arguments),
        Command::Time(arguments) => time::time(&arguments, &mut std::io::stdout()).map(|()| String::new()),
        Command::Profile(arguments) => profile::profile(&arguments),
        Command::Operators { json } => Ok(operators::operators(json)),
    };
    match report {
        Ok(text) => {
            // Whoever reads the report may have read enough and gone.
            match std::io::stdout().lock().write_all(text.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    eprintln!("stoker-graph: cannot write the report: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("stoker-graph: {}", show::lines(&message(&error)));
            let unsupported = matches!(
                error.downcast_ref::<LoadError>(),
                Some(LoadError::Unsupported { .. } | LoadError::UnsupportedValue { .. })
            );
            if unsupported { ExitCode::from(UNSUPPORTED) } else { ExitCode::FAILURE }
        }
    }
}

/// The error and its causes. A cause that the error before it has quoted is not said twice.
fn message(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}
