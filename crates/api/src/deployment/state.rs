//! Between the flat status and the state that `stoker_decide` works with.

use std::time::Duration;

use stoker_decide::rollout;

use super::spec::ModelDeploymentSpec;
use super::status::{ModelDeploymentStatus, Pin, Previous, Rejected, RunStatus};

/// The plan that a spec asks for.
impl From<&ModelDeploymentSpec> for rollout::Plan {
    fn from(spec: &ModelDeploymentSpec) -> Self {
        let steps = spec.rollout.steps.iter();
        Self {
            steps: steps
                .map(|step| rollout::Step { weight: step.weight, duration: step.duration.into() })
                .collect(),
            progress_deadline: spec.rollout.progress_deadline.into(),
            keep_warm: spec.rollback.keep_warm.into(),
            replicas: spec.replicas,
        }
    }
}

impl ModelDeploymentStatus {
    /// The state that was stored.
    pub fn state(&self) -> rollout::State {
        let candidate = self.candidate.as_ref();
        rollout::State {
            stable: self.stable.clone(),
            previous: self
                .previous
                .as_ref()
                .map(|previous| (previous.revision.clone(), Duration::from_secs(previous.kept_seconds))),
            runs: self.runs,
            run: self.run.as_ref().zip(candidate).map(|(run, candidate)| rollout::Run {
                number: run.number,
                candidate: candidate.clone(),
                direct: run.direct,
                step: run.step as usize,
                in_step: Duration::from_secs(run.step_seconds),
            }),
            leaving: self.leaving.clone(),
            rejected: self
                .rejected
                .iter()
                .map(|entry| (entry.revision.clone(), entry.because.clone()))
                .collect(),
            pin: self.pin.as_ref().map(|pin| rollout::Pin {
                revision: pin.revision.clone(),
                instead_of: pin.instead_of.clone(),
                because: pin.because.clone(),
            }),
        }
    }

    /// Stores a state. What a state does not hold (verdict, evidence, messages, conditions) stays as it is, but for what
    /// belongs to a run that is over.
    pub fn store(&mut self, state: &rollout::State, plan: &rollout::Plan) {
        self.stable.clone_from(&state.stable);
        self.previous = state
            .previous
            .as_ref()
            .map(|(revision, kept)| Previous { revision: revision.clone(), kept_seconds: kept.as_secs() });
        self.runs = state.runs;
        self.leaving.clone_from(&state.leaving);
        self.rejected = state
            .rejected
            .iter()
            .map(|(revision, because)| Rejected { revision: revision.clone(), because: because.clone() })
            .collect();
        self.pin = state.pin.as_ref().map(|pin| Pin {
            revision: pin.revision.clone(),
            instead_of: pin.instead_of.clone(),
            because: pin.because.clone(),
        });
        self.candidate = state.run.as_ref().map(|run| run.candidate.clone());
        self.weight = state.run.as_ref().map(|run| run.weight(plan));
        self.step = state
            .run
            .as_ref()
            .filter(|run| !run.direct)
            .map(|run| format!("{}/{}", run.step, plan.steps.len()));
        let before = self.run.take();
        self.run = state.run.as_ref().map(|run| {
            let same = before.filter(|before| before.number == run.number);
            RunStatus {
                number: run.number,
                step: u32::try_from(run.step).unwrap_or(u32::MAX),
                direct: run.direct,
                step_seconds: run.in_step.as_secs(),
                slow_above_ms: same.as_ref().and_then(|before| before.slow_above_ms),
                evidence: same.and_then(|before| before.evidence),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_being_stored() {
        let plan = rollout::Plan {
            steps: vec![rollout::Step { weight: 10, duration: Duration::from_secs(60) }],
            progress_deadline: Duration::from_secs(600),
            keep_warm: Duration::from_secs(600),
            replicas: 1,
        };
        let state = rollout::State {
            stable: Some("md-a".into()),
            previous: Some(("md-z".into(), Duration::from_secs(7))),
            runs: 4,
            run: Some(rollout::Run {
                number: 4,
                candidate: "md-b".into(),
                direct: false,
                step: 1,
                in_step: Duration::from_secs(31),
            }),
            leaving: vec!["md-y".into()],
            rejected: vec![("md-x".into(), "it failed".into())],
            pin: Some(rollout::Pin {
                revision: "md-b".into(),
                instead_of: "md-x".into(),
                because: "undone".into(),
            }),
        };
        let mut status = ModelDeploymentStatus::default();
        status.store(&state, &plan);
        let text = serde_json::to_string(&status).unwrap();
        let back: ModelDeploymentStatus = serde_json::from_str(&text).unwrap();
        assert_eq!(back.state(), state);
        assert_eq!((back.step.as_deref(), back.weight), (Some("1/1"), Some(10)));
    }
}
