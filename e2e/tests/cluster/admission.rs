//! What the API server itself refuses, with the name of the field, and what it accepts.

use anyhow::{Context as _, Result, ensure};
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use stoker_api::{ModelDeployment, names};
use stoker_e2e::examples::{Example, model_deployments};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::short_spec;

/// Sends an object as it is, without our types in between; nothing is stored.
async fn try_create(namespace: &TestNamespace, name: &str, spec: &Value) -> Result<(), String> {
    let resource = ApiResource::erase::<ModelDeployment>(&());
    let api = Api::<DynamicObject>::namespaced_with(namespace.client.clone(), &namespace.name, &resource);
    let object = DynamicObject::new(name, &resource).data(json!({ "spec": spec }));
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match api.create(&params, &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refusal)) => Err(refusal.message.clone()),
        Err(error) => Err(format!("not a refusal: {error}")),
    }
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn wrong_specs_are_refused_with_the_name_of_the_field() {
    case("admission", async |namespace| {
        let good = short_spec("configmap://digits/v1.onnx");
        try_create(namespace, "digits", &good)
            .await
            .map_err(anyhow::Error::msg)
            .context("a good one is refused")?;

        let step = |weight: i64| json!({"weight": weight, "duration": "3s"});
        let digest = format!("sha256:{}", "A".repeat(64));
        let cases: &[(&str, Value, &str)] = &[
            ("/rollout/steps", json!([step(50), step(10)]), "rollout.steps"),
            ("/rollout/steps", json!([step(10), step(10)]), "rollout.steps"),
            ("/rollout/steps", json!([step(150)]), "rollout.steps[0].weight"),
            ("/rollout/steps", json!([step(-1)]), "rollout.steps[0].weight"),
            ("/rollout/steps", json!([{"weight": 10, "duration": "soon"}]), "duration"),
            ("/rollout/steps", json!([{"weight": 10, "duration": "0s"}]), "duration"),
            ("/rollout/minRequests", json!(0), "rollout.minRequests"),
            ("/rollout/progressDeadline", json!("1s"), "rollout.progressDeadline"),
            ("/rollback/keepWarm", json!("-5s"), "rollback.keepWarm"),
            ("/replicas", json!(-1), "replicas"),
            ("/model/digest", json!("sha256:abc"), "model.digest"),
            ("/model/digest", json!(digest), "model.digest"),
            ("/model/digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e"), "model.digest"),
            ("/model/uri", json!("digits.onnx"), "model.uri"),
            ("/model/uri", json!("ftp://models.example/digits.onnx"), "model.uri"),
            ("/model/uri", json!("file:///etc/passwd"), "model.uri"),
            ("/model/uri", json!("pvc://models/../other/v1.onnx"), "model.uri"),
            ("/model", json!({}), "model.uri"),
            ("/slo", json!({"latency": {"target": "0s"}}), "slo.latency.target"),
            ("/traffic", json!({"hosts": ["Digits.Example"]}), "traffic.hosts"),
        ];
        for (field, value, names) in cases {
            let mut spec = good.clone();
            // The pointer may name a field that is not there yet.
            let (parent, key) = field.rsplit_once('/').context("a pointer begins with /")?;
            spec.pointer_mut(parent).context("the parent is there")?[key] = value.clone();
            match try_create(namespace, "digits", &spec).await {
                Ok(()) => anyhow::bail!("spec{field} = {value} was accepted"),
                Err(message) => {
                    ensure!(message.contains(names), "spec{field} = {value}: no {names} in {message:?}");
                }
            }
        }
        for name in ["9-digits", "digits.v1", &"d".repeat(41), names::objects::ROUTER] {
            match try_create(namespace, name, &good).await {
                Ok(()) => anyhow::bail!("the name {name:?} was accepted"),
                Err(message) => ensure!(message.contains("metadata.name"), "{name:?}: {message:?}"),
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_examples_are_accepted() {
    case("examples", async |namespace| {
        for Example { path, object } in model_deployments()? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let accepted = try_create(namespace, name, &object["spec"]).await;
            accepted.map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_namespace_has_one_router_of_a_fixed_name() {
    case("router-name", async |namespace| {
        let resource = ApiResource::erase::<stoker_api::ModelRouter>(&());
        let api = Api::<DynamicObject>::namespaced_with(namespace.client.clone(), &namespace.name, &resource);
        let object = DynamicObject::new("another", &resource).data(json!({"spec": {"replicas": 2}}));
        let refused = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await;
        let Err(kube::Error::Api(refusal)) = refused else { anyhow::bail!("it was accepted: {refused:?}") };
        ensure!(refusal.message.contains(names::objects::ROUTER), "{}", refusal.message);
        Ok(())
    });
}
