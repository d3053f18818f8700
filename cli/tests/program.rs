//! The program as it is run: exit codes, what goes to which stream, and what it says when there is no cluster.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program with nothing of this machine's own: no kubeconfig, no pod.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stoker"));
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "COMPLETE", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("HOME", home);
    command
}

fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn run(home: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    ended(&program(home).args(words).output().unwrap())
}

fn lint(text: &str, words: &[&str]) -> (Option<i32>, String, String) {
    let home = TempDir::new().unwrap();
    let mut child = program(home.path())
        .args(["lint", "-"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).unwrap();
    ended(&child.wait_with_output().unwrap())
}

const MANIFEST: &str = "apiVersion: stoker.dev/v1alpha1
kind: ModelDeployment
metadata: {name: digits}
spec:
  replicas: 2
  model: {uri: configmap://digits/v1.onnx}
";

#[test]
fn lint_needs_no_cluster_and_ends_with_a_code() {
    let (code, said, _) = lint(MANIFEST, &[]);
    assert_eq!((code, said.as_str()), (Some(0), "0 errors, 0 warnings in 1 document\n"));
    let (code, said, _) = lint(&MANIFEST.replace("replicas: 2", "replicas: two"), &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("-:5: error [type]: document 1, ModelDeployment/digits: spec.replicas:"),
        "{said}"
    );
    let warned = MANIFEST.replace("replicas: 2", "replicas: 1");
    assert_eq!(lint(&warned, &[]).0, Some(0));
    assert_eq!(lint(&warned, &["--strict"]).0, Some(1));
    let (code, said, _) = lint(&warned, &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(report["findings"][0]["check"], "one-pod");
    assert_eq!(report["findings"][0]["line"], 5);
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let home = TempDir::new().unwrap();
    for words in
        [&["get"][..], &["status", "digits", "--timeout", "1m"], &["lint", "/nowhere/a.yaml"], &["fly"]]
    {
        let (code, said, wrong) = run(home.path(), words);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{words:?}: {wrong}");
        assert!(!wrong.is_empty());
    }
}

#[test]
fn without_a_cluster_it_says_what_to_do() {
    let home = TempDir::new().unwrap();
    let (code, _, wrong) = run(home.path(), &["get", "digits"]);
    assert_eq!(code, Some(5));
    assert!(wrong.contains("kubeconfig") && wrong.contains("--context"), "{wrong}");
}

/// A server that gives the same answer to every request, and the kubeconfig for it.
fn answering(code: u16, body: &'static str) -> TempDir {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            // Whoever has given up reads no answer.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    kubeconfig(port)
}

fn kubeconfig(port: u16) -> TempDir {
    let home = TempDir::new().unwrap();
    std::fs::create_dir(home.path().join(".kube")).unwrap();
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts: [{{name: test, context: {{cluster: test, user: test, namespace: models}}}}]\nclusters: [{{name: test, cluster: {{server: \"http://127.0.0.1:{port}\"}}}}]\nusers: [{{name: test, user: {{}}}}]\n"
    );
    std::fs::write(home.path().join(".kube/config"), config).unwrap();
    home
}

#[test]
fn what_the_api_server_says_becomes_a_code() {
    let absent = answering(
        404,
        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"modeldeployments.stoker.dev \"digits\" not found","details":{"name":"digits","group":"stoker.dev","kind":"modeldeployments"}}"#,
    );
    let (code, _, wrong) = run(absent.path(), &["status", "digits"]);
    assert_eq!(code, Some(4), "{wrong}");
    assert!(wrong.contains("there is no ModelDeployment digits in namespace models"), "{wrong}");
    let bare = answering(404, "404 page not found");
    let (code, _, wrong) = run(bare.path(), &["list", "-A"]);
    assert_eq!(code, Some(5), "{wrong}");
    assert!(wrong.contains("Stoker is not installed there"), "{wrong}");
    let closed = answering(
        403,
        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"modeldeployments.stoker.dev is forbidden: User \"ann\" cannot list resource"}"#,
    );
    let (code, _, wrong) = run(closed.path(), &["list"]);
    assert_eq!(code, Some(5), "{wrong}");
    assert!(wrong.contains("the right to list modeldeployments.stoker.dev in namespace models"), "{wrong}");
}

#[test]
fn a_cluster_that_is_away_is_told() {
    // A port that nobody listens on: it was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = kubeconfig(port);
    let (code, said, wrong) = run(home.path(), &["get", "digits", "-o", "json"]);
    assert_eq!((code, said.as_str()), (Some(5), ""), "{wrong}");
    assert!(wrong.contains("the API server did not answer"), "{wrong}");
}

#[test]
fn completion_asks_for_nothing_that_is_not_there() {
    let home = TempDir::new().unwrap();
    let (code, said, _) = run(home.path(), &["__complete", "get", ""]);
    // No cluster, no names; flags and the directive are there.
    assert_eq!(code, Some(0));
    assert!(said.ends_with(":4\n"), "{said}");
    let (code, said, _) = run(home.path(), &["completion", "kubectl"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("#!/bin/sh\n"), "{said}");
}

#[test]
fn whoever_closes_the_pipe_gets_no_complaint() {
    let home = TempDir::new().unwrap();
    let mut child = program(home.path())
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let (code, _, wrong) = ended(&child.wait_with_output().unwrap());
    assert_eq!((code, wrong.as_str()), (Some(0), ""));
}
