//! Access to the cluster that the current kubeconfig names.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

/// The namespace that the operator is installed in.
pub const OPERATOR_NAMESPACE: &str = "stoker-system";
/// Selects the operator's pods.
pub const OPERATOR_PODS: &str = "stoker.dev/part=operator";
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A client for the cluster that `KUBECONFIG` names.
pub async fn connect() -> Result<Client> {
    Client::try_from(config().await?).context("the kubeconfig cannot be used")
}

/// As [`connect`], but as another person, with the rights of that person: our own user must have the right to impersonate.
pub async fn connect_as(user: &str, groups: &[&str]) -> Result<Client> {
    let mut config = config().await?;
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(groups.iter().map(|&group| group.to_owned()).collect());
    Client::try_from(config).context("the kubeconfig cannot be used")
}

async fn config() -> Result<kube::Config> {
    // Fails only where it was done before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    kube::Config::infer().await.context("no cluster: set KUBECONFIG, or run by e2e/cluster/exec")
}

/// The address at which pods reach this program: that of the node in whose network it runs.
pub async fn address_for_pods(client: &Client) -> Result<IpAddr> {
    let nodes =
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("listing nodes")?;
    let addresses = nodes.items.into_iter().filter_map(|node| node.status?.addresses).flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    // Only an address that the machine has can be bound.
    let own = |ip: &IpAddr| UdpSocket::bind((*ip, 0)).is_ok();
    internal
        .filter_map(|address| address.address.parse().ok())
        .find(own)
        .ok_or_else(|| anyhow!("this does not run on a node of the cluster: use e2e/run"))
}

/// Asks again and again until `look` finds something; errors of the API server count as nothing found.
///
/// Fails after `deadline` with what was waited for and the last error.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        // One look must not outlast the wait: a connection to an API server that was stopped can hang.
        let last = match tokio::time::timeout(Duration::from_secs(5), look()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(anyhow!("no answer from the API server within 5 s")),
        };
        if Instant::now() >= end {
            let because = last.map_or_else(String::new, |error| format!("; the last look failed: {error:#}"));
            bail!("waited {} s in vain: {what}{because}", deadline.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The operator's pods that are ready.
pub async fn ready_operators(client: &Client) -> Result<Vec<Pod>> {
    let pods = Api::<Pod>::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let pods = pods.list(&ListParams::default().labels(OPERATOR_PODS)).await?;
    Ok(pods.items.into_iter().filter(is_ready).collect())
}

/// Waits until an operator that is none of `gone` (names of pods) is ready.
pub async fn operator_is_ready(client: &Client, gone: &[String]) -> Result<Pod> {
    until("an operator pod is ready", Duration::from_mins(2), async || {
        let pods = ready_operators(client).await?;
        Ok(pods.into_iter().find(|pod| !gone.contains(&pod.name_any())))
    })
    .await
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
