//! Rollouts that a real Prometheus and a real Alertmanager have a say in.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::reasons;
use stoker_e2e::monitoring::{Alert, Monitoring};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, patient_spec, revision, why_rejected};

use crate::rollout::serving;

/// A spec whose one step does not end by itself.
fn spec() -> Value {
    let mut spec = patient_spec("configmap://digits/v1.onnx");
    spec["rollout"]["steps"] = json!([{"weight": 20, "duration": "1h"}]);
    spec
}

/// Alerts of a test end with it.
async fn quiet(monitoring: &Monitoring, namespace: &TestNamespace, result: Result<()>) -> Result<()> {
    monitoring.fire(&namespace.name, &[]).await?;
    result
}

fn alert_says(status: &ModelDeploymentStatus, action: &str, words: &str) -> bool {
    status.alerts.iter().any(|alert| alert.action == action && alert.message.contains(words))
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn an_alert_takes_a_candidate_back_and_those_of_others_do_not() {
    case("alert", async |namespace| {
        let monitoring = Monitoring::shared()?;
        let result = alert_takes_back(&monitoring, namespace).await;
        quiet(&monitoring, namespace, result).await
    });
}

async fn alert_takes_back(monitoring: &Monitoring, namespace: &TestNamespace) -> Result<()> {
    let mut spec = spec();
    spec["rollback"]["alerts"] = json!([{"alert": "DigitsWrong"}]);
    let digits = serving(namespace, &spec).await?;
    let load = digits.load(40).await?;
    digits.set_uri("configmap://digits/v2.onnx").await?;
    let status = digits.at_step(1).await?.status.unwrap_or_default();
    let v2 = revision("candidate", status.candidate.as_ref())?;
    let v1 = revision("stable", status.stable.as_ref())?;

    // A thousand alerts, all of somebody else: of another namespace, another model, another revision, another name.
    let names: Vec<String> = (0..997).map(|number| format!("model-{number}")).collect();
    let other = |labels: &'static [(&'static str, &'static str)]| Alert { name: "DigitsWrong", labels };
    let of_namespace: Vec<_> = names
        .iter()
        .map(|name| [("namespace", namespace.name.as_str()), ("model_deployment", name.as_str())])
        .collect();
    let another_revision =
        [("namespace", namespace.name.as_str()), ("model_deployment", "digits"), ("revision", v1.as_str())];
    let own = [("namespace", namespace.name.as_str()), ("model_deployment", "digits")];
    let mut alerts: Vec<Alert<'_>> =
        of_namespace.iter().map(|labels| Alert { name: "DigitsWrong", labels }).collect();
    alerts.push(other(&[("namespace", "somebody-else"), ("model_deployment", "digits")]));
    alerts.push(Alert { name: "DigitsWrong", labels: &another_revision });
    alerts.push(Alert { name: "DigitsRight", labels: &own });
    monitoring.fire(&namespace.name, &alerts).await?;
    let before = load.ledger().answers().len();
    load.ended(before + 400).await;
    let status = digits.status().await?;
    ensure!(status.candidate.as_ref() == Some(&v2) && status.alerts.is_empty(), "{}", status.message);

    // Silenced, it is told and does nothing.
    let silence = monitoring.silence("namespace", &namespace.name).await?;
    // The operator asks every two seconds.
    let before = load.ledger().answers().len();
    load.ended(before + 200).await;
    alerts.push(Alert { name: "DigitsWrong", labels: &own });
    monitoring.fire(&namespace.name, &alerts).await?;
    let told = digits
        .until("tells of the silenced alert", PATIENCE, |status| {
            alert_says(status, "Nothing", "and is silenced: by e2e: a test") || status.run.is_none()
        })
        .await?;
    let told = told.status.unwrap_or_default();
    ensure!(told.run.is_some(), "a silenced alert took it back: {:?}", told.rejected);

    monitoring.unsilence(&silence).await?;
    let status = digits.rolled_back().await?.status.unwrap_or_default();
    let because = why_rejected(&status, &v2)?;
    ensure!(because.contains("alert DigitsWrong fires"), "{because}");
    digits.event(reasons::ROLLED_BACK, &[&v2, "alert DigitsWrong fires"]).await?;
    load.finish_without_failure().await?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn an_alert_that_holds_lets_go_when_it_is_resolved() {
    case("hold", async |namespace| {
        let monitoring = Monitoring::shared()?;
        let result = alert_holds(&monitoring, namespace).await;
        quiet(&monitoring, namespace, result).await
    });
}

async fn alert_holds(monitoring: &Monitoring, namespace: &TestNamespace) -> Result<()> {
    let mut spec = patient_spec("configmap://digits/v1.onnx");
    spec["rollout"]["steps"] = json!([{"weight": 20, "duration": "1s"}, {"weight": 50, "duration": "1s"}]);
    spec["rollback"]["alerts"] = json!([{"labels": {"team": "digits"}, "action": "Hold"}]);
    let digits = serving(namespace, &spec).await?;
    let load = digits.load(60).await?;
    // It fires already before the candidate has any traffic.
    let labels = [("namespace", namespace.name.as_str()), ("team", "digits")];
    monitoring.fire(&namespace.name, &[Alert { name: "NodesBusy", labels: &labels }]).await?;
    digits.set_uri("configmap://digits/v2.onnx").await?;
    let sentence = "alert NodesBusy fires (team=digits)";
    let held = digits.until(sentence, PATIENCE, |status| status.message.contains(sentence)).await?;
    let held = held.status.unwrap_or_default();
    ensure!(held.run.is_some_and(|run| run.step == 0), "it began to get traffic under an alert");
    ensure!(alert_says(&digits.status().await?, "Nothing", sentence), "{:?}", held.alerts);

    // Somebody lets it begin all the same: then that alert counts for nothing until it has ended.
    digits.ask("promote", "1", |status| status.run.as_ref().is_none_or(|run| run.step > 0)).await?;
    digits.healthy().await?;
    load.finish_without_failure().await?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_query_of_the_users_own_fails_a_candidate() {
    case("metric", async |namespace| {
        let mut spec = spec();
        // What the routers count for a revision, as a business would count its orders.
        let answered = "sum(increase(stoker_router_requests_total{revision=\"$revision\"}[10s]))";
        spec["rollout"]["analysis"] = json!({"metrics": [
            {"name": "orders", "query": answered, "max": 20, "interval": "1s", "failures": 2},
            {"name": "dry", "query": "vector(1)", "max": 0, "interval": "1s", "failures": 1, "dryRun": true},
        ]});
        let digits = serving(namespace, &spec).await?;
        let load = digits.load(60).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let status = digits.rolled_back().await?.status.unwrap_or_default();
        let v2 = revision("target", status.target.as_ref())?;
        let because = why_rejected(&status, &v2)?;
        ensure!(
            because.contains("metric orders is") && because.contains("above 20, 2 times in a row"),
            "{because}"
        );
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn what_cannot_be_measured_holds_and_says_why() {
    case("unmeasured", async |namespace| {
        let mut spec = spec();
        spec["rollout"]["steps"] = json!([{"weight": 20, "duration": "1s"}]);
        spec["rollout"]["analysis"] =
            json!({"metrics": [{"name": "m", "query": "sum(up", "max": 1, "interval": "1s"}]});
        let digits = serving(namespace, &spec).await?;
        let load = digits.load(60).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;
        let cases = [
            (json!({}), "Error", "its query: it is not PromQL"),
            (json!({"query": "vector(0) / vector(0)"}), "Inconclusive", "is NaN, which is no number"),
            (json!({"query": "nothing_of_this_name"}), "Inconclusive", "the query gives no series"),
            (json!({"query": "stoker_router_requests_total"}), "Error", "series where one is wanted"),
            (json!({"query": "up{namespace=\"kube-system\"}"}), "Error", "asks for another namespace"),
            (json!({"query": "max(up)", "provider": "nobody"}), "Error", "has no provider nobody"),
            (json!({"query": "max(up)", "provider": "away"}), "Error", "cannot be asked"),
        ];
        for (number, (change, word, sentence)) in cases.iter().enumerate() {
            let mut metric = json!({"name": "m", "query": "sum(up", "max": 1, "interval": "1s"});
            for (key, value) in change.as_object().into_iter().flatten() {
                metric[key] = value.clone();
            }
            digits.merge(&json!({"spec": {"rollout": {"analysis": {"metrics": [metric]}}}})).await?;
            if number > 0 {
                digits.request("repin", &number.to_string()).await?;
            }
            let told = digits.until(sentence, PATIENCE, |status| {
                status
                    .metrics
                    .iter()
                    .any(|metric| metric.message.contains(sentence) && metric.verdict == *word)
            });
            told.await?;
        }
        // Long beyond its step, it has not gone on.
        let sentence = "holds: metric m cannot be measured";
        let held = digits.until(sentence, PATIENCE, |status| status.message.contains(sentence)).await?;
        ensure!(held.status.is_some_and(|status| status.weight == Some(20)), "it went on");
        // It goes on as soon as there is a measurement that keeps its bounds.
        let good = json!([{"name": "m", "query": "max(up)", "max": 1, "interval": "1s"}]);
        digits.merge(&json!({"spec": {"rollout": {"analysis": {"metrics": good}}}})).await?;
        digits.request("repin", "good").await?;
        digits.healthy().await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn without_prometheus_and_alertmanager_a_rollout_holds_and_takes_nothing_back() {
    case("blind", async |namespace| {
        let monitoring = Monitoring::own()?;
        let mut prometheus = monitoring.start("prometheus").await?;
        let mut alertmanager = monitoring.start("alertmanager").await?;
        let mut spec = spec();
        spec["rollout"]["steps"] = json!([{"weight": 20, "duration": "5s"}]);
        spec["rollout"]["analysis"] = json!({"metrics": [
            {"name": "m", "query": "vector(1)", "max": 1, "interval": "1s", "maxAge": "5s", "provider": "own"},
        ]});
        spec["rollback"]["alerts"] = json!([{"alert": "DigitsWrong", "provider": "own"}]);
        let digits = serving(namespace, &spec).await?;
        let load = digits.load(60).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;
        prometheus.kill().await?;
        alertmanager.kill().await?;
        let sentence = "alerts cannot be read: provider own";
        let held = digits.until(sentence, PATIENCE, |status| status.message.contains(sentence)).await?;
        let held = held.status.unwrap_or_default();
        ensure!(held.metrics.iter().all(|metric| metric.verdict == reasons::ERROR), "{:?}", held.metrics);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let still = digits.status().await?;
        ensure!(still.weight == Some(20) && still.rejected.is_empty(), "{}", still.message);

        let _prometheus = monitoring.start("prometheus").await?;
        let _alertmanager = monitoring.start("alertmanager").await?;
        digits.healthy().await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn each_panel_of_the_dashboards_has_data() {
    case("panels", async |namespace| {
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["rollout"]["steps"] = json!([{"weight": 30, "duration": "1h"}]);
        spec["scaling"] = json!({"minReplicas": 1, "maxReplicas": 2});
        let digits = serving(namespace, &spec).await?;
        let load = digits.load(30).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        digits.at_step(1).await?;
        let cluster = std::env::var("STOKER_E2E_CLUSTER")?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/panels");
        let output = tokio::process::Command::new(program)
            .args(["--cluster", &cluster, "--namespace", &namespace.name, "--model", "digits"])
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        load.finish_without_failure().await?;
        Ok(())
    });
}
