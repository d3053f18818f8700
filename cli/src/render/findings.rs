//! `lint`: what was found, a line for each, in the form that editors and CI understand (`file:line: severity: ...`).

use super::text::{Ink, Line, Page};
use crate::lint::{Finding, Report, Severity};

/// The page of `lint`. Lines are not cut: they are read by programs, too.
pub fn findings(report: &Report) -> Page {
    let mut page: Page = report.findings.iter().flat_map(finding).collect();
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let skipped = match report.skipped {
        0 => String::new(),
        one_or_more => format!(", {} of other kinds skipped", counted(one_or_more, "document")),
    };
    let ink = if errors > 0 {
        Ink::Bad
    } else if warnings > 0 {
        Ink::Warn
    } else {
        Ink::Good
    };
    let checked = counted(report.checked, "document");
    let text =
        format!("{}, {} in {checked}{skipped}", counted(errors, "error"), counted(warnings, "warning"));
    page.push(Line::of(ink, text));
    page
}

fn finding(finding: &Finding) -> Page {
    let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
    let (word, ink) = match finding.severity {
        Severity::Error => ("error", Ink::Bad),
        Severity::Warning => ("warning", Ink::Warn),
    };
    let about = if finding.object.is_empty() { String::new() } else { format!("{}: ", finding.object) };
    let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
    let first = Line::of(Ink::Bold, format!("{}{line}: ", finding.file))
        .then(ink, format!("{word} [{}]: ", finding.check))
        .then(Ink::Dim, format!("document {}, {about}", finding.document))
        .then(Ink::Bold, field)
        .then(Ink::Plain, &finding.message);
    let mut page = vec![first];
    if !finding.hint.is_empty() {
        page.push(Line::of(Ink::Dim, format!("    do: {}", finding.hint)));
    }
    page
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
