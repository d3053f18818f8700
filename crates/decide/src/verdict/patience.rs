//! What becomes of a run whose verdict does not come.

use std::time::Duration;

use super::Verdict;

/// What to do when the verdict stays Inconclusive or Error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnInconclusive {
    /// Wait, for as long as it takes.
    #[default]
    Hold,
    /// Wait until the deadline, then go back.
    Rollback,
}

/// The user's patience with a step that has lasted its time and has no verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// What to do.
    pub on_inconclusive: OnInconclusive,
    /// After how long without a Pass, once the step has lasted its time.
    pub deadline: Duration,
}

/// Time without a Pass, after `elapsed` more: the stretch starts anew at each Pass, and only counts once the step has lasted
/// its planned time, for until then nobody expects one.
pub fn unsettled(
    before: Duration,
    verdict: Option<&Verdict>,
    step_is_over: bool,
    elapsed: Duration,
) -> Duration {
    match verdict {
        Some(Verdict::Pass(_)) => Duration::ZERO,
        _ if !step_is_over => Duration::ZERO,
        _ => before.saturating_add(elapsed),
    }
}

impl Patience {
    /// Why the run goes back now, if an inconclusive stretch has lasted too long.
    pub fn exhausted(&self, unsettled: Duration, verdict: Option<&Verdict>) -> Option<String> {
        if self.on_inconclusive == OnInconclusive::Hold || unsettled < self.deadline || unsettled.is_zero() {
            return None;
        }
        let (word, because) = match verdict {
            // Harm has its own way back, and a Pass ends the wait.
            Some(Verdict::Fail(_) | Verdict::Pass(_)) => return None,
            Some(verdict) => (verdict.word(), verdict.because()),
            None => ("Inconclusive", "there is no verdict yet"),
        };
        let (waited, deadline) = (unsettled.as_secs(), self.deadline.as_secs());
        Some(format!("{word} for {waited} s, which is longer than the deadline of {deadline} s: {because}"))
    }

    /// What the wait will lead to, as the end of the sentence of a run that holds.
    pub fn outlook(&self, unsettled: Duration) -> String {
        match self.on_inconclusive {
            OnInconclusive::Hold => String::new(),
            OnInconclusive::Rollback => {
                let left = self.deadline.saturating_sub(unsettled).as_secs_f64().ceil();
                format!("; goes back in {left} s unless that changes")
            }
        }
    }
}
