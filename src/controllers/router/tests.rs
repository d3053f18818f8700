//! What is asked of the API server, and what the status says.

use futures::stream;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use stoker_api::ModelDeployment;
use stoker_api::names::conditions;

use super::presence::{present, reap, release, restore};
use super::*;
use crate::call::Calls;
use crate::context::Settings;
use crate::fake_api::{Asked, Server};
use crate::observe::routers::Routers;

const ROUTER: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelrouters/stoker-router";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/team/deployments/stoker-router";
const SECRET: &str = "/api/v1/namespaces/team/secrets/stoker-router-tls";
const MODEL: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeldeployments/digits";

fn settings(image: &str) -> Settings {
    Settings { router_image: image.into(), ..Settings::sample() }
}

fn work(server: &Server, image: &str) -> Work {
    let client = server.client();
    let routers = Routers::new(client.clone(), None);
    let ctx = Context::new(client, settings(image), routers, &mut Registry::default());
    let (authority, _) = Authority::generate(Timestamp::now()).unwrap();
    Work { ctx, authority, failures: Mutex::default(), turn: tokio::sync::Mutex::default() }
}

fn router(labels: &Value) -> Value {
    let metadata = json!({"name": "stoker-router", "labels": labels});
    json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelRouter", "metadata": metadata, "spec": {"replicas": 2}})
}

fn ours() -> Value {
    json!({"app.kubernetes.io/managed-by": "stoker"})
}

fn model() -> Value {
    json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"}})
}

fn names(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|(what, _)| what.as_str()).collect()
}

#[tokio::test]
async fn a_missing_model_router_is_created_and_one_that_is_there_is_left_alone() {
    let server = Server::default();
    let (client, calls) = (server.client(), Calls::default());
    present(&client, &calls, "team").await.unwrap();
    let asked = server.writes();
    assert_eq!(names(&asked), ["POST /apis/stoker.dev/v1alpha1/namespaces/team/modelrouters"]);
    assert_eq!(asked[0].1["spec"], json!({"replicas": 2}));
    assert_eq!(asked[0].1["metadata"]["labels"], ours());
    present(&client, &calls, "team").await.unwrap();
    assert_eq!(names(&server.writes()), [""; 0]);
}

#[tokio::test]
async fn a_model_router_that_somebody_else_makes_at_the_same_time_is_as_good() {
    let server = Server::default();
    server.put(ROUTER, router(&json!({})));
    server.hide_once(ROUTER);
    present(&server.client(), &Calls::default(), "team").await.unwrap();
    assert_eq!(server.get(ROUTER).unwrap()["metadata"]["labels"], json!({}));
}

#[tokio::test]
async fn a_model_router_that_somebody_deletes_is_made_again_while_it_is_needed() {
    let deleted = |namespace: &str| {
        let metadata = json!({"name": "stoker-router", "namespace": namespace});
        let gone: PartialObjectMeta<ModelRouter> =
            serde_json::from_value(json!({"metadata": metadata})).unwrap();
        Event::Delete(gone)
    };
    let other = MODEL.replace("/team/", "/other/");
    let going = json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let made =
        |namespace: &str| format!("POST /apis/stoker.dev/v1alpha1/namespaces/{namespace}/modelrouters");
    let cases = [
        ("needed", model(), deleted("team"), vec![made("team")]),
        ("of another namespace", model(), deleted("third"), vec![]),
        ("not needed much longer", going.clone(), deleted("team"), vec![]),
        (
            "missed while the watch was interrupted",
            model(),
            Event::InitDone,
            vec![made("other"), made("team")],
        ),
        ("missed, and not needed much longer", going, Event::InitDone, vec![made("other")]),
    ];
    for (what, model_of_team, event, writes) in cases {
        let server = Server::default();
        server.put(MODEL, model_of_team);
        server.put(&other, model());
        restore(&work(&server, "router:1").ctx, stream::iter([Ok(event)])).await;
        assert_eq!(names(&server.writes()), writes, "{what}");
    }
}

#[tokio::test]
async fn routers_that_could_not_be_made_come_at_the_next_try() {
    let server = Server::default();
    server.put(MODEL, model());
    let path = "/apis/stoker.dev/v1alpha1/namespaces/team/modelrouters";
    server.refuse(path, "not now");
    let allowed = server.clone();
    server.after(&format!("POST {path}"), move || allowed.allow(path));
    let work = work(&server, "router:1");
    let is_there = async {
        while server.get(ROUTER).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let events = stream::iter([Ok(Event::InitDone)]).chain(stream::pending());
    tokio::select! {
        () = restore(&work.ctx, events) => panic!("it goes on for as long as there may be events"),
        made = tokio::time::timeout(Duration::from_secs(60), is_there) => made.expect("it is tried again"),
    }
}

#[tokio::test]
async fn a_look_makes_the_data_plane_in_order_and_a_second_one_writes_nothing() {
    let server = Server::default();
    server.put(ROUTER, router(&ours()));
    server.put(MODEL, model());
    let work = work(&server, "router:1");
    look(&work, "team").await.unwrap();
    let asked = server.writes();
    let made = [
        "/api/v1/namespaces/team/serviceaccounts/stoker-router",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings/stoker-router",
        SECRET,
        "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/stoker-router",
        "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/stoker-server",
        "/apis/policy/v1/namespaces/team/poddisruptionbudgets/stoker-router",
        "/api/v1/namespaces/team/services/stoker-router",
        DEPLOYMENT,
    ];
    for (path, (what, body)) in made.iter().zip(&asked) {
        assert_eq!(*what, format!("PATCH {path}"));
        assert_eq!(body["metadata"]["ownerReferences"][0]["name"], "stoker-router", "{path}");
        assert_eq!(body["metadata"]["labels"]["app.kubernetes.io/managed-by"], "stoker", "{path}");
    }
    assert_eq!(asked[made.len()].0, format!("PATCH {ROUTER}/status"));
    let ready = &asked[made.len()].1["status"]["conditions"][0];
    assert_eq!(
        (ready["status"].as_str(), ready["message"].as_str()),
        (Some("False"), Some("0 of 2 routers are ready"))
    );

    look(&work, "team").await.unwrap();
    assert_eq!(names(&server.writes()), [""; 0]);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_replaced() {
    let server = Server::default();
    server.put(ROUTER, router(&ours()));
    server.put(MODEL, model());
    look(&work(&server, "router:1"), "team").await.unwrap();
    let before = server.get(SECRET).unwrap()["data"]["tls.crt"].clone();
    server.writes();
    // `work` has a CA of its own each time.
    look(&work(&server, "router:1"), "team").await.unwrap();
    assert_eq!(names(&server.writes()), [format!("PATCH {SECRET}").as_str()]);
    assert_ne!(server.get(SECRET).unwrap()["data"]["tls.crt"], before);
}

#[tokio::test]
async fn somebody_elses_secret_is_not_touched_and_the_status_names_it() {
    let server = Server::default();
    server.put(ROUTER, router(&ours()));
    server.put(MODEL, model());
    server.put(SECRET, json!({"metadata": {"name": "stoker-router-tls"}, "data": {}}));
    let error = look(&work(&server, "router:1"), "team").await.expect_err("the Secret is not ours");
    assert_eq!(error.reason(), reasons::CONFLICTED);
    assert_eq!(server.get(SECRET).unwrap()["data"], json!({}));
    let ready = server.get(ROUTER).unwrap()["status"]["conditions"][0].clone();
    assert_eq!((ready["status"].as_str(), ready["reason"].as_str()), (Some("False"), Some("Conflicted")));
    assert!(ready["message"].as_str().unwrap().contains("stoker-router-tls"), "{ready}");
}

#[tokio::test]
async fn a_new_image_waits_until_no_other_namespace_is_rolling() {
    let server = Server::default();
    server.put(ROUTER, router(&ours()));
    server.put(MODEL, model());
    look(&work(&server, "router:1"), "team").await.unwrap();
    let other = "/apis/apps/v1/namespaces/other/deployments/stoker-router";
    let mut rolling = server.get(DEPLOYMENT).unwrap();
    rolling["status"] =
        json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 3});
    server.put(other, rolling.clone());
    let image = || server.get(DEPLOYMENT).unwrap().pointer("/spec/template/spec/containers/0/image").cloned();

    let action = look(&work(&server, "router:2"), "team").await.unwrap();
    assert_eq!(image(), Some(json!("router:1")));
    assert_eq!(action, Action::requeue(WAITING));
    let message = server.get(ROUTER).unwrap()["status"]["conditions"][0]["message"].clone();
    assert_eq!(message, "the new image waits until the routers of namespace other are replaced");

    rolling["status"] =
        json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
    server.put(other, rolling);
    look(&work(&server, "router:2"), "team").await.unwrap();
    assert_eq!(image(), Some(json!("router:2")));
}

#[tokio::test]
async fn routers_go_after_the_last_model_deployment_unless_a_user_made_them() {
    let cases = [(ours(), false, true), (ours(), true, false), (json!({}), false, false)];
    for (labels, used, goes) in cases {
        let server = Server::default();
        server.put(ROUTER, router(&labels));
        if used {
            server.put(MODEL, model());
        }
        assert_eq!(
            release(&server.client(), &Calls::default(), "team").await.unwrap(),
            goes,
            "{labels} {used}"
        );
        assert_eq!(server.get(ROUTER).is_none(), goes, "{labels} {used}");
        let deleted = server.writes();
        if goes {
            assert_eq!(names(&deleted), [format!("DELETE {ROUTER}").as_str()]);
            assert!(deleted[0].1["preconditions"]["uid"].is_string(), "{deleted:?}");
        }
    }
}

#[tokio::test]
async fn routers_that_could_not_be_removed_go_at_the_next_try() {
    let refusals: [fn(&Server); 2] =
        [|server| server.refuse(ROUTER, "not now"), |server| server.contradict(ROUTER)];
    for refuse in refusals {
        let server = Server::default();
        server.put(ROUTER, router(&ours()));
        refuse(&server);
        go_at_the_next_try(&server).await;
    }
}

/// Routers go, although the API server refuses that once.
async fn go_at_the_next_try(server: &Server) {
    let allowed = server.clone();
    server.after(&format!("DELETE {ROUTER}"), move || allowed.allow(ROUTER));
    let mut gone = model();
    gone["metadata"]["namespace"] = json!("team");
    let gone: PartialObjectMeta<ModelDeployment> = serde_json::from_value(gone).unwrap();
    let events = stream::iter([Ok(Event::Delete(gone))]).chain(stream::pending());

    let work = work(server, "router:1");
    let is_gone = async {
        while server.get(ROUTER).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = reap(&work.ctx, events) => panic!("it goes on for as long as there may be events"),
        gone = tokio::time::timeout(Duration::from_secs(60), is_gone) => gone.expect("it is tried again"),
    }
    let delete = format!("DELETE {ROUTER}");
    assert_eq!(names(&server.writes()), [delete.as_str(), delete.as_str()]);
}

#[test]
fn the_status_says_what_is_missing_and_for_whom() {
    let router: ModelRouter = serde_json::from_value(router(&ours())).unwrap();
    let deployment = |status: Value| -> Box<Deployment> {
        let container = json!({"name": "router", "image": "router:1"});
        let template = json!({"spec": {"containers": [container]}});
        serde_json::from_value(
            json!({"metadata": {}, "spec": {"selector": {}, "template": template}, "status": status}),
        )
        .unwrap()
    };
    let quota = json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
    let lost = Error::Call(CallError::TimedOut { what: "get Secret stoker-router-tls".into() });
    let cases = [
        (
            Ok(Standing::Applied(deployment(json!({"readyReplicas": 2})))),
            "True",
            "Converged",
            "all routers are ready",
        ),
        (
            Ok(Standing::Applied(deployment(json!({"readyReplicas": 1})))),
            "False",
            "Holding",
            "1 of 2 routers are ready",
        ),
        (
            Ok(Standing::Applied(deployment(json!({"conditions": quota})))),
            "False",
            "Holding",
            "0 of 2 routers are ready: exceeded quota",
        ),
        (Err(lost), "Unknown", "ReconcileFailed", "get Secret stoker-router-tls: no answer within 10 s"),
        (
            Err(Error::Invalid("missing field".into())),
            "False",
            "InvalidSpec",
            "the ModelRouter cannot be read: missing field",
        ),
    ];
    for (outcome, ready, reason, message) in cases {
        let told = status::compose(&router, outcome.as_ref(), &Time(Timestamp::UNIX_EPOCH));
        let condition = &told.conditions[0];
        assert_eq!(condition.type_, conditions::READY);
        let said = (condition.status.as_str(), condition.reason.as_str(), condition.message.as_str());
        assert_eq!(said, (ready, reason, message));
    }
}

#[test]
fn pauses_grow_to_half_a_minute_and_stay_there() {
    let seconds: Vec<_> = [0, 1, 2, 4, 5, 100, u32::MAX].map(|before| pause(before).as_secs()).into();
    assert_eq!(seconds, [1, 2, 4, 16, 30, 30, 30]);
}
