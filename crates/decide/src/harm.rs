//! Is the candidate worse than stable? A test that may be looked at after every second, at any sample size.
//!
//! Each look is a block of attempts of both arms. For an alternative (p_stable, p_stable + d) its e-variable is the
//! likelihood ratio against the closest pair with `p_candidate <= p_stable + TOLERANCE`; closest in Kullback-Leibler
//! divergence, with the block's own group sizes. Its expectation is at most 1 for every pair without harm, so the product
//! over blocks, restarted at 1 (an e-detector), crosses `T` on average no sooner than after `T` healthy blocks.
//! The control is concurrent: an incident that hits both arms raises both rates and gives no alarm.
//!
//! Sources: Turner, Ly and Grünwald, "Generic e-variables for exact sequential k-sample tests that allow for optional
//! stopping" (2024); Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection"
//! (2023).

/// How much worse the candidate may be, as a difference of rates: 2 points.
pub const TOLERANCE: f64 = 0.02;

/// The alarm: evidence of a million to one.
pub const ALARM_LOG10: f64 = 6.0;

/// Effects that are looked for, as differences of rates; the mixture of them is the evidence.
const EFFECTS: [f64; 5] = [0.05, 0.1, 0.2, 0.4, 0.8];

/// Weight of the first guess of stable's rate (1 %), in attempts.
const PRIOR_ATTEMPTS: f64 = 50.0;
/// Bad ones among [`PRIOR_ATTEMPTS`].
const PRIOR_BAD: f64 = 0.5;

/// Stable's rate follows drifts: the memory holds about this many attempts.
const MEMORY_ATTEMPTS: f64 = 1000.0;

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
    fn join(self, later: Self) -> Self {
        Self {
            candidate: self.candidate + later.candidate,
            candidate_bad: self.candidate_bad + later.candidate_bad,
            stable: self.stable + later.stable,
            stable_bad: self.stable_bad + later.stable_bad,
        }
    }
}

/// Evidence so far. Small enough to be kept for every run.
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    /// Natural logarithm of the restarted product for each of the effects.
    log_evidence: [f64; EFFECTS.len()],
    /// Bad attempts of stable, remembered.
    stable_bad: f64,
    /// Attempts of stable, remembered.
    stable: f64,
    /// What could not be judged yet because one arm had nothing.
    waiting: Block,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            log_evidence: [0.0; EFFECTS.len()],
            stable_bad: PRIOR_BAD,
            stable: PRIOR_ATTEMPTS,
            waiting: Block::default(),
        }
    }
}

impl Detector {
    /// Takes a look: adds a block. `controlled` is false in a step where stable has no traffic by design; then stable's
    /// remembered rate stands in for it. Otherwise a block without stable waits for the next one.
    pub fn look(&mut self, block: Block, controlled: bool) {
        let block = self.waiting.join(block);
        if block.candidate == 0 || (controlled && block.stable == 0) {
            // Stable alone still teaches its rate; the candidate alone must wait for company.
            if block.candidate == 0 {
                self.learn(block);
                self.waiting = Block::default();
            } else {
                self.waiting = block;
            }
            return;
        }
        self.waiting = Block::default();
        // The alternative is fixed before the block is looked at: that makes the product a fair game.
        let p_stable = (self.stable_bad / self.stable).clamp(0.001, 0.9);
        for (log_evidence, effect) in self.log_evidence.iter_mut().zip(EFFECTS) {
            let p_candidate = (p_stable + effect).min(0.98);
            if p_candidate - p_stable <= TOLERANCE {
                continue;
            }
            let q = if controlled { closest_null(p_stable, p_candidate, block) } else { p_stable };
            let increment = log_ratio(block.stable_bad, block.stable, p_stable, q)
                + log_ratio(block.candidate_bad, block.candidate, p_candidate, q + TOLERANCE);
            *log_evidence = log_evidence.max(0.0) + increment;
        }
        self.learn(block);
    }

    /// Evidence of harm, as a power of ten; at [`ALARM_LOG10`] the candidate does harm.
    pub fn evidence_log10(&self) -> f64 {
        let highest = self.log_evidence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean =
            self.log_evidence.iter().map(|log| (log - highest).exp()).sum::<f64>() / EFFECTS.len() as f64;
        (highest + mean.ln()) / std::f64::consts::LN_10
    }

    /// Whether the evidence suffices.
    pub fn alarm(&self) -> bool {
        self.evidence_log10() >= ALARM_LOG10
    }

    fn learn(&mut self, block: Block) {
        self.stable_bad += block.stable_bad as f64;
        self.stable += block.stable as f64;
        if self.stable > MEMORY_ATTEMPTS {
            self.stable_bad *= MEMORY_ATTEMPTS / self.stable;
            self.stable = MEMORY_ATTEMPTS;
        }
    }
}

/// Logarithm of the likelihood ratio of `bad` out of `all`, under rate `p` against rate `q`.
fn log_ratio(bad: u64, all: u64, p: f64, q: f64) -> f64 {
    let good = all.saturating_sub(bad);
    bad as f64 * (p / q).ln() + good as f64 * ((1.0 - p) / (1.0 - q)).ln()
}

/// Stable's rate in the closest pair without harm, `(q, q + TOLERANCE)`: the minimum over q of
/// `n_stable KL(p_stable, q) + n_candidate KL(p_candidate, q + TOLERANCE)`, a convex function, by golden-section search.
fn closest_null(p_stable: f64, p_candidate: f64, block: Block) -> f64 {
    const RATIO: f64 = 0.618_033_988_749_895;
    let (n_stable, n_candidate) = (block.stable as f64, block.candidate as f64);
    let distance =
        |q: f64| n_stable * divergence(p_stable, q) + n_candidate * divergence(p_candidate, q + TOLERANCE);
    let (mut low, mut high) = (1e-6, 1.0 - TOLERANCE - 1e-6);
    for _ in 0..60 {
        let (left, right) = (high - RATIO * (high - low), low + RATIO * (high - low));
        if distance(left) < distance(right) {
            high = right;
        } else {
            low = left;
        }
    }
    f64::midpoint(low, high)
}

/// Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), for p and q inside (0, 1).
fn divergence(p: f64, q: f64) -> f64 {
    p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln()
}

#[cfg(test)]
mod tests;
