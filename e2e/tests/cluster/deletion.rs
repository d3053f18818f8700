//! After the last ModelDeployment of a namespace, nothing of Stoker is left there; before that, what is deleted comes back.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use stoker_api::ModelRouter;
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

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn routers_that_somebody_deletes_come_back() {
    case("routers", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1)]).await?;
        let digits = Subject::new(namespace, "digits");
        digits.serve(&short_spec("configmap://digits/v1.onnx")).await?;

        let routers = Api::<ModelRouter>::namespaced(namespace.client.clone(), &namespace.name);
        let deployments = Api::<Deployment>::namespaced(namespace.client.clone(), &namespace.name);
        let deleted = routers.get(objects::ROUTER).await?.uid();
        routers.delete(objects::ROUTER, &DeleteParams::default()).await?;
        until("other routers are available", PATIENCE, async || {
            let Some(router) = routers.get_opt(objects::ROUTER).await? else { return Ok(None) };
            let Some(deployment) = deployments.get_opt(objects::ROUTER).await? else { return Ok(None) };
            let new = router.uid() != deleted
                && deployment
                    .owner_references()
                    .iter()
                    .all(|owner| Some(&owner.uid) == router.uid().as_ref());
            let available = deployment.status.and_then(|status| status.available_replicas);
            Ok((new && available == deployment.spec.and_then(|spec| spec.replicas)).then_some(()))
        })
        .await?;
        digits.healthy().await?;
        let load = digits.load(20).await?;
        load.ended(40).await;
        load.finish_without_failure().await?;
        Ok(())
    });
}
