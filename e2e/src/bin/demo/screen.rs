//! What a person sees while the demo runs: one line a second, and each new sentence of the status.

use std::time::Duration;

use stoker_api::deployment::ModelDeploymentStatus;
use stoker_e2e::load::ledger::Ledger;

use crate::outcome::Version;

/// Lines after which the heading is shown again.
const HEADING_EVERY: usize = 20;
/// Figures are those of the last seconds.
const WINDOW: Duration = Duration::from_secs(2);

/// The table.
#[derive(Default)]
pub(crate) struct Screen {
    lines: usize,
    message: String,
}

impl Screen {
    /// A sentence between the lines.
    pub(crate) fn say(&mut self, text: &str) {
        println!("\n== {text}");
        self.lines = 0;
    }

    /// One line of the table, and the status's sentence when it changed.
    pub(crate) fn line(
        &mut self,
        now: Duration,
        status: &ModelDeploymentStatus,
        ledger: &Ledger,
        versions: &[Version],
    ) {
        if self.lines.is_multiple_of(HEADING_EVERY) {
            println!(
                "{:>6}  {:<12} {:<5} {:>6}  {:<13} requests/s, failed, p99, accuracy of each version",
                "TIME", "PHASE", "STEP", "WEIGHT", "VERDICT"
            );
        }
        self.lines += 1;
        // Answers of the last second are still under way.
        let by_revision = ledger.lately(now, WINDOW);
        let mut arms = Vec::new();
        for version in versions {
            let Some(figures) = by_revision.get(version.revision.as_str()) else { continue };
            let accuracy =
                figures.accuracy.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
            arms.push(format!(
                "{} {:>4.0}/s {:>3.0}/s failed {:>6.1} ms {accuracy}",
                version.name,
                figures.requests as f64 / WINDOW.as_secs_f64(),
                figures.failed as f64 / WINDOW.as_secs_f64(),
                figures.p99_ms
            ));
        }
        if let Some(none) = by_revision.get("none") {
            arms.push(format!("no revision: {} failed", none.failed));
        }
        println!(
            "{:>5.0}s  {:<12} {:<5} {:>5}%  {:<13} {}",
            now.as_secs_f64(),
            status.phase.as_str(),
            status.step.as_deref().unwrap_or("-"),
            status.weight.unwrap_or(0),
            status.verdict.as_deref().unwrap_or("-"),
            arms.join(" | ")
        );
        self.message(status);
    }

    /// The status's sentence, without what changes every second in it being repeated.
    fn message(&mut self, status: &ModelDeploymentStatus) {
        if self.message != status.message {
            self.message.clone_from(&status.message);
            println!("        {}", status.message);
        }
    }
}
