//! To no pods and back, and the number of pods by somebody else's count. What loads pods as far as they can be is in
//! `tests/disruption`.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::children::all_pods_of;
use stoker_e2e::cluster::until;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, patient_spec, revision, says};

use crate::rollout::serving;

/// Figures are for people: the machine decides about them, not the test.
#[expect(clippy::print_stderr, reason = "tests report there")]
fn report(what: &str, figures: &str) {
    eprintln!("scaling: {what}: {figures}");
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn without_requests_there_are_no_pods_and_the_next_ones_are_all_answered() {
    case("zero", async |namespace| {
        let mut spec = patient_spec("configmap://digits/v2.onnx");
        spec["scaling"] = json!({"maxReplicas": 2, "scaleToZeroAfter": "10s"});
        let digits = serving(namespace, &spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        for sleep in 1..=2 {
            until("it sleeps", PATIENCE, async || {
                // Pods on their way out still answer.
                let gone = all_pods_of(namespace, &stable).await?.is_empty();
                let scaling = digits.scaling().await?;
                Ok((gone && scaling.asleep && scaling.sleeps == sleep).then_some(()))
            })
            .await?;
            let asleep = digits.healthy().await?.status.unwrap_or_default();
            ensure!(asleep.message.contains("no requests came"), "{}", asleep.message);

            let load = digits.load(20).await?;
            load.ended(40).await;
            let ledger = load.finish_without_failure().await?;
            let first = ledger.answers().iter().find(|answer| answer.due < Duration::from_millis(50));
            report("first answer after none", &format!("{:?}", first.map(|answer| answer.latency)));
            let woken = until("the cold start is in status", PATIENCE, async || {
                let woken = digits.scaling().await?;
                Ok((!woken.asleep && woken.cold_start_seconds.is_some()).then_some(woken))
            })
            .await?;
            report("cold start in status, in seconds", &format!("{:?}", woken.cold_start_seconds));
        }
        digits.event(reasons::SCALED_TO_ZERO, &[&stable, "-> 0 pods"]).await?;
        digits.event(reasons::WOKEN, &[&stable, "0 -> 1 pods"]).await?;

        // A new version is tried with pods, although nobody asks for anything.
        until("it sleeps again", PATIENCE, async || Ok(digits.scaling().await?.asleep.then_some(()))).await?;
        digits.set_uri("configmap://digits/v1.onnx").await?;
        let tried = digits.at_step(1).await?.status.unwrap_or_default();
        ensure!(!tried.scaling.unwrap_or_default().asleep, "a run goes on without pods");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn another_autoscaler_counts_the_pods_through_the_scale_subresource() {
    case("external", async |namespace| {
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["scaling"] = json!({"mode": "External"});
        spec["rollout"]["steps"] = json!([{"weight": 50, "duration": "600s"}]);
        let digits = serving(namespace, &spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        // `kubectl apply` of a Git repository that leaves spec.replicas out owns it no more.
        let scale = async |replicas: u32| -> Result<()> {
            let patch = json!({"spec": {"replicas": replicas}});
            digits.api.patch_scale("digits", &PatchParams::default(), &Patch::Merge(&patch)).await?;
            Ok(())
        };
        scale(2).await?;
        let counted = async |pods: i32| {
            until(&format!("the scale says {pods}"), PATIENCE, async || {
                let scale = digits.api.get_scale("digits").await?.status.unwrap_or_default();
                Ok((scale.replicas == pods).then_some(scale))
            })
            .await
        };
        let scale_of_two = counted(2).await?;
        ensure!(
            scale_of_two.selector.as_ref().is_some_and(|selector| selector.contains(&stable)),
            "{scale_of_two:?}"
        );

        // In a run the pods are shared out, both revisions are selected, and nothing shrinks.
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let running = digits.at_step(1).await?.status.unwrap_or_default();
        let candidate = revision("candidate", running.candidate.as_ref())?;
        scale(4).await?;
        let shared = counted(4).await?;
        let selector = shared.selector.unwrap_or_default();
        ensure!(selector.contains(&stable) && selector.contains(&candidate), "{selector}");
        scale(1).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(digits.api.get_scale("digits").await?.status.unwrap_or_default().replicas == 4);
        digits.request("abort", "enough").await?;
        counted(1).await?;
        says(&digits.status().await?, conditions::SCALING_ACTIVE, "True", &["another autoscaler"])?;
        Ok(())
    });
}
