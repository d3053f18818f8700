//! All rollouts of the cluster are frozen: none goes on, none starts, and what does harm is taken back all the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use stoker_api::names::{conditions, objects, reasons};
use stoker_e2e::cluster::OPERATOR_NAMESPACE;
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says};

use super::models;

/// What the person who froze all rollouts wrote down.
const WHY: &str = "the payment provider is down, ann watches it";
/// Longer than what is done meanwhile needs, and shorter than the whole test may take: the tests after it need rollouts.
const LONGEST: Duration = Duration::from_mins(4);

/// Does something while all rollouts are frozen.
async fn while_frozen<T>(namespace: &TestNamespace, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let api = Api::<ConfigMap>::namespaced(namespace.client.clone(), OPERATOR_NAMESPACE);
    let switch = serde_json::from_value(json!({
        "metadata": {"name": objects::FLEET},
        "data": {objects::FREEZE: WHY},
    }))?;
    api.create(&PostParams::default(), &switch).await.context("freezing the fleet")?;
    let outcome = tokio::time::timeout(LONGEST, body()).await;
    let thawed = api.delete(objects::FLEET, &DeleteParams::default()).await;
    let outcome = outcome.with_context(|| format!("frozen for {} s", LONGEST.as_secs()))??;
    thawed.context("lifting the freeze")?;
    Ok(outcome)
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_frozen_fleet_advances_nothing_and_still_rolls_back() {
    case("frozen", async |namespace| {
        models(namespace).await?;
        let (good, bad) = (Subject::new(namespace, "good"), Subject::new(namespace, "bad"));
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] =
            json!([{"weight": 20, "duration": "3s"}, {"weight": 50, "duration": "3s"}]);
        let mut other = patient_spec("configmap://digits/v2.onnx");
        // Nothing ends by itself here.
        other["rollout"]["steps"] = json!([{"weight": 30, "duration": "1h"}]);
        try_join(good.serve(&spec), bad.serve(&other)).await?;
        let v1 = good.status().await?.stable;
        let (good_load, bad_load) = (good.load(40).await?, bad.load(60).await?);
        // v3 fails on dark images alone.
        bad_load.only_bright(true);
        bad.set_uri("configmap://digits/v3.onnx").await?;
        bad.at_step(1).await?;
        good.set_uri("configmap://digits/v2.onnx").await?;
        good.at_step(1).await?;

        let candidate = while_frozen(namespace, async || {
            let sentence = format!("the fleet is frozen: {WHY}");
            // With Pass there is nothing else that it could wait for.
            let held = good.until(&sentence, PATIENCE, |status| {
                status.message.contains(&sentence) && status.verdict.as_deref() == Some(reasons::PASS)
            });
            let held = held.await?.status.unwrap_or_default();
            let candidate = revision("candidate", held.candidate.as_ref())?;
            says(&held, conditions::PROGRESSING, "True", &["holds: ", &sentence])?;
            good.event(reasons::HOLDING, &[&candidate, &sentence]).await?;

            bad_load.only_bright(false);
            let after = bad.rolled_back().await?.status.unwrap_or_default();
            says(&after, conditions::ROLLED_BACK, "True", &["candidate failed"])?;
            bad.set_uri("configmap://digits/v1.onnx").await?;
            let waits = bad.until("waits for the end of the freeze", PATIENCE, |status| {
                status.message.contains(&format!("waits: {sentence}"))
            });
            let waits = waits.await?.status.unwrap_or_default();
            ensure!(waits.run.is_none(), "a run was started: {:?}", waits.run);
            says(&waits, conditions::PROGRESSING, "True", &[&sentence])?;

            let still = good.status().await?;
            ensure!(still.step == held.step && still.stable == v1, "it went on: {}", still.message);
            Ok(candidate)
        })
        .await?;

        let after = good.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_ref() == Some(&candidate), "stable is {:?}", after.stable);
        let status = bad.at_step(1).await?.status.unwrap_or_default();
        ensure!(status.candidate == status.target, "the candidate is {:?}", status.candidate);
        good_load.finish_without_failure().await?;
        let v3 = status.rejected.first().map(|one| one.revision.as_str());
        let ledger = bad_load.finish().await?;
        ensure!(ledger.failed_but_for(v3) == 0, "others failed too: {}", ledger.explain());
        Ok(())
    });
}
