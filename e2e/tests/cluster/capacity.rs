//! `rollout.capacity: Proportional`: pods by share of the traffic, and the way back to a stable revision that has too few.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use serde_json::{Value, json};
use stoker_api::names::reasons;
use stoker_e2e::cluster::until;
use stoker_e2e::load::ledger::Figures;
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, why_rejected};

use crate::rollout::serving;

/// Pods for the whole demand.
const WHOLE: i32 = 4;

/// Half of the traffic to the candidate, for longer than the test takes.
fn half_for_long(uri: &str) -> Value {
    let mut spec = patient_spec(uri);
    spec["replicas"] = json!(WHOLE);
    spec["rollout"]["steps"] = json!([{"weight": 50, "duration": "600s"}]);
    spec["rollout"]["capacity"] = json!("Proportional");
    spec
}

/// Waits until a revision has this many pods, all of them ready.
async fn has_pods(namespace: &TestNamespace, revision: &str, pods: i32) -> Result<()> {
    let api = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
    until(&format!("{revision} has {pods} pods"), PATIENCE, async || {
        let deployment = api.get(revision).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        let ready = (status.replicas, status.ready_replicas) == (Some(pods), Some(pods));
        Ok((wanted == Some(pods) && ready).then_some(()))
    })
    .await
}

/// Starts a candidate, and waits until the two revisions share traffic and pods.
async fn shared(namespace: &TestNamespace, digits: &Subject<'_>, stable: &str, uri: &str) -> Result<String> {
    digits.set_uri(uri).await?;
    let running = digits.at_step(1).await?.status.unwrap_or_default();
    let candidate = revision("candidate", running.candidate.as_ref())?;
    has_pods(namespace, &candidate, WHOLE / 2).await?;
    has_pods(namespace, stable, WHOLE / 2).await?;
    Ok(candidate)
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn pods_by_share_are_made_again_on_the_way_back_and_no_request_is_lost() {
    case("share", async |namespace| {
        let digits = serving(namespace, &half_for_long("configmap://digits/v1.onnx")).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        has_pods(namespace, &stable, WHOLE).await?;
        let load = digits.load(60).await?;
        let candidate = shared(namespace, &digits, &stable, "configmap://digits/v2.onnx").await?;
        ensure!(digits.status().await?.capacity.is_some(), "status does not say what pods are counted by");

        // Stable has half of its pods: the candidate keeps what they cannot take, until the others are there.
        digits.request("abort", "back").await?;
        let back = digits
            .until("goes back as pods get ready", PATIENCE, |status| {
                status.capacity.as_ref().is_some_and(|capacity| capacity.refill.is_some())
            })
            .await?;
        let refill = back.status.and_then(|status| status.capacity?.refill).context("no way back")?;
        ensure!(refill.from == candidate, "traffic comes back from {}, not from {candidate}", refill.from);
        let after = digits.rolled_back().await?.status.unwrap_or_default();
        ensure!(after.stable.as_ref() == Some(&stable), "stable is {:?}", after.stable);
        has_pods(namespace, &stable, WHOLE).await?;
        until("the way back is over", PATIENCE, async || {
            let capacity = digits.status().await?.capacity;
            Ok(capacity.and_then(|capacity| capacity.refill).is_none().then_some(()))
        })
        .await?;

        // Stable alone answers what is sent from here on: what was under way has a second to end.
        let sent = load.ledger().answers().len();
        load.ended(sent + 60).await;
        let before = load.ledger().of(&candidate).count();
        load.ended(sent + 180).await;
        let late = load.ledger().of(&candidate).count() - before;
        ensure!(late == 0, "{late} requests went to the candidate after the way back was over");
        let ledger = load.finish_without_failure().await?;
        ensure!(Figures::of(ledger.of(&candidate)).requests > 50, "{}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_harmful_version_with_pods_by_share_is_rolled_back_and_others_lose_nothing() {
    case("sharecut", async |namespace| {
        let digits = serving(namespace, &half_for_long("configmap://digits/v2.onnx")).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(60).await?;
        // Only bright images at first: it fails on dark ones, and would be gone before the pods are shared out.
        load.only_bright(true);
        let v3 = shared(namespace, &digits, &stable, "configmap://digits/v3.onnx").await?;
        load.only_bright(false);

        let after = digits.rolled_back().await?.status.unwrap_or_default();
        ensure!(after.stable.as_ref() == Some(&stable), "stable is {:?}", after.stable);
        let because = why_rejected(&after, &v3)?;
        ensure!(because.contains("failed"), "the reason has no figures: {because}");
        digits.event(reasons::ROLLED_BACK, &[&v3]).await?;
        has_pods(namespace, &stable, WHOLE).await?;
        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others failed too: {}", ledger.explain());
        ensure!(Figures::of(ledger.of(&v3)).failed > 0, "v3 answered without an error");
        Ok(())
    });
}
