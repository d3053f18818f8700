//! Turns and hosts.

use serde_json::{Value, json};

use super::*;

fn md(name: &str, created: &str, hosts: &[&str], status: &Value) -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "team", "uid": format!("uid-{name}"), "creationTimestamp": created},
        "spec": {"model": {"uri": "configmap://m/m.onnx"}, "traffic": {"hosts": hosts}},
        "status": status,
    }))
    .unwrap()
}

fn fleet(caps: Caps, deployments: Vec<ModelDeployment>) -> Fleet {
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Init);
    for md in deployments {
        writer.apply_watcher_event(&watcher::Event::InitApply(DeserializeGuard(Ok(md))));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
    let fleet = Fleet::new(caps);
    fleet.see(store);
    fleet
}

const CAPS: Caps = Caps { namespace: 2, fleet: 3 };

#[test]
fn places_are_bounded_in_a_namespace_and_in_the_fleet() {
    let fleet = fleet(CAPS, vec![]);
    assert!(fleet.place("a", "x").is_ok() && fleet.place("b", "x").is_ok());
    let why = fleet.place("c", "x").unwrap_err();
    assert!(why.contains("2 rollouts are under way in this namespace"), "{why}");
    assert!(fleet.place("a", "x").is_ok(), "who has a place keeps it");
    assert!(fleet.place("d", "y").is_ok());
    assert!(fleet.place("e", "y").unwrap_err().contains("in the fleet"));
    fleet.told("a", "x", false);
    assert!(fleet.place("c", "x").is_ok());
    fleet.forget("b");
    assert!(fleet.place("e", "y").is_ok());
}

#[test]
fn after_a_start_what_status_says_counts_until_it_was_looked_at() {
    let status = json!({"stable": "m-a", "candidate": "m-b", "runs": 2, "run": {"number": 2, "step": 1}});
    let others = ["m", "n"].map(|name| md(name, "2026-01-01T00:00:00Z", &[], &status)).to_vec();
    let fleet = fleet(CAPS, others);
    assert!(fleet.place("uid-z", "team").is_err());
    fleet.told("uid-m", "team", false);
    assert!(fleet.place("uid-z", "team").is_ok());
}

#[test]
fn a_deleted_one_gives_its_place_back() {
    let there = md("m", "2026-01-01T00:00:00Z", &[], &json!({}));
    let fleet = fleet(CAPS, vec![there]);
    fleet.told("uid-m", "team", true);
    fleet.told("uid-gone", "team", true);
    assert!(fleet.place("uid-z", "team").is_err());
    assert_eq!(fleet.forget_gone(), BTreeSet::from(["uid-m".to_owned()]));
    assert!(fleet.place("uid-z", "team").is_ok());
    assert!(fleet.place("uid-y", "team").is_err(), "who is there keeps its place");
}

#[test]
fn the_older_one_has_a_host_and_a_name_goes_before_a_wish() {
    let none = json!({});
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let first = md("first", old, &["shared.example.com"], &none);
    // Written by hand: the schema takes lower case only.
    let second =
        md("second", new, &["SHARED.example.com", "own.example.com", "first", "first.team.svc.x"], &none);
    let twin = md("aaa", old, &["shared.example.com"], &none);
    let fleet = fleet(CAPS, vec![first.clone(), second.clone(), twin.clone()]);
    let taken = fleet.taken_hosts(&second);
    let wanted = [("first", "first"), ("first.team.svc.x", "first")]
        .map(|(host, by)| (host.to_owned(), by.to_owned()));
    for (host, by) in wanted {
        assert_eq!(taken.get(&host), Some(&by));
    }
    assert!(taken.contains_key("shared.example.com") && !taken.contains_key("own.example.com"), "{taken:?}");
    assert_eq!(fleet.taken_hosts(&first).get("shared.example.com").map(String::as_str), Some("aaa"));
    assert!(fleet.taken_hosts(&twin).is_empty());
}

#[test]
fn the_freeze_switch_is_read_with_its_reason() {
    let fleet = fleet(CAPS, vec![]);
    assert_eq!(fleet.frozen(), None);
    let mut writer = fleet.writer.lock().unwrap().take().unwrap();
    let mut set = |value: &str| {
        let map = json!({"metadata": {"name": objects::FLEET, "namespace": "s"}, "data": {"freeze": value}});
        writer.apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(map).unwrap()));
        fleet.frozen()
    };
    assert_eq!(set("incident 7"), Some("the fleet is frozen: incident 7".to_owned()));
    assert!(set("true").unwrap().contains(objects::FLEET));
    assert_eq!((set(""), set("false")), (None, None));
}
