//! Looking at a run: routers' totals in, verdict out. Joins the book of counts, the detector of harm and the verdict.

use std::time::Duration;

use crate::evidence::{Book, Counts, Key};
use crate::harm::{self, Block, Detector};
use crate::verdict::{self, Evidence, Verdict};

/// What one router says about one arm: totals since its process started.
#[derive(Clone, Debug)]
pub struct Report {
    /// Id of the router process.
    pub process: String,
    /// Which arm of which step.
    pub key: Key,
    /// The totals.
    pub counts: Counts,
}

/// One look at a run.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// Number of the run.
    pub run: u64,
    /// Its step; 0 while the candidate has no traffic.
    pub step: u32,
    /// The revision that serves.
    pub stable: &'a str,
    /// The revision that is tried.
    pub candidate: &'a str,
    /// From all routers that answered.
    pub reports: &'a [Report],
    /// Why routers could not be read, if so.
    pub unreadable: Option<&'a str>,
    /// False in a step that leaves stable no traffic.
    pub controlled: bool,
    /// The user's latency target.
    pub target: Option<Duration>,
    /// Attempts that each arm must have in a step.
    pub wanted: u64,
    /// Time spent in this step.
    pub in_step: Duration,
    /// Time since the last look.
    pub elapsed: Duration,
}

/// What a look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// The candidate over the run, from its first canary step on.
    pub candidate: Counts,
    /// Stable over the same time.
    pub stable: Counts,
    /// Evidence of harm as a power of ten.
    pub harm_log10: f64,
    /// Above this an answer counts against its arm.
    pub slow_above: Option<Duration>,
}

/// What is remembered between looks. When it is lost, the routers' totals bring it back, as one large block.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    book: Book,
    detector: Detector,
    harm: harm::Evidence,
    run: u64,
    step: u32,
    slow_above: Option<Duration>,
    silent: Duration,
}

impl Analysis {
    /// An analysis that knows from an earlier process what counts as slow.
    pub fn resume(run: u64, slow_above: Option<Duration>) -> Self {
        Self { run, slow_above, ..Self::default() }
    }

    /// Takes a look.
    pub fn look(&mut self, look: &Look<'_>) -> Finding {
        self.turn_to(look);
        let mut block = Block::default();
        for report in look.reports {
            let new = self.book.note(&report.process, report.key.clone(), &report.counts);
            if report.key.run != look.run || report.key.step == 0 {
                continue;
            }
            let bad = new.bad(self.slow_above);
            if report.key.revision == look.candidate {
                block.candidate += new.attempts;
                block.candidate_bad += bad;
            } else if report.key.revision == look.stable {
                block.stable += new.attempts;
                block.stable_bad += bad;
            }
        }
        self.silent = if block.candidate > 0 { Duration::ZERO } else { self.silent + look.elapsed };
        self.harm.add(&self.detector.increment(block, look.controlled));
        let baseline = self.book.total(look.run, look.stable, |_| true);
        self.slow_above = verdict::slow_above(look.target, self.slow_above, &baseline);
        let candidate = self.book.total(look.run, look.candidate, |step| step > 0);
        let stable = self.book.total(look.run, look.stable, |step| step > 0);
        let in_step = |revision| self.book.total(look.run, revision, |step| step == look.step).attempts;
        let harm_log10 = self.harm.log10();
        let verdict = verdict::judge(&Evidence {
            candidate: &candidate,
            stable: &stable,
            candidate_in_step: in_step(look.candidate),
            stable_in_step: in_step(look.stable),
            wanted: look.wanted,
            controlled: look.controlled,
            harm_log10,
            slow_above: self.slow_above,
            silent: self.silent,
            in_step: look.in_step,
            unreadable: look.unreadable,
        });
        Finding { verdict, candidate, stable, harm_log10, slow_above: self.slow_above }
    }

    /// A new run starts without evidence, a new step without silence.
    fn turn_to(&mut self, look: &Look<'_>) {
        if self.run != look.run {
            self.run = look.run;
            self.detector = Detector::default();
            self.harm = harm::Evidence::default();
            self.slow_above = None;
            self.book.forget_before(look.run);
            self.silent = Duration::ZERO;
        }
        if self.step != look.step {
            self.step = look.step;
            self.silent = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u32, revision: &str, attempts: u64, errors: u64, millis: u64) -> Report {
        let mut counts = Counts { attempts, errors, ..Counts::default() };
        for _ in errors..attempts {
            counts.latency.record(Duration::from_millis(millis));
        }
        Report { process: "r1".into(), key: Key { run: 2, step, revision: revision.into() }, counts }
    }

    fn look(reports: &[Report]) -> Look<'_> {
        Look {
            run: 2,
            step: 1,
            stable: "a",
            candidate: "b",
            reports,
            unreadable: None,
            controlled: true,
            target: None,
            wanted: 50,
            in_step: Duration::from_secs(10),
            elapsed: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_candidate_that_fails_is_found_and_the_totals_are_told() {
        let mut analysis = Analysis::default();
        let reports = [report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)];
        let finding = analysis.look(&look(&reports));
        assert_eq!(finding.verdict.word(), "Fail");
        assert_eq!((finding.candidate.errors, finding.stable.attempts), (30, 900));
    }

    #[test]
    fn a_candidate_that_is_too_slow_is_found_against_what_stable_did_before() {
        let mut analysis = Analysis::default();
        let before = [report(0, "a", 500, 0, 5)];
        analysis.look(&Look { step: 0, ..look(&before) });
        let reports = [report(1, "a", 900, 0, 5), report(1, "b", 100, 0, 60)];
        assert_eq!(analysis.look(&look(&reports)).verdict.word(), "Fail");
    }

    #[test]
    fn the_same_totals_twice_are_no_new_evidence() {
        let mut analysis = Analysis::default();
        let reports = [report(1, "a", 90, 0, 5), report(1, "b", 10, 1, 5)];
        let first = analysis.look(&look(&reports)).harm_log10;
        let second = analysis.look(&look(&reports)).harm_log10;
        assert!((first - second).abs() < 1e-9);
    }

    #[test]
    fn traffic_that_stops_is_noticed() {
        let mut analysis = Analysis::default();
        let reports = [report(1, "a", 900, 0, 5), report(1, "b", 100, 0, 5)];
        assert_eq!(analysis.look(&look(&reports)).verdict.word(), "Pass");
        let later = analysis.look(&Look {
            elapsed: Duration::from_secs(20),
            in_step: Duration::from_secs(30),
            ..look(&reports)
        });
        assert_eq!(later.verdict.word(), "Inconclusive");
    }

    #[test]
    fn a_restart_of_the_operator_finds_the_same_harm_in_the_totals() {
        let reports = [report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)];
        let mut resumed = Analysis::resume(2, None);
        assert_eq!(resumed.look(&look(&reports)).verdict.word(), "Fail");
    }

    #[test]
    fn a_new_run_starts_without_evidence() {
        let mut analysis = Analysis::default();
        analysis.look(&look(&[report(1, "a", 900, 1, 5), report(1, "b", 100, 30, 5)]));
        let finding = analysis.look(&Look { run: 3, step: 0, ..look(&[]) });
        assert!(finding.harm_log10 < 1.0 && finding.candidate.attempts == 0);
    }
}
