//! A node without containers: pods that are bound to it run as plain processes of this build, each at an address of its own.
//!
//! Everything before and after is real: the scheduler binds, the controllers of Deployments and EndpointSlices see pods get
//! ready, the programs are those of the images with the arguments of their pods. Left out are what would make a pod take
//! seconds instead of milliseconds: the image, the namespaces, cgroups and volumes. Hundreds of pods fit on two cores so.
//!
//! It needs the network of a local cluster (`e2e/cluster/exec`), where it owns 10.245.0.0/16. Readiness is asked for until a pod
//! is ready, and no more: what loses it later is not seen.

mod pod;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as follow};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use stoker_api::names::{labels, parts, ports};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::until;
use crate::process::program;

/// Its name in the cluster.
const NAME: &str = "processes";
/// The addresses of its pods: none that a node of the local cluster uses.
const NETWORK: &str = "10.245.0.0/16";
/// Below the time after which a silent node is taken for lost.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// What the API server wants to know about each pod's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// It is to run.
    Run,
    /// It is to end, with all the time that its spec gives it.
    End,
    /// It is to be gone at once.
    Vanish,
}

/// The node. Its processes end with the value; [`Node::leave`] takes it out of the cluster.
pub struct Node {
    client: Client,
    shared: Arc<Shared>,
    following: JoinHandle<()>,
    beating: JoinHandle<()>,
}

struct Shared {
    client: Client,
    router: PathBuf,
    server: PathBuf,
    kubeconfig: String,
    folder: PathBuf,
    next: AtomicU16,
    pods: Mutex<Pods>,
}

#[derive(Default)]
struct Pods {
    /// Namespaces and wishes by uid.
    running: HashMap<String, (String, watch::Sender<Wish>)>,
    /// How many were started, by namespace and by what they are of.
    started: HashMap<String, BTreeMap<String, usize>>,
    /// Addresses of ready routers, by namespace and pod.
    routers: HashMap<String, BTreeMap<String, SocketAddr>>,
    /// Namespaces whose pods get no time any more.
    over: Vec<String>,
}

impl Shared {
    fn pods(&self) -> MutexGuard<'_, Pods> {
        // Nobody panics with it in hand.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address that no other pod of this node has had for a long time.
    fn address(&self) -> Ipv4Addr {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % 60_000 + 16;
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 245, high, low)
    }
}

impl Node {
    /// Joins the cluster. Logs and keys of its pods go below `folder`.
    pub async fn join(client: Client, folder: &Path) -> Result<Self> {
        ip(&["route", "replace", "local", NETWORK, "dev", "lo"]).await?;
        register(&client).await?;
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let shared = Arc::new(Shared {
            client: client.clone(),
            router: program("stoker-router")?,
            server: program("stoker-server")?,
            kubeconfig: std::env::var("KUBECONFIG").context("KUBECONFIG is not set; use e2e/cluster/exec")?,
            folder: folder.to_owned(),
            next: AtomicU16::new(0),
            pods: Mutex::default(),
        });
        let following = tokio::spawn(follow_pods(Arc::clone(&shared)));
        let beating = tokio::spawn(beat(client.clone()));
        let node = Self { client, shared, following, beating };
        node.takes_pods().await?;
        Ok(node)
    }

    /// Waits until the scheduler may use it.
    async fn takes_pods(&self) -> Result<()> {
        let nodes = Api::<NodeObject>::all(self.client.clone());
        until("the node of processes has no taint", Duration::from_secs(60), async || {
            let spec = nodes.get(NAME).await?.spec.unwrap_or_default();
            Ok(spec.taints.unwrap_or_default().is_empty().then_some(()))
        })
        .await
    }

    /// Addresses of a namespace's routers that are ready.
    pub fn routers(&self, namespace: &str) -> Vec<SocketAddr> {
        let pods = self.shared.pods();
        pods.routers.get(namespace).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// How many pods of a namespace were ever started, by the revision or the part that they are of.
    pub fn started(&self, namespace: &str) -> BTreeMap<String, usize> {
        self.shared.pods().started.get(namespace).cloned().unwrap_or_default()
    }

    /// Ends all pods of a namespace at once, also those that are still to come.
    pub fn vacate(&self, namespace: &str) {
        let mut pods = self.shared.pods();
        pods.over.push(namespace.to_owned());
        for (_, wish) in pods.running.values().filter(|(of, _)| of == namespace) {
            wish.send_replace(Wish::Vanish);
        }
    }

    /// Leaves the cluster.
    pub async fn leave(self) -> Result<()> {
        self.following.abort();
        self.beating.abort();
        let nodes = Api::<NodeObject>::all(self.client.clone());
        nodes.delete(NAME, &DeleteParams::default()).await.context("taking the node of processes away")?;
        ip(&["route", "del", "local", NETWORK, "dev", "lo"]).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
        self.beating.abort();
    }
}

async fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output().await.context("the program ip")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "ip {}: {}; is this the network of a local cluster?",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}

async fn register(client: &Client) -> Result<()> {
    let nodes = Api::<NodeObject>::all(client.clone());
    if nodes.get_opt(NAME).await?.is_some() {
        // Of a run that was killed.
        nodes.delete(NAME, &DeleteParams::default()).await?;
    }
    let node: NodeObject = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}},
    }))?;
    nodes.create(&PostParams::default(), &node).await.context("adding the node of processes")?;
    say_ready(client).await
}

/// What a kubelet tells about its node.
async fn say_ready(client: &Client) -> Result<()> {
    let nodes = Api::<NodeObject>::all(client.clone());
    let now = jiff::Timestamp::now().to_string();
    let room = json!({"cpu": "1000", "memory": "1000Gi", "ephemeral-storage": "1000Gi", "pods": "60000"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "ProcessesRun", "message": "pods run as processes",
        "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
    nodes.patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn beat(client: Client) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        // The next one comes before anybody misses this one.
        say_ready(&client).await.ok();
    }
}

async fn follow_pods(shared: Arc<Shared>) {
    let api = Api::<Pod>::all(shared.client.clone());
    let own = watcher::Config::default().fields(&format!("spec.nodeName={NAME}"));
    let mut events = std::pin::pin!(follow(api, own).default_backoff());
    // Pods end with this task, and so with the node.
    let mut tasks = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(_) = tasks.join_next() => continue,
        };
        match event {
            None => return,
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                if let Some((pod, wish)) = take(&shared, pod) {
                    tasks.spawn(pod::run(Arc::clone(&shared), pod, wish));
                }
            }
            Some(Ok(Event::Delete(pod))) => {
                // Only now: events of its last changes may come after its process has ended.
                let wish = shared.pods().running.remove(&pod.uid().unwrap_or_default());
                if let Some((_, wish)) = wish {
                    wish.send_replace(Wish::Vanish);
                }
            }
            // The watch goes on by itself.
            Some(Ok(Event::Init | Event::InitDone) | Err(_)) => {}
        }
    }
}

/// Tells a pod that runs what is wanted of it; gives back one that is new.
fn take(shared: &Shared, pod: Pod) -> Option<(Pod, watch::Receiver<Wish>)> {
    let (uid, namespace) = (pod.uid()?, pod.namespace()?);
    let mut pods = shared.pods();
    let wanted = match pod.metadata.deletion_timestamp {
        _ if pods.over.contains(&namespace) => Wish::Vanish,
        Some(_) => Wish::End,
        None => Wish::Run,
    };
    if let Some((_, wish)) = pods.running.get(&uid) {
        wish.send_if_modified(|wish| {
            let more = wanted > *wish;
            *wish = wanted.max(*wish);
            more
        });
        return None;
    }
    let (sender, receiver) = watch::channel(wanted);
    pods.running.insert(uid, (namespace.clone(), sender));
    *pods.started.entry(namespace).or_default().entry(kind(&pod)).or_default() += 1;
    Some((pod, receiver))
}

/// What a pod is of: its revision, with `resolver` for the pods that resolve a digest, or `router`.
fn kind(pod: &Pod) -> String {
    let label = |name: &str| pod.labels().get(name).map_or("", String::as_str);
    match label(labels::PART) {
        parts::SERVER => label(labels::REVISION).to_owned(),
        parts::RESOLVER => format!("{} {}", label(labels::REVISION), parts::RESOLVER),
        other => other.to_owned(),
    }
}

/// Where a router takes requests.
fn data(address: Ipv4Addr) -> SocketAddr {
    (address, ports::ROUTER_DATA).into()
}
