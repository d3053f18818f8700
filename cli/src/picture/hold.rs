//! The one thing that a ModelDeployment waits for, and the command that would release it. Pure.
//!
//! The operator's sentence says it in words; this says which kind of thing it is, so that the way out can be named.

use serde::Serialize;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::deployment::status::Room;
use stoker_api::names::{conditions, labels};

use super::Picture;

/// The one thing that is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// One word of a closed list: Spec, Request, Conflict, Approval, Paused, Pause, Alert, Metric, Fleet, Turn, Routers, Operator, Pods,
    /// Evidence, Harm, Time, Guard, TakenBack, Pinned, Unready.
    pub kind: &'static str,
    /// In a sentence.
    pub what: String,
    /// What would release it, best first; empty: time alone.
    pub release: Vec<Release>,
}

/// A way on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The command.
    pub command: String,
    /// What it does.
    pub does: &'static str,
}

/// Commands for one ModelDeployment.
struct Ways<'a> {
    picture: &'a Picture,
}

impl Ways<'_> {
    fn stoker(&self, words: &str, does: &'static str) -> Release {
        let (verb, flags) = words.split_once(' ').unwrap_or((words, ""));
        let command =
            format!("kubectl stoker -n {} {verb} {} {flags}", self.picture.namespace, self.picture.name);
        Release { command: command.trim_end().to_owned(), does }
    }

    fn kubectl(&self, words: &str, does: &'static str) -> Release {
        Release { command: format!("kubectl -n {} {words}", self.picture.namespace), does }
    }

    fn promote(&self) -> Release {
        self.stoker("promote", "ends the step now")
    }

    fn abort(&self) -> Release {
        self.stoker("abort", "ends the run; stable gets all the traffic")
    }

    fn retry(&self) -> Release {
        self.stoker("retry", "tries the spec's revision again")
    }

    fn logs(&self, revision: &str) -> Release {
        self.kubectl(&format!("logs -l {}={revision} --tail=50", labels::REVISION), "shows why")
    }
}

/// What holds it; none where nothing is waited for.
pub fn of(picture: &Picture, status: &ModelDeploymentStatus) -> Option<Hold> {
    let ways = Ways { picture };
    let hold = |kind, what: &str, release| Some(Hold { kind, what: what.to_owned(), release });
    if picture.is_behind() {
        let what = format!(
            "the operator has not read generation {} of the spec yet; all that is shown speaks of generation {}",
            picture.generation, picture.observed_generation
        );
        let operator = "kubectl get pods -A -l stoker.dev/part=operator".to_owned();
        return hold(
            "Spec",
            &what,
            vec![Release { command: operator, does: "shows whether the operator runs" }],
        );
    }
    let message = picture.message.as_str();
    match picture.phase.as_str() {
        "Conflicted" => return hold("Conflict", message, vec![]),
        "Pending" | "Progressing" => {}
        phase => return settled(picture, phase, &ways),
    }
    // Whatever goes on says so, unless the operator failed: then all figures are those of before.
    if condition(status, conditions::PROGRESSING) == Some("False") {
        let command = format!("kubectl describe md -n {} {}", picture.namespace, picture.name);
        return hold("Operator", message, vec![Release { command, does: "shows since when" }]);
    }
    let candidate = status.candidate.as_deref().unwrap_or_default();
    let Some(run) = &picture.run else {
        let kind = if message.contains("is frozen") {
            "Fleet"
        } else if message.contains("waits for its turn") {
            "Turn"
        } else {
            "Pods"
        };
        return hold(kind, message, fleet(kind));
    };
    if let Some(gate) = &run.awaits {
        let what = format!("{} waits for an approval", named(gate));
        let approve = ways.stoker("approve --reason TEXT", "gives it");
        return hold("Approval", &what, vec![approve, ways.abort()]);
    }
    if let Some(by) = &run.paused_by {
        return hold("Paused", &format!("paused by {by}"), vec![ways.stoker("resume", "goes on")]);
    }
    // One that fired before the candidate had traffic is not about it: the sentence names those that count.
    let alerts = || picture.alerts.iter().any(|alert| message.contains(&alert.alert));
    if message.contains("alerts cannot be read") || (message.contains("holds") && alerts()) {
        return hold("Alert", message, vec![ways.promote(), ways.abort()]);
    }
    if let Some(cut) = picture.revisions.iter().find_map(|revision| revision.cut.as_ref()) {
        let what =
            format!("the routers gave it no more traffic, and the operator has not taken it back yet: {cut}");
        return hold("Harm", &what, vec![ways.abort(), ways.logs(candidate)]);
    }
    if message.contains("it is not taken back yet") || message.contains("rollback.mode is Observe") {
        return hold("Harm", message, vec![ways.abort(), ways.logs(candidate)]);
    }
    if condition(status, conditions::TRAFFIC_VERIFIED) == Some("False") {
        let routers = ways.kubectl("get pods -l stoker.dev/part=router", "shows the routers");
        return hold("Routers", message, vec![routers]);
    }
    if run.step == 0 && message.contains("is frozen") {
        return hold("Fleet", message, fleet("Fleet"));
    }
    if run.room == Room::Leaving {
        let stable = status.stable.as_deref().unwrap_or_default();
        let pods =
            ways.kubectl(&format!("get pods -l {}={stable}", labels::REVISION), "shows those that still go");
        return hold("Pods", message, vec![pods, ways.abort()]);
    }
    if run.step == 0 || run.direct || message.contains(&format!("pods of {candidate} are ready")) {
        return hold("Pods", message, vec![ways.logs(candidate)]);
    }
    if message.contains("is frozen") {
        return hold("Fleet", message, fleet("Fleet"));
    }
    let step = run.steps.iter().find(|step| step.number == run.step);
    let resumed = status.run.as_ref().is_some_and(|run| run.resumed);
    if step.is_some_and(|step| step.lasts_seconds.is_none()) && !resumed {
        return hold("Pause", message, vec![ways.stoker("resume", "ends the pause")]);
    }
    let over = step.is_some_and(|step| step.spent_seconds >= step.lasts_seconds);
    if !over {
        return hold("Time", message, vec![ways.promote()]);
    }
    let metric = picture.metrics.iter().find(|metric| !metric.dry_run && metric.verdict != "Pass");
    if let Some(metric) = metric {
        let what = format!("metric {}: {}: {}", metric.name, metric.verdict, metric.message);
        return hold("Metric", &what, vec![ways.promote(), ways.abort()]);
    }
    hold("Evidence", message, vec![ways.promote(), ways.abort()])
}

/// No run is under way.
fn settled(picture: &Picture, phase: &str, ways: &Ways<'_>) -> Option<Hold> {
    let message = picture.message.clone();
    if let Some(request) = picture.request.as_ref().filter(|request| !request.handled) {
        let what = format!("request {:?} is not handled yet", request.value);
        return Some(Hold { kind: "Request", what, release: vec![] });
    }
    if let Some(pin) = &picture.pin {
        let what = format!("the spec wants {}, and {} runs: {}", pin.instead_of, pin.revision, pin.because);
        return Some(Hold { kind: "Pinned", what, release: vec![ways.retry()] });
    }
    let target = picture.target.as_deref().unwrap_or_default();
    let taken_back = picture.rejected.iter().find(|rejected| rejected.revision == target);
    if let Some(rejected) = taken_back {
        let what = format!("{target} was taken back: {}", rejected.because);
        let undo = "kubectl edit or Git: change spec.model or spec.runtime".to_owned();
        let change = Release { command: undo, does: "makes another revision, which is tried" };
        return Some(Hold { kind: "TakenBack", what, release: vec![ways.retry(), change] });
    }
    if phase == "Degraded" {
        let describe = ways.kubectl(&format!("describe md {}", picture.name), "shows its Events");
        return Some(Hold { kind: "Unready", what: message, release: vec![describe] });
    }
    let guard = picture.guard.as_ref()?;
    let undo = ways.stoker("undo", "goes back to the previous revision");
    let left = super::lasting(guard.of_seconds.saturating_sub(guard.seconds));
    let what = format!("serves, and is compared with the previous revision for {left} more");
    Some(Hold { kind: "Guard", what, release: vec![undo] })
}

fn named(gate: &str) -> String {
    if gate == "promotion" { "the promotion".to_owned() } else { gate.to_owned() }
}

fn fleet(kind: &str) -> Vec<Release> {
    let freeze = "kubectl -n stoker-system delete configmap stoker-fleet".to_owned();
    let thaw = Release { command: freeze, does: "lets the whole fleet go on: ask whoever froze it first" };
    if kind == "Fleet" { vec![thaw] } else { vec![] }
}

fn condition<'a>(status: &'a ModelDeploymentStatus, type_: &str) -> Option<&'a str> {
    status.conditions.iter().find(|condition| condition.type_ == type_).map(|found| found.status.as_str())
}
