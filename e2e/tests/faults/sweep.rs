//! The crash sweep at a few points of each story. All of it: `make faults`.

use anyhow::{Result, ensure};
use stoker_e2e::proxy::Fault;
use stoker_e2e::sweep::ground::Ground;
use stoker_e2e::sweep::scenario::Scenario;
use stoker_e2e::sweep::{Extent, Sweep};

/// Runs wait most of the time.
const PARALLEL: usize = 32;

pub async fn every_disturbed_run_ends_as_the_undisturbed_one(ground: &Ground) -> Result<()> {
    let sweep = Sweep::new(ground, PARALLEL)?;
    let report = sweep.sweep(&Scenario::ALL, Extent::Short, &Fault::ALL, |line| println!("{line}")).await?;
    println!("{report}");
    ensure!(report.divergences() == 0, "{report}");
    ensure!(report.kill_points() >= Scenario::ALL.len(), "too few faults hit a write: {report}");
    Ok(())
}
