//! `explain`: declared, pinned, effective, and what holds it.

use super::text::{Ink, Line, Page, Paper, table, told};
use super::tree::holds;
use crate::explain::{Effective, Explanation, Plan};

/// The page of `explain`.
pub fn explain(of: &Explanation, paper: Paper) -> Page {
    let head = Line::of(Ink::Bold, format!("{}/{}", of.namespace, of.name))
        .then(Ink::Plain, "  ")
        .then(Ink::of_phase(&of.phase), &of.phase);
    let mut page = vec![head];
    page.extend(told("Message", Ink::Plain, &of.message, paper));
    page.extend(plan("Declared", "the spec wants", &of.declared));
    match &of.pinned {
        Some(pinned) if of.differences.is_empty() => {
            let run = pinned.run.unwrap_or_default();
            page.push(heading("Pinned").then(Ink::Plain, format!("run {run} goes by the same plan")));
        }
        Some(pinned) => {
            let run = pinned.run.unwrap_or_default();
            page.extend(plan(
                "Pinned",
                &format!("run {run} goes by the plan that it started with, for"),
                pinned,
            ));
            page.push(Line::of(Ink::Warn, "           the plans differ; `repin` takes up the spec's:"));
            let rows = of.differences.iter().map(|one| {
                vec![
                    Line::plain("            "),
                    Line::plain(&one.field),
                    Line::of(Ink::Dim, format!("declared {}", one.declared)),
                    Line::of(Ink::Dim, format!("pinned {}", one.pinned)),
                ]
            });
            page.extend(table(rows.collect()));
        }
        None => page.push(heading("Pinned").then(Ink::Dim, "no run is under way")),
    }
    match &of.effective {
        Some(effective) => page.extend(in_force(effective, paper)),
        None => page.push(heading("Effective").then(Ink::Dim, "no table was written yet: nothing is served")),
    }
    if let Some(against) = &of.against_the_spec {
        page.extend(told("But", Ink::Bad, against, paper));
    }
    match &of.hold {
        Some(hold) => page.extend(holds(hold, &of.message, paper)),
        None => page.push(heading("Waits for").then(Ink::Good, "nothing")),
    }
    page
}

fn heading(text: &str) -> Line {
    Line::of(Ink::Bold, text).padded(super::text::HEADING)
}

fn plan(name: &str, about: &str, plan: &Plan) -> Page {
    let revision = plan.revision.as_deref().unwrap_or("a revision that has no name yet");
    let digest = plan.digest.as_ref().map(|digest| format!("  plan {digest}")).unwrap_or_default();
    let mut page = vec![
        heading(name).then(Ink::Plain, format!("{about} ")).then(Ink::Bold, revision).then(Ink::Dim, digest),
    ];
    page.extend(plan.steps.iter().map(|step| Line::plain(format!("             {step}"))));
    page
}

fn in_force(effective: &Effective, paper: Paper) -> Page {
    let verified = match effective.verified {
        Some(true) => Line::of(Ink::Good, "all routers serve it"),
        Some(false) => Line::of(Ink::Warn, "not all routers serve it yet"),
        None => Line::default(),
    };
    let mut page = vec![
        heading("Effective")
            .then(Ink::Plain, format!("the table of run {}, step {}: ", effective.run, effective.step))
            .join(verified),
    ];
    let rows = effective.shares.iter().map(|share| {
        let copies = share.copies_percent.map(|percent| format!("copies of {percent} %")).unwrap_or_default();
        let cut = if share.cut { Line::of(Ink::Bad, "cut: gets nothing") } else { Line::plain(copies) };
        vec![
            Line::plain("           "),
            Line::plain(&share.revision),
            Line::plain(format!("{} %", share.percent)),
            cut,
        ]
    });
    page.extend(table(rows.collect()));
    if effective.asleep {
        page.push(Line::of(
            Ink::Dim,
            "             no pods, as no requests came; the next one brings them back",
        ));
    }
    page.extend(effective.because.iter().flat_map(|why| told("Routers", Ink::Warn, why, paper)));
    page.extend(effective.cuts.iter().flat_map(|cut| told("Cut", Ink::Bad, cut, paper)));
    page
}
