//! Looking at a run: routers' totals in, verdict out. Joins the book of counts, the detector of harm and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::evidence::{Book, Counts, Key};
use crate::harm::{self, Block, Detector, Increment, power};
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

/// How much evidence a step needs for a Pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// As many attempts of each arm, as the user says.
    Requests(u64),
    /// As many as would have shown harm of a given size: see [`power::wanted_requests`].
    Power {
        /// The harm, as a difference of rates.
        harm: f64,
        /// With which probability it would have been found.
        power: f64,
        /// The part of it that this step brings, 0..=1: see [`power::part`].
        part: f64,
    },
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
    /// The candidate's share of the traffic in this step, 0..=1.
    pub share: f64,
    /// The user's latency target.
    pub target: Option<Duration>,
    /// How much evidence this step needs.
    pub wanted: Wanted,
    /// At this evidence the candidate does harm: see [`harm::budget`].
    pub alarm_log10: f64,
    /// How much worse the candidate may be, as a difference of rates. It is that of the run's first look.
    pub tolerance: f64,
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
    /// Attempts that the candidate must have in this step.
    pub wanted: u64,
}

/// Fewest attempts of each arm in a step, however much evidence earlier steps brought: what a new weight does to the candidate
/// shows in this step only.
const FEWEST_IN_STEP: u64 = 10;

/// What is remembered between looks. When it is lost, the routers' totals bring it back, as one large block for each step.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    book: Book,
    detector: Option<Detector>,
    harm: harm::Evidence,
    /// The evidence at which the alarm was raised: harm that was seen stays seen for the run.
    alarmed: Option<f64>,
    run: u64,
    step: u32,
    slow_above: Option<Duration>,
    silent: Duration,
    stable_silent: Duration,
}

impl Analysis {
    /// An analysis that knows from an earlier process what counts as slow.
    pub fn resume(run: u64, slow_above: Option<Duration>) -> Self {
        Self { run, slow_above, ..Self::default() }
    }

    /// Takes a look.
    pub fn look(&mut self, look: &Look<'_>) -> Finding {
        self.turn_to(look);
        let (news, lie) = self.note(look);
        // The measure first, so that what made it known is judged by it as well.
        let baseline = self.book.total(look.run, look.stable, |_| true);
        self.slow_above = verdict::slow_above(look.target, self.slow_above, &baseline);
        self.take_in(look, &news);
        let candidate = self.book.total(look.run, look.candidate, |step| step > 0);
        let stable = self.book.total(look.run, look.stable, |step| step > 0);
        if self.harm.alarm(look.alarm_log10) {
            self.alarmed = Some(self.alarmed.map_or(self.harm.log10(), |log| log.max(self.harm.log10())));
        }
        let harm_log10 = self.alarmed.unwrap_or_else(|| self.harm.log10());
        let detector = self.detector.clone().unwrap_or_default();
        let (wanted, stable_wanted) = wanted(look, detector.base_rate());
        let verdict = verdict::judge(&Evidence {
            candidate: &candidate,
            stable: &stable,
            candidate_in_step: self.book.attempts(look.run, look.step, look.candidate),
            stable_in_step: self.book.attempts(look.run, look.step, look.stable),
            wanted,
            stable_wanted,
            controlled: look.controlled,
            baseline: detector.baseline(),
            harm_log10,
            // An alarm that has risen since does not take back one that was raised.
            alarm_log10: self.alarmed.map_or(look.alarm_log10, |log| log.min(look.alarm_log10)),
            tolerance: look.tolerance,
            difference: detector.difference(),
            slow_above: self.slow_above,
            silent: self.silent,
            stable_silent: self.stable_silent,
            in_step: look.in_step,
            unreadable: look.unreadable.or(lie.as_deref()),
        });
        Finding { verdict, candidate, stable, harm_log10, slow_above: self.slow_above, wanted }
    }

    /// Writes the reports into the book. Returns what is new in this run, and why one of them cannot be true, if so: what it says
    /// is left out.
    fn note<'a>(&mut self, look: &Look<'a>) -> (Vec<(&'a Key, Counts)>, Option<String>) {
        let (mut news, mut lie) = (Vec::new(), None);
        let mut told = BTreeSet::new();
        for Report { process, key, counts } in look.reports {
            let twice = (!told.insert((process, key))).then_some("two different totals");
            if let Some(why) = twice.or_else(|| counts.absurd()) {
                lie.get_or_insert_with(|| {
                    let Key { step, revision, .. } = key;
                    format!("router process {process} reports {why} for {revision} in step {step}; restart that router")
                });
                continue;
            }
            let new = self.book.note(process, key.clone(), counts);
            if key.run == look.run {
                news.push((key, new));
            }
        }
        (news, lie)
    }

    /// Judges what is new.
    fn take_in(&mut self, look: &Look<'_>, news: &[(&Key, Counts)]) {
        // Shares differ between steps, so their attempts must not be in one block.
        let mut blocks: BTreeMap<u32, Block> = BTreeMap::new();
        for (key, new) in news {
            let block = blocks.entry(key.step).or_default();
            let (attempts, bad) = (new.attempts, new.bad(self.slow_above));
            if key.revision == look.candidate {
                *block = block.join(Block { candidate: attempts, candidate_bad: bad, ..Block::default() });
            } else if key.revision == look.stable {
                *block = block.join(Block { stable: attempts, stable_bad: bad, ..Block::default() });
            }
        }
        let detector = self.detector.get_or_insert_with(|| Detector::new(look.tolerance));
        let mut all = Block::default();
        let mut increment = Increment::default();
        for (step, block) in blocks {
            if step == 0 {
                // Before the candidate has traffic stable teaches its rate.
                detector.learn(block.stable, block.stable_bad);
                continue;
            }
            all = all.join(block);
            increment += detector.increment(block, look.controlled || block.stable > 0);
        }
        self.harm.add(&increment);
        self.silent =
            if all.candidate > 0 { Duration::ZERO } else { self.silent.saturating_add(look.elapsed) };
        self.stable_silent =
            if all.stable > 0 { Duration::ZERO } else { self.stable_silent.saturating_add(look.elapsed) };
    }

    /// A new run starts without evidence, a new step without silence.
    fn turn_to(&mut self, look: &Look<'_>) {
        if self.run != look.run {
            self.book.forget_before(look.run);
            let book = std::mem::take(&mut self.book);
            *self = Self { book, run: look.run, ..Self::default() };
        }
        if self.step != look.step {
            self.step = look.step;
            self.silent = Duration::ZERO;
            self.stable_silent = Duration::ZERO;
        }
    }
}

/// Attempts of the candidate and of stable that this step needs.
fn wanted(look: &Look<'_>, base: f64) -> (u64, u64) {
    match look.wanted {
        Wanted::Requests(requests) => (requests, requests),
        Wanted::Power { harm, power, part } => {
            let all = power::wanted_requests(base, harm, power, look.alarm_log10, look.share) as f64;
            let wanted = (all * part.clamp(0.0, 1.0)).ceil();
            // Half of what comes with the candidate's on average: less is no comparison of this step.
            let share = look.share.clamp(1e-6, 1.0);
            let stable = wanted * (1.0 - share) / share / 2.0;
            (whole(wanted), whole(stable))
        }
    }
}

/// A count, and never fewer than [`FEWEST_IN_STEP`].
fn whole(count: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the range of a count"
    )]
    let count = count.clamp(0.0, 1e15) as u64;
    count.max(FEWEST_IN_STEP)
}

#[cfg(test)]
mod tests;
