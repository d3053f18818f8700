//! One pod of the node: its process, and what is told about it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use stoker_api::names::{labels, objects, parts, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Shared, Wish, data, kind};
use crate::process::Process;

/// Between two questions for readiness, two tries to start a process, and two looks for a Secret.
const AGAIN: Duration = Duration::from_millis(100);
/// After a process ended that should run.
const RESTART: Duration = Duration::from_secs(1);

/// A pod that is taken care of.
struct Guest {
    shared: Arc<Shared>,
    pod: Pod,
    address: Ipv4Addr,
    folder: PathBuf,
    restarts: i32,
}

/// Runs a pod until it is gone.
pub(super) async fn run(shared: Arc<Shared>, pod: Pod, mut wish: watch::Receiver<Wish>) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let uid = pod.uid().unwrap_or_default();
    let address = shared.address();
    let folder = shared.folder.join(&namespace).join(&name);
    let mut guest = Guest { shared: Arc::clone(&shared), pod, address, folder, restarts: 0 };
    if let Err(error) = guest.live(&mut wish).await {
        // Whoever waits for the pod gives up in time, and finds this in its folder.
        let said = std::fs::write(guest.folder.join("node.log"), format!("{error:#}\n"));
        said.ok();
    }
    if let Some(routers) = shared.pods().routers.get_mut(&namespace) {
        routers.remove(&name);
    }
    // A pod whose process has ended for good stays until somebody deletes it.
    wish.wait_for(|wish| *wish >= Wish::End).await.ok();
    let pods = Api::<Pod>::namespaced(shared.client.clone(), &namespace);
    let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default().grace_period(0) };
    // It may be gone already.
    pods.delete(&name, &params).await.ok();
}

impl Guest {
    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    fn part(&self) -> &str {
        self.pod.labels().get(labels::PART).map_or("", String::as_str)
    }

    /// Starts the process, tells that it is ready, and ends it when that is wanted.
    async fn live(&mut self, wish: &mut watch::Receiver<Wish>) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let now = wish.clone();
        let unwanted = async {
            wish.wait_for(|wish| *wish >= Wish::End).await.ok();
        };
        let mut unwanted = std::pin::pin!(unwanted);
        loop {
            let mut process = tokio::select! {
                () = &mut unwanted => return Ok(()),
                process = self.start() => process?,
            };
            let ended = tokio::select! {
                () = &mut unwanted => {
                    let at_once = *now.borrow() == Wish::Vanish;
                    let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                    let grace = u64::try_from(grace.unwrap_or(30)).unwrap_or_default();
                    return if at_once { process.kill().await } else { process.end(Duration::from_secs(grace)).await };
                }
                ended = self.watch_over(&mut process) => ended?,
            };
            if self.part() == parts::RESOLVER && ended.success() {
                return self.tell_answer().await;
            }
            self.restarts += 1;
            self.tell_restart(ended).await?;
            tokio::select! {
                () = &mut unwanted => return Ok(()),
                () = tokio::time::sleep(RESTART) => {}
            }
        }
    }

    /// Tells when the process is ready, and waits for its end.
    async fn watch_over(&self, process: &mut Process) -> Result<ExitStatus> {
        let served = async {
            if self.part() == parts::RESOLVER {
                return self.tell(false).await;
            }
            while !self.is_ready().await {
                tokio::time::sleep(AGAIN).await;
            }
            self.tell(true).await?;
            if self.part() == parts::ROUTER {
                let mut pods = self.shared.pods();
                let routers = pods.routers.entry(self.namespace()).or_default();
                routers.insert(self.pod.name_any(), data(self.address));
            }
            Ok(())
        };
        tokio::select! {
            ended = process.ended() => return ended,
            served = served => served?,
        }
        process.ended().await
    }

    /// The container's arguments and variables, as they are, and the pod's address for all ports.
    async fn start(&self) -> Result<Process> {
        let spec = self.pod.spec.as_ref().context("the pod has no spec")?;
        let container = spec.containers.first().context("the pod has no container")?;
        let mut arguments = container.args.clone().unwrap_or_default();
        let mut listen = |flag: &str, port: u16| arguments.push(format!("{flag}={}:{port}", self.address));
        let mut environment = vec![("KUBECONFIG".to_owned(), self.shared.kubeconfig.clone())];
        // Values that the API server would have to look up are put in below, where a part wants them.
        let given = container.env.iter().flatten();
        environment.extend(given.filter_map(|one| Some((one.name.clone(), one.value.clone()?))));
        let program = match self.part() {
            parts::ROUTER => {
                listen("--listen", ports::ROUTER_DATA);
                listen("--metrics-listen", ports::METRICS);
                listen("--admin-listen", ports::ROUTER_ADMIN);
                arguments.push("--threads=1".to_owned());
                arguments.push(format!("--tls-dir={}", self.certificates().await?.display()));
                arguments.push(format!("--state-dir={}", self.folder.display()));
                environment.push(("POD_NAMESPACE".to_owned(), self.namespace()));
                environment.push(("POD_NAME".to_owned(), self.pod.name_any()));
                &self.shared.router
            }
            parts::SERVER => {
                listen("--listen", ports::SERVER_DATA);
                listen("--metrics-listen", ports::METRICS);
                arguments.push("--threads=1".to_owned());
                &self.shared.server
            }
            parts::RESOLVER => &self.shared.server,
            other => bail!("a pod of part {other:?} is not known here"),
        };
        Process::start(program, &arguments, &environment, &self.log())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("process.log")
    }

    /// The Secret that a router mounts, as files. A pod whose Secret is not there waits for it.
    async fn certificates(&self) -> Result<PathBuf> {
        let folder = self.folder.join("tls");
        let secrets = Api::<Secret>::namespaced(self.shared.client.clone(), &self.namespace());
        loop {
            let secret = secrets.get_opt(objects::ROUTER_TLS).await.ok().flatten();
            if let Some(data) = secret.and_then(|secret| secret.data) {
                std::fs::create_dir_all(&folder)?;
                for (name, bytes) in data {
                    std::fs::write(folder.join(name), bytes.0)?;
                }
                return Ok(folder);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One question to /readyz.
    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect((self.address, ports::METRICS)).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(3), ask).await;
        matches!(answer, Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200"))
    }

    /// Tells that the process runs, and whether it is ready.
    async fn tell(&self, ready: bool) -> Result<()> {
        let running = json!({"running": {"startedAt": Timestamp::now().to_string()}});
        self.patch("Running", ready, running, Value::Null).await
    }

    async fn tell_restart(&self, ended: ExitStatus) -> Result<()> {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let last = json!({"terminated": {"exitCode": ended.code().unwrap_or(137), "reason": "Error"}});
        self.patch("Running", false, waiting, last).await
    }

    /// What a resolver found out: it prints the digest last.
    async fn tell_answer(&self) -> Result<()> {
        let log = std::fs::read_to_string(self.log())?;
        let digest = log.lines().rev().find(|line| line.starts_with("sha256:")).unwrap_or_default();
        let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": digest}});
        self.patch("Succeeded", false, ended, Value::Null).await
    }

    async fn patch(&self, phase: &str, ready: bool, state: Value, last: Value) -> Result<()> {
        let now = Timestamp::now().to_string();
        let condition = |kind: &str, holds: bool| {
            let status = if holds { "True" } else { "False" };
            json!({"type": kind, "status": status, "lastTransitionTime": now})
        };
        let conditions = [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ];
        let name =
            self.pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|one| one.name.clone());
        let container = json!({"name": name, "image": kind(&self.pod), "imageID": "", "ready": ready, "started": ready,
            "restartCount": self.restarts, "state": state, "lastState": last});
        let address = self.address.to_string();
        let status = json!({"metadata": {"uid": self.pod.uid()}, "status": {
            "phase": phase, "conditions": conditions, "containerStatuses": [container],
            "hostIP": "10.88.0.1", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
        }});
        let pods = Api::<Pod>::namespaced(self.shared.client.clone(), &self.namespace());
        match pods.patch_status(&self.pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await {
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}
