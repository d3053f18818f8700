//! What an SRE would see at a moment of the demo: the output of kubectl, kept in files.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// Writes `<number>-<moment>.txt` into `folder`: get, describe and Events, each with the command that printed it.
pub(crate) async fn save(folder: &Path, number: usize, moment: &str, namespace: &str) -> Result<()> {
    let commands: [&[&str]; 3] =
        [&["get", "md"], &["describe", "md"], &["get", "events", "--sort-by=.metadata.creationTimestamp"]];
    let mut text = String::new();
    for command in commands {
        let kubectl = Command::new("kubectl").args(["-n", namespace]).args(command).output().await;
        let output = kubectl.context("kubectl is wanted for snapshots; run by e2e/cluster/exec")?;
        ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8_lossy(&output.stdout);
        let _ = writeln!(text, "$ kubectl -n {namespace} {}\n{printed}", command.join(" "));
    }
    tokio::fs::create_dir_all(folder).await.with_context(|| folder.display().to_string())?;
    let file = folder.join(format!("{number}-{moment}.txt"));
    tokio::fs::write(&file, text).await.with_context(|| file.display().to_string())
}
