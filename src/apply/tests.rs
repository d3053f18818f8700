//! What is written when an object differs from what is wanted, and that nothing is written otherwise.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use stoker_api::ModelRoute;

use super::*;
use crate::fake_api::{Asked, Server};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/team/deployments/digits";
const ROUTE: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelroutes/digits";
const MAP: &str = "/api/v1/namespaces/team/configmaps/digits";

fn applier(server: &Server) -> Applier {
    let owner = OwnerReference {
        api_version: "stoker.dev/v1alpha1".into(),
        kind: "ModelDeployment".into(),
        name: "digits".into(),
        uid: "owner".into(),
        ..OwnerReference::default()
    };
    Applier {
        client: server.client(),
        calls: Calls::default(),
        manager: "test",
        namespace: "team".into(),
        owner,
    }
}

fn typed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn deployment(pod: &Value) -> Deployment {
    let spec = json!({"replicas": 2, "selector": {}, "template": {"spec": pod}});
    typed(json!({"metadata": {"name": "digits"}, "spec": spec}))
}

fn pod(cpu: &str) -> Value {
    json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}], "nodeSelector": {"pool": "edge"}})
}

fn what(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|(what, _)| what.as_str()).collect()
}

#[tokio::test]
async fn a_field_that_is_wanted_no_more_is_taken_away() {
    let server = Server::default();
    let applier = applier(&server);
    applier.ensure("apply", deployment(&pod("1"))).await.unwrap();
    server.writes();
    let mut less = pod("1");
    less.as_object_mut().unwrap().remove("nodeSelector");
    let read: Deployment = typed(server.get(DEPLOYMENT).unwrap());
    for kept in [false, true] {
        if kept {
            // As an object that was read before the first change.
            server.put(DEPLOYMENT, serde_json::to_value(&read).unwrap());
            applier.keep("apply", deployment(&less), Some(&read)).await.unwrap();
        } else {
            applier.ensure("apply", deployment(&less)).await.unwrap();
        }
        let asked = server.writes();
        assert_eq!(what(&asked), [format!("PATCH {DEPLOYMENT}")], "kept: {kept}");
        assert_eq!(asked[0].1.pointer("/spec/template/spec/nodeSelector"), None, "kept: {kept}");
        applier.ensure("apply", deployment(&less)).await.unwrap();
        assert_eq!(what(&server.writes()), [""; 0], "kept: {kept}");
    }
}

#[tokio::test]
async fn what_others_change_is_put_right_and_what_they_add_stays() {
    let server = Server::default();
    let applier = applier(&server);
    applier.ensure("apply", deployment(&pod("1"))).await.unwrap();
    let made = server.get(DEPLOYMENT).unwrap();
    server.writes();

    let mut scaled = made.clone();
    scaled["spec"]["replicas"] = json!(5);
    server.put(DEPLOYMENT, scaled.clone());
    applier.keep("apply", deployment(&pod("1")), Some(&typed(scaled))).await.unwrap();
    assert_eq!(what(&server.writes()), [format!("PATCH {DEPLOYMENT}")]);
    assert_eq!(server.get(DEPLOYMENT).unwrap()["spec"]["replicas"], 2);

    let mut noted = made;
    noted["metadata"]["annotations"]["example.com/note"] = json!("x");
    noted["spec"]["template"]["spec"]["priority"] = json!(1);
    server.put(DEPLOYMENT, noted);
    applier.ensure("apply", deployment(&pod("1"))).await.unwrap();
    assert_eq!(what(&server.writes()), [""; 0]);
}

#[tokio::test]
async fn a_quantity_that_the_api_server_writes_its_own_way_is_no_difference() {
    let server = Server::default();
    let applier = applier(&server);
    applier.ensure("apply", deployment(&pod("0.5"))).await.unwrap();
    let mut live = server.get(DEPLOYMENT).unwrap();
    live["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("500m");
    server.put(DEPLOYMENT, live.clone());
    server.writes();
    applier.ensure("apply", deployment(&pod("0.5"))).await.unwrap();
    applier.keep("apply", deployment(&pod("0.5")), Some(&typed(live))).await.unwrap();
    assert_eq!(what(&server.writes()), [""; 0]);
}

#[tokio::test]
async fn the_last_host_of_a_table_goes() {
    let server = Server::default();
    let applier = applier(&server);
    let route = |hosts: &[&str]| -> ModelRoute {
        let rules = json!([{"salt": "s", "arms": [{"revision": "a", "ppm": 1_000_000}]}]);
        let spec = json!({"schema": 1, "hosts": hosts, "run": 1, "step": 0, "rules": rules});
        typed(
            json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelRoute", "metadata": {"name": "digits"}, "spec": spec}),
        )
    };
    let read = || -> ModelRoute { typed(server.get(ROUTE).unwrap()) };
    applier.replace("write", route(&["digits.example"]), None).await.unwrap();
    server.writes();
    let before = read();
    applier.replace("write", route(&[]), Some(&before)).await.unwrap();
    assert_eq!(what(&server.writes()), [format!("PUT {ROUTE}")]);
    assert_eq!(read().spec.hosts, [""; 0]);
    applier.replace("write", route(&[]), Some(&read())).await.unwrap();
    assert_eq!(what(&server.writes()), [""; 0]);
    // The fence: what was decided from an old version is refused.
    let error = applier.replace("write", route(&["other.example"]), Some(&before)).await.unwrap_err();
    assert!(matches!(&error, Error::Call(error) if error.is_conflict()), "{error}");
}

#[tokio::test]
async fn an_object_is_deleted_as_it_was_read_or_not_at_all() {
    let server = Server::default();
    let applier = applier(&server);
    applier.ensure("apply", deployment(&pod("1"))).await.unwrap();
    let old: Deployment = typed(server.get(DEPLOYMENT).unwrap());
    // Another operator leads by now and has changed it.
    applier.ensure("apply", deployment(&pod("2"))).await.unwrap();
    let error = applier.remove("delete", &old).await.unwrap_err();
    assert!(matches!(&error, Error::Call(error) if error.is_conflict()), "{error}");
    let live: Deployment = typed(server.get(DEPLOYMENT).unwrap());
    applier.remove("delete", &live).await.unwrap();
    assert_eq!(server.get(DEPLOYMENT), None);
    applier.remove("delete", &live).await.unwrap();
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() {
    let server = Server::default();
    let applier = applier(&server);
    server.put(MAP, json!({"metadata": {"name": "digits"}, "data": {"a": "b"}}));
    let live: ConfigMap = typed(server.get(MAP).unwrap());
    let error = applier.ensure("apply", ConfigMap { data: None, ..live.clone() }).await.unwrap_err();
    assert!(matches!(error, Error::Conflicted { .. }), "{error}");
    applier.remove("delete", &live).await.unwrap();
    assert_eq!(what(&server.writes()), [""; 0]);
}

#[tokio::test]
async fn an_object_of_our_name_that_is_somebody_elses_is_a_conflict() {
    let server = Server::default();
    let applier = applier(&server);
    let spec = json!({"schema": 1, "run": 1, "step": 0, "rules": []});
    let route = || typed::<ModelRoute>(json!({"metadata": {"name": "digits"}, "spec": spec}));
    server.put(ROUTE, json!({"metadata": {"name": "digits"}, "spec": spec}));
    let error = applier.replace("write ModelRoute", route(), None).await.unwrap_err();
    assert!(matches!(error, Error::Conflicted { .. }), "{error}");
    assert!(error.to_string().contains("belongs to nobody"), "{error}");
    server.remove(ROUTE);
    applier.replace("write ModelRoute", route(), None).await.unwrap();
}
