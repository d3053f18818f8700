//! The alarm that a declared probability of a false rollback allows.
//!
//! For an e-detector `P(alarm within n blocks) <= n / T` without harm, whatever the rates do (the module above says why). So
//! `T = n / probability`. The number of blocks is that of all who may decide: each router counts blocks of 250 ms and the
//! operator blocks of 1 s, for each metric that is judged.

use std::time::Duration;

/// Probability of a false rollback in one rollout, where the user declares none.
pub const PER_ROLLOUT: f64 = 0.01;

/// Probability of a false return in a month of guard, where the user declares none.
pub const PER_GUARD_MONTH: f64 = 0.01;

/// A month, as the budget of the guard counts it: 30 days.
pub const GUARD_MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Length of a router's block.
pub const ROUTER_BLOCK: Duration = Duration::from_millis(250);

/// Length of the operator's block.
pub const OPERATOR_BLOCK: Duration = Duration::from_secs(1);

/// Lowest alarm: below 100 to 1 a single bad attempt could decide.
const LOWEST: f64 = 2.0;
/// Highest alarm: what a year of blocks needs for the strictest budget.
const HIGHEST: f64 = 15.0;

/// Blocks that all who may decide look at in `time`: `routers` routers that share their evidence, and the operator, for
/// each of `metrics`.
pub fn blocks(time: Duration, routers: u32, metrics: u32) -> u64 {
    let of = |block: Duration| time.as_nanos().div_ceil(block.as_nanos());
    // In every block each router adds its own increment and that of each peer, and each addition may restart.
    let routers = u128::from(routers.max(1));
    let shared = of(ROUTER_BLOCK).saturating_mul(routers * routers);
    let looks = shared.saturating_add(of(OPERATOR_BLOCK));
    u64::try_from(looks.saturating_mul(u128::from(metrics.max(1)))).unwrap_or(u64::MAX)
}

/// The alarm, as a power of ten, that without harm is reached within `blocks` blocks with a probability of at most `budget`.
/// A budget outside 1e-6..=0.5 counts as the nearer of these; one that is no number counts as [`PER_ROLLOUT`].
pub fn alarm_log10(budget: f64, blocks: u64) -> f64 {
    let budget = if budget.is_nan() { PER_ROLLOUT } else { budget.clamp(1e-6, 0.5) };
    ((blocks.max(1) as f64) / budget).log10().clamp(LOWEST, HIGHEST)
}

/// The alarm for a run that was planned to take `planned` blocks and has taken `taken`: a run that holds may last for ever, and
/// its budget must do.
///
/// Half of the budget is for the blocks that were planned, half of the rest until twice as many, and so on: the k-th doubling
/// has `budget / 2^(k+1)` for `planned 2^k` blocks. So the alarm rises by a factor of 4 at each doubling, and never above 15.
pub fn alarm_log10_after(budget: f64, planned: u64, taken: u64) -> f64 {
    let planned = planned.max(1);
    let mut doublings = 0_u32;
    let mut until = planned;
    while until < taken && until < u64::MAX / 2 {
        until *= 2;
        doublings += 1;
    }
    let base = alarm_log10(budget, planned) + std::f64::consts::LOG10_2;
    (base + 2.0 * f64::from(doublings) * std::f64::consts::LOG10_2).clamp(LOWEST, HIGHEST)
}
