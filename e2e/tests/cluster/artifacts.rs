//! Candidates whose artifact is wrong: they get no traffic, stable goes on, and status and an Event say what is wrong.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stoker_api::artifact::Digest;
use stoker_api::names::reasons;
use stoker_e2e::artifacts::{Artifact, ArtifactServer};
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, revision, short_spec};

use crate::onnx;

/// Sets `spec.model`, waits until the status says all of `words` about the candidate, and checks that an Event says it too.
pub(crate) async fn fails_with(subject: &Subject<'_>, change: &Value, words: &[&str]) -> Result<String> {
    let has_words = |text: &str| words.iter().all(|word| text.contains(word));
    let stable = subject.status().await?.stable;
    subject.merge(&json!({ "spec": change })).await?;
    let what = format!("says {words:?} about its candidate");
    let failed = subject
        .until(&what, PATIENCE, |status| {
            has_words(&status.message)
                || status
                    .rejected
                    .iter()
                    .any(|one| Some(&one.revision) == status.target.as_ref() && has_words(&one.because))
        })
        .await
        .with_context(|| format!("with {change}"))?;
    let status = failed.status.unwrap_or_default();
    ensure!(status.stable == stable, "stable went from {stable:?} to {:?}", status.stable);
    let target = revision("target", status.target.as_ref())?;
    let told = subject.event(reasons::CANDIDATE_FAILED, words).await;
    if told.is_err() {
        subject.event(reasons::ROLLED_BACK, words).await.with_context(|| format!("with {change}"))?;
    }
    Ok(target)
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_wrong_artifact_gets_no_traffic_and_is_named() {
    case("artifacts", async |namespace| {
        let truncated = &digits::V2[..digits::V2.len() / 2];
        let unsupported = onnx::model_of("NoSuchOperator");
        let files = [
            ("v1.onnx", Artifact::open(digits::V1)),
            ("truncated.onnx", Artifact::open(truncated)),
            ("text.onnx", Artifact::open(b"this is no model")),
            ("unsupported.onnx", Artifact::open(&unsupported)),
            ("v2.onnx", Artifact::open(digits::V2)),
        ];
        let server = ArtifactServer::start(&namespace.client, &files).await?;
        let digits = Subject::new(namespace, "digits");
        let mut spec = short_spec(&server.uri("v1.onnx"));
        spec["rollout"]["progressDeadline"] = json!("30s");
        digits.serve(&spec).await?;
        let load = digits.load(30).await?;

        let wrong = Digest::of(b"something else").to_string();
        let right = Digest::of(digits::V2).to_string();
        let model = |file: &str| json!({"model": {"uri": server.uri(file)}});
        let mut bad = Vec::new();
        let pinned = json!({"model": {"uri": server.uri("v2.onnx"), "digest": wrong}});
        bad.push(fails_with(&digits, &pinned, &["digest", &right]).await?);
        digits.merge(&json!({"spec": {"model": {"digest": null}}})).await?;
        bad.push(fails_with(&digits, &model("truncated.onnx"), &["truncated.onnx"]).await?);
        bad.push(fails_with(&digits, &model("text.onnx"), &["ONNX"]).await?);
        bad.push(fails_with(&digits, &model("unsupported.onnx"), &["NoSuchOperator"]).await?);
        bad.push(fails_with(&digits, &model("absent.onnx"), &["absent.onnx", "404"]).await?);

        let ledger = load.finish_without_failure().await?;
        for revision in bad {
            ensure!(ledger.of(&revision).next().is_none(), "{revision} has answered requests");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn credentials_are_sent_and_their_absence_is_named() {
    case("credentials", async |namespace| {
        // "reader:secret", as basic authentication encodes it.
        let basic = "Basic cmVhZGVyOnNlY3JldA==";
        let files = [
            ("token.onnx", Artifact::behind(digits::V1, "Bearer open-sesame")),
            ("basic.onnx", Artifact::behind(digits::V2, basic)),
        ];
        let server = ArtifactServer::start(&namespace.client, &files).await?;
        namespace.secret("token", &[("token", "open-sesame")]).await?;
        namespace.secret("basic", &[("username", "reader"), ("password", "secret")]).await?;
        let digits = Subject::new(namespace, "digits");
        let mut spec = short_spec(&server.uri("token.onnx"));
        spec["model"]["secret"] = json!("token");
        spec["rollout"]["steps"] = json!([]);
        spec["rollout"]["progressDeadline"] = json!("30s");
        digits.serve(&spec).await?;
        let load = digits.load(20).await?;

        let model = |secret: &str| json!({"model": {"uri": server.uri("basic.onnx"), "secret": secret}});
        let mut bad = vec![fails_with(&digits, &model("absent"), &["absent"]).await?];
        bad.push(fails_with(&digits, &model("token"), &["401"]).await?);
        digits.merge(&json!({"spec": model("basic")})).await?;
        digits.healthy().await?;

        let ledger = load.finish_without_failure().await?;
        for revision in bad {
            ensure!(ledger.of(&revision).next().is_none(), "{revision} has answered requests");
        }
        Ok(())
    });
}
