//! The binary `stoker-router`: reads the command line, starts the runtime, ends with a code that says why.

use std::process::ExitCode;

use clap::Parser;
use stoker_edge::{exit, logs, tls};
use stoker_router::args::Args;
use stoker_router::run;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    logs::init();
    let args = match Args::try_parse() {
        Ok(args) => args,
        // `--help` and `--version` are no errors.
        Err(asked) if !asked.use_stderr() => {
            let _ = asked.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return exit::fail(exit::BAD_CONFIGURATION, error.to_string().trim()),
    };
    tls::install_provider();
    let runtime = match runtime(&args) {
        Ok(runtime) => runtime,
        Err(error) => return exit::fail(exit::INTERNAL, &format!("cannot start threads: {error}")),
    };
    match runtime.block_on(run::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_configuration() => exit::fail(exit::BAD_CONFIGURATION, &error.to_string()),
        Err(error) => exit::fail(exit::INTERNAL, &error.to_string()),
    }
}

/// One worker needs no scheduler that steals work.
fn runtime(args: &Args) -> std::io::Result<Runtime> {
    match args.threads.map(usize::from) {
        Some(1) => Builder::new_current_thread().enable_all().build(),
        Some(several) => Builder::new_multi_thread().worker_threads(several).enable_all().build(),
        None => Builder::new_multi_thread().enable_all().build(),
    }
}
