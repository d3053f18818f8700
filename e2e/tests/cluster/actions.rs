//! Actions by annotation: abort, retry, promote, undo, resume, and what cannot be understood.

use anyhow::ensure;
use serde_json::json;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says, short_spec};

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_person_can_abort_retry_promote_and_undo() {
    case("actions", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let mut spec = short_spec("configmap://digits/v1.onnx");
        // Nothing ends by itself in this test.
        spec["rollout"]["steps"] = json!([{"weight": 20, "duration": "1h"}]);
        spec["rollback"]["keepWarm"] = json!("1h");
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(20).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let status = digits.at_step(1).await?.status.unwrap_or_default();
        let v2 = revision("candidate", status.candidate.as_ref())?;
        let first_run = status.runs;

        let status = digits.ask("abort", "1", |status| status.run.is_none()).await?;
        ensure!(status.stable.as_deref() == Some(v1.as_str()), "stable is {:?}", status.stable);
        ensure!(status.rejected.iter().any(|one| one.revision == v2), "{v2} is not rejected");
        digits.event(reasons::ABORTED, &[&v2]).await?;

        let status =
            digits.ask("retry", "2", |status| status.run.as_ref().is_some_and(|run| run.step == 1)).await?;
        ensure!(status.candidate.as_deref() == Some(v2.as_str()), "the candidate is {:?}", status.candidate);
        ensure!(status.runs > first_run, "a retry is a run of its own");

        let status = digits.ask("promote-full", "3", |status| status.run.is_none()).await?;
        ensure!(status.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", status.stable);
        let previous = status.previous.as_ref().map(|previous| previous.revision.as_str());
        ensure!(previous == Some(v1.as_str()), "the previous revision is {previous:?}");

        let status = digits.ask("undo", "4", |status| status.stable.as_deref() == Some(v1.as_str())).await?;
        let pin = status.pin.as_ref().map(|pin| (pin.revision.as_str(), pin.instead_of.as_str()));
        ensure!(pin == Some((v1.as_str(), v2.as_str())), "the pin is {pin:?}");
        digits.event(reasons::UNDONE, &[&v1]).await?;

        digits.request("dance", "5").await?;
        digits.event(reasons::REQUEST_REFUSED, &["dance"]).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_pause_without_end_holds_until_someone_resumes_it() {
    case("pause", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        let weight = |percent: u32| json!({"weight": percent, "duration": "1s"});
        spec["rollout"]["steps"] = json!([weight(20), {"pause": {}}, weight(50)]);
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let what = "pauses until someone asks for `resume`";
        let paused = digits.until(what, PATIENCE, |status| status.message.contains(what)).await?;
        let paused = paused.status.unwrap_or_default();
        let v2 = revision("candidate", paused.candidate.as_ref())?;
        ensure!(paused.step.as_deref() == Some("2/3"), "it is at step {:?}", paused.step);
        says(&paused, conditions::PROGRESSING, "True", &["step 2/3", &v2, "gets 20 %", what])?;
        digits.event(reasons::HOLDING, &[&v2, what]).await?;

        // Traffic for longer than all the steps with an end take together.
        let before = load.ledger().answers().len();
        load.ended(before + 240).await;
        let still = digits.status().await?;
        ensure!(still.step == paused.step && still.weight == Some(20), "it went on: {}", still.message);
        ensure!(still.stable == paused.stable, "it was promoted: {}", still.message);

        digits.ask("resume", "1", |status| status.run.as_ref().is_none_or(|run| run.step > 2)).await?;
        digits.event(reasons::RESUMED, &[&v2, "the pause at step 2 ends, as e2e asked"]).await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", after.stable);
        digits.request("resume", "2").await?;
        digits.event(reasons::REQUEST_REFUSED, &["resume: there is no run"]).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}
