//! `explain`: what is declared, what the run goes by, what is in force, and the one thing that holds it. Pure.

use serde::Serialize;
use serde_json::Value;
use stoker_api::ModelRoute;
use stoker_api::deployment::{Rollout, Strategy};
use stoker_api::names::conditions;

use crate::picture::{Hold, Look, Picture, does, is_gated, lasting, read};
use crate::trouble::Trouble;

/// The answer of `explain`; its serialised form is the stable JSON of `explain -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The phase.
    pub phase: String,
    /// The operator's sentence.
    pub message: String,
    /// What the spec wants.
    pub declared: Plan,
    /// What the run goes by; none without a run.
    pub pinned: Option<Plan>,
    /// Fields in which the two differ.
    pub differences: Vec<Difference>,
    /// What routers do; none before there is a table.
    pub effective: Option<Effective>,
    /// What the spec wants and does not run, and why.
    pub against_the_spec: Option<String>,
    /// The one thing that is waited for.
    pub hold: Option<Hold>,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The revision that it is about.
    pub revision: Option<String>,
    /// The run, where there is one.
    pub run: Option<u64>,
    /// Digest of the plan, as the status has it.
    pub digest: Option<String>,
    /// The steps and what follows them, in words.
    pub steps: Vec<String>,
}

/// A field of the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Its path below `spec.rollout`.
    pub field: String,
    /// In the spec.
    pub declared: Value,
    /// In the plan of the run.
    pub pinned: Value,
}

/// What routers do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// The run that the table belongs to.
    pub run: u64,
    /// Its step.
    pub step: u32,
    /// Who gets how much.
    pub shares: Vec<Share>,
    /// What routers cut by themselves.
    pub cuts: Vec<String>,
    /// There are no pods, since no requests came.
    pub asleep: bool,
    /// Whether all routers serve this table; none: the status does not say.
    pub verified: Option<bool>,
    /// Why not.
    pub because: Option<String>,
}

/// A share of the traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The revision.
    pub revision: String,
    /// Percent, by the table.
    pub percent: f64,
    /// Percent of stable's requests that are copied to it.
    pub copies_percent: Option<f64>,
    /// The routers cut it: it gets nothing.
    pub cut: bool,
}

/// Explains what was looked at.
pub fn explain(look: &Look, picture: &Picture) -> Result<Explanation, Trouble> {
    let md = read(&look.object)?;
    let status = md.status.clone().unwrap_or_default();
    let declared = md.spec.resolved_rollout();
    let run = status.run.as_ref();
    let pinned = run.and_then(|run| run.plan.clone());
    let plan = |plan: &Rollout, at: &str| described(plan, look.object.pointer(at));
    let differences = match &pinned {
        Some(pinned) => differences(&declared, pinned),
        None => Vec::new(),
    };
    let verified = status.conditions.iter().find(|condition| condition.type_ == conditions::TRAFFIC_VERIFIED);
    // The digest is the operator's: of a spec that it has not read it has none.
    let known = run.filter(|_| !picture.is_behind());
    let drift = known.and_then(|run| run.plan_drift.clone().or(run.plan_digest.clone()));
    Ok(Explanation {
        name: picture.name.clone(),
        namespace: picture.namespace.clone(),
        phase: picture.phase.clone(),
        message: picture.message.clone(),
        declared: Plan {
            revision: status.target.clone(),
            run: None,
            digest: drift,
            steps: plan(&declared, "/spec/rollout"),
        },
        pinned: run.zip(pinned).map(|(run, pinned)| Plan {
            revision: status.candidate.clone(),
            run: Some(run.number),
            digest: run.plan_digest.clone(),
            steps: plan(&pinned, "/status/run/plan"),
        }),
        differences,
        effective: look.route.as_ref().map(|route| Effective {
            verified: verified.map(|condition| condition.status == "True"),
            because: verified
                .filter(|condition| condition.status != "True")
                .map(|condition| condition.message.clone()),
            ..effective(route)
        }),
        against_the_spec: against(picture),
        hold: picture.hold.clone(),
    })
}

/// The machine-readable "Git wants X, runs Y, because Z", in words.
fn against(picture: &Picture) -> Option<String> {
    let target = picture.target.as_ref()?;
    if let Some(pin) = &picture.pin {
        return Some(format!(
            "the spec wants {}; {} runs, because {}",
            pin.instead_of, pin.revision, pin.because
        ));
    }
    let rejected = picture.rejected.iter().find(|one| one.revision == *target)?;
    let stable = picture.revisions.first().map_or("nothing", |stable| stable.name.as_str());
    (stable != target).then(|| {
        format!("the spec wants {target}; {stable} runs, because it was taken back: {}", rejected.because)
    })
}

fn effective(route: &ModelRoute) -> Effective {
    let spec = &route.spec;
    let cuts = route.status.iter().flat_map(|status| &status.cuts).filter(|cut| cut.run == spec.run);
    let cuts: Vec<_> = cuts.collect();
    let percent = |ppm: u32| f64::from(ppm) / 1e4;
    let copies = |revision: &str| {
        spec.mirrors.iter().find(|mirror| mirror.revision == revision).map(|mirror| percent(mirror.ppm))
    };
    let arms = spec.main_rule().map(|rule| rule.arms.as_slice()).unwrap_or_default();
    let mut shares: Vec<_> = arms
        .iter()
        .map(|arm| Share {
            revision: arm.revision.clone(),
            percent: percent(arm.ppm),
            copies_percent: copies(&arm.revision),
            cut: cuts.iter().any(|cut| cut.revision == arm.revision),
        })
        .collect();
    // A shadow is no arm.
    for mirror in &spec.mirrors {
        if shares.iter().all(|share| share.revision != mirror.revision) {
            let revision = mirror.revision.clone();
            shares.push(Share {
                copies_percent: Some(percent(mirror.ppm)),
                revision,
                percent: 0.0,
                cut: false,
            });
        }
    }
    Effective {
        run: spec.run,
        step: spec.step,
        shares,
        cuts: cuts
            .iter()
            .map(|cut| format!("{}: {} (by router {})", cut.revision, cut.because, cut.by))
            .collect(),
        asleep: spec.asleep.is_some(),
        verified: None,
        because: None,
    }
}

/// A plan in words, one line for each step. `written` is the same plan as it is written: gates are read there.
fn described(plan: &Rollout, written: Option<&Value>) -> Vec<String> {
    let gated = |index: usize| {
        written.and_then(|plan| plan.get("steps")).and_then(|steps| steps.get(index)).is_some_and(is_gated)
    };
    let resolved = plan.plan();
    let declared = plan.steps();
    let steps = declared.iter().zip(&resolved.steps).enumerate();
    let before = match plan.strategy() {
        Strategy::Canary => None,
        Strategy::BlueGreen => Some("BlueGreen: it answers at its preview address, then everywhere at once"),
        Strategy::Recreate => {
            Some("Recreate: stable's pods go, then its own start; meanwhile nobody is served")
        }
    };
    let mut lines: Vec<String> = before.iter().map(|&line| line.to_owned()).collect();
    let steps: Vec<_> = steps
        .map(|(index, (declared, step))| {
            let lasts = step.lasts.map_or_else(
                || "until `resume`".to_owned(),
                |lasts| format!("for {}", lasting(lasts.as_secs())),
            );
            let gate = if gated(index) { ", once approved" } else { "" };
            format!("{} {}, {lasts}{gate}", index + 1, does(declared))
        })
        .collect();
    lines.extend(steps);
    let gate = if written.is_some_and(is_gated) { ", once approved" } else { "" };
    lines.push(if resolved.guard.is_zero() {
        format!("promotion{gate}, without a guard")
    } else {
        let (lasts, holdback) = (lasting(resolved.guard.as_secs()), resolved.holdback);
        let rest = if holdback > 0 { format!(" with {holdback} %") } else { String::new() };
        format!("promotion{gate}, then a guard of {lasts}{rest}")
    });
    lines
}

/// Fields of two plans that differ, leaf by leaf.
fn differences(declared: &Rollout, pinned: &Rollout) -> Vec<Difference> {
    let value = |plan: &Rollout| serde_json::to_value(plan).unwrap_or_default();
    let mut found = Vec::new();
    walk("", &value(declared), &value(pinned), &mut found);
    found
}

fn walk(path: &str, declared: &Value, pinned: &Value, found: &mut Vec<Difference>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (declared, pinned) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<_> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                walk(&below(key), &at(one), &at(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                let at = |list: &Vec<Value>| list.get(index).cloned().unwrap_or_default();
                walk(&format!("{path}[{index}]"), &at(one), &at(other), found);
            }
        }
        (one, other) if one != other => {
            found.push(Difference { field: path.to_owned(), declared: one.clone(), pinned: other.clone() });
        }
        _ => {}
    }
}
