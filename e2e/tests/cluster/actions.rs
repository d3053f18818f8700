//! Actions by annotation: abort, retry, promote, undo, and what cannot be understood.

use anyhow::{Result, ensure};
use serde_json::json;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::reasons;
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, revision, short_spec};

/// Asks for an action and waits until the status echoes it and `condition` holds.
async fn ask(
    subject: &Subject<'_>,
    verb: &str,
    nonce: &str,
    condition: impl Fn(&ModelDeploymentStatus) -> bool,
) -> Result<ModelDeploymentStatus> {
    subject.request(verb, nonce).await?;
    let echo = format!("{verb} {nonce}");
    let done = subject
        .until(&format!("handled {echo:?}"), PATIENCE, |status| {
            status.handled_request.as_deref() == Some(echo.as_str()) && condition(status)
        })
        .await?;
    Ok(done.status.unwrap_or_default())
}

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

        let status = ask(&digits, "abort", "1", |status| status.run.is_none()).await?;
        ensure!(status.stable.as_deref() == Some(v1.as_str()), "stable is {:?}", status.stable);
        ensure!(status.rejected.iter().any(|one| one.revision == v2), "{v2} is not rejected");
        digits.event(reasons::ABORTED, &[&v2]).await?;

        let status =
            ask(&digits, "retry", "2", |status| status.run.as_ref().is_some_and(|run| run.step == 1)).await?;
        ensure!(status.candidate.as_deref() == Some(v2.as_str()), "the candidate is {:?}", status.candidate);
        ensure!(status.runs > first_run, "a retry is a run of its own");

        let status = ask(&digits, "promote", "3", |status| status.run.is_none()).await?;
        ensure!(status.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", status.stable);
        let previous = status.previous.as_ref().map(|previous| previous.revision.as_str());
        ensure!(previous == Some(v1.as_str()), "the previous revision is {previous:?}");

        let status =
            ask(&digits, "undo", "4", |status| status.stable.as_deref() == Some(v1.as_str())).await?;
        let pin = status.pin.as_ref().map(|pin| (pin.revision.as_str(), pin.instead_of.as_str()));
        ensure!(pin == Some((v1.as_str(), v2.as_str())), "the pin is {pin:?}");
        digits.event(reasons::UNDONE, &[&v1]).await?;

        digits.request("dance", "5").await?;
        digits.event(reasons::REQUEST_REFUSED, &["dance"]).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}
