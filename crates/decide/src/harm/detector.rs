//! From blocks of attempts to increments of evidence, by one router or by the operator.

use super::dispersion::Dispersion;
use super::e_variable::{self, LARGEST_TOLERANCE, divergence};
use super::{Block, Difference, Increment, TOLERANCE};

/// Weight of the first guess of stable's rate (1 %), in attempts.
const PRIOR_ATTEMPTS: f64 = 50.0;
/// Bad ones among [`PRIOR_ATTEMPTS`].
const PRIOR_BAD: f64 = 0.5;

/// Stable's rate follows drifts: the memory holds about this many attempts.
const MEMORY_ATTEMPTS: f64 = 1000.0;

/// The baseline for steps without control is of about this many attempts: the last hour rather than the last second.
const BASELINE_ATTEMPTS: f64 = 10_000.0;

/// Chance that stable's true rate is above the frozen baseline's upper bound.
const BASELINE_MISSES: f64 = 1e-4;

/// Attempts of stable that may wait for one of the candidate: a window in which more of them came says too little about the
/// moment in which the candidate answers.
const LONGEST_WAIT: u64 = 32;

/// Learns stable's rate and judges blocks against it. One for each run and decider.
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    /// How much worse the candidate may be, as a difference of rates.
    tolerance: f64,
    /// Stable's rate of late, which fixes the alternatives.
    recent: Rate,
    /// Stable's rate over a longer time, which stands in for stable where it has no traffic.
    baseline: Rate,
    /// By how much stable's errors come in clumps.
    dispersion: Dispersion,
    /// What could not be judged yet because one arm had nothing.
    waiting: Block,
    /// The blocks so far, side by side.
    difference: Difference,
}

impl Default for Detector {
    fn default() -> Self {
        Self::new(TOLERANCE)
    }
}

impl Detector {
    /// A detector for candidates that are worse by more than `tolerance`, a difference of rates within 0..=0.9.
    pub fn new(tolerance: f64) -> Self {
        let tolerance =
            if tolerance.is_finite() { tolerance.clamp(0.0, LARGEST_TOLERANCE) } else { TOLERANCE };
        Self {
            tolerance,
            recent: Rate { attempts: PRIOR_ATTEMPTS, bad: PRIOR_BAD },
            baseline: Rate::default(),
            dispersion: Dispersion::default(),
            waiting: Block::default(),
            difference: Difference::default(),
        }
    }

    /// Judges a block: what it adds to the evidence. `controlled` is false in a step where stable has no traffic by design;
    /// then the baseline that was learned before stands in for it, by its upper bound. Otherwise the arms wait for each
    /// other, and the increment is zero until both have answered.
    pub fn increment(&mut self, block: Block, controlled: bool) -> Increment {
        let block = self.waiting.join(block);
        self.waiting = Block::default();
        if block.candidate == 0 || (controlled && block.stable == 0) {
            if block.candidate == 0 && (!controlled || block.stable > LONGEST_WAIT) {
                self.learn(block.stable, block.stable_bad);
            } else {
                self.waiting = block;
            }
            return Increment::default();
        }
        // The alternative is fixed before the block is looked at: that makes the product a fair game.
        self.difference.add(block);
        let increment = if controlled {
            e_variable::controlled(block, self.recent.mean(), self.tolerance)
        } else {
            e_variable::against(self.baseline.upper_bound() + self.tolerance, block)
        };
        // The same holds for the size of clumps.
        let increment = increment.divided(self.dispersion.clump());
        self.learn(block.stable, block.stable_bad);
        increment
    }

    /// Attempts of stable alone, from before the candidate had traffic.
    pub fn learn(&mut self, attempts: u64, bad: u64) {
        self.recent.learn(attempts, bad, MEMORY_ATTEMPTS);
        self.baseline.learn(attempts, bad, BASELINE_ATTEMPTS);
        self.dispersion.learn(attempts, bad);
    }

    /// Stable's rate of bad attempts over the longer time, as far as it was learned.
    pub fn base_rate(&self) -> f64 {
        (self.baseline.bad + PRIOR_BAD) / (self.baseline.attempts + PRIOR_ATTEMPTS)
    }

    /// How much worse the candidate looks, from blocks of both arms.
    pub fn difference(&self) -> Difference {
        self.difference.with_clumps(self.dispersion.clump())
    }

    /// The rate that the frozen baseline leaves possible for stable: what a candidate without control is measured against.
    pub fn baseline(&self) -> f64 {
        self.baseline.upper_bound()
    }
}

/// A rate with a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rate {
    attempts: f64,
    bad: f64,
}

impl Rate {
    fn learn(&mut self, attempts: u64, bad: u64, memory: f64) {
        self.attempts += attempts as f64;
        self.bad += bad.min(attempts) as f64;
        if self.attempts > memory {
            self.bad *= memory / self.attempts;
            self.attempts = memory;
        }
    }

    fn mean(&self) -> f64 {
        if self.attempts > 0.0 { self.bad / self.attempts } else { 0.0 }
    }

    /// The highest rate that what was seen leaves possible: `attempts KL(mean, bound) <= ln(1 / BASELINE_MISSES)`, the
    /// Chernoff bound of a binomial. 1 when nothing was seen: then nothing can be called harm.
    fn upper_bound(&self) -> f64 {
        if self.attempts <= 0.0 {
            return 1.0;
        }
        let (mean, allowed) = (self.mean(), -BASELINE_MISSES.ln() / self.attempts);
        let (mut low, mut high) = (mean, 1.0);
        for _ in 0..50 {
            let middle = f64::midpoint(low, high);
            if middle >= 1.0 || divergence(mean, middle) > allowed {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }
}
