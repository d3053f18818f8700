//! How a process ends: exit codes that a controller can tell apart, and one last sentence.

use std::path::Path;
use std::process::ExitCode;

/// The configuration is wrong, which is found before any port is bound, or forbids where the artifact is: no restart heals it.
pub const BAD_CONFIGURATION: u8 = 64;
/// The artifact cannot be served (wrong digest, not ONNX, unsupported operator): no restart heals it.
pub const BAD_ARTIFACT: u8 = 65;
/// The artifact cannot be fetched by now: a restart may heal it.
pub const UNAVAILABLE: u8 = 69;
/// A fault of ours.
pub const INTERNAL: u8 = 70;

/// Where Kubernetes reads the last words of a container.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Kubernetes keeps 4096 bytes.
const LIMIT: usize = 4096;

/// Writes `message` where Kubernetes finds it, when this process runs in a container.
pub fn termination_message(message: &str) {
    let path = Path::new(TERMINATION_LOG);
    if path.exists()
        && let Err(error) = std::fs::write(path, shorten(message))
    {
        tracing::warn!(%error, "cannot write {TERMINATION_LOG}");
    }
}

/// Logs the last error sentence, leaves it as the termination message, and gives the code to end with.
pub fn fail(code: u8, message: &str) -> ExitCode {
    tracing::error!(code, "{message}");
    termination_message(message);
    ExitCode::from(code)
}

/// The first [`LIMIT`] bytes of `message`, cut between characters.
fn shorten(message: &str) -> &str {
    &message[..message.floor_char_boundary(LIMIT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "ä".repeat(LIMIT);
        assert_eq!(shorten(&long).len(), LIMIT);
        assert_eq!(shorten(&format!("x{long}")).len(), LIMIT - 1);
        assert_eq!(shorten("short"), "short");
    }
}
