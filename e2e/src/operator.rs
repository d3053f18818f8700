//! One operator as a process of its own, that leads and watches one namespace. It is started again whenever it ends, as a
//! container is, with the same name.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::process::{Process, program};
use crate::proxy::Kill;

/// After an end that nobody asked for, so that an operator that cannot start does not keep a core busy.
const PAUSE: Duration = Duration::from_millis(500);

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace that it watches, and that holds its Lease and its CA.
    pub namespace: String,
    /// Its name in the Lease.
    pub name: String,
    /// How it reaches the API server.
    pub kubeconfig: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
    /// How long another one waits for it.
    pub lease_seconds: u16,
    /// More environment, such as a library to be loaded first.
    pub environment: Vec<(String, String)>,
    /// Whether it is started again when it ends.
    pub restarts: bool,
}

impl Settings {
    /// An operator for one namespace, with its files in `folder`.
    pub fn of(namespace: &str, name: &str, kubeconfig: PathBuf, folder: &Path) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kubeconfig,
            log: folder.join(format!("{name}.log")),
            lease_seconds: 15,
            environment: Vec::new(),
            restarts: true,
        }
    }

    fn start(&self) -> Result<Process> {
        let arguments = [
            "run".to_owned(),
            format!("--namespace={}", self.namespace),
            format!("--watch-namespace={}", self.namespace),
            format!("--pod-name={}", self.name),
            format!("--lease-seconds={}", self.lease_seconds),
            "--server-image=stoker-server:process".to_owned(),
            "--router-image=stoker-router:process".to_owned(),
            // Nobody asks there, and hundreds run side by side.
            "--metrics-listen=127.0.0.1:0".to_owned(),
        ];
        let mut environment = self.environment.clone();
        environment.push(("KUBECONFIG".to_owned(), self.kubeconfig.display().to_string()));
        Process::start(&program("stoker")?, &arguments, &environment, &self.log)
    }
}

/// An operator that runs. It is killed when the value is dropped.
pub struct Operator {
    kills: mpsc::UnboundedSender<oneshot::Sender<()>>,
    known: Arc<Mutex<Known>>,
    supervisor: JoinHandle<()>,
}

#[derive(Default)]
struct Known {
    id: Option<u32>,
    /// How it ended when nobody killed it.
    ends: Vec<String>,
}

impl Operator {
    /// Starts it.
    pub fn start(settings: Settings) -> Result<Self> {
        let process = settings.start()?;
        let known = Arc::new(Mutex::new(Known { id: process.id(), ends: Vec::new() }));
        let (kills, asked) = mpsc::unbounded_channel();
        let supervisor = tokio::spawn(supervise(settings, process, asked, Arc::clone(&known)));
        Ok(Self { kills, known, supervisor })
    }

    /// Kills the process; the next one is started at once.
    pub fn kill(&self) -> Kill {
        let kills = self.kills.clone();
        Arc::new(move || {
            let (gone, wait) = oneshot::channel();
            // A supervisor that has ended took its process along.
            kills.send(gone).ok();
            Box::pin(async move {
                wait.await.ok();
            })
        })
    }

    /// The process's number; none after its end.
    pub fn id(&self) -> Result<u32> {
        self.known().id.ok_or_else(|| anyhow!("the operator does not run: {:?}", self.known().ends))
    }

    /// How it ended, for each time that nobody killed it.
    pub fn ends(&self) -> Vec<String> {
        self.known().ends.clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn supervise(
    settings: Settings,
    mut process: Process,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    known: Arc<Mutex<Known>>,
) {
    loop {
        tokio::select! {
            ended = process.ended() => {
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                {
                    let mut known = lock(&known);
                    known.id = None;
                    known.ends.push(how);
                }
                if !settings.restarts {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Some(gone) = asked.recv() => {
                process.kill().await.ok();
                // Nobody may wait for it any more.
                gone.send(()).ok();
            }
        }
        match settings.start() {
            Ok(next) => process = next,
            Err(error) => {
                lock(&known).ends.push(format!("{error:#}"));
                return;
            }
        }
        lock(&known).id = process.id();
    }
}
