//! A shadow step: copies of requests, whose answers are compared with stable's and reach nobody.

use anyhow::{Context as _, ensure};
use serde_json::json;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says, why_rejected};

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_candidate_goes_on_by_how_often_its_labels_agree() {
    case("shadow", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let steps = |duration: &str, agreement: u32| {
            let shadow = json!({"shadow": 100, "duration": duration, "minAgreement": agreement});
            json!([shadow, {"weight": 50, "duration": "1s"}])
        };
        let plan = |duration, agreement| json!({"spec": {"rollout": {"steps": steps(duration, agreement)}}});
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] = steps("1h", 99);
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let v1 = digits.status().await?.stable;
        let load = digits.load(60).await?;

        // v2 is the better model: it gives another label than v1 for about one image in thirteen.
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let status = digits.rolled_back().await?.status.unwrap_or_default();
        let v2 = revision("target", status.target.as_ref())?;
        let figures = "compared answers agree with stable's, 99 % are wanted";
        let because = why_rejected(&status, &v2)?;
        ensure!(because.contains(figures), "the reason does not say how many agree: {because}");
        ensure!(status.message.contains(figures), "{}", status.message);
        ensure!(status.stable == v1, "stable is {:?}", status.stable);
        ensure!(status.verdict.as_deref() == Some(reasons::FAIL), "the verdict is {:?}", status.verdict);
        says(&status, conditions::ROLLED_BACK, "True", &[figures])?;
        digits.event(reasons::ROLLED_BACK, &[&v2, figures]).await?;

        digits.merge(&plan("1h", 80)).await?;
        digits.ask("retry", "1", |status| status.run.is_some()).await?;
        let figures = "compared answers agree with stable's, 80 % are wanted";
        let passing = digits.until("finds that enough labels agree", PATIENCE, |status| {
            status.verdict.as_deref() == Some(reasons::PASS) && status.message.contains(figures)
        });
        let passing = passing.await?.status.unwrap_or_default();
        ensure!(passing.message.contains(&format!("{v2} gets copies of 100 %")), "{}", passing.message);
        says(&passing, conditions::ANALYSIS_PASSING, "True", &[figures])?;
        let evidence = passing.run.and_then(|run| run.evidence).context("the run has no evidence")?;
        let (compared, agreed) = (evidence.compared.unwrap_or(0), evidence.agreed.unwrap_or(0));
        ensure!(compared >= 20 && agreed * 100 >= compared * 80, "{agreed} of {compared} agree");
        ensure!(load.ledger().of(&v2).next().is_none(), "a copy was answered: {}", load.ledger().explain());

        // The run goes by the plan that it started with, until someone says otherwise.
        digits.merge(&plan("1s", 80)).await?;
        let drift = "by the plan it started with; `repin` takes up the new one";
        let drifted = digits.until(drift, PATIENCE, |status| status.message.contains(drift)).await?;
        let run = drifted.status.and_then(|status| status.run).context("the run is gone")?;
        ensure!(run.step == 1 && run.plan_drift.is_some(), "step {}, drift {:?}", run.step, run.plan_drift);
        digits.request("repin", "2").await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", after.stable);
        digits.event(reasons::REPINNED, &[&v2, "as e2e asked"]).await?;
        let ledger = load.finish_without_failure().await?;
        ensure!(ledger.of(&v2).next().is_some(), "{}", ledger.explain());
        Ok(())
    });
}
