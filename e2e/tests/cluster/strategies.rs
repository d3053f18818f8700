//! Blue-green: a preview, then everything at once. Recreate: one revision at a time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use serde_json::{Value, json};
use stoker_api::deployment::Phase;
use stoker_api::deployment::status::Room;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::children::{all_pods_of, standing_pods_of};
use stoker_e2e::cluster::until;
use stoker_e2e::digits;
use stoker_e2e::load::{Load, Plan};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says, why_rejected};

/// A spec that goes by a strategy, with the fields that follow from it.
fn by(strategy: &str, uri: &str, own: &Value) -> Value {
    let mut spec = patient_spec(uri);
    spec["rollout"] = json!({"strategy": strategy, "progressDeadline": "60s"});
    for (field, value) in own.as_object().into_iter().flatten() {
        spec["rollout"][field] = value.clone();
    }
    spec
}

/// Requests to the address of the preview, over a second Service of the same routers.
async fn testers(namespace: &TestNamespace, digits: &Subject<'_>) -> Result<Load> {
    let preview = Subject::new(namespace, &format!("{}-preview", digits.name));
    let mut plan = Plan::of(preview.reached().await?, &namespace.name, &preview.name, 20);
    plan.path = format!("/v2/models/{}/infer", digits.name);
    Load::start(plan)
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_blue_green_candidate_is_tried_at_its_preview_and_then_has_everything() {
    case("blue-green", async |namespace| {
        let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3)];
        namespace.config_map("digits", &files).await?;
        let own = json!({
            "steps": [{"shadow": 100, "duration": "2s", "minRequests": 20}, {"analysis": {}, "duration": "3s"}],
            "approval": "Required",
            "guard": {"duration": "60s"},
        });
        let mut spec = by("BlueGreen", "configmap://digits/v1.onnx", &own);
        spec["rollback"]["keepWarm"] = json!("60s");
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let users = digits.load(60).await?;

        // Nothing to preview: it is refused, and stable does not stand in.
        let early = testers(namespace, &digits).await?;
        early.ended(10).await;
        let early = early.finish().await?;
        ensure!(early.of(&v1).next().is_none(), "stable answered at the preview: {}", early.explain());
        ensure!(early.explain().contains("has no candidate to preview"), "{}", early.explain());

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let waits = digits.until("waits for an approval of the promotion", PATIENCE, |status| {
            status.run.as_ref().is_some_and(|run| run.awaits.as_deref() == Some("promotion"))
        });
        let status = waits.await?.status.unwrap_or_default();
        let v2 = revision("candidate", status.candidate.as_ref())?;
        let sentence =
            format!("step 2/2: {v2} answers at its preview address; the promotion waits for an approval");
        ensure!(status.message.contains(&sentence), "{}", status.message);
        ensure!(status.verdict.as_deref() == Some(reasons::PASS), "{:?}: {}", status.verdict, status.message);
        says(&status, conditions::ANALYSIS_PASSING, "True", &["metrics and alerts alone decide"])?;

        let tests = testers(namespace, &digits).await?;
        tests.ended(100).await;
        let tests = tests.finish_without_failure().await?;
        ensure!(tests.answers().len() == tests.of(&v2).count(), "others answered too: {}", tests.explain());
        ensure!(users.ledger().of(&v2).next().is_none(), "users got it early: {}", users.ledger().explain());

        digits.ask("approve", "1", |status| status.stable.as_deref() == Some(v2.as_str())).await?;
        let before = users.ledger().answers().len();
        users.ended(before + 300).await;
        let guarded = digits.status().await?;
        ensure!(guarded.guard.as_ref().is_some_and(|guard| guard.holdback == 0), "{:?}", guarded.guard);
        ensure!(!all_pods_of(namespace, &v1).await?.is_empty(), "nothing is left to go back to");
        let ledger = users.finish_without_failure().await?;
        let last = ledger.of(&v2).count();
        ensure!(last > 100, "v2 has the traffic: {}", ledger.explain());

        // Without its strategy the address goes as well.
        digits.merge(&json!({"spec": {"rollout": {"strategy": null, "steps": null}}})).await?;
        until("the Service of the preview is gone", PATIENCE, async || {
            let services = Api::<Service>::namespaced(namespace.client.clone(), &namespace.name);
            Ok(services.get_opt("digits-preview").await?.is_none().then_some(()))
        })
        .await
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn harm_after_the_switch_goes_back_at_once() {
    case("switch", async |namespace| {
        namespace.config_map("digits", &[("v2.onnx", digits::V2), ("v3.onnx", digits::V3)]).await?;
        let own = json!({"steps": [{"analysis": {}, "duration": "10s"}], "guard": {"duration": "60s"}});
        let mut spec = by("BlueGreen", "configmap://digits/v2.onnx", &own);
        spec["rollback"]["keepWarm"] = json!("60s");
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let v2 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(60).await?;
        // v3 answers bright images alone; testers that try these find nothing wrong.
        digits.set_uri("configmap://digits/v3.onnx").await?;
        let back = digits.rolled_back().await?.status.unwrap_or_default();
        let v3 = revision("target", back.target.as_ref())?;
        ensure!(back.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", back.stable);
        let because = why_rejected(&back, &v3)?;
        ensure!(because.contains("uncontrolled") || because.contains("cut by router"), "{because}");
        let all = |history: &[stoker_api::deployment::Outcome]| {
            history.iter().map(|run| run.outcome.clone()).collect::<Vec<_>>()
        };
        ensure!(
            all(&back.history).starts_with(&[reasons::ROLLED_BACK.into(), reasons::PROMOTED.into()]),
            "{:?}",
            all(&back.history)
        );
        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others failed: {}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn recreate_never_has_pods_of_two_revisions_and_says_what_it_costs() {
    case("recreate", async |namespace| {
        let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("bad.onnx", b"this is no model")];
        namespace.config_map("digits", &files).await?;
        let spec = by("Recreate", "configmap://digits/v1.onnx", &json!({"approval": "Required"}));
        let digits = Subject::new(namespace, "digits");
        digits.serve(&spec).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(20).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let waits = digits.until("waits for an approval", PATIENCE, |status| {
            status.run.as_ref().is_some_and(|run| run.awaits.is_some())
        });
        let status = waits.await?.status.unwrap_or_default();
        let v2 = revision("candidate", status.candidate.as_ref())?;
        let cost =
            format!("nobody is served from the moment the 1 pod of {v1} goes until those of {v2} are ready");
        ensure!(status.message.contains(&cost), "{}", status.message);
        ensure!(status.message.contains(&format!("({v1} took ")), "{}", status.message);
        digits.event(reasons::RUN_STARTED, &[&cost]).await?;
        let before = load.ledger().answers().len();
        load.ended(before + 40).await;
        ensure!(all_pods_of(namespace, &v2).await?.is_empty(), "its pods came before the approval");

        digits.request("approve", "1").await?;
        let (mut was_between, mut both) = (false, None);
        until("v2 serves", PATIENCE, async || {
            // In this order: once a new one is there, no old one may be.
            let new = standing_pods_of(namespace, &v2).await?;
            let old = standing_pods_of(namespace, &v1).await?;
            if !old.is_empty() && !new.is_empty() {
                both = Some((old.len(), new.len()));
            }
            let status = digits.status().await?;
            let room = status.run.as_ref().and_then(|run| run.room);
            if room == Some(Room::Leaving) {
                was_between = says(&status, conditions::READY, "False", &["nobody is served"]).is_ok();
            }
            Ok((status.phase == Phase::Healthy && status.stable.as_deref() == Some(v2.as_str()))
                .then_some(()))
        })
        .await?;
        ensure!(both.is_none(), "pods of v1 and v2 at a time: {both:?}");
        ensure!(was_between, "nobody was told that nobody was served");
        digits.event(reasons::STABLE_STOPPED, &[&cost]).await?;
        let before = load.ledger().answers().len();
        load.ended(before + 60).await;
        let ledger = load.finish().await?;
        ensure!(ledger.of(&v1).next().is_some() && ledger.of(&v2).next().is_some(), "{}", ledger.explain());

        // What cannot start gives the room back.
        let change =
            json!({"spec": {"model": {"uri": "configmap://digits/bad.onnx"}, "rollout": {"approval": null}}});
        digits.merge(&change).await?;
        let back = digits.rolled_back().await?.status.unwrap_or_default();
        let bad = revision("target", back.target.as_ref())?;
        let why = why_rejected(&back, &bad)?;
        ensure!(back.stable.as_deref() == Some(v2.as_str()), "stable is {:?}: {why}", back.stable);
        let serves = digits.until("v2 serves again", Duration::from_secs(60), |status| {
            status.ready.as_deref() == Some("1/1")
        });
        serves.await.with_context(|| format!("after {why}"))?;
        until("the pods of the bad one are gone", PATIENCE, async || {
            Ok(all_pods_of(namespace, &bad).await?.is_empty().then_some(()))
        })
        .await
    });
}
