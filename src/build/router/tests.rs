//! The data plane against a stored copy, and the rules that the copy must keep.

use serde_json::{Value, json};
use stoker_api::router::ModelRouterSpec;

use super::*;

fn plane() -> DataPlane {
    let mut router =
        ModelRouter::new(objects::ROUTER, ModelRouterSpec { replicas: 2, ..ModelRouterSpec::default() });
    router.metadata.namespace = Some("team".into());
    data_plane(&router, &Settings::sample())
}

/// A change of this file restarts the routers of every namespace: look twice.
#[test]
fn the_routers_are_what_they_were() {
    let stored: Value = serde_yaml::from_str(include_str!("deployment.golden.yaml")).unwrap();
    let made = serde_json::to_value(plane().deployment).unwrap();
    assert_eq!(
        made,
        stored,
        "write this into the golden file if it is meant:\n{}",
        serde_yaml::to_string(&made).unwrap()
    );
}

#[test]
fn pods_are_found_by_what_selects_them() {
    let DataPlane { account, binding, service, budget, router_policy, server_policy, deployment } = plane();
    let spec = deployment.spec.unwrap();
    let pod_labels = spec.template.metadata.unwrap().labels.unwrap();
    let selectors = [
        spec.selector.match_labels.unwrap(),
        service.spec.unwrap().selector.unwrap(),
        budget.spec.unwrap().selector.unwrap().match_labels.unwrap(),
        router_policy.spec.unwrap().pod_selector.unwrap().match_labels.unwrap(),
    ];
    for selector in selectors {
        assert!(selector.iter().all(|(name, value)| pod_labels.get(name) == Some(value)), "{selector:?}");
    }
    let servers = server_policy.spec.unwrap();
    assert_eq!(servers.pod_selector.unwrap().match_labels.unwrap()[labels::PART], parts::SERVER);
    assert_eq!(servers.egress, None, "model pods download from anywhere");
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!((subject.name.as_str(), subject.namespace.as_deref()), ("stoker-router", Some("team")));
    assert_eq!(account.metadata.name, spec.template.spec.unwrap().service_account_name);
}

#[test]
fn only_operator_and_routers_reach_the_admin_port_and_only_routers_reach_models() {
    let rules = |policy: NetworkPolicy| serde_json::to_value(policy.spec.unwrap().ingress).unwrap();
    let port = |number: u16| json!({"port": number, "protocol": "TCP"});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "stoker-system"}},
        "podSelector": {"matchLabels": {"stoker.dev/part": "operator"}},
    });
    let routers = json!({"podSelector": {"matchLabels": {"stoker.dev/part": "router"}}});
    assert_eq!(
        rules(plane().router_policy),
        json!([{"ports": [port(8080), port(9090)]}, {"from": [operator, routers.clone()], "ports": [port(9443)]}])
    );
    assert_eq!(
        rules(plane().server_policy),
        json!([{"from": [routers], "ports": [{"port": "http", "protocol": "TCP"}]}, {"ports": [{"port": "metrics", "protocol": "TCP"}]}])
    );
}

#[test]
fn clients_reach_the_routers_by_the_models_name() {
    let md: ModelDeployment = serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "digits"}, "spec": {"model": {"uri": "configmap://digits/v1.onnx"}},
    }))
    .unwrap();
    let service = serde_json::to_value(front_service(&md)).unwrap();
    assert_eq!(service["metadata"]["name"], "digits");
    assert_eq!(service["metadata"]["labels"]["stoker.dev/model-deployment"], "digits");
    assert_eq!(service["spec"]["selector"], json!({"stoker.dev/part": "router"}));
    assert_eq!(
        service["spec"]["ports"][0],
        json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"})
    );
}

#[test]
fn what_a_user_sets_takes_the_place_of_a_default() {
    let spec: ModelRouterSpec = serde_json::from_value(json!({
        "replicas": 5, "nodeSelector": {"pool": "edge"}, "resources": {"limits": {"memory": "1Gi"}},
    }))
    .unwrap();
    let pod =
        data_plane(&ModelRouter::new(objects::ROUTER, spec), &Settings::sample()).deployment.spec.unwrap();
    assert_eq!(pod.replicas, Some(5));
    let pod = pod.template.spec.unwrap();
    assert_eq!(pod.node_selector, Some(BTreeMap::from([("pool".into(), "edge".into())])));
    let resources = serde_json::to_value(&pod.containers[0].resources).unwrap();
    // No request of ours for what the user limits.
    assert_eq!(resources, json!({"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}}));
}

#[test]
fn a_deployment_rolls_until_all_its_pods_are_new_or_it_is_stuck() {
    let deployment = |generation: i64, status: Value| -> Deployment {
        let spec = json!({"replicas": 2, "selector": {}, "template": {}});
        serde_json::from_value(
            json!({"metadata": {"generation": generation}, "spec": spec, "status": status}),
        )
        .unwrap()
    };
    let status = |replicas: i32, updated: i32, available: i32| json!({"observedGeneration": 3, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available});
    let mut stuck = status(3, 1, 2);
    stuck["conditions"] =
        json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    let finished = |mut status: Value| {
        status["conditions"] =
            json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
        status
    };
    let cases = vec![
        ("done", deployment(3, status(2, 2, 2)), false),
        ("an old pod is left", deployment(3, status(3, 2, 3)), true),
        ("new pods are missing", deployment(3, status(2, 1, 2)), true),
        ("new pods are not available", deployment(3, status(2, 2, 1)), true),
        ("the change was not seen yet", deployment(4, status(2, 2, 2)), true),
        ("it gets nowhere", deployment(3, stuck), false),
        ("it finished and a pod is not available since", deployment(3, finished(status(2, 2, 1))), false),
        ("it finished and a pod cannot be made since", deployment(3, finished(status(1, 1, 1))), false),
        ("it finished and goes back to an earlier image", deployment(3, finished(status(2, 0, 2))), true),
        ("it finished and the next change was not seen yet", deployment(4, finished(status(2, 2, 2))), true),
    ];
    for (what, deployment, rolling) in cases {
        assert_eq!(is_rolling(&deployment), rolling, "{what}");
    }
}
