//! `ModelDeployment`: what a user writes to have a model served, and what the operator answers in its status.
//!
//! A field exists only when it works. Wrong values are refused by the schema and by CEL rules, with the field's name.

pub mod analysis;
pub mod gateway;
pub mod rollout;
pub mod scaling;
pub mod spec;
mod state;
pub mod status;

pub use analysis::{
    AlertAction, AlertRule, AlertStatus, Approval, ApprovalStatus, Metric, MetricStatus, Number, Regression,
    Worse,
};
pub use gateway::{GatewayGrpc, GatewayRef};
pub use rollout::{Rollback, RollbackMode, Rollout, Step, Strategy};
pub use scaling::{Behavior, RevisionScaling, Scaling, ScalingMode, ScalingStatus};
pub use spec::{
    Latency, Model, ModelDeployment, ModelDeploymentSpec, Percentile, PodSettings, Resources, Runtime,
    ServerPorts, Slo, Toleration, Traffic,
};
pub use status::{
    ArmEvidence, Divergence, Evidence, GuardStatus, ModelDeploymentStatus, Outcome, Phase, Pin, Previous,
    Rejected, RunStatus,
};
