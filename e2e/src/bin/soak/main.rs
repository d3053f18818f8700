//! Fifty rollouts under load, with everything that may come in between: not one request may fail, but for the model errors of
//! harmful candidates. The last line is the count; the exit status is 1 when it is not zero. `e2e/soak` starts it on a cluster.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the soak talks to a person")]

mod acts;

use std::process::ExitCode;

use clap::Parser;

/// Rollouts with promotion, abort, supersession, undo, cut, return from the guard, a killed operator, restarted routers and fewer
/// pods, under load.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Settings {
    /// Rollouts.
    #[arg(long, default_value_t = 50)]
    rollouts: usize,
    /// What happens in them, in turn; all there is when it is left out.
    #[arg(long, value_delimiter = ',')]
    acts: Vec<acts::Act>,
    /// Requests a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let count = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let count = runtime.block_on(acts::play(&settings));
        // Tasks that hold connections are not waited for.
        runtime.shutdown_background();
        count
    });
    match count {
        Ok(count) => {
            println!("{count}");
            if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the soak ended early: {error:#}");
            ExitCode::FAILURE
        }
    }
}
