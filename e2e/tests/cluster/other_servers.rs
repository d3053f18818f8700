//! Servers that are not Stoker's: they get the verified model from an init container, and are rolled out like others. Stoker's server plays one, on a
//! port and with arguments of its own; nothing in its pod says that it is not another.

use anyhow::ensure;
use serde_json::json;
use stoker_api::artifact::Digest;
use stoker_e2e::children::pods_of;
use stoker_e2e::load::ledger::Figures;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{revision, short_spec};

use crate::artifacts::fails_with;
use crate::rollout::serving;

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn another_server_takes_over_with_the_verified_model_and_no_failed_request() {
    case("others", async |namespace| {
        let digits = serving(namespace, &short_spec("configmap://digits/v1.onnx")).await?;
        let load = digits.load(60).await?;

        let args = [
            "serve",
            "--model-name=digits",
            "--model-uri=file:///mnt/models/v2.onnx",
            "--listen=0.0.0.0:8000",
        ];
        let other = json!({"image": "localhost/stoker-server:dev", "args": args, "ports": {"http": 8000}});
        let wrong = Digest::of(b"something else").to_string();
        let model = json!({"uri": "configmap://digits/v2.onnx", "digest": wrong});
        let bad =
            fails_with(&digits, &json!({"model": model, "runtime": other}), &["digest", "v2.onnx"]).await?;

        digits.merge(&json!({"spec": {"model": {"digest": null}}})).await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        let v2 = revision("stable", after.stable.as_ref())?;
        let pods = pods_of(namespace, &v2).await?;
        let spec = pods.first().and_then(|pod| pod.spec.as_ref());
        let given = spec.and_then(|spec| spec.containers[0].args.clone());
        ensure!(given.as_deref() == Some(&args.map(str::to_owned)), "its pods run with {given:?}");

        let ledger = load.finish_without_failure().await?;
        ensure!(ledger.of(&bad).next().is_none(), "{bad} has answered requests");
        let new = Figures::of(ledger.of(&v2));
        ensure!(new.requests > 100, "the other server has answered: {new:?}");
        Ok(())
    });
}
