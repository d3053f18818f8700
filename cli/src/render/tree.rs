//! `get`: a ModelDeployment as a tree, its verdict, and the one thing that holds it.

use stoker_api::deployment::status::Room;
use stoker_api::deployment::{ArmEvidence, Strategy};
use stoker_api::names::PREVIEW_SUFFIX;

use super::text::{HEADING, Ink, Line, Page, Paper, fits, table, told, wrap};
use crate::picture::{
    Hold, Metric, Picture, Place, PodLine, Release, Revision, Role, Run, Step, Verdict, lasting,
};

/// The screen of `get`.
pub fn tree(picture: &Picture, paper: Paper) -> Page {
    let mut page = vec![head(picture)];
    page.extend(branches(picture, paper));
    page.extend(
        told("Message", Ink::Plain, &picture.message, paper)
            .into_iter()
            .filter(|_| !picture.message.is_empty()),
    );
    // Before the figures: a low terminal shows the beginning.
    page.extend(picture.hold.iter().flat_map(|hold| holds(hold, &picture.message, paper)));
    page.extend(requests(picture, paper));
    if let Some(verdict) = &picture.verdict {
        page.extend(figures(verdict));
    }
    page.extend(metrics(&picture.metrics, paper));
    page.extend(alerts(picture, paper));
    page.extend(picture.notes.iter().flat_map(|note| told("Not shown", Ink::Dim, note, paper)));
    page
}

fn head(picture: &Picture) -> Line {
    let age = picture.age_seconds.and_then(|age| u64::try_from(age).ok()).map(lasting);
    let generation = if picture.is_behind() {
        format!("  generation {}, of which {} is observed", picture.generation, picture.observed_generation)
    } else {
        format!("  generation {}", picture.generation)
    };
    let age = age.map(|age| format!(", {age} old")).unwrap_or_default();
    let ink = if picture.is_behind() { Ink::Warn } else { Ink::Dim };
    Line::of(Ink::Bold, format!("{}/{}", picture.namespace, picture.name))
        .then(Ink::Plain, "  ")
        .then(Ink::of_phase(&picture.phase), &picture.phase)
        .then(ink, generation)
        .then(Ink::Dim, age)
}

/// Revisions with their pods, then the run with its steps.
fn branches(picture: &Picture, paper: Paper) -> Page {
    let mut branches: Vec<(Line, Page)> = Vec::new();
    let lines = table(picture.revisions.iter().map(revision).collect());
    for (revision, line) in picture.revisions.iter().zip(lines) {
        let shown = revision.pods.iter().filter(|pod| paper.wide || is_telling(pod));
        branches.push((line, table(shown.map(pod).collect())));
    }
    if let Some(run) = &picture.run {
        branches.push((heading(&picture.name, run), steps(run)));
    } else if let Some(guard) = &picture.guard {
        let line = Line::of(Ink::Bold, "guard")
            .then(Ink::Plain, format!("  {} of {}", lasting(guard.seconds), lasting(guard.of_seconds)))
            .then(Ink::Dim, kept(", ", guard.holdback, "the previous revision"));
        branches.push((line, Page::new()));
    }
    let last = branches.len().saturating_sub(1);
    let mut page = Page::new();
    for (at, (line, below)) in branches.into_iter().enumerate() {
        let (fork, trunk) = if at == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        page.push(Line::of(Ink::Dim, fork).join(line));
        let end = below.len().saturating_sub(1);
        for (at, line) in below.into_iter().enumerate() {
            let fork = if at == end { "└─ " } else { "├─ " };
            page.push(Line::of(Ink::Dim, format!("{trunk}{fork}")).join(line));
        }
    }
    page
}

fn revision(revision: &Revision) -> Vec<Line> {
    let sizes = match (revision.ready, revision.wanted) {
        (Some(ready), Some(wanted)) => {
            let ink = if ready >= wanted { Ink::Good } else { Ink::Warn };
            Line::of(ink, format!("{ready}/{wanted} ready"))
        }
        _ => Line::of(Ink::Dim, "no pods"),
    };
    let mut gets = Vec::new();
    if let Some(percent) = revision.percent {
        gets.push(format!("{} %", trimmed(percent)));
    }
    if let Some(percent) = revision.copies_percent {
        gets.push(format!("copies of {} %", trimmed(percent)));
    }
    if let Some(kept) = revision.kept_seconds {
        gets.push(format!("kept for {}", lasting(kept)));
    }
    let mut gets = Line::plain(gets.join(", "));
    if revision.cut.is_some() {
        gets = gets.then(Ink::Bad, "  cut by the routers");
    }
    let ink = if revision.role == Role::Leaving { Ink::Dim } else { Ink::Plain };
    vec![Line::of(ink, revision.role.as_str()), Line::of(Ink::Bold, &revision.name), sizes, gets]
}

/// A pod that is worth a line of its own.
fn is_telling(pod: &PodLine) -> bool {
    !pod.ready || pod.restarts > 0
}

fn pod(pod: &PodLine) -> Vec<Line> {
    let ink = if pod.ready { Ink::Good } else { Ink::Warn };
    let age = pod.age_seconds.and_then(|age| u64::try_from(age).ok()).map(lasting).unwrap_or_default();
    let restarts = match pod.restarts {
        0 => Line::default(),
        1 => Line::of(Ink::Warn, "1 restart"),
        more => Line::of(Ink::Warn, format!("{more} restarts")),
    };
    let state =
        if pod.ready || pod.state != "Running" { pod.state.clone() } else { "Running, not ready".to_owned() };
    vec![Line::plain(&pod.name), Line::of(ink, state), Line::of(Ink::Dim, age), restarts]
}

fn heading(name: &str, run: &Run) -> Line {
    let line = Line::of(Ink::Bold, format!("run {}", run.number));
    let line = match (&run.paused_by, run.direct) {
        (Some(by), _) => line.then(Ink::Warn, format!("  paused by {by}")),
        (None, _) if run.strategy == Strategy::Recreate => match run.room {
            Room::Taken => line.then(Ink::Plain, "  Recreate: stable's pods go first"),
            Room::Leaving => line.then(Ink::Bad, "  Recreate: stable's pods go, nobody is served"),
            Room::Free => line.then(Ink::Bad, "  Recreate: stable's pods are gone, the candidate's start"),
        },
        (None, true) => line.then(Ink::Plain, "  promoted as soon as its pods are ready"),
        (None, false) if run.strategy == Strategy::BlueGreen => line.then(
            Ink::Plain,
            format!("  BlueGreen: at http://{name}{PREVIEW_SUFFIX}, then all of the traffic"),
        ),
        (None, false) => line,
    };
    if run.plan_drift.is_some() {
        line.then(Ink::Warn, "  by the plan it started with; `repin` takes up the spec's")
    } else {
        line
    }
}

/// The steps, and the promotion and the guard after them.
fn steps(run: &Run) -> Page {
    let mut rows: Vec<_> = run.steps.iter().map(|one| step(one, run)).collect();
    let gate = run
        .promotion
        .as_ref()
        .map(|gate| approval(gate.approved_by.as_deref(), run.awaits.as_deref() == Some("promotion")));
    let ahead = |what, time: Line, more: Line| vec![Line::of(Ink::Dim, "○"), Line::plain(what), time, more];
    rows.push(ahead("promotion", Line::default(), gate.unwrap_or_default()));
    // A row of its own: beside the promotion it would push the approval out of a narrow terminal.
    if let Some(guard) = &run.then {
        let control = kept("", guard.holdback, "stable");
        rows.push(ahead("guard", Line::of(Ink::Dim, lasting(guard.of_seconds)), Line::of(Ink::Dim, control)));
    }
    table(rows)
}

/// What the control of a guard keeps, if anything.
fn kept(before: &str, holdback: u32, by: &str) -> String {
    if holdback > 0 { format!("{before}with {holdback} % on {by}") } else { String::new() }
}

fn step(step: &Step, run: &Run) -> Vec<Line> {
    let (sign, ink) = match step.place {
        Place::Done => (Line::of(Ink::Good, "✔"), Ink::Dim),
        Place::Current => (Line::of(Ink::Warn, "▶"), Ink::Bold),
        Place::Ahead => (Line::of(Ink::Dim, "○"), Ink::Plain),
    };
    let lasts = step.lasts_seconds.map_or_else(|| "until `resume`".to_owned(), lasting);
    let time = match step.spent_seconds.zip(step.lasts_seconds) {
        Some((spent, of)) => format!("{} of {}", lasting(spent), lasting(of)),
        None => lasts,
    };
    let waits = run.awaits.as_deref() == Some(format!("step {}", step.number).as_str());
    let gate = if step.gated { approval(step.approved_by.as_deref(), waits) } else { Line::default() };
    vec![
        sign,
        Line::of(ink, format!("{} {}", step.number, step.does)),
        Line::of(if ink == Ink::Bold { Ink::Plain } else { Ink::Dim }, time),
        gate,
    ]
}

fn approval(by: Option<&str>, waits: bool) -> Line {
    match by {
        Some(by) => Line::of(Ink::Good, format!("approved by {by}")),
        None if waits => Line::of(Ink::Warn, "waits for an approval"),
        None => Line::of(Ink::Dim, "needs an approval"),
    }
}

/// The verdict and the figures of both arms.
pub fn figures(verdict: &Verdict) -> Page {
    let line =
        Line::of(Ink::Bold, "Verdict").padded(HEADING).then(Ink::of_verdict(&verdict.word), &verdict.word);
    let Some(evidence) = &verdict.evidence else { return vec![line] };
    let alarm = evidence.alarm_log10.map(|alarm| format!(", the alarm is at {alarm:.1}")).unwrap_or_default();
    let line = line.then(Ink::Plain, format!("   evidence of harm 10^{:.1}{alarm}", evidence.harm_log10));
    let head = ["", "REQUESTS", "FAILED", "SLOW", "P99"].map(|word| Line::of(Ink::Dim, word)).to_vec();
    let rows = vec![head, arm(&verdict.of, &evidence.candidate), arm(&verdict.against, &evidence.stable)];
    let widths: Vec<usize> =
        (0..5).map(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or_default()).collect();
    let mut page = vec![line];
    for row in rows {
        let cells = row.into_iter().enumerate().map(|(column, cell)| {
            if column == 0 {
                cell.padded(widths[0])
            } else {
                Line::plain("  ").join(cell.right(widths[column]))
            }
        });
        page.push(cells.fold(Line::plain("  "), Line::join));
    }
    if let Some((compared, agreed)) = evidence.compared.zip(evidence.agreed) {
        page.push(Line::plain(format!(
            "  of {} answers that were compared, {} agree",
            counted(compared),
            counted(agreed)
        )));
    }
    if let Some(limit) = verdict.slow_above_ms {
        page.push(Line::of(Ink::Dim, format!("  slow is what takes more than {} ms", rounded(limit))));
    }
    page
}

fn arm(name: &str, arm: &ArmEvidence) -> Vec<Line> {
    let p99 = arm.p99_ms.map_or_else(|| "-".to_owned(), |p99| format!("{} ms", rounded(p99)));
    let numbers = [arm.requests, arm.errors, arm.slow].map(|number| Line::plain(counted(number)));
    let mut row = vec![Line::plain(name)];
    row.extend(numbers);
    row.push(Line::plain(p99));
    row
}

/// Metrics of the user's own.
pub fn metrics(metrics: &[Metric], paper: Paper) -> Page {
    let mut page = Page::new();
    for (at, metric) in metrics.iter().enumerate() {
        let value = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut text = format!("{} {}", metric.name, metric.verdict);
        if let Some(measured) = &metric.value {
            text = format!("{text}: {}", value(measured));
        }
        if let Some(other) = &metric.against {
            text = format!("{text} against {}", value(other));
        }
        if metric.dry_run {
            text.push_str(" (dry run)");
        }
        if !metric.message.is_empty() {
            text = format!("{text}: {}", metric.message);
        }
        let ink = if metric.dry_run { Ink::Dim } else { Ink::of_verdict(&metric.verdict) };
        page.extend(told(if at == 0 { "Metrics" } else { "" }, ink, &text, paper));
    }
    page
}

fn alerts(picture: &Picture, paper: Paper) -> Page {
    let alerts = picture.alerts.iter().enumerate();
    alerts
        .flat_map(|(at, alert)| {
            let since = alert.since.as_ref().map(|since| format!(", since {since}")).unwrap_or_default();
            let text = format!("{} ({}{since}): {}", alert.alert, alert.action, alert.message);
            // Silenced, or not about this candidate.
            let ink = if alert.action == "Nothing" { Ink::Dim } else { Ink::Bad };
            told(if at == 0 { "Alerts" } else { "" }, ink, &text, paper)
        })
        .collect()
}

/// A request that is not handled, and approvals with their reasons.
fn requests(picture: &Picture, paper: Paper) -> Page {
    let mut page = Page::new();
    let given = picture.run.iter().flat_map(|run| &run.approvals);
    for (at, approval) in given.enumerate() {
        let text = format!("{} by {}: {}", approval.gate, approval.by, approval.reason);
        page.extend(told(if at == 0 { "Approved" } else { "" }, Ink::Good, &text, paper));
    }
    if let Some(request) = picture.request.as_ref().filter(|request| !request.handled) {
        let by = request.by.as_ref().map(|by| format!(", by {by}")).unwrap_or_default();
        let text = format!("{:?}{by}: the operator has not handled it yet", request.value);
        page.extend(told("Request", Ink::Warn, &text, paper));
    }
    page
}

/// The one thing that is waited for, with the ways on.
pub fn holds(hold: &Hold, said: &str, paper: Paper) -> Page {
    let mut text = thing(hold.kind).to_owned();
    // The message stands above already.
    if hold.what != said {
        text = format!("{text}: {}", hold.what);
    }
    let mut page = told("Waits for", Ink::Warn, &text, paper);
    page.extend(ways(&hold.release, paper));
    page
}

/// The ways on: commands, and what they do beside them or, where there is no room for that, below. A command that is cut could not
/// be copied.
fn ways(release: &[Release], paper: Paper) -> Page {
    let command = |way: &Release| Line::of(Ink::Bold, &way.command);
    let row = |way| {
        let indent = Line::plain(" ".repeat(HEADING - 2));
        vec![indent, command(way), Line::of(Ink::Dim, way.does)]
    };
    let beside = table(release.iter().map(row).collect());
    if beside.iter().all(|line| fits(line, 0, paper)) {
        return beside;
    }
    let below = |way: &Release| {
        let indent = if fits(&command(way), HEADING, paper) { HEADING } else { 2 };
        let lines = |text: &str, indent: usize, ink| -> Page {
            let room = paper.width.map(|width| width.saturating_sub(indent));
            wrap(text, room).iter().map(|text| Line::plain(" ".repeat(indent)).then(ink, text)).collect()
        };
        [lines(&way.command, indent, Ink::Bold), lines(way.does, indent + 2, Ink::Dim)].concat()
    };
    release.iter().flat_map(below).collect()
}

/// A kind of hold, in words.
fn thing(kind: &str) -> &'static str {
    match kind {
        "Spec" | "Operator" => "the operator",
        "Request" => "the operator to handle a request",
        "Conflict" => "somebody to give way",
        "Approval" => "somebody to approve",
        "Paused" | "Pause" => "somebody to resume it",
        "Alert" => "an alert to end",
        "Metric" => "a metric",
        "Fleet" => "the fleet to be thawed",
        "Turn" => "its turn",
        "Routers" => "the routers",
        "Pods" | "Unready" => "pods",
        "Evidence" => "evidence",
        "Harm" => "somebody to take it back",
        "Time" => "time",
        "Guard" => "the guard to end",
        "TakenBack" => "another revision, or a second try",
        "Pinned" => "another spec, or a second try",
        _ => "something",
    }
}

/// Milliseconds, with one digit behind the point.
fn rounded(millis: f64) -> String {
    trimmed((millis * 10.0).round() / 10.0)
}

/// A number without needless digits behind the point.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1234567` as `1 234 567`.
fn counted(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == head {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
