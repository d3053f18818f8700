//! What a rollout stands still for: approvals, a pause that somebody asked for; and steps that somebody ends.

use anyhow::ensure;
use serde_json::json;
use stoker_api::names::reasons;
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision};

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_rollout_waits_for_approvals_and_remembers_who_gave_them() {
    case("approvals", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] = json!([
            {"weight": 20, "duration": "1s"},
            {"weight": 50, "duration": "1s", "approval": "Required"},
        ]);
        spec["rollout"]["approval"] = json!("Required");
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let waits = digits.until("waits for an approval of step 2", PATIENCE, |status| {
            status.run.as_ref().is_some_and(|run| run.awaits.as_deref() == Some("step 2"))
        });
        let status = waits.await?.status.unwrap_or_default();
        let v2 = revision("candidate", status.candidate.as_ref())?;
        let sentence = "step 2 (50 %) waits for an approval: `approve` with a reason lets it begin";
        ensure!(status.message.contains(sentence), "{}", status.message);
        digits.event(reasons::HOLDING, &[&v2, sentence]).await?;

        // Nobody gets around it: neither by skipping the step before nor by skipping all.
        digits.request("promote-full", "1").await?;
        digits.event(reasons::REQUEST_REFUSED, &["promote-full: step 2 wants an approval first"]).await?;
        let before = load.ledger().answers().len();
        load.ended(before + 240).await;
        ensure!(digits.status().await?.weight == Some(20), "it went on without an approval");

        let status =
            digits.ask("approve", "2", |status| status.run.as_ref().is_some_and(|run| run.step == 2)).await?;
        let given = status.run.as_ref().and_then(|run| run.approvals.first()).cloned();
        let given = given.ok_or_else(|| anyhow::anyhow!("status.run.approvals is empty"))?;
        ensure!(given.gate == "step 2" && given.reason == "the figures are good", "{given:?}");
        ensure!(!given.by.is_empty() && given.at.is_some(), "{given:?}");
        digits.event(reasons::APPROVED, &[&v2, "step 2 is approved by", "the figures are good"]).await?;

        let waits = digits.until("waits for an approval of the promotion", PATIENCE, |status| {
            status.run.as_ref().is_some_and(|run| run.awaits.as_deref() == Some("promotion"))
        });
        waits.await?;
        digits.ask("approve", "3", |status| status.stable.as_deref() == Some(v2.as_str())).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_paused_rollout_stands_still_and_promote_ends_one_step() {
    case("paused", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] =
            json!([{"weight": 20, "duration": "1s"}, {"weight": 50, "duration": "1h"}]);
        // The first step is held up by its evidence.
        spec["rollout"]["minRequests"] = json!(1_000_000);
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;
        let by = |status: &stoker_api::deployment::ModelDeploymentStatus| {
            status.run.as_ref().and_then(|run| run.paused_by.clone())
        };
        let status = digits.ask("pause", "1", |status| by(status).is_some()).await?;
        let v2 = revision("candidate", status.candidate.as_ref())?;
        ensure!(status.message.contains("is paused by"), "{}", status.message);
        digits.event(reasons::PAUSED, &[&v2, "stands still at 20 %"]).await?;
        digits.ask("resume", "2", |status| by(status).is_none()).await?;
        digits.ask("promote", "3", |status| status.weight == Some(50)).await?;
        digits.ask("promote", "4", |status| status.stable.as_deref() == Some(v2.as_str())).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}
