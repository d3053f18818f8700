//! What users do while the operator is disturbed: where each story begins, what is done, and what is to be seen on the way.

use anyhow::Result;
use serde_json::{Value, json};
use stoker_api::deployment::{ModelDeploymentStatus, Phase};

use super::stage::Stage;
use crate::subject::{PATIENCE, revision};

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The first revision, with the data plane of its namespace.
    Create,
    /// A good candidate goes through two steps and is promoted; the previous revision goes.
    Promote,
    /// A harmful candidate is cut by the routers and rolled back.
    Cut,
    /// A candidate does harm only after its promotion, and its guard returns to the previous revision.
    Guard,
    /// Someone aborts a rollout at its first step.
    Abort,
    /// Someone goes back to the previous revision, whose pods are warm.
    Undo,
    /// The spec changes in mid-run, and the new candidate is promoted.
    Supersede,
    /// The ModelDeployment is deleted in mid-run.
    Delete,
}

/// A plan that passes its two steps as soon as there is evidence.
fn quick_steps() -> Value {
    json!([{"weight": 30, "duration": "1s"}, {"weight": 60, "duration": "1s"}])
}

/// A plan that stays in its first step.
fn endless_step() -> Value {
    json!([{"weight": 30, "duration": "1h"}])
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Promote,
        Self::Cut,
        Self::Guard,
        Self::Abort,
        Self::Undo,
        Self::Supersede,
        Self::Delete,
    ];

    /// Its name, in reports and for namespaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Promote => "promote",
            Self::Cut => "cut",
            Self::Guard => "guard",
            Self::Abort => "abort",
            Self::Undo => "undo",
            Self::Supersede => "supersede",
            Self::Delete => "delete",
        }
    }

    /// The spec that the story begins with. A target for latency keeps a busy machine from being a reason to hold.
    pub fn spec(self, stage: &Stage<'_>) -> Value {
        // The guard is as long as pods are kept warm: it outlasts the story, or is over at once.
        let (steps, warm) = match self {
            Self::Create | Self::Promote | Self::Cut => (quick_steps(), "1s"),
            Self::Guard => (quick_steps(), "1h"),
            Self::Abort | Self::Supersede | Self::Delete => (endless_step(), "1s"),
            // On its way to the beginning nobody sends requests, so no step would pass.
            Self::Undo => (json!([]), "1h"),
        };
        json!({
            "replicas": 1,
            "model": {"uri": stage.uri("v1.onnx")},
            "slo": {"latency": {"target": "10s"}},
            "rollout": {"steps": steps, "minRequests": 20, "progressDeadline": "120s", "guard": {"holdback": 30}},
            "rollback": {"keepWarm": warm},
        })
    }

    /// Whether the ModelDeployment exists, and serves, before the writes are counted.
    pub fn begins_served(self) -> bool {
        self != Self::Create
    }

    /// Undisturbed: from the first revision to where the story begins.
    pub async fn prepare(self, stage: &Stage<'_>) -> Result<()> {
        if self == Self::Undo {
            stage.subject.set_uri(&stage.uri("v2.onnx")).await?;
            stage.subject.healthy().await?;
        }
        Ok(())
    }

    /// The story itself.
    pub async fn act(self, stage: &mut Stage<'_>) -> Result<()> {
        let subject = &stage.subject;
        match self {
            Self::Create => {
                subject.apply(&self.spec(stage)).await?;
            }
            Self::Promote => {
                subject.set_uri(&stage.uri("v2.onnx")).await?;
            }
            Self::Cut => {
                subject.set_uri(&stage.uri("v3.onnx")).await?;
            }
            Self::Guard => {
                // It fails on dark images.
                stage.only_bright(true);
                subject.set_uri(&stage.uri("v3.onnx")).await?;
                let promoted = |status: &ModelDeploymentStatus| {
                    status.stable.is_some() && status.stable == status.target && status.runs == 2
                };
                subject.until("is promoted", STORY, promoted).await?;
                stage.only_bright(false);
            }
            Self::Abort => {
                subject.set_uri(&stage.uri("v2.onnx")).await?;
                subject.at_step(1).await?;
                subject.request("abort", "1").await?;
            }
            Self::Undo => subject.request("undo", "1").await?,
            Self::Supersede => {
                subject.set_uri(&stage.uri("v2.onnx")).await?;
                subject.at_step(1).await?;
                // Other resources make another revision of the same model.
                let change = json!({
                    "runtime": {"resources": {"requests": {"cpu": "20m"}}},
                    "rollout": {"steps": quick_steps()},
                });
                subject.merge(&json!({"spec": change})).await?;
            }
            Self::Delete => {
                subject.set_uri(&stage.uri("v2.onnx")).await?;
                subject.at_step(1).await?;
                // With the object its Service goes: requests to it fail from here on, as they must.
                stage.end_load().await?;
                stage.subject.delete().await?;
            }
        }
        Ok(())
    }

    /// Whether a status looks like the end of the story; the golden run waits for that. None when nothing is to be left.
    pub fn is_over(self, status: Option<&ModelDeploymentStatus>) -> bool {
        let Some(status) = status else { return self == Self::Delete };
        let settled = status.run.is_none() && status.guard.is_none() && status.leaving.is_empty();
        let cooled = status.previous.is_none();
        match self {
            Self::Create => settled && status.phase == Phase::Healthy,
            Self::Promote => settled && cooled && status.phase == Phase::Healthy && status.runs == 2,
            Self::Supersede => settled && cooled && status.phase == Phase::Healthy && status.runs == 3,
            Self::Cut | Self::Guard | Self::Abort => {
                settled && status.phase == Phase::RolledBack && status.rejected.len() == 1
            }
            Self::Undo => settled && status.phase == Phase::RolledBack && status.pin.is_some(),
            Self::Delete => false,
        }
    }

    /// The revision whose own errors are no failures of Stoker: the harmful one, once it is known.
    pub fn harmful(self, status: Option<&ModelDeploymentStatus>) -> Option<String> {
        let status = status.filter(|_| matches!(self, Self::Cut | Self::Guard))?;
        revision("target", status.target.as_ref()).ok()
    }
}

/// Long enough for a story on a busy machine.
pub const STORY: std::time::Duration = PATIENCE;
