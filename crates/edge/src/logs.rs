//! What a process says: JSON for machines, text for a person at a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is said when `RUST_LOG` is not set. kube logs each failed request as an error and then returns it; whoever gets
/// it says what it means.
const DEFAULT: &str = "info,kube_client=off";

/// Starts logging to standard output. `RUST_LOG` chooses what is said; the default is `info`,
/// without what kube says twice. A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    // Only a second call fails, and then logging is there already.
    let _ = if std::io::stdout().is_terminal() {
        lines.try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).try_init()
    };
}
