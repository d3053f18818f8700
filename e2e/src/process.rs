//! Programs of Stoker as plain processes: started with their output in a file, signalled, and gone with the value.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};

/// Where the programs of this build are: beside this one, or one folder above, where cargo puts test programs.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("there is no {name} beside {}: build with `e2e/build {name}`", own.display())
    })
}

/// A process. It is killed when the value is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program; what it says is added to `log`. Of this program's environment it gets nothing.
    pub fn start(
        program: &Path,
        arguments: &[impl AsRef<OsStr>],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let mut options = File::options();
        let log = options.create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self { child })
    }

    /// Its number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to end, and kills it when it has not by then.
    pub async fn end(&mut self, patience: Duration) -> Result<()> {
        if let Some(id) = self.id() {
            signal(id, "TERM").await.ok();
        }
        if tokio::time::timeout(patience, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        Ok(())
    }
}

/// Sends a signal by its name, such as `STOP`.
pub async fn signal(id: u32, name: &str) -> Result<()> {
    let done = Command::new("kill").args([format!("-{name}"), id.to_string()]).output().await;
    let done = done.context("the program kill")?;
    ensure!(done.status.success(), "kill -{name} {id}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
