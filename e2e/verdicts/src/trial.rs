//! One rollout: requests and faults from the world, decisions from the product.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stoker_decide::analysis::{Analysis, Finding, Look, Report, Wanted};
use stoker_decide::evidence::{Counts, Key};
use stoker_decide::harm::{Block, Detector, Evidence, Increment, TOLERANCE, budget, power};
use stoker_decide::rollout::{Kind, Plan, Pods, Reason, Run, Seen, State, Step, Wish, decide};
use stoker_decide::traffic::WHOLE;

use crate::random::Random;
use crate::world::{Attempts, Harm, Moment, ROUTERS, World};

const STABLE: &str = "digits-a";
const CANDIDATE: &str = "digits-b";

/// Router blocks in one look of the operator.
const BLOCKS: u32 = 4;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Requests a second.
    pub rate: f64,
    /// How bad the candidate is.
    pub harm: Harm,
    /// Probability of a false rollback in this rollout that the user allows.
    pub budget: f64,
    /// The user's latency target, if there is one.
    pub target: Option<Duration>,
    /// How long the rollout is watched.
    pub give_up: Duration,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The candidate is stable.
    Promoted,
    /// It was taken back.
    RolledBack,
    /// Neither, until the watch was given up.
    Held,
}

/// What one rollout came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Time from the first traffic of the candidate.
    pub seconds: f64,
    /// Requests of the candidate until then.
    pub requests: u64,
    /// Requests of both arms until then.
    pub all: u64,
    /// Time that the status said was needed, summed over the steps: at the look at which a step had lasted its planned
    /// time or had half of its requests, whichever was later.
    pub stated: f64,
    /// Looks at which requests were lacking, and of these the ones whose sentence did not say how long they take.
    pub untold: (u64, u64),
    /// The verdict's sentence at the look at which the plan's time and the grace were over.
    pub late: Option<String>,
}

/// What more than the planned time a healthy rollout may take.
pub const GRACE: f64 = 1.2;

/// The default plan of a ModelDeployment: 10 % and 50 %, a minute each.
pub fn plan() -> Plan {
    let step = |weight| Step::new(Kind::Weight(weight), Some(Duration::from_secs(60)));
    Plan { steps: vec![step(10), step(50)], progress_deadline: Duration::from_secs(600), ..Plan::default() }
}

/// Plays one rollout.
pub fn play(setting: &Setting, random: Random) -> Outcome {
    let mut trial = Trial::new(*setting, random);
    loop {
        if let Some(outcome) = trial.look() {
            return outcome;
        }
    }
}

/// A rollout under way.
struct Trial {
    setting: Setting,
    plan: Plan,
    world: World,
    state: State,
    /// One look of the operator.
    tick: Duration,
    /// Time since the candidate has traffic.
    time: Duration,
    /// Time until its pods are ready.
    starting: Duration,
    analysis: Analysis,
    routers: [Router; ROUTERS],
    /// What all routers know together: they add each other's increments.
    shared: Evidence,
    slow_above: Option<Duration>,
    requests: u64,
    all: u64,
    stated: BTreeMap<usize, f64>,
    untold: (u64, u64),
    late: Option<String>,
}

/// One router: what it counted and what it knows.
#[derive(Default)]
struct Router {
    counts: BTreeMap<(u32, &'static str), Counts>,
    detector: Detector,
}

impl Trial {
    fn new(setting: Setting, random: Random) -> Self {
        let state = State { stable: Some(STABLE.to_owned()), ..State::default() };
        // Where requests are rare nothing is lost by looking at them less often, and the study takes a tenth of the time.
        let tick = Duration::from_secs(if setting.rate < 1.0 { 10 } else { 1 });
        Self {
            setting,
            plan: plan(),
            world: World::new(random, setting.rate, setting.harm),
            state,
            tick,
            time: Duration::ZERO,
            starting: Duration::from_secs(30),
            analysis: Analysis::default(),
            routers: Default::default(),
            shared: Evidence::default(),
            slow_above: None,
            requests: 0,
            all: 0,
            stated: BTreeMap::new(),
            untold: (0, 0),
            late: None,
        }
    }

    /// One look of the operator: the time until then passes, then it decides.
    fn look(&mut self) -> Option<Outcome> {
        self.starting = self.starting.saturating_sub(self.tick);
        let cut = self.pass();
        let finding = self.state.run.clone().map(|run| (self.examine(&run), run));
        if let Some((finding, run)) = &finding {
            self.hear(finding, run);
        }
        let ended = self.decide(finding.as_ref().map(|(finding, _)| finding));
        let end = if cut || ended == Some(Reason::RolledBack) {
            End::RolledBack
        } else if ended == Some(Reason::Promoted) {
            End::Promoted
        } else if self.time >= self.setting.give_up {
            End::Held
        } else {
            return None;
        };
        Some(Outcome {
            end,
            seconds: self.time.as_secs_f64(),
            requests: self.requests,
            all: self.all,
            stated: self.stated.values().sum(),
            untold: self.untold,
            late: self.late.clone(),
        })
    }

    /// Requests of one look, block by block; true when the routers cut the candidate.
    fn pass(&mut self) -> bool {
        let (step, ppm) = match &self.state.run {
            Some(run) => (u32::try_from(run.step).unwrap_or(u32::MAX), share(&self.state)),
            None => (0, 0),
        };
        let share = f64::from(ppm) / f64::from(WHOLE);
        for _ in 0..BLOCKS {
            if step > 0 {
                self.time += self.tick / BLOCKS;
            }
            let moments = self.world.pass((self.tick / BLOCKS).as_secs_f64(), share);
            for (router, moment) in self.routers.iter_mut().zip(moments) {
                let increment = router.count(step, moment, self.slow_above);
                self.shared.add(&increment);
                if step > 0 {
                    self.requests += moment.candidate.all;
                    self.all += moment.candidate.all + moment.stable.all;
                }
            }
            if step > 0 && self.shared.alarm(self.alarm()) {
                return true;
            }
        }
        false
    }

    /// The alarm that the budget allows by now.
    fn alarm(&self) -> f64 {
        let routers = u32::try_from(ROUTERS).unwrap_or(u32::MAX);
        let blocks = |time| budget::blocks(time, routers, 1);
        budget::alarm_log10_after(self.setting.budget, blocks(self.plan.duration()), blocks(self.time))
    }

    fn examine(&mut self, run: &Run) -> Finding {
        let reports: Vec<Report> = (self.routers.iter().enumerate())
            .flat_map(|(index, router)| {
                router.counts.iter().map(move |((step, revision), counts)| Report {
                    process: format!("router-{index}"),
                    key: Key { run: run.number, step: *step, revision: (*revision).to_owned() },
                    counts: counts.clone(),
                })
            })
            .collect();
        let steps: Vec<_> = (1..=self.plan.steps.len())
            .map(|step| (f64::from(self.plan.weight(step)) / 100.0, lasts(&self.plan, step)))
            .collect();
        let part = run.step.checked_sub(1).map_or(0.0, |index| power::part(&steps, index));
        let weight = run.weight();
        let alarm_log10 = self.alarm();
        let finding = self.analysis.look(&Look {
            run: run.number,
            step: u32::try_from(run.step).unwrap_or(u32::MAX),
            stable: STABLE,
            candidate: CANDIDATE,
            reports: &reports,
            unreadable: None,
            controlled: weight < 100,
            share: f64::from(weight) / 100.0,
            target: self.setting.target,
            wanted: Wanted::Power { harm: power::HARM, power: power::POWER, part },
            alarm_log10,
            tolerance: TOLERANCE,
            in_step: run.in_step,
            elapsed: self.tick,
        });
        // The operator writes it into the table for the routers.
        self.slow_above = finding.slow_above;
        finding
    }

    /// Notes what the status says about the time that is needed.
    fn hear(&mut self, finding: &Finding, run: &Run) {
        let because = finding.verdict.because();
        if self.late.is_none() && self.time > self.plan.duration().mul_f64(GRACE) {
            self.late = Some(because.to_owned());
        }
        if run.step == 0 || !because.starts_with("the candidate has answered") {
            return;
        }
        let seen = self.in_step(run);
        if seen > 0 && !run.in_step.is_zero() {
            self.untold.0 += 1;
            let told = because.contains("that takes about") || because.contains("none has reached it");
            self.untold.1 += u64::from(!told);
        }
        let over = run.in_step >= lasts(&self.plan, run.step);
        if over && seen * 2 >= finding.wanted {
            let pace = run.in_step.as_secs_f64() / seen.max(1) as f64;
            self.stated.entry(run.step).or_insert(finding.wanted as f64 * pace);
        }
    }

    /// Requests of the candidate in this step.
    fn in_step(&self, run: &Run) -> u64 {
        let key = (u32::try_from(run.step).unwrap_or(u32::MAX), CANDIDATE);
        self.routers.iter().filter_map(|router| router.counts.get(&key)).map(|counts| counts.attempts).sum()
    }

    /// Lets the machine decide; how the run ended, if it did.
    fn decide(&mut self, finding: Option<&Finding>) -> Option<Reason> {
        let of = |ready| Pods { wanted: 2, ready, ..Pods::default() };
        let ready = if self.starting.is_zero() { 2 } else { 0 };
        let pods: BTreeMap<String, Pods> =
            [(STABLE.to_owned(), of(2)), (CANDIDATE.to_owned(), of(ready))].into();
        let revisions: BTreeSet<String> = pods.keys().cloned().collect();
        let verdict = finding.filter(|_| self.state.step() > 0).map(|finding| &finding.verdict);
        let wish = Wish {
            plan: self.plan.clone(),
            keep_warm: Duration::from_secs(600),
            replicas: 2.into(),
            counted_elsewhere: false,
            enforce: true,
            known_good: None,
        };
        let decision = decide(
            &wish,
            &self.state,
            &Seen {
                target: CANDIDATE,
                target_waits: None,
                pods: &pods,
                revisions: &revisions,
                unverified: None,
                unreachable: None,
                in_flight: &BTreeMap::new(),
                verdict,
                bad_ppm: 0,
                cut: None,
                queued: None,
                frozen: None,
                alerts: None,
                request: None,
                elapsed: self.tick,
            },
        );
        self.state = decision.state;
        decision.transitions.iter().map(|transition| transition.reason).find(|reason| reason.ends_run())
    }
}

impl Router {
    /// Counts a moment, and judges it.
    fn count(&mut self, step: u32, moment: Moment, slow_above: Option<Duration>) -> Increment {
        let candidate_bad = self.add(step, CANDIDATE, moment.candidate, slow_above);
        let stable_bad = self.add(step, STABLE, moment.stable, slow_above);
        if step == 0 {
            self.detector.learn(moment.stable.all, stable_bad);
            return Increment::default();
        }
        let (candidate, stable) = (moment.candidate.all, moment.stable.all);
        self.detector.increment(Block { candidate, candidate_bad, stable, stable_bad }, true)
    }

    /// Adds attempts to an arm's totals; how many of them were bad.
    fn add(
        &mut self,
        step: u32,
        revision: &'static str,
        attempts: Attempts,
        slow_above: Option<Duration>,
    ) -> u64 {
        let Attempts { all, failed, late } = attempts;
        if all == 0 {
            return 0;
        }
        let mut counts = Counts { attempts: all, errors: failed, ..Counts::default() };
        (0..late).for_each(|_| counts.latency.record(LATE));
        (0..all - failed - late).for_each(|_| counts.latency.record(IN_TIME));
        self.counts.entry((step, revision)).or_default().merge(&counts);
        counts.bad(slow_above)
    }
}

/// Latency of an answer that is in time, and of one that is late: below and above twice the p99 of stable.
const IN_TIME: Duration = Duration::from_millis(8);
/// See [`IN_TIME`].
const LATE: Duration = Duration::from_millis(40);

/// How long a step lasts at least.
fn lasts(plan: &Plan, step: usize) -> Duration {
    plan.step(step).and_then(|step| step.lasts).unwrap_or_default()
}

/// Parts per million of the traffic that the candidate gets.
fn share(state: &State) -> u32 {
    state.traffic().arms.iter().find(|share| share.revision == CANDIDATE).map_or(0, |share| share.ppm)
}
