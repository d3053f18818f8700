//! After the last ModelDeployment of a namespace, nothing of Stoker is left there.

use anyhow::{Result, ensure};
use stoker_api::names::objects;
use stoker_e2e::children::{all, nothing_is_left};
use stoker_e2e::cluster::until;
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{PATIENCE, Subject, short_spec};

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_deleted_model_deployment_leaves_nothing_behind() {
    case("deletion", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let (first, second) = (Subject::new(namespace, "first"), Subject::new(namespace, "second"));
        let spec = short_spec("configmap://digits/v1.onnx");
        let both: Result<_> = futures::future::try_join(first.serve(&spec), second.serve(&spec)).await;
        both?;

        // In the middle of a rollout, when there is most to remove.
        first.set_uri("configmap://digits/v2.onnx").await?;
        first.at_step(1).await?;
        first.delete().await?;
        let of_first =
            |name: &String| name.split_once('/').is_some_and(|(_, name)| name.starts_with("first"));
        until("nothing of the first is left", PATIENCE, async || {
            Ok((!all(namespace).await?.iter().any(of_first)).then_some(()))
        })
        .await?;

        // The other one does not notice.
        let load = second.load(20).await?;
        load.ended(20).await;
        let router = format!("ModelRouter/{}", objects::ROUTER);
        ensure!(all(namespace).await?.contains(&router), "the routers went with the first of two");
        load.finish_without_failure().await?;

        second.delete().await?;
        nothing_is_left(namespace).await
    });
}
