//! Two ModelDeployments that want one host: the older one has it, the other one says whose it is.

use anyhow::{Result, bail, ensure};
use http::StatusCode;
use serde_json::{Value, json};
use stoker_api::deployment::{ModelDeploymentStatus, Phase};
use stoker_api::names::{conditions, reasons};
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, condition, is_ready, patient_spec, revision, says};

use crate::client;

/// Waits until it serves what it can and says that a host of it is another one's.
async fn conflicted(subject: &Subject<'_>, sentence: &str) -> Result<ModelDeploymentStatus> {
    let is = |status: &ModelDeploymentStatus| {
        status.phase == Phase::Conflicted
            && status.message.starts_with(sentence)
            && is_ready(status)
            && condition(status, conditions::TRAFFIC_VERIFIED) == "True"
    };
    let found = subject.until(&format!("is Conflicted and says {sentence:?}"), PATIENCE, is).await?;
    Ok(found.status.unwrap_or_default())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_older_one_serves_a_host_that_two_want_and_the_other_names_it() {
    case("hosts", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1)]).await?;
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["traffic"] = json!({"hosts": ["shared.example"]});
        let (older, younger) = (Subject::new(namespace, "older"), Subject::new(namespace, "younger"));
        let served = older.serve(&spec).await?.status.unwrap_or_default();
        let of_older = revision("stable", served.stable.as_ref())?;
        younger.apply(&spec).await?;
        let sentence = "host shared.example belongs to ModelDeployment older";
        let status = conflicted(&younger, sentence).await?;
        let of_younger = revision("stable", status.stable.as_ref())?;
        ensure!(status.message.contains("change traffic.hosts of one of them"), "{}", status.message);
        says(&status, conditions::READY, "True", &[sentence, &of_younger])?;
        younger.event(reasons::CONFLICTED, &[sentence]).await?;
        let untouched = older.status().await?;
        ensure!(untouched.phase == Phase::Healthy, "the older one says: {}", untouched.message);

        let address = older.reached().await?;
        let leads_to = async |host: &str, wanted: &str| {
            let answer = client::metadata(address, host).await?;
            let (status, got) = (answer.status, answer.revision);
            ensure!(status == StatusCode::OK && got == wanted, "{host}: {status} from {got:?}, not {wanted}");
            Ok(())
        };
        let own = format!("younger.{}.svc", namespace.name);
        for (host, wanted) in [
            ("shared.example", &of_older),
            ("Shared.EXAMPLE", &of_older),
            ("SHARED.example.:80", &of_older),
            (own.as_str(), &of_younger),
        ] {
            leads_to(host, wanted).await?;
        }

        // The same host in capitals would be another name for the same thing: nobody may ask for it.
        let hosts = |hosts: &[&str]| -> Value { json!({"spec": {"traffic": {"hosts": hosts}}}) };
        match younger.merge(&hosts(&["Shared.Example"])).await {
            Ok(_) => bail!("a host in capitals was accepted"),
            Err(refusal) => {
                let refusal = format!("{refusal:#}");
                ensure!(refusal.contains("traffic.hosts must be lower-case"), "{refusal}");
            }
        }
        // A host that follows from a name is as good as one that was asked for.
        let named = format!("older.{}", namespace.name);
        younger.merge(&hosts(&[&named])).await?;
        conflicted(&younger, &format!("host {named} belongs to ModelDeployment older")).await?;
        leads_to(&named, &of_older).await?;

        // Who lets go of a host gives it to the other.
        older.merge(&hosts(&[])).await?;
        older.healthy().await?;
        younger.merge(&hosts(&["shared.example"])).await?;
        let has_it = |status: &ModelDeploymentStatus| {
            status.phase == Phase::Healthy && condition(status, conditions::TRAFFIC_VERIFIED) == "True"
        };
        younger.until("has the host", PATIENCE, has_it).await?;
        leads_to("shared.example", &of_younger).await
    });
}
