//! The number of pods follows the load, through a canary as well, and an operator that is killed changes nothing. These tests load
//! the pods as far as they can be: the machine must be theirs alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use serde_json::{Value, json};
use stoker_api::names::{conditions, reasons};
use stoker_e2e::cluster::until;
use stoker_e2e::load::Load;
use stoker_e2e::load::ledger::{Figures, Ledger};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision, says};
use tokio::task::JoinHandle;

use crate::{kill_operator, models};

/// Pods that carry some 8 to 20 requests a second each, by the processor: the slow model on a fifth of a core. So the low loads
/// here are for one pod on every machine, and the high ones for several.
fn scaled(scaling: &Value) -> Value {
    let mut spec = patient_spec("configmap://digits/v4.onnx");
    spec["runtime"]["resources"]["limits"] = json!({"cpu": "200m"});
    spec["slo"] = json!({"latency": {"percentile": "p95", "target": "2s"}});
    spec["scaling"] = scaling.clone();
    spec
}

async fn serving<'a>(namespace: &'a TestNamespace, spec: &Value) -> Result<Subject<'a>> {
    models(namespace).await?;
    let digits = Subject::new(namespace, "digits");
    digits.serve(spec).await?;
    Ok(digits)
}

/// Writes down how many pods a revision should have, whenever that changes.
struct Sizes {
    seen: Arc<Mutex<Vec<(Duration, i32)>>>,
    task: JoinHandle<()>,
}

impl Sizes {
    fn of(namespace: &TestNamespace, revision: &str) -> Self {
        let api = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
        let (seen, started) = (Arc::<Mutex<Vec<_>>>::default(), Instant::now());
        let (kept, revision) = (Arc::clone(&seen), revision.to_owned());
        let task = tokio::spawn(async move {
            loop {
                if let Ok(Some(live)) = api.get_opt(&revision).await
                    && let Some(size) = live.spec.and_then(|spec| spec.replicas)
                {
                    let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if seen.last().is_none_or(|(_, last)| *last != size) {
                        seen.push((started.elapsed(), size));
                    }
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        Self { seen, task }
    }

    /// The sizes so far, each with when it came.
    fn seen(&self) -> Vec<(Duration, i32)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often growing became shrinking or the other way round.
    fn turns(&self) -> usize {
        let steps: Vec<i32> = self.seen().windows(2).map(|pair| (pair[1].1 - pair[0].1).signum()).collect();
        steps.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Figures are for people: the machine decides about them, not the test.
#[expect(clippy::print_stderr, reason = "tests report there")]
fn report(what: &str, figures: &str) {
    eprintln!("scaling: {what}: {figures}");
}

/// Where the requests of each second are written to as JSON, if anywhere: a trace for `e2e/scaling/traces`.
const RECORD: &str = "STOKER_E2E_RECORD";

/// Writes what came in each second, of loads that began so much later.
fn record<'a>(loads: impl IntoIterator<Item = (Duration, &'a Ledger)>) -> Result<()> {
    let Some(path) = std::env::var_os(RECORD) else { return Ok(()) };
    let mut seconds: Vec<u32> = Vec::new();
    for (later, ledger) in loads {
        for answer in ledger.answers() {
            let second = usize::try_from((later + answer.due).as_secs())?;
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
    }
    std::fs::write(path, serde_json::to_string(&seconds)?)?;
    Ok(())
}

/// The last seconds of a load, all revisions together.
fn lately(load: &Load, window: Duration) -> Figures {
    let (at, ledger) = (load.elapsed(), load.ledger());
    Figures::of(ledger.answers().iter().filter(|answer| answer.due + window >= at))
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn pods_follow_the_load_up_and_down_and_turn_once() {
    case("step", async |namespace| {
        let spec = scaled(&json!({"maxReplicas": 8, "behavior": {"scaleDownWindow": "30s"}}));
        let digits = serving(namespace, &spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let sizes = Sizes::of(namespace, &stable);
        let low = digits.load(3).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        ensure!(sizes.seen().len() == 1, "an even load moved the pods: {:?}", sizes.seen());

        let later = low.elapsed();
        let high = digits.load(32).await?;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let settled = lately(&high, Duration::from_secs(20));
        ensure!(settled.failed == 0 && settled.requests > 100, "with its pods it still fails: {settled:?}");
        let grown = digits.scaling().await?;
        let largest = sizes.seen().last().map_or(0, |(_, size)| *size);
        ensure!(largest > 1, "twelve times the load, and still {largest} pod: {grown:?}");
        let high = high.finish().await?;

        until("it is one pod again", PATIENCE, async || {
            Ok((sizes.seen().last().map(|(_, size)| *size) == Some(1)).then_some(()))
        })
        .await?;
        ensure!(sizes.turns() == 1, "the pods turned {} times: {:?}", sizes.turns(), sizes.seen());
        let low = low.finish().await?;
        record([(Duration::ZERO, &low), (later, &high)])?;
        // Until pods are ready one of them has the load of several, and may refuse some of it.
        let failed = low.failed_but_for(None) + high.failed_but_for(None);
        report(
            "failed until pods were ready",
            &format!("{failed} of {}", low.answers().len() + high.answers().len()),
        );

        let known = grown.revisions.iter().find(|known| known.revision == stable);
        ensure!(
            known.is_some_and(|known| known.capacity_per_pod.is_some()),
            "no capacity is known: {grown:?}"
        );
        digits.event(reasons::SCALED, &[&stable, "1 -> ", "requests/s"]).await?;
        says(&digits.status().await?, conditions::SCALING_ACTIVE, "True", &["follows the demand"])?;
        report("sizes", &format!("{:?}", sizes.seen()));
        report("the last 20 s under the step (target 2000 ms for 95 of 100)", &format!("{settled:?}"));
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_canary_under_rising_load_has_pods_for_both_and_is_promoted() {
    case("rising", async |namespace| {
        let mut spec = scaled(&json!({"maxReplicas": 8, "behavior": {"scaleDownWindow": "60s"}}));
        // What is slow by this counts against the candidate; on a busy machine two seconds may be nobody's fault.
        spec["slo"]["latency"]["target"] = json!("5s");
        spec["rollout"]["steps"] =
            json!([{"weight": 20, "duration": "15s"}, {"weight": 60, "duration": "15s"}]);
        let digits = serving(namespace, &spec).await?;
        let first = digits.load(5).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        // The same model with other pods is another revision.
        digits.merge(&json!({"spec": {"runtime": {"resources": {"requests": {"cpu": "11m"}}}}})).await?;
        digits.at_step(1).await?;
        let mut more = Vec::new();
        for _ in 0..3 {
            more.push(digits.load(8).await?);
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(
            after.history.first().is_some_and(|last| last.outcome == reasons::PROMOTED),
            "{:?}",
            after.history
        );
        tokio::time::sleep(Duration::from_secs(15)).await;
        let settled = lately(&first, Duration::from_secs(10));
        ensure!(settled.failed == 0 && settled.requests > 0, "with its pods it still fails: {settled:?}");
        report("after the promotion under rising load", &format!("{settled:?}"));
        more.push(first);
        for load in more {
            let ledger = load.finish().await?;
            report(
                "failed while the load rose",
                &format!("{} of {}", ledger.failed_but_for(None), ledger.answers().len()),
            );
        }
        let grown = digits.scaling().await?;
        ensure!(grown.revisions.iter().any(|known| known.replicas > 1), "{grown:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_target_that_the_model_itself_misses_is_told_and_moves_nothing() {
    case("tooslow", async |namespace| {
        let mut spec = scaled(&json!({"maxReplicas": 4}));
        spec["slo"] = json!({"latency": {"percentile": "p50", "target": "1ms"}});
        spec["runtime"]["resources"].as_object_mut().map(|resources| resources.remove("limits"));
        let digits = serving(namespace, &spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let sizes = Sizes::of(namespace, &stable);
        let load = digits.load(2).await?;
        let told = digits
            .until("says what can be reached", PATIENCE, |status| {
                let scaling = status.scaling.as_ref();
                scaling
                    .is_some_and(|scaling| scaling.revisions.iter().any(|known| known.reachable_ms.is_some()))
            })
            .await?
            .status
            .unwrap_or_default();
        says(&told, conditions::SCALING_ACTIVE, "False", &["can reach", "ms"])?;
        digits.event(reasons::TARGET_UNREACHABLE, &[&stable, "raise slo.latency.target"]).await?;
        ensure!(sizes.seen().len() == 1, "pods changed: {:?}", sizes.seen());
        load.finish().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_killed_operator_changes_no_number_of_pods_and_its_successor_goes_on_from_what_was_learned() {
    case("rescale", async |namespace| {
        models(namespace).await?;
        let digits = Subject::new(namespace, "digits");
        let mut spec = patient_spec("configmap://digits/v2.onnx");
        spec["replicas"] = json!(2);
        spec["scaling"] = json!({"maxReplicas": 4});
        digits.serve(&spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(40).await?;
        let capacity = async || -> Result<Option<f64>> {
            let scaling = digits.scaling().await?;
            Ok(scaling.revisions.into_iter().find_map(|known| known.capacity_per_pod))
        };
        let learned = until("a capacity is known", PATIENCE, capacity).await?;

        kill_operator(namespace).await?;
        let pods = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
        let started = Instant::now();
        // What is needed for two pods is far less, and the window of five minutes begins anew: two they are.
        while started.elapsed() < Duration::from_secs(20) {
            let size = pods.get(&stable).await?.spec.and_then(|spec| spec.replicas);
            ensure!(size == Some(2), "the pods are {size:?} after the operator was killed");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let known = until("the capacity is still known", PATIENCE, capacity).await?;
        ensure!(known >= learned / 2.0, "{learned}/s was learned, and {known}/s is left");
        load.finish_without_failure().await?;
        Ok(())
    });
}
