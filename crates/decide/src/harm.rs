//! Is the candidate worse than stable? A test that may be looked at after every block, at any sample size.
//!
//! - [`Detector`] turns a block of attempts of both arms into an [`Increment`]: the logarithm of an e-variable for each of
//!   the [`EFFECTS`] that are looked for. It learns stable's rate from the blocks that it has seen before.
//! - [`Evidence`] adds increments up, restarted at 0: the e-detector. It does not ask which router an increment is from.
//! - [`Difference`]: how much worse the candidate looks, block by block.
//! - [`budget`]: the alarm that a declared probability of a false rollback allows.
//! - [`power`]: how many requests it takes to find harm of a given size.
//!
//! # Why the false-alarm rate holds
//! 1. *One block.* `e = p(block | alternative) / p(block | closest null)`, with the null `p_candidate <= p_stable + tolerance`.
//!    The null is convex, so the closest pair in Kullback-Leibler divergence makes `E[e] <= 1` for every pair without harm, at
//!    any group sizes (Turner, Ly, Grünwald). Rates may vary inside the block: given the rates `r_i` of its attempts,
//!    `E = prod(1 + r_i (x - 1)) <= (1 + mean(r) (x - 1))^n`, since the logarithm is concave, so only the arms' mean rates over
//!    the block matter. An incident that both arms meet alike is no harm.
//! 2. *Many blocks.* The alternative is fixed before the block is seen, so `E[e_t | past] <= 1`. The restarted product
//!    `M_t = max(M_{t-1}, 1) e_t` is at most the Shiryaev-Roberts sum `R_t = (R_{t-1} + 1) e_t`, and `E[R_t] <= t`. Stopping at the
//!    first `M >= T` gives `T P(alarm within n blocks) <= E[R] <= n`: see [`budget`]. The mean over effects keeps this.
//! 3. *Many routers.* Routers see disjoint requests. Given the past and the rates at this moment, their blocks are independent,
//!    so the expectation of the product of their e-variables is the product of expectations, each at most 1. Base rates may
//!    differ between routers: each is measured against its own concurrent stable. A sum of log-increments over several
//!    blocks or routers is a log-increment again; what comes late is added late, for no router waits on account of what it saw.
//! 4. *Clumps.* Points 1 to 3 take attempts as independent given the rates. Where errors come in clumps of m the m-th root of
//!    an e-variable is taken; m is learned from stable, so this is as right as the estimate (`dispersion.rs`).
//!
//! # Sources
//! Turner, Ly and Grünwald, "Generic e-variables for exact sequential k-sample tests that allow for optional stopping" (2024);
//! Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2023).

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

pub mod budget;
mod detector;
mod difference;
mod dispersion;
mod e_variable;
pub mod power;

pub use detector::Detector;
pub use difference::Difference;

/// How much worse the candidate may be, as a difference of rates: 2 points.
pub const TOLERANCE: f64 = 0.02;

/// The alarm where nothing else is declared: evidence of a million to one. 1 % for each rollout of 10,000 blocks.
pub const ALARM_LOG10: f64 = 6.0;

/// How many effects are looked for.
pub const EFFECTS: usize = 5;

/// Effects that are looked for, as points beyond the tolerance; the mean of their evidence is the evidence. With a
/// tolerance of 2 points: 5, 10, 20, 40 and 80 points.
const BEYOND_TOLERANCE: [f64; EFFECTS] = [0.03, 0.08, 0.18, 0.38, 0.78];

/// No increment is larger, so that sums stay finite whatever is counted; it is far beyond any alarm.
const LARGEST_INCREMENT: f64 = 1e12;

/// Attempts of both arms in the same stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Attempts of the candidate.
    pub candidate: u64,
    /// Of these, bad.
    pub candidate_bad: u64,
    /// Attempts of stable.
    pub stable: u64,
    /// Of these, bad.
    pub stable_bad: u64,
}

impl Block {
    /// Adds the attempts of a later stretch.
    #[must_use]
    pub fn join(self, later: Self) -> Self {
        Self {
            candidate: self.candidate.saturating_add(later.candidate),
            candidate_bad: self.candidate_bad.saturating_add(later.candidate_bad),
            stable: self.stable.saturating_add(later.stable),
            stable_bad: self.stable_bad.saturating_add(later.stable_bad),
        }
    }
}

/// What blocks add to the evidence: natural logarithms of e-variables, one for each effect. Increments of any blocks, of any
/// routers, add. Always finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; EFFECTS]", into = "[f64; EFFECTS]")]
pub struct Increment([f64; EFFECTS]);

/// An increment that is not a number, or too large to be one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an increment of evidence is not a finite number; the peer that sent it is of another version or broken"
)]
pub struct NotFinite;

impl TryFrom<[f64; EFFECTS]> for Increment {
    type Error = NotFinite;

    fn try_from(logs: [f64; EFFECTS]) -> Result<Self, NotFinite> {
        if logs.iter().all(|log| log.is_finite()) { Ok(Self(logs.map(bounded))) } else { Err(NotFinite) }
    }
}

impl From<Increment> for [f64; EFFECTS] {
    fn from(increment: Increment) -> Self {
        increment.0
    }
}

impl AddAssign for Increment {
    fn add_assign(&mut self, other: Self) {
        for (log, added) in self.0.iter_mut().zip(other.0) {
            *log = bounded(*log + added);
        }
    }
}

impl Increment {
    /// What was added since `earlier`, an older reading of the same running sum.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = *self;
        for (log, before) in difference.0.iter_mut().zip(earlier.0) {
            *log = bounded(*log - before);
        }
        difference
    }

    /// The logarithm of the e-variable's root.
    fn divided(self, by: f64) -> Self {
        Self(self.0.map(|log| log / by))
    }

    /// Whether it changes nothing: no block was judged.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|log| *log == 0.0)
    }
}

/// A running sum leaves this range only when what is counted is absurd.
fn bounded(log: f64) -> f64 {
    log.clamp(-LARGEST_INCREMENT, LARGEST_INCREMENT)
}

/// Evidence of harm so far: the restarted product of e-variables, for each effect. Small enough to be kept for every run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    log: Increment,
}

impl Evidence {
    /// Adds what a router saw: this one, or a peer. Evidence against harm is forgotten at each addition (`max(log, 0)`),
    /// so that a candidate that was good for a day is found as soon as one that was bad at once.
    pub fn add(&mut self, increment: &Increment) {
        // Nothing was judged: no restart either, since each one is paid for by the budget.
        if increment.is_zero() {
            return;
        }
        for (log, added) in self.log.0.iter_mut().zip(increment.0) {
            *log = bounded(log.max(0.0) + added);
        }
    }

    /// Evidence of harm, as a power of ten: the mean over the effects.
    pub fn log10(&self) -> f64 {
        let logs = self.log.0;
        let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = logs.iter().map(|log| (log - highest).exp()).sum::<f64>() / EFFECTS as f64;
        (highest + mean.ln()) / std::f64::consts::LN_10
    }

    /// Whether the evidence reaches an alarm, such as one of [`budget::alarm_log10`].
    pub fn alarm(&self, alarm_log10: f64) -> bool {
        self.log10() >= alarm_log10
    }
}

#[cfg(test)]
mod tests;
