//! Errors that come in clumps: by how much the difference of the arms varies more than independent attempts would make it.
//!
//! A client that tries again, a bad batch, a pod that stumbles for some seconds: the same number of errors comes in fewer events,
//! and chance makes larger differences between the arms. With clumps of m errors the evidence of a block is that of its clumps
//! to the power m, so its m-th root is an e-variable again; and a root of any e-variable is one (Jensen: `E[e^(1/m)] <= E[e]^(1/m)`).
//! So the log-increments are divided by the dispersion, which is learned from past blocks: that the block at hand has no part
//! in it keeps the game fair.
//!
//! The measure: the difference of the arms' rates in one window less that in the window before, squared, over its variance for
//! independent attempts, each arm at the rate that it had in the two. It is 1 on average without clumps. What both arms share
//! cancels within a window, and steady harm between two of them (von Neumann, "Distribution of the ratio of the mean square successive difference to the variance", 1941).
//! Clumps may last for long, so windows of three lengths are kept and the largest dispersion counts.
//!
//! Harm that begins changes the difference, too, but only once, in two pairs: it begins inside a window. So the two largest pairs
//! count for no more than the third largest (a winsorised mean). Without this the evidence of harm after a long good time
//! would be halved by its own onset.

use super::Block;

/// Blocks in a window, at least, for each of the lengths: with a router's blocks 1, 4 and 16 seconds.
const WINDOW_BLOCKS: [u32; 3] = [4, 16, 64];
/// Attempts in a window, at least.
const WINDOW_ATTEMPTS: u64 = 50;
/// Pairs of windows that the first guess (no clumps) weighs.
const PRIOR_PAIRS: f64 = 8.0;
/// Pairs of windows that are remembered.
const MEMORY_PAIRS: f64 = 60.0;
/// A pair counts for no more, so that what a few windows saw is soon forgotten.
const LARGEST: f64 = 10.0;

/// The dispersion of the arms' difference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Dispersion([Scale; WINDOW_BLOCKS.len()]);

/// Windows of one length.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    open: Block,
    blocks: u32,
    last: Option<Block>,
    /// Sum over pairs, and their number.
    sum: f64,
    pairs: f64,
    /// What the three largest pairs have in the sum, the largest first.
    top: [f64; 3],
}

impl Default for Scale {
    fn default() -> Self {
        let (sum, pairs, top) = (PRIOR_PAIRS, PRIOR_PAIRS, [1.0; 3]);
        Self { open: Block::default(), blocks: 0, last: None, sum, pairs, top }
    }
}

impl Dispersion {
    /// Adds a block of both arms.
    pub(super) fn learn(&mut self, block: Block) {
        for (scale, blocks) in self.0.iter_mut().zip(WINDOW_BLOCKS) {
            scale.learn(block, blocks);
        }
    }

    /// The mean size of a clump, at least 1.
    pub(super) fn clump(&self) -> f64 {
        self.0.iter().map(Scale::mean).fold(1.0, f64::max)
    }
}

impl Scale {
    fn learn(&mut self, block: Block, blocks: u32) {
        self.open = self.open.join(block);
        self.blocks = self.blocks.saturating_add(1);
        let attempts = self.open.candidate.saturating_add(self.open.stable);
        if self.blocks < blocks || attempts < WINDOW_ATTEMPTS {
            return;
        }
        let now = std::mem::take(&mut self.open);
        self.blocks = 0;
        if now.candidate == 0 || now.stable == 0 {
            return;
        }
        if let Some(pair) = self.last.replace(now).and_then(|before| ratio(before, now)) {
            let pair = pair.min(LARGEST);
            self.sum += pair;
            self.pairs += 1.0;
            let [largest, second, third] = self.top;
            self.top = [largest.max(pair), second.max(pair.min(largest)), third.max(pair.min(second))];
        }
        if self.pairs > MEMORY_PAIRS {
            let kept = MEMORY_PAIRS / self.pairs;
            self.sum *= kept;
            self.top = self.top.map(|pair| pair * kept);
            self.pairs = MEMORY_PAIRS;
        }
    }

    /// The mean of the pairs, the two largest counted like the third.
    fn mean(&self) -> f64 {
        let [largest, second, third] = self.top;
        (self.sum - largest - second + 2.0 * third) / self.pairs
    }
}

/// Squared change of the arms' difference between two windows that have both arms, over its variance for independent attempts. None
/// without a bad attempt, or without a good one: there is nothing to learn.
fn ratio(before: Block, now: Block) -> Option<f64> {
    let arm = |all: [u64; 2], bad: [u64; 2]| {
        let [n, m] = all.map(|all| all as f64);
        let [x, y] = [bad[0].min(all[0]) as f64, bad[1].min(all[1]) as f64];
        let rate = (x + y) / (n + m);
        // The variance of two windows' difference, given how many were bad in both together (hypergeometric).
        (x / n - y / m, rate * (1.0 - rate) * (n + m) / (n + m - 1.0) * (1.0 / n + 1.0 / m))
    };
    let (candidate, candidate_variance) =
        arm([now.candidate, before.candidate], [now.candidate_bad, before.candidate_bad]);
    let (stable, stable_variance) = arm([now.stable, before.stable], [now.stable_bad, before.stable_bad]);
    let (change, variance) = (candidate - stable, candidate_variance + stable_variance);
    (variance > 0.0).then(|| change * change / variance)
}
