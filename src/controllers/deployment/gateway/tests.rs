//! What is written for a gateway, whose hand is told of, and what holds nobody up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Value, json};

use super::super::tests::{Looking, MODEL};
use super::*;
use crate::fake_api::Asked;

const HTTP: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/team/httproutes/digits";
const GRPC: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/team/grpcroutes/digits";
const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/infra/gateways/public";
const SERVICE: &str = "/api/v1/namespaces/team/services/digits";

/// A ModelDeployment that asks for Gateway infra/public, which is there and served.
fn asking() -> Looking {
    let looking = Looking::new();
    looking.server.put(
        GATEWAY,
        json!({
            "metadata": {"name": "public", "uid": "g", "generation": 1},
            "spec": {"gatewayClassName": "contour"},
            "status": {"conditions": [condition("Programmed", "True", 1)]},
        }),
    );
    ask(&looking, &json!({"name": "public", "namespace": "infra"}));
    looking
}

fn ask(looking: &Looking, gateway: &Value) {
    let traffic = json!({"hosts": ["digits.example", "grpc.digits.example"], "gatewayRef": gateway});
    looking.change(|object| object["spec"]["traffic"] = traffic);
}

fn condition(kind: &str, status: &str, generation: i64) -> Value {
    json!({
        "type": kind, "status": status, "reason": kind, "message": "", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// The gateway's controller takes the route as it is now.
fn accept(looking: &Looking, path: &str) {
    let mut route = looking.server.get(path).unwrap();
    let generation = route["metadata"]["generation"].as_i64().unwrap();
    let conditions =
        [condition("Accepted", "True", generation), condition("ResolvedRefs", "True", generation)];
    let parent = route["spec"]["parentRefs"][0].clone();
    route["status"] =
        json!({"parents": [{"parentRef": parent, "controllerName": "x/y", "conditions": conditions}]});
    looking.server.put(path, route);
}

/// What was asked about routes and gateways.
fn at_gateway(asked: &[Asked]) -> Vec<&str> {
    let about = asked.iter().map(|(what, _)| what.as_str());
    about.filter(|what| what.contains("gateway.networking.k8s.io")).collect()
}

fn notes<'a>(asked: &'a [Asked], reason: &str) -> Vec<&'a str> {
    let of_reason = asked.iter().filter(|(what, body)| what.contains("/events") && body["reason"] == reason);
    of_reason.map(|(_, body)| body["note"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_route_is_written_last_once_and_answered_for() {
    let mut looking = asking();
    let asked = looking.look().await;
    assert_eq!(at_gateway(&asked), [format!("PATCH {HTTP}")]);
    let position = |what: &str| asked.iter().position(|(asked, _)| asked.starts_with(what)).unwrap();
    assert!(position(&format!("PATCH {MODEL}/status")) < position(&format!("PATCH {HTTP}")), "{asked:?}");
    let written = looking.server.get(HTTP).unwrap();
    assert_eq!(written["metadata"]["ownerReferences"][0]["uid"], "uid-digits");
    assert_eq!(looking.condition("GatewayReady")["status"], "Unknown");

    accept(&looking, HTTP);
    let asked = looking.look().await;
    assert_eq!(looking.condition("GatewayReady")["status"], "True");
    assert_eq!(notes(&asked, reasons::GATEWAY_PROGRAMMED).len(), 1, "{asked:?}");
    let again = looking.look().await;
    assert_eq!(
        (at_gateway(&again), notes(&again, reasons::GATEWAY_PROGRAMMED)),
        (vec![], vec![]),
        "{again:?}"
    );
}

#[tokio::test]
async fn grpc_at_hosts_of_its_own_has_a_route_and_a_port_of_its_own() {
    let mut looking = asking();
    looking.look().await;
    let ports =
        |looking: &Looking| looking.server.get(SERVICE).unwrap()["spec"]["ports"].as_array().unwrap().clone();
    assert_eq!(ports(&looking).len(), 1, "nobody's Service changes who does not ask for it");
    ask(
        &looking,
        &json!({"name": "public", "namespace": "infra", "grpc": {"hosts": ["grpc.digits.example"]}}),
    );
    looking.look().await;
    assert_eq!(looking.server.get(GRPC).unwrap()["spec"]["hostnames"], json!(["grpc.digits.example"]));
    assert_eq!(looking.server.get(HTTP).unwrap()["spec"]["hostnames"], json!(["digits.example"]));
    let grpc = ports(&looking)[1].clone();
    assert_eq!(
        (&grpc["name"], &grpc["port"], &grpc["targetPort"], &grpc["appProtocol"]),
        (&json!("grpc"), &json!(8001), &json!("http"), &json!("kubernetes.io/h2c"))
    );
    // Without it the route goes, and the other one stays.
    ask(&looking, &json!({"name": "public", "namespace": "infra"}));
    let asked = looking.look().await;
    assert!(at_gateway(&asked).contains(&format!("DELETE {GRPC}").as_str()), "{asked:?}");
    assert_eq!(looking.server.get(GRPC), None);
    assert_eq!(looking.server.get(HTTP).unwrap()["spec"]["hostnames"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn routes_go_with_the_wish_and_the_condition_after_them() {
    let mut looking = asking();
    looking.look().await;
    accept(&looking, HTTP);
    looking.look().await;
    looking.change(|object| {
        object["spec"]["traffic"].as_object_mut().unwrap().remove("gatewayRef");
    });
    let asked = looking.look().await;
    assert_eq!(at_gateway(&asked), [format!("DELETE {HTTP}")]);
    assert_eq!(looking.condition("GatewayReady")["reason"], reasons::ROUTE_LEAVING);
    looking.look().await;
    let status = looking.status();
    let left =
        status["conditions"].as_array().unwrap().iter().filter(|one| one["type"] == "GatewayReady").count();
    assert_eq!(left, 0, "{status}");
    assert_eq!(at_gateway(&looking.look().await), [""; 0]);
}

#[tokio::test]
async fn what_another_hand_changes_is_put_back_and_told_by_its_name() {
    for edit in [
        |route: &mut Value| route["spec"]["hostnames"] = json!(["mine.example"]),
        |route: &mut Value| route["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("other"),
        |route: &mut Value| route["spec"]["rules"][0]["filters"] = json!([{"type": "RequestMirror"}]),
        |route: &mut Value| {
            route["spec"]["parentRefs"].as_array_mut().unwrap().push(json!({"name": "theirs"}));
        },
    ] {
        let mut looking = asking();
        looking.look().await;
        accept(&looking, HTTP);
        looking.look().await;
        let before = looking.server.get(HTTP).unwrap()["spec"].clone();
        let mut route = looking.server.get(HTTP).unwrap();
        edit(&mut route);
        let by = |manager: &str, second: u32, field: &str| {
            json!({
                "manager": manager, "operation": "Update", "apiVersion": "gateway.networking.k8s.io/v1", "fieldsType": "FieldsV1",
                "time": format!("2026-01-01T00:00:{second:02}Z"), "fieldsV1": {field: {}},
            })
        };
        let status = json!({"manager": "contour", "subresource": "status", "time": "2026-01-01T00:01:00Z", "fieldsV1": {"f:status": {}}});
        route["metadata"]["managedFields"] = json!([
            by("stoker/gateway", 1, "f:spec"),
            by("kubectl-edit", 2, "f:spec"),
            by("labeller", 3, "f:metadata"),
            status
        ]);
        looking.server.put(HTTP, route);
        let asked = looking.look().await;
        assert_eq!(at_gateway(&asked), [format!("PATCH {HTTP}")]);
        let sent = &asked.iter().find(|(what, _)| what == &format!("PATCH {HTTP}")).unwrap().1;
        assert_eq!(
            sent["spec"], before,
            "all of the spec is sent, which the API server puts in place of what is there"
        );
        let notes = notes(&asked, reasons::ROUTE_RESTORED);
        assert_eq!(notes.len(), 1, "{asked:?}");
        assert!(
            notes[0].contains("HTTPRoute digits was changed by kubectl-edit and is put back"),
            "{}",
            notes[0]
        );
    }
}

#[tokio::test]
async fn what_we_change_ourselves_is_no_other_hand() {
    let mut looking = asking();
    looking.look().await;
    looking.change(|object| object["spec"]["traffic"]["hosts"] = json!(["new.example"]));
    let asked = looking.look().await;
    assert_eq!(at_gateway(&asked), [format!("PATCH {HTTP}")]);
    assert_eq!(notes(&asked, reasons::ROUTE_RESTORED), [""; 0]);
}

#[tokio::test]
async fn a_route_of_somebody_else_is_left_alone_and_named() {
    let mut looking = asking();
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"hostnames": ["theirs.example"]}});
    looking.server.put(HTTP, theirs);
    let before = looking.server.get(HTTP).unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        let asked = looking.look().await;
        assert_eq!(at_gateway(&asked), [""; 0]);
        told.extend(notes(&asked, reasons::CONFLICTED).into_iter().map(str::to_owned));
    }
    assert_eq!(looking.server.get(HTTP).unwrap(), before);
    let condition = looking.condition("GatewayReady");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Conflicted")));
    assert!(
        !told.is_empty() && told.iter().all(|note| note.contains("HTTPRoute digits exists and is not ours")),
        "{told:?}"
    );
    // Who names no gateway any more deletes nothing of theirs either.
    looking.change(|object| {
        object["spec"]["traffic"].as_object_mut().unwrap().remove("gatewayRef");
    });
    looking.look().await;
    assert_eq!(looking.server.get(HTTP).unwrap(), before);
}

#[tokio::test]
async fn a_cluster_without_the_gateway_api_serves_all_the_same() {
    let mut looking = asking();
    looking.server.without("/apis/gateway.networking.k8s.io/");
    let (a, b) = looking.trying().await;
    assert!(a != b);
    let condition = looking.condition("GatewayReady");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("GatewayApiMissing")));
    assert_eq!(at_gateway(&looking.look().await), [""; 0], "nothing is written to kinds that are not there");
}

#[tokio::test]
async fn a_refused_route_holds_up_no_rollback_and_is_told() {
    let mut looking = asking();
    looking.server.refuse(HTTP, "denied by a policy");
    let (a, b) = looking.trying().await;
    let condition = looking.condition("GatewayReady");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("RouteRefused")));
    assert!(condition["message"].as_str().unwrap().contains("denied by a policy"), "{condition}");
    looking.kill_pod(&b);
    looking.look().await;
    // The fake API server merges, and so keeps the run that status leaves out.
    let status = looking.status();
    assert_eq!((&status["stable"], &status["phase"]), (&json!(a), &json!("RolledBack")), "{status}");
    looking.server.allow(HTTP);
    looking.look().await;
    assert!(looking.server.get(HTTP).is_some());
}

#[tokio::test]
async fn who_never_asked_for_a_gateway_has_no_condition_and_costs_nothing() {
    let mut looking = Looking::new();
    looking.look().await;
    looking.server.asked();
    looking.look().await;
    assert_eq!(at_gateway(&looking.server.asked()), [""; 0]);
    let status = looking.status();
    assert!(
        status["conditions"].as_array().unwrap().iter().all(|one| one["type"] != "GatewayReady"),
        "{status}"
    );
}

#[test]
fn a_controller_that_does_not_answer_is_looked_at_often_for_a_while_and_then_seldom() {
    let mut memory = Remembered::default();
    let told = |status| Wanted {
        type_: conditions::GATEWAY_READY,
        status,
        reason: reasons::GATEWAY_PENDING,
        message: String::new(),
    };
    let (pending, ready, refused) = (told(None), told(Some(true)), told(Some(false)));
    let second = Duration::from_secs(1);
    assert_eq!(waits(Some(&pending), &mut memory, second), (true, true));
    assert_eq!(waits(Some(&pending), &mut memory, SOON), (false, true));
    assert_eq!(waits(Some(&ready), &mut memory, second), (false, false));
    assert_eq!(waits(Some(&pending), &mut memory, second), (true, true), "it begins anew");
    assert_eq!(waits(Some(&refused), &mut memory, second), (false, true));
    assert_eq!(waits(None, &mut memory, second), (false, false));
}

#[test]
fn a_hand_without_a_name_is_another_hand() {
    let ours =
        ManagedFieldsEntry { manager: Some(managers::GATEWAY.into()), ..ManagedFieldsEntry::default() };
    assert_eq!(changed_by(&[ours]), "another hand");
    assert_eq!(changed_by(&[]), "another hand");
}
