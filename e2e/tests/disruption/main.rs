//! Tests that disturb the whole cluster, one after the other: the operator is killed at each step of a rollout, the API
//! server goes away for half a minute, all rollouts are frozen. `e2e/run` starts them after the others, with one thread.

mod freeze;
mod scaling;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use stoker_api::deployment::{ModelDeploymentStatus, Phase};
use stoker_api::names::reasons;
use stoker_e2e::cluster::{OPERATOR_NAMESPACE, operator_is_ready, ready_operators};
use stoker_e2e::digits;
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, revision, short_spec};
use tokio::process::Command;

/// The program that stops and starts the API server, called with the cluster's name and `stop` or `start`. Set by `e2e/run`.
const API_CONTROL: &str = "STOKER_E2E_API_CONTROL";
/// The cluster's name. Set by `e2e/run`.
const CLUSTER: &str = "STOKER_E2E_CLUSTER";

/// Kills the operator without warning, and waits for the next one.
async fn kill_operator(namespace: &TestNamespace) -> Result<()> {
    let api = Api::<Pod>::namespaced(namespace.client.clone(), OPERATOR_NAMESPACE);
    let running = ready_operators(&namespace.client).await?;
    let names: Vec<String> = running.iter().map(ResourceExt::name_any).collect();
    ensure!(!names.is_empty(), "no operator is there to be killed");
    for name in &names {
        api.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    operator_is_ready(&namespace.client, &names).await?;
    Ok(())
}

async fn models(namespace: &TestNamespace) -> Result<()> {
    let files =
        [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3), ("v4.onnx", digits::V4)];
    namespace.config_map("digits", &files).await
}

/// A point of a rollout, and whether a status is at it.
type Point = (&'static str, fn(&ModelDeploymentStatus) -> bool);

/// The points of a rollout at which the operator is killed.
const POINTS: [Point; 4] = [
    ("the candidate's pods are prepared", |status| status.candidate.is_some()),
    ("the first step", |status| status.run.as_ref().is_some_and(|run| run.step == 1)),
    ("the second step", |status| status.run.as_ref().is_some_and(|run| run.step == 2)),
    ("the promotion", |status| status.run.is_none() && status.stable == status.target),
];

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn an_operator_killed_at_each_step_of_a_rollout_comes_to_the_same_end() {
    case("killed", async |namespace| {
        models(namespace).await?;
        let digits = Subject::new(namespace, "digits");
        digits.serve(&short_spec("configmap://digits/v1.onnx")).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(40).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        for (point, reached) in POINTS {
            digits.until(point, PATIENCE, reached).await?;
            kill_operator(namespace).await.with_context(|| format!("killing the operator at {point}"))?;
        }
        let after = digits.healthy().await?.status.unwrap_or_default();
        let v2 = revision("stable", after.stable.as_ref())?;
        ensure!(v2 != v1 && after.stable == after.target, "stable is {:?}", after.stable);
        // As without any kill: the first revision's run, and one for the second.
        ensure!(after.runs == 2, "{} runs were started", after.runs);
        ensure!(
            after.history.first().is_some_and(|last| last.outcome == reasons::PROMOTED),
            "{:?}",
            after.history
        );
        ensure!(after.rejected.is_empty(), "{:?}", after.rejected);
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn an_operator_killed_during_a_harmful_rollout_still_rolls_it_back() {
    case("killed-bad", async |namespace| {
        models(namespace).await?;
        let digits = Subject::new(namespace, "digits");
        digits.serve(&short_spec("configmap://digits/v2.onnx")).await?;
        let stable = digits.status().await?.stable;
        let load = digits.load(40).await?;

        digits.set_uri("configmap://digits/v3.onnx").await?;
        let status = digits.at_step(1).await?.status.unwrap_or_default();
        let v3 = revision("candidate", status.candidate.as_ref())?;
        kill_operator(namespace).await?;
        digits.rolled_back().await?;
        kill_operator(namespace).await?;
        let after = digits.rolled_back().await?.status.unwrap_or_default();
        ensure!(
            after.stable == stable && after.run.is_none(),
            "stable is {:?}, run {:?}",
            after.stable,
            after.run
        );
        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others failed too: {}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_api_server_may_be_away_for_half_a_minute() {
    // Last in the alphabet, and so the last to run with one thread: nothing else works meanwhile.
    case("without-api", async |namespace| {
        let control = ApiControl::from_environment()?;
        models(namespace).await?;
        let digits = Subject::new(namespace, "digits");
        let mut spec = short_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] = json!([{"weight": 30, "duration": "10s"}]);
        digits.serve(&spec).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let load = digits.load(60).await?;
        digits.at_step(1).await?;

        control.switch("stop").await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let meanwhile = load.ledger().failed_but_for(None);
        control.switch("start").await?;
        ensure!(meanwhile == 0, "requests failed while it was away: {}", load.ledger().explain());

        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.phase == Phase::Healthy && after.rejected.is_empty(), "{:?}", after.rejected);
        let ledger = load.finish_without_failure().await?;
        ensure!(ledger.answers().len() > 60 * 30, "the load went on all the time");
        Ok(())
    });
}

/// How the API server is stopped and started. Two variables, since a path may hold spaces.
struct ApiControl {
    program: String,
    cluster: String,
}

impl ApiControl {
    fn from_environment() -> Result<Self> {
        let set = |name| std::env::var(name).with_context(|| format!("{name} is not set; use e2e/run"));
        Ok(Self { program: set(API_CONTROL)?, cluster: set(CLUSTER)? })
    }

    async fn switch(&self, what: &str) -> Result<()> {
        let Self { program, cluster } = self;
        let done = Command::new(program).args([cluster, what]).output().await;
        let done = done.with_context(|| program.clone())?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{program} {cluster} {what}: {said}");
        Ok(())
    }
}
