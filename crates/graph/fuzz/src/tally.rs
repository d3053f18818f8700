//! What came of the graphs, counted by operator. libFuzzer ends a process wherever it stands, so the counts
//! are written to a file from time to time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The file of the counts, in the environment.
const FILE: &str = "STOKER_FUZZ_TALLY";
/// How often the file is written.
const EVERY: Duration = Duration::from_secs(1);

/// What can come of a graph, besides a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Both answered, and the answers were the same. Counted for each operator in the graph.
    Same,
    /// Both refused it.
    BothRefused,
    /// Ours refused what the other answered.
    OursRefused,
    /// The other refused what ours answered.
    TheirsRefused,
    /// The other's process died of it, or took too long.
    TheirsGone,
}

/// Counts by outcome and operator, each with a reason that was given.
#[derive(Debug)]
pub struct Tally {
    counts: BTreeMap<(Outcome, &'static str), (u64, String)>,
    file: Option<PathBuf>,
    written: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        let file = std::env::var_os(FILE).map(PathBuf::from);
        Self { counts: BTreeMap::new(), file, written: Instant::now() }
    }
}

impl Tally {
    /// Counts an outcome for an operator. The first reason is kept.
    pub fn count(&mut self, outcome: Outcome, operator: &'static str, reason: &str) {
        let entry = self.counts.entry((outcome, operator)).or_insert_with(|| (0, one_line(reason)));
        entry.0 += 1;
        if self.written.elapsed() >= EVERY {
            self.write();
        }
    }

    /// One line for each count: outcome, operator, count and reason, with tabs between them.
    fn write(&mut self) {
        self.written = Instant::now();
        let Some(file) = &self.file else { return };
        let mut lines = String::new();
        for ((outcome, operator), (count, reason)) in &self.counts {
            let _ = writeln!(lines, "{outcome:?}\t{operator}\t{count}\t{reason}");
        }
        // A count that cannot be written is no reason to stop.
        let _ = std::fs::write(file, lines);
    }
}

/// The beginning of a text, without line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}
