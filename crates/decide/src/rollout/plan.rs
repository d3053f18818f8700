//! What the user wants: the plan of a run, which is pinned when the run starts, and what holds at once.

use std::time::Duration;

use super::capacity::{Capacity, Replicas};

/// What the user wants by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How a run goes. The one that is under way keeps the plan that it started with.
    pub plan: Plan,
    /// How long the previous revision keeps its pods.
    pub keep_warm: Duration,
    /// Pods of a revision. Where none are wanted there is nothing to try: a new revision takes over at once.
    pub replicas: Replicas,
    /// Somebody else counts them (an autoscaler of the cluster): in a run they grow only.
    pub counted_elsewhere: bool,
    /// Harm ends a run. Otherwise it is only told, and the run holds.
    pub enforce: bool,
    /// The revision to return to when the previous one is gone.
    pub known_good: Option<String>,
}

/// In which way a candidate takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// It gets more of the traffic step by step.
    #[default]
    Canary,
    /// It answers at a preview address alone, and then gets everything at once.
    BlueGreen,
    /// It starts once stable's pods are gone, where there is no room for both. Meanwhile nobody is served.
    Recreate,
}

/// How a run goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In which way the candidate takes over.
    pub strategy: Strategy,
    /// One after the other; after the last one the candidate is promoted.
    pub steps: Vec<Step>,
    /// How long the candidate's pods may take to get ready, at the start and whenever they are lost.
    pub progress_deadline: Duration,
    /// How long a step may go without enough evidence, beyond its duration, before the candidate is taken back; none: for ever.
    pub inconclusive_deadline: Option<Duration>,
    /// How long the previous revision stays as a control after the promotion.
    pub guard: Duration,
    /// Percent of the traffic that it keeps meanwhile.
    pub holdback: u32,
    /// How many pods the revisions have meanwhile.
    pub capacity: Capacity,
    /// The promotion wants an approval.
    pub approval: bool,
    /// Tells plans apart that differ in what is not decided here, such as the evidence that a step needs.
    pub digest: String,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub kind: Kind,
    /// How long it lasts at least. None: until someone asks for `resume`.
    pub lasts: Option<Duration>,
    /// It begins only once somebody approved it.
    pub approval: bool,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Percent of stable's requests are copied to the candidate, whose answers reach nobody. At least so many percent of the
    /// compared answers must agree, where that is set.
    Shadow {
        /// Percent of stable's requests.
        percent: u32,
        /// Percent of the compared answers.
        agreement: Option<u32>,
    },
    /// The candidate gets this percentage of the traffic.
    Weight(u32),
    /// Nothing changes.
    Pause,
    /// Nothing changes; evidence is gathered anew.
    Analysis,
}

impl Step {
    /// A step that nobody has to approve.
    pub fn new(kind: Kind, lasts: Option<Duration>) -> Self {
        Self { kind, lasts, approval: false }
    }

    /// Whether the step needs a verdict of its own before it ends. Without traffic there is nothing to judge.
    pub fn is_judged(&self) -> bool {
        !matches!(self.kind, Kind::Pause | Kind::Weight(0))
    }
}

impl Plan {
    /// Whether anything in it wants an approval.
    pub fn has_gates(&self) -> bool {
        self.approval || self.steps.iter().any(|step| step.approval)
    }

    /// A step, counted from 1. A plan that was shortened in mid-run ends at its last one.
    pub fn step(&self, number: usize) -> Option<&Step> {
        let index = number.checked_sub(1)?;
        self.steps.get(index).or(self.steps.last())
    }

    /// Percent of the traffic that the candidate gets at a step: the last weight up to it.
    pub fn weight(&self, number: usize) -> u32 {
        let weight = |step: &Step| match step.kind {
            Kind::Weight(percent) => Some(percent.min(100)),
            _ => None,
        };
        self.steps.iter().take(number).rev().find_map(weight).unwrap_or(0)
    }

    /// Percent of stable's requests that are copied at a step.
    pub fn shadow(&self, number: usize) -> u32 {
        match self.step(number).map(|step| step.kind) {
            Some(Kind::Shadow { percent, .. }) => percent.min(100),
            _ => 0,
        }
    }

    /// The time that a run takes when nothing holds it. Pauses without end count nothing.
    pub fn duration(&self) -> Duration {
        self.steps.iter().filter_map(|step| step.lasts).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_keeps_the_last_weight() {
        let step = |kind| Step::new(kind, Some(Duration::from_secs(60)));
        let plan = Plan {
            steps: vec![
                step(Kind::Shadow { percent: 100, agreement: None }),
                step(Kind::Weight(10)),
                step(Kind::Analysis),
                Step::new(Kind::Pause, None),
                step(Kind::Weight(50)),
            ],
            ..Plan::default()
        };
        let weights: Vec<_> = (0..=6).map(|number| (plan.weight(number), plan.shadow(number))).collect();
        assert_eq!(weights, [(0, 0), (0, 100), (10, 0), (10, 0), (10, 0), (50, 0), (50, 0)]);
        assert_eq!(plan.duration(), Duration::from_mins(4));
    }
}
