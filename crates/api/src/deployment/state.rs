//! Between the flat status and the state that `stoker_decide` works with.

use std::time::Duration;

use stoker_decide::rollout;

use super::analysis::ApprovalStatus;
use super::rollout::{RollbackMode, Rollout};
use super::spec::ModelDeploymentSpec;
use super::status::{
    CapacityStatus, GuardStatus, ModelDeploymentStatus, Pin, Previous, RefillStatus, Rejected, RunStatus,
    ServedShare,
};

/// What a spec asks for.
impl From<&ModelDeploymentSpec> for rollout::Wish {
    fn from(spec: &ModelDeploymentSpec) -> Self {
        Self {
            plan: spec.resolved_rollout().plan(),
            keep_warm: spec.rollback.keep_warm.into(),
            replicas: spec.replicas.into(),
            counted_elsewhere: spec.is_counted_elsewhere(),
            enforce: spec.rollback.mode == RollbackMode::Enforce,
            known_good: spec.rollback.known_good.clone(),
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
                unready: Duration::from_secs(run.unready_seconds),
                restarts: run.restarts,
                resumed: run.resumed,
                passed: run.passed,
                plan: run.plan.as_ref().map(Rollout::plan).unwrap_or_default(),
                approvals: run.approvals.iter().filter_map(approval).collect(),
                awaits: run.awaits.as_ref().and_then(|gate| gate.parse().ok()),
                paused_by: run.paused_by.clone(),
                skipped: run.skipped.is_some(),
                known_alerts: run.known_alerts.clone(),
                room: run.room.unwrap_or_default().into(),
                took: run.ready_seconds.map(Duration::from_secs),
            }),
            guard: self.guard.as_ref().map(|guard| rollout::Guard {
                step: guard.step as usize,
                lasts: Duration::from_secs(guard.of_seconds),
                holdback: guard.holdback,
                spent: Duration::from_secs(guard.seconds),
                restarts: guard.restarts,
                known_alerts: guard.known_alerts.clone(),
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
            shares: self.capacity.as_ref().map(|capacity| rollout::Shares {
                served: capacity.served.iter().map(|share| (share.revision.clone(), share.percent)).collect(),
                least: capacity.least_replicas,
                refill: capacity.refill.as_ref().map(|refill| rollout::Refill {
                    from: refill.from.clone(),
                    most: refill.most,
                    bad_ppm: refill.bad_ppm,
                }),
            }),
            alone: self.alone,
            took: self.ready_seconds.map(Duration::from_secs),
        }
    }

    /// Stores a state. `rollout` is the spec's, resolved: what a run that has just started goes by. What a state does not hold
    /// (verdict, evidence, messages, conditions) stays as it is, but for what belongs to a run or guard that is over.
    pub fn store(&mut self, state: &rollout::State, rollout: &Rollout) {
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
        self.capacity = state.shares.as_ref().map(stored_shares);
        self.alone = state.alone;
        self.ready_seconds = state.took.map(|took| took.as_secs());
        self.candidate = state.run.as_ref().map(|run| run.candidate.clone());
        self.weight = state.run.as_ref().map(rollout::Run::weight);
        self.step = state
            .run
            .as_ref()
            .filter(|run| !run.direct)
            .map(|run| format!("{}/{}", run.step, run.plan.steps.len()));
        let slow_above_ms = self.run.as_ref().and_then(|run| run.slow_above_ms);
        let before = self.run.take();
        self.run = state.run.as_ref().map(|run| stored_run(run, before, rollout));
        let before = self.guard.take();
        self.guard = state.guard.as_ref().map(|guard| {
            let step = u32::try_from(guard.step).unwrap_or(u32::MAX);
            GuardStatus {
                step,
                of_seconds: guard.lasts.as_secs(),
                seconds: guard.spent.as_secs(),
                holdback: guard.holdback,
                restarts: guard.restarts,
                known_alerts: guard.known_alerts.clone(),
                // The run that led to it knew what is slow.
                slow_above_ms: before.as_ref().and_then(|before| before.slow_above_ms).or(slow_above_ms),
                evidence: before.and_then(|before| before.evidence),
            }
        });
    }
}

fn stored_shares(shares: &rollout::Shares) -> CapacityStatus {
    let served = shares.served.iter();
    CapacityStatus {
        served: served
            .map(|(revision, percent)| ServedShare { revision: revision.clone(), percent: *percent })
            .collect(),
        least_replicas: shares.least,
        refill: shares.refill.as_ref().map(|refill| RefillStatus {
            from: refill.from.clone(),
            most: refill.most,
            bad_ppm: refill.bad_ppm,
        }),
    }
}

fn stored_run(run: &rollout::Run, before: Option<RunStatus>, rollout: &Rollout) -> RunStatus {
    let same = before.filter(|before| before.number == run.number);
    let known = same.as_ref().and_then(|before| before.plan.clone()).filter(|plan| plan.plan() == run.plan);
    let plan = known.unwrap_or_else(|| rollout.clone());
    let (digest, wanted) = (plan.digest(), rollout.digest());
    RunStatus {
        number: run.number,
        step: u32::try_from(run.step).unwrap_or(u32::MAX),
        direct: run.direct,
        step_seconds: run.in_step.as_secs(),
        plan_drift: (wanted != digest).then_some(wanted),
        plan_digest: Some(digest),
        plan: Some(plan),
        unready_seconds: run.unready.as_secs(),
        restarts: run.restarts,
        resumed: run.resumed,
        passed: run.passed,
        approvals: run.approvals.iter().map(|given| stored_approval(given, same.as_ref())).collect(),
        awaits: run.awaits.map(|gate| gate.to_string()),
        paused_by: run.paused_by.clone(),
        skipped: run.skipped.then_some(u32::try_from(run.step).unwrap_or(u32::MAX)),
        known_alerts: run.known_alerts.clone(),
        room: (run.room != rollout::Room::default()).then(|| run.room.into()),
        ready_seconds: run.took.map(|took| took.as_secs()),
        slow_above_ms: same.as_ref().and_then(|before| before.slow_above_ms),
        evidence: same.and_then(|before| before.evidence),
    }
}

fn approval(stored: &ApprovalStatus) -> Option<rollout::Approval> {
    let gate = stored.gate.parse().ok()?;
    Some(rollout::Approval { gate, by: stored.by.clone(), reason: stored.reason.clone() })
}

/// Its time is known from before, or is to be filled in.
fn stored_approval(given: &rollout::Approval, before: Option<&RunStatus>) -> ApprovalStatus {
    let gate = given.gate.to_string();
    let known = before.and_then(|before| before.approvals.iter().find(|known| known.gate == gate));
    ApprovalStatus {
        at: known.and_then(|known| known.at.clone()),
        gate,
        by: given.by.clone(),
        reason: given.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rollout::{Rollback, Step};
    use super::*;

    fn rollout_of(weight: u32) -> Rollout {
        let rollout = Rollout {
            steps: Some(vec![Step::of_weight(weight, Duration::from_secs(60))]),
            ..Rollout::default()
        };
        rollout.resolved(&Rollback::default())
    }

    fn state() -> rollout::State {
        rollout::State {
            stable: Some("md-a".into()),
            previous: Some(("md-z".into(), Duration::from_secs(7))),
            runs: 4,
            run: Some(rollout::Run {
                number: 4,
                candidate: "md-b".into(),
                direct: false,
                step: 1,
                in_step: Duration::from_secs(31),
                unready: Duration::from_secs(3),
                restarts: 2,
                resumed: true,
                passed: true,
                plan: rollout_of(10).plan(),
                approvals: vec![rollout::Approval {
                    gate: rollout::Gate::Promotion,
                    by: "ann".into(),
                    reason: "it looks well".into(),
                }],
                awaits: Some(rollout::Gate::Step(2)),
                paused_by: Some("bob".into()),
                skipped: true,
                known_alerts: vec!["Wrong-1".into()],
                room: rollout::Room::Leaving,
                took: Some(Duration::from_secs(41)),
            }),
            guard: Some(rollout::Guard {
                step: 2,
                lasts: Duration::from_secs(600),
                holdback: 1,
                spent: Duration::from_secs(12),
                restarts: 1,
                known_alerts: vec!["Wrong-2".into()],
            }),
            leaving: vec!["md-y".into()],
            rejected: vec![("md-x".into(), "it failed".into())],
            pin: Some(rollout::Pin {
                revision: "md-b".into(),
                instead_of: "md-x".into(),
                because: "undone".into(),
            }),
            shares: Some(rollout::Shares {
                served: [("md-a".to_owned(), 90), ("md-b".to_owned(), 10)].into(),
                least: 3,
                refill: Some(rollout::Refill { from: "md-y".into(), most: 50, bad_ppm: 300_000 }),
            }),
            alone: true,
            took: Some(Duration::from_secs(42)),
        }
    }

    #[test]
    fn a_state_survives_being_stored() {
        let state = state();
        let mut status = ModelDeploymentStatus::default();
        status.store(&state, &rollout_of(10));
        let text = serde_json::to_string(&status).unwrap();
        let back: ModelDeploymentStatus = serde_json::from_str(&text).unwrap();
        assert_eq!(back.state(), state);
        assert_eq!((back.step.as_deref(), back.weight), (Some("1/1"), Some(10)));
    }

    #[test]
    fn a_run_keeps_its_plan_and_tells_of_another_in_the_spec() {
        let state = state();
        let mut status = ModelDeploymentStatus::default();
        status.store(&state, &rollout_of(10));
        let pinned = status.run.clone().unwrap();
        assert_eq!((pinned.plan.clone(), pinned.plan_drift.clone()), (Some(rollout_of(10)), None));
        status.store(&state, &rollout_of(90));
        let drifted = status.run.clone().unwrap();
        assert_eq!((&drifted.plan, &drifted.plan_digest), (&pinned.plan, &pinned.plan_digest));
        assert_eq!(drifted.plan_drift, Some(rollout_of(90).digest()));
        assert_eq!(status.state(), state);
    }
}
