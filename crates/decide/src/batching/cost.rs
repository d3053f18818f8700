//! What a run of the model costs, learned from runs: `T(rows) = fixed + per_row * rows`, in seconds.
//!
//! Least squares over the runs so far, of which older ones count less and less ([`KEEP`] for each run since). The error of a
//! run is a share of its time, so a run weighs by the inverse square of the time that the model expects of it; else the
//! large batches alone would decide what a small one costs. Only the shape of the model is in the weights and not its
//! level, so that a model that becomes slower is learned as quickly as one that becomes faster.
//!
//! From batches of one size nobody can tell `fixed` from `per_row`. Their ratio then stays as it was, and what both come to
//! follows the runs.

/// What a run still counts when the next one comes: the mean is over the last 50 or so.
pub const KEEP: f64 = 0.98;
/// Least seconds for a row: no model is free.
const LEAST_PER_ROW: f64 = 1e-9;
/// The standard deviation of the sizes, as a share of their mean, below which they are of one size. With 50 runs whose
/// times scatter by 5 %, the ratio is then still known within 7 %.
const SPREAD: f64 = 0.1;
/// A run counts for at most so many times what was expected. A process that was stopped for a while has not become slow;
/// one that has is found out by the next runs.
const SLOWEST: f64 = 4.0;

/// The cost of a run. Starts without knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Sums over runs, weighted: 1, rows, rows², seconds, rows * seconds.
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    rows_seconds: f64,
    fixed: f64,
    per_row: f64,
    is_split: bool,
}

impl Cost {
    /// Learns from a run. Times that are no number or below 0, and runs of no row, teach nothing.
    pub fn observe(&mut self, rows: usize, seconds: f64) {
        if rows == 0 || !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        let count = rows as f64;
        let (mut weight, mut taken) = (1.0, seconds.max(LEAST_PER_ROW * count));
        if self.is_known() {
            let expected = self.seconds(rows);
            weight = (self.seconds(1) / expected).powi(2);
            taken = taken.min(SLOWEST * expected);
        }
        self.weight = KEEP * self.weight + weight;
        self.rows = KEEP * self.rows + weight * count;
        self.rows_squared = KEEP * self.rows_squared + weight * count * count;
        self.seconds = KEEP * self.seconds + weight * taken;
        self.rows_seconds = KEEP * self.rows_seconds + weight * count * taken;
        self.fit();
    }

    /// All runs so far took `ratio` times as long: what they say of the sizes stays.
    pub fn rescale(&mut self, ratio: f64) {
        if self.is_known() && ratio.is_finite() && ratio > 0.0 {
            self.seconds *= ratio;
            self.rows_seconds *= ratio;
            self.fixed *= ratio;
            self.per_row = (self.per_row * ratio).max(LEAST_PER_ROW);
        }
    }

    fn fit(&mut self) {
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_squared / self.weight - rows * rows;
        if variance > (SPREAD * rows).powi(2) {
            let slope = (self.rows_seconds / self.weight - rows * seconds) / variance;
            (self.fixed, self.per_row) = if slope * rows > seconds {
                // A fixed part below nothing: the best line through the origin.
                (0.0, self.rows_seconds / self.rows_squared)
            } else {
                let slope = slope.max(LEAST_PER_ROW);
                ((seconds - slope * rows).max(0.0), slope)
            };
            self.is_split = true;
        } else {
            let before = self.fixed + self.per_row * rows;
            (self.fixed, self.per_row) = if before > 0.0 {
                (self.fixed * seconds / before, (self.per_row * seconds / before).max(LEAST_PER_ROW))
            } else {
                (0.0, seconds / rows)
            };
        }
    }

    /// Whether there was any run. Without one a run is taken to cost nothing.
    pub fn is_known(&self) -> bool {
        self.weight > 0.0
    }

    /// Whether runs of different sizes have told `fixed` from `per_row`. Before that all of it counts as `per_row`.
    pub fn is_split(&self) -> bool {
        self.is_split
    }

    /// Seconds of a run, whatever its size.
    pub fn fixed(&self) -> f64 {
        self.fixed
    }

    /// Seconds for each row.
    pub fn per_row(&self) -> f64 {
        self.per_row
    }

    /// Seconds that a run of `rows` takes on average.
    pub fn seconds(&self, rows: usize) -> f64 {
        self.fixed + self.per_row * rows as f64
    }
}

/// How much longer than expected a run may take: the factor that 99 of 100 runs stay below.
///
/// Tracked by stochastic approximation of the quantile (Robbins and Monro, 1951): one step up by 99 parts where a run is
/// above, down by 1 part where it is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail(f64);

impl Tail {
    /// The share of runs that stays below.
    const SHARE: f64 = 0.99;
    /// A step, as a share of the factor: the factor rises by 5 % for a run above it.
    const STEP: f64 = 0.05;
    /// A model whose times scatter by more than that keeps no target.
    const MOST: f64 = 10.0;

    /// Learns from a run that took `ratio` times what was expected.
    pub fn observe(&mut self, ratio: f64) {
        let share = if ratio > self.0 { Self::SHARE } else { Self::SHARE - 1.0 };
        self.0 = (self.0 * (1.0 + Self::STEP * share)).clamp(1.0, Self::MOST);
    }

    /// The factor, 1 at least.
    pub fn factor(self) -> f64 {
        self.0
    }
}

impl Default for Tail {
    /// What is assumed before there are runs.
    fn default() -> Self {
        Self(1.3)
    }
}
