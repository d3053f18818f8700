//! `history`: runs that ended, and revisions that are kept.

use super::text::{Ink, Line, Page, Paper, told_table};
use crate::history::{Ended, History, Kept};
use crate::picture::lasting;

/// The page of `history`.
pub fn history(history: &History, paper: Paper) -> Page {
    let head = |words: &[&str]| words.iter().map(|word| Line::of(Ink::Dim, word)).collect::<Vec<_>>();
    let mut page = Page::new();
    if history.runs.is_empty() {
        page.push(Line::of(Ink::Dim, "no run has ended yet"));
    } else {
        let mut rows = vec![head(&["RUN", "REVISION", "OUTCOME", "AT", "MESSAGE"])];
        rows.extend(history.runs.iter().map(ended));
        page.extend(told_table(rows, paper));
    }
    page.push(Line::default());
    if history.revisions.is_empty() {
        page.push(Line::of(Ink::Dim, "no revision is kept"));
        return page;
    }
    let mut words = vec!["REVISION", "NUMBER", "UNDO", "AGE", "MODEL"];
    if paper.wide {
        words.push("DIGEST");
    }
    words.push("NOTE");
    let mut rows = vec![head(&words)];
    rows.extend(history.revisions.iter().map(|revision| kept(revision, paper.wide)));
    page.extend(told_table(rows, paper));
    let undo =
        format!("undo with: kubectl stoker -n {} undo {} --to REVISION", history.namespace, history.name);
    page.push(Line::of(Ink::Dim, undo));
    page
}

fn ended(run: &Ended) -> Vec<Line> {
    let ink = match run.outcome.as_str() {
        "Promoted" => Ink::Good,
        "RolledBack" => Ink::Bad,
        _ => Ink::Warn,
    };
    // Seconds are enough for people.
    let at = run.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    vec![
        Line::plain(run.run.to_string()),
        Line::of(Ink::Bold, &run.revision),
        Line::of(ink, &run.outcome),
        Line::plain(at),
        Line::plain(&run.message),
    ]
}

fn kept(revision: &Kept, wide: bool) -> Vec<Line> {
    let age = revision.age_seconds.and_then(|age| u64::try_from(age).ok()).map(lasting).unwrap_or_default();
    let undo = if revision.undo { Line::of(Ink::Good, "yes") } else { Line::of(Ink::Dim, "no") };
    let mut row = vec![
        Line::of(Ink::Bold, &revision.name),
        Line::plain(revision.number.to_string()),
        undo,
        Line::plain(age),
        Line::plain(revision.uri.as_deref().unwrap_or("-")),
    ];
    if wide {
        row.push(Line::of(Ink::Dim, revision.digest.as_deref().unwrap_or("-")));
    }
    row.push(Line::plain(&revision.note));
    row
}
