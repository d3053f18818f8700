//! Faults of the operator, with operators as processes: a short form of the crash sweep, two operators at once, a clock that
//! jumps. `e2e/run` starts this last, since the installed operator goes away meanwhile.
#![expect(clippy::print_stdout, reason = "shown when the test fails")]

mod clock;
mod leaders;
mod sweep;

use anyhow::{Context as _, Result, bail};
use stoker_e2e::sweep::ground::grounded;

/// One test, since the three share a cluster that was cleared for them, and wait most of the time.
#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_disturbed_operator_comes_to_the_same_end_and_a_stale_one_or_a_jump_of_the_clock_does_no_harm() {
    grounded("target/faults-short", async |ground| {
        let outcomes: [Result<()>; 3] = futures::future::join3(
            sweep::every_disturbed_run_ends_as_the_undisturbed_one(ground),
            leaders::an_operator_that_was_stopped_past_its_lease_writes_nothing_more(ground),
            clock::a_clock_that_jumps_ends_no_step_early(ground),
        )
        .await
        .into();
        let parts = ["the crash sweep", "two operators", "the clock"];
        let failed =
            parts.into_iter().zip(outcomes).filter_map(|(part, outcome)| outcome.context(part).err());
        let failed: Vec<String> = failed.map(|error| format!("{error:#}")).collect();
        if !failed.is_empty() {
            bail!("{}", failed.join("\n\n"));
        }
        Ok(())
    });
}
