//! What a sweep found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::run::Outcome;

/// The count, and all that diverged.
#[derive(Default)]
pub struct Report {
    scenarios: usize,
    took: Duration,
    /// Operators that were killed at a write, by story.
    kills: BTreeMap<&'static str, usize>,
    /// Other faults that hit a write, by fault.
    others: BTreeMap<&'static str, usize>,
    /// Runs in which no write came for the fault.
    missed: usize,
    /// Writes that the operator died at, by story.
    fatal: BTreeSet<(&'static str, String)>,
    /// Writes of an undisturbed run that the operator never died at.
    spared: Vec<String>,
    slowest: Duration,
    diverged: Vec<Outcome>,
}

impl Report {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.slowest = self.slowest.max(outcome.took);
        if outcome.struck.is_empty() && outcome.divergences.is_empty() {
            self.missed += 1;
        } else if outcome.disturbance.fault.kills() {
            *self.kills.entry(outcome.scenario).or_default() += 1;
            self.fatal.extend(outcome.struck.iter().map(|write| (outcome.scenario, write.clone())));
        } else {
            *self.others.entry(outcome.fault).or_default() += outcome.struck.len();
        }
        if !outcome.divergences.is_empty() {
            self.diverged.push(outcome);
        }
    }

    /// Notes which writes of an undisturbed run the operator never died at.
    pub(super) fn expect(&mut self, scenario: &'static str, writes: &[String]) {
        let spared = writes.iter().filter(|write| !self.fatal.contains(&(scenario, (*write).clone())));
        self.spared.extend(spared.map(|write| format!("{scenario}: {write}")));
    }

    pub(super) fn finish(&mut self, scenarios: usize, took: Duration) {
        (self.scenarios, self.took) = (scenarios, took);
    }

    /// Runs that did not end as the golden run.
    pub fn divergences(&self) -> usize {
        self.diverged.len()
    }

    /// Runs in which the operator was killed at a write.
    pub fn kill_points(&self) -> usize {
        self.kills.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in &self.diverged {
            writeln!(f, "diverged: {outcome}")?;
            for line in &outcome.divergences {
                writeln!(f, "    {line}")?;
            }
        }
        for (scenario, count) in &self.kills {
            writeln!(f, "{scenario:>16}: {count} kill points")?;
        }
        for (fault, count) in &self.others {
            writeln!(f, "{fault:>16}: {count} writes")?;
        }
        for write in &self.spared {
            writeln!(f, "the operator never died at: {write}")?;
        }
        writeln!(
            f,
            "{} runs had fewer writes than their fault's number; the slowest run took {:.0} s, all took {:.0} s",
            self.missed,
            self.slowest.as_secs_f64(),
            self.took.as_secs_f64()
        )?;
        let others: usize = self.others.values().sum();
        write!(
            f,
            "{} scenarios x {} kill points (and {others} other faults), divergences {}",
            self.scenarios,
            self.kill_points(),
            self.divergences()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Disturbance, Fault};

    fn outcome(kills: bool, struck: bool, divergences: &[&str]) -> Outcome {
        Outcome {
            scenario: "promote",
            fault: if kills { "killed-before" } else { "watches-dropped" },
            disturbance: Disturbance::once(if kills { Fault::KillBefore } else { Fault::DropWatches }, 3),
            struck: struck.then(|| "PUT modelroutes/digits".to_owned()).into_iter().collect(),
            divergences: divergences.iter().map(|line| (*line).to_owned()).collect(),
            took: Duration::from_secs(9),
        }
    }

    #[test]
    fn the_last_line_counts_what_was_hit_and_what_diverged() {
        let mut report = Report::default();
        report.add(outcome(true, true, &[]));
        report.add(outcome(true, true, &["ModelRoute/digits: is missing"]));
        report.add(outcome(false, true, &[]));
        // Nothing was hit, so this shows nothing.
        report.add(outcome(true, false, &[]));
        report.expect("promote", &["PUT modelroutes/digits".to_owned(), "DELETE pods/x".to_owned()]);
        report.finish(1, Duration::from_secs(20));
        let text = report.to_string();
        let last = text.lines().last().unwrap();
        assert_eq!(last, "1 scenarios x 2 kill points (and 1 other faults), divergences 1");
        assert!(text.contains("promote: killed-before at write 3 (PUT modelroutes/digits)"), "{text}");
        assert!(text.contains("1 runs had fewer writes"), "{text}");
        assert!(text.contains("never died at: promote: DELETE pods/x"), "{text}");
        assert_eq!(text.matches("never died").count(), 1, "{text}");
    }

    #[test]
    fn a_run_that_broke_off_diverged_though_nothing_was_hit() {
        let mut report = Report::default();
        report.add(outcome(true, false, &["the story did not end"]));
        assert_eq!(report.divergences(), 1);
    }
}
