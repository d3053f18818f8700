//! Rollouts under load: a better, a harmful and a slow version; harm that is only observed; a rollout whose traffic stops; a
//! restart of the routers.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_api::deployment::Phase;
use stoker_api::names::{conditions, objects, reasons};
use stoker_e2e::children::{pods_of, uids_of};
use stoker_e2e::cluster::until;
use stoker_e2e::digits;
use stoker_e2e::load::Load;
use stoker_e2e::load::ledger::Figures;
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says, short_spec, why_rejected};

/// A ModelDeployment that serves, with the four models at hand.
pub(crate) async fn serving<'a>(
    namespace: &'a TestNamespace,
    spec: &serde_json::Value,
) -> Result<Subject<'a>> {
    let files =
        [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3), ("v4.onnx", digits::V4)];
    namespace.config_map("digits", &files).await?;
    let digits = Subject::new(namespace, "digits");
    digits.serve(spec).await?;
    Ok(digits)
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_better_version_is_promoted_with_the_pods_that_it_was_tried_with() {
    case("promote", async |namespace| {
        let digits = serving(namespace, &short_spec("configmap://digits/v1.onnx")).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let running = digits.at_step(1).await?.status.unwrap_or_default();
        let v2 = revision("candidate", running.candidate.as_ref())?;
        ensure!(running.stable.as_deref() == Some(v1.as_str()), "stable changed before the promotion");
        let tried = uids_of(namespace, &v2).await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", after.stable);
        ensure!(uids_of(namespace, &v2).await? == tried, "the promotion made new pods");
        ensure!(
            after.history.first().is_some_and(|last| last.outcome == reasons::PROMOTED),
            "{:?}",
            after.history
        );
        digits.event(reasons::RUN_STARTED, &[&v2]).await?;
        digits.event(reasons::STEP_STARTED, &[&v2]).await?;
        digits.event(reasons::PROMOTED, &[&v2]).await?;

        // The previous revision goes only after `keepWarm`, and that costs no request either.
        until("the pods of v1 are gone", PATIENCE, async || {
            Ok(pods_of(namespace, &v1).await?.is_empty().then_some(()))
        })
        .await?;
        let ledger = load.finish_without_failure().await?;
        let (old, new) = (Figures::of(ledger.of(&v1)), Figures::of(ledger.of(&v2)));
        ensure!(old.requests > 100 && new.requests > 100, "both revisions have answered: {old:?}, {new:?}");
        ensure!(new.accuracy > old.accuracy, "v2 is the better model: {old:?}, {new:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_harmful_version_is_rolled_back() {
    case("harmful", async |namespace| {
        let digits = serving(namespace, &short_spec("configmap://digits/v2.onnx")).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v3.onnx").await?;
        let status = digits.rolled_back().await?.status.unwrap_or_default();
        let v3 = revision("target", status.target.as_ref())?;
        ensure!(status.stable.as_deref() == Some(stable.as_str()), "stable is {:?}", status.stable);
        let because = why_rejected(&status, &v3)?;
        ensure!(because.contains("failed"), "the reason has no figures: {because}");
        digits.event(reasons::ROLLED_BACK, &[&v3]).await?;
        until("the candidate's pods are gone", PATIENCE, async || {
            Ok(pods_of(namespace, &v3).await?.is_empty().then_some(()))
        })
        .await?;

        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others failed too: {}", ledger.explain());
        let harmed = Figures::of(ledger.of(&v3));
        ensure!(harmed.failed > 0, "v3 answered without an error: {harmed:?}");
        ensure!(Figures::of(ledger.of(&stable)).requests > harmed.requests, "{}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_slow_version_is_rolled_back() {
    case("slow", async |namespace| {
        let mut spec = short_spec("configmap://digits/v2.onnx");
        spec["slo"] = json!({"latency": {"target": "40ms"}});
        let digits = serving(namespace, &spec).await?;
        let load = digits.load(30).await?;

        digits.set_uri("configmap://digits/v4.onnx").await?;
        let status = digits.rolled_back().await?.status.unwrap_or_default();
        let v4 = revision("target", status.target.as_ref())?;
        let because = why_rejected(&status, &v4)?;
        ensure!(because.contains("slower than 40 ms"), "the reason does not name the target: {because}");
        // Slow answers are answers: no client lost a request.
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn harm_is_told_and_nobody_is_taken_back_while_the_mode_is_observe() {
    case("observe", async |namespace| {
        let mut spec = patient_spec("configmap://digits/v2.onnx");
        spec["rollout"]["steps"] = json!([{"weight": 30, "duration": "1s"}]);
        // So many that the step cannot pass by luck, before the harm is found.
        spec["rollout"]["minRequests"] = json!(300);
        spec["rollback"]["mode"] = json!("Observe");
        let digits = serving(namespace, &spec).await?;
        let stable = digits.status().await?.stable;
        let load = digits.load(60).await?;

        digits.set_uri("configmap://digits/v3.onnx").await?;
        let sentence = "rollback.mode is Observe: nothing is taken back";
        let told = digits.until(sentence, PATIENCE, |status| status.message.contains(sentence)).await?;
        let told = told.status.unwrap_or_default();
        let v3 = revision("candidate", told.candidate.as_ref())?;
        ensure!(told.verdict.as_deref() == Some(reasons::FAIL), "the verdict is {:?}", told.verdict);
        says(&told, conditions::ANALYSIS_PASSING, "False", &["candidate failed", "alarm at"])?;
        says(&told, conditions::PROGRESSING, "True", &["candidate failed", sentence])?;
        digits.event(reasons::HOLDING, &[&v3, "candidate failed", sentence]).await?;

        // It keeps its share of the traffic: by the operator and by the routers, which could cut on their own.
        let answered = |load: &Load| load.ledger().of(&v3).count();
        let before = answered(&load);
        until("the candidate answers more requests", PATIENCE, async || {
            Ok((answered(&load) > before + 40).then_some(()))
        })
        .await?;
        let still = digits.status().await?;
        says(&still, conditions::ROLLED_BACK, "False", &[])?;
        ensure!(still.stable == stable && still.candidate.as_ref() == Some(&v3), "{}", still.message);
        ensure!(still.weight == Some(30) && still.rejected.is_empty(), "{:?}", still.rejected);
        let routes = Api::<ModelRoute>::namespaced(namespace.client.clone(), &namespace.name);
        let cuts = routes.get(&digits.name).await?.status.unwrap_or_default().cuts;
        ensure!(cuts.is_empty(), "routers cut it: {cuts:?}");

        // What was observed is acted upon as soon as that is wanted.
        digits.merge(&json!({"spec": {"rollback": {"mode": "Enforce"}}})).await?;
        let after = digits.rolled_back().await?.status.unwrap_or_default();
        ensure!(after.stable == stable, "stable is {:?}", after.stable);
        says(&after, conditions::ROLLED_BACK, "True", &["candidate failed"])?;
        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others failed too: {}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_rollout_without_traffic_holds_and_goes_on_when_traffic_returns() {
    case("silence", async |namespace| {
        let digits = serving(namespace, &short_spec("configmap://digits/v1.onnx")).await?;
        let load = digits.load(40).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;
        load.finish_without_failure().await?;

        let says =
            |text: &str| text.contains("no request has reached") || text.contains("none has reached it");
        let held =
            digits.until("holds and says that no traffic comes", PATIENCE, |status| says(&status.message));
        let held = held.await?.status.unwrap_or_default();
        let candidate = revision("candidate", held.candidate.as_ref())?;
        let (step, stable) = (held.step, held.stable);
        // Three times as long as a step: what would be promoted without evidence would be promoted by now.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = digits.status().await?;
            ensure!(now.phase == Phase::Progressing && now.stable == stable, "it went on: {}", now.message);
            ensure!(now.step == step, "it went from step {step:?} to {:?}: {}", now.step, now.message);
            ensure!(now.verdict.as_deref() != Some(reasons::PASS), "no data became Pass");
        }

        let load = digits.load(40).await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_deref() == Some(candidate.as_str()), "stable is {:?}", after.stable);
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_restart_of_the_routers_costs_no_request() {
    case("restart", async |namespace| {
        let digits = serving(namespace, &short_spec("configmap://digits/v1.onnx")).await?;
        let routers = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
        let load = digits.load(100).await?;
        for _ in 0..2 {
            // What `kubectl rollout restart` does.
            let restarted = routers.restart(objects::ROUTER).await?;
            until("all routers are new", PATIENCE, async || {
                let now = routers.get(objects::ROUTER).await?;
                let wanted = now.spec.as_ref().and_then(|spec| spec.replicas);
                let status = now.status.unwrap_or_default();
                let seen = status.observed_generation >= restarted.metadata.generation;
                let new = status.updated_replicas == wanted && status.available_replicas == wanted;
                Ok((seen
                    && new
                    && status.replicas == wanted
                    && status.terminating_replicas.unwrap_or(0) == 0)
                    .then_some(()))
            })
            .await?;
        }
        load.finish_without_failure().await?;
        Ok(())
    });
}
