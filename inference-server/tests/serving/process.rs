//! The process as Kubernetes sees it: how it ends, and what it says last.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::started::{fixture, model_uri};

/// Runs the server with ports that the system chooses; it must end by itself.
pub fn serve(arguments: &[&str]) -> Output {
    serve_at("127.0.0.1:0", arguments)
}

fn serve_at(address: &str, arguments: &[&str]) -> Output {
    let fixed = ["serve", "--model-name", "m", "--listen", address, "--metrics-listen", "127.0.0.1:0"];
    run(&[&fixed, arguments].concat())
}

pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stoker-server"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The exit code, and the text of the last error in the log.
pub fn ending(output: &Output) -> (i32, String) {
    let log = String::from_utf8_lossy(&output.stdout);
    let last = log.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["level"] == "ERROR").then(|| line["message"].as_str().unwrap_or_default().to_owned())
    });
    (output.status.code().unwrap_or(-1), last.unwrap_or_else(|| format!("no error in the log:\n{log}")))
}

#[test]
fn a_wrong_digest_ends_with_65_and_names_both() {
    let (uri, wrong) = (model_uri("digits-v2.onnx"), format!("sha256:{}", "0".repeat(64)));
    let (code, message) = ending(&serve(&["--model-uri", &uri, "--digest", &wrong]));
    assert_eq!(code, 65, "{message}");
    let right = run(&["resolve", "--model-uri", &uri]);
    let right = String::from_utf8(right.stdout).unwrap().lines().last().unwrap().to_owned();
    assert!(right.starts_with("sha256:"), "{right}");
    for part in [&uri, &wrong, &right] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn files_that_are_no_models_end_with_65_and_say_why() {
    let model = std::fs::read(fixture("digits-v2.onnx")).unwrap();
    let cases: [&[u8]; 3] = [&model[..model.len() / 2], b"<html>404 not found</html>", b""];
    for bytes in cases {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let uri = format!("file://{}", file.path().display());
        let (code, message) = ending(&serve(&["--model-uri", &uri]));
        assert_eq!(code, 65, "{message}");
        assert!(message.contains(&format!("the artifact at {uri} cannot be served: ")), "{message}");
    }
}

#[test]
fn an_artifact_that_is_not_there_ends_with_69() {
    let (code, message) = ending(&serve(&["--model-uri", "file:///no/such/model.onnx"]));
    assert_eq!(code, 69);
    assert!(message.contains("file:///no/such/model.onnx cannot be read"), "{message}");
    let (code, message) = ending(&run(&[
        "resolve",
        "--model-uri",
        "http://127.0.0.1:1/a",
        "--fetch-retry-for",
        "1ms",
        "--allow-network",
        "127.0.0.1",
    ]));
    assert_eq!(code, 69, "{message}");
    assert!(message.contains("http://127.0.0.1:1/a could not be fetched"), "{message}");
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    let uri = model_uri("digits-v2.onnx");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--model-uri", "ftp://host/a"], "the scheme \"ftp\" is not known"),
        (&["--model-uri", "s3://bucket"], "it names no object"),
        (&["--model-uri", &uri, "--allow-network", "10.0.0.1/8"], "--allow-network"),
        (&["--model-uri", &uri, "--digest", "sha256:12"], "64 lower-case hex digits"),
        (&["--model-uri", &uri, "--threads", "0"], "--threads"),
        (&["--model-uri", &uri, "--device", "gpu"], "--device <DEVICE> cannot be used: cpu, cuda, cuda:N"),
        (&["--model-uri", &uri, "--credentials", empty], "neither a file `token`"),
    ];
    for (arguments, part) in cases {
        let (code, message) = ending(&serve(arguments));
        assert_eq!(code, 64, "{arguments:?}: {message}");
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&[]).status.code(), Some(64));
}

/// GPUs are features: a program without them says how to build one.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
#[test]
fn a_device_that_is_not_built_ends_with_64_and_names_its_feature() {
    let uri = model_uri("digits-v2.onnx");
    for device in ["cuda", "cuda:1", "wgpu", "wgpu:0"] {
        let name = &device[..4];
        let by_option = serve(&["--model-uri", &uri, "--device", device]);
        let by_variable = Command::new(env!("CARGO_BIN_EXE_stoker-server"))
            .args(["serve", "--model-name", "m", "--model-uri", &uri])
            .env("STOKER_DEVICE", device)
            .output()
            .unwrap();
        for output in [by_option, by_variable] {
            let (code, message) = ending(&output);
            assert_eq!(code, 64, "{message}");
            assert!(message.contains(&format!("--features {name}`")), "{message}");
        }
    }
}

/// A URI may hold a password and a signature, also one that cannot be read.
#[test]
fn a_wrong_command_line_does_not_repeat_its_values() {
    let canary = "https://user:hunter2@host:99999/a?sig=hunter2";
    let dotted = "https://user:hunter2@host/%2e%2e/a?sig=hunter2";
    let assigned = format!("--use-proxies={canary}");
    let misspelt = format!("--modle-uri={canary}");
    let named = ["serve", "--model-name", "m"];
    let cases: [(&[&str], &str); 10] = [
        (&["--model-uri", canary], "--model-uri <MODEL_URI> cannot be used: it is not a URI"),
        (&["--model-uri", dotted], "%2e"),
        (&["--model-uri", "file:///a", canary], "belongs to no option"),
        (&["--model-uri", "file:///a", &assigned], "--use-proxies"),
        (&["--model-uri", "file:///a", &misspelt], "--modle-uri"),
        (&["--model-uri", "file:///a", "--prediction-metrics", canary], "on, off"),
        (&["--model-uri", "file:///a", "--threads", canary], "--threads"),
        (&["--model-uri", "file:///a", "--max-artifact", canary], "such as 1048576"),
        (&["--model-uri", "file:///a", "--fetch-timeout", canary], "--fetch-timeout"),
        (&["--model-uri="], "--model-uri"),
    ];
    let mut outputs: Vec<_> =
        cases.iter().map(|(arguments, part)| (run(&[&named[..], arguments].concat()), *part)).collect();
    outputs.push((run(&[canary]), "it is not a URI"));
    outputs.push((run(&["help", canary]), "command is not known"));
    for (output, part) in outputs {
        let (code, message) = ending(&output);
        assert_eq!(code, 64, "{part}: {message}");
        assert!(message.contains(part), "{part:?} is not in: {message}");
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn a_port_that_is_taken_ends_with_70() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, message) = ending(&serve_at(&address, &["--model-uri", &model_uri("digits-v2.onnx")]));
    assert_eq!(code, 70);
    assert!(message.contains(&format!("{address} cannot be bound")), "{message}");
}
