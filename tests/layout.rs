//! What must stay true of the repository itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Names that the project's owner gave: both lists may grow, nothing of them may go missing.
const TOP_LEVEL: [&str; 7] =
    ["Cargo.toml", "src", "crds", "inference-server", "manifests", "e2e", "README.md"];
const PACKAGES: [&str; 8] =
    ["kube", "k8s-openapi", "tokio", "schemars", "serde_yaml", "reqwest", "burn", "tracing"];

/// All that `stoker-decide` may link: none of these can do I/O on its own account.
const PURE: [&str; 10] = [
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "siphasher",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

/// Parts of the standard library that do I/O or read a clock, and the form of `use` that would hide their names.
const IMPURE: [&str; 11] = [
    "std::{",
    "std::*",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "tokio",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::unwrap_used, reason = "clippy knows tests, not what only tests call")]
fn metadata() -> Value {
    // Of this platform only: what others would link is not downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_named_top_level_is_complete() {
    let missing: Vec<_> = TOP_LEVEL.iter().filter(|name| !root().join(name).exists()).collect();
    assert!(missing.is_empty(), "missing at the top level: {missing:?}");
}

#[test]
fn the_named_packages_are_in_use() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let direct: BTreeSet<&str> = packages
        .iter()
        .filter(|package| members.contains(package["id"].as_str().unwrap()))
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    let missing: Vec<_> = PACKAGES.iter().filter(|name| !direct.contains(**name)).collect();
    assert!(missing.is_empty(), "no crate of the workspace depends on {missing:?}");
}

#[test]
fn decide_cannot_reach_io() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    // Normal and build dependencies; those for tests alone do not ship.
    let edges: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .map(|node| {
            let shipped = |dependency: &&Value| {
                dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
            };
            let to = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(shipped)
                .filter_map(|dependency| dependency["pkg"].as_str());
            (node["id"].as_str().unwrap(), to.collect())
        })
        .collect();
    let name = |id: &str| {
        let package =
            metadata["packages"].as_array().unwrap().iter().find(|package| package["id"] == id).unwrap();
        package["name"].as_str().unwrap().to_owned()
    };
    let decide = edges.keys().find(|id| name(id) == "stoker-decide").copied().unwrap();
    let (mut reached, mut open) = (BTreeSet::new(), vec![decide]);
    while let Some(id) = open.pop() {
        open.extend(edges[id].iter().filter(|to| reached.insert(**to)));
    }
    let strangers: Vec<_> =
        reached.into_iter().map(name).filter(|name| !PURE.contains(&name.as_str())).collect();
    assert!(
        strangers.is_empty(),
        "stoker-decide reaches {strangers:?}; decisions are pure, so put that where it is called"
    );
}

#[test]
fn decide_uses_no_io_of_the_standard_library() {
    let mut folders = vec![root().join("crates/decide/src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            seen += 1;
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let found = IMPURE.iter().find(|name| line.contains(**name));
                assert!(found.is_none(), "{}: {line}", entry.path().display());
            }
        }
    }
    assert!(seen > 5, "the sources of stoker-decide were not found");
}
