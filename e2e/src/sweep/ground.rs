//! What all runs stand on: a cluster without an operator of its own, a node of processes, and models to be fetched.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use stoker_api::ModelDeployment;

use crate::artifacts::{Artifact, ArtifactServer};
use crate::cluster::{OPERATOR_NAMESPACE, OPERATOR_PODS, connect, operator_is_ready, until};
use crate::digits;
use crate::node::Node;

/// The operator's Deployment, where it is installed.
const OPERATOR: &str = "stoker";

/// A cluster that is ready for runs. [`Ground::leave`] gives it back as it was.
pub struct Ground {
    /// For tests.
    pub client: Client,
    /// For proxies: repeats nothing by itself.
    pub upstream: Client,
    /// Where pods run.
    pub node: Node,
    /// Logs of what runs.
    pub folder: PathBuf,
    artifacts: ArtifactServer,
    cordoned: Vec<String>,
    operators: Option<i32>,
}

impl Ground {
    /// Sends the installed operator away and new pods to a node of processes. Logs go below `folder`.
    pub async fn enter(folder: &Path) -> Result<Self> {
        let client = connect().await?;
        let models = Api::<ModelDeployment>::all(client.clone());
        let found = models.list_metadata(&ListParams::default().limit(1)).await;
        found.context("ModelDeployments cannot be listed: install the CRDs first")?;
        std::fs::remove_dir_all(folder).ok();
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut config = kube::Config::infer().await?;
        config.default_retry = false;
        let upstream = Client::try_from(config)?;
        let models = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3)];
        let models = models.map(|(name, bytes)| (name, Artifact::open(bytes)));
        let artifacts = ArtifactServer::start(&client, &models).await?;
        let operators = scale_operator(&client, 0).await?;
        // From here on there is something to be put back.
        let mut cordoned = Vec::new();
        let node = async {
            cordoned = cordon(&client).await?;
            Node::join(client.clone(), &folder.join("pods")).await
        };
        match node.await {
            Ok(node) => {
                Ok(Self { client, upstream, node, folder: folder.to_owned(), artifacts, cordoned, operators })
            }
            Err(error) => {
                restore(&client, &cordoned, operators).await?;
                Err(error)
            }
        }
    }

    /// Where a model of the demo is fetched from: `v1.onnx`, `v2.onnx`, and the harmful `v3.onnx`.
    pub fn uri(&self, file: &str) -> String {
        self.artifacts.uri(file)
    }

    /// Puts everything back.
    pub async fn leave(self) -> Result<()> {
        let left = self.node.leave().await;
        restore(&self.client, &self.cordoned, self.operators).await?;
        left
    }
}

async fn restore(client: &Client, cordoned: &[String], operators: Option<i32>) -> Result<()> {
    for name in cordoned {
        set_unschedulable(client, name, false).await?;
    }
    if let Some(operators) = operators.filter(|operators| *operators > 0) {
        scale_operator(client, operators).await?;
        operator_is_ready(client, &[]).await?;
    }
    Ok(())
}

/// The nodes that took pods take none now.
async fn cordon(client: &Client) -> Result<Vec<String>> {
    let nodes = Api::<NodeObject>::all(client.clone()).list(&ListParams::default()).await?;
    let open = |node: &&NodeObject| node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true);
    let names: Vec<String> = nodes.items.iter().filter(open).map(kube::ResourceExt::name_any).collect();
    for name in &names {
        set_unschedulable(client, name, true).await?;
    }
    Ok(names)
}

async fn set_unschedulable(client: &Client, name: &str, value: bool) -> Result<()> {
    let nodes = Api::<NodeObject>::all(client.clone());
    let change = json!({"spec": {"unschedulable": value}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

/// Sets how many operators are installed, waits for the end of those that go, and says how many there were.
async fn scale_operator(client: &Client, replicas: i32) -> Result<Option<i32>> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let Some(live) = deployments.get_opt(OPERATOR).await? else { return Ok(None) };
    let before = live.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let change = json!({"spec": {"replicas": replicas}});
    deployments.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&change)).await?;
    if replicas == 0 {
        let pods = Api::<Pod>::namespaced(client.clone(), OPERATOR_NAMESPACE);
        until("the installed operator is gone", Duration::from_secs(60), async || {
            let left = pods.list(&ListParams::default().labels(OPERATOR_PODS)).await?;
            Ok(left.items.is_empty().then_some(()))
        })
        .await?;
    }
    Ok(Some(before))
}

/// Runs a test on a ground of its own, and gives the cluster back whatever happens.
///
/// # Panics
/// With the error, when the test fails.
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn grounded(folder: &str, body: impl AsyncFnOnce(&Ground) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let outcome = runtime.block_on(async {
        let ground = Ground::enter(Path::new(folder)).await?;
        let body = AssertUnwindSafe(async { body(&ground).await }).catch_unwind().await;
        let left = ground.leave().await;
        body.unwrap_or_else(|_| bail!("it panicked; its message stands above")).and(left)
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}
