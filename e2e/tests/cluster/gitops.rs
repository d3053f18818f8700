//! GitOps: objects stay in sync with Git through rollouts, rollbacks and undos, and status says where what runs differs.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::digits;
use stoker_e2e::examples::{Example, model_deployments};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, condition, patient_spec, revision};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How often kubectl may look while the operator still writes status.
const LOOKS: usize = 50;

/// What kubectl said.
struct Said {
    ok: bool,
    /// What it answered, without notices and warnings.
    answer: String,
    /// All of it.
    text: String,
}

/// Runs the kubectl that users and GitOps pipelines have, with an object on its standard input.
async fn kubectl(namespace: &TestNamespace, arguments: &[&str], object: &Value) -> Result<Said> {
    let mut child = Command::new("kubectl")
        .args(["--namespace", &namespace.name])
        .args(arguments)
        .args(["--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("kubectl is wanted; run by e2e/cluster/exec")?;
    let mut stdin = child.stdin.take().context("kubectl's input")?;
    stdin.write_all(object.to_string().as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let (answer, notices) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Said { ok: output.status.success(), text: format!("{answer}{notices}"), answer: answer.into_owned() })
}

/// Applies what Git holds, as a pipeline does.
async fn apply(namespace: &TestNamespace, object: &Value) -> Result<()> {
    let said = kubectl(namespace, &["apply"], object).await?;
    ensure!(said.ok, "kubectl apply: {}", said.text);
    Ok(())
}

/// Fails if kubectl sees a difference between what Git holds and the object.
///
/// kubectl fetches the object and then asks what applying would make of it. Where the operator writes status between the two,
/// that shows as a difference of status; so a look counts only if the object stood still meanwhile.
async fn has_no_difference(namespace: &TestNamespace, object: &Value, mode: &[&str]) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let subject = Subject::new(namespace, name);
    for _ in 0..LOOKS {
        let before = subject.api.get(name).await?;
        let seen = kubectl(namespace, &[&["diff"], mode].concat(), object).await?;
        let after = subject.api.get(name).await?;
        if before.resource_version() == after.resource_version() {
            ensure!(seen.ok && seen.answer.is_empty(), "kubectl diff {mode:?}: {}", seen.text);
            return Ok(());
        }
    }
    bail!("{name} was written during each of {LOOKS} looks: status does not come to rest");
}

/// Git and the cluster hold the same: no difference, and to apply it again changes nothing, not even a version.
async fn is_in_sync(namespace: &TestNamespace, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let subject = Subject::new(namespace, name);
    let before = subject.api.get(name).await?;
    let modes: [&[&str]; 2] = [&[], &["--server-side", "--field-manager=gitops"]];
    for mode in modes {
        has_no_difference(namespace, object, mode).await?;
    }
    let again = kubectl(namespace, &["apply"], object).await?;
    ensure!(again.ok && again.text.contains("unchanged"), "kubectl apply again: {}", again.text);
    let after = subject.api.get(name).await?;
    let generations = (before.metadata.generation, after.metadata.generation);
    ensure!(generations.0 == generations.1, "the generation changed: {generations:?}");
    ensure!(before.spec == after.spec, "the spec changed");

    // The operator owns no field but status.
    for entry in after.managed_fields() {
        let operators = entry.manager.as_deref().is_some_and(|manager| manager.starts_with("stoker"));
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).unwrap_or_default();
        let only_status = entry.subresource.as_deref() == Some("status")
            && !fields.contains("\"f:spec\"")
            && !fields.contains("f:annotations");
        ensure!(!operators || only_status, "{:?} owns {fields}", entry.manager);
    }
    Ok(())
}

/// The same from a tool that applies on the server's side, from now on: kubectl takes away its own note of what was applied before.
async fn is_in_sync_server_side(namespace: &TestNamespace, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let subject = Subject::new(namespace, name);
    let before = subject.api.get(name).await?;
    // The first one makes a field manager of its own; from then on nothing changes.
    for _ in 0..2 {
        let arguments = ["apply", "--server-side", "--field-manager=gitops"];
        let said = kubectl(namespace, &arguments, object).await?;
        ensure!(said.ok, "kubectl apply --server-side: {}", said.text);
    }
    let after = subject.api.get(name).await?;
    let generations = (before.metadata.generation, after.metadata.generation);
    ensure!(generations.0 == generations.1 && before.spec == after.spec, "the spec changed: {generations:?}");
    Ok(())
}

/// What Git holds.
fn manifest(spec: &Value) -> Value {
    json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "labels": {"team": "vision"}},
        "spec": spec,
    })
}

/// Fails unless status says that Git wants one revision, and why another one runs.
fn differs(status: &ModelDeploymentStatus, wants: &str, runs: &str, reason: &str) -> Result<()> {
    let said = status.divergence.as_ref().context("there is no status.divergence")?;
    let found = (said.wants.as_str(), said.runs.as_str(), said.reason.as_str());
    ensure!(found == (wants, runs, reason), "status.divergence is {said:?}");
    ensure!(!said.because.is_empty() && said.since.is_some(), "status.divergence is {said:?}");
    ensure!(condition(status, conditions::STALLED) == "True", "it is not Stalled: {:?}", status.conditions);
    Ok(())
}

/// Fails unless what Git wants runs, and kstatus would say so.
fn agrees(status: &ModelDeploymentStatus) -> Result<()> {
    ensure!(status.divergence.is_none(), "status.divergence is {:?}", status.divergence);
    for kind in [conditions::RECONCILING, conditions::STALLED] {
        ensure!(condition(status, kind).is_empty(), "{kind} is there: {:?}", status.conditions);
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn objects_stay_in_sync_through_rollout_undo_and_rollback() {
    case("gitops", async |namespace| {
        let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3)];
        namespace.config_map("digits", &files).await?;
        let digits = Subject::new(namespace, "digits");
        let git = |version: &str| {
            let mut spec = patient_spec(&format!("configmap://digits/{version}.onnx"));
            spec["rollout"]["guard"] = json!({"duration": "0s"});
            spec["rollback"]["keepWarm"] = json!("1h");
            manifest(&spec)
        };
        apply(namespace, &git("v1")).await?;
        let status = digits.healthy().await?.status.unwrap_or_default();
        let v1 = revision("stable", status.stable.as_ref())?;
        agrees(&status)?;
        is_in_sync(namespace, &git("v1")).await?;
        let load = digits.load(60).await?;

        apply(namespace, &git("v2")).await?;
        let status = digits.at_step(1).await?.status.unwrap_or_default();
        ensure!(condition(&status, conditions::RECONCILING) == "True", "{:?}", status.conditions);
        ensure!(status.divergence.is_none(), "a run leads to it: {:?}", status.divergence);
        let status = digits.healthy().await?.status.unwrap_or_default();
        let v2 = revision("stable", status.stable.as_ref())?;
        agrees(&status)?;
        is_in_sync(namespace, &git("v2")).await?;

        // A person goes back; Git does not know, and does not fight it.
        let back = |status: &ModelDeploymentStatus| status.stable.as_deref() == Some(v1.as_str());
        let status = digits.ask("undo", "1", back).await?;
        differs(&status, &v2, &v1, reasons::UNDONE)?;
        is_in_sync(namespace, &git("v2")).await?;
        differs(&digits.status().await?, &v2, &v1, reasons::UNDONE)?;
        // Then Git does the same, and the pin is over.
        apply(namespace, &git("v1")).await?;
        let status = digits.healthy().await?.status.unwrap_or_default();
        agrees(&status)?;
        ensure!(status.pin.is_none(), "the pin is {:?}", status.pin);

        // Harm: Git stays where it is, and so does the object.
        apply(namespace, &git("v3")).await?;
        let status = digits.rolled_back().await?.status.unwrap_or_default();
        let v3 = revision("target", status.target.as_ref())?;
        differs(&status, &v3, &v1, reasons::ROLLED_BACK)?;
        is_in_sync(namespace, &git("v3")).await?;
        apply(namespace, &git("v1")).await?;
        let reverted =
            digits.until("agrees with Git again", PATIENCE, |status| agrees(status).is_ok()).await?;
        is_in_sync(namespace, &git("v1")).await?;
        is_in_sync_server_side(namespace, &git("v1")).await?;
        ensure!(
            reverted.status.unwrap_or_default().stable.as_deref() == Some(v1.as_str()),
            "stable is not v1"
        );
        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "others than v3 failed: {}", ledger.explain());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_examples_stay_as_they_are_applied() {
    case("gitops-examples", async |namespace| {
        for (number, Example { path, mut object }) in model_deployments()?.into_iter().enumerate() {
            let named = || path.display().to_string();
            // Two examples may have the same name, and no pods are wanted here.
            object["metadata"]["name"] = json!(format!("example-{number}"));
            object["spec"]["replicas"] = json!(0);
            apply(namespace, &object).await.with_context(named)?;
            is_in_sync(namespace, &object).await.with_context(named)?;
            is_in_sync_server_side(namespace, &object).await.with_context(named)?;
        }
        Ok(())
    });
}
