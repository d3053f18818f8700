//! Partitions of the network: routers and pods, routers and API server, operator and API server. Each lasts for as many
//! seconds as `STOKER_E2E_PARTITION` says (default 20), heals by itself, and leaves every process as it was.
//!
//! `e2e/run` starts these beside each other. `make partitions` lets each last for ten minutes: that of the operator by itself, for the
//! others wait for what it does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::{conditions, labels, parts, reasons};
use stoker_e2e::cluster::{OPERATOR_NAMESPACE, OPERATOR_PODS, until};
use stoker_e2e::digits;
use stoker_e2e::load::Load;
use stoker_e2e::namespace::{TestNamespace, case_within};
use stoker_e2e::partition::{Partition, heal_all};
use stoker_e2e::subject::{PATIENCE, Subject, condition, revision, short_spec};

/// How long a partition lasts, in seconds.
const SECONDS: &str = "STOKER_E2E_PARTITION";

fn lasts() -> Result<Duration> {
    let seconds = std::env::var(SECONDS).unwrap_or_else(|_| "20".to_owned());
    let seconds: u64 =
        seconds.parse().with_context(|| format!("{SECONDS}={seconds:?} is no number of seconds"))?;
    ensure!(seconds >= 15, "{SECONDS}={seconds}: a partition that is shorter than the Lease shows nothing");
    Ok(Duration::from_secs(seconds))
}

/// One test, with time for its partition and as much as others have besides.
#[expect(clippy::panic, reason = "this is how a test fails")]
fn partitioned(prefix: &str, body: impl AsyncFnOnce(&TestNamespace, Duration) -> Result<()>) {
    static CLEAN: Once = Once::new();
    // What a killed run left would spoil all of them.
    CLEAN.call_once(|| heal_all().unwrap_or_else(|error| panic!("{error:#}")));
    let lasts = lasts().unwrap_or_else(|error| panic!("{error:#}"));
    case_within(prefix, lasts + Duration::from_secs(400), async |namespace| {
        let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2)];
        namespace.config_map("digits", &files).await?;
        body(namespace, lasts).await
    });
}

/// A pod as it was before: its name, and how often its container was started again.
type Restarts = BTreeMap<String, i32>;

async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    Ok(api.list(&ListParams::default().labels(selector)).await?.items)
}

fn restarts(pods: &[Pod]) -> Restarts {
    let count = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|container| container.restart_count).sum()
    };
    pods.iter().map(|pod| (pod.name_any(), count(pod))).collect()
}

fn addresses(pods: &[Pod]) -> Vec<IpAddr> {
    let ip = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    pods.iter().filter_map(ip).collect()
}

async fn api_server() -> Result<SocketAddr> {
    let url = kube::Config::infer().await?.cluster_url;
    let (host, port) = (url.host().context("the kubeconfig names no host")?, url.port_u16().unwrap_or(443));
    (host, port).to_socket_addrs()?.next().context("the API server has no address")
}

fn routers() -> String {
    format!("{}={}", labels::PART, parts::ROUTER)
}

/// Stable serves and is under load; the spec has one step, which lasts longer than nothing.
async fn served(digits: &Subject<'_>) -> Result<Load> {
    let mut spec = short_spec("configmap://digits/v1.onnx");
    spec["rollout"]["steps"] = json!([{"weight": 50, "duration": "5s"}]);
    // A router or a pod that waits for a partition is not slow.
    spec["slo"] = json!({"latency": {"target": "60s"}});
    digits.serve(&spec).await?;
    digits.load(40).await
}

/// The candidate was promoted by its one run, and nobody was started again.
async fn converged(
    namespace: &TestNamespace,
    digits: &Subject<'_>,
    before: &Restarts,
    operators: &Restarts,
) -> Result<ModelDeploymentStatus> {
    let status = digits.healthy().await?.status.unwrap_or_default();
    ensure!(status.runs == 2 && status.rejected.is_empty(), "{} runs, {:?}", status.runs, status.rejected);
    let last = status.history.first().map(|run| run.outcome.as_str());
    ensure!(last == Some(reasons::PROMOTED), "{:?}", status.history);
    let after = restarts(&pods(&namespace.client, &namespace.name, "").await?);
    for (pod, count) in before {
        // Pods of the previous revision may have gone by now.
        ensure!(after.get(pod).is_none_or(|now| now == count), "{pod} was started again: {after:?}");
    }
    let routers = restarts(&pods(&namespace.client, &namespace.name, &routers()).await?);
    ensure!(routers.keys().all(|pod| before.contains_key(pod)), "other routers than before: {routers:?}");
    ensure!(
        *operators == operator_restarts(namespace).await?,
        "the operator was started again: {operators:?} before"
    );
    Ok(status)
}

async fn operator_restarts(namespace: &TestNamespace) -> Result<Restarts> {
    Ok(restarts(&pods(&namespace.client, OPERATOR_NAMESPACE, OPERATOR_PODS).await?))
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn routers_and_pods_find_each_other_again() {
    partitioned("cut-pods", async |namespace, lasts| {
        let digits = Subject::new(namespace, "digits");
        let load = served(&digits).await?;
        let all = pods(&namespace.client, &namespace.name, "").await?;
        let routers = addresses(&pods(&namespace.client, &namespace.name, &routers()).await?);
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let selector = format!("{}={stable},{}={}", labels::REVISION, labels::PART, parts::SERVER);
        let servers = addresses(&pods(&namespace.client, &namespace.name, &selector).await?);
        let operators = operator_restarts(namespace).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;

        // Stable alone is cut off: what fails then is not the candidate's doing, and what does not is no reason to promote.
        let partition = Partition::of_pods(&routers, &servers)?;
        tokio::time::sleep(lasts).await;
        let failed = load.ledger().failed_but_for(None);
        ensure!(failed > 0 || lasts < Duration::from_secs(11), "nothing was cut off");
        partition.heal()?;

        // Requests from before the healing may still run out of time; new ones do not.
        drop(load.finish().await?);
        let load = digits.load(40).await?;
        converged(namespace, &digits, &restarts(&all), &operators).await?;
        load.ended(200).await;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn routers_serve_without_the_api_server_and_catch_up() {
    partitioned("cut-routers", async |namespace, lasts| {
        let digits = Subject::new(namespace, "digits");
        let load = served(&digits).await?;
        let all = pods(&namespace.client, &namespace.name, "").await?;
        let routers = addresses(&pods(&namespace.client, &namespace.name, &routers()).await?);
        let operators = operator_restarts(namespace).await?;
        let v1 = digits.status().await?.stable;

        let partition = Partition::from_api(&routers, api_server().await?)?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let waits = |status: &ModelDeploymentStatus| {
            status.run.is_some() && condition(status, conditions::TRAFFIC_VERIFIED) == "False"
        };
        let behind = digits.until("waits for the routers", PATIENCE, waits).await;
        tokio::time::sleep(lasts).await;
        let status = digits.status().await?;
        partition.heal()?;
        behind?;
        ensure!(
            status.stable == v1 && status.run.is_some(),
            "a table that nobody served was acted upon: {status:?}"
        );

        converged(namespace, &digits, &restarts(&all), &operators).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn routers_that_cannot_be_asked_change_no_number_of_pods() {
    partitioned("cut-signals", async |namespace, lasts| {
        let digits = Subject::new(namespace, "digits");
        let mut spec = short_spec("configmap://digits/v1.onnx");
        spec["replicas"] = json!(2);
        spec["slo"] = json!({"latency": {"target": "60s"}});
        // One pod is enough for the load, and for zero there is nothing but silence.
        spec["scaling"] = json!({
            "maxReplicas": 4, "scaleToZeroAfter": "30s", "behavior": {"scaleDownWindow": "24h"},
        });
        digits.serve(&spec).await?;
        let load = digits.load(40).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let learned = |status: &ModelDeploymentStatus| {
            let revisions = status.scaling.as_ref().map(|scaling| scaling.revisions.as_slice());
            revisions.unwrap_or_default().iter().any(|known| known.capacity_per_pod.is_some())
        };
        digits.until("knows what a pod carries", PATIENCE, learned).await?;

        let operators = addresses(&pods(&namespace.client, OPERATOR_NAMESPACE, OPERATOR_PODS).await?);
        let routers = addresses(&pods(&namespace.client, &namespace.name, &routers()).await?);
        let partition = Partition::of_pods(&operators, &routers)?;
        let holds = |status: &ModelDeploymentStatus| {
            status.scaling.as_ref().is_some_and(|scaling| scaling.holds.is_some())
        };
        let held = digits.until("holds", PATIENCE, holds).await;
        tokio::time::sleep(lasts).await;
        let deployments = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
        let size = deployments.get(&stable).await?.spec.and_then(|spec| spec.replicas);
        partition.heal()?;
        let held = held?.status.unwrap_or_default();
        ensure!(condition(&held, conditions::SCALING_ACTIVE) == "False", "{:?}", held.conditions);
        ensure!(size == Some(2), "the pods are {size:?} while nothing is heard of the demand");
        digits.until("goes on", PATIENCE, |status| !holds(status)).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_operator_finds_the_api_server_again() {
    partitioned("cut-operator", async |namespace, lasts| {
        let digits = Subject::new(namespace, "digits");
        let load = served(&digits).await?;
        let all = pods(&namespace.client, &namespace.name, "").await?;
        let operators = pods(&namespace.client, OPERATOR_NAMESPACE, OPERATOR_PODS).await?;
        let v1 = digits.status().await?.stable;

        let partition = Partition::from_api(&addresses(&operators), api_server().await?)?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        tokio::time::sleep(lasts).await;
        let status = digits.status().await?;
        partition.heal()?;
        ensure!(status.stable == v1 && status.runs == 1, "somebody worked meanwhile: {status:?}");

        converged(namespace, &digits, &restarts(&all), &restarts(&operators)).await?;
        until("the operator is ready again", PATIENCE, async || {
            let pods = pods(&namespace.client, OPERATOR_NAMESPACE, OPERATOR_PODS).await?;
            Ok(pods.iter().all(stoker_e2e::cluster::is_ready).then_some(()))
        })
        .await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}
