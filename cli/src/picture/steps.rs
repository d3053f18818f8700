//! The steps of a run: done, current and ahead.

use serde::Serialize;
use stoker_api::deployment::{Rollout, RunStatus, Step as Declared};

use super::gates::Gates;

/// A step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Counted from 1.
    pub number: u32,
    /// `weight 10 %`, `shadow 100 %`, `pause` or `analysis`.
    pub does: String,
    /// Where the run is, seen from here.
    pub place: Place,
    /// How many seconds it lasts, at least; none: until somebody resumes.
    pub lasts_seconds: Option<u64>,
    /// How many seconds the run has spent in it.
    pub spent_seconds: Option<u64>,
    /// It begins with an approval only.
    pub gated: bool,
    /// Who approved it.
    pub approved_by: Option<String>,
}

/// Where a step is, seen from the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Place {
    /// It is over.
    Done,
    /// The run is at it.
    Current,
    /// It is still to come.
    #[default]
    Ahead,
}

/// The steps of a run.
pub fn of(run: &RunStatus, gates: &Gates) -> Vec<Step> {
    let declared = run.plan.as_ref().map(Rollout::steps).unwrap_or_default();
    // Of the plan as decisions are made by it, with the defaults that it has.
    let lasts: Vec<_> = run.plan.as_ref().map(Rollout::plan).unwrap_or_default().steps;
    let step = |(index, declared): (usize, &Declared)| {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let place = match number.cmp(&run.step) {
            // A direct run goes through no steps: where it was asked for in mid-run, those behind are done.
            std::cmp::Ordering::Less => Place::Done,
            std::cmp::Ordering::Equal if !run.direct => Place::Current,
            _ => Place::Ahead,
        };
        Step {
            number,
            does: does(declared),
            place,
            lasts_seconds: lasts.get(index).and_then(|step| step.lasts).map(|lasts| lasts.as_secs()),
            spent_seconds: (place == Place::Current).then_some(run.step_seconds),
            gated: gates.steps.get(index).copied().unwrap_or_default(),
            approved_by: gates.approver(&format!("step {number}")),
        }
    };
    declared.iter().enumerate().map(step).collect()
}

/// What a step does, in words.
pub fn does(step: &Declared) -> String {
    match step {
        Declared { weight: Some(weight), .. } => format!("weight {weight} %"),
        Declared { shadow: Some(percent), min_agreement: Some(least), .. } => {
            format!("shadow {percent} %, {least} % to agree")
        }
        Declared { shadow: Some(percent), .. } => format!("shadow {percent} %"),
        Declared { analysis: Some(_), .. } => "analysis".to_owned(),
        _ => "pause".to_owned(),
    }
}

/// A number of seconds as people write it: `90s`, `10m`, `1h30m`, `3d4h`. At most two units, none of them zero.
pub fn lasting(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let mut text = String::new();
    let mut left = seconds;
    let first = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(3);
    for (name, unit) in units.iter().skip(first).take(2) {
        if left / unit > 0 {
            text.push_str(&(left / unit).to_string());
            text.push_str(name);
        }
        left %= unit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_right() {
        let cases = [
            (0, "0s"),
            (90, "90s"),
            (120, "2m"),
            (125, "2m5s"),
            (3_600, "1h"),
            (5_400, "1h30m"),
            (86_400, "1d"),
            (273_700, "3d4h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(lasting(seconds), text);
        }
    }
}
