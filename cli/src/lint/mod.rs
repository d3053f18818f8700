//! `lint`: whether manifests would be taken, and what an SRE would say of them. No cluster is asked.
//!
//! A document goes through four sieves: what YAML it is, the schema of its CRD, the CRD's rules, and what the operator or a person with
//! experience would say. The CRDs are those of this release, made from the same types as `crds/`.

mod across;
mod advice;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod yaml;

use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::trouble::Trouble;

/// Longest manifest that is read: more is no manifest.
const LONGEST: u64 = 16 * 1024 * 1024;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The API server or the operator would refuse it.
    Error,
    /// It would be taken, and is likely not what is meant.
    Warning,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The file; `-` is standard input.
    pub file: String,
    /// The line in it, where it is known.
    pub line: Option<u64>,
    /// Which document of the file, counted from 1.
    pub document: usize,
    /// `Kind/name` of the object.
    pub object: String,
    /// The field, as `spec.rollout.steps[1].weight`.
    pub field: String,
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it: a word that stays the same.
    pub check: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// All that was found; its serialised form is the stable JSON of `lint -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Files that were read.
    pub files: usize,
    /// Documents that were checked.
    pub checked: usize,
    /// Documents of kinds that are not Stoker's.
    pub skipped: usize,
    /// In the order of files and documents.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// A remark about one field, before it is known where that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remark {
    severity: Severity,
    check: &'static str,
    field: String,
    message: String,
    hint: String,
}

impl Remark {
    fn error(
        check: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            check,
            field: field.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    fn warning(
        check: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(check, field, message, hint) }
    }
}

/// A manifest: where it came from and what it says.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its path; `-` is standard input.
    pub file: String,
    /// Its text.
    pub text: String,
}

impl Manifest {
    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, Trouble> {
        let wrong = |why: String| Trouble::File { path: path.to_owned(), why };
        let file = path.display().to_string();
        let mut bytes = Vec::new();
        let read = if file == "-" {
            std::io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|opened| opened.take(LONGEST + 1).read_to_end(&mut bytes))
        };
        read.map_err(|error| wrong(error.to_string()))?;
        if bytes.len() as u64 > LONGEST {
            return Err(wrong(format!("it has more than {} MiB; a manifest is smaller", LONGEST >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is no UTF-8 text".to_owned()))?;
        Ok(Self { file, text })
    }
}

/// A document with its place.
struct Placed<'a> {
    file: &'a str,
    number: usize,
    document: yaml::Document,
}

impl Placed<'_> {
    fn finding(&self, remark: Remark) -> Finding {
        Finding {
            file: self.file.to_owned(),
            line: self.document.line(&remark.field),
            document: self.number,
            object: object(&self.document.value),
            field: remark.field,
            severity: remark.severity,
            check: remark.check,
            message: remark.message,
            hint: remark.hint,
        }
    }
}

/// `Kind/name`.
fn object(value: &Value) -> String {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("?");
    format!("{}/{}", text("/kind"), text("/metadata/name"))
}

/// Checks manifests.
pub fn lint(manifests: &[Manifest]) -> Report {
    let mut report = Report { files: manifests.len(), ..Report::default() };
    let mut known = Vec::new();
    for manifest in manifests {
        match yaml::documents(&manifest.text) {
            Ok(documents) => {
                let placed = documents.into_iter().enumerate();
                known.extend(placed.map(|(at, document)| Placed {
                    file: &manifest.file,
                    number: at + 1,
                    document,
                }));
            }
            Err(wrong) => report.findings.push(Finding {
                file: manifest.file.clone(),
                line: wrong.line,
                document: wrong.document,
                object: String::new(),
                field: String::new(),
                severity: Severity::Error,
                check: "yaml",
                message: wrong.message,
                hint: "nothing of this file was checked beyond that".to_owned(),
            }),
        }
    }
    for placed in &known {
        match check(&placed.document.value) {
            Some(remarks) => {
                report.checked += 1;
                report.findings.extend(remarks.into_iter().map(|remark| placed.finding(remark)));
            }
            None => report.skipped += 1,
        }
    }
    let values: Vec<_> = known.iter().map(|placed| &placed.document.value).collect();
    let across = across::across(&values);
    report.findings.extend(across.into_iter().map(|(at, remark)| known[at].finding(remark)));
    // A stable sort: within a document what is more basic comes first.
    let place = |finding: &Finding| {
        let file = manifests.iter().position(|manifest| manifest.file == finding.file);
        (file, finding.document, finding.severity)
    };
    report.findings.sort_by_key(place);
    report
}

/// What is to be said of an object; none where it is not of Stoker.
fn check(value: &Value) -> Option<Vec<Remark>> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let api = text("/apiVersion").unwrap_or_default();
    if api.split('/').next() != Some(stoker_api::GROUP) {
        return None;
    }
    if api != VERSION {
        let hint = format!("write apiVersion: {VERSION}");
        return Some(vec![Remark::error("version", "apiVersion", format!("{api} is not served"), hint)]);
    }
    let Some(kind) = text("/kind").and_then(rules::Kind::of) else {
        let message = format!("there is no kind {}", text("/kind").unwrap_or("without a name"));
        return Some(vec![Remark::error(
            "kind",
            "kind",
            message,
            "write kind: ModelDeployment or ModelRouter",
        )]);
    };
    if kind == rules::Kind::Route {
        return Some(vec![Remark::error(
            "operators-own",
            "kind",
            "a ModelRoute is written by the operator alone, from its ModelDeployment",
            "take it out of the manifests",
        )]);
    }
    let mut remarks = schema::metadata(value);
    remarks.extend(schema::check(kind.schema(), value));
    if remarks.iter().all(|remark| remark.severity == Severity::Warning || remark.check == "unknown-field") {
        remarks.extend(rules::check(kind, value));
    }
    if kind == rules::Kind::Deployment && remarks.iter().all(|remark| remark.severity == Severity::Warning) {
        remarks.extend(advice::advise(value));
    }
    Some(remarks)
}

/// The version that is served.
const VERSION: &str = "stoker.dev/v1alpha1";
