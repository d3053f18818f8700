//! All that must survive a crash, and what follows from it alone: the traffic table and whose pods are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::capacity::{Refill, Shares};
use super::gate::{Approval, Gate};
use super::plan::{Plan, Strategy};
use super::room::Room;
use crate::traffic::WHOLE;

/// Parts per million of one percent.
pub(super) const PERCENT: u32 = WHOLE / 100;

/// All that must survive a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revision that serves.
    pub stable: Option<String>,
    /// The one before it, while its pods are kept, and for how long it has been.
    pub previous: Option<(String, Duration)>,
    /// Number of the last run.
    pub runs: u64,
    /// The run that is under way.
    pub run: Option<Run>,
    /// The time after a promotion in which stable is still compared with the previous revision.
    pub guard: Option<Guard>,
    /// Out of traffic, pods still there for requests in flight.
    pub leaving: Vec<String>,
    /// Not tried again by itself: revision and why.
    pub rejected: Vec<(String, String)>,
    /// An undo against the spec.
    pub pin: Option<Pin>,
    /// What pods are counted by, where they go by shares of the traffic; none: every revision has pods for the whole demand.
    pub shares: Option<Shares>,
    /// Only one revision at a time has pods: the last run went by [`Strategy::Recreate`](super::Strategy::Recreate).
    pub alone: bool,
    /// How long the pods of stable took to get ready in its run; none where that was not seen.
    pub took: Option<Duration>,
}

/// One attempt to make a candidate stable.
#[expect(clippy::struct_excessive_bools, reason = "each stands in status by itself")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub number: u64,
    /// The revision that is tried.
    pub candidate: String,
    /// Without canary steps: promoted as soon as it is ready.
    pub direct: bool,
    /// 0 while the candidate's pods are prepared, then the step, counted from 1.
    pub step: usize,
    /// Time spent in this step.
    pub in_step: Duration,
    /// For how long the candidate's pods have not been complete, in this step.
    pub unready: Duration,
    /// Restarts of the candidate's pods when it came to its first step: more of them are harm.
    pub restarts: u32,
    /// Someone asked for the end of the pause that the run is in.
    pub resumed: bool,
    /// The step is over, and only pods for the share that comes next are waited for.
    pub passed: bool,
    /// The plan that the run started with.
    pub plan: Plan,
    /// Approvals that were given, for that plan.
    pub approvals: Vec<Approval>,
    /// What is waited for an approval of.
    pub awaits: Option<Gate>,
    /// Who paused the run.
    pub paused_by: Option<String>,
    /// Someone asked for the end of the step.
    pub skipped: bool,
    /// Alerts that fired before the candidate had traffic, and still do.
    pub known_alerts: Vec<String>,
    /// Whose pods have the room, where only one revision has any.
    pub room: Room,
    /// How long the candidate's pods took to get ready, once they were.
    pub took: Option<Duration>,
}

/// The time after a promotion. The run's number stays the one of the promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The step that counts are kept under: the one after the last of the run.
    pub step: usize,
    /// How long it lasts.
    pub lasts: Duration,
    /// Percent of the traffic that the previous revision keeps.
    pub holdback: u32,
    /// How much of it is over.
    pub spent: Duration,
    /// Restarts of stable's pods at the promotion: more of them are harm.
    pub restarts: u32,
    /// Alerts that fired before stable had any traffic, and still do.
    pub known_alerts: Vec<String>,
}

/// The user went back, against the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What runs.
    pub revision: String,
    /// What the spec asks for.
    pub instead_of: String,
    /// Why.
    pub because: String,
}

/// Where the traffic goes. Empty while there is no revision at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Who shares it.
    pub arms: Vec<Share>,
    /// Who gets copies.
    pub shadow: Option<Shadow>,
    /// Who is watched by the routers.
    pub watched: Option<Watched>,
    /// Who answers testers.
    pub trial: Option<String>,
    /// Whether who answers testers has an address of its own.
    pub preview: bool,
    /// Who keeps what stable has no pods for.
    pub refill: Option<Refill>,
}

/// A share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The revision.
    pub revision: String,
    /// Parts per million.
    pub ppm: u32,
    /// Who takes over while it has no ready pod.
    pub fallback: Option<String>,
}

/// Copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Who gets them.
    pub revision: String,
    /// Whose requests.
    pub of: String,
    /// Parts per million of these.
    pub ppm: u32,
}

/// A revision that is compared with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The revision.
    pub revision: String,
    /// Its concurrent control, which takes over from it.
    pub control: String,
}

impl State {
    /// The traffic table.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = self.split();
        if let (Some(stable), Some(refill)) = (&self.stable, self.refill()) {
            if traffic.arms.iter().all(|arm| arm.revision != refill.from) {
                traffic.arms.push(share(&refill.from, 0, Some(stable)));
            }
            traffic.refill = Some(refill.clone());
        }
        traffic
    }

    /// The table without what is on its way back.
    fn split(&self) -> Traffic {
        let alone =
            |revision: &String| Traffic { arms: vec![share(revision, WHOLE, None)], ..Traffic::default() };
        if let Some(main) = self.main().filter(|_| self.alone) {
            return alone(main);
        }
        match (&self.stable, &self.run) {
            (None, None) => Traffic::default(),
            (None, Some(run)) => alone(&run.candidate),
            (Some(stable), None) => self.guarded(stable).unwrap_or_else(|| alone(stable)),
            (Some(stable), Some(run)) => {
                let (ppm, candidate) = (run.weight() * PERCENT, &run.candidate);
                let shadow = run.plan.shadow(run.step).saturating_mul(PERCENT);
                // An arm without weight is left out: nothing may reach it, not even by fallback.
                let mut arms = vec![share(stable, WHOLE - ppm, None)];
                arms.extend((ppm > 0).then(|| share(candidate, ppm, Some(stable))));
                Traffic {
                    arms,
                    shadow: (shadow > 0 && !run.direct && ppm < WHOLE).then(|| Shadow {
                        revision: candidate.clone(),
                        of: stable.clone(),
                        ppm: shadow,
                    }),
                    watched: (ppm > 0).then(|| watched(candidate, stable)),
                    trial: (run.step > 0).then(|| candidate.clone()),
                    preview: run.plan.strategy == Strategy::BlueGreen,
                    refill: None,
                }
            }
        }
    }

    /// The table after a promotion: the previous revision keeps a part, as control, and takes over when stable is cut.
    fn guarded(&self, stable: &String) -> Option<Traffic> {
        let (guard, (previous, _)) = (self.guard.as_ref()?, self.previous.as_ref()?);
        let ppm = guard.holdback.min(50) * PERCENT;
        let arms = vec![share(stable, WHOLE - ppm, Some(previous)), share(previous, ppm, Some(stable))];
        Some(Traffic { arms, watched: Some(watched(stable, previous)), ..Traffic::default() })
    }

    /// Who is judged, and by comparison with whom: the candidate of a run that gives it traffic or copies, or stable in the
    /// guard.
    pub fn compared(&self) -> Option<Watched> {
        let stable = self.stable.as_ref()?;
        match &self.run {
            Some(run) => (run.step > 0).then(|| watched(&run.candidate, stable)),
            None => {
                self.guard.as_ref().and(self.previous.as_ref()).map(|(previous, _)| watched(stable, previous))
            }
        }
    }

    /// Who is judged, or will be once it has traffic: from the start of a run on.
    pub fn watched(&self) -> Option<Watched> {
        let before = || Some(watched(&self.run.as_ref()?.candidate, self.stable.as_ref()?));
        self.compared().or_else(before)
    }

    /// Whose cut by the routers must be followed: who is compared, or stable while the previous revision is warm, since a cut may
    /// come while the promotion is being written.
    pub fn revocable(&self) -> Option<Watched> {
        let warm = || {
            let (previous, _) = self.previous.as_ref().filter(|_| self.run.is_none())?;
            Some(watched(self.stable.as_ref()?, previous))
        };
        self.compared().or_else(warm)
    }

    /// Revisions whose pods must be there: with traffic, to be tried, to return to, or with requests in flight.
    pub fn kept(&self) -> BTreeSet<&str> {
        let mut kept: BTreeSet<&str> = self.leaving.iter().map(String::as_str).collect();
        kept.extend(self.stable.as_deref());
        kept.extend(self.run.as_ref().map(|run| run.candidate.as_str()));
        kept.extend(self.previous.as_ref().map(|(revision, _)| revision.as_str()));
        kept.extend(self.refill().map(|refill| refill.from.as_str()));
        kept
    }

    /// The step that counts are kept under: 0 outside a run and its guard.
    pub fn step(&self) -> usize {
        let run = self.run.as_ref().map(|run| run.step);
        run.or(self.guard.as_ref().map(|guard| guard.step)).unwrap_or(0)
    }

    /// What should run: the spec's wish, or the pin against it.
    pub(super) fn wanted<'a>(&'a self, target: &'a str) -> &'a str {
        self.pin.as_ref().map_or(target, |pin| pin.revision.as_str())
    }

    /// Why a revision is not tried by itself, if so.
    pub(super) fn rejection(&self, revision: &str) -> Option<&str> {
        self.rejected.iter().find(|(name, _)| name == revision).map(|(_, why)| why.as_str())
    }
}

impl Run {
    /// Percent of the traffic that the candidate is meant to get.
    pub fn weight(&self) -> u32 {
        self.plan.weight(self.step)
    }
}

fn share(revision: &str, ppm: u32, fallback: Option<&String>) -> Share {
    Share { revision: revision.to_owned(), ppm, fallback: fallback.cloned() }
}

fn watched(revision: &str, control: &str) -> Watched {
    Watched { revision: revision.to_owned(), control: control.to_owned() }
}
