//! The evidence about one revision in one run: from this router's counts and from those of its peers.
//!
//! Every router turns its own counts into increments and tells the others their running sum. The evidence adds up what came
//! in, so all routers reach the alarm at about the same time, however the traffic is split between them.

use std::collections::BTreeMap;

use stoker_api::route::Detector as Settings;
use stoker_decide::evidence::Counts;
use stoker_decide::harm::{Block, Detector, Evidence, Increment};

/// Router processes that are remembered in one run. Those beyond are not listened to: to forget one and hear its sum again
/// would count it twice.
pub const PROCESSES: usize = 256;

/// What a revision is suspected of.
#[derive(Clone, Debug, Default)]
pub struct Suspect {
    detector: Detector,
    evidence: Evidence,
    /// Sum of this process's own increments.
    sum: Increment,
    /// Own totals of the revision and of its control at the last look.
    seen: (Counts, Counts),
    /// Whether the control had no traffic then.
    uncontrolled: bool,
    heard: BTreeMap<String, Heard>,
    /// The first alarm. It stays for the run, whatever comes later.
    alarm: Option<Alarm>,
}

/// An alarm, as it was raised.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Why, with figures.
    pub because: String,
    /// Its bad answers by this router's own counts, in parts per million; none where it has none of its own.
    pub bad_ppm: Option<u32>,
    /// Why nothing is done about it, once that was said.
    pub withheld: Option<Withheld>,
}

/// Why a revision is not cut though there is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
pub enum Withheld {
    /// The table says to observe only.
    Observe,
    /// The control has no ready pod, or is cut itself.
    NoControl,
}

/// What was last heard of a peer.
#[derive(Clone, Copy, Debug)]
struct Heard {
    number: u64,
    sum: Increment,
}

impl Suspect {
    /// Takes a look at this process's totals in the run. `controlled`: the control has traffic by design.
    pub fn look(&mut self, candidate: Counts, control: Counts, settings: &Settings, controlled: bool) {
        let limit = settings.slow_above();
        let new = (candidate.since(&self.seen.0), control.since(&self.seen.1));
        // Only what is new is judged, by the limit of now: it may have become known a moment ago.
        let block = Block {
            candidate: new.0.attempts,
            candidate_bad: new.0.bad(limit),
            stable: new.1.attempts,
            stable_bad: new.1.bad(limit),
        };
        self.seen = (candidate, control);
        self.uncontrolled = !controlled;
        if block == Block::default() {
            return;
        }
        let increment = self.detector.increment(block, controlled);
        self.sum += increment;
        self.evidence.add(&increment);
        self.judge(settings);
    }

    /// A peer told its running sum. A message that was overtaken changes nothing. Says whether there was anything new.
    pub fn hear(&mut self, process: &str, number: u64, sum: Increment, settings: &Settings) -> bool {
        let before = match self.heard.get(process) {
            Some(heard) if heard.number >= number => return false,
            Some(heard) => heard.sum,
            None if self.heard.len() >= PROCESSES => return false,
            None => Increment::default(),
        };
        self.heard.insert(process.to_owned(), Heard { number, sum });
        let increment = sum.since(&before);
        if increment.is_zero() {
            return false;
        }
        self.evidence.add(&increment);
        self.judge(settings);
        true
    }

    /// What to tell peers.
    pub fn sum(&self) -> Increment {
        self.sum
    }

    /// The evidence as a power of ten.
    pub fn log10(&self) -> f64 {
        self.evidence.log10()
    }

    /// The alarm, if it was raised.
    pub fn alarm(&self) -> Option<&Alarm> {
        self.alarm.as_ref()
    }

    /// Notes why nothing is done about the alarm; says whether that is new.
    pub fn withhold(&mut self, why: Withheld) -> bool {
        let Some(alarm) = &mut self.alarm else { return false };
        alarm.withheld.replace(why) != Some(why)
    }

    /// Each addition is looked at: evidence that falls again between two looks was there.
    fn judge(&mut self, settings: &Settings) {
        if self.alarm.is_none() && self.evidence.alarm(settings.alarm_log10) {
            let bad_ppm = self.seen.0.bad_ppm(settings.slow_above());
            self.alarm = Some(Alarm { because: self.because(settings), bad_ppm, withheld: None });
        }
    }

    /// The sentence of a verdict, with this router's figures.
    fn because(&self, settings: &Settings) -> String {
        let (candidate, control) = &self.seen;
        let stand_in = self.uncontrolled.then(|| self.detector.baseline());
        let figures = stoker_decide::verdict::figures(candidate, control, settings.slow_above(), stand_in);
        let peers = match self.heard.len() {
            0 => String::new(),
            1 => " with 1 other".to_owned(),
            peers => format!(" with {peers} others"),
        };
        format!(
            "{figures} at this router (evidence 10^{:.1}{peers}, alarm at 10^{:.1})",
            self.log10(),
            settings.alarm_log10
        )
    }
}

#[cfg(test)]
mod tests;
