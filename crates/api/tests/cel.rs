//! The rules of the CRDs, evaluated as the API server evaluates them: what is refused, and that the message names the field.
//!
//! Bounds of numbers and lengths (`weight: 150`, `weight: -1`) are schema, not rules; the cluster tests hold those.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use kube::CustomResourceExt;
use kube_cel::{Validator, compile_schema};
use serde_json::{Value, json};
use stoker_api::artifact::Uri;
use stoker_api::{ModelDeployment, ModelRoute, ModelRouter};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What the rules of a custom resource say about an object.
fn check<K: CustomResourceExt>(object: &Value) -> Vec<String> {
    let crd = serde_json::to_value(K::crd()).unwrap();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    match Validator::new().validate(schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// A ModelDeployment with what the API server sets by default where nothing is said.
fn deployment(name: &str, change: &Value) -> Value {
    let mut spec = json!({
        "replicas": 1,
        "model": {"uri": "https://models.example/digits/v1.onnx"},
        "slo": {}, "traffic": {},
        "rollout": {
            "steps": [{"weight": 10, "duration": "60s"}, {"weight": 50, "duration": "60s"}],
            "minRequests": 50, "progressDeadline": "600s",
        },
        "rollback": {"keepWarm": "600s", "revisions": 10},
    });
    merge(&mut spec, change);
    json!({"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec})
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn uri(uri: &str) -> Value {
    json!({"model": {"uri": uri}})
}

fn digest(digest: &str) -> Value {
    json!({"model": {"digest": digest}})
}

fn hosts(hosts: &[&str]) -> Value {
    json!({"traffic": {"hosts": hosts}})
}

fn gateway(hosts: &[&str], gateway: &Value) -> Value {
    json!({"traffic": {"hosts": hosts, "gatewayRef": gateway}})
}

fn weights(weights: &[u32]) -> Value {
    let each: Vec<_> = weights.iter().map(|weight| json!({"weight": weight, "duration": "1m"})).collect();
    steps(&json!(each))
}

fn steps(steps: &Value) -> Value {
    json!({"rollout": {"steps": steps}})
}

fn guard(lasts: &str, keep_warm: &str) -> Value {
    json!({"rollout": {"guard": {"duration": lasts, "holdback": 1}}, "rollback": {"keepWarm": keep_warm}})
}

fn budget(per_rollout: &str) -> Value {
    json!({"rollback": {"budget": {"perRollout": per_rollout, "perGuardMonth": "1%"}}})
}

fn sticky(unit: &Value) -> Value {
    json!({"traffic": {"sticky": unit}})
}

fn testers(name: &str) -> Value {
    json!({"traffic": {"match": [{"name": name, "value": "yes"}]}})
}

fn target(target: &str) -> Value {
    json!({"slo": {"latency": {"target": target}}})
}

fn metrics(metrics: &Value) -> Value {
    json!({"rollout": {"analysis": {"metrics": metrics}}})
}

fn alerts(alerts: &Value) -> Value {
    json!({"rollback": {"alerts": alerts}})
}

fn tolerates(toleration: &Value) -> Value {
    json!({"runtime": {"pod": {"tolerations": [toleration]}}})
}

fn limits(memory: &Value) -> Value {
    json!({"runtime": {"resources": {"limits": {"memory": memory}}}})
}

/// With a latency target, and what the API server sets by default.
fn scaling(change: &Value) -> Value {
    let mut scaling = json!({"mode": "Latency", "minReplicas": 1});
    merge(&mut scaling, change);
    json!({"slo": {"latency": {"target": "100ms", "percentile": "p99"}}, "scaling": scaling})
}

#[test]
fn good_model_deployments_are_accepted() {
    let changes = [
        json!({}),
        scaling(&json!({"maxReplicas": 1})),
        scaling(&json!({"minReplicas": 3, "maxReplicas": 9, "scaleToZeroAfter": "10m"})),
        scaling(&json!({"maxReplicas": 9, "behavior": {"scaleDownWindow": "60s"}})),
        scaling(&json!({"mode": "External"})),
        json!({"scaling": {"mode": "External", "minReplicas": 1}}),
        uri("configmap://digits/v1.onnx"),
        digest(DIGEST),
        hosts(&[]),
        hosts(&["digits.example", "a", "1.b-c.example"]),
        gateway(&["a.example"], &json!({"name": "public"})),
        gateway(
            &["a.example"],
            &json!({"name": "public", "namespace": "infra", "sectionName": "web", "port": 443, "requestTimeout": "90s"}),
        ),
        gateway(&["a.example"], &json!({"name": "public", "grpc": {}})),
        gateway(&["a.example", "b.example"], &json!({"name": "public", "grpc": {"hosts": ["b.example"]}})),
        weights(&[]),
        weights(&[100]),
        weights(&[0, 1, 5, 25, 100]),
        target("1ms"),
        target("10m"),
        steps(&json!([
            {"shadow": 100, "duration": "1m", "minAgreement": 98},
            {"weight": 0}, {"weight": 10, "minRequests": 100},
            {"pause": {}}, {"pause": {}, "duration": "1h"}, {"analysis": {}}, {"weight": 50},
        ])),
        steps(&json!([{"weight": 10}, {"weight": 50, "approval": "Required"}])),
        json!({"rollout": {"approval": "Required"}}),
        metrics(&json!([
            {"name": "a", "query": "up", "max": 1},
            {"name": "b", "query": "up", "min": 0, "max": 0.5, "interval": "1s", "maxAge": "10s"},
            {"name": "c", "query": "x{r=\"$revision\"}", "regression": {"worse": "Lower", "percent": 12.5}},
        ])),
        alerts(&json!([{"alert": "Wrong"}, {"labels": {"team": "shop"}, "action": "Hold"}])),
        guard("0s", "0s"),
        guard("10m", "600s"),
        budget("0.001%"),
        budget("12.5%"),
        sticky(&json!({"header": "x-user-id"})),
        sticky(&json!({"cookie": "unit"})),
        testers("x-tester"),
        json!({"rollout": {"progressDeadline": "5s"}}),
        json!({"rollout": {"progressDeadline": "24h"}}),
        json!({"rollback": {"keepWarm": "0s"}}),
        json!({"rollback": {"keepWarm": "720h"}}),
        tolerates(&json!({"operator": "Exists"})),
        tolerates(&json!({"key": "gpu", "effect": "NoSchedule"})),
        tolerates(&json!({"key": "gpu", "operator": "Equal", "value": "a100", "effect": ""})),
        json!({"runtime": {"image": "triton:1", "args": [], "ports": {"http": 8000}}}),
        limits(&json!("1Gi")),
        limits(&json!("0.5")),
        limits(&json!("1e3")),
        limits(&json!(0)),
        limits(&json!(4_294_967_296_i64)),
    ];
    for change in changes {
        assert_eq!(check::<ModelDeployment>(&deployment("digits", &change)), [""; 0], "{change}");
    }
    for name in ["a", "d-1", &"a".repeat(40)] {
        assert_eq!(check::<ModelDeployment>(&deployment(name, &json!({}))), [""; 0], "{name}");
    }
}

#[test]
fn wrong_fields_are_refused_by_name() {
    let lasting = |duration: &str| steps(&json!([{"weight": 1, "duration": duration}]));
    let cases = [
        (gateway(&[], &json!({"name": "public"})), "traffic.gatewayRef needs traffic.hosts"),
        (json!({"traffic": {"gatewayRef": {"name": "public"}}}), "traffic.gatewayRef needs traffic.hosts"),
        (
            gateway(&["a.example"], &json!({"name": "public", "grpc": {"hosts": ["b.example"]}})),
            "traffic.gatewayRef.grpc.hosts must be among traffic.hosts",
        ),
        (
            gateway(&["a.example"], &json!({"name": "public", "requestTimeout": "500ms"})),
            "traffic.gatewayRef.requestTimeout",
        ),
        (uri(""), "model.uri"),
        (uri("v1.onnx"), "model.uri"),
        (uri("ftp://host/a"), "model.uri"),
        (uri("https://"), "model.uri"),
        (uri("https://host/a b"), "model.uri"),
        (uri("file:///etc/passwd"), "model.uri"),
        (uri("configmap://digits"), "model.uri"),
        (uri("configmap://digits/a/b"), "model.uri"),
        (uri("pvc://models/../secret"), "model.uri"),
        (uri("pvc://models/a/.."), "model.uri"),
        (digest("sha256:abc"), "model.digest"),
        (digest("md5:d41d8cd98f00b204e9800998ecf8427e"), "model.digest"),
        (digest(&DIGEST.to_uppercase()), "model.digest"),
        (digest(&format!("{DIGEST}0")), "model.digest"),
        (hosts(&["Digits.example"]), "traffic.hosts"),
        (hosts(&["ok.example", "digits.example:80"]), "traffic.hosts"),
        (hosts(&["-a.example"]), "traffic.hosts"),
        (hosts(&[""]), "traffic.hosts"),
        (weights(&[50, 10]), "rollout.steps"),
        (weights(&[0]), "rollout.steps"),
        (weights(&[10, 10]), "rollout.steps"),
        (weights(&[10, 50, 50]), "rollout.steps"),
        (lasting("0s"), "rollout.steps[].duration"),
        (lasting("721h"), "rollout.steps[].duration"),
        (steps(&json!([{"weight": 10, "shadow": 10}])), "exactly one of"),
        (steps(&json!([{"duration": "1m"}])), "exactly one of"),
        (steps(&json!([{"shadow": 10}])), "no evidence"),
        (steps(&json!([{"pause": {}}])), "no evidence"),
        (steps(&json!([{"weight": 10, "minAgreement": 90}])), "minAgreement"),
        (steps(&json!([{"weight": 10}, {"pause": {}, "minRequests": 9}])), "minRequests"),
        (steps(&json!([{"weight": 50}, {"pause": {}}, {"weight": 10}])), "rollout.steps"),
        (guard("601s", "10m"), "rollback.keepWarm"),
        (guard("721h", "720h"), "rollout.guard.duration"),
        (budget("0%"), "rollback.budget.perRollout"),
        (budget("100%"), "rollback.budget.perRollout"),
        (budget("1"), "rollback.budget.perRollout"),
        (budget("-1%"), "rollback.budget.perRollout"),
        (sticky(&json!({})), "sticky"),
        (sticky(&json!({"header": "x-user", "cookie": "unit"})), "sticky"),
        (sticky(&json!({"header": "X-User"})), "lower case"),
        (sticky(&json!({"cookie": "a;b"})), "cookie"),
        (testers("stoker-model"), "router's own"),
        (testers("X Tester"), "lower case"),
        (target("999us"), "slo.latency.target"),
        (target("11m"), "slo.latency.target"),
        (json!({"rollout": {"progressDeadline": "4s"}}), "rollout.progressDeadline"),
        (json!({"rollout": {"progressDeadline": "25h"}}), "rollout.progressDeadline"),
        (json!({"rollback": {"keepWarm": "721h"}}), "rollback.keepWarm"),
        (tolerates(&json!({"key": "gpu", "operator": "Maybe"})), "operator"),
        (tolerates(&json!({"key": "gpu", "effect": "NoSleep"})), "effect"),
        (tolerates(&json!({"effect": "NoExecute"})), "without a key"),
        (tolerates(&json!({"key": "gpu", "operator": "Exists", "value": "a100"})), "no value"),
        (json!({"runtime": {"args": ["start"]}}), "runtime.image must name its image"),
        (json!({"runtime": {"image": "triton:1", "ports": {"http": 8000}}}), "runtime.args must be set"),
        (scaling(&json!({})), "scaling.maxReplicas must be set"),
        (scaling(&json!({"minReplicas": 5, "maxReplicas": 4})), "scaling.minReplicas must not be above"),
        (scaling(&json!({"maxReplicas": 4, "scaleToZeroAfter": "1s"})), "scaling.scaleToZeroAfter"),
        (
            scaling(&json!({"maxReplicas": 4, "behavior": {"scaleDownWindow": "1s"}})),
            "scaling.behavior.scaleDownWindow",
        ),
        (scaling(&json!({"mode": "External", "maxReplicas": 4})), "its own bounds hold"),
        (scaling(&json!({"mode": "External", "scaleToZeroAfter": "1h"})), "its own bounds hold"),
        (
            json!({"scaling": {"mode": "Latency", "minReplicas": 1, "maxReplicas": 4}}),
            "scaling needs slo.latency.target",
        ),
        (limits(&json!("1Gib")), "resources"),
        (limits(&json!("")), "resources"),
        (limits(&json!("-1")), "resources"),
        (limits(&json!(-1)), "resources"),
        (limits(&json!("a lot")), "resources"),
    ];
    for (change, field) in cases {
        let said = check::<ModelDeployment>(&deployment("digits", &change));
        assert!(said.iter().any(|message| message.contains(field)), "{change}: {said:?}");
    }
}

/// A spec whose rollout is this alone, with what the API server sets by default.
fn strategy(rollout: &Value) -> Value {
    let mut object = deployment("digits", &json!({}));
    object["spec"]["rollout"] = json!({"progressDeadline": "600s", "analysis": {}, "guard": {}});
    merge(&mut object["spec"]["rollout"], rollout);
    object
}

#[test]
fn a_strategy_takes_what_fits_it_alone() {
    let fits = [
        json!({}),
        json!({"strategy": "Canary"}),
        json!({"strategy": "Canary", "steps": []}),
        json!({"strategy": "BlueGreen"}),
        json!({"strategy": "BlueGreen", "steps": []}),
        json!({"strategy": "BlueGreen", "steps": [{"shadow": 100}, {"analysis": {}}, {"pause": {}}], "capacity": "Proportional"}),
        json!({"strategy": "BlueGreen", "guard": {"holdback": 2}, "approval": "Required"}),
        json!({"strategy": "Recreate"}),
        json!({"strategy": "Recreate", "steps": [], "capacity": "Full", "guard": {"holdback": 0}, "approval": "Required"}),
    ];
    for rollout in fits {
        assert_eq!(check::<ModelDeployment>(&strategy(&rollout)), [] as [&str; 0], "{rollout}");
    }
    let wrong = [
        (json!({"strategy": "Canary", "steps": [{"analysis": {}}]}), "no evidence"),
        (json!({"strategy": "BlueGreen", "steps": [{"weight": 10}]}), "leave weight out"),
        (json!({"strategy": "BlueGreen", "steps": [{"analysis": {}}, {"weight": 0}]}), "leave weight out"),
        (json!({"strategy": "Recreate", "steps": [{"shadow": 10}]}), "leave steps out"),
        (json!({"strategy": "Recreate", "capacity": "Proportional"}), "leave capacity out"),
        (json!({"strategy": "Recreate", "guard": {"holdback": 1}}), "leave holdback out"),
    ];
    for (rollout, says) in wrong {
        let said = check::<ModelDeployment>(&strategy(&rollout));
        assert!(said.iter().any(|message| message.contains(says)), "{rollout}: {said:?}");
    }
}

#[test]
fn metrics_and_alerts_that_judge_nothing_are_refused() {
    let cases = [
        (metrics(&json!([{"name": "a", "query": "up"}])), "give min, max or regression"),
        (metrics(&json!([{"name": "a", "query": "up", "min": 1, "max": 0.5}])), "min must not be above max"),
        (
            metrics(&json!([{"name": "a", "query": "up", "regression": {"worse": "Lower", "percent": 1}}])),
            "the query is asked for both revisions",
        ),
        (
            metrics(&json!([{"name": "a", "query": "up", "max": 1}, {"name": "a", "query": "up", "max": 2}])),
            "each needs a name of its own",
        ),
        (metrics(&json!([{"name": "A b", "query": "up", "max": 1}])), "name must hold only a-z"),
        (
            metrics(&json!([{"name": "a", "query": "up", "max": 1, "interval": "0s"}])),
            "interval must be between",
        ),
        (alerts(&json!([{"action": "Hold"}])), "name the alert, or labels"),
    ];
    for (change, field) in cases {
        let said = check::<ModelDeployment>(&deployment("digits", &change));
        assert!(said.iter().any(|message| message.contains(field)), "{change}: {said:?}");
    }
}

/// Whether the API server takes a `model.uri`.
fn uri_rule() -> impl Fn(&str) -> bool {
    let crd = serde_json::to_value(ModelDeployment::crd()).unwrap();
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/model/properties/uri";
    let rule = compile_schema(crd.pointer(at).unwrap());
    move |text| Validator::new().validate_compiled(&rule, &json!(text), None).is_ok()
}

/// Rule and parser both take all of `good` and none of `bad`.
fn agree(good: &[&str], bad: &[&str]) {
    let accepted = uri_rule();
    for text in good {
        assert!(accepted(text), "{text:?} is refused by the rule");
        assert!(text.parse::<Uri>().is_ok(), "{text:?} is refused by the parser");
    }
    for text in bad {
        assert!(!accepted(text), "{text:?} is accepted by the rule");
        assert!(text.parse::<Uri>().is_err(), "{text:?} is accepted by the parser");
    }
}

#[test]
fn rule_and_parser_agree_on_objects_of_stores() {
    let long = "a".repeat(253);
    let good = [
        "s3://models/team/v1.onnx",
        "s3://my.bucket-1/.a/b%20c+d=e,f@g:h.onnx",
        "s3://models/a%2eonnx/%2e%2e%2e",
        "gs://my_bucket/a..b",
        "az://account1/box/team/a.onnx",
        &format!("s3://{}/x", "a".repeat(222)),
        &format!("gs://bucket/{long}/{long}"),
    ];
    let bad = [
        "s3://models",
        "s3://models/",
        "s3://models/a/",
        "s3://models//a",
        "s3://models/./a",
        "s3://models/../a",
        "s3://models/%2e%2e/a",
        "s3://models/a/%2E",
        "az://account1/box/.%2E",
        "s3://models/a?versionId=1",
        "s3://models/a#b",
        "s3://models/a b",
        "s3://Models/a",
        "s3://mo/a",
        "s3://-models/a",
        "s3://user@models/a",
        "s3://models:80/a",
        "s3:///a",
        "gs://models/ü",
        "az://account1/box",
        "az://account1/box/",
        "az://ac/box/a",
        "az://account-1/box/a",
        "az://account1/bo/a",
        &format!("s3://{}/x", "a".repeat(223)),
        &format!("s3://models/{long}a"),
    ];
    agree(&good, &bad);
}

/// What the API server takes and the operator cannot read would only show when it is too late.
#[test]
fn rule_and_parser_agree_on_every_uri() {
    let long = "a".repeat(253);
    let good = [
        "https://models.example/digits/v1.onnx",
        "http://10.0.0.1:8000/a.onnx?x=1&y=%20",
        "https://user:word@host",
        "https://[2001:db8::1]:8443/a.onnx",
        "https://host_a/",
        "https://host?x=1",
        "https://host/a%2eb/..%2e/.%2e.?x=/%2e%2e/",
        "https://host/#/%2e",
        "configmap://digits/v1.onnx",
        "configmap://digits.v1/.hidden",
        "pvc://models/team/a.onnx",
        "pvc://c/.x",
        "pvc://c/a..b",
        &format!("pvc://c/{long}/{long}"),
        &format!("configmap://{long}/x"),
    ];
    let bad = [
        "",
        "a.onnx",
        "ftp://host/a",
        "https:/host/a",
        "https://",
        "https:///x",
        "https://?x",
        "https://@/x",
        "https://:80/x",
        "https://.host/x",
        "https://host:/x",
        "https://host:port/x",
        "https://host:123456/x",
        "https://a@b@host/x",
        "https://[]/x",
        "https://[::1/x",
        "https://[::1]80/x",
        "https://[host]/x",
        "https://host/a b",
        "https://host/a'b",
        "https://ho st/a",
        "https://host/ü",
        "HTTPS://host/a",
        "https://host/%2e",
        "https://host/a/%2E%2e/b",
        "https://host/a/.%2e?x",
        "https://host/a/%2e.#x",
        "configmap://digits",
        "configmap://digits/",
        "configmap://digits/a/b",
        "configmap://c/.",
        "configmap://c/..",
        "configmap://c/..data",
        "configmap:///a",
        "configmap://Digits/a",
        "pvc://c",
        "pvc://c/",
        "pvc://c//x",
        "pvc://c/a/",
        "pvc://c/./x",
        "pvc://c/../x",
        "pvc://c/a/..",
        "pvc://c/...",
        "pvc://c/a b",
        "pvc://a..b/x",
        "pvc://-a/x",
        "pvc://a-/x",
        "pvc://a.-b/x",
        "pvc://.a/x",
        "pvc:///x",
        "pvc://c/x\n",
        &format!("pvc://c/{long}a"),
        &format!("pvc://{long}a/x"),
    ];
    agree(&good, &bad);
    let accepted = uri_rule();
    // All short ones of what makes a difference.
    let pieces = ["", ".", "..", "/", "a", "A", "-", ":", "@", "1", "[", "]", "?", "%2e"];
    for scheme in ["https://", "configmap://", "pvc://", "s3://abc", "az://abc/abc"] {
        for (one, two, three) in triples(&pieces) {
            for end in ["", "/a", "/"] {
                let text = format!("{scheme}{one}{two}{three}{end}");
                assert_eq!(accepted(&text), text.parse::<Uri>().is_ok(), "{text:?}: rule, then parser");
            }
        }
    }
}

fn triples<'a>(of: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    of.iter()
        .flat_map(move |one| of.iter().flat_map(move |two| of.iter().map(move |three| (*one, *two, *three))))
}

#[test]
fn names_that_children_could_not_have_are_refused() {
    for name in [&"a".repeat(41), "1a", "a-", "a.b", "A", "stoker-router"] {
        let said = check::<ModelDeployment>(&deployment(name, &json!({})));
        assert!(said.iter().any(|message| message.contains("metadata.name")), "{name}: {said:?}");
    }
}

#[test]
fn a_namespace_has_one_model_router() {
    let router = |name: &str| json!({"metadata": {"name": name}, "spec": {"replicas": 2}});
    assert_eq!(check::<ModelRouter>(&router("stoker-router")), [""; 0]);
    let said = check::<ModelRouter>(&router("other"));
    assert!(said.iter().any(|message| message.contains("stoker-router")), "{said:?}");
}

#[test]
fn the_weights_of_a_table_must_sum_to_the_whole() {
    let route = |ppm: &[u32]| {
        let arms: Vec<_> =
            ppm.iter().enumerate().map(|(i, ppm)| json!({"revision": format!("r{i}"), "ppm": ppm})).collect();
        let rules = json!([{"salt": "s", "arms": arms}]);
        json!({"metadata": {"name": "digits"}, "spec": {"schema": 1, "run": 1, "step": 0, "rules": rules}})
    };
    assert_eq!(check::<ModelRoute>(&route(&[900_000, 100_000])), [""; 0]);
    let said = check::<ModelRoute>(&route(&[900_000, 100_001]));
    assert!(said.iter().any(|message| message.contains("1000000")), "{said:?}");
}
