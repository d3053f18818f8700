//! What several documents do to each other.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Remark;

/// Remarks about documents, each with the index of the one that it is about.
pub fn across(documents: &[&Value]) -> Vec<(usize, Remark)> {
    let mut found = Vec::new();
    let mut names: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let mut hosts: BTreeMap<(&str, &str), (usize, &str)> = BTreeMap::new();
    for (at, document) in documents.iter().enumerate() {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str);
        let ours = text("/apiVersion").is_some_and(|api| api.starts_with("stoker.dev/"));
        let (Some(kind), Some(name)) = (text("/kind").filter(|_| ours), text("/metadata/name")) else {
            continue;
        };
        let namespace = text("/metadata/namespace").unwrap_or_default();
        if names.insert((kind, namespace, name), at).is_some() {
            let message =
                format!("there is another {kind} {name} before it: whichever is applied last counts");
            found.push((
                at,
                Remark::error("twice", "metadata.name", message, "take one of them out, or rename it"),
            ));
            continue;
        }
        let wanted = document.pointer("/spec/traffic/hosts").and_then(Value::as_array);
        for (index, host) in wanted.into_iter().flatten().enumerate() {
            let Some(host) = host.as_str() else { continue };
            match hosts.get(&(namespace, host)) {
                Some((_, owner)) if *owner != name => {
                    let field = format!("spec.traffic.hosts[{index}]");
                    let message = format!(
                        "host {host} is wanted by ModelDeployment {owner}, too: the older one has it, and the other is Conflicted"
                    );
                    found.push((
                        at,
                        Remark::error("host-twice", field, message, "change traffic.hosts of one of them"),
                    ));
                }
                Some(_) => {}
                None => {
                    hosts.insert((namespace, host), (at, name));
                }
            }
        }
    }
    found
}
