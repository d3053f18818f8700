//! Starts the inference server.

use std::error::Error as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use stoker_edge::{exit, logs};
use stoker_server::alone::spelled_out;
use stoker_server::config::{Cli, Command};
use stoker_server::serve::{self, ServeError};

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(spelled_out(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    logs::init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(place = panic.location().map(tracing::field::display), "panic: {panic}");
    }));
    // Only a second installation fails, and then there is a provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(error.exit_code(), &error.to_string()),
    }
}

/// Runs a command on a runtime of its size.
fn run(command: Command) -> Result<(), ServeError> {
    let threads = match &command {
        Command::Serve(settings) => serve::threads(settings.threads),
        Command::Resolve(_) | Command::Fetch(_) => 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        // For loading the model and for bodies that take long to read: never more than can use a CPU, and one to spare.
        .max_blocking_threads(threads + 1)
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let outcome = match command {
        Command::Serve(settings) => runtime.block_on(serve::serve(*settings)).map(|finished| {
            tracing::info!(cut = finished.cut, "ended");
        }),
        Command::Resolve(settings) => runtime.block_on(serve::resolve(&settings.source)).map(|digest| {
            let text = digest.to_string();
            exit::termination_message(&text);
            print_line(&text);
        }),
        Command::Fetch(settings) => runtime.block_on(serve::fetch(&settings)).map(|path| {
            print_line(&path.display().to_string());
        }),
    };
    // A model that hangs on a blocking thread does not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Says what is wrong with the command line, or prints the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        print_line(error.to_string().trim_end());
        return ExitCode::SUCCESS;
    }
    logs::init();
    exit::fail(exit::BAD_CONFIGURATION, &wrong(error))
}

/// What is wrong with the command line. Where clap would repeat a value, only its argument is named: a URI may hold a password or
/// a signature, and this goes to logs and to the status of the pod.
fn wrong(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let argument = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("the value of {argument} cannot be used: {reason}")
        }
        ErrorKind::InvalidValue if !context(ContextKind::InvalidValue).is_empty() => {
            let possible = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => values.join(", "),
                _ => String::new(),
            };
            format!("the value of {argument} cannot be used; it may be one of: {possible}")
        }
        ErrorKind::TooManyValues => format!("{argument} has a value too many; see --help"),
        ErrorKind::InvalidSubcommand => "the command is not known; see --help".to_owned(),
        ErrorKind::UnknownArgument if !argument.starts_with('-') => {
            "there is a word that belongs to no option; see --help".to_owned()
        }
        _ => error.to_string().trim_start_matches("error: ").trim_end().to_owned(),
    }
}

/// Prints a line. Standard output may be closed, and then there is nobody to tell.
fn print_line(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{text}"));
}
