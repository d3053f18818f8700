//! The difference of the arms' rates over a run, block by block: what is shown, and what is too close to call.
//!
//! Totals of a run must not be compared. In a later step the candidate has a larger share, so an incident of that time weighs more
//! in its totals than in stable's, and a healthy candidate looks worse than it is (Simpson's paradox). Each block is a stratum
//! of its own: the Mantel-Haenszel risk difference `sum(w (c/n - s/m)) / sum(w)` with `w = n m / (n + m)`.
//! Source: Greenland and Robins, "Estimation of a common effect parameter from sparse follow-up data" (1985).

use super::Block;

/// Sums over blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Sum of weights.
    weight: f64,
    /// Sum of weighted differences.
    score: f64,
    /// Variance of the score if attempts were independent and the arms equal.
    variance: f64,
    /// Sums of squares and products of the blocks' scores and weights: the variance as it is, bursts within a block included.
    squares: f64,
    products: f64,
    weights: f64,
    /// Mean size of a clump of bad attempts; 0 where nothing is known.
    clump: f64,
}

impl Difference {
    /// Adds a block. One that lacks an arm says nothing.
    pub fn add(&mut self, block: Block) {
        let (n, m) = (block.candidate as f64, block.stable as f64);
        if n == 0.0 || m == 0.0 {
            return;
        }
        let (candidate, stable) =
            (block.candidate_bad.min(block.candidate) as f64, block.stable_bad.min(block.stable) as f64);
        let all = n + m;
        let weight = n / all * m;
        let score = weight * (candidate / n - stable / m);
        let pooled = (candidate + stable) / all;
        self.weight += weight;
        self.score += score;
        self.variance += weight * pooled * (1.0 - pooled) * all / (all - 1.0);
        self.squares += score * score;
        self.products += score * weight;
        self.weights += weight * weight;
    }

    /// The candidate's rate less stable's; none before both have answered in one block.
    pub fn estimate(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.score / self.weight)
    }

    /// Standard error of the estimate: the larger of what independence says and what the blocks show.
    pub fn error(&self) -> Option<f64> {
        let mean = self.estimate()?;
        let spread = self.squares - 2.0 * mean * self.products + mean * mean * self.weights;
        Some((self.variance * self.clump.max(1.0)).max(spread).sqrt() / self.weight)
    }

    /// The same, where bad attempts come in clumps of this mean size: their variance is that many times larger.
    #[must_use]
    pub(super) fn with_clumps(self, clump: f64) -> Self {
        Self { clump, ..self }
    }
}
