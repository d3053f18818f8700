//! The command `stoker-graph`: what it prints and writes, and how it ends.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stoker_graph::{AnyValue, DType, Data, Kind, Value};

/// Small models, written by `e2e/models/command_models.py`.
fn model(name: &str) -> String {
    format!("{}/tests/fixtures/command/{name}.onnx", env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder for the files of one test.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-{test}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// What a run of the command gave: exit status, standard output, standard error.
fn stoker_graph(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stoker-graph")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The report of a run that must succeed.
fn report(arguments: &[&str]) -> String {
    let (status, report, error) = stoker_graph(arguments);
    assert_eq!((status, error.as_str()), (0, ""), "{arguments:?}");
    report
}

/// The error of a run that must end with `status` and print nothing else.
fn refused(status: i32, arguments: &[&str]) -> String {
    let (actual, report, error) = stoker_graph(arguments);
    assert_eq!((actual, report.as_str()), (status, ""), "{arguments:?}: {error}");
    error
}

fn tensor(shape: &[usize], data: Data) -> AnyValue {
    AnyValue::Tensor(Value::new(shape.to_vec(), data).unwrap())
}

/// Writes a file and gives its path as an argument.
fn file(folder: &Path, name: &str, contents: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn inspect_tells_what_is_in_a_file() {
    let report = report(&["inspect", &model("parts")]);
    for line in [
        "producer    command_models 1\n",
        "format      10\n",
        "graph       parts\n",
        "opsets      ai.onnx 21, example.org 1\n",
        "inputs\n  x: tensor FP32 [n, 3]\noutputs\n  y: tensor FP32 [n, 3]\n",
        // Three at the top, two and one in the branches, one in the function.
        "nodes       7\n         2  ai.onnx::Add\n",
        "         1  example.org::Twice\n",
        "functions\n  example.org::Twice, 1 node(s)\n",
        "parameters  4 in 2 tensor(s), 16 bytes\n",
        "other files\n  parts.weights, 16 bytes of it\n",
    ] {
        assert!(report.contains(line), "{line:?} is missing in:\n{report}");
    }
}

#[test]
fn inspect_tells_of_files_that_do_not_run() {
    let report = report(&["inspect", &model("unsupported")]);
    assert!(report.contains("  example.org::Mystery\n"), "{report}");
}

#[test]
fn inspect_names_kinds_of_values() {
    let report = report(&["inspect", &model("lists")]);
    assert!(report.contains("  list: sequence FP32 [2]\n"), "{report}");
    assert!(report.contains("  maybe: optional tensor FP32 [2]\n"), "{report}");
}

#[test]
fn check_says_that_a_file_runs() {
    let report = report(&["check", &model("parts")]);
    assert!(report.contains("runs: 7 node(s), 1 input(s), 1 output(s), requests can be joined"), "{report}");
}

#[test]
fn check_names_every_operator_that_does_not_run() {
    let error = refused(3, &["check", &model("unsupported")]);
    for part in [
        "2 operator(s) that are not supported",
        "example.org::Mystery (opset 3) at node `first`: the operator is not known",
        "ai.onnx::Enigma (opset 21) at node `last`: the operator is not known",
    ] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    let folder = folder("no-model");
    let other = file(&folder, "notes.onnx", b"These are notes and no model.");
    assert!(refused(1, &["check", &other]).contains("not an ONNX model"));
    let missing = folder.join("missing.onnx");
    let error = refused(1, &["check", missing.to_str().unwrap()]);
    assert!(error.contains("missing.onnx") && error.matches("No such file").count() == 1, "{error}");
    assert_eq!(stoker_graph(&["check"]).0, 2);
}

#[test]
fn weights_that_are_gone_are_named() {
    let folder = folder("no-weights");
    let alone = file(&folder, "parts.onnx", &fs::read(model("parts")).unwrap());
    assert!(refused(1, &["check", &alone]).contains("`parts.weights`"));
}

#[test]
fn run_prints_outputs() {
    let folder = folder("print");
    let x = file(&folder, "x.json", br#"{"shape": [1, 3], "datatype": "FP32", "data": [[10, 20, 30]]}"#);
    let expected = "y: FP32 [1, 3]\n  22.0, 44.0, 66.0\n";
    assert_eq!(report(&["run", &model("parts"), &x]), expected);
    assert_eq!(report(&["run", &model("parts"), &format!("x={x}")]), expected);
}

#[test]
fn time_gives_a_line_for_each_round() {
    let folder = folder("time");
    let x = file(&folder, "x.json", br#"{"shape": [1, 3], "datatype": "FP32", "data": [[10, 20, 30]]}"#);
    let out = folder.join("out");
    let rounds = ["--rounds", "2", "--seconds", "0"];
    let report =
        report(&[&["time", &model("parts"), &x, "--out", out.to_str().unwrap()], &rounds[..]].concat());
    let lines: Vec<serde_json::Value> =
        report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [start, rounds @ ..] = &lines[..] else { panic!("nothing was printed") };
    assert!(start["load"].as_f64().unwrap() > 0.0 && start["first"].as_f64().unwrap() > 0.0, "{start}");
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!(round["runs"], 1);
        assert!(round["median"].as_f64().unwrap() > 0.0 && round["median"] == round["fastest"], "{round}");
    }
    assert!(out.join("output_0.npy").exists());
    // Standard input is empty here: no round at all.
    assert_eq!(self::report(&["time", &model("parts"), &x, "--wait"]).lines().count(), 1);
    assert!(refused(1, &["time", &model("parts"), &x, "--seconds=-1"]).contains("an hour"));
}

#[test]
fn profile_tells_each_step_and_each_operator() {
    let folder = folder("profile");
    let x = file(&folder, "x.json", br#"{"shape": [1, 3], "datatype": "FP32", "data": [[10, 20, 30]]}"#);
    let report = report(&["profile", &model("parts"), &x, "--runs", "3"]);
    let (steps, sums) = report.split_once("\n\n").expect("two tables");
    let times = |table: &str| -> Vec<f64> {
        let rows = table.lines().skip(1).filter(|row| !row.ends_with("  all"));
        rows.map(|row| row.split_whitespace().next().unwrap().parse().unwrap()).collect()
    };
    let (steps, sums) = (times(steps), times(sums));
    assert!(!steps.is_empty() && steps.is_sorted_by(|one, next| one >= next), "the slowest first: {report}");
    assert!((steps.iter().sum::<f64>() - sums.iter().sum::<f64>()).abs() < 0.01, "{report}");
    assert!(refused(1, &["profile", &model("parts")]).contains('x'), "an input is missing");
    assert!(refused(2, &["profile", &model("parts"), &x, "--runs", "0"]).contains("--runs"));
}

#[test]
fn run_takes_and_gives_all_formats() {
    let folder = folder("formats");
    let text = |text: &str| text.to_owned();
    let values = [
        ("bool", tensor(&[1, 2], Data::Bool(vec![true, false]))),
        ("uint8", tensor(&[1, 2], Data::U8(vec![0, 255]))),
        ("int64", tensor(&[1, 2], Data::I64(vec![i64::MIN, 7]))),
        ("float16", tensor(&[1, 2], Data::F16(vec![half::f16::ONE, half::f16::MAX]))),
        ("bfloat16", tensor(&[1, 2], Data::BF16(vec![half::bf16::ONE, half::bf16::MAX]))),
        ("float", tensor(&[1, 2], Data::F32(vec![-0.5, f32::INFINITY]))),
        ("double", tensor(&[1, 2], Data::F64(vec![0.1, f64::MAX]))),
        ("int4", tensor(&[1, 2], Data::Small(DType::I4, vec![0x7, 0xf]))),
        ("float8e5m2", tensor(&[1, 2], Data::Small(DType::F8E5M2, vec![0x3c, 0xff]))),
        ("string", tensor(&[1, 2], Data::String(vec![text("ä"), text("")]))),
    ];
    let mut arguments = vec![text("run"), model("types")];
    for (name, value) in &values {
        let message = value.to_message(Kind::Tensor, name);
        arguments.push(file(&folder, &format!("{name}.pb"), &message));
    }
    let run = |arguments: &[String], more: &[&str]| {
        let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        report(&all)
    };
    let shown = run(&arguments, &[]);
    assert!(shown.contains("same_int4: INT4 [1, 2]\n  7, -1\n"), "{shown}");
    assert!(shown.contains("same_float8e5m2: FP8E5M2 [1, 2]\n  0x3c, 0xff\n"), "{shown}");
    assert!(shown.contains("same_string: BYTES [1, 2]\n  \"ä\", \"\"\n"), "{shown}");

    // What is written as .npy is read again, and written as messages in the end.
    let arrays = folder.join("arrays");
    run(&arguments, &["--out", arrays.to_str().unwrap(), "--format", "npy"]);
    let mut again = vec![text("run"), model("types")];
    // In the reverse order, with names.
    for (position, (name, _)) in values.iter().enumerate().rev() {
        again.push(format!("{name}={}", arrays.join(format!("output_{position}.npy")).display()));
    }
    let messages = folder.join("messages");
    run(&again, &["--out", messages.to_str().unwrap()]);
    for (position, (name, value)) in values.iter().enumerate() {
        let bytes = fs::read(messages.join(format!("output_{position}.pb"))).unwrap();
        // A message of a tensor says its type itself.
        let (actual_name, actual) = AnyValue::from_message(Kind::Tensor, DType::F32, &bytes).unwrap();
        assert_eq!((actual_name, &actual), (format!("same_{name}"), value));
    }
}

#[test]
fn run_takes_lists_and_leaves_optional_inputs_out() {
    let folder = folder("lists");
    let row = |items: [f32; 2]| Value::new(vec![2], Data::F32(items.to_vec())).unwrap();
    let list = AnyValue::Sequence(DType::F32, vec![row([1.0, 2.0]), row([3.0, 4.0])]);
    let path = file(&folder, "list.pb", &list.to_message(Kind::Sequence, "list"));
    let shown = report(&["run", &model("lists"), &path]);
    let expected =
        "same_list: 2 tensor(s) of FP32\n  0: FP32 [2]\n     1.0, 2.0\n  1: FP32 [2]\n     3.0, 4.0\n";
    assert_eq!(shown, format!("{expected}same_maybe: nothing\n"));

    let out = folder.join("out");
    report(&["run", &model("lists"), &path, "--out", out.to_str().unwrap(), "--format", "npy"]);
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["output_0_0.npy", "output_0_1.npy"]);

    let wrong = file(&folder, "list.npy", b"");
    let error = refused(1, &["run", &model("lists"), &wrong]);
    assert!(error.contains("`list`") && error.contains("SequenceProto in a .pb file"), "{error}");
}

#[test]
fn run_computes_a_part_of_a_graph() {
    let folder = folder("part");
    let model = format!("{}/tests/fixtures/perceptron.onnx", env!("CARGO_MANIFEST_DIR"));
    let pixels: Vec<f32> = (0u8..64).map(|at| f32::from(at % 17)).collect();
    let x = file(&folder, "x.pb", &tensor(&[1, 64], Data::F32(pixels)).to_message(Kind::Tensor, "x"));
    let whole = report(&["run", &model, &x]);
    let out = folder.join("out");
    let out = out.to_str().unwrap();
    report(&["run", &model, &x, "--output", "r", "--out", out, "--format", "npy"]);
    // From there on to the end, without the input of the file.
    let between = format!("r={out}/output_0.npy");
    assert_eq!(report(&["run", &model, "--input", &between]), whole);
    let label = report(&["run", &model, "--input", &between, "--output", "label"]);
    assert!(!label.is_empty() && whole.starts_with(&label), "{label} of {whole}");
    // What is given besides is an input of the file, with or without its name.
    let named = format!("x={x}");
    let both = report(&["run", &model, &named, "--output", "label", "--output", "h"]);
    assert!(both.starts_with(&label) && both.contains("\nh: FP32 [1, "), "{both}");

    let error = refused(1, &["run", &model, &x, "--output", "ghost"]);
    assert!(error.contains("has no value `ghost`"), "{error}");
    let error = refused(1, &["run", &model, "--input", &x]);
    assert!(error.contains("give NAME=FILE"), "{error}");
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let folder = folder("inputs");
    let model = model("parts");
    let json = |name: &str, text: &str| file(&folder, name, text.as_bytes());
    let right = json("x.json", r#"{"shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}"#);
    let wide = json("wide.json", r#"{"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}"#);
    let whole = json("whole.json", r#"{"shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}"#);
    let broken = json("broken.json", r#"{"shape": [1, 3], "datatype": "FP32", "data": [1, "two", 3]}"#);
    let other = json("x.txt", "1 2 3");
    let cases: [(&[&str], &str); 9] = [
        (&[], "input `x` is missing"),
        (&[&right, &right], "2 inputs are given, the graph takes 1: `x`"),
        (&["z=there.npy"], "the graph has no input `z`; its inputs are `x`"),
        (&["x=there.npy"], "cannot read the file: No such file"),
        (&[&wide], "must have the shape [-1, 3], but has [1, 4]"),
        (&[&whole], "must be FP32, but is INT64"),
        (&[&broken], "element 1 is \"two\", where a number is needed"),
        (&[&other], "use .pb, .npy or .json"),
        (&[&format!("x={right}"), &format!("x={right}")], "input `x` was given more than once"),
    ];
    for (inputs, expected) in cases {
        let arguments: Vec<&str> =
            ["run", model.as_str()].into_iter().chain(inputs.iter().copied()).collect();
        let error = refused(1, &arguments);
        assert!(error.contains(expected), "{expected:?} is missing in: {error}");
    }
    assert_eq!(stoker_graph(&["run", &model, &right, "--format", "npy"]).0, 2);
}

#[test]
fn operators_are_listed() {
    let table = report(&["operators"]);
    assert!(table.lines().any(|line| line.starts_with("ai.onnx::Add ")), "{table}");
    let json: serde_json::Value = serde_json::from_str(&report(&["operators", "--json"])).unwrap();
    let rows = json.as_array().unwrap();
    assert_eq!(rows.len(), stoker_graph::operators().len());
    let add = rows.iter().find(|row| row["name"] == "Add").unwrap();
    assert_eq!((add["domain"].as_str(), add["since"].as_u64()), (Some("ai.onnx"), Some(1)));
}
