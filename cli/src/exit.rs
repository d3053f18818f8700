//! Exit codes: what pipelines go by. They are API; docs/cli.md lists them.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As it should be: healthy, done, nothing found.
    Well,
    /// Not as it should be: rolled back, degraded, in conflict; an action that was refused; a manifest that is wrong.
    Unwell,
    /// The command line is wrong.
    Usage,
    /// Not settled: a rollout is under way, or the operator has not answered in time.
    Unsettled,
    /// There is no such ModelDeployment.
    Absent,
    /// The cluster could not be asked: no kubeconfig, no answer, a right or the CRDs are missing.
    Unknown,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Unwell => 1,
            Self::Usage => 2,
            Self::Unsettled => 3,
            Self::Absent => 4,
            Self::Unknown => 5,
        }
    }
}
