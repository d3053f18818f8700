//! Candidates whose pods do not live: no image, killed for memory, a crash loop.

use anyhow::ensure;
use serde_json::json;
use stoker_api::artifact::Digest;
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{Subject, short_spec};

use crate::artifacts::fails_with;

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn pods_that_do_not_live_get_no_traffic_and_are_named() {
    case("pods", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v4.onnx", digits::V4)]).await?;
        let digits = Subject::new(namespace, "digits");
        let mut spec = short_spec("configmap://digits/v1.onnx");
        // With a digest no pod has to resolve one first: these are the pods that would serve.
        spec["model"]["digest"] = json!(Digest::of(digits::V1).to_string());
        spec["rollout"]["progressDeadline"] = json!("30s");
        digits.serve(&spec).await?;
        let load = digits.load(30).await?;

        let image = "localhost/no-such-image:dev";
        let mut bad = vec![fails_with(&digits, &json!({"runtime": {"image": image}}), &[image]).await?];
        // The routers' program does not understand the server's arguments and ends at once.
        let wrong = json!({"runtime": {"image": "localhost/stoker-router:dev"}});
        bad.push(fails_with(&digits, &wrong, &["ended with"]).await?);
        // v4 makes large matrices: it starts within this limit and goes beyond it with its first answer.
        let model =
            json!({"uri": "configmap://digits/v4.onnx", "digest": Digest::of(digits::V4).to_string()});
        let memory = json!({"memory": "12Mi"});
        let resources = json!({"requests": memory, "limits": memory});
        let tight = json!({"model": model, "runtime": {"image": null, "resources": resources}});
        bad.push(fails_with(&digits, &tight, &["more memory than its limit"]).await?);

        let ledger = load.finish_without_failure().await?;
        for revision in bad {
            ensure!(ledger.of(&revision).next().is_none(), "{revision} has answered requests");
        }
        Ok(())
    });
}
