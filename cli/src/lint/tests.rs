//! Manifests good and bad.

use std::path::Path;

use serde_json::json;

use super::rules::Kind;
use super::*;

fn lint_text(text: &str) -> Report {
    lint(&[Manifest { file: "a.yaml".into(), text: text.into() }])
}

/// A manifest that nothing can be said of, with lines put in the place of its own: those of one field of the spec each.
fn manifest(change: &str) -> String {
    let fields = [
        ("replicas", "  replicas: 2"),
        (
            "model",
            "  model:\n    uri: https://models.example/digits/v1.onnx\n    digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ];
    let kept =
        fields.iter().filter(|(name, _)| !change.contains(&format!("  {name}:"))).map(|(_, text)| *text);
    let spec: Vec<_> = kept.chain([change]).filter(|text| !text.is_empty()).collect();
    format!(
        "apiVersion: stoker.dev/v1alpha1\nkind: ModelDeployment\nmetadata:\n  name: digits\nspec:\n{}\n",
        spec.join("\n")
    )
}

#[test]
fn a_good_manifest_has_no_findings() {
    let report = lint_text(&manifest(""));
    assert_eq!(report.findings, []);
    assert_eq!((report.checked, report.skipped), (1, 0));
}

#[test]
fn the_examples_of_the_project_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let manifests: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| Manifest::read(&entry.unwrap().path()).unwrap())
        .collect();
    assert!(manifests.len() > 5);
    let errors: Vec<_> =
        lint(&manifests).findings.into_iter().filter(|found| found.severity == Severity::Error).collect();
    // They are alternatives, and not meant for one namespace.
    let alone: Vec<_> =
        errors.iter().filter(|found| !["twice", "host-twice"].contains(&found.check)).collect();
    assert_eq!(alone, [&errors[0]; 0], "{alone:?}");
}

#[test]
fn each_mistake_is_told_with_its_place() {
    // What is written in the spec; the check, the field and the line of the one finding, and a part of what it says.
    let cases = [
        ("  replicas: two", "type", "spec.replicas", "\"two\" is not a whole number"),
        ("  replicas: 1001", "bounds", "spec.replicas", "1001 is more than 1000"),
        ("  replicas: -1", "bounds", "spec.replicas", "-1 is less than 0"),
        ("  model: {}", "required", "spec.model.uri", "it is missing"),
        ("  model:\n    uri: 7", "type", "spec.model.uri", "7 is not a text"),
        ("  model:\n    uri:", "type", "spec.model.uri", "empty"),
        ("  model:\n    uri: v1.onnx", "rule", "spec.model.uri", "model.uri must be https://host/path"),
        ("  rolout: {}", "unknown-field", "spec.rolout", "no such field"),
        ("  rollout:\n    steps:\n      - {wait: 10}", "rule", "spec.rollout.steps[0]", "exactly one of"),
        ("  rollout:\n    capacity: Half", "enum", "spec.rollout.capacity", "\"Half\" is not known"),
        (
            "  rollout:\n    progressDeadline: soon",
            "duration",
            "spec.rollout.progressDeadline",
            "no duration",
        ),
        (
            "  rollout:\n    progressDeadline: 1s",
            "rule",
            "spec.rollout.progressDeadline",
            "between 5s and 24h",
        ),
        (
            "  rollout:\n    steps:\n      - {weight: 50}\n      - {weight: 10}",
            "rule",
            "spec.rollout.steps",
            "each weight must be greater",
        ),
        (
            "  rollback:\n    keepWarm: 1m\n  rollout:\n    guard: {duration: 10m}",
            "rule",
            "spec",
            "rollback.keepWarm must be at least as long",
        ),
        ("  scaling: {maxReplicas: 4}", "rule", "spec", "scaling needs slo.latency.target"),
        (
            "  runtime:\n    resources:\n      limits: {memory: 1Gib}",
            "rule",
            "spec.runtime.resources.limits",
            "quantity",
        ),
        (
            "  rollback: {knownGood: iris-0123456789}",
            "no-revision",
            "spec.rollback.knownGood",
            "is no revision of digits",
        ),
        (
            "  rollout:\n    analysis:\n      metrics:\n        - {name: m, query: 'sum(up', max: 1}",
            "promql",
            "spec.rollout.analysis.metrics[0].query",
            "it is not PromQL",
        ),
        (
            "  rollout:\n    analysis:\n      metrics:\n        - {name: m, query: 'up{r=\"$revison\"}', max: 1}",
            "promql",
            "spec.rollout.analysis.metrics[0].query",
            "there is no $revison",
        ),
        (
            "  rollout:\n    analysis:\n      metrics:\n        - {name: m, query: up, min: 2, max: 1.5}",
            "rule",
            "spec.rollout.analysis.metrics[0]",
            "min must not be above max",
        ),
        (
            "  rollback:\n    alerts:\n      - {action: Hold}",
            "rule",
            "spec.rollback.alerts[0]",
            "name the alert",
        ),
        (
            "  runtime:\n    resources:\n      requests: {memory: 2Gi}\n      limits: {memory: 1Gi}",
            "request-above-limit",
            "spec.runtime.resources.requests.memory",
            "refuses such pods",
        ),
    ];
    for (change, check, field, part) in cases {
        let report = lint_text(&manifest(change));
        let errors: Vec<_> =
            report.findings.iter().filter(|found| found.severity == Severity::Error).collect();
        let found = errors.iter().find(|found| found.check == check && found.field.starts_with(field));
        let found = found.unwrap_or_else(|| panic!("{change}: {errors:?}"));
        assert!(found.message.contains(part), "{change}: {found:?}");
        assert!(found.line.is_some_and(|line| line >= 5), "{change}: {found:?}");
        assert_eq!(found.object, "ModelDeployment/digits");
    }
}

#[test]
fn what_an_sre_would_warn_of_is_a_warning() {
    let steps = |steps: &str| format!("  rollout:\n    steps: [{steps}]");
    let cases = [
        ("  replicas: 1".to_owned(), "one-pod"),
        ("  replicas: 0".to_owned(), "no-pods"),
        ("  model: {uri: 'https://models.example/digits/v1.onnx'}".to_owned(), "no-digest"),
        ("  model: {uri: 'http://models.example/digits/v1.onnx'}".to_owned(), "plain-http"),
        ("  model: {uri: 's3://models/digits/latest.onnx'}".to_owned(), "floating-uri"),
        ("  runtime: {image: registry.example/server}".to_owned(), "floating-image"),
        ("  runtime: {resources: {limits: {cpu: 50m}}}".to_owned(), "little-cpu"),
        (
            "  rollout:\n    analysis:\n      metrics: [{name: m, query: up, max: 1}]".to_owned(),
            "any-revision",
        ),
        (steps(""), "no-steps"),
        (steps("{weight: 80}"), "steep-start"),
        (steps("{weight: 1}, {weight: 5}"), "steep-end"),
        ("  rollout: {guard: {duration: 0s}}".to_owned(), "no-guard"),
        ("  rollout: {guard: {holdback: 0}}".to_owned(), "no-control"),
        ("  rollout: {strategy: Recreate}".to_owned(), "gap"),
        ("  rollout: {strategy: BlueGreen}".to_owned(), "blind-preview"),
        ("  rollout: {progressDeadline: 20s}".to_owned(), "hasty-deadline"),
        (
            "  rollout: {analysis: {onInconclusive: Rollback, inconclusiveDeadline: 1m}}".to_owned(),
            "hasty-rollback",
        ),
        ("  rollback: {mode: Observe}".to_owned(), "observe"),
        ("  rollback: {keepWarm: 0s}".to_owned(), "cold-undo"),
        ("  rollback: {budget: {perRollout: 30%}}".to_owned(), "wide-budget"),
        ("  replicas: 2\n  scaling: {mode: External}".to_owned(), "replicas-in-git"),
        ("  slo: {latency: {target: 100ms}}\n  scaling: {maxReplicas: 4}".to_owned(), "one-pod"),
        (
            "  slo: {latency: {target: 100ms}}\n  scaling: {maxReplicas: 4, scaleToZeroAfter: 30s}"
                .to_owned(),
            "hasty-sleep",
        ),
    ];
    for (change, check) in cases {
        let report = lint_text(&manifest(&change));
        let found: Vec<_> = report.findings.iter().map(|found| (found.severity, found.check)).collect();
        assert!(found.contains(&(Severity::Warning, check)), "{change}: {:?}", report.findings);
        assert_eq!(report.count(Severity::Error), 0, "{change}: {:?}", report.findings);
    }
}

#[test]
fn documents_are_counted_and_strangers_skipped() {
    let text = format!(
        "kind: ConfigMap\napiVersion: v1\n---\n{}---\n---\n{}",
        manifest(""),
        manifest("  replicas: x")
    );
    let report = lint_text(&text);
    assert_eq!((report.checked, report.skipped), (2, 1));
    let places: Vec<_> = report.findings.iter().map(|found| (found.document, found.check)).collect();
    assert_eq!(places, [(3, "type"), (3, "twice")]);
}

#[test]
fn what_documents_do_to_each_other_is_seen_across_files() {
    let other = manifest("  traffic: {hosts: [a.example]}").replace("name: digits", "name: other");
    let file = |name: &str, text: String| Manifest { file: name.into(), text };
    let report = lint(&[
        file("a.yaml", manifest("  traffic: {hosts: [b.example, a.example]}")),
        file("b.yaml", other),
    ]);
    let [found] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!(
        (found.file.as_str(), found.check, found.field.as_str()),
        ("b.yaml", "host-twice", "spec.traffic.hosts[0]")
    );
    assert!(found.message.contains("digits"), "{found:?}");
}

#[test]
fn other_objects_of_ours_are_checked_too() {
    let head = "apiVersion: stoker.dev/v1alpha1\nmetadata: {name: x}\n";
    let checks = |text: &str| {
        lint_text(&format!("{head}{text}")).findings.iter().map(|found| found.check).collect::<Vec<_>>()
    };
    assert_eq!(checks("kind: ModelRouter\nspec: {replicas: 2}\n"), ["rule"]);
    assert_eq!(checks("kind: ModelRoute\nspec: {}\n"), ["operators-own"]);
    assert_eq!(checks("kind: ModelRoll\nspec: {}\n"), ["kind"]);
    let old = lint_text("apiVersion: stoker.dev/v1\nkind: ModelDeployment\nmetadata: {name: x}\n");
    assert_eq!(old.findings[0].check, "version");
    let nameless = lint_text(&manifest("").replace("  name: digits", "  labels: {team: 7}"));
    assert_eq!(
        nameless.findings.iter().map(|found| found.field.as_str()).collect::<Vec<_>>(),
        ["metadata.name", "metadata.labels.team"]
    );
}

/// The rules would otherwise be passed by, or the schema's keywords.
#[test]
fn every_rule_and_keyword_of_the_crds_can_be_checked() {
    fn walk(schema: &Value, path: &str, rules: &mut usize) {
        let Some(map) = schema.as_object() else { return };
        for (keyword, value) in map {
            assert!(
                schema::KEYWORDS.contains(&keyword.as_str()) || keyword.starts_with("x-kubernetes-list-"),
                "{path}: lint does not know the keyword {keyword}"
            );
            match keyword.as_str() {
                "properties" => {
                    value
                        .as_object()
                        .unwrap()
                        .iter()
                        .for_each(|(name, schema)| walk(schema, &format!("{path}.{name}"), rules));
                }
                "items" | "additionalProperties" => walk(value, &format!("{path}[]"), rules),
                _ => {}
            }
        }
        let compiled = kube_cel::compile_schema(
            &json!({"x-kubernetes-validations": map.get("x-kubernetes-validations")}),
        );
        assert!(!compiled.has_errors(), "{path}: {:?}", compiled.compilation_errors());
        *rules += map.get("x-kubernetes-validations").and_then(Value::as_array).map_or(0, Vec::len);
    }
    for (kind, least) in [(Kind::Deployment, 30), (Kind::Router, 1)] {
        let mut rules = 0;
        let spec = kind.schema().pointer("/properties/spec").unwrap();
        walk(spec, "spec", &mut rules);
        rules +=
            kind.schema().pointer("/x-kubernetes-validations").map_or(0, |own| own.as_array().unwrap().len());
        assert!(rules >= least, "{kind:?}: {rules} rules");
    }
    // All of them are evaluated on a spec that has every field that a rule looks at.
    let all = manifest(
        "  traffic:\n    hosts: [a.example]\n    sticky: {cookie: unit}\n    match: [{name: x-tester, value: 'yes'}]\n  slo: {latency: {target: 100ms}}\n  scaling: {maxReplicas: 4, minReplicas: 2, scaleToZeroAfter: 10m, behavior: {scaleDownWindow: 5m}}\n  runtime:\n    image: server:1\n    args: []\n    ports: {http: 8000}\n    resources: {requests: {cpu: 1}, limits: {cpu: '2', memory: 1Gi}}\n    pod: {tolerations: [{key: gpu, operator: Equal, value: a100, effect: NoSchedule}]}\n  rollout:\n    steps: [{shadow: 100, duration: 1m, minAgreement: 98}, {weight: 10, minRequests: 9}, {pause: {}, duration: 1h}, {analysis: {}}, {weight: 50}]\n    analysis: {detect: 10, onInconclusive: Rollback, inconclusiveDeadline: 6h}\n    progressDeadline: 5m\n    guard: {duration: 1h, holdback: 2}\n  rollback: {keepWarm: 2h, budget: {perRollout: 0.5%, perGuardMonth: 2%}, knownGood: digits-0123456789}",
    );
    let report = lint_text(&all);
    assert_eq!(report.count(Severity::Error), 0, "{:?}", report.findings);
}

#[test]
fn findings_are_lines_that_editors_understand() {
    let report = lint_text(&manifest("  replicas: two"));
    let text = crate::render::paint(&crate::render::findings(&report), crate::render::Paper::default());
    let wanted = "a.yaml:9: error [type]: document 1, ModelDeployment/digits: spec.replicas: \"two\" is not a whole number\n    do: write the number without quotes and without a unit\n1 error, 0 warnings in 1 document\n";
    assert_eq!(text, wanted);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Manifest::read(&folder.path().join("none.yaml")).unwrap_err();
    assert!(missing.to_string().contains("none.yaml"), "{missing}");
    let bytes = folder.path().join("bytes.yaml");
    std::fs::write(&bytes, [0xff, 0xfe]).unwrap();
    assert!(Manifest::read(&bytes).unwrap_err().to_string().contains("UTF-8"));
}
