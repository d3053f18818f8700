//! Errors that come in clumps: by how much stable's counts vary more than independent attempts would.
//!
//! A client that tries again, a bad batch, a pod that stumbles for some seconds: the same number of errors comes in fewer events,
//! and chance makes larger differences between the arms. With clumps of m errors the evidence of a block is that of its clumps
//! to the power m, so its m-th root is an e-variable again; and a root of any e-variable is one (Jensen: `E[e^(1/m)] <= E[e]^(1/m)`).
//! So the log-increments are divided by the dispersion, which is learned from stable's past: that the block at hand has no
//! part in it keeps the game fair.
//!
//! The measure is that of successive windows of stable, `(x - y)^2 / (x + y)` for x and y bad attempts in windows of equal size: 1
//! on average when attempts are independent, m when they come in clumps of m. Successive differences do not see slow
//! drifts (von Neumann, "Distribution of the ratio of the mean square successive difference to the variance", 1941).

/// Attempts of stable in a window, at least.
const WINDOW_ATTEMPTS: u64 = 50;
/// Blocks in a window, at least: clumps within a moment and over some moments both count.
const WINDOW_BLOCKS: u32 = 4;
/// Pairs of windows that the first guess (no clumps) weighs.
const PRIOR_PAIRS: f64 = 10.0;
/// Pairs of windows that are remembered.
const MEMORY_PAIRS: f64 = 60.0;
/// A pair counts for no more: an incident that begins is one event, and says nothing of clumps.
const LARGEST: f64 = 10.0;

/// The dispersion of stable's bad attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dispersion {
    open: Window,
    last: Option<Window>,
    /// Sum over pairs, and their number.
    sum: f64,
    pairs: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Window {
    attempts: u64,
    bad: u64,
    blocks: u32,
}

impl Default for Dispersion {
    fn default() -> Self {
        Self { open: Window::default(), last: None, sum: PRIOR_PAIRS, pairs: PRIOR_PAIRS }
    }
}

impl Dispersion {
    /// Adds a block of stable.
    pub(super) fn learn(&mut self, attempts: u64, bad: u64) {
        if attempts == 0 {
            return;
        }
        self.open.attempts = self.open.attempts.saturating_add(attempts);
        self.open.bad = self.open.bad.saturating_add(bad.min(attempts));
        self.open.blocks = self.open.blocks.saturating_add(1);
        if self.open.attempts < WINDOW_ATTEMPTS || self.open.blocks < WINDOW_BLOCKS {
            return;
        }
        let now = std::mem::take(&mut self.open);
        if let Some(pair) = self.last.replace(now).and_then(|before| ratio(before, now)) {
            self.sum += pair.min(LARGEST);
            self.pairs += 1.0;
            if self.pairs > MEMORY_PAIRS {
                self.sum *= MEMORY_PAIRS / self.pairs;
                self.pairs = MEMORY_PAIRS;
            }
        }
    }

    /// The mean size of a clump, at least 1.
    pub(super) fn clump(&self) -> f64 {
        (self.sum / self.pairs).max(1.0)
    }
}

/// Squared difference of two windows' rates, over its variance for independent attempts of one rate. None where nothing was
/// bad, or everything: that says nothing.
fn ratio(a: Window, b: Window) -> Option<f64> {
    let (n, m) = (a.attempts as f64, b.attempts as f64);
    let pooled = (a.bad as f64 + b.bad as f64) / (n + m);
    let difference = a.bad as f64 / n - b.bad as f64 / m;
    let variance = pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m);
    (variance > 0.0).then(|| difference * difference / variance)
}
