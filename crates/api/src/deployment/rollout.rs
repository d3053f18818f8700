//! The wish about change: `spec.rollout` and `spec.rollback`.

use std::borrow::Cow;
use std::time::Duration as StdDuration;

use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stoker_decide::rollout;

use super::analysis::{AlertRule, Approval, Metric};

/// How a new revision takes over. A run keeps the one that it started with; `repin` makes it take up a later one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.strategy) || self.strategy != 'BlueGreen' || !has(self.steps) || self.steps.all(s, !has(s.weight))",
    "rollout.steps: with strategy BlueGreen the candidate gets all of the traffic at once, after the last step; leave weight out and use shadow, pause and analysis"
), validation = (
    "!has(self.strategy) || self.strategy != 'Recreate' || !has(self.steps) || self.steps.size() == 0",
    "rollout.steps: with strategy Recreate the old pods go before the new ones start, so there is nothing to do step by step; leave steps out"
), validation = (
    "(has(self.strategy) && self.strategy != 'Canary') || !has(self.steps) || self.steps.size() == 0 || self.steps.exists(s, has(s.weight) && s.weight > 0)",
    "rollout.steps: without a weight above 0 there is no evidence; give a step a weight"
), validation = (
    "!has(self.strategy) || self.strategy != 'Recreate' || !has(self.capacity) || self.capacity == 'Full'",
    "rollout.capacity: with strategy Recreate one revision at a time has pods, and all of them; leave capacity out"
), validation = (
    "!has(self.strategy) || self.strategy != 'Recreate' || !has(self.guard) || !has(self.guard.holdback) || self.guard.holdback == 0",
    "rollout.guard.holdback: with strategy Recreate the previous revision has no pods that could keep traffic; leave holdback out"
))]
pub struct Rollout {
    /// In which way a new revision takes over. Default: Canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// One after the other; after the last one the candidate is promoted. Empty: it is promoted as soon as its pods are ready.
    /// Default: weights of 10 and 50 percent; with `BlueGreen` an analysis of 60s, with `Recreate` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = (
        "self.filter(s, has(s.weight)).map(s, s.weight).isSorted() && self.all(s, !has(s.weight) || self.exists_one(t, has(t.weight) && t.weight == s.weight))",
        "rollout.steps: each weight must be greater than the one before"
    ))]
    pub steps: Option<Vec<Step>>,
    /// Requests that the candidate (and stable, while it has traffic) must have answered in a step before the step can pass.
    /// Default: as many as are needed to find harm of `analysis.detect` percent with a probability of `analysis.power` percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
    /// What evidence a step needs, and what happens without it.
    #[serde(default)]
    pub analysis: Analysis,
    /// How long the candidate's pods may take to get ready before it is rolled back, at the start and whenever they are lost.
    #[serde(default = "default_progress_deadline")]
    #[x_kube(validation = ("duration(self) >= duration('5s') && duration(self) <= duration('24h')", "rollout.progressDeadline must be between 5s and 24h"))]
    pub progress_deadline: Duration,
    /// The time after a promotion in which stable is still compared with the previous revision.
    #[serde(default)]
    pub guard: Guard,
    /// How many pods revisions have through run and guard. `Full` (default): `spec.replicas` each. `Proportional`: for their shares
    /// of the traffic; a way back then moves traffic as the pods of stable come up again, and everything at once where to wait
    /// would do more harm than overload.
    #[serde(default, skip_serializing_if = "Capacity::is_full")]
    pub capacity: Capacity,
    /// `Required`: the candidate is promoted only once someone asked for `approve`. A first revision, and a way back, wait for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: None,
            steps: None,
            min_requests: None,
            analysis: Analysis::default(),
            progress_deadline: default_progress_deadline(),
            guard: Guard::default(),
            capacity: Capacity::default(),
            approval: None,
        }
    }
}

/// In which way a new revision takes over.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// The candidate gets more of the traffic step by step.
    #[default]
    Canary,
    /// The candidate answers at the address `<name>-preview` alone while its steps last, and then gets all of the traffic at once. The
    /// previous revision keeps its pods for the guard, and for a way back in one change.
    BlueGreen,
    /// For clusters without room for two revisions: the pods of stable go, and only then the candidate's start. Meanwhile nobody is
    /// served; a way back takes as long. Pauses, alerts and approvals hold it before the first pod goes.
    Recreate,
}

impl From<Strategy> for rollout::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Canary => Self::Canary,
            Strategy::BlueGreen => Self::BlueGreen,
            Strategy::Recreate => Self::Recreate,
        }
    }
}

/// How many pods the revisions of a rollout have.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capacity {
    /// Each for the whole demand: a way back is one change of weights.
    #[default]
    Full,
    /// Each for its share of the traffic, at least one. A share grows when its pods are ready; pods go when the lower share is
    /// served everywhere.
    Proportional,
}

impl Capacity {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

impl From<Capacity> for rollout::Capacity {
    fn from(capacity: Capacity) -> Self {
        match capacity {
            Capacity::Full => Self::Full,
            Capacity::Proportional => Self::Proportional,
        }
    }
}

/// One step of a rollout: exactly one of `shadow`, `weight`, `pause` and `analysis`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.shadow), has(self.weight), has(self.pause), has(self.analysis)].filter(x, x).size() == 1",
    "rollout.steps[]: give exactly one of shadow, weight, pause and analysis"
), validation = (
    "!has(self.minAgreement) || has(self.shadow)",
    "rollout.steps[].minAgreement: only answers to copies can be compared; it goes with shadow"
), validation = (
    "!has(self.pause) || !has(self.minRequests)",
    "rollout.steps[].minRequests: a pause gathers no evidence of its own"
))]
pub struct Step {
    /// Percent of the traffic that the candidate gets from here on. 0 is a time to wait, with its pods up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub weight: Option<u32>,
    /// Percent of stable's requests that are copied to the candidate, whose answers reach nobody and are compared with
    /// stable's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub shadow: Option<u32>,
    /// Nothing changes until `duration` is over, or without one until someone asks for `resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Nothing changes; evidence is gathered anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<FreshAnalysis>,
    /// How long the step lasts, at least. Default: 60s; for a pause: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s') && duration(self) <= duration('720h')", "rollout.steps[].duration must be between 1s and 720h"))]
    pub duration: Option<Duration>,
    /// In place of `rollout.minRequests`, for this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
    /// Percent of the compared answers of a shadow step whose labels must agree; below, the candidate is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_agreement: Option<u32>,
    /// `Required`: the step begins only once someone asked for `approve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// A pause: `pause: {}`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {}

/// An analysis: `analysis: {}`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshAnalysis {}

/// What evidence a step needs, and what happens without it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Harm that a step must be able to find: percent of the candidate's requests, beyond stable's.
    #[serde(default = "default_detect")]
    #[schemars(range(min = 3, max = 100))]
    pub detect: u32,
    /// Percent: how surely.
    #[serde(default = "default_power")]
    #[schemars(range(min = 50, max = 99))]
    pub power: u32,
    /// What happens to a candidate whose evidence stays inconclusive for `inconclusiveDeadline` beyond its step's duration.
    #[serde(default)]
    pub on_inconclusive: OnInconclusive,
    /// See `onInconclusive`.
    #[serde(default = "default_inconclusive_deadline")]
    #[x_kube(validation = ("duration(self) >= duration('1s') && duration(self) <= duration('720h')", "rollout.analysis.inconclusiveDeadline must be between 1s and 720h"))]
    pub inconclusive_deadline: Duration,
    /// Measures of the user's own: a step passes only when all of them do, and one that fails takes the candidate back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(validation = ("self.all(m, self.exists_one(n, n.name == m.name))", "rollout.analysis.metrics: each needs a name of its own"))]
    pub metrics: Vec<Metric>,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            detect: default_detect(),
            power: default_power(),
            on_inconclusive: OnInconclusive::default(),
            inconclusive_deadline: default_inconclusive_deadline(),
            metrics: Vec::new(),
        }
    }
}

/// What happens when evidence stays away.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnInconclusive {
    /// The rollout waits, with the weight that it has.
    #[default]
    Hold,
    /// The candidate is taken back.
    Rollback,
}

/// The time after a promotion.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// How long it lasts. Default: as long as `rollback.keepWarm`; `0s` switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('0s') && duration(self) <= duration('720h')", "rollout.guard.duration must be between 0s and 720h"))]
    pub duration: Option<Duration>,
    /// Percent of the traffic that the previous revision keeps meanwhile, to compare with. With 0 the verdict has no concurrent
    /// control. Default: 1; with `BlueGreen` and `Recreate` 0, since there two revisions never answer at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 50))]
    pub holdback: Option<u32>,
}

/// When and how the way back is taken, and what stays ready for it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Whether harm is acted upon, or only told.
    #[serde(default)]
    pub mode: RollbackMode,
    /// How often a revision that does no harm may be taken back.
    #[serde(default)]
    pub budget: Budget,
    /// How long the pods of the previous revision are kept after a promotion, so that `undo` is one change of weights.
    #[serde(default = "default_keep_warm")]
    #[x_kube(validation = ("duration(self) >= duration('0s') && duration(self) <= duration('720h')", "rollback.keepWarm must be between 0s and 720h"))]
    pub keep_warm: Duration,
    /// How many revisions are kept for `undo`.
    #[schemars(range(min = 1, max = 50))]
    #[serde(default = "default_revisions")]
    pub revisions: u32,
    /// The revision to return to when the previous one is gone. It is kept whatever its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub known_good: Option<String>,
    /// Alerts that take a candidate back, or hold its rollout, while they fire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub alerts: Vec<AlertRule>,
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            mode: RollbackMode::default(),
            budget: Budget::default(),
            keep_warm: default_keep_warm(),
            revisions: default_revisions(),
            known_good: None,
            alerts: Vec::new(),
        }
    }
}

/// What is done about harm.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollbackMode {
    /// The revision is taken back.
    #[default]
    Enforce,
    /// It is told in status, Events and metrics; the run holds.
    Observe,
}

/// Probabilities of taking back a revision that does no harm. The alarm's threshold follows from them.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// For one rollout, as `1%`.
    #[serde(default = "default_budget")]
    #[x_kube(validation = ("self.matches('^(0[.][0-9]{0,5}[1-9]|[1-9][0-9]?([.][0-9]{1,6})?)%$')", "rollback.budget.perRollout must be a percentage above 0 and below 100, such as 1% or 0.1%"))]
    #[schemars(length(max = 12))]
    pub per_rollout: String,
    /// For a month of guard, as `1%`.
    #[serde(default = "default_budget")]
    #[x_kube(validation = ("self.matches('^(0[.][0-9]{0,5}[1-9]|[1-9][0-9]?([.][0-9]{1,6})?)%$')", "rollback.budget.perGuardMonth must be a percentage above 0 and below 100, such as 1% or 0.1%"))]
    #[schemars(length(max = 12))]
    pub per_guard_month: String,
}

impl Default for Budget {
    fn default() -> Self {
        Self { per_rollout: default_budget(), per_guard_month: default_budget() }
    }
}

/// Reads `1%` as 0.01. What the schema refuses is the default.
pub fn probability(text: &str) -> f64 {
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    percent.map(|percent| percent / 100.0).filter(|share| *share > 0.0 && *share < 1.0).unwrap_or(0.01)
}

impl Step {
    /// A step of this weight that lasts this long.
    pub fn of_weight(weight: u32, duration: StdDuration) -> Self {
        Self { weight: Some(weight), duration: Some(duration.into()), ..Self::default() }
    }
}

impl From<&Step> for rollout::Step {
    fn from(step: &Step) -> Self {
        let lasts = step.duration.map(StdDuration::from);
        let kind = match step {
            Step { weight: Some(weight), .. } => rollout::Kind::Weight(*weight),
            Step { shadow: Some(percent), .. } => {
                rollout::Kind::Shadow { percent: *percent, agreement: step.min_agreement }
            }
            Step { analysis: Some(_), .. } => rollout::Kind::Analysis,
            _ => rollout::Kind::Pause,
        };
        let lasts = if kind == rollout::Kind::Pause { lasts } else { lasts.or(Some(STEP_DURATION)) };
        Self { kind, lasts, approval: step.approval.is_some() }
    }
}

impl Rollout {
    /// With all that follows from its strategy, and the length of a guard that has none of its own: as it is pinned.
    #[must_use]
    pub fn resolved(&self, rollback: &Rollback) -> Self {
        let guard = Guard {
            duration: self.guard.duration.or(Some(rollback.keep_warm)),
            holdback: Some(self.holdback()),
        };
        Self { guard, steps: Some(self.steps().into_owned()), ..self.clone() }
    }

    /// In which way a new revision takes over.
    pub fn strategy(&self) -> Strategy {
        self.strategy.unwrap_or_default()
    }

    /// The steps, those of the strategy where none are given.
    pub fn steps(&self) -> Cow<'_, [Step]> {
        match &self.steps {
            Some(steps) => Cow::Borrowed(steps),
            None => Cow::Owned(self.strategy().steps()),
        }
    }

    fn holdback(&self) -> u32 {
        self.guard.holdback.unwrap_or(match self.strategy() {
            Strategy::Canary => HOLDBACK,
            Strategy::BlueGreen | Strategy::Recreate => 0,
        })
    }

    /// A digest of the plan, for people: whether two of them are the same.
    pub fn digest(&self) -> String {
        hex::encode(&Sha256::digest(serde_json::to_vec(self).unwrap_or_default())[..5])
    }

    /// The plan, as decisions are made by it. A guard without a length lasts no time.
    pub fn plan(&self) -> rollout::Plan {
        let rollback = self.analysis.on_inconclusive == OnInconclusive::Rollback;
        rollout::Plan {
            strategy: self.strategy().into(),
            steps: self.steps().iter().map(rollout::Step::from).collect(),
            progress_deadline: self.progress_deadline.into(),
            inconclusive_deadline: rollback.then(|| self.analysis.inconclusive_deadline.into()),
            guard: self.guard.duration.map(StdDuration::from).unwrap_or_default(),
            holdback: self.holdback(),
            capacity: self.capacity.into(),
            approval: self.approval.is_some(),
            digest: self.digest(),
        }
    }

    /// Requests that each arm must have at a step (counted from 1), where the user says so.
    pub fn min_requests(&self, step: usize) -> Option<u32> {
        let steps = self.steps();
        let own = step.checked_sub(1).and_then(|index| steps.get(index).or(steps.last()));
        own.and_then(|step| step.min_requests).or(self.min_requests)
    }
}

/// How long a step lasts where it does not say so.
const STEP_DURATION: StdDuration = StdDuration::from_mins(1);

/// Percent of the traffic that the previous revision of a canary keeps in the guard.
const HOLDBACK: u32 = 1;

impl Strategy {
    /// The steps where none are given. Not in the schema: they follow from the strategy.
    fn steps(self) -> Vec<Step> {
        match self {
            Self::Canary => [10, 50].map(|weight| Step { weight: Some(weight), ..Step::default() }).to_vec(),
            Self::BlueGreen => vec![Step { analysis: Some(FreshAnalysis {}), ..Step::default() }],
            Self::Recreate => Vec::new(),
        }
    }
}

fn default_detect() -> u32 {
    20
}

fn default_power() -> u32 {
    90
}

fn default_inconclusive_deadline() -> Duration {
    StdDuration::from_hours(1).into()
}

fn default_progress_deadline() -> Duration {
    StdDuration::from_mins(10).into()
}

fn default_keep_warm() -> Duration {
    StdDuration::from_mins(10).into()
}

fn default_revisions() -> u32 {
    10
}

fn default_budget() -> String {
    "1%".to_owned()
}

#[cfg(test)]
mod tests {
    use stoker_decide::rollout::Kind;

    use super::*;

    #[test]
    fn probabilities_are_read_and_nonsense_is_the_default() {
        for (text, wanted) in [
            ("1%", 0.01),
            ("0.1%", 0.001),
            ("12.5%", 0.125),
            ("", 0.01),
            ("0%", 0.01),
            ("1", 0.01),
            ("200%", 0.01),
        ] {
            assert!((probability(text) - wanted).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn steps_become_the_plan() {
        let text = r#"{"steps": [{"shadow": 100, "duration": "30s", "minAgreement": 98}, {"weight": 10}, {"pause": {}},
            {"pause": {}, "duration": "1h"}, {"analysis": {}, "minRequests": 500}],
            "minRequests": 20, "analysis": {"onInconclusive": "Rollback"}, "capacity": "Proportional"}"#;
        let rollout: Rollout = serde_json::from_str(text).unwrap();
        let rollback = Rollback { keep_warm: StdDuration::from_secs(99).into(), ..Rollback::default() };
        let plan = rollout.resolved(&rollback).plan();
        let steps: Vec<_> =
            plan.steps.iter().map(|step| (step.kind, step.lasts.map(|lasts| lasts.as_secs()))).collect();
        let wanted = [
            (Kind::Shadow { percent: 100, agreement: Some(98) }, Some(30)),
            (Kind::Weight(10), Some(60)),
            (Kind::Pause, None),
            (Kind::Pause, Some(3600)),
            (Kind::Analysis, Some(60)),
        ];
        assert_eq!(steps, wanted);
        assert_eq!((plan.guard.as_secs(), plan.holdback), (99, 1));
        assert_eq!(plan.capacity, rollout::Capacity::Proportional);
        assert_eq!(Rollout::default().plan().capacity, rollout::Capacity::Full);
        assert_eq!(plan.inconclusive_deadline, Some(StdDuration::from_hours(1)));
        assert_eq!([1, 5, 9].map(|step| rollout.min_requests(step)), [Some(20), Some(500), Some(500)]);
    }

    #[test]
    fn what_is_left_out_follows_from_the_strategy() {
        let cases = [
            ("{}", vec![Kind::Weight(10), Kind::Weight(50)], 1),
            (r#"{"strategy": "BlueGreen"}"#, vec![Kind::Analysis], 0),
            (r#"{"strategy": "BlueGreen", "guard": {"holdback": 2}}"#, vec![Kind::Analysis], 2),
            (r#"{"strategy": "BlueGreen", "steps": []}"#, vec![], 0),
            (r#"{"strategy": "Recreate"}"#, vec![], 0),
        ];
        for (text, kinds, holdback) in cases {
            let rollout: Rollout = serde_json::from_str(text).unwrap();
            let plan = rollout.resolved(&Rollback::default()).plan();
            let found: Vec<_> = plan.steps.iter().map(|step| step.kind).collect();
            assert_eq!((found, plan.holdback), (kinds, holdback), "{text}");
            assert_eq!(
                serde_json::to_value(&rollout).unwrap()["steps"].is_null(),
                !text.contains("steps"),
                "{text}"
            );
        }
    }
}
