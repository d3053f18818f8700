//! `list`: a table of ModelDeployments.

use super::text::{Ink, Line, Page, Paper, table};
use crate::picture::{Picture, Role, lasting};

/// The table of `list`. Namespaces are shown where there may be several.
pub fn list(pictures: &[Picture], everywhere: bool, paper: Paper) -> Page {
    let mut head = vec!["NAME", "PHASE", "STEP", "WEIGHT", "VERDICT", "READY", "AGE", "WAITS FOR"];
    if everywhere {
        head.insert(0, "NAMESPACE");
    }
    if paper.wide {
        head.extend(["STABLE", "CANDIDATE", "MESSAGE"]);
    }
    let mut rows = vec![head.into_iter().map(|word| Line::of(Ink::Dim, word)).collect()];
    rows.extend(pictures.iter().map(|picture| row(picture, everywhere, paper.wide)));
    table(rows)
}

fn row(picture: &Picture, everywhere: bool, wide: bool) -> Vec<Line> {
    let verdict = picture.verdict.as_ref();
    let age = picture.age_seconds.and_then(|age| u64::try_from(age).ok()).map(lasting);
    let weight = picture.weight.map(|weight| format!("{weight} %"));
    let of_role = |role| picture.revisions.iter().find(|one| one.role == role).map(|one| one.name.as_str());
    let mut row = vec![
        Line::of(Ink::Bold, &picture.name),
        Line::of(Ink::of_phase(&picture.phase), &picture.phase),
        or_none(picture.step.as_deref()),
        or_none(weight.as_deref()),
        verdict
            .map_or_else(|| or_none(None), |verdict| Line::of(Ink::of_verdict(&verdict.word), &verdict.word)),
        or_none(picture.ready.as_deref()),
        or_none(age.as_deref()),
        or_none(picture.hold.as_ref().map(|hold| hold.kind)),
    ];
    if everywhere {
        row.insert(0, Line::plain(&picture.namespace));
    }
    if wide {
        row.extend([Role::Stable, Role::Candidate].map(|role| or_none(of_role(role))));
        row.push(Line::plain(&picture.message));
    }
    row
}

fn or_none(text: Option<&str>) -> Line {
    text.map_or_else(|| Line::of(Ink::Dim, "-"), Line::plain)
}
